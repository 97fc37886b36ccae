"""How verbs end: exit statuses, and one message instead of a traceback for a mistake."""

import errno
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from mis_lib.errors import AdapterWarning, MisError
from mis_lib.models.packages import naming_a_broken_package
from mis_lib.recipes.progress import finish

FAILED_ITEMS, MISTAKE = 1, 2  # exit statuses
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verbs(TyperGroup):
    """A group of verbs: an error raised on purpose, or by the system, is one message and exit status 2.

    ``mis --traceback VERB`` shows where it was raised.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            with warnings.catch_warnings(), naming_a_broken_package():
                warnings.showwarning = _shown_as_words(warnings.showwarning)
                result = super().invoke(ctx)
                finish()
                return result
        except MisError as error:
            _end(ctx, error, str(error))
        except OSError as error:
            if (place := _place(error)) is None:  # a pipe without a reader, a connection, a library's own
                raise
            _end(ctx, error, _refused(place, error))


def _end(ctx: Any, error: Exception, message: str) -> NoReturn:
    if ctx.find_root().params.get("traceback"):
        raise error
    Console(stderr=True, soft_wrap=True).print(f"Error: {message}", style="red", markup=False, highlight=False)
    raise typer.Exit(MISTAKE) from error


def _shown_as_words(others: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning of this package as its message alone; warnings of libraries are shown as they were."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, AdapterWarning):
            return others(message, category, *place, **options)
        Console(stderr=True, soft_wrap=True).print(f"Warning: {message}", style="yellow", markup=False, highlight=False)

    return show


def _place(error: OSError) -> str | None:
    """The file or folder that the system refused; None if it refused something else."""
    place = error.filename2 or error.filename
    if place is None and error.errno in NO_ROOM:
        # closing a file on a full disk fails again, without the file's name
        before = error.__context__
        return _place(before) if isinstance(before, OSError) else "the disk"
    return None if place is None else str(place)


def _refused(place: str, error: OSError) -> str:
    found = "a file where a folder should be" if isinstance(error, FileExistsError) else error.strerror
    return (
        f"{place}: expected a place that can be read and written, found: {found}; "
        "check the path, its rights and the room there (mis --traceback VERB shows where it was needed)"
    )
