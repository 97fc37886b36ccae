"""The raw material of training, and how it comes into memory.

``gather`` fetches it once into a folder (needs pip, npm and, for the cut-out photographs, apt-get or ``dpkg-deb``);
``load_bank`` draws it.

    FOLDER/  styles.json.xz   every concept as SVG in every style
             cutouts.npz      arr (n, 160, 160, 4), names: photographs on transparent ground
                              (tuxpaint-stamps, GPL-2, training only)
             SmolLM2-135M-Instruct.Q4_1.gguf   efficientnet-lite0.pth   NotoEmoji.ttf   Symbola.ttf
"""

import json
import lzma
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from research.mini.inked import Pen, inked

DRAWING = 160  # pixels: what an augmented 224-pixel picture shows of a drawing is never sharper
HANDS = tuple(f"hand-{number}" for number in range(12))
"""A thing's drawings by hands that draw few things (``gather_hands``)."""
BITMAPS = ("unifont", "unifont-pen")
"""Drawings of 16 by 16 points (``gather_bitmaps``)."""
STYLES = (
    "openmoji",
    "twemoji",
    "noto",
    "openmoji-black",
    "emojione",
    "emojione-v1",
    "emojione-monotone",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "fxemoji",
    "streamline-emojis",
    "arcticons",
    "symbola",
    "game-icons",
    "mdi",
    "tabler",
    "ph",
    "icon-park-outline",
    "hugeicons",
    "fa6-solid",
    *BITMAPS,
    *HANDS,
)
COLOURED = (
    "openmoji",
    "twemoji",
    "emojione",
    "emojione-v1",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fxemoji",
    "streamline-emojis",
)
PENS = {"fine": Pen(0.018, 0.3), "bold": Pen(0.032, 0.45), "brush": Pen(0.05, 0.2), "free": Pen(0.026, 0.5, 0.25)}
INKED = {f"{style}-{pen}": (style, pen) for style in COLOURED for pen in PENS}
"""Styles made of others (``inked``): whose drawings, with which pen."""
ALL_STYLES = (*STYLES, *INKED)
FONTS = {"noto": "NotoEmoji.ttf", "symbola": "Symbola.ttf"}
"""Styles whose drawings are characters of a font, which lies in the folder."""


def load_drawings(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Draw every concept in ``ALL_STYLES``: uint8 (concepts, styles, 160, 160, 4), transparent where a style lacks one.

    And the names.
    """
    table: dict[str, dict[str, str]] = json.loads(lzma.decompress((folder / "styles.json.xz").read_bytes()))
    paint = partial(_concept, folder=folder)
    with ProcessPoolExecutor() as pool:
        drawings = np.stack(list(pool.map(paint, table.values(), chunksize=16)))
    return drawings, list(table)


def load_cutouts(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The cut-out photographs (n, 160, 160, 4) and their names."""
    file: Any = np.load(folder / "cutouts.npz")
    return file["arr"], [str(name) for name in file["names"]]


def _concept(svgs: dict[str, str], folder: Path) -> np.ndarray:
    blank = np.zeros((DRAWING, DRAWING, 4), dtype=np.uint8)
    drawn = [_paint(svgs[style], style, folder) if style in svgs else blank for style in STYLES]
    drawn += [_ink(svgs[style], PENS[pen], folder) if style in svgs else blank for style, pen in INKED.values()]
    return np.stack(drawn)


def _ink(svg: str, pen: Pen, folder: Path) -> np.ndarray:
    """Ink alone, as a font has it: what is white lets the ground through."""
    drawing = _paint(inked(svg, pen), "inked", folder)
    ink = drawing[..., 3] * (1 - drawing[..., :3].mean(-1) / 255)
    return np.dstack([np.zeros_like(drawing[..., :3]), ink.round().astype(np.uint8)])


def _paint(svg: str, style: str, folder: Path) -> np.ndarray:
    # its own font and no other: what a font lacks stays blank, and is not lent by the style that must not be seen
    fonts = [str(folder / FONTS[style])] if style in FONTS else None
    png = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWING, height=DRAWING, skip_system_fonts=True, font_files=fonts)
    image = Image.open(BytesIO(bytes(png))).convert("RGBA")
    square = Image.new("RGBA", (DRAWING, DRAWING), (0, 0, 0, 0))
    square.paste(image, ((DRAWING - image.width) // 2, (DRAWING - image.height) // 2))
    return np.asarray(square)
