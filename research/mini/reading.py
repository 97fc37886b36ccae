"""Training what mini needs to name photographs by the tower's classifier (``mis_lib.models.mini.photo_classifier``).

Two small things are fitted. Whether a picture is a photograph: a logistic regression over the tower's features, cut-out
photographs against drawings. What a name is worth: what its channel must add to the projector's first layer so that the
projector gives what the language model reads that name from (``align.codebook``); where the classifier wavers, the
names' codes weighed by its probabilities. Both without the language model, which then has the last word on the second:
``NamesBank`` and ``NamesProjector`` stand before it where pictures and projector stand otherwise.
"""

import random
from collections.abc import Iterable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from mis_lib.construct.drawings import UNSEEN_STYLE
from mis_lib.models.mini.photo_classifier import (
    CEILING,
    FLOOR,
    GAIN,
    LOWEST,
    MIDDLE,
    SILENCE,
    SPREAD,
    STEEPNESS,
    SURENESS,
    groups,
)
from mis_lib.models.mini.tower import SIDE
from research.mini.align import SHARPNESS, Codebook
from research.mini.features import FeatureBank
from research.mini.pictures import SIZE, Picture

BATCH = 256
REGULARISATION = 0.001  # scikit-learn's C: 1,280 features and a few hundred photographs
CONTRAST = 0.7, 1.4  # logits are scaled by lot: photographs are surer than what there is to train on
SCORES = 0.75, 2.5  # of photographs
STRENGTHS = 0.5, CEILING  # of a name's channel where no other is open
SHARPER = 8.0  # names' averages become probabilities by a softmax of so much of them
SURE = 0.5  # of that probability: from here on the first name must be the one that is read


def fit_photo(
    bank: FeatureBank, photographs: Iterable[Picture], blanks: torch.Tensor, *, drawings: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score of being a photograph, (1280,) and (1,).

    ``photographs`` against ``drawings`` views drawn by lot, the unseen style left out, and against blanks.

    Args:
        bank: features of all pictures.
        photographs: pictures of it that are some.
        blanks: features of pictures without anything, (n, 9, 1280).
        drawings: so many views.
        seed: of the lot.
    """
    dice = random.Random(seed)
    drawn = [
        row for view, rows in bank.rows.items() if view.kind == "drawn" and view.style != UNSEEN_STYLE for row in rows
    ]
    photos = [row for picture in photographs for row in bank.rows[picture]]
    chosen = dice.sample(drawn, min(drawings, len(drawn)))
    pooled = torch.cat([blanks.float(), bank.table[chosen + photos].float()]).mean(1).numpy()
    truth = np.repeat([0, 1], [len(blanks) + len(chosen), len(photos)])
    found = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500).fit(pooled, truth)
    return torch.tensor(found.coef_[0], dtype=torch.float32), torch.tensor(found.intercept_, dtype=torch.float32)


def blank_pictures(number: int, seed: int) -> torch.Tensor:
    """Pictures of one colour each, (n, 3, 224, 224) in the tower's normalisation.

    ``number`` grey ones from black to white, as many in colours drawn by lot.
    """
    grey = torch.linspace(0, 255, number)[:, None].expand(-1, 3)
    coloured = 255 * torch.rand(number, 3, generator=torch.Generator().manual_seed(seed))
    return ((torch.cat([grey, coloured]) - 127) / 128)[..., None, None].expand(-1, -1, SIZE, SIZE)


def name_averages(logits: torch.Tensor) -> torch.Tensor:
    """How sure each name is on average over the places: (n, names) from logits (n, places, 1000)."""
    return ((STEEPNESS * (logits - FLOOR)).clamp(0, CEILING) @ groups().T).mean(1)


def mean_score(scores: torch.Tensor) -> torch.Tensor:
    """The score of being a photograph (n,), from that of each place (n, places)."""
    return ((MIDDLE + SPREAD * scores).clamp(0, CEILING).mean(1) - MIDDLE) / SPREAD


def channels(averages: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """What the tower's last stage makes of names' averages and scores (n,): how much a photograph, how much each name.

    (n, 1 + names), 0 to 6.
    """
    photo = (SURENESS * score).clamp(0, CEILING)[:, None]
    silence = SILENCE * (SURENESS * (1 - score)).clamp(0, CEILING)[:, None]
    return torch.cat([photo, ((GAIN * averages).clamp(0, CEILING) - silence).clamp(0, CEILING)], 1)


def read(second: nn.Linear, worth: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """What the projector makes of a photograph: (n, 576) from channels (n, 1 + names)."""
    return second(F.gelu(LOWEST + F.linear(seen, worth)))


def train_worth(
    second: nn.Linear, logits: torch.Tensor, codes: torch.Tensor, *, steps: int, lr: float, seed: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Find what each name is worth.

    Args:
        second: the projector's second layer (float32), which stays as it is.
        logits: the classifier's in each place, (n, places, 1000), of whatever pictures there are.
        codes: where each name is read, (names, 576), in the order of ``photo_names``.
        steps: steps of ``BATCH`` pictures and as many names alone.
        lr: falls to nothing in a straight line.
        seed: makes the run repeatable.

    Returns:
        ``worth`` (576, 1 + names), and mean losses of the last 100 steps.
    """
    generator = torch.Generator().manual_seed(seed)
    names = len(codes)
    worth = torch.zeros(second.in_features, 1 + names)
    worth[:, 0] = -LOWEST / CEILING  # a sure photograph starts where GELU has a slope
    worth.requires_grad_(True)
    centre, spread = codes.mean(0), codes.var(0).mean()
    units = F.normalize(codes - centre, dim=1)
    optimizer = torch.optim.AdamW([worth], lr=lr, weight_decay=0.0)
    history = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        lots = torch.randint(len(logits), (BATCH,), generator=generator)
        contrast = torch.empty(BATCH, 1, 1).uniform_(*CONTRAST, generator=generator)
        averages = name_averages(contrast * logits[lots].float())
        score = torch.empty(2 * BATCH).uniform_(*SCORES, generator=generator)
        alone = torch.randint(names, (BATCH,), generator=generator)
        strength = torch.empty(BATCH, 1).uniform_(*STRENGTHS, generator=generator)
        one = F.one_hot(alone, names).float()
        seen = channels(averages, score[:BATCH])
        only = torch.cat([(SURENESS * score[BATCH:, None]).clamp(max=CEILING), strength * one], 1)
        told = torch.cat([(SHARPER * averages).softmax(1), one])
        given = read(second, worth, torch.cat([seen, only]))
        sure, name = told.max(1)
        apart = F.cross_entropy(SHARPNESS * F.normalize(given - centre, dim=1) @ units.T, name, reduction="none")
        wavering = torch.cat([seen[:, 1:].amax(1) > 0, torch.ones(BATCH, dtype=torch.bool)]) & (sure > SURE)
        told_apart = apart[wavering].mean()
        pull = F.mse_loss(given[sure > SURE], (told @ codes)[sure > SURE]) / spread
        loss = told_apart + 0.5 * pull
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([float(told_apart.detach()), float(pull.detach())])
    last = torch.tensor(history[-100:]).mean(0)
    return worth.detach(), {"told_apart": round(float(last[0]), 4), "pull": round(float(last[1]), 4)}


def codes_of(book: Codebook, names: list[str]) -> torch.Tensor:
    """Codes in the order of ``names``."""
    place = {name: at for at, name in enumerate(book.names)}
    return book.codes[[place[name] for name in names]]


class NamesProjector(nn.Module):
    """Stands in for the projector where there are only photographs.

    Channels (n, places, 1 + names) -> (n, places, 576).

    ``worth`` (576, 1 + names) is trained, ``second`` stays as it is.
    """

    def __init__(self, second: nn.Linear, worth: torch.Tensor) -> None:
        super().__init__()
        self.second = second.requires_grad_(False)
        self.worth = nn.Parameter(worth.clone())

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """What the language model is given."""
        return read(self.second, self.worth, seen)


class NamesBank:
    """Gives, for photographs, the channels of the tower's last stage: the same in all places.

    Pictures of kind "name" are one name's channel alone. ``augment`` draws contrast and score by lot.

    Args:
        bank: features of the published end.
        head: weight and bias of the tower's classifier.
        photo: weight and bias of the score of being a photograph.
        seed: of the lots.
    """

    def __init__(
        self,
        bank: FeatureBank,
        head: tuple[torch.Tensor, torch.Tensor],
        photo: tuple[torch.Tensor, torch.Tensor],
        seed: int,
    ) -> None:
        self.bank, self.head, self.photo, self.device = bank, head, photo, "cpu"
        self.generator, self.names = torch.Generator().manual_seed(seed), len(groups())

    @torch.no_grad()
    def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        """Channels of pictures, (n, 9, 1 + names)."""
        seen = torch.stack([self._one(picture, augment) for picture in pictures])
        return seen[:, None].expand(-1, SIDE**2, -1)

    def _one(self, picture: Picture, augment: bool) -> torch.Tensor:
        score = self._lot(SCORES)
        if picture.kind == "name":
            alone = F.one_hot(torch.tensor(picture.number), self.names) * self._lot(STRENGTHS)
            return torch.cat([(SURENESS * score).clamp(max=CEILING), alone])
        looks = self.bank.features([picture], augment=augment).float()
        logits = F.linear(looks, *self.head)
        if augment:
            logits = logits * self._lot(CONTRAST)
        else:
            score = mean_score(looks @ self.photo[0] + self.photo[1])
        return channels(name_averages(logits), score)[0]

    def _lot(self, between: tuple[float, float]) -> torch.Tensor:
        return torch.empty(1).uniform_(*between, generator=self.generator)
