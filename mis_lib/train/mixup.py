"""Unclear images: features of two images mixed, while the answer stays that of the first (mixup, Zhang et al. 2018, with one label).

A model tuned on pictures of a few kinds only ever meets images that say clearly what they show, and never learns what to do with one that does not.
Mixed images are unclear. What is mixed in looks like the image half of the time, since such things are what it will be taken for. The embedded model
names the things that it was trained on better for it in a style that it never saw. That it would tell what is unclear by what goes with
the other image was hoped for and is not seen.
"""

import random
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from mis_lib.errors import SettingsError
from mis_lib.train.encode import Place
from mis_lib.train.features import FeatureCache

ALIKE, OFTEN = 96, 0.5  # how many images look like one, and the share of mixtures with one of these
CHUNK = 1024  # images compared in one go


class Mixer:
    """Mixes images of rows with other images of the data, of which all are drawn alike, however many rows show them.

    Args:
        cache: holds the features of all images.
        places: the rows of the data.
        most: share of the other image at most; the square of an even lot makes most shares small, so that clear images stay frequent.

    Raises:
        SettingsError: no two images have features of the same shape (models with tiles or grids, images of different sizes).
    """

    def __init__(self, cache: FeatureCache, places: Sequence[Place], most: float) -> None:
        self.cache, self.most = cache, most
        images = cache.different(places)
        self.number = {digest: number for number, digest in enumerate(images)}
        self.images = list(images.values())
        means, shapes = [], []
        for image in self.images:
            features = cache.image(*image)
            means.append(features.float().flatten(0, -2).mean(0))
            shapes.append(features.shape)
        by_shape: dict[torch.Size, list[int]] = {}
        for at, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(at)
        self.same_shape = [by_shape[shape] for shape in shapes]
        if all(len(same) < 2 for same in by_shape.values()):
            raise SettingsError(
                f"image_mixup: expected images whose features have the same shape, found {len(shapes)} of different shapes; "
                "bring the images to one size, or leave it out"
            )
        alike = most_alike(torch.stack(means))
        self.alike = [[at for at in found if shapes[at] == shape] for found, shape in zip(alike, shapes, strict=True)]

    def features(self, place: Place, dice: random.Random) -> tuple[torch.Tensor, ...]:
        """A row's features, mixed anew by every ``dice``."""
        return tuple(self._mixed(place, name, dice) for name in place.sample.images)

    def _mixed(self, place: Place, name: str, dice: random.Random) -> torch.Tensor:
        number = self.number[self.cache.digest(place, name)]
        alike = self.alike[number]
        other = dice.choice(alike if alike and dice.random() < OFTEN else self.same_shape[number])
        return torch.lerp(
            self.cache.image(place, name), self.cache.image(*self.images[other]), self.most * dice.random() ** 2
        )


def most_alike(means: torch.Tensor) -> list[list[int]]:
    """For each of n images, by its mean feature (n, width), the others that look most like it, at most ``ALIKE``."""
    units = F.normalize(means - means.mean(0), dim=1)
    found: list[list[int]] = []
    for start in range(0, len(units), CHUNK):
        likeness = units[start : start + CHUNK] @ units.T
        rows = torch.arange(len(likeness))
        likeness[rows, start + rows] = -torch.inf  # itself
        found += likeness.topk(min(ALIKE, len(units) - 1)).indices.tolist()
    return found
