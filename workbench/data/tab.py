"""The Data tab: data sets with their images and twins, their preflight, and one item made live through the stages."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from workbench import constructing, render_data
from workbench.compare.tab import Ports, keep_place
from workbench.compare_parts import html
from workbench.constructing import EDITABLE
from workbench.data.views import BENIGN, HARMFUL
from workbench.handlers_data import CHECK, CHECK_NONE, CONSTRUCT, ITEMS, Checked, DataHandlers
from workbench.host import Host
from workbench.links import Tab
from workbench.navigation import QUIET, Navigation

BUTTONS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button && ['turn', 'send', 'csv'].includes(button.dataset.action)) trigger(button.dataset.action, {...button.dataset});
});
watch('value', () => window.mis.refresh(element));
"""
SAVE = "(file) => window.mis.saveFile(file)"
LABELS = {
    "request": "Request, with the objects named",
    "question": "Question",
    "objects": "Objects, ';' between them",
    "risk": "Risk",
    "answer": "Answer",
}


@dataclass(frozen=True)
class Parts:
    """Everything on the tab that handlers read or write."""

    errors: gr.HTML
    data: gr.Dropdown
    split: gr.Dropdown
    category: gr.Dropdown
    truth: gr.Dropdown
    words: gr.Textbox
    filled: gr.State
    twins: gr.Checkbox
    items: gr.HTML
    check: gr.Button
    checked: gr.State
    report: gr.HTML
    item: gr.State
    stages: gr.HTML
    edits: tuple[gr.Textbox, ...]
    timer: gr.Timer
    place: gr.Textbox
    tabs: gr.Tabs
    ports: Ports

    @property
    def choosers(self) -> list[Any]:
        """What is filtered by, in the order of ``handlers_data.Choice``."""
        return [self.data, self.split, self.category, self.truth, self.words, self.twins]

    @property
    def everything(self) -> list[Any]:
        """What the handlers may write."""
        single = [value for name, value in vars(self).items() if name not in ("edits", "ports")]
        return [*single, *self.edits, *self.ports]


class Buttons(NamedTuple):
    """What drives the item in the making."""

    hazard: gr.Dropdown
    begin: gr.Button
    advance: gr.Button
    send: gr.Button


def build(host: Host, navigation: Navigation, tab: gr.Tab, tabs: gr.Tabs, ports: Ports) -> None:
    """Lay out the tab, which is being built, and bind it; items are sent to Compare through ``ports``."""
    errors = html("", "mis-data-errors", elem_classes=["mis-errors"])
    with gr.Tabs(elem_id="mis-data-views"):
        with gr.Tab("Browse", id=ITEMS):
            made = _browse()
        with gr.Tab("Check", id=CHECK):
            html('<p class="mis-note">Every row of the data set chosen under Browse, its images and its twins: what would crash or spoil a training.</p>',
                 "mis-data-check-note")  # fmt: skip
            check = gr.Button(CHECK_NONE, variant="primary", scale=0, min_width=190, elem_id="mis-data-check")
            report = html("", "mis-data-report", js_on_load=BUTTONS)
        with gr.Tab("Construct an item", id=CONSTRUCT):
            live, buttons = _construct()
    payload = gr.Textbox(visible=False)
    parts = Parts(
        errors=errors, check=check, checked=gr.State(Checked()), filled=gr.State(None), report=report, place=navigation.place, tabs=tabs, ports=ports, timer=gr.Timer(1.0, active=False), **made, **live
    )  # fmt: skip
    handlers = DataHandlers(host, parts)
    everything = parts.everything
    navigation.open_with(tab, Tab.DATA, handlers.opened, outputs=everything)
    gr.on(
        [chooser.input for chooser in parts.choosers if chooser is not parts.words],
        handlers.chosen,
        inputs=parts.choosers,
        outputs=everything,
        trigger_mode="always_last",
        **QUIET,
    )

    # Not input, which a text that is pasted or dictated does not cause.
    gr.on(
        parts.words.change,
        handlers.searched,
        inputs=[parts.filled, *parts.choosers],
        outputs=everything,
        trigger_mode="always_last",
        **QUIET,
    )
    navigation.on_address(parts.timer.tick, Tab.DATA, handlers.waited, inputs=parts.choosers, outputs=everything)
    gr.on(
        parts.data.change,
        handlers.renamed,
        inputs=[parts.data, parts.checked],
        outputs=[check, report, parts.checked],
        **QUIET,
    )

    # Events of HTML pieces are bound one by one: gr.on knows only events that every component of the kind has.
    parts.items.turn(handlers.turn, inputs=parts.choosers, outputs=everything, **QUIET)
    sent = parts.items.send(handlers.send, inputs=parts.data, outputs=everything, **QUIET)
    shown_on = {**QUIET, "show_progress": "minimal", "show_progress_on": report}
    gr.on(check.click, handlers.check, inputs=parts.data, outputs=[report, parts.checked, errors], **shown_on)
    report.csv(lambda checked: checked.file, inputs=parts.checked, outputs=payload, **QUIET).then(
        fn=None, inputs=payload, js=SAVE
    )
    gr.on(buttons.begin.click, handlers.begin, inputs=[parts.item, buttons.hazard], outputs=everything, **QUIET)
    gr.on(buttons.advance.click, handlers.advance, inputs=[parts.item, *parts.edits], outputs=everything, **QUIET)
    made_here = gr.on(buttons.send.click, handlers.send_live, inputs=parts.item, outputs=everything, **QUIET)
    keep_place(host, navigation, ports, [sent, made_here])


def _browse() -> dict[str, Any]:
    with gr.Row(elem_classes=["mis-filters"]):
        data = gr.Dropdown([], label="Data set", scale=3, min_width=150, elem_id="mis-data-set")
        split = gr.Dropdown([("All", "")], value="", label="Split", scale=2, min_width=100, elem_id="mis-data-split")
        category = gr.Dropdown([("All", "")], value="", label="Category", scale=3, min_width=140)
        truth = gr.Dropdown(
            [("All", ""), ("Harmful", HARMFUL), ("Benign", BENIGN)],
            value="",
            label="Truth",
            scale=2,
            min_width=130,
        )
        words = gr.Textbox(
            label="Search",
            placeholder="object, word or id",
            max_lines=1,
            scale=3,
            min_width=130,
            elem_id="mis-data-words",
        )
        twins = gr.Checkbox(True, label="Twins side by side", scale=3, min_width=190, elem_id="mis-data-twins")
    items = html("", "mis-data-items", js_on_load=BUTTONS)
    made = {"data": data, "split": split, "category": category, "truth": truth, "words": words}
    return {**made, "twins": twins, "items": items}


def _construct() -> tuple[dict[str, Any], Buttons]:
    with gr.Row(elem_classes=["mis-filters"]):
        hazard = gr.Dropdown(
            list(constructing.seeds()), label="Hazard to begin with", scale=6, min_width=240, elem_id="mis-data-hazard"
        )
        begin = gr.Button("Begin", scale=0, min_width=90, elem_id="mis-data-begin")
        advance = gr.Button("Next stage", variant="primary", scale=0, min_width=120, elem_id="mis-data-advance")
        send = gr.Button("Send to Compare", scale=0, min_width=180, elem_id="mis-data-send")
    item = gr.State(None, delete_callback=constructing.discard)
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            stages = html(render_data.live(None), "mis-data-stages", js_on_load=BUTTONS)
        with gr.Column(scale=5, min_width=320):
            html(
                '<p class="mis-note">As it stands; what you change here is what the next stage works on.</p>',
                "mis-data-edit-note",
            )
            edits = tuple(
                gr.Textbox("", label=LABELS[name], lines=1, max_lines=8, elem_id=f"mis-data-edit-{name}")
                for name in EDITABLE
            )
    return {"item": item, "stages": stages, "edits": edits}, Buttons(hazard, begin, advance, send)
