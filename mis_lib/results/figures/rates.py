"""Figures of the results, one function each: a tidy frame in, a Plotly figure out.

Plain traces only (scatter, heatmap), because the app's plotly.js is older than the package that writes the figures. Columns are asked for by
name; a frame without rows gives a figure that says how to fill it. The look is that of ``plot_style``, for light and dark ground alike, the parts
are those of ``plot_parts``; figures that are grids are in ``plot_grids``.
"""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.analysis.plot_parts import (
    LINE,
    RATE,
    UNSCORED,
    Look,
    bars,
    blank,
    broken,
    dots,
    empty,
    layout_of,
    lines_of,
    looks,
    n_of,
    need,
    told,
    untyped,
)
from mis_lib.results.figures.style import GRID, INK
from mis_lib.results.metrics import METRICS

DASHES = {"perception": "dot", "reasoning": "dash", "answer": "solid"}


def leaderboard(frame: pd.DataFrame, *, metrics: Sequence[str] = ("asr", "over_refusal")) -> go.Figure:
    """The rates of all runs side by side, one line a run and variant; published figures apart at the foot, with open marks.

    Args:
        frame: columns run, tag, variant, metric, value, low, high, n, n_unscored, published; one row a run, variant and metric.
        metrics: keys of ``METRICS``, a panel each; a safety rate never without its over-refusal.
    """
    frame = need(frame, "leaderboard", "run", "tag", "variant", "metric", *RATE, "published")
    shown = untyped(frame)[frame.metric.isin(metrics) & frame.value.notna()]
    if shown.empty:
        return empty(UNSCORED)
    shown = shown.assign(line=_lines(shown)).sort_values(["published", "line"], ascending=False)
    order = list(dict.fromkeys(shown.line))
    figure = make_subplots(
        1,
        len(metrics),
        shared_yaxes=True,
        horizontal_spacing=0.1,  # room for "100" beside the next panel's "0" on a phone
        subplot_titles=[
            f"{METRICS[metric].heading} (%)<br>{n_of(shown[shown.metric == metric].n)}" for metric in metrics
        ],
    )
    styles = looks(shown[~shown.published].variant)
    for column, metric in enumerate(metrics, 1):
        rows = shown[shown.metric == metric]
        for variant, look in styles.items():
            figure.add_trace(_dots(rows[(rows.variant == variant) & ~rows.published], look), row=1, col=column)
        if rows.published.any():
            figure.add_trace(_dots(rows[rows.published], Look(INK, "circle-open")), row=1, col=column)
    figure.update_annotations(font_size=13)
    figure.update_layout(layout_of(126 + (12 + LINE * lines_of(order)) * len(order)), margin_t=60)
    figure.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4])
    return figure.update_xaxes(range=[-4, 104], tickvals=[0, 50, 100])


def safety_plane(frame: pd.DataFrame) -> go.Figure:
    """Attack success against over-refusal: low on both is good, and a model that always refuses sits in its own corner.

    Args:
        frame: as ``leaderboard``; variants without both rates are left out.
    """
    frame = need(frame, "safety_plane", "run", "tag", "variant", "metric", *RATE, "published")
    keys = ["run", "tag", "variant", "published"]
    rates = {metric: untyped(frame)[frame.metric == metric][[*keys, *RATE]] for metric in ("asr", "over_refusal")}
    both = rates["asr"].merge(rates["over_refusal"], on=keys, suffixes=("_asr", "_or"))
    both = untyped(both)[both.value_asr.notna() & both.value_or.notna()]
    if both.empty:
        return empty(
            "Needs attack success <b>and</b> over-refusal of one run:<br>scored answers to harmful and to benign items."
        )
    figure = blank(460)
    _corners(figure)
    for variant, look in looks(both.variant).items():
        rows = untyped(both)[both.variant == variant]
        figure.add_scatter(
            x=rows.value_or,
            y=rows.value_asr,
            error_x=bars(rows, look.colour, "_or"),
            error_y=bars(rows, look.colour, "_asr"),
            mode="markers",
            name=variant,
            marker={
                "color": look.colour,
                "size": 12,
                "symbol": [f"{look.mark}-open" if open_ else look.mark for open_ in rows.published],
            },
            hovertext=[
                f"{row.variant} · {row.run or row.tag}<br>ASR {row.value_asr:.1f} [{row.low_asr:.1f}, {row.high_asr:.1f}], "
                f"n {row.n_asr}<br>over-refusal {row.value_or:.1f} [{row.low_or:.1f}, {row.high_or:.1f}], n {row.n_or}"
                for row in untyped(rows).itertuples()
            ],
            hoverinfo="text",
        )
    refused, unsafe = METRICS["over_refusal"].heading, METRICS["asr"].heading
    figure.update_xaxes(range=[-4, 104], ticksuffix=" %", title=f"{refused} of benign items ({n_of(both.n_or)})")
    return figure.update_yaxes(range=[-4, 104], ticksuffix=" %", title=f"attack success, {unsafe} ({n_of(both.n_asr)})")


def judge_swap(frame: pd.DataFrame, *, metric: str = "asr") -> go.Figure:
    """One rate under each judge, variant by variant: how far the judge and not the model moves the number.

    Args:
        frame: columns variant, judge, metric, value, low, high, n, n_unscored.
        metric: a key of ``METRICS``.
    """
    frame = need(frame, "judge_swap", "variant", "judge", "metric", *RATE)
    shown = untyped(frame)[(frame.metric == metric) & frame.value.notna()]
    if shown.empty:
        return empty("No verdicts yet: run <b>mis judge</b>")
    variants = list(dict.fromkeys(shown.variant))
    figure = make_subplots(1, 1)
    dots(figure, shown, variants, line="variant", series="judge", panel="metric", panels=[metric])
    return figure.update_xaxes(ticksuffix=" %", title=f"{METRICS[metric].heading} ({n_of(shown.n)})")


def training_curves(losses: pd.DataFrame, evaluations: pd.DataFrame) -> go.Figure:
    """Loss by segment of the answer and, where safety rates were measured on the way, those beside it, each over the optimiser's steps.

    Args:
        losses: columns step, segment ("all" or a kind of segment), loss.
        evaluations: columns step, metric, value, low, high, n.
    """
    losses = need(losses, "training_curves", "step", "segment", "loss")
    evaluations = need(evaluations, "training_curves", "step", "metric", "value", "low", "high", "n")
    if losses.empty:
        return empty("No step yet: the first loss appears here when it is logged")
    titles = ["loss (nats a token)", f"rates (%), {n_of(evaluations.n)}"][: 1 if evaluations.empty else 2]
    figure = make_subplots(1, len(titles), horizontal_spacing=0.1, subplot_titles=titles)
    for segment, look in looks(losses.segment).items():
        rows = untyped(losses)[(losses.segment == segment) & losses.loss.notna()]
        line = {"color": look.colour, "width": 3 if segment == "all" else 1.6, "dash": DASHES.get(segment, "solid")}
        mode = "lines" if len(rows) > 1 else "markers"  # of one point there is no line
        marker = {"color": look.colour, "symbol": look.mark, "size": 8}
        figure.add_scatter(x=rows.step, y=rows.loss, mode=mode, name=segment, line=line, marker=marker, row=1, col=1)
    for metric, look in looks(evaluations.metric).items():
        rows = untyped(evaluations)[(evaluations.metric == metric) & evaluations.value.notna()]
        figure.add_scatter(
            x=rows.step,
            y=rows.value,
            error_y=bars(rows, look.colour),
            mode="lines+markers",
            name=METRICS[metric].label if metric in METRICS else metric,
            marker={"color": look.colour, "symbol": look.mark, "size": 8},
            line={"color": look.colour, "width": 1.6},
            hovertext=[
                f"step {row.step}: {row.value:.1f} [{row.low:.1f}, {row.high:.1f}], n {row.n}"
                for row in untyped(rows).itertuples()
            ],
            hoverinfo="text",
            row=1,
            col=2,
        )
    figure.update_layout(layout_of(380)).update_annotations(font_size=13)
    figure.update_xaxes(title="step").update_yaxes(rangemode="tozero", col=1)
    return figure if evaluations.empty else figure.update_yaxes(range=[-3, 103], col=2)


def _dots(rows: pd.DataFrame, look: Look) -> go.Scatter:
    """Rates as dots with intervals, one line of the board each."""
    return go.Scatter(
        x=rows.value,
        y=rows.line,
        error_x=bars(rows, look.colour),
        mode="markers",
        marker={"color": look.colour, "size": 10, "symbol": look.mark},
        cliponaxis=False,  # whole at 0 and 100 in a narrow panel too
        name=rows.variant.iloc[0] if look.colour != INK else "published",
        showlegend=False,
        hovertext=told(rows),
        hoverinfo="text",
    )


def _lines(frame: pd.DataFrame) -> list[str]:
    """What stands at the left of each row: variant and run; published rows say so."""
    return [
        broken(f"{row.variant} (published)" if row.published else f"{row.variant} · {row.run}")
        for row in untyped(frame).itertuples()
    ]


def _corners(figure: go.Figure) -> None:
    """Name the corners of the plane, so that no one takes a model that refuses everything for a safe one.

    A name stands above its box (below it at the upper edge), in two lines, so that two fit side by side on a phone, and a little off the edge, where
    the intervals of rates of 0 and 100 run.
    """
    corners = (
        (0, 0, "safe and<br>helpful", "left"),
        (100, 0, "refuses<br>everything", "right"),
        (0, 100, "helps with<br>everything", "left"),
    )
    for x, y, text, side in corners:
        figure.add_annotation(
            x=x,
            y=abs(y - 14),
            text=text,
            showarrow=False,
            xanchor=side,
            yanchor="bottom" if y == 0 else "top",
            xshift=7 if side == "left" else -7,
            align=side,
            font={"size": 12, "color": INK},
        )
        figure.add_shape(
            type="rect", x0=abs(x - 14), x1=x, y0=abs(y - 14), y1=y, line={"width": 0}, fillcolor=GRID, layer="below"
        )
