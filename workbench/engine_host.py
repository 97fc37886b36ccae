"""Model and examples, made once in the background, so that the page is there before they are.

A ``Background`` makes one value in a daemon thread and tells how far it is; ``Host`` holds the two that the app needs, the one lock in
front of the model, and the stop event of what each session has running. Nothing here imports torch until the model's thread does.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from PIL import Image

from mis_lib.configs import GenerationSettings
from mis_lib.errors import MisError, ModelError
from mis_lib.models.shipped import choose_variants
from workbench.catalogue import Catalogue

if TYPE_CHECKING:
    from mis_lib.generate.variants import Column

T = TypeVar("T")
Progress = Callable[[str], None]


class Engine(Protocol):
    """What answers: several variants in one batch (``mis_lib.generate.variants.VariantEngine``)."""

    variants: tuple[str, ...]

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> "Iterator[tuple[Column, ...]]":
        """Yield one tuple per generated step, one column per variant; all have a finish reason in the last."""
        ...


class GivenUp(Exception):
    """The app ends: what is being made is not wanted any more."""


class Phase(StrEnum):
    """Where a value that is made in the background stands."""

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


@dataclass
class Host:
    """Everything the handlers share: the model, the examples, the model's lock, and each session's stop event."""

    model: Background[Engine]
    data: Background[Catalogue]
    checkpoint: str = "MIS-Mini"
    variants: tuple[str, ...] = ()  # names known before the model is loaded, for the first page
    runs: Path = Path("runs")  # folder of the run folders that the tabs show
    data_name: str = "MIS-Mini"  # what the examples' data set is called
    data_folders: tuple[Path, ...] = ()  # further data sets that this app was given to show
    adapters: dict[str, Path | None] = field(default_factory=dict)  # what the model is loaded with
    load: Callable[[Mapping[str, Path | None], Progress], Engine] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    stops: dict[str, threading.Event] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)  # sessions that gave up their place before their turn
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin to make both values."""
        self.data.start()
        self.model.start()

    def stop(self, *, patience: float = 10.0) -> bool:
        """Give up what is being made and wait, at most ``patience`` seconds for each; whether nothing is left that is half made."""
        made = self.data, self.model
        for one in made:
            one.give_up()
        return all(one.ended(patience=patience) for one in made)

    def add_variant(self, name: str, folder: Path) -> None:
        """Load the model anew with one adapter more; the model that is there stays until that has worked.

        Raises:
            ModelError: the adapter does not fit, or this app cannot load others.
        """
        if name in self.known_variants:
            return
        if self.load is None:
            raise ModelError(
                f"{name}: this app's model takes no further adapters; start it with --adapters {name}={folder}"
            )
        with self._loading:
            wanted, load = {**self.adapters, name: folder}, self.load
            made = Background(lambda progress: load(wanted, progress), what="Model")
            made.start()
            for _ in made.wait(threading.Event()):
                pass
            if made.value is None:
                raise ModelError(f"{name} could not be loaded beside the others: {made.status.message}")
            self.model, self.adapters = made, wanted

    @property
    def known_variants(self) -> tuple[str, ...]:
        """The loaded model's variants, or the ones promised before it is loaded."""
        return self.model.value.variants if self.model.value is not None else self.variants


def make_host(
    checkpoint: Path | None,
    adapters: Sequence[tuple[str, Path]] | None,
    data: Path | None,
    *,
    runs: Path = Path("runs"),
    datasets: Sequence[Path] = (),
) -> Host:
    """A host for the command line's choices; nothing is loaded before ``start``.

    Without a checkpoint it is the embedded model, without adapters the ones shipped with it (or none for another checkpoint).

    Raises:
        SettingsError: two adapters have the same name.
    """
    chosen = choose_variants(checkpoint, adapters)
    return Host(
        Background(lambda progress: load_engine(checkpoint, chosen, progress), what="Model"),
        Background(lambda progress: load_examples(data, progress), what="Examples"),
        checkpoint="MIS-Mini" if checkpoint is None else checkpoint.name,
        variants=tuple(chosen),
        runs=runs,
        data_name="MIS-Mini" if data is None else data.name,
        data_folders=tuple(datasets),
        adapters=chosen,
        load=lambda adapters, progress: load_engine(checkpoint, adapters, progress),
    )


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


def load_engine(checkpoint: Path | None, adapters: Mapping[str, Path | None], progress: Progress) -> Engine:
    """Load a checkpoint, or without one the embedded model, with its adapters (None: the model itself).

    Raises:
        ModelError: a checkpoint or an adapter is missing or does not fit.
    """
    for name, path in adapters.items():
        if path is not None and not path.exists():
            raise ModelError(
                f"adapter {name!r}: expected a PEFT adapter folder, found nothing at {path}; "
                f"correct --adapters {name}=PATH and start the app again"
            )
    if checkpoint is not None and not checkpoint.exists():
        raise ModelError(f"--model: expected a checkpoint folder, found nothing at {checkpoint}")
    progress("Loading the model libraries …")
    from mis_lib.generate.variants import VariantEngine  # here: torch and transformers take seconds to import

    if checkpoint is None:
        from mis_lib.models.mini import ensure_mini

        checkpoint = ensure_mini(progress=progress)
    progress("Loading the model …")
    return VariantEngine.load(checkpoint, adapters)


def load_examples(folder: Path | None, progress: Progress) -> Catalogue:
    """Read a data set folder; without one, MIS-Mini, drawn on first use."""
    if folder is None:
        from mis_lib.construct.pipeline import ensure_mini_data

        folder = ensure_mini_data(progress=progress)
    progress("Reading the examples …")
    return Catalogue.read(folder)
