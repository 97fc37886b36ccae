"""Progress bars on ``console.log``, one form for all commands: a single bar with the time that is left, or a bar a name with the time gone by."""

from collections.abc import Callable

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mis_lib import console

Progressed = Callable[[str, int, int], None]
"""Takes a name, how many of its parts are done, and of how many."""


def bar(what: str, *, shown: bool = True) -> Progress:
    """A bar with a word before it and its task's description behind; drawn where somebody watches, and gone at the end."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console.log, transient=True, disable=not (shown and console.log.is_interactive))


def bars(*, kept: bool) -> Progress:
    """Bars below one another; ``kept`` ones stay at the end, also in a log, the others are drawn where somebody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    unseen = not kept and not console.log.is_interactive
    return Progress(*columns, console=console.log, transient=not kept, disable=unseen)


def report_to(progress: Progress) -> Progressed:
    """What moves the bar of a name, which begins when it is first told."""
    tasks: dict[str, TaskID] = {}

    def report(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done)

    return report
