"""Features instead of pictures: the frozen tower's output for every picture, computed once.

On a CPU the tower and the rendering cost as much as the language model, so each picture is rendered and seen a few
times with different augmentation, and training draws from those. 23 kB a view in bfloat16.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mis_lib.construct.drawings import STYLES as SCENE_STYLES
from mis_lib.construct.drawings import UNSEEN_STYLE, scene
from mis_lib.models.mini.tower import SIDE
from research.mini.assets import BITMAPS, STYLES
from research.mini.loop import TowerBank
from research.mini.pictures import SIZE, STYLE_WEIGHTS, Picture, PictureBank
from research.mini.prototypes import Prototypes

BATCH = 64
FRAMED = frozenset(STYLES) - {*SCENE_STYLES, *BITMAPS}
"""Helper styles whose drawings are by a hand of their own."""
SCENE_SEED = 900_000  # far from the seeds of every data set


class FeatureBank:
    """Looks features up by picture; a picture without a style gets one by lot, one of its augmented views by lot.

    Pictures of kind "prototype" are made by ``prototypes`` when they are asked for.
    """

    def __init__(
        self,
        views: list[Picture],
        table: torch.Tensor,
        device: str,
        prototypes: Prototypes | None = None,
    ) -> None:
        self.table, self.device, self.dice = table, device, random.Random(0)
        self.prototypes = prototypes
        self.rows: dict[Picture, list[int]] = {}
        self.styles: dict[int, list[str]] = {}
        self._enter(views, 0)

    def _enter(self, views: list[Picture], first: int) -> None:
        for row, view in enumerate(views, first):
            self.rows.setdefault(view, []).append(row)
            if view.kind == "drawn" and view.style not in (None, "noto"):
                styles = self.styles.setdefault(view.number, [])
                if view.style not in styles:
                    styles.append(str(view.style))

    def add(self, views: list[Picture], table: torch.Tensor) -> None:
        """Take in more views with their features."""
        self._enter(views, len(self.table))
        self.table = torch.cat([self.table, table.to(self.table.dtype)])

    def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        """Tower features of pictures, (n, 9, 1280); ``augment`` False takes the first view, which is the plain one."""
        return torch.stack([self._one(picture, augment) for picture in pictures]).to(self.device)

    def _one(self, picture: Picture, augment: bool) -> torch.Tensor:
        if picture.kind == "prototype":
            assert self.prototypes is not None
            return self.prototypes.features(picture.number).to(self.table.dtype)
        rows = self.rows[self._with_style(picture)]
        return self.table[self.dice.choice(rows) if augment else rows[0]]

    def _with_style(self, picture: Picture) -> Picture:
        if picture.kind != "drawn" or picture.style is not None:
            return picture
        styles = self.styles[picture.number]
        return picture._replace(style=self.dice.choices(styles, [STYLE_WEIGHTS.get(style, 1.0) for style in styles])[0])


def see(
    bank: TowerBank, pictures: list[Picture], views: int, names: list[str], scenes: int
) -> tuple[list[Picture], torch.Tensor]:
    """What the tower makes of each picture, as (pictures, table of features).

    Drawings in MIS-Mini's styles come as its ``scene`` first, ``scenes`` times (the unseen style once, to be scored
    on); then follow the plain view and ``views`` augmented ones of every picture, and drawings by other hands as often
    as ``scenes`` much as MIS-Mini would show them: of whom there is one drawing of a thing, two views are not enough to
    know it by.
    """
    shown = [picture for picture in pictures if picture.kind == "drawn" and picture.style in SCENE_STYLES]
    listed, parts = scenery(bank, shown, names, scenes)
    for view in range(views + 1):
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            parts.append(bank.features(part, augment=view > 0).to("cpu", torch.bfloat16))
            listed += part
    helpers = [picture for picture in pictures if picture.kind == "drawn" and picture.style in FRAMED]
    for _ in range(scenes):
        for start in range(0, len(helpers), BATCH):
            part = helpers[start : start + BATCH]
            parts.append(bank.framed(part).to("cpu", torch.bfloat16))
            listed += part
    return listed, torch.cat(parts)


def scenery(
    bank: TowerBank, drawings: Sequence[Picture], names: Sequence[str], scenes: int
) -> tuple[list[Picture], list[torch.Tensor]]:
    """What the tower makes of drawings in MIS-Mini's styles as its ``scene``: pictures, and features in parts.

    They are drawn ``scenes`` times, those of the unseen style once, to be scored on.
    """
    shown = [(one, lot) for lot in range(scenes) for one in drawings if not lot or one.style != UNSEEN_STYLE]
    parts = []
    for start in range(0, len(shown), BATCH):
        drawn = [
            scene(names[one.number], str(one.style), seed=SCENE_SEED + lot, size=SIZE)
            for one, lot in shown[start : start + BATCH]
        ]
        parts.append(bank.look(scene_pixels(drawn)).to("cpu", torch.bfloat16))
    return [one for one, _ in shown], parts


def scene_pixels(scenes: Sequence[Image.Image]) -> torch.Tensor:
    """MIS-Mini's pictures as pixels (n, 3, 224, 224) in the tower's normalisation."""
    return (torch.from_numpy(np.stack([np.asarray(one) for one in scenes])).permute(0, 3, 1, 2).float() - 127) / 128


def all_pictures(bank: PictureBank) -> list[Picture]:
    """Every picture of a bank: each concept in each style that draws it, cut-outs, dreams and black."""
    there = (bank.drawings[..., 3].flatten(2).amax(-1) > 0).cpu()
    drawn = [
        Picture("drawn", concept, style)
        for concept in range(len(there))
        for at, style in enumerate(bank.styles)
        if there[concept, at]
    ]
    cutouts = [Picture("cutout", index) for index in range(len(bank.cutouts))]
    return [*drawn, *cutouts, *(Picture("dream", index) for index in range(len(bank.dreams))), Picture("black", 0)]


def save(path: Path, views: list[Picture], table: torch.Tensor) -> None:
    """Write a feature table with the pictures that its rows belong to."""
    torch.save({"views": [tuple(view) for view in views], "table": table}, path)


def load(path: Path, device: str, tower_file: Path | None = None) -> FeatureBank:
    """Read what ``save`` wrote, memory-mapped.

    With the tower's weights a bank of its last features makes prototypes of photographs as well.
    """
    content: dict[str, Any] = torch.load(path, weights_only=True, mmap=True)
    views, table = [Picture(*view) for view in content["views"]], content["table"]
    prototypes = None
    if tower_file is not None and table.shape[1] == SIDE**2:
        prototypes = Prototypes(views, table, tower_file)
    return FeatureBank(views, table, device, prototypes=prototypes)
