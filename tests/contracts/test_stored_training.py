"""Trainings of old code: read, not done twice, and their adapters loaded, merged and asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import access
import yaml
from artefacts import DATA, tree

TINY = ["--checkpoint", "tiny", "--adapters", "tuned=tuned"]


def test_a_training_is_read_as_it_was_written(golden: Callable[..., None]) -> None:
    golden("train/read", access.read_training(DATA / "runs/trained/v1"))
    curve = access.training_curve(DATA / "runs/trained/v1")
    assert [line["step"] for line in curve] == [1, 2, 3]
    assert all(isinstance(line["loss"], float) for line in curve)


def test_settings_of_the_shipped_files_are_what_they_were(
    mis: Callable[..., Any], golden: Callable[..., None], monkeypatch: Any
) -> None:
    """Every file of ``configs/`` resolved, as ``mis train --show`` prints it."""
    monkeypatch.chdir(DATA.parents[2])
    told = {}
    for path in sorted(Path("configs").glob("*.yaml")):
        said = mis("train", "--config", path, "--show")
        told[path.name] = {"status": said.status, "settings": yaml.safe_load(said.out) if said.status == 0 else None}
    first = next(one["settings"] for one in told.values() if one["settings"])
    for one in told.values():  # what is as in the first file need not be told again
        if one["settings"] and one["settings"] is not first:
            one["settings"] = {
                key: value for key, value in one["settings"].items() if key not in first or first[key] != value
            }
    golden("train/configs", told)


def test_settings_without_a_file(mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("train", "--show")
    golden("train/defaults", {"status": said.status, "settings": yaml.safe_load(said.out)})
    said = mis("train", "--show", "--set", "lora.rank=8", "max_steps=50", "data=rows")
    golden("train/set", {"status": said.status, "settings": yaml.safe_load(said.out)})


def test_a_training_that_is_done_is_not_done_again(work: Path, mis: Callable[..., Any]) -> None:
    before = tree(work / "runs/trained")
    said = mis("train", "--config", "train.yaml", "--json")
    assert said.status == 0, said.err
    assert said.json == {"run": "runs/trained/v1", **json.loads((DATA / "runs/trained/v1/result.json").read_text())}
    assert tree(work / "runs/trained") == before


def test_an_adapter_knows_its_checkpoint(work: Path) -> None:
    adapter = work / "runs/trained/v1/adapter"
    assert access.strangeness(adapter, work / "tiny") == ""
    other = shutil.copytree(work / "tiny", work / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-64:] = bytes(64)  # of the last tensor, which is smaller than what is looked at
    (other / "model.safetensors").write_bytes(bytes(content))
    assert "other weights" in access.strangeness(adapter, other)


def test_an_adapter_is_merged(work: Path, mis: Callable[..., Any]) -> None:
    said = mis("merge", "runs/trained/v1", "merged", "--checkpoint", "tiny", "--json")
    assert (said.status, said.json) == (0, {"checkpoint": "merged"}), said.err
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= tree(work / "merged").keys()


def test_variants_answer_as_they_did(whole: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    images = ["pairs/images/house-twemoji-2.png", "pairs/images/firecracker-twemoji-2.png"]
    words = ["--question", "What is this?", *TINY, "--variants", "base", "tuned", "--max_new_tokens", "6", "--json"]
    said = mis("compare", "--images", *images, *words)
    golden(
        "compare",
        {"status": said.status, "said": {key: value for key, value in said.json.items() if key != "environment"}},
    )


def test_all_forms_of_a_model_are_one(work: Path, mis: Callable[..., Any]) -> None:
    said = mis(
        "parity",
        *TINY,
        "--data",
        "pairs",
        "--limit",
        "1",
        "--max_new_tokens",
        "3",
        "--forms",
        "rows",
        "merged",
        "engine",
        "--json",
    )
    assert said.status == 0 and said.json["same"] is True, said.err
