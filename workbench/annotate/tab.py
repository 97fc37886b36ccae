"""The Annotate tab: layout first, then bindings, then the handlers that they call.

The form is HTML with a script, so that a key press needs no round trip: the script keeps the choices in the page and
sends them with Enter, under an id drawn before the first try. Every message says which response it is about; the server
keeps nothing per session.
"""

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from mis_lib.annotate.decisions import CAUSES
from mis_lib.annotate.worklist import SIGNALS, Filter, Order, Whose, Worklist
from mis_lib.construct.mis_mini import mini_data_folder
from mis_lib.errors import DataError, MisError
from workbench.annotate import actions, view
from workbench.annotate.actions import Annotations, Query, View
from workbench.annotate.loop import METHODS, Loops, last_config, newest_delta
from workbench.annotate.loop import strip as strip_of
from workbench.components import QUIET, REFRESH, SAVE_FILE, error_block, file_text, html_block, who
from workbench.evaluate import EvaluationJobs
from workbench.evaluate_panel import EvaluatePanel
from workbench.host import Host
from workbench.links import Link, Navigation, Tab, not_there
from workbench.trainings import Trainings

ANY = ""
LOOK = 2.0  # seconds between two looks at a training or a report of the loop
FILTERS = ("variant", "beside", "split", "category", "judge", "outcome", "beside_outcome", "signal", "whose", "order")
WIDTH: dict[str, Any] = {"min_width": 150}
FORM = """
const names = ['record', 'go', 'undo', 'preview'];
window.misAnnotate.attach(element, (name, detail) => names.includes(name) && trigger(name, detail));
watch('value', () => window.misAnnotate.refresh(element));
"""
ERRORS = "watch('value', () => window.misAnnotate.refused(element));"
READ_NAME = "(name) => [window.misAnnotate.name(name)]"
READ_ADDRESS = "(run, author) => [run, author, window.location.search]"
KEEP_NAME = "(name) => window.misAnnotate.keepName(name)"

Updates = tuple[Any, ...]
Options = list[tuple[str, str]]
"""Label and value of what a dropdown offers."""


class FilterPart(NamedTuple):
    """What the handlers read: the run, the filters in the order of ``FILTERS``, blind and author."""

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

    @property
    def choosers(self) -> list[gr.Dropdown]:
        """The run and the filters."""
        return [part for part in self if isinstance(part, gr.Dropdown)]


def build(
    page: gr.Blocks,
    host: Host,
    navigation: Navigation,
    tab: gr.Tab,
    trainings: Trainings,
    evaluations: EvaluationJobs,
) -> None:
    """Lay out the tab, which is being built, and bind it; ``trainings`` start the fine-tuning."""
    annotations = Annotations(host.runs)
    panel = EvaluatePanel(evaluations, "annotate")
    panel.bind([page.load, tab.select])
    filters = _filter_part()
    errors = error_block("mis-annotate-errors", js_on_load=ERRORS)
    with gr.Row(elem_id="mis-annotate"):
        with gr.Column(scale=8, min_width=320, elem_id="mis-annotate-left"):
            item = html_block("", "mis-annotate-item", js_on_load=REFRESH)
            preview = html_block("", "mis-annotate-preview")
        with gr.Column(scale=4, min_width=320, elem_id="mis-annotate-right"):
            form = html_block("", "mis-annotate-form", js_on_load=FORM)
    _delta_part(Loops(annotations, trainings, evaluations))
    with gr.Accordion("Inter-annotator agreement and export", open=False, elem_id="mis-agreement") as accordion:
        agreement = html_block("", "mis-agreement-table")
        export = gr.Button("Export annotations (JSON Lines)", size="sm", elem_id="mis-annotate-export")

    handlers = AnnotateHandlers(annotations)
    shown = [item, form, errors, navigation.place]
    everything = [*filters.choosers, *shown]
    asked = list(filters)
    author, blind = filters.author, filters.blind
    named = gr.State("")  # whose list is shown
    page.load(handlers.opened, inputs=author, outputs=[author, named, *everything], js=READ_NAME, **QUIET)
    opening = [filters.run, author, gr.Textbox(visible=False)]
    tab.select(handlers.refreshed, inputs=opening, outputs=everything, js=READ_ADDRESS, **QUIET)
    gr.on(panel.arrived.change, handlers.arrived, inputs=opening[:2], outputs=everything, **QUIET)
    navigation.follow(Tab.ANNOTATE, handlers.followed, inputs=[author, blind], outputs=everything)
    filters.run.input(handlers.run_chosen, inputs=[filters.run, author, blind], outputs=everything[1:], **QUIET)
    at_place = [navigation.place, *asked]
    chosen = [chooser.input for chooser in filters.choosers[1:]]
    gr.on(chosen, handlers.filtered, inputs=at_place, outputs=shown, **QUIET)
    blind.input(handlers.blinded, inputs=at_place, outputs=shown, **QUIET)
    author.change(fn=None, inputs=author, js=KEEP_NAME)
    gr.on([author.blur, author.submit], handlers.renamed, inputs=[named, *at_place], outputs=[named, *shown], **QUIET)
    # Events of HTML pieces are bound one by one: gr.on knows only events that every component of the kind has.
    # "multiple": a key pressed in advance sends the next decision while the answer to the last is still being drawn.
    form.record(handlers.record, inputs=asked, outputs=shown, trigger_mode="multiple", **QUIET)
    form.go(handlers.go, inputs=asked, outputs=shown, trigger_mode="multiple", **QUIET)
    form.undo(handlers.undo, inputs=asked, outputs=shown, trigger_mode="multiple", **QUIET)
    form.preview(handlers.preview, outputs=preview, trigger_mode="always_last", **QUIET)
    file = gr.Textbox(visible=False)
    exported = gr.on(export.click, handlers.export, outputs=[file, errors], **QUIET)
    exported.then(fn=None, inputs=file, js=SAVE_FILE)
    gr.on(accordion.expand, lambda: actions.agreement(annotations), outputs=agreement, **QUIET)
    gr.api(  # pyright: ignore[reportPrivateImportUsage]
        handlers.api_record, api_name="annotate", queue=False
    )


def _filter_part() -> FilterPart:
    with gr.Row(elem_id="mis-annotate-filters", elem_classes=["mis-line"]):
        run = gr.Dropdown([], label="Run", **WIDTH)
        whose = gr.Dropdown(_options(view.WHOSE), value="open", label="Show", **WIDTH)
        variant = gr.Dropdown([("Any", ANY)], value=ANY, label="Model to label", **WIDTH)
        beside = gr.Dropdown([("Nothing", ANY)], value=ANY, label="Compare with", **WIDTH)
        author = gr.Textbox(
            getpass.getuser(), label="Annotator", max_lines=1, max_length=80, elem_id="mis-annotator", **WIDTH
        )
        blind = gr.Checkbox(
            True,
            label="Blind",
            info="Hide model names and verdicts until I save",
            elem_id="mis-annotate-blind",
            **WIDTH,
        )
        more = gr.Button("More filters", size="sm", scale=0, min_width=110, elem_id="mis-annotate-more")
    with gr.Row(elem_id="mis-annotate-rest", elem_classes=["mis-line"]):
        split = gr.Dropdown([("All", ANY)], value=ANY, label="Split", **WIDTH)
        category = gr.Dropdown([("All", ANY)], value=ANY, label="Category", **WIDTH)
        judge = gr.Dropdown([("Any", ANY)], value=ANY, label="Judge", **WIDTH)
        outcome = gr.Dropdown([("Any", ANY)], value=ANY, label="Verdict", **WIDTH)
        beside_outcome = gr.Dropdown([("Any", ANY)], value=ANY, label="Other model's verdict", **WIDTH)
        signal = gr.Dropdown([("Any", ANY)], value=ANY, label="Flagged because", **WIDTH)
        order = gr.Dropdown(_options(view.ORDERS), value="worst", label="Order", elem_id="mis-annotate-order", **WIDTH)
    more.click(fn=None, js="() => window.misAnnotate.moreFilters()")
    return FilterPart(
        run, variant, beside, split, category, judge, outcome, beside_outcome, signal, whose, order, blind, author
    )


def _delta_part(loops: Loops) -> None:
    """The loop: its five steps, training data of all decisions or a part of them, the re-tune, and its report."""
    annotations, trainings = loops.annotations, loops.trainings
    known = trainings.configurations()
    configs = [(label, name) for name, label in METHODS.items() if name in known]
    configs += [(name, name) for name in known if name not in METHODS]
    with gr.Accordion("From failures to a better model", open=False, elem_id="mis-loop") as accordion:
        strip = html_block("", "mis-loop-steps")
        with gr.Row():
            run = gr.Dropdown([("All runs", "")], value="", label="Run", elem_id="mis-delta-run", **WIDTH)
            people = gr.Dropdown([], multiselect=True, label="Annotators (empty: all)", **WIDTH)
            label = "Causes (empty: all)"
            options = _options(CAUSES)
            causes = gr.Dropdown(options, multiselect=True, label=label, elem_id="mis-delta-causes", **WIDTH)
            label = "Learn from"
            config = gr.Dropdown(configs, value=actions.CONFIG, label=label, elem_id="mis-delta-config", min_width=260)
        with gr.Row(elem_classes=["mis-filters"]):
            name = gr.Textbox(
                "delta", label="Name", max_lines=1, max_length=60, min_width=110, elem_id="mis-delta-name"
            )
            label = "Replay rows (prevent forgetting)"
            replay = gr.Number(64, label=label, precision=0, scale=2, min_width=250, elem_id="mis-delta-replay")
            buttons = [
                _loop_button(text, f"mis-delta-{key}", primary=key == "start")
                for key, text in (
                    ("make", "Build training data"),
                    ("start", "Fine-tune on these"),
                    ("measure", "Measure the re-tuned model"),
                )
            ]
        make, start, measure = buttons
        said = html_block("", "mis-delta-said")
    timer = gr.Timer(LOOK, active=False)

    def shown(config: str | None, name: str, replay: float | None) -> Updates:
        try:
            loop = loops.loop(config or actions.CONFIG, name, replay)
        except MisError as error:
            return view.errors([str(error)]), *_skips(2), gr.Timer(active=False)
        enabled = [gr.Button(interactive=loop.is_next(at)) for at in (2, 3)]
        return strip_of(loop), *enabled, gr.Timer(active=loop.is_running)

    def opened(name: str, replay: float | None) -> Updates:
        runs, authors = actions.selectable(annotations)
        config = last_config(annotations.root, trainings)
        lists = gr.Dropdown(choices=[("All runs", ""), *_plain(runs)]), gr.Dropdown(choices=authors)
        return *lists, config, *shown(config, name, replay)

    def make_delta(config: str | None, name: str, replay: float | None, *values: Any) -> Updates:
        text, _ = actions.make(
            annotations, name, replay, *values,
            replay_from=loops.host.data_folder or mini_data_folder(),
            targets=trainings.method(config or actions.CONFIG) != "kto",
        )  # fmt: skip
        return text, *shown(config, name, replay)

    def start_training(config: str | None, name: str, replay: float | None) -> Updates:
        newest = newest_delta(annotations.root)
        delta = f"{newest.parent.name}/{newest.name}" if newest else ""
        return actions.start(annotations, trainings, delta, config), *shown(config, name, replay)

    def start_report(config: str | None, name: str, replay: float | None) -> Updates:
        try:
            loops.measure(loops.loop(config or actions.CONFIG).tuned)
        except (MisError, OSError) as error:
            return view.errors([str(error)]), *shown(config, name, replay)
        return "", *shown(config, name, replay)

    queued = {key: value for key, value in QUIET.items() if key != "queue"}  # these take a while
    form, seen = [config, name, replay], [strip, start, measure, timer]
    gr.on(accordion.expand, opened, inputs=form[1:], outputs=[run, people, config, *seen], **QUIET)
    gr.on([config.input, timer.tick], shown, inputs=form, outputs=seen, **QUIET)
    gr.on(make.click, make_delta, inputs=[*form, run, people, causes], outputs=[said, *seen], **queued)
    gr.on(start.click, start_training, inputs=form, outputs=[said, *seen], **queued)
    gr.on(measure.click, start_report, inputs=form, outputs=[said, *seen], **queued)


def _loop_button(text: str, elem_id: str, *, primary: bool) -> gr.Button:
    """A button of the loop; what needs an earlier step cannot be pressed before it."""
    variant = "primary" if primary else "secondary"
    can = elem_id == "mis-delta-make"
    return gr.Button(text, variant=variant, interactive=can, scale=0, min_width=190, elem_id=elem_id)


class AnnotateHandlers:
    """What the bindings call: they unpack events, filters and requests, and turn views into Gradio updates."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def opened(self, author: str, request: gr.Request) -> Updates:
        """At the page's start: the newest run from its top; a link to this tab is followed by ``followed`` instead."""
        name = who(request, author)
        box = gr.Textbox(name, interactive=not request.username)
        is_linked = dict(request.query_params).get("tab") == "annotate"
        return box, name, *(_skips(1 + len(FILTERS) + 4) if is_linked else self._newest(name))

    def refreshed(self, run: str | None, author: str, address: str, request: gr.Request) -> Updates:
        """The tab was chosen: new runs are listed too. An address that names a run is followed by ``followed``."""
        if run or "run=" in address:
            return gr.Dropdown(choices=self.annotations.runs()), *_skips(len(FILTERS) + 4)
        return self._newest(who(request, author))

    def arrived(self, run: str | None, author: str, request: gr.Request) -> Updates:
        """An evaluation has ended: its run is listed, and shown if nothing else is."""
        if run:
            return gr.Dropdown(choices=self.annotations.runs()), *_skips(len(FILTERS) + 4)
        *shown, _ = self._newest(who(request, author))  # the address is that of the tab that is open
        return *shown, gr.skip()

    def followed(self, link: Link, author: str, blind: bool, request: gr.Request) -> Updates:
        """A link to this tab: its run, its filters, its item."""
        runs = self.annotations.runs()
        query = Query(run=next(iter(runs), ""), author=who(request, author), blind=blind).follow(link)
        try:
            worklist = self.annotations.worklist(query.run)
        except MisError as error:
            bar = view.errors([str(error)])
            return gr.Dropdown(choices=runs), *_skips(len(FILTERS) + 2), bar, gr.skip()
        chosen, missing = known(worklist, query.chosen)
        shown = actions.show(self.annotations, replace(query, chosen=chosen), link.item, link.response)
        if missing:  # the address stays as it is, so that a reload says it again
            shown = replace(shown, errors=[*missing, *shown.errors], address=None)
        return gr.Dropdown(choices=runs, value=query.run), *choices(worklist, chosen), *updates(shown)

    def run_chosen(self, run: str | None, author: str, blind: bool, request: gr.Request) -> Updates:
        """Another run: filters are set back, since its variants and splits are others."""
        if not run:
            return *_skips(len(FILTERS)), *self._nothing()
        query = Query(run=run, author=who(request, author), blind=blind)
        try:
            worklist = self.annotations.worklist(run)
        except MisError as error:
            return *_skips(len(FILTERS) + 2), view.errors([str(error)]), gr.skip()
        return *choices(worklist, query.chosen), *updates(actions.show(self.annotations, query))

    def filtered(self, address: str, request: gr.Request, *values: Any) -> Updates:
        """The first response that passes; nothing new if a list was closed without another choice."""
        query = query_of(values, request)
        return _skips(4) if query.is_shown_at(Link.parse(address)) else updates(actions.show(self.annotations, query))

    def blinded(self, address: str, request: gr.Request, *values: Any) -> Updates:
        """The same response with names and verdicts shown or hidden."""
        query, link = query_of(values, request), Link.parse(address)
        here = link if query.is_shown_at(link) else Link()
        return updates(actions.show(self.annotations, query, here.item, here.response))

    def renamed(self, before: str, address: str, request: gr.Request, *values: Any) -> Updates:
        """Another person: the same response, or the top of the list if the person before has begun it."""
        query, link = query_of(values, request), Link.parse(address)
        if query.author == before or not query.run:
            return query.author, *_skips(4)
        begun = actions.progress(self.annotations, replace(query, author=before)).done > 0
        here = Link() if begun else link
        return query.author, *updates(actions.show(self.annotations, query, here.item, here.response))

    def go(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Next, previous, or a response that was shown before."""
        return updates(actions.go(self.annotations, query_of(values, request), _detail(event)))

    def record(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Keep what the form says."""
        sent = _detail(event)
        place, event_id, reason = (str(sent.get(key) or "") for key in ("place", "id", "reason"))
        query = query_of(values, request)
        return updates(actions.record(self.annotations, query, place, sent.get("decision"), event_id, reason))

    def undo(self, event: gr.EventData, request: gr.Request, *values: Any) -> Updates:
        """Take one's latest decision back."""
        return updates(actions.undo(self.annotations, query_of(values, request), str(_detail(event).get("id", ""))))

    def export(self) -> tuple[str, str]:
        """All annotations as a file for the browser to save, and the error bar."""
        try:
            return file_text("annotations.jsonl", "application/jsonl", actions.export(self.annotations)), ""
        except MisError as error:
            return "", view.errors([str(error)])

    def preview(self, event: gr.EventData) -> str:
        """The corrected answer in its parts."""
        return view.preview(str(_detail(event).get("text", ""))[:20_000])

    def api_record(self, place: str, decision: str, event_id: str, author: str, request: gr.Request) -> str:
        """Record one decision; returns the event as JSON once it is on disk. The same event_id again changes nothing.

        place: {"run", "sample", "variant"[, "beside"]}, decision: {"outcome", "causes", ...}, both as JSON.
        """
        try:
            values = json.loads(decision)
        except ValueError as error:
            raise gr.Error(f"decision: expected a JSON object ({error})") from error
        try:
            event = actions.keep(self.annotations, Query(author=who(request, author)), place, values, event_id)
        except MisError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return event.model_dump_json(exclude={"subject", "other"})

    def _newest(self, author: str) -> Updates:
        runs = self.annotations.runs()
        if not runs:
            return gr.Dropdown(choices=[], value=None), *_skips(len(FILTERS)), *self._nothing()
        query = Query(run=runs[0], author=author)
        try:
            filters = choices(self.annotations.worklist(query.run), query.chosen)
        except MisError:  # ``show`` puts it into the error bar
            filters = _skips(len(FILTERS))
        shown = updates(actions.show(self.annotations, query))
        return gr.Dropdown(choices=runs, value=query.run), *filters, *shown

    def _nothing(self) -> Updates:
        return view.no_runs(str(self.annotations.root)), "", "", gr.skip()


def query_of(values: tuple[Any, ...], request: gr.Request) -> Query:
    """The query of what is chosen, in the order of ``FilterPart``."""
    run, *chosen, blind, author = values
    filters: dict[str, Any] = {name: value or ANY for name, value in zip(FILTERS, chosen, strict=True)}
    filters["whose"] = Whose(filters["whose"]) if filters["whose"] in list(Whose) else Whose.OPEN
    filters["order"] = Order(filters["order"]) if filters["order"] in list(Order) else Order.WORST
    return Query(run or "", Filter(**filters), bool(blind), who(request, author))


def updates(shown: View) -> Updates:
    """Item, form, error bar and address, in the order of the bindings."""
    parts = (shown.item, shown.form, view.errors(shown.errors), shown.address)
    return tuple(gr.skip() if part is None else part for part in parts)


def known(worklist: Worklist, chosen: Filter) -> tuple[Filter, list[str]]:
    """The filters of an address without what the run does not have, and a message on each such value."""
    there = {name: [value for _, value in options if value] for name, options in _choices_of(worklist).items()}
    gone = {name: str(value) for name in FILTERS if (value := getattr(chosen, name)) and value not in there[name]}
    words = {"beside": "variant", "beside_outcome": "outcome"}
    where = f"in {worklist.run}"
    messages = [
        f"{not_there(words.get(name, name), value, there[name], where)}, and this filter is left out"
        for name, value in gone.items()
    ]
    return chosen.model_copy(update=dict.fromkeys(gone, ANY)), messages


def choices(worklist: Worklist, chosen: Filter) -> Updates:
    """The filters' choices for a run, with what is chosen."""
    made = []
    for name, options in _choices_of(worklist).items():
        value = str(getattr(chosen, name))
        is_there = any(value == one for _, one in options)
        made.append(gr.Dropdown(choices=options, value=value if is_there else options[0][1]))
    return tuple(made)


def _choices_of(worklist: Worklist) -> dict[str, Options]:
    """What each filter can be set to for a run, in the order of ``FILTERS``."""
    outcomes = [("Any", ANY), *((view.OUTCOME_LABELS[one], str(one)) for one in worklist.outcomes)]
    signals = {signal: label for signal, (_, label) in SIGNALS.items()}
    return {
        "variant": [("Any", ANY), *_plain(worklist.variants)],
        "beside": [("Nothing", ANY), *_plain(worklist.variants)],
        "split": [("All", ANY), *_plain(worklist.splits)],
        "category": [("All", ANY), *_plain(worklist.categories)],
        "judge": [("Any", ANY), *_plain(worklist.judges)],
        "outcome": outcomes,
        "beside_outcome": outcomes,
        "signal": [("Any", ANY), *_options(signals)],
        "whose": _options(view.WHOSE),
        "order": _options(view.ORDERS),
    }


def _options(labels: Mapping[Any, str]) -> Options:
    return [(label, str(value)) for value, label in labels.items()]


def _plain(names: Sequence[str]) -> Options:
    return [(name, name) for name in names]


def _skips(count: int) -> Updates:
    return (gr.skip(),) * count


def _detail(event: gr.EventData) -> dict[str, Any]:
    """What the page sent with an event.

    Raises:
        DataError: it is not an object.
    """
    if not isinstance(event._data, dict):
        raise DataError("the page sent an event of another form; reload it")
    return event._data
