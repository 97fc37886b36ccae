"""PEFT's LoRA layers with a shorter way through them: same factors, same files, same results.

PEFT's ``forward`` looks up adapters, variants, dtypes and dropouts around each of some 200 linear layers, and keeps a float32 copy of every input. On mini
that costs as much as the products; on large models it is memory. Only the layers' ``forward`` is exchanged, and only while this model trains.
"""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F

from mis_lib.train.lora import ADAPTER


def shorten(model: nn.Module) -> int:
    """Exchange the ``forward`` of all plain LoRA layers of a model; returns how many there are."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def restore(model: nn.Module) -> None:
    """Give all layers PEFT's own ``forward`` back."""
    for module in model.modules():
        if isinstance(module, Linear):
            vars(module).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Whether the layer is base + scale B A x and nothing else (no DoRA, bias, embedding, fan-in-fan-out)."""
    base = layer.get_base_layer()
    only = list(layer.lora_A) == [ADAPTER] and not layer.lora_variant and not layer.lora_bias.get(ADAPTER)
    return only and type(base) is nn.Linear and not layer.fan_in_fan_out


def _forward(layer: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Map (..., in) to (..., out)."""
    base = layer.base_layer(hidden)
    if layer.disable_adapters:
        return base
    inner = layer.lora_dropout[ADAPTER](hidden)
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    inner = F.linear(inner, down.to(hidden.dtype)) * layer.scaling[ADAPTER]
    return (
        base.add_(F.linear(inner, up.to(hidden.dtype)))
        if base.dtype == hidden.dtype
        else base + F.linear(inner, up.to(hidden.dtype))
    )
