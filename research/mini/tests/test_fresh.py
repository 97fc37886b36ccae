"""Eyes tuned on views drawn anew at every step: at toy size, on the CPU."""

import json
import lzma
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EfficientNetModel

from mis_lib.construct.drawings import svg_of
from mis_lib.models.mini.assemble import BASE_FILES, DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE
from mis_lib.models.mini.tower import in_branch, load_tower, tower_config
from mis_lib.models.mini.wheels import TOWER_SHA256, tower_file
from research.mini import fresh
from research.mini.assets import load_drawings
from research.mini.fresh import FreshViews, tune_afresh
from research.mini.loop import TowerBank
from research.mini.pictures import Picture, PictureBank
from research.mini.tuning import Midway

pytestmark = pytest.mark.research

THINGS = ("banana", "key", "candle")
DRAWN = ("openmoji", "twemoji")


class Projector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(1280, 24), nn.Linear(24, 16)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


class Assembled(nn.Module):
    """As much of mini as eyes are."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = nn.Module()
        self.model.vision_tower = EfficientNetModel(tower_config()).eval()
        load_tower(self.model.vision_tower, tower_file(), TOWER_SHA256)
        torch.manual_seed(0)
        self.model.multi_modal_projector = Projector()


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw material of three things in two styles, and a third one drawn in the style that must not be seen."""
    folder = tmp_path / "assets"
    folder.mkdir()
    table = {name: {style: svg_of(name, style) for style in DRAWN} for name in THINGS}
    table["candle"]["noto"] = svg_of("candle", "openmoji")
    (folder / "styles.json.xz").write_bytes(lzma.compress(json.dumps(table).encode()))
    for name in ("a.gguf", "a.pth"):
        (folder / name).touch()
    monkeypatch.setattr(fresh, "assemble", lambda *paths: (Assembled(), None))
    monkeypatch.setattr(fresh, "merge_base", lambda model, start: None)
    return folder


def base_weights(folder: Path) -> Path:
    folder.mkdir()
    for name in (UPDATE_FILE, NAMES_FILE):
        save_file({name: torch.ones(2)}, folder / name)
    return folder


def tuned(assets: Path, start: Path, out: Path, **changed: Any) -> dict[str, Any]:
    settings = {
        "device": "cpu", "seconds": 600.0, "steps": 3, "batch": 6, "often": 1.0, "lr": 1e-3, "seed": 3,
        "save_every": 100, "icons": 3,
    }  # fmt: skip
    return tune_afresh(assets, start, out, **(settings | changed))


def test_views_are_of_the_things_asked_for_and_never_in_the_unseen_style(assets: Path) -> None:
    drawings, drawn = load_drawings(assets)
    assert tuple(drawn) == THINGS
    styles = list(fresh.ALL_STYLES)
    pictures = PictureBank(drawings, styles, np.zeros((0, 1, 1, 4), np.uint8), np.zeros((0, 3, 1, 1), np.uint8), "cpu")
    midway: Any = TowerBank(pictures, Midway(Assembled().model.vision_tower))
    shown: list[Picture] = []
    look = midway.features

    def looking(asked: list[Picture], *, augment: bool) -> torch.Tensor:
        shown.extend(asked)
        assert augment
        return look(asked, augment=False)  # so that a view can be known again

    midway.features = looking
    torch.manual_seed(0)
    things = [0, 1, 2] * 6
    views = FreshViews(pictures, midway)(things, random.Random(0))
    assert views.shape == (18, 784, 40) and views.dtype == torch.float32
    assert [one.number for one in shown] == things  # neither style is one that is shown framed
    assert {one.style for one in shown} >= set(DRAWN) and "noto" not in {one.style for one in shown}
    wanted = look(shown, augment=False)
    assert torch.allclose(views, wanted.float(), atol=1e-4)


def test_views_by_other_hands_are_framed_half_of_the_time(assets: Path) -> None:
    drawings, _ = load_drawings(assets)
    styles = list(fresh.ALL_STYLES)
    drawings[:, styles.index("fxemoji")] = drawings[:, 0]  # as if another hand had drawn them
    drawings[:, [at for at, style in enumerate(styles) if style != "fxemoji"]] = 0
    pictures = PictureBank(drawings, styles, np.zeros((0, 1, 1, 4), np.uint8), np.zeros((0, 3, 1, 1), np.uint8), "cpu")

    class Marked:
        """Says of each view what it was of, and whether it was framed."""

        def framed(self, asked: list[Picture]) -> torch.Tensor:
            return torch.stack([torch.full((784, 40), 10.0 + one.number) for one in asked])

        def features(self, asked: list[Picture], *, augment: bool) -> torch.Tensor:
            return torch.stack([torch.full((784, 40), float(one.number)) for one in asked])

    marked: Any = Marked()
    things = [0, 1, 2] * 40
    seen = FreshViews(pictures, marked)(things, random.Random(0))[:, 0, 0]
    framed = seen >= 10
    assert (seen - 10 * framed).tolist() == things
    assert 40 < int(framed.sum()) < 80


def test_one_command_tunes_the_end_and_the_projectors_first_layer(assets: Path, tmp_path: Path) -> None:
    start, out = base_weights(tmp_path / "start"), tmp_path / "out"
    before = Assembled()
    result = tuned(assets, start, out)
    assert result["steps"] == 3 and result["views_per_second"] > 0
    assert result["openmoji"][0] == 1.0 and len(result["icons"]) == 3
    assert {path.name for path in out.iterdir()} == {*BASE_FILES, "result.json"}
    for name in (UPDATE_FILE, NAMES_FILE):
        assert (out / name).read_bytes() == (start / name).read_bytes()
    projector = load_file(out / PROJECTOR_FILE)
    old = before.model.multi_modal_projector.state_dict()
    same = {name for name, value in projector.items() if torch.equal(value, old[name].to(torch.bfloat16))}
    assert same == {"linear_2.weight", "linear_2.bias"}  # names of photographs are worth what they were
    end, tower = load_file(out / DRAWINGS_FILE), before.model.vision_tower.state_dict()
    assert all(in_branch(name) for name in end)
    moved = {name for name, value in end.items() if not torch.equal(value, tower[name].to(torch.bfloat16))}
    assert moved and not any(".depthwise_conv.weight" in name for name in moved)
    # what is written is where a second run begins
    again = tuned(assets, out, tmp_path / "again", steps=1)
    assert again["openmoji"][0] == result["openmoji"][2]


def test_time_up_ends_tuning_with_what_there_is(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    write = fresh.save_eyes
    monkeypatch.setattr(fresh, "save_eyes", lambda *given: (saved.append(given[3]), write(*given)))
    result = tuned(assets, base_weights(tmp_path / "start"), tmp_path / "out", steps=1000, seconds=1e-9, save_every=1)
    assert result["steps"] == 1 and len(saved) == 2  # after the step, and the mean at the end
    moved = load_file(tmp_path / "out" / PROJECTOR_FILE)["linear_1.weight"]
    assert not torch.equal(moved, Assembled().model.multi_modal_projector.linear_1.weight.to(torch.bfloat16))
