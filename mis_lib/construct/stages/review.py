"""Human decisions: exported as a table that a spreadsheet opens, imported from it again. People have the last word on what rules and judge let through.

``OUT/review.csv`` is written by every run, one row for every item that rules and judge let through, with the decisions that are in it already.
Write ``keep`` or ``drop`` into the column ``decision``, a reason into ``note``, and run again. JSON Lines with the same fields is read as well
(``--set decisions=FILE``); it wins over the table.

Ids are places in a list, and another seed or image maker puts another item there. So a decision is about what its row showed, texts and pixels, of
which ``content`` is the hash: it holds for nothing else, and where nothing is like that now it stays at the end of the table.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from mis_lib.clients.protocol import digest, digest_bytes
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
    "content",
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
    content: str
    """Hash of what the person was shown."""
    question: str = ""
    """For people: what a decision was about whose item is not there now."""


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions of a CSV or JSON Lines file by the content they are about; rows without a decision are passed over.

    Raises:
        DataError: the file is missing or no table with ``id`` and ``decision``, or a decision is neither keep nor drop or says not about what.
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
        said = {name: str(row.get(name) or "").strip() for name in ("id", "note", "content", "question")}
        if not said["content"]:
            raise DataError(
                f"{path}, row {number}: field 'content': expected the hash that {REVIEW} gives the item, found none; move this file "
                f"away, run again without it, and enter the decisions in the {REVIEW} that is written"
            )
        decisions[said["content"]] = Decision(decision=Choice(word), **said)
    return decisions


def write_review(path: Path, items: Iterable[Mapping[str, Any]], decisions: Mapping[str, Decision]) -> int:
    """Write the table for people, and how many decisions are about nothing that is in it now: they are kept at its end."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = list(items)
    for row in rows:
        said = decisions.get(row["content"])
        writer.writerow({**row, **({"decision": said.decision.value, "note": said.note} if said else {})})
    shown = {row["content"] for row in rows}
    unused = [said for content, said in decisions.items() if content not in shown]
    writer.writerows(said.model_dump(mode="json") for said in unused)
    write_atomic(path, stream.getvalue().encode())
    return len(unused)


def row_of(draft: Draft, shown: Sequence[bytes]) -> dict[str, str]:
    """What a person needs to see of a draft; ``shown``: the content of its images."""
    about = {
        "category": draft.category,
        "question": draft.question,
        "risk": draft.risk,
        **{f"object_{n}": name for n, name in enumerate(draft.objects, 1)},
    }
    return {
        "id": draft.id,
        **about,
        **{f"image_{n}": path for n, path in enumerate(draft.images, 1)},
        "content": f"item-{digest([about, *map(digest_bytes, shown)])}",  # never a number to a spreadsheet
    }


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
        return list(csv.DictReader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8 or a .jsonl file: {error}") from error
