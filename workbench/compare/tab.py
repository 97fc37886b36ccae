"""The Compare tab: its handlers, its layout and its bindings; what a handler asks of the models is in ``actions``.

Uploads go through Gradio's own upload button, hidden; the strip opens it, also for dropped and
pasted files, so that a path that a browser names is never believed.
"""

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gradio as gr
from gradio.events import Dependency

from mis_lib.errors import DataError, MisError
from mis_lib.generate.served import Served
from mis_lib.models.adapters import SIDE_BY_SIDE
from workbench import html
from workbench.background import Phase
from workbench.compare import actions, state
from workbench.compare import view as answer_view
from workbench.compare.actions import RETRY, PromptView
from workbench.compare.state import Comparison, Prompt
from workbench.host import Host
from workbench.links import QUIET, Link, Navigation, Tab, not_there, resolve_training
from workbench.train.actions import adapter_of

# ---------- What the Compare tab's bindings call: they unpack events and requests, and turn views into Gradio updates.
#
# Bound methods rather than partials, because Gradio reads the type hints of a method to hand it its event and request.

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
        results = gr.update(value=answer_view.empty_results(), pictures="")
        return *prompt_updates(view), results, None, html.status_line(READY)

    def next_seed(self, seed: float | None) -> int:
        """The seed of the next draw."""
        return int(seed or 0) + 1

    def export(self, comparison: Comparison | None) -> tuple[str, str]:
        """The comparison as JSON text for the browser to save, and the error bar."""
        try:
            return state.export(comparison), ""
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


# ---------- What the Compare tab consists of, as it is laid out; ``build`` binds what its parts do.
#
# Three pieces are HTML with buttons of their own (strip, example list, answers). Their buttons carry ``data-action`` and reach Python as events of that name.

ACTIONS = """
const actions = ['take', 'move', 'remove', 'wipe', 'more', 'random'];
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button && actions.includes(button.dataset.action)) trigger(button.dataset.action, {...button.dataset});
});
element.addEventListener('mis-move', (event) => trigger('move', event.detail));
watch('value', () => window.mis.refresh(element));
window.mis.refresh(element);
"""
REFRESH = "watch('value', () => window.mis.refresh(element));"


class PromptPart(NamedTuple):
    """What is asked, and of whom."""

    strip: gr.HTML
    upload: gr.UploadButton
    question: gr.Textbox
    variants: gr.CheckboxGroup
    tokens: gr.Slider
    temperature: gr.Slider
    seed: gr.Number


class ExamplesPart(NamedTuple):
    """Where examples are found."""

    category: gr.Dropdown
    split: gr.Dropdown
    words: gr.Textbox
    cards: gr.HTML


class ActionsPart(NamedTuple):
    """The bar that is always in sight; one of start, leave and stop is there at a time."""

    start: gr.Button
    leave: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button
    download: gr.Button
    status: gr.HTML
    errors: gr.HTML


class ResultsPart(NamedTuple):
    """What was answered."""

    results: gr.HTML
    payload: gr.Textbox  # a download on its way to the browser


def html_block(value: str, elem_id: str, **extra: Any) -> gr.HTML:
    """An HTML piece with our own style only."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, **extra)


def prompt_part(names: list[str], served: Mapping[str, Served]) -> PromptPart:
    """Strip, question, variants and settings; ``names``: of the variants, those ``served`` by others among them."""
    strip = html_block(html.strip(Prompt()), "mis-strip", js_on_load=ACTIONS)
    upload = gr.UploadButton("Add images", file_count="multiple", visible="hidden", elem_id="mis-upload")
    question = gr.Textbox(
        label="Question",
        placeholder="For example: How can I use the object in the first image on the one in the second image?",
        lines=2,
        max_lines=6,
        elem_id="mis-question",
    )
    variants = gr.CheckboxGroup(
        names,
        value=preselected(names, served),
        label="Variants to compare",
        info=leaves(served) or None,
        elem_id="mis-variants",
    )
    with gr.Accordion("Generation settings", open=False, elem_id="mis-settings"):
        with gr.Row():
            tokens = gr.Slider(1, 1024, value=256, step=1, label="Max tokens", min_width=150, elem_id="mis-tokens")
            temperature = gr.Slider(
                0, 2, value=0, step=0.1, label="Temperature", min_width=150, elem_id="mis-temperature"
            )
            seed = gr.Number(0, precision=0, label="Seed", min_width=90, elem_id="mis-seed")
        html_block(html.SETTINGS_NOTE, "mis-settings-note")
    return PromptPart(strip, upload, question, variants, tokens, temperature, seed)


def leaves(served: Mapping[str, Served]) -> str:
    """Which variants images and question are sent away for, and where to; empty where none is served."""
    hosts: dict[str, list[str]] = {}
    for name, one in served.items():
        hosts.setdefault(one.host, []).append(name)
    parts = [f"to {host} for {', '.join(names)}" for host, names in hosts.items()]
    return f"Images and question are sent {'; '.join(parts)}." if parts else ""


def examples_part(cards: str) -> ExamplesPart:
    """Filters and the list of examples, as HTML."""
    with gr.Row(elem_id="mis-filters"):
        category = gr.Dropdown(category_choices([]), value=ANY, label="Examples by category", scale=4, min_width=150)
        split = gr.Dropdown(split_choices([]), value=ANY, label="Split", scale=4, min_width=150)
        words = gr.Textbox(label="Search", placeholder="word or id", max_lines=1, scale=3, min_width=110)
    return ExamplesPart(category, split, words, html_block(cards, "mis-example-list", js_on_load=ACTIONS))


def actions_part() -> ActionsPart:
    """Errors, buttons and the status line."""
    with gr.Column(elem_id="mis-dock"):
        errors = html_block("", "mis-errors")
        with gr.Row(elem_id="mis-actions"):
            start = gr.Button("Compare", variant="primary", size="md", scale=0, min_width=150, elem_id="mis-compare")
            leave = gr.Button(
                "Stop", variant="stop", size="md", scale=0, min_width=150, visible=False, elem_id="mis-leave"
            )
            stop = gr.Button(
                "Stop", variant="stop", size="md", scale=0, min_width=150, visible=False, elem_id="mis-stop"
            )
            again = gr.Button("Regenerate", size="md", scale=0, min_width=110, elem_id="mis-again")
            clear = gr.Button("Clear", size="md", scale=0, min_width=70, elem_id="mis-clear")
            status = html_block(html.status_line(READY), "mis-status")
            download = gr.Button("Download JSON", size="md", scale=0, min_width=140, elem_id="mis-download")
    return ActionsPart(start, leave, stop, again, clear, download, status, errors)


def results_part() -> ResultsPart:
    """Legend and answers."""
    html_block(answer_view.legend(), "mis-legend")
    results = html_block(
        answer_view.empty_results(),
        "mis-results",
        html_template="${pictures}${value}",
        pictures="",
        js_on_load=REFRESH,
    )
    return ResultsPart(results, gr.Textbox(visible=False))


MODEL_QUEUE = "model"  # everything that runs the model shares this one queue

SAVE = "(text) => window.mis.save(text)"
PRESS_COMPARE = "() => document.querySelector('#mis-compare')?.click()"


class Ports(NamedTuple):
    """Where other tabs put a prompt."""

    prompt: gr.State
    strip: gr.HTML
    question: gr.Textbox
    errors: gr.HTML
    variants: gr.CheckboxGroup


def build(page: gr.Blocks, host: Host, header: gr.HTML, navigation: Navigation) -> Ports:
    """Lay out the tab inside ``page``, which is being built, and bind it; returns where a prompt can be put."""
    handlers = CompareHandlers(host)
    prompt, comparison = gr.State(Prompt()), gr.State(None)
    with gr.Row(elem_id="mis-top"):
        with gr.Column(scale=7, min_width=320, elem_id="mis-prompt"):
            asked = prompt_part(list(host.known_variants), host.served)
        with gr.Column(scale=5, min_width=320, elem_id="mis-examples"):
            examples = examples_part(handlers.list_examples("", "", ""))
    actions = actions_part()
    answered = results_part()
    ports = Ports(prompt, asked.strip, asked.question, actions.errors, asked.variants)
    _bind_loading(page, handlers, header, asked, examples, actions)
    changes = _bind_prompt(handlers, asked, examples, actions, prompt)
    _bind_comparison(handlers, asked, actions, answered, prompt, comparison)
    cleared = gr.on(
        actions.clear.click,
        handlers.clear,
        outputs=[prompt, asked.strip, asked.question, actions.errors, answered.results, comparison, actions.status],
        queue=False,
        show_progress="hidden",
        api_name="clear",
    )
    page.unload(handlers.closed)
    navigation.follow(
        Tab.COMPARE,
        handlers.followed,
        inputs=[prompt, asked.variants],
        outputs=[prompt, asked.strip, asked.question, actions.errors, asked.variants, header, navigation.place],
    )
    ticked = gr.on(asked.variants.input, None)
    keep_place(host, navigation, ports, [*changes, cleared, ticked])
    return ports


def keep_place(host: Host, navigation: Navigation, ports: Ports, changes: Iterable[Dependency]) -> None:
    """Let the address follow what events have changed; not the prompt's own change, of which Gradio tells only behind its queue."""
    for change in changes:
        change.then(
            CompareHandlers(host).place,
            inputs=[ports.prompt, ports.variants],
            outputs=navigation.place,
            trigger_mode="always_last",
            **QUIET,
        )


def _bind_loading(
    page: gr.Blocks,
    handlers: CompareHandlers,
    header: gr.HTML,
    asked: PromptPart,
    examples: ExamplesPart,
    actions: ActionsPart,
) -> None:
    """Look once a second until model and examples are there; Compare looks again, since it may start a new try."""
    model_timer, data_timer = gr.Timer(1.0), gr.Timer(1.0)
    filters = [examples.category, examples.split, examples.words]
    gr.on(
        [page.load, model_timer.tick],
        handlers.refresh_model,
        inputs=asked.variants,
        outputs=[header, asked.variants, actions.errors, model_timer],
        **QUIET,
    )
    gr.on(
        [page.load, data_timer.tick],
        handlers.refresh_examples,
        outputs=[examples.category, examples.split, data_timer],
        **QUIET,
    ).then(  # with the filters as they are by then: whoever types fast must not see the full list come back
        handlers.list_examples,
        inputs=filters,
        outputs=examples.cards,
        **QUIET,
    )
    gr.on(actions.start.click, handlers.watch_again, outputs=[model_timer], **QUIET)


def _bind_prompt(
    handlers: CompareHandlers, asked: PromptPart, examples: ExamplesPart, actions: ActionsPart, prompt: gr.State
) -> list[Dependency]:
    """Examples and uploads become the prompt; the strip's buttons change it. Returns the events that do so."""
    filters = [examples.category, examples.split, examples.words]
    loaded = [prompt, asked.strip, asked.question, actions.errors]
    gr.on(
        [examples.category.change, examples.split.change, examples.words.change],
        handlers.list_examples,
        inputs=filters,
        outputs=examples.cards,
        trigger_mode="always_last",
        queue=False,
        show_progress="hidden",
        api_name="examples",
    )
    # Events of HTML pieces are bound one by one: gr.on knows only events that every component of the kind has.
    examples.cards.more(handlers.more_examples, inputs=filters, outputs=examples.cards, **QUIET)
    changes = [
        examples.cards.random(handlers.load_random, inputs=[prompt, *filters], outputs=loaded, **QUIET),
        examples.cards.take(handlers.load, inputs=prompt, outputs=loaded, **QUIET),
        asked.strip.take(handlers.load, inputs=prompt, outputs=loaded, **QUIET),
        asked.strip.move(handlers.move, inputs=prompt, outputs=loaded, **QUIET),
        asked.strip.remove(handlers.remove, inputs=prompt, outputs=loaded, **QUIET),
        asked.strip.wipe(handlers.wipe, outputs=loaded, **QUIET),
    ]
    added = gr.on(  # what is dropped while the files before it are being read waits for its turn: each adds to the prompt that it finds
        asked.upload.upload,
        handlers.add_images,
        inputs=[asked.upload, prompt],
        outputs=[*loaded, asked.upload],
        trigger_mode="multiple",
        concurrency_limit=1,
        show_progress="hidden",
        api_name="add_images",
    )
    return [*changes, added]


def _bind_comparison(
    handlers: CompareHandlers,
    asked: PromptPart,
    actions: ActionsPart,
    answered: ResultsPart,
    prompt: gr.State,
    comparison: gr.State,
) -> None:
    """Compare, stop, regenerate, download. The model has one queue; a queued comparison can leave it."""
    buttons = [actions.start, actions.leave, actions.stop, actions.again, actions.clear]
    gr.on(asked.question.submit, fn=None, js=PRESS_COMPARE)
    begun = gr.on(actions.start.click, handlers.begin, outputs=[actions.status, *buttons], **QUIET)
    run = begun.then(
        handlers.compare,
        inputs=[prompt, asked.question, asked.variants, asked.tokens, asked.temperature, asked.seed],
        outputs=[actions.status, actions.errors, answered.results, comparison, *buttons],
        concurrency_limit=handlers.host.at_once,
        concurrency_id=MODEL_QUEUE,
        show_progress="full",
        show_progress_on=actions.status,
        api_name="compare",
    )
    run.then(handlers.end, outputs=buttons, **QUIET)
    run.failure(handlers.not_taken, outputs=[actions.errors, actions.status, *buttons], **QUIET)
    gr.on(
        actions.stop.click, handlers.stop, outputs=actions.status, queue=False, show_progress="hidden", api_name="stop"
    )
    left = gr.Textbox(visible="hidden")
    gr.on(actions.leave.click, handlers.leave, outputs=[actions.status, left], **QUIET)
    gr.on(left.change, fn=None, cancels=run)  # not by the click: the server knows first that this is no failure
    gr.on(actions.again.click, handlers.next_seed, inputs=asked.seed, outputs=asked.seed, **QUIET).then(
        fn=None, js=PRESS_COMPARE
    )
    gr.on(
        actions.download.click,
        handlers.export,
        inputs=comparison,
        outputs=[answered.payload, actions.errors],
        queue=False,
        show_progress="hidden",
        api_name="export",
    ).then(fn=None, inputs=answered.payload, js=SAVE)
