"""Each example runs as its docstring says, on a tiny checkpoint or a run without a model."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from support.fake_runs import fake_run
from support.fakes import mini_data
from support.tiny import tiny_checkpoint
from support.tiny_rows import tiny_rows

from mis_lib.results.runs import Run
from mis_lib.schema import Outcome

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    """The module of an example, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three variants' answers without verdicts."""
    return fake_run(tmp_path / "runs", mini_data(tmp_path / "mini"), judges=())


def test_the_loop_learns_and_writes_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = tiny_rows(tmp_path / "data"), tiny_checkpoint(tmp_path / "model"), tmp_path / "adapter"
    example("sft_loop").main([str(data / "train.jsonl"), "--model", str(model), "--out", str(out), "--steps", "6"])
    assert (out / "adapter_model.safetensors").exists()
    shown = [float(line.split()[3].rstrip(",")) for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert len(shown) == 6
    assert shown[-1] < shown[0]


def test_a_run_is_judged_by_two_judges(run: Run) -> None:
    found = example("judge_a_run").judge(run.folder)
    assert found.keys() == {
        (variant, judge) for variant in ("mini", "mirage", "refusal") for judge in ("rule", "words")
    }
    assert found["mini", "words"]["asr"].value == 100
    assert found["refusal", "words"]["asr"].value == 0
    assert found["refusal", "words"]["over_refusal"].value == 100
    assert len(run.verdicts("rule")) == len(run.responses())


def test_a_judge_of_your_own_rules_on_every_answer(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    example("a_judge_of_your_own").main([str(run.folder)])
    assert "mini: " in capsys.readouterr().out
    verdicts = run.verdicts("steps")
    assert len(verdicts) == len(run.responses())
    assert {verdict.outcome for verdict in verdicts if verdict.variant == "mini"} == {Outcome.UNSAFE, Outcome.HELPED}
