"""How verbs are read and how they fail: several values after one flag, one message and no traceback for a mistake."""

import errno
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from mis_lib.errors import AdapterWarning, MisError, SettingsError
from mis_lib.settings import Settings, load_settings

S = TypeVar("S", bound=Settings)
FAILED_ITEMS, MISTAKE = 1, 2  # exit statuses
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Adapters = Annotated[
    list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each further variant, beside base.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="[default: the embedded model]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with these settings and more.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Folder of data files [default: MIS-Mini]")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, ... [default: cpu]")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Ids of items; or RUN[:VARIANT], what was answered wrong there, with its twins."),
]
RunsFolder = Annotated[Path | None, typer.Option("--runs", help="Folder of all runs [default: runs]")]
SetValues = Annotated[list[str] | None, typer.Option("--set", help="key=value, wins over the file.")]


class Verbs(TyperGroup):
    """The group of all verbs: an error raised on purpose, or by the system, is one message and exit status 2, and a traceback only with ``--traceback``."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _shown_as_words(warnings.showwarning)
                return super().invoke(ctx)
        except MisError as error:
            _end(ctx, error, str(error))
        except OSError as error:
            if (place := _place(error)) is None:  # a pipe without a reader, a connection, a library's own
                raise
            _end(ctx, error, _refused(place, error))


class ManyValues(TyperCommand):
    """A verb whose list flags take several values after one flag, as ``--images a.png b.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat each list flag before each of its values, which is the form that the parser knows."""
        lists = {flag for parameter in self.params if getattr(parameter, "multiple", False) for flag in parameter.opts}
        return super().parse_args(ctx, list(repeat_flags(args, lists)))


def _end(ctx: Any, error: Exception, message: str) -> NoReturn:
    if ctx.find_root().params.get("traceback"):
        raise error
    Console(stderr=True, soft_wrap=True).print(f"Error: {message}", style="red", markup=False, highlight=False)
    raise typer.Exit(MISTAKE) from error


def _shown_as_words(others: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning of ours as its message alone, without the line of code that gave it; libraries' warnings are shown as they were."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, AdapterWarning):
            return others(message, category, *place, **options)
        Console(stderr=True, soft_wrap=True).print(f"Warning: {message}", style="yellow", markup=False, highlight=False)

    return show


def _place(error: OSError) -> str | None:
    """The file or folder that the system refused; None if it refused something else."""
    place = error.filename2 or error.filename
    if place is None and error.errno in NO_ROOM:
        # closing a file on a full disk fails anew, and no longer knows its name
        before = error.__context__
        return _place(before) if isinstance(before, OSError) else "the disk"
    return None if place is None else str(place)


def _refused(place: str, error: OSError) -> str:
    found = "a file where a folder should be" if isinstance(error, FileExistsError) else error.strerror
    return (
        f"{place}: expected a place that can be read and written, found: {found}; "
        "check the path, its rights and the room there (mis --traceback VERB shows where it was needed)"
    )


def repeat_flags(args: list[str], lists: set[str]) -> Iterator[str]:
    """``["--images", "a", "b"]`` becomes ``["--images", "a", "--images", "b"]`` for every flag in ``lists``."""
    flag, values = "", 0
    for arg in args:
        if arg.startswith("--"):
            flag, values = arg if arg in lists else "", 0
        else:
            values += 1
            if flag and values > 1:
                yield flag
        yield arg


def resolve(kind: type[S], config: Path | None, flags: Mapping[str, Any], sets: Sequence[str] | None) -> S:
    """The settings of a verb: those of the file, over them the flags that were given (not None), over these ``--set``.

    Raises:
        SettingsError: as ``load_settings``.
    """
    given = [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value is not None]
    return load_settings(kind, config, overrides=[*given, *(sets or [])])


def named_values(
    flag: str, values: Sequence[str] | None, *, what: str = "VALUE", taken: Collection[str] = ()
) -> dict[str, str] | None:
    """``["one=a", "two=b"]`` as a mapping; ``None`` if nothing was given.

    Raises:
        SettingsError: a value is not ``NAME=VALUE``, two have the same name, or one has a name that is ``taken``.
    """
    if not values:
        return None
    named: dict[str, str] = {}
    for value in values:
        name, _, target = value.partition("=")
        if not name or not target:
            raise SettingsError(f"{flag}: expected NAME={what}, found {value!r}")
        if name in named or name in taken:
            raise SettingsError(f"{flag}: the name {name!r} is taken already; call it something else")
        named[name] = target
    return named


def adapter_folders(values: Sequence[str] | None) -> dict[str, Path] | None:
    """As ``named_values``, of the folders given by ``--adapters``.

    Raises:
        SettingsError: as ``named_values``.
    """
    named = named_values("--adapters", values, what="PATH")
    return None if named is None else {name: Path(path) for name, path in named.items()}


def beside_base(values: Sequence[str] | None) -> dict[str, str | None] | None:
    """``--adapters NAME=FOLDER`` as variants that are compared with their checkpoint, which is called base; ``None`` if nothing was given.

    Raises:
        SettingsError: as ``named_values``; or one is called base.
    """
    tuned = named_values("--adapters", values, what="FOLDER", taken=["base"])
    return None if tuned is None else {"base": None, **tuned}
