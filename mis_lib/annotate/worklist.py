"""Worklists: which responses a person should label first, or all of them in random order.

The priority of a response is higher if its judges contradict each other, if no judge could score it, if it counts as a
failure, and if variants differ on it, since a wrong verdict there changes a comparison. Equal ones are ordered by a
hash of their ids, so that a category does not come as one block. Labels only filter the list, never reorder it.

Labels given by priority are no sample of the rest. The random order depends on the hash alone: at any time the labelled
responses are a random draw, as a calibration needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from mis_lib.annotate.decisions import CurrentLabels, Key, Subject, key_of
from mis_lib.errors import DataError
from mis_lib.files import digest
from mis_lib.results.evaluated import data_folder, judges_of, read_samples, run_name
from mis_lib.results.metrics import RIGHT
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Record, Response, Sample, Verdict


class Signal(StrEnum):
    """Why a response should be looked at."""

    JUDGES_DIFFER = "judges_differ"
    UNSCORED = "unscored"
    FLIPS = "flips"
    FAILS = "fails"


SIGNALS: dict[Signal, tuple[float, str]] = {  # weight, in words
    Signal.JUDGES_DIFFER: (4.0, "judges disagree"),
    Signal.UNSCORED: (3.0, "no judge could score it"),
    Signal.FLIPS: (2.0, "variants differ on it"),
    Signal.FAILS: (1.0, "counts as a failure"),
}


class Order(StrEnum):
    """What comes first."""

    WORST = "worst"
    RANDOM = "random"


@dataclass(frozen=True)
class Item:
    """One response with everything a person may want to see of it."""

    run: str
    sample: Sample
    response: Response
    verdicts: Mapping[str, Verdict]
    signals: tuple[Signal, ...]
    flips_with: frozenset[str] = frozenset()
    """Variants that handle the same sample the other way (right or wrong)."""
    trained_on: bool = False
    """The variant was trained on this sample: its answer is in no test figure."""

    @cached_property
    def key(self) -> Key:
        """Run, sample, variant, and the digest of the response."""
        return key_of(self.run, self.sample.id, self.response.variant, self.response.text)

    @property
    def subject(self) -> Subject:
        """What a decision on it is about."""
        return Subject(run=self.run, variant=self.response.variant, sample=self.sample, response=self.response.text)

    @cached_property
    def priority(self) -> float:
        """Sum of its signals' weights; the highest is labelled first."""
        return sum(SIGNALS[signal][0] for signal in self.signals)

    @cached_property
    def mixed(self) -> str:
        """Place in the order at random."""
        return at_random(self.key)

    def rank(self, order: Order) -> tuple[float, str]:
        """Place in the list."""
        return -self.priority if order is Order.WORST else 0.0, self.mixed

    def has_outcome(self, outcome: str, judge: str = "") -> bool:
        """Whether this judge, or any if none is named, gave this outcome."""
        return any(verdict.outcome == outcome for name, verdict in self.verdicts.items() if not judge or name == judge)


def at_random(key: Sequence[str]) -> str:
    """Place of a response in the random order: a hash of its run, sample and variant."""
    return digest("/".join(key[:3]))


def item_of(
    run: str,
    sample: Sample,
    response: Response,
    verdicts: Mapping[str, Verdict],
    group: Sequence[Response],
    right: Mapping[tuple[str, str], bool | None],
) -> Item:
    """The response with what speaks for a look at it.

    Args:
        run: name of its run.
        sample: what it answers.
        response: the text.
        verdicts: on it, by judge.
        group: the responses of all variants to that sample.
        right: by sample and variant, whether the judges call it right (``is_right``).
    """
    mine = right.get((sample.id, response.variant))
    others = {other.variant: right.get((sample.id, other.variant)) for other in group}
    flips = frozenset(name for name, theirs in others.items() if mine is not None and theirs is (not mine))
    scored = [verdict.outcome for verdict in verdicts.values() if verdict.outcome is not Outcome.UNSCORED]
    shown = (
        (Signal.JUDGES_DIFFER, any(outcome is not scored[0] for outcome in scored)),
        (Signal.UNSCORED, not scored),
        (Signal.FLIPS, bool(flips)),
        (Signal.FAILS, any(outcome not in RIGHT for outcome in scored)),
    )
    return Item(run, sample, response, verdicts, tuple(signal for signal, holds in shown if holds), flips)


def is_right(verdicts: Iterable[Verdict]) -> bool | None:
    """Whether the judges, where they agree, call it right."""
    found = {verdict.outcome in RIGHT for verdict in verdicts if verdict.outcome is not Outcome.UNSCORED}
    return next(iter(found)) if len(found) == 1 else None


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
    """The responses of one run by priority; ``mixed`` are the same in random order."""

    def __init__(self, run: str, data: Path, items: Iterable[Item]) -> None:
        self.run, self.data = run, data
        self.mixed = sorted(items, key=lambda item: item.mixed)
        self.items = sorted(self.mixed, key=lambda item: -item.priority)
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

    def find(self, chosen: Filter, standing: CurrentLabels, author: str) -> list[Item]:
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
    trained_on = run.trained_on()
    items = [
        replace(
            item_of(
                run_name(run),
                samples[sample_id],
                response,
                verdicts.get((sample_id, response.variant), {}),
                group,
                right,
            ),
            trained_on=sample_id in trained_on.get(response.variant, ()),
        )
        for sample_id, group in answered.items()
        for response in group
    ]
    return Worklist(run_name(run), data_folder(run), items)


def step(items: Sequence[Item], current: Item | None, by: int, order: Order = Order.WORST) -> Item | None:
    """The item ``by`` places after (or before) ``current``, which may have left the list; the ends are joined.

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


def _is_whose(item: Item, whose: Whose, standing: CurrentLabels, author: str) -> bool:
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
