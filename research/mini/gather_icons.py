"""Gathering ``mis_lib/construct/icons.json.xz`` from small sets of icons.

``python -m research.mini.gather_icons FOLDER``.

Needs npm; downloads go into FOLDER and are not fetched twice. Only sets under licences that let anybody pass them on
are taken, and none that ``gather`` gives to the tower: its end must not have been tuned to what these icons are for
(``mis_lib.construct.drawings``).
"""

import argparse
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mis_lib.construct.drawings import ICONS_FILE
from mis_lib.text.concepts import concepts
from research.mini.iconify import ELSEWISE, by_bare_name, icon, is_animal_or_face, slug
from research.mini.packages import npm_package

CREDITS = ICONS_FILE.with_name("ICONS.md")
SETS = (
    "lucide", "dinkie-icons", "streamline-kameleon-color", "mingcute", "streamline-cyber-color", "whh", "la",
    "iconoir", "ri", "pixelarticons", "streamline-color", "solar", "jam", "carbon", "lineicons",
    "streamline-plump-color", "pepicons-pencil", "material-symbols-light", "vaadin", "boxicons", "healthicons",
    "raphael", "marketeq", "uil", "fontisto", "streamline-ultimate-color", "mynaui", "ion", "tdesign", "cil",
    "majesticons", "temaki", "clarity", "fluent-mdl2", "meteor-icons", "gravity-ui", "proicons", "f7", "bi",
    "qlementine-icons", "teenyicons", "guidance", "duo-icons", "nrk", "streamline-freehand-color",
    "streamline-stickies-color",
)  # fmt: skip
OTHER = ELSEWISE | {"chicken", "football", "microphone", "ram", "squid", "telephone"}
"""Under these names icon sets draw something else, such as a chicken's leg or a round football, or another form of the
thing.
"""
ALSO_CALLED = {
    "baby bottle": ("baby-milk-bottle",),
    "ball of yarn": ("yarn-ball",),
    "bento box": ("bento",),
    "biohazard sign": ("biohazard",),
    "bow and arrow": ("bow-arrow",),
    "broken heart": ("heart-crack",),
    "cat": ("cat", "cat-body"),
    "champagne glasses": ("glass-cheers",),
    "chart decreasing": ("trending-down",),
    "cheese wedge": ("cheese",),
    "chicken leg": ("poultry-leg", "chicken"),
    "chocolate bar": ("chocolate",),
    "clown face": ("circus-clown",),
    "cocktail glass": ("cocktail", "glass-martini"),
    "computer mouse": ("mouse", "mouse-wireless"),
    "convenience store": ("store", "local-convenience-store"),
    "crossed swords": ("swords",),
    "cup of coffee": ("coffee-cup", "cup-hot", "hot-beverage", "coffee"),
    "desktop computer": ("desktop",),
    "diving mask": ("snorkel-mask",),
    "dog": ("dog", "dog-body"),
    "electric plug": ("plug",),
    "file folder": ("folder",),
    "fire engine": ("firefighter-truck",),
    "fork and knife": ("fork-knife", "knife-fork"),
    "fountain pen": ("pen-fountain", "stylus-fountain-pen", "pen-nib"),
    "four leaf clover": ("clover",),
    "framed picture": ("picture-frame", "picture"),
    "gas pump": ("gas-station", "petrol-pump"),
    "gem stone": ("gem",),
    "gift box": ("gift",),
    "gold medal": ("medal",),
    "hiking boot": ("boot",),
    "hindu temple": ("temple-hindu",),
    "hot springs": ("hot-spring",),
    "kitchen knife": ("chefs-knife", "knife"),
    "life buoy": ("life-ring", "buoy", "help-buoy"),
    "lotion bottle": ("lotion",),
    "maple leaf": ("canadian-maple-leaf",),
    "microphone": ("microphone-handheld",),
    "movie camera": ("camera-movie",),
    "musical score": ("music-score",),
    "nail polish": ("nail-varnish",),
    "oil drum": ("oil-barrel",),
    "open file folder": ("folder-open",),
    "optical disk": ("optical-disc", "compact-disc", "disc"),
    "paper document": ("document", "text-document", "document-text"),
    "person getting massage": ("massage",),
    "person in wheelchair": ("wheelchair",),
    "person running": ("running",),
    "person swimming": ("swimming",),
    "pickup truck": ("truck-pickup",),
    "pig": ("pig", "animal-pig"),
    "potted plant": ("plant-pot",),
    "rabbit": ("rabbit",),
    "red flag": ("flag",),
    "red heart": ("heart",),
    "running shoe": ("sport-shoe",),
    "shinto shrine": ("shrine-gate", "shinto"),
    "shopping bags": ("shopping-bag",),
    "skull and crossbones": ("skull-crossbones",),
    "soccer ball": ("soccer",),
    "studio microphone": ("microphone",),
    "television": ("tv",),
    "traffic light": ("traffic-light", "traffic-lights"),
    "whiskey glass": ("glass-whiskey",),
    "wine glass": ("wine",),
}
"""What sets call things whose names they do not use."""
UNLIKE = {("carbon", "soccer"), ("mingcute", "wine"), ("dinkie-icons", "mouse")}
"""Icons that show something else than the others of their name: a player, a bottle, the animal."""
LICENCES = frozenset(["MIT", "ISC", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "OFL-1.1"])
MOST = 12  # icons of one thing, those of the sets that come first


def gather_icons(downloads: Path) -> dict[str, Any]:
    """The sets with their authors and licences, and the icons (set, SVG) of each thing that has any, by its name."""
    downloads.mkdir(parents=True, exist_ok=True)
    sets, tables = {}, {}
    for name in SETS:
        folder = npm_package(f"@iconify-json/{name}", downloads)
        about = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        if about["license"]["spdx"] not in LICENCES:
            raise SystemExit(
                f"{name}: expected a licence among {', '.join(sorted(LICENCES))}, found {about['license']}"
            )
        sets[name] = {
            "title": about["name"],
            "author": about["author"]["name"],
            "licence": about["license"]["spdx"],
            "source": about["author"].get("url", ""),
        }
        tables[name] = by_bare_name(json.loads((folder / "icons.json").read_text(encoding="utf-8")))
    found = {name: icons_of(names_of(name), tables) for name in concepts()}
    return {"sets": sets, "icons": {name: icons for name, icons in found.items() if icons}}


def names_of(thing: str) -> list[str]:
    """What sets call a thing."""
    own = [] if thing in OTHER or is_animal_or_face(thing) else [slug(thing)]
    return [*own, *ALSO_CALLED.get(thing, ())]


def icons_of(names: list[str], tables: Mapping[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """At most ``MOST`` icons (set, SVG), one of each set: the first that bears one of ``names``."""
    drawn = (
        (set_name, icon(table, [name for name in names if (set_name, name) not in UNLIKE]))
        for set_name, table in tables.items()
    )
    return [(set_name, svg) for set_name, svg in drawn if svg][:MOST]


def credits_table(sets: Mapping[str, Mapping[str, str]]) -> str:
    """``ICONS.md``: whom the icons are owed to."""
    rows = [f"| {one['title']} | {one['author']} | {one['licence']} | {one['source']} |" for one in sets.values()]
    head = "The icons are as the packages `@iconify-json/...` hold them, with `currentColor` made dark grey."
    return "\n".join(
        [
            "# Credits of `icons.json.xz`",
            "",
            head,
            "",
            "| set | by | licence | source |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Gather the icons and write the files inside the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    table = gather_icons(parser.parse_args().folder)
    ICONS_FILE.write_bytes(
        lzma.compress(json.dumps(table, ensure_ascii=False).encode(), preset=9 | lzma.PRESET_EXTREME)
    )
    CREDITS.write_text(credits_table(table["sets"]), encoding="utf-8")
    print(
        {
            "things": len(table["icons"]),
            "icons": sum(map(len, table["icons"].values())),
            "bytes": ICONS_FILE.stat().st_size,
        }
    )


if __name__ == "__main__":
    main()
