"""Kinds and scenes: what an object is in the light of a block's questions, and what two kinds amount to together.

A perception that goes on "They show alcohol and a vehicle to drive." says in words what the risk hangs on: not these two names, of which
training never showed this pair, but two kinds, which it showed together many times. The scene says what the two come to ("drunk driving" against "a dinner
with drinks"), and from it follows whether it can do harm. Step by step each of these is a table to learn; from two names straight to the verdict
it is an exclusive or, which a small model hardly learns.

``NAME.kinds.csv`` has one row for each kind of a block and image, ``NAME.scenes.csv`` one for each pair of kinds; a block without them is labelled
without these sentences. A kind describes: it names no object of its block, which a judge would count as seen, and no risk, which is for the
reasoning to find. A scene stands for one verdict, so its two kinds are not harmful in one row and harmless in another.
"""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import Field, field_validator

from mis_lib.construct.csv_tables import TableRow
from mis_lib.text.naming import is_named
from mis_lib.text.roles import Role, roles_of

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
