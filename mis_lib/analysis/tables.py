"""Tables of rates: for a terminal, and as Markdown, CSV, LaTeX and JSON.

Every cell carries its interval, every row its denominators and what could not be scored, so that no number can be quoted without
them. CSV and JSON are in long form, one rate a record, which is what analysis wants; the others are for reading.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mis_lib.results.metrics import METRICS, OUTCOME_METRICS, Row
from mis_lib.results.stats import Rate
from mis_lib.results.tables import Sheet, count_cell, rate_cell
from mis_lib.schema import HARMFUL_OUTCOMES

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
