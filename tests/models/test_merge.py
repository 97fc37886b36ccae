"""``mis merge``: one checkpoint that answers as checkpoint and adapter do, or nothing at all."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import ModelError, SettingsError
from mis_lib.generate.batch import answer
from mis_lib.generate.engine import use_adapter
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.models.merge import save
from mis_lib.recipes.merge import RECORD, adapter_folder, base_of, merge_adapter
from mis_lib.settings import GenerationSettings

QUESTION = "What do these two make?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint, an adapter, and a run folder that holds it."""
    root = tmp_path_factory.mktemp("merge")
    tiny_checkpoint(root / "model")
    tiny_adapter(root / "model", root / "one", 1)
    (root / "run").mkdir()
    (root / "run" / "adapter").symlink_to(root / "one")
    return root


def says(loaded: LoadedModel, variant: str | None) -> str:
    images = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    with use_adapter(loaded.model, variant):
        return answer([images], [QUESTION], loaded, GenerationSettings(max_new_tokens=12))[0].text


def test_the_merged_checkpoint_answers_as_the_adapter_does(home: Path, tmp_path: Path) -> None:
    out = merge_adapter(home / "one", tmp_path / "new" / "out", checkpoint=home / "model")
    tuned = load_model(home / "model", {"base": None, "one": home / "one"})
    alone = load_model(out)
    assert says(alone, None) == says(tuned, "one") != says(tuned, None)
    names = {name for name, _ in alone.model.named_parameters()}
    assert not [name for name in names if "lora" in name]


def test_it_says_what_it_was_made_of_and_leaves_nothing_else(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--checkpoint", str(home / "model"), "--dtype", "bfloat16", "--json"]
    done = CliRunner().invoke(app, ["merge", str(home / "run"), str(out), *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checkpoint"] == str(out)
    record = json.loads((out / RECORD).read_text())
    assert (record["adapter"], record["checkpoint"], record["dtype"]) == (
        str(home / "run" / "adapter"),
        str(home / "model"),
        "torch.bfloat16",
    )
    assert load_model(out).model.dtype == torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_the_checkpoint_is_the_one_that_the_adapter_names(home: Path, tmp_path: Path) -> None:
    config = json.loads((home / "one" / "adapter_config.json").read_text())
    for name, named in (("known", str(home / "model")), ("unknown", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
    assert base_of(tmp_path / "known") == home / "model"
    assert base_of(adapter_folder(Path("mirage"))) is None  # the embedded model
    with pytest.raises(SettingsError, match=r"does not say which checkpoint.*--checkpoint"):
        base_of(tmp_path / "unknown")


def test_mistakes_are_named_and_write_nothing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a place for a new folder"):
        merge_adapter(home / "one", home / "model", checkpoint=home / "model")
    with pytest.raises(SettingsError, match="float32, bfloat16, float16, found 'int4'"):
        merge_adapter(home / "one", tmp_path / "out", checkpoint=home / "model", dtype="int4")
    with pytest.raises(ModelError, match=r"expected a PEFT folder .* or one of mirage, refusal, textual"):
        merge_adapter(home / "model", tmp_path / "out")
    with pytest.raises(ModelError, match="expected a checkpoint folder"):
        merge_adapter(home / "one", tmp_path / "out", checkpoint=tmp_path / "none")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "message"),
    [(OSError(28, "No space left on device"), "make room"), (ValueError("not of this kind"), "cannot be saved")],
)
def test_what_cannot_be_saved_leaves_nothing_half_made(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, message: str
) -> None:
    loaded = load_model(home / "model")

    def fail(*args: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr(loaded.processor, "save_pretrained", fail)
    with pytest.raises(ModelError, match=message):
        save(loaded, tmp_path / "out")
    assert not list(tmp_path.iterdir())
