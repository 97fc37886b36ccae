"""Moving about in the page: links open tabs with their filters set, and the address bar follows what is shown.

Tabs do not know each other. A tab draws ``<a href="?tab=..." data-link>``; the script follows it without a reload by pressing ``GO``; the link is
read here once and handed to the handlers that tabs have registered with ``follow``. In the other direction a tab writes its place,
``Link.query()``, into ``place``.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from mis_lib.errors import DataError
from workbench import html
from workbench.links import Link, Tab

GO = "mis-go"
READ_ADDRESS = "(_, ...values) => [window.location.search, ...values]"
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
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

        It is not called for links to other tabs: their filters stay as they are. A handler with a parameter ``request`` is told who asks.
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
        """Have ``handler(link, *inputs)`` draw a tab whenever it is opened: by a link, with the page, or by choosing it.

        Whoever comes back to a tab finds its last place in the address; a tab that shows what the address says needs to keep nothing else.
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
        """Have ``event`` call ``handler(link, *inputs)`` with the link of the address, or that of the tab as it opens at first."""
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
    except DataError:  # told already, when the page was opened
        return Link(tab=tab)
    return link if link.tab is tab else Link(tab=tab)


def _only_for(tab: Tab, handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    more = "request" in inspect.signature(handler).parameters

    def handle(request: gr.Request, link: Link, *values: Any) -> Any:
        if link.tab is tab:
            return handler(link, *values, **({"request": request} if more else {}))
        return gr.skip() if outputs == 1 else (gr.skip(),) * outputs

    return handle
