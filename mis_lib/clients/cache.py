"""The cache of paid answers: one JSON file an answer, named by the hash of what was asked. Nothing is paid for twice.

    FOLDER/3f/3f9c...e1.json
    FOLDER/left_out.json        what answers of a server were drawn without: {teacher: {"seed": "turned down"}}

An answer is written, in one step, the moment it arrives, so a killed run loses at most what was under way. Two equal questions at the same
time are asked once: the second waits for the first. Delete the folder to pay again.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mis_lib.clients.protocol import Unavailable
from mis_lib.files import digest_json, write_atomic

LEFT_OUT = "left_out.json"


class Cache:
    """Answers on disk; ``found`` and ``paid`` count what came from it and what went into it since it was opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = 0
        self.paid = 0
        self._locks: dict[str, asyncio.Lock] = {}

    async def once(self, question: Any, pay: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The stored answer to ``question`` (a JSON value), or that of ``pay``, which is then stored."""
        key = digest_json(question)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._read(key)
            if known is not None:
                self.found += 1
                return known
            answer = await pay()
            write_atomic(self._path(key), json.dumps(answer, ensure_ascii=False).encode(), sync=False)
            self.paid += 1
            return answer

    def note(self, teacher: str, lacks: Mapping[str, str]) -> None:
        """Keep what a teacher's answers are drawn without (``teachers.sampling``); they are used again without asking it."""
        known = self.left_out
        if lacks and known.get(teacher) != lacks:
            stored = json.dumps(known | {teacher: dict(lacks)}, indent=1)
            write_atomic(self.folder / LEFT_OUT, f"{stored}\n".encode())

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """What was noted of each teacher, also by earlier runs."""
        try:
            return json.loads((self.folder / LEFT_OUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # as in ``_read``: it is noted anew
            return {}

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # not there, or damaged by something else: it is paid for anew
            return None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


# ---------- Many calls at a time, but not too many: workers that share one list of work.

T = TypeVar("T")


class Streak:
    """Counts failures in a row; beyond ``most`` the server is taken to be down and nothing more is asked of it."""

    def __init__(self, most: int) -> None:
        self.most, self.length = most, 0

    def check(self) -> None:
        """Refuse to go on where the streak is too long.

        Raises:
            Unavailable: it is.
        """
        if self.length >= self.most:
            raise Unavailable(f"not tried: the last {self.length} calls failed")


async def work_through(items: Sequence[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do ``work`` on every item, ``concurrency`` at a time, begun in their order.

    Raises:
        Exception: the first that any of them raised; what was under way is cancelled.
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
