"""Figures of data sets: tidy frames of ``notebook.datasets`` in, Plotly figures out.

Titles say what is counted and how many.
"""

from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from mis_lib.results.figures.style import BENIGN, COLOURS, HARMFUL, INK, LINE, TEMPLATE, as_text, broken, lines_of


def category_bars(counts: pd.DataFrame, title: str) -> go.Figure:
    """Share of harmful items by sub-category, one colour a file, counts on the bars (``datasets.category_counts``)."""
    counts = as_text(counts)
    named = counts.assign(name=(counts["category"] + " / " + counts["sub_category"]).map(broken))
    order = named.groupby("name")["share"].max().sort_values().index.tolist()
    figure = px.bar(
        named, x="share", y="name", color="file", barmode="group", text="n", orientation="h",
        category_orders={"name": order[::-1]}, color_discrete_sequence=COLOURS, template=TEMPLATE,
    )  # fmt: skip
    totals = named.groupby("file", sort=False)["n"].sum()
    traces: Any = figure.data  # Plotly's stubs know no traces
    for trace in traces:
        trace.name = f"{trace.name} (n = {totals[trace.name]:,})"
    figure.update_traces(textposition="outside", cliponaxis=False)
    figure.update_xaxes(title="share of the harmful items (%); numbers: items")
    figure.update_yaxes(title="")
    rows = max(17 * named["file"].nunique(), LINE * lines_of(order))
    return figure.update_layout(title=title, legend_title_text="", height=190 + (rows + 4) * len(order))


def length_boxes(words: pd.DataFrame, title: str) -> go.Figure:
    """Words of questions and answers, harmful and benign, by file (columns of ``datasets.lengths``)."""
    words = _in_columns(as_text(words), "file")
    figure = px.box(
        words, x="file", y="words", color="kind", facet_col="text", template=TEMPLATE,
        color_discrete_map={"harmful": HARMFUL, "benign": BENIGN}, category_orders={"text": ["question", "answer"]},
    )  # fmt: skip
    counts = words.groupby("kind")["words"].size() // 2
    traces: Any = figure.data  # Plotly's stubs know no traces
    for trace in traces:
        trace.name = f"{trace.name} (n = {counts[trace.name]:,} items)"
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_yaxes(title="words", col=1, rangemode="tozero")
    figure.update_xaxes(title="file")
    return figure.update_layout(title=title, legend_title_text="")


def shortcut_bars(found: pd.DataFrame, title: str) -> go.Figure:
    """Accuracy by view and split with 95 % intervals, chance as a line (columns of ``datasets.shortcuts``)."""
    found = _in_columns(as_text(found), "view")
    found = found.assign(above=found["high"] - found["value"], below=found["value"] - found["low"])
    figure = px.bar(
        found, x="view", y="value", color="split", barmode="group", facet_col="measure", error_y="above",
        error_y_minus="below", color_discrete_sequence=COLOURS, template=TEMPLATE,
    )  # fmt: skip
    counts = found.groupby("split", sort=False)["n"].first()
    traces: Any = figure.data  # Plotly's stubs know no traces
    for trace in traces:
        trace.name = f"{trace.name} (n = {counts[trace.name]:,})"
    said = {
        "trained": "trained: a classifier that learned from train",
        "bound": "bound: the best possible on this very split",
    }
    figure.for_each_annotation(lambda note: note.update(text=said[note.text.partition("=")[2]]))
    figure.update_traces(error_y={"color": INK, "thickness": 1.5})
    figure.add_hline(y=50, line_dash="dot", line_color=INK)
    figure.update_yaxes(title="harmful told from benign (%)", col=1, range=[0, 105])
    figure.update_xaxes(title="what the classifier sees")
    return figure.update_layout(title=title, legend_title_text="")


def shared_bars(shared: pd.DataFrame, title: str) -> go.Figure:
    """Share of test items that have something in common with train (columns of ``datasets.shared_with``)."""
    shared = _in_columns(as_text(shared), "file")
    named = shared.assign(share=100 * shared["hits"] / shared["n"], label=shared["hits"].map("{:,}".format))
    figure = px.bar(
        named, x="file", y="share", color="what", barmode="group", text="label", color_discrete_sequence=COLOURS,
        template=TEMPLATE,
    )  # fmt: skip
    counts = named.groupby("file", sort=False)["n"].first()
    labels = [f"{name}<br>n = {n:,}" for name, n in counts.items()]
    figure.update_xaxes(title="test split", ticktext=labels, tickvals=list(counts.index))
    figure.update_yaxes(title="items that share it with train (%)", range=[0, 112])
    figure.update_traces(textposition="outside", cliponaxis=False)
    return figure.update_layout(title=title, legend_title_text="")


def stage_flow(counts: pd.DataFrame, title: str) -> go.Figure:
    """What became of the records of each stage of construction (columns stage, done, rejected, pending)."""
    kinds = {"done": BENIGN, "rejected": HARMFUL, "pending": INK}
    said = [", ".join(f"{row[kind]:,} {kind}" for kind in kinds if row[kind]) for row in counts.to_dict("records")]
    labels = [f"{stage}<br>{text}" for stage, text in zip(counts["stage"], said, strict=True)]
    long = counts.assign(stage=labels).melt(id_vars="stage", value_vars=list(kinds), var_name="became", value_name="n")
    figure = px.bar(
        long, x="n", y="stage", color="became", orientation="h", template=TEMPLATE, color_discrete_map=kinds,
        category_orders={"stage": labels},
    )  # fmt: skip
    figure.update_xaxes(title="records").update_yaxes(title="")
    return figure.update_layout(title=title, legend_title_text="", height=150 + 44 * len(labels))


def _in_columns(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The frame with names of columns broken into short lines, so that they stay horizontal."""
    return frame.assign(**{column: [broken(str(name), 10) for name in frame[column]]})
