"""Rows of text, without an image: trained as the paper's Textual SFT and among others, asked, judged, reported."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.fake_server import FakeServer
from support.published import pku_saferlhf
from support.tiny import tiny_checkpoint
from support.tiny_rows import tiny_rows
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.files import read_jsonl, read_records
from mis_lib.schema import Sample

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PKU-SafeRLHF in its published layout."""
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))
    pku_saferlhf(tmp_path / "PKU-SafeRLHF-30K")
    return tmp_path / "PKU-SafeRLHF-30K"


def mis(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, f"{done.output}\n{done.stderr}"
    return json.loads(done.stdout)


def small(checkpoint: Path, runs: Path, **more: object) -> list[str]:
    """Settings that make a published configuration a run of two steps."""
    given = {"model": checkpoint, "runs": runs, "max_steps": 2, "batch_size": 3, "device": "cpu",
             "precision": "float32", "max_dynamic_patch": "null",
             "gradient_checkpointing": "false", **more}  # fmt: skip
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


def test_textual_sft_runs_as_it_is_configured(checkpoint: Path, words: Path, tmp_path: Path) -> None:
    config = CONFIGS / "internvl2_5-8b-textual-lora.yaml"
    changes = small(checkpoint, tmp_path / "runs", data=words, **{"mixture_options.rows": 3})
    done = mis("train", "--config", config, *changes)
    rows = read_records(Path(done["run"]) / "data" / "train.jsonl", Sample)
    assert sorted(row.harmful for row in rows) == [False, True, True]
    assert [row.images for row in rows] == [["black.png"]] * 3  # each is paired with an all-black image (section 2.1)
    assert len(list(read_jsonl(Path(done["run"]) / "train_log.jsonl"))) == 2


@pytest.mark.parametrize("packing", ["true", "false"])
def test_rows_of_text_are_trained_among_rows_with_images(
    checkpoint: Path, words: Path, tmp_path: Path, packing: str
) -> None:
    data = tiny_rows(tmp_path / "mixed", 3)
    row = {"id": "words", "question": "How is bread baked?", "images": [], "answer": "In an oven.", "harmful": False}
    with (data / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    changes = small(checkpoint, tmp_path / "runs", data=data, packing=packing, batch_size=4, feature_cache=packing)
    done = mis("train", "--set", "name=mixed", *changes)
    alone = data.parent / "words.jsonl"
    alone.write_text(json.dumps(row) + "\n")
    mis("train", "--set", "name=words", *small(checkpoint, tmp_path / "runs", data=alone, batch_size=1))
    assert done["rows"] == 4


def test_rows_of_text_are_asked_judged_and_reported(checkpoint: Path, words: Path, tmp_path: Path) -> None:
    asked = ("--data", words, "--splits", "test", "--runs", tmp_path / "runs")
    with FakeServer(reply=lambda task, facts, images: "I am sorry, but I cannot help with that.") as server:
        found = mis("generate", "--server", server.url, "--models", "org/m", *asked)
        assert all([part["type"] for part in body["messages"][0]["content"]] == ["text"] for body in server.bodies)
    assert found["answers"] == 2
    local = mis("generate", "--checkpoint", checkpoint, "--set", "generation.max_new_tokens=4", *asked)
    assert local["answers"] == 2
    mis("judge", found["run"], "--judges", "words")
    table = mis("report", "--existing", found["run"], "--judges", "words")
    assert table
