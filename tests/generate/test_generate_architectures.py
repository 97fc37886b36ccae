"""Batched generation on real architectures: the same answers as one at a time, also of two variants in a batch."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.fakes import good_images, mini_data
from support.tiny_architectures import built

from benchmarks.random_checkpoints import write_checkpoint
from mis_lib.errors import MissingPackageError
from mis_lib.files import load_image, read_records
from mis_lib.generate import decode
from mis_lib.generate.batch import generate, prompt_lengths
from mis_lib.generate.engine import Engine
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.load import load_model
from mis_lib.prompts import to_messages
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings

DECODER = r"^(?!.*(visual|vision)).*(q_proj|down_proj)$"


def written(name: str, folder: Path) -> Path:
    """A tiny random checkpoint of a shape of the benchmarks ("tiny-...") or of an architecture of the tests."""
    try:
        return write_checkpoint(name, folder) if name.startswith("tiny-") else built(name, folder)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("shape", "penalty"),
    [
        ("tiny-llava", 1.0),
        ("tiny-llava", 1.3),  # as Qwen2.5-VL publishes one: it counts each row's padding
        ("tiny-internvl", 1.0),
        ("tiny-qwen2-vl", 1.0),
        ("glm4v", 1.0),
        ("mllama_gated", 1.0),  # rows of a batch have different numbers of images, which a gate at 0 would hide
    ],
)
def test_batches_say_what_single_questions_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, penalty: float
) -> None:
    data = mini_data(tmp_path / "data")
    checkpoint = written(shape, tmp_path / "model")
    bare = load_model(checkpoint, dtype=torch.float32).model
    torch.manual_seed(1)
    get_peft_model(bare, LoraConfig(r=4, target_modules=DECODER, init_lora_weights=False)).save_pretrained(
        tmp_path / "one"
    )
    samples = read_records(data / "hard.jsonl", Sample)[:5]
    samples.append(samples[0].model_copy(update={"id": "one-image", "images": samples[0].images[:1]}))
    dropped: list[int] = []
    keep = decode._keep
    monkeypatch.setattr(decode, "_keep", lambda *given: (dropped.append(len(given[-1])), keep(*given))[1])

    def answers(name: str, batch_size: int, *variants: str) -> dict[tuple[str, str], tuple[str, int]]:
        engine = Engine(
            load_model(checkpoint, {"base": None, "one": tmp_path / "one"}, dtype=torch.float32), pack=False
        )
        assert engine.mixes or shape == "mllama_gated"  # whose cross attention reads no text
        engine.network.generation_config.repetition_penalty = penalty
        words = len(engine.network.get_input_embeddings().weight)
        engine.network.generation_config.eos_token_id = list(range(words // 12))  # so that rows end at different times
        (tmp_path / name).mkdir()
        names = {variant: None if variant == "base" else variant for variant in variants}
        settings = GenerationSettings(max_new_tokens=20)
        made = list(generate(samples, data, engine, names, settings, tmp_path / name, batch_size=batch_size))
        return {(one.sample_id, one.variant): (one.text, one.tokens) for one in made}

    alone = answers("base-alone", 1, "base") | answers("one-alone", 1, "one")
    assert not dropped
    assert answers("together", 12, "base", "one") == alone
    assert dropped, "no row left the batch: the test would not see a wrong one leave"
    assert len({tokens for _, tokens in alone.values()}) > 1


@pytest.mark.parametrize(
    "name", ["tiny-llava", "tiny-internvl", "tiny-qwen2-vl", "llava_onevision", "idefics3", "smolvlm"]
)
def test_lengths_of_prompts_are_foretold(tmp_path: Path, name: str) -> None:
    data = mini_data(tmp_path / "data")
    engine = Engine(load_model(written(name, tmp_path / "model")), pack=False)
    sample = read_records(data / "hard.jsonl", Sample)[0]
    prompt = engine.processor.apply_chat_template(
        to_messages([load_image(data / name) for name in sample.images], sample.question),
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    spare = prompt_lengths([sample], data, engine)[sample.id] - prompt["input_ids"].shape[1]
    # marks around an image may stand in the template and be counted with it; two line ends (Idefics3) are one token in
    # published vocabularies, two here
    assert -len(sample.images) <= spare <= 2 * len(sample.images)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("tiny-llava", True),
        ("tiny-internvl", True),
        ("tiny-qwen2-vl", True),
        ("qwen3_vl", True),  # its decoder reads features of images in several layers
        ("llava_onevision", True),
        ("smolvlm", True),
        ("mllama", False),  # reads images by cross attention
    ],
)
def test_images_are_encoded_once_for_all_variants(tmp_path: Path, name: str, shares: bool) -> None:
    assert Engine(load_model(written(name, tmp_path / "model"), dtype=torch.float32)).shares_images is shares


def test_variants_see_the_images_in_their_order_where_transformers_repeats_them_in_another(tmp_path: Path) -> None:
    checkpoint = written("glm4v", tmp_path / "model")
    images = [load_image(path) for path in good_images(tmp_path, 2)]
    engine = VariantEngine(load_model(checkpoint, dtype=torch.float32), {"one": None, "two": None})
    settings = GenerationSettings(max_new_tokens=12)

    def texts(*variants: str) -> list[str]:
        *_, columns = engine.stream(images, "What?", variants, settings)
        return [column.text for column in columns]

    alone = texts("one")
    assert texts("one", "two") == alone * 2
    assert texts("one") != [column.text for column in list(engine.stream(images[::-1], "What?", ["one"], settings))[-1]]
