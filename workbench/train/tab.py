"""The Train tab: a form and the command it comes to on the left, the run that is watched on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mis_lib.errors import MisError
from mis_lib.results.train_runs import TrainRun
from workbench import html
from workbench.components import QUIET, error_block, figure_part, html_block, plot_value
from workbench.host import Host
from workbench.jobs import in_a_shell
from workbench.links import Link, Navigation, Tab, not_there
from workbench.train import view
from workbench.trainings import State, Trainings, progress

Update = dict[Any, Any]
PROBLEMS = (MisError, OSError)


class TrainHandlers:
    """The handlers of one app's Train tab."""

    def __init__(self, host: Host, parts: "Parts", trainings: Trainings) -> None:
        self.host, self.parts, self.trainings = host, parts, trainings

    def opened(self, link: Link, *form: Any) -> Update:
        """The address's run, or the one that changed last, and the plan of the form; one bar shows problems of both."""
        parts, names = self.parts, self.trainings.names()
        wanted = link.run.partition("/")[0]
        plan, problems = self._plan(*form) if form else ({}, [])
        known = not wanted or wanted in names
        update = self._watched((wanted or next(iter(names), "")) if known else "")
        if told := self._not_shown(link.run) if known else not_there("run", wanted, names[:8]):
            problems = [told, *problems]
            update[parts.place] = gr.skip()  # the address stays as it is, so that a reload says it again
        return {parts.errors: html.error_bar(problems)} | plan | update

    def planned(self, config: str | None, name: str, steps: float | None, text: str) -> Update:
        """The resolved settings and the command of what is filled in."""
        update, problems = self._plan(config, name, steps, text)
        return update | {self.parts.errors: html.error_bar(problems)}

    def start(self, config: str | None, name: str, steps: float | None, text: str) -> Update:
        """Start what is filled in, or go on with it, and watch it."""
        parts = self.parts
        try:
            job = self.trainings.start(config or "", overrides(name, steps, text))
        except PROBLEMS as error:
            return {parts.errors: html.error_bar([str(error)])}
        return {parts.errors: ""} | self._watched(job.name)

    def resume(self, run: str | None) -> Update:
        """Go on with the run that is watched, as it was started."""
        parts = self.parts
        try:
            job = self.trainings.job(run or "")
            if job is None:
                problem = f"{run}: it was started in a shell; go on with it there, by the same command"
                return {parts.errors: html.error_bar([problem])}
            self.trainings.start(job.config, job.overrides)
        except PROBLEMS as error:
            return {parts.errors: html.error_bar([str(error)])}
        return {parts.errors: ""} | self._watched(run or "")

    def stop(self, run: str | None) -> Update:
        """Ask the run that is watched to end after the step in hand."""
        try:
            self.trainings.stop(run or "")
        except PROBLEMS as error:
            return {self.parts.errors: html.error_bar([str(error)])}
        told = "Asked to stop: the step in hand is finished and a checkpoint written …"
        return {self.parts.told: html.status_line(told, busy=True)}

    def chosen(self, run: str | None) -> Update:
        """Watch another run."""
        return self._watched(run or "") | {self.parts.errors: ""}

    def ticked(self, run: str | None) -> Update:
        """Look again at the run that is watched."""
        return self._watched(run or "", again=True)

    def _plan(self, config: str | None, name: str, steps: float | None, text: str) -> tuple[Update, list[str]]:
        """Settings and command of the form, or empty ones with what is wrong."""
        parts = self.parts
        nothing = {parts.yaml: "", parts.command: ""}
        if not config:
            return nothing, []
        try:
            plan = self.trainings.plan(config, overrides(name, steps, text))
        except PROBLEMS as error:
            return nothing, [str(error)]
        return {parts.yaml: plan.yaml, parts.command: in_a_shell(plan.command)}, []

    def _not_shown(self, wanted: str) -> str:
        """That a newer version of a run is shown than the one wanted, where it is so; "" otherwise."""
        run = self.trainings.newest(wanted.partition("/")[0]) if wanted else None
        if run is None or wanted.endswith(f"/{run.folder.name}"):
            return ""
        return f"the address names {wanted}; shown is the newest version of this run, {run.folder.name}"

    def _watched(self, name: str, *, again: bool = False) -> Update:
        """State, curves and output of a run; the clock ticks only while it runs."""
        parts = self.parts
        if not name:
            names = self.trainings.names()
            idle = {
                parts.run: gr.update(choices=names, value=None),
                parts.status: view.empty(any_run=bool(names)),
                parts.figure: None,
                parts.output: "",
                parts.next: "",
                parts.told: "",
            }
            return {**idle, parts.timer: gr.Timer(active=False), parts.place: Link(tab=Tab.TRAIN).query()}
        try:
            state, run = self.trainings.state(name), self.trainings.newest(name)
            found = progress(run.folder) if run else None
            job, printed = self.trainings.job(name), self.trainings.output(name)
        except PROBLEMS as error:
            return {parts.errors: html.error_bar([str(error)])}
        running = state is State.RUNNING
        version = run.folder.name if run else ""
        update: Update = {
            parts.status: view.status(name, state, found.newest if found else {}, job, printed),
            parts.figure: plot_value(found.figure) if found else None,
            parts.output: view.output(printed),
            parts.next: self._next(name, run) if state is State.FINISHED and run else "",
            parts.timer: gr.Timer(active=running),
            parts.stop: gr.update(visible=self.trainings.is_ours(name)),
            parts.resume: gr.update(visible=state is State.STOPPED and job is not None),
        }
        if not running:
            update[parts.told] = ""
        if again:
            return update
        place = Link(tab=Tab.TRAIN, run=f"{name}/{version}" if version else f"{name}/v1")
        return update | {parts.run: gr.update(choices=self.trainings.names(), value=name), parts.place: place.query()}

    def _next(self, name: str, run: TrainRun) -> str:
        base = next(iter(self.host.adapters or self.host.known_variants), "")
        variants = [variant for variant in (base, f"{name}-{run.folder.name}") if variant]
        return view.next_steps(name, run.folder, variants)


def overrides(name: str, steps: float | None, text: str) -> list[str]:
    """The form's fields as ``key=value`` pairs; those typed in the text come last and win."""
    pairs = [f"name={name.strip()}"] if name.strip() else []
    pairs += [f"max_steps={int(steps)}"] if steps else []
    return [*pairs, *(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))]


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
    errors = error_block("mis-train-errors")
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
    html_block("<h2>New run</h2>", "mis-train-new")
    usual = next((name for name in configs if name == "mini-mirage"), next(iter(configs), None))
    config = gr.Dropdown(
        list(configs), value=usual, label="Configuration", elem_id="mis-train-config", info="Settings files in configs/"
    )
    with gr.Row():
        name = gr.Textbox(
            "",
            label="Run name",
            placeholder="default: config name",
            max_lines=1,
            max_length=80,
            elem_id="mis-train-name",
        )
        steps = gr.Number(0, label="Max steps (0 = from config)", precision=0, elem_id="mis-train-steps")
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
        label="Equivalent command",
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
    told = html_block("", "mis-train-told")
    status = html_block(view.empty(any_run=False), "mis-train-status")
    after = html_block("", "mis-train-next")
    figure = figure_part("training", "Loss by segment of the answer, and safety as it arrives")
    with gr.Accordion("Log", open=False, elem_id="mis-train-log"):
        output = html_block("", "mis-train-output")
    made = {"run": run, "stop": stop, "resume": resume, "told": told, "status": status}
    return {**made, "next": after, "figure": figure, "output": output}
