"""The Compare tab: its parts put in place (``compare_parts``) and bound; what a binding does is in ``handlers_compare`` and ``compare``.

Uploads go through Gradio's own upload button, hidden; the strip opens it, also for dropped and
pasted files, so that a path that a browser names is never believed.
"""

from collections.abc import Iterable
from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency

from workbench.compare.state import Prompt
from workbench.compare_parts import (
    ActionsPart,
    ExamplesPart,
    PromptPart,
    ResultsPart,
    actions_part,
    examples_part,
    prompt_part,
    results_part,
)
from workbench.handlers_compare import CompareHandlers
from workbench.host import Host
from workbench.links import Tab
from workbench.navigation import QUIET, Navigation

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
