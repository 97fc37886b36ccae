"""Views: what a row of any form says, and how its fields are looked at without stopping at the first that is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mis_lib.data.findings import Finding, Kind, Place
from mis_lib.data.rows import Form, shown
from mis_lib.text.refusals import opens_with_refusal

LATER_TURNS, SYSTEM_PROMPT = "later turns", "a system prompt"


@dataclass
class View:
    """What one row says; fields that are missing or wrong are empty, and ``findings`` say so."""

    place: Place
    form: Form
    question: str = ""
    """All user turns, without placeholders."""
    answer: str | None = None
    """All assistant turns; None where the row has none."""
    images: list[str] = field(default_factory=list)
    placeholders: int | None = None
    """How many stand in the user's turns; None where the form uses none."""
    category: str | None = None
    sub_category: str | None = None
    harmful: bool | None = None
    twin_id: str | None = None
    mask_eos: bool = False
    not_shown: list[str] = field(default_factory=list)
    """What the row holds and no model is asked with: ``LATER_TURNS``, which fine-tuning learns, and ``SYSTEM_PROMPT``, which nothing reads."""
    exchanges: int = 1
    """Questions, each with its answer."""
    later: str = ""
    """What our own form keeps of later turns, which stand in ``question`` and ``answer`` in the others."""
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def declines(self) -> bool:
        """Whether the answer opens with a refusal."""
        return self.answer is not None and opens_with_refusal(self.answer)

    def note(self, kind: Kind, name: str, message: str, fix: str) -> None:
        """Add a finding about this row."""
        self.findings.append(self.place.finding(kind, name, message, fix))


def image_list(seen: View, values: Mapping[str, Any], name: str, *, may_be_one: bool) -> list[str]:
    """The paths of a list field; LLaVA's ``image`` may be a single path, ``images`` may not: it would be read letter by letter."""
    listed = values.get(name)
    if isinstance(listed, str):
        if not may_be_one:
            message = f"expected a list of paths, found {shown(listed)}"
            seen.note(Kind.STRING_FOR_LIST, name, message, f"write {json.dumps([listed])}")
        return [listed]
    if listed is None or listed == []:
        seen.note(
            Kind.NO_IMAGES,
            name,
            f"expected images, found {'an empty list' if listed == [] else 'none'}",
            "name the images",
        )
        return []
    if not isinstance(listed, list):
        seen.note(
            Kind.WRONG_TYPE, name, f"expected a list of paths, found {shown(listed)}", "write the paths as a list"
        )
        return []
    names = []
    for number, path in enumerate(listed):
        if isinstance(path, dict) and path.get("bytes") is None:
            path = path.get("path")
        if isinstance(path, str):
            names.append(path)
        else:
            seen.note(
                Kind.WRONG_TYPE, f"{name}[{number}]", f"expected a path, found {shown(path)}", "name the image file"
            )
    return names


def text_field(seen: View, values: Mapping[str, Any], name: str) -> str:
    """A field that must hold text; empty if it does not."""
    text = values.get(name)
    if not isinstance(text, str):
        wrong(seen, values, name, "a text", f"write the {name}")
        return ""
    return text


def wrong(seen: View, values: Mapping[str, Any], name: str, expected: str, fix: str) -> None:
    """Note that a field is missing or of another type."""
    kind = Kind.WRONG_TYPE if values.get(name) is not None else Kind.MISSING_FIELD
    found = shown(values[name]) if name in values else "no such field"
    seen.note(kind, name, f"expected {expected}, found {found}", fix)
