"""The Annotate tab: its handlers, its layout and its bindings; what a handler asks of the runs is in ``actions``.

The form is HTML of its own, so that a key press costs no round trip: the script keeps the choices in the page and sends them with
Enter, under an id drawn before the first try. Everything sent tells which response it is about; the server keeps nothing of a session.
"""

import getpass
import json
import uuid
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from mis_lib.annotate.decisions import CAUSES
from mis_lib.annotate.worklist import SIGNALS, Filter, Order, Whose, Worklist
from mis_lib.errors import DataError, MisError
from workbench import html
from workbench.annotate import actions, view
from workbench.annotate.actions import Ask, Desk, View, ask_of_link, shows
from workbench.components import html_block
from workbench.host import Host
from workbench.links import Link, Navigation, Tab, not_there
from workbench.trainings import Trainings

# ---------- What the Annotate tab's bindings call: they unpack events, filters and requests, and turn views into Gradio updates.

ANY = ""
Updates = tuple[Any, ...]
FILTERS = ("variant", "beside", "split", "category", "judge", "outcome", "beside_outcome", "signal", "whose", "order")


class AnnotateHandlers:
    """The handlers of one app; ``desk`` is what all sessions share."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def opened(self, author: str, request: gr.Request) -> Updates:
        """At the page's start: the newest run from its top; a link to this tab is followed by ``followed`` instead."""
        name = who(request, author)
        if dict(request.query_params).get("tab") == "annotate":
            return gr.Textbox(name, interactive=not request.username), *(gr.skip(),) * (1 + len(FILTERS) + 4)
        return gr.Textbox(name, interactive=not request.username), *self._newest(name)

    def refreshed(self, run: str | None, author: str, address: str, request: gr.Request) -> Updates:
        """The tab was chosen: runs that were made since are there too. An address that names a run is followed by ``followed``."""
        if run or "run=" in address:
            return gr.Dropdown(choices=self.desk.runs()), *(gr.skip(),) * (len(FILTERS) + 4)
        return self._newest(who(request, author))

    def followed(self, link: Link, author: str, blind: bool, request: gr.Request) -> Updates:
        """A link to this tab: its run, its filters, its item."""
        ask = Ask(run=next(iter(self.desk.runs()), ""), author=who(request, author), blind=blind)
        asked = ask_of_link(link, ask)
        try:
            worklist = self.desk.worklist(asked.run)
        except MisError as error:
            runs = gr.Dropdown(choices=self.desk.runs())
            return runs, *(gr.skip(),) * (len(FILTERS) + 2), html.error_bar([str(error)]), gr.skip()
        chosen, told = known(worklist, asked.chosen)
        shown = actions.show(self.desk, replace(asked, chosen=chosen), link.item, link.response)
        if told:  # the address stays as it is, so that a reload says it again
            shown = replace(shown, errors=html.error_bar(told) + shown.errors, place=None)
        return gr.Dropdown(choices=self.desk.runs(), value=asked.run), *choices(worklist, chosen), *updates(shown)

    def run_chosen(self, run: str | None, author: str, blind: bool, request: gr.Request) -> Updates:
        """Another run: filters are set back, since its variants and splits are others."""
        if not run:
            return *(gr.skip(),) * len(FILTERS), *self._nothing()
        ask = Ask(run=run, author=who(request, author), blind=blind)
        try:
            worklist = self.desk.worklist(run)
        except MisError as error:
            return *(gr.skip(),) * len(FILTERS), gr.skip(), gr.skip(), html.error_bar([str(error)]), gr.skip()
        return *choices(worklist, ask.chosen), *updates(actions.show(self.desk, ask))

    def filtered(self, place: str, request: gr.Request, *values: Any) -> Updates:
        """The first response that passes; nothing where the filters are what they were, as when a list is left without a choice."""
        ask = ask_of(values, request)
        if shows(place, ask):
            return (gr.skip(),) * 4
        return updates(actions.show(self.desk, ask))

    def blinded(self, place: str, request: gr.Request, *values: Any) -> Updates:
        """The same response with names and verdicts shown or hidden."""
        ask = ask_of(values, request)
        link = Link.parse(place) if shows(place, ask) else Link()
        return updates(actions.show(self.desk, ask, link.item, link.response))

    def go(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Next, previous, or a response that was shown before."""
        return updates(actions.go(self.desk, ask_of(values, request), detail(event)))

    def record(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Keep what the form says."""
        sent = detail(event)
        fields = (
            str(sent.get("place") or ""),
            sent.get("decision"),
            str(sent.get("id", "")),
            str(sent.get("reason", "")),
        )
        return updates(actions.record(self.desk, ask_of(values, request), *fields))

    def undo(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Take one's latest decision back."""
        return updates(actions.undo(self.desk, ask_of(values, request), str(detail(event).get("id", ""))))

    def preview(self, event: gr.EventData) -> str:
        """The corrected answer in its parts."""
        return view.preview(str(detail(event).get("text", ""))[:20_000])

    def agreement(self) -> str:
        """The table of agreement."""
        return actions.agreement(self.desk)

    def api_record(self, place: str, decision: str, event_id: str, author: str, request: gr.Request) -> str:
        """Record one decision; returns the event as JSON once it is on disk. The same event_id again changes nothing.

        place: {"run", "sample", "variant"[, "beside"]}, decision: {"outcome", "causes", ...}, both as JSON.
        """
        try:
            values = json.loads(decision)
        except ValueError as error:
            raise gr.Error(f"decision: expected a JSON object ({error})") from error
        try:
            event = actions.keep(self.desk, Ask(author=who(request, author)), place, values, event_id)
        except MisError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return event.model_dump_json(exclude={"subject", "other"})

    def _newest(self, author: str) -> Updates:
        runs = self.desk.runs()
        if not runs:
            return gr.Dropdown(choices=[], value=None), *(gr.skip(),) * len(FILTERS), *self._nothing()
        ask = Ask(run=runs[0], author=author)
        try:
            filters = choices(self.desk.worklist(ask.run), ask.chosen)
        except MisError:  # the next line says so in the error bar
            filters = (gr.skip(),) * len(FILTERS)
        return gr.Dropdown(choices=runs, value=ask.run), *filters, *updates(actions.show(self.desk, ask))

    def _nothing(self) -> Updates:
        return view.no_runs(str(self.desk.root)), "", "", gr.skip()


def who(request: gr.Request, author: str | None) -> str:
    """The login's name; without logins the name that the person gave."""
    return request.username or (author or "").strip()


def ask_of(values: tuple[Any, ...], request: gr.Request) -> Ask:
    """Run, filters, blind and author, in the order of the inputs."""
    run, *chosen, blind, author = values
    filters: dict[str, Any] = {name: value or ANY for name, value in zip(FILTERS, chosen, strict=True)}
    whose = Whose(filters["whose"]) if filters["whose"] in list(Whose) else Whose.OPEN
    order = Order(filters["order"]) if filters["order"] in list(Order) else Order.WORST
    return Ask(
        run or "",
        Filter(**filters | {"whose": whose, "order": order}),
        bool(blind),
        who(request, author),
    )


def detail(event: gr.EventData) -> dict[str, Any]:
    """What the page sent along with an event.

    Raises:
        DataError: it is no object.
    """
    if not isinstance(event._data, dict):
        raise DataError("the page sent an event of another form; reload it")
    return event._data


def updates(view: View) -> Updates:
    """Item, form, error bar and place, in the order of the bindings; the page hears of an error only where the bar changes, so no two are alike."""
    errors = f"{view.errors}<!-- {uuid.uuid4().hex} -->" if view.errors else ""
    parts = (view.item, view.form, errors, view.place)
    return tuple(gr.skip() if part is None else part for part in parts)


def known(worklist: Worklist, chosen: Filter) -> tuple[Filter, list[str]]:
    """The filters of an address without what the run does not have, and a line on each such value."""
    there = {name: [value for _, value in options if value] for name, options in named(worklist).items()}
    gone = {name: str(value) for name in FILTERS if (value := getattr(chosen, name)) and value not in there[name]}
    words = {"beside": "variant", "beside_outcome": "outcome"}
    told = [
        f"{not_there(words.get(name, name), value, there[name], f'in {worklist.run}')}, and this filter is left out"
        for name, value in gone.items()
    ]
    return chosen.model_copy(update=dict.fromkeys(gone, ANY)), told


def choices(worklist: Worklist, chosen: Filter) -> Updates:
    """The filters' choices for a run, with what is chosen."""
    options = named(worklist)
    values = {name: str(getattr(chosen, name)) for name in FILTERS}
    there = {name: {value for _, value in options[name]} for name in FILTERS}
    return tuple(
        gr.Dropdown(choices=options[name], value=values[name] if values[name] in there[name] else options[name][0][1])
        for name in FILTERS
    )


def named(worklist: Worklist) -> dict[str, list[tuple[str, str]]]:
    """Label and value of all that each filter can be set to for a run."""
    outcomes = [("Any", ANY), *((view.OUTCOME_LABELS[one], str(one)) for one in worklist.outcomes)]
    return {
        "variant": [("Any", ANY), *plain(worklist.variants)],
        "beside": [("Nothing", ANY), *plain(worklist.variants)],
        "split": [("All", ANY), *plain(worklist.splits)],
        "category": [("All", ANY), *plain(worklist.categories)],
        "judge": [("Any", ANY), *plain(worklist.judges)],
        "outcome": outcomes,
        "beside_outcome": outcomes,
        "signal": [("Any", ANY), *((label, str(signal)) for signal, (_, label) in SIGNALS.items())],
        "whose": [(label, str(whose)) for whose, label in view.WHOSE.items()],
        "order": [(label, str(order)) for order, label in view.ORDERS.items()],
    }


def plain(names: list[str]) -> list[tuple[str, str]]:
    """Choices whose label is their value."""
    return [(name, name) for name in names]


ACTIONS = """
const names = ['record', 'go', 'undo', 'preview'];
window.misAnnotate.attach(element, (name, detail) => names.includes(name) && trigger(name, detail));
watch('value', () => window.misAnnotate.refresh(element));
"""
ERRORS = "watch('value', () => window.misAnnotate.refused(element));"
READ_NAME = "(name) => [window.misAnnotate.name(name)]"
READ_ADDRESS = "(run, author) => [run, author, window.location.search]"
KEEP_NAME = "(name) => window.misAnnotate.keepName(name)"


class FilterPart(NamedTuple):
    """Which responses, in the order of ``FILTERS`` between run and blind."""

    run: gr.Dropdown
    variant: gr.Dropdown
    beside: gr.Dropdown
    split: gr.Dropdown
    category: gr.Dropdown
    judge: gr.Dropdown
    outcome: gr.Dropdown
    beside_outcome: gr.Dropdown
    signal: gr.Dropdown
    whose: gr.Dropdown
    order: gr.Dropdown
    blind: gr.Checkbox
    author: gr.Textbox


def build(page: gr.Blocks, host: Host, navigation: Navigation, tab: gr.Tab, trainings: Trainings) -> None:
    """Lay out the tab, which is being built, and bind it; ``trainings`` start the re-tune."""
    desk = Desk(host.runs)
    handlers = AnnotateHandlers(desk)
    filters = _filter_part()
    errors = html_block("", "mis-annotate-errors", elem_classes=["mis-errors"], js_on_load=ERRORS)
    with gr.Row(elem_id="mis-annotate"):
        with gr.Column(scale=8, min_width=320, elem_id="mis-annotate-left"):
            item = html_block("", "mis-annotate-item", js_on_load="watch('value', () => window.mis.refresh(element));")
            preview = html_block("", "mis-annotate-preview")
        with gr.Column(scale=4, min_width=320, elem_id="mis-annotate-right"):
            form = html_block("", "mis-annotate-form", js_on_load=ACTIONS)
    _loop_part(desk, trainings)
    with gr.Accordion("Agreement between people", open=False, elem_id="mis-agreement") as accordion:
        table = html_block("", "mis-agreement-table")
    shown = [item, form, errors, navigation.place]
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    choosers = [part for part in filters if part not in (filters.blind, filters.author)]
    page.load(
        handlers.opened, inputs=filters.author, outputs=[filters.author, *choosers, *shown], js=READ_NAME, **quiet
    )
    address = gr.Textbox(visible=False)
    opening = [filters.run, filters.author, address]
    tab.select(handlers.refreshed, inputs=opening, outputs=[*choosers, *shown], js=READ_ADDRESS, **quiet)
    navigation.follow(
        Tab.ANNOTATE, handlers.followed, inputs=[filters.author, filters.blind], outputs=[*choosers, *shown]
    )
    filters.run.input(
        handlers.run_chosen,
        inputs=[filters.run, filters.author, filters.blind],
        outputs=[*choosers[1:], *shown],
        **quiet,
    )
    asked = list(filters)
    gr.on(
        [chooser.input for chooser in choosers[1:]],
        handlers.filtered,
        inputs=[navigation.place, *asked],
        outputs=shown,
        **quiet,
    )
    filters.blind.input(handlers.blinded, inputs=[navigation.place, *asked], outputs=shown, **quiet)
    filters.author.change(fn=None, inputs=filters.author, js=KEEP_NAME)
    # Events of HTML pieces are bound one by one: gr.on knows only events that every component of the kind has.
    # "multiple": a key pressed in advance sends the next decision while the answer to the last is still being drawn.
    form.record(handlers.record, inputs=asked, outputs=shown, trigger_mode="multiple", **quiet)
    form.go(handlers.go, inputs=asked, outputs=shown, trigger_mode="multiple", **quiet)
    form.undo(handlers.undo, inputs=asked, outputs=shown, trigger_mode="multiple", **quiet)
    form.preview(handlers.preview, outputs=preview, trigger_mode="always_last", **quiet)
    gr.on(accordion.expand, handlers.agreement, outputs=table, **quiet)
    gr.api(  # pyright: ignore[reportPrivateImportUsage]
        handlers.api_record, api_name="annotate", queue=False
    )


def _loop_part(desk: Desk, trainings: Trainings) -> None:
    """Make a training delta of what was decided, or of a part of it, and start the re-tune on it."""
    title = "Training delta: learn from what was decided"
    with gr.Accordion(title, open=False, elem_id="mis-loop") as accordion:
        with gr.Row():
            run = gr.Dropdown([("All runs", "")], value="", label="Of run", min_width=150, elem_id="mis-delta-run")
            people = gr.Dropdown([], multiselect=True, label="Decided by (empty: anybody)", min_width=150)
            causes = gr.Dropdown(
                [(label, str(cause)) for cause, label in CAUSES.items()],
                multiselect=True,
                label="Because of (empty: whatever)",
                min_width=150,
                elem_id="mis-delta-causes",
            )
        with gr.Row(elem_classes=["mis-filters"]):
            name = gr.Textbox(
                "delta", label="Name", max_lines=1, max_length=60, min_width=110, elem_id="mis-delta-name"
            )
            replay = gr.Number(
                64,
                label="Rows replayed against forgetting",
                precision=0,
                scale=2,
                min_width=250,
                elem_id="mis-delta-replay",
            )
            make = gr.Button("Make training delta", scale=0, min_width=190, elem_id="mis-delta-make")
            config = gr.Dropdown(trainings.configurations(), value=actions.CONFIG, label="Settings file", min_width=190)
            start = gr.Button(
                "Start the re-tune",
                variant="primary",
                interactive=False,
                scale=0,
                min_width=170,
                elem_id="mis-delta-start",
            )
        made, started = html_block("", "mis-delta-made"), html_block("", "mis-delta-started")
    folder = gr.Textbox(visible=False)
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def selectable() -> tuple[gr.Dropdown, gr.Dropdown]:
        runs, authors = actions.selectable(desk)
        return gr.Dropdown(choices=[("All runs", ""), *((one, one) for one in runs)]), gr.Dropdown(choices=authors)

    gr.on(accordion.expand, selectable, outputs=[run, people], queue=False, **private)

    def make_delta(*values: Any) -> tuple[str, str, gr.Button]:
        told, found = actions.make(desk, *values)
        return told, found, gr.Button(interactive=bool(found))  # without a delta there is nothing to learn from

    chosen = [name, replay, run, people, causes]
    gr.on(make.click, make_delta, inputs=chosen, outputs=[made, folder, start], **private)
    gr.on(
        start.click,
        lambda *values: actions.start(desk, trainings, *values),
        inputs=[folder, config],
        outputs=started,
        **private,
    )


def _filter_part() -> FilterPart:
    with gr.Row(elem_id="mis-annotate-filters"):
        run = gr.Dropdown([], label="Run", min_width=150)
        whose = gr.Dropdown(
            [(label, str(one)) for one, label in view.WHOSE.items()],
            value="open",
            label="Show",
            min_width=150,
        )
        variant = gr.Dropdown([("Any", "")], value="", label="Variant to label", min_width=150)
        beside = gr.Dropdown([("Nothing", "")], value="", label="Shown beside", min_width=150)
        author = gr.Textbox(
            getpass.getuser(), label="Annotator", max_lines=1, max_length=80, min_width=150, elem_id="mis-annotator"
        )
        split = gr.Dropdown([("All", "")], value="", label="Split", min_width=150)
        category = gr.Dropdown([("All", "")], value="", label="Category", min_width=150)
        judge = gr.Dropdown([("Any", "")], value="", label="Judge", min_width=150)
        outcome = gr.Dropdown([("Any", "")], value="", label="Verdict", min_width=150)
        beside_outcome = gr.Dropdown([("Any", "")], value="", label="Verdict beside", min_width=150)
        signal = gr.Dropdown([("Any", "")], value="", label="Worth a look because", min_width=150)
        order = gr.Dropdown(
            [(label, str(one)) for one, label in view.ORDERS.items()],
            value="worst",
            label="Order",
            min_width=150,
            elem_id="mis-annotate-order",
        )
        blind = gr.Checkbox(
            True, label="Blind: names and verdicts after deciding", min_width=150, elem_id="mis-annotate-blind"
        )
    return FilterPart(
        run, variant, beside, split, category, judge, outcome, beside_outcome, signal, whose, order, blind, author
    )
