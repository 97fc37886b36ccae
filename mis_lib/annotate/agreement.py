"""How far people agree with each other on outcomes: Cohen's kappa for each two, Krippendorff's alpha for all of them.

Both are nominal and corrected for chance. They use the responses that both people have labelled; "cannot tell" is a
missing value, never an outcome. An adjudication is no vote. Alpha's interval resamples responses. If nothing varies, as
when everyone agrees on everything, there is no interval: a few equal labels would look like certainty.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import krippendorff
import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa

from mis_lib.annotate.decisions import CurrentLabels
from mis_lib.results.stats import Rate, rate
from mis_lib.schema import Outcome, Record

REPEATS = 1000


class Coefficient(Record):
    """A coefficient of agreement with its 95 % interval on ``n`` responses.

    ``value`` is None if undefined (one outcome only, or no response), the bounds are None if nothing varies.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int

    def __str__(self) -> str:
        """As tables show it: "0.61 [0.40, 0.82]", "1.00 (no interval)", or "-" where it is not defined."""
        if self.value is None:
            return "-"
        bounds = "(no interval)" if self.low is None or self.high is None else f"[{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f} {bounds}"


class PairAgreement(Record):
    """How far two people agree."""

    first: str
    second: str
    share: Rate
    kappa: Coefficient


class TeamAgreement(Record):
    """How far all people agree, and what they do not agree on."""

    authors: dict[str, int]
    """Responses labelled by each person."""
    pairs: list[PairAgreement]
    alpha: Coefficient
    disputed: list[tuple[str, str, str]]
    """Run, sample and variant."""
    adjudicated: int


def team_agreement(standing: CurrentLabels) -> TeamAgreement:
    """Agreement on all current labels."""
    given = {key: standing.outcomes(key) for key in standing.keys}
    authors = {name: sum(name in outcomes for outcomes in given.values()) for name in standing.authors}
    pairs = [_pair(first, second, list(given.values())) for first, second in itertools.combinations(authors, 2)]
    return TeamAgreement(
        authors=authors,
        pairs=[pair for pair in pairs if pair.share.n],
        alpha=alpha_of(list(given.values())),
        disputed=[key[:3] for key in given if standing.is_disputed(key)],
        adjudicated=sum(standing.adjudicated(key) is not None for key in given),
    )


def _pair(first: str, second: str, given: Sequence[dict[str, Outcome]]) -> PairAgreement:
    both = [(outcomes[first], outcomes[second]) for outcomes in given if first in outcomes and second in outcomes]
    share = rate(sum(a is b for a, b in both), len(both))
    return PairAgreement(first=first, second=second, share=share, kappa=_kappa(both))


def _kappa(both: Sequence[tuple[Outcome, Outcome]]) -> Coefficient:
    used = sorted({outcome for pair in both for outcome in pair})
    if len(used) < 2:  # all of one outcome: chance alone would agree as well
        return Coefficient(value=None, n=len(both))
    table = np.zeros((len(used), len(used)))
    for a, b in both:
        table[used.index(a), used.index(b)] += 1
    with np.errstate(invalid="ignore"):
        found: Any = cohens_kappa(table)
    low, high = np.clip([found.kappa_low, found.kappa_upp], -1, 1)
    return _bounded(float(found.kappa), float(low), float(high), len(both))


def alpha_of(given: Sequence[dict[str, Outcome]]) -> Coefficient:
    """Krippendorff's alpha with a percentile interval over resampled responses; of each response who said what."""
    shared = [list(outcomes.values()) for outcomes in given if len(outcomes) > 1]
    counts = np.array([[said.count(outcome) for outcome in Outcome] for said in shared])
    if not shared or np.count_nonzero(counts.sum(axis=0)) < 2:
        return Coefficient(value=None, n=len(shared))
    value = float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
    dice = np.random.default_rng(0)
    draws = (np.bincount(dice.integers(len(shared), size=len(shared)), minlength=len(shared)) for _ in range(REPEATS))
    low, high = np.percentile(_alphas(counts, draws), [2.5, 97.5])
    return _bounded(value, float(low), float(high), len(shared))


def _bounded(value: float, low: float, high: float, n: int) -> Coefficient:
    """Without bounds where they are but a point, or (of a few labels) cannot be computed."""
    varies = high - low > 1e-9  # less is rounding
    return Coefficient(value=value, low=low if varies else None, high=high if varies else None, n=n)


def _alphas(counts: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
    """Alpha of each draw, but for those in which all is equal.

    The library takes a minute for a thousand draws of 20,000 responses; this is the same for nominal data.

    Args:
        counts: (responses, outcomes) how many people gave each; two or more in each row.
        draws: (responses,) how often each response was drawn.
    """
    people = counts.sum(axis=1)
    differing = (people**2 - (counts**2).sum(axis=1)) / (people - 1)
    found = []
    for drawn in draws:
        totals = drawn @ counts
        n = totals.sum()
        expected = (n**2 - (totals**2).sum()) / (n - 1)
        if expected:
            found.append(float(1 - drawn @ differing / expected))
    return found
