"""The two-branch tower: each branch computes what it does alone; tuning moves one of them and nothing else."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import EfficientNetModel

from mis_lib.construct.drawings import STYLES, draw
from mis_lib.errors import SettingsError
from mis_lib.models.mini.assemble import BASE_FILES, DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE
from mis_lib.models.mini.tower import (
    FIRST_BRANCH_BLOCK,
    in_branch,
    join_branches,
    load_tower,
    tower_config,
    two_branch_config,
)
from mis_lib.models.mini.wheels import TOWER_SHA256, tower_file
from research.mini import eye_steps, tuning, unseen
from research.mini.aims import aims_from, aims_of
from research.mini.align import Codebook
from research.mini.eye_steps import look_again, mean_of_eyes, tower_of, trainable
from research.mini.features import FeatureBank, load, save
from research.mini.loop import strip_squeeze_excite
from research.mini.pictures import Picture
from research.mini.tuning import End, Midway, features_of, mix_statistics, tune
from research.mini.unseen import kept_icons, scores
from research.mini.widen import two_views


@pytest.fixture(scope="module")
def published() -> Any:
    tower = EfficientNetModel(tower_config()).eval()
    load_tower(tower, tower_file(), TOWER_SHA256)
    return tower.requires_grad_(False)


@pytest.fixture
def tower(published: Any) -> Any:
    return copy.deepcopy(published)


def disturbed(tower: Any) -> dict[str, torch.Tensor]:
    """The tensors that an end has of its own, all of them moved."""
    dice = torch.Generator().manual_seed(0)
    return {
        name: value * (1 + 0.2 * torch.rand(value.shape, generator=dice))
        for name, value in End(tower).tensors().items()
    }


def pixels(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, 224, 224, generator=torch.Generator().manual_seed(1)).cumsum(3) / 10


def before_the_top(tower: Any, images: torch.Tensor) -> torch.Tensor:
    found = []
    handle = tower.encoder.blocks[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        tower(images)
    handle.remove()
    return found[0]


def test_side_by_side_each_end_computes_what_it_does_alone(published: Any, tower: Any) -> None:
    own = disturbed(tower)
    wide = EfficientNetModel(two_branch_config(tower_config())).eval()
    state = wide.state_dict() | join_branches(published.state_dict(), own)
    for name in state:
        if ".squeeze_excite." in name:
            state[name].fill_(30.0 if name.endswith("expand.bias") else 0.0)
    wide.load_state_dict(state)
    tower.load_state_dict(tower.state_dict() | own)
    both = before_the_top(wide, pixels())
    assert both.shape == (2, 640, 3, 3)
    for half, alone in zip(both.chunk(2, 1), (published, tower), strict=True):
        wanted = before_the_top(alone, pixels())
        assert torch.allclose(half, wanted, atol=1e-3 * float(wanted.std()))
    assert not torch.allclose(both[:, :320], both[:, 320:], atol=0.1)


@pytest.mark.parametrize("name", ["encoder.blocks.3.projection.project_conv.weight", "encoder.blocks.12.nonsense"])
def test_what_does_not_belong_to_an_end_is_refused(published: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match="does not belong to the tower's last stages"):
        join_branches(published.state_dict(), {name: torch.zeros(1)})


def test_midway_and_end_are_the_tower(tower: Any) -> None:
    strip_squeeze_excite(tower)
    with torch.no_grad():
        wanted = tower(pixels()).last_hidden_state.flatten(2).transpose(1, 2)
        midway = Midway(tower)(pixels()).last_hidden_state.flatten(2).transpose(1, 2)
        assert midway.shape == (2, 784, 40)
        assert torch.allclose(End(tower, torch.float32)(midway), wanted, atol=1e-4)
        rough = End(tower, torch.bfloat16)(midway)
        assert rough.dtype == torch.float32 and float((rough - wanted).std() / wanted.std()) < 0.06


def test_an_ends_gradients_are_the_towers(tower: Any) -> None:
    """But for depthwise filters, which get none and stay."""
    strip_squeeze_excite(tower)
    own, plain = End(copy.deepcopy(tower), torch.float32), copy.deepcopy(tower).requires_grad_(True)
    with torch.no_grad():
        midway = Midway(tower)(pixels()).last_hidden_state
    tuned, parameters = own.tensors(), dict(plain.named_parameters())
    for value in tuned.values():
        value.requires_grad_(True)
    own(midway.flatten(2).transpose(1, 2)).square().mean().backward()
    hidden = midway
    for block in plain.encoder.blocks[FIRST_BRANCH_BLOCK:]:
        hidden = block(hidden)
    plain.encoder.top_activation(plain.encoder.top_bn(plain.encoder.top_conv(hidden))).square().mean().backward()
    for name, value in tuned.items():
        wanted = parameters[name].grad
        assert value.grad is not None and wanted is not None
        assert float((value.grad - wanted).norm() / wanted.norm()) < 0.01, name
    held = {name for name in parameters if in_branch(name)} - set(tuned)
    assert held and {name.split(".")[-2] for name in held} == {"depthwise_conv", "depthwise_norm"}


def test_mixed_statistics_lie_between_two_pictures_and_shapes_stay() -> None:
    table = torch.randn(400, 196, 3, generator=torch.Generator().manual_seed(0))
    table[:200] = 3 * table[:200] + 10
    mixed = mix_statistics(table, torch.Generator().manual_seed(1))
    mean, spread = mixed.mean(1), mixed.std(1)
    assert mean.min() > -0.5 and mean.max() < 11
    assert spread.min() > 0.7 and spread.max() < 4
    moved = ((mean - table.mean(1)).abs() > 1).any(1).float().mean()
    assert 0.2 < moved < 0.45  # of seven in ten, half meet their own kind
    shape, old = ((one - one.mean(1, keepdim=True)) / one.std(1, keepdim=True) for one in (mixed, table))
    assert torch.allclose(shape, old, atol=0.01)


def three_things(tower: Any) -> FeatureBank:
    """Features midway of three things in two styles, and in a third one that is the first one's negative."""
    strip_squeeze_excite(tower)
    names, styles = ("banana", "key", "candle"), ("openmoji", "twemoji")
    drawn = np.stack([np.asarray(draw(name, style, 224).convert("RGB")) for style in styles for name in names])
    drawn = np.concatenate([drawn, 255 - drawn[:3]])  # a strange style: the first one's negatives
    views = [Picture("drawn", thing, style) for style in (*styles, "fxemoji") for thing in range(3)]
    shown = (torch.from_numpy(drawn).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        table = Midway(tower)(shown).last_hidden_state.flatten(2).transpose(1, 2)
    return FeatureBank(views, table.bfloat16(), "cpu")


@pytest.mark.research
def test_tuning_brings_styles_together_and_moves_only_the_end(tower: Any) -> None:
    bank = three_things(tower)
    torch.manual_seed(0)
    end, projector = End(tower), nn.Sequential(nn.Linear(1280, 64), nn.GELU(), nn.Linear(64, 16))
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)
    projector[2].requires_grad_(False)
    state = {name: value.clone() for name, value in tower.state_dict().items()}
    mean_end, mean_projector, losses = tune(
        end, projector, aims_of(before, bank), bank, steps=12, lr=1e-3, seed=0, batch=18
    )
    assert set(losses) == {"told_apart", "pull", "kept", "steps"} and losses["steps"] == 12
    held = [torch.equal(new, old) for new, old in zip(projector.parameters(), before[1].parameters(), strict=True)]
    assert held == [False, False, True, True]
    moved = {name for name, value in tower.state_dict().items() if not torch.equal(value, state[name])}
    assert moved == set(end.tensors())
    assert {name.split(".")[2] for name in moved if ".blocks." in name} == {
        str(at) for at in range(FIRST_BRANCH_BLOCK, 16)
    }
    assert all(in_branch(name) and "running" not in name for name in moved)
    features = features_of(end, bank.table)
    assert features.shape == (9, 9, 1280) and features.dtype == torch.bfloat16
    with torch.no_grad():
        goals = before(bank.table[:6]).mean(1).unflatten(0, (2, 3)).mean(0)
        was, now = before(bank.table[6:]).mean(1), projector(features[6:].float()).mean(1)
        mean = mean_projector(mean_end(bank.table[6:])).mean(1)
    assert (now - goals).norm() < 0.8 * (was - goals).norm()
    assert (mean - goals).norm() < 0.95 * (was - goals).norm()


def test_aims_of_another_model_are_those_it_would_have_here(tower: Any, tmp_path: Path) -> None:
    one, path = three_things(tower), tmp_path / "goals.pt"
    bank = FeatureBank([*one.rows] * 2, torch.cat([one.table, 0.5 * one.table]), "cpu")  # two views of each
    torch.manual_seed(0)
    eyes = nn.Sequential(End(tower, torch.float32), nn.Linear(1280, 16))
    with torch.no_grad():
        seen = eyes(bank.table.float())
    own, rows = aims_of(eyes, bank), [at + lot for at in range(6) for lot in (0, 9)]
    assert own.rows == rows and torch.allclose(own.kept, seen[rows], atol=1e-5)
    assert torch.allclose(own.places, seen[rows].mean(1).unflatten(0, (2, 3, 2)).mean((0, 2)), atol=1e-5)
    order = [5, 4, 3, 2, 1, 0]
    pictures = [[*one.rows][at] for at in order]
    save(path, pictures * 2, torch.cat([seen[order], seen[9:][order]]))
    other = aims_from(path, bank)
    assert other.rows == own.rows
    assert torch.allclose(other.kept, own.kept, atol=1e-5) and torch.allclose(other.places, own.places, atol=1e-5)
    save(path, pictures, seen[order])
    with pytest.raises(SettingsError, match=r"goals\.pt: expected 2 projections of thing 0 in openmoji, found 1"):
        aims_from(path, bank)


@pytest.mark.research
def test_tuning_ends_with_the_mean_of_its_later_weights(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, seen = three_things(tower), []
    end, projector = End(tower), nn.Linear(1280, 16)
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)

    def keep(_: Any) -> None:
        seen.append(projector.weight.detach().clone())

    monkeypatch.setattr(tuning.together, "average", keep)  # called in each step before the weights move
    _, averaged, _ = tune(end, projector, aims_of(before, bank), bank, steps=5, lr=1e-3, seed=0, batch=6)
    later = [*seen[3:], projector.weight.detach()]  # what the third, fourth and fifth step have made
    mean = averaged.state_dict()["weight"]
    assert torch.allclose(mean, torch.stack(later).mean(0), atol=1e-6)
    assert not torch.allclose(mean, later[-1], atol=1e-6)


@pytest.mark.research
def test_tuning_shows_some_things_more_often(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, drawn = three_things(tower), []
    end, projector = End(tower), nn.Linear(1280, 16)
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)

    def draw_two(views: Any, thing: int, dice: Any) -> Any:
        drawn.append(thing)
        return two_views(views, thing, dice)

    monkeypatch.setattr(tuning, "two_views", draw_two)
    tune(end, projector, aims_of(before, bank), bank, steps=2, lr=1e-3, seed=0, batch=60, often=[8.0, 1.0, 0.0])
    assert len(drawn) == 120 and 2 not in drawn
    assert 90 < drawn.count(0) < 118


@pytest.mark.research
def test_eyes_are_scored_on_hands_that_none_was_tuned_to(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    bank = three_things(tower)
    shown = [(Picture("drawn", at, "openmoji"), name) for at, name in enumerate(("banana", "key", "candle"))]
    material: Any = SimpleNamespace(
        model=SimpleNamespace(model=SimpleNamespace(vision_tower=tower)),
        bank=bank,
        drawings_in=lambda style: shown if style == "openmoji" else [],
    )
    pictures, icons = kept_icons(material, 12)
    names = list(dict.fromkeys(name for _, name in pictures))
    assert len(pictures) == 12 and len(names) > 1 and icons.table.shape == (12, 784, 40)
    eyes = nn.Sequential(End(copy.deepcopy(tower)), nn.Linear(1280, 64))
    with torch.no_grad():
        drawn = eyes(bank.table[:3].float()).mean(1)
        found = eyes(icons.table.float()).mean(1)
        of_each = torch.stack([found[[name == one for _, one in pictures]].mean(0) for name in names])
    book = Codebook(["banana", "key", "candle", *names], torch.cat([drawn, of_each]))
    found = scores(material, book, [eyes, eyes], limit=12)
    assert set(found) == {f"{one}{part}" for one in (*STYLES, "icons") for part in ("", ", table")}
    assert found["openmoji"] == [1.0, 1.0] and found["noto"] == []
    centre = book.codes.mean(0)
    units = F.normalize(book.codes - centre, dim=1)
    with torch.no_grad():
        near = (F.normalize(eyes(icons.table.float()).mean(1) - centre, dim=1) @ units.T).argmax(1).tolist()
    right = [name for at, (_, name) in zip(near, pictures, strict=True) if book.names[at] == name]
    assert found["icons"] == [round(len(right) / 12, 4)] * 2 and len(right) > 8
    first = names[0]  # its icons are now nowhere near what bears its name
    wrong = Codebook(["nothing" if name == first else name for name in book.names], book.codes)
    monkeypatch.setattr(unseen, "table_things", lambda: {first, "key"})
    found = scores(material, wrong, [eyes], limit=12)
    share = sum(name != first for name in right) / 12
    assert 0 < share < len(right) / 12 and found["icons"] == [round(share, 4)] and found["openmoji"] == [1.0]
    assert found["icons, table"] == [0.0] and found["openmoji, table"] == [1.0]


def test_eyes_of_several_folders_are_told_apart(tower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, projector = "encoder.top_conv.weight", nn.Linear(1280, 16)
    material: Any = SimpleNamespace(
        model=SimpleNamespace(model=SimpleNamespace(vision_tower=tower, multi_modal_projector=projector)),
        bank=three_things(tower),
        drawn=["banana", "key", "candle"],
    )
    folders = [tmp_path / "tuned", tmp_path / "published"]
    for share, folder in enumerate(folders, 1):
        folder.mkdir()
        save_file({key: share * value for key, value in projector.state_dict().items()}, folder / PROJECTOR_FILE)
    save_file({name: 1.5 * tower.state_dict()[name]}, folders[0] / DRAWINGS_FILE)
    seen = {}
    monkeypatch.setattr(eye_steps, "scores", lambda material, book, eyes: seen.update(eyes=eyes, book=book) or {})
    assert eye_steps.score_eyes(material, folders)["eyes"] == [str(folder) for folder in folders]
    tuned, published = seen["eyes"]
    assert torch.equal(tuned[0].tower.state_dict()[name], 1.5 * tower.state_dict()[name])
    assert torch.equal(published[0].tower.state_dict()[name], tower.state_dict()[name])
    assert torch.equal(published[1].weight, 2 * tuned[1].weight) and seen["book"].names == material.drawn


class TwoLayers(nn.Module):
    """A small projector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(1280, 64), nn.Linear(64, 16)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


def test_what_is_written_is_the_whole_end_with_what_an_earlier_one_brought(
    tower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depthwise filters are not tuned now, but ends of old have their own."""
    filters = "encoder.blocks.12.depthwise_conv.depthwise_conv.weight"
    torch.manual_seed(0)
    projector = TwoLayers()
    material: Any = SimpleNamespace(
        model=SimpleNamespace(model=SimpleNamespace(vision_tower=tower, multi_modal_projector=projector)),
        bank=three_things(tower),
        drawn=["banana", "key", "candle"],
    )
    start, out, seen = tmp_path / "start", tmp_path / "out", {}
    start.mkdir()
    out.mkdir()
    save_file({filters: 1.5 * tower.state_dict()[filters]}, start / DRAWINGS_FILE)
    monkeypatch.setattr(eye_steps, "merge_base", lambda model, folder: None)
    monkeypatch.setattr(eye_steps, "scores", lambda material, book, eyes: seen.update(eyes=eyes) or {})
    eye_steps.tune_end(material, start, out, goals=None, batch=6, often=1.0, steps=2, lr=1e-3, seed=0)
    read, mean = tower_of(material, out).state_dict(), seen["eyes"][2][0].tower.state_dict()
    assert torch.allclose(read[filters], 1.5 * tower.state_dict()[filters], rtol=0.01)
    for name, value in mean.items():
        if name.startswith("encoder."):
            assert torch.allclose(read[name], value, rtol=0.01, atol=1e-4), name
    top = "encoder.top_conv.weight"
    assert not torch.equal(read[top], tower.state_dict()[top].bfloat16().float())


def test_tuning_goes_on_from_the_end_it_is_given(tower: Any, tmp_path: Path) -> None:
    name = "encoder.top_conv.weight"
    changed = 1.5 * tower.state_dict()[name]
    save_file({name: changed}, tmp_path / DRAWINGS_FILE)
    material: Any = SimpleNamespace(model=SimpleNamespace(model=SimpleNamespace(vision_tower=tower)))
    published = tower.state_dict()[name].clone()
    assert torch.equal(tower_of(material, tmp_path / "without").state_dict()[name], published)
    assert torch.equal(tower_of(material, tmp_path).state_dict()[name], changed)


@pytest.mark.parametrize("every", [1, 2])
def test_a_tuned_end_is_asked_again_for_what_it_makes_of_every_picture(tower: Any, tmp_path: Path, every: int) -> None:
    views = [Picture("drawn", 1, "openmoji"), Picture("drawn", 0, "twemoji"), Picture("drawn", 1, "openmoji")]
    strip_squeeze_excite(tower)
    midway = torch.randn(3, 784, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    name = "encoder.top_conv.weight"
    save_file({name: 1.5 * tower.state_dict()[name]}, tmp_path / DRAWINGS_FILE)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "names.json").write_text("{}", encoding="utf-8")
    bank = FeatureBank(views, midway, "cpu")
    with torch.no_grad():
        published = End(copy.deepcopy(tower))(midway)[::every]
    model = SimpleNamespace(model=SimpleNamespace(vision_tower=tower))
    material: Any = SimpleNamespace(model=model, bank=bank, work=tmp_path / "work")
    assert look_again(material, tmp_path, tmp_path, every=every) == {"views": len(published)}
    found = load(tmp_path / "features.pt", "cpu")
    assert found.rows == ({views[0]: [0, 2], views[1]: [1]} if every == 1 else {views[0]: [0, 1]})
    assert found.table.shape == published.shape and not torch.allclose(found.table.float(), published, rtol=0.1)
    with torch.no_grad():
        tuned = End(tower_of(material, tmp_path))(midway)[::every]
    assert torch.allclose(found.table.float(), tuned, rtol=0.02, atol=0.02)
    assert (tmp_path / "names.json").exists()


@pytest.mark.parametrize("fitted", [True, False])
def test_a_projectors_second_layer_stays_where_names_were_fitted_to_it(fitted: bool, tmp_path: Path) -> None:
    if fitted:
        save_file({}, tmp_path / NAMES_FILE)
    projector = nn.ModuleDict({"linear_1": nn.Linear(2, 2), "linear_2": nn.Linear(2, 2)})
    projector.linear_2 = projector["linear_2"]
    trained = {name for name, value in trainable(projector, tmp_path).named_parameters() if value.requires_grad}
    assert trained == {"linear_1.weight", "linear_1.bias", *([] if fitted else ["linear_2.weight", "linear_2.bias"])}


def base_folder(folder: Path, value: float, *, names: float = 1.0) -> Path:
    """Base weights of one number each."""
    folder.mkdir()
    for name in BASE_FILES:
        save_file({"one": torch.tensor([names if name == NAMES_FILE else value])}, folder / name)
    save_file({"one": torch.tensor([1.0])}, folder / UPDATE_FILE)
    return folder


def test_a_mean_of_one_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected folders beside that of --start, found none"):
        mean_of_eyes(base_folder(tmp_path / "b", 2.0), [], tmp_path)


def test_the_mean_of_ends_lies_between_them_and_the_rest_is_the_firsts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    others = [base_folder(tmp_path / "c", 2.0), base_folder(tmp_path / "e", 6.0)]
    mean_of_eyes(base_folder(tmp_path / "b", 1.0), others, out)
    found = {name: float(load_file(out / name)["one"]) for name in BASE_FILES}
    assert found == {DRAWINGS_FILE: 3.0, PROJECTOR_FILE: 3.0, NAMES_FILE: 1.0, UPDATE_FILE: 1.0}
    with pytest.raises(SettingsError, match=r"d/names\.safetensors: expected that of"):
        mean_of_eyes(tmp_path / "b", [tmp_path / "c", base_folder(tmp_path / "d", 2.0, names=3.0)], out)
    save_file({"two": torch.tensor([2.0])}, tmp_path / "c" / DRAWINGS_FILE)
    with pytest.raises(SettingsError, match=r"c/drawings\.safetensors: expected the tensors of .*such as 'one'"):
        mean_of_eyes(tmp_path / "b", others, out)
