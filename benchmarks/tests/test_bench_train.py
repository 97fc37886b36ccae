"""The measurement of training: same rows for all, ratios within a round, operations counted, failures told."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import random_checkpoints
from benchmarks import train as bench
from benchmarks.contest import Contestant, Measured, measure, rows_a_pass
from benchmarks.random_checkpoints import CHECKPOINTS, write_checkpoint
from benchmarks.train import LADDER, PLAIN, TRL, BenchTrainSettings, ladder, matmul_rate, show, to_markdown, write_rows
from mis_lib.cli.main import app
from mis_lib.errors import ModelError, SettingsError, TrainingError
from mis_lib.files import load_image, read_records
from mis_lib.schema import Sample
from mis_lib.train.settings import TrainSettings

pytestmark = pytest.mark.research


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("tiny-llava", tmp_path_factory.mktemp("shape") / "toy", dtype="float32")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "data"
    return write_rows(None, folder, 12, images=2, answer_tokens=30, seed=0, side=56)


def contestant(toy: Path, rows: Path, work: Path, name: str) -> Contestant:
    rung = next(rung for rung in LADDER if rung.name == name)
    shared = {"learning_rate": 1e-3, "batch_size": 4, "batch_tokens": 400, "max_steps": 3, "precision": "float32"}
    train = TrainSettings(model=str(toy), device="cpu", runs=work, **shared, **rung.changes)
    return Contestant(
        name=name, engine=rung.engine, short_lora=rung.short_lora, whole_logits=rung.whole_logits,
        checkpoint=str(toy), data=rows, work=work,
        train=train, warmup=1,
    )  # fmt: skip


def test_all_contestants_train_the_same_rows_to_the_same_loss(toy: Path, rows: Path, tmp_path: Path) -> None:
    found = {rung.name: measure(contestant(toy, rows, tmp_path / rung.name[-5:], rung.name)) for rung in LADDER}
    for name, each in found.items():
        assert len(each.seconds) == 2 and min(each.seconds) > 0, name  # the first of three steps is not timed
        assert len(each.losses) == 3, name
        assert each.rows == 4 and each.dtype == "float32", name
    assert len({each.tokens for each in found.values()}) == 1
    # one epoch of twelve rows each: the same rows, in another order, under the same learning rate
    means = {name: sum(each.losses) / 3 for name, each in found.items()}
    assert max(means.values()) - min(means.values()) < 0.03, means
    assert found["+ features cached"].tower_flop == 0 < found[PLAIN].tower_flop
    assert found["+ features cached"].feature_seconds is not None
    assert found["+ rows packed"].packed and not found[PLAIN].packed


def test_each_rung_adds_one_thing() -> None:
    ours = [rung for rung in LADDER if rung.engine == "ours"]
    for before, after in pairwise(ours):
        old, new = ({**rung.changes, **rung._asdict()} for rung in (before, after))
        changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        assert len(changed - {"name", "changes", "on_gpu_only"}) == 1, (before.name, after.name, changed)


def test_what_a_device_cannot_show_is_not_measured_there() -> None:
    on_cpu, on_gpu = (
        [rung.name for rung in ladder(None, on_gpu=here, compiled=True, liger=True)] for here in (False, True)
    )
    assert set(on_gpu) - set(on_cpu) == {"+ loader runs ahead", "+ Liger kernels"}
    assert [rung.name for rung in ladder((TRL, "+ rows packed"), on_gpu=False)] == [TRL, "+ rows packed"]


def test_operations_are_those_of_the_layers(toy: Path, rows: Path, tmp_path: Path) -> None:
    """Two layers of width 32: the count is held to a count by hand."""
    found = measure(contestant(toy, rows, tmp_path, PLAIN))
    tokens = found.tokens
    linears = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)  # q, o; k, v; gate, up, down
    by_hand = 2 * 2 * linears * tokens  # forward, and backward through frozen weights
    assert by_hand < found.flop < 3 * by_hand  # attention, LoRA, projector and head come on top


def test_rows_of_noise_have_the_size_that_was_asked_for(rows: Path) -> None:
    samples = read_records(rows, Sample)
    assert len(samples) == 12
    assert {len(sample.images) for sample in samples} == {2}
    assert {len(sample.answer or "") for sample in samples} == {29}  # and the end token
    assert load_image(rows.parent / samples[0].images[0]).size == (56, 56)


def test_passes_of_equal_size_divide_a_step() -> None:
    assert [rows_a_pass(8, 4096, longest) for longest in (100, 600, 1500, 9000)] == [8, 4, 2, 1]


def measured(name: str, seconds: list[float], **more: object) -> Measured:
    basic = {
        "name": name,
        "seconds": seconds,
        "processor_seconds": seconds,
        "rows": 8,
        "tokens": 100.0,
        "losses": [3.0, 2.0, 1.0, 1.0],
    }
    return Measured(**{**basic, "memory_gb": 1.0, "device": "cpu", "dtype": "float32", **more})


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    taken = {  # seconds a step of each contestant in each of three rounds; the machine slows down meanwhile
        TRL: iter([measured(TRL, [s], processor_seconds=[3.0]) for s in (2.0, 4.0, 8.0)]),
        PLAIN: iter([measured(PLAIN, [s], processor_seconds=[1.0], flop=4e9, tower_flop=1e9) for s in (1.0, 4.0, 2.0)]),
    }
    monkeypatch.setattr(bench, "_measure", lambda rung, *others: next(taken[rung.name]))
    monkeypatch.setattr(bench, "matmul_rate", lambda device, dtype: 1e11)
    found = bench.bench_train(BenchTrainSettings(model=str(toy), rounds=3, steps=1, contestants=(TRL, PLAIN)))
    rival, ours = found.results
    assert (rival.ratio, ours.ratio) == (1.0, 2.0)
    assert (rival.work_ratio, ours.work_ratio) == (1.0, 3.0)
    assert (rival.samples_per_second, ours.samples_per_second) == (2.0, 4.0)
    assert ours.tokens_per_second == 400
    assert ours.utilisation == pytest.approx(100 * 5e9 * 4 / 1e11)
    assert rival.utilisation == pytest.approx(ours.utilisation / 2)  # its rows need the same
    assert (ours.loss, ours.last_loss) == (1.75, 1.0)
    screen = Console(width=80, record=True)  # a plain terminal, where the first column gives way and not the figures
    for part in show(found):
        screen.print(part)
    shown = screen.export_text()
    assert "x TRL" in shown and "4.00" in shown and "1.750" in shown and "20 %" in shown and "\u2026" not in shown
    *table, empty, caption = to_markdown(found).split("\n")
    assert len(table) == 4 and {line.count("|") for line in table} == {11}
    assert not empty and "3 rounds" in caption


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "unknown 'nowhere'; expected mini, a checkpoint folder or one of internvl2_5-8b"),
        (["--set", "contestants=[we]"], "unknown we; known: TRL SFTTrainer"),
        (["--steps", "0"], "'steps'"),
    ],
)
def test_mistakes_are_one_message(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", "train", *flags])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", "")


def test_data_without_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "question": "?", "images": ["a.png"]}) + "\n")
    with pytest.raises(SettingsError, match="expected samples with answers"):
        write_rows(tmp_path / "a.jsonl", tmp_path / "out", 2, images=1, answer_tokens=1, seed=0)


@pytest.mark.parametrize("name", ["internvl2_5-8b", "qwen2-vl-7b"])
def test_published_shapes_have_their_published_number_of_parameters(name: str) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):  # sizes without weights
        model = AutoModelForImageTextToText.from_config(CHECKPOINTS[name].config(300))
    billions = sum(weight.numel() for weight in model.parameters()) / 1e9
    assert billions == pytest.approx({"internvl2_5-8b": 8.08, "qwen2-vl-7b": 8.29}[name], abs=0.01)


def test_matrix_products_are_timed() -> None:
    assert matmul_rate("cpu", "float32") > 1e8


@pytest.mark.long
def test_the_command_measures_in_processes_of_their_own(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", str(toy), "--steps", "2", "--rounds", "1", "--batch_size", "2", "--json"]
    names = json.dumps([TRL, PLAIN])
    result = CliRunner().invoke(
        app, ["bench", "train", *flags, "--set", f"contestants={names}", "--set", "answer_tokens=20"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["results"]] == [TRL, PLAIN]
    assert all(row["memory_gb"] > 0.1 and row["ratio"] > 0 for row in found["results"])
    with pytest.raises(TrainingError, match="TRL SFTTrainer on"):
        bench.bench_train(BenchTrainSettings(model=str(toy), steps=1, rounds=1, device="cuda:99"))


def test_a_shape_is_written_to_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(name: str, folder: Path, *, device: str) -> Path:
        written.append((name, device))
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        return folder

    monkeypatch.setattr(random_checkpoints, "write_checkpoint", write)
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))
    made = [random_checkpoints.ensure_checkpoint("tiny-llava", device="cpu") for _ in range(2)]
    assert made[0] == made[1] and (made[0] / "config.json").exists() and written == [("tiny-llava", "cpu")]
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"writing tiny-llava to .* failed: .*16 GB of disk"):
        random_checkpoints.ensure_checkpoint("tiny-llava", device="cpu")
