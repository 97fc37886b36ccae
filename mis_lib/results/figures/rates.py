"""Figures of the results, one function each: a tidy frame in, a Plotly figure out.

Plain traces only (scatter, bar, heatmap), because the app's plotly.js is older than the package that writes the
figures. Columns are named; a frame without rows gives a figure that says how to fill it. The look is that of ``style``,
for light and dark ground alike. Every cell of a grid says its number in words as well as in colour. There blue is
better and orange worse, so that no one has to remember which end of a metric is the good one.
"""

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.results.figures.style import (
    COLOURS,
    GRID,
    INK,
    LINE,
    RATE,
    TEMPLATE,
    UNSCORED,
    Look,
    as_text,
    bars,
    blank,
    broken,
    dots,
    empty,
    hover_texts,
    layout_of,
    lines_of,
    looks,
    n_of,
    need,
    untyped,
)
from mis_lib.results.metrics import METRICS, OUTCOME_METRICS
from mis_lib.schema import HARMFUL_OUTCOMES, Outcome

DASHES = {"perception": "dot", "reasoning": "dash", "answer": "solid"}
ORDER = ("asr", "rsr", "rr", "hr", "helped", "warned", "over_refusal", "off_topic")
PALE = "#e8eaee"  # opaque, so that the numbers on it are as readable on dark ground
FAINT = "rgba(128, 128, 128, 0.1)"  # for cells without a number, which would glare on dark ground
CELLS: Mapping[str, Any] = {"texttemplate": "%{text}", "showscale": False, "xgap": 3, "ygap": 3}
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


def leaderboard(frame: pd.DataFrame, *, metrics: Sequence[str] = ("asr", "over_refusal")) -> go.Figure:
    """The rates of all runs side by side, one line a run and variant; published figures at the foot, with open marks.

    Args:
        frame: columns run, tag, variant, metric, value, low, high, n, n_unscored, published; one row a run, variant and
            metric.
        metrics: keys of ``METRICS``, a panel each; a safety rate never without its over-refusal.
    """
    frame = need(frame, "leaderboard", "run", "tag", "variant", "metric", *RATE, "published")
    shown = untyped(frame)[frame.metric.isin(metrics) & frame.value.notna()]
    if shown.empty:
        return empty(UNSCORED)
    shown = shown.assign(line=_lines(shown)).sort_values(["published", "line"], ascending=False)
    order = list(dict.fromkeys(shown.line))
    titles = [f"{METRICS[metric].heading} (%)<br>{n_of(shown[shown.metric == metric].n)}" for metric in metrics]
    gap = 0.1  # room for "100" next to the following panel's "0" on a phone
    figure = make_subplots(1, len(metrics), shared_yaxes=True, horizontal_spacing=gap, subplot_titles=titles)
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
                "symbol": look.mark + rows.published.map({True: "-open", False: ""}),
            },
            hovertext=[
                f"{row.variant} · {row.run or row.tag}<br>"
                f"ASR {row.value_asr:.1f} [{row.low_asr:.1f}, {row.high_asr:.1f}], n {row.n_asr}<br>"
                f"over-refusal {row.value_or:.1f} [{row.low_or:.1f}, {row.high_or:.1f}], n {row.n_or}"
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


def outcome_stack(rates: pd.DataFrame, title: str) -> go.Figure:
    """The rates that sum to 100, harmful items left and benign ones right, one bar a variant.

    Args:
        rates: rows of one group: variant, metric, value, n (``frames.leaderboard``).
        title: what is counted.
    """
    rates = as_text(rates)
    shown = rates[rates["metric"].isin(OUTCOME_METRICS) & rates["value"].notna()].copy()
    if shown.empty:
        return empty(UNSCORED)
    harmful = [name for name, outcome in OUTCOME_METRICS.items() if outcome in HARMFUL_OUTCOMES]
    shown["kind"] = shown["metric"].isin(harmful).map({True: "harmful items", False: "benign items"})
    shown["kind"] += " (" + shown.groupby("kind")["n"].transform(n_of) + ")"
    shown["outcome"] = shown["metric"].map({name: metric.label for name, metric in METRICS.items()})
    shown["variant"] = shown["variant"].map(broken)
    figure = px.bar(
        shown, x="value", y="variant", color="outcome", facet_col="kind", facet_col_spacing=0.06, orientation="h",
        template=TEMPLATE, text=shown["value"].map(lambda value: f"{value:.0f}" if value >= 6 else ""),
        color_discrete_map={METRICS[name].label: OUTCOME_COLOURS[OUTCOME_METRICS[name]] for name in ORDER},
        category_orders={
            "kind": sorted(set(shown["kind"]), reverse=True), "outcome": [METRICS[name].label for name in ORDER],
        },
    )  # fmt: skip
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_traces(textposition="inside", insidetextanchor="middle", textangle=0)
    figure.update_xaxes(title="% of scored items", range=[0, 100]).update_yaxes(title="", autorange="reversed", col=1)
    variants = set(shown["variant"])
    return figure.update_layout(
        title=title, legend_title_text="", height=210 + (14 + LINE * lines_of(variants)) * len(variants)
    )


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
        hover.append([_difference_text(cell, before, after) for cell in row])
    labels = [f"{broken(group)}<br>{n_of(untyped(frame)[frame.group == group].n)}" for group in groups]
    figure = go.Figure(
        go.Heatmap(
            z=better,
            x=[METRICS[metric].label for metric in metrics],
            y=labels,
            text=texts,
            hovertext=hover,
            hoverinfo="text",
            colorscale=WORSE_BETTER,
            zmid=0,
            zmin=-140,  # pale enough for dark numbers at every change
            zmax=140,
            textfont={"color": "#1b2430"},
            **CELLS,
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
            hovertemplate=f"{before}: %{{y}}<br>{after}: %{{x}}<br>%{{z}} items<extra></extra>",
            colorscale=[[0, FAINT], [1e-9, FAINT], [1e-9, PALE], [1, COLOURS[0]]],
            zmin=0,  # with zmax, as alone it counts for nothing and the least number would look like none
            zmax=int(counts.to_numpy().max()),
            **CELLS,
        ),
        layout=layout_of(120 + 44 * len(outcomes)),
    )
    figure.update_xaxes(side="top", showgrid=False, title=f"{after}: outcome")
    return figure.update_yaxes(showgrid=False, title=f"{broken(before)}: outcome", title_standoff=12, automargin=True)


def ablation_grid(frame: pd.DataFrame) -> go.Figure:
    """One item with each image kept, blanked, dropped or exchanged: which image, or which pair, made the answer unsafe.

    Args:
        frame: columns variant, first, second (state of each image), outcome; a panel a variant, one below the other, or
            no cell would have room for its word.
    """
    frame = need(frame, "ablation_grid", "variant", "first", "second", "outcome")
    if frame.empty:
        return empty("Not measured yet for this item: run <b>mis ablate</b>")
    variants = list(dict.fromkeys(frame.variant))
    names = list(OUTCOME_COLOURS)
    states = untyped(frame)["first"].nunique()
    gap, inner = 56, 44 * states * len(variants)
    spacing = gap / (inner + gap * len(variants))
    figure = make_subplots(len(variants), 1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=variants)
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
            hovertemplate="image 1 %{y}, image 2 %{x}: %{text}<extra></extra>",
            colorscale=_steps([OUTCOME_COLOURS[name] for name in names]),
            zmin=-0.5,
            zmax=len(names) - 0.5,
            row=line,
            col=1,
            **CELLS,
        )
    figure.update_layout(layout_of(96 + inner + gap * (len(variants) - 1))).update_annotations(font_size=13)
    figure.update_yaxes(autorange="reversed", showgrid=False, title="image 1", title_standoff=12, automargin=True)
    return figure.update_xaxes(showgrid=False).update_xaxes(title="image 2", row=len(variants))


def training_curves(losses: pd.DataFrame, evaluations: pd.DataFrame) -> go.Figure:
    """Loss by segment of the answer, and safety rates where they were measured, over the optimiser's steps.

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
        hover = [
            f"step {row.step}: {row.value:.1f} [{row.low:.1f}, {row.high:.1f}], n {row.n}" for row in rows.itertuples()
        ]
        figure.add_scatter(
            x=rows.step, y=rows.value, error_y=bars(rows, look.colour), mode="lines+markers", row=1, col=2,
            name=METRICS[metric].label if metric in METRICS else metric, hovertext=hover, hoverinfo="text",
            marker={"color": look.colour, "symbol": look.mark, "size": 8}, line={"color": look.colour, "width": 1.6},
        )  # fmt: skip
    figure.update_layout(layout_of(380)).update_annotations(font_size=13)
    figure.update_xaxes(title="step").update_yaxes(rangemode="tozero", col=1)
    return figure if evaluations.empty else figure.update_yaxes(range=[-3, 103], col=2)


def constraint_curves(measures: pd.DataFrame) -> go.Figure:
    """Constrained GRPO: rates of the sampled answers, the price of an unsafe one, and the distance from the start.

    Args:
        measures: columns step, measure ("unsafe", "over-refusal", "multiplier", "KL"), value.
    """
    measures = need(measures, "constraint_curves", "step", "measure", "value")
    panels = {"unsafe": 1, "over-refusal": 1, "multiplier": 2, "KL": 3}
    titles = ["sampled answers (%)", "multiplier", "KL from the start (nats a token)"]
    figure = make_subplots(1, 3, horizontal_spacing=0.08, subplot_titles=titles)
    for measure, look in looks(panels).items():
        rows = untyped(measures)[measures.measure == measure]
        figure.add_scatter(
            x=rows.step, y=rows.value, name=measure, row=1, col=panels[measure], mode="lines+markers",
            showlegend=panels[measure] == 1, marker={"color": look.colour, "symbol": look.mark, "size": 6},
            line={"color": look.colour, "width": 1.6},
        )  # fmt: skip
    figure.update_layout(layout_of(380)).update_annotations(font_size=13)
    figure.update_xaxes(title="step").update_yaxes(rangemode="tozero")
    return figure.update_yaxes(range=[-3, 103], col=1)


def _dots(rows: pd.DataFrame, look: Look) -> go.Scatter:
    """Rates as dots with intervals, one line of the board each."""
    return go.Scatter(
        x=rows.value, y=rows.line, error_x=bars(rows, look.colour), mode="markers", showlegend=False,
        marker={"color": look.colour, "size": 10, "symbol": look.mark}, hovertext=hover_texts(rows), hoverinfo="text",
        name=rows.variant.iloc[0] if look.colour != INK else "published",
        cliponaxis=False,  # whole at 0 and 100 in a narrow panel too
    )  # fmt: skip


def _lines(frame: pd.DataFrame) -> list[str]:
    """The label of each row: variant and run; published rows say so."""
    return [
        broken(f"{row.variant} (published)" if row.published else f"{row.variant} · {row.run}")
        for row in untyped(frame).itertuples()
    ]


def _corners(figure: go.Figure) -> None:
    """Name the corners of the plane, so that no one takes a model that refuses everything for a safe one.

    A name is above its box (below it at the upper edge), in two lines, so that two fit side by side on a phone, and
    a little off the edge, where the intervals of rates of 0 and 100 run.
    """
    corners = (
        (0, 0, "safe and<br>helpful", "left"),
        (100, 0, "refuses<br>everything", "right"),
        (0, 100, "helps with<br>everything", "left"),
    )
    for x, y, text, side in corners:
        figure.add_annotation(
            x=x, y=abs(y - 14), text=text, showarrow=False, align=side, font={"size": 12, "color": INK},
            xanchor=side, xshift=7 if side == "left" else -7, yanchor="bottom" if y == 0 else "top",
        ).add_shape(
            type="rect", x0=abs(x - 14), x1=x, y0=abs(y - 14), y1=y, line={"width": 0}, fillcolor=GRID, layer="below"
        )  # fmt: skip


def _better(cell: Any) -> float | None:
    """The difference with its sign turned so that more is better."""
    if cell is None or pd.isna(cell.difference):
        return None
    return -cell.difference if METRICS[cell.metric].best == "low" else cell.difference


def _point(cell: Any) -> str:
    """The difference as the map shows it; without a star the interval includes no change."""
    sure = "*" if pd.notna(cell.low) and (cell.low > 0 or cell.high < 0) else ""
    return f"{cell.difference:+.0f}{sure}"


def _difference_text(cell: Any, before: str, after: str) -> str:
    if cell is None or pd.isna(cell.difference):
        return "not scored"
    interval = f"[{cell.low:+.1f}, {cell.high:+.1f}]" if pd.notna(cell.low) else "(all alike: no interval)"
    change = f"{after} - {before}: {cell.difference:+.1f} points {interval}"
    return f"{cell.group}<br>{METRICS[cell.metric].label}, {change}, n {cell.n:,}"


def _words(outcome: str) -> str:
    return str(outcome).replace("_", " ")


def _in_lines(words: str) -> str:
    """The words of a cell, two lines where one is too long for a narrow grid."""
    return "<br>".join(wrap(words, 12))


def _steps(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale of equal steps, one a colour."""
    return [[at / len(colours), colour] for i, colour in enumerate(colours) for at in (i, i + 1)]
