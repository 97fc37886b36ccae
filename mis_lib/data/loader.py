"""A loader: how one published data set becomes samples, and what is known about the set.

A loader is a value, not a class hierarchy: three functions (which files, their rows, a row's samples) and the facts
that people need before they fetch it. Reading is strict: ``load`` raises at the first wrong row; ``scan`` yields the
error in the row's place and goes on, so that one pass reports them all. Nothing is skipped. Images are paths relative
to the folder that was given, and exist.

Fields that a set has and ``Sample`` has not are kept under their own names; where the name is taken, as
``source_NAME``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mis_lib.data.preferences import Rated
from mis_lib.data.records import Row, Rows, read_table, reported
from mis_lib.errors import DataError
from mis_lib.schema import Outcome, Sample

RESERVED = frozenset(Sample.model_fields)


class PersonsLabel(NamedTuple):
    """What one person called a published answer; ``comment`` is the authors' class and the person's note."""

    author: str
    outcome: Outcome
    comment: str


class Labelled(NamedTuple):
    """A published answer that people have labelled."""

    sample: Sample
    """As it was asked."""
    model: str
    answer: str
    labels: tuple[PersonsLabel, ...]
    final: PersonsLabel | None = None
    """What settled it, where several people labelled it."""


@dataclass(frozen=True)
class Loader:
    """One published data set.

    ``files(folder, split)`` names the data files of a split that are there (none: the split is not), ``rows(file)``
    reads one of them, ``convert(row, folder, split)`` makes samples of a row. ``splits`` gives the number of published
    records a split, where known.
    """

    name: str
    title: str
    source: str
    licence: str
    fetch: str
    splits: Mapping[str, int | None]
    files: Callable[[Path, str], list[Path]] = field(repr=False)
    convert: Callable[[Row, Path, str], Iterable[Sample]] = field(repr=False)
    rows: Callable[[Path], Rows] = field(default=read_table, repr=False)
    is_named_as_others: bool = False
    """Whether other sets have files of these names, so that a name alone does not identify it."""
    rated: Callable[[Sample], Rated | None] | None = field(default=None, repr=False)
    """Two rated responses of a sample, in sets that publish them; ``None`` for a sample without."""
    labelled: Callable[[Path, str], Iterable[Labelled]] | None = field(default=None, repr=False)
    """The published answers of a split with people's labels, in sets that have them; raises as ``load``."""

    def available(self, folder: Path) -> list[str]:
        """The splits whose files are in a folder."""
        return [split for split in self.splits if self.files(folder, split)]

    def load(self, folder: Path, split: str) -> Iterator[Sample]:
        """The samples of a split, in the order of the files.

        Raises:
            DataError: the split is unknown or not there, or a record is malformed (file, row, field and fix named).
            ImageError: an image is not there.
        """
        for found in self.scan(folder, split):
            if isinstance(found, DataError):
                raise found
            yield found

    def scan(self, folder: Path, split: str) -> Iterator[Sample | DataError]:
        """As ``load``, but an error is yielded in place of the record, and reading goes on.

        Raises:
            DataError: the split is unknown or not there.
        """
        files = self._files(folder, split)
        seen: dict[str, str] = {}
        empty = True
        for row in (row for file in files for row in reported(self.rows, file)):
            empty = False
            if isinstance(row, DataError):
                yield row
                continue
            try:
                for sample in self.convert(row, folder, split):
                    yield first_of_its_id(sample, row, seen)
            except DataError as error:
                yield error
        if empty:
            yield DataError(f"{files[0]}: expected the records of {self.title}, found none; fetch the file again")

    def _files(self, folder: Path, split: str) -> list[Path]:
        if split not in self.splits:
            raise DataError(f"Unknown split {split!r} of {self.title}. Known: {', '.join(self.splits)}")
        found = self.files(folder, split)
        if not found:
            raise DataError(
                f"{folder}: expected {self.title}, split {split}, found no file of it; to fetch it: {self.fetch}"
            )
        return found


def first_of_its_id(sample: Sample, row: Row, seen: dict[str, str]) -> Sample:
    """The sample, if no other had its id (``seen``: id -> place).

    Raises:
        DataError: another one had.
    """
    if sample.id in seen:
        raise row.error("id", "an id of its own", sample.id, f"it is that of {seen[sample.id]} too: rename one")
    seen[sample.id] = row.place
    return sample


def present(folder: Path, *candidates: str) -> list[Path]:
    """The first of several relative paths that is a file, as a list; empty if none is."""
    return next(([folder / name] for name in candidates if (folder / name).is_file()), [])


def text(row: Row, name: str) -> str:
    """A field that must hold text.

    Raises:
        DataError: it is missing, blank, or no text.
    """
    value = row.values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise row.error(name, "a text", value, "write it, or remove the row")
    return value


def optional_text(row: Row, name: str) -> str | None:
    """A field that may be missing; blank counts as missing.

    Raises:
        DataError: it holds something else than text.
    """
    value = row.values.get(name)
    if value is not None and not isinstance(value, str):
        raise row.error(name, "a text", value, "write it as text, or leave it out")
    return value if value and value.strip() else None


def identifier(row: Row, name: str) -> str:
    """A field that holds an id, a number or text, as text.

    Raises:
        DataError: it is missing or something else.
    """
    value = row.values.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise row.error(name, "an id (text or number)", value, "give the record an id")
    return str(value)


def sample(row: Row, source: str, *, used: Iterable[str], **fields: Any) -> Sample:
    """A sample with its provenance and, apart from ``fields``, whatever the record holds that was not ``used``.

    Raises:
        DataError: the fields do not make a sample (the field is named), or a kept field is no JSON value.
    """
    values = sample_fields(row, source, used=used, **fields)
    try:
        made = Sample.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "record"
        raise row.error(name, f"a sample's {name} ({first['msg']})", first["input"], "correct it") from error
    if (error := not_in_json(row, made)) is not None:
        raise error
    return made


def sample_fields(row: Row, source: str, *, used: Iterable[str], **fields: Any) -> dict[str, Any]:
    """The fields of a sample: ``fields``, what the record holds that was not ``used``, and where it is from."""
    taken = set(used)
    kept = {_free_name(name, row.values): value for name, value in row.values.items() if name not in taken}
    place = {"source": source, "file": row.file.name, "row": row.number}
    return {**kept, **fields, "provenance": {**fields.get("provenance", {}), **place}}


def not_in_json(row: Row, made: Sample) -> DataError | None:
    """The error about a sample that keeps values, bytes or half characters, that JSON cannot hold."""
    try:
        made.model_dump_json()
    except (ValueError, TypeError) as error:
        return row.error("record", "values that JSON can hold", row.values, f"remove the others ({error})")
    return None


def _free_name(name: str, values: Mapping[str, Any]) -> str:
    while name in RESERVED:
        name = f"source_{name}"
        while name in values:
            name = f"source_{name}"
    return name
