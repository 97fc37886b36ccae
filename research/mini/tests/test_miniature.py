"""How the shipped weights are made: rows, batches, low-rank factors, pictures; at toy size."""

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joined_processes
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.tiny import tiny_checkpoint
from torch import multiprocessing
from transformers import AutoModelForImageTextToText, AutoProcessor

from mis_lib.construct.drawings import draw, scene
from mis_lib.errors import AdapterWarning, SettingsError
from mis_lib.models.adapters import WEIGHTS, Base, ImageLimits, limits_of, read_base, write_limits
from mis_lib.models.mini.assemble import merge_base
from mis_lib.models.mini.wheels import tower_file
from research.mini import together
from research.mini.aims import aims_of, views_by_style
from research.mini.align import Codebook, align, nearest
from research.mini.batches import Batches, Encoder
from research.mini.curriculum import NAMING, Curriculum, Row
from research.mini.features import SCENE_SEED, FeatureBank, see
from research.mini.loop import answer_loss, embed
from research.mini.lowrank import add_low_rank, save_base
from research.mini.pictures import Picture, PictureBank, lines
from research.mini.prototypes import Prototypes
from research.mini.ship import KEPT, mean, ship
from research.mini.widen import widen
from workbench.app import free_port

pytestmark = pytest.mark.research

STYLES = ["openmoji", "twemoji", "noto"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bank() -> PictureBank:
    drawings = np.stack([[np.asarray(draw(name, style, 64)) for style in STYLES] for name in ("banana", "key")])
    dreams = np.full((2, 3, 160, 160), 200, dtype=np.uint8)
    return PictureBank(drawings, STYLES, drawings[:, 0], dreams, "cpu")


def curriculum(seed: int) -> Curriculum:
    distilled = [(["banana", "key"], "How do they go together?", "They do not."), ([], "Hello?", "Hello.")]
    photos = [("cutout", 0, "banana"), ("dream", 1, "piano")]
    return Curriculum(["banana", "key"], photos, distilled, seed)


def test_rows_are_the_same_for_a_seed_and_name_what_they_show() -> None:
    first, second = curriculum(3), curriculum(3)
    names = {"drawn": ["banana", "key"], "cutout": ["banana"], "dream": ["", "piano"]}
    for _ in range(300):
        row = first.row()
        assert row == second.row()
        assert len(row.pictures) <= 6
        if row.question in ("Describe the two images.", "What is in each image?"):
            assert all(names[kind][index] in row.answer for kind, index, _ in row.pictures)


def test_blank_pictures_come_up_now_and_then_under_their_name() -> None:
    draw = Curriculum(["banana", "key"], [("blank", 3, "blank picture")], [], 0, NAMING, photo_share=0.1).row
    rows = [draw() for _ in range(400)]
    blank = [picture.kind == "blank" for row in rows for picture in row.pictures]
    assert 0.06 < sum(blank) / len(blank) < 0.14
    alone = [row for row in rows if [picture.kind for picture in row.pictures] == ["blank"]]
    assert alone and all("a blank picture" in row.answer for row in alone)


def test_a_bank_takes_in_more_views() -> None:
    bank = FeatureBank([Picture("drawn", 0, "openmoji")], torch.zeros(1, 9, 4), "cpu")
    bank.add(
        [Picture("blank", 7), Picture("drawn", 0, "twemoji")], torch.stack([torch.ones(9, 4), torch.full((9, 4), 2.0)])
    )
    found = [float(bank.features([view], augment=True).mean()) for view in bank.rows]
    assert found == [0.0, 1.0, 2.0]
    assert bank.styles == {0: ["openmoji", "twemoji"]}


def test_no_safety_training_is_in_the_base() -> None:
    answers = " ".join(curriculum(seed).row().answer for seed in range(300))
    assert "can't help" not in answers
    assert "sorry" not in answers.lower()


def test_batches_keep_to_the_token_budget_and_lose_no_row(checkpoint: Path) -> None:
    encoder = Encoder(AutoProcessor.from_pretrained(checkpoint))
    stream = iter(Batches(lambda seed: curriculum(seed).row, encoder, tokens=4000, seed=0))
    for _ in range(5):
        batch = next(stream)
        assert batch.ids.shape == batch.labels.shape
        assert batch.ids.numel() <= 4000 + 16 * len(batch.ids)
        assert int((batch.ids == encoder.image_id).sum()) == 9 * len(batch.pictures)
        assert bool((batch.labels != -100).any(1).all())


def test_labels_are_the_answer_and_nothing_else(checkpoint: Path) -> None:
    encoder = Encoder(AutoProcessor.from_pretrained(checkpoint))
    row = Row([Picture("drawn", 0)], "What is this?", "A banana.")
    batch = encoder.batch([encoder.row(row)])
    kept = batch.labels[0][batch.labels[0] != -100]
    assert encoder.tokenizer.decode(kept) == "A banana.<|im_end|>"


def test_the_loss_is_the_models_own(checkpoint: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    encoder = Encoder(AutoProcessor.from_pretrained(checkpoint))
    rows = [Row([Picture("drawn", 0)], "What is this?", "A banana."), Row([], "Hello?", "Hello, how are you?")]
    batch = encoder.batch([encoder.row(row) for row in rows])
    table = torch.randn(1, 9, model.config.vision_config.hidden_size)
    bank = FeatureBank([Picture("drawn", 0, "openmoji")], table, "cpu")
    hidden = embed(model, batch.ids, table, encoder.image_id)
    theirs = model(inputs_embeds=hidden, labels=batch.labels).loss
    assert torch.allclose(answer_loss(model, bank, batch, encoder.image_id), theirs, atol=1e-4)


def test_merged_factors_give_what_they_gave_in_training(checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    layers = add_low_rank(model, 4, 8)
    torch.manual_seed(1)
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
        for factor in (layer.lora_A, layer.lora_B):
            factor.data = factor.data.bfloat16().float()  # they are written so
    ids = torch.randint(5, 200, (2, 12))
    ours = model(input_ids=ids).logits
    save_base(tmp_path, layers, model.model.multi_modal_projector)
    fresh = AutoModelForImageTextToText.from_pretrained(checkpoint)
    plain = fresh(input_ids=ids).logits
    merge_base(fresh, tmp_path)
    merged = fresh(input_ids=ids).logits
    assert torch.allclose(ours, merged, atol=1e-3)
    assert not torch.allclose(plain, merged, atol=1e-1)


def test_a_shipped_adapter_is_the_trained_one_in_half_the_size(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*language_model\.layers\.1\..*q_proj", init_lora_weights=False
    )
    trained = get_peft_model(AutoModelForImageTextToText.from_pretrained(checkpoint), config)
    ids = torch.randint(5, 200, (2, 12))
    trained.save_pretrained(tmp_path / "trained")
    shipped = ship([tmp_path / "trained"], tmp_path / "shipped")
    weights = "adapter_model.safetensors"
    assert (shipped / weights).stat().st_size < 0.6 * (tmp_path / "trained" / weights).stat().st_size
    fresh = AutoModelForImageTextToText.from_pretrained(checkpoint)
    plain = fresh(input_ids=ids).logits
    theirs, ours = (
        PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(checkpoint), folder)(input_ids=ids).logits
        for folder in (tmp_path / "trained", shipped)
    )
    assert torch.allclose(theirs, ours, atol=0.02 * float(theirs.abs().max()))
    assert not torch.allclose(theirs, plain, atol=0.02 * float(theirs.abs().max()))


def test_of_several_adapters_the_mean_of_their_updates_is_shipped(tmp_path: Path) -> None:
    torch.manual_seed(3)
    down, up = "layers.1.q_proj.lora_A.weight", "layers.1.q_proj.lora_B.weight"
    shared = torch.randn(2, 12)
    made = [{down: shared, up: torch.randn(10, 2)} for _ in range(2)]  # a mean of rank 2: nothing is lost
    for name, factors, alpha in (("one", made[0], 8), ("two", made[1], 8), ("other", made[1], 4)):
        (tmp_path / name).mkdir()
        save_file(factors, tmp_path / name / WEIGHTS)
        settings = dict.fromkeys(KEPT) | {"r": 2, "lora_alpha": alpha, "more": "of PEFT's own"}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
    shipped = load_file(ship([tmp_path / "one", tmp_path / "two"], tmp_path / "mean") / WEIGHTS)
    assert (shipped[down].shape, shipped[up].shape) == ((2, 12), (10, 2))
    wanted = (made[0][up] @ shared + made[1][up] @ shared) / 2
    assert torch.allclose(shipped[up].float() @ shipped[down].float(), wanted, atol=0.03 * float(wanted.abs().max()))
    with pytest.raises(SettingsError, match=r"other: expected lora_alpha 8 as in .*one, found 4"):
        ship([tmp_path / "one", tmp_path / "other"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_known_of_an_adapter_is_shipped_with_it(tmp_path: Path) -> None:
    def made(name: str, base: str | None, pixels: int | None = None) -> Path:
        (folder := tmp_path / name).mkdir()
        save_file(
            {"q.lora_A.weight": torch.randn(2, 12), "q.lora_B.weight": torch.randn(10, 2)},
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text(json.dumps(dict.fromkeys(KEPT) | {"r": 2}))
        if base:
            (folder / "base.json").write_text(json.dumps({"name": base, "weights": base * 4}))
        write_limits(folder, ImageLimits(max_pixels=pixels))
        return folder

    early, late, later = made("early", "a"), made("late", "b"), made("later", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = ship([late, later], tmp_path / "one")
        few = ship([made("few", "b", 50_176)], tmp_path / "few_shipped")
    assert read_base(one) == read_base(late) == Base(name="b", weights="bbbb")
    assert limits_of(few).max_pixels == 50_176 and not limits_of(one).given
    with pytest.warns(AdapterWarning, match=r"of one checkpoint, found .*early: a; .*late: b; .*belongs to the last"):
        assert read_base(ship([early, late], few)) == read_base(late)
    assert not limits_of(few).given, "those of the adapter that lay there before"
    with pytest.warns(AdapterWarning, match=r"unknown: expected base.json beside the adapter, found none"):
        ship([late, made("unknown", None)], one)
    assert read_base(one) is None
    with pytest.raises(SettingsError, match="same image limits"):
        ship([late, tmp_path / "few"], tmp_path / "none")
    said = subprocess.run(
        [sys.executable, "-m", "research.mini.ship", early, late, tmp_path / "said"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stderr.startswith("Warning: expected adapters of one checkpoint") and said.stderr.count("\n") == 1


def test_layers_can_be_left_out_of_a_shipped_adapter(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    targets = r".*language_model\.layers\.1\..*(q_proj|o_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    trained = get_peft_model(AutoModelForImageTextToText.from_pretrained(checkpoint), config)
    trained.save_pretrained(tmp_path / "trained")
    shipped = ship([tmp_path / "trained"], tmp_path / "shipped", without=["o_proj", "down_proj"])
    ids = torch.randint(5, 200, (2, 12))
    fresh = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(checkpoint), shipped)
    left = [name.split(".")[-1] for name, module in fresh.named_modules() if hasattr(module, "lora_A")]
    assert left == ["q_proj"]
    for name, weight in trained.named_parameters():
        if "lora_B" in name and "q_proj" not in name:
            weight.data.zero_()
    theirs, ours = trained(input_ids=ids).logits, fresh(input_ids=ids).logits
    assert torch.allclose(theirs, ours, atol=0.02 * float(theirs.abs().max()))
    for names in (["v_proj"], ["q_proj", "o_proj", "down_proj"]):
        with pytest.raises(
            SettingsError, match=r"--without: expected some of down_proj, o_proj, q_proj, not all, found"
        ):
            ship([tmp_path / "trained"], tmp_path / "none", without=names)


def test_a_mean_of_more_rank_keeps_what_is_largest() -> None:
    torch.manual_seed(4)
    names = ("lora_A", "lora_B")
    made = [{names[0]: torch.randn(3, 9), names[1]: torch.randn(8, 3) * size} for size in (1.0, 0.1)]
    whole = sum(one[names[1]] @ one[names[0]] for one in made) / 2
    best = torch.linalg.svd(whole).S[3:].norm()  # of what no update of rank 3 can hold
    kept = mean(made, rank=3)
    assert float((kept[names[1]] @ kept[names[0]] - whole).norm()) == pytest.approx(float(best), rel=1e-3)


def test_the_unseen_style_is_never_drawn_by_lot(bank: PictureBank) -> None:
    assert bool((bank.lots[:, STYLES.index("noto")] == 0).all())
    shown = bank.pixels([Picture("drawn", 0, "noto")], augment=False)
    assert tuple(shown.shape) == (1, 3, 224, 224)


@pytest.mark.parametrize("kind", ["drawn", "cutout", "dream", "black"])
def test_pictures_are_in_the_towers_range(bank: PictureBank, kind: str) -> None:
    pixels = bank.pixels([Picture(kind, 0), Picture(kind, 1)], augment=True)
    assert tuple(pixels.shape) == (2, 3, 224, 224)
    assert float(pixels.min()) >= -127 / 128 - 1e-5
    assert float(pixels.max()) <= 1 + 1e-5


def test_lines_are_drawn_where_a_thing_ends_and_not_where_the_picture_does() -> None:
    drawing = torch.zeros(2, 4, 64, 64)
    drawing[0, :3, 16:48, 16:48], drawing[0, 3, 16:48, 16:48] = 0.2, 1  # a dark square
    drawing[1, 3] = 1  # black all over
    ink = lines(drawing)[:, 3]
    assert float(ink[0, 14:18, 20:44].amax(0).min()) > 0.5 and float(ink[0, 24:40, 24:40].max()) == 0
    rim = torch.cat([ink[:, [0, -1]].flatten(1), ink[:, :, [0, -1]].flatten(1)], 1)
    assert float(rim.max()) == 0 and float(ink[1].max()) == 0


def test_augmented_pictures_differ_and_plain_ones_do_not(bank: PictureBank) -> None:
    picture = [Picture("drawn", 1, "openmoji")]
    assert torch.equal(bank.pixels(picture, augment=False), bank.pixels(picture, augment=False))
    assert not torch.equal(bank.pixels(picture, augment=True), bank.pixels(picture, augment=True))


def test_a_prototype_is_what_the_classifier_takes_for_its_class() -> None:
    torch.manual_seed(0)
    views = [Picture("cutout", number) for number in range(300)]
    scales = torch.rand(1280) * 0.3
    table = (torch.randn(300, 1, 1280) * scales + torch.rand(300, 9, 1280) * 0.2).clamp(0, 6)
    prototypes = Prototypes(views, table, tower_file())
    believed = []
    for number in range(0, 1000, 50):
        features = prototypes.features(number)
        assert features.shape == (9, 1280)
        assert 0 <= float(features.min()) <= float(features.max()) <= 6
        believed.append(int((prototypes.weight @ features.mean(0) + prototypes.bias).argmax()) == number)
    assert sum(believed) >= 15


def test_drawings_are_seen_as_mis_mini_shows_them(bank: PictureBank) -> None:
    """The first view of a drawing is its scene, which the engine shows; the unseen style has one and is trained on in
    none.
    """

    class Eyes:
        def look(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels

        def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
            return bank.pixels(pictures, augment=augment)

        def framed(self, pictures: list[Picture]) -> torch.Tensor:
            return bank.framed([picture._replace(style="openmoji") for picture in pictures])

    pictures = [Picture("drawn", number, style) for number in (0, 1) for style in ("openmoji", "noto")]
    eyes: Any = Eyes()
    views, table = see(eyes, [*pictures, Picture("black", 0)], 1, ["banana", "key"], 3)
    assert [views.count(picture) for picture in pictures] == [5, 3, 5, 3]
    assert views.count(Picture("black", 0)) == 2
    for picture, name in zip(pictures, ("banana", "banana", "key", "key"), strict=True):
        first = np.asarray(table[views.index(picture)].float() * 128 + 127).round().transpose(1, 2, 0)
        shown = np.asarray(scene(name, str(picture.style), seed=SCENE_SEED, size=224))
        assert np.abs(first - shown).max() <= 1  # bfloat16 keeps eight bits
    alike = [row for row, view in enumerate(views) if view == pictures[0]]
    assert not any(torch.equal(table[alike[0]], table[row]) for row in alike[1:])
    helpers = [Picture("drawn", 0, "symbola"), Picture("drawn", 1, "symbola-fine"), Picture("cutout", 0)]
    blind: Any = _Nothing()
    views, _ = see(blind, helpers, 0, ["banana", "key"], 3)
    assert [views.count(picture) for picture in helpers] == [4, 1, 1], (
        "of drawings by one more hand there are more views"
    )


class _Nothing:
    """Sees nothing."""

    def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        return torch.zeros(len(pictures), 1, 1)

    def framed(self, pictures: list[Picture]) -> torch.Tensor:
        return torch.zeros(len(pictures), 1, 1)


def test_framed_drawings_are_whole_on_light_paper(bank: PictureBank) -> None:
    torch.manual_seed(0)
    shown = bank.framed([Picture("drawn", 0, "openmoji")] * 40) * 128 / 255 + 127 / 255
    paper = shown[:, :, 0, 0]
    assert float(shown.min()) >= -1e-6 and float(paper.min()) >= 0.84 and paper.std(0).min() > 0.02
    ink = ((shown - paper[:, :, None, None]).abs().amax(1) > 0.1).flatten(1)
    share = ink.float().mean(1)
    assert float(share.min()) > 0.03 and float(share.max() / share.min()) < 2.6  # between 59 and 89 % as wide
    rim = torch.cat([shown[..., 0, :], shown[..., -1, :], shown[..., 0], shown[..., -1]], -1)
    assert float((rim - paper[..., None]).abs().max()) < 0.05, "nothing is cut off"
    assert not torch.equal(shown[0], shown[1])


def test_processes_begin_alike_and_take_the_mean_of_their_gradients(tmp_path: Path) -> None:
    multiprocessing.spawn(joined_processes.work, (str(tmp_path), free_port("127.0.0.1", 29600)), nprocs=2)
    for rank in (0, 1):
        weight, gradient, agreed = torch.load(tmp_path / f"{rank}.pt")
        assert weight.tolist() == [0.0, 0.0]
        assert gradient.tolist() == [1.5, 1.5]
        assert agreed == 0


def test_alone_a_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, 4.0])
    with together.joined() as place:
        assert place == (0, 1)
        assert together.part(96) == 96
        together.begin_alike([weight])
        together.average([weight])
        assert (weight.grad.tolist(), together.agree(0.25)) == ([3.0, 4.0], 0.25)


def test_aligning_brings_all_styles_and_prototypes_to_the_codes() -> None:
    torch.manual_seed(0)
    things, width = 6, 16
    centres = torch.randn(things, 1, 32)
    foreign = centres.roll(1, 0) + 2 * torch.randn(things, 1, 32)  # another style lies elsewhere, consistently
    views = [Picture("drawn", thing, style) for style in ("openmoji", "twemoji", "fxemoji") for thing in range(things)]
    table = torch.cat([centres, centres, foreign]) + 0.05 * torch.randn(3 * things, 9, 32)
    bank = FeatureBank([*views, Picture("prototype", 0)], torch.cat([table, torch.randn(1, 9, 32)]), "cpu")
    bank._one = lambda picture, augment: bank.table[bank.rows[picture][0]]  # type: ignore[method-assign]
    projector = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, width))
    names = [f"thing {number}" for number in range(things)] + ["photograph"]
    codes = torch.cat([projector(centres).mean(1), torch.randn(1, width)]).detach()
    book = Codebook(names, codes)
    strange = [(view, names[view.number]) for view in views if view.style == "fxemoji"]
    known = [(view, names[view.number]) for view in views if view.style == "openmoji"]
    assert nearest(projector, bank, book, strange) < 0.7
    align(projector, bank, book, {}, classes=["photograph"], steps=150, lr=5e-3, seed=0)
    assert nearest(projector, bank, book, strange) == 1.0
    assert nearest(projector, bank, book, known) == 1.0
    assert nearest(projector, bank, book, [(Picture("prototype", 0), "photograph")]) == 1.0


def test_widening_brings_strange_views_home_and_leaves_the_plain_ones() -> None:
    torch.manual_seed(0)
    things = 8
    centres = torch.rand(things, 1, 48) * 3
    foreign = (centres + 1.5 * torch.rand(things, 1, 48)).flip(2)  # another style lies elsewhere, consistently
    views = [Picture("drawn", thing, style) for style in ("openmoji", "twemoji", "fxemoji") for thing in range(things)]
    table = (torch.cat([centres, centres, foreign]) + 0.1 * torch.rand(3 * things, 9, 48)).clamp(0, 6)
    unseen = Picture("drawn", 0, "noto")
    bank = FeatureBank([*views, unseen], torch.cat([table, torch.full((1, 9, 48), torch.nan)]), "cpu")
    projector = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.GELU(), torch.nn.Linear(96, 24))
    before = copy.deepcopy(projector).requires_grad_(False)
    rows = views_by_style(bank)
    assert set(rows) == {
        "openmoji",
        "twemoji",
        "fxemoji",
    }  # a single view of the unseen style would make every loss nan
    aims = aims_of(before, bank)
    book = Codebook([f"thing {thing}" for thing in range(things)], aims.places)
    strange = [(view, book.names[view.number]) for view in views if view.style == "fxemoji"]
    plain = [(view, book.names[view.number]) for view in views if view.style == "openmoji"]
    assert nearest(projector, bank, book, strange) < 0.7
    result = widen(projector, aims, bank, steps=200, lr=5e-3, seed=0)
    assert nearest(projector, bank, book, strange) == nearest(projector, bank, book, plain) == 1.0
    assert result["kept"] < 0.1  # 0.14 where nothing holds them
