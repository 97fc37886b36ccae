"""One table of results for people and for programs, written by pandas as LaTeX, CSV and JSON and shown by Rich.

A table has cells for people (numbers with interval and n in them) and records for programs (one observation each,
unrounded names). Text, Markdown and LaTeX show the cells; CSV and JSON hold the records. Several tables make a
document: as CSV they follow each other, separated by an empty line, and ``write_folder`` writes each into its own file.
Markdown has no padding, so that a changed cell changes one line of a committed document.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd
import rich.table
from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from mis_lib.files import spreadsheet_safe, write_atomic
from mis_lib.results.stats import Interval, Rate
from mis_lib.settings import TableFormat

WIDE = 7  # columns that fit 80 characters
ENDINGS = {TableFormat.MARKDOWN: "md", TableFormat.CSV: "csv", TableFormat.LATEX: "tex", TableFormat.JSON: "json"}
_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\N{DOWNWARDS ARROW}": r"$\downarrow$", "\N{UPWARDS ARROW}": r"$\uparrow$", "\N{RIGHTWARDS ARROW}": r"$\to$"}
)
_PIPE = r"\|"


class Table(NamedTuple):
    """One table. The first ``left`` columns hold words, the others numbers."""

    name: str
    """Key in JSON and file name: letters and underscores."""
    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]
    note: str = ""
    left: int = 2

    def markdown(self) -> str:
        """A title line and a pipe table."""
        note = f" ({self.note})" if self.note else ""
        return f"**{self.title}**{note}\n\n{pipe_table(self.headings, self.cells, left=self.left)}\n"

    def latex(self) -> str:
        """A ``table`` for the package booktabs."""
        frame = pd.DataFrame(self.cells, columns=pd.Index(self.headings), dtype=str).map(escape).rename(columns=escape)
        layout = "".join("l" if place < self.left else "r" for place in range(len(self.headings)))
        caption = f"{escape(self.title)}." + (f" {escape(self.note)}." if self.note else "")
        return frame.to_latex(index=False, escape=False, column_format=layout, caption=caption)

    def csv(self) -> str:
        """The records with a header line; nothing where there are none."""
        frame = pd.DataFrame(map(rounded, self.records), dtype=object)
        return "" if frame.empty else csv_text(frame)

    def document(self) -> dict[str, Any]:
        """What JSON holds of the table."""
        return {"title": self.title, "note": self.note, "records": [rounded(record) for record in self.records]}


def csv_text(frame: pd.DataFrame, *, lineterminator: str = "\n") -> str:
    """A whole frame as CSV; no cell of it is a formula to a spreadsheet."""
    safe = frame.map(spreadsheet_safe).rename(columns=spreadsheet_safe)
    return safe.to_csv(index=False, lineterminator=lineterminator)


def render(tables: Sequence[Table], form: TableFormat) -> str:
    """All tables as one text in any form but TEXT, which ``rich_tables`` shows."""
    if form is TableFormat.JSON:
        return json.dumps({table.name: table.document() for table in tables}, indent=1, ensure_ascii=False) + "\n"
    write = {TableFormat.MARKDOWN: Table.markdown, TableFormat.CSV: Table.csv, TableFormat.LATEX: Table.latex}[form]
    return "\n".join(map(write, tables))


def write_folder(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write every table in every form into a folder, ``NAME.md`` and so on; returns the files."""
    written = []
    for table in tables:
        for form, ending in ENDINGS.items():
            written.append(folder / f"{table.name}.{ending}")
            write_atomic(written[-1], render([table], form).encode(), sync=False)
    return written


def rich_tables(tables: Sequence[Table]) -> Group:
    """All tables for 80 columns of a terminal: intervals below their numbers, wide tables split by first column."""
    parts: list[RenderableType] = []
    for table in tables:
        wide = int(len(table.headings) > WIDE)
        groups: dict[str, list[Sequence[str]]] = {}
        for row in table.cells:
            groups.setdefault(row[0] if wide else "", []).append([cell.replace(" (", "\n(") for cell in row[wide:]])
        for first, rows in groups.items():
            title = f"{table.title}: {first}" if first else table.title
            parts.append(rich_table(table.headings[wide:], rows, title=title, left=table.left - wide))
        parts += [Text(table.note, style="dim italic"), Text("")]
    return Group(*parts)


def rich_table(
    headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str = "", left: int | Collection[str] = 1
) -> rich.table.Table:
    """A table for a terminal; a narrow one folds cells and cuts no figure.

    Args:
        headings: of the columns.
        rows: cells; text is shown as it is, never read as markup.
        title: above the table.
        left: number of the first columns that hold words, or the headings of those that do.
    """
    table = rich.table.Table(
        title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for place, heading in enumerate(headings):
        words = place < left if isinstance(left, int) else heading in left
        table.add_column(Text(heading), justify="left" if words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def pipe_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table in Markdown, its first ``left`` columns words and the others numbers."""
    rule = ["---" if place < left else "---:" for place in range(len(headings))]
    return "\n".join(f"| {' | '.join(cell.replace('|', _PIPE) for cell in row)} |" for row in (headings, rule, *rows))


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return text.translate(_ESCAPES)


def rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its floats to four digits after the point, four significant ones where they are tiny."""
    return {
        key: (round(value, 4) if abs(value) >= 1e-3 else float(f"{value:.4g}")) if isinstance(value, float) else value
        for key, value in record.items()
    }


class Counted(Protocol):
    """Anything that counts scored and unscored items."""

    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def n_unscored(self) -> int: ...  # noqa: D102


def rate_cell(rate: Rate) -> str:
    """A rate with its interval, "-" where nothing was scored."""
    return "-" if rate.value is None else f"{rate.value:.1f} ({rate.low:.1f}-{rate.high:.1f})"


def count_cell(found: Counted) -> str:
    """Scored items, and unscored ones where there are any: "10 + 2"."""
    return f"{found.n:,}" + (f" + {found.n_unscored:,}" if found.n_unscored else "")


def difference_cell(interval: Interval) -> str:
    """A difference with sign and interval."""
    if interval.value is None:
        return "-"
    known = interval.low is not None and interval.high is not None
    return f"{interval.value:+.1f}" + (f" ({interval.low:+.1f} to {interval.high:+.1f})" if known else "")


def interval_cell(row: Any, digits: int = 1) -> str:
    """The ``value`` of a row of a frame above its ``low`` and ``high``; "-" where nothing was scored."""
    return "-" if pd.isna(row.value) else f"{row.value:.{digits}f}\n[{row.low:.{digits}f}, {row.high:.{digits}f}]"


def p_cell(p: float | None) -> str:
    """A p value as papers write it."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
