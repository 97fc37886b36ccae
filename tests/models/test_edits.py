"""A weight edit is a variant: it says what a checkpoint with those weights says, and leaves the others as they are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import ModelError
from mis_lib.generate.columns import Column
from mis_lib.generate.engine import Engine
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.adapters import Checkpoint, choose_checkpoints
from mis_lib.models.edits import Edit
from mis_lib.models.load import load_model
from mis_lib.settings import GenerationSettings
from workbench.host import strangers

SHORT = GenerationSettings(max_new_tokens=8)
LAYERS = [
    f"model.language_model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")
]
"""The second of each layer has an adapter, too."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, an adapter, an edit, and the checkpoint with the same weights turned one by one."""
    root = tmp_path_factory.mktemp("edits")
    tiny_checkpoint(root / "base")
    tiny_adapter(root / "base", root / "one", 1)
    draws = torch.Generator().manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_pretrained(root / "base")
    modules = dict(model.named_modules())
    indices = {name: torch.randperm(modules[name].weight.numel(), generator=draws)[:200] for name in LAYERS}
    Edit(indices, -1.0, 0.9, 5000).save(root / "edit.safetensors", root / "base")
    with torch.no_grad():
        for name, chosen in indices.items():
            weight = modules[name].weight
            for at in chosen.tolist():
                weight[at // weight.shape[1], at % weight.shape[1]] *= -1
    model.save_pretrained(root / "changed")
    for file in (root / "base").iterdir():
        if not (root / "changed" / file.name).exists():
            shutil.copy(file, root / "changed")
    mini_data(root / "data")
    return root


@pytest.fixture
def variants(home: Path) -> dict[str, Path | None]:
    return {"base": None, "one": home / "one", "edit": home / "edit.safetensors"}


def texts(steps: Iterator[tuple[Column, ...]]) -> dict[str, str]:
    *_, end = steps
    return {column.variant: column.text for column in end}


def test_columns_say_what_each_says_alone(home: Path, variants: dict[str, Path | None]) -> None:
    images = [Image.new("RGB", (30, 50), "teal"), Image.new("RGB", (40, 40), "red")]

    def ask(checkpoint: str, adapters: dict[str, Path | None], names: list[str]) -> dict[str, str]:
        engine = VariantEngine.load(home / checkpoint, adapters)
        return texts(engine.stream(images, "What is it?", names, SHORT))

    alone = ask("base", {"base": None, "one": home / "one"}, ["base", "one"])
    expected = {**alone, "edit": ask("changed", {"base": None}, ["base"])["base"]}
    assert len(set(expected.values())) == 3
    engine = VariantEngine.load(home / "base", variants)
    for names in (["one", "edit", "base"], ["edit"], ["base", "one"]):
        assert texts(engine.stream(images, "What is it?", names, SHORT)) == {name: expected[name] for name in names}
    interrupted = engine.stream(images, "What is it?", ["edit"], SHORT)
    next(interrupted)
    interrupted.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert texts(engine.stream(images, "What is it?", ["base"], SHORT)) == {"base": expected["base"]}


def test_those_that_can_be_mixed_share_a_pass(home: Path, variants: dict[str, Path | None]) -> None:
    engine = Engine.load(home / "base", variants, "cpu", torch.float32)
    assert engine.passes(["edit", None, "one"]) == [[None, "one"], ["edit"]]


def run(verb: str, home: Path, name: str, *flags: str) -> Any:
    asked = ["--data", str(home / "data"), "--splits", "hard", "--limit", "3", "--set", "generation.max_new_tokens=8"]
    return CliRunner().invoke(app, [verb, *asked, "--runs", str(home / "runs"), "--name", name, *flags])


def answers(home: Path, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [json.loads(line) for line in (home / "runs" / name / "v1" / "responses.jsonl").read_text().splitlines()]
    return {(row["sample_id"], row["variant"]): row for row in rows}


def test_a_run_answers_and_reports_under_an_edit_as_under_an_adapter(home: Path) -> None:
    both = ["--adapters", f"one={home / 'one'}", f"edit={home / 'edit.safetensors'}"]
    base, changed = str(home / "base"), str(home / "changed")
    for name, flags in {
        "three": ["--checkpoint", base, *both, "--variants", "edit", "base", "one"],
        "two": ["--checkpoint", base, "--adapters", f"one={home / 'one'}", "--variants", "base", "one"],
        "hand": ["--checkpoint", changed],
    }.items():
        result = run("generate", home, name, *flags)
        assert result.exit_code == 0, result.output
    three, two, hand = (answers(home, name) for name in ("three", "two", "hand"))
    assert len(three) == 18
    for (sample, variant), row in three.items():
        assert row["text"] == (hand[sample, "base"] if variant == "edit" else two[sample, variant])["text"]
    assert {key: two[key]["key"] for key in two} == {key: three[key]["key"] for key in two}
    assert len({row["key"] for row in three.values()}) == 18
    shown = run("report", home, "three", "--checkpoint", base, *both, "--variants", "edit", "base", "one", "--json")
    assert shown.exit_code == 0, shown.output
    counted = {
        (row["variant"], row["metric"]): row["n"] + row["n_unscored"]
        for row in json.loads(shown.stdout)["rates"]["records"]
    }
    assert {counted[name, rate] for name in ("base", "one", "edit") for rate in ("asr", "over_refusal")} == {3}


def test_compare_shows_an_edit_beside_its_base(home: Path) -> None:
    image, data = sorted((home / "data").rglob("*.png"))[0], []
    for checkpoint, adapters in (("base", ["--adapters", f"edit={home / 'edit.safetensors'}"]), ("changed", [])):
        flags = ["--checkpoint", str(home / checkpoint), *adapters, "--images", str(image), "--question", "What is it?"]
        result = CliRunner().invoke(app, ["compare", *flags, "--max_new_tokens", "8", "--json"])
        assert result.exit_code == 0, result.output
        data.append({column["variant"]: column["text"] for column in json.loads(result.stdout)["answers"]})
    beside, changed = data
    assert beside["edit"] == changed["base"] != beside["base"]


def test_the_key_follows_from_what_is_edited(home: Path, tmp_path: Path) -> None:
    edit = Edit.read(home / "edit.safetensors", home / "base")
    for name, alpha in (("same", -1.0), ("weaker", 0.5)):
        Edit(edit.indices, alpha, edit.tau, edit.weights).save(tmp_path / f"{name}.safetensors", home / "base")
    assert (tmp_path / "same.safetensors").read_bytes() == (home / "edit.safetensors").read_bytes()
    named = {"edit": home / "edit.safetensors"} | {
        name: tmp_path / f"{name}.safetensors" for name in ("same", "weaker")
    }
    flags = [f"{name}={path}" for name, path in named.items()]
    result = run(
        "generate", home, "keys", "--checkpoint", str(home / "base"), "--adapters", *flags, "--variants", *named
    )
    assert result.exit_code == 0, result.output
    keys = {variant: row["key"] for (_, variant), row in answers(home, "keys").items()}
    assert keys["edit"] == keys["same"] != keys["weaker"]


def test_an_edit_of_another_base_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "other", seed=3)
    edit = home / "edit.safetensors"
    with pytest.raises(ModelError, match=r"expected an edit of .*other, found one of base"):
        load_model(tmp_path / "other", {"edit": edit})
    result = run("generate", home, "other", "--checkpoint", str(tmp_path / "other"), "--adapters", f"edit={edit}")
    assert result.exit_code == 2
    assert "found one of base" in " ".join(result.output.split())
    shutil.copytree(home / "base", tmp_path / "moved")  # the same weights elsewhere
    load_model(tmp_path / "moved", {"edit": edit})
    parts = choose_checkpoints({"other": tmp_path / "other", "moved": tmp_path / "moved"}, {"edit": edit})
    assert [list(part.variants) for part in parts] == [["other"], ["moved", "edit"]]
    assert len(strangers(Checkpoint(tmp_path / "other", {"edit": edit}))) == 1
    assert strangers(parts[1]) == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("one/adapter_model.safetensors", "an adapter is named by its folder"),
        ("none.safetensors", "No such file"),
        ("torn.safetensors", "expected a weight edit"),
        ("cut.safetensors", "cannot be read"),
    ],
)
def test_what_is_no_edit_is_named(home: Path, file: str, words: str) -> None:
    whole = (home / "edit.safetensors").read_bytes()
    (home / "torn.safetensors").write_bytes(whole[:40])
    (home / "cut.safetensors").write_bytes(whole[:-40])
    with pytest.raises(ModelError, match=words):
        load_model(home / "base", {"edit": home / file})
