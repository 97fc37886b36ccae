"""Figures that are grids, from the same frames as ``plots``: changes by category, flips between two variants, an item taken apart.

Every cell says its number in words as well as in colour. Blue is better and orange worse, so that no one has to remember which end of a
metric is the good one.
"""

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.analysis.plot_parts import LINE, broken, empty, layout_of, lines_of, n_of, need, untyped
from mis_lib.results.figures.style import COLOURS
from mis_lib.results.metrics import METRICS
from mis_lib.schema import Outcome

PALE = "#e8eaee"  # opaque, so that the numbers on it are as readable on dark ground
FAINT = "rgba(128, 128, 128, 0.1)"  # for cells without a number, which would glare on dark ground
WORSE_BETTER = [[0.0, COLOURS[1]], [0.5, PALE], [1.0, COLOURS[0]]]
OUTCOME_COLOURS: Mapping[str, str] = {
    Outcome.UNSAFE: "#d55e00",
    Outcome.OVER_REFUSED: "#cc79a7",
    Outcome.REASONED: "#009e73",
    Outcome.HELPED: "#009e73",
    Outcome.REFUSED: "#0072b2",
    Outcome.WARNED_BUT_HELPED: "#56b4e9",
    Outcome.HALLUCINATED: "#8c6bb1",
    Outcome.OFF_TOPIC: "#8c6bb1",
    Outcome.UNSCORED: "#7f7f7f",
}


def category_heatmap(frame: pd.DataFrame, *, before: str = "before", after: str = "after") -> go.Figure:
    """What changed in each category, in points; blue is better, orange worse, whatever the metric's good end.

    Args:
        frame: columns group, metric, difference (after - before), low, high, n.
        before: name of what is compared with.
        after: name of what is compared.
    """
    frame = need(frame, "category_heatmap", "group", "metric", "difference", "low", "high", "n")
    before, after = escape(before, quote=False), escape(after, quote=False)
    if frame.empty:
        return empty("Choose two variants that answered the same items")
    metrics = [metric for metric in METRICS if metric in set(frame.metric)]
    groups = list(dict.fromkeys(frame.group))[::-1]
    cells = {(row.group, row.metric): row for row in untyped(frame).itertuples()}
    better, texts, hover = [], [], []
    for group in groups:
        row = [cells.get((group, metric)) for metric in metrics]
        better.append([_better(cell) for cell in row])
        texts.append(["" if cell is None or pd.isna(cell.difference) else _point(cell) for cell in row])
        hover.append([_difference_told(cell, before, after) for cell in row])
    labels = [f"{broken(group)}<br>{n_of(untyped(frame)[frame.group == group].n)}" for group in groups]
    figure = go.Figure(
        go.Heatmap(
            z=better,
            x=[METRICS[metric].label for metric in metrics],
            y=labels,
            text=texts,
            texttemplate="%{text}",
            hovertext=hover,
            hoverinfo="text",
            colorscale=WORSE_BETTER,
            zmid=0,
            zmin=-140,  # pale enough for dark numbers at every change
            zmax=140,
            textfont={"color": "#1b2430"},
            showscale=False,
            xgap=3,
            ygap=3,
        ),
        layout=layout_of(120 + (10 + LINE * lines_of(labels)) * len(groups)),
    )
    return figure.update_xaxes(side="top", showgrid=False).update_yaxes(showgrid=False)


def flip_matrix(frame: pd.DataFrame, *, before: str = "before", after: str = "after") -> go.Figure:
    """How many items went from which outcome to which; the diagonal is what stayed.

    Args:
        frame: columns before, after (outcomes), n.
        before: name of the variant in the rows.
        after: name of the variant in the columns.
    """
    frame = need(frame, "flip_matrix", "before", "after", "n")
    before, after = escape(before, quote=False), escape(after, quote=False)
    if frame.empty:
        return empty("Choose two variants that answered the same items")
    outcomes = [outcome.value for outcome in Outcome if outcome.value in {*frame.before, *frame.after}]
    counts = frame.pivot_table(index="before", columns="after", values="n", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=outcomes[::-1], columns=outcomes, fill_value=0)
    figure = go.Figure(
        go.Heatmap(
            z=counts.to_numpy().tolist(),
            x=[_in_lines(_words(outcome)) for outcome in outcomes],
            y=[_words(outcome) for outcome in outcomes[::-1]],
            text=[[value or "" for value in row] for row in counts.to_numpy().tolist()],
            texttemplate="%{text}",
            hovertemplate=f"{before}: %{{y}}<br>{after}: %{{x}}<br>%{{z}} items<extra></extra>",
            colorscale=[[0, FAINT], [1e-9, FAINT], [1e-9, PALE], [1, COLOURS[0]]],
            zmin=0,  # with zmax, as alone it counts for nothing and the least number would look like none
            zmax=int(counts.to_numpy().max()),
            showscale=False,
            xgap=3,
            ygap=3,
        ),
        layout=layout_of(120 + 44 * len(outcomes)),
    )
    figure.update_xaxes(side="top", showgrid=False, title=f"{after}: outcome")
    return figure.update_yaxes(showgrid=False, title=f"{broken(before)}: outcome", title_standoff=12, automargin=True)


def ablation_grid(frame: pd.DataFrame) -> go.Figure:
    """One item with each image kept, blanked, dropped or exchanged: which image, or which pair, made the answer unsafe.

    Args:
        frame: columns variant, first, second (state of each image), outcome; a panel a variant, one below the other, or no cell would have
            room for its word.
    """
    frame = need(frame, "ablation_grid", "variant", "first", "second", "outcome")
    if frame.empty:
        return empty("Not measured yet for this item: run <b>mis ablate</b>")
    variants = list(dict.fromkeys(frame.variant))
    names = list(OUTCOME_COLOURS)
    states = untyped(frame)["first"].nunique()
    gap, inner = 56, 44 * states * len(variants)
    figure = make_subplots(
        len(variants),
        1,
        shared_xaxes=True,
        vertical_spacing=gap / (inner + gap * len(variants)),
        subplot_titles=variants,
    )
    for line, variant in enumerate(variants, 1):
        grid = untyped(frame)[frame.variant == variant].pivot_table(
            index="first", columns="second", values="outcome", aggfunc="first", sort=False
        )
        words = [[_in_lines(_words(cell)) if isinstance(cell, str) else "" for cell in row] for row in grid.to_numpy()]
        figure.add_heatmap(
            z=[[names.index(cell) if cell in names else None for cell in row] for row in grid.to_numpy()],
            x=list(grid.columns),
            y=list(grid.index),
            text=words,
            texttemplate="%{text}",
            hovertemplate="image 1 %{y}, image 2 %{x}: %{text}<extra></extra>",
            colorscale=_steps([OUTCOME_COLOURS[name] for name in names]),
            zmin=-0.5,
            zmax=len(names) - 0.5,
            showscale=False,
            xgap=3,
            ygap=3,
            row=line,
            col=1,
        )
    figure.update_layout(layout_of(96 + inner + gap * (len(variants) - 1))).update_annotations(font_size=13)
    figure.update_yaxes(autorange="reversed", showgrid=False, title="image 1", title_standoff=12, automargin=True)
    return figure.update_xaxes(showgrid=False).update_xaxes(title="image 2", row=len(variants))


def _better(cell: Any) -> float | None:
    """The difference with its sign turned so that more is better."""
    if cell is None or pd.isna(cell.difference):
        return None
    return -cell.difference if METRICS[cell.metric].best == "low" else cell.difference


def _point(cell: Any) -> str:
    """The difference as it stands in the map; without a star the interval includes no change."""
    sure = "*" if pd.notna(cell.low) and (cell.low > 0 or cell.high < 0) else ""
    return f"{cell.difference:+.0f}{sure}"


def _difference_told(cell: Any, before: str, after: str) -> str:
    if cell is None or pd.isna(cell.difference):
        return "not scored"
    interval = f"[{cell.low:+.1f}, {cell.high:+.1f}]" if pd.notna(cell.low) else "(all alike: no interval)"
    return f"{cell.group}<br>{METRICS[cell.metric].label}, {after} - {before}: {cell.difference:+.1f} points {interval}, n {cell.n:,}"


def _words(outcome: str) -> str:
    return str(outcome).replace("_", " ")


def _in_lines(words: str) -> str:
    """The words of a cell, two lines where one is too long for a narrow grid."""
    return "<br>".join(wrap(words, 12))


def _steps(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale of equal steps, one a colour."""
    return [[at / len(colours), colour] for i, colour in enumerate(colours) for at in (i, i + 1)]
