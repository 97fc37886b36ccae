"""People as a man and as a woman, for ``gather``: of a pilot who is neither, emoji sets have two drawings more.

People are what the sets of ``gather_hands`` draw least, and what is mixed up most. What tells a pilot is the cap,
whoever wears it, so that both forms are drawings of the same thing. They come behind a thing's other hands: line art as
it is, and coloured drawings in ink.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mis_lib.construct.drawings import file_svg
from research.mini.assets import PENS
from research.mini.iconify import icon
from research.mini.inked import inked

PERSON, MAN, WOMAN, MALE, FEMALE, JOINER = "1F9D1", "1F468", "1F469", "2642", "2640", "200D"
HAIR = {
    MAN: ("1F468-200D-1F9B0", "1F468-200D-1F9B1", "1F471-200D-2642"),
    WOMAN: ("1F469-200D-1F9B0", "1F469-200D-1F9B1", "1F471-200D-2640"),
}
"""A man and a woman with red, curly and fair hair."""
LINES = "fluent-emoji-high-contrast"  # beside OpenMoji's black drawings
INK = {"openmoji": "bold", "twemoji": "fine"}
INK_FLAT = ("fluent-emoji-flat", "free")


def forms(sign: str) -> tuple[str, ...]:
    """The sequences of a person as a man and as a woman, whether or not there are such.

    ``sign`` is without variation selectors.
    """
    if sign in HAIR:
        return HAIR[sign]
    if sign.startswith(f"{PERSON}-{JOINER}"):
        return sign.replace(PERSON, MAN, 1), sign.replace(PERSON, WOMAN, 1)
    return f"{sign}-{JOINER}-{MALE}", f"{sign}-{JOINER}-{FEMALE}"


def drawn_forms(
    sign: str, names: Mapping[str, Sequence[str]], black: Path, icons: Mapping[str, dict[str, Any]]
) -> list[str]:
    """Drawings (SVG) of a person's two forms, none for other things.

    Args:
        sign: the neutral form's code points without variation selectors, joined by "-".
        names: what sets call a sequence.
        black: OpenMoji's black drawings.
        icons: Iconify's sets by name.
    """
    found = [form for form in forms(sign) if form in names]
    lines = [black_svg(black, form) for form in found] + [icon(icons[LINES], [*names[form]]) for form in found]
    ink = [inked(file_svg(form, style), PENS[pen]) for style, pen in INK.items() for form in found]
    flat, pen = INK_FLAT
    coloured = [icon(icons[flat], [*names[form]]) for form in found]
    return [*filter(None, lines), *ink, *(inked(svg, PENS[pen]) for svg in coloured if svg)]


def black_svg(folder: Path, sign: str) -> str | None:
    """OpenMoji's black line drawing of a sequence without variation selectors."""
    found = (path for path in folder.glob(f"{sign.split('-')[0]}*.svg") if path.stem.replace("-FE0F", "") == sign)
    path = next(found, None)
    return path.read_text(encoding="utf-8") if path else None
