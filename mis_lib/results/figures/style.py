"""How figures look: one Plotly template that is readable on white and on black, as pages and notebooks come in both.

Backgrounds are transparent and the ink is a grey in the middle, so that a figure needs no word about the theme it is
shown in; as no grey has a contrast of 4.5 on white and on black, ``INK_RULE`` gives text the ink of its page. The
colours are Okabe and Ito's, distinct with any kind of colour vision, without those too pale for white
paper; a variant keeps its colour in every figure. Nothing in a figure calls another machine.

A series differs in its mark as well as in its colour, and every rate is drawn with its interval. Long names are broken
into lines, or they leave a phone no room for the rates. Plotly reads labels, legends and hover texts as HTML. Names
come from files and people, so every figure takes its frame through ``as_text`` first.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape, unescape
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mis_lib.errors import DataError
from mis_lib.files import write_atomic

INK = "#767b85"
_RED_GREEN_BLUE = ", ".join(str(int(INK[i : i + 2], 16)) for i in (1, 3, 5))
INK_ON_LIGHT, INK_ON_DARK = "#555a64", "#a9afb9"
INK_RULE = (
    f'.js-plotly-plot text[style*="fill: rgb({_RED_GREEN_BLUE})"] '
    f"{{ fill: var(--jp-content-font-color1, light-dark({INK_ON_LIGHT}, {INK_ON_DARK})) !important }}"
)
"""CSS for pages with figures: Jupyter's ink where there is one, else that of the page's colour scheme."""
GRID = "rgba(128, 128, 128, 0.25)"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
HARMFUL, BENIGN = "#d55e00", "#009e73"
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "hexagon")
FAMILIAR = ("mini", "mirage", "refusal", "textual", "mirage_both")
"""Variants whose colour is fixed, in the order of ``COLOURS``; others take the colours that are left."""
RATE = ("value", "low", "high", "n", "n_unscored")
LABEL = 24  # characters of a line of a label
LINE = 18  # pixels of a line of a label
UNSCORED = "No scored responses yet: <b>mis judge runs/NAME</b> scores those of a run."
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d"],
    "modeBarButtonsToAdd": ["toggleSpikelines"],
    "toImageButtonOptions": {"format": "svg"},
    "responsive": True,
}
"""For ``fig.show(config=CONFIG)`` and ``gr.Plot``: no logo, no button that sends data anywhere, pictures as SVG."""
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        "title": {
            "x": 0, "xanchor": "left", "xref": "container", "y": 1, "yanchor": "top", "yref": "container",
            "pad": {"l": 12, "t": 12}, "font": {"size": 16},
        },
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "xaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": INK, "ticks": "outside", "automargin": True},
        "yaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": INK, "ticks": "outside", "automargin": True},
        # below everything, where it grows with its names and meets no title; one series is named too
        "showlegend": True,
        "legend": {
            "orientation": "h", "xref": "container", "x": 0.01, "yref": "container", "y": 0, "yanchor": "bottom",
            "title": {"text": ""},
        },
        "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
        "hoverlabel": {"font": {"color": "#ffffff"}, "bgcolor": "#33373d"},
    }
)  # fmt: skip
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>:root {{ color-scheme: light dark; background: Canvas; }} body {{ margin: 1rem; }} {ink}</style></head>
<body>{figure}</body></html>
"""


class Look(NamedTuple):
    """How one series is drawn, in all figures that have it."""

    colour: str
    mark: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; the mark goes with the colour; the next mark where names share a colour."""
    used: Counter[str] = Counter()
    found = {}
    for name, colour in colours_of(sorted(set(names))).items():
        found[name] = Look(colour, MARKS[(COLOURS.index(colour) + used[colour]) % len(MARKS)])
        used[colour] += 1
    return found


def colours_of(variants: Iterable[str]) -> dict[str, str]:
    """A colour for each variant: the familiar ones keep theirs, the others get what is left, in order."""
    names = list(dict.fromkeys(variants))
    fixed = {name: COLOURS[FAMILIAR.index(name)] for name in names if name in FAMILIAR}
    left = [colour for colour in COLOURS if colour not in fixed.values()]
    others = [name for name in names if name not in fixed]
    return {**fixed, **{name: left[i % len(left)] for i, name in enumerate(others)}}


def see_through(colour: str) -> str:
    """A ``#rrggbb`` colour for the area of an interval."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.18)"


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


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each text in it escaped, so that a figure shows ``<b>`` and does not obey it."""
    shown = frame.copy()
    for column in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[column]):
            shown[column] = [escape(cell, quote=False) if isinstance(cell, str) else cell for cell in shown[column]]
    return shown


def untyped(frame: pd.DataFrame) -> Any:
    """The frame, for selections and rows whose columns the type stubs of pandas cannot know."""
    return frame


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


def hover_texts(rows: pd.DataFrame, name: str = "variant") -> list[str]:
    """Each rate in words for the pointer: whose it is (column ``name``), its interval, n and what is unscored."""
    return [
        f"{row[name]}: {row['value']:.1f} % "
        + (f"[{row['low']:.1f}, {row['high']:.1f}]<br>" if pd.notna(row["low"]) else "(no interval published)<br>")
        + (f"n {row['n']:,.0f}" if pd.notna(row["n"]) else "n not published")
        + (f", {row['n_unscored']:,.0f} unscored" if row.get("n_unscored", 0) > 0 else "")
        for row in rows.to_dict("records")
    ]


def dots(
    figure: go.Figure,
    frame: pd.DataFrame,
    lines: Sequence[str],
    *,
    line: str,
    series: str,
    panel: str,
    panels: Sequence[str],
) -> None:
    """Draw rates as dots with intervals into the panels of a figure side by side, and make it as high as that takes.

    Args:
        figure: with a column for each panel.
        frame: columns value, low, high, n and those named by the next.
        lines: values of the column ``line``, from the top.
        line: column that names the line of a rate.
        series: column of the series of a line, one below the other.
        panel: column that names the panel of a rate.
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
                mode="markers", marker={"color": look.colour, "symbol": look.mark, "size": 10}, name=name,
                legendgroup=name, showlegend=column == 1, hovertext=hover_texts(rows, series), hoverinfo="text",
                row=1, col=column,
            )  # fmt: skip
    figure.update_layout(layout_of(150 + max(46, 14 * len(styles), LINE * lines_of(labels)) * len(lines)))
    figure.update_xaxes(range=[-3, 103]).update_annotations(font_size=13)
    figure.update_yaxes(tickvals=list(range(len(lines))), ticktext=labels, range=[len(lines) - 0.5, -0.5])
    figure.update_yaxes(zeroline=False)


def write_page(path: Path, figure: go.Figure, *, title: str) -> None:
    """Write a figure as a page that needs no other file and no network, light or dark as its reader has it."""
    chart = figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    script = f'<script type="text/javascript">{get_plotlyjs()}</script>'
    write_atomic(path, _PAGE.format(title=escape(title), ink=INK_RULE, figure=script + chart).encode())
