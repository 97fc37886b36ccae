"""The vision tower of mini: EfficientNet-Lite0 with two branches, as transformers' ``EfficientNetModel``.

Lite0 is EfficientNet-B0 without squeeze-excite and with ReLU6. transformers always builds squeeze-excite blocks, so
theirs get weights 0 and an expand bias of 30: sigmoid(30) is 1 in bfloat16, and the block multiplies by one. Inputs are
(x - 127) / 128 at 224 x 224.

Lite0 ends in 7 x 7 features. Here its last depthwise convolution moves by two pixels instead of one, which gives rows
and columns 1, 3 and 5 of those, unchanged: one drawing needs no more, and a prompt of two images is 80 tokens shorter.

The last stages exist twice, with ImageNet weights for photographs and fine-tuned weights for drawings. EfficientNet-
Lite0 has seen photographs only, and its last stages serve line art poorly. They are cheap to tune, but tuned they
forget the thousand classes of its classifier. From the projection of block 5 on, every block is as wide as both
branches together, and no channel of one reaches the other: an ordinary, wider ``EfficientNetModel``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import EfficientNetConfig

from mis_lib.errors import ModelError
from mis_lib.models.mini.wheels import check_hash

BLOCKS = 16
SIDE = 3  # the tower's features are SIDE x SIDE
STRIDES = [1, 2, 2, 2, 1, 2, 2]  # Lite0's own end in 1
FIRST_BRANCH_BLOCK = 5
"""Both branches share this block except its projection, whose output is as wide as both."""
BRANCH_STAGES = 3, 4, 5, 6  # the stages that exist twice
NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def tower_config() -> EfficientNetConfig:
    """Configuration of Lite0 in transformers' terms; ``hidden_size`` is what the projector reads (1280)."""
    config = EfficientNetConfig(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_act="relu6",
        hidden_dim=1280,
        strides=STRIDES,
    )
    config.hidden_size = 1280
    return config


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read Lite0's state dict (296 tensors, classifier ``_fc`` included) without running any code in the file."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_tower(tower: Any, path: Path, digest: str | None) -> None:
    """Fill ``tower`` with Lite0's weights, in place.

    Raises:
        ModelError: the file is not the expected one, or its tensors do not fit.
    """
    if digest:
        check_hash(path, digest)
    source = read_weights(path)
    target = _stem_and_top(source)
    for index in range(BLOCKS):
        target |= _block(source, index)
    for name, value in tower.state_dict().items():
        if ".squeeze_excite." in name:
            target[name] = torch.full_like(value, 30.0 if name.endswith("expand.bias") else 0.0)
    try:
        tower.load_state_dict(target, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{path}: its tensors do not fit EfficientNet-Lite0: {error}") from error


def _norm(source: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {f"{new}.{key}": source[f"{old}.{key}"] for key in NORM_KEYS}


def _stem_and_top(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    convolutions = {
        "embeddings.convolution.weight": source["_conv_stem.weight"],
        "encoder.top_conv.weight": source["_conv_head.weight"],
    }
    return convolutions | _norm(source, "_bn0", "embeddings.batchnorm") | _norm(source, "_bn1", "encoder.top_bn")


def _block(source: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    old, new = f"_blocks.{index}", f"encoder.blocks.{index}"
    tensors: dict[str, torch.Tensor] = {}
    if f"{old}._expand_conv.weight" in source:  # the first block does not expand
        tensors[f"{new}.expansion.expand_conv.weight"] = source[f"{old}._expand_conv.weight"]
        tensors |= _norm(source, f"{old}._bn0", f"{new}.expansion.expand_bn")
    tensors[f"{new}.depthwise_conv.depthwise_conv.weight"] = source[f"{old}._depthwise_conv.weight"]
    tensors |= _norm(source, f"{old}._bn1", f"{new}.depthwise_conv.depthwise_norm")
    tensors[f"{new}.projection.project_conv.weight"] = source[f"{old}._project_conv.weight"]
    return tensors | _norm(source, f"{old}._bn2", f"{new}.projection.project_bn")


def in_branch(name: str) -> bool:
    """Whether a tensor of the tower exists once in each branch, by its name in ``EfficientNetModel``."""
    block = re.match(r"encoder\.blocks\.(\d+)\.(\w+)", name)
    if block is None:
        return name.startswith("encoder.top_")
    return int(block[1]) > FIRST_BRANCH_BLOCK or (int(block[1]) == FIRST_BRANCH_BLOCK and block[2] == "projection")


def two_branch_config(config: EfficientNetConfig) -> EfficientNetConfig:
    """The configuration with both branches, in place: twice the channels in ``BRANCH_STAGES``."""
    config.out_channels = [
        2 * channels if stage in BRANCH_STAGES else channels for stage, channels in enumerate(config.out_channels)
    ]
    config.in_channels = [config.in_channels[0], *config.out_channels[:-1]]
    return config


def join_branches(published: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the wider blocks, published channels first, without the top and blocks that only pass values on.

    Args:
        published: the tower's state dict.
        tuned: tensors of the branch for drawings that differ; the rest is as published.

    Raises:
        RuntimeError: a tensor of ``tuned`` has no counterpart, or another shape.
    """
    for name, value in tuned.items():
        if not in_branch(name) or name not in published or published[name].shape != value.shape:
            raise RuntimeError(f"{name} {tuple(value.shape)} does not belong to the tower's last stages")
    both: dict[str, torch.Tensor] = {}
    for name, value in published.items():
        if ".top_" in name or (in_branch(name) and ".squeeze_excite." in name):
            continue
        other = tuned.get(name, value).to(value.dtype)
        if not in_branch(name) or not value.ndim:  # shared, or a counter
            both[name] = value
        elif name.startswith(f"encoder.blocks.{FIRST_BRANCH_BLOCK}.") or value.ndim == 1 or value.shape[1] == 1:
            both[name] = torch.cat([value, other])
        else:
            both[name] = torch.block_diag(value[..., 0, 0], other[..., 0, 0])[..., None, None]
    return both
