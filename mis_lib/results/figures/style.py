"""How figures look: one Plotly template that is readable on white and on black, as pages and notebooks come in both.

Backgrounds are transparent and the ink is a grey in the middle, so that a figure needs no word about the theme it is shown in; as no grey has a
contrast of 4.5 on white and on black, ``INK_RULE`` gives text the ink of its page. The colours are Okabe and Ito's, told apart by people with any kind of colour vision, without those too pale for white paper; a variant keeps its colour in
every figure. Nothing in a figure calls another machine.

Plotly reads labels, legends and hover texts as HTML. Names come from files and people, so every figure takes its frame through ``as_text`` first.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

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
FAMILIAR = ("mini", "mirage", "refusal", "textual", "mirage_both")
"""Variants whose colour is fixed, in the order of ``COLOURS``; others take the colours that are left."""

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
            "x": 0,
            "xanchor": "left",
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"l": 12, "t": 12},
            "font": {"size": 16},
        },
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "xaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": INK, "ticks": "outside", "automargin": True},
        "yaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": INK, "ticks": "outside", "automargin": True},
        # below everything, where it grows with its names and meets no title; one series is named too
        "showlegend": True,
        "legend": {
            "orientation": "h",
            "xref": "container",
            "x": 0.01,
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "title": {"text": ""},
        },
        "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
        "hoverlabel": {"font": {"color": "#ffffff"}, "bgcolor": "#33373d"},
    }
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>:root {{ color-scheme: light dark; background: Canvas; }} body {{ margin: 1rem; }} {ink}</style></head>
<body>{figure}</body></html>
"""


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


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each text in it escaped, so that a figure shows ``<b>`` and does not obey it."""
    shown = frame.copy()
    for column in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[column]):
            shown[column] = [escape(cell, quote=False) if isinstance(cell, str) else cell for cell in shown[column]]
    return shown


def write_page(path: Path, figure: go.Figure, *, title: str) -> None:
    """Write a figure as a page that needs no other file and no network, light or dark as its reader has it."""
    chart = figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    script = f'<script type="text/javascript">{get_plotlyjs()}</script>'
    write_atomic(path, _PAGE.format(title=title, ink=INK_RULE, figure=script + chart).encode())
