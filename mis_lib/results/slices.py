"""Slices: named subsets of the items, kept in a file, such as "two people in them".

    by = read_slices("people.csv")             # id,people: the value names the item's slice; or FILE#COLUMN
    by = read_slices("data/easy.jsonl#style")  # so any column of the data themselves
    by = read_slices("slices.json")            # {"two people": [ids], "a child": [ids]}, or {id: value}

An item may be in several slices, by several rows or a list; one without a value is in a separate group, and ids that
no item has are reported: nothing of the file or of the run is left out without a word.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mis_lib.data.records import ENDINGS, Row, is_document, json_object, read_bytes, read_table, shown
from mis_lib.errors import DataError
from mis_lib.results.metrics import ALL, GROUPINGS, SEEN
from mis_lib.results.tables import Table
from mis_lib.schema import Sample

IDS = ("id", "sample_id")
SHOWN = 3  # so many ids are listed; the records hold all


@dataclass(frozen=True)
class Slices:
    """Ids of each slice, in the file's order; a ``metrics.Grouping``."""

    name: str
    """Of the column or file: what the slices are called together."""
    file: Path
    ids: Mapping[str, frozenset[str]]

    @property
    def rest(self) -> str:
        """The group of the items that are in no slice."""
        return f"no {self.name}"

    def __call__(self, samples: Sequence[Sample]) -> dict[str, list[Sample]]:
        """Samples by slice, those in none last; without slices that have none of them."""
        sliced = frozenset().union(*self.ids.values())
        groups = {name: [sample for sample in samples if sample.id in ids] for name, ids in self.ids.items()}
        groups[self.rest] = [sample for sample in samples if sample.id not in sliced]
        return {name: members for name, members in groups.items() if members}


def grouping(by: str) -> str | Slices:
    """A grouping by its name, or the slices of a file.

    Raises:
        DataError: as ``read_slices``.
    """
    return by if by in (*GROUPINGS, SEEN) else read_slices(by)


def is_file(by: str) -> bool:
    """Whether this names a file, there or not, and no grouping."""
    return Path(by).is_file() or Path(by.rpartition("#")[0] or by).suffix.lower() in ENDINGS


def read_slices(named: str) -> Slices:
    """The slices of ``FILE`` or ``FILE#COLUMN``.

    Raises:
        DataError: the file cannot be read, has no such column or several and none was named, or a row has no id or a
            value that names nothing.
    """
    place, _, column = (named, "", "") if Path(named).is_file() else named.rpartition("#")
    file = Path(place or named)
    name, pairs = (file.stem, _of_object(file)) if _is_object(file) else _of_table(file, column)
    ids: dict[str, set[str]] = {}
    for key, value in pairs:
        ids.setdefault(value, set()).add(key)
    found = Slices(name, file, {value: frozenset(members) for value, members in ids.items()})
    if not ids:
        raise DataError(f"{file}: expected slices, found none; give an id and the name of its slice in each row")
    if taken := ids.keys() & {ALL, found.rest}:
        raise DataError(
            f"{file}: a slice cannot be called {min(taken)!r}, which names a group already; call it something else"
        )
    return found


def slices_table(by: Slices, samples: Sequence[Sample]) -> Table:
    """How many items of a report each slice has, which of its ids no item has, and which items are in none.

    Raises:
        DataError: no slice has any of the items.
    """
    groups, known = by(samples), {sample.id for sample in samples}
    if groups.keys() <= {by.rest}:
        example = min(min(ids) for ids in by.ids.values())
        raise DataError(
            f"{by.file}: expected ids of the {len(samples):,} items of this report "
            f"(such as {min(known, default='none')!r}), found others (such as {example!r}); "
            "is it the file for these data?"
        )
    records = [
        {"slice": name, "items": len(groups.get(name, ())), "unknown_ids": sorted(ids - known)}
        for name, ids in by.ids.items()
    ]
    rest = [sample.id for sample in groups.get(by.rest, ())]
    cells = [
        [one["slice"], f"{one['items']:,}", f"{len(one['unknown_ids']):,}", _some(one["unknown_ids"])]
        for one in records
    ]
    return Table(
        "slices",
        f"Slices by {by.name} ({by.file})",
        (by.name, "items", "ids of no item here", "such as"),
        [*cells, [by.rest, f"{len(rest):,}", "", _some(rest)]] if rest else cells,
        [*records, {"slice": by.rest, "items": len(rest), "ids": rest}],
        "an item may be in several slices; pairs count where both members are in one",
        left=1,
    )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (" ..." if len(ids) > SHOWN else "")


def _is_object(file: Path) -> bool:
    """Whether a JSON file is one object of slices or ids, and not a list or lines of rows."""
    if file.suffix.lower() != ".json":
        return False
    content = read_bytes(file).strip()
    return content.startswith(b"{") and (is_document(content) or b"\n" not in content)


def _of_object(file: Path) -> Iterator[tuple[str, str]]:
    """Ids with their slices, of ``{slice: [ids]}`` or ``{id: value}``."""
    values = json_object(file)
    lists = [isinstance(value, list) for value in values.values()]
    for name, value in values.items():
        if all(lists):
            for key in value:
                if not isinstance(key, str | int) or isinstance(key, bool):
                    raise DataError(f"{file}: slice {name!r}: expected ids, found {shown(key)}; write a list of ids")
                yield str(key), name
        elif any(lists):
            raise DataError(
                f"{file}: expected a list of ids for every slice, or one value for every id, found both; choose one"
            )
        else:
            for one in _names(value, f"{file}, id {name!r}"):
                yield name, one


def _of_table(file: Path, column: str) -> tuple[str, Iterator[tuple[str, str]]]:
    """The column's name, and ids with their slices."""
    rows = []
    for row in read_table(file):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    others = list(dict.fromkeys(name for row in rows for name in row.values if name not in IDS))
    if column and column not in others:
        raise DataError(
            f"{file}: expected a column {column!r}, found {', '.join(others) or 'none'}; name one as {file}#COLUMN"
        )
    if not column and len(others) != 1:
        raise DataError(
            f"{file}: expected one column beside the id, found {', '.join(others) or 'none'}; name one as {file}#COLUMN"
        )
    name = column or others[0]
    return name, ((key, value) for row in rows for key, value in _of_row(row, name))


def _of_row(row: Row, column: str) -> Iterator[tuple[str, str]]:
    key = next((row.values[name] for name in IDS if name in row.values), None)
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise row.error("id", "the id of an item", key, "write it in a column called id")
    for value in _names(row.values.get(column), f"{row.place}: field {column!r}"):
        yield str(key), value


def _names(value: Any, place: str) -> list[str]:
    """The names of slices that a cell holds; none where it is empty."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [name for one in value for name in _names(one, place)]
    if isinstance(value, bool):
        return [str(value).lower()]
    if not isinstance(value, str | int | float):
        raise DataError(f"{place}: expected the name of a slice, found {shown(value)}; write a word or a number")
    return [str(value).strip()]
