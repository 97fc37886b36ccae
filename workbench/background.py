"""A value that is made once in a daemon thread, so that the page is there before it is, and how far that has come."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from PIL import Image

from mis_lib.errors import MisError
from mis_lib.generate.columns import Column, StreamEngine
from mis_lib.settings import GenerationSettings

T = TypeVar("T")
Progress = Callable[[str], None]


class GivenUp(Exception):
    """The app ends: what is being made is not wanted any more."""


class Phase(StrEnum):
    """State of a value that is made in the background."""

    WAITING = "waiting"
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """A phase, what is being done or went wrong, and for how many seconds the work has been going on."""

    phase: Phase
    message: str
    seconds: float = 0.0


class Background(Generic[T]):
    """One value that is made in a daemon thread; ``start`` again after a failure tries again."""

    def __init__(self, make: Callable[[Progress], T], *, what: str) -> None:
        self._make, self._what = make, what
        self._message = f"{what}: waiting to start"
        self._started = 0.0
        self._future: Future[T] | None = None
        self._lock = threading.Lock()
        self._wanted = True

    def start(self) -> None:
        """Begin, unless the work is under way or done."""
        with self._lock:
            if self._future is not None and (not self._future.done() or self._future.exception() is None):
                return
            self._started, self._message = time.monotonic(), f"{self._what}: starting"
            self._future = in_daemon(lambda: self._make(self._tell), name=self._what)

    @property
    def status(self) -> Status:
        """Phase and text for the screen."""
        future = self._future
        if future is None:
            return Status(Phase.WAITING, self._message)
        if not future.done():
            return Status(Phase.WORKING, self._message, time.monotonic() - self._started)
        error = future.exception()
        return Status(Phase.READY, "") if error is None else Status(Phase.FAILED, explain(error))

    @property
    def value(self) -> T | None:
        """The value, or None while it is not there."""
        future = self._future
        return future.result() if future is not None and future.done() and future.exception() is None else None

    def wait(self, stop: threading.Event, *, interval: float = 0.25) -> Iterator[Status]:
        """Yield the status until the value is there, has failed, or ``stop`` is set."""
        while (status := self.status).phase in (Phase.WAITING, Phase.WORKING) and not stop.is_set():
            yield status
            stop.wait(interval)

    def give_up(self) -> None:
        """Let the work end at the next word of its progress, so that it clears away what is half made."""
        self._wanted = False

    def ended(self, *, patience: float) -> bool:
        """Whether no work is under way, after at most ``patience`` seconds."""
        return self._future is None or not wait([self._future], timeout=patience).not_done

    def _tell(self, message: str) -> None:
        if not self._wanted:
            raise GivenUp
        self._message = message


def in_daemon(work: Callable[[], T], *, name: str) -> "Future[T]":
    """Run ``work`` in a daemon thread (a pool's threads would hold up Ctrl-C until they are done)."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed on: the future raises or shows it where it is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def explain(error: BaseException) -> str:
    """An error as a sentence: our own errors speak for themselves, others carry their type."""
    return str(error) if isinstance(error, MisError) else f"{type(error).__name__}: {error}"


# ---------- One comparison as a job: generation runs in its own thread, the screen samples it.
#
# The model never waits for a browser, and a browser that went away stops the model within a token: whoever stops
# reading ``follow`` (closed tab, cancelled event, error) sets the stop event on the way out.

UPDATES_PER_SECOND = 15


def follow(
    engine: StreamEngine,
    images: Sequence[Image.Image],
    question: str,
    variants: Sequence[str],
    settings: GenerationSettings,
    *,
    lock: threading.Semaphore,
    stop: threading.Event,
) -> Iterator[tuple[Column, ...]]:
    """Generate while holding ``lock``, and yield the newest columns at most ``UPDATES_PER_SECOND`` times a second.

    When ``stop`` is set, the columns so far (none before the first token) are yielded once more, so that the screen can
    say so at once. The last tuple yielded is the final one. An error of the engine is raised here.
    """
    newest: deque[tuple[Column, ...]] = deque(maxlen=1)
    latest: tuple[Column, ...] = ()
    told = False

    def generate() -> None:
        with lock:
            newest.extend(engine.stream(images, question, variants, settings, stop))

    done = in_daemon(generate, name="generation")
    try:
        while not done.done():
            wait([done], timeout=1 / UPDATES_PER_SECOND)
            stopping = stop.is_set() and not told
            if newest or stopping:
                latest = newest.pop() if newest else latest
                told = told or stopping
                yield latest
        done.result()
        if newest:
            yield newest.pop()
    finally:
        stop.set()
