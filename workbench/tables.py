"""Tables: a frame as HTML to read and as CSV to keep.

What is shown is cut to its first rows, what is downloaded is whole. A text that a spreadsheet would run as a formula is made harmless in
the file, and every text is escaped on the page.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from mis_lib.files import spreadsheet_safe

SHOWN = 200
Cell = Callable[[Any], str]


def table(
    frame: pd.DataFrame,
    headings: Mapping[str, str],
    *,
    name: str,
    cells: Mapping[str, Cell] | None = None,
    long: Collection[str] = (),
    note: str = "",
) -> str:
    """An HTML table with a button to download the whole of it.

    Args:
        frame: what to show; only its first ``SHOWN`` rows are.
        headings: the columns to show, and what stands above them.
        name: of the table, for its button (``data-table``).
        cells: column -> a function of the row that returns HTML, instead of the escaped value.
        long: columns of running text, which may be broken anywhere; others keep their words whole.
        note: a line under the table.
    """
    drawn = cells or {}
    head = "".join(f"<th{_number(frame, column)}>{escape(text)}</th>" for column, text in headings.items())
    body = "".join(
        f"<tr>{''.join(_cell(frame, column, row, drawn.get(column), long=column in long) for column in headings)}</tr>"
        for row in frame.head(SHOWN).itertuples(index=False)
    )
    cut = f" The first {SHOWN:,} of {len(frame):,} rows; the file has all." if len(frame) > SHOWN else ""
    return (
        f'<div class="mis-table-wrap" tabindex="0" role="region" aria-label="{escape(name)}"><table class="mis-table"><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{foot(name, note + cut)}"
    )


def foot(name: str, note: str = "") -> str:
    """The line under a table: what to know, and the button that downloads it."""
    return (
        f'<p class="mis-table-foot"><span>{escape(note.strip())}</span><button type="button" class="mis-link" data-action="csv" '
        f'data-table="{escape(name)}">Download CSV</button></p>'
    )


def csv_text(frame: pd.DataFrame) -> str:
    """The whole frame as CSV; no cell of it is a formula to a spreadsheet."""
    texts = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    safe = frame.assign(**{column: [spreadsheet_safe(value) for value in frame[column]] for column in texts})
    return safe.to_csv(index=False, lineterminator="\r\n")


def _cell(frame: pd.DataFrame, column: str, row: Any, draw: Cell | None, *, long: bool) -> str:
    value = getattr(row, column)
    kind = ' class="mis-long-cell"' if long else _number(frame, column)
    return f"<td{kind}>{draw(row) if draw else _text(value)}</td>"


def _text(value: Any) -> str:
    if not isinstance(value, Sequence) and pd.isna(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else escape(str(value))
    )


def _number(frame: pd.DataFrame, column: str) -> str:
    numeric = pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column])
    return ' class="mis-number-cell"' if numeric else ""
