"""Training on a tiny model: results do not depend on batching, only what should move moves, nothing is half written."""

import importlib.util
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from support.full_disk import files_of_at_most
from support.tiny import tiny_adapter, tiny_checkpoint
from support.tiny_rows import losses_alone, tiny_rows
from transformers import (
    AutoModelForImageTextToText,
    Trainer,
    get_scheduler,
)

from mis_lib.errors import (
    DataError,
    ImageError,
    MisError,
    MissingPackageError,
    ModelError,
    SettingsError,
    TrainingError,
)
from mis_lib.files import read_jsonl, read_records
from mis_lib.models.load import load_model
from mis_lib.models.trained_on import TRAINED_ON, item_digests, read_trained_on, record
from mis_lib.recipes.train import train_by
from mis_lib.schema import Sample
from mis_lib.train.batches import Plan, collate
from mis_lib.train.callbacks import LOG
from mis_lib.train.dataset import examples_of
from mis_lib.train.encode import IGNORED, Encoder, Example
from mis_lib.train.features import FeatureCache, Mixer, most_alike
from mis_lib.train.lora import Part, part_of, prepare, restore
from mis_lib.train.loss import AnswerHead
from mis_lib.train.model import bfloat16, load
from mis_lib.train.packing import PackedRows, has_kernel, pack, packed_inputs
from mis_lib.train.run import make_encoder, make_trainer, plan_of, prepare_features, run, sizes_of, training_arguments
from mis_lib.train.settings import Scheduler, TrainSettings
from mis_lib.train.sharding import decoder_layers, holds_weights, place_of, whole_by_layer
from mis_lib.train.trackers import Trackers
from mis_lib.train.trainer import Steps

CONFIGS = Path(__file__).parents[2] / "configs"
Train = Callable[..., list[dict[str, Any]]]
DEFAULTS: dict[str, Any] = {
    "batch_size": 4, "batch_tokens": 600, "epochs": 2, "precision": "float32", "learning_rate": 1e-3, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def settings_of(checkpoint: Path, data: Path) -> Callable[..., TrainSettings]:
    def make(**changes: Any) -> TrainSettings:
        return TrainSettings(**{"model": str(checkpoint), "data": data / "train.jsonl", **DEFAULTS, **changes})

    return make


@pytest.fixture
def train(settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path) -> Train:
    """Trains in ``tmp_path/NAME`` and returns the lines of the log."""

    def start(name: str = "run", *, listener: Any = None, **changes: Any) -> list[dict[str, Any]]:
        settings = settings_of(**changes)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        examples = examples_of(settings, settings.data or data, folder / "data")
        run(settings, checkpoint, examples, folder, listeners=(listener,) if listener else ())
        return list(read_jsonl(folder / LOG))

    return start


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines]


# --- the same numbers, however they are computed ---


def test_loss_of_each_token_is_that_of_the_whole_model(checkpoint: Path, data: Path) -> None:
    model, processor = load_model(checkpoint, dtype=torch.float32)
    rows = [Encoder(processor).row(Example(sample, data)) for sample in read_records(data / "train.jsonl", Sample)[:5]]
    batch = collate(rows, pad_token=0)
    network: Any = model
    logits = network(**batch.inputs).logits[:, :-1]
    wanted = batch.labels[:, 1:] != IGNORED
    expected = torch.nn.functional.cross_entropy(logits[wanted], batch.labels[:, 1:][wanted], reduction="none")
    head = AnswerHead(model)
    with head.losses_at(batch.labels):
        network(**batch.inputs)
    torch.testing.assert_close(head.losses.each, expected)
    assert torch.equal(head.losses.hits, logits[wanted].argmax(-1) == batch.labels[:, 1:][wanted])
    whole = AnswerHead(model, whole_logits=True)  # put in the place of the other, as the benchmark does
    with whole.losses_at(batch.labels):
        network(**batch.inputs)
    torch.testing.assert_close(whole.losses.each, expected)
    assert torch.equal(whole.losses.hits, head.losses.hits)
    with head.losses_at(batch.labels):
        network(**batch.inputs)
    torch.testing.assert_close(head.losses.each, expected)
    assert network(**batch.inputs).logits.shape == (5, batch.labels.shape[1], logits.shape[-1]), (
        "outside, it is the model's own"
    )


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_before_ampere_have_no_bfloat16_and_no_flash_kernel(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability[0]))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)  # emulated
    assert bfloat16(TrainSettings(), "cuda") is expected
    assert has_kernel(torch.device("cuda", 0)) is expected


def test_saving_an_adapter_asks_no_hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.utils import save_and_load

    from mis_lib.train.lora import prepare

    def refused(*given: object, **options: object) -> bool:
        raise AssertionError(f"asked a hub for {given} {options}")

    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", refused)
    network, _ = load_model(checkpoint, dtype=torch.float32)
    prepare(network, TrainSettings(model="mini")).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_packed_rows_have_the_losses_they_have_alone(checkpoint: Path, data: Path) -> None:
    model, processor = load_model(checkpoint, dtype=torch.float32)
    network: Any = model
    rows = [Encoder(processor).row(Example(sample, data)) for sample in read_records(data / "train.jsonl", Sample)[:5]]
    head = AnswerHead(model)
    alone = losses_alone(head, network, rows)
    pack(model)
    batch = collate(rows, pad_token=0, packed=True)
    extra = packed_inputs(model, batch)
    with head.losses_at(batch.labels):
        network(**batch.inputs, **extra)
        together = head.losses.each
        network(**batch.inputs, **{**extra, "packed_rows": PackedRows.of([batch.tokens])})
        mixed_up = head.losses.each
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (mixed_up - torch.cat(alone)).abs().max() > 0.01, "the test would not see rows that attend to each other"


@pytest.mark.slow
def test_a_run_is_the_same_packed_padded_cached_and_in_small_passes(train: Train) -> None:
    reference = losses(train("reference"))
    ways = {
        "padded": {"packing": False},
        "no_cache": {"feature_cache": False},
        "small_passes": {"batch_tokens": 100},
        "eager": {"packing": False, "attention": "eager", "feature_cache": False},
        "checkpointed": {"gradient_checkpointing": True},
        "workers": {"feature_cache": False, "workers": 1},
    }
    for name, changes in ways.items():
        assert losses(train(name, **changes)) == pytest.approx(reference, abs=2e-5), name
    assert reference[-1] < reference[0], "nothing was learnt"


class Passing(torch.autograd.Function):
    """As DeepSpeed's functions at a module's outputs: the identity, which counts how often it is gone back through."""

    backwards = 0

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> torch.Tensor:
        Passing.backwards += 1
        return grads[0]


def test_backward_goes_through_what_the_wrapped_model_returns(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """ZeRO-3 gathers weights for backward where it has hooked a model's outputs (zero/parameter_offload.py)."""
    settings = settings_of(feature_cache=False, batch_size=2)
    loaded = load(settings, checkpoint)
    encoder, examples = make_encoder(loaded, settings), examples_of(settings, data, tmp_path / "data")
    trainer = make_trainer(
        loaded, encoder, examples, plan_of(settings, sizes_of(examples, encoder, None)), settings, tmp_path
    )

    def hook(model: Any, args: Any, output: Any) -> None:
        for name, value in output.items():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                output[name] = Passing.apply(value)

    loaded.model.register_forward_hook(hook)
    passes = trainer.steps[0]
    Passing.backwards = 0
    trainer.training_step(loaded.model, passes)
    assert Passing.backwards == len(passes)


def test_all_answer_tokens_of_a_run_have_one_weight(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def gradient(**changes: Any) -> torch.Tensor:
        torch.manual_seed(0)  # of the adapter
        settings = settings_of(feature_cache=False, **changes)
        loaded = load(settings, checkpoint)
        encoder = make_encoder(loaded, settings)
        samples = read_records(data / "train.jsonl", Sample)
        answers = [sample.answer if at % 2 else "No." for at, sample in enumerate(samples)]
        examples = [
            Example(sample.model_copy(update={"answer": answer}), data)
            for sample, answer in zip(samples, answers, strict=True)
        ]
        plan = plan_of(settings, sizes_of(examples, encoder, None))
        trainer = make_trainer(loaded, encoder, examples, plan, settings, tmp_path)
        for step in range(plan.steps):
            trainer.training_step(loaded.model, trainer.steps[step])
        found = torch.cat([weight.grad.flatten() for weight in loaded.model.parameters() if weight.grad is not None])
        return found / plan.steps

    rows = len(read_records(data / "train.jsonl", Sample))
    assert rows % 2 == 0
    whole = gradient(batch_size=rows, max_steps=1, group_by_length=False)
    torch.testing.assert_close(gradient(batch_size=2, max_steps=rows // 2), whole, rtol=1e-3, atol=1e-5)
    mixed = gradient(batch_size=2, max_steps=rows // 2, group_by_length=False)
    assert (mixed - whole).norm() > 0.01 * whole.norm(), "the test would not see another weight"


def test_the_short_way_through_lora_layers_is_pefts(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    loaded = load(settings_of(), checkpoint)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    example = Example(read_records(data / "train.jsonl", Sample)[0], data)
    inputs = collate([Encoder(loaded.processor).row(example)], pad_token=0).inputs
    short = loaded.model(**inputs).logits
    with loaded.model.disable_adapter():
        base = loaded.model(**inputs).logits
    restore(loaded.model)
    torch.testing.assert_close(short, loaded.model(**inputs).logits)
    assert not torch.allclose(short, base)


# --- feature cache ---


def test_features_are_computed_once_and_found_again(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    settings = settings_of(feature_cache=True)
    loaded = load(settings, checkpoint)
    encoder = make_encoder(loaded, settings)
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    _, first, _ = prepare_features(loaded, encoder, examples, settings)
    cache, second, _ = prepare_features(loaded, encoder, examples, settings)
    assert first and second and cache
    assert (first.images, first.computed, first.shown) == (5, 5, 24)
    assert second.computed == 0
    assert first.break_even_epochs is not None and second.break_even_epochs is None
    shown = set(examples[0].sample.images)
    _, some, _ = prepare_features(loaded, encoder, examples[:1], settings)
    assert some and (some.images, some.megabytes) == (
        len(shown),
        pytest.approx(cache.size / 5e6 * len(shown), abs=1e-4),
    )
    for example in examples[:3]:
        assert torch.equal(cache.prompt(example).ids, encoder.prompt(example).ids)


def test_a_half_written_feature_is_computed_again(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    settings = settings_of(feature_cache=True)
    loaded = load(settings, checkpoint)
    encoder = make_encoder(loaded, settings)
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    cache, _, _ = prepare_features(loaded, encoder, examples, settings)
    assert cache
    before = cache.features(examples[4])
    with (cache.folder / "features.bin").open("r+b") as stream:  # a writer that was killed within the last image
        stream.truncate(cache.size - 10)
    again, worth, _ = prepare_features(loaded, encoder, examples, settings)
    assert worth and again and worth.computed == 1
    for mine, theirs in zip(again.features(examples[4]), before, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_features_of_other_products_are_others(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    settings = settings_of(feature_cache=True, tuning="full")
    loaded = load(settings, checkpoint)
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    folders = {
        cache.folder
        for autocast in (False, True)
        for cache in prepare_features(
            loaded._replace(autocast=autocast), make_encoder(loaded, settings), examples, settings
        )[:1]
        if cache
    }
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"augment": True}, "changes every image each time"), ({"freeze_vision": False}, "the vision tower is trained")],
)
def test_no_cache_where_features_change(train: Train, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        TrainSettings(feature_cache=True, **changes)
    train(**changes)  # without asking for one, training simply does without


def test_a_changed_tower_reads_no_features_of_the_old_one(
    settings_of: Callable[..., TrainSettings], data: Path, tmp_path: Path
) -> None:
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    folders = set()
    for seed in (0, 1):
        settings = settings_of(feature_cache=True)
        loaded = load(settings, tiny_checkpoint(tmp_path / f"base-{seed}", seed=seed))
        cache, worth, _ = prepare_features(loaded, make_encoder(loaded, settings), examples, settings)
        assert cache and worth and worth.computed == 5
        folders.add(cache.folder)
    assert len(folders) == 2


# --- unclear images ---


def test_each_image_is_mixed_with_at_most_so_much_of_another(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    settings = settings_of(image_mixup=0.4)
    loaded = load(settings, checkpoint)
    encoder = make_encoder(loaded, settings)
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    cache, _, _ = prepare_features(loaded, encoder, examples, settings)  # although encoding images would not pay here
    assert cache
    plan = plan_of(settings, sizes_of(examples, encoder, cache))
    clear, unclear = Steps(examples, encoder, plan, cache), Steps(examples, encoder, plan, cache, image_mixup=0.4)
    every = [cache.image(*image) for image in cache.distinct_images(examples).values()]
    shares: list[float] = []
    for number, epoch in ((number, epoch) for number in range(len(examples)) for epoch in range(8)):
        for own, seen in zip(clear.row(number).features, unclear.row(number, epoch).features, strict=True):
            found = [share_of(other, own, seen) for other in every if not torch.equal(other, own)]
            share, error = min(found, key=lambda pair: pair[1]) if not torch.equal(own, seen) else (0.0, 0.0)
            assert error < 1e-4, "this is not a mixture of two images"
            shares.append(share)
    assert min(shares) >= 0 and 0.3 < max(shares) <= 0.4
    assert sum(share < 0.1 for share in shares) / len(shares) > 0.45, "clear images are to be frequent"
    again, next_epoch = unclear.row(3), unclear.row(3, epoch=1)
    assert torch.equal(again.features[0], Steps(examples, encoder, plan, cache, image_mixup=0.4).row(3).features[0])
    assert not torch.equal(again.features[0], next_epoch.features[0])
    assert torch.equal(again.labels, clear.row(3).labels) and torch.equal(again.ids, clear.row(3).ids)


class SixImages:
    """In place of a feature cache: images of one token with one channel each; 0 and 3, 1 and 4, 2 and 5 look alike."""

    def __init__(self) -> None:
        angles = torch.tensor([0.0, 2.1, 4.2, 0.1, 2.2, 4.3])
        self.table = torch.cat([3 + torch.stack([angles.cos(), angles.sin()], 1), 0.1 * torch.eye(6)], 1)[:, None]

    def digest(self, example: Example, name: str) -> str:
        return name

    def image(self, example: Example, name: str) -> torch.Tensor:
        return self.table[int(name)]

    def distinct_images(self, examples: list[Example]) -> dict[str, tuple[Example, str]]:
        return {name: (example, name) for example in examples for name in example.sample.images}


def test_half_of_the_mixtures_are_with_images_that_look_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mis_lib.train.features.CHUNK", 4)  # several chunks
    monkeypatch.setattr("mis_lib.train.features.ALIKE", 1)
    cache: Any = SixImages()
    assert most_alike(cache.table[:, 0]) == [[3], [4], [5], [0], [1], [2]]
    assert most_alike(cache.table[:1, 0]) == [[]]
    sample = Sample(id="row", question="What?", images=[str(number) for number in range(6)], harmful=False)
    example = Example(sample, tmp_path)
    mixer = Mixer(cache, [example, example], 0.6)
    counts = torch.zeros(6)
    for lot in range(1200):
        seen = mixer.features(example, random.Random(lot))[1]
        counts += seen[0, 2:] > 0
    shares = counts / 1200  # each of six images by the other lot, and the one that looks alike by its own
    assert shares[4] == pytest.approx(0.5 + 0.5 / 6, abs=0.05)
    assert shares[[0, 2, 3, 5]] == pytest.approx(torch.full((4,), 0.5 / 6), abs=0.03)


def share_of(other: torch.Tensor, own: torch.Tensor, seen: torch.Tensor) -> tuple[float, float]:
    """How much of ``other`` is in ``seen`` beside ``own``, and how far the rest is off."""
    way = other - own
    share = float(((seen - own) * way).sum() / way.square().sum())
    return share, float((own + share * way - seen).abs().max())


def test_images_are_mixed_with_those_of_their_shape_only(tmp_path: Path) -> None:
    cache: Any = SixImages()
    shapes = [1, 2, 2, 1, 3, 2]
    cache.table = [image.expand(shape, -1) for image, shape in zip(cache.table, shapes, strict=True)]
    example = Example(Sample(id="row", question="What?", images=[str(at) for at in range(6)], harmful=False), tmp_path)
    mixer = Mixer(cache, [example], 0.6)
    partners: list[set[int]] = [set() for _ in range(6)]
    for lot in range(100):
        for at, seen in enumerate(mixer.features(example, random.Random(lot))):
            assert seen.shape == cache.table[at].shape
            partners[at] |= set((seen[0, 2:] > 0).nonzero().flatten().tolist())
    assert partners == [{0, 3}, {1, 2, 5}, {1, 2, 5}, {0, 3}, {4}, {1, 2, 5}]
    alone = Example(example.sample.model_copy(update={"images": ["0", "1", "4"]}), tmp_path)
    with pytest.raises(SettingsError, match="image_mixup: expected images whose features have the same shape, found 3"):
        Mixer(cache, [alone], 0.6)


@pytest.mark.parametrize("changes", [{"augment": True}, {"freeze_vision": False}, {"feature_cache": False}])
def test_images_are_mixed_only_where_features_are_stored(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="image_mixup: expected stored image features to mix, found"):
        TrainSettings(image_mixup=0.3, **changes)


def test_mixed_images_are_refused_where_none_can_be_stored(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureCache, "differs", lambda *_: "images are not taken one by one")
    with pytest.raises(SettingsError, match="images are not taken one by one"):
        train(image_mixup=0.3)
    train()


def test_without_images_there_is_nothing_to_mix(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path
) -> None:
    settings = settings_of(image_mixup=0.3)
    loaded = load(settings, checkpoint)
    sample = read_records(data / "train.jsonl", Sample)[0].model_copy(update={"images": []})
    with pytest.raises(SettingsError, match=r"image_mixup: .* found: no row has images"):
        prepare_features(loaded, make_encoder(loaded, settings), [Example(sample, data)], settings)


def test_a_run_learns_something_else_from_mixed_images_and_the_same_each_time(train: Train) -> None:
    clear, once, twice = (
        losses(train("clear")),
        losses(train("once", image_mixup=0.5)),
        losses(train("twice", image_mixup=0.5)),
    )
    assert once == twice
    assert max(abs(mine - other) for mine, other in zip(once, clear, strict=True)) > 1e-4


# --- only what should move moves ---

MOVES: dict[str, tuple[dict[str, Any], set[Part]]] = {
    "lora": ({}, set()),
    "lora and projector": ({"freeze_projector": False}, {Part.PROJECTOR}),
    "full, tower frozen": ({"tuning": "full"}, {Part.LANGUAGE, Part.PROJECTOR}),
    "full, language alone": ({"tuning": "full", "freeze_projector": True}, {Part.LANGUAGE}),
    "full, projector alone": ({"tuning": "full", "freeze_language": True}, {Part.PROJECTOR}),
    "full, everything": ({"tuning": "full", "freeze_vision": False}, {Part.LANGUAGE, Part.PROJECTOR, Part.VISION}),
}


@pytest.mark.parametrize("name", MOVES)
def test_only_what_should_move_moves(
    name: str, settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    changes, moving = MOVES[name]
    settings = settings_of(weight_decay=0.1, learning_rate=1e-2, **changes)
    before = load_file(checkpoint / "model.safetensors")
    files = {path: path.read_bytes() for path in checkpoint.iterdir()}
    run(settings, checkpoint, examples_of(settings, data, tmp_path / "data"), tmp_path)
    assert {path: path.read_bytes() for path in checkpoint.iterdir()} == files, "the base on disk has changed"
    if settings.tuning == "full":
        after = load_file(tmp_path / "model" / "model.safetensors")
        assert after.keys() == before.keys()
        moved = {part_of(key) for key in after if not torch.equal(after[key], before[key])}
        still = {part_of(key) for key in after if torch.equal(after[key], before[key]) and part_of(key) not in moving}
        assert moved == moving
        assert still == {Part.LANGUAGE, Part.PROJECTOR, Part.VISION} - moving
        load_model(tmp_path / "model")  # an ordinary checkpoint
        return
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {part_of(key) for key in written} == {Part.ADAPTER} | moving
    assert not any("vision" in key for key in written), "LoRA sits in the tower without being asked to"
    factors = [value for key, value in written.items() if "lora_B" in key]
    assert factors and all(value.abs().sum() > 0 for value in factors)


def test_in_memory_only_the_trained_adapter_moves(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Not a bit of the base or of an adapter that merely lies beside the trained one."""
    settings = settings_of(weight_decay=0.1, learning_rate=1e-2, max_steps=3, packing=False)
    loaded = load(settings, checkpoint)
    loaded.model.add_adapter("beside", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    loaded.model.set_adapter("default")
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    encoder, examples = make_encoder(loaded, settings), examples_of(settings, data, tmp_path / "data")
    plan = plan_of(settings, sizes_of(examples, encoder, None))
    make_trainer(loaded, encoder, examples, plan, settings, tmp_path).train()
    moved = {name for name, weight in loaded.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".default." in name}
    assert any(".beside." in name for name in before)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_sees_as_in_use_and_keeps_its_statistics(frozen: bool) -> None:
    """A trainer puts the whole model in training mode, where a batch norm uses the batch and not its own statistics."""
    network = torch.nn.ModuleDict({"vision_tower": torch.nn.BatchNorm2d(3), "language_model": torch.nn.Linear(3, 3)})
    pixels = torch.rand(4, 3, 8, 8) + 5
    expected = network.eval()["vision_tower"](pixels)
    prepare(network, TrainSettings(model="toy", tuning="full", freeze_vision=frozen)).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    seen = network["vision_tower"](pixels)
    assert torch.equal(seen, expected) is frozen
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers()) is frozen


@pytest.mark.parametrize("changes", [{}, {"freeze_projector": False}, {"tuning": "full"}])
def test_bfloat16_trains_like_float32_and_steps_in_float32(
    train: Train, settings_of: Callable[..., TrainSettings], checkpoint: Path, changes: dict[str, Any]
) -> None:
    exact, rounded = losses(train("exact", **changes)), losses(train("rounded", precision="bfloat16", **changes))
    assert rounded == pytest.approx(exact, rel=0.01)
    assert rounded != exact
    model = load(settings_of(precision="bfloat16", **changes), checkpoint).model
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


def test_lora_sits_in_the_tower_when_it_is_asked_to(train: Train, tmp_path: Path) -> None:
    train(freeze_vision=False)
    written = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any("vision" in key for key in written)
    assert any("language_model" in key for key in written)


def test_lora_of_some_layers_and_names(train: Train, tmp_path: Path) -> None:
    train(lora={"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"], "first_layer": 1})
    written = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {key.partition("layers.")[2].removesuffix(".weight") for key in written} == {
        f"1.self_attn.{name}.lora_{side}" for name in ("q_proj", "v_proj") for side in "AB"
    }


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_every_schedule_can_be_made(
    scheduler: str, settings_of: Callable[..., TrainSettings], checkpoint: Path, tmp_path: Path
) -> None:
    settings = settings_of(scheduler=scheduler, learning_rate=0.5, warmup_ratio=0)
    args = training_arguments(load(settings, checkpoint), settings, Plan((10,), 1, 600, 10, 0), tmp_path)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    schedule = get_scheduler(
        args.lr_scheduler_type, optimizer, args.warmup_steps, args.max_steps, args.lr_scheduler_kwargs
    )
    for _ in range(10):
        optimizer.step()
        schedule.step()
    ends = {"cosine": 0.0, "linear": 0.0, "cosine_with_min_lr": 0.05}
    assert schedule.get_last_lr() == [pytest.approx(ends.get(scheduler, 0.5), abs=1e-6)]


def test_unknown_targets_are_refused_with_the_known_ones(train: Train) -> None:
    with pytest.raises(SettingsError, match=r"lora.targets \['query'\].*known: .*q_proj"):
        train(lora={"targets": ["query"]})


def test_an_adapter_is_loaded_as_any_other(train: Train, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    train(learning_rate=1e-2)
    folder = tmp_path / "run" / "adapter"
    model, processor = load_model(checkpoint, {"mine": folder})
    assert isinstance(model, PeftModel)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint)
    assert config["inference_mode"] is True
    example = Example(read_records(data / "train.jsonl", Sample)[0], data)
    inputs: dict[str, Any] = collate([Encoder(processor).row(example)], pad_token=0).inputs
    tuned = model(**inputs).logits
    with model.disable_adapter():
        base = model(**inputs).logits
    plain: Any = AutoModelForImageTextToText.from_pretrained(checkpoint)
    assert torch.equal(base, plain(**inputs).logits), "with the adapter off, it is not the base"
    assert not torch.allclose(tuned, base)


def test_training_goes_on_from_an_adapter_and_leaves_it_alone(
    train: Train, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    start = tiny_adapter(checkpoint, tmp_path / "start", seed=3)
    (start / TRAINED_ON).write_bytes(record(["0123456789abcdef"]))
    files = {path: path.read_bytes() for path in start.iterdir()}
    fresh = losses(train("fresh", max_steps=1))
    lines = losses(train("further", start_from=start, max_steps=3))
    assert lines[0] != pytest.approx(fresh[0], abs=1e-3), "it did not start from the adapter"
    assert {path: path.read_bytes() for path in start.iterdir()} == files
    rows = [(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    assert read_trained_on(tmp_path / "further" / "adapter") == {"0123456789abcdef", *item_digests(rows)}
    old = load_file(start / "adapter_model.safetensors")
    new = load_file(tmp_path / "further" / "adapter" / "adapter_model.safetensors")
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[key].float(), new[key]) for key in old)


def test_a_folder_that_is_no_adapter_cannot_be_started_from(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="start_from: expected the PEFT folder of an adapter"):
        train(start_from=tmp_path)


# --- launchers ---


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"freeze_projector": False}, {"tuning": "full"}])
@pytest.mark.parametrize("file", ["one_gpu", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_settings_decide_over_what_a_launch_file_says(
    file: str, changes: dict[str, Any], precision: str, settings_of: Callable[..., TrainSettings], checkpoint: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = settings_of(precision=precision, max_grad_norm=0.5, **changes)
    loaded = load(settings, checkpoint)
    launched: Any = load_config_from_file(str(CONFIGS / "accelerate" / f"{file}.yaml"))
    sharded = launched.distributed_type == DistributedType.DEEPSPEED
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched.mixed_precision)
    if sharded:
        monkeypatch.setattr(DeepSpeedPlugin, "set_deepspeed_weakref", lambda plugin: None)  # wants the package
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        for name in ("zero_stage", "offload_optimizer_device", "offload_param_device"):
            monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name.upper()}", str(launched.deepspeed_config[name]))
        monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", str(launched.deepspeed_config["gradient_clipping"]))
    args = training_arguments(loaded, settings, Plan((10,), 1, 600, 1, 0), tmp_path)
    whole_in_float32 = settings.tuning == "full" or not settings.projector_is_frozen
    expected = precision == "bfloat16" and (
        sharded or whole_in_float32
    )  # else weights are in bfloat16 as they lie there
    assert (args.bf16, args.mixed_precision) == (expected, "bf16" if expected else "no")
    if sharded:  # transformers refuses what is neither "auto" nor the same
        told: Any = args.deepspeed_plugin
        assert told.deepspeed_config["bf16"]["enabled"] is args.bf16
        assert told.deepspeed_config["gradient_clipping"] in ("auto", args.max_grad_norm)


def test_zero3_is_known_before_transformers_is_told_of_it(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert any("forward" in vars(module) for module in load(settings_of(), checkpoint).model.modules())
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="or launch with FSDP2"):
        load(settings_of(), checkpoint)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_under_fsdp_the_first_process_holds_the_weights_and_the_others_their_shapes(
    tuning: str, settings_of: Callable[..., TrainSettings], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(settings_of(tuning=tuning), checkpoint)
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.setenv(name, "true")
    for name, value in {"FSDP_VERSION": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # as transformers asks
    monkeypatch.setattr("accelerate.PartialState", lambda **options: None)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda values: [whole.loss])  # the first has sent it
    empty = load(settings_of(tuning=tuning), checkpoint)
    assert (place_of("cuda:1"), {weight.device.type for weight in empty.model.parameters()}) == ("meta", {"meta"})
    assert {name: (weight.shape, weight.dtype) for name, weight in empty.model.named_parameters()} == {
        name: (weight.shape, weight.dtype) for name, weight in whole.model.named_parameters()
    }
    kept = {name: one for name, one in empty.network.named_buffers() if name.endswith("inv_freq")}
    assert kept and all(torch.equal(one, whole.network.get_buffer(name)) for name, one in kept.items())
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert place_of("cuda:0") == "cpu" and holds_weights()


def test_before_sharding_one_layer_at_a_time_is_on_the_device(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load(settings_of(), checkpoint).network
    layers, lent = decoder_layers(network), []
    home = {weight.data_ptr() for weight in network.parameters()}

    def elsewhere(weights: Iterable[torch.Tensor]) -> bool:
        return all(weight.data_ptr() not in home for weight in weights)

    def look(layer: Any, args: Any) -> None:
        lent.append([elsewhere(one.parameters()) for one in layers])

    tokens = torch.ones(1, 3, dtype=torch.long)
    expected = network(input_ids=tokens).logits
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, plain=torch.Tensor.to, **named: (
        tensor.clone() if args == ("cuda:7",) else plain(tensor, *args, **named)
    ))  # fmt: skip
    with whole_by_layer(network, "cuda:7"):
        hooks = [layer.register_forward_pre_hook(look) for layer in layers]
        assert elsewhere(network.get_output_embeddings().parameters())
        assert torch.equal(network(input_ids=tokens).logits, expected)
        monkeypatch.setattr(layers[1].mlp, "forward", None)
        with pytest.raises(TypeError):  # a pass that fails in the middle of a layer
            network(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    assert lent[: len(layers)] == [[at == other for other in range(len(layers))] for at in range(len(layers))]
    assert {weight.data_ptr() for weight in network.parameters()} == home
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_a_fully_trained_model_has_the_number_type_of_its_checkpoint(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    half, settings = tmp_path / "half", settings_of(tuning="full", max_steps=2)
    model, processor = load_model(checkpoint, dtype=torch.bfloat16)
    for part in (model, processor):
        part.save_pretrained(half)
    run(settings, half, examples_of(settings, data, tmp_path / "data"), tmp_path)
    tuned, before = load_model(tmp_path / "model").network, load_model(half).network
    assert {weight.dtype for weight in tuned.parameters()} == {torch.bfloat16}
    moved = {
        part_of(name)
        for name, weight in tuned.named_parameters()
        if not torch.equal(weight, before.get_parameter(name))
    }
    assert moved == {Part.LANGUAGE, Part.PROJECTOR}


def test_a_projector_in_parts_reads_no_stored_features(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for changes, refused in (({}, False), ({"tuning": "full"}, True)):
        settings = settings_of(**changes)
        loaded = load(settings, checkpoint)
        cache, _, reason = prepare_features(loaded, make_encoder(loaded, settings), examples, settings)
        assert (cache is None) is refused and ("shards it" in (reason or "")) is refused
    with pytest.raises(SettingsError, match=r"feature_cache: the projector is trained.*leave it out"):
        asked = settings_of(tuning="full", feature_cache=True)
        prepare_features(loaded, make_encoder(loaded, asked), examples, asked)


def test_layers_to_shard_are_all_in_the_model(settings_of: Callable[..., TrainSettings], checkpoint: Path) -> None:
    network = load(settings_of(), checkpoint).network
    assert "LlamaDecoderLayer" in network._no_split_modules
    assert set(network._no_split_modules) <= {type(module).__name__ for module in network.modules()}


# --- interruptions ---


class Killed(BaseException):
    """What ends the process in these tests: nothing catches it, nothing is cleaned up."""


def killer(step: int) -> Callable[[dict[str, Any]], None]:
    def listen(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise Killed

    return listen


@pytest.mark.parametrize("kill_at", [3, 4, 5])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(train: Train, tmp_path: Path, kill_at: int) -> None:
    common = {"save_every": 2, "lora": {"dropout": 0.1}, "keep_checkpoints": 1}
    whole = train("whole", **common)
    with pytest.raises(Killed):
        train("killed", listener=killer(kill_at), **common)
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == [
        f"checkpoint-{(kill_at - 1) // 2 * 2}"
    ]
    resumed = train("killed", **common)
    assert [line["step"] for line in resumed] == [1, 2, 3, 4, 5, 6], "lines of the killed run are left or doubled"
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "killed"))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=1e-6)


def test_sigterm_saves_after_the_step_in_hand(
    train: Train, settings_of: Callable[..., TrainSettings], tmp_path: Path, checkpoint: Path, data: Path
) -> None:
    def terminate(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = settings_of()
    examples = examples_of(settings, data, tmp_path / "data")
    handler = signal.getsignal(signal.SIGTERM)
    outcome = run(settings, checkpoint, examples, tmp_path, listeners=(terminate,))
    assert signal.getsignal(signal.SIGTERM) == handler, "the handler stays behind"
    assert (outcome.finished, outcome.signal) == (False, signal.SIGTERM)
    assert outcome.step in (2, 3)
    assert (tmp_path / "checkpoints" / f"checkpoint-{outcome.step}").is_dir()
    assert not (tmp_path / "adapter").exists()
    assert run(settings, checkpoint, examples, tmp_path).finished
    assert losses(list(read_jsonl(tmp_path / LOG))) == pytest.approx(losses(train("whole")), abs=1e-5)


def test_a_full_disk_leaves_nothing_half_written(train: Train, tmp_path: Path) -> None:
    train("run", max_steps=6, save_every=2, listener=None)  # features are stored by now
    (tmp_path / "run" / LOG).unlink()

    with (
        files_of_at_most(40_000),
        pytest.raises(TrainingError, match=r"checkpoint-2: expected room for it.*nothing half written"),
    ):
        train("full", save_every=2)
    assert list((tmp_path / "full" / "checkpoints").iterdir()) == []
    assert not (tmp_path / "full" / "adapter").exists()
    with files_of_at_most(40_000), pytest.raises(TrainingError, match="adapter: expected room for it"):
        train("full", save_every=0)
    assert [path.name for path in (tmp_path / "full").iterdir() if "adapter" in path.name] == []


@pytest.mark.parametrize(("method", "changes"), [("_save_checkpoint", {"save_every": 2}), ("save_model", {})])
def test_what_fails_while_saving_and_is_no_full_disk_is_not_told_as_one(
    method: str, changes: dict[str, Any], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **options: object) -> None:
        raise RuntimeError("a collective timed out")

    monkeypatch.setattr(Trainer, method, fail)
    with pytest.raises(RuntimeError, match="a collective timed out") as caught:
        train(**changes)
    assert not isinstance(caught.value, TrainingError)


# --- what is refused, by name ---


def test_a_loss_that_is_no_number_names_its_rows(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    broken = tmp_path / "broken"
    AutoModelForImageTextToText.from_pretrained(checkpoint).save_pretrained(broken)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    weights[
        "model.language_model.norm.weight"
        if "model.language_model.norm.weight" in weights
        else "language_model.model.norm.weight"
    ][:] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    settings = settings_of(model=str(broken), max_steps=2)
    with pytest.raises(TrainingError, match=r"step 1: expected a finite loss, found nan in rows 'row-\d+'"):
        run(settings, broken, examples_of(settings, data, tmp_path / "data"), tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_cuda_without_cuda(train: Train) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"device: expected a CUDA GPU for 'cuda', found none.*device: cpu"):
        train(device="cuda")


def test_another_gpu_than_training_would_take_is_refused(train: Train) -> None:
    with pytest.raises(SettingsError, match=r"found 'cuda:1'.*set device: cuda and CUDA_VISIBLE_DEVICES=1"):
        train(device="cuda:1")


def _changed(data: Path, folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    import shutil

    shutil.copytree(data, folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    change(rows)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_three_placeholders_for_two_images(train: Train, data: Path, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["question"] = "<image> <image> <image> What is this?"

    folder = _changed(data, tmp_path / "changed", change)
    with pytest.raises(
        DataError, match=r"train.jsonl: training must not start on this data. train.jsonl, row 2: .*3.*mis check"
    ):
        train(data=folder)


def test_what_of_the_rows_is_not_trained_is_told(data: Path, tmp_path: Path) -> None:
    later = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    folder = _changed(data, tmp_path / "changed", lambda rows: [row.update(later_turns=later) for row in rows[:2]])
    told: list[str] = []
    examples_of(TrainSettings(model="tiny"), folder, tmp_path / "mixed", told.append)
    assert any(
        text.startswith("train.jsonl: 2 rows, expected one question and one answer, found later turns") for text in told
    )


def test_a_missing_image_is_found_before_the_first_step(train: Train, data: Path, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[4]["images"][0] = "images/gone.png"

    with pytest.raises((DataError, ImageError), match=r"train.jsonl, row 5: .*images/gone.png"):
        train(data=_changed(data, tmp_path / "changed", change))


def test_an_image_that_goes_away_meanwhile(train: Train, data: Path, tmp_path: Path) -> None:
    folder = _changed(data, tmp_path / "changed", lambda rows: None)

    def remove(line: dict[str, Any]) -> None:
        (folder / "images" / "cup.png").unlink(missing_ok=True)

    with pytest.raises(ImageError, match=r"row 'row-\d+', image 'images/cup.png'.*no such file"):
        train(data=folder, feature_cache=False, listener=remove, epochs=4)


def test_all_over_long_rows_are_named_before_the_first_step(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 'row-0': expected at most 120 tokens, found \d+.* And \d+ more: row-"):
        train(max_length=120)
    assert not (tmp_path / "run" / LOG).exists()


def test_packing_is_refused_where_a_model_cannot(settings_of: Callable[..., TrainSettings], checkpoint: Path) -> None:
    from mis_lib.train.packing import no_packing

    loaded = load(settings_of(), checkpoint)
    assert no_packing(loaded.network) is None
    loaded.network.config.get_text_config().sliding_window = 64
    loaded.network.config.get_text_config().use_sliding_window = True
    assert "window" in (no_packing(loaded.network) or "")


def test_log_lines_hold_what_people_expect(train: Train) -> None:
    for line in train():
        assert {
            "step", "epoch", "loss", "lr", "grad_norm", "token_accuracy", "samples_per_second", "tokens_per_second",
            "padding_share", "memory_gb", "eta_seconds", "loss_by_segment", "loss_by_category",
        } <= line.keys()  # fmt: skip
        assert 0 <= line["token_accuracy"] <= 1
        assert line["padding_share"] == 0.0, "packed rows have no padding"
        assert line["grad_norm"] > 0


RATES = {
    "step": 7,
    "eval": {"asr": {"value": 50.0, "n": 4}, "pair": {"value": None, "n": 0}},
    "loss_by_segment": {"reasoning": 1.5},
}


def test_event_files_hold_every_number_of_a_line(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = train(report_to="tensorboard", max_steps=2)
    with closing(Trackers(("tensorboard",), tmp_path / "rates")) as report:
        report(RATES)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(lines))
    expected = {"train/lr", "train/grad_norm", "train/token_accuracy", "loss_by_category/Violent"}
    assert expected <= set(events.Tags()["scalars"])
    rates = EventAccumulator(str(tmp_path / "rates" / "tensorboard")).Reload()
    assert rates.Tags()["scalars"] == ["eval/asr", "loss_by_segment/reasoning"], "a rate of nothing is no number"


def test_trackio_has_every_number_of_a_line_on_this_machine(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))  # read when the package is imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    trackio = pytest.importorskip("trackio")
    lines = train(report_to=("trackio",), max_steps=2)
    with closing(Trackers(("trackio",), tmp_path / "rates" / "v1")) as report:
        report(RATES)
    assert not capsys.readouterr().out, "standard output is for results"
    assert trackio.context_vars.current_run.get() is None
    from trackio.sqlite_storage import SQLiteStorage

    kept = SQLiteStorage.get_logs(tmp_path.name, "run")
    assert [one["train/loss"] for one in kept] == pytest.approx(losses(lines))
    [(name, loss)] = lines[0]["loss_by_category"].items()
    assert kept[0][f"loss_by_category/{name}"] == pytest.approx(loss)
    [rates] = SQLiteStorage.get_logs("rates", "v1")
    assert (rates["step"], rates["eval/asr"], rates["loss_by_segment/reasoning"]) == (7, 50.0, 1.5)
    assert "eval/pair" not in rates


def test_the_older_name_of_the_tracker_is_read_and_a_missing_package_is_named_before_a_run_is_opened(
    tmp_path: Path,
) -> None:
    assert TrainSettings(**{"tensorboard": True}).report_to == ("tensorboard",)
    assert TrainSettings(**{"tensorboard": False}) == TrainSettings()
    with pytest.raises(SettingsError, match="'trackio', 'tensorboard', 'wandb' or 'mlflow'"):
        TrainSettings(**{"report_to": ["tensorbord"]})
    missing = next((name for name in ("wandb", "mlflow") if importlib.util.find_spec(name) is None), None)
    if missing is None:
        pytest.skip("both are installed")
    with pytest.raises(MissingPackageError, match=f"needs the package {missing}: pip install {missing}"):
        train_by(TrainSettings(**{"report_to": [missing], "runs": tmp_path / "runs"}))
    assert not (tmp_path / "runs").exists()


def test_too_little_memory_is_told_with_the_longest_row_and_what_to_lower(
    train: Train, settings_of: Callable[..., TrainSettings], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def run_out(line: dict[str, Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(TrainingError, match=r"Tried to allocate 20.00 GiB.*lower batch_tokens \(600;") as told:
        train(listener=run_out)  # when step 1 is logged: the next one is under way
    assert not (tmp_path / "run" / "adapter").exists()
    settings = settings_of()
    examples = examples_of(settings, settings.data or data, tmp_path / "data")
    sizes = sizes_of(examples, make_encoder(load(settings, checkpoint), settings), None)
    longest = plan_of(settings, sizes).longest(1)
    assert f"step 2: expected room on the device for its rows, the longest {examples[longest].sample.id!r}" in str(
        told.value
    )
    assert f"({sizes[longest].tokens:,} tokens)" in str(told.value)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(MisError, match="at least one part to train"):
        TrainSettings(freeze_language=True)
    with pytest.raises(MisError, match="start_from: an adapter is trained further with tuning: lora"):
        TrainSettings(start_from=Path("x"), tuning="full")


def test_training_bounds_what_onednn_keeps_unless_people_chose(
    settings_of: Callable[..., TrainSettings], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, products = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
    monkeypatch.delenv(kernels, raising=False)
    monkeypatch.setenv(products, "7")
    load(settings_of(), checkpoint)
    assert (os.environ[kernels], os.environ[products]) == ("128", "7")
