"""Variants that answer one question at once, each token shown as it comes: one batch, one row for each variant.

Rows of a batch share the weights that a step reads, so that two columns cost little more than one (``engine``,
``cpu``). Adapters that cannot be mixed in a batch, and weight edits, take turns, a token each: slower, the same texts.
One generation runs at a time; others wait for it.

    engine = VariantEngine.load(ensure_mini(), shipped_variants())
    for columns in engine.stream(images, "What is in the images?", ["mini", "mirage"], GenerationSettings()):
        ...  # one Column for each variant, its text so far
"""

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image

from mis_lib.errors import SettingsError
from mis_lib.generate.columns import CheckedEngine, Column
from mis_lib.generate.cpu import give_back_memory, working_dtype
from mis_lib.generate.decode import begun, decode
from mis_lib.generate.engine import Engine, use_adapter
from mis_lib.models.adapters import ImageLimits
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.prompts import (
    apply_template,
    known_variables,
    read_by,
    unknown_variables,
)
from mis_lib.settings import GenerationSettings, Quantization

POLL = 0.1  # seconds between looks at the stop event while another generation runs


class VariantEngine(CheckedEngine):
    """A checkpoint and its adapters, whose variants answer at once.

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
        # while the model loads, not in the first answer
        self._shares_images = self.mixes and len(adapters) > 1 and self._engine.shares_images
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
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        quantization: Quantization | None = None,
        limits: ImageLimits | None = None,
    ) -> Self:
        """Load a checkpoint and the adapters of its variants (``None``: the checkpoint itself).

        Args:
            checkpoint: folder in the standard Hugging Face layout.
            adapters: PEFT folder or weight edit of each variant.
            device: "auto", "cpu", "cuda" ...
            dtype: number type of the weights; what suits the device if not given (``cpu.working_dtype``).
            quantization: how the weights of linear layers are stored (``load_model``).
            limits: of images, which replace those of the adapters.

        Raises:
            ModelError: something is missing, damaged or does not fit; names the file and the way out.
        """
        dtype = dtype or working_dtype(checkpoint, device)
        model = load_model(checkpoint, adapters, device, dtype, quantization, limits)
        return cls(model, {name: None if folder is None else name for name, folder in adapters.items()})

    @property
    def network(self) -> Any:
        """The transformers model that computes, for measurements (``probe.parity``)."""
        return self._network

    @property
    def mixes(self) -> bool:
        """Whether all variants are answered in one batch; otherwise they take turns."""
        return self._engine.mixes

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]:
        answers = [GrowingAnswer(variant, self.processor.tokenizer, self._engine.ends) for variant in variants]
        while not self._busy.acquire(timeout=POLL):
            if stop.is_set():
                yield tuple(answer.column(0.0, "cancelled") for answer in answers)
                return
        started = time.perf_counter()
        try:
            inputs = self._prompt(images, question, variants, settings, system)
            for answer in answers:
                answer.opening = begun(inputs, self.processor)
                answer.told = unknown_variables(self.processor, settings.chat_template_kwargs)
            with closing(self._decoded(inputs, variants, settings)) as steps:
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
            give_back_memory()
            self._busy.release()

    def tokens(
        self, images: Sequence[Image.Image], question: str, variants: Sequence[str], settings: GenerationSettings
    ) -> Generator[list[int], None, None]:
        """Next token of each variant, step by step: from one batch, or in turns where adapters cannot be mixed.

        Continues after end tokens and checks nothing: for measurements; users are answered by ``stream``.
        """
        return self._decoded(self._prompt(images, question, variants, settings), variants, settings)

    def _decoded(
        self, inputs: Any, variants: Sequence[str], settings: GenerationSettings
    ) -> Generator[list[int], None, None]:
        adapters = [self._adapters[variant] for variant in variants]
        if not self._in_one_batch(variants):
            yield from self._in_turns(inputs, adapters, settings)
            return
        order = sorted(range(len(variants)), key=lambda row: adapters[row] is not None)  # rows without adapter go first
        with closing(self._engine.mixed(inputs, [adapters[row] for row in order], settings)) as steps:
            for tokens in steps:
                yield [tokens[order.index(row)] for row in range(len(variants))]

    def _in_one_batch(self, variants: Sequence[str]) -> bool:
        return all(self._engine.can_mix(self._adapters[variant]) for variant in variants)

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

    def _prompt(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        system: str = "",
    ) -> Any:
        """The model's inputs: one prompt, or one a row for models that do not share the features of images.

        Raises:
            SettingsError: prompt and answer together are longer than the model's context.
        """
        turns = read_by(self.processor, [image.convert("RGB") for image in images], question, system)
        inputs = apply_template(
            self.processor,
            [turns] * (len(variants) if self._in_one_batch(variants) and not self._shares_images else 1),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **known_variables(self.processor, settings.chat_template_kwargs),
        ).to(self._network.device, dtype=self._network.dtype)
        length = inputs["input_ids"].shape[1]
        room = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and length + settings.max_new_tokens > room:
            raise SettingsError(
                f"the prompt takes {length:,} tokens and the answer up to {settings.max_new_tokens:,}, "
                f"the model has room for {room:,}; ask a shorter question, show fewer images or lower max_new_tokens"
            )
        return inputs


@dataclass
class GrowingAnswer:
    """The answer of one variant as it grows."""

    variant: str
    tokenizer: Any
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    finished: Column | None = None
    opening: str = ""
    """What the prompt has begun of the answer (``decode.begun``)."""
    told: str = ""
    """Which setting is not kept to."""

    def grow(self, token: int, seconds: float, over: str | None) -> Column:
        """Take one more token unless the answer has ended; ``over`` is why it ends if the token does not end it."""
        if self.finished is not None:
            return self.finished
        self.tokens.append(token)
        return self.column(seconds, "stop" if token in self.ends else over)

    def column(self, seconds: float, finish_reason: str | None) -> Column:
        """The answer so far; a character of which not all bytes have come yet is held back."""
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip()
        if finish_reason is None:
            text = text.rstrip("\ufffd")
        text = f"{self.opening}{text}"
        column = Column(self.variant, text, len(self.tokens), seconds, finish_reason, told=self.told)
        self.finished = column if finish_reason else None
        return column
