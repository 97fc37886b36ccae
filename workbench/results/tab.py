"""The Results tab: filters, its views, and their bindings; what a view holds is made in ``results``.

Only the view that is open is drawn. The address always says what is shown, so opening the tab, following a link and reloading the page are one
and the same step: read the address, choose, draw.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from mis_lib.errors import DataError, MisError, SettingsError
from mis_lib.results.metrics import ALL, METRICS
from mis_lib.results.runs import LONGEST, NOTE, read_note, write_note
from workbench import html
from workbench.components import QUIET, figure_part, html_block, plot_value
from workbench.host import Host
from workbench.html import csv_text
from workbench.links import Link, Navigation, Tab, not_there, resolve_run
from workbench.results import views
from workbench.results.views import CHANGES, GROUP_CHOICES, ITEM, JUDGES, OVERVIEW, VIEWS, Choice, Evaluations

# ---------- What the Results tab's bindings call: from the choices on the screen to what is drawn, errors as lines of the bar.
#
# A choice that no longer exists (another run has other variants) gives way to the first that does; one that comes from an address is refused with
# a message, so that a link never shows something else than it says without saying so.

NOT_TAKEN_APART = (
    '<div class="mis-empty"><b>No item has been taken apart yet</b><p>In a shell: <code>mis ablate --limit 6</code> asks some items again with '
    "each image blanked, dropped or exchanged, and shows which image, or which pair, decides.</p></div>"
)
NO_RUN = (
    '<div class="mis-empty"><b>No run is chosen</b><p>Choose one under Runs, or press Refresh for the newest.</p></div>'
)
Update = dict[Any, Any]


class ResultsHandlers:
    """The handlers of one app's Results tab."""

    def __init__(self, host: Host, parts: "Parts") -> None:
        self.evaluations = Evaluations(host.runs)
        self.parts = parts

    def opened(self, link: Link) -> Update:
        """Draw what an address says."""
        before, after = (*link.variants, "", "")[:2]
        view = link.view or (CHANGES if link.variants else OVERVIEW)
        choice = Choice(
            view,
            runs=link.runs,
            group=link.split,
            published=bool(link.published),
            run=link.run,
            judge=link.judge,
            before=before,
            after=after,
            by=link.by or "category",
            metric=link.metric or "asr",
        )
        if view == ITEM:
            choice = choice._replace(run="", ablation=link.run, item=link.item)
        return self._draw(choice, strict=True)

    def chosen(self, *values: Any) -> Update:
        """Draw what is chosen on the screen."""
        return self._draw(Choice(*values), fill=False)

    def refreshed(self, *values: Any) -> Update:
        """Look again for runs, and draw what is chosen; where no run is, the newest are."""
        return self._draw(Choice(*values))

    def runs_changed(self, drawn: Sequence[str], *values: Any) -> Update:
        """Draw other runs. They are not written back, since a person may be choosing on; and nothing where the page itself has set them."""
        choice = Choice(*values)
        if choice.runs is None or list(choice.runs) == list(drawn):
            return {self.parts.view: gr.skip()}
        update = self._draw(choice, fill=False)
        update.pop(self.parts.runs, None)
        return update | {self.parts.drawn: list(choice.runs)}

    def view_chosen(self, view: str) -> Callable[..., Update]:
        """The handler that draws ``view`` when a person opens it; when an address has opened it, that has drawn it."""

        def handle(by_hand: bool, *values: Any) -> Update:
            return self._draw(Choice(view, *values)) if by_hand else {self.parts.view: gr.skip()}

        return handle

    def csv(self, *values: Any) -> tuple[str, str]:
        """The table whose button was pressed, as a file for the browser to save, and the error bar."""
        choice = Choice(*values[: len(Choice._fields)])
        try:
            choice = self._settled(choice, strict=False)
            name, frame = self._frame(choice)
        except (MisError, OSError) as error:
            return "", html.error_bar([str(error)])
        return json.dumps({"name": f"{name}.csv", "type": "text/csv", "text": csv_text(frame)}), ""

    def _draw(self, choice: Choice, *, strict: bool = False, fill: bool = True) -> Update:
        """The update of the screen for a choice.

        Args:
            choice: what is to be drawn.
            strict: what does not exist is told and not replaced.
            fill: an overview of no run is one of the usual runs.
        """
        parts = self.parts
        names = self.evaluations.names()
        if not names and not self.evaluations.ablations():
            return {parts.empty: gr.update(visible=True), parts.body: gr.update(visible=False), parts.errors: ""}
        update: Update = {parts.empty: gr.update(visible=False), parts.body: gr.update(visible=True), parts.errors: ""}
        # also where nothing can be drawn: whoever cannot choose another run does not get away from one that is damaged
        update |= {part: gr.update(choices=list(names)) for part in (parts.runs, parts.run, parts.judged, parts.noted)}
        try:
            settled = self._settled(choice, strict=strict, fill=fill)
            update |= self._filters(settled, names)
            update |= {OVERVIEW: self._overview, CHANGES: self._changes, JUDGES: self._judges, ITEM: self._item}[
                settled.view
            ](settled)
            place = settled.link(views.default_runs(self.evaluations)).query()
            return update | {parts.place: place, parts.view: settled.view, parts.kept: ""}
        except (MisError, OSError) as error:
            return update | {parts.errors: html.error_bar([str(error)])}

    def _settled(self, choice: Choice, *, strict: bool, fill: bool = True) -> Choice:
        """The choice with every gap filled; a person may have emptied the runs of an overview, then they stay so without ``fill``."""
        names = self.evaluations.names()
        gone = [name for name in choice.runs or () if name not in names]
        if gone and strict:
            raise DataError(not_there("run", gone[0], names[:8]))
        view = _one("view", choice.view, VIEWS, OVERVIEW, strict=strict)
        if not names:  # whoever has only taken items apart sees those
            return self._settled_item(choice._replace(view=ITEM), strict=strict)
        runs = [name for name in choice.runs or () if name in names]
        if not runs and (fill or choice.runs or view != OVERVIEW):
            runs = views.default_runs(self.evaluations)
        run = choice.run if choice.run and (strict or choice.run in names) else self.evaluations.newest()
        choice = choice._replace(view=view, runs=runs, run=run)
        if choice.view == ITEM:
            return self._settled_item(choice, strict=strict)
        if choice.view == OVERVIEW:
            boards, _ = self.evaluations.boards(choice.runs or ())
            groups = views.groups_of(list(boards.values()))
            return choice._replace(group=_one("group of items", choice.group, groups, ALL, strict=strict) or ALL)
        known = self.evaluations.judges(run)
        judge = _one("judge", choice.judge, known, "rule", strict=strict)
        variants = self.evaluations.read(run, judge).variants
        before = _one("variant", choice.before, variants, variants[0] if variants else "", strict=strict)
        rest = [name for name in variants if name != before] or variants
        after = _one("variant", choice.after, variants, rest[0] if rest else "", strict=strict)
        by = _one("grouping", choice.by, [value for _, value in GROUP_CHOICES], "category", strict=strict)
        metric = _one("rate", choice.metric, list(METRICS), "asr", strict=strict)
        return choice._replace(judge=judge, before=before, after=after, by=by, metric=metric)

    def _filters(self, choice: Choice, names: Sequence[str]) -> Update:
        parts = self.parts
        update: Update = {
            parts.views: gr.update(selected=choice.view),
            parts.runs: gr.update(choices=list(names), value=list(choice.runs or ())),
            parts.drawn: list(choice.runs or ()),
            parts.run: gr.update(choices=list(names), value=choice.run),
            parts.judged: gr.update(choices=list(names), value=choice.run),
            parts.published: bool(choice.published),
        }
        if choice.view in (OVERVIEW, ITEM):
            return update
        variants = self.evaluations.read(choice.run, choice.judge).variants
        judges = self.evaluations.judges(choice.run)
        return update | {
            parts.judge: gr.update(choices=judges, value=choice.judge or None),
            parts.before: gr.update(choices=variants, value=choice.before),
            parts.after: gr.update(choices=variants, value=choice.after),
            parts.by: choice.by,
            parts.metric: choice.metric,
        }

    def _overview(self, choice: Choice) -> Update:
        parts = self.parts
        boards, damaged = self.evaluations.boards(choice.runs or ())
        told = html.error_bar(damaged)
        if not boards:
            return {parts.board: None, parts.plane: None, parts.board_table: NO_RUN, parts.errors: told}
        published = views.published() if choice.published else None
        view = views.overview(boards, choice.group, published, self.evaluations.notes(boards))
        return {
            parts.group: gr.update(choices=views.groups_of(list(boards.values())), value=choice.group),
            parts.board: plot_value(view.board),
            parts.plane: plot_value(view.plane),
            parts.board_table: view.table,
            parts.errors: told,
        }

    def _changes(self, choice: Choice) -> Update:
        view = self._changed(choice)
        return {self.parts.heatmap: plot_value(view.heatmap), self.parts.flips: view.matrix}

    def _judges(self, choice: Choice) -> Update:
        view = views.judges(self.evaluations, choice.run, choice.metric)
        return {self.parts.swap: plot_value(view.figure), self.parts.swap_table: view.table}

    def _settled_item(self, choice: Choice, *, strict: bool) -> Choice:
        known = self.evaluations.ablations()
        ablation = _one("run", choice.ablation, known, "", strict=strict)
        if not ablation:
            return choice._replace(ablation="", item="")
        items = list(dict.fromkeys(self.evaluations.grid(ablation).id))
        return choice._replace(ablation=ablation, item=_one("item", choice.item, items, "", strict=strict))

    def _item(self, choice: Choice) -> Update:
        parts = self.parts
        if not choice.ablation:
            return {parts.grid: None, parts.grid_table: NOT_TAKEN_APART}
        grid = self.evaluations.grid(choice.ablation)
        view = views.one_item(grid, choice.item)
        return {
            parts.ablation: gr.update(choices=self.evaluations.ablations(), value=choice.ablation),
            parts.item: gr.update(choices=list(dict.fromkeys(grid.id)), value=choice.item),
            parts.grid: plot_value(view.figure),
            parts.grid_table: view.table,
        }

    def _frame(self, choice: Choice) -> tuple[str, pd.DataFrame]:
        """The frame behind the table of a view, and a name for its file."""
        if choice.view == OVERVIEW:
            published = views.published() if choice.published else None
            boards, _ = self.evaluations.boards(choice.runs or ())
            return "leaderboard", views.overview(boards, choice.group, published).frame
        if choice.view == ITEM:
            return f"item-{choice.item}", views.one_item(self.evaluations.grid(choice.ablation), choice.item).frame
        place = choice.run.replace("/", "-")
        if choice.view == CHANGES:
            return f"flips-{place}", self._changed(choice).flips
        return f"judges-{place}", views.judges(self.evaluations, choice.run, choice.metric).frame

    def _changed(self, choice: Choice) -> views.Changes:
        run = self.evaluations.read(choice.run, choice.judge)
        return views.changes(run, choice.before, choice.after, by=choice.by)


def _one(what: str, wanted: str, known: Sequence[str], usual: str, *, strict: bool) -> str:
    """``wanted`` if there is such a one, else the usual one, else the first.

    Raises:
        DataError: with ``strict``, it is wanted and not there.
    """
    if wanted in known:
        return wanted
    if wanted and strict:
        raise DataError(not_there(what, wanted, known))
    return usual if usual in known else next(iter(known), "")


# ---------- Notes on runs in the Results tab: a run is chosen, its note is shown, and what is written in its place is kept in the run's folder.


class NoteParts(NamedTuple):
    """What is chosen and written."""

    noted: gr.Dropdown
    text: gr.Textbox
    keep: gr.Button
    kept: gr.HTML


def build_notes() -> NoteParts:
    """Lay out the closed part under the leaderboard."""
    with gr.Accordion("Notes on runs", open=False):
        with gr.Row(elem_classes=["mis-filters"]):
            noted = gr.Dropdown([], value=None, label="Run", scale=2, min_width=160, elem_id="mis-results-noted")
            text = gr.Textbox(
                label="Note (kept as note.md with the run; an empty one takes it away)",
                lines=2,
                max_length=LONGEST,
                interactive=False,  # until the note of a run stands in it: that would take the place of what is being written
                scale=6,
                min_width=260,
                elem_id="mis-results-note",
            )
            keep = gr.Button("Keep note", size="sm", scale=0, min_width=110, elem_id="mis-results-keep")
        kept = html_block("", "mis-results-kept")
    return NoteParts(noted, text, keep, kept)


def bind(made: NoteParts, handlers: ResultsHandlers, parts: "Parts") -> None:
    """Show the note of the run that is chosen, and keep what is written."""

    def shown(name: str | None) -> tuple[dict[str, Any], str]:
        note = read_note(resolve_run(handlers.evaluations.root, name).folder) if name else ""
        return gr.update(value=note, interactive=bool(name)), ""

    gr.on(made.noted.input, shown, inputs=made.noted, outputs=[made.text, made.kept], **QUIET)
    inputs: list[Any] = [made.noted, made.text, *parts.choosers]
    gr.on(
        made.keep.click,
        lambda name, text, *values: keep(handlers, name, text, *values),
        inputs=inputs,
        outputs=parts.everything,
        **QUIET,
    )


def keep(handlers: ResultsHandlers, name: str | None, text: str | None, *values: Any) -> Update:
    """Keep a note on a run and draw what is chosen, with the note in its place; say where it is, since the table may not show that run."""
    parts, note = handlers.parts, (text or "").strip()
    try:
        if not name:
            raise SettingsError("choose the run that the note is about")
        folder = resolve_run(handlers.evaluations.root, name).folder
        write_note(folder, note)
    except (MisError, OSError) as error:
        return {parts.errors: html.error_bar([str(error)]), parts.kept: ""}
    update = handlers.chosen(*values)
    if not note:
        return update | {parts.kept: html.status_line(f"{name} has no note now.")}
    stands = name in update.get(parts.drawn, ()) and views.note_under(note) in update.get(parts.board_table, "")
    place = (
        "It stands under the run's name in the table."
        if stands
        else f"The table above has no line of {name} as it is chosen now."
    )
    return update | {parts.kept: html.status_line(f"Kept in {folder / NOTE}. {place}")}


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
        """What the handlers read, in the order of ``views.Choice``."""
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
        html_block("<h2>Results</h2>", "mis-results-title")
        refresh = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="mis-results-refresh")
    errors = html_block("", "mis-results-errors", elem_classes=["mis-errors"])
    empty = html_block(views.EMPTY, "mis-results-empty", visible=False)
    with gr.Column() as body, gr.Tabs(elem_id="mis-results-views") as view_tabs:
        overview, overview_tab, noting = _overview()
        detail, changes_tab, judges_tab = _details()
        item, item_tab = _item()
    payload = gr.Textbox(visible=False)
    parts = Parts(
        errors=errors, empty=empty, body=body, views=view_tabs, view=gr.State(OVERVIEW), drawn=gr.State(()), place=navigation.place, **overview, **detail, **item
    )  # fmt: skip
    handlers = ResultsHandlers(host, parts)
    bind(noting, handlers, parts)
    _bind(
        handlers,
        parts,
        navigation,
        tab,
        refresh,
        payload,
        {OVERVIEW: overview_tab, CHANGES: changes_tab, JUDGES: judges_tab, ITEM: item_tab},
    )


def _overview() -> tuple[dict[str, Any], gr.Tab, NoteParts]:
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
        table = html_block("", "mis-results-board", js_on_load=TABLES)
        noting = build_notes()
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
        flips = html_block("", "mis-results-flips", js_on_load=TABLES)
    with gr.Tab("Judges", id=JUDGES) as judges_tab:
        with gr.Row(elem_classes=["mis-filters"]):
            judged = gr.Dropdown([], label="Run", scale=3, min_width=160, elem_id="mis-results-judged")
            rates = [(metric.heading, name) for name, metric in METRICS.items()]
            metric = gr.Dropdown(rates, value="asr", label="Rate", scale=2, min_width=160)
        swap = figure_part("judges", "The same answers under each judge")
        swap_table = html_block("", "mis-results-judges", js_on_load=TABLES)
    made = {"run": run, "judge": judge, "before": before, "after": after, "by": by, "heatmap": heatmap, "flips": flips}
    return {**made, "judged": judged, "metric": metric, "swap": swap, "swap_table": swap_table}, changes_tab, judges_tab


def _item() -> tuple[dict[str, Any], gr.Tab]:
    """One item with its images kept, blanked, dropped or exchanged."""
    with gr.Tab("One item", id=ITEM) as tab:
        with gr.Row(elem_classes=["mis-filters"]):
            ablation = gr.Dropdown([], label="Ablation", scale=2, min_width=160, elem_id="mis-results-ablation")
            item = gr.Dropdown([], label="Item", scale=3, min_width=200, elem_id="mis-results-item")
        grid = figure_part("item", "Which image, or which pair, decides")
        table = html_block("", "mis-results-grid", js_on_load=TABLES)
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
