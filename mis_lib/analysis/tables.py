"""Tables of rates: for a terminal, and as Markdown, CSV, LaTeX and JSON.

Every cell carries its interval, every row its denominators and what could not be scored, so that no number can be quoted without
them. CSV and JSON are in long form, one rate a record, which is what analysis wants; the others are for reading.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mis_lib.configs import TableFormat
from mis_lib.metrics import METRICS, OUTCOME_METRICS, Row
from mis_lib.schema import HARMFUL_OUTCOMES
from mis_lib.stats import Rate

LONG_COLUMNS: tuple[str, ...] = ("tag", "variant", "group", "metric", "value", "low", "high", "n", "n_unscored")
Blocks = Sequence[Sequence[str]]  # names of metrics, those with one denominator together
ARROWS = {"low": "\N{DOWNWARDS ARROW}", "high": "\N{UPWARDS ARROW}"}


def rich_table(rows: Sequence[Row], title: str) -> Group:
    """Tables for the terminal, value above interval: harmful items, benign ones, pairs and naming, each fit for 80 columns."""
    named = _blocks(rows)
    parts = (
        {"harmful items": named[:1], "benign twins": named[1:2], "both": named[2:]} if len(named) > 2 else {"": named}
    )
    tables = [_rich_block(rows, blocks, f"{title} {name}".strip()) for name, blocks in parts.items()]
    return Group(*tables, Text("percent, Wilson 95 % interval; n: scored items + unscored ones", style="dim italic"))


def _rich_block(rows: Sequence[Row], blocks: Blocks, title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", header_style="bold", show_lines=True)
    for position, heading in enumerate(_headings(blocks)):
        table.add_column(heading, justify="left" if position < 2 else "right")
    for row in rows:
        table.add_row(row.group, row.variant, *(_stacked(cell) for cell in _cells(row, blocks)))
    return table


def render(rows: Sequence[Row], form: TableFormat, *, tag: str, title: str) -> str:
    """The table as a string in any form but TEXT, which is ``rich_table``."""
    writers = {
        TableFormat.MARKDOWN: lambda: _markdown(rows, title),
        TableFormat.CSV: lambda: _csv(rows, tag),
        TableFormat.LATEX: lambda: _latex(rows, title),
        TableFormat.JSON: lambda: (
            json.dumps({"title": title, "rates": _long(rows, tag)}, indent=1, ensure_ascii=False) + "\n"
        ),
    }
    return writers[form]()


def _blocks(rows: Sequence[Row]) -> Blocks:
    """The metrics that the rows have, those with one denominator together: harmful items, benign ones, pairs, naming."""
    have = [name for name in METRICS if rows and name in rows[0].rates]
    harmful = [name for name in have if OUTCOME_METRICS.get(name) in HARMFUL_OUTCOMES]
    benign = [name for name in have if name in OUTCOME_METRICS and name not in harmful]
    others = [[name] for name in have if name not in OUTCOME_METRICS]
    return [block for block in (harmful, benign, *others) if block]


def _headings(blocks: Blocks) -> list[str]:
    return ["group", "variant", *(heading for block in blocks for heading in (*map(_heading, block), "n"))]


def _heading(metric: str) -> str:
    return f"{METRICS[metric].label} {ARROWS[METRICS[metric].best]}"


def _cells(row: Row, blocks: Blocks) -> list[Rate | str]:
    cells: list[Rate | str] = []
    for block in blocks:
        cells += [row.rates[name] for name in block]
        cells.append(_count(row.rates[block[0]]))
    return cells


def _count(rate: Rate) -> str:
    return f"{rate.n:,}" + (f" + {rate.n_unscored:,}" if rate.n_unscored else "")


def _stacked(cell: Rate | str) -> str:
    if isinstance(cell, str) or cell.value is None:
        return cell if isinstance(cell, str) else "-"
    return f"{cell.value:.1f}\n[dim]{cell.low:.1f}-{cell.high:.1f}[/dim]"


def _inline(cell: Rate | str) -> str:
    if isinstance(cell, str) or cell.value is None:
        return cell if isinstance(cell, str) else "-"
    return f"{cell.value:.1f} ({cell.low:.1f}-{cell.high:.1f})"


def _markdown(rows: Sequence[Row], title: str) -> str:
    headings = _headings(_blocks(rows))
    lines = [f"**{title}** (percent, Wilson 95 % interval; n: scored + unscored)", ""]
    lines += [_line(headings), _line(["---", "---", *["---:"] * (len(headings) - 2)])]
    lines += [_line([row.group, row.variant, *map(_inline, _cells(row, _blocks(rows)))]) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(rows: Sequence[Row], title: str) -> str:
    headings = [
        _escape(heading).replace(ARROWS["low"], r"$\downarrow$").replace(ARROWS["high"], r"$\uparrow$")
        for heading in _headings(_blocks(rows))
    ]
    body = [
        " & ".join(_escape(cell) for cell in [row.group, row.variant, *map(_inline, _cells(row, _blocks(rows)))])
        + r" \\"
        for row in rows
    ]
    layout = "ll" + "r" * (len(headings) - 2)
    note = "Percent with Wilson 95\\,\\% interval; n: scored + unscored items."
    return "\n".join(
        [r"\begin{table}", rf"\caption{{{_escape(title)}. {note}}}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule",
         " & ".join(headings) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )  # fmt: skip


def _escape(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text


def _csv(rows: Sequence[Row], tag: str) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, LONG_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_long(rows, tag))
    return stream.getvalue()


def _long(rows: Sequence[Row], tag: str) -> list[Mapping[str, object]]:
    return [
        {"tag": tag, "variant": row.variant, "group": row.group, "metric": metric, **_rounded(rate)}
        for row in rows
        for metric, rate in row.rates.items()
    ]


def _rounded(rate: Rate) -> dict[str, object]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in rate.model_dump().items()}
