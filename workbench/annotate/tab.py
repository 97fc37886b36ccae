"""The Annotate tab: layout first, bindings last; what a binding does is in ``handlers_annotate`` and ``annotate``.

The form is HTML of its own, so that a key press costs no round trip: the script keeps the choices in the page and sends them with
Enter, under an id drawn before the first try. Everything sent tells which response it is about; the server keeps nothing of a session.
"""

import getpass
from typing import Any, NamedTuple

import gradio as gr

from mis_lib.annotate.decisions import CAUSES
from workbench import loop
from workbench.annotate import view
from workbench.compare_parts import html
from workbench.desk import Desk
from workbench.handlers_annotate import AnnotateHandlers
from workbench.host import Host
from workbench.links import Tab
from workbench.navigation import Navigation
from workbench.train.actions import Trainings

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
    """Which responses, in the order of ``handlers_annotate.FILTERS`` between run and blind."""

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
    errors = html("", "mis-annotate-errors", elem_classes=["mis-errors"], js_on_load=ERRORS)
    with gr.Row(elem_id="mis-annotate"):
        with gr.Column(scale=8, min_width=320, elem_id="mis-annotate-left"):
            item = html("", "mis-annotate-item", js_on_load="watch('value', () => window.mis.refresh(element));")
            preview = html("", "mis-annotate-preview")
        with gr.Column(scale=4, min_width=320, elem_id="mis-annotate-right"):
            form = html("", "mis-annotate-form", js_on_load=ACTIONS)
    _loop_part(desk, trainings)
    with gr.Accordion("Agreement between people", open=False, elem_id="mis-agreement") as accordion:
        table = html("", "mis-agreement-table")
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
            config = gr.Dropdown(trainings.configurations(), value=loop.CONFIG, label="Settings file", min_width=190)
            start = gr.Button(
                "Start the re-tune",
                variant="primary",
                interactive=False,
                scale=0,
                min_width=170,
                elem_id="mis-delta-start",
            )
        made, started = html("", "mis-delta-made"), html("", "mis-delta-started")
    folder = gr.Textbox(visible=False)
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def selectable() -> tuple[gr.Dropdown, gr.Dropdown]:
        runs, authors = loop.selectable(desk)
        return gr.Dropdown(choices=[("All runs", ""), *((one, one) for one in runs)]), gr.Dropdown(choices=authors)

    gr.on(accordion.expand, selectable, outputs=[run, people], queue=False, **private)

    def make_delta(*values: Any) -> tuple[str, str, gr.Button]:
        told, found = loop.make(desk, *values)
        return told, found, gr.Button(interactive=bool(found))  # without a delta there is nothing to learn from

    chosen = [name, replay, run, people, causes]
    gr.on(make.click, make_delta, inputs=chosen, outputs=[made, folder, start], **private)
    gr.on(
        start.click,
        lambda *values: loop.start(desk, trainings, *values),
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
