"""Aligning the projector: make every picture of a concept look, to the language model, like the pictures of it that it can read.

A projector that has been trained on one drawing style maps another style's features somewhere else. The language model costs a thousand times more than
the projector, so this stage leaves it out: the mean projected vector of each picture is pulled to its concept's prototype (the mean over
the styles that are read well) and away from other concepts' (InfoNCE, van den Oord et al., 2018), while pictures of those styles keep
their projection token by token. Minutes on a CPU.
"""

import copy
import random
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.train.miniature.features import FeatureBank
from mis_lib.train.miniature.pictures import Picture

READ_WELL = ("openmoji", "twemoji")
SHARPNESS = 12.0


@torch.no_grad()
def prototypes(projector: nn.Module, bank: FeatureBank, concepts: int) -> torch.Tensor:
    """Mean projected vector of each concept over the styles that are read well, (concepts, width)."""
    result = []
    for index in range(concepts):
        rows = [row for style in READ_WELL for row in bank.rows[Picture("drawn", index, style)]]
        result.append(projector(bank.table[rows].float()).mean((0, 1)))
    return torch.stack(result)


def align(
    projector: nn.Module,
    bank: FeatureBank,
    named: list[tuple[Picture, int]],
    concepts: int,
    *,
    steps: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Train ``projector`` in place.

    Args:
        projector: float32, already trained on the styles that are read well.
        bank: features of all pictures.
        named: (picture, concept) of every picture to pull, those read well among them.
        concepts: number of concepts.
        steps: steps of 96 pictures.
        seed: order of the pictures.

    Returns:
        Losses of the last 50 steps.
    """
    teacher = copy.deepcopy(projector).requires_grad_(False)
    goal = prototypes(teacher, bank, concepts)
    centre = goal.mean(0)
    goal_unit = F.normalize(goal - centre, dim=1)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=5e-4, weight_decay=0.01)
    dice, history = random.Random(seed), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * min(1.0, (step + 1) / 30) * (1 - step / steps)
        part = dice.choices(named, k=96)
        features = bank.features([picture for picture, _ in part], augment=True).float()
        concept = torch.tensor([index for _, index in part])
        projected = projector(features)
        mean = projected.mean(1)
        logits = SHARPNESS * F.normalize(mean - centre, dim=1) @ goal_unit.T
        pull = F.mse_loss(mean, goal[concept]) / goal.var()
        keep = torch.tensor([picture.style in READ_WELL for picture, _ in part])
        with torch.no_grad():
            wanted = teacher(features[keep])
        stay = F.mse_loss(projected[keep], wanted) / wanted.var() if keep.any() else projected.new_zeros(())
        loss = F.cross_entropy(logits, concept) + pull + stay
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((float(loss), float((logits.argmax(1) == concept).float().mean()), float(stay)))
    last = torch.tensor(history[-50:]).mean(0)
    return {"loss": round(float(last[0]), 4), "nearest": round(float(last[1]), 4), "stay": round(float(last[2]), 4)}
