"""Statistics: shares in percent that travel with denominator and interval, and tests of paired differences.

Wilson's interval and not the normal one, because safety rates sit near 0 and 100 and on few items, where the normal
interval collapses to a point or leaves the scale (0 of 100 is 0 to 3.7 %, not 0 to 0 %).

Two variants answer the same items, so they are compared item by item: McNemar's exact test asks whether as many items
went one way as the other; the bootstrap draws clusters (all items about the same images), because such items succeed
and fail together and an interval that takes them for independent is too narrow.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from statsmodels.stats.proportion import proportion_confint

from mis_lib.errors import SettingsError
from mis_lib.schema import Record

LEVEL = 0.95
RESAMPLES = 2_000


class Rate(Record):
    """A share of ``n`` scored items in percent with its Wilson interval; ``value`` is ``None`` if nothing was scored.

    ``n_unscored`` items are counted separately and are in neither numerator nor denominator.
    """

    value: float | None
    n: int
    low: float
    high: float
    n_unscored: int = 0

    @property
    def hits(self) -> int:
        """The numerator."""
        return round(self.n * (self.value or 0) / 100)

    @property
    def worst(self) -> tuple[float, float]:
        """Between what the share of *all* items can lie, in percent: every unscored item a miss, or every one a hit.

        ``value`` is that of the parsed items alone; a judge that fails on hard items moves it, but not these bounds.
        """
        total = self.n + self.n_unscored
        return (0.0, 100.0) if total == 0 else (100 * self.hits / total, 100 * (self.hits + self.n_unscored) / total)

    def __str__(self) -> str:
        """As tables show it: "8.3 [2.9, 21.8]", or "-" where nothing was scored."""
        return "-" if self.value is None else f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def rate(hits: int, n: int, n_unscored: int = 0) -> Rate:
    """The rate of ``hits`` among ``n`` scored items.

    Raises:
        SettingsError: ``hits`` is not between 0 and ``n``, or ``n_unscored`` below 0.
    """
    if not 0 <= hits <= n or n_unscored < 0:
        raise SettingsError(f"expected 0 <= hits <= n and n_unscored >= 0, found {hits} of {n}, {n_unscored} unscored")
    if n == 0:
        return Rate(value=None, n=0, low=0.0, high=100.0, n_unscored=n_unscored)
    bounds: Any = proportion_confint(hits, n, alpha=1 - LEVEL, method="wilson")
    low, high = (100 * float(bound) for bound in bounds)
    return Rate(
        value=100 * hits / n,
        n=n,
        low=low if hits else 0.0,  # rounding leaves a speck of 1e-15 at the ends
        high=high if hits < n else 100.0,
        n_unscored=n_unscored,
    )


def rate_of(outcomes: Iterable[bool | None]) -> Rate:
    """The rate of ``True`` among the scored; ``None`` is an unscored item."""
    found = list(outcomes)
    scored = [outcome for outcome in found if outcome is not None]
    return rate(sum(scored), len(scored), len(found) - len(scored))


class Interval(Record):
    """A value in percent points with its interval; ``None`` where there is nothing, or too little, to compute it from.

    Where all clusters say the same there is no interval: draws from equal things are equal, which would show as a
    certainty that is none.
    """

    value: float | None
    low: float | None
    high: float | None


def sign_flip_exact(values: Sequence[int], clusters: Sequence[Hashable]) -> float:
    """Two-sided p of an exact sign-flip test of the sum of ``values``, whose clusters change together.

    If neither side were better, the sum of each cluster could as well have the other sign; p is the share of all such
    signs whose total is at least as far from 0. With one item a cluster this is McNemar's exact test.

    Args:
        values: one an item, such as the difference of two variants (-1, 0, 1).
        clusters: what each item belongs to.

    Raises:
        SettingsError: not as many clusters as values.
    """
    if len(values) != len(clusters):
        raise SettingsError(f"expected a cluster for each value, found {len(clusters)} for {len(values)}")
    sums: dict[Hashable, int] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0) + value
    steps = [abs(total) for total in sums.values() if total]
    reach = sum(steps)
    shares = np.zeros(2 * reach + 1)  # of each total from -reach to reach
    shares[reach] = 1.0
    for step in steps:
        shares = (np.roll(shares, step) + np.roll(shares, -step)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(shares[totals >= abs(sum(values))].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of several tests of one table, adjusted by Holm's method: the table as a whole keeps the level."""
    # statsmodels' multipletests would do, but collects garbage at every call: a second where a model and an app are in
    # memory
    p, number = np.array(p_values, dtype=float), len(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(number)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((number - np.arange(number)) * p[order]))
    return adjusted.tolist()


def cluster_mean(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """The mean of ``values`` times 100, with the percentile interval of a bootstrap that draws whole clusters.

    Args:
        values: one an item, such as the difference of two variants (-1, 0, 1).
        clusters: what each item belongs to; items of one cluster are drawn together.
        seed: of the draws, so that the same data have the same interval. The order of the items plays no part.

    Raises:
        SettingsError: not as many clusters as values.
    """
    if len(values) != len(clusters):
        raise SettingsError(f"expected a cluster for each value, found {len(clusters)} for {len(values)}")
    if not values:
        return Interval(value=None, low=None, high=None)
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    parts = np.array(sorted((sum(group), len(group)) for group in groups.values()), dtype=float)
    mean = 100 * float(parts[:, 0].sum() / parts[:, 1].sum())
    if len(np.unique(parts[:, 0] / parts[:, 1])) < 2:
        return Interval(value=mean, low=None, high=None)
    found = bootstrap(
        (parts[:, 0], parts[:, 1]),
        lambda sums, sizes, axis: 100 * sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(parts)),  # 16 MB at a time
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value=mean, low=float(found.low), high=float(found.high))


def cluster_interval(
    clusters: Sequence[Hashable], statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> Interval:
    """A statistic of N items, with the percentile interval of a bootstrap that draws whole clusters.

    Args:
        clusters: what each item belongs to; items of one cluster are drawn together.
        statistic: of draws, from how often each item was drawn (draws, N) to (draws,); not a number where it has none.
        seed: of the draws.
    """
    places_N = np.unique([str(one) for one in clusters], return_inverse=True)[1]
    count = int(places_N.max()) + 1
    value = float(statistic(np.ones((1, len(places_N))))[0])
    if count < 2:
        return Interval(value=value, low=None, high=None)
    drawn_RC = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    found_R = statistic(drawn_RC[:, places_N].astype(float))
    edge = (1 - LEVEL) / 2
    low, high = map(float, np.nanquantile(found_R, [edge, 1 - edge]))
    return Interval(value=value, low=low, high=high) if low < high else Interval(value=value, low=None, high=None)
