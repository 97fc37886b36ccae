"""Photographs without photographs, the cheap way: what the tower would say of one, made from the classifier's weights.

Were the tower's features of every class normal with one covariance S, the best linear classifier's weight of class c
would be S^-1 (mean of c - mean of all); so S times the weight points from the mean of all pictures to the mean of the
class (linear discriminant analysis). A prototype lays that direction on a blob of the 3 x 3 features of some other
picture, just strongly enough that the classifier believes in the class. 20 ms on one core, where a dream (``dream``)
takes 3 s; both are used.
"""

import random
from pathlib import Path

import torch

from mis_lib.models.mini.tower import SIDE, read_weights
from research.mini.pictures import Picture

SHRINKAGE = 0.1
SAMPLE = 5000  # pictures that the covariance is taken from
GROWTH, STEPS = 1.22, 24
BRIGHTNESS = 0.2  # mean feature of the pictures that were seen


class Prototypes:
    """Makes features of photographs of a class.

    Args:
        views: pictures that were seen.
        table: their features (views, 9, 1280).
        tower_file: the tower's weights with the classifier.
    """

    def __init__(self, views: list[Picture], table: torch.Tensor, tower_file: Path) -> None:
        weights = read_weights(tower_file)
        self.weight, self.bias = weights["_fc.weight"].float(), weights["_fc.bias"].float()
        self.table, self.dice = table, random.Random(0)
        self.ground = [row for row, view in enumerate(views) if view.kind in ("cutout", "dream")]
        seen = [row for row, view in enumerate(views) if view.style != "noto"]
        chosen = self.dice.sample(seen, min(SAMPLE, len(seen)))
        pooled = torch.stack([table[row].float().mean(0) for row in chosen])
        self.mean = pooled.mean(0)
        centred = pooled - self.mean
        covariance = centred.T @ centred / len(centred)
        self.spread = covariance.diag().sqrt()
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * torch.diag(covariance.diag())
        self.directions = torch.nn.functional.normalize(self.weight @ covariance, dim=1)
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        self.places = torch.stack([rows.flatten(), columns.flatten()], 1).float()

    @torch.no_grad()
    def features(self, number: int) -> torch.Tensor:
        """Features (9, 1280) of a picture that the classifier takes for class ``number``.

        Its probability is drawn by lot.
        """
        ground = self.table[self.dice.choice(self.ground)].float() * self.dice.uniform(0.3, 1.0)
        ground = ground + (1 - self.dice.uniform(0.3, 1.0)) * 0.5 * self.mean
        noise = 0.25 * torch.randn(len(self.mean)) * self.spread / self.spread.norm()
        added = self._blob() * (self.directions[number] + noise)
        wanted, strength = self.dice.uniform(0.25, 0.9), 2.0
        result = ground
        for _ in range(STEPS):
            result = (ground + strength * added).clamp(0, 6)  # the range of the tower's last activation
            if float((self.weight @ result.mean(0) + self.bias).softmax(0)[number]) > wanted:
                break
            strength *= GROWTH
        return result * (BRIGHTNESS / result.mean()).clamp(max=1).sqrt()

    def _blob(self) -> torch.Tensor:
        centre = torch.tensor([self.dice.uniform(0.25, 1.75), self.dice.uniform(0.25, 1.75)])
        width = self.dice.uniform(0.6, 1.4)
        blob = torch.exp(-(self.places - centre).square().sum(1) / (2 * width**2))
        return blob[:, None] * (0.7 + 0.6 * torch.rand(SIDE * SIDE, 1))
