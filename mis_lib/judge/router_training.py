"""How a router is trained, and what it is worth: F1 of "unsafe" against the share of cases that it sends on.

It is trained on responses that both judges have ruled on and whose truth is known (from people, or the expensive judge itself taken as truth). ``curve``
shows it beside three others: an oracle that knows where the cheap judge errs (the bound), chance, and the cheap judge's own doubt (entropy).
"""

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mis_lib.errors import DataError
from mis_lib.judge.routing import FEATURES, Router, features_of
from mis_lib.schema import Outcome, Response, Sample, Verdict

LEAST = 20  # responses, and at least this many make a router worth training
FOLDS = 5
SEED = 0
STEPS, DRAWS = 10, 20  # of a curve: shares that go to the expensive judge, and orders at random


class Routed(NamedTuple):
    """One response that both judges ruled on and whose truth is known."""

    sample_id: str
    features: tuple[float, ...]
    cheap: bool | None
    """Unsafe, as the cheap judge says; ``None``: unscored."""
    expensive: bool | None
    truth: bool

    @property
    def pays(self) -> bool:
        """Whether asking the expensive judge turns a wrong verdict into a right one."""
        return self.cheap != self.truth and self.expensive == self.truth


class Point(NamedTuple):
    """One point of the curve: a router that sends on ``share`` of all cases, and what the verdicts are then worth."""

    router: str
    share: float
    """Of cases that the expensive judge is asked about, in percent."""
    f1: float
    """Of "unsafe", in percent."""


def gather(
    samples: Iterable[Sample],
    responses: Iterable[Response],
    cheap: Iterable[Verdict],
    expensive: Iterable[Verdict],
    truth: Iterable[Verdict],
) -> list[Routed]:
    """The harmful responses that all three have ruled on, the truth not unscored."""
    asked = {sample.id: sample for sample in samples if sample.harmful}
    first, second, true = (_by_response(verdicts) for verdicts in (cheap, expensive, truth))
    rows = []
    for response in responses:
        key = (response.sample_id, response.variant)
        if response.sample_id not in asked or any(key not in known for known in (first, second, true)):
            continue
        if true[key].outcome is Outcome.UNSCORED:
            continue
        seen = features_of(asked[key[0]], response.text, response.finish_reason, first[key].outcome, first[key].score)
        rows.append(Routed(key[0], seen, _unsafe(first[key]), _unsafe(second[key]), bool(_unsafe(true[key]))))
    return rows


def train_router(rows: Sequence[Routed], *, cheap: str, expensive: str, truth: str) -> Router:
    """Fit a router.

    Raises:
        DataError: too few responses, or asking the expensive judge pays nowhere or everywhere.
    """
    pays = _check(rows)
    pipeline = _pipeline().fit(np.array([row.features for row in rows]), pays)
    scaler: Any = pipeline[0]
    model: Any = pipeline[-1]
    return Router(
        features=FEATURES,
        mean=tuple(map(float, scaler.mean_)),
        scale=tuple(map(float, scaler.scale_)),
        weights=tuple(map(float, model.coef_[0])),
        bias=float(model.intercept_[0]),
        trained_on=len(rows),
        cheap=cheap,
        expensive=expensive,
        truth=truth,
    )


def curve(rows: Sequence[Routed]) -> list[Point]:
    """F1 against cost of four routers; the learned one is tested on items that it was not trained on (cross-validation by item).

    Raises:
        DataError: as ``train_router``.
    """
    pays = _check(rows)
    dice = random.Random(SEED)
    orders: dict[str, list[list[float]]] = {
        "learned": [list(map(float, _held_out(rows, pays)))],
        "entropy": [[math.inf if row.cheap is None else row.features[0] for row in rows]],
        "oracle": [[2.0 * row.pays - (row.cheap == row.truth and row.expensive != row.truth) for row in rows]],
        "random": [[dice.random() for _ in rows] for _ in range(DRAWS)],
    }
    return [
        Point(
            name,
            100 * round(step * len(rows) / STEPS) / len(rows),
            _mean_f1(rows, rankings, round(step * len(rows) / STEPS)),
        )
        for name, rankings in orders.items()
        for step in range(STEPS + 1)
    ]


def _check(rows: Sequence[Routed]) -> np.ndarray:
    pays = np.array([row.pays for row in rows])
    if len(rows) < LEAST or pays.sum() < FOLDS or (~pays).sum() < FOLDS:
        raise DataError(
            f"router: expected {LEAST} harmful responses judged by both and by the truth, at least {FOLDS} of them with and without gain from the "
            f"expensive judge; found {len(rows)}, {int(pays.sum())} with gain"
        )
    return pays


def _held_out(rows: Sequence[Routed], pays: np.ndarray) -> np.ndarray:
    """Probabilities for each response from a router that has seen no response to its item."""
    groups = [row.sample_id for row in rows]
    folds = GroupKFold(min(FOLDS, len(set(groups))))
    features = np.array([row.features for row in rows])
    odds: Any = cross_val_predict(_pipeline(), features, pays, groups=groups, cv=folds, method="predict_proba")
    return odds[:, 1]


def _pipeline() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", random_state=SEED))


def _mean_f1(rows: Sequence[Routed], rankings: Sequence[Sequence[float]], sent: int) -> float:
    scores, none_found = [], 0.0
    score: Any = f1_score  # its stub takes no number for zero_division
    for ranking in rankings:
        chosen = set(sorted(range(len(rows)), key=lambda i: (-ranking[i], i))[:sent])
        said = [row.expensive if i in chosen else row.cheap for i, row in enumerate(rows)]
        # what is unscored is neither: it counts against whoever could not rule
        guesses = [(not row.truth) if one is None else one for row, one in zip(rows, said, strict=True)]
        scores.append(score([row.truth for row in rows], guesses, zero_division=none_found))
    return 100 * float(np.mean(scores))


def _unsafe(verdict: Verdict) -> bool | None:
    return None if verdict.outcome is Outcome.UNSCORED else verdict.outcome is Outcome.UNSAFE


def _by_response(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    return {(one.sample_id, one.variant): one for one in verdicts}
