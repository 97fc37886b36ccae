"""The chunked loss is transformers' own: logits, then cross-entropy, also for models that scale or cap logits."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PaliGemmaConfig,
    PreTrainedConfig,
)

from mis_lib.train import loss
from mis_lib.train.encode import IGNORED
from mis_lib.train.loss import AnswerHead, LinearCrossEntropy, LinearCrossEntropyLoss

TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32,
}  # fmt: skip


def text(kind: str, **changes: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(kind, **{**TEXT, **changes})


def paligemma(cap: float | None) -> PreTrainedConfig:
    words = {"model_type": "gemma2", **TEXT, "final_logit_softcapping": cap}
    return PaliGemmaConfig(text_config=words, vision_config=SIGLIP, image_token_id=63, projection_dim=32)


def aya_vision() -> PreTrainedConfig:
    words = {"model_type": "cohere2", **TEXT, "logit_scale": 0.25}
    return AutoConfig.for_model("aya_vision", text_config=words, vision_config=SIGLIP, image_token_index=63)


FAMILIES: dict[str, tuple[PreTrainedConfig, float, float | None]] = {
    "llama": (text("llama"), 1.0, None),
    "gemma2": (text("gemma2", final_logit_softcapping=3.0), 1.0, 3.0),
    "gemma3": (text("gemma3_text", final_logit_softcapping=2.0), 1.0, 2.0),
    "gemma3 without a cap": (text("gemma3_text"), 1.0, None),
    "granite": (text("granite", logits_scaling=8.0), 0.125, None),
    "cohere": (text("cohere", logit_scale=0.3), 0.3, None),
    "cohere2": (text("cohere2", logit_scale=0.0625), 0.0625, None),
    "paligemma": (paligemma(3.0), 1.0, 3.0),
    "paligemma without a cap": (paligemma(None), 1.0, None),
    "aya_vision, which does not apply Cohere's scale": (aya_vision(), 1.0, None),
}


def built(config: PreTrainedConfig, *, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    kind = AutoModelForCausalLM if config.get_text_config() is config else AutoModelForImageTextToText
    model = kind.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0)  # logits that a cap changes
    return model.train()


def about(number: float | None) -> Any:
    return None if number is None else pytest.approx(number, rel=1e-6)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (2, 9) and labels at some of them."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4] = labels[1, :6] = IGNORED
    return ids, labels


def gradients(model: Any, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (total * 0.3).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_as_transformers(model: Any, head: AnswerHead) -> None:
    """Losses, hits and gradients of all weights against the model's own logits and torch's cross-entropy."""
    ids, labels = batch()
    logits = model(input_ids=ids).logits[:, :-1]
    wanted = labels[:, 1:] != IGNORED
    expected = F.cross_entropy(logits[wanted].float(), labels[:, 1:][wanted], reduction="none")
    theirs = gradients(model, expected.sum())
    with head.losses_at(labels):
        output = model(input_ids=ids)
    torch.testing.assert_close(output.loss, expected.sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.losses.each, expected.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(head.losses.hits, logits[wanted].argmax(-1) == labels[:, 1:][wanted])
    mine = gradients(model, output.loss)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            mine[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert model(input_ids=ids).logits.shape == (2, 9, logits.shape[-1]), "outside, it is the model's own"


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_models_own_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK", 3)  # several chunks
    config, scale, cap = FAMILIES[family]
    model = built(config)
    head = AnswerHead(model)
    assert model.training
    assert head.loss is not None
    assert head.loss.scale == about(scale)
    assert head.loss.cap == about(cap)
    assert_as_transformers(model, head)


def test_gemma_4s_gradients_are_as_near_to_exact_ones_as_transformers_own() -> None:
    """In float32 both are rounded, single numbers by some per cent: its attention scales queries by nothing."""
    model = built(
        text("gemma4_text", final_logit_softcapping=2.0, hidden_size_per_layer_input=8, vocab_size_per_layer_input=64,
             global_head_dim=8, num_kv_shared_layers=0, intermediate_size=48)
    )  # fmt: skip
    ids, labels = batch()
    wanted = labels[:, 1:] != IGNORED

    def plain(network: Any) -> dict[str, torch.Tensor]:
        logits = network(input_ids=ids).logits[:, :-1][wanted]
        return gradients(network, F.cross_entropy(logits, labels[:, 1:][wanted], reduction="sum"))

    theirs, exact = plain(model), plain(copy.deepcopy(model).double())
    head = AnswerHead(model)
    assert head.loss is not None and head.loss.cap == about(2.0)
    with head.losses_at(labels):
        output = model(input_ids=ids)
    mine = gradients(model, output.loss)
    assert mine.keys() == exact.keys()
    for name, gradient in exact.items():
        off, theirs_off = ((found[name] - gradient).norm() / gradient.norm() for found in (mine, theirs))
        assert off < max(2 * theirs_off, 1e-4), name


def test_scale_and_cap_are_found_without_weights_and_in_bfloat16() -> None:
    """Under FSDP only the main process has read the weights, and all must compute the same loss."""
    for name in ("gemma2", "cohere"):
        config, scale, cap = FAMILIES[name]
        model = built(config).to(torch.bfloat16)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(torch.nan)
        found = LinearCrossEntropyLoss.of(model)
        assert found is not None
        assert (found.scale, found.cap) == (about(scale), about(cap))


def test_an_output_layer_with_a_bias_is_trained() -> None:
    model = built(text("llama"))
    model.lm_head = nn.Linear(32, 64)
    head = AnswerHead(model)
    assert head.loss is not None
    assert_as_transformers(model, head)


def bend(model: nn.Module, args: Any, output: Any) -> Any:
    output["logits"] = torch.log1p(output.logits.abs())
    return output


@pytest.mark.parametrize("strange", ["two layers", "bent"])
def test_any_other_model_is_trained_on_its_own_logits(strange: str) -> None:
    model = built(text("llama"))
    if strange == "two layers":
        model.lm_head = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 64))
    else:
        model.register_forward_hook(bend)
    head = AnswerHead(model)
    assert head.loss is None
    assert_as_transformers(model, head)


@pytest.mark.parametrize("trained", ["hidden", "weight", "both"])
def test_gradients_of_the_chunked_loss_are_those_of_the_plain_one(
    trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", 7)  # several chunks
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, requires_grad=trained != "weight")
    weight = torch.randn(11, 8, requires_grad=trained != "hidden")
    targets = torch.randint(0, 11, (23,))
    found: Any = LinearCrossEntropy.apply(hidden, weight, targets, None, LinearCrossEntropyLoss())
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    wanted = [value for value in (hidden, weight) if value.requires_grad]
    torch.testing.assert_close(found[1], plain)
    mine, theirs = (torch.autograd.grad(total * 0.3, wanted) for total in (found[0], plain.sum()))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
