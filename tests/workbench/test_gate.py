"""What other sites, strangers and full disks can do to the app: nothing. Raw requests against the real server."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from starlette.middleware import Middleware
from support.fakes import good_images, mini_data, ready_host

from mis_lib.errors import SettingsError
from workbench.access import Users, entry
from workbench.app import build_app, free_port, launch_options, own_uploads
from workbench.gate import BLOCK, LARGEST_CALL, Gate

pytestmark = pytest.mark.slow

QUOTA = 3 * 2**20


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return build_app(ready_host(mini_data(tmp_path_factory.mktemp("mini"))))


@pytest.fixture(scope="module")
def url(page: gr.Blocks) -> Iterator[str]:
    options = launch_options(port=free_port("127.0.0.1", 8300), names=["mis.example.org"])
    _, address, _ = page.launch(prevent_thread_lock=True, **options)
    yield address
    page.close()


@pytest.fixture
def watched() -> Iterator[tuple[str, list[str]]]:
    """Another server of this machine, and what is fetched from it."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()


def uploads() -> set[Path]:
    return set(Path(own_uploads().name).rglob("*"))


# Host names


@pytest.mark.parametrize(
    "host", ["evil.example.com", "127.0.0.1.evil.example.com", "localhost.evil.com", "", "[", "a b"]
)
@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=a", "theme.css"])
def test_a_name_that_is_not_the_apps_is_refused_on_every_route(url: str, host: str, path: str) -> None:
    answer = httpx.get(f"{url}{path}", headers={"Host": host})
    assert answer.status_code in (400, 403) and "MIS Workbench" not in answer.text
    if answer.status_code == 403:
        assert "--names" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:7860", "192.168.1.7", "mis.example.org"]
)
def test_addresses_localhost_and_given_names_open_the_page(url: str, host: str) -> None:
    assert httpx.get(f"{url}config", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("name", ["https://mis.example.org", "mis.example.org:443", ""])
def test_a_name_that_is_none_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="expected a host name"):
        launch_options(names=[name])


# Pages of other sites


@pytest.mark.parametrize(
    "origin", ["http://evil.example.com", "null", "http://127.0.0.1:1", "https://localhost", "http://[", "file://"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "gradio_api/upload"),
        ("POST", "gradio_api/queue/join"),
        ("POST", "gradio_api/call/examples"),
        ("POST", "gradio_api/call/v2/examples"),
        ("POST", "gradio_api/run/examples"),
        ("POST", "gradio_api/api/examples"),
        ("POST", "gradio_api/cancel"),
        ("POST", "gradio_api/reset"),
        ("POST", "gradio_api/component_server"),
        ("POST", "login"),
        ("GET", "config"),
        ("GET", "gradio_api/info"),
        ("GET", "logout"),
    ],
)
def test_a_page_of_another_site_can_call_nothing(url: str, origin: str, method: str, path: str) -> None:
    before = uploads()
    files = {"files": ("a.png", b"x")} if "upload" in path else None
    body = None if files or method == "GET" else b'{"data": []}'
    answer = httpx.request(method, f"{url}{path}", headers={"Origin": origin}, files=files, content=body)
    assert answer.status_code == 403 and "other sites" in answer.text and uploads() == before


def test_what_a_browser_says_of_a_request_counts_where_it_names_no_origin(url: str) -> None:
    def get(path: str, **words: str) -> int:
        return httpx.get(f"{url}{path}", headers={f"Sec-Fetch-{k}": v for k, v in words.items()}).status_code

    assert get("logout", Site="cross-site", Mode="no-cors") == 403
    assert get("logout", Site="cross-site", Mode="navigate") == 403
    assert get("config", Site="same-site", Mode="cors") == 403
    assert get("", Site="cross-site", Mode="navigate") == 200  # a link
    assert get("config", Site="same-origin", Mode="cors") == 200


def test_the_apps_own_page_and_that_behind_a_proxy_may_call(url: str) -> None:
    for origin in (url.rstrip("/"), "https://mis.example.org"):
        answer = httpx.post(f"{url}gradio_api/call/examples", json={"data": ["easy", ""]}, headers={"Origin": origin})
        assert answer.status_code != 403, origin


def test_every_answer_says_which_pages_may_frame_it(url: str) -> None:
    for path in ("", "config", "gradio_api/file=/etc/hostname"):
        policy = httpx.get(f"{url}{path}").headers["content-security-policy"]
        assert policy == "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"


# Files by their address


@pytest.mark.parametrize(
    "where", ["call/add_images", "call/v2/add_images", "run/add_images", "api/add_images", "queue/join"]
)
@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_no_route_fetches_an_address(url: str, watched: tuple[str, list[str]], where: str, scheme: str) -> None:
    address, fetched = watched
    file = {"path": f"{address.replace('http', scheme, 1)}/a.png", "meta": {"_type": "gradio.FileData"}}
    body = {"files": [file]} if "v2" in where else {"data": [[file]], "fn_index": 0, "session_hash": "s"}
    answer = httpx.post(f"{url}gradio_api/{where}", json=body)
    assert answer.status_code == 400 and "not fetched" in answer.text and fetched == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_nor_does_it_in_another_encoding_or_deep_inside(url: str, encoding: str) -> None:
    file = {"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}
    deep = json.dumps({"data": ["x", {"a": [{"b": [file]}]}]}).encode(encoding)
    assert httpx.post(f"{url}gradio_api/call/compare", content=deep).status_code == 400


def test_a_call_that_is_too_deep_or_too_large_is_refused(url: str) -> None:
    assert httpx.post(f"{url}gradio_api/call/compare", content=b"[" * 200_000).status_code == 400
    assert httpx.post(f"{url}gradio_api/call/compare", content=b" " * (LARGEST_CALL + 1)).status_code == 413


# A quota for uploads


@pytest.fixture
def small(tmp_path: Path) -> Iterator[str]:
    """An app in whose folder of uploads only 3 MiB more fit."""
    page = build_app(ready_host(mini_data(tmp_path / "mini")))
    options = launch_options(port=free_port("127.0.0.1", 8340))
    folder = Path(own_uploads().name)
    used = sum(path.stat().st_size + BLOCK for path in folder.rglob("*"))
    gate = Middleware(Gate, host="127.0.0.1", names=(), uploads=folder, quota=used + QUOTA)
    _, address, _ = page.launch(prevent_thread_lock=True, **{**options, "app_kwargs": {"middleware": [gate]}})
    yield address
    page.close()


def test_uploads_end_at_a_quota_one_by_one_in_one_request_and_all_at_once(small: str) -> None:
    def send(*sizes: int) -> int:
        files = [("files", (f"{number}.png", os.urandom(size))) for number, size in enumerate(sizes)]
        return httpx.post(f"{small}gradio_api/upload", files=files, timeout=60).status_code

    before = sum(path.stat().st_size for path in uploads() if path.is_file())
    assert send(*[2**20] * 8) == 413  # in one request
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(send(2**20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(statuses) == 8 and 200 in statuses and 413 in statuses
    statuses += [send(2**20) for _ in range(4)]  # one by one
    assert (
        statuses[-1] == 413
        and "folder of uploads is full"
        in httpx.post(f"{small}gradio_api/upload", files={"files": ("a", os.urandom(2**20))}).text
    )
    kept = sum(path.stat().st_size for path in uploads() if path.is_file())
    assert kept - before <= QUOTA
    assert httpx.get(f"{small}config").status_code == 200


def test_an_upload_that_is_broken_off_leaves_nothing(url: str) -> None:
    before, host = uploads(), urlsplit(url)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: 900000\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'
    with socket.create_connection((host.hostname, host.port)) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}".encode())
        connection.sendall(b"x" * 200_000)
        wait_until(lambda: uploads() != before)  # Gradio writes it
    wait_until(lambda: uploads() == before)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


# With logins


def test_without_login_nothing_answers_but_the_login(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text(entry("ada", "correct horse"))
    page = build_app(ready_host(mini_data(tmp_path / "mini")))
    options = launch_options(port=free_port("127.0.0.1", 8360), auth=Users.read(tmp_path / "users.txt").check)
    _, url, _ = page.launch(prevent_thread_lock=True, **options)
    body = {"session_hash": "s", "event_id": "e", "fn_index": 0}
    try:
        with httpx.Client() as visitor:
            for path in ("cancel", "reset", "upload", "queue/join", "component_server"):
                assert visitor.post(f"{url}gradio_api/{path}", json=body).status_code == 401, path
            assert visitor.get(f"{url}openapi.json").status_code == 404
            words = {"username": "ada", "password": "correct horse"}
            assert visitor.post(f"{url}login", data=words).status_code == 200
            assert visitor.post(f"{url}gradio_api/cancel", json=body).status_code == 200
            assert (
                visitor.post(f"{url}gradio_api/cancel", json=body, headers={"Origin": "http://evil"}).status_code == 403
            )
    finally:
        page.close()


def test_an_image_is_uploaded_and_read_as_before(url: str, tmp_path: Path) -> None:
    image = good_images(tmp_path, 1)[0]
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": (image.name, image.read_bytes())})
    assert answer.status_code == 200 and Path(answer.json()[0]).read_bytes() == image.read_bytes()
