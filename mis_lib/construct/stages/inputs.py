"""Seeds: what items are made from. Built in are the hazards of the element table; a file of one's own holds a seed set in any of the usual forms.

A built-in seed is the risk sentences of a few neighbouring rows: hazards, not requests. A seed file is CSV or JSON Lines; the text is looked for
under the names that published sets use (``text``, ``goal`` of AdvBench, ``question``, ``prompt`` ...), a picture under ``image``, relative to the
file's folder and never outside it.
"""

import csv
import io
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mis_lib.construct.element_rows import Element
from mis_lib.construct.elements import load_elements
from mis_lib.construct.filters import drop_leaks
from mis_lib.construct.pairs import place
from mis_lib.construct.stages.records import Seed
from mis_lib.data.taxonomy import TAXONOMY
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_jsonl

TEXT_FIELDS = ("text", "goal", "question", "prompt", "instruction", "query", "redteam_query")
SAFE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"


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
            raise DataError(f"{path}, row {number}: field 'id': {seed.id!r} stands in an earlier row already")
        names.add(seed.id)
        seeds.append(seed)
    if not seeds:
        raise DataError(f"{path}: expected seeds, found no row")
    return seeds


def _groups(size: int, seed: int) -> Iterator[list[Element]]:
    """Groups of ``size`` rows of one block each, dealt from the blocks in turn."""
    rows, _ = drop_leaks(place(load_elements().elements))
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
            f"{path}, row {number}: field 'image': expected a file inside {folder}, found {image!r}; put it there and give "
            "its path relative to the seed file"
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
