"""Data files as they are checked: raw rows of whatever form, what they say, and where their images lie.

JSON and JSON Lines are read row by row as they stand, so that every fault of a row is told. Published sets and tables (CSV, TSV, parquet) are
read as they are for use, into rows of our own form; a record that cannot be read so is one finding.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.benchmarks import recognise
from mis_lib.data.findings import Finding, Kind, Place
from mis_lib.data.folders import MIXTURE, data_files
from mis_lib.data.formats import to_sample
from mis_lib.data.headers import Headers
from mis_lib.data.loader import Loader
from mis_lib.data.reading import view
from mis_lib.data.records import Row
from mis_lib.data.rows import RawFile, RawRow, read_file
from mis_lib.data.tables import check_ending, read_table, told
from mis_lib.data.views import View
from mis_lib.errors import DataError

JSON = (".json", ".jsonl")
MIS_ROOTS = ("", "images")
"""Where MIS's training images may lie, as its loader looks for them: its archive is unpacked here or there. Nobody else's rows are read so."""


class Checked(NamedTuple):
    """A data file that was read: its raw rows, the views of those that have a known form, where its images lie."""

    raw: RawFile
    views: list[View]
    headers: Headers


def read_all(path: Path, images: Path | None = None, *, split: str | None = None) -> list[Checked]:
    """The data files at a path with the views of their rows; a row of no known form is a finding of its file.

    A folder in a published layout other than MIS's is read by its own loader, whose errors become findings; ``split``: only this split of it.

    Raises:
        DataError: there is no data file, it has no ending of one, or a published set is given other ``images``.
    """
    loader = published_loader(path)
    if loader is not None:
        if images is not None:
            raise DataError(f"{path}: {loader.title} names its images itself; leave --images out")
        headers = Headers(path, pixels=True)
        splits = loader.available(path) if split is None else [split]
        return [_checked(_published(loader, path, one), headers) for one in splits]
    roots = MIS_ROOTS if path.is_dir() and recognise(path) else ("",)
    found: dict[Path, Headers] = {}
    checked = []
    files = data_files(path) if split is None else [file for one in recognise(path) for file in one.files(path, split)]
    for file in files:
        check_ending(file)
        folder = images or (file.parent if is_json(file) else path if path.is_dir() else file.parent)
        raw = read_file(file) if is_json(file) else _table(file, folder)
        checked.append(_checked(raw, found.setdefault(folder, Headers(folder, pixels=True, roots=roots)), file))
    if any(file.raw.rows for file in checked):
        for file in checked:
            file.raw.findings[:] = map(_beside_others, file.raw.findings)
    return checked


def published_loader(path: Path) -> Loader | None:
    """The loader that a folder is checked by; None for files, our own folders and MIS's, whose rows are checked as they stand."""
    found = [loader for loader in recognise(path) if loader.name != "mis"] if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def are_read_as_one(path: Path) -> bool:
    """Whether a path's files are read together, so that their ids must differ: not MIS's, whose ids get the split's name, nor a mixture's arms."""
    return path.is_dir() and not recognise(path) and not (path / MIXTURE).is_file()


def is_json(file: Path) -> bool:
    """Whether a file is read as it stands, and can be written again."""
    return file.suffix.lower() in JSON


def field_and_rest(message: str) -> tuple[str, str]:
    """The field that a reader's message begins with, if it does, and what it says about it."""
    found = re.match(r"field '([^']*)': ", message)
    return ("", message) if found is None else (found[1], message[found.end() :])


def _checked(raw: RawFile, headers: Headers, file: Path | None = None) -> Checked:
    seen = [_view(row, file, headers.folder) for row in raw.rows]
    raw.findings += [found for found in seen if isinstance(found, Finding)]
    return Checked(raw, [found for found in seen if isinstance(found, View)], headers)


def _view(row: RawRow, file: Path | None, folder: Path) -> View | Finding:
    """The view of a row; one that holds its pictures itself, as OpenAI's messages may, is read as it is for use, which unpacks them."""
    if file is None or not _embeds(row.values):
        return view(row)
    try:
        sample = to_sample(Row(file, row.row, row.values), folder)
    except DataError as error:
        return _malformed(error, "put the row right, or remove it")
    return view(row._replace(values=sample.model_dump(mode="json")))


def _embeds(value: Any) -> bool:
    """Whether a value is or holds a picture as a data address."""
    if isinstance(value, str):
        return value.startswith("data:image/")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_embeds, inside))


def _beside_others(found: Finding) -> Finding:
    """A finding about one of several files: a split may be empty where others are not."""
    if found.kind is not Kind.EMPTY_FILE:
        return found
    return found.model_copy(update={"kind": Kind.EMPTY_SPLIT, "fix": "leave it, or write the file again"})


def _published(loader: Loader, folder: Path, split: str) -> RawFile:
    """A split of a published set as raw rows of our own form."""
    raw = RawFile(folder / split, is_lines=False)
    for found in loader.scan(folder, split):
        if isinstance(found, DataError):
            raw.findings.append(_malformed(found, "put the row right, or fetch the set again"))
        else:
            place = found.provenance
            raw.rows.append(RawRow(place["file"], place["row"], found.model_dump(mode="json")))
    raw.findings += _partial(loader, split, raw)
    return raw


def _partial(loader: Loader, split: str, raw: RawFile) -> Iterator[Finding]:
    """That a split has fewer or more records than are published: a scenario's file that is not there is missed by nobody else."""
    published = loader.splits[split]
    records = groupby(raw.rows, lambda row: (row.file, row.row))  # of which some give several rows
    found = sum(1 for _ in records) + len(raw.findings)
    if published is not None and found != published:
        message = f"expected the {published:,} records that are published, found {found:,}"
        yield Place(split).finding(Kind.PARTIAL_SET, "", message, "fetch the rest, or report rates as those of a part")


def _table(file: Path, folder: Path) -> RawFile:
    """A table as raw rows of our own form; its pictures, if it holds any, are unpacked."""
    raw = RawFile(file, is_lines=False)
    for row in told(read_table, file):
        try:
            if isinstance(row, DataError):
                raise row
            raw.rows.append(RawRow(file.name, row.number, to_sample(row, folder).model_dump(mode="json")))
        except DataError as error:
            raw.findings.append(_malformed(error, "put the row right, or remove it"))
    if not raw.rows and not raw.findings:
        raw.findings.append(
            Place(file.name).finding(Kind.EMPTY_FILE, "", "expected rows, found none", "write the file again")
        )
    return raw


def _malformed(error: DataError, fix: str) -> Finding:
    """A reader's error as a finding at the place that it names."""
    place, _, message = str(error).partition(": ")
    file, _, row = place.partition(", row ")
    at = Place(Path(file).name, int(row) if row.isdigit() else 0)
    field, message = field_and_rest(message)
    return at.finding(Kind.MALFORMED, field, message, fix)
