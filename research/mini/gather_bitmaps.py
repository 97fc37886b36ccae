"""GNU Unifont's signs, for ``gather``: almost every thing, drawn by hand in 16 by 16 points of black and white.

They come in two styles: "unifont", as they are, and "unifont-pen", with lines from point to point instead of squares.
Few other sets of line art draw the rarer things at all.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FILES = ("unifont.otf", "unifont_upper.otf")  # signs up to FFFF, and those behind
POINTS = 16
MARGIN = 1  # points
LINE = 1.0  # a pen's width, in points


def bitmap(font: ImageFont.FreeTypeFont, sign: str) -> np.ndarray:
    """The points (16, 16) of ``sign`` in a font of ``POINTS`` pixels, True where there is ink.

    Signs half as wide stand in the middle.
    """
    paper = Image.new("1", (POINTS, POINTS))
    ImageDraw.Draw(paper).text(((POINTS - round(font.getlength(sign))) // 2, 0), sign, font=font, fill=1)
    return np.asarray(paper)


def squares_svg(points: np.ndarray) -> str:
    """Points (n, n) as SVG, a square each."""
    return _svg("".join(f"M{x} {y}h1v1h-1z" for y, x in _inked(points)), 'fill="#000"', len(points))


def pen_svg(points: np.ndarray) -> str:
    """Points (n, n) as SVG, as a round pen joins them.

    Each with its neighbours, across a corner only where no other way leads.
    """
    ink = set(_inked(points))
    lines = []
    for y, x in sorted(ink):
        lines.append(f"M{x} {y}h0")
        lines += [f"M{x} {y}l{dx} {dy}" for dy, dx in ((0, 1), (1, 0)) if (y + dy, x + dx) in ink]
        for dx in (-1, 1):
            if (y + 1, x + dx) in ink and (y + 1, x) not in ink and (y, x + dx) not in ink:
                lines.append(f"M{x} {y}l{dx} 1")
    pen = f'fill="none" stroke="#000" stroke-width="{LINE}" stroke-linecap="round" transform="translate(0.5 0.5)"'
    return _svg("".join(lines), pen, len(points))


def bitmap_fonts(folder: Path) -> list[ImageFont.FreeTypeFont]:
    """The fonts of ``FILES`` at the size at which they are what was drawn."""
    return [ImageFont.truetype(folder / name, size=POINTS) for name in FILES]


def _inked(points: np.ndarray) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in zip(*np.nonzero(points), strict=True)]


def _svg(path: str, looks: str, points: int) -> str:
    side = points + 2 * MARGIN
    box = f"{-MARGIN} {-MARGIN} {side} {side}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><path d="{path}" {looks}/></svg>'
