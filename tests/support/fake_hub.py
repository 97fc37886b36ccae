"""A Hugging Face hub on loopback: serves folders as models, as far as ``snapshot_download`` asks.

``env`` is what a process needs to use it, and an empty cache.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """What is served, and what was asked for.

    Args:
        models: folder of each model by OWNER/NAME.
        gated: ids whose licence is not accepted.
    """

    def __init__(self, models: Mapping[str, Path], gated: frozenset[str] = frozenset()) -> None:
        self.models, self.gated = models, gated
        self.asked: list[str] = []
        self.url = ""

    def env(self, home: Path) -> dict[str, str]:
        """Variables of a process that uses this hub, with its cache in ``home``."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def fake_hub(models: Mapping[str, Path], gated: frozenset[str] = frozenset()) -> Iterator[FakeHub]:
    """Serve until the block ends."""
    hub = FakeHub(models, gated)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self) -> None:
            hub.asked.append(self.path)
            path = self.path.split("?")[0].strip("/")
            words = path.removeprefix("api/models/").split("/")
            name, rest = "/".join(words[:2]), words[2:]
            folder = hub.models.get(name)
            if folder is None:
                self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            elif name in hub.gated:
                self._send(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"})
            elif path.startswith("api/models/") and rest[:1] == ["tree"]:
                self._json([{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _oid(file)}
                            for file in sorted(folder.iterdir())])  # fmt: skip
            elif path.startswith("api/models/"):
                self._json(
                    {"id": name, "sha": COMMIT, "siblings": [{"rfilename": one.name} for one in folder.iterdir()]}
                )
            elif rest[:1] == ["resolve"] and (folder / rest[-1]).is_file():
                file = folder / rest[-1]
                self._send(200, file.read_bytes(), {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
