"""Checkpoints by hub id: fetched when named, from the cache afterwards, and what is said where they cannot be had."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.fake_hub import COMMIT, FakeHub, fake_hub
from support.tiny import tiny_adapter, tiny_checkpoint

from mis_lib.models.adapters import read_base

OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("hub") / "tiny")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which must not be fetched")
    return folder


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[FakeHub]:
    with fake_hub({"some/tiny": model, "some/gated": model}, gated=frozenset({"some/gated"})) as served:
        yield served


@pytest.fixture(scope="module")
def fetched(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the model is."""
    home = tmp_path_factory.mktemp("fetched")
    done = python("from mis_lib.recipes.checkpoints import *; local_checkpoint(Path('some/tiny'))", hub.env(home))
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def run(words: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def python(script: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return run(["-c", script], env)


def compare(picture: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    words = ["compare", f"--images={picture}", "--question=What?", "--checkpoint=some/tiny", "--max_new_tokens=4"]
    return run(["-m", "mis_lib.cli", *words, "--json"], env)


def found(name: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """What every verb does first with the checkpoint that was named."""
    script = (
        "import sys; from mis_lib.errors import ModelError; from mis_lib.recipes.checkpoints import *\n"
        f"try: print(local_checkpoint(Path({name!r})))\n"
        "except ModelError as error: sys.exit(str(error))"
    )
    return python(script, env)


def test_compare_fetches_what_is_named_and_then_needs_no_network(hub: FakeHub, tmp_path: Path, picture: Path) -> None:
    first = compare(picture, hub.env(tmp_path / "home"))
    assert first.returncode == 0, first.stderr
    assert not [path for path in hub.asked if path.endswith(".bin")]
    again = compare(picture, hub.env(tmp_path / "home") | OFFLINE)
    assert again.returncode == 0, again.stderr
    texts = [json.loads(done.stdout)["answers"][0]["text"] for done in (first, again)]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("bars", ["0", "1"], ids=["bars", "no bars of the library"])
def test_progress_is_reported_in_bytes(hub: FakeHub, model: Path, tmp_path: Path, bars: str) -> None:
    script = (
        "from mis_lib.models.hub import *; from pathlib import Path; seen = []\n"
        "checkpoint_folder(Path('some/tiny'), lambda done, total: seen.append((done, total)))\n"
        "print(*seen[-1])"
    )
    done = python(script, hub.env(tmp_path) | {"HF_HUB_DISABLE_PROGRESS_BARS": bars})  # as `mis` sets it
    here, total = map(int, done.stdout.split())
    wanted = sum(file.stat().st_size for file in model.iterdir() if file.suffix != ".bin")
    assert here == total == wanted, done.stderr


@pytest.mark.parametrize("listed", [True, False], ids=["file list in the cache", "cache of an older huggingface_hub"])
def test_an_unfinished_snapshot_is_completed(hub: FakeHub, fetched: Path, tmp_path: Path, listed: bool) -> None:
    home = tmp_path / "home"
    script = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], symlinks=True)"
    subprocess.run([sys.executable, "-c", script, str(fetched), str(home)], check=True)
    repository = home / "hub" / "models--some--tiny"
    (repository / "snapshots" / COMMIT / "model.safetensors").unlink()
    if not listed:
        (repository / "trees" / f"{COMMIT}.json").unlink()
    assert "not complete in the hub's cache" in found("some/tiny", hub.env(home) | OFFLINE).stderr
    assert found("some/tiny", hub.env(home)).stdout.strip().endswith(COMMIT)
    assert found("some/tiny", hub.env(home) | OFFLINE).stdout.strip().endswith(COMMIT)


@pytest.mark.parametrize(
    ("name", "extra", "words"),
    [
        ("some/tiny", OFFLINE, ["hf download some/tiny", "HF_HOME", "name the folder"]),
        ("some/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["hf download some/tiny", "HF_HOME"]),
        ("some/gated", {}, ["licence", "hf auth login"]),
        ("some/nothing", {}, ["no model that the hub shows", "some/nothing"]),
    ],
    ids=["offline", "no network", "gated", "unknown"],
)
def test_what_cannot_be_fetched_is_said_with_the_way_out(
    hub: FakeHub, tmp_path: Path, name: str, extra: dict[str, str], words: list[str]
) -> None:
    done = found(name, {**hub.env(tmp_path / "home"), **extra})
    assert "Traceback" not in done.stderr
    assert not [word for word in words if word not in done.stderr], done.stderr


def test_a_wrong_path_is_not_looked_up_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """Into a folder that is there, into one where checkpoints are kept here, and as a path is typed."""
    hub.asked.clear()
    (tmp_path / "mine").mkdir()
    names = ["mine/model", "models/model", "./model", "../model", "/model", "~/model", "some/tiny/"]
    script = (
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "from mis_lib.errors import ModelError; from mis_lib.recipes.checkpoints import *\n"
        f"for name in {names}:\n"
        "    try: local_checkpoint(name)\n"
        "    except ModelError as error: print(error)"
    )
    done = python(script, hub.env(tmp_path / "home"))
    said = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in said] == names, done.stderr
    assert all("found no such folder" in line for line in said), said
    assert hub.asked == []


def test_the_app_fetches_what_is_named_and_says_how_far_it_is(hub: FakeHub, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from mis_lib.models.adapters import Checkpoint\n"
        "from workbench.host import load_engine\n"
        "engine = load_engine([Checkpoint(Path('some/tiny'), {'base': None})], print); print(engine.variants)"
    )
    done = python(script, hub.env(tmp_path))
    assert "Fetching some/tiny from the hub: 0.0 of 0.0 GB" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "('base',)"


def test_parity_takes_a_hub_id(hub: FakeHub, fetched: Path, model: Path, tmp_path: Path, picture: Path) -> None:
    tiny_adapter(model, tmp_path / "one", 1)
    words = ["parity", "--checkpoint=some/tiny", f"--adapters=one={tmp_path / 'one'}", "--forms=merged"]
    asked = [f"--images={picture}", "--question=What?", "--max_new_tokens=4"]
    done = run(["-m", "mis_lib.cli", *words, *asked], hub.env(fetched) | OFFLINE)
    assert done.returncode == 0, done.stderr


def test_an_adapter_of_a_hub_id_knows_its_weights(hub: FakeHub, fetched: Path, model: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mis_lib.models.adapters import write_base\n"
        "for number, base in enumerate(sys.argv[1:]):\n"
        "    Path(f'a{number}').mkdir(); write_base(Path(f'a{number}'), base)"
    )
    (tmp_path / "work").mkdir()
    env = hub.env(fetched) | OFFLINE | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", script, "some/tiny", str(model)], cwd=tmp_path / "work", env={**os.environ, **env},
        check=True,
    )  # fmt: skip
    by_id, by_folder = (read_base(tmp_path / "work" / name) for name in ("a0", "a1"))
    assert by_id is not None and by_folder is not None
    assert (by_id.name, by_id.weights) == ("some/tiny", by_folder.weights)
    assert by_id.weights is not None
