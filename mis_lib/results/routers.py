"""Training and measuring routers between a cheap and an expensive judge (``judge.routing``).

It follows SafeRoute (arXiv 2502.12464; train_router.py and eval.py of its authors' repository safe-route). Training
needs responses that both judges have ruled on and whose truth is known, from people or from the expensive judge.

In place of the paper's Bayesian network there is a logistic regression on 64 principal components, with balanced
classes: some hundred cases are too few for its 512 x 512 weights. Rewordings as further training data are left out.

Routers are measured on cases of blocks that they were not trained on. The references are those of the paper: the cheap
judge's doubt (entropy) as it is, with a temperature, and calibrated by the batch (its mean probability); chance; and an
oracle that knows the cheap judge's errors. A temperature changes no order, only how many cases are in doubt. Contextual
calibration is left out: what a guard says of an empty case is not stored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from mis_lib.errors import DataError
from mis_lib.judge.routing import STATE, SURFACE, THRESHOLD, Router, entropy, features_of
from mis_lib.results.stats import Interval, cluster_interval
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.text.thoughts import written

LEAST = 20  # responses to train a router on
COMPONENTS = 64
FOLDS = 5
SEED = 0
STEPS = 10  # of a curve: shares sent to the expensive judge
BUDGET = 20  # percent of the cases sent on, at which a router must pay
CERTAIN = 1e-6  # a probability is taken to be at least so far from 0 and 1, where its logit is none


class Routed(NamedTuple):
    """One response with verdicts of both judges and the truth."""

    sample_id: str
    features: tuple[float, ...]
    """``SURFACE``."""
    cheap: bool | None
    """Whether the cheap judge says unsafe; ``None`` if unscored."""
    expensive: bool | None
    truth: bool
    group: str = ""
    """What the item is not independent of: its block of MIS-Mini; empty where there is none."""
    state: tuple[float, ...] = ()
    """Hidden state of the cheap judge; empty where it shows none."""

    @property
    def pays(self) -> bool:
        """Whether the expensive judge corrects a wrong verdict."""
        return self.cheap != self.truth and self.expensive == self.truth


class Point(NamedTuple):
    """One point of the curve of a router that sends on ``share`` of all cases."""

    router: str
    share: float
    """Percentage of cases sent to the expensive judge."""
    f1: float
    """F1 of "unsafe", in percent."""


class Worth(NamedTuple):
    """What a router is worth on cases that it was not trained on; everything in percent."""

    router: str
    auprc: float
    """Area under precision and recall of the cases that the expensive judge corrects."""
    f1: float
    """F1 of "unsafe" where ``BUDGET`` percent of the cases are sent on."""
    share: float | None = None
    """Percentage of cases that it sends on at ``THRESHOLD``; ``None`` for chance and the oracle."""
    share_f1: float | None = None
    """F1 there."""


class Measured(NamedTuple):
    """Routers on cases that they were not trained on."""

    points: list[Point]
    worths: list[Worth]
    cases: int
    base_rate: float
    """Percentage of the cases that the expensive judge corrects: the AUPRC of chance."""
    rival: str
    """The best reference, which reads no more than the cheap judge's probability, at ``BUDGET``."""
    gains: dict[str, Interval]
    """Of each learned router, F1 less that of the rival at ``BUDGET``, with its 95 % interval by block."""

    @property
    def best(self) -> str:
        """The learned router of the highest AUPRC."""
        return max((one for one in self.worths if one.router in self.gains), key=lambda one: one.auprc).router

    def pays(self, router: str) -> bool:
        """Whether a learned router is better than the rival beyond chance."""
        low = self.gains[router].low
        return low is not None and low > 0


def gather(
    samples: Iterable[Sample],
    responses: Iterable[Response],
    cheap: Iterable[Verdict],
    expensive: Iterable[Verdict],
    truth: Iterable[Verdict],
    states: Mapping[tuple[str, str], tuple[float, ...]] | None = None,
) -> list[Routed]:
    """Responses to harmful items with verdicts of all three, without those of unscored truth.

    ``states`` are hidden states of the cheap judge by sample and variant.
    """
    asked = {sample.id: sample for sample in samples if sample.harmful}
    first, second, true = (_by_response(verdicts) for verdicts in (cheap, expensive, truth))
    rows = []
    for response in responses:
        key = (response.sample_id, response.variant)
        if response.sample_id not in asked or any(key not in known for known in (first, second, true)):
            continue
        if true[key].outcome is Outcome.UNSCORED:
            continue
        text = written(response.thought, response.text, response.finish_reason)
        seen = features_of(asked[key[0]], text, response.finish_reason, first[key].outcome, first[key].score)
        block = str(asked[key[0]].provenance.get("block") or "")
        said = _unsafe(first[key]), _unsafe(second[key]), bool(_unsafe(true[key]))
        rows.append(Routed(key[0], seen, *said, group=block, state=(states or {}).get(key, ())))
    return rows


def train_router(rows: Sequence[Routed], *, reads: str, cheap: str, expensive: str, truth: str) -> Router:
    """Fit a router.

    Args:
        rows: what it is trained on.
        reads: "hidden" states, which every case must have, or the "surface".
        cheap: name of the judge that rules first.
        expensive: name of the other.
        truth: name of the judge whose verdicts are the truth of ``rows``.

    Raises:
        DataError: too few responses, or too few with or without a corrected verdict.
    """
    pays_N = _check(rows)
    mean, scale, weights, bias = _fit(_inputs(rows)[reads], pays_N)
    return Router(
        features=STATE if reads == "hidden" else SURFACE,
        mean=tuple(map(float, mean)),
        scale=tuple(map(float, scale)),
        weights=tuple(map(float, weights)),
        bias=bias,
        trained_on=len(rows),
        cheap=cheap,
        expensive=expensive,
        truth=truth,
    )


def measure(rows: Sequence[Routed]) -> Measured:
    """Every router on the cases of blocks, or else items, that it was not trained on.

    Where the cheap judge gives no probability, that is where its doubt is the same for all cases, there is no entropy.

    Raises:
        DataError: as ``train_router``, or some fold has nothing to learn from.
    """
    pays_N = _check(rows)
    folds = _folds(rows, pays_N)
    learned = {name: _held_out(inputs_NF, pays_N, folds) for name, inputs_NF in _inputs(rows).items()}
    doubts = _doubts(rows, folds)
    spoils_N = np.array([row.cheap == row.truth and row.expensive != row.truth for row in rows])
    scores = {**learned, **doubts, "oracle": 2.0 * pays_N - spoils_N, "random": np.zeros(len(rows))}
    rulings = _Rulings.of(rows)
    budget = round(BUDGET * len(rows) / 100)
    worths = [_worth(name, score_N, pays_N, rulings, budget) for name, score_N in scores.items()]
    rival = max((one for one in worths if one.router in {*doubts, "random"}), key=lambda one: one.f1).router
    steps = [round(step * len(rows) / STEPS) for step in range(STEPS + 1)]
    points = [
        Point(name, 100 * count / len(rows), rulings.f1(_sent(score_N, count)))
        for name, score_N in scores.items()
        if name != "temperature"  # the order of entropy
        for count in steps
    ]
    groups = [_group(row) for row in rows]
    counts = {name: rulings.counts(_sent(scores[name], budget)) for name in (*learned, rival)}
    gains = {
        name: cluster_interval(
            groups,
            lambda weights_RN, one=counts[name]: _percent(weights_RN @ one) - _percent(weights_RN @ counts[rival]),
        )
        for name in learned
    }
    return Measured(points, worths, len(rows), 100 * float(pays_N.mean()), rival, gains)


class _Rulings(NamedTuple):
    """What both judges say of each case, (N,), as numbers; an unscored case counts as an error."""

    truth: np.ndarray
    cheap: np.ndarray
    expensive: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Routed]) -> "_Rulings":
        said = [
            (row.truth, *((not row.truth) if one is None else one for one in (row.cheap, row.expensive)))
            for row in rows
        ]
        return cls(*np.array(said, dtype=float).T)

    def counts(self, sent_N: np.ndarray) -> np.ndarray:
        """Of each case, (N, 2): twice its hits, and unsafe by truth plus unsafe by verdict; F1 is the ratio of sums."""
        said_N = sent_N * self.expensive + (1 - sent_N) * self.cheap
        return np.stack([2 * self.truth * said_N, self.truth + said_N], axis=1)

    def f1(self, sent_N: np.ndarray) -> float:
        """F1 of "unsafe", in percent."""
        return float(_percent(self.counts(sent_N).sum(0)))


def _worth(name: str, score_N: np.ndarray, pays_N: np.ndarray, rulings: _Rulings, budget: int) -> Worth:
    ranked_N = np.where(np.isinf(score_N), np.finfo(float).max, score_N)
    worth = Worth(name, 100 * float(average_precision_score(pays_N, ranked_N)), rulings.f1(_sent(score_N, budget)))
    if name in ("oracle", "random"):
        return worth
    sent_N = (score_N > THRESHOLD).astype(float)
    return worth._replace(share=100 * float(sent_N.mean()), share_f1=rulings.f1(sent_N))


def _sent(score_N: np.ndarray, count: int) -> np.ndarray:
    """Which cases are sent on, (N,): those of the ``count`` highest scores; ties at the cut share what is left."""
    if count == 0:
        return np.zeros(len(score_N))
    cut = np.sort(score_N)[-count]
    above_N, level_N = score_N > cut, score_N == cut
    return above_N + level_N * (count - above_N.sum()) / level_N.sum()


def _check(rows: Sequence[Routed]) -> np.ndarray:
    pays_N = np.array([row.pays for row in rows])
    if len(rows) < LEAST or pays_N.sum() < FOLDS or (~pays_N).sum() < FOLDS:
        raise DataError(
            f"router: expected {LEAST} harmful responses judged by both and by the truth, at least {FOLDS} of them "
            f"with and without gain from the expensive judge; found {len(rows)}, {int(pays_N.sum())} with gain"
        )
    return pays_N


def _inputs(rows: Sequence[Routed]) -> dict[str, np.ndarray]:
    """Hidden states, (N, hidden size), if every case has one, and the surface, (N, features)."""
    states = {"hidden": np.array([row.state for row in rows])} if all(row.state for row in rows) else {}
    return {**states, "surface": np.array([row.features for row in rows])}


def _group(row: Routed) -> str:
    return row.group or row.sample_id


def _folds(rows: Sequence[Routed], pays_N: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out places of each fold; a block, or else an item, is in one fold."""
    groups = [_group(row) for row in rows]
    number = min(FOLDS, len(set(groups)))
    if number < 2:
        raise DataError(f"router: expected items of two blocks or more to hold one out, found {groups[0]!r} alone")
    folds = [
        (train, test)
        for train, test in StratifiedGroupKFold(number).split(pays_N, pays_N, groups)
        if len(test)  # few unequal blocks may leave a fold empty
    ]
    if any(len(set(pays_N[train])) < 2 for train, _ in folds):
        raise DataError("router: expected gain from the expensive judge in two blocks or more, found it in one")
    return folds


def _fit(inputs_NF: np.ndarray, pays_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean, scale, weights (F,) and bias of the linear model that standardising, PCA and regression are together."""
    scaler: Any = StandardScaler().fit(inputs_NF)  # sklearn's attributes have no types
    standard_NF: np.ndarray = scaler.transform(inputs_NF)
    pca: Any = PCA(min(COMPONENTS, *standard_NF.shape), random_state=SEED).fit(standard_NF)
    model: Any = LogisticRegression(class_weight="balanced", max_iter=1_000, random_state=SEED)
    model.fit(pca.transform(standard_NF), pays_N)
    weights_F = model.coef_[0] @ pca.components_
    return scaler.mean_, scaler.scale_, weights_F, float(model.intercept_[0] - weights_F @ pca.mean_)


def _held_out(inputs_NF: np.ndarray, pays_N: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Probability of each case, (N,), from a router that was not trained on its block."""
    found_N = np.zeros(len(pays_N))
    for train, test in folds:
        mean, scale, weights, bias = _fit(inputs_NF[train], pays_N[train])
        found_N[test] = expit((inputs_NF[test] - mean) / scale @ weights + bias)
    return found_N


def _doubts(rows: Sequence[Routed], folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Entropy of the cheap judge's probability, as it is and calibrated on the other folds; none if it gives none."""
    scored_N = np.array([row.cheap is not None for row in rows])
    share_N = np.array([row.features[SURFACE.index("score")] for row in rows])
    if not np.any((share_N > 0) & (share_N < 1) & scored_N):
        return {}
    truth_N = np.array([row.truth for row in rows])
    logit_N = logit(np.clip(share_N, CERTAIN, 1 - CERTAIN))
    tempered_N, centred_N = np.zeros(len(rows)), np.zeros(len(rows))
    for train, test in folds:
        known = train[scored_N[train]]
        tempered_N[test] = expit(logit_N[test] / temperature(logit_N[known], truth_N[known]))
        centred_N[test] = expit(logit_N[test] - logit(np.clip(share_N[known].mean(), CERTAIN, 1 - CERTAIN)))
    shares = {"entropy": share_N, "temperature": tempered_N, "calibrated": centred_N}
    return {
        # what the cheap judge could not score is in doubt most of all
        name: np.where(scored_N, [entropy(float(p)) for p in share_N], np.inf)
        for name, share_N in shares.items()
    }


def temperature(logit_N: np.ndarray, truth_N: np.ndarray) -> float:
    """The temperature by which logits are to be divided so that their probabilities fit the truth best (least loss)."""

    def loss(log_temperature: float) -> float:
        scaled_N = logit_N / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled_N) - truth_N * scaled_N))

    found: Any = minimize_scalar(loss, bounds=(math.log(0.01), math.log(1_000)), method="bounded")
    return math.exp(found.x)


def _percent(counts_X2: np.ndarray) -> np.ndarray:
    """100 times the ratio of the last two numbers, 0 where the second is 0."""
    return 100 * counts_X2[..., 0] / np.maximum(counts_X2[..., 1], 1e-12)


def _unsafe(verdict: Verdict) -> bool | None:
    return None if verdict.outcome is Outcome.UNSCORED else verdict.outcome is Outcome.UNSAFE


def _by_response(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    return {(one.sample_id, one.variant): one for one in verdicts}
