"""No file goes out by its path: the page shows pictures as data, so Gradio's route for files is shut for everybody.

Gradio would hand an upload to whoever knows its address, also to another person; and it fetches addresses of other machines through the same route.
"""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SHUT = ("/file=", "/file/", "/proxy=")


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
