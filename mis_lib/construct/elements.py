"""The element table: harmful pairs of objects with their benign twins, written by people, in CSV files that people can extend.

``NAME.csv`` holds one row a pair, ``NAME.questions.csv`` the neutral questions that are asked about it and ``NAME.kinds.csv`` and
``NAME.scenes.csv``, if they are there, what kind of thing each object is and what two kinds come to. A *block* is a set of rows for
which the same questions read naturally; several blocks may stand in one file. Questions are of four uses: ``train``, ``test``, ``own`` (for training,
where the harm lies in what is asked) and ``explicit``. A folder of one's own files is read after the built-in ones (``mis construct --elements FOLDER``). Nothing is repaired in reading: a row that is wrong is named with file, row, field and fix.
"""

import csv
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mis_lib.errors import DataError, close_to
from mis_lib.schema import TAXONOMY
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named
from mis_lib.text.roles import Role, roles_of

# ---------- CSV tables that people write: every line becomes a checked row, and what is wrong is named with file, row, field and fix.
#
# Nothing is repaired in reading. Problems are collected, so that one run names them all.

R = TypeVar("R", bound="TableRow")


class TableRow(BaseModel):
    """One line of a CSV file; ``file`` and ``row`` (from 1, header included) say where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    file: str
    row: int
    block: str = Field(pattern=r"^[a-z0-9_-]+$")


def read_tables(files: Iterable[Path], kind: type[R], problems: list[str]) -> list[R]:
    """All rows of several files; what is wrong in them is added to ``problems``."""
    rows: list[R] = []
    for file in files:
        for number, values in _lines(file, kind, problems):
            try:
                rows.append(kind(file=file.name, row=number, **values))
            except ValidationError as error:
                problems += [_explain(file, number, problem) for problem in error.errors()]
    return rows


def _lines(file: Path, kind: type[TableRow], problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and values of each row; what is wrong with the file as a whole goes to ``problems``."""
    columns = [name for name in kind.model_fields if name not in ("file", "row")]
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
        rows = list(csv.reader(text.splitlines(keepends=True), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{file}: expected a CSV file in UTF-8: {error}; save it again as 'CSV UTF-8'")
        return
    header = rows[0] if rows else []
    if sorted(header) != sorted(columns):
        problems.append(
            f"{file}, row 1: expected the columns {','.join(columns)}, found {','.join(header) or 'nothing'}"
        )
        return
    for number, values in enumerate(rows[1:], 2):
        if not any(values):
            continue
        if len(values) != len(header):
            problems.append(
                f"{file}, row {number}: expected {len(header)} fields, found {len(values)}; "
                "put quotes around texts that contain commas"
            )
            continue
        yield number, dict(zip(header, values, strict=True))


def _explain(file: Path, row: int, problem: Any) -> str:
    place = f"field {'.'.join(map(str, problem['loc']))!r}: " if problem["loc"] else ""
    found = f", found {problem['input']!r:.80}" if problem["loc"] else ""
    return f"{file}, row {row}: {place}{problem['msg'].removeprefix('Value error, ')}{found}"


# ---------- Rows of the element table (``elements``): a pair of objects with its twin, and a question. A row that is wrong says which field and why.

Use = Literal["train", "own", "test", "explicit"]


class Element(TableRow):
    """A harmful pair of objects (image 1, image 2), its texts, and the twin that differs in one image and is harmless."""

    level: Literal["easy", "hard"]
    category: str
    sub_category: str
    object_1: str
    object_2: str
    risk: str = Field(min_length=1)
    safe_alternative: str = Field(min_length=1)
    twin_object_1: str
    twin_object_2: str
    twin_answer: str = Field(min_length=1)

    @property
    def pair(self) -> tuple[str, str]:
        """What the two images of the harmful item show."""
        return self.object_1, self.object_2

    @property
    def twin_pair(self) -> tuple[str, str]:
        """What the two images of the benign twin show."""
        return self.twin_object_1, self.twin_object_2

    @field_validator("object_1", "object_2", "twin_object_1", "twin_object_2")
    @classmethod
    def _can_be_drawn(cls, name: str) -> str:
        if name not in concepts():
            raise ValueError(f"expected a name of mis_lib/text/concepts.csv{close_to(name, concepts())}")
        return name

    @field_validator("category")
    @classmethod
    def _is_known(cls, category: str) -> str:
        if category not in TAXONOMY:
            raise ValueError(f"expected one of {', '.join(TAXONOMY)}{close_to(category, TAXONOMY)}")
        return category

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sub_category not in TAXONOMY[self.category]:
            raise ValueError(
                f"sub_category: expected one of {', '.join(TAXONOMY[self.category])} "
                f"for category {self.category!r}, found {self.sub_category!r}"
            )
        changed = (self.object_1 != self.twin_object_1) + (self.object_2 != self.twin_object_2)
        if changed != 1:
            raise ValueError(
                f"twin_object_1, twin_object_2: expected exactly one object to differ from {self.pair}, "
                f"found {changed}: {self.twin_pair}"
            )
        return self


class QuestionRow(TableRow):
    """One question of a block.

    ``own`` ones are for training, of a block whose harm lies in what is asked (a swap, a caption) rather than in the two things: no open
    question may stand in their place. ``explicit`` ones name the harm and are asked in training only, about harmful pairs.
    """

    use: Use
    question: str = Field(min_length=1)

    @field_validator("question")
    @classmethod
    def _points_at_both_images(cls, question: str) -> str:
        missing = [words for words in ("first image", "second image") if words not in question.lower()]
        if missing:
            raise ValueError(f"expected the words {' and '.join(map(repr, missing))} in it")
        return question


# ---------- Kinds and scenes: what an object is in the light of a block's questions, and what two kinds amount to together.
#
# A perception that goes on "They show alcohol and a vehicle to drive." says in words what the risk hangs on: not these two names, of which
# training never showed this pair, but two kinds, which it showed together many times. The scene says what the two come to ("drunk driving" against "a dinner
# with drinks"), and from it follows whether it can do harm. Step by step each of these is a table to learn; from two names straight to the verdict
# it is an exclusive or, which a small model hardly learns.
#
# ``NAME.kinds.csv`` has one row for each kind of a block and image, ``NAME.scenes.csv`` one for each pair of kinds; a block without them is labelled
# without these sentences. A kind describes: it names no object of its block, which a judge would count as seen, and no risk, which is for the
# reasoning to find. A scene stands for one verdict, so its two kinds are not harmful in one row and harmless in another.

KINDS_SUFFIX, SCENES_SUFFIX = ".kinds.csv", ".scenes.csv"

Cell = tuple[str, str, str]  # block, kind of image 1, kind of image 2
Objects = Mapping[tuple[str, int], Mapping[str, str]]  # (block, image) -> object -> where it stands, in words


class KindRow(TableRow):
    """One kind and the objects that are of it in one image of a block, separated by semicolons in the file."""

    image: int = Field(ge=1, le=2)
    kind: str = Field(min_length=1, pattern=r"^[^.;!?]+$")
    objects: tuple[str, ...] = Field(min_length=1)

    @field_validator("objects", mode="before")
    @classmethod
    def _split(cls, listed: object) -> object:
        return [name.strip() for name in listed.split(";")] if isinstance(listed, str) else listed

    @field_validator("kind")
    @classmethod
    def _names_no_risk(cls, kind: str) -> str:
        if Role.RISK in roles_of(f"They show {kind}."):
            raise ValueError("expected words that describe; a risk is named by the reasoning, not by the perception")
        return kind


class SceneRow(TableRow):
    """What two kinds of a block amount to together."""

    kind_1: str = Field(min_length=1)
    kind_2: str = Field(min_length=1)
    scene: str = Field(min_length=1, pattern=r"^[^.;!?]+$")

    @property
    def cell(self) -> "Cell":
        """What it is looked up by."""
        return self.block, self.kind_1, self.kind_2


def kinds_by_place(rows: Iterable[KindRow]) -> dict[tuple[str, int], dict[str, str]]:
    """(block, image) -> object -> kind."""
    known: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        known.setdefault((row.block, row.image), {}).update(dict.fromkeys(row.objects, row.kind))
    return known


def wrong_kinds(rows: Iterable[KindRow], objects: Objects) -> Iterator[str]:
    """What is wrong with the kinds beside the rows of the element table, in words: file, row and fix.

    Args:
        rows: all kinds.
        objects: where each object of each block and image stands in the element table.
    """
    listed = list(rows)
    seen: dict[tuple[str, int, str], KindRow] = {}
    for row in listed:
        shown = objects.get((row.block, row.image), {})
        for name in row.objects:
            first = seen.setdefault((row.block, row.image, name), row)
            if first is not row:
                yield (
                    f"{row.file}, row {row.row}: the object {name!r} has a kind in {first.file}, row {first.row}; keep one"
                )
            if name not in shown:
                yield (
                    f"{row.file}, row {row.row}: field 'objects': expected objects that image {row.image} of block "
                    f"{row.block!r} shows, found {name!r}"
                )
        if named := [name for name in shown if is_named(f"They show {row.kind}.", name)]:
            yield (
                f"{row.file}, row {row.row}: field 'kind': {row.kind!r} names the object {named[0]!r} of its block, "
                "which a judge would count as seen; use other words"
            )
    described = {row.block: row.file for row in listed}
    for (block, image), places in objects.items():
        for name, place in places.items():
            if block in described and (block, image, name) not in seen:
                yield f"{place}: the object {name!r} has no kind, while others of block {block!r} have; add it to {described[block]}"


def wrong_scenes(rows: Iterable[SceneRow], cells: Mapping[Cell, Mapping[bool, str]]) -> Iterator[str]:
    """What is wrong with the scenes beside the pairs of kinds that the element table puts together.

    Args:
        rows: all scenes.
        cells: where a pair of kinds stands first as a harmful one (True) and as a harmless one (False), in words.
    """
    seen: dict[Cell, SceneRow] = {}
    for row in rows:
        first = seen.setdefault(row.cell, row)
        if first is not row:
            yield f"{row.file}, row {row.row}: these two kinds have a scene in {first.file}, row {first.row}; keep one"
        elif row.cell not in cells:
            yield (
                f"{row.file}, row {row.row}: expected kinds that a row of block {row.block!r} puts together, "
                f"found {row.kind_1!r} and {row.kind_2!r}"
            )
        elif len(cells[row.cell]) == 2:
            yield (
                f"{row.file}, row {row.row}: {row.kind_1!r} and {row.kind_2!r} are harmful in {cells[row.cell][True]} and harmless in "
                f"{cells[row.cell][False]}; one scene cannot stand for both, so divide one of the kinds"
            )
        elif False in cells[row.cell] and Role.RISK in roles_of(f"Together that is {row.scene}."):
            yield f"{row.file}, row {row.row}: field 'scene': {row.scene!r} names a risk, but the pairs of these kinds are harmless"
    told = {row.block: row.file for row in seen.values()}
    for (block, *kinds), places in cells.items():
        if block in told and (block, *kinds) not in seen:
            place = next(iter(places.values()))
            yield f"{place}: {' and '.join(map(repr, kinds))} have no scene, while others of block {block!r} have; add it to {told[block]}"


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
