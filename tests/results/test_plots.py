"""Figures: the frame is in the figure, with intervals; the wrong frame is refused by name; nothing else is drawn."""

import json
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

from mis_lib.errors import DataError
from mis_lib.probe import figures
from mis_lib.results.figures import data, rates, style
from mis_lib.results.figures.style import CONFIG
from mis_lib.results.metrics import METRICS, OUTCOME_METRICS
from mis_lib.results.stats import rate
from mis_lib.results.train_runs import constraint


def board() -> pd.DataFrame:
    """Three variants of one run with both rates, and a published row without intervals."""
    counts = {"mini": (38, 1), "mirage": (4, 9), "refusal": (0, 40)}
    rows = [
        {
            "run": "report/v1",
            "tag": "mini",
            "variant": variant,
            "group": "hard",
            "metric": metric,
            **rate(hits, 40).model_dump(),
            "published": False,
        }
        for variant, pair in counts.items()
        for metric, hits in zip(("asr", "over_refusal"), pair, strict=True)
    ]
    known = {"run": "", "tag": "InternVL2.5-8B", "variant": "MIRage", "group": "hard", "metric": "asr", "value": 7.5}
    return pd.DataFrame([*rows, {**known, "low": None, "high": None, "n": 10, "n_unscored": 0, "published": True}])


def drawn(figure: go.Figure) -> dict:
    """The figure as the browser gets it."""
    return json.loads(figure.to_json() or "{}")


def test_the_leaderboard_draws_every_rate_with_its_interval_and_published_ones_open() -> None:
    frame = board()
    traces = rates.leaderboard(frame).data
    points = {(trace.name, x): trace for trace in traces for x in trace.x}
    assert len(points) == len(frame)
    for row in frame.itertuples():
        trace = points["published" if row.published else row.variant, row.value]
        at = list(trace.x).index(row.value)
        assert trace.marker.symbol.endswith("-open") == row.published
        if not row.published:
            assert trace.error_x.array[at] == pytest.approx(row.high - row.value)
            assert trace.error_x.arrayminus[at] == pytest.approx(row.value - row.low)


def test_a_long_name_leaves_the_rates_their_room() -> None:
    name = "tuned-with-a-long-name-r64-lr2e-4_seed17_epoch3_of_a_run & <more>"
    figure = rates.leaderboard(board().replace("mini", name))
    labels = {label for trace in figure.data for label in trace.y}
    parts = [unescape(part) for label in labels for part in label.split("<br>")]
    assert max(map(len, parts)) <= style.LABEL and "mirage · report/v1" in labels
    long = next(label for label in labels if "tuned" in label)
    assert unescape(long.replace("<br>", "")).replace(" ", "") == f"{name} · report/v1".replace(" ", "")
    assert figure.layout.height - rates.leaderboard(board()).layout.height >= 16 * long.count("<br>")


def test_the_plane_needs_both_rates_and_names_the_corner_of_refusal() -> None:
    figure = rates.safety_plane(board())
    assert sorted(trace.name for trace in figure.data) == [
        "mini",
        "mirage",
        "refusal",
    ]  # the published one has no over-refusal
    refusal = next(trace for trace in figure.data if trace.name == "refusal")
    assert (refusal.x[0], refusal.y[0]) == (100, 0)
    corner = next(note for note in figure.layout.annotations if note.text == "refuses<br>everything")
    assert (
        corner.x > 80
        and corner.y < 20
        and corner.xanchor == corner.align == "right"
        and any((shape.x1, shape.y1) == (100, 0) for shape in figure.layout.shapes)
    )


def test_blue_is_better_whatever_the_good_end_of_the_metric() -> None:
    frame = pd.DataFrame(
        [
            {"group": "Violent", "metric": "asr", "difference": -50.0, "low": -70.0, "high": -20.0, "n": 12},
            {"group": "Violent", "metric": "rsr", "difference": 40.0, "low": -5.0, "high": 60.0, "n": 12},
            {"group": "Violent", "metric": "over_refusal", "difference": 30.0, "low": 10.0, "high": 50.0, "n": 12},
        ]
    )
    heat = rates.category_heatmap(frame).data[0]
    assert dict(zip(heat.x, heat.z[0], strict=True)) == {"ASR": 50, "RSR": 40, "over-refusal": -30}
    assert list(heat.text[0]) == ["-50*", "+40", "+30*"]  # a star where the interval leaves out no change


def test_the_flip_matrix_holds_every_item_once() -> None:
    frame = pd.DataFrame(
        [
            {"before": "unsafe", "after": "reasoned", "n": 7},
            {"before": "unsafe", "after": "unsafe", "n": 2},
            {"before": "helped", "after": "over_refused", "n": 3},
        ]
    )
    heat = rates.flip_matrix(frame, before="mini", after="mirage").data[0]
    assert sum(sum(row) for row in heat.z) == 12
    assert heat.z[list(heat.y).index("unsafe")][list(heat.x).index("reasoned")] == 7


def test_cells_without_items_do_not_glare_and_names_stand_clear_of_the_title() -> None:
    frame = pd.DataFrame({"before": ["unsafe", "helped"], "after": ["reasoned", "helped"], "n": [1, 5]})
    figure = rates.flip_matrix(frame, before="mini", after="mirage")
    grid = pd.DataFrame({"variant": "mini", "first": ["swap-renamed"], "second": ["swapped"], "outcome": ["unsafe"]})
    assert figure.data[0].colorscale[0][1] == rates.FAINT and figure.data[0].zmin == 0
    for axis in (figure.layout.yaxis, rates.ablation_grid(grid).layout.yaxis):
        assert axis.automargin and axis.title.standoff > 0


def test_the_least_number_of_a_full_matrix_is_no_cell_without_items() -> None:
    kinds = ("unsafe", "reasoned")
    frame = pd.DataFrame([{"before": a, "after": b, "n": 3 + (a == b)} for a in kinds for b in kinds])
    heat = rates.flip_matrix(frame).data[0]
    assert (heat.zmin, heat.zmax) == (0, 4)  # Plotly takes one of them alone for none


NAMES = {
    "one": ["mini"],
    "three": ["mini", "mirage", "refusal"],
    "eight": ["mini", "mirage", "refusal", "textual", "mirage_both", "delta-1", "vlguard_r", "held_out"],
    "long": ["qwen2_5-vl-7b-instruct-mirage-lora-r64-lr2e-4-epoch3-seed17", "mini"],
}
TITLE = "A title as notebooks give one, which says what there is to see"
MEASURED = {**rate(9, 40).model_dump(), "rows": 64, "items": "harmful"}


def figures_of(variants: list[str]) -> dict[str, go.Figure]:
    """The figures with room for several variants, as notebooks and pages show them."""
    states = ("kept", "black", "dropped", "caption")
    outcomes = ("unsafe", "warned_but_helped", "hallucinated", "over_refused")
    conditions = ("original", "black-all", "swap-renamed", "caption-2")
    layers = [
        {"variant": v, "layer": i, "harmful": h, **MEASURED} for v in variants for i in (0, 9) for h in (True, False)
    ]
    spot = {"pair": "p", "x_share": 31.0, "y_share": 12.0}
    frames = {
        "judges": [{"variant": v, "judge": j, "metric": "asr", **MEASURED}
                   for v in variants for j in ("rule", "words")],
        "stack": [{"variant": v, "metric": m, **MEASURED, "value": 25.0} for v in variants for m in OUTCOME_METRICS],
        "item": [
            {"variant": v, "first": a, "second": b, "outcome": outcomes[(i + j) % 4]}
            for v in variants for i, a in enumerate(states) for j, b in enumerate(states)
        ],
        "conditions": [
            {"variant": v, "measure": m, "condition": c, **MEASURED}
            for v in variants for m in figures.MEASURES for c in conditions
        ],
        "changes": [
            {"group": v, "metric": m, "difference": 9.0, **MEASURED} for v in variants for m in ("asr", "over_refusal")
        ],
        "clusters": [row | spot | {"x": row["layer"], "y": row["harmful"]} for row in layers],
        "sizes": [{"metric": m, **MEASURED} for m in ("asr", "over_refusal", "pair")],
        "categories": [
            {"category": v, "sub_category": "Dangerous Substances", "file": f, "n": 9, "share": 9.0}
            for v in variants for f in ("MIS-Mini easy + hard", "MIS test easy + hard, as published")
        ],
    }  # fmt: skip
    found = {name: pd.DataFrame(rows) for name, rows in frames.items()}
    shown = board().replace("mini", variants[0])
    return {
        "board": rates.leaderboard(shown).update_layout(title=TITLE, margin_t=90),
        "plane": rates.safety_plane(shown).update_layout(title=TITLE, margin_t=60),
        "judges": rates.judge_swap(found["judges"]).update_layout(title=TITLE, margin_t=60),
        "stack": rates.outcome_stack(found["stack"], TITLE),
        "item": rates.ablation_grid(found["item"]).update_layout(title=TITLE, margin_t=80),
        "changes": rates.category_heatmap(found["changes"]),
        "conditions": figures.by_condition(found["conditions"]).update_layout(title=TITLE),
        "responses": figures.responses(pd.DataFrame(layers)),
        "clusters": figures.clusters(found["clusters"], layer=3),
        "sizes": figures.size_curve(found["sizes"], TITLE),
        "categories": data.category_bars(found["categories"], TITLE),
    }


@pytest.fixture(scope="module")
def page(chromium_path: Path) -> Iterator[Page]:
    """A page of 700 pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 700, "height": 900})
        shown.set_content(f"<script>{get_plotlyjs()}</script><main></main>")
        yield shown
        browser.close()


WRONG = """async (figure) => {
  const place = document.querySelector('main');
  await Plotly.newPlot(place, figure.data, figure.layout);
  const edge = place.querySelector('.main-svg').getBoundingClientRect();
  const texts = [...place.querySelectorAll('text')]
    .filter(one => one.textContent.trim() && !one.closest('.hoverlayer'));
  const boxes = texts.map(one => [one.textContent, one.getBoundingClientRect()]).filter(([_, box]) => box.width);
  const wrong = [];
  boxes.forEach(([said, a], i) => {
    if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.bottom > edge.bottom + 1) wrong.push(`cut: ${said}`);
    if (a.height < 9) wrong.push(`too small: ${said}`);
    for (const [other, b] of boxes.slice(i + 1))
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
        wrong.push(`${said} over ${other}`);
  });
  return wrong;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("variants", NAMES.values(), ids=NAMES)
def test_no_text_of_a_figure_is_cut_or_tiny_or_meets_another(variants: list[str], page: Page) -> None:
    wrong = {name: page.evaluate(WRONG, drawn(figure)) for name, figure in figures_of(variants).items()}
    assert not {name: said for name, said in wrong.items() if said}


def test_one_series_is_named_too() -> None:
    layout = drawn(rates.safety_plane(board()[lambda frame: frame.variant == "mini"]))["layout"]
    assert layout["template"]["layout"]["showlegend"] is True and "showlegend" not in layout


def test_what_is_measured_says_of_how_many() -> None:
    frame = board()
    frame.loc[frame.variant == "mirage", "n"] = 38
    assert [note.text.partition("<br>")[2] for note in rates.leaderboard(frame).layout.annotations] == [
        "n = 10 to 40",
        "n = 38 to 40",
    ]
    assert "(n = 38 to 40)" in rates.safety_plane(frame).layout.yaxis.title.text
    sizes = pd.DataFrame([{"metric": "asr", **MEASURED}])
    assert figures.size_curve(sizes, "").layout.yaxis.title.text == "rate (%), n = 40"


def test_marks_stay_in_their_line_with_eight_variants() -> None:
    traces = figures_of(NAMES["eight"])["conditions"].data
    assert len(traces) == 16 and all(abs(y - round(y)) < 0.4 for trace in traces for y in trace.y)


def test_more_names_than_colours_are_told_apart() -> None:
    found = style.looks([f"v{i}" for i in range(16)])
    assert len(set(found.values())) == 16


def test_of_harmful_items_alone_no_benign_ones_are_told() -> None:
    rows = [{"variant": "mini", "metric": name, "value": 25.0, "n": 4} for name in ("asr", "rsr", "rr", "hr")]
    notes = rates.outcome_stack(pd.DataFrame(rows), "").layout.annotations
    assert [note.text for note in notes] == ["harmful items (n = 4)"]


def test_judges_are_told_apart_by_mark_and_place() -> None:
    rows = [
        {"variant": variant, "judge": judge, "metric": "asr", **rate(hits, 20).model_dump()}
        for variant in ("mini", "mirage")
        for judge, hits in (("rule", 9), ("words", 3))
    ]
    figure = rates.judge_swap(pd.DataFrame(rows))
    assert len({trace.marker.symbol for trace in figure.data}) == len({trace.y[0] for trace in figure.data}) == 2


def test_an_item_taken_apart_shows_each_outcome_in_words() -> None:
    states = ("kept", "blank")
    rows = [
        {"variant": "mini", "first": a, "second": b, "outcome": "unsafe" if a == b == "kept" else "hallucinated"}
        for a in states
        for b in states
    ]
    heat = rates.ablation_grid(pd.DataFrame(rows)).data[0]
    assert heat.text[list(heat.y).index("kept")][list(heat.x).index("kept")] == "unsafe"
    assert sum(text == "hallucinated" for row in heat.text for text in row) == 3


def test_an_outcome_has_one_colour_in_all_figures() -> None:
    rows = [{"variant": "mini", "metric": name, "value": 25.0, "n": 4} for name in OUTCOME_METRICS]
    bars = rates.outcome_stack(pd.DataFrame(rows), "").data
    colours = {METRICS[name].label: rates.OUTCOME_COLOURS[outcome] for name, outcome in OUTCOME_METRICS.items()}
    assert {bar.name: bar.marker.color for bar in bars} == colours


def test_curves_of_training_keep_segments_and_rates_apart() -> None:
    losses = pd.DataFrame(
        [{"step": step, "segment": name, "loss": 2.0 / step} for step in (1, 2, 3) for name in ("all", "reasoning")]
    )
    evaluations = pd.DataFrame([{"step": 2, "metric": "asr", **rate(3, 10).model_dump()}])
    traces = {trace.name: trace for trace in rates.training_curves(losses, evaluations).data}
    assert list(traces["reasoning"].x) == [1, 2, 3] and list(traces["ASR"].y) == [30.0]
    assert traces["all"].line.dash != traces["reasoning"].line.dash


def test_curves_without_rates_have_no_empty_panel() -> None:
    losses = pd.DataFrame([{"step": step, "segment": "all", "loss": 2.0 / step} for step in (1, 2)])
    measured = pd.DataFrame(columns=pd.Index(["step", "metric", "value", "low", "high", "n"]))
    figure = rates.training_curves(losses, measured)
    assert [note.text for note in figure.layout.annotations] == ["loss (nats a token)"]
    assert figure.layout.xaxis.domain == (0.0, 1.0) and "xaxis2" not in figure.layout


def test_the_curves_of_a_constraint_show_its_rates_and_its_price() -> None:
    lines = [
        {"step": 1, "loss": 0.1, "cost": 0.5, "multiplier": 1.1, "kl": 0.0, "over_refusal": 0.25},
        {"step": 2, "loss": 0.1, "multiplier": 1.1, "kl": 0.02},  # a step without harmful prompts has no cost
    ]
    assert constraint([{"step": 1, "loss": 2.0}]).empty
    figure = rates.constraint_curves(constraint(lines))
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert drawn == {
        "unsafe": ([1], [50.0]),
        "over-refusal": ([1], [25.0]),
        "multiplier": ([1, 2], [1.1, 1.1]),
        "KL": ([1, 2], [0.0, 0.02]),
    }


def test_the_first_step_is_seen() -> None:
    losses = pd.DataFrame([{"step": 1, "segment": "all", "loss": 2.0}])
    measured = pd.DataFrame(columns=pd.Index(["step", "metric", "value", "low", "high", "n"]))
    assert rates.training_curves(losses, measured).data[0].mode == "markers"


def test_the_axis_cuts_no_end_of_a_size_curve() -> None:
    rows = [{"rows": rows, "metric": "asr", **rate(3, 10).model_dump()} for rows in (0, 64, 192)]
    figure = figures.size_curve(pd.DataFrame(rows), "")
    low, high = figure.layout.xaxis.range
    assert low < 0 and high > 192
    assert figure.data[0].name == "ASR"


EMPTY = {
    rates.leaderboard: ("run", "tag", "variant", "metric", *style.RATE, "published"),
    rates.safety_plane: ("run", "tag", "variant", "metric", *style.RATE, "published"),
    rates.judge_swap: ("variant", "judge", "metric", *style.RATE),
    rates.category_heatmap: ("group", "metric", "difference", "low", "high", "n"),
    rates.flip_matrix: ("before", "after", "n"),
    rates.ablation_grid: ("variant", "first", "second", "outcome"),
}


@pytest.mark.parametrize("draw", EMPTY, ids=lambda draw: draw.__name__)
def test_no_rows_are_a_figure_that_says_what_to_do(draw) -> None:
    figure = draw(pd.DataFrame(columns=pd.Index(EMPTY[draw])))
    assert not figure.data and len(figure.layout.annotations[0].text) > 20


@pytest.mark.parametrize("draw", EMPTY, ids=lambda draw: draw.__name__)
def test_a_missing_column_is_named(draw) -> None:
    with pytest.raises(DataError, match=rf"{draw.__name__}: expected a frame with the columns .*, found variant"):
        draw(pd.DataFrame({"variant": ["mini"]}))


EVIL = "<b>x</b> & y"
RATES = {"value": 50.0, "low": 40.0, "high": 60.0, "n": 9, "n_unscored": 0}
FROM_EVIL = {
    "leaderboard": lambda: rates.leaderboard(board().replace("mini", EVIL)),
    "plane": lambda: rates.safety_plane(board().replace("mini", EVIL)),
    "judges": lambda: rates.judge_swap(pd.DataFrame([{"variant": "a", "judge": EVIL, "metric": "asr", **RATES}])),
    "changes": lambda: rates.category_heatmap(
        pd.DataFrame([{"group": EVIL, "metric": "asr", "difference": 1.0, **RATES}]), before=EVIL, after=EVIL
    ),
    "flips": lambda: rates.flip_matrix(
        pd.DataFrame([{"before": "unsafe", "after": "refused", "n": 1}]), before=EVIL, after=EVIL
    ),
    "item": lambda: rates.ablation_grid(
        pd.DataFrame([{"variant": EVIL, "first": "kept", "second": "kept", "outcome": "unsafe"}])
    ),
    "conditions": lambda: figures.by_condition(
        pd.DataFrame([{"variant": EVIL, "items": "harmful", "measure": "unsafe", "condition": "both", **RATES}])
    ),
    "outcomes": lambda: rates.outcome_stack(pd.DataFrame([{"variant": EVIL, "metric": "asr", **RATES}]), ""),
    "categories": lambda: data.category_bars(
        pd.DataFrame([{"category": EVIL, "sub_category": "", "file": EVIL, "n": 1, "share": 9.0}]), ""
    ),
    "lengths": lambda: data.length_boxes(
        pd.DataFrame([{"file": EVIL, "kind": "harmful", "text": "question", "words": 3}]), ""
    ),
    "shortcuts": lambda: data.shortcut_bars(
        pd.DataFrame([{"view": EVIL, "split": EVIL, "measure": "bound", **RATES}]), ""
    ),
    "shared": lambda: data.shared_bars(pd.DataFrame([{"file": EVIL, "what": "image", "hits": 1, "n": 2}]), ""),
    "inside": lambda: figures.responses(pd.DataFrame([{"variant": EVIL, "layer": 1, "harmful": True, **RATES}])),
}


@pytest.mark.parametrize("draw", FROM_EVIL.values(), ids=FROM_EVIL)
def test_markup_in_names_is_shown_as_text(draw) -> None:
    shown = json.dumps(drawn(draw())).replace("<br>", " ")
    assert "<b>x" not in shown and "&lt;b&gt;x&lt;/b&gt; &amp; y" in shown


def test_nothing_is_drawn_with_a_ground_of_its_own_and_nothing_is_sent() -> None:
    layout = drawn(rates.leaderboard(board()))["layout"]
    assert layout["template"]["layout"]["paper_bgcolor"] == "rgba(0, 0, 0, 0)"
    assert CONFIG["showSendToCloud"] is False and CONFIG["displaylogo"] is False
