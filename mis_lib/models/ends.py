"""One tower with two ends: the published one, which knows photographs, and one that was tuned to drawings.

EfficientNet-Lite0 has seen photographs only, and what its last stages make of line art is poor. They are cheap to tune, but tuned they forget the
thousand classes that its classifier knows. So mini has both: from the projection of block 5 on, every block is as wide as the two
together, and no channel of one reaches the other. What comes out is an ordinary, wider ``EfficientNetModel``.
"""

import re
from collections.abc import Mapping

import torch
from transformers import EfficientNetConfig

FIRST = 5
"""Both ends share this block but for its projection, by which it comes to be as wide as both."""
STAGES = 3, 4, 5, 6  # the stages that have two ends


def in_end(name: str) -> bool:
    """Whether a tensor of the tower belongs to its end, by its name in ``EfficientNetModel``."""
    block = re.match(r"encoder\.blocks\.(\d+)\.(\w+)", name)
    if block is None:
        return name.startswith("encoder.top_")
    return int(block[1]) > FIRST or (int(block[1]) == FIRST and block[2] == "projection")


def widened(config: EfficientNetConfig) -> EfficientNetConfig:
    """The configuration with both ends, in place: channels from the first of ``STAGES`` on are twice as many."""
    config.out_channels = [
        2 * channels if stage in STAGES else channels for stage, channels in enumerate(config.out_channels)
    ]
    config.in_channels = [config.in_channels[0], *config.out_channels[:-1]]
    return config


def side_by_side(published: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the wider blocks, published channels first; the top, and what only passes values on, is left out.

    Args:
        published: the tower's state dict.
        tuned: what the other end has of its own; the rest is as published.

    Raises:
        RuntimeError: a tensor of ``tuned`` has no counterpart, or another shape.
    """
    for name, value in tuned.items():
        if not in_end(name) or name not in published or published[name].shape != value.shape:
            raise RuntimeError(f"{name} {tuple(value.shape)} does not belong to the tower's end")
    both: dict[str, torch.Tensor] = {}
    for name, value in published.items():
        if ".top_" in name or (in_end(name) and ".squeeze_excite." in name):
            continue
        other = tuned.get(name, value).to(value.dtype)
        if not in_end(name) or not value.ndim:  # shared, or a counter
            both[name] = value
        elif name.startswith(f"encoder.blocks.{FIRST}.") or value.ndim == 1 or value.shape[1] == 1:
            both[name] = torch.cat([value, other])
        else:
            both[name] = torch.block_diag(value[..., 0, 0], other[..., 0, 0])[..., None, None]
    return both
