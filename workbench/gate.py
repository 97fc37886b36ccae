"""Between a browser and Gradio: who may call, how much may come in, and which of Gradio's routes are shut.

A page of another site can reach an app on this machine through its visitor's browser. It can send requests there, or
give its own name this machine's address (DNS rebinding) and then read the answers, too. So a request must name the app
by an address, as ``localhost`` or by a name it was started with, and must not come from a page of another site.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page shows pictures as data, so Gradio's route for files is shut for everybody. Gradio would hand an upload to
# any visitor who knows its address, also to another person; and it fetches addresses of other machines there.
SHUT = ("/file=", "/file/", "/proxy=")
GRADIOS = frozenset({"page", "deep_link"})  # keys that Gradio looks up when the page is opened, and fails (500)
QUOTA = 2 * 2**30  # bytes on disk of all uploads together
BLOCK = 4096  # bytes that the smallest file takes on most disks
LARGEST_CALL = 16 * 2**20  # bytes of a request that is no upload
SITES = "'self' http://localhost:* http://127.0.0.1:*"  # JupyterLab of this machine shows the app in a notebook


class Gate:
    """Middleware that refuses, with a reason, what no page of the app and none of its clients sends."""

    def __init__(self, app: ASGIApp, *, host: str, names: Iterable[str], uploads: Path, quota: int = QUOTA) -> None:
        """Wrap Gradio.

        Args:
            app: Gradio's app.
            host: address or name that the app listens on.
            names: of proxies in front of it.
            uploads: the folder in which Gradio keeps uploads.
            quota: bytes that may be in it.
        """
        self._proxies = frozenset(name.lower() for name in names)
        self._names = self._proxies | {"localhost", host.lower(), socket.gethostname().lower()}
        self._app, self._uploads, self._quota = app, uploads, quota
        self._coming = 0  # bytes of the uploads under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, send = Headers(scope=scope), _framed(send)
        status, reason = self._refusal(scope, headers)
        if reason:
            return await PlainTextResponse(reason, status_code=status)(scope, receive, send)
        if scope["path"] == "/":
            return await self._app(_without_gradios(scope), receive, send)
        if scope["method"] in ("GET", "HEAD"):
            return await self._app(scope, receive, send)
        if scope["path"].rstrip("/").endswith("/upload"):
            return await self._upload(scope, receive, send)
        return await self._call(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str]:
        host = headers.get("host", "")
        if not self._is_own(_name(host)):
            return 403, (
                f"This app is not called {host[:80]!r}. Open it by its address, as localhost, or start it with "
                "--names and that name."
            )
        if not self._is_own_page(scope, headers, host):
            return 403, "This app takes no requests from pages of other sites; behind a proxy, start it with --names."
        if any(part in scope["path"] for part in SHUT):
            return 403, "no files are served"
        if scope["method"] not in ("GET", "HEAD") and not _may_write(scope, headers):
            return 401, "not logged in"
        return 0, ""

    def _is_own(self, name: str) -> bool:
        """A page whose name is an address cannot have been rebound: its address is where it came from."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _is_own_page(self, scope: Scope, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            site = origin.partition("://")[2].lower()
            return site == host.lower() or _name(site) in self._proxies
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return True
        # a link on another page, which the visitor followed
        return scope["path"] == "/" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        free = self._quota - await asyncio.to_thread(_size, self._uploads)
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            self._coming += len(message.get("body", b""))
            # upon this exception, and no other, Gradio removes what it has written so far
            if message["type"] != "http.request":
                raise MultiPartException("the upload was broken off")
            if self._coming > free:
                raise MultiPartException(
                    f"The folder of uploads is full: {self._quota / 2**30:g} GiB is the maximum allowed size of all "
                    "people's uploads together. Uploads are deleted after twelve hours and when the app ends."
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._coming -= came

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client has gone
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > LARGEST_CALL:
                words = f"a request may have {LARGEST_CALL:,} bytes; files come as uploads"
                return await PlainTextResponse(words, status_code=413)(scope, receive, send)
        if _names_an_address(body):
            words = "a file is an upload: the addresses of other machines are not fetched"
            return await PlainTextResponse(words, status_code=400)(scope, receive, send)
        read = False

        async def again() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, again, send)


def _name(host: str) -> str:
    """The name in ``NAME:PORT``, in small letters; empty if it has another form."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _framed(send: Send) -> Send:
    """Only pages of this machine may show the app in a frame, where clicks could be drawn by another site."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Content-Security-Policy"] = f"frame-ancestors {SITES}"
        await send(message)

    return sent


def _may_write(scope: Scope, headers: Headers) -> bool:
    """Gradio itself lets everybody cancel and reset, also where there are logins."""
    gradio = scope["app"]
    if gradio.auth is None or scope["path"].rstrip("/") == "/login":
        return True
    cookies = cookie_parser(headers.get("cookie", ""))
    return any(name.startswith("access-token-") and token in gradio.tokens for name, token in cookies.items())


def _without_gradios(scope: Scope) -> Scope:
    """Leave keys in ``GRADIOS`` out of the page's query: there is one page."""
    pairs = scope["query_string"].decode("latin-1").split("&")
    kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) not in GRADIOS]
    return {**scope, "query_string": "&".join(kept).encode("latin-1")}


def _names_an_address(body: bytearray) -> bool:
    """Whether a call names a file by an address, which Gradio would fetch, whatever the route and the component."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except RecursionError:
        return True
    except ValueError:  # a form, or nothing that Gradio reads
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(("http:", "https:")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _size(folder: Path) -> int:
    """Bytes of what is below a folder, a block for each entry too: many empty files fill a disk as well."""
    total = 0
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            with contextlib.suppress(OSError):  # it went while it was looked at
                total += BLOCK + Path(place, name).stat(follow_symlinks=False).st_size
    return total
