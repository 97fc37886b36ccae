"""Figures of ablations: how answers change when images are taken away, told in words, exchanged or put in another order."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.analysis.ablation_results import Measured
from mis_lib.analysis.plot_parts import bars, dots, empty, looks, n_of
from mis_lib.results.figures.style import INK, TEMPLATE, as_text
from mis_lib.results.metrics import METRICS

MEASURES = ("unsafe", "declines")
COLUMNS = ["variant", "items", "measure", "condition", "value", "low", "high", "n", "n_unscored", "p"]


def measured_frame(measured: Iterable[Measured]) -> pd.DataFrame:
    """What an ablation measured, one row a measure, variant and condition."""
    return pd.DataFrame([one.model_dump() for one in measured], columns=COLUMNS)


def by_condition(frame: pd.DataFrame) -> go.Figure:
    """``MEASURES`` under every condition with 95 % intervals, one mark a variant (columns of ``measured_frame``, harmful items)."""
    frame = as_text(frame)
    shown = frame[(frame["items"] == "harmful") & frame["measure"].isin(MEASURES) & frame["value"].notna()]
    if shown.empty:
        return empty("Nothing measured yet: run <b>mis ablate</b>")
    conditions = list(dict.fromkeys(shown["condition"]))
    titles = [f"{name}<br>% of at most {int(shown['n'].max())} harmful items" for name in MEASURES]
    figure = make_subplots(1, len(MEASURES), shared_yaxes=True, horizontal_spacing=0.1, subplot_titles=titles)
    dots(figure, shown, conditions, line="condition", series="variant", panel="measure", panels=MEASURES)
    return figure.update_layout(margin_t=84).update_xaxes(ticksuffix=" %", zerolinecolor=INK)


def size_curve(frame: pd.DataFrame, title: str) -> go.Figure:
    """Rates against the number of training rows with 95 % intervals (columns rows, metric, value, low, high, n)."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 420, "title": title})
    for metric, look in looks(frame["metric"]).items():
        rows = frame[(frame["metric"] == metric) & frame["value"].notna()].sort_values("rows")
        figure.add_scatter(
            x=rows["rows"], y=rows["value"], mode="lines+markers", name=METRICS[metric].label, line={"color": look.colour},
            marker={"color": look.colour, "symbol": look.mark, "size": 9},
            error_y=bars(rows, look.colour),
        )  # fmt: skip
    most = max([1, *frame["rows"]])
    figure.update_xaxes(title="rows of the training mixture (0: base)", range=[-0.04 * most, 1.04 * most])
    return figure.update_yaxes(title=f"rate (%), {n_of(frame['n'])}", range=[-3, 103])
