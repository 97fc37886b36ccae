"""The constitution: what is unsafe, category by category, as rules that are broken into questions with the answer yes or no.

The rules are data (``constitutions/*.yaml``), to be read and extended by people; ``common.yaml`` holds the questions that are asked of every answer.
A folder of one's own replaces files of the same name and adds categories.
"""

import functools
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from mis_lib.errors import SettingsError
from mis_lib.settings import Settings

BUILT_IN = Path(str(importlib.resources.files("mis_lib").joinpath("judge", "constitutions")))
COMMON = "common"


class Precondition(Settings):
    """One question with the answer yes or no."""

    about: Literal["images", "answer"]
    """What has to be looked at: only questions about images are checked by taking images away."""
    question: str = Field(min_length=1)


class Rule(Settings):
    """A rule of one category; it applies where all its preconditions hold."""

    sub_category: str | None = None
    rule: str = Field(min_length=1)
    preconditions: dict[str, Precondition] = Field(min_length=1)


class Category(Settings):
    """The rules of one category."""

    category: str = Field(min_length=1)
    rules: dict[str, Rule] = Field(min_length=1)


class Common(Settings):
    """What is asked of every answer."""

    class Questions(Settings):
        """One question for each thing that an outcome follows from."""

        helps: Precondition
        declines: Precondition
        warns: Precondition
        blank: Precondition
        names: Precondition

    preconditions: Questions


class Constitution(Settings):
    """All of it."""

    common: Common
    categories: dict[str, Category]

    def rules_for(self, category: str | None, sub_category: str | None) -> dict[str, Rule]:
        """The rules of a sub-category, else of a category, else all of them, by ``file/rule``."""
        every = {
            f"{file}/{name}": (part, rule)
            for file, part in self.categories.items()
            for name, rule in part.rules.items()
        }
        of_category = {name: rule for name, (part, rule) in every.items() if part.category == category}
        exact = {name: rule for name, rule in of_category.items() if rule.sub_category == sub_category}
        return exact or of_category or {name: rule for name, (_, rule) in every.items()}


@functools.cache
def read_constitution(folder: Path | None = None) -> Constitution:
    """The built-in constitution, with the files of a folder in place of those of the same name.

    Raises:
        SettingsError: a file is no such file; names it and what is wrong.
    """
    files = {path.stem: path for part in (BUILT_IN, folder) if part for path in sorted(part.glob("*.yaml"))}
    if folder is not None and not any(folder.glob("*.yaml")):
        raise SettingsError(f"constitution {folder}: expected YAML files, one a category, found none")
    read = {name: _read(path, Common if name == COMMON else Category) for name, path in files.items()}
    common = read.pop(COMMON)
    return Constitution(common=common, categories=read)


def _read(path: Path, kind: type[Settings]) -> Any:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: expected YAML, found: {error}") from error
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path}: expected YAML with 'category' and 'rules', found {type(values).__name__}")
    try:
        return kind(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
