"""What people give a construction: seeds to make items from, and decisions about items.

Built-in seeds are the hazards of the element table: the risk sentences of a few neighbouring rows, not requests. A seed
file is CSV or JSON Lines. Its text is in a field that published sets use (``text``, ``goal`` of AdvBench, ``question``,
``prompt`` ...). A picture is in ``image``, relative to the file's folder and never outside it.

People have the last word on what rules and judge let through. Every run writes ``OUT/review.csv``, one row per such
item, with the decisions that are in it already. A person writes ``keep`` or ``drop`` into the column ``decision``, a
reason into ``note``, and runs again. A JSON Lines file with the same fields (``--set decisions=FILE``) takes
precedence.

Ids are positions in a list, and another seed or image maker puts another item there. So a decision is about what its
row showed, texts and pixels; ``content`` is their hash. A decision without a matching item stays at the end of the
table.
"""

import csv
import io
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from mis_lib.clients.protocol import digest, digest_bytes
from mis_lib.construct.elements import Element, load_elements
from mis_lib.construct.pairs import assign_sides, drop_leaks
from mis_lib.construct.stages.records import Draft, Seed
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_jsonl, spreadsheet_safe, write_atomic
from mis_lib.schema import TAXONOMY, Record

TEXT_FIELDS = ("text", "goal", "question", "prompt", "instruction", "query", "redteam_query")
SAFE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
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


class ReviewChoice(StrEnum):
    """What a person says about an item."""

    KEEP = "keep"
    DROP = "drop"


class ReviewDecision(Record):
    """One person's decision about one item."""

    id: str
    decision: ReviewChoice
    note: str = ""
    content: str
    """Hash of what the person was shown."""
    question: str = ""
    """For people, where the item is not there now."""


def built_in_seeds(items: int, per_seed: int, seed: int) -> list[Seed]:
    """Enough seeds for ``items`` items, drawn from all blocks of the element table in turn.

    Raises:
        SettingsError: the table has not so many rows.
    """
    groups = list(_groups(per_seed, seed))
    wanted = -(-items // per_seed)
    if wanted > len(groups):
        rows = sum(len(group) for group in groups)
        raise SettingsError(
            f"items: expected at most {rows} from the built-in seeds, found {items}; give more with --seeds FILE"
        )
    groups = groups[:wanted]
    groups[-1] = groups[-1][: items - per_seed * (wanted - 1)]
    return [
        Seed(
            id=f"hazard-{number:04d}",
            text="\n".join(element.risk for element in group),
            category=group[0].category,
            sub_category=group[0].sub_category,
        )
        for number, group in enumerate(groups, 1)
    ]


def read_seeds(path: Path) -> list[Seed]:
    """The seeds of a CSV or JSON Lines file, in order.

    Raises:
        DataError: the file or a row of it cannot be used; names file, row, field and fix.
    """
    seeds: list[Seed] = []
    names: set[str] = set()
    for number, row in _rows(path):
        seed = _seed(path, number, row)
        if seed.id in names:
            raise DataError(f"{path}, row {number}: field 'id': {seed.id!r} is in an earlier row, too")
        names.add(seed.id)
        seeds.append(seed)
    if not seeds:
        raise DataError(f"{path}: expected seeds, found no row")
    return seeds


def read_decisions(path: Path) -> dict[str, ReviewDecision]:
    """The decisions of a CSV or JSON Lines file by the content they are about; rows without a decision are passed over.

    Raises:
        DataError: the file is missing or is no table with ``id`` and ``decision``; a decision is neither keep nor drop,
            or lacks the hash of its content.
    """
    decisions: dict[str, ReviewDecision] = {}
    for number, row in enumerate(_decision_rows(path), 1 if path.suffix == ".jsonl" else 2):
        if not {"id", "decision"} <= row.keys():
            raise DataError(
                f"{path}, row {number}: expected the fields id and decision, found {', '.join(map(str, row))}"
            )
        word = str(row["decision"] or "").strip().lower()
        if not word:
            continue
        if word not in [*ReviewChoice]:
            raise DataError(f"{path}, row {number}: field 'decision': expected keep, drop or nothing, found {word!r}")
        said = {name: str(row.get(name) or "").strip() for name in ("id", "note", "content", "question")}
        if not said["content"]:
            raise DataError(
                f"{path}, row {number}: field 'content': expected the hash that {REVIEW} gives the item, found none; "
                f"move this file away, run again without it, and enter the decisions in the {REVIEW} that is written"
            )
        decisions[said["content"]] = ReviewDecision(decision=ReviewChoice(word), **said)
    return decisions


def write_review(path: Path, items: Iterable[Mapping[str, Any]], decisions: Mapping[str, ReviewDecision]) -> int:
    """Write the table for people, in which no cell is a formula to a spreadsheet.

    Returns how many decisions match no item in it; they are kept at its end.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = list(items)
    for row in rows:
        said = decisions.get(row["content"])
        decided = {"decision": said.decision.value, "note": said.note} if said else {}
        writer.writerow({name: spreadsheet_safe(value) for name, value in {**row, **decided}.items()})
    shown = {row["content"] for row in rows}
    unused = [said for content, said in decisions.items() if content not in shown]
    records = (said.model_dump(mode="json") for said in unused)
    writer.writerows({name: spreadsheet_safe(value) for name, value in record.items()} for record in records)
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


def _groups(size: int, seed: int) -> Iterator[list[Element]]:
    """Groups of ``size`` rows of one block each, dealt from the blocks in turn."""
    rows, _ = drop_leaks(assign_sides(load_elements().elements))
    blocks: dict[str, list[Element]] = {}
    for scenario in rows:
        blocks.setdefault(scenario.element.block, []).append(scenario.element)
    decks = []
    for block, elements in sorted(blocks.items()):
        random.Random(f"{seed}|seeds|{block}").shuffle(elements)
        decks.append([elements[at : at + size] for at in range(0, len(elements) - size + 1, size)])
    for turn in range(max(map(len, decks))):
        yield from (deck[turn] for deck in decks if turn < len(deck))


def _seed(path: Path, number: int, row: Mapping[str, Any]) -> Seed:
    text = next((str(row[name]).strip() for name in TEXT_FIELDS if row.get(name)), "")
    image = str(row["image"]).strip() if row.get("image") else None
    if not text and image is None:
        raise DataError(
            f"{path}, row {number}: expected a text in one of {', '.join(TEXT_FIELDS)}, or an image; found neither"
        )
    category = str(row.get("category") or "") or None
    if category is not None and category not in TAXONOMY:
        category = None  # other sets' categories are not MIS's; the teacher decides
    name = str(row.get("id") or f"seed-{number:05d}")
    if not re.fullmatch(SAFE_ID, name):
        raise DataError(f"{path}, row {number}: field 'id': expected letters, digits, '.', '_' and '-', found {name!r}")
    if image is not None:
        _check_inside(path, number, image)
    return Seed(id=name, text=text, category=category, image=image, source=path.name)


def _check_inside(path: Path, number: int, image: str) -> None:
    folder = path.parent.resolve()
    target = (folder / image).resolve()
    if not target.is_relative_to(folder) or not target.is_file():
        raise DataError(
            f"{path}, row {number}: field 'image': expected a file inside {folder}, found {image!r}; "
            "put it there and give its path relative to the seed file"
        )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".jsonl":
        yield from enumerate(read_jsonl(path), 1)
        return
    if path.suffix != ".csv":
        raise DataError(f"{path}: expected a file ending in .csv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows: Sequence[Mapping[str, Any]] = list(csv.DictReader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}") from error
    yield from enumerate(rows, 2)


def _decision_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
        return list(csv.DictReader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8 or a .jsonl file: {error}") from error
