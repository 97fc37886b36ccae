"""Deep links: the place a person is at, as a query string and as a value that every tab understands.

    ?tab=annotate&run=mine/v2&variant=mirage&split=hard&outcome=unsafe&item=hard-17

What stands in an address comes from strangers. So a link holds names only, never a path; each is checked for its form
here, and looked up among what there is by whoever follows it. Keys that are no part of a link (Gradio's own: ``page``,
``deep_link``, and those that begin with ``__``) are passed over; no field may be called as one of them.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from pydantic import ValidationError, ValidationInfo, field_validator

from mis_lib.annotate.worklist import Order, Signal, Whose
from mis_lib.errors import DataError
from mis_lib.results.runs import Run, versions
from mis_lib.results.train_runs import TrainRun, train_versions
from mis_lib.schema import Outcome, Record
from workbench import html
from workbench.components import QUIET
from workbench.prompt import Prompt

LONGEST = 300  # characters of one value
RUN = re.compile(r"(?!\.)[\w.-]+/v[0-9]{1,6}", re.ASCII)


class Tab(StrEnum):
    """The tabs, in their order on the page."""

    COMPARE = "compare"
    ANNOTATE = "annotate"
    RESULTS = "results"
    DATA = "data"
    TRAIN = "train"


class Link(Record):
    """One place of the app. Every field but ``tab`` is a filter or a name, empty where it is not set."""

    tab: Tab = Tab.COMPARE
    run: str = ""  # NAME/vN
    judge: str = ""
    variant: str = ""
    variants: tuple[str, ...] = ()  # in the address: a,b
    split: str = ""
    category: str = ""
    sub_category: str = ""
    outcome: str = ""
    before: str = ""  # outcome of the first of ``variants``: a cell of the flip matrix
    after: str = ""
    beside: str = ""  # variant shown next to it, where ``variants`` does not say
    response: str = ""  # variant whose response to ``item`` is shown, where the filters let several pass
    whose: str = ""  # who has decided on it
    signal: str = ""  # why it is worth a look
    order: str = ""  # which response comes first
    data: str = ""  # name of a data set
    item: str = ""
    words: str = ""
    view: str = ""  # a part of a tab
    sheet: str = ""  # which page of a list, from 2 on
    single: str = ""  # "yes": items without their twins
    runs: tuple[str, ...] = ()  # in the address: a/v1,b/v2
    by: str = ""  # what rates are grouped by
    metric: str = ""
    published: str = ""  # "yes": with published figures

    @field_validator("*", mode="before")
    @classmethod
    def _short_and_printable(cls, value: object) -> object:
        for text in value if isinstance(value, tuple | list) else [value]:
            if not isinstance(text, str) or len(text) > LONGEST or not text.isprintable():
                raise ValueError(f"expected printable text of at most {LONGEST} characters")
        return value

    @field_validator("run", "runs")
    @classmethod
    def _is_a_run(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = value if isinstance(value, tuple) else (value,) if value else ()
        if not all(RUN.fullmatch(name) for name in names):
            raise ValueError("expected NAME/vN, with letters, digits, '.', '_' and '-' in NAME")
        return value

    @field_validator("outcome", "before", "after")
    @classmethod
    def _is_an_outcome(cls, value: str) -> str:
        if value and value not in list(Outcome):
            raise ValueError(f"expected one of {', '.join(Outcome)}")
        return value

    @field_validator("whose", "signal", "order", "sheet", "single", "published")
    @classmethod
    def _is_known(cls, value: str, field: ValidationInfo) -> str:
        enums = {"whose": list(Whose), "signal": list(Signal), "order": list(Order)}
        known = enums.get(field.field_name or "", ["yes"])
        if field.field_name == "sheet":
            fits, known = value.isascii() and value.isdigit() and len(value) < 7, ["a page's number"]
        else:
            fits = value in known
        if value and not fits:
            raise ValueError(f"expected one of {', '.join(known)}")
        return value

    @classmethod
    def parse(cls, query: str) -> "Link":
        """Read a query string, with or without its question mark; of a repeated key the last one counts.

        Raises:
            DataError: a value does not have the form of its key (key, value and expected form named).
        """
        found = {key: value for key, value in _pairs(query) if key in cls.model_fields and value}
        lists = {key: tuple(found[key].split(",")) for key in ("variants", "runs") if key in found}
        try:
            return cls.model_validate({**found, **lists})
        except ValidationError as error:
            first = error.errors()[0]
            key, message = str(first["loc"][0]), first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            raise DataError(
                f"the address has {key}={str(first['input'])!r:.80}: {message}; correct it, or open the app without it"
            ) from error

    def query(self) -> str:
        """The link as a query string that ``parse`` reads back; empty fields are left out."""
        values: Mapping[str, object] = self.model_dump(mode="json", exclude_defaults=True)
        texts = {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in values.items()}
        return f"?{urlencode({'tab': self.tab.value, **texts}, safe='/,')}"


def resolve_run(root: Path, name: str) -> Run:
    """The run with answers that ``NAME/vN`` means among those in ``root``.

    Raises:
        DataError: the name has another form, there is no such run, or a symbolic link leads elsewhere.
    """
    return _resolved(root, name, versions, "run")


def resolve_training(root: Path, name: str) -> TrainRun:
    """The training run that ``NAME/vN`` means among those in ``root``; raises as ``resolve_run``."""
    return _resolved(root, name, train_versions, "training run")


def not_there(what: str, name: str, there: Iterable[str], where: str = "here") -> str:
    """What is said where an address names something that the app does not have, with what there is."""
    return f"the address names the {what} {name!r:.80}; {where} there are {', '.join(there) or 'none'}"


def _resolved(root: Path, name: str, of: Callable[[Path, str], Sequence[Any]], what: str) -> Any:
    if RUN.fullmatch(name):
        parent, _, version = name.partition("/")
        found = next((run for run in of(root, parent) if run.folder.name == version), None)
        if found is not None and found.folder.resolve().is_relative_to(root.resolve()):
            return found
    raise DataError(f"there is no {what} {name!r:.80} in {root.name}/; choose one of those listed")


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.removeprefix("?"), max_num_fields=64, errors="strict")
    except ValueError as error:  # too many fields, or bytes that are no UTF-8
        raise DataError(f"the address cannot be read ({error}); open the app without what follows '?'") from error


# Navigation: links open tabs with their filters set, and the address bar follows what is shown.
#
# Tabs do not know each other. A tab draws ``<a href="?tab=..." data-link>``; the script follows it without a reload by
# pressing ``GO``; the link is read here once and handed to the handlers that tabs have registered with ``follow``. In
# the other direction a tab writes its place, ``Link.query()``, into ``place``.


@dataclass(frozen=True)
class PromptPort:
    """Where another tab puts a prompt. Compare makes it, so that tabs do not import each other."""

    parts: tuple[Component, ...]
    """What ``fill`` writes to."""
    fill: Callable[[Prompt, str], dict[Component, Any]]
    """Updates that show a prompt with its question."""
    keep_place: Callable[[Iterable[Dependency]], None]
    """Lets the address follow after events that have filled the port."""


GO = "mis-go"
READ_ADDRESS = "(_, ...values) => [window.location.search, ...values]"
SHOW_PLACE = "(place) => window.mis.showPlace(place)"


class Navigation:
    """What the page shares about places: made before the tabs, bound after them with ``bind``."""

    def __init__(self) -> None:
        self.link = gr.State(Link())
        self.place = gr.Textbox(visible="hidden", elem_id="mis-place")
        self._address = gr.Textbox(visible=False)
        self._go = gr.Button(visible="hidden", elem_id=GO)
        self._followers: list[tuple[Tab, Callable[..., Any], list[Component], list[Component]]] = []

    def follow(
        self, tab: Tab, handler: Callable[..., Any], *, inputs: Sequence[Component] = (), outputs: Sequence[Component]
    ) -> None:
        """Have ``handler(link, *inputs)`` called when a link to ``tab`` is opened, also with the page itself.

        It is not called for links to other tabs: their filters stay as they are. A handler with a parameter ``request``
        is told who asks.
        """
        self._followers.append((tab, handler, list(inputs), list(outputs)))

    def open_with(
        self,
        made: gr.Tab,
        tab: Tab,
        handler: Callable[..., Any],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> None:
        """Have ``handler(link, *inputs)`` draw a tab whenever it is opened: by a link, with the page, or by a click.

        Whoever comes back to a tab finds its last place in the address; a tab that shows what the address says needs to
        keep nothing else.
        """
        self.follow(tab, handler, inputs=inputs, outputs=outputs)
        self.on_address(made.select, tab, handler, inputs=inputs, outputs=outputs)

    def on_address(
        self,
        event: Callable[..., Any],
        tab: Tab,
        handler: Callable[..., Any],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> None:
        """Have ``event`` call ``handler(link, *inputs)`` with the address's link, or the one the tab opens with."""
        event(
            lambda address, *values: handler(_link_to(tab, address), *values),
            inputs=[self._address, *inputs],
            outputs=list(outputs),
            js=READ_ADDRESS,
            **QUIET,
        )

    def bind(self, page: gr.Blocks, tabs: gr.Tabs, errors: gr.HTML) -> None:
        """Open the tab of the address, and call the followers, one after the other."""
        self.place.change(fn=None, inputs=self.place, js=SHOW_PLACE)
        opened = gr.on(
            [page.load, self._go.click],
            _open,
            inputs=self._address,
            outputs=[self.link, tabs, errors],
            js=READ_ADDRESS,
            **QUIET,
        )
        for tab, handler, inputs, outputs in self._followers:
            opened.then(_only_for(tab, handler, len(outputs)), inputs=[self.link, *inputs], outputs=outputs, **QUIET)


def _open(address: str) -> tuple[Link, Any, str]:
    """The link of an address, its tab, and the error bar; an address that cannot be read opens the app as it is."""
    try:
        link = Link.parse(address)
    except DataError as error:
        return Link(), gr.skip(), html.error_bar([str(error)])
    return link, gr.Tabs(selected=link.tab.value) if "tab=" in address else gr.skip(), ""


def _link_to(tab: Tab, address: str) -> Link:
    """The link of an address if it is one to ``tab``, else the tab as it opens at first."""
    try:
        link = Link.parse(address)
    except DataError:  # reported already, when the page was opened
        return Link(tab=tab)
    return link if link.tab is tab else Link(tab=tab)


def _only_for(tab: Tab, handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    more = "request" in inspect.signature(handler).parameters

    def handle(request: gr.Request, link: Link, *values: Any) -> Any:
        if link.tab is tab:
            return handler(link, *values, **({"request": request} if more else {}))
        return gr.skip() if outputs == 1 else (gr.skip(),) * outputs

    return handle
