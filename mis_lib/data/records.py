"""Records of tables: one record as a file holds it, with its place for messages, and how such files are opened."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mis_lib.errors import DataError

BOM = b"\xef\xbb\xbf"
SHOWN = 80


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

    def error(self, field: str, expected: str, found: Any, fix: str) -> DataError:
        """The error that says what is wrong with one of its fields."""
        return DataError(f"{self.place}: field {field!r}: expected {expected}, found {shown(found)}; {fix}")


Rows = Iterator[Row | DataError]


def field_and_rest(message: str) -> tuple[str, str]:
    """The field that a reader's message begins with, if it does, and what it says about it."""
    found = re.match(r"field '([^']*)': ", message)
    return ("", message) if found is None else (found[1], message[found.end() :])


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: it cannot be opened or is not UTF-8.
    """
    content = read_bytes(file)
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: expected UTF-8, found another encoding; save the file as UTF-8"
        ) from error


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


def broken(file: Path, number: int, found: str, error: Exception) -> DataError:
    """The error about a record that cannot be read."""
    return DataError(
        f"{file}, row {number}: expected a readable record, found {found.strip()!r} ({error}); repair the row"
    )


# ---------- Tables: the rows of JSON, JSON Lines, CSV, TSV and parquet files, strictly, each with its place.
#
# Nothing is passed over: a line that cannot be read is yielded as the ``DataError`` that names it, and reading goes on
# with the next one where the file allows it. A JSON list is parsed row by row, because M4-Instruct's is a gigabyte.
# Stricter than Python's own reader: a field given twice, NaN and half characters are refused. An empty cell of a
# CSV or TSV is a missing field.

csv.field_size_limit(2**31 - 1)  # a cell of a TSV may hold several images as base64
PEEK = 1 << 16  # M4-Instruct is not read twice
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
YES_OR_NO = ("harmful", "mask_eos")
TRUTH = {"true": True, "false": False}


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
    for number, line in enumerate(read_bytes(file).removeprefix(BOM).split(b"\n"), 1):
        if line.strip():
            yield _json_row(file, number, line)


def json_rows(file: Path) -> Rows:
    """A list of objects, or one object a line: people give both this ending."""
    start = read_bytes(file, PEEK).removeprefix(BOM).lstrip()
    return json_lines(file) if start.startswith(b"{") and not is_document(start) else json_list(file)


def is_document(content: bytes) -> bool:
    """Whether a file is one JSON value, a list or an object over several lines, and not a line for each row."""
    start = content.lstrip()
    return start.startswith(b"[") or start.partition(b"\n")[0].strip() == b"{"


def json_list(file: Path) -> Rows:
    """A list of objects; after a fault in the JSON itself no further row can be found."""
    text = read_text(file)
    position = _skip(text, 0)
    if not text.startswith("[", position):
        yield DataError(f"{file}: expected a JSON list of records, found {shown(text[:SHOWN])}; is it the right file?")
        return
    number, position = 0, _skip(text, position + 1)
    going_on = not text.startswith("]", position)
    while going_on:
        number += 1
        try:
            values, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield broken(file, number, text[position : position + SHOWN], error)
            return
        yield _row(file, number, values)
        position = _skip(text, position)
        going_on = text.startswith(",", position)
        if going_on:
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            yield broken(file, number + 1, text[position : position + SHOWN], ValueError("expected ',' or ']'"))
            return
    if text[position + 1 :].strip():
        yield DataError(f"{file}: expected the end of the file after its list, found {shown(text[position + 1 :])}")


def json_records(file: Path) -> Rows:
    """An object of records, ``{"17": {...}, ...}``: MM-SafetyBench and MOSSBench."""
    for number, (key, values) in enumerate(json_object(file).items(), 1):
        row = _row(file, number, values)
        yield row._replace(key=key) if isinstance(row, Row) else row


def json_object(file: Path) -> dict[str, Any]:
    """A file that is one JSON object.

    Raises:
        DataError: it is not, or cannot be read.
    """
    try:
        values = _DECODER.decode(read_text(file))
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
            yield broken(file, number, f"line {reader.line_num}", error)
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
        yield broken(file, number + 1, "", error)


def has_column(file: Path, column: str) -> bool:
    """Whether a parquet file has a column, which tells whose it is.

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


def _json_row(file: Path, number: int, line: bytes) -> Row | DataError:
    try:
        return _row(file, number, _DECODER.decode(line.decode()))
    except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
        return broken(file, number, line[:SHOWN].decode(errors="replace"), error)


def _row(file: Path, number: int, values: Any) -> Row | DataError:
    if not isinstance(values, dict):
        return DataError(
            f"{file}, row {number}: expected a JSON object, found {shown(values)}; one {{...}} for each row"
        )
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return broken(file, number, "half a character (a lone surrogate)", error)
    return Row(file, number, values)


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


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=_refuse)
