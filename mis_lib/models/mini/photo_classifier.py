"""The tower's ImageNet classifier as further stages: mini names photographed things that are not in its training data.

EfficientNet-Lite0 comes with a classifier of 1,000 photographed things. Three further stages at the end of the tower
keep its answer, in ordinary convolutions of transformers' ``EfficientNetModel``, so that any program loads the
checkpoint. Left are the features of the branch for drawings, right those of the branch for photographs (``tower``):

    both branches, each with its top convolution:  1,280 features | 1,280 features, at each place
    -> the projector's first layer                               | the classifier's logits, the score of a photograph
    -> unchanged                                                 | sums over the classes of one name that are certain
    -> averaged over the picture: a photograph silences the left, a drawing the names on the right

A thing that fills one place is named as well as one that fills the picture, since only what is certain somewhere
counts. The projector's first layer passes on what is left of the 576 channels and adds what was learnt for each name.
Drawings are seen as before, photographs by their names.
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

from mis_lib.models.mini.tower import SIDE, join_branches, read_weights, tower_config, two_branch_config

CLASSES = 1000
CEILING = 6.0  # where ReLU6 clips
FLOOR, STEEPNESS = 10.0, 0.25  # a class counts from this logit on, so much a unit, in each place
SHARED = 0.5  # of n classes with one name each counts n**-SHARED: 118 kinds of dog would outweigh the one rocket
GAIN = 3.0  # of a name's average over the places
LOWEST, HIGHEST = -3.0, 9.0
"""The projector's first layer is clipped to these; GELU is almost zero below the lower."""
SCALE = CEILING / (HIGHEST - LOWEST)
MIDDLE, SPREAD = CEILING / 2, 0.25
"""A place's score of 0 becomes the first, a unit of it the second: scores up to 12 are kept."""
SURENESS, SILENCE = 4.0, 4.0
"""From a score of 0 to 1 a drawing turns into a photograph; a drawing silences names that add up to 16."""
SEEN = CLASSES + 8
"""Channels after the first layer's: the classes', the score, and up to a multiple of 8, as transformers rounds."""


def photo_classes() -> list[str]:
    """Everyday names of the 1,000 ImageNet classes, by class index."""
    table = importlib.resources.files("mis_lib.models.mini").joinpath("photo_classes.csv").read_text(encoding="utf-8")
    return [row["name"] for row in csv.DictReader(io.StringIO(table))]


def photo_names() -> list[str]:
    """The different ones of ``photo_classes``, sorted: the order of the name channels."""
    return sorted(set(photo_classes()))


def groups() -> torch.Tensor:
    """Weight of each class for its name: (names, 1000)."""
    place = {name: at for at, name in enumerate(photo_names())}
    bears = F.one_hot(torch.tensor([place[name] for name in photo_classes()])).T.float()
    return bears * bears.sum(1, keepdim=True) ** -SHARED


def named() -> int:
    """Channels after the first layer's once there are names: the score twice, the names, up to a multiple of 8."""
    return -(-(2 + len(photo_names())) // 8) * 8


class PhotoClassifier(NamedTuple):
    """What was trained, in addition to the classifier that came with the tower.

    ``photo`` (1280,) and ``photo_bias`` (1,): the score of being a photograph, from features averaged over a picture.
    ``worth`` (width, 1 + names): what being a photograph, and each name, adds to the projector's first layer.
    """

    photo: torch.Tensor
    photo_bias: torch.Tensor
    worth: torch.Tensor


def classifier(tower_file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (1000, 1280) and bias (1000,) of the tower's classifier."""
    weights = read_weights(tower_file)
    return weights["_fc.weight"].float(), weights["_fc.bias"].float()


def reading_config(width: int) -> EfficientNetConfig:
    """The tower's configuration with the three stages; ``width`` is the projector's."""
    config = two_branch_config(tower_config())
    last, features = config.out_channels[-1], config.hidden_size
    config.in_channels = [*config.in_channels, last, width + SEEN, width + named()]
    config.out_channels = [*config.out_channels, width + SEEN, width + named(), features]
    config.expand_ratios = [*config.expand_ratios, 2 * features // last, 1, 1]
    reach = 2 * SIDE - 1  # from every place to the whole picture
    config.kernel_sizes = [*config.kernel_sizes, 1, 1, reach]
    config.strides = [*config.strides, 1, 1, 1]
    config.num_block_repeats = [*config.num_block_repeats, 1, 1, 1]
    return config


@torch.no_grad()
def add_photo_classifier(
    model: Any, tower_file: Path, trained: PhotoClassifier, drawings: Mapping[str, torch.Tensor]
) -> None:
    """Give ``model`` the two branches and the three stages, and its projector what each name adds, in place.

    Args:
        model: assembled, with the published tower.
        tower_file: the tower's weights with the classifier.
        trained: what was trained for photographs.
        drawings: tensors of the branch for drawings.

    Raises:
        RuntimeError: ``trained`` or ``drawings`` does not fit.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    first, names = projector.linear_1, len(photo_names())
    config = reading_config(first.out_features)
    longer = EfficientNetModel(config).to(first.weight.dtype).eval()
    state, old = longer.state_dict(), tower.state_dict()
    state |= join_branches(old, drawings)
    for name in state:
        if ".squeeze_excite." in name:
            state[name].fill_(30.0 if name.endswith("expand.bias") else 0.0)  # multiplies by one, as in the tower
    _looking_stage(state, (old, old | dict(drawings)), first, *classifier(tower_file), trained)
    _naming_stage(state, first.out_features)
    _deciding_stage(state, first.out_features, config.hidden_size)
    longer.load_state_dict(state)
    model.model.vision_tower, model.config.vision_config = longer, config
    weight = torch.zeros(first.weight.shape)
    weight[:, : first.out_features] = torch.eye(first.out_features) / SCALE
    weight[:, first.out_features : first.out_features + 1 + names] = trained.worth
    first.weight.copy_(weight)
    first.bias.fill_(LOWEST)


def _looking_stage(
    state: dict[str, Any],
    branches: tuple[dict[str, Any], dict[str, Any]],
    first: torch.nn.Linear,
    weight: torch.Tensor,
    bias: torch.Tensor,
    trained: PhotoClassifier,
) -> None:
    """At each place: the projector's first layer on the left; logits and the score of a photograph on the right."""
    published, tuned = branches
    block, features, width = f"encoder.blocks.{_blocks(published)}", first.in_features, first.out_features
    tops = [branch["encoder.top_conv.weight"] for branch in branches]
    expanding, last = state[f"{block}.expansion.expand_conv.weight"].zero_(), tops[0].shape[1]
    expanding[:features, last:], expanding[features:, :last] = tops[1], tops[0]
    for part in ("weight", "bias", "running_mean", "running_var"):
        norms = [branch[f"encoder.top_bn.{part}"] for branch in (tuned, published)]
        state[f"{block}.expansion.expand_bn.{part}"] = torch.cat(norms)
    state[f"{block}.depthwise_conv.depthwise_conv.weight"].fill_(1)
    _pass(state, f"{block}.depthwise_conv.depthwise_norm")
    mixing = state[f"{block}.projection.project_conv.weight"].zero_()
    mixing[:width, :features, 0, 0] = first.weight
    mixing[width : width + CLASSES, features:, 0, 0] = weight
    mixing[width + CLASSES, features:, 0, 0] = trained.photo
    spare = torch.zeros(SEEN - CLASSES - 1)
    biases = torch.cat([first.bias.float(), bias, trained.photo_bias.float(), spare])
    _pass(state, f"{block}.projection.project_bn", bias=biases)


def _naming_stage(state: dict[str, Any], width: int) -> None:
    """Channels scaled for ReLU6 to clip; then, at each place, sums over the classes of a name, and the score twice."""
    block, names = f"encoder.blocks.{_blocks(state) - 2}", len(photo_names())
    state[f"{block}.depthwise_conv.depthwise_conv.weight"].fill_(1)
    spare = [0.0] * (SEEN - CLASSES - 1)
    scales = torch.tensor([SCALE] * width + [STEEPNESS] * CLASSES + [SPREAD, *spare])
    shifts = torch.tensor([-LOWEST * SCALE] * width + [-FLOOR * STEEPNESS] * CLASSES + [MIDDLE, *spare])
    _pass(state, f"{block}.depthwise_conv.depthwise_norm", weight=scales, bias=shifts)
    adding = state[f"{block}.projection.project_conv.weight"].zero_()[:, :, 0, 0]
    adding[:width, :width] = torch.eye(width)
    adding[width : width + 2, width + CLASSES] = 1
    adding[width + 2 : width + 2 + names, width : width + CLASSES] = groups()
    _pass(state, f"{block}.projection.project_bn")


def _deciding_stage(state: dict[str, Any], width: int, channels: int) -> None:
    """Scores and names averaged over the picture; then drawings silence names, photographs the first layer."""
    block, names, behind = f"encoder.blocks.{_blocks(state) - 1}", len(photo_names()), named()
    kernel = state[f"{block}.depthwise_conv.depthwise_conv.weight"].zero_()
    kernel[:width, 0, SIDE - 1, SIDE - 1] = 1
    kernel[width:] = 1 / SIDE**2
    spare, unit = [0.0] * (behind - 2 - names), SURENESS / SPREAD
    scales = torch.tensor([1.0] * width + [unit, -unit] + [GAIN] * names + spare)
    shifts = torch.tensor([0.0] * width + [-MIDDLE * unit, MIDDLE * unit + SURENESS] + [0.0] * names + spare)
    _pass(state, f"{block}.depthwise_conv.depthwise_norm", weight=scales, bias=shifts)
    photo, drawing = width, width + 1
    deciding = state[f"{block}.projection.project_conv.weight"].zero_()[:, :, 0, 0]
    deciding[:width, :width] = torch.eye(width)
    deciding[:width, photo] = -1
    deciding[width, photo] = 1
    deciding[width + 1 : width + 1 + names, width + 2 : width + 2 + names] = torch.eye(names)
    deciding[width + 1 : width + 1 + names, drawing] = -SILENCE
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
