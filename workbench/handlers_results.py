"""What the Results tab's bindings call: from the choices on the screen to what is drawn, errors as lines of the bar.

A choice that no longer exists (another run has other variants) gives way to the first that does; one that comes from an address is refused with
a message, so that a link never shows something else than it says without saying so.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd

from mis_lib.errors import DataError, MisError
from mis_lib.results.metrics import ALL, METRICS
from workbench import html
from workbench.evaluations import Evaluations
from workbench.figures import shown
from workbench.host import Host
from workbench.links import Link, not_there
from workbench.results import views
from workbench.results_choice import CHANGES, GROUP_CHOICES, ITEM, JUDGES, OVERVIEW, VIEWS, Choice
from workbench.tables import csv_text

if TYPE_CHECKING:
    from workbench.results.tab import Parts

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
            parts.board: shown(view.board),
            parts.plane: shown(view.plane),
            parts.board_table: view.table,
            parts.errors: told,
        }

    def _changes(self, choice: Choice) -> Update:
        view = self._changed(choice)
        return {self.parts.heatmap: shown(view.heatmap), self.parts.flips: view.matrix}

    def _judges(self, choice: Choice) -> Update:
        view = views.judges(self.evaluations, choice.run, choice.metric)
        return {self.parts.swap: shown(view.figure), self.parts.swap_table: view.table}

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
            parts.grid: shown(view.figure),
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
