"""The console of the command line: answers in the colours of their segments, progress, JSON.

The three colours are those of the app's legend. Results go to standard output and progress to standard error, so that
``--json`` can be piped. In a notebook both go to standard output, as Jupyter shows standard error as a fault.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mis_lib.cli.doctor import Diagnosis, State
from mis_lib.recipes.progress import FILE_VARIABLE, Advance, Kept, report_to
from mis_lib.schema import SegmentKind

if TYPE_CHECKING:
    from mis_lib.generate.columns import Column
    from mis_lib.generate.served import Served

NONE_SERVED: "Mapping[str, Served]" = {}
COLOURS = {SegmentKind.PERCEPTION: "blue", SegmentKind.REASONING: "yellow", SegmentKind.ANSWER: "green"}
STATE_COLOURS = {State.OK: "green", State.MISSING: "yellow", State.DAMAGED: "red"}

# In a notebook a bar is shown once, when it has ended. Jupyter's live bars need widgets, which pages without a kernel
# cannot show; a terminal's bars would be printed at every update (a kernel's streams claim to be terminals).
_IN_NOTEBOOK = "ipykernel" in sys.modules
_KIND: dict[str, Any] = {"force_jupyter": False, "force_terminal": False if _IN_NOTEBOOK else None}
FILE_WIDTH = 160  # columns of a log or a pipe; at Rich's default of 80 tables lose figures


def _width(stream: TextIO) -> int | None:
    """A file's width; none where a terminal, a notebook or the variable COLUMNS gives it."""
    known = stream.isatty() or _IN_NOTEBOOK or "COLUMNS" in os.environ
    return None if known else FILE_WIDTH


out = Console(width=_width(sys.stdout), **_KIND)
log = Console(stderr=not _IN_NOTEBOOK, width=_width(sys.stderr), **_KIND)


def say(message: str) -> None:
    """Print a message on ``log``."""
    log.print(message, style="dim", markup=False)


class Terminal:
    """Shows on ``log`` what recipes report: messages always, bars on a terminal."""

    def say(self, text: str) -> None:
        """Print a message."""
        say(text)

    @contextmanager
    def bar(self, what: str) -> Iterator[Advance]:
        """A bar with the time left; removed at the end."""
        columns = (
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=log, transient=True, disable=not log.is_interactive) as progress:
            task = progress.add_task("", total=None)

            def advance(text: str, done: int, total: int | None) -> None:
                progress.update(task, description=text, completed=done, total=total)

            yield advance

    @contextmanager
    def bars(self, *, kept: bool) -> Iterator[Advance]:
        """A bar for each text with the time passed; ``kept`` ones are printed at the end, also into a log."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        unseen = not kept and not log.is_interactive
        tasks: dict[str, TaskID] = {}
        with Progress(*columns, console=log, transient=not kept, disable=unseen) as progress:

            def advance(text: str, done: int, total: int | None) -> None:
                if text not in tasks:
                    tasks[text] = progress.add_task(text, total=total)
                progress.update(tasks[text], completed=done)

            yield advance


def show_progress() -> None:
    """Show what recipes report from now on; a notebook calls this once.

    Where the environment names a file (``FILE_VARIABLE``), the newest step is kept there, too.
    """
    file = os.environ.get(FILE_VARIABLE)
    report_to(Kept(Terminal(), Path(file)) if file else Terminal())


def offer(command: str) -> None:
    """Print a command to be copied on ``log``, on one unbroken line."""
    log.print(f"  {command}", style="dim", markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def answer_record(column: "Column", served: "Served | None" = None) -> dict[str, Any]:
    """One variant's answer for JSON; ``segments`` cover the text in order, ``tokens`` is null if a server gave none."""
    from mis_lib.text.segments import segment  # a tenth of a second of patterns, which other verbs do not need

    counted = column.unit == "tokens"
    return {
        "variant": column.variant,
        "text": column.text,
        "segments": [part.model_dump(mode="json") for part in segment(column.text)],
        "tokens": column.tokens if counted else None,
        "seconds": round(column.seconds, 3),
        "tokens_per_second": None if column.speed is None else round(column.speed, 2),
        "finish_reason": column.finish_reason,
        **({} if counted else {"chunks": column.tokens}),
        **({"told": column.told} if column.told else {}),
        **({"server": served.url, "model": served.model} if served else {}),
    }


def answers(columns: Sequence["Column"], served: "Mapping[str, Served]" = NONE_SERVED) -> Group:
    """The answers as panels under the legend of their colours; ``served`` gives the servers of served variants."""
    legend = Text("  ").join(Text(f"■ {kind.value}", style=colour) for kind, colour in COLOURS.items())
    return Group(legend, *(answer(column, served.get(column.variant)) for column in columns))


def answer(column: "Column", served: "Served | None" = None) -> Panel:
    """One variant's answer with its cost below, and the server that gave it above."""
    from mis_lib.text.segments import segment

    text = Text()
    for part in segment(column.text):
        text.append(part.text, style=COLOURS[part.kind])
    if column.told:
        style = "red" if column.finish_reason == "failed" else "dim"
        text.append(f"\n{column.told}" if column.text else column.told, style=style)
    speed = f", {column.tokens / column.seconds:.1f} {column.unit}/s" if column.seconds and column.tokens else ""
    cost = f"{column.tokens} {column.unit}, {column.seconds:.1f} s{speed}, {column.finish_reason or '...'}"
    title = Text.assemble((column.variant, "bold"), f" (sent to {served.host})" if served else "")
    return Panel(text, title=title, subtitle=cost, title_align="left", subtitle_align="right")


def stream_answers(
    stream: Iterable[tuple["Column", ...]], served: "Mapping[str, Served]" = NONE_SERVED
) -> tuple["Column", ...]:
    """Show the answers side by side while they grow, and leave the terminal clean; returns the finished ones."""
    columns: tuple[Column, ...] = ()

    def panels() -> Columns:
        return Columns([answer(column, served.get(column.variant)) for column in columns], equal=True, expand=True)

    with Live(console=out, transient=True, get_renderable=panels):
        for answers_now in stream:
            columns = answers_now
    return columns


def diagnosis(found: Diagnosis) -> Group:
    """What is in order, as a table; then each fault with what it is needed for and the command that fixes it."""
    table = Table(title=f"MIS workbench {found.version}", title_justify="left", show_header=False, box=None)
    rows: dict[str, list[str]] = {}
    for finding in found.findings:
        if finding.state is State.OK and finding.package:  # packages share a line for each use
            rows.setdefault(f"packages for {finding.needed_for}", []).append(f"{finding.name} {finding.detail}")
        elif finding.state is State.OK:
            rows[finding.name] = [finding.detail]
    for name, details in rows.items():
        table.add_row(Text(name, style=STATE_COLOURS[State.OK]), Text(", ".join(details)))
    lines = [
        Text.assemble(
            (f"{finding.name} {finding.state}: ", STATE_COLOURS[finding.state]),
            f"{finding.detail}\n  needed for {finding.needed_for}; fix: {finding.fix}",
        )
        for finding in found.findings
        if finding.state is not State.OK
    ]
    verdict = Text("Ready.", style="green") if found.ready else Text("Not ready: see above.", style="red")
    return Group(table, *lines, verdict)
