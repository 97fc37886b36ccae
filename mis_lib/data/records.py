"""Records of data files (JSON, JSON Lines, CSV, TSV, parquet), each with its place, and the errors about broken ones.

Nothing is passed over: a record that cannot be read is yielded as the ``Unreadable`` that names it, with the finding of
a check, and reading goes on with the next one where the file allows it. A JSON list is parsed row by row, because
M4-Instruct's is a gigabyte. Stricter than Python's own reader: a field given twice, NaN and half characters are
refused. An empty cell of a CSV or TSV is a missing field.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.findings import Finding, Kind, Location, printable
from mis_lib.errors import DataError

BOM = b"\xef\xbb\xbf"
SHOWN = 80
csv.field_size_limit(2**31 - 1)  # a cell of a TSV may hold several images as base64
PEEK = 1 << 16  # M4-Instruct is not read twice
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
YES_OR_NO = ("harmful", "mask_eos")
TRUTH = {"true": True, "false": False}


class Row(NamedTuple):
    """One record as a file holds it; ``number`` counts from 1: lines of JSON Lines, records of the other forms."""

    file: Path
    number: int
    values: dict[str, Any]
    key: str = ""
    """Its key, in files that are one object of records."""

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.file}, row {self.number}"

    @property
    def location(self) -> Location:
        """File and row, with the id if there is one, for findings."""
        found = self.values.get("id")
        return Location(self.file.name, self.number, printable(str(found)) if isinstance(found, str | int) else "")

    def error(self, field: str, expected: str, found: Any, fix: str) -> DataError:
        """The error that says what is wrong with one of its fields."""
        return DataError(f"{self.place}: field {field!r}: expected {expected}, found {shown(found)}; {fix}")


Rows = Iterator[Row | DataError]


class Unreadable(DataError):
    """The error about a record that cannot be read: what a check finds, and the record as far as it can be read."""

    def __init__(self, message: str, finding: Finding, row: Row | None = None) -> None:
        super().__init__(message)
        self.finding = finding
        self.row = row


def read_table(file: Path) -> Rows:
    """The rows of a file, read by its ending; rows that cannot be read come as errors.

    Raises:
        DataError: there is no such file, it cannot be opened, or its ending is none of those known.
    """
    check_ending(file)
    readers = {".jsonl": json_lines, ".json": json_rows, ".csv": csv_rows, ".tsv": tsv_rows, ".parquet": parquet_rows}
    return readers[file.suffix.lower()](file)


def check_ending(file: Path) -> None:
    """Raise ``DataError`` for a file whose ending is none of those known."""
    if file.suffix.lower() not in ENDINGS:
        raise DataError(f"{file}: expected a file ending in {', '.join(ENDINGS)}; rename or convert it")


def reported(rows: Callable[[Path], Rows], file: Path) -> Rows:
    """The rows of a file, where an error about the file as a whole comes last instead of being raised."""
    try:
        yield from rows(file)
    except DataError as error:
        yield error


def json_lines(file: Path) -> Rows:
    """One object a line. A torn last line is an error here: part of the data is missing."""
    decoder = _Decoder()
    lines = read_bytes(file).removeprefix(BOM).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = decoder.decode(line.decode())
        except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
            found = line[:SHOWN].decode(errors="replace")
            yield broken(file, number, found, error) if number < len(lines) else _torn(file, number, found, error)
        else:
            yield _row(file, number, values, decoder)


def json_rows(file: Path) -> Rows:
    """A list of objects, or one object a line: people give both this ending."""
    return json_lines(file) if is_lines(file) else json_list(file)


def is_lines(file: Path) -> bool:
    """Whether a JSON file holds an object a line."""
    start = read_bytes(file, PEEK).removeprefix(BOM).lstrip()
    return file.suffix.lower() == ".jsonl" or (start.startswith(b"{") and not is_document(start))


def is_document(content: bytes) -> bool:
    """Whether a file is one JSON value, a list or an object over several lines, and not a line for each row."""
    start = content.lstrip()
    return start.startswith(b"[") or start.partition(b"\n")[0].strip() == b"{"


def json_list(file: Path) -> Rows:
    """A list of objects; after a fault in the JSON itself no further row can be found."""
    decoder, text = _Decoder(), read_text(file)
    position = _skip(text, 0)
    if not text.startswith("[", position):
        kind = Kind.NOT_ROWS if text.strip() else Kind.EMPTY_FILE
        message = f"expected a JSON list of records, found {shown(text[:SHOWN])}"
        yield unreadable(file, 0, kind, message, "is it the right file?")
        return
    number, position = 0, _skip(text, position + 1)
    going_on = not text.startswith("]", position)
    while going_on:
        number += 1
        try:
            values, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield _cut_list(file, number, text[position : position + SHOWN], error)
            return
        yield _row(file, number, values, decoder)
        position = _skip(text, position)
        going_on = text.startswith(",", position)
        if going_on:
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            yield _cut_list(file, number + 1, text[position : position + SHOWN], ValueError("expected ',' or ']'"))
            return
    if text[position + 1 :].strip():
        message = f"expected the end of the file after its list, found {shown(text[position + 1 :])}"
        yield unreadable(file, 0, Kind.NOT_JSON, message, "write the file again")


def json_records(file: Path) -> Rows:
    """An object of records, ``{"17": {...}, ...}``: MM-SafetyBench and MOSSBench."""
    for number, (key, values) in enumerate(json_object(file).items(), 1):
        row = _row(file, number, values, _Decoder())
        yield row._replace(key=key) if isinstance(row, Row) else row


def json_object(file: Path) -> dict[str, Any]:
    """A file that is one JSON object.

    Raises:
        DataError: it is not, or cannot be read.
    """
    decoder = _Decoder()
    try:
        values = decoder.decode(read_text(file))
        if decoder.faults:
            raise ValueError(decoder.faults[0].message)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected one JSON object, found a fault ({error}); fetch the file again") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: expected one JSON object, found {shown(values)}; is it the right file?")
    return values


def csv_rows(file: Path, delimiter: str = ",") -> Rows:
    """Rows of a CSV file with a header; a row with more or fewer cells than the header is an error."""
    stream = io.StringIO(read_text(file), newline="")
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    names = _header(file, reader)
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield broken(file, number, f"line {reader.line_num}", error, Kind.MALFORMED)
            return
        if None in cells or None in cells.values():  # surplus or missing ones
            yield DataError(f"{file}, row {number}: expected {len(names)} cells as in the header; quote or complete it")
        else:
            yield Row(file, number, {name: _cell(name, cell) for name, cell in cells.items() if cell != ""})


def tsv_rows(file: Path) -> Rows:
    """Rows of a TSV file as pandas and VLMEvalKit write it."""
    return csv_rows(file, "\t")


def parquet_rows(file: Path) -> Rows:
    """Rows of a parquet file, a few at a time: they hold images. Empty cells are missing fields."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=16):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file, number, {name: value for name, value in values.items() if value is not None})
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield broken(file, number + 1, "", error, Kind.MALFORMED)


def has_column(file: Path, column: str) -> bool:
    """Whether a parquet file has a column, which shows whose it is.

    Other files, and damaged ones, are recognised by their names alone.
    """
    if file.suffix != ".parquet":
        return True
    import pyarrow
    import pyarrow.parquet

    try:
        return column in pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError):  # damaged: reading it will say so
        return True


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: it cannot be opened or is not UTF-8.
    """
    content = read_bytes(file)
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        line, fix = content.count(b"\n", 0, error.start) + 1, "save the file as UTF-8"
        kind = Kind.NOT_JSON if file.suffix.lower() == ".json" else Kind.MALFORMED
        message = "expected UTF-8, found another encoding"
        finding = Location(file.name).finding(kind, "", f"{message} in line {line}", fix)
        raise Unreadable(f"{file}, line {line}: {message}; {fix}", finding) from error


def read_bytes(file: Path, most: int = -1) -> bytes:
    """The content of a file, or its first so many bytes.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise DataError(f"{file}: expected a data file, found: {error.strerror}; check the path") from error


def shown(value: Any) -> str:
    """A value as a message shows it: its type, and the start of it."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}"


def unreadable(
    file: Path, number: int, kind: Kind, message: str, fix: str, *, field: str = "", row: Row | None = None
) -> Unreadable:
    """The error about a record, or about the whole file (0), with its finding."""
    at = f"{file}, row {number}" if number else f"{file}"
    place = Location(file.name, number) if row is None else row.location
    return Unreadable(f"{at}: {message}; {fix}", place.finding(kind, field, message, fix), row)


def broken(file: Path, number: int, found: str, error: Exception, kind: Kind = Kind.NOT_JSON) -> Unreadable:
    """The error about a record of which nothing can be read."""
    message = f"expected a readable record, found {found.strip()!r} ({error})"
    fix = "write it again as one JSON object a line, in UTF-8" if kind is Kind.NOT_JSON else "repair the row"
    return unreadable(file, number, kind, message, fix)


def field_and_rest(message: str) -> tuple[str, str]:
    """The field that a reader's message begins with, if it does, and what it says about it."""
    found = re.match(r"field '([^']*)': ", message)
    return ("", message) if found is None else (found[1], message[found.end() :])


class _Fault(NamedTuple):
    """What Python's own reader takes and others do not."""

    kind: Kind
    field: str
    message: str
    fix: str


class _Decoder(json.JSONDecoder):
    """Reads JSON as Python does, and keeps what is wrong with the record that it read last."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._once, parse_constant=self._constant)
        self.faults: list[_Fault] = []

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            name = next(name for name in names if names.count(name) > 1)
            message = f"expected each field once, but field {name!r} stands twice; only the last one counts"
            self.faults.append(_Fault(Kind.REPEATED_KEY, name, message, "keep one of the two"))
        return values

    def _constant(self, name: str) -> float:
        message = f"expected values that JSON can hold, but {name} is no JSON value"
        self.faults.append(_Fault(Kind.NOT_JSON, "", message, "write the value again"))
        return float(name)


def _row(file: Path, number: int, values: Any, decoder: _Decoder) -> Row | Unreadable:
    faults, decoder.faults = decoder.faults, []
    if not isinstance(values, dict):
        message = f"expected a JSON object, found {shown(values)}"
        return unreadable(file, number, Kind.NOT_ROWS, message, "one {...} for each row")
    row = Row(file, number, values)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "expected values that JSON can hold, found half a character (a lone surrogate)"
        faults.append(_Fault(Kind.NOT_JSON, "", message, "write the value again"))
    if not faults:
        return row
    found = faults[0]
    return unreadable(file, number, found.kind, found.message, found.fix, field=found.field, row=row)


def _torn(file: Path, number: int, found: str, error: Exception) -> Unreadable:
    """The error about a last line after which no line ends."""
    torn = broken(file, number, found, error)
    message = f"expected a whole last line, found {found.strip()!r} ({error})"
    fix = "the writer was stopped: let it go on, or delete the line"
    torn.finding = Location(file.name, number).finding(Kind.TORN_LINE, "", message, fix)
    return torn


def _cut_list(file: Path, number: int, found: str, error: Exception) -> Unreadable:
    """The error about a row of a list after which there may be more; its finding is about the file."""
    cut = broken(file, number, found, error)
    message = f"expected a JSON list of rows, found a fault in row {number}: {error}"
    cut.finding = Location(file.name).finding(Kind.NOT_JSON, "", message, "write the file again as UTF-8 JSON")
    return cut


def _header(file: Path, reader: "csv.DictReader[str]") -> list[str]:
    try:
        names = list(reader.fieldnames or [])
    except csv.Error as error:
        raise DataError(f"{file}: expected a header line, found a fault ({error}); fetch the file again") from error
    if not names or len(set(names)) != len(names):
        raise DataError(f"{file}: expected a header that names each column once, found {names}; add or repair it")
    return names


def _cell(name: str, cell: str) -> str | bool:
    """A cell, in the columns that say yes or no as a truth value: a table has no other way to write one."""
    return TRUTH.get(cell.strip().lower(), cell) if name in YES_OR_NO else cell


def _skip(text: str, position: int) -> int:
    """The position of the next character that is no white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
