"""What the Data tab's bindings call: browse, check, construct, send to Compare; every failure is a line of the error bar."""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from mis_lib.errors import MisError
from workbench import constructing, render_data
from workbench import html as render
from workbench.background import Phase
from workbench.compare import actions
from workbench.compare.state import Prompt
from workbench.constructing import LiveItem
from workbench.data.views import BENIGN, HARMFUL, DataSet, Shelf
from workbench.host import Host
from workbench.links import Link, Tab, not_there
from workbench.tables import csv_text

if TYPE_CHECKING:
    from workbench.data.tab import Parts

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
        """Look again for the examples; what the address says is shown, unless a person has begun to search meanwhile."""
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
            return {self.parts.errors: render.error_bar([str(error)])}
        return self._sent(prompt, sample.question)

    def check(self, name: str | None) -> Update:
        """Preflight of the data set that is chosen; its findings are kept, so that what is downloaded is what was shown."""
        parts = self.parts
        try:
            name = self._data(name or "").name
            html, frame = render_data.report(name, self.shelf.check(name))
        except PROBLEMS as error:
            return {parts.report: "", parts.checked: Checked(), parts.errors: render.error_bar([str(error)])}
        file = {"name": f"findings-{name}.csv", "type": "text/csv", "text": csv_text(frame)}
        return {parts.report: html, parts.checked: Checked(name, json.dumps(file)), parts.errors: ""}

    def renamed(self, name: str | None, checked: Checked) -> Update:
        """The name of the data set on the button, and no report of another one under it."""
        parts = self.parts
        update: Update = {parts.check: gr.update(value=f"Check {name}" if name else CHECK_NONE)}
        return update if name == checked.name else update | {parts.report: "", parts.checked: Checked()}

    # One item through the stages

    def begin(self, old: LiveItem | None, hazard: str | None) -> Update:
        """A new item from a hazard."""
        known = constructing.seeds()
        if hazard not in known:
            return {self.parts.errors: render.error_bar(["choose a hazard of the list to begin with"])}
        try:
            item = constructing.begin(known[hazard])
        except OSError as error:
            return {self.parts.errors: render.error_bar([str(error)])}
        constructing.discard(old)
        return self._live(item)

    def advance(self, item: LiveItem | None, *texts: str) -> Update:
        """The next stage, on what the fields hold."""
        if item is None:
            return {self.parts.errors: render.error_bar(["there is no item yet; choose a hazard and press Begin"])}
        try:
            edits: dict[str, str] = dict(zip(constructing.EDITABLE, (text or "" for text in texts), strict=True))
            return self._live(constructing.advance(item, edits))
        except PROBLEMS as error:
            return {self.parts.errors: render.error_bar([str(error)])}

    def send_live(self, item: LiveItem | None) -> Update:
        """Put the item in the making into Compare and open it."""
        try:
            if item is None:
                return {self.parts.errors: render.error_bar(["there is no item yet; choose a hazard and press Begin"])}
            return self._sent(*constructing.prompt_of(item))
        except PROBLEMS as error:
            return {self.parts.errors: render.error_bar([str(error)])}

    def _live(self, item: LiveItem) -> Update:
        parts, draft = self.parts, item.draft
        texts = {
            field: "; ".join(value) if isinstance(value := getattr(draft, name), tuple) else value
            for name, field in zip(constructing.EDITABLE, parts.edits, strict=True)
        } if draft else dict.fromkeys(parts.edits, "")  # fmt: skip
        return {parts.item: item, parts.stages: render_data.live(item), parts.errors: "", **texts}

    def _sent(self, prompt: Prompt, question: str) -> Update:
        """Compare with a prompt in it, opened."""
        ports = self.parts.ports
        view = actions.show_prompt(self.host, prompt, question=question)
        filled = {ports.prompt: view.prompt, ports.strip: view.strip, ports.question: question, ports.errors: ""}
        return {**filled, self.parts.tabs: gr.update(selected=Tab.COMPARE.value), self.parts.errors: ""}

    def _drawn(self, choice: Choice, *, page: int = 0, by_link: bool = False) -> Update:
        """The screen for a choice; only a link fills in the words, since otherwise a person may be typing on."""
        parts = self.parts
        status = self.host.data.status
        if status.phase in (Phase.WAITING, Phase.WORKING) and choice.data not in self.shelf.places():
            return {parts.items: f'<div class="mis-empty"><b>Preparing the examples …</b><p>{render.progress(status)}</p></div>',
                    parts.timer: gr.Timer(active=True)}  # fmt: skip
        try:
            data = self._data(choice.data)
        except PROBLEMS as error:
            return {parts.errors: render.error_bar([str(error)]), parts.timer: gr.Timer(active=False)}
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
            parts.items: render_data.items(data, found, page, twins=choice.twins),
            parts.errors: render.error_bar(told),
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
