"""Figures of outcomes that add up: what became of all harmful items, and of all benign items, of each variant."""

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from mis_lib.analysis.plot_grids import OUTCOME_COLOURS
from mis_lib.analysis.plot_parts import LINE, UNSCORED, broken, empty, lines_of, n_of
from mis_lib.results.figures.style import TEMPLATE, as_text
from mis_lib.results.metrics import METRICS, OUTCOME_METRICS
from mis_lib.schema import HARMFUL_OUTCOMES

ORDER = ("asr", "rsr", "rr", "hr", "helped", "warned", "over_refusal", "off_topic")


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
        shown, x="value", y="variant", color="outcome", facet_col="kind", facet_col_spacing=0.06, orientation="h", template=TEMPLATE,
        text=shown["value"].map(lambda value: f"{value:.0f}" if value >= 6 else ""),
        color_discrete_map={METRICS[name].label: OUTCOME_COLOURS[OUTCOME_METRICS[name]] for name in ORDER},
        category_orders={"kind": sorted(set(shown["kind"]), reverse=True), "outcome": [METRICS[name].label for name in ORDER]},
    )  # fmt: skip
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_traces(textposition="inside", insidetextanchor="middle", textangle=0)
    figure.update_xaxes(title="% of scored items", range=[0, 100]).update_yaxes(title="", autorange="reversed", col=1)
    variants = set(shown["variant"])
    return figure.update_layout(
        title=title, legend_title_text="", height=210 + (14 + LINE * lines_of(variants)) * len(variants)
    )
