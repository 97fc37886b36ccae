"""What stands between a browser and Gradio: no file goes out by its path, and no address breaks the page.

The page shows pictures as data, so Gradio's route for files is shut for everybody. Gradio would hand an upload to whoever knows its address, also
to another person; and it fetches addresses of other machines through the same route.
"""

from urllib.parse import unquote_plus

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SHUT = ("/file=", "/file/", "/proxy=")
GRADIOS = frozenset({"page", "deep_link"})  # keys that Gradio looks up when the page is opened


class NoFiles:
    """Middleware that answers requests for files with 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a file; let everything else pass."""
        if scope["type"] == "http" and any(part in scope["path"] for part in SHUT):
            await PlainTextResponse("no files are served", status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class OnePage:
    """Middleware that opens the app without the keys in ``GRADIOS``: it has one page, and Gradio fails (500) on the name of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave the keys out of the query of the page; other requests pass as they are."""
        if scope["type"] == "http" and scope["path"] == "/":
            pairs = scope["query_string"].decode("latin-1").split("&")
            kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) not in GRADIOS]
            scope = {**scope, "query_string": "&".join(kept).encode("latin-1")}
        await self._app(scope, receive, send)
