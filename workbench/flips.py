"""What changed hands between two variants, as tables: outcomes of one against those of the other, and how many items flipped which way."""

from collections.abc import Sequence
from html import escape

import pandas as pd

from mis_lib.analysis.flips import FLIPS
from mis_lib.analysis.plot_parts import untyped
from mis_lib.results.evaluated import Evaluated
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome
from workbench.links import Link, Tab
from workbench.tables import foot


def flip_table(matrix: pd.DataFrame, run: Evaluated, before: str, after: str) -> str:
    """Outcomes of one variant against those of another, harmful items and benign items apart; a number opens its items."""
    parts = (("harmful items", HARMFUL_OUTCOMES, True), ("benign items", BENIGN_OUTCOMES, False))
    drawn = [
        _flips_of(untyped(matrix)[matrix.harmful == harmful], title, outcomes, run, before, after)
        for title, outcomes, harmful in parts
    ]
    return f'<div class="mis-flips">{"".join(drawn)}</div>'


def _flips_of(
    matrix: pd.DataFrame, title: str, outcomes: Sequence[Outcome], run: Evaluated, before: str, after: str
) -> str:
    if matrix.empty:
        return ""
    counts = {(row.before, row.after): row.n for row in untyped(matrix).itertuples()}
    named = [outcome for outcome in (*outcomes, Outcome.UNSCORED) if any(outcome in pair for pair in counts)]
    most = max(counts.values())

    def cell(row: Outcome, column: Outcome) -> str:
        count = counts.get((row, column), 0)
        if not count:
            return '<td class="mis-flip-none">·</td>'
        link = Link(
            tab=Tab.ANNOTATE, run=run.name, judge=run.judge, variants=(before, after), before=row, after=column
        ).query()
        told = f"{count} items: {words(row)} by {before}, {words(column)} by {after}. Open them"
        same = " mis-flip-same" if row == column else ""
        return (
            f'<td class="mis-flip{same}" style="--share:{count / most:.3f}"><a href="{escape(link)}" data-link title="{escape(told)}" '
            f'aria-label="{escape(told)}">{count}</a></td>'
        )

    head = "".join(f"<th scope=col>{words(outcome)}</th>" for outcome in named)
    body = "".join(
        f"<tr><th scope=row>{words(row)}</th>{''.join(cell(row, column) for column in named)}</tr>" for row in named
    )
    return (
        f'<figure><figcaption><b>{title}</b>: rows {escape(before)}, columns {escape(after)}</figcaption><div class="mis-table-wrap" tabindex="0">'
        f'<table class="mis-flip-table"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def flip_counts(flips: pd.DataFrame) -> str:
    """How many items flipped which way, in words."""
    counts = flips.flip.value_counts()
    lines = "".join(
        f"<li><b>{counts[kind]:,}</b> {escape(kind.replace('_', ' '))}: {escape(meaning)}</li>"
        for kind, meaning in FLIPS.items()
        if kind in counts
    )
    return f'<ul class="mis-flip-counts">{lines}</ul>{foot("flips", "A number opens its items in Annotate. The file has one row an item.")}'


def words(outcome: str) -> str:
    """An outcome as people read it."""
    return escape(str(outcome).replace("_", "-"))
