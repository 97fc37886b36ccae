"""Several checkpoints as one engine: what each says alone, together where memory allows, else one after the other."""

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.fake_server import FakeServer
from support.fakes import ScriptedEngine, mini_data, started
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import ModelError, SettingsError
from mis_lib.generate.columns import Column, StreamEngine
from mis_lib.generate.group import CheckpointGroup, Member, load_group
from mis_lib.generate.served import Served
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.adapters import choose_checkpoints, read_checkpoints, write_base
from mis_lib.settings import GenerationSettings
from workbench.host import make_host

SHORT = GenerationSettings(max_new_tokens=6)
QUESTION = "What is in the images?"
NAMES = ["base", "tuned", "one"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of the same shapes, and an adapter of the second one."""
    root = tmp_path_factory.mktemp("group")
    tiny_checkpoint(root / "base")
    tiny_checkpoint(root / "tuned", seed=1)
    write_base(tiny_adapter(root / "tuned", root / "one", 1), root / "tuned")
    return root


@pytest.fixture(scope="module")
def alone(home: Path, images: list[Image.Image]) -> dict[str, str]:
    """What each says when its checkpoint is the only one."""
    said = {}
    for folder, adapters in (("base", {"base": None}), ("tuned", {"tuned": None, "one": home / "one"})):
        engine = VariantEngine.load(home / folder, adapters)
        said |= texts(last(engine.stream(images, QUESTION, list(adapters), SHORT)))
    assert len(set(said.values())) == 3
    return said


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.new("RGB", (30, 50), "teal"), Image.new("RGB", (40, 40), "red")]


class Memory:
    """A device of so many bytes, on which engines are loaded; remembers how many were there at most."""

    def __init__(self, home: Path, room: float) -> None:
        self.room = room
        self.loaded: list[str] = []
        self.most = 0
        self._engines: list[tuple[weakref.ref[StreamEngine], float]] = []
        self.members = [
            self._member(home / "base", {"base": None}),
            self._member(home / "tuned", {"tuned": None, "one": home / "one"}),
        ]

    def free(self) -> float:
        return self.room - sum(size for engine, size in self._engines if engine() is not None)

    def _member(self, folder: Path, adapters: dict[str, Path | None]) -> Member:
        def load() -> StreamEngine:
            engine = VariantEngine.load(folder, adapters)
            self.loaded.append(folder.name)
            self._engines.append((weakref.ref(engine), 100.0))
            self.most = max(self.most, sum(one() is not None for one, _ in self._engines))
            return engine

        return Member(tuple(adapters), 100, load)


def last(columns: Iterator[tuple[Column, ...]]) -> tuple[Column, ...]:
    *_, end = columns
    return end


def texts(columns: tuple[Column, ...]) -> dict[str, str]:
    return {column.variant: column.text for column in columns}


def test_checkpoints_that_fit_together_answer_at_once_and_stay(
    home: Path, images: list[Image.Image], alone: dict[str, str]
) -> None:
    memory = Memory(home, 1000)
    group = CheckpointGroup(memory.members, memory.free)
    assert not group.in_turn
    seen = list(group.stream(images, QUESTION, NAMES, SHORT))
    assert texts(seen[-1]) == alone
    assert not any("waits" in column.told for columns in seen for column in columns)
    assert texts(last(group.stream(images, QUESTION, NAMES, SHORT))) == alone
    assert memory.loaded == ["base", "tuned"]


def test_checkpoints_that_are_loaded_compute_at_the_same_time(images: list[Image.Image]) -> None:
    meeting = threading.Barrier(2, timeout=20)

    class Meets(ScriptedEngine):
        def stream(self, *args: Any, **kwargs: Any) -> Iterator[tuple[Column, ...]]:
            meeting.wait()
            return super().stream(*args, **kwargs)

    members = [Member((name,), 1, lambda name=name: Meets({name: f"words of {name}"})) for name in ("base", "tuned")]
    end = last(CheckpointGroup(members, lambda: 1000).stream(images, QUESTION, ["base", "tuned"], SHORT))
    assert texts(end) == {"base": "words of base", "tuned": "words of tuned"}


def test_checkpoints_without_room_take_turns_and_are_released(
    home: Path, images: list[Image.Image], alone: dict[str, str]
) -> None:
    memory = Memory(home, 150)
    group = CheckpointGroup(memory.members, memory.free)
    assert group.in_turn
    seen = list(group.stream(images, QUESTION, NAMES, SHORT))
    gc.collect()
    assert texts(seen[-1]) == alone
    assert memory.most == 1
    told = {column.told for columns in seen for column in columns}
    assert {"Loading base (0.0 GB) …", "tuned (0.0 GB) waits for room …", "Loading tuned (0.0 GB) …"} <= told
    assert not any(column.told for column in seen[-1])
    assert texts(last(group.stream(images, QUESTION, ["one"], SHORT)))["one"] == alone["one"]
    assert memory.loaded == ["base", "tuned"]  # the one that answered last is still there
    assert texts(last(group.stream(images, QUESTION, NAMES, SHORT))) == alone
    assert memory.loaded == ["base", "tuned", "base"]


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_others_their_answers(
    home: Path, images: list[Image.Image], alone: dict[str, str]
) -> None:
    def fails() -> Any:
        raise ModelError("weights are damaged")

    memory = Memory(home, 1000)
    group = CheckpointGroup([Member(("broken",), 100, fails), *memory.members], memory.free)
    end = last(group.stream(images, QUESTION, ["broken", *NAMES], SHORT))
    assert (end[0].finish_reason, end[0].told) == ("failed", "weights are damaged")
    assert {name: text for name, text in texts(end).items() if name != "broken"} == alone
    with pytest.raises(ModelError, match="weights are damaged"):
        last(group.stream(images, QUESTION, ["broken"], SHORT))


def test_stop_ends_the_one_that_answers_and_those_that_wait(home: Path, images: list[Image.Image]) -> None:
    memory, stop = Memory(home, 150), threading.Event()
    group = CheckpointGroup(memory.members, memory.free)
    for columns in group.stream(images, QUESTION, NAMES, SHORT, stop):
        if columns[0].tokens == 2:
            stop.set()
    assert [column.finish_reason for column in columns] == ["cancelled"] * 3
    assert memory.loaded == ["base"]


def test_sizes_are_those_of_the_weights_as_they_are_loaded(home: Path) -> None:
    group = load_group([(home / "base", {"base": None}), (home / "tuned", {"tuned": None})], "cpu", "float32")
    weights = sum(weight.numel() for weight in VariantEngine.load(home / "base", {"base": None}).network.parameters())
    half = load_group([(home / "base", {"base": None})], "cpu", "bfloat16")
    assert group._members[0].size == 4 * weights  # all of a toy's weights are stored
    assert half._members[0].size == 2 * weights
    assert "they stay loaded together" in group.announcement


# ---------- which adapter belongs to which checkpoint


def test_an_adapter_is_loaded_on_the_checkpoint_that_it_has_recorded(home: Path) -> None:
    named = {"base": home / "base", "tuned": home / "tuned"}
    found = choose_checkpoints(named, {"one": home / "one"})
    assert [dict(part.variants) for part in found] == [{"base": None}, {"tuned": None, "one": home / "one"}]
    found = choose_checkpoints(named, {"one@base": home / "one"})  # what a person says counts
    assert [list(part.variants) for part in found] == [["base", "one"], ["tuned"]]


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ({"unknown": "no record"}, "found no record of it; name it: --adapters unknown@base="),
        ({"one@other": "one"}, "unknown checkpoint 'other'; named: base, tuned"),
        ({"base@tuned": "one"}, "the name 'base' is taken"),
    ],
)
def test_an_adapter_that_could_be_of_any_checkpoint_is_refused(
    home: Path, tmp_path: Path, adapters: dict[str, str], words: str
) -> None:
    named = {"base": home / "base", "tuned": home / "tuned"}
    with pytest.raises(SettingsError, match=words):
        choose_checkpoints(named, {name: home / folder for name, folder in adapters.items()})


def test_several_checkpoints_need_names(tmp_path: Path) -> None:
    assert read_checkpoints(None) is None
    assert read_checkpoints(["some/path"]) == Path("some/path")
    assert read_checkpoints(["tuned=some/path"]) == {"tuned": Path("some/path")}
    (tmp_path / "a=b").mkdir()
    assert read_checkpoints([str(tmp_path / "a=b")]) == tmp_path / "a=b"
    with pytest.raises(SettingsError, match="NAME=PATH"):
        read_checkpoints(["one", "two"])
    with pytest.raises(SettingsError, match="taken already"):
        read_checkpoints(["a=one", "a=two"])


# ---------- command line and app


def test_compare_shows_two_checkpoints_an_adapter_and_a_served_model(
    home: Path, tmp_path: Path, images: list[Image.Image], alone: dict[str, str]
) -> None:
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(2)]
    with FakeServer(reply=lambda task, facts, images: "served words") as server:
        done = CliRunner().invoke(
            app,
            ["compare", "--images", *pictures, "--question", QUESTION, "--max_new_tokens", "6", "--json",
             "--checkpoint", f"base={home / 'base'}", "--checkpoint", f"tuned={home / 'tuned'}",
             "--adapters", f"one={home / 'one'}", "--server", server.url, "--models", "elsewhere=tuned"],
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    answers = {answer["variant"]: answer["text"] for answer in json.loads(done.stdout)["answers"]}
    assert answers == {"elsewhere": "served words", **alone}
    assert "base (0.0 GB), tuned (0.0 GB): " in done.stderr


def test_the_app_holds_two_checkpoints_and_takes_an_adapter_of_either_later(
    home: Path, tmp_path: Path, images: list[Image.Image], alone: dict[str, str]
) -> None:
    named = {"base": home / "base", "tuned": home / "tuned"}
    served = {"elsewhere": Served("http://127.0.0.1:9/v1", "m")}
    host = started(make_host(named, None, mini_data(tmp_path / "data"), served=served))
    assert host.title == "Model ready: base, tuned; served by 127.0.0.1:9"
    host.add_variant("one", home / "one")
    assert host.known_variants == ("elsewhere", "base", "tuned", "one")
    engine = host.model.value
    assert engine is not None
    assert texts(last(engine.stream(images, QUESTION, NAMES, SHORT))) == alone
    assert host.remarks == []
    tiny_adapter(home / "base", tmp_path / "two", 2)
    with pytest.raises(ModelError, match="two@base"):
        host.add_variant("two", tmp_path / "two")
