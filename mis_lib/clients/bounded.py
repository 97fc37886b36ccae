"""What a server sends, bounded: in bytes, in time and in form, before anything reads it.

A reply may be compressed to a thousandth of its size, arrive a byte at a time, never end, be nested a million times
deep, or hold half of a character. Each is an ``OddReply``, and so one call's failure, not the end of a run.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import openai

from mis_lib.errors import MisError

LARGEST = 32 * 2**20  # bytes of one reply: a picture of 1024 x 1024 pixels has some three million
LONGEST = 3600.0  # seconds of one streamed answer
DEEPEST = 100  # brackets within brackets
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
KEPT = re.compile(r"content-type|retry-after(-ms)?|x-.*", re.IGNORECASE)  # headers that the openai client reads


class OddReply(MisError, ValueError):
    """A reply that cannot be used, and why."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """The HTTP client of the ``openai`` client, with these bounds."""

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request, and take in the whole reply within the time that it may be silent; streams are counted.

        Raises:
            OddReply: the reply is too large, compressed, too deep, or no UTF-8.
        """
        request.headers["Accept-Encoding"] = "identity"
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(seconds):
                response = await super().send(request, stream=True, **options)
                try:
                    coding = response.headers.get("content-encoding", "identity")
                    if coding.lower() != "identity":
                        raise OddReply(f"the server compressed its reply ({coding[:20]}), which was not asked for")
                    if stream and "event-stream" in response.headers.get("content-type", ""):
                        response.aiter_bytes = _counted(response.aiter_bytes)
                        return response
                    body = b"".join([piece async for piece in _counted(response.aiter_raw)()])
                except BaseException:
                    await response.aclose()
                    raise
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no whole reply within {seconds} seconds") from error
        await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if KEPT.fullmatch(name)]
        headers = [(name, _plain(value) if name.lower() == "content-type" else value) for name, value in headers]
        return type(response)(
            response.status_code,
            headers=headers,
            content=_readable(body, response),
            request=request,
            extensions=response.extensions,
        )


def whole_characters(text: str) -> str:
    """The text with pairs of surrogates joined, and U+FFFD for each half of one: no file can hold a half."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _counted(pieces: Callable[..., AsyncGenerator[bytes, None]]) -> Callable[..., AsyncGenerator[bytes, None]]:
    async def counted(*arguments: Any) -> AsyncGenerator[bytes, None]:
        size, end = 0, time.monotonic() + LONGEST
        async for piece in pieces(*arguments):
            size += len(piece)
            if size > LARGEST:
                raise OddReply(f"the server's reply has more than {LARGEST:,} bytes")
            if time.monotonic() > end:
                raise OddReply(f"the server's reply has no end after {LONGEST:,.0f} seconds")
            yield piece

    return counted


def _readable(body: bytes, response: Any) -> bytes:
    """The body in UTF-8, JSON not too deep and without half characters; of an error what can be read of it."""
    failed = response.status_code >= 400
    is_json = "json" in response.headers.get("content-type", "")
    try:
        text = body.decode(errors="replace" if failed or not is_json else "strict")
    except UnicodeDecodeError as error:
        raise OddReply(f"the server's reply is no UTF-8 at byte {error.start:,}") from error
    if _is_deep(text):
        if failed:
            return b""
        raise OddReply(f"the server's reply is nested more than {DEEPEST} deep")
    if SURROGATE.search(body):
        try:
            text = whole_characters(json.dumps(json.loads(text), ensure_ascii=False))
        except ValueError:  # no JSON
            return text.encode()
    return text.encode()


def _is_deep(text: str) -> bool:
    """Whether brackets outside strings are nested too deep; a reply with few brackets is not looked at."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > DEEPEST:
            return True
    return False


def _plain(content_type: str) -> str:
    """Without a charset: the body is UTF-8, whatever the server calls it."""
    return content_type.partition(";")[0].strip()
