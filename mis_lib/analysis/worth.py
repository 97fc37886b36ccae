"""What a response is worth of a person's time, and with that its place in a worklist: first what would tell most, or at random.

It is worth more when its judges contradict each other, when none of them could score it, when it counts as a failure, and when variants differ on
it, because there a wrong verdict changes a comparison. Equal ones are mixed by a hash of their ids, so that a category does not come in one block.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mis_lib.annotate.decisions import Key, Subject, key_of
from mis_lib.results.metrics import RIGHT
from mis_lib.schema import Outcome, Response, Sample, Verdict


class Signal(StrEnum):
    """Why a response is worth a look."""

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

    @cached_property
    def key(self) -> Key:
        """Run, sample, variant, and the digest of the response."""
        return key_of(self.run, self.sample.id, self.response.variant, self.response.text)

    @property
    def subject(self) -> Subject:
        """What a decision on it is about."""
        return Subject(run=self.run, variant=self.response.variant, sample=self.sample, response=self.response.text)

    @cached_property
    def worth(self) -> float:
        """How much its label would tell."""
        return sum(SIGNALS[signal][0] for signal in self.signals)

    @cached_property
    def mixed(self) -> str:
        """Place in the order at random."""
        return at_random(self.key)

    def rank(self, order: Order) -> tuple[float, str]:
        """Place in the list."""
        return -self.worth if order is Order.WORST else 0.0, self.mixed

    def has_outcome(self, outcome: str, judge: str = "") -> bool:
        """Whether this judge, or any if none is named, gave this outcome."""
        return any(verdict.outcome == outcome for name, verdict in self.verdicts.items() if not judge or name == judge)


def at_random(key: Sequence[str]) -> str:
    """Place of a response in the order at random: a hash of its run, sample and variant, the same for everybody and at any time."""
    return hashlib.sha256("/".join(key[:3]).encode()).hexdigest()


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
