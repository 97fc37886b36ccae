"""Real architectures at toy size: collate, five steps, save, reload and generate, with no, one, two and four images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.families import STEPS
from support.tiny_architectures import BUILDERS, built
from support.tiny_rows import losses_alone
from transformers import AutoProcessor

from mis_lib.data.preflight import PreflightSettings, preflight
from mis_lib.files import load_image, read_jsonl, read_records
from mis_lib.generate.batch import answer
from mis_lib.models.adapters import ImageLimits
from mis_lib.models.load import load_model
from mis_lib.models.merge import merge, save
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.batches import collate
from mis_lib.train.callbacks import LOG
from mis_lib.train.dataset import examples_of
from mis_lib.train.encode import IGNORED, Encoder, Example
from mis_lib.train.lora import Part, groups, part_of
from mis_lib.train.loss import AnswerHead
from mis_lib.train.model import load
from mis_lib.train.packing import no_packing, pack, packed_inputs
from mis_lib.train.run import run, sizes_of
from mis_lib.train.settings import TrainSettings

NUMBERS = (1, 2, 4, 0)  # images of the rows, in turn; 0: a row of text
SIZES = ((40, 32), (90, 40), (30, 80), (64, 64), (56, 28))


@pytest.fixture(scope="module", params=BUILDERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for at, size in enumerate(SIZES):
        image = Image.effect_noise(size, 80 + at).convert("RGB")  # a plain colour is padding to Idefics3
        image.save(folder / f"{at}.png")
    rows = []
    for at in range(12):
        images = [f"{(at + place) % len(SIZES)}.png" for place in range(NUMBERS[at % 4])]
        question, answer = f"What is this? ({at})", f"Thing number {at}, I think."
        row = {"id": f"row-{at}", "question": question, "images": images, "answer": answer}
        rows.append(row | {"category": "Violent", "harmful": False})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))


def examples(data: Path) -> list[Example]:
    return [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]


def test_the_label_mask_is_the_answer_token_by_token(checkpoint: Path, data: Path) -> None:
    _, processor = load_model(checkpoint)
    for example in examples(data)[:3]:
        row = Encoder(processor).row(example)
        answer_bytes = (example.sample.answer or "").encode()
        wanted = [IGNORED] * (len(row) - len(answer_bytes) - 1) + row.ids[-len(answer_bytes) - 1 :].tolist()
        assert row.labels.tolist() == wanted
        assert processor.tokenizer.decode(row.ids[row.labels != IGNORED]) == f"{example.sample.answer}<|im_end|>"


def test_lengths_are_known_before_an_image_is_opened(checkpoint: Path, data: Path) -> None:
    _, processor = load_model(checkpoint)
    encoder = Encoder(processor)
    found = [(size.tokens, size.learned) for size in sizes_of(examples(data), encoder, None)]
    rows = [encoder.row(example) for example in examples(data)]
    assert found == [(len(row), int((row.labels != IGNORED).sum())) for row in rows]


def test_rows_together_have_the_losses_they_have_alone(checkpoint: Path, data: Path) -> None:
    model, processor = load_model(checkpoint, dtype=torch.float32)
    network: Any = model
    head = AnswerHead(model)
    rows = [Encoder(processor).row(example) for example in examples(data)[:6]]
    alone = losses_alone(head, network, rows)
    batch = collate(rows, pad_token=0)
    with head.losses_at(batch.labels):
        network(**batch.inputs)
    padded = head.losses.each
    torch.testing.assert_close(padded, torch.cat(alone), rtol=1e-3, atol=1e-4)
    assert no_packing(model) is None
    pack(model)
    batch = collate(rows, pad_token=0, packed=True)
    with head.losses_at(batch.labels):
        network(**batch.inputs, **packed_inputs(model, batch))
    packed = head.losses.each
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-3, atol=1e-4)


def test_rows_packed_for_flash_attention_have_the_losses_they_have_alone(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_model(checkpoint, dtype=torch.float32)
    network: Any = model
    head = AnswerHead(model)
    rows = [Encoder(processor).row(example) for example in examples(data)[:6]]
    alone = losses_alone(head, network, rows)
    stand_in_for_flash(monkeypatch)
    for config in (network.config, *(getattr(network.config, name) for name in network.config.sub_configs)):
        config._attn_implementation = "flash_attention_2"  # as set_attn_implementation does where the package is
    assert no_packing(network) is None
    pack(network)
    batch = collate(rows, pad_token=0, packed=True)
    with head.losses_at(batch.labels):
        network(**batch.inputs, **packed_inputs(network, batch))
    torch.testing.assert_close(head.losses.each, torch.cat(alone), rtol=1e-3, atol=1e-4)


LIMITED = {
    "internvl": {"max_dynamic_patch": 2},
    "qwen2_vl": {"max_pixels": 28 * 28 * 2},
    "qwen2_5_vl": {"max_pixels": 28 * 28 * 2},
}


@pytest.mark.parametrize("checkpoint", ["internvl", "qwen2_vl", "qwen2_5_vl"], indirect=True)
def test_an_adapter_answers_under_the_image_limits_that_it_was_trained_with(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    limits = LIMITED[load_model(checkpoint).model.config.model_type]
    shared = {"device": "cpu", "precision": "float32", "max_steps": 1, "batch_size": 2}
    first, further = tmp_path / "first", tmp_path / "further"
    for folder, changes in ((first, limits), (further, {"start_from": first / "adapter"})):
        settings = TrainSettings(model=str(checkpoint), data=data / "train.jsonl", **shared, **changes)
        run(settings, checkpoint, examples(data), folder)
    plain, asked = load_model(checkpoint).processor, examples(data)[2]
    trained = Encoder(AutoProcessor.from_pretrained(first / "adapter")).prompt(asked).ids
    assert len(trained) < len(Encoder(plain).prompt(asked).ids), "the limits limit nothing here"
    for folder in (first, further):
        loaded = load_model(checkpoint, {"base": None, "tuned": folder / "adapter"})
        assert torch.equal(Encoder(loaded.processor).prompt(asked).ids, trained)
    given = load_model(checkpoint, {"base": None}, limits=ImageLimits(**limits))
    assert torch.equal(Encoder(given.processor).prompt(asked).ids, trained), (
        "the base alone, under limits that are given"
    )
    merged = save(merge(checkpoint, first / "adapter", "tuned", "cpu", "auto"), tmp_path / "merged")
    assert torch.equal(Encoder(load_model(merged).processor).prompt(asked).ids, trained)


@pytest.mark.parametrize("checkpoint", ["internvl", "qwen2_vl", "qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("limited", [True, False], ids=["limited", "as it is"])
def test_check_counts_the_tokens_that_training_reads(checkpoint: Path, data: Path, limited: bool) -> None:
    limits = LIMITED[load_model(checkpoint).model.config.model_type] if limited else {}
    settings = TrainSettings(model=str(checkpoint), device="cpu", **limits)
    read = Encoder(load(settings, checkpoint).processor)
    found = preflight(data / "train.jsonl", PreflightSettings(model=str(checkpoint), **limits)).tokens
    assert found is not None
    line_end = 1  # behind the end of an answer, where training stops
    assert [row.total for row in found.rows] == [len(read.row(example)) + line_end for example in examples(data)]


def stand_in_for_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain attention with the package's interface; each call is checked for what the real kernels take."""
    from transformers import modeling_flash_attention_utils as flash

    def whole(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **given: Any) -> torch.Tensor:
        assert not given["is_causal"], "packed rows in one piece: they would see each other"
        return torch.nn.functional.scaled_dot_product_attention(
            *(states.transpose(1, 2) for states in (query, key, value)), scale=given["softmax_scale"]
        ).transpose(1, 2)

    def by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, cu_seqlens_q: torch.Tensor,
                cu_seqlens_k: torch.Tensor, **given: Any) -> torch.Tensor:  # fmt: skip
        assert cu_seqlens_q.ndim == 1 and cu_seqlens_q.dtype == torch.int32 and torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert int(cu_seqlens_q[-1]) == len(query)
        lengths = cu_seqlens_q.diff().tolist()
        assert max(lengths) == given["max_seqlen_q"] == given["max_seqlen_k"]
        return torch.cat([
            torch.nn.functional.scaled_dot_product_attention(
                *(states.transpose(0, 1) for states in parts), scale=given["softmax_scale"],
                is_causal=given["is_causal"], enable_gqa=True,
            ).transpose(0, 1)
            for parts in zip(*(states.split(lengths) for states in (query, key, value)), strict=True)
        ])  # fmt: skip

    functions = whole, by_rows, None, flash._pad_input, flash._unpad_input
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda kind=None: (functions, (dict, dict)))


def test_every_parameter_has_its_part(checkpoint: Path) -> None:
    model, _ = load_model(checkpoint)
    found = {group.part: group.parameters for group in groups(model)}
    assert found.keys() == {Part.VISION, Part.PROJECTOR, Part.LANGUAGE}
    for name, _ in model.named_parameters():
        if "lm_head" in name or "embed_tokens" in name or ("self_attn.q_proj" in name and "vision" not in name):
            assert part_of(name) is Part.LANGUAGE, name


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_train_save_reload_generate(checkpoint: Path, data: Path, tmp_path: Path, tuning: str) -> None:
    settings = TrainSettings(
        model=str(checkpoint), data=data / "train.jsonl", tuning=tuning,  # pyright: ignore[reportArgumentType]
        max_steps=5, batch_size=6, batch_tokens=400, learning_rate=3e-3, precision="float32", device="cpu",
    )  # fmt: skip
    outcome = run(settings, checkpoint, examples_of(settings, data, tmp_path / "data"), tmp_path)
    losses = [line["loss"] for line in read_jsonl(tmp_path / LOG)]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert outcome.packed
    before = load_model(checkpoint, dtype=torch.float32)
    if tuning == "lora":
        tuned = load_model(checkpoint, {"mine": tmp_path / "adapter"}, dtype=torch.float32)
    else:
        tuned = load_model(tmp_path / "model", dtype=torch.float32)
    for example in examples(data)[:3]:
        images = [[load_image(data / name) for name in example.sample.images]]
        found = answer(images, [example.sample.question], tuned, GenerationSettings(max_new_tokens=4))
        assert found[0].tokens >= 1
    batch = collate([Encoder(before.processor).row(example) for example in examples(data)[:3]], pad_token=0)
    one, other = (loaded.model(**batch.inputs).logits for loaded in (before, tuned))  # pyright: ignore[reportCallIssue]
    assert not torch.allclose(one, other), "the weights that were saved are not the trained ones"


@pytest.mark.parametrize("freeze_projector", [True, False])
def test_stored_features_train_as_pixels_do(
    checkpoint: Path, data: Path, tmp_path: Path, freeze_projector: bool
) -> None:
    common: dict[str, Any] = {
        "model": str(checkpoint), "data": data / "train.jsonl", "max_steps": 3, "batch_size": 6, "batch_tokens": 400,
        "epochs": 20, "learning_rate": 3e-3, "precision": "float32", "device": "cpu",
        "freeze_projector": freeze_projector,
    }  # fmt: skip
    losses, outcomes = [], []
    for name, wanted in (("pixels", False), ("features", None)):
        settings = TrainSettings(**common, feature_cache=wanted)
        (tmp_path / name).mkdir()
        outcomes.append(run(settings, checkpoint, examples_of(settings, data, tmp_path / "data"), tmp_path / name))
        losses.append([line["loss"] for line in read_jsonl(tmp_path / name / LOG)])
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    if outcomes[1].features is None:
        reasons = ("row 'row-", "one projector", "the projector reads more", "this model reads more of an image")
        assert any(reason in str(outcomes[1].no_features) for reason in reasons), outcomes[1].no_features


@pytest.mark.slow
def test_every_step_of_the_command_line_works_with_families_that_need_no_torchvision(tmp_path: Path) -> None:
    """A part of docs/families.md."""
    command = [sys.executable, "-m", "support.families", "gemma3", "llava", "--log", str(tmp_path)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["Gemma 3", "LLaVA-1.5"]
    without = 1 + list(STEPS).index("QLoRA")  # needs bitsandbytes
    for row in rows:
        assert all(cell.startswith("works") for at, cell in enumerate(row[1:], 1) if at != without), row
