"""Records of tables: one record as a file holds it, with its place for messages, and how such files are opened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
        """Where it stands, for messages."""
        return f"{self.file}, row {self.number}"

    def error(self, field: str, expected: str, found: Any, fix: str) -> DataError:
        """The error that says what is wrong with one of its fields."""
        return DataError(f"{self.place}: field {field!r}: expected {expected}, found {shown(found)}; {fix}")


Rows = Iterator[Row | DataError]


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
