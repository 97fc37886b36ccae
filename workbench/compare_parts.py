"""What the Compare tab consists of, as it is laid out; what its parts do is bound in ``tab_compare``.

Three pieces are HTML with buttons of their own (strip, example list, answers). Their buttons carry ``data-action`` and reach Python as events of that name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gradio as gr

from mis_lib.generate.served_models import Served
from workbench import html as render
from workbench.compare import view
from workbench.compare.state import Prompt
from workbench.handlers_compare import ANY, READY, category_choices, preselected, split_choices

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


def html(value: str, elem_id: str, **extra: Any) -> gr.HTML:
    """An HTML piece with our own style only."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, **extra)


def prompt_part(names: list[str], served: Mapping[str, Served]) -> PromptPart:
    """Strip, question, variants and settings; ``names``: of the variants, those ``served`` by others among them."""
    strip = html(render.strip(Prompt()), "mis-strip", js_on_load=ACTIONS)
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
        html(render.SETTINGS_NOTE, "mis-settings-note")
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
    return ExamplesPart(category, split, words, html(cards, "mis-example-list", js_on_load=ACTIONS))


def actions_part() -> ActionsPart:
    """Errors, buttons and the status line."""
    with gr.Column(elem_id="mis-dock"):
        errors = html("", "mis-errors")
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
            status = html(render.status_line(READY), "mis-status")
            download = gr.Button("Download JSON", size="md", scale=0, min_width=140, elem_id="mis-download")
    return ActionsPart(start, leave, stop, again, clear, download, status, errors)


def results_part() -> ResultsPart:
    """Legend and answers."""
    html(view.legend(), "mis-legend")
    results = html(
        view.empty_results(),
        "mis-results",
        html_template="${pictures}${value}",
        pictures="",
        js_on_load=REFRESH,
    )
    return ResultsPart(results, gr.Textbox(visible=False))
