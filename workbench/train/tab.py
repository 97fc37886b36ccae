"""The Train tab: a form and the command it comes to on the left, the run that is watched on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from workbench import render_training
from workbench.compare_parts import html
from workbench.figures import figure_part
from workbench.handlers_train import TrainHandlers
from workbench.host import Host
from workbench.links import Tab
from workbench.navigation import QUIET, Navigation
from workbench.train.actions import Trainings

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SECONDS = 2.0  # between two looks at a run


@dataclass(frozen=True)
class Parts:
    """Everything on the tab that handlers write."""

    errors: gr.HTML
    config: gr.Dropdown
    yaml: gr.Code
    command: gr.Code
    run: gr.Dropdown
    stop: gr.Button
    resume: gr.Button
    told: gr.HTML
    status: gr.HTML
    next: gr.HTML
    figure: gr.Plot
    output: gr.HTML
    timer: gr.Timer
    place: gr.Textbox


def build(host: Host, navigation: Navigation, tab: gr.Tab, trainings: Trainings) -> None:
    """Lay out the tab, which is being built, and bind it."""
    errors = html("", "mis-train-errors", elem_classes=["mis-errors"])
    with gr.Row(elem_id="mis-train"):
        with gr.Column(scale=5, min_width=320):
            form, start, made = _form(trainings.configurations())
        with gr.Column(scale=7, min_width=320):
            watched = _watch()
    parts = Parts(errors=errors, place=navigation.place, timer=gr.Timer(SECONDS, active=False), **made, **watched)
    handlers = TrainHandlers(host, parts, trainings)
    everything: list[Any] = list(vars(parts).values())
    navigation.open_with(tab, Tab.TRAIN, handlers.opened, inputs=form, outputs=everything)
    gr.on(
        [field.change for field in form],
        handlers.planned,
        inputs=form,
        outputs=[parts.yaml, parts.command, errors],
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(start.click, handlers.start, inputs=form, outputs=everything, **QUIET)
    gr.on(parts.stop.click, handlers.stop, inputs=parts.run, outputs=everything, **QUIET)
    gr.on(parts.resume.click, handlers.resume, inputs=parts.run, outputs=everything, **QUIET)
    gr.on(parts.run.input, handlers.chosen, inputs=parts.run, outputs=everything, **QUIET)
    gr.on(parts.timer.tick, handlers.ticked, inputs=parts.run, outputs=everything, **QUIET)


def _form(configs: Sequence[str]) -> tuple[list[Any], gr.Button, dict[str, Any]]:
    html("<h2>New run</h2>", "mis-train-new")
    usual = next((name for name in configs if name == "mini-mirage"), next(iter(configs), None))
    config = gr.Dropdown(
        list(configs), value=usual, label="Configuration", elem_id="mis-train-config", info="Settings files in configs/"
    )
    with gr.Row():
        name = gr.Textbox(
            "", label="Run name", placeholder="that of the file", max_lines=1, max_length=80, elem_id="mis-train-name"
        )
        steps = gr.Number(0, label="Steps at most (0: as configured)", precision=0, elem_id="mis-train-steps")
    text = gr.Textbox(
        "",
        label="Other settings",
        placeholder="lora.rank=8\nevaluation.every=20",
        lines=2,
        max_lines=8,
        elem_id="mis-train-set",
    )
    start = gr.Button("Start", variant="primary", elem_id="mis-train-start")
    command = gr.Code(
        "",
        language="shell",
        lines=2,
        label="The same in a shell",
        interactive=False,
        wrap_lines=True,
        elem_id="mis-train-command",
    )
    with gr.Accordion("Resolved settings", open=False, elem_id="mis-train-resolved"):
        yaml = gr.Code(
            "", language="yaml", label="config.yaml", interactive=False, max_lines=24, elem_id="mis-train-yaml"
        )
    return [config, name, steps, text], start, {"config": config, "yaml": yaml, "command": command}


def _watch() -> dict[str, Any]:
    with gr.Row(elem_classes=["mis-filters"]):
        run = gr.Dropdown([], label="Run", scale=5, min_width=200, elem_id="mis-train-run")
        stop = gr.Button("Stop", variant="stop", scale=0, min_width=90, visible=False, elem_id="mis-train-stop")
        resume = gr.Button(
            "Resume", variant="primary", scale=0, min_width=90, visible=False, elem_id="mis-train-resume"
        )
    told = html("", "mis-train-told")
    status = html(render_training.EMPTY, "mis-train-status")
    after = html("", "mis-train-next")
    figure = figure_part("training", "Loss by segment of the answer, and safety as it arrives")
    with gr.Accordion("Output of the process", open=False, elem_id="mis-train-log"):
        output = html("", "mis-train-output")
    made = {"run": run, "stop": stop, "resume": resume, "told": told, "status": status}
    return {**made, "next": after, "figure": figure, "output": output}
