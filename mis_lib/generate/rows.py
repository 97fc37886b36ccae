"""Several adapters in one batch: row i is answered under the i-th adapter, or by the checkpoint itself.

PEFT can mix adapters in a batch (``adapter_names``), at the price of a Python loop over the adapters in each of some 200 layers, which for a
small model costs more than the products. Here the factors of the adapters in use are stacked once before an answer, and a layer is

    base(x) + (x A * s) B        x (rows, T, in), A (in, R), s (rows, 1, R), B (R, out), R the sum of the ranks

where ``s`` holds an adapter's scaling in its own rows and zero in all others: two products, whatever the number of adapters, the same sum as
PEFT's. The low-rank term is computed in float32, which is as fast at this size and loses nothing.

Not every adapter can be mixed (DoRA, saved modules, layers that see something else than rows of text, such as those of a vision tower). Whether a model
can is not guessed from names: ``mixable_layers`` watches one small pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn import functional as F

PROBE_SHAPE = (2, 3)  # rows, tokens


def mixable_layers(network: Any) -> list[Linear] | None:
    """The adapted layers of a transformers model if its adapters can answer side by side in one batch, else ``None``.

    They can if all are plain LoRA on layers that read ``(rows, T, in)`` when the model reads ``rows`` texts.
    """
    wrappers = [module for module in network.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    layers = [module for module in wrappers if isinstance(module, Linear) and _is_plain(module)]
    if len(layers) < len(wrappers) or (wrappers and network.config.is_encoder_decoder):
        return None
    shapes = _watch(network, layers) if layers else []
    return layers if all(shape == PROBE_SHAPE for shape in shapes) else None


@contextmanager
def rows_under(layers: Sequence[Linear], adapters: Sequence[str | None]) -> Iterator[None]:
    """For as long as the block lasts, row i of every batch is answered under ``adapters[i]`` (``None``: by no adapter)."""
    try:
        for layer in layers:
            layer.forward = _forward(layer, adapters)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: Any, adapters: Sequence[str | None]) -> Any:
    """The forward of one layer for rows under these adapters."""
    base = layer.base_layer
    used = [name for name in dict.fromkeys(adapters) if name in layer.lora_A]
    if not used:
        return lambda hidden, *args, **kwargs: base(hidden, *args, **kwargs)
    down_RI = torch.cat([layer.lora_A[name].weight for name in used]).float()
    up_OR = torch.cat([layer.lora_B[name].weight for name in used], dim=1).float()
    scale_B1R = torch.cat([_scales(layer, name, adapters) for name in used], dim=-1).to(down_RI.device)

    def forward(hidden_BTI: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result_BTO = base(hidden_BTI, *args, **kwargs)
        low_BTR = F.linear(hidden_BTI.float(), down_RI).mul_(scale_B1R)
        return result_BTO.add_(F.linear(low_BTR, up_OR))

    return forward


def _scales(layer: Any, name: str, adapters: Sequence[str | None]) -> torch.Tensor:
    """Scaling of one adapter for each row, zero in the rows of others: (rows, 1, rank)."""
    scales = torch.tensor([layer.scaling[name] if row == name else 0.0 for row in adapters])
    return scales[:, None, None].expand(-1, 1, layer.r[name])


def _is_plain(layer: Any) -> bool:
    """LoRA without variants (DoRA ...), biases, or anything merged into the base weight."""
    factors = [*layer.lora_A.values(), *layer.lora_B.values()]
    return not layer.lora_variant and not layer.merged and all(type(f) is nn.Linear and f.bias is None for f in factors)


@torch.inference_mode()
def _watch(network: Any, layers: Sequence[Linear]) -> list[tuple[int, ...]]:
    """First two dimensions of what each layer is given when the model reads two short texts; () for one that is not asked."""
    seen: dict[Linear, tuple[int, ...]] = dict.fromkeys(layers, ())
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: seen.update({module: tuple(args[0].shape[:2])}))
        for layer in layers
    ]
    try:
        network(input_ids=torch.ones(PROBE_SHAPE, dtype=torch.long, device=network.device))
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.values())
