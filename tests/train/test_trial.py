"""The trial before training: which rows may share a pass, and what of a model is refused before the first step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.tiny_architectures import built
from torch.nn import functional as F

from mis_lib.errors import ModelError, SettingsError
from mis_lib.files import load_image, read_jsonl, read_records
from mis_lib.models.mini.assemble import ensure_mini
from mis_lib.prompts import user_message
from mis_lib.schema import Sample
from mis_lib.train.callbacks import LOG
from mis_lib.train.encode import Example
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder, run, sizes_of
from mis_lib.train.settings import TrainSettings
from mis_lib.train.trial import Layout, layout_of, rows_to_try

SIZES = ((40, 32), (90, 40), (30, 80), (64, 64), (56, 28))
NUMBERS = (1, 2, 3)  # images of the rows, in turn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for at, size in enumerate(SIZES):
        Image.effect_noise(size, 80 + at).convert("RGB").save(folder / f"{at}.png")
    rows = [
        {
            "id": f"row-{at}",
            "question": f"What is this? ({at})",
            "images": [f"{(at + place) % len(SIZES)}.png" for place in range(NUMBERS[at % 3])],
            "answer": f"Thing number {at}, I think.",
            "category": "Violent",
            "harmful": False,
        }
        for at in range(6)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def mini() -> Path:
    return ensure_mini()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))


def examples(data: Path) -> list[Example]:
    return [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]


def settings_of(checkpoint: Path, data: Path, **changes: Any) -> TrainSettings:
    common: dict[str, Any] = {"device": "cpu", "precision": "float32", "max_steps": 1, "batch_size": 6}
    return TrainSettings(model=str(checkpoint), data=data / "train.jsonl", **common | changes)


def losses_by_transformers(network: Any, processor: Any, example: Example) -> torch.Tensor:
    """The losses of an answer's tokens, one after the other as ``generate`` would read them: one pass a token."""
    images = [load_image(example.folder / name) for name in example.sample.images]
    inputs = processor.apply_chat_template(
        [[user_message(images, example.sample.question)]], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    inputs.pop("labels", None)
    answer = processor.tokenizer(f"{example.sample.answer}<|im_end|>", add_special_tokens=False)["input_ids"]
    prepared = network._update_model_kwargs_for_generation
    kwargs = {name: value for name, value in inputs.items() if name != "input_ids"}
    ids, found = inputs["input_ids"], []
    for token in answer:
        logits = network(input_ids=ids, use_cache=False, **kwargs).logits[0, -1]
        found.append(F.cross_entropy(logits.float(), torch.tensor(token)))
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        kwargs = prepared({}, kwargs, is_encoder_decoder=False)
        if "moe_mm_token_type_ids" in kwargs:  # Ernie's generate gives none for a further token: it is text, 0
            kwargs["moe_mm_token_type_ids"] = F.pad(kwargs["moe_mm_token_type_ids"], (0, 1))
    return torch.stack(found)


LAYOUTS = {
    "qwen2_vl": (Layout.PACKED, []),
    "molmo2": (Layout.ALONE, ["other image features than alone", "a pass of its own"]),
    "mllama_gated": (
        Layout.ALONE,
        ["not packed", "other losses than alone"],
    ),  # tokens before an image see the padded ones
    "paligemma": (Layout.PADDED, ["not packed"]),
    "deepseek_vl": (Layout.PADDED, ["not packed: its attention cannot be chosen"]),
    "minicpm_v": (Layout.ALONE, ["a pass of its own"]),
    "ernie": (Layout.PACKED, []),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_share_a_pass_only_where_each_has_the_loss_it_has_alone(name: str, data: Path, tmp_path: Path) -> None:
    checkpoint = built(name, tmp_path / "checkpoint")
    settings = settings_of(checkpoint, data)
    loaded = load(settings, checkpoint)
    loaded.network.eval()
    with torch.no_grad():
        alone = [losses_by_transformers(loaded.network, loaded.processor, example) for example in examples(data)]
    encoder, said = make_encoder(loaded, settings), []
    lengths = [size.tokens for size in sizes_of(examples(data), encoder, None)]
    layout, reasons = LAYOUTS[name]
    assert layout_of(loaded, encoder, examples(data), lengths, settings, progress=said.append) is layout
    assert all(any(reason in line for line in said) for reason in reasons), said
    assert bool(said) == bool(reasons)
    folder = tmp_path / "run"
    folder.mkdir()
    run(settings, checkpoint, examples(data), folder)
    assert next(iter(read_jsonl(folder / LOG)))["loss"] == pytest.approx(float(torch.cat(alone).mean()), abs=1e-3)


def test_rounding_keeps_no_rows_of_the_embedded_model_apart(mini: Path, data: Path) -> None:
    settings = settings_of(mini, data, precision="bfloat16")
    loaded = load(settings, mini)
    encoder, said = make_encoder(loaded, settings), []
    lengths = [size.tokens for size in sizes_of(examples(data), encoder, None)]
    assert layout_of(loaded, encoder, examples(data), lengths, settings, progress=said.append) is Layout.PACKED, said


def test_rows_are_tried_with_different_images_and_numbers_of_them(data: Path) -> None:
    lengths = [30, 10, 40, 35, 12, 41]
    # images 0 | 1 2 | 2 3 4 | 3 | 4 0 | 0 1 2: row 1 is the shortest, row 3 the longest without its images
    assert rows_to_try(examples(data), lengths, 4096) == [1, 3, 4]
    assert rows_to_try(examples(data), lengths, 100) == [1, 0, 4]  # three of a longer row would not fit
    assert rows_to_try(examples(data)[:1], lengths[:1], 100) == [0]


def test_a_model_that_sees_later_answer_tokens_is_refused(data: Path, tmp_path: Path) -> None:
    checkpoint = built("paligemma", tmp_path / "checkpoint")
    settings = settings_of(checkpoint, data)
    loaded = load(settings, checkpoint)
    encoder = make_encoder(loaded, settings)
    encoder.go_on = None  # the answer gets the prompt's token type, and so its attention in both directions
    lengths = [size.tokens for size in sizes_of(examples(data), encoder, None)]
    with pytest.raises(ModelError, match="row 'row-0': expected losses that depend on earlier tokens only"):
        layout_of(loaded, encoder, examples(data), lengths, settings)


@pytest.mark.parametrize("name", ["deepseek_vl", "minicpm_v"])
def test_a_model_whose_features_cannot_be_stored_trains_without(name: str, data: Path, tmp_path: Path) -> None:
    checkpoint = built(name, tmp_path / "checkpoint")
    outcome = run(settings_of(checkpoint, data, max_steps=2), checkpoint, examples(data), tmp_path)
    assert outcome.finished
    assert outcome.features is None
    assert "feature_cache" in (outcome.no_features or "")
    with pytest.raises(SettingsError, match="feature_cache"):
        run(settings_of(checkpoint, data, feature_cache=True), checkpoint, examples(data), tmp_path / "asked")
