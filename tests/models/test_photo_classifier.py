"""Three further stages of the tower: they compute what they say, leave drawings alone, need no language model."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn
from torch.nn import functional as F
from transformers import EfficientNetModel

from mis_lib.models.mini.photo_classifier import (
    HIGHEST,
    LOWEST,
    PhotoClassifier,
    add_photo_classifier,
    classifier,
    groups,
    named,
    photo_classes,
    photo_names,
)
from mis_lib.models.mini.tower import in_branch, load_tower, tower_config
from mis_lib.models.mini.wheels import TOWER_SHA256, tower_file
from research.mini.features import FeatureBank
from research.mini.pictures import Picture
from research.mini.reading import (
    NamesBank,
    NamesProjector,
    blank_pictures,
    channels,
    fit_photo,
    mean_score,
    name_averages,
    read,
    train_worth,
)

WIDTH = 24


def pixels(*images: np.ndarray) -> torch.Tensor:
    """Photographs in the tower's normalisation, (n, 3, 224, 224)."""
    small = [np.asarray(Image.fromarray(image).convert("RGB").resize((224, 224))) for image in images]
    return (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() - 127) / 128


@pytest.fixture
def model() -> Any:
    """Lite0 as it is published, before a projector that nobody trained."""
    torch.manual_seed(0)
    tower = EfficientNetModel(tower_config()).eval()
    load_tower(tower, tower_file(), TOWER_SHA256)
    projector = nn.Module()
    projector.linear_1, projector.linear_2 = nn.Linear(1280, WIDTH), nn.Linear(WIDTH, WIDTH)
    return SimpleNamespace(
        model=SimpleNamespace(vision_tower=tower, multi_modal_projector=projector), config=SimpleNamespace()
    )


@torch.no_grad()
def look(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, 9, 1280) and what the projector makes of them."""
    features = model.model.vision_tower(images).last_hidden_state.flatten(2).transpose(1, 2)
    projector = model.model.multi_modal_projector
    return features, projector.linear_2(F.gelu(projector.linear_1(features)))


def reader(score: float) -> PhotoClassifier:
    """Everything has this score; each name is worth something else."""
    worth = torch.randn(WIDTH, 1 + len(photo_names()), generator=torch.Generator().manual_seed(3))
    return PhotoClassifier(torch.zeros(1280), torch.tensor([score]), worth)


@pytest.mark.parametrize("score", [0.0, -3.0])
def test_a_drawing_is_projected_as_before(model: Any, score: float) -> None:
    images = pixels(data.chelsea(), data.coffee())
    projector = model.model.multi_modal_projector
    features, _ = look(model, images)
    with torch.no_grad():
        wanted = projector.linear_2(F.gelu(projector.linear_1(features).clamp(LOWEST, HIGHEST)))
    add_photo_classifier(model, tower_file(), reader(score), {})
    assert torch.allclose(look(model, images)[1], wanted, atol=1e-4)


def test_a_drawing_is_seen_by_its_own_end(model: Any) -> None:
    images = pixels(data.chelsea(), data.coffee())
    other = copy.deepcopy(model)
    tensors = other.model.vision_tower.state_dict()
    dice = torch.Generator().manual_seed(0)
    own = {
        name: value * (1 + 0.1 * torch.rand(value.shape, generator=dice))
        for name, value in tensors.items()
        if in_branch(name) and name.endswith("weight") and ".squeeze_excite." not in name
    }
    other.model.vision_tower.load_state_dict(tensors | own)
    features, _ = look(other, images)
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        wanted = projector.linear_2(F.gelu(projector.linear_1(features).clamp(LOWEST, HIGHEST)))
    before = look(model, images)[1]
    add_photo_classifier(model, tower_file(), reader(-3.0), own)
    found = look(model, images)[1]
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, before, atol=0.01)


@pytest.mark.parametrize("score", [0.6, 1.0, 5.0])
def test_a_photograph_is_projected_by_its_names(model: Any, score: float) -> None:
    images = pixels(data.chelsea(), data.coffee())
    features, before = look(model, images)
    weight, bias = classifier(tower_file())
    seen = channels(name_averages(F.linear(features, weight, bias)), torch.full((2,), score))
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    with torch.no_grad():
        left = (0.5 * (first(features) - LOWEST) - 4 * score).clamp(
            0, 6
        ) / 0.5 + LOWEST  # silenced from 0 on, step by step
    name = "encoder.top_conv.weight"  # what the other end makes of it is silenced
    own = {name: 0.9 * model.model.vision_tower.state_dict()[name]} if score > 1 else {}
    add_photo_classifier(model, tower_file(), reader(score), own)
    assert model.config.vision_config.out_channels[-3:] == [WIDTH + 1008, WIDTH + named(), 1280]
    with torch.no_grad():
        wanted = second(F.gelu(left + F.linear(seen, reader(score).worth)[:, None]))
        assert torch.allclose(look(model, images)[1], wanted, atol=1e-4)
        if score > 1:
            assert [photo_names()[at] for at in seen[:, 1:].argmax(1).tolist()] == ["cat", "cup of coffee"]
            assert torch.allclose(wanted.mean(1), read(second, reader(score).worth, seen), atol=1e-4)
    assert not torch.allclose(before, wanted, atol=0.1)


def test_every_class_has_one_name() -> None:
    table = groups()
    assert table.shape == (len(photo_names()), 1000)
    assert (table > 0).sum(0).tolist() == [1] * 1000
    dog = table[photo_names().index("dog")]
    assert (dog > 0).sum() == photo_classes().count("dog") == 118
    assert dog.max() == pytest.approx(118**-0.5)  # many classes of one name do not outshout a name with one


def test_names_are_heard_in_photographs_only() -> None:
    logits = torch.zeros(3, 9, 1000)
    logits[:, :, photo_classes().index("rocket")] = 12.0
    count = photo_classes().count("rocket")
    seen = channels(name_averages(logits), torch.tensor([-1.0, 0.99, 2.0]))
    rocket = 1 + photo_names().index("rocket")
    loud = 3 * 0.25 * 2 * count**-0.5
    assert seen[:, 0].tolist() == pytest.approx([0.0, 3.96, 6.0])
    assert seen[:, rocket].tolist() == pytest.approx([0.0, loud - 0.16, loud], abs=1e-5)
    assert not seen[:, [at for at in range(1, seen.shape[1]) if at != rocket]].any()


def test_what_is_sure_in_one_place_counts_more_than_what_is_unsure_everywhere() -> None:
    small, vague = (photo_classes().index(name) for name in ("tripod", "binoculars"))
    logits = torch.zeros(1, 9, 1000)
    logits[:, :, vague] = 9.0
    logits[:, 4, small] = 25.0
    assert logits.mean(1).argmax() == vague
    averages = name_averages(logits)
    assert photo_names()[int(averages.argmax())] == "tripod" and averages[0, photo_names().index("binoculars")] == 0


def test_the_score_is_the_mean_of_the_places() -> None:
    scores = torch.tensor([[-3.0, 1.0, 5.0], [-50.0, 0.0, 12.0]])
    assert mean_score(scores).tolist() == pytest.approx([1.0, 0.0])  # one place alone cannot say more than 12


def test_photographs_are_told_from_drawings_and_the_unseen_style_takes_no_part() -> None:
    torch.manual_seed(0)
    views = [Picture("drawn", 0, "openmoji"), Picture("cutout", 0), Picture("drawn", 0, "noto")]
    table = torch.rand(60, 9, 1280)
    table[20:40, :, :50] += 1
    table[40:] *= 100
    bank = FeatureBank([views[row // 20] for row in range(60)], table, "cpu")
    blanks = torch.rand(20, 9, 1280)
    blanks[..., :50] += 1  # alone they would pass for photographs
    blanks[..., 100:120] += 1
    photo, bias = fit_photo(bank, views[1:2], blanks, drawings=100, seed=0)
    scores = table[:40].mean(1) @ photo + bias
    assert bool((scores[:20] < 0).all()) and bool((scores[20:] > 0).all())
    unaware, its_bias = fit_photo(bank, views[1:2], blanks[:0], drawings=100, seed=0)
    pooled = blanks.mean(1)
    assert (pooled @ photo + bias).mean() < (pooled @ unaware + its_bias).mean() - 0.2
    bank.table[40:] = 0
    assert torch.equal(fit_photo(bank, views[1:2], blanks, drawings=100, seed=0)[0], photo)


def test_blanks_are_of_one_colour_from_black_to_white() -> None:
    blanks = blank_pictures(5, 0)
    assert blanks.shape == (10, 3, 224, 224)
    assert (blanks == blanks[..., :1, :1]).all()
    assert (128 * blanks[:5, :, 0, 0] + 127).round().tolist() == [[value] * 3 for value in (0, 64, 128, 191, 255)]
    assert len(blanks[5:, :, 0, 0].unique()) == 15


def test_what_names_are_worth_brings_the_projector_to_their_codes() -> None:
    torch.manual_seed(0)
    names, second = len(photo_names()), nn.Linear(128, 64).requires_grad_(False)
    codes = second(F.gelu(torch.randn(names, 128)))
    logits = 5 * torch.randn(500, 2, 1000)
    worth, losses = train_worth(second, logits, codes, steps=150, lr=3e-2, seed=0)
    alone = torch.cat([torch.full((names, 1), 6.0), 5 * torch.eye(names)], 1)
    nearest = torch.cdist(read(second, worth, alone), codes).argmin(1)
    assert (nearest == torch.arange(names)).float().mean() > 0.9
    assert set(losses) == {"told_apart", "pull"}
    again, _ = train_worth(second, logits, codes, steps=150, lr=3e-2, seed=0)
    assert torch.equal(worth, again)


def test_names_told_aloud_are_what_the_tower_gives(model: Any) -> None:
    """What is trained with the language model in the loop is what the stages compute on a photograph."""
    torch.manual_seed(1)
    weight, bias = classifier(tower_file())
    photo, photo_bias = torch.zeros(1280), torch.tensor([2.0])
    worth = 0.5 * torch.randn(WIDTH, 1 + len(photo_names()))
    shown = pixels(data.chelsea(), data.coffee())
    with torch.no_grad():
        looks = model.model.vision_tower(shown).last_hidden_state.flatten(2).transpose(1, 2)
        pictures = [Picture("cutout", 0), Picture("cutout", 1)]
        bank = NamesBank(FeatureBank(pictures, looks, "cpu"), (weight, bias), (photo, photo_bias), seed=0)
        projector = NamesProjector(model.model.multi_modal_projector.linear_2, worth)
        aloud = projector(bank.features(pictures, augment=False))
        add_photo_classifier(model, tower_file(), PhotoClassifier(photo, photo_bias, worth), {})
        seen = model.model.vision_tower(shown).last_hidden_state.flatten(2).transpose(1, 2)
        first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
        wanted = second(F.gelu(first(seen)))
    assert aloud.shape == (2, 9, WIDTH)
    assert torch.allclose(aloud, wanted, atol=1e-2)
    assert not torch.allclose(aloud[0], aloud[1], atol=0.1)


def test_a_name_alone_opens_its_channel_and_no_other() -> None:
    head = classifier(tower_file())
    bank = NamesBank(FeatureBank([], torch.zeros(0, 9, 1280), "cpu"), head, (torch.zeros(1280), torch.ones(1)), seed=0)
    seen = bank.features([Picture("name", 3), Picture("name", 5)], augment=True)
    assert seen.shape == (2, 9, 1 + len(photo_names()))
    assert (seen[:, :, 0] >= 3).all()  # surely photographs
    assert seen[:, 0, 1:].nonzero().tolist() == [[0, 3], [1, 5]]
    again = bank.features([Picture("name", 3)], augment=True)
    assert again[0, 0, 4] != seen[0, 0, 4]  # now loud, now soft


def test_only_the_worth_of_names_is_trained_aloud() -> None:
    torch.manual_seed(0)
    projector = NamesProjector(nn.Linear(WIDTH, WIDTH), torch.zeros(WIDTH, 5))
    assert [name for name, value in projector.named_parameters() if value.requires_grad] == ["worth"]
    projector(torch.rand(2, 9, 5)).square().sum().backward()
    assert projector.worth.grad is not None and projector.worth.grad.abs().sum() > 0
