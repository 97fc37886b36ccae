"""The page: header and tabs, and the safe defaults it is served with.

The page loads nothing from outside this machine: fonts are Gradio's own local copies, style and script lie in
``assets``. Nothing is recorded (run history, analytics, monitoring), nothing is shared, and no folder is served.
"""

import contextlib
import functools
import ipaddress
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes
from gradio.themes.utils import colors, fonts, sizes
from starlette.middleware import Middleware

from mis_lib.errors import SettingsError
from mis_lib.files import hold, is_held
from mis_lib.models.mini.assemble import ADAPTERS
from workbench import html
from workbench.annotate import tab as tab_annotate
from workbench.compare import tab as tab_compare
from workbench.components import error_block, html_block
from workbench.data import tab as tab_data
from workbench.evaluate import EvaluationJobs
from workbench.gate import Gate
from workbench.host import Host
from workbench.links import Navigation, Tab
from workbench.prompt import MAX_UPLOAD
from workbench.results import tab as tab_results
from workbench.train import tab as tab_train
from workbench.trainings import CONFIGS, Trainings

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported


MOST_WAITING = 40  # comparisons in front of the model; who comes later is asked to try again
HOURS_KEPT = 12  # uploads older than this are deleted
OWN = "mis-uploads-"  # how the name of a process's folder of uploads begins
IN_USE = ".in-use"  # lock of such a folder; the system lets go of it however the process ends
JUST_MADE = 60.0  # seconds after which a folder's process has locked it
_HELD = contextlib.ExitStack()  # for as long as the process runs
ASSETS = files("workbench").joinpath("assets")


def build_app(
    host: Host, *, trainings: Trainings | None = None, evaluations: EvaluationJobs | None = None
) -> gr.Blocks:
    """Build the app around what its sessions share; ``host.start()`` fills it.

    Args:
        host: model, examples, folders.
        trainings: what Train and Annotate start and watch; those of the host's folder if not given.
        evaluations: what Annotate, Results and Train have measured; those of the host's folder if not given.
    """
    own_uploads()
    found = trainings or Trainings(host.runs, CONFIGS, data=[*host.data_folders, ADAPTERS])
    asked = evaluations or EvaluationJobs(host)
    with gr.Blocks(title="MIS Workbench", fill_width=True, delete_cache=(3600, HOURS_KEPT * 3600)) as page:
        header = html_block(html.header(host.model.status, host.title), "mis-header")
        navigation = Navigation()
        html_block(html.macros("page.html").tour(), "mis-tour-slot", js_on_load="window.mis.tour(element);")
        errors = error_block("mis-page-errors")
        with gr.Tabs(elem_id="mis-tabs") as tabs:
            with _tab(Tab.COMPARE):
                port = tab_compare.build(page, host, header, navigation)
            with _tab(Tab.ANNOTATE) as annotate:
                tab_annotate.build(page, host, navigation, annotate, found, asked)
            with _tab(Tab.RESULTS) as results:
                tab_results.build(page, host, navigation, results, asked)
            with _tab(Tab.DATA) as data:
                tab_data.build(host, navigation, data, tabs, port)
            with _tab(Tab.TRAIN) as train:
                tab_train.build(host, navigation, train, found)
        navigation.bind(page, tabs, errors)
        html_block(html.macros("page.html").credits(), "mis-credits")
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=8)


@functools.cache
def own_uploads() -> tempfile.TemporaryDirectory:
    """Let Gradio keep uploads in a private folder of this process, which is removed when the process ends.

    Gradio's own folder (``GRADIO_TEMP_DIR``, or ``gradio`` among the temporary files) is the whole machine's: files lie
    there by their content, so that an app that ends deletes what another one still shows, and a second person's app may
    not write there at all. A process that was killed leaves its folder, which the next one removes.
    """
    around = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    if around.name.startswith(OWN):  # handed down by the process that started this one, and goes with that
        around = around.parent
    around.mkdir(parents=True, exist_ok=True)
    remove_left_over(around)
    folder = tempfile.TemporaryDirectory(prefix=OWN, dir=around, ignore_cleanup_errors=True)
    _HELD.enter_context(hold(Path(folder.name, IN_USE)))
    os.environ["GRADIO_TEMP_DIR"] = str(Path(folder.name).resolve())
    return folder


def remove_left_over(around: Path) -> None:
    """Remove the folders of uploads whose process has ended without doing so."""
    for folder in around.glob(f"{OWN}*"):
        with contextlib.suppress(OSError):  # another person's, or another app removes it now
            lock = folder / IN_USE
            if time.time() - lock.stat().st_mtime > JUST_MADE and not is_held(lock):
                shutil.rmtree(folder, ignore_errors=True)


def _tab(tab: Tab) -> gr.Tab:
    """An empty tab to fill; choosing it shows its place in the address bar."""
    made = gr.Tab(tab.value.capitalize(), id=tab.value, elem_id=f"mis-tab-{tab.value}")
    made.select(fn=None, js=f"() => window.mis.openTab('{tab.value}')")
    return made


def launch_options(
    host: str = "127.0.0.1", port: int = 7860, *, auth: Any = None, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Keyword arguments for ``launch``: the look, and defaults that keep people's prompts on this machine.

    Args:
        host: address to listen on.
        port: to listen on.
        auth: checks a name and a password.
        names: further host names by which the page is opened, as that of a proxy in front of it.

    Raises:
        SettingsError: the address can be reached from other machines and there is no ``auth``, or a name is none.
    """
    if auth is None and not _is_loopback(host):
        raise SettingsError(
            f"--host {host}: other machines can reach this address, and whoever reaches the app can use the model and "
            "upload files; give --auth FILE (names and hashed passwords, see `python -m workbench.access --help`) "
            "or use 127.0.0.1"
        )
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise SettingsError(f"--names: expected a host name such as mis.example.org, found {name!r}")
    gate = Middleware(Gate, host=host, names=names, uploads=Path(own_uploads().name))
    return {
        "server_name": host,
        "server_port": port,
        "auth": auth,
        "theme": _theme(),
        "css": _assets(".css"),
        "head": f"<script>{_assets('.js')}</script>",
        "share": False,
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "num_workers": 0,
        "max_file_size": MAX_UPLOAD,
        "allowed_paths": [],
        "app_kwargs": {"middleware": [gate], "openapi_url": None},
        "footer_links": ["api", "settings"],
        "strict_cors": True,
        "quiet": True,
    }


def _assets(ending: str) -> str:
    """All style sheets, or all scripts: the whole page's first, then those of single tabs."""
    names = ("workbench", "desk", "annotate", "compare")
    found = [ASSETS.joinpath(f"{name}{ending}") for name in names]
    return "\n".join(file.read_text(encoding="utf-8") for file in found if file.is_file())


def free_port(host: str, port: int, *, tries: int = 40) -> int:
    """The first free port from ``port`` on.

    Raises:
        SettingsError: all of them are taken, or the address does not belong to this machine.
    """
    for candidate in range(port, port + tries):
        if _can_bind(host, candidate):
            return candidate
    raise SettingsError(
        f"--port: {port} to {port + tries - 1} cannot be listened on at {host}; choose another with --port"
    )


def serve(
    page: gr.Blocks, host: str, port: int, *, auth: Any = None, names: Sequence[str] = (), tries: int = 5
) -> tuple[str, int]:
    """Launch ``page`` on the first free port from ``port`` on; returns address and port.

    Where another app takes the port in the same moment, the next one is tried.

    Raises:
        SettingsError: as ``free_port`` and ``launch_options``; or it cannot be listened there after ``tries`` ports.
    """
    for _ in range(tries):
        found = free_port(host, port)
        try:
            _, url, _ = page.launch(prevent_thread_lock=True, **launch_options(host, found, auth=auth, names=names))
        except OSError:  # Gradio's word for a port that is taken
            port = found + 1
        else:
            return url, found
    raise SettingsError(f"--port: another app was quicker at each of {tries} ports; choose another with --port")


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may point anywhere


def _theme() -> themes.Base:
    # Gradio's bundled IBM Plex in its two complete weights; the default's semi-bold lacks most letters
    sans = [
        fonts.LocalFont("IBM Plex Sans", weights=(400, 700)),
        "ui-sans-serif",
        "system-ui",
        "sans-serif",
    ]
    mono = [fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"]
    return themes.Default(
        font=sans,
        font_mono=mono,
        primary_hue=colors.indigo,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_md,
    ).set(  # Gradio's own borders of an empty box cannot be seen on its ground
        checkbox_border_color="*neutral_500",
        checkbox_border_color_hover="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_color_hover_dark="*neutral_400",
    )
