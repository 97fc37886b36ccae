"""A server that answers a chat request with a fault, chosen by the model's name or by a word in the question.

    FAULTS["not UTF-8"](request) -> the bytes of the reply, piece by piece

Raw bytes on a socket: no HTTP library would send most of these. ``fine`` is the one proper answer.
"""

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Pieces = Iterator[bytes]
SAID = 'Two things.\n{"reasoning": "It warns.", "verdict": "Safe", "perception": 1}'
PAUSE = 0.05  # seconds between the pieces of what trickles
FOREVER = 400  # pieces of what has no end, so that a client without bounds fails its test and does not hang it
BOMB = 300 * 2**20  # bytes


def reply(body: bytes, headers: str = "Content-Type: application/json", status: str = "200 OK") -> Pieces:
    """A whole reply with its length."""
    yield f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def completion(**changes: Any) -> dict[str, Any]:
    """A proper chat completion, with other values at the top."""
    choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    } | changes


def says(value: Any) -> Pieces:
    return reply(json.dumps(value).encode())


def message(**fields: Any) -> Pieces:
    return says(completion(choices=[{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": "stop"}]))


def text(content: str) -> Pieces:
    return message(content=content)


def choice(**fields: Any) -> Pieces:
    return says(completion(choices=[{"index": 0, "message": {"content": SAID}, "finish_reason": "stop", **fields}]))


def raw_text(content: bytes) -> Pieces:
    """A completion whose text is these bytes, as they are, inside the JSON string."""
    return reply(json.dumps(completion(model="@@")).encode().replace(b'"@@"', b'"' + content + b'"'))


def raw_content(content: bytes) -> Pieces:
    whole = completion(
        choices=[{"index": 0, "message": {"role": "assistant", "content": "@@"}, "finish_reason": "stop"}]
    )
    return reply(json.dumps(whole).encode().replace(b"@@", content))


def trickle(head: bytes, piece: bytes = b" ") -> Pieces:
    yield head
    for _ in range(FOREVER):
        time.sleep(PAUSE)
        yield piece


def flood(head: bytes, piece: bytes) -> Pieces:
    """More than any bound, as fast as it goes; the server stops after ``BOMB`` bytes."""
    yield head
    for _ in range(BOMB // len(piece)):
        yield piece


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def bomb(coding: str) -> Pieces:
    """300 MB of blanks in 300 KB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    body = b"".join(packer.compress(b" " * 2**20) for _ in range(BOMB // 2**20)) + packer.flush()
    return reply(body, f"Content-Type: application/json\r\nContent-Encoding: {coding}")


def deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


FAULTS: Mapping[str, Callable[[], Pieces]] = {
    "lone high surrogate": lambda: raw_content(rb"A flag \ud83d of"),
    "lone low surrogate": lambda: raw_content(rb"A flag \ude00 of"),
    "surrogates in the wrong order": lambda: raw_content(rb"\ude00\ud83d"),
    "surrogate in a key": lambda: says(completion() | {"\ud83d": 1}),
    "surrogate in the finish reason": lambda: choice(finish_reason="\ud83d"),
    "surrogate in the refusal": lambda: message(content=None, refusal="\udfff no"),
    "not UTF-8": lambda: raw_content(b"caf\xe9"),
    "half a character at the end": lambda: reply(json.dumps(completion()).encode() + "é".encode()[:1]),
    "UTF-16": lambda: reply(json.dumps(completion()).encode("utf-16")),
    "encoded surrogate": lambda: raw_content(b"\xed\xa0\xbd"),
    "a charset that unpacks": lambda: reply(b"x", "Content-Type: text/plain; charset=zlib"),
    "an unknown charset": lambda: reply(json.dumps(completion()).encode(), "Content-Type: text/html; charset=ebcdic-9"),
    "deep arrays": lambda: reply(deep(100_000).encode()),
    "deep objects": lambda: reply(deep(100_000, '{"a":', "}").encode()),
    "deep and open": lambda: reply(b"[" * 1_000_000),
    "deep inside a completion": lambda: reply(json.dumps(completion(model="@@")).replace('"@@"', deep(5_000)).encode()),
    "deep inside the text": lambda: text('{"a":' * 50_000),
    "deep inside an error": lambda: reply(deep(100_000).encode(), status="400 Bad Request"),
    "gzip bomb": lambda: bomb("gzip"),
    "deflate bomb": lambda: bomb("deflate"),
    "unknown coding": lambda: reply(b"x", "Content-Type: application/json\r\nContent-Encoding: br, gzip"),
    "coding without its form": lambda: reply(b"plain", "Content-Type: application/json\r\nContent-Encoding: gzip"),
    "gzip within an error": lambda: reply(
        gzip.compress(b" " * 10**6), "Content-Type: text/html\r\nContent-Encoding: gzip", "502 Bad Gateway"
    ),
    "one byte at a time": lambda: trickle(HEAD + b"Content-Length: 100000\r\n\r\n"),
    "one chunk at a time": lambda: trickle(CHUNKED, b"1\r\n \r\n"),
    "headers without end": lambda: trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "100 Continue without end": lambda: trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silence": lambda: trickle(b"", b""),
    "silence after the headers": lambda: trickle(CHUNKED, b""),
    "no end": lambda: flood(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "no end without a length": lambda: flood(HEAD + b"\r\n", b"a" * 65536),
    "a header without end": lambda: flood(HEAD + b"X-A: ", b"a" * 65536),
    "an error without end": lambda: flood(b"HTTP/1.1 500 No\r\nContent-Type: text/html\r\n\r\n", b"a" * 65536),
    "closed at once": lambda: iter(()),
    "closed in the headers": lambda: iter([b"HTTP/1.1 200 OK\r\nContent-"]),
    "closed in the body": lambda: iter([HEAD + b"Content-Length: 9999\r\n\r\n{"]),
    "no HTTP": lambda: iter([b"SSH-2.0-OpenSSH_9.6\r\n"]),
    "a length that is none": lambda: iter([HEAD + b"Content-Length: many\r\n\r\n{}"]),
    "a chunk size that is none": lambda: iter([CHUNKED + b"zz\r\n{}\r\n"]),
    "redirected to itself": lambda: reply(b"", "Location: /v1/chat/completions", "307 Temporary Redirect"),
    "redirected to nowhere": lambda: reply(b"", "Location: ::::", "307 Temporary Redirect"),
    "204": lambda: iter([b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"]),
    "an empty body": lambda: reply(b""),
    "half a body": lambda: reply(json.dumps(completion()).encode()[:60]),
    "a page": lambda: reply(b"<html>It works!</html>", "Content-Type: text/html"),
    "null": lambda: says(None),
    "a number": lambda: says(7),
    "a number of 5,000 digits": lambda: reply(b"9" * 5_000),
    "a list": lambda: says([completion()]),
    "no choices": lambda: says(completion(choices=[])),
    "choices that are words": lambda: says(completion(choices="abc")),
    "choices by name": lambda: says(completion(choices={"0": {}})),
    "a choice that is a word": lambda: says(completion(choices=["a"])),
    "a message that is a word": lambda: choice(message="hello"),
    "no message": lambda: choice(message=None),
    "content in parts": lambda: message(content=[{"type": "text", "text": "a"}]),
    "content that is a number": lambda: message(content=3),
    "a thought that is a list": lambda: message(content=SAID, reasoning_content=["a"]),
    "a refusal that is true": lambda: message(content=None, refusal=True),
    "a finish reason that is a list": lambda: choice(finish_reason=["stop"]),
    "usage in words": lambda: says(completion(usage={"prompt_tokens": "many", "completion_tokens": None})),
    "infinite usage": lambda: reply(json.dumps(completion(usage={"prompt_tokens": float("inf")})).encode()),
    "an error with a list for a code": lambda: reply(
        json.dumps({"error": {"message": ["a"], "code": ["b"]}}).encode(), status="400 Bad Request"
    ),
    "an error with a number for a place": lambda: reply(
        json.dumps({"detail": [{"loc": 7, "msg": "no"}]}).encode(), status="422 Unprocessable"
    ),
    "an error that is no UTF-8": lambda: reply(b"\xff\xfe", status="400 Bad Request"),
}

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def events(*data: bytes) -> Pieces:
    yield EVENTS + b"".join(b"data: " + one + b"\n\n" for one in data)


def piece(**delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    return json.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices}
    ).encode()


def proper_stream() -> Pieces:
    return events(piece(content="Two "), piece(content="things."), b"[DONE]")


STREAM_FAULTS: Mapping[str, Callable[[], Pieces]] = {
    "two halves of a character": lambda: events(piece(content="a \ud83d"), piece(content="\ude00 b"), b"[DONE]"),
    "half a character": lambda: events(piece(content="a \ud83d"), b"[DONE]"),
    "a stream that is no UTF-8": lambda: events(piece(content="a"), b'{"choices": "\xe9"}'),
    "a deep chunk": lambda: events(piece(content="a"), b'{"a":' * 100_000),
    "a chunk that is a list": lambda: events(b"[1]"),
    "a chunk that is null": lambda: events(b"null"),
    "chunk choices in words": lambda: events(b'{"choices": "abc"}'),
    "chunk content that is a number": lambda: events(piece(content=3)),
    "a delta in words": lambda: events(b'{"choices": [{"delta": "a"}]}'),
    "chunk usage in words": lambda: events(b'{"choices": [], "usage": "x"}'),
    "a finish reason that is an object": lambda: events(b'{"choices": [{"delta": {}, "finish_reason": {}}]}'),
    "half a chunk": lambda: events(b'{"choices": ['),
    "a line without end": lambda: flood(EVENTS + b"data: ", b"a" * 65536),
    "a compressed stream": lambda: iter([EVENTS.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection")]),
    "an error that is a list": lambda: events(b'{"error": [1]}'),
    "comments only": lambda: iter([EVENTS + b": nothing\n\n" * 100]),
}


class FaultServer:
    """Serves on the loopback interface while the block lasts; ``url`` is its base address.

    A request gets the fault that its model is called after, or, with the model "sometimes", ``odd`` where its text
    holds the word ODD.
    """

    def __init__(self, odd: str = "") -> None:
        self._odd = odd
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self.sent = 0

    def __enter__(self) -> "FaultServer":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while line := stream.readline():
                    length = 0
                    while (header := stream.readline()).strip():
                        name, _, value = header.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                    body = stream.read(length)
                    for part in self._pieces(line, body):
                        connection.sendall(part)
                        self.sent += len(part)
                    return
            except OSError:  # the client has had enough
                return

    def _pieces(self, line: bytes, body: bytes) -> Pieces:
        if line.startswith(b"GET"):
            return says({"object": "list", "data": []})
        asked = json.loads(body)
        known = {**FAULTS, **STREAM_FAULTS}
        name = asked["model"]
        if name == "sometimes":
            name = self._odd if "ODD" in json.dumps(asked["messages"]) else "fine"
        if name in known:
            return known[name]()
        return proper_stream() if asked.get("stream") else says(completion())
