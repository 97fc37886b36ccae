"""What recipes report while they work. They never print: a listener shows it, and without one they are silent.

    report_to(Terminal())       # the command line and the notebooks do so once (``mis_lib.cli.console``)
    generate_run(settings)

``Kept`` also writes the newest step to a file, from which the app reads how far a process is that it has started.

One listener serves the whole process, as in ``logging``: models and data are built deep inside a recipe, and a
parameter would pass through every function on the way.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError

from mis_lib.files import write_atomic
from mis_lib.schema import Record

FILE_VARIABLE = "MIS_PROGRESS"
"""Environment variable with the file that a command keeps its newest step in."""
FINISHED = "finished"  # the step after the last one of a command that has done all that it was asked for
EVERY = 0.3  # seconds between two writings of a step that goes on
COUNTED = re.compile(r"(.+): ([\d,]+) of ([\d,]+)")  # a message that counts

Advance = Callable[[str, int, int | None], None]
"""Takes a text, how many parts are done, and of how many (None: not known)."""


class Progress(Protocol):
    """Shows what a recipe reports."""

    def say(self, text: str) -> None:
        """Show one message."""
        ...

    def bar(self, what: str) -> AbstractContextManager[Advance]:
        """One bar called ``what``; the text of an advance is shown after it."""
        ...

    def bars(self, *, kept: bool) -> AbstractContextManager[Advance]:
        """One bar for each text; ``kept`` ones are still shown at the end."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Ignore a message."""

    @contextmanager
    def bar(self, what: str) -> Iterator[Advance]:
        """A bar that nothing draws."""
        yield lambda text, done, total: None

    @contextmanager
    def bars(self, *, kept: bool) -> Iterator[Advance]:
        """Bars that nothing draws."""
        yield lambda text, done, total: None


class Step(Record):
    """What a process is doing."""

    what: str
    text: str = ""
    """The part that it is at."""
    first: int = 0
    """How many parts were done when it began."""
    done: int = 0
    total: int | None = None
    """``None``: not known."""
    began: float
    """When the step began, in seconds since 1970."""
    now: float
    """When this was written."""
    ended: dict[str, tuple[float, int]] = Field(default_factory=dict)
    """Seconds and parts of each step that has ended; of one that began several times, of the last."""

    @property
    def seconds_left(self) -> float | None:
        """How long the step goes on at its rate so far; None before there is one."""
        if self.done <= self.first or self.total is None:
            return None
        return (self.now - self.began) / (self.done - self.first) * (self.total - self.done)


class Kept:
    """Passes everything on to another listener, and keeps the newest step in a file."""

    def __init__(self, listener: Progress, file: Path) -> None:
        self._listener, self._file = listener, file
        self._moves = False  # a bar has moved that is still shown: messages are about its parts
        self._began = time.monotonic()
        self._step = Step(what="starting", began=time.time(), now=time.time())
        self._write()

    def say(self, text: str) -> None:
        """Pass on a message; outside of bars it is a step, with its count if it has one."""
        self._listener.say(text)
        counted = COUNTED.fullmatch(text)
        if counted is not None:
            self._reach(counted[1], "", *(int(number.replace(",", "")) for number in counted.groups()[1:]))
        elif not self._moves:
            self._reach(text, "", 0, None)

    @contextmanager
    def bar(self, what: str) -> Iterator[Advance]:
        """A bar whose newest count is kept."""
        with self._listener.bar(what) as passed, self._moving():

            def advance(text: str, done: int, total: int | None) -> None:
                self._moves = True
                passed(text, done, total)
                self._reach(what, text, done, total)

            yield advance

    @contextmanager
    def bars(self, *, kept: bool) -> Iterator[Advance]:
        """Bars; the one that moved last is kept."""
        with self._listener.bars(kept=kept) as passed, self._moving():

            def advance(text: str, done: int, total: int | None) -> None:
                self._moves = True
                passed(text, done, total)
                self._reach(text, "", done, total)

            yield advance

    def finish(self) -> None:
        """Keep that everything was done."""
        self._reach(FINISHED, "", 0, None)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._moves = False

    def _reach(self, what: str, text: str, done: int, total: int | None) -> None:
        # Lengths by a clock that nobody sets; the time of day only says when that was.
        now, lasted, before = time.time(), time.monotonic() - self._began, self._step
        if is_new := what != before.what:
            ended = before.ended | {before.what: (lasted, before.done - before.first)}
            self._step = Step(what=what, text=text, first=done, done=done, total=total, began=now, now=now, ended=ended)
            self._began = time.monotonic()
        else:
            moved = {"text": text, "done": done, "total": total, "began": now - lasted, "now": now}
            self._step = before.model_copy(update=moved)
        if is_new or done == total or time.monotonic() - self._written > EVERY:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk ends the work itself, with its own words
            write_atomic(self._file, self._step.model_dump_json().encode(), sync=False)


def finish() -> None:
    """Keep that the command has done all that it was asked for, if its steps are kept."""
    if isinstance(_listener, Kept):
        _listener.finish()


def read_step(file: Path) -> Step | None:
    """The newest step of a process that keeps it in a file; None if there is none."""
    try:
        return Step.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # not there yet, or of another version
        return None


_listener: Progress = Silent()


def report_to(progress: Progress) -> Progress:
    """Show what recipes report on ``progress`` from now on; returns the listener before."""
    global _listener
    before, _listener = _listener, progress
    return before


def say(text: str) -> None:
    """Report one message."""
    _listener.say(text)


def bar(what: str) -> AbstractContextManager[Advance]:
    """Report the progress of one thing."""
    return _listener.bar(what)


def bars(*, kept: bool = False) -> AbstractContextManager[Advance]:
    """Report the progress of several things at the same time."""
    return _listener.bars(kept=kept)
