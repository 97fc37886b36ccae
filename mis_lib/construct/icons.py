"""Icons: things as small sets of icons by many hands draw them, for training pictures that are hard to make out.

Mini's eyes were tuned to the styles that it is trained on and hardly ever fail there; in a style that they never saw they often do. A model that is
trained only on what its eyes know well never meets that. No icon here had a part in tuning the eyes, and none may have. The file is made by ``research.mini.gather_icons``.
"""

import functools
import json
import lzma
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("icons.json.xz")


class Icon(NamedTuple):
    """One drawing and the set that it is from."""

    set: str
    svg: str


@functools.cache
def icons() -> dict[str, tuple[Icon, ...]]:
    """The icons of each thing that has any, by its name in ``concepts.csv``."""
    return {name: tuple(Icon(*icon) for icon in found) for name, found in _table()["icons"].items()}


def icon_credits() -> str:
    """Who drew them, and under which licences."""
    sets = [f"{one['title']} by {one['author']} ({one['licence']})" for one in _table()["sets"].values()]
    return f"{len(sets)} sets of icons as Iconify publishes them, in training data: {'; '.join(sets)}"


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(lzma.decompress(FILE.read_bytes()))
