"""Drawings by other hands, for ``gather``: many sets of icons together draw what none of them draws alone.

A set of icons draws few of the things, but many sets together draw half of them, each by a hand of its own. They come
as the helper styles ``hand-0`` to ``hand-11``: a thing's first drawing among these sets, its second, and so on. None is
a set of ``gather_icons``, whose pictures must stay what the eyes were not tuned to, and none is of the Noto family. For
training only; nothing of them is shipped.
"""

import json
from pathlib import Path

from mis_lib.text.concepts import concepts
from research.mini.assets import HANDS
from research.mini.gather_icons import icons_of, names_of
from research.mini.iconify import by_bare_name
from research.mini.packages import npm_package

SETS = (
    "icon-park-solid", "pinhead", "picon", "reicon", "at-icons", "si-glyph", "glyphs-poly", "griddy-icons",
    "keyline-icons", "fluent", "flowbite", "vadivam", "roentgen", "fe", "ep", "charm", "akar-icons", "icomoon-free",
    "entypo", "gg", "grommet-icons", "circum", "ix", "prime", "humbleicons", "mage", "heroicons", "zmdi",
    "system-uicons", "ci", "zondicons", "ant-design", "memory", "lets-icons", "maki", "typcn", "simple-line-icons",
    "el", "et", "foundation", "octicon", "oi", "basil", "garden", "eva", "codicon", "dashicons", "si", "cuida",
    "nimbus", "stash", "mono-icons", "mi", "pajamas", "wpf", "oui", "ls", "vs", "map", "icons8", "lsicon",
    "gridicons", "iconamoon", "flat-color-icons", "bytesize", "ooui", "uiw", "subway", "quill", "gala",
)  # fmt: skip
ELSEWISE = frozenset(
    {
        "chart decreasing", "compass", "confetti ball", "cook", "doctor", "genie", "hamburger", "hindu temple", "ice",
        "judge", "ledger", "man", "mosque", "person getting massage", "pie", "radio", "salad", "scroll", "superhero",
        "synagogue", "tongue", "woman", "wood", "world map",
    }
)  # fmt: skip
"""Under these names several of the sets draw something else, such as a menu's three lines or a chart."""
ALSO_CALLED = {
    "admission tickets": ("tickets",),
    "balance scale": ("scales",),
    "ball of yarn": ("yarn",),
    "banknotes": ("dollar-banknote",),
    "beer mug": ("beer",),
    "bicycle": ("bike",),
    "bowl of rice": ("rice",),
    "brick": ("bricks",),
    "champagne bottle": ("champagne",),
    "dartboard": ("bullseye", "dart"),
    "dress shoe": ("shoe",),
    "fax machine": ("fax",),
    "french fries": ("fries",),
    "glasses": ("eyeglasses",),
    "graduation cap": ("mortar-board",),
    "headphone": ("headphones",),
    "high-heeled shoe": ("high-heel",),
    "honeybee": ("bee",),
    "hot dog": ("hotdog",),
    "ice cream cone": ("icecream",),
    "ID card": ("identification-card",),
    "laptop": ("computer",),
    "light bulb": ("bulb",),
    "lightning bolt": ("high-voltage", "zap"),
    "locked": ("lock",),
    "mobile phone": ("iphone", "smartphone"),
    "mouth": ("lips",),
    "museum": ("classical-building",),
    "no smoking sign": ("no-smoking",),
    "office building": ("office",),
    "open book": ("book",),
    "optical disk": ("cd",),
    "puzzle piece": ("jigsaw",),
    "radioactive sign": ("radioactive",),
    "recycling symbol": ("recycle",),
    "skis": ("ski",),
    "sailboat": ("boat",),
    "sun": ("sunny",),
    "t-shirt": ("tshirt",),
    "tangerine": ("mandarin",),
    "thumbs down": ("thumbsdown",),
    "thumbs up": ("thumbsup",),
    "unlocked": ("unlock",),
    "warning sign": ("warning",),
}
"""What these sets call things beside the names in ``gather_icons``."""


def hands(downloads: Path) -> dict[str, list[str]]:
    """At most ``len(HANDS)`` drawings (SVG) of each thing that any of the sets draws, by its name.

    One of each set, in the order of ``SETS``.
    """
    # all sets in one package of 104 MB, since some have none of their own
    folder = npm_package("@iconify/json", downloads) / "json"
    tables = {name: by_bare_name(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))) for name in SETS}
    found = {}
    for thing in sorted(concepts().keys() - ELSEWISE):
        drawn = icons_of([*names_of(thing), *ALSO_CALLED.get(thing, ())], tables)
        if drawn:
            found[thing] = [svg for _, svg in drawn[: len(HANDS)]]
    return found
