"""Llama 4 is refused where transformers' own code of it fails, and only there."""

import json
from pathlib import Path

import pytest
import torch
from support.tiny_architectures import TEXT
from transformers import Llama4Config, Llama4ForConditionalGeneration

from mis_lib.errors import ModelError
from mis_lib.models.load import load_model


def test_llama_4_is_refused_with_what_transformers_raises_before_weights_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    drawn = torch.rand(())
    vision = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 28, "patch_size": 7}
    ends = {"intermediate_size": 128, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    text = {**TEXT, "vocab_size": 50, "intermediate_size_mlp": 64, "head_dim": 8, "num_local_experts": 2}
    config = Llama4Config(text_config={**text, "pad_token_id": 0}, vision_config={**vision, **ends})
    config.save_pretrained(tmp_path)
    network = Llama4ForConditionalGeneration(config).eval()
    try:
        network(input_ids=torch.tensor([[3, 4, 5]]))
    except AttributeError as error:
        torch.manual_seed(0)
        with pytest.raises(ModelError, match="any input") as refused:
            load_model(tmp_path)
        assert str(error) in str(refused.value)
        assert torch.rand(()) == drawn, "the trial has drawn numbers of the run"
    else:
        with pytest.raises(ModelError, match="cannot be loaded"):  # there are no weights
            load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)
