"""Which responses a person should look at, and in which order: those first whose label would tell most, or at random.

What a label would tell is in ``worth``. What people have decided moves nothing; it only filters, so the order stays while they work.

Labels given in that order tell nothing about the rest. The order at random goes by that hash alone, so that however far people come in it, what they
have labelled is a random draw, as a calibration needs it.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from mis_lib.analysis.worth import Item, Order, Signal, is_right, item_of
from mis_lib.errors import DataError
from mis_lib.results.evaluated import data_folder, judges_of, read_samples, run_name
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Record, Response, Verdict
from mis_lib.store.labels import Standing


class Whose(StrEnum):
    """Which responses of the list, by who has decided on them."""

    OPEN = "open"
    UNTOUCHED = "untouched"
    OTHERS = "others"
    MINE = "mine"
    DISPUTED = "disputed"
    ALL = "all"


class Filter(Record):
    """Which part of a worklist; an empty field lets everything pass."""

    variant: str = ""
    beside: str = ""
    split: str = ""
    category: str = ""
    judge: str = ""
    """Whose verdicts the two outcomes are; any judge's if none is named."""
    outcome: str = ""
    """Outcome that the judge gave to the response."""
    beside_outcome: str = ""
    """Outcome that the judge gave to the response shown beside."""
    signal: str = ""
    whose: Whose = Whose.OPEN
    order: Order = Order.WORST


class Worklist:
    """The responses of one run, most worthwhile first; ``mixed`` are the same at random."""

    def __init__(self, run: str, data: Path, items: Iterable[Item]) -> None:
        self.run, self.data = run, data
        self.mixed = sorted(items, key=lambda item: item.mixed)
        self.items = sorted(self.mixed, key=lambda item: -item.worth)
        self._by_name = {item.key[:3]: item for item in self.items}

    @property
    def variants(self) -> list[str]:
        """The variants by name."""
        return sorted({item.response.variant for item in self.items})

    @property
    def splits(self) -> list[str]:
        """The splits by name."""
        return sorted({str(item.sample.split) for item in self.items})

    @property
    def categories(self) -> list[str]:
        """The categories by name."""
        return sorted({item.sample.category for item in self.items if item.sample.category})

    @property
    def judges(self) -> list[str]:
        """The judges by name."""
        return sorted({judge for item in self.items for judge in item.verdicts})

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes that judges gave, in the order of the schema."""
        given = {verdict.outcome for item in self.items for verdict in item.verdicts.values()}
        return [outcome for outcome in Outcome if outcome in given]

    def beside(self, item: Item, variant: str) -> Item | None:
        """Another variant's response to the same sample."""
        return self.named(item.sample.id, variant) if variant != item.response.variant else None

    def named(self, sample: str, variant: str) -> Item | None:
        """A variant's response to a sample."""
        return self._by_name.get((self.run, sample, variant))

    def find(self, chosen: Filter, standing: Standing, author: str) -> list[Item]:
        """The responses that pass, in order."""
        return [
            item
            for item in (self.items if chosen.order is Order.WORST else self.mixed)
            if self._passes(item, chosen) and _is_whose(item, chosen.whose, standing, author)
        ]

    def _passes(self, item: Item, chosen: Filter) -> bool:
        if chosen.variant and item.response.variant != chosen.variant:
            return False
        if chosen.split and item.sample.split != chosen.split:
            return False
        if chosen.category and item.sample.category != chosen.category:
            return False
        if chosen.outcome and not item.has_outcome(chosen.outcome, chosen.judge):
            return False
        if chosen.signal and not _shows(item, chosen):
            return False
        if not chosen.beside:
            return True
        other = self.beside(item, chosen.beside)
        wanted = chosen.beside_outcome
        return other is not None and (not wanted or other.has_outcome(wanted, chosen.judge))


def read_worklist(run: Run) -> Worklist:
    """All responses of a run with the verdicts of all its judges.

    Raises:
        DataError: a file of the run is damaged, or its samples are gone.
    """
    responses = run.responses()
    samples = {sample.id: sample for sample in read_samples(run, responses)}
    verdicts: dict[tuple[str, str], dict[str, Verdict]] = {}
    for judge in judges_of(run):
        for verdict in run.verdicts(judge):
            verdicts.setdefault((verdict.sample_id, verdict.variant), {})[judge] = verdict
    right = {key: is_right(found.values()) for key, found in verdicts.items()}
    answered: dict[str, list[Response]] = {}
    for response in {(response.sample_id, response.variant): response for response in responses}.values():
        answered.setdefault(response.sample_id, []).append(response)
    items = [
        item_of(
            run_name(run), samples[sample_id], response, verdicts.get((sample_id, response.variant), {}), group, right
        )
        for sample_id, group in answered.items()
        for response in group
    ]
    return Worklist(run_name(run), data_folder(run), items)


def step(items: Sequence[Item], current: Item | None, by: int, order: Order = Order.WORST) -> Item | None:
    """The item ``by`` places after (or before) ``current``, which need not be in the list any more; the list, in ``order``, is a ring.

    Raises:
        DataError: ``by`` is neither 1 nor -1.
    """
    if by not in (1, -1):
        raise DataError(f"expected a step of 1 or -1, found {by}")
    if not items:
        return None
    if current is None:
        return items[0]
    if by > 0:
        return next((item for item in items if item.rank(order) > current.rank(order)), items[0])
    return next((item for item in reversed(items) if item.rank(order) < current.rank(order)), items[-1])


def _shows(item: Item, chosen: Filter) -> bool:
    if chosen.signal == Signal.FLIPS and chosen.beside:
        return chosen.beside in item.flips_with
    return chosen.signal in item.signals


def _is_whose(item: Item, whose: Whose, standing: Standing, author: str) -> bool:
    if whose is Whose.ALL:
        return True
    if whose is Whose.DISPUTED:
        return standing.is_disputed(item.key)
    labels = standing.of(item.key)
    mine = standing.decided_by(item.key, author) is not None
    return {
        Whose.OPEN: not mine,
        Whose.MINE: mine,
        Whose.OTHERS: bool(labels) and not mine,
        Whose.UNTOUCHED: not labels,
    }[whose]
