"""The Results tab: layout first, then bindings, then the handlers that they call; ``view`` makes what they show.

Only the open view is drawn. The address always says what is shown, so opening the tab, following a link and
reloading the page are one step: read the address, choose, draw. A choice that no longer exists (another run has other
variants) is replaced by the first that does. One that comes from an address is refused with a message, so that a link
never silently shows something else than it says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd

from mis_lib.errors import DataError, MisError, SettingsError
from mis_lib.results.metrics import ALL, METRICS
from mis_lib.results.runs import LONGEST, NOTE, read_note, write_note
from mis_lib.results.tables import csv_text
from workbench import html
from workbench.components import (
    QUIET,
    SAVE_FILE,
    actions_js,
    error_block,
    figure_part,
    file_text,
    html_block,
    plot_value,
)
from workbench.evaluate import EvaluationJobs
from workbench.evaluate_panel import EvaluatePanel
from workbench.host import Host
from workbench.links import Link, Navigation, Tab, not_there, resolve_run
from workbench.results import view
from workbench.results.evaluations import Evaluations
from workbench.results.view import CHANGES, GROUP_CHOICES, ITEM, JUDGES, OVERVIEW, VIEWS, Choice

CSV = actions_js("csv")
BY_PERSON = "(_, ...choices) => [window.mis.byHand(), ...choices]"
Update = dict[Any, Any]


@dataclass(frozen=True)
class Parts:
    """Everything on the tab that is read or written."""

    errors: gr.HTML
    empty: gr.HTML
    body: gr.Column
    views: gr.Tabs
    view: gr.State
    drawn: gr.State
    place: gr.Textbox
    # overview
    runs: gr.Dropdown
    group: gr.Dropdown
    published: gr.Checkbox
    board: gr.Plot
    plane: gr.Plot
    board_table: gr.HTML
    # notes on runs
    noted: gr.Dropdown
    note: gr.Textbox
    keep: gr.Button
    kept: gr.HTML
    # what changed
    run: gr.Dropdown
    judge: gr.Dropdown
    before: gr.Dropdown
    after: gr.Dropdown
    by: gr.Dropdown
    heatmap: gr.Plot
    flips: gr.HTML
    # judges
    judged: gr.Dropdown
    metric: gr.Dropdown
    swap: gr.Plot
    swap_table: gr.HTML
    # one item
    ablation: gr.Dropdown
    item: gr.Dropdown
    grid: gr.Plot
    grid_table: gr.HTML

    @property
    def choosers(self) -> list[Any]:
        """What the handlers read, in the order of ``Choice``."""
        overview = [self.view, self.runs, self.group, self.published]
        changes = [self.run, self.judge, self.before, self.after, self.by]
        return [*overview, *changes, self.metric, self.ablation, self.item]

    @property
    def everything(self) -> list[Any]:
        """What the handlers may write."""
        return list(vars(self).values())


def build(page: gr.Blocks, host: Host, navigation: Navigation, tab: gr.Tab, evaluations: EvaluationJobs) -> None:
    """Lay out the tab, which is being built, and bind it."""
    with gr.Row(elem_classes=["mis-tab-head"]):
        html_block("<h2>Results</h2>", "mis-results-title")
        refresh = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="mis-results-refresh")
    errors = error_block("mis-results-errors")
    panel = EvaluatePanel(evaluations, "results")
    panel.bind([page.load, tab.select])
    empty = html_block(view.empty("results"), "mis-results-empty", visible=False)
    with gr.Column() as body, gr.Tabs(elem_id="mis-results-views") as views:
        with gr.Tab("Overview", id=OVERVIEW) as overview_tab:
            overview = {**_overview(), **_notes()}
        with gr.Tab("What changed", id=CHANGES) as changes_tab:
            changes = _changes()
        with gr.Tab("Judges", id=JUDGES) as judges_tab:
            judges = _judges()
        with gr.Tab("One item", id=ITEM) as item_tab:
            item = _item()
    states = {"view": gr.State(OVERVIEW), "drawn": gr.State(()), "place": navigation.place}
    frame = {"errors": errors, "empty": empty, "body": body, "views": views}
    parts = Parts(**frame, **states, **overview, **changes, **judges, **item)
    tabs = {OVERVIEW: overview_tab, CHANGES: changes_tab, JUDGES: judges_tab, ITEM: item_tab}
    handlers = ResultsHandlers(host, parts)
    _bind(handlers, navigation, tab, refresh, tabs)
    gr.on(panel.arrived.change, handlers.arrived, inputs=parts.choosers, outputs=parts.everything, **QUIET)


def _overview() -> dict[str, Any]:
    with gr.Row(elem_classes=["mis-filters"]):
        runs = gr.Dropdown(  # None: an empty list would report a change when the page is built
            [], value=None, multiselect=True, label="Runs", scale=5, min_width=240, elem_id="mis-results-runs"
        )
        group = gr.Dropdown([ALL], value=ALL, label="Items", scale=2, min_width=120, elem_id="mis-results-group")
        published = gr.Checkbox(False, label="Show published results", scale=3, min_width=230)
    with gr.Row():
        with gr.Column(scale=7, min_width=340):
            board = figure_part("leaderboard", "Attack success, and what it costs in refused harmless requests")
        with gr.Column(scale=5, min_width=340):
            plane = figure_part("plane", "Safety against helpfulness")
    table = html_block("", "mis-results-board", js_on_load=CSV)
    choosers = {"runs": runs, "group": group, "published": published}
    return {**choosers, "board": board, "plane": plane, "board_table": table}


def _notes() -> dict[str, Any]:
    with gr.Accordion("Notes on runs", open=False):
        with gr.Row(elem_classes=["mis-filters"]):
            noted = gr.Dropdown([], value=None, label="Run", scale=2, min_width=160, elem_id="mis-results-noted")
            note = gr.Textbox(
                label="Note (kept as note.md with the run; an empty one takes it away)",
                lines=2,
                max_length=LONGEST,
                interactive=False,  # until the run's note is shown, which would replace what is being written
                scale=6,
                min_width=260,
                elem_id="mis-results-note",
            )
            keep = gr.Button("Keep note", size="sm", scale=0, min_width=110, elem_id="mis-results-keep")
        kept = html_block("", "mis-results-kept")
    return {"noted": noted, "note": note, "keep": keep, "kept": kept}


def _changes() -> dict[str, Any]:
    """What changed between two variants of a run."""
    with gr.Row(elem_classes=["mis-filters"]):
        run = gr.Dropdown([], label="Run", scale=3, min_width=160, elem_id="mis-results-run")
        judge = gr.Dropdown([], label="Judge", scale=2, min_width=140)
        before = gr.Dropdown([], label="Before", scale=2, min_width=140, elem_id="mis-results-before")
        after = gr.Dropdown([], label="After", scale=2, min_width=140, elem_id="mis-results-after")
        by = gr.Dropdown(GROUP_CHOICES, value="category", label="By", scale=2, min_width=140)
    title = "Change in percentage points, after minus before (blue better, orange worse; * 95 % interval excludes 0)"
    heatmap = figure_part("changes", title)
    flips = html_block("", "mis-results-flips", js_on_load=CSV)
    choosers = {"run": run, "judge": judge, "before": before, "after": after, "by": by}
    return {**choosers, "heatmap": heatmap, "flips": flips}


def _judges() -> dict[str, Any]:
    """One rate of a run under each of its judges."""
    with gr.Row(elem_classes=["mis-filters"]):
        judged = gr.Dropdown([], label="Run", scale=3, min_width=160, elem_id="mis-results-judged")
        rates = [(metric.heading, name) for name, metric in METRICS.items()]
        metric = gr.Dropdown(rates, value="asr", label="Rate", scale=2, min_width=160)
    swap = figure_part("judges", "The same answers under each judge")
    table = html_block("", "mis-results-judges", js_on_load=CSV)
    return {"judged": judged, "metric": metric, "swap": swap, "swap_table": table}


def _item() -> dict[str, Any]:
    """One item with its images kept, blanked, dropped or exchanged."""
    with gr.Row(elem_classes=["mis-filters"]):
        ablation = gr.Dropdown([], label="Ablation", scale=2, min_width=160, elem_id="mis-results-ablation")
        item = gr.Dropdown([], label="Item", scale=3, min_width=200, elem_id="mis-results-item")
    grid = figure_part("item", "Which image, or which pair, decides")
    table = html_block("", "mis-results-grid", js_on_load=CSV)
    return {"ablation": ablation, "item": item, "grid": grid, "grid_table": table}


def _bind(
    handlers: "ResultsHandlers", navigation: Navigation, tab: gr.Tab, refresh: gr.Button, tabs: dict[str, gr.Tab]
) -> None:
    parts = handlers.parts
    everything, choosers = parts.everything, parts.choosers
    navigation.open_with(tab, Tab.RESULTS, handlers.opened, outputs=everything)
    drawing: dict[str, Any] = {"outputs": everything, "trigger_mode": "always_last", **QUIET}
    gr.on(refresh.click, handlers.refreshed, inputs=choosers, **drawing)
    others = [chooser.input for chooser in choosers[1:] if chooser is not parts.runs]
    gr.on(others, handlers.chosen, inputs=choosers, **drawing)
    # Not input: a chooser of several that is emptied, or shortened by Backspace, reports only a change.
    gr.on(parts.runs.change, handlers.runs_changed, inputs=[parts.drawn, *choosers], **drawing)
    with_judged = [parts.judged if chooser is parts.run else chooser for chooser in choosers]
    gr.on(parts.judged.input, handlers.chosen, inputs=with_judged, **drawing)
    by_person = gr.Checkbox(visible=False)
    for name, opened in tabs.items():
        handler = handlers.view_opened(name)
        opened.select(handler, inputs=[by_person, *choosers[1:]], outputs=everything, js=BY_PERSON, **QUIET)
    file = gr.Textbox(visible=False)
    for piece in (parts.board_table, parts.flips, parts.swap_table, parts.grid_table):
        made = piece.csv(handlers.csv, inputs=choosers, outputs=[file, parts.errors], **QUIET)
        made.then(fn=None, inputs=file, js=SAVE_FILE)
    gr.on(parts.noted.input, handlers.note_of, inputs=parts.noted, outputs=[parts.note, parts.kept], **QUIET)
    noting = [parts.noted, parts.note, *choosers]
    gr.on(parts.keep.click, handlers.keep_note, inputs=noting, outputs=everything, **QUIET)


class ResultsHandlers:
    """What the bindings of one app call: from the choices on the screen to what is drawn; errors go into the bar."""

    def __init__(self, host: Host, parts: Parts) -> None:
        self.evaluations = Evaluations(host.runs)
        self.parts = parts

    def opened(self, link: Link) -> Update:
        """Draw what an address says."""
        return self._draw(Choice.of(link), strict=True)

    def chosen(self, *values: Any) -> Update:
        """Draw what is chosen on the screen."""
        return self._draw(Choice(*values), fill=False)

    def refreshed(self, *values: Any) -> Update:
        """Look again for runs, and draw what is chosen; the newest runs if none is."""
        return self._draw(Choice(*values))

    def arrived(self, *values: Any) -> Update:
        """An evaluation has ended: draw what is chosen, but leave the address to the tab that is open."""
        update = self._draw(Choice(*values))
        update.pop(self.parts.place, None)
        return update

    def runs_changed(self, drawn: Sequence[str], *values: Any) -> Update:
        """Draw other runs, unless the page itself has set them.

        They are not written back, since a person may be choosing more.
        """
        choice = Choice(*values)
        if choice.runs is None or list(choice.runs) == list(drawn):
            return {self.parts.view: gr.skip()}
        update = self._draw(choice, fill=False)
        update.pop(self.parts.runs, None)
        return update | {self.parts.drawn: list(choice.runs)}

    def view_opened(self, name: str) -> Callable[..., Update]:
        """The handler that draws a view when a person opens it; if an address has opened it, it is drawn already."""

        def handle(by_person: bool, *values: Any) -> Update:
            return self._draw(Choice(name, *values)) if by_person else {self.parts.view: gr.skip()}

        return handle

    def csv(self, *values: Any) -> tuple[str, str]:
        """The table whose button was pressed, as a file for the browser to save, and the error bar."""
        try:
            name, frame = self._frame(self._settled(Choice(*values), strict=False))
        except (MisError, OSError) as error:
            return "", html.error_bar([str(error)])
        return file_text(f"{name}.csv", "text/csv", csv_text(frame, lineterminator="\r\n")), ""

    def note_of(self, name: str | None) -> tuple[dict[str, Any], str]:
        """The note of the run that is chosen, and nothing under it."""
        note = read_note(resolve_run(self.evaluations.root, name).folder) if name else ""
        return gr.update(value=note, interactive=bool(name)), ""

    def keep_note(self, name: str | None, text: str | None, *values: Any) -> Update:
        """Keep a note on a run, draw what is chosen, and say where the note is: the table may not show that run."""
        parts, note = self.parts, (text or "").strip()
        try:
            if not name:
                raise SettingsError("choose the run that the note is about")
            folder = resolve_run(self.evaluations.root, name).folder
            write_note(folder, note)
        except (MisError, OSError) as error:
            return {parts.errors: html.error_bar([str(error)]), parts.kept: ""}
        update = self.chosen(*values)
        if not note:
            return update | {parts.kept: html.status_line(f"{name} has no note now.")}
        is_shown = name in update.get(parts.drawn, ()) and view.run_cell(name, note) in update.get(
            parts.board_table, ""
        )
        where = (
            "It stands under the run's name in the table."
            if is_shown
            else f"The table above has no line of {name} as it is chosen now."
        )
        return update | {parts.kept: html.status_line(f"Kept in {folder / NOTE}. {where}")}

    def _draw(self, choice: Choice, *, strict: bool = False, fill: bool = True) -> Update:
        """The update of the screen for a choice.

        Args:
            choice: what is to be drawn.
            strict: what does not exist is reported and not replaced.
            fill: an overview of no run becomes one of the default runs.
        """
        parts = self.parts
        names = self.evaluations.names()
        if not names and not self.evaluations.ablations():
            return {parts.empty: gr.update(visible=True), parts.body: gr.update(visible=False), parts.errors: ""}
        update: Update = {parts.empty: gr.update(visible=False), parts.body: gr.update(visible=True), parts.errors: ""}
        # also if nothing can be drawn: a person must be able to choose another run than a damaged one
        update |= {part: gr.update(choices=names) for part in (parts.runs, parts.run, parts.judged, parts.noted)}
        draw = {OVERVIEW: self._overview, CHANGES: self._changes, JUDGES: self._judges, ITEM: self._item}
        try:
            settled = self._settled(choice, strict=strict, fill=fill)
            update |= self._filters(settled, names)
            update |= draw[settled.view](settled)
            place = settled.link(self.evaluations.defaults()).query()
            return update | {parts.place: place, parts.view: settled.view, parts.kept: ""}
        except (MisError, OSError) as error:
            return update | {parts.errors: html.error_bar([str(error)])}

    def _settled(self, choice: Choice, *, strict: bool, fill: bool = True) -> Choice:
        """The choice without gaps; without ``fill``, an overview that a person has emptied stays empty."""
        names = self.evaluations.names()
        gone = [name for name in choice.runs or () if name not in names]
        if gone and strict:
            raise DataError(not_there("run", gone[0], names[:8]))
        opened = _pick("view", choice.view, VIEWS, OVERVIEW, strict=strict)
        if not names:  # there are only ablations
            return self._settled_item(choice._replace(view=ITEM), strict=strict)
        runs = [name for name in choice.runs or () if name in names]
        if not runs and (fill or choice.runs or opened != OVERVIEW):
            runs = self.evaluations.defaults()
        run = choice.run if choice.run and (strict or choice.run in names) else self.evaluations.newest()
        choice = choice._replace(view=opened, runs=runs, run=run)
        if choice.view == ITEM:
            return self._settled_item(choice, strict=strict)
        if choice.view == OVERVIEW:
            groups = view.groups_of(list(self.evaluations.boards(runs).by_run.values()))
            return choice._replace(group=_pick("group of items", choice.group, groups, ALL, strict=strict) or ALL)
        judge = _pick("judge", choice.judge, self.evaluations.judges(run), "rule", strict=strict)
        variants = self.evaluations.read(run, judge).variants
        before = _pick("variant", choice.before, variants, variants[0] if variants else "", strict=strict)
        rest = [name for name in variants if name != before] or variants
        after = _pick("variant", choice.after, variants, rest[0] if rest else "", strict=strict)
        by = _pick("grouping", choice.by, [value for _, value in GROUP_CHOICES], "category", strict=strict)
        metric = _pick("rate", choice.metric, list(METRICS), "asr", strict=strict)
        return choice._replace(judge=judge, before=before, after=after, by=by, metric=metric)

    def _settled_item(self, choice: Choice, *, strict: bool) -> Choice:
        ablation = _pick("run", choice.ablation, self.evaluations.ablations(), "", strict=strict)
        if not ablation:
            return choice._replace(ablation="", item="")
        item = _pick("item", choice.item, _items(self.evaluations.grid(ablation)), "", strict=strict)
        return choice._replace(ablation=ablation, item=item)

    def _filters(self, choice: Choice, names: Sequence[str]) -> Update:
        parts, runs = self.parts, list(choice.runs or ())
        update: Update = {
            parts.views: gr.update(selected=choice.view),
            parts.runs: gr.update(choices=names, value=runs),
            parts.drawn: runs,
            parts.run: gr.update(choices=names, value=choice.run),
            parts.judged: gr.update(choices=names, value=choice.run),
            parts.published: bool(choice.published),
        }
        if choice.view in (OVERVIEW, ITEM):
            return update
        variants = self.evaluations.read(choice.run, choice.judge).variants
        return update | {
            parts.judge: gr.update(choices=self.evaluations.judges(choice.run), value=choice.judge or None),
            parts.before: gr.update(choices=variants, value=choice.before),
            parts.after: gr.update(choices=variants, value=choice.after),
            parts.by: choice.by,
            parts.metric: choice.metric,
        }

    def _overview(self, choice: Choice) -> Update:
        parts = self.parts
        boards, messages, on_items = self.evaluations.boards(choice.runs or ())
        errors = html.error_bar(messages)
        if not boards:
            return {parts.board: None, parts.plane: None, parts.board_table: view.empty("run"), parts.errors: errors}
        published = view.published() if choice.published else None
        made = view.overview(boards, choice.group, published, self.evaluations.notes(boards), on_items)
        return {
            parts.group: gr.update(choices=view.groups_of(list(boards.values())), value=choice.group),
            parts.board: plot_value(made.board),
            parts.plane: plot_value(made.plane),
            parts.board_table: made.table,
            parts.errors: errors,
        }

    def _changes(self, choice: Choice) -> Update:
        made = self._compared(choice)
        return {self.parts.heatmap: plot_value(made.heatmap), self.parts.flips: made.flips}

    def _judges(self, choice: Choice) -> Update:
        made = self._judged(choice)
        return {self.parts.swap: plot_value(made.figure), self.parts.swap_table: made.table}

    def _item(self, choice: Choice) -> Update:
        parts = self.parts
        if not choice.ablation:
            return {parts.grid: None, parts.grid_table: view.empty("item")}
        grid = self.evaluations.grid(choice.ablation)
        made = view.one_item(grid, choice.item)
        return {
            parts.ablation: gr.update(choices=self.evaluations.ablations(), value=choice.ablation),
            parts.item: gr.update(choices=_items(grid), value=choice.item),
            parts.grid: plot_value(made.figure),
            parts.grid_table: made.table,
        }

    def _frame(self, choice: Choice) -> tuple[str, pd.DataFrame]:
        """The frame of a view's table, and a name for its file."""
        run = choice.run.replace("/", "-")
        if choice.view == OVERVIEW:
            published = view.published() if choice.published else None
            boards = self.evaluations.boards(choice.runs or ()).by_run
            return "leaderboard", view.overview(boards, choice.group, published).frame
        if choice.view == ITEM:
            return f"item-{choice.item}", view.one_item(self.evaluations.grid(choice.ablation), choice.item).frame
        if choice.view == CHANGES:
            return f"flips-{run}", self._compared(choice).frame
        return f"judges-{run}", self._judged(choice).frame

    def _compared(self, choice: Choice) -> view.Changes:
        run = self.evaluations.read(choice.run, choice.judge)
        left_out = len(self.evaluations.trained_on(choice.run, choice.judge))
        return view.changes(run, choice.before, choice.after, by=choice.by, left_out=left_out)

    def _judged(self, choice: Choice) -> view.Panel:
        boards = [self.evaluations.board(choice.run, judge) for judge in self.evaluations.judges(choice.run)]
        left_out = len(self.evaluations.trained_on(choice.run))
        return view.judges(choice.run, boards, choice.metric, left_out=left_out)


def _items(grid: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(grid.id))


def _pick(what: str, wanted: str, known: Sequence[str], default: str, *, strict: bool) -> str:
    """``wanted`` if it is known, else the default, else the first.

    Raises:
        DataError: with ``strict``, it is wanted and not known.
    """
    if wanted in known:
        return wanted
    if wanted and strict:
        raise DataError(not_there(what, wanted, known))
    return default if default in known else next(iter(known), "")
