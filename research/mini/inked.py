"""A coloured drawing as one in ink: every shape's outline is drawn, and what is dark is filled.

More line art than there are sets of it.

The unseen style is line art, which few sets draw, while coloured ones are many. A vector drawing still knows its shapes
and which of them hides which: stroked in black and filled with paper or ink they make what a pen would, which no filter
over its pixels does.
"""

import math
import random
import re
from typing import NamedTuple
from xml.etree import ElementTree

from PIL import ImageColor

SHAPES = frozenset({"path", "circle", "ellipse", "rect", "polygon", "polyline", "line"})
NOT_DRAWN = frozenset({"defs", "clipPath", "mask", "linearGradient", "radialGradient", "filter", "style", "symbol"})
LOOKS = ("fill", "stroke", "stroke-width", "opacity", "fill-opacity", "stroke-opacity", "style", "filter")
FAINT = 0.4  # shapes less opaque are light and shade, which a pen leaves out
UNKNOWN = 0.6  # brightness of a paint that cannot be told


class Pen(NamedTuple):
    """How to draw: the line's width in that of the drawing, and which shapes are filled with ink.

    Those below that brightness (0 to 1).

    Hands differ in what they make dark: ``whim`` is the share of shapes that are filled the other way, by a lot that
    follows from the drawing.
    """

    width: float
    dark: float
    whim: float = 0.0


def inked(svg: str, pen: Pen) -> str:
    """The drawing ``svg`` in black and white, with a margin that holds the outer lines.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    root = ElementTree.fromstring(svg)
    left, top, width, height = _frame(root)
    line = pen.width * max(width, height)
    gradients, dice = _gradients(root), random.Random(svg)

    def go(element: ElementTree.Element, fill: str, opacity: float) -> None:
        looks = _looks(element)
        fill, opacity = looks.get("fill", fill), opacity * float(looks.get("opacity", 1))
        tag = element.tag.rpartition("}")[2]
        if tag in NOT_DRAWN:
            return
        for key in LOOKS:
            element.attrib.pop(key, None)
        if tag in SHAPES:
            dark = (_brightness(fill, gradients) < pen.dark) != (dice.random() < pen.whim)
            element.attrib |= _drawn(fill, line / _scale(element), dark=dark)
            if opacity * float(looks.get("fill-opacity", 1)) < FAINT and fill != "none":
                element.set("display", "none")
        for child in element:
            go(child, fill, opacity)

    go(root, "#000", 1.0)
    root.set("viewBox", f"{left - line} {top - line} {width + 2 * line} {height + 2 * line}")
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    return ElementTree.tostring(root, encoding="unicode")


def _drawn(fill: str, line: float, *, dark: bool) -> dict[str, str]:
    ground = "none" if fill in ("none", "transparent") else "#000" if dark else "#fff"
    ends = {"stroke-linejoin": "round", "stroke-linecap": "round"}
    return {"fill": ground, "stroke": "#000", "stroke-width": f"{line:.4g}", **ends}


def _frame(root: ElementTree.Element) -> tuple[float, float, float, float]:
    """Left, top, width and height of what is shown."""
    box = root.get("viewBox")
    if box:
        left, top, width, height = (float(value) for value in re.split(r"[\s,]+", box.strip()))
        return left, top, width, height
    width, height = (float(re.sub(r"[^0-9.]", "", root.get(key, "100"))) for key in ("width", "height"))
    return 0.0, 0.0, width, height


def _looks(element: ElementTree.Element) -> dict[str, str]:
    """Attributes, with those of ``style`` above them."""
    rules = (rule.split(":", 1) for rule in element.get("style", "").split(";") if ":" in rule)
    return dict(element.attrib) | {key.strip(): value.strip() for key, value in rules}


def _scale(element: ElementTree.Element) -> float:
    """By how much a shape's own transformation widens its lines."""
    found = re.match(r"(matrix|scale)\(([^)]*)\)", element.get("transform", ""))
    if not found:
        return 1.0
    values = [float(value) for value in re.split(r"[\s,]+", found[2].strip())]
    if found[1] == "scale":
        return abs(values[0]) or 1.0
    return math.sqrt(abs(values[0] * values[3] - values[1] * values[2])) or 1.0


def _gradients(root: ElementTree.Element) -> dict[str, float]:
    """Mean brightness of each gradient's stops, by what a fill calls it."""
    found = {}
    for gradient in root.iter():
        if gradient.tag.endswith("Gradient"):
            stops = [_brightness(_looks(stop).get("stop-color", "#000"), {}) for stop in gradient]
            if stops:
                found[f"url(#{gradient.get('id')})"] = sum(stops) / len(stops)
    return found


def _brightness(paint: str, gradients: dict[str, float]) -> float:
    if paint in gradients:
        return gradients[paint]
    try:
        red, green, blue = ImageColor.getrgb(paint)[:3]
    except ValueError:  # a gradient that takes its stops from another, or "currentColor"
        return UNKNOWN
    return (0.3 * red + 0.59 * green + 0.11 * blue) / 255
