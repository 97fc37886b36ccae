"""Sets of icons as Iconify publishes them: which drawing of a set shows a thing.

A set is a table of drawings by name (``icons.json`` of ``@iconify-json/SET``), and names are all that tells what a
drawing shows.
"""

import re
from collections.abc import Mapping
from typing import Any

from mis_lib.text.concepts import concepts

ELSEWISE = frozenset({"bat", "cricket", "fly", "label", "mouse", "mouse face", "seal", "turkey"})
"""Under these names icon sets draw something else, such as the computer's mouse."""
MANNER = re.compile(
    r"-(line|outlined?|fill(ed)?|solid|bold|light|duotone|regular|thin|linear|broken|sharp|round(ed)?|alt|\d+)$"
)
"""What sets add to a name to tell how, not what, they draw."""


def slug(name: str) -> str:
    """A name as icon sets spell it: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("'", "")).strip("-")


def icon(table: dict[str, Any], names: list[str]) -> str | None:
    """The first of ``names`` that an Iconify set draws, as SVG."""
    for name in names:
        for key in (name, name.removesuffix("-face"), f"{name}-face"):
            entry = table["icons"].get(key)
            if entry is None and key in table.get("aliases", {}):
                entry = table["icons"].get(table["aliases"][key]["parent"])
            if entry:
                width = entry.get("width", table.get("width", 16))
                height = entry.get("height", table.get("height", 16))
                box = f"{entry.get('left', 0)} {entry.get('top', 0)} {width} {height}"
                body = entry["body"].replace("currentColor", "#222")
                return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'
    return None


def by_bare_name(table: Mapping[str, Any]) -> dict[str, Any]:
    """A set with each drawing under what it shows.

    Of ``camera``, ``camera-outline`` and ``camera-2-fill`` the first one, under ``camera``.
    """
    bare: dict[str, Any] = {}
    for key, entry in sorted(table["icons"].items()):
        what = key
        while MANNER.search(what):
            what = MANNER.sub("", what)
        bare.setdefault(what, entry)
    return {**table, "icons": bare, "aliases": {}}


def is_animal_or_face(name: str) -> bool:
    """Whether there is an animal as a whole and its face, which sets with one of them do not tell apart by name."""
    return f"{name} face" in concepts() or name.removesuffix(" face") in concepts().keys() - {name}
