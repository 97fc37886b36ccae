"""What the Compare tab's bindings call: they unpack events and requests, and turn views into Gradio updates.

Bound methods rather than partials, because Gradio reads the type hints of a method to hand it its event and request.
"""

import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

import gradio as gr

from mis_lib.errors import DataError, MisError
from mis_lib.models.shipped import SIDE_BY_SIDE
from workbench import comparison_json, html
from workbench.background import Phase
from workbench.compare import actions
from workbench.compare import view as render_answers
from workbench.compare.actions import RETRY, PromptView
from workbench.compare.state import Comparison, Prompt
from workbench.host import Host
from workbench.links import Link, Tab, not_there, resolve_training
from workbench.trained import adapter_of

DEFAULT_VARIANTS = ("mini", "mirage")
ANY = ""  # value of "all" in the filters
SPLITS = {"easy": "Easy (overt)", "hard": "Hard (combined)", "real": "Real (new style)", "everyday": "Everyday"}
READY = "Pick an example or add images, then press Compare."
Updates = tuple[Any, ...]


class CompareHandlers:
    """The handlers of one app; ``host`` is what all sessions share."""

    def __init__(self, host: Host) -> None:
        self.host = host

    # While model and examples are being made

    def refresh_model(self, ticked: list[str]) -> Updates:
        """Header, variants, error bar, and whether to look again in a second."""
        status = self.host.model.status
        failed = [f"the model could not be loaded: {status.message}", RETRY] if status.phase is Phase.FAILED else []
        told = failed or (self.host.strange if status.phase is Phase.READY else [])
        return (
            html.header(status, self.host.title),
            self.variant_choices(ticked) if status.phase is Phase.READY else gr.skip(),
            html.error_bar(told) if told else gr.skip(),
            gr.Timer(active=status.phase in (Phase.WAITING, Phase.WORKING)),
        )

    def refresh_examples(self) -> Updates:
        """The filters' choices, and whether to look again in a second."""
        catalogue = self.host.data.value
        waiting = self.host.data.status.phase in (Phase.WAITING, Phase.WORKING)
        categories = gr.Dropdown(choices=category_choices(catalogue.categories)) if catalogue else gr.skip()
        splits = gr.Dropdown(choices=split_choices(catalogue.splits)) if catalogue else gr.skip()
        return categories, splits, gr.Timer(active=waiting)

    def variant_choices(self, ticked: list[str]) -> dict[str, Any]:
        """The loaded model's variants; what is ticked stays so where it exists, else the usual two are."""
        names = list(self.host.known_variants)
        kept = [name for name in ticked if name in names]
        if kept and kept == ticked:
            return gr.update(choices=names)  # no value: a tick set meanwhile must not be taken back
        return gr.update(choices=names, value=kept or preselected(names, self.host.served))

    def watch_again(self) -> gr.Timer:
        """Follow a new try to load the model."""
        return gr.Timer(active=self.host.model.status.phase is not Phase.READY)

    # Examples

    def list_examples(self, category: str, split: str, words: str) -> str:
        """The start of the filtered example list."""
        return actions.list_examples(self.host, category, split, words)

    def more_examples(self, category: str, split: str, words: str, event: gr.EventData) -> str:
        """More of the same list."""
        return actions.list_examples(self.host, category, split, words, limit=min(int(event.limit), 10_000))

    def load(self, prompt: Prompt, event: gr.EventData) -> Updates:
        """Load the example, or twin, whose button was pressed."""
        return prompt_updates(actions.load_example(self.host, prompt, str(event.id)))

    def load_random(self, prompt: Prompt, category: str, split: str, words: str) -> Updates:
        """Load any example that matches the filters."""
        return prompt_updates(actions.load_random(self.host, prompt, category, split, words))

    # Addresses

    def followed(self, link: Link, prompt: Prompt, ticked: list[str]) -> Updates:
        """Show what an address names (example, variants, a training run's adapter); the new one says also what it left alone."""
        problems: list[str] = []
        variants: Any = gr.skip()
        view = None
        try:
            if link.run:
                adapter = adapter_of(resolve_training(self.host.runs, link.run))
                self.host.add_variant(link.run.replace("/", "-"), adapter)
            names = list(self.host.known_variants)
            unknown = [name for name in link.variants if name not in names]
            if unknown:
                raise DataError(not_there("variant", unknown[0], names))
            if link.variants:
                ticked = list(link.variants)[:SIDE_BY_SIDE]
                variants = gr.update(choices=names, value=ticked)
        except MisError as error:
            problems.append(str(error))
        if link.item:
            for _ in self.host.data.wait(threading.Event()):
                pass
            view = actions.load_example(self.host, prompt, link.item)
        header = html.header(self.host.model.status, self.host.title) if link.run else gr.skip()
        place = self.place(view.prompt if view else prompt, ticked)
        if link.run or problems or (view and view.errors) or place == link.query():
            place = gr.skip()
        if view is None:
            errors = html.error_bar(problems) if problems else gr.skip()
            return gr.skip(), gr.skip(), gr.skip(), errors, variants, header, place
        errors = f"{html.error_bar(problems)}{view.errors}" if problems else view.errors
        return *prompt_updates(view)[:3], errors, variants, header, place

    def place(self, prompt: Prompt, variants: list[str]) -> str:
        """The address of what is shown; the usual variants go without saying."""
        usual = preselected(list(self.host.known_variants), self.host.served)
        named = () if variants == usual else tuple(variants)
        sample = self.host.data.value.example(prompt) if self.host.data.value else None
        return Link(tab=Tab.COMPARE, item=sample.id if sample else "", variants=named).query()

    # Image strip

    def add_images(self, files: list[str] | None, prompt: Prompt) -> Updates:
        """Append uploaded files, and empty the upload button for the next ones."""
        return *prompt_updates(actions.add_images(self.host, prompt, files or [])), None

    def move(self, prompt: Prompt, event: gr.EventData) -> Updates:
        """Move an image to another place."""
        return prompt_updates(actions.show_prompt(self.host, prompt.move(int(event.index), int(event.place))))

    def remove(self, prompt: Prompt, event: gr.EventData) -> Updates:
        """Take an image out."""
        return prompt_updates(actions.show_prompt(self.host, prompt.remove(int(event.index))))

    def wipe(self) -> Updates:
        """Take all images out; the question stays."""
        return prompt_updates(actions.show_prompt(self.host, Prompt()))

    # Comparison

    def begin(self, request: gr.Request) -> Updates:
        """Before a comparison gets its turn: it can leave the queue, and not be started twice."""
        if session_of(request) in self.host.stops:
            return gr.skip(), *button_updates(running=True)
        self.host.left.discard(session_of(request))
        return html.status_line("Waiting for the model …", busy=True), *button_updates(queued=True)

    def compare(
        self,
        prompt: Prompt,
        question: str,
        variants: list[str],
        max_new_tokens: float,
        temperature: float,
        seed: float,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Stream the answers; parts of the screen that a view leaves alone are skipped."""
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        buttons = button_updates(running=True)
        for view in actions.compare(self.host, prompt, question, variants, settings, session=session_of(request)):
            results = gr.skip() if view.results is None else view.results
            if view.pictures is not None:
                results = gr.update(value=view.results, pictures=view.pictures)
            comparison = gr.skip() if view.comparison is None else view.comparison
            yield view.status, view.errors, results, comparison, *buttons
            buttons = (gr.skip(),) * len(buttons)

    def end(self) -> Updates:
        """After a comparison, however it ended, the next one can be started."""
        return button_updates()

    def not_taken(self, request: gr.Request) -> Updates:
        """The comparison was not taken up, or broke off: told in the bar, where a passing notice would be missed."""
        if session_of(request) in self.host.left:  # what is cancelled counts as failed
            return gr.skip(), gr.skip(), *button_updates()
        told = "the comparison did not run to its end: too many people are waiting for the model, or something went wrong; try again in a moment"
        return html.error_bar([told]), html.status_line("Nothing is running."), *button_updates()

    def stop(self, request: gr.Request) -> str | dict[str, Any]:
        """Stop this session's running comparison."""
        return actions.stop(self.host, session_of(request)) or gr.skip()

    def leave(self, request: gr.Request) -> Updates:
        """Leave the queue, by a new value of what cancels the comparison; one that has just got its turn is stopped instead."""
        if actions.leave(self.host, session_of(request)):
            return html.status_line(actions.UNSTARTED), str(time.monotonic_ns())
        return gr.skip(), gr.skip()

    def closed(self, request: gr.Request) -> None:
        """The browser tab was closed: nothing is generated for nobody."""
        actions.stop(self.host, session_of(request))
        self.host.left.discard(session_of(request))

    def clear(self) -> Updates:
        """Back to an empty tab."""
        view = actions.show_prompt(self.host, Prompt(), question="")
        results = gr.update(value=render_answers.empty_results(), pictures="")
        return *prompt_updates(view), results, None, html.status_line(READY)

    def next_seed(self, seed: float | None) -> int:
        """The seed of the next draw."""
        return int(seed or 0) + 1

    def export(self, comparison: Comparison | None) -> tuple[str, str]:
        """The comparison as JSON text for the browser to save, and the error bar."""
        try:
            return comparison_json.export(comparison), ""
        except DataError as error:
            return "", html.error_bar([str(error)])


def prompt_updates(view: PromptView) -> Updates:
    """Prompt, strip, question and error bar, in the order of the bindings."""
    return view.prompt, view.strip, gr.skip() if view.question is None else view.question, view.errors


def button_updates(*, queued: bool = False, running: bool = False) -> Updates:
    """Compare, leave-the-queue, stop (one of the three is there at a time), regenerate and clear (off while running)."""
    idle = not queued and not running
    one_of_three = gr.Button(visible=idle), gr.Button(visible=queued), gr.Button(visible=running)
    return *one_of_three, gr.Button(interactive=idle), gr.Button(interactive=idle)


def preselected(names: list[str], served: Collection[str] = ()) -> list[str]:
    """The usual two variants where both exist, else the first two, which are served ones where a server was named."""
    usual = [name for name in DEFAULT_VARIANTS if name in names and not served]
    return usual if len(usual) == len(DEFAULT_VARIANTS) else names[:2]


def category_choices(categories: list[str]) -> list[tuple[str, str]]:
    """Labels and values of the category filter."""
    return [("All categories", ANY), *((name, name) for name in categories)]


def split_choices(splits: list[str]) -> list[tuple[str, str]]:
    """Labels and values of the split filter."""
    return [("All splits", ANY), *((SPLITS.get(name, name), name) for name in splits)]


def session_of(request: gr.Request) -> str:
    """The session's key; calls without one (plain HTTP) share a place of their own."""
    return request.session_hash or "no session"
