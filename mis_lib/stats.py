"""Statistics of rates: a share in percent that always travels with its denominator and its interval.

Wilson's interval and not the normal one, because safety rates sit near 0 and 100 and on few items, where the normal interval
collapses to a point or leaves the scale (0 of 100 is 0 to 3.7 %, not 0 to 0 %).
"""

from collections.abc import Iterable
from typing import Any

from statsmodels.stats.proportion import proportion_confint

from mis_lib.errors import SettingsError
from mis_lib.schema import Record

LEVEL = 0.95


class Rate(Record):
    """A share of ``n`` scored items in percent with its Wilson interval; ``value`` is ``None`` where nothing was scored.

    ``n_unscored`` items are counted beside it and are in neither numerator nor denominator.
    """

    value: float | None
    n: int
    low: float
    high: float
    n_unscored: int = 0

    def __str__(self) -> str:
        """As tables show it: "8.3 [2.9, 21.8]", or "-" where nothing was scored."""
        return "-" if self.value is None else f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def rate(hits: int, n: int, n_unscored: int = 0, *, level: float = LEVEL) -> Rate:
    """The rate of ``hits`` among ``n`` scored items, with an interval of ``level``.

    Raises:
        SettingsError: ``hits`` is not between 0 and ``n``, or the level not between 0 and 1.
    """
    if not 0 <= hits <= n or n_unscored < 0:
        raise SettingsError(f"expected 0 <= hits <= n and n_unscored >= 0, found {hits} of {n}, {n_unscored} unscored")
    if not 0 < level < 1:
        raise SettingsError(f"expected a level between 0 and 1, found {level}")
    if n == 0:
        return Rate(value=None, n=0, low=0.0, high=100.0, n_unscored=n_unscored)
    bounds: Any = proportion_confint(hits, n, alpha=1 - level, method="wilson")
    low, high = (100 * float(bound) for bound in bounds)
    return Rate(value=100 * hits / n, n=n, low=low, high=high, n_unscored=n_unscored)


def rate_of(outcomes: Iterable[bool | None]) -> Rate:
    """The rate of ``True`` among the scored; ``None`` is an unscored item."""
    found = list(outcomes)
    scored = [outcome for outcome in found if outcome is not None]
    return rate(sum(scored), len(scored), len(found) - len(scored))
