"""Pages of other sites in a real Chromium, at an app on this machine: they rebind, post, embed and frame in vain."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.fakes import mini_data, ready_host

from workbench.app import build_app, free_port, launch_options, own_uploads

pytestmark = pytest.mark.slow

RULES = "--host-resolver-rules=MAP *.example.com 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
FILES = "#mis-prompt input[type=file]"
READ = "path => fetch(path).then(answer => answer.text(), error => 'failed: ' + error)"
FRAME = """url => new Promise(loaded => {
    const frame = Object.assign(document.createElement('iframe'), {src: url, onload: () => loaded()});
    document.body.append(frame);
})"""
UPLOAD = """async url => {
    const form = new FormData();
    form.append('files', new Blob(['x'.repeat(1000)]), 'foreign.png');
    await fetch(url + 'gradio_api/upload', {method: 'POST', body: form, mode: 'no-cors'}).catch(() => null);
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    page = build_app(ready_host(mini_data(tmp_path_factory.mktemp("mini"))))
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 8400)))
    yield address
    page.close()


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of another site, with an empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium(chromium_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", RULES]
        started = playwright.chromium.launch(executable_path=chromium_path, args=arguments)
        yield started
        started.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


def uploads() -> list[str]:
    return [path.name for path in Path(own_uploads().name).rglob("*.png")]


def test_a_name_that_is_bound_to_this_machine_afterwards_reads_and_starts_nothing(page: Page, url: str) -> None:
    port = urlsplit(url).port
    page.goto(f"http://evil.example.com:{port}/")
    assert "not called 'evil.example.com" in page.content()
    for path in ("/config", "/gradio_api/info", "/theme.css"):
        assert page.evaluate(READ, path).startswith("This app is not called"), path
    call = "fetch('/gradio_api/call/examples', {method: 'POST', body: '{\"data\": []}'}).then(a => a.status)"
    assert page.evaluate(call) == 403
    page.evaluate(UPLOAD, "/")
    assert "foreign.png" not in uploads()


def test_a_page_of_another_site_uploads_and_reads_nothing(page: Page, url: str, site: int) -> None:
    page.goto(f"http://evil.example.com:{site}/")
    page.evaluate(UPLOAD, url)
    assert "foreign.png" not in uploads()
    assert page.evaluate(READ, f"{url}config").startswith("failed")
    with page.expect_response(f"{url}logout") as got:
        page.evaluate("url => { new Image().src = url + 'logout'; }", url)
    assert got.value.status == 403


def test_another_site_cannot_frame_the_app_but_a_notebook_of_this_machine_can(page: Page, url: str, site: int) -> None:
    for host, shown in (("evil.example.com", False), ("127.0.0.1", True), ("localhost", True)):
        page.goto(f"http://{host}:{site}/")
        page.evaluate(FRAME, url)
        assert [frame.url == url for frame in page.frames[1:]] == [shown], host


def test_a_link_from_another_site_opens_the_page_which_then_works(page: Page, url: str, site: int) -> None:
    page.goto(f"http://evil.example.com:{site}/")
    page.evaluate("url => { location = url; }", url)
    expect(page.locator(".mis-card").first).to_be_visible()
    page.set_input_files(FILES, {"name": "own.png", "mimeType": "image/png", "buffer": b"x"})
    expect(page.locator("#mis-errors")).to_contain_text("own.png")
