"""Filters: what must not get into a data set. Nothing is left out silently; every dropped row comes back with its reason.

A pair of objects that is tested must not be trained on, in either order, as a harmful item or as a twin, in any block: otherwise a
model could know the answer to a test item by heart. Test rows stay, training rows go.
"""

from collections.abc import Sequence

from mis_lib.construct.drawings import UNDRAWN, told
from mis_lib.construct.pairs import Ask, Scenario
from mis_lib.schema import Record


class Dropped(Record):
    """A row of the table that is not in the data set, and why."""

    id: str
    file: str
    row: int
    reason: str


def drop_leaks(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Dropped]]:
    """Split scenarios into those that stay and the training rows that would give away a test pair."""
    tested = {frozenset(pair): scenario for scenario in scenarios if scenario.side == "test" for pair in scenario.pairs}
    kept: list[Scenario] = []
    dropped: list[Dropped] = []
    for scenario in scenarios:
        leaks = [pair for pair in scenario.pairs if frozenset(pair) in tested]
        if scenario.side == "train" and leaks:
            reason = f"its pair {leaks[0]} is a test pair of {tested[frozenset(leaks[0])].id}"
            element = scenario.element
            dropped.append(Dropped(id=scenario.id, file=element.file, row=element.row, reason=reason))
        else:
            kept.append(scenario)
    return kept, dropped


def drop_untold(asks: Sequence[Ask]) -> tuple[list[Ask], list[Dropped]]:
    """Split asks into those that stay and those about a thing that their style does not draw, or draws as another."""
    kept: list[Ask] = []
    dropped: list[Dropped] = []
    for ask in asks:
        untold = [name for pair in ask.scenario.pairs for name in pair if not told(name, ask.style)]
        if untold:
            why = "has no drawing of" if untold[0] in UNDRAWN else "draws as another thing"
            element = ask.scenario.element
            reason = f"{ask.style} {why} {untold[0]!r}"
            dropped.append(Dropped(id=ask.scenario.id, file=element.file, row=element.row, reason=reason))
        else:
            kept.append(ask)
    return kept, dropped
