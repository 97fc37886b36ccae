"""HTML of the Train tab: a run's state and numbers, what to do next, and the end of its output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from workbench.html import macros
from workbench.links import Link, Tab
from workbench.measure import report_command
from workbench.trainings import Job, State

STATES = {
    State.RUNNING: ("mis-working", "running"),
    State.STOPPED: ("mis-failed", "stopped before its end: Start or resume goes on from the last checkpoint"),
    State.FINISHED: ("mis-ready", "finished"),
}
LAST = 6  # lines of the output of a run that has stopped
NUMBERS = {
    "step": ("step", "{:,}"),
    "epoch": ("epoch", "{:.2f}"),
    "loss": ("loss", "{:.3f}"),
    "token_accuracy": ("token accuracy", "{:.1%}"),
    "samples_per_second": ("samples/s", "{:.2f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "padding_share": ("padding", "{:.0%}"),
    "memory_gb": ("memory", "{:.1f} GB"),
    "lr": ("learning rate", "{:.2e}"),
    "eta_seconds": ("time left", "{}"),
}


def empty(*, any_run: bool) -> Markup:
    """What to do while no run is shown: choose one, or start the first."""
    return macros("train/run.html").empty(any_run)


def status(name: str, state: State, newest: Mapping[str, Any], job: Job | None, printed: str = "") -> Markup:
    """A run's state and its newest numbers; for one that has stopped, also its last output, which says why."""
    tone, label = STATES[state]
    numbers = {
        heading: _number(key, form, newest[key])
        for key, (heading, form) in NUMBERS.items()
        if newest.get(key) is not None and not (key == "eta_seconds" and state is not State.RUNNING)
    }
    since = job.started.replace("T", " ").replace("+00:00", " UTC") if job else "in a shell"
    last = [line for line in printed.splitlines() if line.strip()][-LAST:] if state is State.STOPPED else []
    return macros("train/run.html").status(name, state, tone, label, since, numbers, "\n".join(last))


def next_steps(name: str, folder: Path, variants: Sequence[str]) -> Markup:
    """What to do with a finished run."""
    link = Link(tab=Tab.COMPARE, run=f"{name}/{folder.name}", variants=tuple(variants)).query()
    return macros("train/run.html").next_steps(link, report_command(name, folder))


def output(text: str) -> Markup:
    """The end of what the process has printed."""
    return macros("train/run.html").output(text)


def _number(key: str, form: str, value: Any) -> str:
    if key == "eta_seconds":
        minutes, seconds = divmod(int(value), 60)
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
    return form.format(value)
