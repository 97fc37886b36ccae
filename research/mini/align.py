"""Aligning the projector without the language model.

A picture of a thing comes to lie where the language model reads the thing's name.

The language model costs far more than the projector, so this step leaves it out. Every picture is pulled to the sum of
its name's token embeddings, earlier tokens weighing more. The language model has an idea of such a sum untaught, since
it has met the parts, and what it then learns about one name may help with others. Photographs are the cut-outs and
features made from the classifier's weights (``prototypes``).
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from research.mini.features import FeatureBank
from research.mini.pictures import STYLE_WEIGHTS, Picture

TOKEN_WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.2)  # of a name's tokens in order; the last one holds for all that follow
SHARPNESS = 14.0
BATCH = 128
PROTOTYPES = 4000  # made once; a quarter of each batch
CUTOUT_WEIGHT = 6.0


class Codebook(NamedTuple):
    """Names and the vectors (names, width) that the language model reads them from; drawn things come first."""

    names: list[str]
    codes: torch.Tensor


@torch.no_grad()
def codebook(model: Any, tokenizer: Any, drawn: Sequence[str], others: Sequence[str]) -> Codebook:
    """Codes of all names, from their token embeddings."""
    embedding = model.get_input_embeddings().weight.float()
    names, codes = list(dict.fromkeys([*drawn, *others])), []
    for name in names:
        tokens = tokenizer(f" {name}", add_special_tokens=False).input_ids
        weights = [TOKEN_WEIGHTS[min(place, len(TOKEN_WEIGHTS) - 1)] for place in range(len(tokens))]
        codes.append(torch.tensor(weights) @ embedding[tokens])
    return Codebook(names, torch.stack(codes))


def align(
    projector: nn.Module,
    bank: FeatureBank,
    book: Codebook,
    photos: Mapping[str, list[Picture]],
    *,
    classes: Sequence[str],
    steps: int,
    lr: float,
    seed: int,
) -> dict[str, float]:
    """Train ``projector`` (float32) in place.

    Args:
        projector: any; one that knows the pictures already learns faster.
        bank: features of all pictures, with prototypes.
        book: where each name is to lie.
        photos: cut-out photographs by name.
        classes: name of each class of the tower's classifier.
        steps: steps of ``BATCH`` pictures.
        lr: falls to nothing in a straight line.
        seed: makes the run repeatable.

    Returns:
        Mean losses of the last 100 steps.
    """
    dice, place = random.Random(seed), {name: at for at, name in enumerate(book.names)}
    drawn = [view for view in bank.rows if view.kind == "drawn" and view.style != "noto"]
    named = [(view, view.number) for view in drawn]
    named += [(picture, place[name]) for name, pictures in photos.items() for picture in pictures]
    weights = [STYLE_WEIGHTS.get(str(view.style), 1.0) if view.kind == "drawn" else CUTOUT_WEIGHT for view, _ in named]
    made = [number % len(classes) for number in range(PROTOTYPES)]
    prototypes = torch.stack([bank.features([Picture("prototype", number)], augment=True)[0] for number in made])
    centre = book.codes.mean(0)
    goal_unit, spread = F.normalize(book.codes - centre, dim=1), (book.codes - centre).var()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=lr, weight_decay=0.02)
    history = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        part = dice.choices(named, weights, k=BATCH * 3 // 4)
        lots = [dice.randrange(PROTOTYPES) for _ in range(BATCH - len(part))]
        features = torch.cat([bank.features([picture for picture, _ in part], augment=True), prototypes[lots]])
        name = torch.tensor([at for _, at in part] + [place[classes[made[lot]]] for lot in lots])
        projected = projector(features.float())
        mean = projected.mean(1)
        told_apart = F.cross_entropy(SHARPNESS * F.normalize(mean - centre, dim=1) @ goal_unit.T, name)
        pull = F.mse_loss(mean, book.codes[name]) / spread
        each = F.mse_loss(projected, book.codes[name][:, None].expand_as(projected)) / spread
        loss = told_apart + 0.5 * pull + 0.3 * each
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([float(told_apart.detach()), float(pull.detach()), float(each.detach())])
        if step % 500 == 499:
            print({"step": step + 1, "losses": torch.tensor(history[-100:]).mean(0).tolist()}, flush=True)
    last = torch.tensor(history[-100:]).mean(0)
    return {key: round(float(value), 4) for key, value in zip(("told_apart", "pull", "each"), last, strict=True)}


@torch.no_grad()
def nearest(projector: nn.Module, bank: FeatureBank, book: Codebook, pictures: Sequence[tuple[Picture, str]]) -> float:
    """Share of pictures whose mean projection lies nearest to their own name's code."""
    centre = book.codes.mean(0)
    units = F.normalize(book.codes - centre, dim=1)
    right = 0
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        mean = projector(bank.features([picture for picture, _ in part], augment=False).float()).mean(1)
        found = (F.normalize(mean - centre, dim=1) @ units.T).argmax(1).tolist()
        right += sum(book.names[at] == name for at, (_, name) in zip(found, part, strict=True))
    return right / len(pictures)
