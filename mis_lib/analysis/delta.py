"""A training delta: what people decided about failures, as rows with what should have been said, pairs, and a regression set.

A response is used where people agree on its outcome (or somebody settled it). The target is the corrected answer; else, for a failure, the
data's reference answer, else an answer of another variant that people found right; else it is left out and said so.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from mis_lib.analysis.regression import Entry
from mis_lib.metrics import RIGHT
from mis_lib.schema import Outcome
from mis_lib.store.annotation_tables import response_digest
from mis_lib.store.decisions import Event, Kind
from mis_lib.store.decisions import Preference as Preferred

BEST = (Outcome.REASONED, Outcome.HELPED)
DISPUTED = "people differ; adjudicate it"
NO_TARGET = "a failure without a target; write the corrected answer"
WORSE_PREFERRED = "the preferred response fails too"


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
    by_response: dict[tuple[str, ...], list[Event]] = {}
    for event in events:
        digest = response_digest(event.subject.response)
        by_response.setdefault((*event.subject.key, digest), []).append(event)
    finals = {key: _final(group) for key, group in by_response.items()}
    left_out = {
        "/".join(key[:3]): DISPUTED for key, group in by_response.items() if not finals[key] and _outcomes(group)
    }
    good = _good_answers([final for final in finals.values() if final])
    rows: dict[tuple[str, str], Row] = {}
    pairs: list[tuple[Event, str, str]] = []
    for key, group in by_response.items():
        final = finals[key]
        row = _row(final, group, good if reference else {}, reference)
        if row is not None:
            rows.setdefault((row.event.subject.sample.id, row.target), row)
            pairs += (
                [(row.event, row.target, row.event.subject.response)]
                if row.target.strip() != row.event.subject.response.strip()
                else []
            )
        elif final is not None and final.decision.outcome not in RIGHT:
            left_out["/".join(key[:3])] = NO_TARGET
    preferred, worse = _preferred(by_response.values(), finals)
    kept = _one_a_sample(rows.values())
    trained = {row.event.subject.sample.id for row in kept}
    entries = [_entry(final, trained) for final in finals.values() if final]
    return Delta(kept, _distinct([*pairs, *preferred]), entries, left_out | worse)


def _outcomes(group: Sequence[Event]) -> list[Event]:
    """The latest outcome of each person, adjudications apart."""
    given = {event.author: event for event in group if event.kind is Kind.DECIDE and event.decision.outcome is not None}
    return [event for event in given.values() if event.decision.outcome is not Outcome.UNSCORED]


def _final(group: Sequence[Event]) -> Event | None:
    """The decision that stands for all: the latest adjudication, else the latest one where everybody agrees."""
    settled = [event for event in group if event.kind is Kind.ADJUDICATE and event.decision.outcome is not None]
    if settled:
        return settled[-1]
    given = _outcomes(group)
    return given[-1] if len({event.decision.outcome for event in given}) == 1 else None


def _good_answers(finals: Iterable[Event]) -> dict[str, str]:
    """A response that people found right, by sample."""
    return {final.subject.sample.id: final.subject.response for final in finals if final.decision.outcome in BEST}


def _row(final: Event | None, group: Sequence[Event], good: dict[str, str], reference: bool) -> Row | None:
    corrected = [event for event in group if event.decision.corrected]
    if corrected and (final is not None or not _outcomes(group)):
        chosen = final if final is not None and final.decision.corrected else corrected[-1]
        return Row(chosen, chosen.decision.corrected or "", "corrected")
    if final is None or final.decision.outcome in RIGHT:
        return None
    sample = final.subject.sample
    if reference and sample.answer:
        return Row(final, sample.answer, "reference")
    return Row(final, good[sample.id], "response") if sample.id in good else None


def _preferred(
    groups: Iterable[Sequence[Event]], finals: dict[tuple[str, ...], Event | None]
) -> tuple[list[tuple[Event, str, str]], dict[str, str]]:
    """Pairs on whose better half everybody agrees; a better half that fails all the same is no example."""
    pairs, worse = [], {}
    failing = {key for key, final in finals.items() if final is not None and final.decision.outcome not in RIGHT}
    for group in groups:
        votes: dict[tuple[str, ...], list[Event]] = {}
        for event in group:
            if event.other is not None and event.decision.preference is not None:
                votes.setdefault((*event.other.key, response_digest(event.other.response)), []).append(event)
        for events in votes.values():
            latest = {event.author: event for event in events}
            found = {event.decision.preference for event in latest.values()}
            event = events[-1]
            if event.other is None or len(found) != 1 or not found <= {Preferred.A, Preferred.B}:
                continue
            better, other = (event.subject, event.other) if found == {Preferred.A} else (event.other, event.subject)
            if (*better.key, response_digest(better.response)) in failing:
                worse["/".join(better.key)] = WORSE_PREFERRED
            elif (
                better.response.strip() != other.response.strip() and better.response.strip() and other.response.strip()
            ):
                pairs.append((event, better.response, other.response))
    return pairs, worse


def _one_a_sample(rows: Iterable[Row]) -> list[Row]:
    """One row a sample: a correction before anything else, of several the latest."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.get(row.event.subject.sample.id)
        if known is None or row.source == "corrected" or known.source != "corrected":
            best[row.event.subject.sample.id] = row
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
