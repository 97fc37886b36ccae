"""The element table: harmful pairs of objects with their benign twins, in CSV files that people write and can extend.

    NAME.csv            one row per pair: what both images show, the risk, the safe alternative, the twin
    NAME.questions.csv  the neutral questions that are asked about it
    NAME.kinds.csv      optional: what kind of thing each object is
    NAME.scenes.csv     optional: what two kinds amount to together

A *block* is a set of rows for which the same questions read naturally; one file may hold several blocks. A folder with
additional files is read after the built-in ones (``mis construct --elements FOLDER``). Reading repairs nothing: every
wrong row is named with file, row, field and fix.

Kinds and scenes give a label intermediate steps: "They show alcohol and a vehicle to drive. Together that is drunk
driving." Training never shows the pair of names that a test item has, but it shows the two kinds together many times.
Each step is a table to learn; from two names straight to the verdict it is an exclusive or, which a small model hardly
learns. A kind describes. It names no object of its block, which a judge would count as seen, and no risk, which is for
the reasoning to find. A scene has one verdict, so its two kinds are not harmful in one row and harmless in another.
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

BUILT_IN = Path(str(importlib.resources.files("mis_lib.construct"))) / "elements"
QUESTIONS_SUFFIX, KINDS_SUFFIX, SCENES_SUFFIX = ".questions.csv", ".kinds.csv", ".scenes.csv"
SHOWN_PROBLEMS = 20

R = TypeVar("R", bound="TableRow")
Cell = tuple[str, str, str]  # block, kind of image 1, kind of image 2
Places = Mapping[tuple[str, int], Mapping[str, str]]  # (block, image) -> object -> file and row, in words


class TableRow(BaseModel):
    """One line of a CSV file; ``file`` and ``row`` (from 1, header included) say where it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    file: str
    row: int
    block: str = Field(pattern=r"^[a-z0-9_-]+$")


class Element(TableRow):
    """A harmful pair of objects (image 1, image 2), its texts, and the harmless twin that differs in one image."""

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
    """One question of a block, for training, for testing, or ``explicit``: it names the harm and is for training only.

    ``own`` questions are for training, too. They belong to blocks whose harm is in what is asked (a swap, a caption)
    and not in the two things, so no open question may replace them.
    """

    use: Literal["train", "own", "test", "explicit"]
    question: str = Field(min_length=1)

    @field_validator("question")
    @classmethod
    def _points_at_both_images(cls, question: str) -> str:
        missing = [words for words in ("first image", "second image") if words not in question.lower()]
        if missing:
            raise ValueError(f"expected the words {' and '.join(map(repr, missing))} in it")
        return question


class KindRow(TableRow):
    """One kind and the objects of this kind in one image of a block, separated by semicolons in the file."""

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
    def cell(self) -> Cell:
        """The key that a scene is found by."""
        return self.block, self.kind_1, self.kind_2


class Questions(NamedTuple):
    """The questions of one block by use; ``own`` ones are among those for training."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    explicit: tuple[str, ...]


@dataclass(frozen=True)
class ElementTable:
    """All rows in the order of files and lines, with the questions, kinds and scenes of their blocks.

    Attributes:
        elements: the rows.
        questions: by block.
        harm_in_question: blocks whose harm is in what is asked: their questions for training are ``own`` ones.
        object_kinds: (block, image) -> object -> kind.
        scenes: two kinds of a block -> what they amount to.
        digest: SHA-256 of the files.
    """

    elements: tuple[Element, ...]
    questions: Mapping[str, Questions]
    harm_in_question: frozenset[str]
    object_kinds: Mapping[tuple[str, int], Mapping[str, str]]
    scenes: Mapping[Cell, str]
    digest: str

    def kinds_of(self, block: str, pair: tuple[str, str]) -> tuple[str, ...]:
        """The kinds of a pair's two objects; empty if the block has none."""
        known = [self.object_kinds.get((block, image), {}).get(name) for image, name in enumerate(pair, 1)]
        return tuple(kind for kind in known if kind) if all(known) else ()

    def scene_of(self, block: str, pair: tuple[str, str]) -> str:
        """What the kinds of a pair amount to together; empty if the block has no scenes."""
        kinds = self.kinds_of(block, pair)
        return self.scenes.get((block, *kinds), "") if len(kinds) == 2 else ""


def load_elements(extra: Path | None = None) -> ElementTable:
    """Read the built-in table and, after it, the files of an additional folder.

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
    suffixes = (QUESTIONS_SUFFIX, KINDS_SUFFIX, SCENES_SUFFIX)
    elements = _read([file for file in files if not file.name.endswith(suffixes)], Element, problems)
    questions = _read([file for file in files if file.name.endswith(QUESTIONS_SUFFIX)], QuestionRow, problems)
    kinds = _read([file for file in files if file.name.endswith(KINDS_SUFFIX)], KindRow, problems)
    scenes = _read([file for file in files if file.name.endswith(SCENES_SUFFIX)], SceneRow, problems)
    if not problems:  # a row that was left out would only cause more complaints
        problems += [
            *_repeated_pairs(elements),
            *_repeated_questions(questions),
            *_missing_questions(elements, questions),
            *_wrong_kinds(kinds, _places(elements)),
        ]
    object_kinds: dict[tuple[str, int], dict[str, str]] = {}
    for row in kinds:
        object_kinds.setdefault((row.block, row.image), {}).update(dict.fromkeys(row.objects, row.kind))
    table = ElementTable(
        elements=tuple(elements),
        questions=_by_block(questions),
        harm_in_question=_with_own_questions(questions),
        object_kinds=object_kinds,
        scenes={row.cell: row.scene for row in scenes},
        digest=_digest(files),
    )
    if not problems:
        problems += _wrong_scenes(scenes, _cells(table))
    if problems:
        more = f"\n... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError("\n".join(problems[:SHOWN_PROBLEMS]) + more)
    return table


def _read(files: Iterable[Path], row_type: type[R], problems: list[str]) -> list[R]:
    """All rows of several files; problems are collected, so that one run names them all."""
    rows: list[R] = []
    for file in files:
        for number, values in _lines(file, row_type, problems):
            try:
                rows.append(row_type(file=file.name, row=number, **values))
            except ValidationError as error:
                problems += [_explain(file, number, problem) for problem in error.errors()]
    return rows


def _lines(file: Path, row_type: type[TableRow], problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and values of each row; what is wrong with the file as a whole goes to ``problems``."""
    columns = [name for name in row_type.model_fields if name not in ("file", "row")]
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark first
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
    field = f"field {'.'.join(map(str, problem['loc']))!r}: " if problem["loc"] else ""
    found = f", found {problem['input']!r:.80}" if problem["loc"] else ""
    return f"{file}, row {row}: {field}{problem['msg'].removeprefix('Value error, ')}{found}"


def _at(row: TableRow) -> str:
    return f"{row.file}, row {row.row}"


def _repeated_pairs(elements: Iterable[Element]) -> Iterator[str]:
    """Within a block, one pair of objects with one and the same question can have one answer only."""
    seen: dict[tuple[str, tuple[str, str]], tuple[Element, bool]] = {}
    for element in elements:
        for pair, harmful in ((element.pair, True), (element.twin_pair, False)):
            first, was_harmful = seen.setdefault((element.block, pair), (element, harmful))
            if was_harmful != harmful or (harmful and first is not element):
                yield (
                    f"{_at(element)}: the pair {pair} is already in this block ({_at(first)}); "
                    "replace one of its objects or remove the row"
                )


def _repeated_questions(questions: Iterable[QuestionRow]) -> Iterator[str]:
    seen: dict[str, QuestionRow] = {}
    for row in questions:
        first = seen.setdefault(row.question.lower(), row)
        if first is not row:
            yield (
                f"{_at(row)}: field 'question': the same question is in {_at(first)} "
                f"(block {first.block}); word one of them differently"
            )


def _missing_questions(elements: Iterable[Element], questions: Sequence[QuestionRow]) -> Iterator[str]:
    have = {(row.block, "train" if row.use == "own" else row.use) for row in questions}
    blocks = {element.block: element for element in reversed(list(elements))}
    for block, element in sorted(blocks.items()):
        for use in ("train", "test"):
            if (block, use) not in have:
                name = element.file.removesuffix(".csv") + QUESTIONS_SUFFIX
                yield f"{_at(element)}: block {block!r} has no {use!r} question; add one to {name}"
    with_own = _with_own_questions(questions)
    for row in questions:
        if row.use == "train" and row.block in with_own:
            yield (
                f"{_at(row)}: field 'use': block {row.block!r} has 'own' questions, too; "
                "expected all of its questions for training to be 'own', or none"
            )
        if row.block not in blocks:
            yield f"{_at(row)}: field 'block': no row of any table belongs to block {row.block!r}"


def _wrong_kinds(kinds: Sequence[KindRow], places: Places) -> Iterator[str]:
    """What is wrong with the kinds, given where each object is in the element table."""
    seen: dict[tuple[str, int, str], KindRow] = {}
    for row in kinds:
        shown = places.get((row.block, row.image), {})
        for name in row.objects:
            first = seen.setdefault((row.block, row.image, name), row)
            if first is not row:
                yield f"{_at(row)}: the object {name!r} has a kind in {_at(first)}; keep one"
            if name not in shown:
                yield (
                    f"{_at(row)}: field 'objects': expected objects that image {row.image} of block {row.block!r} "
                    f"shows, found {name!r}"
                )
        if named := [name for name in shown if is_named(f"They show {row.kind}.", name)]:
            yield (
                f"{_at(row)}: field 'kind': {row.kind!r} names the object {named[0]!r} of its block, "
                "which a judge would count as seen; use other words"
            )
    files = {row.block: row.file for row in kinds}
    for (block, image), shown in places.items():
        for name, place in shown.items():
            if block in files and (block, image, name) not in seen:
                yield (
                    f"{place}: the object {name!r} has no kind, while others of block {block!r} have; "
                    f"add it to {files[block]}"
                )


def _wrong_scenes(scenes: Iterable[SceneRow], cells: Mapping[Cell, Mapping[bool, str]]) -> Iterator[str]:
    """What is wrong with the scenes, given where two kinds are first a harmful and first a harmless pair."""
    seen: dict[Cell, SceneRow] = {}
    for row in scenes:
        first = seen.setdefault(row.cell, row)
        if first is not row:
            yield f"{_at(row)}: these two kinds have a scene in {_at(first)}; keep one"
        elif row.cell not in cells:
            yield (
                f"{_at(row)}: expected kinds that a row of block {row.block!r} puts together, "
                f"found {row.kind_1!r} and {row.kind_2!r}"
            )
        elif len(cells[row.cell]) == 2:
            yield (
                f"{_at(row)}: {row.kind_1!r} and {row.kind_2!r} are harmful in {cells[row.cell][True]} and harmless in "
                f"{cells[row.cell][False]}; one scene cannot mean both, so divide one of the kinds"
            )
        elif False in cells[row.cell] and Role.RISK in roles_of(f"Together that is {row.scene}."):
            yield (f"{_at(row)}: field 'scene': {row.scene!r} names a risk, but the pairs of these kinds are harmless")
    files = {row.block: row.file for row in seen.values()}
    for (block, *kinds), places in cells.items():
        if block in files and (block, *kinds) not in seen:
            place = next(iter(places.values()))
            yield (
                f"{place}: {' and '.join(map(repr, kinds))} have no scene, while others of block {block!r} have; "
                f"add it to {files[block]}"
            )


def _places(elements: Iterable[Element]) -> dict[tuple[str, int], dict[str, str]]:
    """The first row with each object of each block and image."""
    places: dict[tuple[str, int], dict[str, str]] = {}
    for element in elements:
        for pair in (element.pair, element.twin_pair):
            for image, name in enumerate(pair, 1):
                places.setdefault((element.block, image), {}).setdefault(name, _at(element))
    return places


def _cells(table: ElementTable) -> dict[Cell, dict[bool, str]]:
    """The first row with each pair of kinds as a harmful one (True) and as a harmless one (False)."""
    cells: dict[Cell, dict[bool, str]] = {}
    for element in table.elements:
        for pair, harmful in ((element.pair, True), (element.twin_pair, False)):
            if len(kinds := table.kinds_of(element.block, pair)) == 2:
                cells.setdefault((element.block, *kinds), {}).setdefault(harmful, _at(element))
    return cells


def _by_block(questions: Iterable[QuestionRow]) -> dict[str, Questions]:
    uses: dict[str, dict[str, list[str]]] = {}
    for row in questions:
        uses.setdefault(row.block, {"train": [], "own": [], "test": [], "explicit": []})[row.use].append(row.question)
    return {
        block: Questions(tuple(of["train"] + of["own"]), tuple(of["test"]), tuple(of["explicit"]))
        for block, of in uses.items()
    }


def _with_own_questions(questions: Iterable[QuestionRow]) -> frozenset[str]:
    return frozenset(row.block for row in questions if row.use == "own")


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
