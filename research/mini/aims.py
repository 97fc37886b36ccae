"""Where drawings are to be projected to.

Widening the projector and tuning the tower's end aim at places that the language model reads already.

A thing's place is the mean projection of its plain drawings in MIS-Mini's two styles of training, and those drawings
are to keep their projections. Either comes from the eyes that are trained on or, where mini gets another tower, from
the model with the old one (``write_goals``): the language model then reads what the new eyes see without having been
trained with them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.construct.drawings import TRAINED_STYLES, UNSEEN_STYLE, scene
from mis_lib.errors import SettingsError
from research.mini.align import SHARPNESS
from research.mini.features import BATCH, SCENE_SEED, FeatureBank, load, save, scene_pixels
from research.mini.pictures import SIZE, Picture

LOTS = 2  # plain drawings of a thing in each style
PART = 128  # drawings looked at in one go

Views = Mapping[str, Mapping[int, list[int]]]
"""Rows of the feature table by style and thing."""


class Aims(NamedTuple):
    """What is aimed at.

    ``places`` (things, width): where each thing lies. ``rows``: where its plain drawings stand in the feature table.
    ``kept`` (rows, places, width): what each of them is projected to.
    """

    places: torch.Tensor
    rows: list[int]
    kept: torch.Tensor


class Goals:
    """Where each thing is to lie, and how far what is projected is from there.

    Args:
        places: (things, width).
    """

    def __init__(self, places: torch.Tensor) -> None:
        self.places, self.centre, self.spread = places, places.mean(0), places.var(0).mean()
        self.units = F.normalize(places - self.centre, dim=1)

    def losses(self, mean: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How badly mean projections (n, width) of the things ``truth`` (n,) are told apart by direction.

        And how far off they are.
        """
        told_apart = F.cross_entropy(SHARPNESS * F.normalize(mean - self.centre, dim=1) @ self.units.T, truth)
        return told_apart, F.mse_loss(mean, self.places[truth]) / self.spread


def views_by_style(bank: FeatureBank) -> dict[str, dict[int, list[int]]]:
    """Which rows show which thing in which style, the unseen one left out."""
    found: dict[str, dict[int, list[int]]] = {}
    for picture, rows in bank.rows.items():
        if picture.kind == "drawn" and picture.style not in (None, UNSEEN_STYLE):
            found.setdefault(str(picture.style), {})[picture.number] = rows
    return found


@torch.no_grad()
def aims_of(eyes: nn.Module, bank: FeatureBank) -> Aims:
    """What eyes (features -> projections) make of the plain drawings in ``bank``."""
    plain = _plain(bank)
    rows = [row for found in plain.values() for row in found]
    kept = torch.cat([eyes(bank.table[rows[at : at + PART]].float()) for at in range(0, len(rows), PART)])
    return _aims(plain, kept)


def aims_from(path: Path, bank: FeatureBank) -> Aims:
    """What another model makes of the same drawings, from ``write_goals``' file.

    Raises:
        SettingsError: the file lacks a drawing that the bank has.
    """
    goals, plain, kept = load(path, "cpu"), _plain(bank), []
    for picture, found in plain.items():
        known = goals.rows.get(picture, [])
        if len(known) < len(found):
            raise SettingsError(
                f"{path}: expected {len(found)} projections of thing {picture.number} in {picture.style}, found "
                f"{len(known)}; "
                "make it with the step `goals` and the same --work"
            )
        kept += known[: len(found)]
    return _aims(plain, goals.table[kept].float())


@torch.no_grad()
def write_goals(model: Any, names: list[str], path: Path) -> int:
    """Write what ``model``, a whole mini, projects the plain drawings of ``names`` to; and tell how many they are."""
    views, parts = [], []
    for style in TRAINED_STYLES:
        for lot in range(LOTS):
            for start in range(0, len(names), BATCH):
                part = range(start, min(start + BATCH, len(names)))
                drawn = [scene(names[number], style, seed=SCENE_SEED + lot, size=SIZE) for number in part]
                pixels = scene_pixels(drawn).to(model.dtype)
                parts.append(model.model.get_image_features(pixels).pooler_output.bfloat16())
                views += [Picture("drawn", number, style) for number in part]
    save(path, views, torch.cat(parts))
    return len(views)


def _plain(bank: FeatureBank) -> dict[Picture, list[int]]:
    """Rows of each thing's plain drawings in MIS-Mini's styles of training, which come first among its views."""
    drawn = (picture for picture in bank.rows if picture.kind == "drawn" and picture.style in TRAINED_STYLES)
    order = sorted(drawn, key=lambda picture: (TRAINED_STYLES.index(str(picture.style)), picture.number))
    return {picture: bank.rows[picture][:LOTS] for picture in order}


def _aims(plain: Mapping[Picture, list[int]], kept: torch.Tensor) -> Aims:
    """``kept``, and the mean of it over each thing's drawings."""
    rows = [row for found in plain.values() for row in found]
    things = torch.tensor([picture.number for picture, found in plain.items() for _ in found], device=kept.device)
    number = things.bincount()
    means = kept.new_zeros(len(number), kept.shape[2]).index_add_(0, things, kept.mean(1))
    return Aims(means / number[:, None], rows, kept)
