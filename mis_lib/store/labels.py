"""What holds now, kept in memory and brought up to date by the events that are new: a queue asks after every decision.

``Standing`` is a fold over the events. A decision stands until its author takes it back; of several by one person on one response the latest
by time counts, in whatever order a store came to know them. An adjudication stands above all of them. Names that differ in letter case or spaces
alone, as they come from several browsers and machines, are one person, who is called as at first.
"""

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple, Self

from mis_lib.annotate.decisions import Decision, Key, Kind
from mis_lib.schema import Outcome

AGE = attrgetter("at", "seq")
"""The order of events and labels in which a later one counts: by time, and by the order of the store where that is the same."""


def person(name: str) -> str:
    """Who is meant by a name, however it is spelled."""
    return " ".join(name.split()).casefold()


class Label(NamedTuple):
    """An event without the texts that were looked at."""

    seq: int
    id: str
    kind: Kind
    author: str
    at: str
    undoes: str | None
    key: Key
    other: str | None  # the variant shown beside
    decision: Decision

    @classmethod
    def of(
        cls,
        seq: int,
        name: str,
        kind: str,
        author: str,
        at: str,
        undoes: str | None,
        decision: str,
        run: str,
        sample_id: str,
        variant: str,
        digest: str,
        other: str | None,
    ) -> Self:
        """A label from a row of the store."""
        read = Decision.model_validate_json(decision)
        return cls(seq, name, Kind(kind), author, at, undoes, (run, sample_id, variant, digest), other, read)


class Standing:
    """The decisions that hold, by response; ``take`` new labels in the order of the store.

    Several threads may read while one takes: whatever goes over all labels goes over a copy by ``dict.copy``, which is made in
    one step (``list`` of items is not: it makes tuples, at which other threads may get their turn).
    """

    def __init__(self) -> None:
        self.seen = 0
        self._names: dict[str, str] = {}  # person -> the name first come upon
        self._by_id: dict[str, Label] = {}
        self._by_key: dict[Key, list[Label]] = {}  # oldest first

    def take(self, labels: Iterable[Label]) -> None:
        """Fold in what happened since."""
        for label in labels:
            self.seen = max(self.seen, label.seq)
            label = label._replace(author=self._names.setdefault(person(label.author), label.author))
            if label.kind is not Kind.UNDO:
                self._by_id[label.id] = label
                insort(self._by_key.setdefault(label.key, []), label, key=AGE)
            elif undone := self._by_id.pop(label.undoes or "", None):
                self._by_key[undone.key].remove(undone)

    def of(self, key: Key) -> list[Label]:
        """Everything that stands on a response, oldest first."""
        return list(self._by_key.get(key, []))

    def spelled(self, author: str) -> str:
        """The name under which a person is known; as it is given where they are not."""
        return self._names.get(person(author), author)

    def by(self, author: str) -> list[Label]:
        """Everything of one person that stands, oldest first."""
        name = self.spelled(author)
        return sorted((label for label in self._by_id.copy().values() if label.author == name), key=AGE)

    def decided_by(self, key: Key, author: str) -> Label | None:
        """A person's latest decision on a response."""
        name = self.spelled(author)
        return next((label for label in reversed(self.of(key)) if label.author == name), None)

    def outcomes(self, key: Key) -> dict[str, Outcome]:
        """Each person's outcome of a response; "cannot tell" counts as none."""
        found = {label.author: label.decision.outcome for label in self._with_outcome(key, Kind.DECIDE)}
        return {author: outcome for author, outcome in found.items() if outcome and outcome is not Outcome.UNSCORED}

    def adjudicated(self, key: Key) -> Label | None:
        """The latest adjudication of a response's outcome."""
        return next(reversed(self._with_outcome(key, Kind.ADJUDICATE)), None)

    def settled(self, key: Key) -> Outcome | None:
        """The outcome people agree on: the adjudicated one, else the one that all gave; None while they differ or nobody gave one."""
        final = self.adjudicated(key)
        if final is not None:
            return final.decision.outcome
        given = set(self.outcomes(key).values())
        return next(iter(given)) if len(given) == 1 else None

    def is_disputed(self, key: Key) -> bool:
        """Whether people gave different outcomes and nobody has settled it."""
        return len(set(self.outcomes(key).values())) > 1 and self.settled(key) is None

    def _with_outcome(self, key: Key, kind: Kind) -> list[Label]:
        """The outcomes of one kind that hold, oldest first: one that a person's later decision on the same (or the same pair) leaves out holds no more."""
        latest = {(label.author, label.other): label for label in self.of(key) if label.kind is kind}
        return sorted((label for label in latest.values() if label.decision.outcome is not None), key=AGE)

    @property
    def keys(self) -> list[Key]:
        """All responses that anything stands on."""
        return [key for key, labels in self._by_key.copy().items() if labels]

    @property
    def authors(self) -> list[str]:
        """Who has decided anything that stands, by name."""
        return sorted({label.author for label in self._by_id.copy().values()})
