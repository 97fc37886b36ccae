"""Figures of ablations and of what is inside a model: one function for each tidy frame of the analysis methods.

Every value has its interval, every axis its unit, every panel its n. Bands are 95 % intervals unless the figure says
otherwise.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mis_lib.data.tasks import TASKS
from mis_lib.results.figures.style import (
    BENIGN,
    COLOURS,
    HARMFUL,
    INK,
    LINE,
    TEMPLATE,
    as_text,
    bars,
    broken,
    dots,
    empty,
    layout_of,
    lines_of,
    looks,
    n_of,
    need,
    see_through,
)
from mis_lib.results.metrics import METRICS

MEASURES = ("unsafe", "declines")
DASHES = ("solid", "dash", "dot", "dashdot")
DEPTHS = {"probe": "linear probe, % right", "distance": "distance / spread within"}
SIDES = {"output": "outputs of the weight", "input": "inputs of the weight"}
HELP = {
    "text": "text: both images prefer the safe text",
    "image": "image: both texts prefer the safe images",
    "safe": "safe: safe pair beats mixed pairs",
    "unsafe": "unsafe: unsafe pair is below mixed pairs",
    "group": "group: safe and unsafe",
}


def by_condition(frame: pd.DataFrame) -> go.Figure:
    """``MEASURES`` by condition with 95 % intervals, one mark a variant (``measured_frame``, harmful items)."""
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
            x=rows["rows"], y=rows["value"], mode="lines+markers", name=METRICS[metric].label,
            line={"color": look.colour}, marker={"color": look.colour, "symbol": look.mark, "size": 9},
            error_y=bars(rows, look.colour),
        )  # fmt: skip
    most = max([1, *frame["rows"]])
    figure.update_xaxes(title="rows of the training mixture (0: base)", range=[-0.04 * most, 1.04 * most])
    return figure.update_yaxes(title=f"rate (%), {n_of(frame['n'])}", range=[-3, 103])


def separation(frame: pd.DataFrame) -> go.Figure:
    """Harmful against benign inputs through the layers, one line a variant; dotted is the probe on shuffled labels.

    Args:
        frame: of ``separation.separation``: variant, layer, measure, value, low, high, n.
    """
    frame = need(frame, "separation", "variant", "layer", "measure", "value", "low", "high", "n")
    if frame.empty:
        return empty("Nothing read yet: run <b>mis analyse separation</b>")
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    figure.update_layout(layout_of(560))
    for row, measure in enumerate(DEPTHS, 1):
        for variant, look in looks(frame.variant).items():
            rows: Any = frame[(frame.variant == variant) & (frame.measure == measure)]
            _line(figure, rows, "layer", look.colour, variant, row=row, col=1, legend=row == 1)
        figure.update_yaxes(title_text=DEPTHS[measure], row=row, col=1)
    shuffled: Any = frame[frame.measure == "shuffled"].groupby("layer", as_index=False)["value"].mean()
    line = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(
        x=shuffled.layer, y=shuffled.value, mode="lines", line=line, name="shuffled labels", row=1, col=1
    )
    lowest: Any = frame[frame.measure.isin(["probe", "shuffled"])].low.min()
    figure.update_yaxes(range=[min(30, lowest - 2), 102], row=1, col=1)  # intervals of few pairs reach far below chance
    figure.update_yaxes(rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="layer (0: embeddings)", row=2, col=1)
    return _titled(
        figure, f"Harmful and benign inputs, last prompt token (n = {int(frame.n.max())} items, pairs never cut)"
    )


def clusters(frame: pd.DataFrame, *, layer: int) -> go.Figure:
    """Every item on the two strongest components of one layer, a panel a variant.

    Args:
        frame: of ``separation.clusters``.
        layer: which one it is, for the title.
    """
    frame = need(frame, "clusters", "variant", "pair", "harmful", "x", "y", "x_share", "y_share")
    if frame.empty:
        return empty("Nothing read yet: run <b>mis analyse separation</b>")
    variants = list(dict.fromkeys(frame.variant))
    titles = [
        f"{broken(str(name))} <br>{part.x_share.iloc[0] + part.y_share.iloc[0]:.0f} % of the variance"
        for name, part in frame.groupby("variant", sort=False)
    ]
    figure, places = _panels(titles, 230)
    kinds = ((True, "harmful", HARMFUL, "x"), (False, "benign twin", BENIGN, "circle-open"))
    for number, (variant, place) in enumerate(zip(variants, places, strict=True)):
        for harmful, name, colour, mark in kinds:
            rows: Any = frame[(frame.variant == variant) & (frame.harmful == harmful)]
            figure.add_scatter(
                x=rows.x, y=rows.y, mode="markers", marker={"color": colour, "symbol": mark, "size": 7}, name=name,
                legendgroup=name, showlegend=number == 0, customdata=rows[["pair"]],
                hovertemplate=f"{variant}, {name}, pair %{{customdata[0]}}<extra></extra>", **place,
            )  # fmt: skip
        figure.update_xaxes(title_text="component 1", showticklabels=False, **place)
        figure.update_yaxes(title_text="component 2" if place["col"] == 1 else None, showticklabels=False, **place)
    items = int((frame.variant == variants[0]).sum())
    return _titled(figure, f"Where items lie in layer {layer} (n = {items}, units of the hidden state)")


def spectrum(layers: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Where updates point: their energy in the base weight's weakest directions by layer, and over all directions.

    Args:
        layers: of ``Spectra.layers``; the line is the median over the modules of a layer, the band their least and
            most.
        curves: of ``Spectra.curves``; the line is the median over the linear layers, the band their middle 80 %.
    """
    layers = need(
        layers, "spectrum", "variant", "layer", "module", "output_share", "output_chance", "input_share", "input_chance"
    )
    curves = need(curves, "spectrum", "variant", "side", "directions", "energy", "low", "high", "n")
    if layers.empty:
        return empty("No update read yet: run <b>mis analyse spectrum</b>")
    figure = make_subplots(2, 2, subplot_titles=[*SIDES.values()], horizontal_spacing=0.1, vertical_spacing=0.2)
    figure.update_layout(layout_of(600))
    for column, side in enumerate(SIDES, 1):
        for variant, look in looks(layers.variant).items():
            mine: Any = layers[layers.variant == variant]
            rows = _over_modules(mine, f"{side}_share")
            _line(figure, rows, "layer", look.colour, variant, row=1, col=column, legend=column == 1)
            curve: Any = curves[(curves.variant == variant) & (curves.side == side)].rename(columns={"energy": "value"})
            _line(figure, curve, "directions", look.colour, variant, row=2, col=column, legend=False)
        chance = _over_modules(layers, f"{side}_chance")
        dotted: dict[str, Any] = {"mode": "lines", "line": {"color": INK, "dash": "dot", "width": 1.5}}
        figure.add_scatter(
            x=chance.layer, y=chance.value, name="random update", showlegend=column == 1, row=1, col=column, **dotted
        )
        figure.add_scatter(x=[0, 100], y=[0, 100], name="random update", showlegend=False, row=2, col=column, **dotted)
        figure.update_xaxes(title_text="layer", row=1, col=column)
        figure.update_xaxes(title_text="% of directions, strongest first", row=2, col=column)
    figure.update_yaxes(title_text="% in weakest directions", row=1, col=1)
    figure.update_yaxes(title_text="% of energy so far", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", row=1)
    count = int(curves.n.max())
    return _titled(figure, f"Energy of each update along the base weight's directions (n = {count} linear layers)")


def responses(frame: pd.DataFrame) -> go.Figure:
    """How strongly updates answer to harmful and to benign inputs, through the layers, a panel a variant.

    Args:
        frame: of ``spectrum.responses``: variant, layer, harmful, value, low, high, n.
    """
    frame = need(frame, "responses", "variant", "layer", "harmful", "value", "low", "high", "n")
    if frame.empty:
        return empty("No update read yet: run <b>mis analyse spectrum</b>")
    variants = list(dict.fromkeys(frame.variant))
    figure, places = _panels([broken(name) for name in variants], 190)
    for number, (variant, place) in enumerate(zip(variants, places, strict=True)):
        for harmful, name, colour in ((True, "harmful", HARMFUL), (False, "benign twin", BENIGN)):
            rows: Any = frame[(frame.variant == variant) & (frame.harmful == harmful)]
            _line(figure, rows, "layer", colour, name, legend=number == 0, **place)
        figure.update_xaxes(title_text="layer", **place)
    figure.update_yaxes(title_text="update / base weight, %", col=1)
    figure.update_yaxes(rangemode="tozero", matches="y")
    return _titled(figure, f"Size of the update's output, last prompt token (n = {int(frame.n.max())} pairs)")


def formats(frame: pd.DataFrame, *, metrics: Sequence[str] = ("asr", "over_refusal", "pair")) -> go.Figure:
    """The rates of every variant in every task format, a panel a metric.

    Args:
        frame: of ``formats.by_format``.
        metrics: keys of ``METRICS``; a safety rate never without its over-refusal.
    """
    frame = need(frame, "formats", "variant", "format", "metric", "value", "low", "high", "n", "n_unscored")
    shown: Any = frame[frame.metric.isin(metrics) & frame.value.notna()]
    if shown.empty:
        return empty("No scored responses yet: run <b>mis analyse formats</b>")
    titles = [METRICS[metric].heading for metric in metrics]
    names = [name for name in TASKS if name in set(shown.format)]
    figure = make_subplots(1, len(metrics), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    dots(figure, shown, names, line="format", series="variant", panel="metric", panels=metrics)
    figure.update_xaxes(title_text="%")
    return _titled(figure, f"The same items as other tasks ({n_of(shown.n)} items or pairs a point, Wilson 95 %)")


def safeground(frame: pd.DataFrame) -> go.Figure:
    """SafeGround scores of every variant, and of edited weights, a line a score; the grey tick is chance.

    Args:
        frame: of ``safeground.scores``.
    """
    frame = need(frame, "safeground", "variant", "score", "value", "low", "high", "n", "chance")
    shown: Any = frame[frame.value.notna()]
    if shown.empty:
        return empty("Nothing scored yet: run <b>mis analyse safeground</b>")
    figure = make_subplots(1, 1)
    named = shown.assign(line=shown.score.map(HELP), panel="")
    dots(figure, named, list(HELP.values()), line="line", series="variant", panel="panel", panels=[""])
    chance = shown.drop_duplicates("score")
    marker = {"symbol": "line-ns", "size": 26, "line": {"color": INK, "width": 2}}
    place = [list(HELP).index(score) for score in chance.score]
    figure.add_scatter(x=chance.chance, y=place, mode="markers", marker=marker, name="chance")
    figure.update_xaxes(title_text="% of quadruples (high is good)")
    return _titled(figure, f"SafeGround by answer likelihood (n = {int(shown.n.max())} quadruples, Wilson 95 %)")


def _titled(figure: go.Figure, text: str) -> go.Figure:
    """The figure under its title, with room for those of its panels."""
    panels = lines_of(str(note.text) for note in figure.select_annotations())
    return figure.update_layout(title_text=text, margin_t=52 + LINE * panels).update_annotations(font_size=13)


def _panels(titles: Sequence[str], height: int) -> tuple[go.Figure, list[dict[str, Any]]]:
    """A figure with a panel under each title, two side by side, each so many pixels high; and where they are."""
    columns = min(2, len(titles))
    rows, gap = -(-len(titles) // columns), 66 + LINE * lines_of(titles)
    inner = height * rows + gap * (rows - 1)
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=gap / inner)
    figure.update_layout(layout_of(inner + 160))
    return figure, [{"row": i // columns + 1, "col": i % columns + 1} for i in range(len(titles))]


def _line(
    figure: go.Figure, rows: pd.DataFrame, x: str, colour: str, name: str, *, row: int, col: int, legend: bool
) -> None:
    """One line with its band; dashes tell apart lines that cover each other."""
    both = {"row": row, "col": col, "legendgroup": name}
    figure.add_scatter(
        x=[*rows[x], *rows[x][::-1]], y=[*rows.high, *rows.low[::-1]], fill="toself", fillcolor=see_through(colour),
        line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, **both,
    )  # fmt: skip
    figure.add_scatter(
        x=rows[x], y=rows.value, mode="lines", name=name, showlegend=legend,
        line={"color": colour, "width": 2, "dash": DASHES[COLOURS.index(colour) % len(DASHES)]},
        customdata=rows[["low", "high"]],
        hovertemplate=f"{name}, {x} %{{x}}: %{{y:.3g}} [%{{customdata[0]:.3g}}, %{{customdata[1]:.3g}}]<extra></extra>",
        **both,
    )  # fmt: skip


def _over_modules(layers: pd.DataFrame, column: str) -> pd.DataFrame:
    grouped: Any = layers.groupby("layer")[column]
    return grouped.agg(value="median", low="min", high="max").reset_index()
