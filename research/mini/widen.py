"""Widening what the projector knows a thing by.

Every style and view of it is pulled to where its plain drawings lie already.

The language model takes no part and needs no new training, since the places stay: the mean projection of a thing in
MIS-Mini's two styles of training. Views are made stranger on the way: two of one thing blended, moved towards another
style's mean and spread (adaptive instance normalisation, Huang and Belongie 2017), channels dropped. The unseen style
takes no part.
"""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from research.mini.aims import Aims, Goals, Views, views_by_style
from research.mini.features import FeatureBank
from research.mini.pictures import STYLE_WEIGHTS

BATCH, KEPT = 192, 64  # views a step, and how many plain drawings beside them keep their old projection
BLENDED, RESTYLED, DROPPED = (
    0.5,
    0.7,
    0.2,
)  # share of blended views; at most how far to another style; at most how many channels
SAMPLE = 800  # views that a style's mean and spread are taken from
FAINTEST = 0.02  # spread of a channel that a style hardly uses


def last_losses(history: list[torch.Tensor]) -> dict[str, float]:
    """Means over the last 100 steps of the losses of widening and tuning, (3,) each, by name."""
    last = torch.stack(history[-100:]).mean(0)
    return {key: round(float(value), 4) for key, value in zip(("told_apart", "pull", "kept"), last, strict=True)}


def widen(projector: nn.Module, aims: Aims, bank: FeatureBank, *, steps: int, lr: float, seed: int) -> dict[str, float]:
    """Train ``projector`` (float32) in place.

    Args:
        projector: as trained with the language model, or any; what of it needs no gradient stays.
        aims: where things lie, and what plain drawings are projected to.
        bank: features of all pictures.
        steps: steps of ``BATCH`` views.
        lr: falls to nothing in a straight line.
        seed: makes the run repeatable.

    Returns:
        Mean losses of the last 100 steps.
    """
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    views = views_by_style(bank)
    goals = Goals(aims.places)
    looks = {style: _look(bank, rows, dice) for style, rows in views.items()}
    fitted = [value for value in projector.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(fitted, lr=lr, weight_decay=0.02)
    history = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        things = [dice.randrange(len(goals.places)) for _ in range(BATCH)]
        shown = [two_views(views, thing, dice) for thing in things]
        plain = bank.table[[row for row, _, _ in shown]].float()
        other = bank.table[[row for _, row, _ in shown]].float()
        strange = _estrange(plain, other, [style for _, _, style in shown], looks, dice, generator)
        told_apart, pull = goals.losses(projector(strange).mean(1), torch.tensor(things))
        known = dice.sample(range(len(aims.rows)), min(KEPT, len(aims.rows)))
        wanted = aims.kept[known]
        kept = F.mse_loss(projector(bank.table[[aims.rows[at] for at in known]].float()), wanted) / wanted.var()
        loss = told_apart + 0.5 * pull + kept
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(torch.stack([told_apart, pull, kept]).detach())
        if step % 200 == 199:
            print({"step": step + 1, **last_losses(history)}, flush=True)
    return last_losses(history)


def two_views(views: Views, thing: int, dice: random.Random) -> tuple[int, int, str]:
    """Rows of two views of a thing, in styles drawn by lot, and the first one's style."""
    styles = [style for style in views if thing in views[style]]
    first, second = dice.choices(styles, [STYLE_WEIGHTS.get(style, 1.0) for style in styles], k=2)
    return dice.choice(views[first][thing]), dice.choice(views[second][thing]), first


def _look(bank: FeatureBank, rows: Mapping[int, list[int]], dice: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread (1280,) of a style's features."""
    every = [row for found in rows.values() for row in found]
    sample = bank.table[dice.sample(every, min(SAMPLE, len(every)))].float().flatten(0, 1)
    return sample.mean(0), sample.std(0) + FAINTEST


def _estrange(
    plain: torch.Tensor,
    other: torch.Tensor,
    styles: Sequence[str],
    looks: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    dice: random.Random,
    generator: torch.Generator,
) -> torch.Tensor:
    """Blend, restyle and thin out features (n, 9, 1280)."""

    def lots(width: int = 1) -> torch.Tensor:
        return torch.rand(len(plain), 1, width, generator=generator)

    share = torch.where(lots() < BLENDED, lots(), 1.0)
    blended = share * plain + (1 - share) * other
    mean, spread = (torch.stack(parts)[:, None] for parts in zip(*(looks[style] for style in styles), strict=True))
    aims = dice.choices(list(looks), k=len(plain))
    new_mean, new_spread = (torch.stack(parts)[:, None] for parts in zip(*(looks[aim] for aim in aims), strict=True))
    far = RESTYLED * lots()
    restyled = (1 - far) * blended + far * ((blended - mean) / spread * new_spread + new_mean)
    gone = DROPPED * lots()
    return restyled.clamp(0, 6) * (lots(plain.shape[2]) > gone) / (1 - gone)
