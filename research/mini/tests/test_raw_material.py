"""Raw material of training: which drawing belongs to which concept and style, and that the unseen style lends none of
its own.
"""

import importlib.resources
import json
import lzma
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from mis_lib.construct.drawings import sign_svg, svg_of
from mis_lib.errors import ModelError
from mis_lib.text.concepts import concepts
from research.mini import gather, gather_bitmaps, gather_forms, gather_hands, gather_icons
from research.mini.assets import BITMAPS, FONTS, HANDS, STYLES, load_drawings
from research.mini.packages import debian_package

pytestmark = pytest.mark.research

NOTO = Path(str(importlib.resources.files("manimgx_fonts"))) / "NotoEmoji[wght].ttf"
LETTERS = next(Path(str(importlib.resources.files("gradio"))).rglob("KaTeX_Main-Regular.*.ttf"))
SETS = {name: {"icons": {}} for name in (*gather.EMOJI_SETS, *gather.ICON_SETS)}


def table(**icons: str) -> dict[str, object]:
    return {"width": 24, "height": 24, "icons": {name: {"body": body} for name, body in icons.items()}}


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What npm and apt-get would have fetched, all of it empty but for a font of letters; no names but the concepts'
    own.
    """
    monkeypatch.setattr(gather, "spoken_names", dict)
    for name, icons in SETS.items():
        package = tmp_path / f"iconify-json-{name}" / "package"
        package.mkdir(parents=True)
        (package / "icons.json").write_text(json.dumps(icons), encoding="utf-8")
    others = tmp_path / "iconify-json" / "package" / "json"
    others.mkdir(parents=True)
    for name in gather_hands.SETS:
        (others / f"{name}.json").write_text(json.dumps({"icons": {}}), encoding="utf-8")
    (tmp_path / "openmoji-17-0-0" / "package" / "black" / "svg").mkdir(parents=True)
    font = tmp_path / gather.SYMBOLA / gather.SYMBOLA_FONT
    font.parent.mkdir(parents=True)
    shutil.copy(LETTERS, font)
    bitmaps = tmp_path / gather.UNIFONT / gather.UNIFONT_FOLDER
    bitmaps.mkdir(parents=True)
    for name in gather_bitmaps.FILES:
        shutil.copy(LETTERS, bitmaps / name)
    return tmp_path


def put(downloads: Path, name: str, icons: dict[str, object]) -> None:
    path = downloads / f"iconify-json-{name}" / "package" / "icons.json"
    path.write_text(json.dumps(icons), encoding="utf-8")


def test_signs_for_programs_are_taken_by_their_very_name_only(downloads: Path) -> None:
    put(downloads, "mdi", table(cat="<path/>", mouse="<path/>", egg="<path/>"))
    put(downloads, "emojione", table(mouse="<path/>"))
    drawn = dict(gather.styles(downloads))
    assert set(drawn) == set(concepts())
    assert {name for name, styles in drawn.items() if "mdi" in styles} == {"cat", "cat face", "egg"}
    assert "emojione" in drawn["mouse"]  # in a set of emoji it is the animal
    assert not any("symbola" in styles for styles in drawn.values())  # letters only


def test_a_set_may_put_a_word_before_its_emoji(downloads: Path) -> None:
    put(downloads, "arcticons", table(**{"emoji-cat": "<path/>", "dog": "<path/>"}))
    drawn = dict(gather.styles(downloads))
    assert {name for name, styles in drawn.items() if "arcticons" in styles} >= {"cat"}
    assert "arcticons" not in drawn["dog"]


def test_a_thing_is_drawn_by_each_hand_that_knows_its_name(downloads: Path) -> None:
    others = downloads / "iconify-json" / "package" / "json"
    first, second = gather_hands.SETS[5], gather_hands.SETS[0]
    drawn = table(**{"egg-outline": "<path/>", "eyeglasses": "<path/>", "mouse": "<path/>", "pie": "<path/>"})
    for name in (first, second):
        (others / f"{name}.json").write_text(json.dumps(drawn), encoding="utf-8")
    (others / f"{second}.json").write_text(json.dumps(table(egg="<circle/>")), encoding="utf-8")
    found = {
        thing: [svg for style, svg in styles.items() if style in HANDS]
        for thing, styles in gather.styles(downloads)
        if set(styles) & set(HANDS)
    }
    assert set(found) == {"egg", "glasses", "computer mouse"}  # no pie: in such sets that is a chart; nor the animal
    assert ["circle" in svg for svg in found["egg"]] == [True, False]  # in the order of the sets
    for name in gather_hands.SETS:  # more hands than there are styles for them
        (others / f"{name}.json").write_text(json.dumps(table(egg="<path/>")), encoding="utf-8")
    assert set(HANDS) <= set(dict(gather.styles(downloads))["egg"])


def test_people_are_drawn_as_man_and_woman_too(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gather_forms.forms("1F9D1-200D-2708") == ("1F468-200D-2708", "1F469-200D-2708")
    assert gather_forms.forms("1F3C3") == ("1F3C3-200D-2642", "1F3C3-200D-2640")
    names = {"1F468-200D-2708": ["man-pilot"], "1F469-200D-2708": ["woman-pilot"], "1F9D1-200D-2708": ["pilot"]}
    monkeypatch.setattr(gather, "spoken_names", lambda: names)
    for style in (gather_forms.LINES, gather_forms.INK_FLAT[0]):
        put(downloads, style, table(**{"man-pilot": '<path d="M1 1h2v2z"/>', "pilot": "<path/>"}))
    black = downloads / "openmoji-17-0-0" / "package" / "black" / "svg"
    (black / "1F469-200D-2708-FE0F.svg").write_text("<svg>hers</svg>", encoding="utf-8")
    (black / "1F9D1-200D-2708-FE0F.svg").write_text("<svg>neutral</svg>", encoding="utf-8")
    drawn = dict(gather.styles(downloads))
    pilot = [svg for style, svg in drawn["pilot"].items() if style in HANDS]
    assert len(pilot) == 7  # her line drawing, his in the one set, two of OpenMoji and of Twemoji in ink, his flat one
    assert pilot[0] == "<svg>hers</svg>" and drawn["pilot"]["openmoji-black"] == "<svg>neutral</svg>"
    assert "M1 1h2v2z" in pilot[1] and all('stroke="#000"' in svg for svg in pilot[2:])
    assert {name for name, styles in drawn.items() if set(styles) & set(HANDS)} == {"pilot"}


def test_points_are_drawn_as_squares_and_by_a_pen() -> None:
    points = np.zeros((16, 16), dtype=bool)
    points[2, 2] = points[3, 3] = points[3, 4] = points[12, 9] = True
    squares, pen = gather_bitmaps.squares_svg(points), gather_bitmaps.pen_svg(points)
    assert re.findall(r"M(\d+) (\d+)h1v1h-1z", squares) == [("2", "2"), ("3", "3"), ("4", "3"), ("9", "12")]
    assert re.findall(r"M(\d+) (\d+)l(-?\d) (\d)", pen) == [("2", "2", "1", "1"), ("3", "3", "1", "0")]
    points[3, 2] = True  # another way leads round the corner
    assert "l1 1" not in gather_bitmaps.pen_svg(points)


def test_a_narrow_sign_stands_in_the_middle() -> None:
    font = ImageFont.truetype(LETTERS, size=gather_bitmaps.POINTS)
    columns = np.flatnonzero(gather_bitmaps.bitmap(font, "l").any(0))
    assert columns.min() >= 5 and columns.max() <= 10


def test_what_unifont_lacks_is_left_out(downloads: Path) -> None:
    drawn = dict(gather.styles(downloads))
    assert not any(set(styles) & set(BITMAPS) for styles in drawn.values())  # letters only
    shutil.copy(NOTO, downloads / gather.UNIFONT / gather.UNIFONT_FOLDER / gather_bitmaps.FILES[1])
    drawn = dict(gather.styles(downloads))
    assert set(BITMAPS) <= set(drawn["cat"]) and not set(BITMAPS) & set(drawn["pilot"])  # a pilot is no single sign


def test_other_hands_have_no_set_that_must_stay_unseen() -> None:
    kept = {*gather_icons.SETS, "noto", "noto-v1"}
    assert kept.isdisjoint(gather_hands.SETS) and kept.isdisjoint((*gather.EMOJI_SETS, *gather.ICON_SETS))
    assert len(set(gather_hands.SETS)) == len(gather_hands.SETS)
    assert {*gather_hands.ELSEWISE, *gather_hands.ALSO_CALLED} <= set(concepts())


def test_a_font_is_asked_what_it_draws() -> None:
    font = ImageFont.truetype(NOTO, size=40)
    assert gather.has_sign(font, "\U0001f431")
    assert not gather.has_sign(font, "\U0010fffe")
    assert not gather.has_sign(ImageFont.truetype(LETTERS, size=40), "\U0001f431")


def test_the_unseen_styles_font_lends_nothing(tmp_path: Path) -> None:
    shutil.copy(NOTO, tmp_path / FONTS["noto"])
    shutil.copy(LETTERS, tmp_path / FONTS["symbola"])
    drawn = {"noto": svg_of("cat", "noto"), "symbola": sign_svg(concepts()["cat"].codepoints, "KaTeX_Main")}
    (tmp_path / "styles.json.xz").write_bytes(lzma.compress(json.dumps({"cat": drawn}).encode()))
    drawings, names = load_drawings(tmp_path)
    assert names == ["cat"]
    ink = {style: int(np.count_nonzero(drawings[0, at, ..., 3])) for at, style in enumerate(STYLES)}
    assert ink["noto"] > 1000
    cat = drawings[0, STYLES.index("noto"), ..., 3].astype(int)
    lent = np.abs(drawings[0, STYLES.index("symbola"), ..., 3].astype(int) - cat)
    assert np.count_nonzero(lent > 64) > 0.5 * np.count_nonzero(cat > 64)
    assert all(ink[style] == 0 for style in STYLES if style not in drawn)


def test_without_apt_get_the_message_says_what_this_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"fonts-symbola.*Debian"):
        debian_package("fonts-symbola", tmp_path)
