"""Kinds: what an object is in the light of a block's questions, such as "alcohol" for a wine glass and "a vehicle to drive" for a car.

A perception that goes on "They show alcohol and a vehicle to drive." says in words what the risk hangs on: not these two names, of which
training never showed this pair, but two kinds, which it showed together many times. "Together they can do harm." or "Together they do no harm." follows. ``NAME.kinds.csv`` lists them, one row for each kind of
a block and image; a block without kinds is labelled without that sentence. A kind describes: it names no object of its block, which
a judge would count as seen, and no risk, which is for the reasoning to find.
"""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import Field, field_validator

from mis_lib.construct.csv_tables import TableRow
from mis_lib.construct.naming import is_named
from mis_lib.roles import Role, roles_of

KINDS_SUFFIX = ".kinds.csv"

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
    described = {row.block for row in listed}
    for (block, image), places in objects.items():
        for name, place in places.items():
            if block in described and (block, image, name) not in seen:
                yield f"{place}: the object {name!r} has no kind, while others of block {block!r} have; add it to {block}{KINDS_SUFFIX}"
