"""The element table: harmful pairs of objects with their benign twins, written by people, in CSV files that people can extend.

``NAME.csv`` holds one row a pair, ``NAME.questions.csv`` the neutral questions that are asked about it and ``NAME.kinds.csv`` and
``NAME.scenes.csv``, if they are there, what kind of thing each object is and what two kinds come to (``kinds``). A *block* is a set of rows for
which the same questions read naturally; several blocks may stand in one file. Questions are of four uses: ``train``, ``test``, ``own`` (for training,
where the harm lies in what is asked) and ``explicit``. A folder of one's own files is read after the built-in ones (``mis construct --elements FOLDER``). Nothing is repaired in reading: a row that is wrong is named with file, row, field and fix.
"""

import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mis_lib.construct.csv_tables import read_tables
from mis_lib.construct.element_rows import Element, QuestionRow
from mis_lib.construct.kinds import (
    KINDS_SUFFIX,
    SCENES_SUFFIX,
    Cell,
    KindRow,
    SceneRow,
    kinds_by_place,
    wrong_kinds,
    wrong_scenes,
)
from mis_lib.errors import DataError

BUILT_IN = Path(str(importlib.resources.files("mis_lib.construct"))) / "elements"
QUESTIONS_SUFFIX = ".questions.csv"
SHOWN_PROBLEMS = 20


class Questions(NamedTuple):
    """The questions of one block by use; those of the use ``own`` are among those for training."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    explicit: tuple[str, ...]


@dataclass(frozen=True)
class ElementTable:
    """All rows in the order of files and lines, the questions of every block, and a hash of the files' bytes."""

    elements: tuple[Element, ...]
    questions: Mapping[str, Questions]
    bound: frozenset[str]  # blocks whose questions for training are their own: the harm lies in what is asked
    kinds: Mapping[tuple[str, int], Mapping[str, str]]  # (block, image) -> object -> kind
    scenes: Mapping[Cell, str]
    digest: str

    def kinds_of(self, block: str, pair: tuple[str, str]) -> tuple[str, ...]:
        """The kinds of a pair's two objects; empty where the block has none."""
        known = [self.kinds.get((block, image), {}).get(name) for image, name in enumerate(pair, 1)]
        return tuple(kind for kind in known if kind) if all(known) else ()

    def scene_of(self, block: str, pair: tuple[str, str]) -> str:
        """What the kinds of a pair come to together; empty where that is not said."""
        kinds = self.kinds_of(block, pair)
        return self.scenes.get((block, *kinds), "") if len(kinds) == 2 else ""


def load_elements(extra: Path | None = None) -> ElementTable:
    """Read the built-in table and, after it, the files of a folder of one's own.

    Raises:
        DataError: the folder is missing or empty, or rows are wrong (each with file, row, field and what was expected).
    """
    files = sorted(BUILT_IN.glob("*.csv"))
    if extra is not None:
        found = sorted(extra.glob("*.csv"))
        if not found:
            raise DataError(
                f"{extra}: expected a folder with NAME.csv and NAME{QUESTIONS_SUFFIX}, found no CSV file there"
            )
        files += found
    problems: list[str] = []
    questions = [file for file in files if file.name.endswith(QUESTIONS_SUFFIX)]
    described = [file for file in files if file.name.endswith(KINDS_SUFFIX)]
    staged = [file for file in files if file.name.endswith(SCENES_SUFFIX)]
    elements = read_tables([file for file in files if file not in {*questions, *described, *staged}], Element, problems)
    asked = read_tables(questions, QuestionRow, problems)
    kinds, scenes = read_tables(described, KindRow, problems), read_tables(staged, SceneRow, problems)
    if not problems:  # a row that was left out would only cause more complaints
        problems = [*_repeated_pairs(elements), *_repeated_questions(asked), *_missing_questions(elements, asked)]
        problems += wrong_kinds(kinds, _objects(elements))
    table = ElementTable(
        tuple(elements),
        _by_block(asked),
        _bound(asked),
        kinds_by_place(kinds),
        {row.cell: row.scene for row in scenes},
        _digest(files),
    )
    if not problems:
        problems += wrong_scenes(scenes, _cells(table))
    if problems:
        more = f"\n... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError("\n".join(problems[:SHOWN_PROBLEMS]) + more)
    return table


def _repeated_pairs(elements: Iterable[Element]) -> Iterator[str]:
    """Within a block, one pair of objects with one and the same question can have one answer only."""
    seen: dict[tuple[str, tuple[str, str]], tuple[Element, bool]] = {}
    for element in elements:
        for pair, harmful in ((element.pair, True), (element.twin_pair, False)):
            first, was_harmful = seen.setdefault((element.block, pair), (element, harmful))
            if was_harmful != harmful or (harmful and first is not element):
                yield (
                    f"{element.file}, row {element.row}: the pair {pair} is already in this block "
                    f"({first.file}, row {first.row}); replace one of its objects or remove the row"
                )


def _repeated_questions(asked: Iterable[QuestionRow]) -> Iterator[str]:
    seen: dict[str, QuestionRow] = {}
    for row in asked:
        first = seen.setdefault(row.question.lower(), row)
        if first is not row:
            yield (
                f"{row.file}, row {row.row}: field 'question': the same question stands in {first.file}, row {first.row} "
                f"(block {first.block}); word one of them differently"
            )


def _missing_questions(elements: Iterable[Element], asked: Sequence[QuestionRow]) -> Iterator[str]:
    have = {(row.block, "train" if row.use == "own" else row.use) for row in asked}
    blocks = {element.block: element for element in reversed(list(elements))}
    for block, element in sorted(blocks.items()):
        for use in ("train", "test"):
            if (block, use) not in have:
                name = element.file.removesuffix(".csv") + QUESTIONS_SUFFIX
                yield f"{element.file}, row {element.row}: block {block!r} has no {use!r} question; add one to {name}"
    bound = _bound(asked)
    for row in asked:
        if row.use == "train" and row.block in bound:
            yield (
                f"{row.file}, row {row.row}: field 'use': block {row.block!r} has 'own' questions, too; expected all of its "
                "questions for training to be 'own', or none"
            )
        if row.block not in blocks:
            yield f"{row.file}, row {row.row}: field 'block': no row of any table belongs to block {row.block!r}"


def _objects(elements: Iterable[Element]) -> dict[tuple[str, int], dict[str, str]]:
    """Where each object of each block and image stands first."""
    places: dict[tuple[str, int], dict[str, str]] = {}
    for element in elements:
        for pair in (element.pair, element.twin_pair):
            for image, name in enumerate(pair, 1):
                shown = places.setdefault((element.block, image), {})
                shown.setdefault(name, f"{element.file}, row {element.row}")
    return places


def _cells(table: ElementTable) -> dict[Cell, dict[bool, str]]:
    """Where each pair of kinds stands first as a harmful one (True) and as a harmless one (False)."""
    cells: dict[Cell, dict[bool, str]] = {}
    for element in table.elements:
        for pair, harmful in ((element.pair, True), (element.twin_pair, False)):
            if len(kinds := table.kinds_of(element.block, pair)) == 2:
                cells.setdefault((element.block, *kinds), {}).setdefault(harmful, f"{element.file}, row {element.row}")
    return cells


def _by_block(asked: Iterable[QuestionRow]) -> dict[str, Questions]:
    uses: dict[str, dict[str, list[str]]] = {}
    for row in asked:
        uses.setdefault(row.block, {"train": [], "own": [], "test": [], "explicit": []})[row.use].append(row.question)
    return {
        block: Questions(tuple(of["train"] + of["own"]), tuple(of["test"]), tuple(of["explicit"]))
        for block, of in uses.items()
    }


def _bound(asked: Iterable[QuestionRow]) -> frozenset[str]:
    return frozenset(row.block for row in asked if row.use == "own")


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
