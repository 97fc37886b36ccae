"""The Results tab: filters, its views, and their bindings; what a view holds is made in ``results``.

Only the view that is open is drawn. The address always says what is shown, so opening the tab, following a link and reloading the page are one
and the same step: read the address, choose, draw.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from mis_lib.results.metrics import ALL, METRICS
from workbench import notes
from workbench.compare_parts import html
from workbench.figures import figure_part
from workbench.handlers_results import ResultsHandlers
from workbench.host import Host
from workbench.links import Tab
from workbench.navigation import QUIET, Navigation
from workbench.results import views as results
from workbench.results_choice import CHANGES, GROUP_CHOICES, ITEM, JUDGES, OVERVIEW

TABLES = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action="csv"]');
  if (button) trigger('csv', {...button.dataset});
});
"""
BY_HAND = "(_, ...choices) => [window.mis.byHand(), ...choices]"
SAVE = "(file) => window.mis.saveFile(file)"


@dataclass(frozen=True)
class Parts:
    """Everything on the tab that is read or written."""

    errors: gr.HTML
    empty: gr.HTML
    body: gr.Column
    views: gr.Tabs
    runs: gr.Dropdown
    drawn: gr.State
    group: gr.Dropdown
    published: gr.Checkbox
    run: gr.Dropdown
    judge: gr.Dropdown
    before: gr.Dropdown
    after: gr.Dropdown
    by: gr.Dropdown
    judged: gr.Dropdown
    metric: gr.Dropdown
    board: gr.Plot
    plane: gr.Plot
    board_table: gr.HTML
    noted: gr.Dropdown
    kept: gr.HTML
    heatmap: gr.Plot
    flips: gr.HTML
    swap: gr.Plot
    swap_table: gr.HTML
    ablation: gr.Dropdown
    item: gr.Dropdown
    grid: gr.Plot
    grid_table: gr.HTML
    view: gr.State
    place: gr.Textbox

    @property
    def choosers(self) -> list[Any]:
        """What the handlers read, in the order of ``results_choice.Choice``."""
        return [
            self.view, self.runs, self.group, self.published, self.run, self.judge, self.before, self.after, self.by, self.metric, self.ablation, self.item
        ]  # fmt: skip

    @property
    def everything(self) -> list[Any]:
        """What the handlers may write."""
        return list(vars(self).values())


def build(host: Host, navigation: Navigation, tab: gr.Tab) -> None:
    """Lay out the tab, which is being built, and bind it."""
    with gr.Row(elem_classes=["mis-tab-head"]):
        html("<h2>Results</h2>", "mis-results-title")
        refresh = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="mis-results-refresh")
    errors = html("", "mis-results-errors", elem_classes=["mis-errors"])
    empty = html(results.EMPTY, "mis-results-empty", visible=False)
    with gr.Column() as body, gr.Tabs(elem_id="mis-results-views") as views:
        overview, overview_tab, noting = _overview()
        detail, changes_tab, judges_tab = _details()
        item, item_tab = _item()
    payload = gr.Textbox(visible=False)
    parts = Parts(
        errors=errors, empty=empty, body=body, views=views, view=gr.State(OVERVIEW), drawn=gr.State(()), place=navigation.place, **overview, **detail, **item
    )  # fmt: skip
    handlers = ResultsHandlers(host, parts)
    notes.bind(noting, handlers, parts)
    _bind(
        handlers,
        parts,
        navigation,
        tab,
        refresh,
        payload,
        {OVERVIEW: overview_tab, CHANGES: changes_tab, JUDGES: judges_tab, ITEM: item_tab},
    )


def _overview() -> tuple[dict[str, Any], gr.Tab, notes.NoteParts]:
    with gr.Tab("Overview", id=OVERVIEW) as tab:
        with gr.Row(elem_classes=["mis-filters"]):
            runs = gr.Dropdown(  # None: an empty list would tell of a change when the page is built
                [], value=None, multiselect=True, label="Runs", scale=5, min_width=240, elem_id="mis-results-runs"
            )
            group = gr.Dropdown([ALL], value=ALL, label="Items", scale=2, min_width=120, elem_id="mis-results-group")
            published = gr.Checkbox(False, label="Published figures beside", scale=3, min_width=230)
        with gr.Row():
            with gr.Column(scale=7, min_width=340):
                board = figure_part("leaderboard", "Attack success, and what it costs in refused harmless requests")
            with gr.Column(scale=5, min_width=340):
                plane = figure_part("plane", "Safety against helpfulness")
        table = html("", "mis-results-board", js_on_load=TABLES)
        noting = notes.build()
    return (
        {
            "runs": runs,
            "group": group,
            "published": published,
            "board": board,
            "plane": plane,
            "board_table": table,
            "noted": noting.noted,
            "kept": noting.kept,
        },
        tab,
        noting,
    )


def _details() -> tuple[dict[str, Any], gr.Tab, gr.Tab]:
    """The views of one run: what changed between two of its variants, and its judges."""
    with gr.Tab("What changed", id=CHANGES) as changes_tab:
        with gr.Row(elem_classes=["mis-filters"]):
            run = gr.Dropdown([], label="Run", scale=3, min_width=160, elem_id="mis-results-run")
            judge = gr.Dropdown([], label="Judge", scale=2, min_width=140)
            before = gr.Dropdown([], label="Before", scale=2, min_width=140, elem_id="mis-results-before")
            after = gr.Dropdown([], label="After", scale=2, min_width=140, elem_id="mis-results-after")
            by = gr.Dropdown(GROUP_CHOICES, value="category", label="By", scale=2, min_width=140)
        heatmap = figure_part(
            "changes",
            "Change in points, after less before (blue better, orange worse; * the interval leaves out no change)",
        )
        flips = html("", "mis-results-flips", js_on_load=TABLES)
    with gr.Tab("Judges", id=JUDGES) as judges_tab:
        with gr.Row(elem_classes=["mis-filters"]):
            judged = gr.Dropdown([], label="Run", scale=3, min_width=160, elem_id="mis-results-judged")
            rates = [(metric.heading, name) for name, metric in METRICS.items()]
            metric = gr.Dropdown(rates, value="asr", label="Rate", scale=2, min_width=160)
        swap = figure_part("judges", "The same answers under each judge")
        swap_table = html("", "mis-results-judges", js_on_load=TABLES)
    made = {"run": run, "judge": judge, "before": before, "after": after, "by": by, "heatmap": heatmap, "flips": flips}
    return {**made, "judged": judged, "metric": metric, "swap": swap, "swap_table": swap_table}, changes_tab, judges_tab


def _item() -> tuple[dict[str, Any], gr.Tab]:
    """One item with its images kept, blanked, dropped or exchanged."""
    with gr.Tab("One item", id=ITEM) as tab:
        with gr.Row(elem_classes=["mis-filters"]):
            ablation = gr.Dropdown([], label="Ablation", scale=2, min_width=160, elem_id="mis-results-ablation")
            item = gr.Dropdown([], label="Item", scale=3, min_width=200, elem_id="mis-results-item")
        grid = figure_part("item", "Which image, or which pair, decides")
        table = html("", "mis-results-grid", js_on_load=TABLES)
    return {"ablation": ablation, "item": item, "grid": grid, "grid_table": table}, tab


def _bind(
    handlers: ResultsHandlers,
    parts: Parts,
    navigation: Navigation,
    tab: gr.Tab,
    refresh: gr.Button,
    payload: gr.Textbox,
    views: dict[str, gr.Tab],
) -> None:
    everything = parts.everything
    navigation.open_with(tab, Tab.RESULTS, handlers.opened, outputs=everything)
    drawing: dict[str, Any] = {"outputs": everything, "trigger_mode": "always_last", **QUIET}
    gr.on(refresh.click, handlers.refreshed, inputs=parts.choosers, **drawing)
    others = [chooser.input for chooser in parts.choosers[1:] if chooser is not parts.runs]
    gr.on(others, handlers.chosen, inputs=parts.choosers, **drawing)
    # Not input: a chooser of several that is emptied, or shortened by Backspace, tells only of a change.
    gr.on(parts.runs.change, handlers.runs_changed, inputs=[parts.drawn, *parts.choosers], **drawing)
    with_judged = [parts.judged if chooser is parts.run else chooser for chooser in parts.choosers]
    gr.on(parts.judged.input, handlers.chosen, inputs=with_judged, **drawing)
    by_hand = gr.Checkbox(visible=False)
    for name, view in views.items():
        view.select(
            handlers.view_chosen(name), inputs=[by_hand, *parts.choosers[1:]], outputs=everything, js=BY_HAND, **QUIET
        )
    for piece in (parts.board_table, parts.flips, parts.swap_table, parts.grid_table):
        piece.csv(handlers.csv, inputs=parts.choosers, outputs=[payload, parts.errors], **QUIET).then(
            fn=None, inputs=payload, js=SAVE
        )
