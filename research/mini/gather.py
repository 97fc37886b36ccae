"""Fetching the raw material of training into one folder, once: ``python -m research.mini.gather FOLDER``.

Needs pip, npm and apt-get (Debian or a relative), and the extra ``train``. Helper styles come from npm packages of
emoji and icon sets and from Debian's ``fonts-symbola`` and ``fonts-unifont``, cut-out photographs from
``tuxpaint-stamps-default`` (GPL-2; used for training only, never shipped). Sets of the Noto family are left out, since
Noto Emoji is the style that a model must not have seen. Downloads go into FOLDER/downloads and are not fetched twice.
"""

import argparse
import csv
import importlib.resources
import io
import json
import lzma
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mis_lib.construct.drawings import is_distinct, sign_svg, svg_of
from mis_lib.models.mini.wheels import fetch_gguf, tower_file
from mis_lib.text.concepts import concepts
from research.mini.assets import BITMAPS, DRAWING, FONTS, HANDS
from research.mini.gather_bitmaps import bitmap, bitmap_fonts, pen_svg, squares_svg
from research.mini.gather_forms import black_svg, drawn_forms
from research.mini.gather_hands import hands
from research.mini.iconify import ELSEWISE, icon, slug
from research.mini.packages import debian_package, npm_package

EMOJI_SETS = (
    "emojione",
    "emojione-v1",
    "emojione-monotone",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "fxemoji",
    "streamline-emojis",
    "arcticons",
)
PREFIXES = {"arcticons": "emoji-"}  # what a set puts before the names of its emoji
ICON_SETS = ("game-icons", "mdi", "tabler", "ph", "icon-park-outline", "hugeicons", "fa6-solid")
SYMBOLA, SYMBOLA_FONT = "fonts-symbola", Path("usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf")
UNIFONT, UNIFONT_FOLDER = "fonts-unifont", Path("usr/share/fonts/opentype/unifont")
STAMPS = "tuxpaint-stamps-default"
STAMPS_FOLDER = Path("usr/share/tuxpaint/stamps")


def gather(folder: Path, say: Callable[[str], None]) -> None:
    """Fill ``folder`` with everything that ``assets`` reads."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.gguf")):
        shutil.move(fetch_gguf(downloads, say), folder)
    shutil.copy(tower_file(), folder / "efficientnet-lite0.pth")
    font = Path(str(importlib.resources.files("manimgx_fonts"))) / "NotoEmoji[wght].ttf"
    shutil.copy(font, folder / FONTS["noto"])
    shutil.copy(debian_package(SYMBOLA, downloads) / SYMBOLA_FONT, folder / FONTS["symbola"])
    say("Collecting drawings in every style")
    table = json.dumps(dict(styles(downloads))).encode()
    (folder / "styles.json.xz").write_bytes(lzma.compress(table))
    say("Cutting out photographs")
    pictures, names = cutouts(downloads)
    np.savez_compressed(folder / "cutouts.npz", arr=pictures, names=np.array(names))


def styles(downloads: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (concept, SVG by style) for every concept; a style that lacks it is left out."""
    sets = {name: npm_package(f"@iconify-json/{name}", downloads) for name in (*EMOJI_SETS, *ICON_SETS)}
    icons = {name: json.loads((path / "icons.json").read_text(encoding="utf-8")) for name, path in sets.items()}
    black = npm_package("openmoji@17.0.0", downloads) / "black" / "svg"
    slugs = spoken_names()
    font = ImageFont.truetype(debian_package(SYMBOLA, downloads) / SYMBOLA_FONT, size=40)
    unifont = bitmap_fonts(debian_package(UNIFONT, downloads) / UNIFONT_FOLDER)
    others = hands(downloads)
    for name, concept in concepts().items():
        drawn = {style: svg_of(name, style) for style in ("openmoji", "twemoji", "noto") if is_distinct(name, style)}
        names = [*slugs.get(concept.codepoints.replace("-FE0F", ""), []), slug(name)]
        for style, table in icons.items():
            if style in ICON_SETS:  # sets of signs for programs: only what bears the very name
                sought = [] if name in ELSEWISE else [slug(name)]
            else:
                sought = [PREFIXES.get(style, "") + one for one in names]
            if svg := icon(table, sought):
                drawn[style] = svg
        sign = concept.codepoints.replace("-FE0F", "")
        if svg := black_svg(black, sign):
            drawn["openmoji-black"] = svg
        if "-" not in sign:
            character = chr(int(sign, 16))
            if has_sign(font, character):
                drawn["symbola"] = sign_svg(sign, "Symbola")
            if found := next((one for one in unifont if has_sign(one, character)), None):
                points = bitmap(found, character)
                drawn |= dict(zip(BITMAPS, (squares_svg(points), pen_svg(points)), strict=True))
        by_hand = [*others.get(name, ()), *drawn_forms(sign, slugs, black, icons)]
        yield name, drawn | dict(zip(HANDS, by_hand, strict=False))


def spoken_names() -> dict[str, list[str]]:
    """Slugs of the names that emoji sets may use, by code points without variation selectors."""
    import emoji  # pyright: ignore[reportMissingImports]  # the extra "research"

    names: dict[str, list[str]] = {}
    for sign, entry in emoji.EMOJI_DATA.items():
        key = "-".join(f"{ord(part):04X}" for part in sign if part != "\ufe0f")
        names.setdefault(key, []).extend(slug(name.strip(":")) for name in [entry["en"], *entry.get("alias", [])])
    return names


def has_sign(font: ImageFont.FreeTypeFont, sign: str) -> bool:
    """Whether a font draws ``sign`` otherwise than a sign that no font has."""

    def drawn(character: str) -> bytes:
        paper = Image.new("L", (64, 64))
        ImageDraw.Draw(paper).text((2, 2), character, font=font, fill=255)
        return paper.tobytes()

    return drawn(sign) != drawn("\U0010ffff")


def cutouts(downloads: Path) -> tuple[np.ndarray, list[str]]:
    """Photographs on transparent ground, fitted into 150 of 160 pixels: uint8 (n, 160, 160, 4), and their names."""
    stamps = debian_package(STAMPS, downloads)
    text = importlib.resources.files("research.mini").joinpath("cutouts.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    return np.stack([_fitted(stamps / STAMPS_FOLDER / row["file"]) for row in rows]), [row["name"] for row in rows]


def _fitted(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = 150 / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (DRAWING, DRAWING), (0, 0, 0, 0))
    square.paste(image, ((DRAWING - image.width) // 2, (DRAWING - image.height) // 2))
    return np.asarray(square)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    gather(options.parse_args().folder, lambda message: print(message, flush=True))
