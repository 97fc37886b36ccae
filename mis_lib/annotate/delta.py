"""A training delta: what people decided about failures, as rows with the right answer, pairs, and a regression set.

A response is used where people agree on its outcome (or somebody settled it). The target is the corrected answer; else,
for a failure, the data's reference answer, else an answer of another variant that people found right; else it is left
out, with the reason. A correction by somebody who was overruled on whether the response fails does not count.

On disk a delta is an ordinary data folder, in versions that are never changed:

    OUT/NAME/vN/  train.jsonl        samples with the right answer, then rows of the old training data
                  pairs.jsonl        {sample, chosen, rejected} for preference training
                  regression.jsonl   every response whose outcome people agree on (results/regression.py)
                  delta.json         counts, sources, and what was left out, with the reason
                  images/            by content hash

Each row says which decision it comes from. The same decisions again give the same version.
"""

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.annotate.decisions import AGE, Event, Key, Kind, response_digest
from mis_lib.annotate.decisions import Preference as Preferred
from mis_lib.data.formats import LATER, SEGMENTS
from mis_lib.data.images import inside
from mis_lib.data.preferences import PAIRS, Preference
from mis_lib.data.sources import find_source, load
from mis_lib.errors import DataError
from mis_lib.files import digest, sha256, write_records
from mis_lib.results.metrics import RIGHT
from mis_lib.results.regression import REGRESSION, Entry
from mis_lib.schema import Outcome, Record, Sample

BEST = (Outcome.REASONED, Outcome.HELPED)
DISPUTED = "people differ; adjudicate it"
NO_OUTCOME = "nobody gave it an outcome, or it cannot be told"
NO_TARGET = "a failure without a target; write the corrected answer"
WORSE_PREFERRED = "the preferred response fails too"
EITHER_PREFERRED = "people differ on which of the two is better"
OVERRULED = "its correction was overruled by the adjudication"
OLDER = "an older correction of the same item; the latest is the target"
TRAIN, ABOUT = "train.jsonl", "delta.json"
OF_THE_OLD_ANSWER = (SEGMENTS, LATER)  # keys of a sample that tell of its answer and not of the new one


class DeltaRow(NamedTuple):
    """A response with what it should have been."""

    event: Event
    target: str
    source: str  # corrected, reference, response


class Delta(NamedTuple):
    """What decisions come to, before any file is written."""

    rows: list[DeltaRow]
    pairs: list[tuple[Event, str, str]]  # event, chosen, rejected
    entries: list[Entry]
    left_out: dict[str, str]  # response -> reason


class About(Record):
    """What a delta holds."""

    folder: str
    rows: int
    replayed: int
    pairs: int
    regression: int
    failing: int
    targets: dict[str, int]
    splits: dict[str, int]
    runs: list[str]
    authors: list[str]
    left_out: dict[str, str]


Judged = Callable[[Key], dict[str, Outcome]]


def build_delta(events: Iterable[Event], *, reference: bool = True, judged: Judged = lambda key: {}) -> Delta:
    """Turn what holds now (``AnnotationStore.current``) into rows, pairs and a regression set.

    Args:
        events: decisions and adjudications that stand, oldest first.
        reference: whether the data's own answers serve as targets of failures without a correction.
        judged: the outcome of a response by each judge that has ruled on it, for the regression set.
    """
    by_response: dict[Key, list[Event]] = {}
    for event in events:
        by_response.setdefault(event.subject.key, []).append(event)
    finals = {key: _final(group) for key, group in by_response.items()}
    good = {  # a response that people found right, by sample
        final.subject.sample.id: final.subject.response
        for final in finals.values()
        if final and final.decision.outcome in BEST
    }
    left_out: dict[str, str] = {}
    rows: dict[tuple[str, str], DeltaRow] = {}
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
    entries = [_entry(final, targets, judged(final.subject.key)) for final in finals.values() if final]
    return Delta(kept, _distinct([*pairs, *preferred]), entries, left_out | unused)


def write_delta(
    delta: Delta,
    out: Path,
    name: str,
    folder_of: Callable[[str], Path],
    *,
    replay: int = 0,
    replay_from: Path | None = None,
    targets: bool = True,
) -> About:
    """Write the next version of ``out/name``, all or nothing; the newest one is returned if it holds the same.

    Args:
        delta: what to write.
        out: folder of all deltas.
        name: of this one.
        folder_of: the folder that the images of a run's samples are relative to.
        replay: number of rows of those samples' training split to add, against forgetting.
        replay_from: the data whose training split is used where those samples have none, as live ones.
        targets: whether a row or a pair is needed; KTO learns from right and wrong answers alone.

    Raises:
        DataError: there is nothing to write, or an image is not there.
    """
    enough = delta.rows or delta.pairs or (not targets and any(entry.failing for entry in delta.entries))
    if not enough:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in Counter(delta.left_out.values()).items())
        raise DataError(f"expected decided failures to learn from, found none{f' ({reasons})' if reasons else ''}")
    parent = out / name
    parent.mkdir(parents=True, exist_ok=True)
    taken = sorted(int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".making-") as made:
        work = Path(made) / "delta"
        _write(delta, work, folder_of, replay, replay_from)
        if taken and _digest(parent / f"v{taken[-1]}") == _digest(work):
            return about(parent / f"v{taken[-1]}")
        final = parent / f"v{(taken or [0])[-1] + 1}"
        work.rename(final)
    return about(final)


def about(folder: Path) -> About:
    """What a delta on disk holds.

    Raises:
        DataError: the folder is none.
    """
    try:
        values = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{folder}: expected a training delta ({ABOUT}), found none") from error
    return About(folder=str(folder), **values)


def _final(group: Sequence[Event]) -> Event | None:
    """The decision that counts: the latest adjudication, else the latest one where all agree; none if undecidable."""
    settled = _settled(group)
    if settled is not None:
        return None if settled.decision.outcome is Outcome.UNSCORED else settled
    given = _outcomes(group)
    return given[-1] if len({event.decision.outcome for event in given}) == 1 else None


def _settled(group: Sequence[Event]) -> Event | None:
    settled = [event for event in group if event.kind is Kind.ADJUDICATE and event.decision.outcome is not None]
    return settled[-1] if settled else None


def _outcomes(group: Sequence[Event]) -> list[Event]:
    """The latest outcome of each person, adjudications apart."""
    given = {event.author: event for event in group if event.kind is Kind.DECIDE and event.decision.outcome is not None}
    return [event for event in given.values() if event.decision.outcome is not Outcome.UNSCORED]


def _written(final: Event | None, group: Sequence[Event]) -> list[Event]:
    """The corrections that count, oldest first: none while people differ, none by somebody who was overruled."""
    corrected = [event for event in group if event.decision.corrected]
    if final is None:
        return [] if _outcomes(group) else corrected
    right = final.decision.outcome in RIGHT
    return [
        event
        for event in corrected
        if event.decision.outcome in (None, Outcome.UNSCORED) or (event.decision.outcome in RIGHT) is right
    ]


def _row(final: Event | None, group: Sequence[Event], good: dict[str, str], reference: bool) -> DeltaRow | None:
    if corrected := _written(final, group):
        chosen = final if final is not None and final.decision.corrected else corrected[-1]
        return DeltaRow(chosen, chosen.decision.corrected or "", "corrected")
    if final is None or final.decision.outcome in RIGHT:
        return None
    sample = final.subject.sample
    if reference and sample.answer:
        return DeltaRow(final, sample.answer, "reference")
    return DeltaRow(final, good[sample.id], "response") if sample.id in good else None


def _why_left(final: Event | None, group: Sequence[Event]) -> str:
    """Why a response gives no row; empty where none is expected: it is right, or was only compared with another."""
    if final is None:
        if _outcomes(group) and _settled(group) is None:
            return DISPUTED
        return "" if any(event.decision.preference for event in group) else NO_OUTCOME
    if final.decision.outcome not in RIGHT:
        return NO_TARGET
    return OVERRULED if any(event.decision.corrected for event in group) else ""


def _preferred(
    groups: Iterable[Sequence[Event]], finals: dict[Key, Event | None]
) -> tuple[list[tuple[Event, str, str]], dict[str, str]]:
    """Pairs on whose better half all agree, whichever was labelled; a better half that fails is no example."""
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
    """The preferences that count for each two responses, oldest first: the latest adjudicated, else each person's."""
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


def _one_a_sample(rows: Iterable[DeltaRow]) -> list[DeltaRow]:
    """One row a sample: a correction before anything else, of several the latest."""
    best: dict[str, DeltaRow] = {}
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


def _entry(final: Event, trained: Collection[str], judged: dict[str, Outcome]) -> Entry:
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
        judged=judged,
    )


def _write(delta: Delta, work: Path, folder_of: Callable[[str], Path], replay: int, replay_from: Path | None) -> None:
    work.mkdir()
    ids = {row.event.subject.sample.id for row in delta.rows}
    samples = [_sample(row.event, work, folder_of, ids, answer=row.target, source=row.source) for row in delta.rows]
    again = _replayed(delta, work, folder_of, replay, replay_from)
    write_records(work / TRAIN, [*samples, *again])
    pairs = [
        Preference(
            sample=_sample(event, work, folder_of, ids, answer=chosen, source="pair"),
            chosen=chosen,
            rejected=rejected,
            provenance=_provenance(event, "pair"),
        )
        for event, chosen, rejected in delta.pairs
    ]
    write_records(work / PAIRS, pairs)
    write_records(work / REGRESSION, delta.entries)
    events = [row.event for row in delta.rows] + [event for event, _, _ in delta.pairs]
    values = {
        "rows": len(samples),
        "replayed": len(again),
        "pairs": len(pairs),
        "regression": len(delta.entries),
        "failing": sum(entry.failing for entry in delta.entries),
        "targets": dict(Counter(row.source for row in delta.rows)),
        "splits": dict(Counter(row.event.subject.sample.split for row in delta.rows)),
        "runs": sorted({event.subject.run for event in events}),
        "authors": sorted({event.author for event in events}),
        "left_out": delta.left_out,
    }
    (work / ABOUT).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sample(
    event: Event, work: Path, folder_of: Callable[[str], Path], ids: Collection[str], *, answer: str, source: str
) -> Sample:
    sample = event.subject.sample
    folder = folder_of(event.subject.run)
    kept = {key: value for key, value in sample.model_dump().items() if key not in OF_THE_OLD_ANSWER}
    return Sample(
        **kept
        | {
            "answer": answer,
            "split": "train",
            "images": [_copied(folder, name, work) for name in sample.images],
            "twin_id": sample.twin_id if sample.twin_id in ids else None,
            "provenance": _provenance(event, source),
        }
    )


def _replayed(
    delta: Delta, work: Path, folder_of: Callable[[str], Path], count: int, otherwise: Path | None
) -> list[Sample]:
    """Rows of the samples' own training split, else of ``otherwise``, by a fixed seed; none that the delta has."""
    if not count or not delta.rows:
        return []
    own = {row.event.subject.sample.id for row in delta.rows}
    annotated = dict.fromkeys(folder_of(row.event.subject.run) for row in delta.rows)
    folder, replayed = _training_split([*annotated, *([otherwise] if otherwise else [])])
    rows = [sample for sample in replayed if sample.id not in own and sample.answer]
    drawn = random.Random(0).sample(rows, min(count, len(rows)))
    return [
        sample.model_copy(
            update={
                "images": [_copied(folder, name, work) for name in sample.images],
                "twin_id": None,
                "provenance": {"stage": "replay", "of": sample.provenance},
            }
        )
        for sample in drawn
    ]


def _training_split(folders: Sequence[Path]) -> tuple[Path, list[Sample]]:
    """The first training split of several folders."""
    missing: list[DataError] = []
    for folder in folders:
        try:
            return folder, list(load(find_source(folder, split="train")))
        except DataError as error:
            missing.append(error)
    raise DataError(
        f"--replay: expected a training split beside what was annotated; {missing[0]}, or leave --replay out"
    ) from missing[0]


def _provenance(event: Event, source: str) -> dict[str, Any]:
    sample, decision = event.subject.sample, event.decision
    return {
        "stage": "annotation",
        "event": event.id,
        "author": event.author,
        "at": event.at,
        "run": event.subject.run,
        "variant": event.subject.variant,
        "outcome": decision.outcome,
        "causes": [str(cause) for cause in decision.causes],
        "severity": decision.severity,
        "target": source,
        "response_sha256": response_digest(event.subject.response),
        "split": sample.split,
        "of": sample.provenance,
    }


def _copied(folder: Path, name: str, work: Path) -> str:
    """The name of a copy of an image inside the delta, by its content."""
    source = inside(folder, name)
    if not source.is_file():
        raise DataError(
            f"{source}: expected the image of an annotated item, found none; name its data folder with --data"
        )
    copy = Path("images") / f"{sha256(source)[:20]}{source.suffix.lower()}"
    (work / "images").mkdir(exist_ok=True)
    if not (work / copy).exists():
        shutil.copyfile(source, work / copy)
    return copy.as_posix()


def _digest(folder: Path) -> str:
    """Of the files that say what a delta is; images are named by content."""
    parts = [folder / name for name in (TRAIN, PAIRS, REGRESSION, ABOUT)]
    return digest("".join(sha256(part) for part in parts if part.exists()))
