"""What figures are made of: the look of a series, rates as dots with intervals, labels, and the figure that says why there is nothing to see.

A series is told apart by its mark as well as by its colour, and every rate is drawn with its interval. Long names are broken into lines, or they
leave a phone no room for the rates.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape, unescape
from textwrap import wrap
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from mis_lib.errors import DataError
from mis_lib.results.figures.style import COLOURS, TEMPLATE, as_text, colours_of

MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "hexagon")
RATE = ("value", "low", "high", "n", "n_unscored")
LABEL = 24  # characters of a line of a label
LINE = 18  # pixels of a line of a label
UNSCORED = "No scored responses yet: <b>mis judge runs/NAME</b> scores those of a run."


class Look(NamedTuple):
    """How one series is drawn, in all figures that have it."""

    colour: str
    mark: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; the mark goes with the colour, and is the next one where more names than colours share it."""
    used: Counter[str] = Counter()
    found = {}
    for name, colour in colours_of(sorted(set(names))).items():
        found[name] = Look(colour, MARKS[(COLOURS.index(colour) + used[colour]) % len(MARKS)])
        used[colour] += 1
    return found


def untyped(frame: pd.DataFrame) -> Any:
    """The frame, for selections and rows whose columns the type stubs of pandas cannot know."""
    return frame


def empty(text: str) -> go.Figure:
    """A figure that says why there is nothing to see and what to do about it."""
    figure = blank(160)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")


def blank(height: int) -> go.Figure:
    """A figure of that height in pixels, with nothing in it."""
    return go.Figure(layout=layout_of(height))


def layout_of(height: int) -> dict[str, Any]:
    """What the layout of every figure begins with; heights in pixels."""
    return {"template": TEMPLATE, "height": height, "margin": {"l": 12, "r": 16, "t": 44, "b": 44}}


def need(frame: pd.DataFrame, figure: str, *columns: str) -> pd.DataFrame:
    """The frame as text for a figure (``as_text``), once it has the columns that the figure is drawn from.

    Raises:
        DataError: one is missing (all that are needed, and those found, are named).
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        found = ", ".join(map(str, frame.columns)) or "none"
        raise DataError(f"{figure}: expected a frame with the columns {', '.join(columns)}, found {found}")
    return as_text(frame)


def broken(name: str, width: int = LABEL) -> str:
    """An escaped name in lines of at most ``width`` characters."""
    parts = wrap(unescape(name), width, replace_whitespace=False)
    return "<br>".join(escape(part, quote=False) for part in parts)


def lines_of(labels: Iterable[str]) -> int:
    """Lines of the longest of some labels, as ``broken`` makes them."""
    return max((1 + label.count("<br>") for label in labels), default=0)


def n_of(counts: pd.Series) -> str:
    """How many items some rates are of: "n = 40", "n = 12 to 40"."""
    known = counts.dropna()
    if known.empty:
        return "n not published"
    least, most = known.min(), known.max()
    return f"n = {least:,.0f}" if least == most else f"n = {least:,.0f} to {most:,.0f}"


def bars(rows: pd.DataFrame, colour: str, suffix: str = "") -> dict[str, Any]:
    """The interval of each rate as error bars; none where a published figure came without."""
    value, low, high = (rows[f"{name}{suffix}"] for name in ("value", "low", "high"))
    return {
        "type": "data",
        "array": (high - value).fillna(0).clip(lower=0),
        "arrayminus": (value - low).fillna(0).clip(lower=0),
        "color": colour,
        "thickness": 1.4,
        "width": 3,
    }


def told(rows: pd.DataFrame, name: str = "variant") -> list[str]:
    """Each rate in words for the pointer: whose it is (column ``name``), its interval, n and what is unscored."""
    return [
        f"{row[name]}: {row['value']:.1f} % "
        + (f"[{row['low']:.1f}, {row['high']:.1f}]<br>" if pd.notna(row["low"]) else "(no interval published)<br>")
        + (f"n {row['n']:,.0f}" if pd.notna(row["n"]) else "n not published")
        + (f", {row['n_unscored']:,.0f} unscored" if row.get("n_unscored", 0) > 0 else "")
        for row in rows.to_dict("records")
    ]


def dots(
    figure: go.Figure, frame: pd.DataFrame, lines: Sequence[str], *, line: str, series: str, panel: str, panels: Sequence[str]
) -> None:  # fmt: skip
    """Draw rates as dots with intervals into the panels of a figure side by side, and make it as high as that takes.

    Args:
        figure: with a column for each panel.
        frame: columns value, low, high, n and those named by the next.
        lines: values of the column ``line``, from the top.
        line: column that says on which line a rate stands.
        series: column of what is told apart on a line, one below the other.
        panel: column that says in which panel a rate stands.
        panels: values of the column ``panel``, from the left.
    """
    styles, labels = looks(frame[series]), [broken(name) for name in lines]
    step = min(0.22, 0.7 / max(1, len(styles)))  # no dot comes near those of the next line
    for place, (name, look) in enumerate(styles.items()):
        shift = step * (place - (len(styles) - 1) / 2)
        for column, shown in enumerate(panels, 1):
            rows = untyped(frame)[(frame[series] == name) & (frame[panel] == shown)]
            figure.add_scatter(
                x=rows.value, y=[lines.index(one) + shift for one in rows[line]], error_x=bars(rows, look.colour),
                mode="markers", marker={"color": look.colour, "symbol": look.mark, "size": 10}, name=name, legendgroup=name,
                showlegend=column == 1, hovertext=told(rows, series), hoverinfo="text", row=1, col=column,
            )  # fmt: skip
    figure.update_layout(layout_of(150 + max(46, 14 * len(styles), LINE * lines_of(labels)) * len(lines)))
    figure.update_xaxes(range=[-3, 103]).update_annotations(font_size=13)
    figure.update_yaxes(tickvals=list(range(len(lines))), ticktext=labels, range=[len(lines) - 0.5, -0.5])
    figure.update_yaxes(zeroline=False)
