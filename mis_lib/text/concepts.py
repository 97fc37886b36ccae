"""The drawable concepts of ``concepts.csv``: what MIS-Mini draws, and what answers are searched for."""

import csv
import functools
import importlib.resources
import io
from typing import NamedTuple


class Concept(NamedTuple):
    """One drawable thing: its everyday name, its Unicode sequence and its group in the emoji chart."""

    name: str
    codepoints: str  # hexadecimal, joined by "-", without variation selectors
    group: str


@functools.cache
def concepts() -> dict[str, Concept]:
    """All drawable concepts by name, in the table's order."""
    table = importlib.resources.files("mis_lib.text").joinpath("concepts.csv").read_text(encoding="utf-8")
    return {row["name"]: Concept(**row) for row in csv.DictReader(io.StringIO(table))}
