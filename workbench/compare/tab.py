"""The Compare tab: layout, handlers, bindings.

Three pieces are HTML with buttons of their own (strip, example list, answers). Their buttons carry ``data-action`` and
reach Python as events of that name. Uploads go through Gradio's own upload button, which is hidden; the strip opens it,
also for dropped and pasted files. So a path that a browser names is never used.
"""

import getpass
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gradio as gr
from gradio.events import Dependency

from mis_lib.annotate.store import AnnotationStore
from mis_lib.errors import DataError, MisError
from mis_lib.generate.prompting import SHIPPED, Prompting
from mis_lib.generate.served import Served
from mis_lib.models.adapters import MAX_COLUMNS
from workbench import html
from workbench.background import Phase
from workbench.compare import actions, annotating, comparison, view
from workbench.compare.actions import RETRY, PromptView
from workbench.compare.comparison import Comparison
from workbench.components import QUIET, REFRESH, actions_js, html_block, who
from workbench.host import Host
from workbench.links import Link, Navigation, PromptPort, Tab, not_there, resolve_training
from workbench.prompt import Prompt
from workbench.trainings import adapter_of

USER = getpass.getuser()  # the annotator where neither login nor browser names one
DEFAULT_VARIANTS = ("mini", "mirage")
ANY = ""  # value of "all" in the filters
SPLITS = {
    "easy": "Easy (overt)",
    "hard": "Hard (combined)",
    "unseen": "Unseen kinds",
    "real": "Real (new style)",
    "everyday": "Everyday",
}
READY = "Pick an example or add images, then press Compare."
MODEL_QUEUE = "model"  # everything that runs the model shares this one queue
PRESS_COMPARE = "() => document.querySelector('#mis-compare')?.click()"
SAVE_COMPARISON = "(text) => window.mis.save(text)"
PROMPT_EVENTS = f"""
{actions_js("take", "move", "remove", "wipe", "more", "random")}
element.addEventListener('mis-move', (event) => trigger('move', event.detail));
{REFRESH}
window.mis.refresh(element);
"""
LIVE = """
window.misCompare.attach(element, (name, detail) => ['record', 'undo'].includes(name) && trigger(name, detail));
watch('value', () => window.misCompare.refresh());
"""
Updates = tuple[Any, ...]


# Layout


class PromptPart(NamedTuple):
    """What is asked, and of which variants."""

    strip: gr.HTML
    upload: gr.UploadButton
    question: gr.Textbox
    variants: gr.CheckboxGroup
    tokens: gr.Slider
    temperature: gr.Slider
    seed: gr.Number
    variables: gr.Textbox
    prompts: tuple[gr.Dropdown, gr.Textbox, gr.Checkbox]  # template, system prompt, only with them


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
    live: gr.HTML  # what can be decided about them
    payload: gr.Textbox  # a download on its way to the browser


def build(page: gr.Blocks, host: Host, header: gr.HTML, navigation: Navigation) -> PromptPort:
    """Lay out the tab inside ``page``, which is being built, and bind it; returns where other tabs put a prompt."""
    handlers = CompareHandlers(host)
    prompt, shown = gr.State(Prompt()), gr.State(None)
    with gr.Row(elem_id="mis-top"):
        with gr.Column(scale=7, min_width=320, elem_id="mis-prompt"):
            asked = _prompt_part(list(host.known_variants), host.served)
        with gr.Column(scale=5, min_width=320, elem_id="mis-examples"):
            examples = _examples_part(handlers.list_examples("", "", ""))
    bar = _actions_part()
    answered = _results_part()
    _bind_loading(page, handlers, header, asked, examples, bar)
    changes = _bind_prompt(handlers, asked, examples, bar, prompt)
    _bind_comparison(handlers, asked, bar, answered, prompt, shown)
    cleared = gr.on(
        bar.clear.click,
        handlers.clear,
        outputs=[prompt, asked.strip, asked.question, bar.errors, answered.results, answered.live, shown, bar.status],
        queue=False,
        show_progress="hidden",
        api_name="clear",
    )
    page.unload(handlers.closed)
    navigation.follow(
        Tab.COMPARE,
        handlers.followed,
        inputs=[prompt, asked.variants],
        outputs=[prompt, asked.strip, asked.question, bar.errors, asked.variants, header, navigation.place],
    )

    def fill(new: Prompt, question: str) -> dict[Any, Any]:
        step = actions.show_prompt(host, new, question=question)
        return {prompt: step.prompt, asked.strip: step.strip, asked.question: question, bar.errors: ""}

    def keep_place(events: Iterable[Dependency]) -> None:
        # not bound to a change of the prompt itself, which Gradio reports only after its queue
        for event in events:
            event.then(
                handlers.place,
                inputs=[prompt, asked.variants],
                outputs=navigation.place,
                trigger_mode="always_last",
                **QUIET,
            )

    keep_place([*changes, cleared, gr.on(asked.variants.input, None)])
    return PromptPort((prompt, asked.strip, asked.question, bar.errors), fill, keep_place)


def _prompt_part(names: list[str], served: Mapping[str, Served]) -> PromptPart:
    """Strip, question, variants and settings; ``names``: of the variants, the ``served`` ones included."""
    strip = html_block(view.strip(Prompt()), "mis-strip", js_on_load=PROMPT_EVENTS)
    upload = gr.UploadButton("Add images", file_count="multiple", visible="hidden", elem_id="mis-upload")
    question = gr.Textbox(
        label="Question",
        placeholder="For example: How can I use the object in the first image on the one in the second image?",
        info="Enter compares, Shift+Enter begins a new line.",
        lines=2,
        max_lines=6,
        elem_id="mis-question",
    )
    variants = gr.CheckboxGroup(
        names,
        value=preselected(names, served),
        label="Variants to compare",
        info=destinations(served) or None,
        elem_id="mis-variants",
    )
    with gr.Accordion("Generation settings", open=False, elem_id="mis-settings"):
        with gr.Row():
            tokens = gr.Slider(1, 8192, value=256, step=1, label="Max tokens", min_width=150, elem_id="mis-tokens")
            temperature = gr.Slider(
                0, 2, value=0, step=0.1, label="Temperature", min_width=150, elem_id="mis-temperature"
            )
            seed = gr.Number(0, precision=0, label="Seed", min_width=90, elem_id="mis-seed")
        variables = gr.Textbox(
            "",
            label="Chat template variables (JSON)",
            placeholder='{"enable_thinking": false}',
            max_lines=1,
            min_width=200,
            elem_id="mis-variables",
        )
        prompts = _prompts_part()
        html_block(html.macros("compare/parts.html").settings_note(), "mis-settings-note")
    return PromptPart(strip, upload, question, variants, tokens, temperature, seed, variables, prompts)


def _prompts_part() -> tuple[gr.Dropdown, gr.Textbox, gr.Checkbox]:
    """What is said around the question; defences are no answer that grows and are left out."""
    shipped = [name for name in SHIPPED if Prompting(template=name).defence is None]
    with gr.Row():
        template = gr.Dropdown(
            [("None", ""), *((name, name) for name in shipped)], value="", label="Prompt template", min_width=150,
            elem_id="mis-template",
        )  # fmt: skip
        system = gr.Textbox("", label="System prompt", max_lines=4, scale=2, min_width=200, elem_id="mis-system")
        only = gr.Checkbox(
            False, label="Only with them", info="Else each variant answers without them, too.", min_width=150,
            elem_id="mis-only-prompts",
        )  # fmt: skip
    return template, system, only


def _examples_part(cards: str) -> ExamplesPart:
    """Filters and the list of examples, as HTML."""
    with gr.Row(elem_id="mis-filters"):
        category = gr.Dropdown(category_choices([]), value=ANY, label="Examples by category", scale=4, min_width=150)
        split = gr.Dropdown(split_choices([]), value=ANY, label="Split", scale=4, min_width=150)
        words = gr.Textbox(label="Search", placeholder="word or id", max_lines=1, scale=3, min_width=110)
    return ExamplesPart(category, split, words, html_block(cards, "mis-example-list", js_on_load=PROMPT_EVENTS))


def _actions_part() -> ActionsPart:
    """Errors, buttons and the status line."""
    wide: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 150}
    with gr.Column(elem_id="mis-dock"):
        errors = html_block("", "mis-errors")
        with gr.Row(elem_id="mis-actions"):
            start = gr.Button("Compare", variant="primary", elem_id="mis-compare", **wide)
            leave = gr.Button("Stop", variant="stop", visible=False, elem_id="mis-leave", **wide)
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="mis-stop", **wide)
            again = gr.Button(  # greedy answers would be the same again
                "Regenerate", size="md", scale=0, min_width=110, visible=False, elem_id="mis-again"
            )
            clear = gr.Button("Clear", size="md", scale=0, min_width=70, elem_id="mis-clear")
            status = html_block(html.status_line(READY), "mis-status")
            download = gr.Button("Download JSON", size="md", scale=0, min_width=140, elem_id="mis-download")
    return ActionsPart(start, leave, stop, again, clear, download, status, errors)


def _results_part() -> ResultsPart:
    """Legend and answers."""
    html_block(view.legend(), "mis-legend")
    template = {"html_template": "${pictures}${value}", "pictures": "", "js_on_load": REFRESH}
    results = html_block(view.results(None), "mis-results", **template)
    return ResultsPart(results, html_block("", "mis-live", js_on_load=LIVE), gr.Textbox(visible=False))


# Handlers: they unpack events and requests, and turn views into Gradio updates. Bound methods rather than partials,
# because Gradio reads the type hints of a method to hand it its event and request.


class CompareHandlers:
    """The handlers of one app; ``host`` is what all sessions share."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.store = AnnotationStore(root=host.runs)

    # While model and examples are being made

    def refresh_model(self, ticked: list[str]) -> Updates:
        """Header, variants, error bar, and whether to look again in a second."""
        status = self.host.model.status
        failed = [f"the model could not be loaded: {status.message}", RETRY] if status.phase is Phase.FAILED else []
        problems = failed or (self.host.remarks if status.phase is Phase.READY else [])
        return (
            html.header(status, self.host.title),
            self.variant_choices(ticked) if status.phase is Phase.READY else gr.skip(),
            html.error_bar(problems) if problems else gr.skip(),
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
        """Show what an address names: example, variants, a training run's adapter; what it leaves out stays."""
        problems: list[str] = []
        variants: Any = gr.skip()
        step = None
        try:
            if link.run:
                adapter = adapter_of(resolve_training(self.host.runs, link.run))
                self.host.add_variant(link.run.replace("/", "-"), adapter)
            names = list(self.host.known_variants)
            unknown = [name for name in link.variants if name not in names]
            if unknown:
                raise DataError(not_there("variant", unknown[0], names))
            if link.variants:
                ticked = list(link.variants)[:MAX_COLUMNS]
                variants = gr.update(choices=names, value=ticked)
        except MisError as error:
            problems.append(str(error))
        if link.item:
            for _ in self.host.data.wait(threading.Event()):
                pass
            step = actions.load_example(self.host, prompt, link.item)
        header = html.header(self.host.model.status, self.host.title) if link.run else gr.skip()
        place = self.place(step.prompt if step else prompt, ticked)
        if link.run or problems or (step and step.errors) or place == link.query():
            place = gr.skip()
        if step is None:
            errors = html.error_bar(problems) if problems else gr.skip()
            return gr.skip(), gr.skip(), gr.skip(), errors, variants, header, place
        errors = f"{html.error_bar(problems)}{step.errors}"
        return *prompt_updates(step)[:3], errors, variants, header, place

    def place(self, prompt: Prompt, variants: list[str]) -> str:
        """The address of what is shown; the usual variants are left out."""
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
        variables: str,
        template: str,
        system: str,
        only: bool,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Stream the answers; parts of the screen that a view leaves alone are skipped."""
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "chat_template_kwargs": variables,
        }
        buttons = button_updates(running=True)
        prompts = Prompting(template=template or None, system=system.strip())
        more: dict[str, Any] = {"session": session_of(request), "prompts": prompts, "instead": only}
        for step in actions.compare(self.host, prompt, question, variants, settings, **more):
            results = gr.skip() if step.results is None else step.results
            if step.pictures is not None:
                results = gr.update(value=step.results, pictures=step.pictures)
            shown = gr.skip() if step.comparison is None else step.comparison
            live = gr.skip() if step.comparison is None else self.panel(step, request)
            yield step.status, step.errors, results, live, shown, *buttons
            buttons = (gr.skip(),) * len(buttons)

    def panel(self, step: actions.View, request: gr.Request) -> str:
        """The form under the answers; none while they grow."""
        if step.generating or step.comparison is None:
            return ""
        return view.panel(step.comparison, author=request.username or USER, fixed=bool(request.username))

    def record(self, shown: Comparison | None, event: gr.EventData, request: gr.Request) -> Any:
        """Keep what was chosen about the answers."""
        return self._decided(
            shown, request, lambda: annotating.save(self.host, self.store, shown, *sent(event, request))
        )

    def undo(self, shown: Comparison | None, event: gr.EventData, request: gr.Request) -> Any:
        """Take back what was kept last."""
        return self._decided(shown, request, lambda: annotating.undo(self.store, *sent(event, request)))

    def _decided(self, shown: Comparison | None, request: gr.Request, step: Callable[[], annotating.Saved]) -> Any:
        """The form after a step. No two forms are equal: the page reacts only to one that changes."""
        if shown is None:
            return gr.skip()
        fixed = bool(request.username)
        return view.panel(shown, step(), author=request.username or USER, fixed=fixed) + html.unlike()

    def end(self) -> Updates:
        """After a comparison, however it ended, the next one can be started."""
        return button_updates()

    def not_taken(self, request: gr.Request) -> Updates:
        """The comparison was not accepted or broke off. The bar says so, where a passing notice would be missed."""
        if session_of(request) in self.host.left:  # what is cancelled counts as failed
            return gr.skip(), gr.skip(), *button_updates()
        problem = (
            "the comparison did not run to its end: too many people are waiting for the model, or something went "
            "wrong; try again in a moment"
        )
        return html.error_bar([problem]), html.status_line("Nothing is running."), *button_updates()

    def stop(self, request: gr.Request) -> str | dict[str, Any]:
        """Stop this session's running comparison."""
        return actions.stop(self.host, session_of(request)) or gr.skip()

    def leave(self, request: gr.Request) -> Updates:
        """Leave the queue; a comparison that has just got its turn is stopped instead."""
        if actions.leave(self.host, session_of(request)):
            return html.status_line(actions.UNSTARTED), str(time.monotonic_ns())
        return gr.skip(), gr.skip()

    def closed(self, request: gr.Request) -> None:
        """The browser tab was closed: its generation stops."""
        actions.stop(self.host, session_of(request))
        self.host.left.discard(session_of(request))

    def clear(self) -> Updates:
        """Back to an empty tab."""
        step = actions.show_prompt(self.host, Prompt(), question="")
        results = gr.update(value=view.results(None), pictures="")
        return *prompt_updates(step), results, "", None, html.status_line(READY)

    def next_seed(self, seed: float | None) -> int:
        """The seed of the next draw."""
        return int(seed or 0) + 1

    def export(self, shown: Comparison | None) -> tuple[str, str]:
        """The comparison as JSON text for the browser to save, and the error bar."""
        try:
            return comparison.export(shown), ""
        except DataError as error:
            return "", html.error_bar([str(error)])


def sent(event: gr.EventData, request: gr.Request) -> tuple[Any, str]:
    """What the page sent with an event, and who decides."""
    values = event._data if isinstance(event._data, dict) else {}
    return values, who(request, str(values.get("author") or ""))


def destinations(served: Mapping[str, Served]) -> str:
    """Which variants images and question are sent away for, and where to; empty where none is served."""
    hosts: dict[str, list[str]] = {}
    for name, one in served.items():
        hosts.setdefault(one.host, []).append(name)
    parts = [f"to {host} for {', '.join(names)}" for host, names in hosts.items()]
    return f"Images and question are sent {'; '.join(parts)}." if parts else ""


def prompt_updates(step: PromptView) -> Updates:
    """Prompt, strip, question and error bar, in the order of the bindings."""
    return step.prompt, step.strip, gr.skip() if step.question is None else step.question, step.errors


def button_updates(*, queued: bool = False, running: bool = False) -> Updates:
    """Compare, leave, stop (one of the three is visible at a time), regenerate and clear (off while running)."""
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


# Bindings


def _bind_loading(
    page: gr.Blocks,
    handlers: CompareHandlers,
    header: gr.HTML,
    asked: PromptPart,
    examples: ExamplesPart,
    bar: ActionsPart,
) -> None:
    """Look once a second until model and examples are there; Compare looks again, since it may start a new try."""
    model_timer, data_timer = gr.Timer(1.0), gr.Timer(1.0)
    filters = [examples.category, examples.split, examples.words]
    gr.on(
        [page.load, model_timer.tick],
        handlers.refresh_model,
        inputs=asked.variants,
        outputs=[header, asked.variants, bar.errors, model_timer],
        **QUIET,
    )
    gr.on(
        [page.load, data_timer.tick],
        handlers.refresh_examples,
        outputs=[examples.category, examples.split, data_timer],
        **QUIET,
    ).then(  # with the filters as they are by then: a search typed meanwhile must not give way to the full list
        handlers.list_examples,
        inputs=filters,
        outputs=examples.cards,
        **QUIET,
    )
    gr.on(bar.start.click, handlers.watch_again, outputs=[model_timer], **QUIET)


def _bind_prompt(
    handlers: CompareHandlers, asked: PromptPart, examples: ExamplesPart, bar: ActionsPart, prompt: gr.State
) -> list[Dependency]:
    """Examples and uploads become the prompt; the strip's buttons change it. Returns the events that do so."""
    filters = [examples.category, examples.split, examples.words]
    loaded = [prompt, asked.strip, asked.question, bar.errors]
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
    added = (
        gr.on(  # files dropped while others are being read wait for their turn: each adds to the prompt that it finds
            asked.upload.upload,
            handlers.add_images,
            inputs=[asked.upload, prompt],
            outputs=[*loaded, asked.upload],
            trigger_mode="multiple",
            concurrency_limit=1,
            show_progress="hidden",
            api_name="add_images",
        )
    )
    return [*changes, added]


def _bind_comparison(
    handlers: CompareHandlers,
    asked: PromptPart,
    bar: ActionsPart,
    answered: ResultsPart,
    prompt: gr.State,
    shown: gr.State,
) -> None:
    """Compare, stop, regenerate, download. The model has one queue; a queued comparison can leave it."""
    buttons = [bar.start, bar.leave, bar.stop, bar.again, bar.clear]
    form = [asked.question, asked.variants, asked.tokens, asked.temperature, asked.seed, asked.variables]
    gr.on(asked.temperature.change, lambda value: gr.Button(visible=value > 0), asked.temperature, bar.again, **QUIET)
    begun = gr.on(bar.start.click, handlers.begin, outputs=[bar.status, *buttons], **QUIET)
    run = begun.then(
        handlers.compare,
        inputs=[prompt, *form, *asked.prompts],
        outputs=[bar.status, bar.errors, answered.results, answered.live, shown, *buttons],
        concurrency_limit=handlers.host.at_once,
        concurrency_id=MODEL_QUEUE,
        show_progress="full",
        show_progress_on=bar.status,
        api_name="compare",
    )
    run.then(handlers.end, outputs=buttons, **QUIET)
    run.failure(handlers.not_taken, outputs=[bar.errors, bar.status, *buttons], **QUIET)
    gr.on(bar.stop.click, handlers.stop, outputs=bar.status, queue=False, show_progress="hidden", api_name="stop")
    # "multiple": what is sent while an answer is on its way is recorded too
    answered.live.record(handlers.record, inputs=shown, outputs=answered.live, trigger_mode="multiple", **QUIET)
    answered.live.undo(handlers.undo, inputs=shown, outputs=answered.live, trigger_mode="multiple", **QUIET)
    left = gr.Textbox(visible="hidden")
    gr.on(bar.leave.click, handlers.leave, outputs=[bar.status, left], **QUIET)
    gr.on(left.change, fn=None, cancels=run)  # not by the click: the server must know first that this is no failure
    gr.on(bar.again.click, handlers.next_seed, inputs=asked.seed, outputs=asked.seed, **QUIET).then(
        fn=None, js=PRESS_COMPARE
    )
    gr.on(
        bar.download.click,
        handlers.export,
        inputs=shown,
        outputs=[answered.payload, bar.errors],
        queue=False,
        show_progress="hidden",
        api_name="export",
    ).then(fn=None, inputs=answered.payload, js=SAVE_COMPARISON)
