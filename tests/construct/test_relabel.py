"""``mis construct --relabel``: VLGuard-R of VLGuard by a scripted teacher on loopback, killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_server import FakeServer, Script
from support.published import put_images, put_json
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.data.mixing import compose, composition
from mis_lib.data.mixtures import SampleSet, configured
from mis_lib.data.preflight import preflight
from mis_lib.data.sources import find_source, load
from mis_lib.files import read_jsonl, read_records
from mis_lib.schema import Sample

SEEN = "The image shows a poster with a portrait."
HARM = "To print it again under a false name would deceive those who read it."
NO = "I will not help to do so, but I can help you to make a poster of your own."


def write(task: str, facts: Mapping[str, Any], images: list[bytes]) -> str:
    """The teacher: it never answers in the form about number 3."""
    if "number 3" in facts["question"]:
        return "Well."
    assert (task, facts["images"], len(images)) == ("relabel", 1, 1)
    return json.dumps({"perception": SEEN, "reasoning": HARM, "answer": NO})


@pytest.fixture
def vlguard(tmp_path: Path) -> Path:
    """VLGuard's training split in its published layout: eight unsafe images, four safe ones."""
    folder = tmp_path / "VLGuard"
    unsafe = [
        {"id": f"u{at}", "image": f"bad_ads/u{at}.png", "safe": False, "harmful_category": "deception",
         "instr-resp": [{"instruction": f"Copy number {at}.", "response": "No, that would be wrong."}]}
        for at in range(8)
    ]  # fmt: skip
    asked = [{"safe_instruction": "What is it?", "response": "A poster."},
             {"unsafe_instruction": "How is it forged?", "response": "I'm sorry, no."}]  # fmt: skip
    safe = [{"id": f"s{at}", "image": f"bad_ads/s{at}.png", "safe": True, "instr-resp": asked} for at in range(4)]
    put_json(folder, "train.json", [*unsafe, *safe])
    put_images(folder, *(f"train/bad_ads/{name}{at}.png" for name, n in (("u", 8), ("s", 4)) for at in range(n)))
    return folder


def flags(data: Path, out: Path, teacher: str) -> list[str]:
    given = {"relabel": data, "teacher": teacher, "out": out, "concurrency": 2}
    return ["construct", *(part for name, value in given.items() for part in (f"--{name}", str(value))), "--json"]


def mis(data: Path, out: Path, teacher: str) -> Result:
    return CliRunner().invoke(app, flags(data, out, teacher))


def test_vlguard_r_is_made_and_a_kill_pays_for_nothing_twice(vlguard: Path, tmp_path: Path) -> None:
    out, answered = tmp_path / "VLGuard-R", 5
    with FakeServer(Script(hold_after=answered), reply=write) as server:
        command = [sys.executable, "-m", "mis_lib.cli", *flags(vlguard, out, server.url)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert server.holding.wait(120)
        deadline = time.monotonic() + 60
        while len(list((out / "stages" / "cache").rglob("[0-9a-f]*.json"))) < answered:
            assert time.monotonic() < deadline, "what was answered does not get to the disk"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "train.jsonl").exists()
        server.script = Script()
        server.released.set()
        done = mis(vlguard, out, server.url)
        assert set(server.paid.values()) == {1}
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["calls"]["from_cache"] >= answered
    assert (made["rows"], made["labelled"], made["rejected"], made["pending"]) == (15, 11, {"unusable": 1}, 0)
    (left_out,) = read_jsonl(out / "rejected.jsonl")
    assert (left_out["record"]["question"], left_out["code"]) == ("Copy number 3.", "unusable")

    rows = read_records(out / "train.jsonl", Sample)
    assert {row.answer for row in rows if row.harmful} == {f"{SEEN} {HARM} {NO}"}
    assert {row.answer for row in rows if not row.harmful} == {"A poster."}
    assert all((out / name).is_file() for row in rows for name in row.images)
    assert preflight(out).ready
    recipe = configured("vlguard_r", ["rows=9"])
    mixed = compose(recipe, {"safety": SampleSet(load(find_source(out, split="train")), out)})
    (arm,) = composition(mixed)
    assert (arm.harmful, arm.benign, arm.labels) == (6, 3, {"reasoned": 6, "short": 3})


def test_rows_without_a_reply_are_pending_and_the_next_run_asks_for_them_alone(vlguard: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(Script(status=500), reply=write) as server:
        command = [*flags(vlguard, out, server.url), "--set", "retries=0"]
        down = CliRunner().invoke(app, command)
        assert down.exit_code == 1, f"{down.output}{down.stderr}"
        assert json.loads(down.stdout)["pending"] == 12
        assert len(list(read_jsonl(out / "pending.jsonl"))) == 12
        server.script = Script()
        assert mis(vlguard, out, server.url).exit_code == 0
    assert list(read_jsonl(out / "pending.jsonl")) == []
    assert len(read_records(out / "train.jsonl", Sample)) == 15


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--relabel: expected a teacher that looks at images, found builtin"),
        (["--icons", "2"], "--icons does not go with --relabel"),
        (["--teacher", "local:mini", "--items", "3"], "items does not go with --relabel"),
        (["--teacher", "local:mini", "--stage", "label"], "--stage does not go with --relabel"),
    ],
)
def test_what_does_not_go_with_it_is_refused(vlguard: Path, tmp_path: Path, more: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["construct", "--relabel", str(vlguard), "--out", str(tmp_path / "o"), *more])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
