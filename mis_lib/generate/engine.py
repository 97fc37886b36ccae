"""One checkpoint with its adapters, made ready to answer in streamed columns (``stream``) and batches (``batch``).

Row i of a batch is answered under the i-th adapter, or by the checkpoint itself, where adapters can be mixed; else
adapters take turns. PEFT can mix adapters in a batch (``adapter_names``), with a Python loop over the adapters in each
of some 200 layers, which for a small model costs more than the products. Here layers that read the same tensor (q, k
and v; gate and up) form a group. A group is two products, whatever the number of layers, rows and adapters:

    [y | low] = x [W | A]        x (rows, T, in); W (in, out) of all layers, concatenated; A (in, R) of all adapters
    y += (low * s) B             s (rows, 1, R) is an adapter's scaling in its rows, zero in others; B (R, out)

This is the same sum as PEFT's. For one token the second product is in float32, the fastest type for so thin a matrix on
a CPU. Leading rows without an adapter are left out of it.

Rows under a weight edit (``models.edits``) have a pass of their own, for which its weights are exchanged. Not every
adapter can be mixed (DoRA, saved modules, layers that do not read rows of text, as in a vision tower).
Whether a model's can, and which layers read the same tensor, is not guessed from names: ``find_groups`` watches a small
pass.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from mis_lib.errors import SettingsError
from mis_lib.generate.cpu import PackedLinear, Threads, can_pack, pack_linears, working_dtype
from mis_lib.generate.decode import decode, shares_images
from mis_lib.models.adapters import ImageLimits
from mis_lib.models.edits import attached, edited
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.settings import GenerationSettings, Quantization

PROBE_SHAPE = (2, 3)  # rows, tokens


class _Update(NamedTuple):
    """The low-rank term of one group for the rows of one batch."""

    skip: int  # leading rows without adapter
    start: int  # first column of ``low`` that is used
    scale_B1R: torch.Tensor
    up_RO: torch.Tensor


class Group:
    """Adapted linear layers that read the same tensor, with all their adapters.

    From now on the layers' weights are views of one stacked weight; PEFT's own forward goes on working until ``pack``.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.sizes = [layer.base_layer.out_features for layer in layers]
        self.width = sum(self.sizes)
        names = dict.fromkeys(name for layer in layers for name in layer.lora_A)
        self.factors = [(name, layer) for name in names for layer in layers if name in layer.lora_A]
        self.product: nn.Module = self._stack()
        self._update: _Update | None = None
        self._hidden: torch.Tensor | None = None
        self._results: Sequence[torch.Tensor] = ()

    def pack(self) -> None:
        """Keep only the stacked weight, in the CPU's layout; the layers' own weights become NaN."""
        self.product = PackedLinear(self.product)  # pyright: ignore[reportArgumentType] - an nn.Linear until packed
        for layer in self.layers:
            base = layer.base_layer
            base.weight = nn.Parameter(base.weight.new_full((), float("nan")).expand(base.weight.shape), False)

    def answer_under(self, adapters: Sequence[str | None]) -> None:
        """Take over from PEFT: row i of every batch to come is answered under ``adapters[i]``."""
        self._update = self._make_update(adapters)
        for number, layer in enumerate(self.layers):
            layer.forward = self._part(number)

    def release(self) -> None:
        """Give the layers back to PEFT and forget the last batch."""
        self._update, self._hidden, self._results = None, None, ()
        for layer in self.layers:
            layer.__dict__.pop("forward", None)

    def _part(self, number: int) -> Callable[..., torch.Tensor]:
        """The forward of one layer: the first one that is given a tensor computes it for all."""

        def forward(hidden_BTI: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if hidden_BTI is not self._hidden:
                self._hidden, self._results = hidden_BTI, self._compute(hidden_BTI)
            result = self._results[number]
            if number == len(self.layers) - 1:
                self._hidden, self._results = None, ()
            return result

        return forward

    def _compute(self, hidden_BTI: torch.Tensor) -> Sequence[torch.Tensor]:
        stacked_BTS = self.product.forward(hidden_BTI)
        result_BTO, low_BTR = stacked_BTS.split_with_sizes([self.width, stacked_BTS.shape[-1] - self.width], -1)
        if self._update is not None:
            skip, start, scale_B1R, up_RO = self._update
            low_BTR = low_BTR[skip:, :, start : start + len(up_RO)] * scale_B1R
            if low_BTR.shape[1] > 1:  # a prompt is no thin matrix
                low_BTR, up_RO = low_BTR.to(result_BTO.dtype), up_RO.to(result_BTO.dtype)
            elif len(low_BTR) == 1:  # one row goes through the same kernel as several, to the same last bit
                low_BTR = low_BTR.expand(2, -1, -1)
            result_BTO[skip:].add_((low_BTR @ up_RO)[: len(result_BTO) - skip])
        return result_BTO.split_with_sizes(self.sizes, -1)

    def _stack(self) -> nn.Linear:
        """One linear layer whose weight is [W of all layers; A of all adapters and layers]."""
        bases = [layer.base_layer for layer in self.layers]
        like = bases[0].weight
        downs = [layer.lora_A[name].weight.to(like.dtype) for name, layer in self.factors]
        weight_SI = torch.cat([*(base.weight for base in bases), *downs]).detach()
        stacked = nn.Linear(*reversed(weight_SI.shape), bias=False, device="meta")
        stacked.weight = nn.Parameter(weight_SI, False)
        if any(base.bias is not None for base in bases):
            zeros = [like.new_zeros(base.out_features) if base.bias is None else base.bias for base in bases]
            bias_S = torch.cat([*zeros, like.new_zeros(len(weight_SI) - sum(self.sizes))]).detach()
            stacked.bias = nn.Parameter(bias_S, False)
        for base, part in zip(bases, weight_SI.split([*self.sizes, sum(map(len, downs))]), strict=False):
            base.weight = nn.Parameter(part, False)
        return stacked

    def _make_update(self, adapters: Sequence[str | None]) -> _Update | None:
        """Factors and scales of the adapters from the first to the last one in use, in the order of the stack."""
        used = [i for i, (name, _) in enumerate(self.factors) if name in adapters]
        if not used:
            return None
        ranks = [layer.r[name] for name, layer in self.factors]
        chosen = range(used[0], used[-1] + 1)
        device = self.layers[0].lora_A[self.factors[0][0]].weight.device
        up_RO = torch.zeros(sum(ranks[i] for i in chosen), self.width, device=device)
        skip = next(i for i, name in enumerate(adapters) if name is not None)
        scale_BR = torch.zeros(len(adapters) - skip, len(up_RO), device=device)
        start = 0
        for i in chosen:
            name, layer = self.factors[i]
            own = slice(start, start + ranks[i])
            column = sum(self.sizes[: self.layers.index(layer)])
            up_RO[own, column : column + layer.base_layer.out_features] = layer.lora_B[name].weight.T
            for row, asked in enumerate(adapters[skip:]):
                scale_BR[row, own] = layer.scaling[name] if asked == name else 0.0
            start = own.stop
        return _Update(skip, sum(ranks[: used[0]]), scale_BR[:, None], up_RO)


def find_groups(network: Any) -> list[Group] | None:
    """The adapted layers of a transformers model if its adapters can be mixed in one batch, else ``None``.

    They can if all are plain LoRA on linear layers, each of which reads ``(rows, T, in)`` once when the model reads
    ``rows`` texts.
    """
    wrappers = [module for module in network.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    if not wrappers:
        return []
    if network.config.is_encoder_decoder or not all(
        isinstance(module, Linear) and _is_plain(module) for module in wrappers
    ):
        return None
    calls = _watch(network, wrappers)
    if {layer for layer, _ in calls} != set(wrappers) or len(calls) != len(wrappers):
        return None
    if any(hidden.shape[:-1] != PROBE_SHAPE for _, hidden in calls):
        return None
    same_input = groupby(calls, key=lambda call: (id(call[1]), call[0].base_layer.weight.dtype))
    return [Group([layer for layer, _ in group]) for _, group in same_input]


@contextmanager
def rows_under(groups: Sequence[Group], adapters: Sequence[str | None]) -> Iterator[None]:
    """While the block lasts, row i of every batch is answered under ``adapters[i]`` (``None``: no adapter)."""
    try:
        for group in groups:
            group.answer_under(adapters)
        yield
    finally:
        for group in groups:
            group.release()


def _is_plain(layer: Any) -> bool:
    """LoRA without variants (DoRA ...), biases, or anything merged, over an ordinary linear layer."""
    factors = [*layer.lora_A.values(), *layer.lora_B.values()]
    plain = all(type(factor) is nn.Linear and factor.bias is None for factor in factors)
    return plain and type(layer.base_layer) is nn.Linear and not layer.lora_variant and not layer.merged


@torch.inference_mode()
def _watch(network: Any, layers: Sequence[Any]) -> list[tuple[Any, torch.Tensor]]:
    """Which layer is given which tensor, call by call, when the model reads two short texts."""
    calls: list[tuple[Any, torch.Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: calls.append((module, args[0]))) for layer in layers]
    try:
        network(input_ids=torch.ones(PROBE_SHAPE, dtype=torch.long, device=network.device))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class Engine:
    """A model in evaluation mode with everything that speeds up its answers.

    Args:
        model: checkpoint with all adapters attached.
        pack: keep the weights only in the layout of the CPU's matrix unit where it has one; the model then belongs to
            the engine.
        mix: answer rows under different adapters in one batch where that can be done; else every row is answered under
            the active one.
    """

    def __init__(self, model: LoadedModel, *, pack: bool = True, mix: bool = True) -> None:
        self.model: Any = model.model
        self.processor: Any = model.processor
        self.network: Any = model.network
        self.groups = find_groups(self.network) if mix else None
        self.threads = Threads() if self.network.device.type == "cpu" else None
        self.packed = pack and not attached(self.network) and can_pack(self.network)  # packed weights cannot be edited
        if self.packed:
            self._pack()

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        adapters: Mapping[str, Path | None],
        device: str,
        dtype: torch.dtype | str | None,
        quantization: Quantization | None = None,
        limits: ImageLimits | None = None,
    ) -> Self:
        """Load checkpoint and adapters; ``dtype`` None: what suits the device. Raises as ``load_model``."""
        dtype = dtype or working_dtype(checkpoint, device)
        return cls(load_model(checkpoint, adapters, device, dtype, quantization, limits))

    @property
    def mixes(self) -> bool:
        """Whether rows of one batch can be answered under different adapters."""
        return self.groups is not None

    @cached_property
    def shares_images(self) -> bool:
        """Whether rows that show the same images can have their features from one encoding (``decode``)."""
        return shares_images(self.network, self.processor)

    @property
    def sees_padding_images(self) -> bool:
        """Whether an answer depends on how many images the other rows of its batch have.

        Where images are read by cross attention, tokens before a row's first image attend to all its places for
        images, those that are empty included (transformers 5.24, ``_prepare_cross_attention_mask`` of Mllama).
        """
        return "cross_attention_mask" in self.processor.model_input_names

    def can_mix(self, adapter: str | None) -> bool:
        """Whether its rows can be in one batch with those of others."""
        return self.mixes and adapter not in attached(self.network)

    def passes(self, adapters: Sequence[str | None]) -> list[list[str | None]]:
        """The adapters that answer in one batch, batch by batch: all that can be mixed, each of the others alone."""
        mixed = [name for name in adapters if self.can_mix(name)]
        return [*([mixed] if mixed else []), *([name] for name in adapters if not self.can_mix(name))]

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters and weight edits that are attached."""
        own = list(self.model.peft_config) if isinstance(self.model, PeftModel) else []
        return [*own, *attached(self.network)]

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
                    f"variant {variant!r}: adapter {adapter!r} is not attached to the model; "
                    f"attached: {', '.join(self.adapters) or 'none'}"
                )

    def mixed(
        self,
        inputs: Any,
        adapters: Sequence[str | None],
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
    ) -> Generator[list[int], Sequence[int] | None, None]:
        """Next token of each row, step by step, row i under ``adapters[i]``; ``send`` the rows to keep (``decode``).

        Args:
            inputs: the processor's output for the rows' prompts, or for every k-th of them, which then stands for k
                rows.
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
    """Answer under one adapter or weight edit, or under none, for as long as the block lasts."""
    wrapped = isinstance(model, PeftModel)
    network = model.get_base_model() if wrapped else model
    edit = attached(network).get(adapter) if adapter is not None else None
    if not wrapped or adapter is None or edit is not None:
        with (
            model.disable_adapter() if wrapped else contextlib.nullcontext(),
            edited(network, edit) if edit is not None else contextlib.nullcontext(),
        ):
            yield
    else:
        model.set_adapter(adapter, inference_mode=True)
        yield
