"""Sheets: any table of results in five forms, for reading and for programs, from one description.

A sheet has cells for people (numbers with interval and n in them) and records for programs (one observation each, unrounded names). Text,
Markdown and LaTeX show the cells; CSV and JSON hold the records. Several sheets make a document; as CSV they stand below each other, parted by an
empty line, and ``write_folder`` puts each into a file of its own.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mis_lib.files import write_atomic
from mis_lib.results.metrics import METRICS, OUTCOME_METRICS, Row
from mis_lib.results.stats import Interval, Rate
from mis_lib.schema import HARMFUL_OUTCOMES
from mis_lib.settings import TableFormat

WIDE = 7  # columns that fit side by side
ENDINGS = {TableFormat.MARKDOWN: "md", TableFormat.CSV: "csv", TableFormat.LATEX: "tex", TableFormat.JSON: "json"}
_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\N{DOWNWARDS ARROW}": r"$\downarrow$", "\N{UPWARDS ARROW}": r"$\uparrow$", "\N{RIGHTWARDS ARROW}": r"$\to$"}
)


class Sheet(NamedTuple):
    """One table. ``left`` columns hold words, the others numbers."""

    name: str
    """Key in JSON and file name: letters and underscores."""
    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]
    note: str = ""
    left: int = 2


def rate_cell(rate: Rate) -> str:
    """A rate with its interval, "-" where nothing was scored."""
    return "-" if rate.value is None else f"{rate.value:.1f} ({rate.low:.1f}-{rate.high:.1f})"


class Counted(Protocol):
    """What counts scored items and, beside them, unscored ones."""

    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def n_unscored(self) -> int: ...  # noqa: D102


def count_cell(found: Counted) -> str:
    """Scored items, and unscored ones where there are any: "10 + 2"."""
    return f"{found.n:,}" + (f" + {found.n_unscored:,}" if found.n_unscored else "")


def difference_cell(interval: Interval) -> str:
    """A difference with sign and interval."""
    if interval.value is None:
        return "-"
    known = interval.low is not None and interval.high is not None
    return f"{interval.value:+.1f}" + (f" ({interval.low:+.1f} to {interval.high:+.1f})" if known else "")


def p_cell(p: float | None) -> str:
    """A p value as papers write it."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its floats to four digits after the point, four significant ones where they are tiny."""
    return {
        key: (round(value, 4) if abs(value) >= 1e-3 else float(f"{value:.4g}")) if isinstance(value, float) else value
        for key, value in record.items()
    }


def render(sheets: Sequence[Sheet], form: TableFormat) -> str:
    """All sheets as one text in any form but TEXT, which is ``rich_sheets``."""
    if form is TableFormat.JSON:
        document = {
            sheet.name: {"title": sheet.title, "note": sheet.note, "records": [rounded(r) for r in sheet.records]}
            for sheet in sheets
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    one = {TableFormat.MARKDOWN: markdown, TableFormat.CSV: to_csv, TableFormat.LATEX: latex}[form]
    return "\n".join(one(sheet) for sheet in sheets)


def write_folder(sheets: Sequence[Sheet], folder: Path) -> list[Path]:
    """Write every sheet in every form into a folder, ``NAME.md`` and so on; returns the files."""
    written = []
    for sheet in sheets:
        for form, ending in ENDINGS.items():
            written.append(folder / f"{sheet.name}.{ending}")
            write_atomic(written[-1], render([sheet], form).encode(), sync=False)
    return written


def rich_sheets(sheets: Sequence[Sheet]) -> Group:
    """All sheets for a terminal of 80 columns: intervals below their numbers, wide sheets in parts by their first column."""
    parts: list[RenderableType] = []
    for sheet in sheets:
        wide = len(sheet.headings) > WIDE
        for first, rows in (_by_first(sheet.cells) if wide else {"": sheet.cells}).items():
            parts.append(_rich_table(sheet, rows, f"{sheet.title}: {first}" if first else sheet.title, int(wide)))
        parts += [Text(sheet.note, style="dim italic"), Text("")]
    return Group(*parts)


def _by_first(cells: Sequence[Sequence[str]]) -> dict[str, list[Sequence[str]]]:
    groups: dict[str, list[Sequence[str]]] = {}
    for row in cells:
        groups.setdefault(row[0], []).append(row)
    return groups


def _rich_table(sheet: Sheet, rows: Sequence[Sequence[str]], title: str, start: int) -> Table:
    """The columns from ``start`` on."""
    table = Table(
        title=Text(title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for position, heading in list(enumerate(sheet.headings))[start:]:
        side = "left" if position < sheet.left else "right"
        table.add_column(Text(heading), justify=side, overflow="fold")  # a narrow terminal cuts no figure
    for row in rows:
        table.add_row(*(Text(cell.replace(" (", "\n(")) for cell in row[start:]))
    return table


def markdown(sheet: Sheet) -> str:
    """A title line and a pipe table."""
    note = f" ({sheet.note})" if sheet.note else ""
    return f"**{sheet.title}**{note}\n\n{pipe_table(sheet.headings, sheet.cells, left=sheet.left)}\n"


def pipe_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table in Markdown, its first ``left`` columns words and the others numbers."""
    rule = ["---" if place < left else "---:" for place in range(len(headings))]
    return "\n".join(map(_pipes, [headings, rule, *rows]))


def latex(sheet: Sheet) -> str:
    """A ``table`` for the package booktabs."""
    body = [" & ".join(map(escape, row)) + r" \\" for row in sheet.cells]
    layout = "".join("l" if i < sheet.left else "r" for i in range(len(sheet.headings)))
    caption = f"{escape(sheet.title)}." + (f" {escape(sheet.note)}." if sheet.note else "")
    return "\n".join(
        [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule",
         " & ".join(map(escape, sheet.headings)) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )  # fmt: skip


def to_csv(sheet: Sheet) -> str:
    """The records with a header line; columns are those of the first record."""
    stream = io.StringIO()
    if sheet.records:
        writer = csv.DictWriter(stream, list(sheet.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rounded(record) for record in sheet.records)
    return stream.getvalue()


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return text.translate(_ESCAPES)


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# ---------- Tables of rates: for a terminal, and as Markdown, CSV, LaTeX and JSON.
#
# Every cell carries its interval, every row its denominators and what could not be scored, so that no number can be quoted without
# them. CSV and JSON are in long form, one rate a record, which is what analysis wants; the others are for reading.

NOTE = "percent, Wilson 95 % interval; n: scored + unscored"
Blocks = Sequence[Sequence[str]]  # names of metrics, those with one denominator together


def rich_table(rows: Sequence[Row], title: str) -> Group:
    """Tables for the terminal, value above interval: harmful items, benign ones, pairs and naming, each fit for 80 columns.

    A row stands in the tables that it has items for: a split without harmful ones, such as everyday pairs, has no line of dashes among these.
    """
    named = _blocks(rows)
    parts = (
        {"harmful items": named[:1], "benign items": named[1:2], "both": named[2:]} if len(named) > 2 else {"": named}
    )
    counted = {name: [row for row in rows if _counts(row, blocks)] for name, blocks in parts.items()}
    tables = [_rich_block(counted[name], parts[name], f"{title} {name}".strip()) for name in parts if counted[name]]
    return Group(*tables, Text("percent, Wilson 95 % interval; n: scored items + unscored ones", style="dim italic"))


def rates_sheet(rows: Sequence[Row], title: str, *, tag: str = "") -> Sheet:
    """The rates as a sheet; columns for run and judge where there are several."""
    words, blocks = _words(rows), _blocks(rows)
    return Sheet(
        "rates",
        title,
        _headings(_told(words, rows), blocks),
        [[*_named(row, words), *map(_inline, _cells(row, blocks))] for row in rows],
        [_record(row, metric, rate, tag) for row in rows for metric, rate in row.rates.items()],
        NOTE,
        left=len(words),
    )


def bounds_sheet(rows: Sequence[Row]) -> Sheet:
    """Where a judge failed: the rate of what it scored, and what it would be with every failure a miss, or a hit."""
    words = _words(rows)
    open_ones = [(row, name, rate) for row in rows for name, rate in row.rates.items() if rate.n_unscored]
    shown = [(row, name, rate) for row, name, rate in open_ones if name in ("asr", "over_refusal", "pair")]
    return Sheet(
        "bounds",
        "Unscored items: parsed only, and the worst that they could hide",
        (*_told(words, rows), "metric", "parsed only", "all unscored misses", "all unscored hits", "n"),
        [
            [
                *_named(row, words),
                METRICS[name].label,
                rate_cell(rate),
                *(f"{end:.1f}" for end in rate.worst),
                count_cell(rate),
            ]
            for row, name, rate in shown
        ],
        [_record(row, name, rate, "") for row, name, rate in open_ones],
        "percent; a judge's failure is in neither numerator nor denominator of the rates",
        left=len(words) + 1,
    )


def _words(rows: Sequence[Row]) -> list[str]:
    """The columns that say what a row is about."""
    several = [name for name in ("run", "judge") if len({getattr(row, name) for row in rows}) > 1]
    return ["group", *(name for name in ("run", "variant", "judge") if name == "variant" or name in several)]


def _told(words: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The words as headings: groups by what they are called together."""
    return [(rows[0].by if rows else "") or word if word == "group" else word for word in words]


def _named(row: Row, words: Sequence[str]) -> list[str]:
    return [str(getattr(row, word)) for word in words]


def _rich_block(rows: Sequence[Row], blocks: Blocks, title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", header_style="bold", show_lines=True)
    words = _words(rows)
    for position, heading in enumerate(_headings(_told(words, rows), blocks)):
        table.add_column(heading, justify="left" if position < len(words) else "right", overflow="fold")
    for row in rows:
        table.add_row(*_named(row, words), *(_stacked(cell) for cell in _cells(row, blocks)))
    return table


def _blocks(rows: Sequence[Row]) -> Blocks:
    """The metrics that the rows have, those with one denominator together: harmful items, benign ones, pairs, naming."""
    have = [name for name in METRICS if rows and name in rows[0].rates]
    harmful = [name for name in have if OUTCOME_METRICS.get(name) in HARMFUL_OUTCOMES]
    benign = [name for name in have if name in OUTCOME_METRICS and name not in harmful]
    others = [[name] for name in have if name not in OUTCOME_METRICS]
    return [block for block in (harmful, benign, *others) if block]


def _counts(row: Row, blocks: Blocks) -> bool:
    """Whether a row has any item, scored or not, that these metrics are about."""
    return any(rate.n + rate.n_unscored for rate in (row.rates[name] for block in blocks for name in block))


def _headings(words: Sequence[str], blocks: Blocks) -> list[str]:
    return [*words, *(heading for block in blocks for heading in (*(METRICS[name].heading for name in block), "n"))]


def _cells(row: Row, blocks: Blocks) -> list[Rate | str]:
    cells: list[Rate | str] = []
    for block in blocks:
        cells += [row.rates[name] for name in block]
        cells.append(count_cell(row.rates[block[0]]))
    return cells


def _stacked(cell: Rate | str) -> str:
    if isinstance(cell, str) or cell.value is None:
        return cell if isinstance(cell, str) else "-"
    return f"{cell.value:.1f}\n[dim]{cell.low:.1f}-{cell.high:.1f}[/dim]"


def _inline(cell: Rate | str) -> str:
    return cell if isinstance(cell, str) else rate_cell(cell)


def _record(row: Row, metric: str, rate: Rate, tag: str) -> Mapping[str, Any]:
    known = {"tag": row.tag or tag, "run": row.run, "variant": row.variant, "judge": row.judge, "group": row.group}
    low, high = rate.worst
    return {**known, "metric": metric, **rate.model_dump(), "worst_low": low, "worst_high": high}
