"""The prompts: one Markdown file a task, in ``mis_lib/construct/prompts``, which people can copy and edit (``--set prompts=FOLDER``).

A file has two parts, ``# System`` and ``# User``. ``$name`` stands for a fact about the record, ``$input`` for the record as JSON; the form of the answer
is added behind. A folder of one's own needs only the files that differ. The hash of a file is in the lineage of every record, and an
edited file makes its stage be done anew.
"""

import importlib.resources
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from mis_lib.clients.protocol import digest
from mis_lib.errors import SettingsError

BUILT_IN = Path(str(importlib.resources.files("mis_lib.construct"))) / "prompts"

# What each task is told about the record; also the names that its prompt may use.
FACTS: Mapping[str, tuple[str, ...]] = {
    "extract": ("seed", "category", "sub_category", "count", "taxonomy", "vocabulary"),
    "rewrite": ("category", "objects", "risk", "request"),
    "detox": ("category", "objects", "risk", "question"),
    "critique": ("category", "objects", "risk", "question", "prompts"),
    "judge": ("category", "sub_category", "objects", "risk", "question"),
    "danger_text": ("question",),
    "danger_images": ("objects", "risk"),
    "label": ("category", "objects", "risk", "question"),
    "twin": ("category", "objects", "risk", "question", "may_swap", "vocabulary"),
    "twin_check": ("question", "objects", "answer", "harmful_objects", "harmful_question", "risk"),
}
ASIDE = ("taxonomy", "vocabulary")  # the same for every record and long: in $input they would only cost tokens
_PARTS = re.compile(r"\A\s*# System\s*\n(?P<system>.*?)^# User\s*\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE)


class Prompt(NamedTuple):
    """One task's prompt and the digest of its file."""

    task: str
    system: Template
    user: Template
    digest: str

    def render(self, facts: Mapping[str, Any]) -> tuple[str, str]:
        """System and user text with the facts put in."""
        shown = {name: _shown(value) for name, value in facts.items()}
        record = {name: value for name, value in facts.items() if name not in ASIDE}
        values = {**shown, "input": f"```json\n{_json(record, indent=1)}\n```"}
        return self.system.substitute(values).strip(), self.user.substitute(values).strip()


def read_prompts(folder: Path | None = None) -> dict[str, Prompt]:
    """All prompts by task: those of ``folder``, the built-in ones for the rest.

    Raises:
        SettingsError: a file lacks a part, uses a name that its task does not have, or belongs to no task.
    """
    if folder is not None:
        _check_names(folder)
    return {task: _read(task, _file(task, folder)) for task in FACTS}


def _file(task: str, folder: Path | None) -> Path:
    own = folder / f"{task}.md" if folder else BUILT_IN / f"{task}.md"
    return own if own.is_file() else BUILT_IN / f"{task}.md"


def _read(task: str, path: Path) -> Prompt:
    text = path.read_text(encoding="utf-8")
    parts = _PARTS.match(text)
    if parts is None:
        raise SettingsError(f"{path}: expected the two headings '# System' and '# User', each on a line of its own")
    system, user = Template(parts["system"]), Template(parts["user"])
    known = {*FACTS[task], "input"}
    for template in (system, user):
        if not template.is_valid():
            raise SettingsError(
                f"{path}: a '$' stands before something that is no name; write '$$' for the sign itself"
            )
        unknown = sorted(set(template.get_identifiers()) - known)
        if unknown:
            raise SettingsError(
                f"{path}: unknown ${unknown[0]}; this prompt may use {', '.join(f'${name}' for name in sorted(known))}"
            )
    return Prompt(task, system, user, digest(text))


def _check_names(folder: Path) -> None:
    found = sorted(path.stem for path in folder.glob("*.md"))
    unknown = [name for name in found if name not in FACTS]
    if unknown or not found:
        raise SettingsError(
            f"{folder}: expected prompt files among {', '.join(f'{task}.md' for task in FACTS)}, found "
            f"{', '.join(f'{name}.md' for name in unknown) or 'none'}"
        )


def _shown(value: Any) -> str:
    if value is None:
        return "(not given)"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else _json(value)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
