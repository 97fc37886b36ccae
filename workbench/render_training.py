"""HTML of a training run: its state in one line, its numbers, what to do next, and the end of its output."""

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from workbench.links import Link, Tab
from workbench.train.actions import Job, State

EMPTY = (
    '<div class="mis-empty mis-empty-results"><b>No training run yet</b><ol><li>Choose a configuration; <em>mini-mirage</em> is the paper\'s '
    "recipe on the embedded model.</li><li>For a first look set <em>Steps at most</em> to 20, and write <code>evaluation.every=10</code> under "
    "<em>Other settings</em>.</li>"
    "<li>Press <em>Start</em>: losses appear here as they are logged. The run goes on if you close the page.</li></ol></div>"
)
NONE_CHOSEN = '<div class="mis-empty"><b>No run is chosen</b><p>Choose one under Run.</p></div>'
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
    "token_accuracy": ("tokens right", "{:.1%}"),
    "samples_per_second": ("samples/s", "{:.2f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "padding_share": ("padding", "{:.0%}"),
    "memory_gb": ("memory", "{:.1f} GB"),
    "lr": ("learning rate", "{:.2e}"),
    "eta_seconds": ("left", "{}"),
}


def command_text(command: Sequence[str]) -> str:
    """The command as one types it."""
    shown = ["mis", *command[3:]] if list(command[1:3]) == ["-m", "mis_lib.cli"] else list(command)
    return shlex.join(shown)


def status(name: str, state: State, newest: Mapping[str, Any], job: Job | None, printed: str = "") -> str:
    """Where the run stands, its newest numbers, and if it has stopped the last of what it printed: why it did, where it died."""
    tone, told = STATES[state]
    numbers = "".join(
        f"<div><dt>{label}</dt><dd>{escape(_number(key, form, newest[key]))}</dd></div>"
        for key, (label, form) in NUMBERS.items()
        if newest.get(key) is not None and not (key == "eta_seconds" and state is not State.RUNNING)
    )
    since = (
        f" · started {escape(job.started.replace('T', ' ').replace('+00:00', ' UTC'))}"
        if job
        else " · started in a shell"
    )
    last = [line for line in printed.splitlines() if line.strip()][-LAST:] if state is State.STOPPED else []
    said = f'<pre class="mis-output">{escape(chr(10).join(last))}</pre>' if last else ""
    return (
        f'<div class="mis-run" data-state="{state}"><p class="mis-pill {tone}" role="status"><span class="mis-dot"></span><span><b>{escape(name)}</b> '
        f'{told}{since}</span></p><dl class="mis-numbers">{numbers}</dl>{said}</div>'
    )


def after(name: str, folder: Path, variants: Sequence[str]) -> str:
    """What to do with a finished run."""
    link = Link(tab=Tab.COMPARE, run=f"{name}/{folder.name}", variants=tuple(variants)).query()
    return (
        f'<p class="mis-next"><a class="mis-link" href="{escape(link)}" data-link>Compare with base</a> '
        f"<span>loads this adapter beside the others and opens Compare with both ticked. To measure it:</span> "
        f"<code>{escape(measuring(name, folder))}</code></p>"
    )


def measuring(name: str, folder: Path) -> str:
    """The command that measures a finished run's adapter beside its base."""
    adapters = json.dumps({"base": None, name: str(folder / "adapter")})
    return shlex.join(["mis", "report", "--set", f"adapters={adapters}", "--variants", "base", name])


def output(text: str) -> str:
    """The end of what the process has printed."""
    return f'<pre class="mis-output" tabindex="0">{escape(text) or "(nothing printed yet)"}</pre>'


def _number(key: str, form: str, value: Any) -> str:
    if key == "eta_seconds":
        minutes, seconds = divmod(int(value), 60)
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
    return form.format(value)
