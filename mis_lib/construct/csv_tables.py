"""CSV tables that people write: every line becomes a checked row, and what is wrong is named with file, row, field and fix.

Nothing is repaired in reading. Problems are collected, so that one run names them all.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

R = TypeVar("R", bound="TableRow")


class TableRow(BaseModel):
    """One line of a CSV file; ``file`` and ``row`` (from 1, header included) say where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    file: str
    row: int
    block: str = Field(pattern=r"^[a-z0-9_-]+$")


def read_tables(files: Iterable[Path], kind: type[R], problems: list[str]) -> list[R]:
    """All rows of several files; what is wrong in them is added to ``problems``."""
    rows: list[R] = []
    for file in files:
        for number, values in _lines(file, kind, problems):
            try:
                rows.append(kind(file=file.name, row=number, **values))
            except ValidationError as error:
                problems += [_explain(file, number, problem) for problem in error.errors()]
    return rows


def _lines(file: Path, kind: type[TableRow], problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and values of each row; what is wrong with the file as a whole goes to ``problems``."""
    columns = [name for name in kind.model_fields if name not in ("file", "row")]
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
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
    place = f"field {'.'.join(map(str, problem['loc']))!r}: " if problem["loc"] else ""
    found = f", found {problem['input']!r:.80}" if problem["loc"] else ""
    return f"{file}, row {row}: {place}{problem['msg'].removeprefix('Value error, ')}{found}"
