"""The panel "Evaluate now" of several tabs: what is asked of whom, its cost and command, and how far it is.

A tab draws one where it is empty, and learns from ``arrived`` that a run has ended. All panels of an app show the
evaluation that was started last, since they read the same files.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from mis_lib.errors import MisError
from mis_lib.recipes.progress import Step
from workbench.components import QUIET, error_block, html_block
from workbench.evaluate import FIRST_SPLIT, PAIRS, EvaluationJobs, Now, Outcome, phase
from workbench.html import error_bar, macros
from workbench.jobs import in_a_shell, time_in_words
from workbench.links import Link, Tab

SECONDS = 1.0  # between two looks at an evaluation
LAST = 4  # lines of the output of one that has stopped
TITLE = "Evaluate now"
FIRST_MODELS = 2
Update = dict[Any, Any]


class EvaluatePanel:
    """One panel; ``bind`` connects it once the tab has been laid out."""

    def __init__(self, jobs: EvaluationJobs, name: str) -> None:
        self.jobs = jobs
        with gr.Accordion(TITLE, open=False, elem_id=f"mis-evaluate-{name}", elem_classes=["mis-evaluate"]) as box:
            self.box = box
            with gr.Row(elem_classes=["mis-filters"]):
                self.variants = gr.Dropdown([], value=None, multiselect=True, label="Models", scale=3, min_width=190)
                self.splits = gr.Dropdown([], value=None, multiselect=True, label="Splits", scale=2, min_width=150)
                self.pairs = gr.Number(PAIRS, label="Pairs a split (0: all)", precision=0, minimum=0, min_width=120)
                self.run = gr.Textbox("report", label="Run name", max_lines=1, max_length=60, min_width=110)
                self.start = gr.Button(
                    "Evaluate", variant="primary", scale=0, min_width=110, elem_id=f"mis-evaluate-{name}-start"
                )
            self.errors = error_block(f"mis-evaluate-{name}-errors")
            self.cost = html_block("", f"mis-evaluate-{name}-cost")
            with gr.Row(elem_classes=["mis-evaluate-row"]):
                self.status = html_block("", f"mis-evaluate-{name}-status")
                self.stop = gr.Button(
                    "Stop", variant="stop", size="sm", scale=0, min_width=80, visible=False,
                    elem_id=f"mis-evaluate-{name}-stop",
                )  # fmt: skip
        self.watched = gr.Textbox(visible=False)
        self.arrived = gr.Textbox(visible=False)  # changes whenever a run that was watched has ended
        self.timer = gr.Timer(SECONDS, active=False)

    @property
    def parts(self) -> list[Any]:
        """What handlers write."""
        form = [self.box, self.variants, self.splits, self.start, self.errors, self.cost]
        return [*form, self.status, self.stop, self.watched, self.arrived, self.timer]

    @property
    def form(self) -> list[Any]:
        """What is filled in."""
        return [self.variants, self.splits, self.pairs, self.run]

    def bind(self, shown: Sequence[Callable[..., Any]]) -> None:
        """Connect the panel; ``shown`` are the events at which a person sees the tab."""
        to: dict[str, Any] = {"outputs": self.parts, **QUIET}
        for event in shown:
            event(self.opened, inputs=self.form, **to)
        fields = [field.change for field in self.form]
        gr.on(fields, self.planned, inputs=self.form, trigger_mode="always_last", **to)
        gr.on(self.start.click, self.started, inputs=self.form, **to)
        gr.on(self.stop.click, self.stopped, inputs=self.watched, **to)
        gr.on(self.timer.tick, self.ticked, inputs=[self.watched, *self.form], **to)

    def opened(self, variants: Sequence[str], splits: Sequence[str], pairs: float | None, name: str) -> Update:
        """What can be asked, and the evaluation that was started last; open where there is nothing to see yet."""
        there, known = self.jobs.variants(), self.jobs.splits()
        variants = [one for one in variants or [] if one in there] or there[:FIRST_MODELS]
        splits = [one for one in splits or [] if one in known] or ([FIRST_SPLIT] if FIRST_SPLIT in known else known[:1])
        update = self.planned(variants, splits, pairs, name)
        update |= {
            self.variants: gr.update(choices=there, value=variants),
            self.splits: gr.update(choices=known, value=splits),
        }
        update |= self._watching(self.jobs.newest())
        if not self.jobs.has_runs():
            update[self.box] = {**update.get(self.box, gr.update()), "open": True}
        return update

    def planned(self, variants: Sequence[str], splits: Sequence[str], pairs: float | None, name: str) -> Update:
        """Cost and command of what is filled in."""
        if not self.jobs.splits():  # the examples are still being read: the clock looks again
            return {self.cost: self.jobs.host.data.status.message, self.errors: ""}
        try:
            plan = self.jobs.plan(variants or [], splits or [], pairs, name)
        except MisError as error:
            return {self.errors: error_bar([str(error)]), self.cost: ""}
        time = "" if plan.cost.seconds is None else time_in_words(plan.cost.seconds)
        shown = _macros().plan(plan.cost, time, plan.is_judged, in_a_shell(plan.command))
        return {self.cost: shown, self.errors: ""}

    def started(self, variants: Sequence[str], splits: Sequence[str], pairs: float | None, name: str) -> Update:
        """Start what is filled in, and watch it."""
        try:
            self.jobs.start(self.jobs.plan(variants or [], splits or [], pairs, name))
        except (MisError, OSError) as error:
            return {self.errors: error_bar([str(error)])}
        return {self.errors: ""} | self._watching(name.strip())

    def stopped(self, name: str) -> Update:
        """End the evaluation that is watched."""
        try:
            self.jobs.stop(name)
        except MisError as error:
            return {self.errors: error_bar([str(error)])}
        return {self.errors: ""}

    def ticked(self, name: str, *form: Any) -> Update:
        """Look again: at the evaluation, or at whether the examples are there by now."""
        if not name:
            return self.opened(*form)
        update = self._watching(name)
        if not update[self.timer].active:
            if self.jobs.now(name).state is Outcome.FINISHED:
                update[self.box] = gr.update(open=False, label=f"{TITLE} · {name}: finished")
            update[self.arrived] = f"{name} {self.jobs.now(name).started}"
        return update

    def _watching(self, name: str) -> Update:
        if not name:
            waits = not self.jobs.splits()
            return {self.status: "", self.stop: gr.update(visible=False), self.timer: gr.Timer(active=waits)}
        try:
            now = self.jobs.now(name)
        except (MisError, OSError) as error:
            return {self.errors: error_bar([str(error)]), self.timer: gr.Timer(active=False)}
        running = now.state is Outcome.RUNNING
        return {
            self.status: status(now),
            self.stop: gr.update(visible=running),
            self.box: gr.update(label=f"{TITLE} · {name}: {in_short(now.step)}" if running else TITLE),
            self.start: gr.update(interactive=not running),
            self.watched: name,
            self.timer: gr.Timer(active=running),
        }


def status(now: Now) -> str:
    """How far an evaluation is, with links to what has come of it."""
    links = [
        (Link(tab=Tab.ANNOTATE, run=now.run).query(), "Annotate the answers"),
        (Link(tab=Tab.RESULTS, view="overview", runs=(now.run,)).query(), "See the rates"),
    ] if now.run else []  # fmt: skip
    if now.state is Outcome.RUNNING:
        links = links[:1]
    lines = [line for line in now.printed.splitlines() if line.strip()] if now.state is Outcome.STOPPED else []
    return _macros().status(now, phase(now.step), _left(now.step), "\n".join(lines[-LAST:]), links)


def in_short(step: Step | None) -> str:
    """What a job is doing and how far it is, in a line."""
    counted = f" {step.done:,} of {step.total:,}" if step is not None and step.total else ""
    return f"{phase(step).lower()}{counted}"


def _left(step: Step | None) -> str:
    seconds = step.seconds_left if step is not None else None
    return "" if seconds is None else time_in_words(seconds)


def _macros() -> Any:
    return macros("evaluate.html")
