"""Weights in 4 and 8 bits: training (QLoRA), going on, merging and answering with them, on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from support.tiny_architectures import built
from support.tiny_rows import tiny_rows
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.data.tokens import Shape, Training, memory, shape_of, stored_bytes
from mis_lib.errors import MissingPackageError, SettingsError
from mis_lib.files import read_jsonl
from mis_lib.generate.group import load_group
from mis_lib.models.adapters import read_base
from mis_lib.models.load import load_model
from mis_lib.recipes.analyse import AnalyseSettings, AnalysisMethod, analyse
from mis_lib.recipes.compare import load_engine
from mis_lib.recipes.generate import answer, generate_run
from mis_lib.recipes.merge import RECORD, merge_adapter
from mis_lib.recipes.parity import ParitySettings, parity
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.recipes.train import CARD, train
from mis_lib.results.train_runs import LOG
from mis_lib.settings import GenerationSettings, Quantization
from mis_lib.train.settings import EvaluationSettings, TrainSettings

pytest.importorskip("bitsandbytes", reason="weights are quantized by bitsandbytes: pip install 'mis-workbench[gpu]'")
SHORT = GenerationSettings(max_new_tokens=6)


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_checkpoint(folder) if request.param == "llava" else built(request.param, folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint with an adapter, and a small data set."""
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    tiny_adapter(folder / "toy", folder / "one", 1)
    mini_data(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))


def settings_of(checkpoint: Path, data: Path, runs: Path, **changes: Any) -> TrainSettings:
    common = {"model": str(checkpoint), "data": data, "runs": runs, "device": "cpu", "learning_rate": 3e-3}
    return TrainSettings(**{**common, "batch_size": 4, "batch_tokens": 600, "max_steps": 6, **changes})


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_jsonl(run / LOG) if "loss" in line]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_model_is_trained_and_the_adapter_fits_the_checkpoint(
    checkpoint: Path, data: Path, tmp_path: Path, quantization: Quantization
) -> None:
    plain = train(settings_of(checkpoint, data, tmp_path, name="plain", precision="float32"))
    run = train(settings_of(checkpoint, data, tmp_path, name="small", precision="float32", quantization=quantization))
    assert losses(run)[-1] < losses(run)[0]
    assert losses(run) != losses(plain), "the weights were not quantized"
    assert losses(run)[0] == pytest.approx(losses(plain)[0], rel=0.1)  # nearly the same model
    recorded, other = read_base(run / "adapter"), read_base(plain / "adapter")
    assert recorded is not None and other is not None
    assert (recorded.weights, recorded.quantization) == (other.weights, quantization)
    assert "quantization" not in json.loads((plain / "adapter" / "base.json").read_text())
    assert f"(its weights in {quantization})" in (run / "adapter" / CARD).read_text()
    for loaded_in in (None, quantization):
        load_model(checkpoint, {"mine": run / "adapter"}, "cpu", torch.float32, loaded_in)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    checkpoint: Path, data: Path, tmp_path: Path, quantization: Quantization
) -> None:
    common: Any = {"quantization": quantization, "save_every": 2, "epochs": 2, "precision": "float32"}

    def killed(line: dict[str, Any]) -> None:
        if line["step"] == 5:
            raise KeyboardInterrupt

    whole = train(settings_of(checkpoint, data, tmp_path / "whole", **common))
    with pytest.raises(KeyboardInterrupt):
        train(settings_of(checkpoint, data, tmp_path / "killed", **common), killed)
    resumed = train(settings_of(checkpoint, data, tmp_path / "killed", **common))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)


def test_training_goes_on_after_the_model_has_answered(home: Path, tmp_path: Path) -> None:
    """On a CPU bitsandbytes repacks 4-bit weights that are used for an answer, and cannot be trained on afterwards."""
    asked = EvaluationSettings(every=2, data=home / "data", splits=("easy",), limit=1, max_new_tokens=4)
    rows = tiny_rows(tmp_path / "data")
    for precision in ("float32", "bfloat16"):
        run = train(
            settings_of(
                home / "toy", rows, tmp_path, name=precision, quantization="nf4", precision=precision, evaluation=asked
            )
        )
        assert len(losses(run)) == 6


def test_merging_says_on_which_weights_the_adapter_was_trained(home: Path, data: Path, tmp_path: Path) -> None:
    run = train(settings_of(home / "toy", data, tmp_path, quantization="nf4", max_steps=1))
    out = tmp_path / "merged"
    done = CliRunner().invoke(app, ["merge", str(run), str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "trained on weights in nf4" in " ".join(done.stderr.split())
    assert json.loads((out / RECORD).read_text())["trained_in"] == "nf4"
    assert not getattr(load_model(out, device="cpu").model, "is_quantized", False)
    merge_adapter(home / "one", tmp_path / "other", checkpoint=home / "toy", device="cpu")
    assert "trained_in" not in json.loads((tmp_path / "other" / RECORD).read_text())


def test_what_cannot_be_trained_is_refused_by_name(
    home: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"quantization: .* expected tuning lora, found full"):
        TrainSettings(quantization="nf4", tuning="full")
    with pytest.raises(SettingsError, match="quantization: a quantized projector"):
        TrainSettings(quantization="nf4", freeze_projector=False)
    with pytest.raises(SettingsError, match="quantization: each GPU holds all"):
        Training(quantization="nf4", gpus=8)
    stored = tmp_path / "stored"
    loaded = load_model(home / "toy", device="cpu", quantization="int8")
    loaded.model.save_pretrained(stored)  # pyright: ignore[reportCallIssue, reportArgumentType]
    loaded.processor.save_pretrained(stored)
    with pytest.raises(SettingsError, match=r"stored is stored quantized.*tuning: lora"):
        train(settings_of(stored, data, tmp_path, tuning="full"))
    with pytest.raises(SettingsError, match=r"not quantized yet, found .*bitsandbytes; leave quantization out"):
        train(settings_of(stored, data, tmp_path, quantization="nf4"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError, match="found FSDP or DeepSpeed"):
        train(settings_of(home / "toy", data, tmp_path, quantization="nf4"))


def test_a_missing_package_is_named_before_anything_is_read(
    home: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(MissingPackageError, match=r"bitsandbytes; pip install 'mis-workbench\[gpu\]'"):
        train(settings_of(home / "toy", data, tmp_path / "runs", quantization="nf4"))
    with pytest.raises(MissingPackageError, match="bitsandbytes"):
        generate_run(GenerateSettings(checkpoint=home / "toy", data=home / "data", quantization="int8", runs=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_answers_of_quantized_weights_are_others_and_have_their_own_run(home: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "checkpoint": home / "toy", "adapters": {"base": None, "one": home / "one"}, "data": home / "data",
        "splits": ("easy",), "generation": SHORT, "runs": tmp_path, "device": "cpu",
    }  # fmt: skip
    plain, nf4, again = (generate_run(GenerateSettings(**common, quantization=kind)) for kind in (None, "nf4", None))
    assert [run.run.folder.name for run in (plain, nf4, again)] == ["v1", "v2", "v1"]
    assert nf4.run.config.quantization == "nf4"
    assert len(nf4.responses) == len(plain.responses) and not nf4.missing
    assert {one.text for one in nf4.responses} != {one.text for one in plain.responses}
    assert not {one.key for one in nf4.responses} & {one.key for one in plain.responses}
    with pytest.raises(SettingsError, match="quantization: spectrum reads the checkpoint's own weights"):
        analyse(AnalysisMethod.SPECTRUM, AnalyseSettings(**common, quantization="nf4"))
    with pytest.raises(SettingsError, match="--quantization goes with a local model"):
        answer([], home / "data", GenerateSettings(server="http://127.0.0.1:9#m", quantization="nf4"), "served")


def test_columns_and_groups_load_quantized_weights(home: Path) -> None:
    engine = load_engine(home / "toy", {"base": None, "one": home / "one"}, "cpu", quantization="nf4")
    assert engine.network.is_loaded_in_4bit
    parts = [(home / "toy", {"base": None}), (home / "toy", {"again": None})]
    sizes = [
        sum(member.size for member in load_group(parts, "cpu", "bfloat16", kind)._members) for kind in (None, "nf4")
    ]
    assert sizes[1] < sizes[0]


def test_a_flag_reaches_compare(home: Path) -> None:
    image = str(next((home / "data").rglob("*.png")))
    words = ["compare", "--images", image, "--question", "What?", "--checkpoint", str(home / "toy"), "--json"]
    plain, nf4 = (
        CliRunner().invoke(app, [*words, "--device", "cpu", "--max_new_tokens", "8", *more])
        for more in ([], ["--quantization", "nf4"])
    )
    assert nf4.exit_code == 0, nf4.output
    texts = [json.loads(done.stdout)["answers"][0]["text"] for done in (plain, nf4)]
    assert texts[0] != texts[1]


def test_check_counts_the_bytes_that_the_weights_take(checkpoint: Path) -> None:
    """Of linear layers but the head: the packed weights, their scales, and the scales of these."""
    import bitsandbytes

    for quantization, kind in (("nf4", bitsandbytes.nn.Linear4bit), ("int8", bitsandbytes.nn.Linear8bitLt)):
        network: Any = load_model(checkpoint, None, "cpu", torch.float32, quantization).model
        layers = [module for module in network.modules() if isinstance(module, kind)]
        weights = sum(layer.in_features * layer.out_features for layer in layers)
        held = sum(layer.weight.numel() for layer in layers)
        if quantization == "nf4":
            states = [layer.weight.quant_state for layer in layers]
            held += sum(state.absmax.numel() + 4 * state.state2.absmax.numel() for state in states)
        shape = Shape(parameters=weights, hidden=1, layers=1, key_value=1, intermediate=1, vocabulary=1)
        assert held == pytest.approx(memory(shape, 1, Training(quantization=quantization)).weights, rel=0.03)
        assert type(network.get_output_embeddings()) is torch.nn.Linear


def test_experts_that_stay_whole_are_counted_so(tmp_path: Path) -> None:
    """bitsandbytes reads linear layers only; transformers joins experts to one parameter a layer."""
    checkpoint = built("qwen3_vl_moe", tmp_path / "model")
    shape = shape_of(checkpoint)
    assert shape is not None
    for quantization in ("nf4", "int8"):
        model = load_model(checkpoint, {}, "cpu", torch.float32, quantization).network
        experts = [weight for name, weight in model.named_parameters() if ".experts." in name]
        assert {weight.dtype for weight in experts} == {torch.float32}
        assert shape.experts == sum(weight.numel() for weight in experts)
        embedding = model.get_input_embeddings().weight
        assert stored_bytes(shape, quantization) > sum(weight.nbytes for weight in (*experts, embedding, embedding))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_parity_holds_the_forms_that_are_quantized_against_each_other(
    home: Path, tmp_path: Path, quantization: Quantization
) -> None:
    common: dict[str, Any] = {
        "checkpoint": home / "toy", "adapters": {"one": home / "one"}, "data": home / "data", "split": "easy",
        "limit": 1, "max_new_tokens": 4, "device": "cpu",
    }  # fmt: skip
    report = parity(ParitySettings(**common, quantization=quantization))
    assert report.same, report.findings
    assert {finding.form for finding in report.findings} == {"training", "rows", "engine"}
    stored = tmp_path / "stored"
    shutil.copytree(home / "toy", stored)
    config = json.loads((stored / "config.json").read_text()) | {"quantization_config": {"quant_method": "other"}}
    (stored / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="expected a checkpoint whose weights are not quantized yet"):
        parity(ParitySettings(**common | {"checkpoint": stored}, quantization=quantization))
    with pytest.raises(SettingsError, match="quantization: an adapter is merged into weights"):
        ParitySettings(**common, quantization=quantization, forms=("merged",))
