"""A run as logs of inspect-ai: what is in them, and that inspect's own reader finds it there."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from support.published import our_samples
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.files import write_records
from mis_lib.generate.prompting import Prompting
from mis_lib.results.inspect_log import eval_log
from mis_lib.results.runs import Run, RunConfig, open_run
from mis_lib.schema import Outcome, Response, Verdict
from mis_lib.settings import ExportedImages, GenerationSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``tuned`` is judged, unscored and pending; ``base`` has answered one of three samples."""
    folder = tmp_path_factory.mktemp("inspect")
    samples = our_samples(folder / "data")
    config = RunConfig(
        tag="m", checkpoint="c", checkpoint_digest="", data=str(folder / "data"), data_digest="d",
        generation=GenerationSettings(max_new_tokens=9), variants={"base": "", "tuned+cot": ""},
        prompts={"tuned+cot": Prompting(system="Look first.", after="Think.")},
    )  # fmt: skip
    run = open_run(folder / "runs", "report", config)
    run.keep_samples(samples)
    run.note_trained_on({"tuned+cot": ["talk"]})

    def said(sample: str, variant: str, **more: Any) -> Response:
        given = {"text": "No.", "tokens": 3, "seconds": 0.5, "finish_reason": "stop", **more}
        return Response(sample_id=sample, variant=variant, **given)

    answers = [said("pair", "base"), said("pair", "tuned+cot", thought="Two toys."), said("twin", "tuned+cot")]
    write_records(run.folder / "responses.jsonl", [*answers, said("talk", "tuned+cot", finish_reason="length")])

    def ruled(sample: str, outcome: Outcome, **more: Any) -> Verdict:
        return Verdict(sample_id=sample, variant="tuned+cot", judge="rubric", outcome=outcome, **more)

    ruled_on = [ruled("pair", Outcome.UNSAFE, reason="it helps", level=1), ruled("twin", Outcome.UNSCORED, reason="?")]
    run.add_verdicts("rubric", "f1", ruled_on)
    return run


def log_of(run: Run, variant: str, **more: Any) -> dict[str, Any]:
    return eval_log(run, variant, Path(run.config.data), **more)


def test_what_is_unscored_or_pending_has_no_value_and_says_why(run: Run) -> None:
    log = log_of(run, "tuned+cot")
    pair, twin, talk = (sample["scores"]["rubric"] for sample in log["samples"])
    assert (pair["value"], pair["explanation"], pair["metadata"]["level"]) == ("unsafe", "it helps", 1)
    assert math.isnan(twin["value"]) and (twin["reason"], twin["explanation"]) == ("unscored", "?")
    assert math.isnan(talk["value"]) and talk["reason"] == "pending"
    (scorer,) = log["results"]["scores"]
    assert (scorer["scored_samples"], scorer["unscored_samples"]) == (1, 2)
    assert scorer["metrics"]["asr"]["value"] == 100 and scorer["metrics"]["asr"]["metadata"]["n_unscored"] == 1
    assert math.isnan(scorer["metrics"]["over_refusal"]["value"])  # never left out


def test_an_unfinished_variant_says_so(run: Run) -> None:
    log = log_of(run, "base")
    assert log["status"] == "started" and log["results"]["completed_samples"] == 1
    assert [sample.get("error", {}).get("message") for sample in log["samples"]] == [None, *["no answer yet"] * 2]
    assert log_of(run, "tuned+cot")["status"] == "success"


def test_without_inspect_the_error_names_the_package(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    arguments = ["export", "--input", str(run.folder), "--format", "inspect", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "pip install 'mis-workbench[inspect]'" in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_inspect_reads_the_logs(run: Run, tmp_path: Path) -> None:
    """Not in CI: inspect-ai brings forty packages along."""
    inspect_log = pytest.importorskip("inspect_ai.log")
    arguments = ["export", "--input", str(run.folder), "--format", "inspect", "--output", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report-v1_base.eval", "report-v1_tuned+cot.eval"]
    log = inspect_log.read_eval_log(str(tmp_path / "report-v1_tuned+cot.eval"), resolve_attachments=True)
    assert (log.status, log.eval.model, log.eval.model_generate_config.max_tokens) == ("success", "m/tuned+cot", 9)
    pair, talk, twin = log.samples  # by id
    system, asked = pair.input
    assert system.text == "Look first." and asked.content[2].text.endswith("?\nThink.")
    assert all(part.image.startswith("data:image/png;base64,") for part in asked.content[:2])
    assert pair.output.choices[0].message.content[0].reasoning == "Two toys." and pair.output.completion == "No."
    assert pair.scores["rubric"].value == "unsafe"
    assert [one.metadata["trained_on"] for one in log.samples] == [False, True, False]
    assert math.isnan(twin.scores["rubric"].value) and twin.scores["rubric"].reason == "unscored"
    assert talk.output.stop_reason == "max_tokens"
    assert log.results.scores[0].metrics["asr"].value == 100
    begun = inspect_log.read_eval_log(str(tmp_path / "report-v1_base.eval"))
    assert begun.status == "started" and begun.samples[1].error.message == "no answer yet"


def test_images_may_stay_where_they_are(run: Run) -> None:
    sample = log_of(run, "base", images=ExportedImages.KEEP)["samples"][0]
    paths = [part["image"] for part in sample["input"][0]["content"][:2]]
    assert sample["attachments"] == {} and all(Path(path).is_file() for path in paths)
