"""A server on the loopback interface that speaks the OpenAI chat and images API, with scripted faults.

Real HTTP over a real socket, one thread a connection. Answers come from ``reply``, by default the offline teacher,
which finds the task in the request's JSON schema and the facts in the JSON block that every prompt ends with. What a
request meets is decided by its content and by how often it was sent before, not by the order of arrival, so that a
script plays the same under any concurrency.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ImageAsk
from mis_lib.construct.stages.forms import FORMS
from mis_lib.construct.stages.offline import DrawnImages, OfflineTeacher

FACTS = re.compile(r"```json\n(.*?)\n```", re.DOTALL)
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 20


@dataclass(frozen=True)
class Call:
    """One request that was answered: what was asked, and how it went."""

    path: str
    key: str  # hash of the request's body
    task: str
    facts: Mapping[str, Any]
    outcome: str  # ok, fail, broken, refuse, half
    text: str = ""


@dataclass(frozen=True)
class Script:
    """How often things go wrong, in per cent of requests; ``fail`` is drawn anew for every repetition of a request."""

    fail: int = 0  # HTTP 500
    half: int = 0  # a reply that breaks off inside the JSON of the protocol itself
    broken: int = 0  # a completion that breaks off
    refuse: int = 0  # a completion that refuses
    unknown: tuple[str, ...] = ()  # parameters that the server does not know
    status: int = 0  # every request gets this
    code: str | None = None  # and this error code
    fastapi: bool = False  # what is wrong is told as FastAPI tells it, and not as OpenAI does
    hold_after: int | None = None  # so many requests are answered, all later ones hang
    known_models: bool = False  # a model that is not listed is HTTP 404
    most_images: int | None = None  # more in one request are HTTP 400
    most_bytes: int | None = None  # a larger request is HTTP 413, which a proxy says in a page of words
    pause: float = 0.0  # seconds before each chunk of a stream
    usage: bool = True  # a stream that is asked for it ends with its tokens
    breaks_after: int | None = None  # the connection of a stream is gone after so many chunks
    fails_after: int | None = None  # a stream tells of an error after so many chunks
    parser: str = ""  # the field into which a reasoning parser puts <think>; answers then keep to the token limit
    page: bool = False  # what is asked to stream gets a page of words


@dataclass
class FakeServer:
    """``with FakeServer() as server: ... server.url``; ``calls`` lists what was answered."""

    script: Script = Script()
    reply: Callable[[str, Mapping[str, Any], list[bytes]], str] | None = None
    models: tuple[str, ...] = ("teacher-72b",)
    delay: float = 0.0
    calls: list[Call] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    sent: int = 0  # chunks of all streams
    listings: int = 0  # requests for the list of models
    closed: int = 0  # streams that the client has closed before their end

    def __post_init__(self) -> None:
        self._offline, self._drawn = OfflineTeacher(0), DrawnImages()
        self._seen: Counter[str] = Counter()
        self._now, self._begun = 0, 0
        self._lock, self.released, self.holding = threading.Lock(), threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def paid(self) -> Counter[str]:
        """How often each request was answered with a completion or an image, that is, paid for."""
        return Counter(call.key for call in self.calls if call.outcome in ("ok", "broken", "refuse"))

    def __enter__(self) -> "FakeServer":
        outer = self

        class Handler(_Handler):
            fake = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and content of the answer to one request."""
        key = hashlib.sha256(f"{path} {json.dumps(body, sort_keys=True)}".encode()).hexdigest()
        with self._lock:
            self._seen[key] += 1
            self._now, self._begun = self._now + 1, self._begun + 1
            self.most_at_once = max(self.most_at_once, self._now)
            outcome = self._outcome(key, body)
            hold = self.script.hold_after is not None and self._begun > self.script.hold_after
        try:
            if hold:
                self.holding.set()
                self.released.wait()
                return 503, b"{}"
            time.sleep(self.delay)
            return self._compose(path, body, key, outcome)
        finally:
            with self._lock:
                self._now -= 1

    def _outcome(self, key: str, body: Mapping[str, Any]) -> str:
        known = [name for name in self.script.unknown if name in body]
        if self.script.status or known or self._refusal(body, _read(body)[2]):
            return "fail"
        if _lot(f"{key}|{self._seen[key]}|fail") < self.script.fail:
            return "fail"
        if _lot(f"{key}|{self._seen[key]}|half") < self.script.half:
            return "half"
        lot = _lot(key)
        if lot < self.script.broken:
            return "broken"
        return "refuse" if lot < self.script.broken + self.script.refuse else "ok"

    def _compose(self, path: str, body: dict[str, Any], key: str, outcome: str) -> tuple[int, bytes]:
        task, facts, images = _read(body)
        if outcome == "fail":
            self._log(Call(path, key, task, facts, outcome))
            if refusal := self._refusal(body, images):
                return refusal
            known = [name for name in self.script.unknown if name in body]
            status = self.script.status or (400 if known else 500)
            message = f"unsupported parameter: {known[0]}" if known else "scripted failure"
            if self.script.fastapi:
                place = {"type": "extra_forbidden", "loc": ["body", *known[:1]], "msg": "Extra inputs", "input": body}
                return status, json.dumps({"detail": [place] if known else message}).encode()
            return status, json.dumps(
                {"error": {"message": message, "type": "scripted", "code": self.script.code}}
            ).encode()
        if path.endswith("/images/generations"):
            return self._picture(path, body, key, outcome)
        text = self._words(task, facts, images, outcome)
        if self.script.parser and not body.get("stream"):
            content = json.dumps(_gathered([*self.chunks(text, body)], body)).encode()
        else:
            content = json.dumps(_completion(text, body)).encode()
        self._log(Call(path, key, task, facts, outcome, text))
        return 200, content[: len(content) // 2] if outcome == "half" else content

    def _refusal(self, body: Mapping[str, Any], images: list[bytes]) -> tuple[int, bytes] | None:
        """What vLLM says of a model that it does not serve, and of more images than it was started for."""
        most = self.script.most_images
        if self.script.known_models and body["model"] not in self.models:
            status, message = 404, f"The model `{body['model']}` does not exist."
        elif most is not None and len(images) > most:
            status, message = 400, f"At most {most} image(s) may be provided in one prompt."
        else:
            return None
        return status, json.dumps({"error": {"message": message, "type": "scripted", "code": status}}).encode()

    def chunks(self, text: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The answer as a stream sends it: a word a chunk, at most as many as were asked for, then why it ended, then
        its tokens.
        """
        words = re.findall(r"\S+\s*", text)
        kept = words[: body.get("max_completion_tokens", body.get("max_tokens"))]
        yield _chunk(body, {"role": "assistant", "content": ""}, None)
        inside = False
        for word in kept:
            inside = bool(self.script.parser) and (inside or word.startswith("<think>"))
            field = self.script.parser if inside else "content"
            inside = inside and "</think>" not in word
            yield _chunk(body, {field: re.sub("</?think>", "", word) if self.script.parser else word}, None)
        yield _chunk(body, {}, "stop" if kept == words else "length")
        if self.script.usage and body.get("stream_options", {}).get("include_usage"):
            yield {**_chunk(body, {}, None), "choices": [], "usage": _usage(2 * len(kept))}  # a token is no word

    def _words(self, task: str, facts: Mapping[str, Any], images: list[bytes], outcome: str) -> str:
        if outcome == "refuse":
            return "I'm sorry, but I can't help with that."
        text = (self.reply or self._from_bank)(task, facts, images)
        return text[: len(text) // 2] if outcome == "broken" else text

    def _from_bank(self, task: str, facts: Mapping[str, Any], images: list[bytes]) -> str:
        asked = ChatAsk(task=task, system="", user="", form=FORMS[task], facts=facts, images=tuple(images))
        try:
            reply = asyncio.run(self._offline.ask(asked))
        except CannotAnswer as error:
            return f"I'm sorry, I cannot answer: {error.reason}"
        return f"```json\n{reply.answer.model_dump_json()}\n```"

    def _picture(self, path: str, body: Mapping[str, Any], key: str, outcome: str) -> tuple[int, bytes]:
        if outcome == "refuse":
            self._log(Call(path, key, "draw", {"prompt": body["prompt"]}, "fail"))  # turned down, so not paid for
            error = {"message": "the prompt was turned down", "type": "invalid", "code": "content_policy_violation"}
            return 400, json.dumps({"error": error}).encode()
        seed = int(key[:6], 16)
        image = asyncio.run(self._drawn.make(ImageAsk(str(body["prompt"]), seed))).content
        shown = base64.b64encode(image[: len(image) // 2] if outcome == "broken" else image).decode()
        self._log(Call(path, key, "draw", {"prompt": body["prompt"]}, outcome))
        return 200, json.dumps({"created": 0, "data": [{"b64_json": shown}]}).encode()

    def _log(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"  # connections stay open, as real servers' do
    disable_nagle_algorithm = True  # else the body of each reply waits 40 ms for the header to be acknowledged

    def do_GET(self) -> None:
        self.fake.listings += 1
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.fake.models]
        self._send(200, json.dumps({"object": "list", "data": listed}).encode())

    def do_POST(self) -> None:
        length, most = int(self.headers["Content-Length"]), self.fake.script.most_bytes
        sent = self.rfile.read(length)
        if most is not None and length > most:
            self._send(413, b"<html>413 Request Entity Too Large</html>")
            return
        body = json.loads(sent)
        self.fake.bodies.append({**body, "authorization": self.headers.get("Authorization")})
        status, content = self.fake.answer(self.path, body)
        if status == 200 and body.get("stream") and not self.fake.script.page:
            self._stream(json.loads(content)["choices"][0]["message"]["content"], body)
        else:
            self._send(status, b"<html>It works!</html>" if self.fake.script.page else content)

    def _stream(self, text: str, body: dict[str, Any]) -> None:
        """Server-sent events, as they come; the connection ends with them."""
        script, self.close_connection = self.fake.script, True
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, chunk in enumerate(self.fake.chunks(text, body)):
                time.sleep(script.pause)
                if number == script.breaks_after:
                    return
                if number == script.fails_after:
                    chunk = {"error": {"message": "the engine is dead", "type": "scripted", "code": 500}}
                self._event(json.dumps(chunk))
                self.fake.sent += 1
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.fake.closed += 1

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header(
                "retry-after-ms", "5"
            )  # the client's pauses are the client's business; tests are in a hurry
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _read(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[bytes]]:
    """Task, facts and images of a chat request."""
    if "messages" not in body:
        return "draw", {}, []
    first = body["messages"][:2][-1]["content"]  # behind the system's words, if there are any
    parts = first if isinstance(first, list) else [{"type": "text", "text": first}]
    text = next(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    images = [base64.b64decode(url.partition("base64,")[2]) for url in urls]
    found = FACTS.search(text)
    facts = json.loads(found[1]) if found else {}
    schema = re.search(r'"title":"(\w+)","type":"object"\}$', text)
    forms = {form.__name__: task for task, form in FORMS.items()}
    return forms.get(schema[1], "") if schema else "", facts, images


def _chunk(body: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": None,
    }


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}


def _completion(text: str, body: Mapping[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": _usage(COMPLETION_TOKENS),
    }


def _gathered(chunks: list[dict[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
    """The completion that a stream of chunks amounts to."""
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    completion = _completion("", body)
    for name in {name for choice in choices for name in choice["delta"]} - {"role"}:
        completion["choices"][0]["message"][name] = "".join(choice["delta"].get(name, "") for choice in choices)
    completion["choices"][0]["finish_reason"] = choices[-1]["finish_reason"]
    return completion


def _lot(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100
