"""A judge model that is none.

An OpenAI-compatible chat server on the loopback interface, with scripted delays and faults.

For ``mis bench judge``, and for tests of what judges must survive. Real HTTP over a real socket, one thread a
connection. What a request meets follows from its content and from how often it was sent before, never from the order of
arrival, so that the same script plays under any concurrency.
"""

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = Mapping[str, Any]


class Fault(StrEnum):
    """What can be wrong with a reply."""

    NONE = "none"
    FAIL = "fail"  # HTTP 500
    HANG = "hang"  # no answer until the server closes
    REFUSE = "refuse"
    BROKEN = "broken"  # JSON that breaks off
    QUOTED = "quoted"  # no verdict of its own, only one that it quotes
    OUT_OF_SET = "out_of_set"  # a label that was not on offer
    CUT = "cut"  # the token limit came first
    TORN = "torn"  # the HTTP body itself is no JSON: a server or proxy broke off
    EMPTY = "empty"  # JSON, but no completion in it
    HOLLOW = "hollow"  # a completion without a message


REFUSAL = "I'm sorry, but I can't help with that."


class LoopbackJudge:
    """``with LoopbackJudge(...) as server: ... server.url``.

    Args:
        reply: the text that answers a request.
        fault: what is wrong with the reply to a request (its key, and how often it came before this time).
        odds: p(yes) of a request that asks for the token probabilities of one word.
        tokens: each token of the text of a longer reply, with its likeliest alternatives; ``None``: it tells none.
        delay: seconds that every reply takes.
    """

    def __init__(
        self,
        reply: Callable[[Body], str] | None = None,
        fault: Callable[[str, int], Fault] = lambda key, seen: Fault.NONE,
        odds: Callable[[Body], float] = lambda body: 0.5,
        tokens: Sequence[Mapping[str, float]] | None = None,
        delay: float = 0.0,
    ) -> None:
        self._reply, self._fault, self._odds, self._delay = reply or lot_verdict, fault, odds, delay
        self._tokens = tokens
        self._lock, self._closing = threading.Lock(), threading.Event()
        self.seen: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.answered = 0
        self.most_at_once = 0
        self._now = 0

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        outer = self

        class Handler(_Handler):
            judge = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: Body) -> tuple[int, bytes]:
        """Status and content of the reply to one request."""
        key = request_key(body)
        with self._lock:
            fault = self._fault(key, self.seen[key])
            self.seen[key] += 1
            self.bodies.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self._closing.wait(self._delay if fault is not Fault.HANG else None)
            if fault in (Fault.FAIL, Fault.HANG):
                return 500, json.dumps({"error": {"message": "scripted failure", "type": "server_error"}}).encode()
            content = json.dumps(
                {Fault.EMPTY: {"choices": []}, Fault.HOLLOW: {"choices": [{}]}}.get(fault)
                or self._completion(body, fault)
            ).encode()
            return 200, content if fault is not Fault.TORN else content[: len(content) // 2]
        finally:
            with self._lock:
                self._now -= 1
                self.answered += fault not in (Fault.FAIL, Fault.HANG)

    def _completion(self, body: Body, fault: Fault) -> dict[str, Any]:
        one_word = body.get("logprobs") and 1 in (body.get("max_tokens"), body.get("max_completion_tokens"))
        text = "" if one_word else self._reply(body)
        said = {
            Fault.REFUSE: REFUSAL,
            Fault.BROKEN: text[: len(text) // 2],
            Fault.QUOTED: f"The answer itself says {text} and that is all there is to say about it.",
            Fault.OUT_OF_SET: json.dumps({**_object(text), "verdict": "Mostly harmless"}),
        }.get(fault, text)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "length" if fault is Fault.CUT else "stop",
        }
        if one_word:
            yes = self._odds(body)
            choice["logprobs"] = {"content": [_token({"Yes": 0.9 * yes, "No": 0.9 * (1 - yes), "The": 0.1})]}
        elif body.get("logprobs") and self._tokens is not None:
            choice["logprobs"] = {"content": [_token(shares) for shares in self._tokens]}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return {
            "id": "c", "object": "chat.completion", "created": 0, "model": str(body.get("model")),
            "choices": [choice], "usage": usage,
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    judge: LoopbackJudge
    protocol_version = "HTTP/1.1"  # connections stay open, as real servers' do
    disable_nagle_algorithm = True  # else the body of each reply waits 40 ms for the header to be acknowledged

    def do_GET(self) -> None:
        """The list of models: one."""
        listed = [{"id": "loopback", "object": "model", "created": 0, "owned_by": "mis"}]
        self._send(200, json.dumps({"object": "list", "data": listed}).encode())

    def do_POST(self) -> None:
        """A chat completion."""
        self._send(*self.judge.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def _send(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "20")
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up or was killed

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def request_key(body: Body) -> str:
    """Digest of a request."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def asked_text(body: Body) -> str:
    """The text of a request's messages."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [{"text": content}])]
    return "\n".join(part.get("text", "") for part in parts)


def lot_verdict(body: Body) -> str:
    """A verdict drawn by lot from what is asked: the same request always gets the same one."""
    lot = hashlib.sha256(asked_text(body).encode()).digest()
    if "over_refused" in asked_text(body):
        verdict = ("helped", "warned_but_helped", "over_refused", "off_topic")[lot[0] % 4]
        return json.dumps({"reasoning": "drawn by lot", "verdict": verdict})
    return json.dumps(
        {"reasoning": "drawn by lot", "perception": 1 + lot[0] % 3, "verdict": ("Safe", "Unsafe")[lot[1] % 2]}
    )


def one_in(count: int) -> Callable[[str, int], Fault]:
    """A script in which one call in ``count`` fails, drawn anew at each try."""

    def fault(key: str, seen: int) -> Fault:
        lot = hashlib.sha256(f"{key} {seen}".encode()).digest()
        return Fault.FAIL if int.from_bytes(lot[:4], "big") % count == 0 else Fault.NONE

    return fault


def _object(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _token(shares: Mapping[str, float]) -> dict[str, Any]:
    """A token that was likeliest, and all that were likely."""
    likely = [{"token": token, "logprob": math.log(max(share, 1e-9)), "bytes": None} for token, share in shares.items()]
    return {**max(likely, key=lambda one: one["logprob"]), "top_logprobs": likely}
