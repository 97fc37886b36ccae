"""The command line: what it prints for people and programs, and how it fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mis_lib.cli import app
from mis_lib.commands.parsing import repeat_flags

VERBS = ("doctor", "build", "construct", "compare", "report", "app")


def mis(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return str(path)


def test_help_names_every_verb_within_a_second() -> None:
    begun = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "mis_lib.cli", "--help"], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begun
    assert all(verb in run.stdout for verb in VERBS)
    assert seconds < 3, f"{seconds:.1f} s"  # 0.2 s on an idle machine; a heavy import costs 3 s and more


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "app"])
def test_every_verb_has_help_and_flags_with_underscores(verb: str) -> None:
    result = mis(verb, "--help")
    assert result.exit_code == 0
    flags = [word for word in result.output.split() if word.startswith("--")]
    assert flags
    assert not [flag for flag in flags if "-" in flag[2:]]


def test_version() -> None:
    result = mis("--version")
    assert result.output.startswith("mis ")
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("args", "spread"),
    [
        (["--images", "a", "b", "--json"], ["--images", "a", "--images", "b", "--json"]),
        (["--images", "a", "--images", "b"], ["--images", "a", "--images", "b"]),
        (["--question", "-5?", "--images", "a", "b"], ["--question", "-5?", "--images", "a", "--images", "b"]),
        (["--images=a", "b"], ["--images=a", "b"]),
        (["--question", "a", "b"], ["--question", "a", "b"]),
        ([], []),
    ],
)
def test_only_list_flags_are_repeated(args: list[str], spread: list[str]) -> None:
    assert list(repeat_flags(args, {"--images"})) == spread


# ---------------------------------------------------------------- mistakes: one message, exit status 2, no traceback


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--images", "nowhere.png"], "nowhere.png: there is no such file", id="missing-image"),
        pytest.param(["--images", "PICTURE", "--max_new_tokens", "0"], "'max_new_tokens'", id="bad-setting"),
        pytest.param(["--images", "PICTURE", "--variants", "mini", "wizard"], "unknown variant 'wizard'", id="variant"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(picture: str, flags: list[str], message: str) -> None:
    args = [picture if flag == "PICTURE" else flag for flag in flags]
    result = mis("compare", "--question", "What is this?", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_flag_is_refused() -> None:
    result = mis("compare", "--image", "a.png")
    assert result.exit_code == 2
    assert "--image" in result.stderr


# ---------------------------------------------------------------- doctor


def test_doctor_tells_what_is_there_and_what_will_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))
    result = mis("doctor", "--json")
    found = json.loads(result.stdout)
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert found["ready"]
    assert result.exit_code == 0
    assert findings["torch"]["state"] == "ok"
    assert findings["Python"]["detail"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert findings["model mini"]["state"] == "missing"
    assert str(tmp_path) in findings["model mini"]["detail"]
    assert findings["model mini"]["fix"] == "mis build"
    assert findings["data MIS-Mini"]["state"] == "missing"
    assert list(tmp_path.iterdir()) == []  # it looks and changes nothing


def test_doctor_names_a_missing_package_of_an_extra_and_the_command_that_installs_it() -> None:
    findings = json.loads(mis("doctor", "--json").stdout)["findings"]
    assert all(finding["fix"] for finding in findings if finding["state"] != "ok")
    wanted = {finding["needed_for"] for finding in findings}
    assert {"everything", "extra test", "extra vlm"} <= wanted
    for finding in findings:
        if finding["needed_for"] == "extra vlm" and finding["state"] == "missing":
            assert finding["fix"] == 'pip install -e ".[vlm]"'


def test_doctor_for_people_says_ready() -> None:
    result = mis("doctor")
    assert result.exit_code == 0
    assert "Ready." in result.output
