"""What the tower's own classifier says of a photograph: mini names things whose photographs nobody had to show it.

EfficientNet-Lite0 comes with a classifier of 1,000 photographed things. Two further stages at the end of the tower keep its answer, in ordinary
convolutions of transformers' ``EfficientNetModel``, so that the checkpoint stays one that any program loads:

    two ends (``ends``), each with its top convolution: 1,280 features in their places | 1,280 others, averaged over the picture
             -> the projector's first layer of the former | the classifier's logits and "is it a photograph" from the latter
             -> classes of one name added up; a photograph silences the former, a drawing the names

The projector then starts from there: its first layer passes on what is left of the 576 channels and adds what each name is worth. Drawings are seen
as before, photographs by their names.
"""

import csv
import importlib.resources
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import EfficientNetConfig, EfficientNetModel

from mis_lib.models.ends import side_by_side, widened
from mis_lib.models.tower import SIDE, read_weights, tower_config

CLASSES = 1000
CEILING = 6.0  # where ReLU6 clips
FLOOR, STEEPNESS = 8.0, 0.5  # a class counts from this logit on, so much a unit; in a drawing few do
LOWEST, HIGHEST = -3.0, 9.0
"""The projector's first layer is kept between these; GELU is next to nothing below the lower."""
SCALE = CEILING / (HIGHEST - LOWEST)
SURENESS, SILENCE = 4.0, 4.0
"""From a score of 0 to 1 a drawing turns into a photograph; a drawing silences names that add up to 16."""
PHOTO, DRAWING = CLASSES, CLASSES + 1
"""Channels behind the classes'; then up to a multiple of 8, as transformers rounds."""
SEEN = CLASSES + 8


def photo_classes() -> list[str]:
    """Everyday names of the 1,000 ImageNet classes, by class index."""
    table = importlib.resources.files("mis_lib.models").joinpath("photo_classes.csv").read_text(encoding="utf-8")
    return [row["name"] for row in csv.DictReader(io.StringIO(table))]


def photo_names() -> list[str]:
    """The different ones of ``photo_classes``, sorted: the order of the name channels."""
    return sorted(set(photo_classes()))


def groups() -> torch.Tensor:
    """Which classes bear which name: ones in (names, 1000)."""
    place = {name: at for at, name in enumerate(photo_names())}
    return F.one_hot(torch.tensor([place[name] for name in photo_classes()])).T.float()


class Reader(NamedTuple):
    """What was trained, beside the classifier that came with the tower.

    ``photo`` (1280,) and ``photo_bias`` (1,): the score of being a photograph, from features averaged over a picture. ``worth`` (width, 1 + names):
    what being a photograph, and each name, adds to the projector's first layer.
    """

    photo: torch.Tensor
    photo_bias: torch.Tensor
    worth: torch.Tensor


def classifier(tower_file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (1000, 1280) and bias (1000,) of the tower's classifier."""
    weights = read_weights(tower_file)
    return weights["_fc.weight"].float(), weights["_fc.bias"].float()


def reading_config(width: int) -> EfficientNetConfig:
    """The tower's configuration with the two stages; ``width`` is the projector's."""
    config = widened(tower_config())
    last, features = config.out_channels[-1], config.hidden_size
    config.in_channels = [*config.in_channels, last, width + SEEN]
    config.out_channels = [*config.out_channels, width + SEEN, features]
    config.expand_ratios = [*config.expand_ratios, 2 * features // last, 1]
    config.kernel_sizes = [
        *config.kernel_sizes,
        2 * SIDE - 1,
        1,
    ]  # from every place the wider one reaches the whole picture
    config.strides = [*config.strides, 1, 1]
    config.num_block_repeats = [*config.num_block_repeats, 1, 1]
    return config


@torch.no_grad()
def add_reader(model: Any, tower_file: Path, reader: Reader, drawings: Mapping[str, torch.Tensor]) -> None:
    """Give ``model`` the two ends, the two stages, and its projector what a name is worth, in place.

    Args:
        model: assembled, with the published tower.
        tower_file: the tower's weights with the classifier.
        reader: what photographs are read by.
        drawings: what the end for drawings has of its own.

    Raises:
        RuntimeError: ``reader`` or ``drawings`` does not fit.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    first, names = projector.linear_1, len(photo_names())
    config = reading_config(first.out_features)
    longer = EfficientNetModel(config).to(first.weight.dtype).eval()
    state, old = longer.state_dict(), tower.state_dict()
    state |= side_by_side(old, drawings)
    for name in state:
        if ".squeeze_excite." in name:
            state[name].fill_(30.0 if name.endswith("expand.bias") else 0.0)  # multiplies by one, as in the tower
    _looking_stage(state, (old, old | dict(drawings)), first, *classifier(tower_file), reader)
    _deciding_stage(state, first.out_features, config.hidden_size)
    longer.load_state_dict(state)
    model.model.vision_tower, model.config.vision_config = longer, config
    weight = torch.zeros(first.weight.shape)
    weight[:, : first.out_features] = torch.eye(first.out_features) / SCALE
    weight[:, first.out_features : first.out_features + 1 + names] = reader.worth
    first.weight.copy_(weight)
    first.bias.fill_(LOWEST)


def _looking_stage(
    state: dict[str, Any],
    ends: tuple[dict[str, Any], dict[str, Any]],
    first: torch.nn.Linear,
    weight: torch.Tensor,
    bias: torch.Tensor,
    reader: Reader,
) -> None:
    """Features of a drawing in place and of a photograph averaged, then the projector's first layer of those, logits and photograph's score (twice) of these."""
    published, tuned = ends
    block, features, width = f"encoder.blocks.{_blocks(published)}", first.in_features, first.out_features
    tops = [end["encoder.top_conv.weight"] for end in ends]
    expanding, last = state[f"{block}.expansion.expand_conv.weight"].zero_(), tops[0].shape[1]
    expanding[:features, last:], expanding[features:, :last] = tops[1], tops[0]
    for part in ("weight", "bias", "running_mean", "running_var"):
        norms = [end[f"encoder.top_bn.{part}"] for end in (tuned, published)]
        state[f"{block}.expansion.expand_bn.{part}"] = torch.cat(norms)
    kernel = state[f"{block}.depthwise_conv.depthwise_conv.weight"].zero_()
    kernel[:features, 0, SIDE - 1, SIDE - 1] = 1
    kernel[features:] = 1 / SIDE**2
    _pass(state, f"{block}.depthwise_conv.depthwise_norm")
    mixing = state[f"{block}.projection.project_conv.weight"].zero_()
    mixing[:width, :features, 0, 0] = first.weight
    mixing[width : width + CLASSES, features:, 0, 0] = weight
    mixing[width + PHOTO : width + DRAWING + 1, features:, 0, 0] = reader.photo
    score = reader.photo_bias.float().expand(2)
    spare = torch.zeros(SEEN - CLASSES - 2)
    _pass(state, f"{block}.projection.project_bn", bias=torch.cat([first.bias.float(), bias, score, spare]))


def _deciding_stage(state: dict[str, Any], width: int, channels: int) -> None:
    """Every channel scaled so that ReLU6 clips it where it is to be clipped, then names against drawings and photographs against the first layer."""
    block, names = f"encoder.blocks.{_blocks(state) - 1}", len(photo_names())
    state[f"{block}.depthwise_conv.depthwise_conv.weight"].fill_(1)
    scales = torch.tensor(
        [SCALE] * width + [STEEPNESS] * CLASSES + [SURENESS, -SURENESS] + [0.0] * (SEEN - CLASSES - 2)
    )
    shifts = torch.tensor([-LOWEST * SCALE] * width + [-FLOOR * STEEPNESS] * CLASSES + [0.0, SURENESS])
    shifts = F.pad(shifts, (0, SEEN - CLASSES - 2))
    _pass(state, f"{block}.depthwise_conv.depthwise_norm", weight=scales, bias=shifts)
    adding = state[f"{block}.projection.project_conv.weight"].zero_()[:, :, 0, 0]
    adding[:width, :width] = torch.eye(width)
    adding[:width, width + PHOTO] = -1
    adding[width, width + PHOTO] = 1
    adding[width + 1 : width + 1 + names, width : width + CLASSES] = groups()
    adding[width + 1 : width + 1 + names, width + DRAWING] = -SILENCE
    _pass(state, f"{block}.projection.project_bn")
    state["encoder.top_conv.weight"] = torch.eye(channels)[..., None, None]
    _pass(state, "encoder.top_bn")


def _pass(
    state: dict[str, Any], norm: str, *, weight: torch.Tensor | float = 1.0, bias: torch.Tensor | float = 0.0
) -> None:
    """Make a batch norm scale and shift by these, and nothing else."""
    state[f"{norm}.running_mean"].zero_()
    state[f"{norm}.running_var"].fill_(1 - tower_config().batch_norm_eps)
    state[f"{norm}.weight"].copy_(torch.as_tensor(weight))
    state[f"{norm}.bias"].copy_(torch.as_tensor(bias))


def _blocks(state: dict[str, Any]) -> int:
    return len({name.split(".")[2] for name in state if name.startswith("encoder.blocks.")})
