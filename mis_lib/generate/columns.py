"""Answers of several variants to one question as they grow, a column each, and what streams them.

``StreamEngine`` is the protocol of ``VariantEngine`` (``stream``, on this machine) and ``ServedEngine`` (``served``);
``MultiEngine`` joins several. Nothing here imports torch.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from mis_lib.errors import ImageError, MisError, SettingsError
from mis_lib.files import MAX_IMAGES, MAX_QUESTION
from mis_lib.generate.prompting import BARE, Prompted, Prompting
from mis_lib.settings import GenerationSettings

TICK = 0.1  # seconds between looks at the stop event
FAILURES = (MisError, OSError, RuntimeError, ValueError)  # of a model, its files, or settings it has no room for

Update = tuple["Column", ...] | BaseException


@dataclass(frozen=True)
class Column:
    """One variant's answer after a step: the text so far, and what it has cost."""

    variant: str
    text: str
    tokens: int
    """Generated so far, the end token included."""
    seconds: float
    """Since generation began, the prompt included, until the answer is finished."""
    finish_reason: str | None
    """``None`` while the answer grows, then "stop", "length" or "cancelled"; of a served one also "content_filter" (the
    server's filter answered), "failed" (``told`` says why) or "unknown" (the server did not say)."""
    unit: str = "tokens"
    """What ``tokens`` counts: "chunks", as they arrived, where a server has reported no tokens (yet)."""
    told: str = ""
    """What went wrong, or which setting was not kept to, in words for a person."""

    @property
    def speed(self) -> float | None:
        """Tokens a second, the prompt's time included; ``None`` where no tokens are known."""
        return self.tokens / self.seconds if self.seconds and self.unit == "tokens" else None


class StreamEngine(Protocol):
    """Answers one question by several variants at once."""

    variants: tuple[str, ...]

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
        system: str = "",
    ) -> Iterator[tuple[Column, ...]]:
        """Yield one tuple a step, a column for each of ``variants``; in the last all have a finish reason."""
        ...


def check_request(
    images: Sequence[Image.Image], question: str, variants: Sequence[str], known: Collection[str]
) -> None:
    """Refuse a request that no variant can answer.

    Raises:
        ImageError: too many images.
        SettingsError: no or a too long question, no variant, an unknown or a repeated one.
    """
    if len(images) > MAX_IMAGES:
        raise ImageError(f"expected at most {MAX_IMAGES} images, found {len(images)}; remove some")
    if not question.strip():
        raise SettingsError("expected a question, found none; write one")
    if len(question) > MAX_QUESTION:
        raise SettingsError(
            f"expected a question of at most {MAX_QUESTION:,} characters, found {len(question):,}; shorten it"
        )
    if not variants:
        raise SettingsError(f"expected at least one variant to answer, found none; known: {', '.join(known)}")
    for name in variants:
        if name not in known:
            raise SettingsError(f"unknown variant {name!r}; known: {', '.join(known)}")
    if len(set(variants)) < len(variants):
        raise SettingsError(f"expected each variant once, found {', '.join(variants)}")


class CheckedEngine(ABC):
    """A ``StreamEngine`` that refuses what no variant can answer before it computes anything."""

    variants: tuple[str, ...]

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
        system: str = "",
    ) -> Iterator[tuple[Column, ...]]:
        """Yield the columns as they grow, one for each variant in the order asked for.

        In the last tuple all columns have a ``finish_reason``. Setting ``stop`` ends the answers after the current
        token; closing the iterator does so without a last tuple. Both free what the answers hold.

        Args:
            images: at most ``files.MAX_IMAGES``, in the order shown, before the question.
            question: what is asked about them; strings that are special tokens are taken as plain text.
            variants: names out of ``self.variants``, each at most once.
            settings: length and sampling.
            stop: set by another thread to end the answers.
            system: system prompt.

        Raises:
            ImageError: no image, or too many.
            SettingsError: no or a too long question, an unknown or repeated variant, a prompt that the model has no
                room for.
        """
        check_request(images, question, variants, self.variants)
        return self._stream(images, question, list(variants), settings, stop or threading.Event(), system)

    @abstractmethod
    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]: ...


class MultiEngine(CheckedEngine):
    """Several engines as one; their variants have different names.

    Columns of an engine that fails while others answer are "failed" and say why.
    """

    def __init__(self, *engines: StreamEngine) -> None:
        self._engines = engines
        self.variants = tuple(name for engine in engines for name in engine.variants)

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]:
        asked = [(engine, [name for name in variants if name in engine.variants]) for engine in self._engines]
        asked = [(engine, names) for engine, names in asked if names]
        if len(asked) == 1:
            return asked[0][0].stream(images, question, variants, settings, stop, *([system] if system else []))
        return self._merged(images, question, asked, variants, settings, stop, system)

    def _merged(
        self,
        images: Sequence[Image.Image],
        question: str,
        asked: Sequence[tuple[StreamEngine, list[str]]],
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]:
        updates: queue.SimpleQueue[tuple[list[str], Update]] = queue.SimpleQueue()
        over = threading.Event()  # stopped, or the iterator is closed

        def answer(engine: StreamEngine, names: list[str]) -> None:
            try:
                for columns in engine.stream(images, question, names, settings, over, *([system] if system else [])):
                    updates.put((names, columns))
            except BaseException as error:  # noqa: BLE001 - passed to the reading thread, which shows or raises it
                updates.put((names, error))

        started = time.perf_counter()
        columns = {name: Column(name, "", 0, 0.0, None) for name in variants}
        for engine, names in asked:
            threading.Thread(target=answer, args=(engine, names), name="columns", daemon=True).start()
        try:
            while any(column.finish_reason is None for column in columns.values()):
                if stop.is_set():
                    over.set()
                try:
                    names, update = updates.get(timeout=TICK)
                except queue.Empty:
                    continue
                if isinstance(update, BaseException):
                    seconds = time.perf_counter() - started
                    update = tuple(failed(columns[name], update, seconds) for name in names)
                columns |= {column.variant: column for column in update}
                yield tuple(columns.values())
        finally:
            over.set()


class _UnderPrompts:
    """Some variants of an engine under one prompting, by their names with it."""

    def __init__(self, engine: StreamEngine, bases: Mapping[str, str], prompting: Prompting) -> None:
        self.variants, self._engine, self._bases, self._prompting = tuple(bases), engine, dict(bases), prompting

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
        system: str = "",
    ) -> Iterator[tuple[Column, ...]]:
        names = {self._bases[name]: name for name in variants}
        asked, system = self._prompting.asked(question, system)
        for columns in self._engine.stream(images, asked, list(names), settings, stop, *([system] if system else [])):
            yield tuple(replace(column, variant=names[column.variant]) for column in columns)


def with_prompts(engine: StreamEngine, variants: Mapping[str, Prompted]) -> StreamEngine:
    """An engine that also answers as these variants, those under one prompting together.

    Args:
        engine: answers as their bases.
        variants: by name; bare ones are the engine's own.

    Raises:
        SettingsError: one has a defence, of which no single answer can be streamed.
    """
    kinds: dict[Prompting, dict[str, str]] = {}
    for name, one in variants.items():
        if one.prompting.defence is not None:
            raise SettingsError(
                f"{name}: expected prompts without a defence, found {one.prompting.defence}: its steps are no answer "
                "that grows; mis generate and mis report run it"
            )
        if one.prompting != BARE:
            kinds.setdefault(one.prompting, {})[name] = one.base
    parts = [_UnderPrompts(engine, bases, prompting) for prompting, bases in kinds.items()]
    return MultiEngine(engine, *parts) if parts else engine


def failed(column: Column, error: BaseException, seconds: float) -> Column:
    """The column of an answer that ended with an error; one that no model or file causes is raised."""
    if not isinstance(error, FAILURES):
        raise error
    told = str(error) if isinstance(error, MisError) else f"{type(error).__name__}: {error}"
    return Column(column.variant, column.text, column.tokens, seconds, "failed", column.unit, told)
