"""The app as a server: wiring, safe defaults, a round trip with Gradio's client, logins, and ``app.py`` itself."""

import asyncio
import hashlib
import json
import os
import runpy
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from support.fakes import ANSWERS, bad_images, good_images, mini_data, ready_host

from mis_lib.errors import SettingsError
from workbench.access import FREE_TRIES, Users, entry
from workbench.app import IN_USE, build_app, free_port, launch_options, own_uploads, serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BOTH = ["mini", "mirage"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return build_app(ready_host(mini_data(tmp_path_factory.mktemp("mini"))))


@pytest.fixture(scope="module")
def url(page: gr.Blocks) -> Iterator[str]:
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 7900)))
    yield address
    page.close()


@pytest.fixture
def client(url: str) -> Client:
    return Client(url, verbose=False)


def ask(client: Client, question: str = "What is this?", variants: list[str] = BOTH, tokens: int = 256) -> tuple:
    """Compare what was uploaded; returns status, error bar and answers of the last update."""
    job = client.submit(question, variants, tokens, 0, 0, api_name="/compare")
    job.result(timeout=120)
    return job.outputs()[-1][:3]  # then the form under the answers


def upload(url: str, image: Path) -> Path:
    """Upload a file as the page does; returns where it lies."""
    path = Path(httpx.post(f"{url}gradio_api/upload", files={"files": (image.name, image.read_bytes())}).json()[0])
    assert path.is_file()
    return path


# Wiring and defaults


def test_everything_that_runs_the_model_waits_in_one_queue(page: gr.Blocks) -> None:
    limits = {fn.api_name: (fn.concurrency_id, fn.concurrency_limit) for fn in page.fns.values()}
    assert limits["compare"] == ("model", 1)
    assert [name for name, (queue, _) in limits.items() if queue == "model"] == ["compare"]


def test_files_that_come_while_others_are_being_read_wait_and_are_added_after_them(page: gr.Blocks) -> None:
    config = page.get_config_file()
    add = next(dep for dep in config["dependencies"] if dep["api_name"] == "add_images")
    assert add["trigger_mode"] == "multiple" and page.fns[add["id"]].concurrency_limit == 1


def test_public_endpoints_are_the_documented_ones(page: gr.Blocks) -> None:
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert public == {"add_images", "examples", "compare", "stop", "clear", "export", "annotate"}


def test_leaving_the_queue_cancels_the_comparison(page: gr.Blocks) -> None:
    config = page.get_config_file()
    compare = next(dep["id"] for dep in config["dependencies"] if dep["api_name"] == "compare")
    assert [dep["targets"][0][1] for dep in config["dependencies"] if compare in dep["cancels"]] == ["change"]


def test_numbers_out_of_range_reach_those_who_can_say_what_is_wrong(page: gr.Blocks) -> None:
    numbers = {block.elem_id: block for block in page.blocks.values() if isinstance(block, gr.Number)}
    assert [numbers[name].preprocess(-5) for name in ("mis-seed", "mis-train-steps")] == [-5, -5]


def test_nothing_is_recorded_shared_or_served() -> None:
    options = launch_options()
    assert options["server_name"] == "127.0.0.1"
    for name in ("share", "run_history", "enable_monitoring", "mcp_server"):
        assert options[name] is False
    assert options["allowed_paths"] == [] and options["max_file_size"] and options["strict_cors"]
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.mark.parametrize(("ending", "ground"), [("", "neutral_50"), ("_dark", "neutral_800")])
def test_the_border_of_an_empty_box_can_be_seen(ending: str, ground: str) -> None:
    theme = launch_options()["theme"]
    for name in ("checkbox_border_color", "checkbox_border_color_hover"):
        border = getattr(theme, getattr(theme, f"{name}{ending}").removeprefix("*"))
        assert contrast(border, getattr(theme, ground)) >= 3, name


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two ``#rrggbb`` colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_an_address_that_others_reach_needs_auth(host: str) -> None:
    with pytest.raises(SettingsError, match=r"other machines can reach this address.*--auth"):
        launch_options(host)
    assert launch_options(host, auth=lambda name, password: False)["server_name"] == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    assert launch_options(host)["auth"] is None


def test_a_busy_port_leads_to_the_next_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port
        with pytest.raises(SettingsError, match="choose another with --port"):
            free_port("127.0.0.1", port, tries=1)


class Slow:
    """A page at whose launch another app has just taken the port."""

    def __init__(self, times: int) -> None:
        self.taken: list[socket.socket] = []
        self.times = times

    def launch(self, *, server_name: str, server_port: int, **options: object) -> tuple[None, str, None]:
        if len(self.taken) < self.times:
            self.taken.append(socket.create_server((server_name, server_port)))
            raise OSError(f"Cannot find empty port in range: {server_port}-{server_port}")
        return None, f"http://{server_name}:{server_port}/", None


def test_an_app_that_is_slower_than_another_takes_the_next_port() -> None:
    page, gone = Slow(2), Slow(9)
    try:
        url, port = serve(page, "127.0.0.1", 7985)  # pyright: ignore[reportArgumentType]
        assert url.endswith(f":{port}/") and port > page.taken[1].getsockname()[1] > page.taken[0].getsockname()[1]
        with pytest.raises(SettingsError, match="quicker at each of 3 ports; choose another with --port"):
            serve(gone, "127.0.0.1", port, tries=3)  # pyright: ignore[reportArgumentType]
    finally:
        for other in (*page.taken, *gone.taken):
            other.close()


@pytest.mark.parametrize("query", ["page=9999", "tab=data&p%61ge=2", "deep_link=x&page=config"])
def test_keys_that_gradio_looks_up_do_not_break_the_page(url: str, query: str) -> None:
    answer = httpx.get(f"{url}?{query}")
    assert answer.status_code == 200 and "MIS Workbench" in answer.text


# Round trip


def test_uploaded_images_are_compared_and_exported(client: Client, tmp_path: Path) -> None:
    client.predict([handle_file(path) for path in good_images(tmp_path, 2)], api_name="/add_images")
    status, errors, answers = ask(client)
    assert "Done after" in status and errors == ""
    for name in BOTH:
        assert f'data-variant="{name}"' in answers
    record = json.loads(client.predict(api_name="/export")[0])
    assert {answer["variant"]: answer["text"] for answer in record["answers"]} == {name: ANSWERS[name] for name in BOTH}
    assert [image["name"] for image in record["images"]] == ["photo 1.png", "photo 2.png"]


def test_two_sessions_do_not_see_each_other(client: Client, url: str, tmp_path: Path) -> None:
    client.predict([handle_file(good_images(tmp_path, 1)[0])], api_name="/add_images")
    ask(client)
    other = Client(url, verbose=False)
    assert "There is no image" in ask(other)[1]
    assert "nothing to download" in other.predict(api_name="/export")[1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tiny", "too small"),
        ("text", "expected an image"),
        ("huge", "too many pixels"),
        ("truncated", "damaged or cut short"),
    ],
)
def test_bad_files(client: Client, tmp_path: Path, kind: str, message: str) -> None:
    strip, _, errors = client.predict([handle_file(bad_images(tmp_path)[kind])], api_name="/add_images")[:3]
    assert message in errors and "mis-tile" not in strip
    client.predict([handle_file(good_images(tmp_path, 1)[0])], api_name="/add_images")
    assert "Done after" in ask(client)[0]  # the app is still alive


def test_seven_images(client: Client, tmp_path: Path) -> None:
    errors = client.predict([handle_file(path) for path in good_images(tmp_path, 7)], api_name="/add_images")[2]
    assert "at most 6 images" in errors


@pytest.mark.parametrize(("question", "message"), [("", "question is empty"), ("x" * 20_000, "20,000 characters")])
def test_bad_questions(client: Client, tmp_path: Path, question: str, message: str) -> None:
    client.predict([handle_file(good_images(tmp_path, 1)[0])], api_name="/add_images")
    status, errors, _ = ask(client, question)
    assert "Nothing was generated" in status and message in errors
    assert "Done after" in ask(client)[0]


def test_markup_in_names_and_questions_stays_text(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    good_images(tmp_path, 1)[0].rename(path)
    strip = client.predict([handle_file(path)], api_name="/add_images")[0]
    answers = ask(client, "<script>alert(1)</script>")[2]
    assert "<img src=x" not in strip and "<script" not in answers and "&lt;script&gt;" in answers


def test_a_path_on_the_server_is_no_upload(client: Client, tmp_path: Path) -> None:
    secret = good_images(tmp_path, 1)[0]
    call = f"{client.src_prefixed}call/add_images"
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(call, json={"data": [[file]]}).json()["event_id"]
    assert "event: error" in httpx.get(f"{call}/{event}").text


def test_uploads_lie_in_a_folder_of_this_process_that_nobody_else_reads(url: str, tmp_path: Path) -> None:
    uploaded = upload(url, good_images(tmp_path, 1)[0])
    shared, own = Path(tempfile.gettempdir(), "gradio").resolve(), Path(own_uploads().name).resolve()
    assert uploaded.is_relative_to(own) and not uploaded.is_relative_to(shared)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_uploads_of_a_killed_app_go_at_the_next_start_and_those_of_a_running_one_stay(tmp_path: Path) -> None:
    work = "import os, sys; from workbench.app import own_uploads; print(own_uploads().name, flush=True); " + "{}"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)}

    def start(end: str) -> tuple[subprocess.Popen[str], Path]:
        line = [sys.executable, "-c", work.format(end)]
        process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    running, in_use = start("sys.stdin.read()")
    killed, left_over = start("os.kill(os.getpid(), 9)")
    killed.wait(timeout=60)
    (left_over / "photo.png").touch()
    for folder in (in_use, left_over):
        os.utime(folder / IN_USE, (0, 0))
    (tmp_path / "mis-uploads-of-an-older-version").mkdir()  # which may be running
    following, own = start("")
    following.wait(timeout=60)
    kept = {path.name for path in tmp_path.iterdir()}
    running.communicate(timeout=60)
    assert left_over.name not in kept and own.name not in kept
    assert kept == {in_use.name, "mis-uploads-of-an-older-version"}


def test_nobody_fetches_an_upload_by_its_address(client: Client, url: str, tmp_path: Path) -> None:
    image = good_images(tmp_path, 1)[0]
    uploaded = upload(url, image)
    for path in (
        uploaded,
        f"{Path(uploaded).parent}/../{Path(uploaded).parent.name}/{Path(uploaded).name}",
        str(image),
        "/etc/hostname",
    ):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404), path
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert digest not in str(uploaded)  # who has the image cannot guess it either
    client.predict([handle_file(image)], api_name="/add_images")
    assert "Done after" in ask(client)[0]  # the app itself reads it


# Logins


def test_passwords_are_checked_and_never_stored(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("# people\n\n" + entry("ada", "correct horse") + "\n")
    assert "correct horse" not in path.read_text()
    users = Users.read(path)
    assert asyncio.run(users.check("ada", "correct horse"))
    assert not asyncio.run(users.check("ada", "wrong horse"))
    assert not asyncio.run(users.check("eve", "correct horse"))


def test_nobody_gets_in_without_a_password(tmp_path: Path) -> None:
    line = entry("ada", "correct horse")
    (tmp_path / "users.txt").write_text(line)
    page = build_app(ready_host(mini_data(tmp_path / "mini")))
    options = launch_options(port=free_port("127.0.0.1", 7940), auth=Users.read(tmp_path / "users.txt").check)
    _, url, _ = page.launch(prevent_thread_lock=True, **options)
    try:
        assert httpx.get(f"{url}config").status_code == 401
        assert httpx.post(f"{url}gradio_api/upload", files={"files": b"x"}).status_code == 401
        with pytest.raises(ValueError, match="Could not login"):
            Client(url, auth=("ada", "wrong horse"), verbose=False)
        assert "There is no image" in ask(Client(url, auth=("ada", "correct horse"), verbose=False))[1]
    finally:
        page.close()


def test_wrong_passwords_are_slowed_down_even_all_at_once() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    line = entry("ada", "correct horse").split(":")
    users = Users({"ada": (bytes.fromhex(line[2]), bytes.fromhex(line[3]))}, sleep)

    async def attack() -> list[bool]:
        return await asyncio.gather(*(users.check("ada", f"guess {number}") for number in range(20)))

    assert not any(asyncio.run(attack()))
    assert waits[:FREE_TRIES] == [0.0] * FREE_TRIES and waits[-1] == 8.0 and sum(waits) > 60
    assert asyncio.run(users.check("ada", "correct horse")) and users.wait("ada") == 0


def test_guesses_for_one_name_wait_in_turn_and_a_flood_is_refused_unread() -> None:
    waits: list[float] = []
    now = most = 0

    async def sleep(seconds: float) -> None:
        nonlocal now, most
        waits.append(seconds)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    line = entry("ada", "correct horse").split(":")
    users = Users({"ada": (bytes.fromhex(line[2]), bytes.fromhex(line[3]))}, sleep)

    async def attack() -> list[bool]:
        guesses = [f"guess {number}" for number in range(299)]
        return await asyncio.gather(*(users.check("ada", guess) for guess in [*guesses, "correct horse"]))

    assert not any(asyncio.run(attack()))
    assert most == 1 and len(waits) == 20
    assert asyncio.run(users.check("ada", "correct horse"))


@pytest.mark.parametrize("line", ["ada", "ada:plain:text", "ada:scrypt:zz:00", "ada:md5:00:00"])
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "users.txt"
    path.write_text(line)
    with pytest.raises(SettingsError, match=r"users\.txt, row 1: expected name:scrypt:SALT:HASH"):
        Users.read(path)


@pytest.mark.parametrize(("name", "password"), [("a:b", "long enough"), ("", "long enough"), ("ada", "short")])
def test_unusable_names_and_passwords(name: str, password: str) -> None:
    with pytest.raises(SettingsError):
        entry(name, password)


# app.py


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "other machines can reach this address"),
        (["--auth", "/nowhere"], "found nothing at /nowhere"),
        (["--adapters", "mine"], "expected NAME=PATH, found 'mine'"),
        (["--adapters", "mini=/x"], "the name 'mini' is taken already"),
        (["--server", "http://a/v1#m", "--models", "n"], "put m among --models"),
        (["--server", "http://me:secret@a/v1#m"], "without password"),
    ],
)
def test_options_that_cannot_be_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runpy.run_path(str(ROOT / "app.py"))["main"]
    try:
        status = run(arguments)
    except SystemExit as refused:  # argparse
        status = refused.code
    assert status == 2 and message in capsys.readouterr().err


def test_a_missing_adapter_is_shown_on_a_page_that_works_and_goes_alone(url: str, tmp_path: Path) -> None:
    image = good_images(tmp_path, 1)[0]
    uploaded = upload(url, image)
    data = mini_data(tmp_path / "mini")
    began = time.monotonic()
    port = str(free_port("127.0.0.1", 7960))
    arguments = ["--adapters", "mine=/nowhere/adapter", "--data", str(data), "--port", port]
    process = subprocess.Popen([sys.executable, ROOT / "app.py", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        assert time.monotonic() - began < 120
        other = next(word for word in line.split() if word.startswith("http"))
        gone = upload(other, image)
        assert not gone.is_relative_to(Path(own_uploads().name).resolve())  # nor does it hang on what started it
        client = Client(other, verbose=False)
        client.predict([handle_file(image)], api_name="/add_images")
        errors = ask(client, variants=["mine"])[1]
        assert "found nothing at /nowhere/adapter" in errors and "Press Compare to try again" in errors
    finally:
        process.terminate()
        process.wait(timeout=120)
    assert uploaded.is_file() and not gone.exists()  # the same picture, uploaded to either app


# Several people at once


def test_twenty_requests_at_once_are_all_answered_one_by_one(url: str, tmp_path: Path) -> None:
    clients = [Client(url, verbose=False) for _ in range(20)]
    image = good_images(tmp_path, 1)[0]
    results: list[str] = []

    def work(client: Client) -> None:
        client.predict([handle_file(image)], api_name="/add_images")
        results.append(ask(client)[0])

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert len(results) == 20 and all("Done after" in status for status in results)
