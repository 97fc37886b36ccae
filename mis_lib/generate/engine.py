"""One checkpoint with its adapters, made ready to answer: who shares weights with whom, on how many threads, in which layout.

Both ways of answering stand on it: side by side and streamed for people (``variants``), in large batches for a run (``local``). Row i of a batch is
answered under the i-th adapter where the adapters can be mixed (``rows.find_groups``), else adapter after adapter.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel

from mis_lib.errors import SettingsError
from mis_lib.generate.cpu import Threads, can_pack, pack_linears, working_dtype
from mis_lib.generate.decode import decode
from mis_lib.generate.rows import find_groups, rows_under
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.settings import GenerationSettings


class Engine:
    """A model in evaluation mode with everything that speeds up its answers.

    Args:
        model: checkpoint with all adapters attached.
        pack: keep the weights only in the layout of the CPU's matrix unit where it has one; the model then belongs to the engine.
        mix: answer rows under different adapters in one batch where that can be done; else every row is answered under the active one.
    """

    def __init__(self, model: LoadedModel, *, pack: bool = True, mix: bool = True) -> None:
        self.model: Any = model.model
        self.processor: Any = model.processor
        self.network: Any = model.network
        self.groups = find_groups(self.network) if mix else None
        self.threads = Threads() if self.network.device.type == "cpu" else None
        self.packed = pack and can_pack(self.network)
        if self.packed:
            self._pack()

    @classmethod
    def load(
        cls, checkpoint: Path | str, adapters: Mapping[str, Path | None], device: str, dtype: torch.dtype | str | None
    ) -> Self:
        """Load checkpoint and adapters in what number type suits the device, unless one is given; raises as ``load_model``."""
        return cls(load_model(checkpoint, adapters, device, dtype or working_dtype(checkpoint, device)))

    @property
    def mixes(self) -> bool:
        """Whether rows of one batch can be answered under different adapters."""
        return self.groups is not None

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are attached."""
        return list(self.model.peft_config) if isinstance(self.model, PeftModel) else []

    @property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer; padding stands behind ends only."""
        own = getattr(self.network.generation_config, "eos_token_id", None)
        tokenizer = self.processor.tokenizer
        listed = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id, tokenizer.pad_token_id]
        return frozenset(token for token in listed if token is not None)

    def check(self, variants: Mapping[str, str | None]) -> None:
        """Refuse variants whose adapter is not attached.

        Raises:
            SettingsError: names variant and adapter.
        """
        for variant, adapter in variants.items():
            if adapter is not None and adapter not in self.adapters:
                raise SettingsError(
                    f"variant {variant!r}: adapter {adapter!r} is not attached to the model; attached: {', '.join(self.adapters) or 'none'}"
                )

    def mixed(
        self,
        inputs: Any,
        adapters: Sequence[str | None],
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
    ) -> Generator[list[int], Sequence[int] | None, None]:
        """Next token of each row, step by step, row i under ``adapters[i]``; ``send`` the rows to keep as the others end (``decode``).

        Args:
            inputs: the processor's output for the rows' prompts, or for every k-th of them, which then stands for k rows.
            adapters: of each row; the engine must mix, or all be the same as what is active.
            settings: length and sampling.
            seeds: of each row's draws.
        """
        kept = list(adapters)

        def drop(rows: Sequence[int]) -> None:
            kept[:] = [kept[row] for row in rows]
            for group in self.groups or []:
                group.answer_under(kept)

        steps = decode(self.network, inputs, len(kept), settings, self.threads, seeds, drop)
        with rows_under(self.groups or [], kept):
            yield from steps

    def _pack(self) -> None:
        grouped = self.groups or []
        for group in grouped:
            group.pack()
        pack_linears(self.network, leave=[layer.base_layer for group in grouped for layer in group.layers])


@contextlib.contextmanager
def use_adapter(model: Any, adapter: str | None) -> Iterator[None]:
    """Answer under one adapter, or under none, for as long as the block lasts."""
    if not isinstance(model, PeftModel):
        yield
    elif adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(adapter, inference_mode=True)
        yield
