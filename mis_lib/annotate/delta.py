"""A training delta: what people decided about failures, as rows with what should have been said, pairs, and a regression set.

A response is used where people agree on its outcome (or somebody settled it). The target is the corrected answer; else, for a failure, the
data's reference answer, else an answer of another variant that people found right; else it is left out and said so. A correction by somebody
who was overruled on whether the response fails is none.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from mis_lib.annotate.decisions import Event, Key, Kind
from mis_lib.annotate.decisions import Preference as Preferred
from mis_lib.results.metrics import RIGHT
from mis_lib.results.regression import Entry
from mis_lib.schema import Outcome
from mis_lib.store.labels import AGE

BEST = (Outcome.REASONED, Outcome.HELPED)
DISPUTED = "people differ; adjudicate it"
NO_OUTCOME = "nobody gave it an outcome, or it cannot be told"
NO_TARGET = "a failure without a target; write the corrected answer"
WORSE_PREFERRED = "the preferred response fails too"
EITHER_PREFERRED = "people differ on which of the two is better"
OVERRULED = "its correction was overruled by the adjudication"
OLDER = "an older correction of the same item; the latest is the target"


class Row(NamedTuple):
    """A response with what it should have been."""

    event: Event
    target: str
    source: str  # corrected, reference, response


class Delta(NamedTuple):
    """What decisions come to, before any file is written."""

    rows: list[Row]
    pairs: list[tuple[Event, str, str]]  # event, chosen, rejected
    entries: list[Entry]
    left_out: dict[str, str]  # response -> reason


def build_delta(events: Iterable[Event], *, reference: bool = True) -> Delta:
    """Turn what holds now (``AnnotationStore.current``) into rows, pairs and a regression set.

    Args:
        events: decisions and adjudications that stand, oldest first.
        reference: whether the data's own answers serve as targets of failures that nobody corrected.
    """
    by_response: dict[Key, list[Event]] = {}
    for event in events:
        by_response.setdefault(event.subject.key, []).append(event)
    finals = {key: _final(group) for key, group in by_response.items()}
    good = _good_answers([final for final in finals.values() if final])
    left_out: dict[str, str] = {}
    rows: dict[tuple[str, str], Row] = {}
    pairs: list[tuple[Event, str, str]] = []
    for key, group in by_response.items():
        row = _row(finals[key], group, good if reference else {}, reference)
        if row is None:
            if reason := _why_left(finals[key], group):
                left_out["/".join(key[:3])] = reason
            continue
        rows.setdefault((row.event.subject.sample.id, row.target), row)
        if row.target.strip() != row.event.subject.response.strip():
            pairs.append((row.event, row.target, row.event.subject.response))
    preferred, unused = _preferred(by_response.values(), finals)
    kept = _one_a_sample(rows.values())
    targets = {row.event.subject.sample.id: row.target for row in kept}
    unused |= {
        f"{'/'.join(event.subject.key[:3])}, corrected by {event.author}": OLDER
        for key, group in by_response.items()
        for event in _written(finals[key], group)
        if event.decision.corrected != targets[event.subject.sample.id]
    }
    entries = [_entry(final, targets) for final in finals.values() if final]
    return Delta(kept, _distinct([*pairs, *preferred]), entries, left_out | unused)


def _outcomes(group: Sequence[Event]) -> list[Event]:
    """The latest outcome of each person, adjudications apart."""
    given = {event.author: event for event in group if event.kind is Kind.DECIDE and event.decision.outcome is not None}
    return [event for event in given.values() if event.decision.outcome is not Outcome.UNSCORED]


def _final(group: Sequence[Event]) -> Event | None:
    """The decision that stands for all: the latest adjudication, else the latest one where everybody agrees; none where it says that nobody can tell."""
    settled = _settled(group)
    if settled is not None:
        return None if settled.decision.outcome is Outcome.UNSCORED else settled
    given = _outcomes(group)
    return given[-1] if len({event.decision.outcome for event in given}) == 1 else None


def _settled(group: Sequence[Event]) -> Event | None:
    settled = [event for event in group if event.kind is Kind.ADJUDICATE and event.decision.outcome is not None]
    return settled[-1] if settled else None


def _written(final: Event | None, group: Sequence[Event]) -> list[Event]:
    """The corrections that count, oldest first: none while people differ, and none by somebody who was overruled on whether the response fails."""
    corrected = [event for event in group if event.decision.corrected]
    if final is None:
        return [] if _outcomes(group) else corrected
    right = final.decision.outcome in RIGHT
    return [
        event
        for event in corrected
        if event.decision.outcome in (None, Outcome.UNSCORED) or (event.decision.outcome in RIGHT) is right
    ]


def _why_left(final: Event | None, group: Sequence[Event]) -> str:
    """Why a response gives no row; empty where none was to be expected: it is right, or was only compared with another."""
    if final is None:
        if _outcomes(group) and _settled(group) is None:
            return DISPUTED
        return "" if any(event.decision.preference for event in group) else NO_OUTCOME
    if final.decision.outcome not in RIGHT:
        return NO_TARGET
    return OVERRULED if any(event.decision.corrected for event in group) else ""


def _good_answers(finals: Iterable[Event]) -> dict[str, str]:
    """A response that people found right, by sample."""
    return {final.subject.sample.id: final.subject.response for final in finals if final.decision.outcome in BEST}


def _row(final: Event | None, group: Sequence[Event], good: dict[str, str], reference: bool) -> Row | None:
    if corrected := _written(final, group):
        chosen = final if final is not None and final.decision.corrected else corrected[-1]
        return Row(chosen, chosen.decision.corrected or "", "corrected")
    if final is None or final.decision.outcome in RIGHT:
        return None
    sample = final.subject.sample
    if reference and sample.answer:
        return Row(final, sample.answer, "reference")
    return Row(final, good[sample.id], "response") if sample.id in good else None


def _preferred(
    groups: Iterable[Sequence[Event]], finals: dict[Key, Event | None]
) -> tuple[list[tuple[Event, str, str]], dict[str, str]]:
    """Pairs on whose better half everybody agrees, whichever of the two was labelled; a better half that fails all the same is no example."""
    pairs, left_out = [], {}
    for deciding in _votes(event for group in groups for event in group):
        event = deciding[-1]
        if event.other is None:
            continue
        both = f"{'/'.join(event.subject.key[:3])} beside {event.other.variant}"
        chosen = {_better(one) for one in deciding}
        if len(chosen) > 1:
            left_out[both] = EITHER_PREFERRED
        if len(chosen) > 1 or chosen == {None}:  # the latter: a tie, or both are bad
            continue
        a_is_better = chosen == {event.subject.key}
        better, worse = (event.subject, event.other) if a_is_better else (event.other, event.subject)
        final = finals.get(better.key)
        if final is not None and final.decision.outcome not in RIGHT:
            left_out["/".join(better.key[:3])] = WORSE_PREFERRED
        elif better.response.strip() != worse.response.strip():
            pairs.append((event, better.response, worse.response))
    return pairs, left_out


def _votes(events: Iterable[Event]) -> list[list[Event]]:
    """For each two responses the preferences that count, oldest first: the latest adjudicated one, else each person's latest."""
    votes: dict[frozenset[Key], dict[tuple[bool, str], Event]] = {}
    for event in sorted(events, key=AGE):
        if event.other is not None and event.decision.preference is not None:
            who = (True, "") if event.kind is Kind.ADJUDICATE else (False, event.author)
            votes.setdefault(frozenset((event.subject.key, event.other.key)), {})[who] = event
    return [[found[True, ""]] if (True, "") in found else sorted(found.values(), key=AGE) for found in votes.values()]


def _better(event: Event) -> Key | None:
    """The response that was preferred, of the two that an event compares."""
    better = {Preferred.A: event.subject, Preferred.B: event.other}.get(event.decision.preference or Preferred.TIE)
    return better.key if better else None


def _one_a_sample(rows: Iterable[Row]) -> list[Row]:
    """One row a sample: a correction before anything else, of several the latest."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.get(row.event.subject.sample.id, row)
        best[row.event.subject.sample.id] = max(
            known, row, key=lambda one: (one.source == "corrected", *AGE(one.event))
        )
    return list(best.values())


def _distinct(pairs: Iterable[tuple[Event, str, str]]) -> list[tuple[Event, str, str]]:
    found = {
        (event.subject.sample.id, chosen, rejected): (event, chosen, rejected) for event, chosen, rejected in pairs
    }
    return [pair for pair in found.values() if pair[1].strip() and pair[2].strip()]


def _entry(final: Event, trained: Collection[str]) -> Entry:
    sample, outcome = final.subject.sample, final.decision.outcome or Outcome.UNSCORED
    return Entry(
        sample_id=sample.id,
        variant=final.subject.variant,
        run=final.subject.run,
        outcome=outcome,
        failing=outcome not in RIGHT,
        trained_on=sample.id in trained,
        split=sample.split,
        category=sample.category,
        harmful=sample.harmful,
        causes=tuple(str(cause) for cause in final.decision.causes),
        events=(final.id,),
    )
