"""``mis train`` as people run it: settings, run folders, methods, statuses; and real processes that are killed, asked
to end, or are two.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support import published
from support.full_disk import files_of_at_most
from support.sharded import KINDS, in_two_processes
from support.tiny import tiny_checkpoint
from support.tiny_rows import tiny_rows
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import SettingsError
from mis_lib.files import read_jsonl, read_records
from mis_lib.recipes.train import METHODS, read_train_settings, train
from mis_lib.results.train_runs import TrainRun, train_versions
from mis_lib.schema import Sample
from mis_lib.settings import dump_settings, load_settings
from mis_lib.train.dataset import examples_of
from mis_lib.train.distributed import leave
from mis_lib.train.settings import TrainSettings
from workbench.app import free_port

LOG = "train_log.jsonl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture
def config(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file of a run of six steps in ``tmp_path/runs/tiny``."""
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.yaml"
    values = {
        "model": str(checkpoint), "data": str(data), "batch_size": 4, "batch_tokens": 600, "epochs": 2,
        "precision": "float32",
        "learning_rate": 1e-3, "device": "cpu", "name": "tiny", "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def mis(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_jsonl(folder / LOG)]


def test_from_settings_to_an_adapter_in_a_run_folder(config: Path, tmp_path: Path) -> None:
    done = mis("train", "--config", str(config), "--set", "lora.rank=2", "save_every=2", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    folder = tmp_path / "runs" / "tiny" / "v1"
    assert told["run"] == str(folder)
    assert (told["finished"], told["step"], told["rows"]) == (True, 6, 12)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter", "config.yaml", "environment.json", "result.json", LOG,
    ]  # fmt: skip
    assert load_settings(TrainSettings, folder / "config.yaml").lora.rank == 2
    assert json.loads((folder / "environment.json").read_text())["digests"].keys() == {"base", "data"}
    assert "No safety is promised" in (folder / "adapter" / "README.md").read_text()


def test_an_adapter_says_what_it_was_trained_on_and_is_trained_further_elsewhere_with_a_warning(
    config: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    start = train(read_train_settings(config, ["max_steps=1"])) / "adapter"
    assert json.loads((start / "base.json").read_text())["name"] == checkpoint.name
    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = {name: weight + 0.01 for name, weight in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    further = ("train", "--config", str(config), "--set", "name=further", "max_steps=1", f"start_from={start}")
    same, strange = mis(*further), mis(*further, f"model={other}")
    assert (same.exit_code, strange.exit_code) == (0, 0), same.output + strange.output
    assert "Warning: " not in same.output
    expected = f"expected the checkpoint that {start} belongs to ({checkpoint.name}), found {other}"
    warned = f"Warning: variant 'start_from': {expected}"
    assert warned in strange.output


def test_the_same_settings_are_not_trained_twice_and_others_open_the_next_version(config: Path, tmp_path: Path) -> None:
    settings = read_train_settings(config)
    first = train(settings)
    written = (first / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert train(settings) == first
    assert (first / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == written
    assert train(read_train_settings(config, ["workers=0"])) == first, "workers change no result"
    other = train(read_train_settings(config, ["seed=1"]))
    assert [run.folder for run in train_versions(tmp_path / "runs", "tiny")] == [first, other]
    assert train(read_train_settings(config, ["resume=false"])).name == "v3"


def test_two_do_not_train_the_same_run_at_once(config: Path, tmp_path: Path) -> None:
    held: list[bool] = []

    def look(_: object) -> None:
        (run,) = train_versions(tmp_path / "runs", "tiny")
        held.append(run.is_held)
        if len(held) == 1:
            with pytest.raises(SettingsError, match="another process is training this run"):
                train(read_train_settings(config))

    folder = train(read_train_settings(config), look)
    assert held == [True] * 6, "one for each step"
    (run,) = train_versions(tmp_path / "runs", "tiny")
    assert run.folder == folder and not run.is_held and run.result is not None


def test_a_mixture_is_written_into_the_run(config: Path, tmp_path: Path, data: Path) -> None:
    general = tiny_rows(tmp_path / "other", 6)
    rows = (general / "train.jsonl").read_text().replace('"row-', '"general-')
    (general / "train.jsonl").write_text(rows)
    sets = [f"general={general}", "mixture=refusal", "mixture_options.share=0.2", "max_steps=1"]
    folder = train(read_train_settings(config, sets))
    mixed = read_records(folder / "data" / "train.jsonl", Sample)
    assert {sample.id.partition("-")[0] for sample in mixed} == {"row", "general"}
    assert TrainRun(folder).result is not None and len(mixed) == (TrainRun(folder).result or {})["rows"]
    assert all((folder / "data" / name).exists() for sample in mixed for name in sample.images)


def test_a_published_set_is_trained_on_as_it_is_and_only_its_split_is_read(tmp_path: Path) -> None:
    published.vlguard(tmp_path / "set")
    (tmp_path / "set/test/bad_ads/2.png").unlink()
    records = json.loads((tmp_path / "set/train.json").read_text())
    long = " It would harm somebody, and nobody should have to bear that only because it was easy to do"
    long += " and quick to forget."
    for record in records:
        for pair in record["instr-resp"]:
            pair["response"] = f"I'm sorry, but I can't help with that.{long}"  # a harmless one too, as published
    (tmp_path / "set/train.json").write_text(json.dumps(records))
    settings = TrainSettings(name="set", data=tmp_path / "set", mixture="vlguard_p", mixture_options={"rows": 3})
    examples = examples_of(settings, tmp_path / "set", tmp_path / "mixed")
    assert [example.sample.harmful for example in examples].count(True) == 2
    assert len(examples) == 3


def test_what_is_refused_is_told_in_one_message(config: Path) -> None:
    for sets, told in (
        (["learning_rate=-1"], "learning_rate"),
        (["lora.rnk=3"], "unknown setting 'rnk'"),
        (["mixture=mirrage"], "--mixture: unknown 'mirrage'"),
        (["method=ppo"], "method: unknown 'ppo'; known: sft"),
        (["name=../up"], "run name"),
        (["max_pixels=100000"], "this model has none"),
        (["data=no/data"], "data: expected a file or folder at no/data, found none"),
        (["start_from=no/adapter"], "start_from: expected a file or folder at no/adapter, found none"),
    ):
        done = mis("train", "--config", str(config), "--set", *sets)
        assert done.exit_code == 2, sets
        assert told in done.stderr.replace("\n", " "), sets
        assert "Traceback" not in done.output


def with_row(data: Path, folder: Path, row: int, **changes: Any) -> Path:
    """A copy of the data in which one row, counted from 1, is changed."""
    shutil.copytree(data, folder)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    lines[row - 1] |= changes
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def with_infinite_weight(checkpoint: Path, folder: Path) -> Path:
    """A copy of the checkpoint whose answers are no numbers."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    last = next(name for name in weights if "language_model" in name and name.endswith("model.norm.weight"))
    weights[last][:] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_breaks_ends_with_status_2_a_message_and_nothing_half_written(
    config: Path, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    three = with_row(data, tmp_path / "three", 2, question="<image> <image> <image> What is this?")
    gone = with_row(data, tmp_path / "gone", 5, images=["images/gone.png", "images/cup.png"])
    broken = with_infinite_weight(checkpoint, tmp_path / "broken")
    cases: list[tuple[str, tuple[str, ...]]] = [
        (f"data={three}", ("train.jsonl", "row 2", "3", "mis check")),
        (f"data={gone}", ("train.jsonl", "row 5", "images/gone.png")),
        (f"model={broken}", ("step 1", "expected a finite loss, found nan", "rows 'row-", "lower learning_rate")),
        ("max_length=120", ("row 'row-", "expected at most 120 tokens", "nothing is cut")),
    ]
    if not torch.cuda.is_available():
        cases.append(("device=cuda", ("expected a CUDA GPU", "set device: cpu")))
    for number, (change, told) in enumerate(cases):
        done = mis("train", "--config", str(config), "--set", change, f"name=case-{number}")
        assert done.exit_code == 2, (change, done.output)
        assert all(part in done.stderr for part in told), done.stderr
        assert "Traceback" not in done.output
        assert not list((tmp_path / "runs").glob(f"case-{number}/v1/*adapter*")), change
    with files_of_at_most(40_000):
        done = mis("train", "--config", str(config), "--set", "name=full", "feature_cache=false")
    assert (done.exit_code, "expected room for it" in done.stderr) == (2, True), done.output
    assert not list((tmp_path / "runs" / "full").glob("v1/*adapter*"))


def test_show_prints_the_resolved_settings(config: Path) -> None:
    done = mis("train", "--config", str(config), "--set", "lora.rank=4", "--show")
    assert yaml.safe_load(done.stdout) == yaml.safe_load(dump_settings(read_train_settings(config, ["lora.rank=4"])))


def test_every_method_reads_its_own_settings(tmp_path: Path) -> None:
    for name, method in METHODS.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"method: {name}\n")
        assert type(read_train_settings(path)) is method.settings
    with pytest.raises(SettingsError, match="method: unknown"):
        read_train_settings(None, ["method=nothing"])


@pytest.mark.parametrize("place", [lambda tests: tests, lambda tests: tests / "hard.jsonl"], ids=["folder", "file"])
def test_evaluation_lines_hold_rates(config: Path, tmp_path: Path, data: Path, place: Callable[[Path], Path]) -> None:
    tests = tiny_rows(tmp_path / "tests", 4)
    lines = [json.loads(line) for line in (tests / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"split": "hard", "objects": [Path(name).stem for name in line["images"]]}
    (tests / "hard.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told: list[dict[str, Any]] = []
    sets = ["max_steps=2", "evaluation.every=1", f"evaluation.data={place(tests)}", "evaluation.max_new_tokens=4"]
    folder = train(read_train_settings(config, sets), told.append)
    written = list(read_jsonl(folder / LOG))
    assert told == written
    assert [("eval" in line, line["step"]) for line in written] == [(False, 1), (True, 1), (False, 2), (True, 2)]
    for line in written[1::2]:
        assert {"asr", "over_refusal", "named"} <= line["eval"].keys()
        assert line["eval"]["asr"].keys() >= {"value", "n", "low", "high", "n_unscored"}


# --- real processes ---


def start(config: Path, *sets: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *(launcher or ("-m", "mis_lib.cli")), "train", "--config", str(config), "--set", *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def steps_in(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.long
def test_kill_minus_nine_and_resume(config: Path, tmp_path: Path) -> None:
    sets = ("epochs=8", "save_every=3", "lora.dropout=0.1", "seed=5")
    whole = train(read_train_settings(config, [*sets, "name=whole"]))
    log = tmp_path / "runs" / "tiny" / "v1" / LOG
    for step in (5, 11):
        process = start(config, *sets)
        wait_for(lambda: steps_in(log) >= step or process.poll() is not None)  # noqa: B023  # done before the next turn
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it was too quick to be killed"
        assert not (log.parent / "adapter").exists()
    assert start(config, *sets).wait(timeout=300) == 0
    assert losses(log.parent) == pytest.approx(losses(whole), abs=1e-5)
    assert len(losses(whole)) == 24


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_goes_on_later(config: Path, tmp_path: Path, number: signal.Signals) -> None:
    sets = ("epochs=10",)
    log = tmp_path / "runs" / "tiny" / "v1" / LOG
    process = start(config, *sets)
    wait_for(lambda: steps_in(log) >= 3 or process.poll() is not None)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in told.replace("\n", " ")
    assert "Traceback" not in told
    assert len(list((log.parent / "checkpoints").iterdir())) == 1
    assert start(config, *sets).wait(timeout=300) == 0
    whole = train(read_train_settings(config, [*sets, "name=whole"]))
    assert losses(log.parent) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [4, 5])
def test_two_processes_give_the_loss_of_one(config: Path, tmp_path: Path, batch_size: int) -> None:
    launcher = (
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29577", "-m", "mis_lib.cli",
    )  # fmt: skip
    sets = (f"batch_size={batch_size}",)
    process = start(config, *sets, "name=two", launcher=launcher)
    _, told = process.communicate(timeout=400)
    assert process.returncode == 0, told
    one = train(read_train_settings(config, [*sets, "name=one"]))
    two = tmp_path / "runs" / "two" / "v1"
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert [line["grad_norm"] for line in read_jsonl(two / LOG)] == pytest.approx(
        [line["grad_norm"] for line in read_jsonl(one / LOG)], rel=1e-3
    )
    for mine, theirs in zip(read_jsonl(two / LOG), read_jsonl(one / LOG), strict=True):
        assert mine["loss_by_category"] == pytest.approx(theirs["loss_by_category"], abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_has_the_losses_and_weights_of_one_process(
    kind: str, tuning: str, config: Path, tmp_path: Path
) -> None:
    if kind != "fsdp2":
        pytest.importorskip("deepspeed")
    sets = [f"tuning={tuning}", "max_steps=3"]
    in_two_processes(_train, free_port("127.0.0.1", 29800), str(config), [*sets, "name=two"], kind=kind)
    one, two = train(read_train_settings(config, [*sets, "name=one"])), tmp_path / "runs" / "two" / "v1"
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    assert results[0]["parameters"] == results[1]["parameters"]
    weights = "adapter/adapter_model.safetensors" if tuning == "lora" else "model/model.safetensors"
    mine, theirs = load_file(two / weights), load_file(one / weights)
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, atol=1e-4, rtol=1e-3)


def _train(rank: int, config: str, sets: list[str]) -> None:
    train(read_train_settings(Path(config), sets))
    leave()
