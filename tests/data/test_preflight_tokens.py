"""Predicted tokens against the processors that transformers ships, and the memory formula against measurements."""

import json
import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.mis_layout import REASONING, draw_picture, write_json
from support.tiny import tiny_checkpoint
from support.tiny_architectures import built
from transformers import AutoProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mis_lib.data.findings import Kind
from mis_lib.data.images import Size
from mis_lib.data.preflight import PreflightSettings, preflight
from mis_lib.data.tokens import (
    SHAPES,
    AnyRes,
    Budget,
    Fixed,
    Grid,
    Shape,
    Splits,
    Tiles,
    Training,
    budget_for,
    estimate,
    from_checkpoint,
    known,
    limited,
    memory,
)
from mis_lib.errors import ModelError, SettingsError
from mis_lib.models.adapters import ImageLimits, limit_images
from mis_lib.prompts import to_messages

sizes = st.builds(Size, st.integers(20, 3000), st.integers(20, 3000))
few = settings(max_examples=150)


# ---------- images, against transformers


@few
@given(sizes)
def test_qwen_grids_are_those_of_its_processor(size: Size) -> None:
    for family in (Grid(), Grid(max_pixels=1280 * 28 * 28), Grid(patch=16, min_pixels=65536, max_pixels=16777216)):
        limits = {"min_pixels": family.min_pixels, "max_pixels": family.max_pixels, "patch_size": family.patch}
        patches = Qwen2VLImageProcessorPil().get_number_of_image_patches(size.height, size.width, limits)
        assert family.count([size]) == [patches // family.merge**2 + 2]


@few
@given(sizes, st.integers(1, 12))
def test_internvl_tiles_are_those_of_its_processor(size: Size, limit: int) -> None:
    processor = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=limit)
    tiles = processor.get_number_of_image_patches(size.height, size.width, {})
    assert Tiles(max_tiles=limit).count([size]) == [256 * tiles + 2]


@few
@given(sizes)
def test_onevision_resolutions_are_those_of_its_processor(size: Size) -> None:
    # the count is a method that reads these three settings; a whole processor would need a tokenizer
    processor = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    processor.image_processor, processor.num_image_tokens = LlavaOnevisionImageProcessorPil(), 729
    processor.vision_aspect_ratio = "anyres_max_9"
    assert AnyRes().count([size]) == [processor._get_number_of_features(size.height, size.width, 384, 384)]


def test_onevision_shows_several_images_once_each() -> None:
    assert AnyRes().count([Size(2000, 1000), Size(300, 300)]) == [730, 730]


@few
@given(sizes)
def test_idefics_pieces_are_those_of_its_processor(size: Size) -> None:
    for family in (Splits(), Splits(longest=2048, side=512, tokens=64)):
        limits = {"size": {"longest_edge": family.longest}, "max_image_size": {"longest_edge": family.side}}
        _, rows, columns = Idefics3ImageProcessorPil().get_number_of_image_patches(size.height, size.width, limits)
        # the sum of Idefics3Processor._get_num_multimodal_tokens
        assert family.count([size]) == [family.tokens + 3 + rows * (columns * (family.tokens + 2) + 1)]


def test_each_image_of_a_row_has_internvls_tiles_to_itself_as_in_training() -> None:
    wide = Size(1792, 448)
    limits, processor = ImageLimits(max_dynamic_patch=6), SimpleNamespace(image_processor=GotOcr2ImageProcessorPil())
    limit_images(processor, limits)
    tiles = processor.image_processor.get_number_of_image_patches(wide.height, wide.width, {"crop_to_patches": True})
    for images in (1, 2, 7):
        assert limited(Tiles(), **limits.given).count([wide] * images) == [tiles * 256 + 2] * images


def test_limited_grids_are_read_as_they_are_counted_and_without_a_word() -> None:
    limits, images = ImageLimits(max_pixels=28 * 28 * 6), Qwen2VLImageProcessorPil()
    limit_images(SimpleNamespace(image_processor=images), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # transformers speaks of limits that are given in two places
        _, rows, columns = images(Image.new("RGB", (640, 480)), return_tensors="pt")["image_grid_thw"][0].tolist()
    assert limited(Grid(), **limits.given).count([Size(640, 480)]) == [rows * columns // 4 + 2]


def test_published_figures() -> None:
    assert known("mini").count([Size(1000, 20), Size(5, 5)]) == [9, 9]
    assert known("llava-hf/llava-1.5-7b-hf").count([Size(640, 480)]) == [576]
    assert known("Qwen/Qwen2-VL-7B-Instruct").count([Size(448, 448)]) == [16 * 16 + 2]
    assert limited(known("Qwen/Qwen2.5-VL-7B-Instruct"), max_pixels=256 * 28 * 28).count([Size(4000, 4000)]) == [
        256 + 2
    ]
    assert known("OpenGVLab/InternVL2_5-8B").count([Size(448, 448)]) == [256 + 2]
    assert known("HuggingFaceM4/Idefics3-8B-Llama3") == Splits()
    assert known("HuggingFaceTB/SmolVLM-256M-Instruct") == Splits(longest=2048, side=512, tokens=64)
    assert known("HuggingFaceTB/SmolVLM-Instruct") == Splits(longest=1536, side=384, tokens=81)


def test_limits_of_another_model_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_pixels"):
        limited(Tiles(), max_pixels=1000)
    with pytest.raises(SettingsError, match="max_dynamic_patch"):
        limited(Fixed(tokens=49), max_dynamic_patch=6)
    with pytest.raises(ModelError, match="Qwen2-VL"):
        known("gpt-4o")


def test_settings_of_a_checkpoint_win_over_published_ones() -> None:
    grid = from_checkpoint(
        {"model_type": "qwen2_vl"}, {"size": {"shortest_edge": 3136, "longest_edge": 500_000}, "patch_size": 14}
    )
    assert grid == Grid(max_pixels=500_000)
    chat = {"model_type": "internvl_chat", "force_image_size": 448, "downsample_ratio": 0.5, "max_dynamic_patch": 6}
    assert from_checkpoint({**chat, "vision_config": {"patch_size": 14}}, {}) == Tiles(max_tiles=6)
    assert from_checkpoint({"model_type": "bert"}, {}) is None
    pixtral = {"model_type": "llava", "vision_config": {"model_type": "pixtral"}}  # its processor counts its grids
    assert from_checkpoint(pixtral, {"patch_size": {"height": 16, "width": 16}, "size": {"longest_edge": 1024}}) is None


# ---------- whole rows, against a real checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def test_rows_are_counted_to_the_token(checkpoint: Path, tmp_path: Path) -> None:
    rows = []
    for number, images in enumerate((1, 2, 3)):
        names = [f"{number}-{place}.png" for place in range(images)]
        for name in names:
            draw_picture(tmp_path / name, "cat", "openmoji", 1, side=64)
        rows.append(
            {"id": f"r{number}", "question": "What is there?" * (number + 1), "images": names, "answer": REASONING}
        )
    rows[2]["answer"] = None  # a test row ends where the model begins to write
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = preflight(tmp_path / "rows.jsonl", PreflightSettings(model=str(checkpoint)))
    assert report.tokens is not None
    assert report.tokens.exact
    processor = AutoProcessor.from_pretrained(checkpoint)
    for row, reported in zip(rows, report.tokens.rows, strict=True):
        pictures = [Image.open(tmp_path / name) for name in row["images"]]
        messages = to_messages(pictures, row["question"], row["answer"])
        encoded = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=row["answer"] is None
        )
        assert reported.total == np.asarray(encoded["input_ids"]).size
        assert reported.image_tokens == 5 * len(pictures)


def test_a_checkpoints_weights_are_counted_in_its_files(checkpoint: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    shape = budget_for(str(checkpoint)).shape
    assert shape is not None
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert (shape.hidden, shape.layers, shape.key_value, shape.intermediate) == (32, 2, 16, 64)


def test_low_rank_weights_are_counted_as_peft_makes_them(checkpoint: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(checkpoint), LoraConfig(r=4, target_modules=targets)
    )
    shape = budget_for(str(checkpoint)).shape
    assert shape is not None
    assert shape.lora_parameters(4) == model.get_nb_trainable_parameters()[0]


def test_text_without_a_tokenizer_is_estimated() -> None:
    assert estimate("") == 0
    assert estimate("abcd") == 1
    assert estimate("abcde") == 2
    assert estimate("图像") == 2
    words = Budget("name", Fixed(tokens=1), None, None).text_tokens([(2, "Why?" * 100, None)])
    assert words == [math.ceil(401 / 4) + 21]


def test_a_folder_that_is_no_checkpoint_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        budget_for(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="expected JSON"):
        budget_for(str(tmp_path))


# ---------- what is cut, and memory


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (1400, 700)).save(tmp_path / name)
    rows = [
        {"id": number, "question": "Why?", "category": "Hate", "image_path1": "a.png", "image_path2": "b.png"}
        for number in range(1)
    ]
    write_json(tmp_path / "mis_easy.json", rows)
    return tmp_path / "mis_easy.json"


@pytest.mark.parametrize(
    ("limit", "reported"),
    [
        (2 * (50 * 25 + 2) + 30, []),
        (2 * (50 * 25 + 2) + 20, [Kind.ANSWER_CUT]),
        (2 * (50 * 25 + 2), [Kind.IMAGES_CUT]),
    ],
)
def test_rows_that_will_be_cut_are_reported(wide: Path, limit: int, reported: list[Kind]) -> None:
    report = preflight(wide, PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct", max_length=limit))
    assert [found.kind for found in report.findings] == reported
    assert report.ready == (not reported)
    if reported:
        assert f"at most {limit:,} tokens" in report.findings[0].message
        assert (report.findings[0].file, report.findings[0].row) == ("mis_easy.json", 1)


def test_fewer_pixels_make_room(wide: Path) -> None:
    chosen = PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct", max_length=500)
    assert not preflight(wide, chosen).ready
    assert preflight(wide, chosen.model_copy(update={"max_pixels": 200 * 28 * 28})).ready


def test_memory_by_hand() -> None:
    shape = Shape(parameters=1000, hidden=10, layers=3, key_value=4, intermediate=20, vocabulary=50, weight_bytes=2)
    layer, logits = 2 * (80 + 8 + 100), 2 * 2 * 50
    lora = memory(shape, 7, Training(batch_size=2, lora_rank=4))
    assert (lora.weights, lora.state) == (2000, 16 * 4 * 3 * (9 * 10 + 2 * 4 + 3 * 20))
    assert lora.activations == 2 * 7 * (3 * layer + logits)
    sparing = memory(shape, 7, Training(batch_size=2, lora_rank=0, checkpointing=True))
    assert (sparing.state, sparing.activations) == (14 * 1000, 2 * 7 * (3 * 2 * 10 + layer + logits))
    assert sparing.total == 2000 + sparing.state + sparing.activations


def test_memory_of_each_of_several_gpus_by_hand() -> None:
    """Qwen2-VL-7B, a pass of 16,384 tokens (product.md): 133 GB of weights and state over 8 GPUs are 17 GB on each."""
    shape = next(shape for pattern, shape in SHAPES.items() if re.search(pattern, "qwen2-vl-7b"))
    full = memory(shape, 900, Training(lora_rank=0, checkpointing=True, batch_tokens=16_384, gpus=8))
    assert full.weights + full.state == 16 * 8_290_000_000 // 8
    assert full.gathered == 2 * 2 * 8_290_000_000 // 28  # two of 28 layers
    one_row = memory(shape, 16_384, Training(lora_rank=0, checkpointing=True))
    assert full.activations == one_row.activations  # as many tokens in one row
    assert memory(shape, 20_000, full.training).activations > full.activations  # a longer row is a pass alone


def test_memory_of_quantized_weights_by_hand() -> None:
    shape = Shape(parameters=10_000, hidden=10, layers=2, key_value=4, intermediate=20, vocabulary=50, weight_bytes=2)
    vocabulary = 2 * 50 * 10  # embedding and head stay as they are
    nf4 = memory(shape, 7, Training(lora_rank=4, quantization="nf4"))
    # 2,000 of the vocabulary, 4,500 of 9,000 half bytes, 140.6 scales of a byte, 2.2 of their own scales
    assert nf4.weights == 6642
    assert memory(shape, 7, Training(lora_rank=4, quantization="int8")).weights == 2 * vocabulary + 10_000 - vocabulary
    with pytest.raises(ValueError, match="lora_rank above 0"):
        Training(lora_rank=0, quantization="nf4")


@pytest.mark.parametrize(("batch", "checkpointing", "measured"), [(4, False, 41.0), (8, False, 64.7), (16, True, 28.3)])
def test_memory_is_within_a_tenth_of_what_was_measured(batch: int, checkpointing: bool, measured: float) -> None:
    """TRL's SFTTrainer on one H100, Qwen2-VL-7B's shape, LoRA r=16 on all decoder linears, bfloat16, 812 tokens."""
    shape = next(shape for pattern, shape in SHAPES.items() if "7b" in pattern and "qwen" in pattern)
    found = memory(shape, 812, Training(batch_size=batch, checkpointing=checkpointing))
    assert found.total / 1e9 == pytest.approx(measured, rel=0.1)
    assert found.total == found.weights + found.state + found.activations


def test_full_training_holds_sixteen_bytes_a_weight() -> None:
    shape = SHAPES[r"^mini$"]
    found = memory(shape, 0, Training(lora_rank=0))
    assert found.total == 16 * shape.parameters


def test_the_report_names_the_worst_row_and_the_formula(wide: Path) -> None:
    report = preflight(wide, PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct"))
    assert report.tokens is not None
    assert report.memory is not None
    assert (
        report.memory.longest
        == report.tokens.worst(1)[0].total
        == 2 * (50 * 25 + 2) + report.tokens.rows[0].text_tokens
    )
    assert "batch x longest row" in report.memory_formula


@pytest.mark.parametrize("name", ["mistral3", "glm4v", "qwen3_vl_moe", "paligemma"])
def test_any_other_family_is_counted_by_its_own_processor(name: str, tmp_path: Path) -> None:
    folder = built(name, tmp_path / name)
    budget = budget_for(str(folder))
    processor: Any = AutoProcessor.from_pretrained(folder)
    off = []
    for sizes in ([(333, 90)], [(64, 64), (500, 120), (31, 200)]):
        images = [{"type": "image", "image": Image.new("RGB", size)} for size in sizes]
        turn = {"role": "user", "content": [*images, {"type": "text", "text": "What now?"}]}
        whole = processor.apply_chat_template([[turn]], add_generation_prompt=True, tokenize=True, return_dict=True)
        counted = budget.text_tokens([(len(sizes), "What now?", None)])[0]
        counted += sum(budget.image_tokens.count([Size(*size) for size in sizes]))
        off.append(counted - len(whole["input_ids"][0]))
    assert off == ([0, 0] if budget.is_exact else [off[0]] * 2)  # without a template the text is estimated


def test_a_processor_that_cannot_count_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ModelError, match=r"\(bert\): its image tokens cannot be counted: its processor .BertTokenizer. does not count"
    ):
        budget_for(str(tmp_path))


def test_llava_onevision_1_5_is_not_counted_as_llava_onevision() -> None:
    assert isinstance(known("llava-hf/llava-onevision-qwen2-7b-ov-hf"), AnyRes)
    with pytest.raises(ModelError, match="expected a checkpoint folder"):
        known("lmms-lab/LLaVA-OneVision-1.5-8B-Instruct")
