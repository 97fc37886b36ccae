"""The parts of models: which weights LoRA reaches, of experts too, and which belong to a projector or another tower."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.tiny_architectures import built

from mis_lib.errors import SettingsError
from mis_lib.models.load import load_model
from mis_lib.train.lora import Part, not_reached, part_of
from mis_lib.train.model import load
from mis_lib.train.settings import TrainSettings

EXPERTS = {  # parameters of all experts: layers x experts x (gate and up, down); then what PEFT would take for them
    "qwen3_vl_moe": (2 * 4 * (64 * 32 + 32 * 32), 0),
    "glm4v_moe": (1 * 4 * (32 * 32 + 16 * 32), 2 * 3),  # the dense layer's and the shared expert's, of the text
}


@pytest.mark.parametrize("name", EXPERTS)
def test_what_lora_does_not_reach_is_said(name: str, tmp_path: Path) -> None:
    checkpoint = built(name, tmp_path / "checkpoint")
    settings = TrainSettings(model=str(checkpoint), device="cpu", precision="float32")
    loaded = load(settings, checkpoint)
    experts, layers = EXPERTS[name]
    said = not_reached(loaded.network, settings) or ""
    assert f"{experts:,} parameters of experts, which lora.experts: true would adapt" in said
    assert (f"{layers} linear layers (down_proj, gate_proj, up_proj), which PEFT takes for experts" in said) == bool(
        layers
    )
    adapted = {key for key, _ in loaded.model.named_parameters() if ".lora_" in key}
    assert any("self_attn" in key for key in adapted)
    assert not any("experts" in key for key in adapted)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_adapted_when_it_is_asked_for(name: str, tmp_path: Path) -> None:
    checkpoint = built(name, tmp_path / "checkpoint")
    settings = TrainSettings(
        model=str(checkpoint), device="cpu", precision="float32", lora={"rank": 2, "alpha": 4, "experts": True}
    )  # pyright: ignore[reportArgumentType]
    loaded = load(settings, checkpoint)
    assert "experts, which" not in (not_reached(loaded.network, settings) or "").replace("for experts", "")
    torch.manual_seed(0)
    with torch.no_grad():
        for key, weight in loaded.model.named_parameters():
            if ".lora_B" in key:
                weight.normal_(std=0.1)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        tuned = loaded.model.eval()(input_ids=ids).logits
    loaded.model.save_pretrained(tmp_path / "adapter")
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {key.partition("experts.")[2] for key in written if "experts." in key and "shared" not in key} == {
        "lora_A.weight", "lora_B.weight", "base_layer.lora_A.weight", "base_layer.lora_B.weight"
    }  # fmt: skip
    again = load_model(checkpoint, {"mine": tmp_path / "adapter"}, dtype=torch.float32)
    assert isinstance(again.model, PeftModel)
    again.model.set_adapter("mine")
    with torch.no_grad():
        assert torch.allclose(again.model(input_ids=ids).logits, tuned, atol=1e-5)
        with again.model.disable_adapter():
            assert not torch.allclose(again.model(input_ids=ids).logits, tuned, atol=1e-2)


def test_experts_are_refused_where_there_are_none(tmp_path: Path) -> None:
    checkpoint = built("paligemma", tmp_path / "checkpoint")
    settings = TrainSettings(model=str(checkpoint), device="cpu", lora={"experts": True})  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="this run trains no mixture of experts"):
        load(settings, checkpoint)


@pytest.mark.parametrize(
    ("name", "part"),
    [  # as transformers names them
        ("model.embed_vision.embedding_projection.weight", Part.PROJECTOR),  # Gemma 3n, 4
        ("model.resampler_model.spatial_linear.fc1.weight", Part.PROJECTOR),  # Ernie 4.5 VL
        ("model.visual_embeddings_table.weight", Part.PROJECTOR),  # Ovis 2
        ("model.vision_projection.linear_1.weight", Part.PROJECTOR),  # LightOnOCR
        ("model.audio_tower.layers.0.self_attn.q_proj.weight", Part.AUDIO),
        ("model.embed_audio.embedding_projection.weight", Part.AUDIO),
        ("model.high_res_vision_model.layers.0.attn.qkv.weight", Part.VISION),  # DeepSeek-VL hybrid
        ("model.language_model.embed_tokens_per_layer.weight", Part.LANGUAGE),
    ],
)
def test_parts_of_current_architectures(name: str, part: Part) -> None:
    assert part_of(name) is part
