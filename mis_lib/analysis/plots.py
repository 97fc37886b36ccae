"""Figures of the results, one function each: a tidy frame in, a Plotly figure out.

A series is told apart by its mark as well as by its colour, and every rate is drawn with its interval. Plain traces only (scatter,
heatmap), because the app's plotly.js is older than the package that writes the figures. Columns are asked for by name; a frame without rows
gives a figure that says how to fill it. The look is that of
``plot_style``, for light and dark ground alike; figures that are grids are in ``plot_grids``.
"""

from collections.abc import Iterable, Sequence
from html import escape, unescape
from textwrap import wrap
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.analysis.plot_style import COLOURS, GRID, INK, TEMPLATE, as_text, colours_of
from mis_lib.errors import DataError
from mis_lib.metrics import METRICS

MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "hexagon")
DASHES = {"perception": "dot", "reasoning": "dash", "answer": "solid"}
RATE = ("value", "low", "high", "n", "n_unscored")
LABEL = 24  # characters of a line at the left of the leaderboard


class Look(NamedTuple):
    """How one series is drawn, in all figures that have it."""

    colour: str
    mark: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; the mark goes with the colour."""
    return {name: Look(colour, MARKS[COLOURS.index(colour)]) for name, colour in colours_of(sorted(set(names))).items()}


def empty(text: str) -> go.Figure:
    """A figure that says why there is nothing to see and what to do about it."""
    figure = blank(160)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")


def leaderboard(frame: pd.DataFrame, *, metrics: Sequence[str] = ("asr", "over_refusal")) -> go.Figure:
    """The rates of all runs side by side, one line a run and variant; published figures apart at the foot, with open marks.

    Args:
        frame: columns run, tag, variant, metric, value, low, high, n, n_unscored, published; one row a run, variant and metric.
        metrics: keys of ``METRICS``, a panel each; a safety rate never without its over-refusal.
    """
    frame = need(frame, "leaderboard", "run", "tag", "variant", "metric", *RATE, "published")
    shown = untyped(frame)[frame.metric.isin(metrics) & frame.value.notna()]
    if shown.empty:
        return empty("No scored responses yet: run <b>mis report</b>")
    shown = shown.assign(line=_lines(shown)).sort_values(["published", "line"], ascending=False)
    order = list(dict.fromkeys(shown.line))
    figure = make_subplots(
        1,
        len(metrics),
        shared_yaxes=True,
        horizontal_spacing=0.1,  # room for "100" beside the next panel's "0" on a phone
        subplot_titles=[f"{_title(metric)} (%)" for metric in metrics],
    )
    for column, metric in enumerate(metrics, 1):
        rows = untyped(shown)[shown.metric == metric]
        for variant, look in looks(untyped(rows)[~rows.published].variant).items():
            figure.add_trace(_dots(untyped(rows)[(rows.variant == variant) & ~rows.published], look), row=1, col=column)
        if rows.published.any():
            figure.add_trace(_dots(untyped(rows)[rows.published], Look(INK, "circle-open")), row=1, col=column)
    figure.update_annotations(font_size=13)
    parts = 1 + max(line.count("<br>") for line in order)
    figure.update_layout(layout_of(110 + (14 + 16 * parts) * len(order)))
    figure.update_yaxes(categoryorder="array", categoryarray=order)
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
        return empty("Needs attack success <b>and</b> over-refusal of the same run: run <b>mis report</b>")
    figure = blank(460)
    _corners(figure)
    for variant, look in looks(both.variant).items():
        rows = untyped(both)[both.variant == variant]
        figure.add_scatter(
            x=rows.value_or,
            y=rows.value_asr,
            error_x=_bars(rows, look.colour, "_or"),
            error_y=_bars(rows, look.colour, "_asr"),
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
    figure.update_xaxes(range=[-4, 104], ticksuffix=" %", title="over-refusal of benign items \N{DOWNWARDS ARROW}")
    return figure.update_yaxes(range=[-4, 104], ticksuffix=" %", title="attack success (ASR) \N{DOWNWARDS ARROW}")


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
    figure = blank(150 + 46 * len(variants))
    styles = looks(shown.judge)
    for place, (judge, look) in enumerate(styles.items()):
        rows = untyped(shown)[shown.judge == judge]
        shift = (place - (len(styles) - 1) / 2) * min(0.22, 0.7 / len(styles))
        figure.add_scatter(
            x=rows.value,
            y=[variants.index(variant) + shift for variant in rows.variant],
            error_x=_bars(rows, look.colour),
            mode="markers",
            name=judge,
            marker={"color": look.colour, "size": 10, "symbol": look.mark},
            hovertext=[
                f"{row.judge}: {told}" for row, told in zip(untyped(rows).itertuples(), _told(rows), strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_yaxes(
        tickvals=list(range(len(variants))), ticktext=variants, range=[len(variants) - 0.5, -0.5], zeroline=False
    )
    return figure.update_xaxes(range=[-3, 103], ticksuffix=" %", title=_title(metric))


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
    titles = ["loss (nats a token)", "rates (%)"][: 1 if evaluations.empty else 2]
    figure = make_subplots(1, len(titles), horizontal_spacing=0.1, subplot_titles=titles)
    for segment, look in looks(losses.segment).items():
        rows = untyped(losses)[(losses.segment == segment) & losses.loss.notna()]
        line = {"color": look.colour, "width": 3 if segment == "all" else 1.6, "dash": DASHES.get(segment, "solid")}
        figure.add_scatter(x=rows.step, y=rows.loss, mode="lines", name=segment, line=line, row=1, col=1)
    for metric, look in looks(evaluations.metric).items():
        rows = untyped(evaluations)[(evaluations.metric == metric) & evaluations.value.notna()].rename(
            columns={"metric": "variant"}
        )
        figure.add_scatter(
            x=rows.step,
            y=rows.value,
            error_y=_bars(rows, look.colour),
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
    figure.update_layout(layout_of(380), margin_t=76, legend_y=1.1)
    figure.update_xaxes(title="step").update_yaxes(rangemode="tozero", col=1)
    return figure if evaluations.empty else figure.update_yaxes(range=[-3, 103], col=2)


def untyped(frame: pd.DataFrame) -> Any:
    """The frame, for selections and rows whose columns the type stubs of pandas cannot know."""
    return frame


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


def _dots(rows: pd.DataFrame, look: Look) -> go.Scatter:
    """Rates as dots with intervals, one line of the board each."""
    return go.Scatter(
        x=rows.value,
        y=rows.line,
        error_x=_bars(rows, look.colour),
        mode="markers",
        marker={"color": look.colour, "size": 10, "symbol": look.mark},
        cliponaxis=False,  # whole at 0 and 100 in a narrow panel too
        name=rows.variant.iloc[0] if look.colour != INK else "published",
        showlegend=False,
        hovertext=_told(rows),
        hoverinfo="text",
    )


def _lines(frame: pd.DataFrame) -> list[str]:
    """What stands at the left of each row: variant and run; published rows say so. Long ones are broken, or they leave a phone no room for the rates."""
    names = (
        f"{row.variant} (published)" if row.published else f"{row.variant} · {row.run}"
        for row in untyped(frame).itertuples()
    )
    return [
        "<br>".join(escape(part, quote=False) for part in wrap(unescape(name), LABEL, replace_whitespace=False))
        for name in names
    ]


def _bars(rows: pd.DataFrame, colour: str, suffix: str = "") -> dict[str, Any]:
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


def _told(rows: pd.DataFrame) -> list[str]:
    return [
        f"{row.variant}: {row.value:.1f} % "
        + (f"[{row.low:.1f}, {row.high:.1f}]<br>" if pd.notna(row.low) else "(no interval published)<br>")
        + (f"n {row.n:,.0f}" if pd.notna(row.n) else "n not published")
        + (f", {row.n_unscored:,.0f} unscored" if pd.notna(row.n_unscored) and row.n_unscored else "")
        for row in untyped(rows).itertuples()
    ]


def _title(metric: str) -> str:
    arrow = {"low": "\N{DOWNWARDS ARROW}", "high": "\N{UPWARDS ARROW}"}[METRICS[metric].best]
    return f"{METRICS[metric].label} {arrow}"


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
