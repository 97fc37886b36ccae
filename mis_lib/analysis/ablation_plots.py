"""Figures of ablations: how answers change when images are taken away, told in words, exchanged or put in another order."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.analysis.ablation_results import Measured
from mis_lib.analysis.plot_style import INK, TEMPLATE, as_text
from mis_lib.analysis.plots import empty, looks
from mis_lib.metrics import METRICS

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
    counts = int(shown["n"].max())
    figure = make_subplots(1, len(MEASURES), shared_yaxes=True, horizontal_spacing=0.1,
                           subplot_titles=[f"{name}<br>% of at most {counts} harmful items" for name in MEASURES])  # fmt: skip
    styles = looks(shown["variant"])
    for place, (variant, look) in enumerate(styles.items()):
        shift = 0.2 * (place - (len(styles) - 1) / 2)
        for column, measure in enumerate(MEASURES, 1):
            rows = shown[(shown["variant"] == variant) & (shown["measure"] == measure)]
            figure.add_scatter(
                x=rows["value"], y=[conditions.index(name) + shift for name in rows["condition"]], mode="markers", name=variant,
                legendgroup=variant, showlegend=column == 1, marker={"color": look.colour, "symbol": look.mark, "size": 10},
                error_x={"type": "data", "array": rows["high"] - rows["value"], "arrayminus": rows["value"] - rows["low"], "color": look.colour, "thickness": 1.4},
                hovertext=[f"{row.variant}, {row.condition}: {row.value:.1f} [{row.low:.1f}, {row.high:.1f}], n {row.n}" for row in rows.itertuples()],
                hoverinfo="text", row=1, col=column,
            )  # fmt: skip
    figure.update_annotations(font_size=13)
    inner = 42 * len(conditions)
    figure.update_layout(template=TEMPLATE, height=190 + inner, margin={"l": 12, "r": 16, "t": 110, "b": 80})
    figure.update_layout(legend={"y": -40 / inner, "yanchor": "top"})  # below, since the two titles stand above
    names = [name.replace(":", ": ") for name in conditions]
    figure.update_yaxes(tickvals=list(range(len(conditions))), ticktext=names, range=[len(conditions) - 0.5, -0.5])
    return figure.update_xaxes(range=[-3, 103], ticksuffix=" %", zerolinecolor=INK)


def size_curve(frame: pd.DataFrame, title: str) -> go.Figure:
    """Rates against the number of training rows with 95 % intervals (columns rows, metric, value, low, high, n)."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 420, "title": title})
    for metric, look in looks(frame["metric"]).items():
        rows = frame[(frame["metric"] == metric) & frame["value"].notna()].sort_values("rows")
        figure.add_scatter(
            x=rows["rows"], y=rows["value"], mode="lines+markers", name=METRICS[metric].label, line={"color": look.colour},
            marker={"color": look.colour, "symbol": look.mark, "size": 9},
            error_y={"type": "data", "array": rows["high"] - rows["value"], "arrayminus": rows["value"] - rows["low"], "color": look.colour},
        )  # fmt: skip
    most = max([1, *frame["rows"]])
    figure.update_xaxes(title="rows of the training mixture (0: base)", range=[-0.04 * most, 1.04 * most])
    return figure.update_yaxes(title="rate (%)", range=[-3, 103])
