"""JSON files as a check reads them: every row that can be read, and a finding for each that cannot."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mis_lib.data.findings import Finding, Kind, Location
from mis_lib.data.formats import SHOWN, View, shown
from mis_lib.data.records import BOM, Row, is_document
from mis_lib.errors import DataError


@dataclass
class RawFile:
    """A data file: its rows, and what is wrong with it as a whole."""

    path: Path
    is_lines: bool
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_file(path: Path) -> RawFile:
    """Read a data file as far as it can be read; nothing in it raises.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        content = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found: {error.strerror}") from error
    file = RawFile(path, is_lines=path.suffix.lower() == ".jsonl" or not is_document(content))
    rows = _lines(file, content) if file.is_lines else _array(file, content)
    file.rows.extend(rows)
    if not file.rows and not file.findings:
        message = "expected rows, found none"
        file.findings.append(Location(path.name).finding(Kind.EMPTY_FILE, "", message, "write the file again"))
    return file


class _Object(dict[str, Any]):
    """A JSON object in which a field stood more than once."""

    repeated: str = ""


def _lines(file: RawFile, content: bytes) -> Iterator[Row]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = Location(file.path.name, number)
            try:
                yield from _row(file, place, _parse(line))
            except ValueError as error:
                file.findings.append(_broken_line(place, line, error, is_last=number == len(lines)))


def _array(file: RawFile, content: bytes) -> Iterator[Row]:
    place = Location(file.path.name)
    try:
        values = _parse(content)
    except ValueError as error:
        line = content[: getattr(error, "pos", 0)].count(b"\n") + 1
        message = f"expected a JSON list of rows, found a fault in line {line}: {error}"
        file.findings.append(place.finding(Kind.NOT_JSON, "", message, "write the file again as UTF-8 JSON"))
        return
    if not isinstance(values, list):
        message, fix = (
            f"expected a list of rows, found {shown(values)}",
            "read the set with its own loader and export it",
        )
        file.findings.append(place.finding(Kind.NOT_ROWS, "", message, fix))
        return
    for number, value in enumerate(values, 1):
        yield from _row(file, place._replace(row=number), value)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content.decode(), object_pairs_hook=_object)  # of bytes it would take UTF-16, too
    except RecursionError as error:
        raise ValueError("brackets nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    found = _Object(values)
    found.repeated = next(name for place, (name, _) in enumerate(pairs) if any(name == key for key, _ in pairs[:place]))
    return found


def _row(file: RawFile, place: Location, value: Any) -> Iterator[Row]:
    if not isinstance(value, dict):
        message = f"expected a JSON object, found {shown(value)}"
        file.findings.append(place.finding(Kind.NOT_ROWS, "", message, "one object {...} for each row"))
        return
    row = Row(file.path, place.row, value)
    place = View(row).place
    if isinstance(value, _Object):
        message = f"expected each field once, found {value.repeated!r} twice; only the last one counts"
        file.findings.append(place.finding(Kind.REPEATED_KEY, value.repeated, message, "keep one of the two"))
    if strange := _not_in_json(value):
        message = f"expected values that JSON can hold, found {strange}"
        file.findings.append(place.finding(Kind.NOT_JSON, "", message, "write the value again"))
    yield row


def _not_in_json(value: Any) -> str | None:
    """What Python's reader lets pass and other readers, pydantic and pyarrow among them, do not."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    except ValueError:
        return "NaN or infinity"
    return None


def _broken_line(place: Location, line: bytes, error: ValueError, *, is_last: bool) -> Finding:
    found = f"found {line[:SHOWN].decode(errors='replace').strip()!r} ({error})"
    if is_last:  # no newline after it
        fix = "the writer was stopped: let it go on, or delete the line"
        return place.finding(Kind.TORN_LINE, "", f"expected a whole last line, {found}", fix)
    fix = "one JSON object a line, UTF-8; write the line again"
    return place.finding(Kind.NOT_JSON, "", f"expected one JSON object, {found}", fix)
