"""Raw rows: what a data file holds before anybody has checked it, in one lenient view for the forms that people have.

Loaders refuse the first wrong row; here every row is read as far as it can be, and each thing that is wrong becomes a finding, so that one
pass names them all. Forms, told apart by their fields: our JSON Lines (``question``, ``images``), MIS's test JSON (``image_path1``,
``image_path2``), LLaVA / ShareGPT / MIS train (``conversations``), and chat messages (``messages`` or ``prompt`` and ``completion``: TRL,
ms-swift, OpenAI).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.findings import Finding, Kind, Place, printable
from mis_lib.data.records import BOM
from mis_lib.data.tables import is_document
from mis_lib.errors import DataError, close_to

IMAGE_PATH = re.compile(r"image_path\d{1,2}")
SHOWN = 60


class Form(StrEnum):
    """How a row is laid out."""

    SAMPLE = "sample"
    MIS_TEST = "mis_test"
    CONVERSATIONS = "conversations"
    MESSAGES = "messages"


class RawRow(NamedTuple):
    """One object of a data file, as it stands there; ``row`` is its line (JSON Lines) or its position (JSON), from 1."""

    file: str
    row: int
    values: dict[str, Any]

    @property
    def place(self) -> Place:
        """Where it stands, with its id if it has one."""
        found = self.values.get("id")
        return Place(self.file, self.row, printable(str(found)) if isinstance(found, str | int) else "")


@dataclass
class RawFile:
    """A data file: its rows, and what is wrong with it as a whole."""

    path: Path
    is_lines: bool
    rows: list[RawRow] = field(default_factory=list)
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
        file.findings.append(Place(path.name).finding(Kind.EMPTY_FILE, "", message, "write the file again"))
    return file


def form_of(values: dict[str, Any]) -> Form | None:
    """Which form a row has; None if it is none of them."""
    if "conversations" in values:
        return Form.CONVERSATIONS
    if "messages" in values or ("prompt" in values and "completion" in values):
        return Form.MESSAGES
    if any(IMAGE_PATH.fullmatch(key) for key in values):
        return Form.MIS_TEST
    return Form.SAMPLE if "question" in values or "images" in values else None


def no_form(row: RawRow) -> Finding:
    """The finding for a row of none of the forms."""
    known = ("question", "images", "conversations", "messages", "image_path1")
    near = next((f"field {key!r}{close_to(key, known)}" for key in row.values if close_to(key, known)), "")
    found = near or f"fields {', '.join(map(repr, row.values))[:SHOWN] or 'none'}"
    message = f"expected question and images, image_path1 and image_path2, conversations or messages, found {found}"
    return row.place.finding(Kind.UNKNOWN_FORM, "", message, "rename the fields, or read the set with its own loader")


class _Object(dict[str, Any]):
    """A JSON object in which a field stood more than once."""

    repeated: str = ""


def _lines(file: RawFile, content: bytes) -> Iterator[RawRow]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = Place(file.path.name, number)
            try:
                yield from _row(file, place, _parse(line))
            except ValueError as error:
                file.findings.append(_broken_line(place, line, error, is_last=number == len(lines)))


def _array(file: RawFile, content: bytes) -> Iterator[RawRow]:
    place = Place(file.path.name)
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


def _row(file: RawFile, place: Place, value: Any) -> Iterator[RawRow]:
    if not isinstance(value, dict):
        message = f"expected a JSON object, found {shown(value)}"
        file.findings.append(place.finding(Kind.NOT_ROWS, "", message, "one object {...} for each row"))
        return
    row = RawRow(place.file, place.row, value)
    if isinstance(value, _Object):
        message = f"expected each field once, found {value.repeated!r} twice; only the last one counts"
        file.findings.append(row.place.finding(Kind.REPEATED_KEY, value.repeated, message, "keep one of the two"))
    if strange := _not_in_json(value):
        message = f"expected values that JSON can hold, found {strange}"
        file.findings.append(row.place.finding(Kind.NOT_JSON, "", message, "write the value again"))
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


def _broken_line(place: Place, line: bytes, error: ValueError, *, is_last: bool) -> Finding:
    found = f"found {line[:SHOWN].decode(errors='replace').strip()!r} ({error})"
    if is_last:  # no newline after it
        fix = "the writer was stopped: let it go on, or delete the line"
        return place.finding(Kind.TORN_LINE, "", f"expected a whole last line, {found}", fix)
    fix = "one JSON object a line, UTF-8; write the line again"
    return place.finding(Kind.NOT_JSON, "", f"expected one JSON object, {found}", fix)


def shown(value: Any) -> str:
    """A value as a message shows it: its type and the start of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{_TYPES.get(type(value), 'the object')} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}".strip()


_TYPES = {
    str: "the text",
    int: "the number",
    float: "the number",
    bool: "the value",
    list: "the list",
    type(None): "the value",
}
