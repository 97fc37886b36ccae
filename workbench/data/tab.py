"""The Data tab: data sets with their images and twins, their preflight, and one item made live through the stages."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from mis_lib.errors import MisError
from mis_lib.results.tables import csv_text
from workbench import html
from workbench.background import Phase
from workbench.components import QUIET, REFRESH, SAVE_FILE, actions_js, error_block, file_text, html_block
from workbench.data import live_item, view
from workbench.data.datasets import BENIGN, HARMFUL, DataSet, Shelf
from workbench.data.live_item import EDITABLE, LiveItem
from workbench.host import Host
from workbench.html import macros
from workbench.links import Link, Navigation, PromptPort, Tab, not_there
from workbench.prompt import Prompt

Update = dict[Any, Any]
PROBLEMS = (MisError, OSError)
ITEMS, CHECK, CONSTRUCT = "items", "check", "construct"
CHECK_NONE = "Check this data set"  # on the button before any is chosen


class Choice(NamedTuple):
    """What is chosen, in the order of ``Parts.choosers``."""

    data: str = ""
    split: str = ""
    category: str = ""
    truth: str = ""
    words: str = ""
    twins: bool = True

    def link(self, page: int = 0) -> Link:
        """The place of this choice; pages are counted from 1 for people."""
        return Link(
            tab=Tab.DATA,
            data=self.data,
            view=f"{ITEMS}-{self.truth}" if self.truth else "",
            split=self.split,
            category=self.category,
            words=self.words,
            single="" if self.twins else "yes",
            sheet=str(page + 1) if page else "",
        )


class Checked(NamedTuple):
    """What the report on the page is about: the data set's name, and the findings as a file for the browser to save."""

    name: str = ""
    file: str = ""


class DataHandlers:
    """The handlers of one app's Data tab."""

    def __init__(self, host: Host, parts: "Parts") -> None:
        self.host, self.parts, self.shelf = host, parts, Shelf(host)

    def opened(self, link: Link) -> Update:
        """Show what an address says: a data set, filters, perhaps one item."""
        truth = link.view.partition("-")[2]
        words = link.item or link.words
        choice = Choice(link.data, link.split, link.category, truth, words, not link.single)
        return self._drawn(choice, page=int(link.sheet or 1) - 1, by_link=True)

    def waited(self, link: Link, *values: Any) -> Update:
        """Look again for the examples; show what the address says, unless a person has begun to search."""
        return self.chosen(*values) if Choice(*values).words else self.opened(link)

    def chosen(self, *values: Any) -> Update:
        """Show what is chosen on the screen, from the first page on."""
        data, split, category, truth, words, twins = (value or "" for value in values)
        return self._drawn(Choice(data, split, category, truth, words, bool(twins)))

    def searched(self, filled: str | None, *values: Any) -> Update:
        """Show what is searched for; words that a link has filled in are shown already, on the page that it names."""
        if Choice(*values).words == filled:
            return {self.parts.filled: None}
        return self.chosen(*values) | {self.parts.filled: None}

    def turn(
        self, data: str | None, split: str, category: str, truth: str, words: str, twins: bool, event: gr.EventData
    ) -> Update:
        """Another page of the same list."""
        choice = Choice(data or "", split or "", category or "", truth or "", words or "", twins)
        return self._drawn(choice, page=int(event.page))

    def send(self, name: str | None, event: gr.EventData) -> Update:
        """Put an item of a data set into Compare and open it."""
        try:
            prompt, sample = self._data(name or "").prompt(str(event.id))
        except PROBLEMS as error:
            return {self.parts.errors: html.error_bar([str(error)])}
        return self._sent(prompt, sample.question)

    def check(self, name: str | None) -> Update:
        """Preflight of the data set that is chosen; its findings are kept, so that the download is what was shown."""
        parts = self.parts
        try:
            name = self._data(name or "").name
            report, frame = view.report(name, self.shelf.check(name))
        except PROBLEMS as error:
            return {parts.report: "", parts.checked: Checked(), parts.errors: html.error_bar([str(error)])}
        file = file_text(f"findings-{name}.csv", "text/csv", csv_text(frame, lineterminator="\r\n"))
        return {parts.report: report, parts.checked: Checked(name, file), parts.errors: ""}

    def renamed(self, name: str | None, checked: Checked) -> Update:
        """The name of the data set on the button, and no report of another one under it."""
        parts = self.parts
        update: Update = {parts.check: gr.update(value=f"Check {name}" if name else CHECK_NONE)}
        return update if name == checked.name else update | {parts.report: "", parts.checked: Checked()}

    # One item through the stages

    def begin(self, old: LiveItem | None, hazard: str | None) -> Update:
        """A new item from a hazard."""
        known = live_item.seeds()
        if hazard not in known:
            return {self.parts.errors: html.error_bar(["choose a hazard of the list to begin with"])}
        try:
            item = live_item.begin(known[hazard])
        except OSError as error:
            return {self.parts.errors: html.error_bar([str(error)])}
        live_item.discard(old)
        return self._live(item)

    def advance(self, item: LiveItem | None, *texts: str) -> Update:
        """The next stage, on what the fields hold."""
        if item is None:
            return {self.parts.errors: html.error_bar(["there is no item yet; choose a hazard and press Begin"])}
        try:
            edits: dict[str, str] = dict(zip(EDITABLE, (text or "" for text in texts), strict=True))
            return self._live(live_item.advance(item, edits))
        except PROBLEMS as error:
            return {self.parts.errors: html.error_bar([str(error)])}

    def send_live(self, item: LiveItem | None) -> Update:
        """Put the item in the making into Compare and open it."""
        try:
            if item is None:
                return {self.parts.errors: html.error_bar(["there is no item yet; choose a hazard and press Begin"])}
            return self._sent(*live_item.prompt_of(item))
        except PROBLEMS as error:
            return {self.parts.errors: html.error_bar([str(error)])}

    def _live(self, item: LiveItem) -> Update:
        parts, draft = self.parts, item.draft
        texts = {
            field: "; ".join(value) if isinstance(value := getattr(draft, name), tuple) else value
            for name, field in zip(EDITABLE, parts.edits, strict=True)
        } if draft else dict.fromkeys(parts.edits, "")  # fmt: skip
        return {parts.item: item, parts.stages: view.live(item), parts.errors: "", **texts}

    def _sent(self, prompt: Prompt, question: str) -> Update:
        """Compare with a prompt in it, opened."""
        filled = self.parts.port.fill(prompt, question)
        return {**filled, self.parts.tabs: gr.update(selected=Tab.COMPARE.value), self.parts.errors: ""}

    def _drawn(self, choice: Choice, *, page: int = 0, by_link: bool = False) -> Update:
        """The screen for a choice; only a link fills in the words, since otherwise a person may be typing on."""
        parts = self.parts
        status = self.host.data.status
        if status.phase in (Phase.WAITING, Phase.WORKING) and choice.data not in self.shelf.places():
            return {parts.items: view.waiting(status), parts.timer: gr.Timer(active=True)}
        try:
            data = self._data(choice.data)
        except PROBLEMS as error:
            return {parts.errors: html.error_bar([str(error)]), parts.timer: gr.Timer(active=False)}
        choice, problems = _known(choice._replace(data=data.name), data)
        told = problems if by_link else []  # with one the address stays as it is, so that a reload says it again
        found = data.find(split=choice.split, category=choice.category, truth=choice.truth, words=choice.words)
        return {
            parts.data: gr.update(choices=list(self.shelf.places()), value=data.name),
            parts.split: gr.update(choices=[("All", ""), *data.splits], value=choice.split),
            parts.category: gr.update(choices=[("All", ""), *data.categories], value=choice.category),
            parts.truth: choice.truth,
            **({parts.words: choice.words, parts.filled: choice.words} if by_link else {}),
            parts.twins: choice.twins,
            parts.items: view.items(data, found, page, twins=choice.twins),
            parts.errors: html.error_bar(told),
            parts.place: gr.skip() if told else choice.link(page).query(),
            parts.timer: gr.Timer(active=False),
        }

    def _data(self, name: str) -> DataSet:
        """The data set of that name, or the first one."""
        return self.shelf.read(name or next(iter(self.shelf.places()), ""))


def _known(choice: Choice, data: DataSet) -> tuple[Choice, list[str]]:
    """The choice without what the data set does not have, and a line on each such value."""
    known = {"split": data.splits, "category": data.categories, "truth": [HARMFUL, BENIGN]}
    gone = {name: value for name in known if (value := getattr(choice, name)) and value not in known[name]}
    told = [
        f"{not_there(name, value, known[name], f'in {data.name}')}, and all are shown" for name, value in gone.items()
    ]
    return choice._replace(**dict.fromkeys(gone, "")), told


BUTTONS = actions_js("turn", "send", "csv") + REFRESH
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
    port: PromptPort

    @property
    def choosers(self) -> list[Any]:
        """What is filtered by, in the order of ``Choice``."""
        return [self.data, self.split, self.category, self.truth, self.words, self.twins]

    @property
    def everything(self) -> list[Any]:
        """What the handlers may write."""
        single = [value for name, value in vars(self).items() if name not in ("edits", "port")]
        return [*single, *self.edits, *self.port.parts]


class Buttons(NamedTuple):
    """What drives the item in the making."""

    hazard: gr.Dropdown
    begin: gr.Button
    advance: gr.Button
    send: gr.Button


def build(host: Host, navigation: Navigation, tab: gr.Tab, tabs: gr.Tabs, port: PromptPort) -> None:
    """Lay out the tab, which is being built, and bind it; items are sent to Compare through ``port``."""
    errors = error_block("mis-data-errors")
    with gr.Tabs(elem_id="mis-data-views"):
        with gr.Tab("Browse", id=ITEMS):
            made = _browse()
        with gr.Tab("Check", id=CHECK):
            html_block(macros("data/parts.html").check_note(), "mis-data-check-note")
            check = gr.Button(CHECK_NONE, variant="primary", scale=0, min_width=190, elem_id="mis-data-check")
            report = html_block("", "mis-data-report", js_on_load=BUTTONS)
        with gr.Tab("Construct an item", id=CONSTRUCT):
            live, buttons = _construct()
    payload = gr.Textbox(visible=False)
    parts = Parts(
        errors=errors,
        check=check,
        checked=gr.State(Checked()),
        filled=gr.State(None),
        report=report,
        place=navigation.place,
        tabs=tabs,
        port=port,
        timer=gr.Timer(1.0, active=False),
        **made,
        **live,
    )
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
        fn=None, inputs=payload, js=SAVE_FILE
    )
    gr.on(buttons.begin.click, handlers.begin, inputs=[parts.item, buttons.hazard], outputs=everything, **QUIET)
    gr.on(buttons.advance.click, handlers.advance, inputs=[parts.item, *parts.edits], outputs=everything, **QUIET)
    made_here = gr.on(buttons.send.click, handlers.send_live, inputs=parts.item, outputs=everything, **QUIET)
    port.keep_place([sent, made_here])


def _browse() -> dict[str, Any]:
    with gr.Row(elem_classes=["mis-filters"]):
        data = gr.Dropdown([], label="Data set", scale=3, min_width=150, elem_id="mis-data-set")
        split = gr.Dropdown([("All", "")], value="", label="Split", scale=2, min_width=100, elem_id="mis-data-split")
        category = gr.Dropdown([("All", "")], value="", label="Category", scale=3, min_width=140)
        truth = gr.Dropdown(
            [("All", ""), ("Harmful", HARMFUL), ("Benign", BENIGN)],
            value="",
            label="Label",
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
    items = html_block("", "mis-data-items", js_on_load=BUTTONS)
    made = {"data": data, "split": split, "category": category, "truth": truth, "words": words}
    return {**made, "twins": twins, "items": items}


def _construct() -> tuple[dict[str, Any], Buttons]:
    with gr.Row(elem_classes=["mis-filters"]):
        hazard = gr.Dropdown(
            list(live_item.seeds()), label="Starting hazard", scale=6, min_width=240, elem_id="mis-data-hazard"
        )
        begin = gr.Button("Begin", scale=0, min_width=90, elem_id="mis-data-begin")
        advance = gr.Button("Next stage", variant="primary", scale=0, min_width=120, elem_id="mis-data-advance")
        send = gr.Button("Send to Compare", scale=0, min_width=180, elem_id="mis-data-send")
    item = gr.State(None, delete_callback=live_item.discard)
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            stages = html_block(view.live(None), "mis-data-stages", js_on_load=BUTTONS)
        with gr.Column(scale=5, min_width=320):
            html_block(
                '<p class="mis-note">Current item. Your edits feed the next stage.</p>',
                "mis-data-edit-note",
            )
            edits = tuple(
                gr.Textbox("", label=LABELS[name], lines=1, max_lines=8, elem_id=f"mis-data-edit-{name}")
                for name in EDITABLE
            )
    return {"item": item, "stages": stages, "edits": edits}, Buttons(hazard, begin, advance, send)
