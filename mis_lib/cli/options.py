"""Options of a verb, generated from its settings class: the fields are the one place where a setting is declared.

    @verbs.command(name="study", cls=options_of("mis_lib.recipes.study:StudySettings", "arms rows train.seed"))
    def run_study(ctx: typer.Context, as_json: AsJson = False) -> None:
        settings = resolve(ctx, StudySettings)

A verb names the fields that get an option; the option of a dotted field is its last part (``--seed``). Name, type and
default come from the field, the help from its docstring. ``--config FILE`` and ``--set key=value`` are added and reach
every field: options win over the file, ``--set`` wins over both. A field that is a tuple takes several values
(``--splits easy hard``), a mapping takes ``NAME=VALUE``.

Why not a library: none of pydantic-settings' command line, tyro and cyclopts fits these conventions. pydantic-settings
refuses ``--images a b``, and a value out of range ends in a traceback with status 1. cyclopts prefixes the parameter's
name, replaces underscores by hyphens, and takes one value a flag. tyro reads lists, but makes an option of every field,
takes the keys of a mapping as separate words, supports no file under the options, and prints a frame around errors. All
three import every settings class, and so pandas and openai, before ``mis --help``; here a class is imported when its
verb runs.
"""

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer.core import TyperCommand

from mis_lib.cli.checkout import outside
from mis_lib.errors import SettingsError
from mis_lib.settings import Settings, load_settings

S = TypeVar("S", bound=Settings)
Read = Callable[[Sequence[str], Mapping[str, Any]], Any]
"""Turns the words after an option into the value of its setting; gets all options that were given, too."""

GIVEN = "mis_lib.cli.options"  # key in a context's ``meta``
CONFIG, SET = "config", "set"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
OnDevice = Annotated[
    str, typer.Option("--device", help="auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps.")
]


class ManyValues(TyperCommand):
    """A verb whose list options take several values after one flag, as ``--images a.png b.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat each list flag before each of its values, which is the form that the parser knows."""
        lists = {flag for parameter in self.params if getattr(parameter, "multiple", False) for flag in parameter.opts}
        return super().parse_args(ctx, list(repeat_flags(args, lists)))


def options_of(
    kind: str, fields: str, *, file: bool = True, panel: str | None = None, verb: str = "", **read: Read
) -> type[ManyValues]:
    """The class of a command that has an option for each of these fields before the options that its function declares.

    Args:
        kind: "MODULE:CLASS" of the settings, imported when the verb is run or asked for its help.
        fields: names of fields, separated by spaces; "group.field" for what is in a group.
        file: whether ``--config`` and ``--set`` are added.
        panel: title over these options in the help.
        verb: of a module outside the package, what the message of a missing checkout names.
        read: by option, how its words become a value, where they are not the value itself.
    """

    class WithSettings(ManyValues):
        _own: Sequence[Any] = ()  # parameters of the function
        _all: Sequence[Any] | None = None

        @property
        def params(self) -> Any:
            if self._all is None:
                module, _, name = kind.partition(":")
                settings = getattr(outside(module, verb) if verb else import_module(module), name)
                self._all = [*_parameters(settings, fields.split(), file=file, panel=panel), *self._own]
            return self._all

        @params.setter
        def params(self, own: Sequence[Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
            self._own = own

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            rest = super().parse_args(ctx, args)
            own = {parameter.name for parameter in self._own}
            found = {name: ctx.params.pop(name) for name in list(ctx.params) if name not in own}
            words = {
                name: value for name, value in found.items() if not (value is None or value is False or value == ())
            }
            ctx.meta[GIVEN] = _Given({field.rpartition(".")[2]: field for field in fields.split()}, words, read)
            return rest

    return WithSettings


def given(ctx: typer.Context) -> Mapping[str, Any]:
    """The generated options that were given, unread, by name; with ``config`` and ``set``."""
    return ctx.meta[GIVEN].words


def resolve(ctx: typer.Context, kind: type[S], **more: Any) -> S:
    """The settings of a verb: those of the file, over them the options that were given, over these ``--set``.

    Args:
        ctx: of the verb.
        kind: the class that ``options_of`` named.
        more: values of fields that the verb sets.

    Raises:
        SettingsError: as ``load_settings``.
    """
    fields, words, read = ctx.meta[GIVEN]
    values = {
        fields[name]: read[name](value, words) if name in read else value
        for name, value in words.items()
        if name in fields
    }
    pairs = [f"{key}={json.dumps(value, default=str)}" for key, value in {**values, **more}.items()]
    return load_settings(kind, words.get(CONFIG), overrides=[*pairs, *words.get(SET, ())])


def named_values(
    flag: str, values: Sequence[str], *, what: str = "VALUE", taken: Collection[str] = ()
) -> dict[str, str]:
    """``["one=a", "two=b"]`` as a mapping.

    Raises:
        SettingsError: a value is not ``NAME=VALUE``, two have the same name, or one has a name that is ``taken``.
    """
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
    """The folders that ``--adapters NAME=FOLDER`` names; ``None`` where the option was not given.

    Raises:
        SettingsError: as ``named_values``.
    """
    if not values:
        return None
    return {name: Path(path) for name, path in named_values("--adapters", values, what="PATH").items()}


def with_base(values: Sequence[str], _: Mapping[str, Any]) -> dict[str, str | None]:
    """The variants of ``--adapters NAME=FOLDER``, compared with their checkpoint, which is called base.

    Raises:
        SettingsError: as ``named_values``; or one is called base.
    """
    return {"base": None, **named_values("--adapters", values, what="FOLDER", taken=["base"])}


def prompt_files(values: Sequence[str], _: Mapping[str, Any]) -> dict[str, str]:
    """The files that ``--prompts NAME=FILE`` names.

    Raises:
        SettingsError: as ``named_values``.
    """
    return named_values("--prompts", values, what="FILE")


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


class _Given(NamedTuple):
    """What one call of a verb was given."""

    fields: Mapping[str, str]  # by option
    words: Mapping[str, Any]
    read: Mapping[str, Read]


def _parameters(settings: type[Settings], fields: Sequence[str], *, file: bool, panel: str | None) -> Sequence[Any]:
    """The parameters as typer makes them of a function's signature."""
    options = {path.rpartition(".")[2]: _option(settings, path, panel) for path in fields}
    if file:
        about = {CONFIG: "YAML file with these settings and more.", SET: "key=value, wins over the file."}
        options[CONFIG] = Path | None, typer.Option(f"--{CONFIG}", help=about[CONFIG], rich_help_panel=panel)
        options[SET] = list[str] | None, typer.Option(f"--{SET}", help=about[SET], rich_help_panel=panel)

    def verb(**_: Any) -> None: ...

    hints = {name: Annotated[annotation, option] for name, (annotation, option) in options.items()}
    kind = inspect.Parameter.KEYWORD_ONLY
    verb.__annotations__ = hints
    verb.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [
            inspect.Parameter(name, kind, annotation=hint, default=False if options[name][0] is bool else None)
            for name, hint in hints.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(verb)
    return typer.main.get_command(app).params


def _option(kind: type[Settings], path: str, panel: str | None) -> tuple[Any, Any]:
    """Annotation and option of a field, as a function would declare them."""
    group, _, name = path.rpartition(".")
    inner: Any = kind.model_fields[group].annotation if group else kind
    field = inner.model_fields[name]
    default = getattr(kind.model_fields[group].default, name) if group else field.default
    text = _about(inner, name).replace("``", "")
    if "default" not in text and (shown := _shown(default)):
        text = f"{text} (default: {shown})".strip()
    return _annotation(field), typer.Option(f"--{name}", help=escape(text), rich_help_panel=panel)


def _about(kind: type[BaseModel], name: str) -> str:
    """The docstring of a field, from the first class that has one."""
    classes = [one for one in kind.__mro__ if issubclass(one, BaseModel) and name in one.model_fields]
    return next((text for one in classes if (text := one.model_fields[name].description)), "")


def _annotation(field: FieldInfo) -> Any:
    """The type that the command line reads; ranges and choices are checked by the settings."""
    of = field.annotation
    if get_origin(of) in (Union, UnionType):
        of = next(one for one in get_args(of) if one is not NoneType)
    if get_origin(of) is tuple:
        return list[Path] | None if get_args(of)[0] is Path else list[str] | None
    if get_origin(of) is dict:
        return list[str] | None
    if of is bool:
        return bool
    return (of if of in (int, float, Path) else str) | None


def _shown(default: Any) -> str:
    if isinstance(default, tuple | list):
        return " ".join(map(str, default))
    return "" if default is None or default is False or isinstance(default, BaseModel | Mapping) else str(default)
