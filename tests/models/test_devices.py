"""The device: one rule, which reaches the loader in every verb, in training and in the app."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from support.tiny_rows import tiny_rows
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import SettingsError
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.devices import device_for
from mis_lib.train.model import device_of
from mis_lib.train.settings import TrainSettings
from workbench.background import Phase
from workbench.host import make_host

REFUSED = "on 'cuda': Torch not compiled with CUDA enabled"  # what this torch says to a GPU that it is asked for
no_cuda = pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devices")
    tiny_adapter(tiny_checkpoint(root / "model"), root / "one", 1)
    mini_data(root / "data")
    tiny_rows(root / "rows")
    return root


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with one CUDA GPU, which this torch cannot use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def of(verb: str, folder: Path, out: Path) -> list[str]:
    model = ["--checkpoint", str(folder / "model"), "--adapters", f"one={folder / 'one'}"]
    asked = [*model, "--data", str(folder / "data"), "--splits", "hard", "--limit", "1", "--runs", str(out)]
    image = str(next((folder / "data").rglob("*.png")))
    return {
        "compare": ["compare", *model, "--images", image, "--question", "What?"],
        "generate": ["generate", *asked],
        "report": ["report", *asked],
        "ablate": ["ablate", *asked],
        "analyse": ["analyse", "separation", *asked],
        "parity": ["parity", *model, "--data", str(folder / "data"), "--limit", "1"],
        "merge": ["merge", str(folder / "one"), str(out / "merged"), "--checkpoint", str(folder / "model")],
    }[verb]


def said(arguments: Sequence[str]) -> str:
    done = CliRunner().invoke(app, list(arguments))
    return " ".join(done.output.split())


VERBS = ("compare", "generate", "report", "ablate", "analyse", "parity", "merge")


@no_cuda
@pytest.mark.parametrize("verb", VERBS)
def test_a_gpu_is_taken_by_itself(verb: str, folder: Path, tmp_path: Path, gpu: None) -> None:
    assert REFUSED in said(of(verb, folder, tmp_path))


@no_cuda
def test_a_gpu_is_taken_by_training(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [device_of(TrainSettings(device=named)) for named in (None, "auto", "cpu")] == ["cuda:0", "cuda:0", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "3")  # one of several processes
    assert device_of(TrainSettings()) == "cuda:3"


@no_cuda
def test_a_gpu_is_taken_by_the_app(folder: Path, gpu: None) -> None:
    def loaded(device: str) -> tuple[Phase, str, object]:
        host = make_host(folder / "model", [("one", folder / "one")], folder / "data", device=device)
        host.model.start()
        for _ in host.model.wait(threading.Event()):
            pass
        return host.model.status.phase, host.model.status.message, host.model.value

    phase, message, _ = loaded("auto")
    assert phase is Phase.FAILED
    assert REFUSED in message
    phase, message, engine = loaded("cpu")  # a named device wins
    assert phase is Phase.READY, message
    assert isinstance(engine, VariantEngine)
    assert engine.network.device.type == "cpu"


def test_without_a_gpu_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto") == device_for(None) == device_for("cpu") == "cpu"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("cuda:1", "device: expected 'cuda:1', found 1 CUDA GPUs, counted from cuda:0"),
        ("mps", "device: expected an Apple GPU for 'mps', found none"),
        ("gpu", "device: expected auto, cpu, cuda, cuda:1 or mps, found 'gpu'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_by_name(
    named: str, message: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=message):
        device_for(named)


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_gpu_is_refused_by_every_verb(
    verb: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = said([*of(verb, folder, tmp_path), "--device", "cuda"])
    assert "device: expected a CUDA GPU for 'cuda', found none" in words
    assert not list(tmp_path.glob("*/v1")), "a run was begun on a device that is not there"
