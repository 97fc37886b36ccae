"""Every verb with its options: names, kinds, defaults, what must be given; flags that are generated are held against
those written by hand.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

KINDS = {int: "integer", float: "number", str: "text", Path: "path", bool: "switch"}


def verbs_of(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Verbs by their whole names, those of groups too."""
    if hasattr(command, "commands"):
        for part, found in command.commands.items():
            yield from verbs_of(found, f"{name} {part}".strip())
    else:
        yield name, command


def kind_of(parameter: Any) -> str:
    """Integer, number, text, path, switch, or the words that may be given."""
    if getattr(parameter, "is_flag", False):
        return "switch"
    told = getattr(parameter, "type_descriptor", None)
    if told is not None:  # typer that carries click in itself
        kind = told.annotation
        if isinstance(kind, type) and issubclass(kind, Enum):
            return f"one of {' '.join(str(one.value) for one in kind)}"
        return KINDS.get(kind, re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", str(kind)))  # a class, wherever its module lies
    if choices := getattr(parameter.type, "choices", None):
        return f"one of {' '.join(str(getattr(one, 'value', one)) for one in choices)}"
    name = parameter.type.name.removesuffix(" range")
    return {"float": "number", "boolean": "switch", "file": "path", "directory": "path"}.get(name, name)


def least_and_most(parameter: Any) -> list[float | None]:
    """The bounds of a number."""
    holder = parameter if hasattr(parameter, "type_descriptor") else parameter.type
    return [getattr(holder, "min", None), getattr(holder, "max", None)]


def default_of(parameter: Any) -> Any:
    """What holds where nothing is given."""
    value = parameter.default
    value = getattr(value, "value", value)
    if value is False and getattr(parameter, "is_flag", False):
        return None
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def described(parameter: Any) -> dict[str, Any]:
    """What is promised of one option or argument."""
    spelled = sorted([*parameter.opts, *parameter.secondary_opts])
    found = {
        "names": spelled if parameter.opts[0].startswith("-") else "argument",
        "kind": kind_of(parameter), "required": parameter.required,
        "many": parameter.multiple if hasattr(parameter, "multiple") else False,
        "default": default_of(parameter), "bounds": least_and_most(parameter),
    }  # fmt: skip
    return {key: value for key, value in found.items() if value not in (None, False, [None, None])}


def found(command: Any) -> dict[str, dict[str, Any]]:
    return {name: {one.opts[0]: described(one) for one in verb.params} for name, verb in verbs_of(command)}


def test_the_verbs_are_those_that_people_know(command: Any, golden: Callable[..., None]) -> None:
    golden("command_line/verbs", sorted(found(command)))


@pytest.mark.parametrize("part", ["names", "kind", "required", "many", "default", "bounds"])
def test_options_of_every_verb(command: Any, golden: Callable[..., None], part: str) -> None:
    told = {
        verb: {name: one[part] for name, one in sorted(options.items()) if part in one}
        for verb, options in sorted(found(command).items())
    }
    golden(f"command_line/{part}", told)


def test_options_before_the_verb(command: Any, golden: Callable[..., None]) -> None:
    golden("command_line/before", {one.opts[0]: described(one) for one in command.params})


def test_a_negative_form_is_no_surprise(command: Any) -> None:
    """Switches are set by naming them; there is no ``--no-...``, and words are joined by underscores."""
    names = [
        name
        for options in found(command).values()
        for one in options.values()
        for name in one["names"]
        if one["names"] != "argument"
    ]
    assert not [name for name in names if "-" in name[2:] or name.startswith("--no_")]
    assert len(names) > 200


def test_help_of_every_verb_names_its_options(command: Any, mis: Callable[..., Any]) -> None:
    for name, verb in verbs_of(command):
        if name == "app":  # hands its flags on
            continue
        said = mis(*name.split(), "--help")
        assert said.status == 0, name
        for option in (one for one in verb.params if one.opts[0].startswith("--")):
            assert option.opts[0] in said.out, f"{name} {option.opts[0]}"
        assert mis(*name.split(), "-h").status in (0, 2)


@pytest.mark.parametrize("words", [[], ["annotations"], ["bench"]])
def test_a_group_without_a_verb_shows_its_verbs(mis: Callable[..., Any], words: list[str]) -> None:
    said = mis(*words)
    assert said.status in (0, 2)
    assert "Usage" in said.out + said.err


def test_version(mis: Callable[..., Any]) -> None:
    said = mis("--version")
    assert (said.status, said.out[:4]) == (0, "mis ")


def test_an_unknown_option_or_verb_is_a_mistake(command: Any, mis: Callable[..., Any]) -> None:
    assert mis("nonsense").status == 2
    for name, _ in verbs_of(command):
        if name not in ("app", "build"):  # which hand theirs on
            said = mis(*name.split(), "--nonsense", "1")
            assert said.status == 2 and "nonsense" in said.err, name
    assert mis("build", "--nonsense").status == 2


def test_what_must_be_given_is_asked_for(command: Any, mis: Callable[..., Any]) -> None:
    for name, verb in verbs_of(command):
        if any(one.required for one in verb.params):
            assert mis(*name.split()).status == 2, name
