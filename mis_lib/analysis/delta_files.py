"""A training delta on disk: an ordinary data folder, in versions that are never changed.

    OUT/NAME/vN/  train.jsonl        samples with the answer that should have been given, then rows of the old training data
                  pairs.jsonl        {sample, chosen, rejected} for preference training
                  regression.jsonl   every response whose outcome people agree on (analysis/regression.py)
                  delta.json         counts, sources, and what was left out, with the reason
                  images/            by content hash

Each row says which decision it comes from. The same decisions again give the same version.
"""

import hashlib
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mis_lib.annotate.decisions import Event, response_digest
from mis_lib.annotate.delta import Delta
from mis_lib.data.paths import inside
from mis_lib.data.preferences import PAIRS, Preference
from mis_lib.data.sources import find_source, load
from mis_lib.data.turns import LATER, SEGMENTS
from mis_lib.errors import DataError
from mis_lib.files import sha256, write_records
from mis_lib.results.regression import REGRESSION
from mis_lib.schema import Record, Sample

TRAIN, ABOUT = "train.jsonl", "delta.json"
OF_THE_OLD_ANSWER = (SEGMENTS, LATER)  # keys of a sample that tell of its answer and not of the new one


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


def write_delta(delta: Delta, out: Path, name: str, folder_of: Callable[[str], Path], *, replay: int = 0) -> About:
    """Write the next version of ``out/name``, all or nothing; the newest one is returned if it holds the same.

    Args:
        delta: what to write.
        out: folder of all deltas.
        name: of this one.
        folder_of: the folder that the images of a run's samples are relative to.
        replay: so many rows of the training split beside those samples go along, so that what was learned before is not forgotten.

    Raises:
        DataError: there is nothing to write, or an image is not there.
    """
    if not delta.rows and not delta.pairs:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in Counter(delta.left_out.values()).items())
        raise DataError(f"expected decided failures to learn from, found none{f' ({reasons})' if reasons else ''}")
    parent = out / name
    parent.mkdir(parents=True, exist_ok=True)
    taken = sorted(int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".making-") as made:
        work = Path(made) / "delta"
        _write(delta, work, folder_of, replay)
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


def _write(delta: Delta, work: Path, folder_of: Callable[[str], Path], replay: int) -> None:
    work.mkdir()
    ids = {row.event.subject.sample.id for row in delta.rows}
    samples = [_sample(row.event, work, folder_of, ids, answer=row.target, source=row.source) for row in delta.rows]
    again = _replayed(delta, work, folder_of, replay)
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


def _replayed(delta: Delta, work: Path, folder_of: Callable[[str], Path], count: int) -> list[Sample]:
    """Rows of the training split that lies beside the samples, drawn by a fixed seed; never one that the delta has its own row of."""
    if not count or not delta.rows:
        return []
    folder = folder_of(delta.rows[0].event.subject.run)
    own = {row.event.subject.sample.id for row in delta.rows}
    try:
        beside = load(find_source(folder, split="train"))
    except DataError as error:
        raise DataError(
            f"--replay: expected a training split beside what was annotated; {error}, or leave --replay out"
        ) from error
    rows = [sample for sample in beside if sample.id not in own and sample.answer]
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
    return hashlib.sha256("".join(sha256(part) for part in parts if part.exists()).encode()).hexdigest()
