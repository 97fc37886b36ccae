"""The cache of paid answers: one JSON file an answer, named by the hash of what was asked. Nothing is paid for twice.

    FOLDER/3f/3f9c...e1.json
    FOLDER/left_out.json        parameters that a server's answers were drawn without: {model: {"seed": "turned down"}}

An answer is written atomically when it arrives: a killed run loses at most the calls under way. Of two equal questions
at the same time the second waits for the first. Delete the folder to pay again. A change of what ``ask_question`` and
its like return makes stored answers unfindable, unless the question as it was is looked for, too (``older``).

``work_through`` asks many questions at a time, and ``Streak`` stops after many failures in a row.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mis_lib.clients.protocol import ChatAsk, Labels, Message, Unavailable, digest_bytes
from mis_lib.clients.structured import Turn
from mis_lib.files import digest_json, write_atomic

LEFT_OUT = "left_out.json"

T = TypeVar("T")


class Cache:
    """Answers on disk; ``found`` and ``paid`` count the answers read and written since it was opened.

    ``scaled`` has the digests of the images that questions showed smaller than they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = 0
        self.paid = 0
        self.scaled: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def once(
        self, question: Any, pay: Callable[[], Awaitable[dict[str, Any]]], older: Any = None
    ) -> dict[str, Any]:
        """The stored answer to ``question`` (a JSON value), or that of ``pay``, which is then stored.

        ``older`` is the question under which an earlier version stored its answer; it is read, never written.
        """
        key = digest_json(question)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._read(key)
            if known is None and older is not None:
                known = self._read(digest_json(older))
            if known is not None:
                self.found += 1
                return known
            answer = await pay()
            write_atomic(self._path(key), json.dumps(answer, ensure_ascii=False).encode(), sync=False)
            self.paid += 1
            return answer

    def note(self, model: str, lacks: Mapping[str, str]) -> None:
        """Keep the parameters that a model's answers are drawn without (``openai.turned_down``)."""
        known = self.left_out
        if lacks and known.get(model) != lacks:
            stored = json.dumps(known | {model: dict(lacks)}, indent=1)
            write_atomic(self.folder / LEFT_OUT, f"{stored}\n".encode())

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """What was noted of each model, also by earlier runs."""
        try:
            return json.loads((self.folder / LEFT_OUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # as in ``_read``: it is noted again
            return {}

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # missing, or damaged by another program: it is paid for again
            return None
        return found if isinstance(found, dict) else None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def ask_question(model: str, ask: ChatAsk, turns: Sequence[Turn]) -> dict[str, Any]:
    """A question in a fixed form, with the turns so far."""
    return {
        "teacher": model,
        "turns": [turn.model_dump() for turn in turns],
        "asked": [ask.digest, ask.temperature, ask.seed, ask.max_tokens],
    }


def label_question(
    model: str, messages: Sequence[Message], max_tokens: int, labels: Labels, images: Sequence[bytes] = ()
) -> dict[str, Any]:
    """A question that is answered with a label."""
    asked = [dict(message) for message in messages]
    shown = {"images": [digest_bytes(image) for image in images]} if images else {}
    words = [list(labels.words), labels.after]
    return {"label": model, "to": asked, "max_tokens": max_tokens, "labels": words, **shown}


def older_label_question(model: str, messages: Sequence[Message], max_tokens: int, labels: Labels) -> dict[str, Any]:
    """The same before its answers told probabilities: yes or no by their odds, other labels in plain text."""
    if labels.words == ("yes", "no"):
        return odds_question(model, messages[0]["content"], ())
    return {"say": model, "to": [dict(message) for message in messages], "max_tokens": max_tokens}


def odds_question(model: str, question: str, images: Sequence[bytes]) -> dict[str, Any]:
    """A question that is answered with the odds of yes."""
    return {"odds": model, "question": question, "images": [digest_bytes(image) for image in images]}


class Streak:
    """Counts failures in a row; after ``most`` the server is taken to be down and is asked nothing more."""

    def __init__(self, most: int) -> None:
        self.most, self.length = most, 0

    def check(self) -> None:
        """Refuse to go on if the streak is too long.

        Raises:
            Unavailable: it is.
        """
        if self.length >= self.most:
            raise Unavailable(f"not tried: the last {self.length} calls failed")


async def work_through(items: Sequence[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do ``work`` on every item, ``concurrency`` at a time, started in their order.

    Raises:
        Exception: the first that any of them raised; the others are cancelled.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:  # shared by all workers: each item goes to one of them
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
