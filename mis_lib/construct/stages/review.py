"""Human decisions: exported as a table that a spreadsheet opens, imported from it again. People have the last word on what rules and judge let through.

``OUT/review.csv`` is written by every run, one row for every item that rules and judge let through, with the decisions that are in it already.
Write ``keep`` or ``drop`` into the column ``decision``, a reason into ``note``, and run again. JSON Lines with the same fields is read as well
(``--decisions FILE``); it wins over the table.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from mis_lib.construct.stages.records import Draft
from mis_lib.errors import DataError
from mis_lib.files import read_jsonl, write_atomic
from mis_lib.schema import Record

REVIEW = "review.csv"
COLUMNS: tuple[str, ...] = (
    "id",
    "decision",
    "note",
    "category",
    "question",
    "risk",
    "object_1",
    "object_2",
    "image_1",
    "image_2",
)


class Choice(StrEnum):
    """What a person says about an item."""

    KEEP = "keep"
    DROP = "drop"


class Decision(Record):
    """One person's decision about one item."""

    id: str
    decision: Choice
    note: str = ""


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions of a CSV or JSON Lines file by item; rows without a decision are passed over.

    Raises:
        DataError: the file is missing or no table with ``id`` and ``decision``, or a decision is neither keep nor drop.
    """
    decisions: dict[str, Decision] = {}
    for number, row in enumerate(_rows(path), 1 if path.suffix == ".jsonl" else 2):
        if not {"id", "decision"} <= row.keys():
            raise DataError(
                f"{path}, row {number}: expected the fields id and decision, found {', '.join(map(str, row))}"
            )
        word = str(row["decision"] or "").strip().lower()
        if not word:
            continue
        if word not in [*Choice]:
            raise DataError(f"{path}, row {number}: field 'decision': expected keep, drop or nothing, found {word!r}")
        name = str(row["id"])
        decisions[name] = Decision(id=name, decision=Choice(word), note=str(row.get("note") or "").strip())
    return decisions


def write_review(path: Path, items: Iterable[Mapping[str, Any]], decisions: Mapping[str, Decision]) -> None:
    """Write the table for people; decisions about items that are not in it now are kept at its end."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = {str(item["id"]): dict(item) for item in items}
    for name in [*rows, *(name for name in decisions if name not in rows)]:
        said = decisions.get(name)
        known = {"decision": said.decision.value, "note": said.note} if said else {}
        writer.writerow({"id": name, **rows.get(name, {}), **known})
    write_atomic(path, stream.getvalue().encode())


def row_of(draft: Draft) -> dict[str, str]:
    """What a person needs to see of a draft."""
    row = {"id": draft.id, "category": draft.category, "question": draft.question, "risk": draft.risk}
    return {
        **row,
        **{f"object_{n}": name for n, name in enumerate(draft.objects, 1)},
        **{f"image_{n}": path for n, path in enumerate(draft.images, 1)},
    }


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
        return list(csv.DictReader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8 or a .jsonl file: {error}") from error
