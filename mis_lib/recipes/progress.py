"""What recipes report while they work. They never print: a listener shows it, and without one they are silent.

    report_to(Terminal())       # the command line and the notebooks do so once (``mis_lib.cli.console``)
    generate_run(settings)

One listener serves the whole process, as in ``logging``: models and data are built deep inside a recipe, and a
parameter would pass through every function on the way.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[str, int, int | None], None]
"""Takes a text, how many parts are done, and of how many (None: not known)."""


class Progress(Protocol):
    """Shows what a recipe reports."""

    def say(self, text: str) -> None:
        """Show one message."""
        ...

    def bar(self, what: str) -> AbstractContextManager[Advance]:
        """One bar called ``what``; the text of an advance is shown after it."""
        ...

    def bars(self, *, kept: bool) -> AbstractContextManager[Advance]:
        """One bar for each text; ``kept`` ones are still shown at the end."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Ignore a message."""

    @contextmanager
    def bar(self, what: str) -> Iterator[Advance]:
        """A bar that nothing draws."""
        yield lambda text, done, total: None

    @contextmanager
    def bars(self, *, kept: bool) -> Iterator[Advance]:
        """Bars that nothing draws."""
        yield lambda text, done, total: None


_listener: Progress = Silent()


def report_to(progress: Progress) -> Progress:
    """Show what recipes report on ``progress`` from now on; returns the listener before."""
    global _listener
    before, _listener = _listener, progress
    return before


def say(text: str) -> None:
    """Report one message."""
    _listener.say(text)


def bar(what: str) -> AbstractContextManager[Advance]:
    """Report the progress of one thing."""
    return _listener.bar(what)


def bars(*, kept: bool = False) -> AbstractContextManager[Advance]:
    """Report the progress of several things at the same time."""
    return _listener.bars(kept=kept)
