"""Variants side by side: one question, one batch, one row for each variant, and every token shown as it comes.

Rows of a batch share the weights that a step reads, so that two columns cost little more than one (``rows``, ``cpu``). Adapters that cannot be mixed in a
batch are answered in turns, a token each: slower, the same texts. One generation runs at a time; others wait for it.

    engine = VariantEngine.load(ensure_mini(), shipped_variants())
    for columns in engine.stream(images, "What is in the images?", ["mini", "mirage"], GenerationSettings()):
        ...  # one Column for each variant, its text so far
"""

import queue
import threading
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from PIL import Image

from mis_lib.errors import ImageError, MisError, SettingsError
from mis_lib.files import MAX_IMAGES, MAX_QUESTION
from mis_lib.generate.cpu import working_dtype
from mis_lib.generate.decode import decode, shares_images
from mis_lib.generate.engine import Engine, use_adapter
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.prompts import as_plain_text, special_tokens, user_message
from mis_lib.settings import GenerationSettings

# ---------- One column of several answers side by side: the text of a variant as it grows, and what it has cost.


@dataclass(frozen=True)
class Column:
    """One variant's answer after a step: the text so far, and what it has cost."""

    variant: str
    text: str
    tokens: int
    """Generated so far, the end token included."""
    seconds: float
    """Since generation began, the prompt included; stands still once the answer is finished."""
    finish_reason: str | None
    """``None`` while the answer grows, then "stop", "length" or "cancelled"; of a served one also "content_filter" (the server's filter answered),
    "failed" (``told`` says why) or "unknown" (the server did not say)."""
    unit: str = "tokens"
    """What ``tokens`` counts: "chunks", as they arrived, where a server has told no tokens (yet)."""
    told: str = ""
    """What went wrong, or otherwise than asked, in words for a person."""

    @property
    def speed(self) -> float | None:
        """Tokens a second, the prompt's time included; ``None`` where no tokens are known."""
        return self.tokens / self.seconds if self.seconds and self.unit == "tokens" else None


@dataclass
class Answer:
    """The answer of one variant as it grows."""

    variant: str
    tokenizer: Any
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    finished: Column | None = None

    def grow(self, token: int, seconds: float, over: str | None) -> Column:
        """Take one more token, unless the answer has ended; ``over`` is why it ends here if the token does not end it."""
        if self.finished is not None:
            return self.finished
        self.tokens.append(token)
        return self.column(seconds, "stop" if token in self.ends else over)

    def column(self, seconds: float, finish_reason: str | None) -> Column:
        """The answer so far; a character of which not all bytes have come yet is held back."""
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip()
        if finish_reason is None:
            text = text.rstrip("\ufffd")
        column = Column(self.variant, text, len(self.tokens), seconds, finish_reason)
        self.finished = column if finish_reason else None
        return column


# ---------- One question put to several variants side by side: who can be asked (``Answerer``), and what is refused before anybody answers.


class Answerer(Protocol):
    """What answers side by side: a local checkpoint (``variants``), served models (``served``), or both (``beside``)."""

    variants: tuple[str, ...]

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """Yield one tuple per step, one column per variant in the order asked for; all have a finish reason in the last."""
        ...


def check_request(
    images: Sequence[Image.Image], question: str, variants: Sequence[str], known: Collection[str]
) -> None:
    """Refuse what no variant can answer.

    Raises:
        ImageError: no image, or too many.
        SettingsError: no or a too long question, no variant, an unknown or a repeated one.
    """
    if not images:
        raise ImageError(f"expected 1 to {MAX_IMAGES} images, found none; add one")
    if len(images) > MAX_IMAGES:
        raise ImageError(f"expected 1 to {MAX_IMAGES} images, found {len(images)}; remove some")
    if not question.strip():
        raise SettingsError("expected a question about the images, found none; write one")
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


POLL = 0.1  # seconds between looks at the stop event while another generation runs


class VariantEngine:
    """A checkpoint and its adapters, ready to answer side by side.

    Args:
        model: checkpoint with all adapters attached; belongs to the engine from now on.
        adapters: name of each variant and of its adapter in the model, ``None`` for the checkpoint itself.
    """

    def __init__(self, model: LoadedModel, adapters: Mapping[str, str | None]) -> None:
        self._engine = Engine(model)
        self.variants = tuple(adapters)
        self.processor: Any = model.processor
        self._model: Any = model.model
        self._network: Any = self._engine.network
        self._adapters = dict(adapters)
        self._groups = self._engine.groups
        self._busy = threading.Lock()
        self.dtype = str(self._network.dtype).removeprefix("torch.")
        self.packed = self._engine.packed
        """Whether the weights are packed for the CPU's matrix unit (``cpu``)."""

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        adapters: Mapping[str, Path | None],
        *,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Load a checkpoint and the adapters of its variants (``None``: the checkpoint itself).

        Args:
            checkpoint: folder in the standard Hugging Face layout.
            adapters: PEFT folder of each variant.
            device: "cpu", "cuda" ...
            dtype: number type of the weights; what suits the device if not given (``cpu.working_dtype``).

        Raises:
            ModelError: something is missing, damaged or does not fit; names the file and the way out.
        """
        model = load_model(checkpoint, adapters, device, dtype or working_dtype(checkpoint, device))
        return cls(model, {name: None if folder is None else name for name, folder in adapters.items()})

    @property
    def network(self) -> Any:
        """The transformers model that computes, for those who watch it (``analysis.parity_forms``)."""
        return self._network

    @property
    def mixes(self) -> bool:
        """Whether all variants are answered in one batch; otherwise they take turns."""
        return self._engine.mixes

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """Yield one tuple for each generated token, with one column for each variant in the order asked for.

        In the last tuple all columns have a ``finish_reason``. Setting ``stop`` ends the answers after the token in hand, closing the
        iterator does so without a last tuple. Both free what the answer took.

        Args:
            images: one to ``files.MAX_IMAGES``, in the order shown.
            question: what is asked about them; strings that are special tokens are taken as plain text.
            variants: names out of ``self.variants``, each at most once.
            settings: length and sampling.
            stop: set by another thread to end the answers.

        Raises:
            ImageError: no image, or too many.
            SettingsError: no or a too long question, an unknown or repeated variant, a prompt that the model has no room for.
        """
        check_request(images, question, variants, self.variants)
        return self._stream(images, question, list(variants), settings, stop or threading.Event())

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
    ) -> Iterator[tuple[Column, ...]]:
        answers = [Answer(variant, self.processor.tokenizer, self._engine.ends) for variant in variants]
        while not self._busy.acquire(timeout=POLL):
            if stop.is_set():
                yield tuple(answer.column(0.0, "cancelled") for answer in answers)
                return
        started = time.perf_counter()
        try:
            with closing(self.tokens(images, question, variants, settings)) as steps:
                for number, tokens in enumerate(steps, 1):
                    seconds = time.perf_counter() - started
                    over = "cancelled" if stop.is_set() else "length" if number == settings.max_new_tokens else None
                    columns = tuple(
                        answer.grow(token, seconds, over) for answer, token in zip(answers, tokens, strict=True)
                    )
                    yield columns
                    if all(column.finish_reason for column in columns):
                        return
        finally:
            self._busy.release()

    def tokens(
        self, images: Sequence[Image.Image], question: str, variants: Sequence[str], settings: GenerationSettings
    ) -> Generator[list[int], None, None]:
        """Next token of each variant, step by step: from one batch, or in turns where adapters cannot be mixed.

        Goes on beyond end tokens and checks nothing; for measurements. ``stream`` is what answers people.
        """
        adapters = [self._adapters[variant] for variant in variants]
        if self._groups is None:
            yield from self._in_turns(self._prompt(images, question, 1, settings), adapters, settings)
            return
        inputs = self._prompt(images, question, len(variants), settings)
        order = sorted(range(len(variants)), key=lambda row: adapters[row] is not None)  # rows without adapter go first
        with closing(self._engine.mixed(inputs, [adapters[row] for row in order], settings)) as steps:
            for tokens in steps:
                yield [tokens[order.index(row)] for row in range(len(variants))]

    def _in_turns(
        self, inputs: Any, adapters: Sequence[str | None], settings: GenerationSettings
    ) -> Iterator[list[int]]:
        streams = []
        for adapter in adapters:
            with use_adapter(self._model, adapter):  # the images are encoded here, under the same adapter
                streams.append(decode(self._network, inputs, 1, settings, self._engine.threads))
        for _ in range(settings.max_new_tokens):
            tokens = []
            for adapter, stream in zip(adapters, streams, strict=True):
                with use_adapter(self._model, adapter):
                    tokens += next(stream)
            yield tokens

    def _prompt(self, images: Sequence[Image.Image], question: str, rows: int, settings: GenerationSettings) -> Any:
        """The model's inputs: one prompt, or one a row for models that do not share the features of images.

        Raises:
            SettingsError: prompt and answer together are longer than the model's context.
        """
        plain = as_plain_text(question, special_tokens(self.processor))
        message = user_message([image.convert("RGB") for image in images], plain)
        inputs = self.processor.apply_chat_template(
            [[message]] * (1 if shares_images(self._network) else rows),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._network.device, dtype=self._network.dtype)
        length = inputs["input_ids"].shape[1]
        room = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and length + settings.max_new_tokens > room:
            raise SettingsError(
                f"the prompt takes {length:,} tokens and the answer up to {settings.max_new_tokens:,}, the model has room for {room:,}; "
                "ask a shorter question, show fewer images or lower max_new_tokens"
            )
        return inputs


# ---------- Two engines as one: served models beside the local checkpoint and its adapters, all answering the same question at once.
#
# Each engine streams in a thread of its own, so that neither waits for the other's tokens. One that fails ends its own columns, with the reason in words;
# the others go on.

TICK = 0.1  # seconds between looks at the stop event
FAILURES = (MisError, OSError, RuntimeError, ValueError)  # of a model, its files, or settings it has no room for

Update = tuple[Column, ...] | BaseException


class SideBySide:
    """Engines whose variants have different names, in this order."""

    def __init__(self, *engines: Answerer) -> None:
        self._engines = engines
        self.variants = tuple(name for engine in engines for name in engine.variants)

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """As ``Answerer.stream``; columns of an engine that fails while others answer are "failed" and say why.

        Raises:
            ImageError: no image, or too many.
            SettingsError: no or a too long question, an unknown or repeated variant.
        """
        check_request(images, question, variants, self.variants)
        asked = [(engine, [name for name in variants if name in engine.variants]) for engine in self._engines]
        asked = [(engine, names) for engine, names in asked if names]
        stop = stop or threading.Event()
        if len(asked) == 1:
            return asked[0][0].stream(images, question, variants, settings, stop)
        return self._merged(images, question, asked, variants, settings, stop)

    def _merged(
        self,
        images: Sequence[Image.Image],
        question: str,
        asked: Sequence[tuple[Answerer, list[str]]],
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
    ) -> Iterator[tuple[Column, ...]]:
        updates: queue.SimpleQueue[tuple[list[str], Update]] = queue.SimpleQueue()
        over = threading.Event()  # stopped, or nobody reads any more

        def answer(engine: Answerer, names: list[str]) -> None:
            try:
                for columns in engine.stream(images, question, names, settings, over):
                    updates.put((names, columns))
            except BaseException as error:  # noqa: BLE001 - handed on: shown or raised where the columns are put together
                updates.put((names, error))

        started = time.perf_counter()
        columns = {name: Column(name, "", 0, 0.0, None) for name in variants}
        for engine, names in asked:
            threading.Thread(target=answer, args=(engine, names), name="side by side", daemon=True).start()
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
                    update = tuple(_failed(columns[name], update, seconds) for name in names)
                columns |= {column.variant: column for column in update}
                yield tuple(columns.values())
        finally:
            over.set()


def _failed(column: Column, error: BaseException, seconds: float) -> Column:
    if not isinstance(error, FAILURES):
        raise error
    told = str(error) if isinstance(error, MisError) else f"{type(error).__name__}: {error}"
    return Column(column.variant, column.text, column.tokens, seconds, "failed", column.unit, told)
