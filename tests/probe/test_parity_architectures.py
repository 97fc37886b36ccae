"""Parity on the architectures that people tune: tiles, grids and positions of many kinds, the same in every form."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.fakes import mini_data
from support.tiny_architectures import BUILDERS, built
from transformers import AutoModelForImageTextToText

from mis_lib.probe.parity import Check, Status, first_difference
from mis_lib.recipes.parity import Form, ParitySettings, parity


def adapt(checkpoint: Path, folder: Path) -> Path:
    """A random LoRA adapter of the language model, whatever it is called in this architecture."""
    torch.manual_seed(1)
    targets = r".*(language_model|text_model)\.layers.*\.(q_proj|v_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    get_peft_model(AutoModelForImageTextToText.from_pretrained(checkpoint), config).save_pretrained(folder)
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
