"""Parity on the architectures that people tune: tiles, grids and positions of many kinds, the same in every form."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.fakes import mini_data
from support.tiny import tiny_checkpoint
from support.tiny_architectures import BUILDERS, built
from transformers import AutoModelForImageTextToText

from mis_lib.probe.parity import Check, Status, first_difference
from mis_lib.recipes.parity import Form, ParitySettings, parity

LANGUAGE = r".*(language_model|text_model)\.layers.*\.(q_proj|v_proj|down_proj)"


def adapt(checkpoint: Path, folder: Path, targets: str = LANGUAGE, **more: Any) -> Path:
    """A random LoRA adapter, of the language model whatever it is called in this architecture."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **more)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(checkpoint), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modules_to_save" in name:
                weight.mul_(1.5)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BUILDERS)
def test_all_forms_say_the_same(name: str, tmp_path: Path) -> None:
    checkpoint = built(name, tmp_path / "model")
    adapter = adapt(checkpoint, tmp_path / "one")
    data = mini_data(tmp_path / "data")
    report = parity(
        ParitySettings(checkpoint=checkpoint, adapters={"one": adapter}, data=data, limit=1, max_new_tokens=6)
    )
    first = first_difference(report.findings)
    assert first is None, first
    assert {use["use"] for use in report.tensors["one"]} == {"applied"}
    told = {(finding.form, finding.check) for finding in report.findings if finding.status is not Status.NOT_TOLD}
    for form in (Form.ROWS, Form.MERGED, Form.RELOADED, Form.ENGINE):
        assert {(form, check) for check in (Check.GRIDS, Check.PIXELS, Check.TOKENS)} <= told


@pytest.mark.parametrize(
    ("name", "targets", "more"),
    [
        ("tiny", r".*(vision_tower|language_model).*\.(q_proj|v_proj)", {}),
        ("tiny", LANGUAGE, {"modules_to_save": ["multi_modal_projector"]}),
        ("tiny", LANGUAGE, {"use_dora": True}),
        ("qwen3_vl_moe", LANGUAGE, {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
    ],
    ids=["vision", "projector", "DoRA", "experts"],
)
def test_adapters_that_cannot_be_mixed_are_compared_too(
    name: str, targets: str, more: dict[str, Any], tmp_path: Path
) -> None:
    make = tiny_checkpoint if name == "tiny" else partial(built, name)
    checkpoint = make(tmp_path / "model")
    adapter = adapt(checkpoint, tmp_path / "one", targets, **more)
    data = mini_data(tmp_path / "data")
    report = parity(
        ParitySettings(checkpoint=checkpoint, adapters={"one": adapter}, data=data, limit=1, max_new_tokens=6)
    )
    first = first_difference(report.findings)
    assert first is None, first
    found = {finding.check: finding.status for finding in report.findings if finding.form == Form.ENGINE}
    assert found[Check.LOGITS] is found[Check.TEXT] is Status.SAME
