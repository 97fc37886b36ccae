"""Low-rank updates (LoRA, Hu et al. 2021) without PEFT's wrappers, merged into the checkpoint when it is built.

On a model of this size PEFT's dtype casts, dropouts and dictionaries around each of the 210 linear layers cost as much
as the products.
"""

import math
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from mis_lib.models.mini.assemble import PROJECTOR_FILE, UPDATE_FILE

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGET_PATTERN = r".*language_model.*\.(" + "|".join(TARGETS) + ")"


class LowRankLinear(nn.Module):
    """A frozen linear layer (out x in) plus a trainable update of rank ``rank``; stands in for ``nn.Linear``."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = linear.weight, scale
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        inner = F.linear(hidden, (self.lora_A * self.scale).to(hidden.dtype))
        return F.linear(hidden, self.weight) + F.linear(inner, self.lora_B.to(hidden.dtype))


def add_low_rank(model: nn.Module, rank: int, alpha: float) -> dict[str, LowRankLinear]:
    """Replace every decoder linear by a ``LowRankLinear``, in place; returns them by module name."""
    layers: dict[str, LowRankLinear] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and re.fullmatch(TARGET_PATTERN, name):
            layers[name] = LowRankLinear(module, rank, alpha / rank)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layers[name])
    return layers


def save_base(folder: Path, layers: dict[str, LowRankLinear], projector: nn.Module) -> None:
    """Write what ``models.mini.merge_base`` reads.

    ``projector.safetensors`` and ``update.safetensors`` (factors and scale).
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: _shipped(value) for name, value in projector.state_dict().items()}, folder / PROJECTOR_FILE)
    state = {"scale": torch.tensor(next(iter(layers.values())).scale)}
    for name, layer in layers.items():
        state[f"{name}.lora_A"], state[f"{name}.lora_B"] = _shipped(layer.lora_A), _shipped(layer.lora_B)
    save_file(state, folder / UPDATE_FILE)


def _shipped(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
