"""The command line: what it prints for people and programs, and how it fails."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from PIL import Image
from support.fakes import mini_data
from support.full_disk import files_of_at_most
from typer.testing import CliRunner, Result

import mis_lib
from mis_lib.cli.main import app
from mis_lib.cli.options import repeat_flags
from mis_lib.cli.parsing import Verbs
from mis_lib.errors import MisError
from mis_lib.files import append_record
from mis_lib.schema import Sample

VERBS = ("doctor", "build", "construct", "check", "compare", "report", "ablate", "app")


def mis(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_help_names_every_verb_within_a_second() -> None:
    before = os.times()
    run = subprocess.run([sys.executable, "-m", "mis_lib.cli", "--help"], capture_output=True, text=True, check=True)
    after = os.times()
    assert all(verb in run.stdout for verb in VERBS)
    # processor time, because other programs may hold up the clock; 0.2 s here, and one heavy import costs more than 1 s
    assert after.children_user - before.children_user < 1


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


# ---------------------------------------------------------------- compare


class Tiny(NamedTuple):
    checkpoint: Path
    adapter: Path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from support.tiny import tiny_adapter, tiny_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = tiny_checkpoint(folder / "model")
    return Tiny(checkpoint, tiny_adapter(checkpoint, folder / "tuned", seed=3))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Paths of seven images: one more than a prompt may hold."""
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        Image.new("RGB", (64, 48), (30 * number, 200, 90)).save(path)
    return [str(path) for path in paths]


def compare(tiny: Tiny, images: list[str], *flags: str, question: str = "What is this?") -> Result:
    model = ["--checkpoint", str(tiny.checkpoint), "--adapters", f"tuned={tiny.adapter}"]
    return mis("compare", "--images", *images, "--question", question, *model, *flags)


def test_compare_prints_one_json_document(tiny: Tiny, pictures: list[str]) -> None:
    result = compare(tiny, pictures[:2], "--variants", "tuned", "base", "--max_new_tokens", "6", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 0
    assert said["images"] == pictures[:2]
    assert said["settings"] == {"max_new_tokens": 6, "temperature": 0.0, "seed": 0}
    assert [answer["variant"] for answer in said["answers"]] == ["tuned", "base"]
    for answer in said["answers"]:
        assert 1 <= answer["tokens"] <= 6
        assert answer["seconds"] > 0
        assert answer["finish_reason"] in ("stop", "length")
        assert "".join(segment["text"] for segment in answer["segments"]) == answer["text"]


def test_compare_shows_every_answer_with_its_cost(tiny: Tiny, pictures: list[str]) -> None:
    result = compare(tiny, pictures[:1], "--max_new_tokens", "4")
    assert result.exit_code == 0
    for part in ("base", "tuned", "perception", "reasoning", "answer", "tokens/s"):
        assert part in result.stdout


def test_compare_says_nothing_but_the_answer(tiny: Tiny, pictures: list[str]) -> None:
    model = ["--checkpoint", str(tiny.checkpoint), "--variants", "base", "--max_new_tokens", "2"]
    command = [sys.executable, "-m", "mis_lib.cli", "compare", "--images", pictures[0], "--question", "What?", *model]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert run.stderr == ""  # no bars, no advice of the libraries
    assert json.loads(run.stdout)["answers"]


def test_compare_draws_with_the_seed(tiny: Tiny, pictures: list[str]) -> None:
    hot = ["--temperature", "1.5", "--max_new_tokens", "12", "--json", "--variants", "base"]
    runs = [json.loads(compare(tiny, pictures[:1], *hot, "--seed", seed).stdout)["answers"] for seed in "112"]
    texts = [answers[0]["text"] for answers in runs]
    assert texts[0] == texts[1] != texts[2]


# ---------------------------------------------------------------- mistakes: one message, exit status 2, no traceback


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--images", "nowhere.png"], "nowhere.png: there is no such file", id="missing-image"),
        pytest.param(["--max_new_tokens", "0"], "'max_new_tokens'", id="bad-setting"),
        pytest.param(
            ["--variants", "base", "wizard"], "unknown variant 'wizard'; known here: base, tuned", id="variant"
        ),
        pytest.param(["--variants", "base", "base"], "base", id="variant-twice"),
        pytest.param(["--question", ""], "question", id="empty-question"),
        pytest.param(["--question", "why " * 5_000], "8,000", id="long-question"),
        pytest.param(["--adapters", "tuned"], "expected NAME=PATH, found 'tuned'", id="adapter-without-name"),
        pytest.param(["--adapters", "other=/nowhere"], "/nowhere", id="missing-adapter"),
        pytest.param(["--adapters", "a=/x", "a=/y"], "the name 'a' is taken already", id="adapter-twice"),
        pytest.param(["--adapters", "base=/x"], "the name 'base' is taken already", id="adapter-named-as-the-base"),
        pytest.param(["--checkpoint", "/nowhere"], "expected NAME=PATH for each of several", id="several-checkpoints"),
        pytest.param(["--device", "abacus"], "abacus", id="device"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(tiny: Tiny, pictures: list[str], flags: list[str], message: str) -> None:
    result = compare(tiny, pictures[:1], *flags)
    assert_mistake(result, message)


def test_an_adapter_that_is_named_answers_beside_the_embedded_model(pictures: list[str]) -> None:
    flags = ["--images", pictures[0], "--question", "What is this?", "--adapters", "mine=/nowhere"]
    assert_mistake(mis("compare", *flags), "/nowhere")  # which would not be looked at if mini alone answered


def test_seven_images_are_one_too_many(tiny: Tiny, pictures: list[str]) -> None:
    assert_mistake(compare(tiny, pictures), "6")


def test_a_text_file_is_no_image(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "letter.png"
    path.write_text("dear reader")
    assert_mistake(compare(tiny, [str(path)]), "letter.png: expected an image")


def assert_mistake(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]  # before it, what was being done
    assert last.startswith("Error: ")
    assert message in last
    assert "Traceback" not in result.stderr


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a file, a folder and a picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["annotations", "export", "--output", "afile/x.jsonl"],
            "afile: expected a place that can be read and written",
        ),
        (["annotations", "export", "--output", "folder"], "folder: expected a place"),
        (["annotations", "agreement", "--runs", "afile"], "afile: expected a place"),
        (["construct", "--source", "stages", "--out", "afile/x"], "afile/x/stages: expected a place"),
        (["notebooks", "--execute", "--only", "1", "--out", "afile"], "found: a file where a folder should be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_place_that_cannot_be_written_is_one_message(place: Path, args: list[str], message: str) -> None:
    result = mis(*args)
    assert_mistake(result, message)
    assert sorted(path.name for path in place.iterdir() if path.is_file()) == ["afile"]
    assert "cell 1 of" not in result.stderr  # of a notebook: the place is looked at before minutes of work


@pytest.mark.parametrize("out", ["afile/x.json", "folder"])
def test_parity_and_merge_look_at_the_place_first(place: Path, tiny: Tiny, out: str) -> None:
    model = ["--checkpoint", str(tiny.checkpoint)]
    result = mis("parity", *model, "--adapters", f"one={tiny.adapter}", "--out", out)
    assert_mistake(result, "expected a place that can be read and written")
    assert len(result.stderr.splitlines()) == 1  # nothing was begun
    merged = mis("merge", str(tiny.adapter), out, *model)
    assert merged.exit_code == 2 and len(merged.stderr.splitlines()) == 1


def test_a_full_disk_is_one_message_that_names_the_file(place: Path) -> None:
    mini_data(place / "data")
    with files_of_at_most(100):
        result = mis("check", "data", "--html", "page.html")
    assert_mistake(result, "page.html: expected a place that can be read and written, found: File too large")
    assert not list(place.glob("*page.html*"))


def run_as_verb(job: Callable[[], None]) -> Result:
    """Run something as the verbs of the command line are run."""
    verbs = typer.Typer(cls=Verbs, pretty_exceptions_enable=False)
    verbs.command()(job)
    verbs.callback()(lambda: None)  # with it a single command is one of a group
    return CliRunner().invoke(verbs, [job.__name__])


@pytest.mark.skipif(
    not Path("/dev/full").exists(),
    reason="only Linux has a device that is always full",
)
def test_a_file_that_fills_the_disk_is_named_though_closing_it_fails_too() -> None:
    def fill() -> None:
        with Path("/dev/full").open("w") as stream:
            append_record(stream, Sample(id="a", question="?", images=["a.png"]))

    result = run_as_verb(fill)
    assert_mistake(result, "/dev/full: expected a place that can be read and written, found: No space left on device")


def test_a_traceback_is_shown_where_one_is_asked_for(place: Path) -> None:
    result = mis("--traceback", "annotations", "export", "--output", "folder")
    assert isinstance(result.exception, IsADirectoryError)
    assert isinstance(mis("--traceback", "build", "--forse").exception, MisError)


@pytest.mark.parametrize("error", [OSError("a library's own"), ConnectionRefusedError(111, "Connection refused")])
def test_what_is_about_no_file_is_not_taken_for_one(error: OSError) -> None:
    def fail() -> None:
        raise error

    assert run_as_verb(fail).exception is error


# ---------------------------------------------------------------- what is said about flags

OF_PROGRAMS = {"--to", "--dataset", "--include"}  # nbconvert, ms-swift, hf download
OF_EVALUATORS = {"--mode", "--include_path", "--tasks", "--log_samples", "--output_path"}  # VLMEvalKit, lmms-eval
OTHERS = {"--help", "--train_help"} | OF_PROGRAMS | OF_EVALUATORS


def flags_of_verbs() -> dict[str, set[str]]:
    def walk(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
        yield name, {flag for parameter in command.params for flag in parameter.opts}
        for verb, inside in getattr(command, "commands", {}).items():
            yield from walk(inside, f"{name} {verb}".strip())

    return dict(walk(typer.main.get_command(app)))


def texts() -> Iterator[tuple[str, str]]:
    """All messages and docstrings of the library, with where they stand; words alone are arguments, and the stages of a
    build have their own flags.
    """
    files = Path(mis_lib.__file__).parent.rglob("*.py")
    for file in sorted(file for file in files if file.parent.name != "miniature"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{file.name}, line {node.lineno}", node.value


def test_flags_that_are_named_exist() -> None:
    verbs = flags_of_verbs()
    known = OTHERS.union(*verbs.values())
    flag = r"(?<![\w-])--[a-z][a-z_]*(?![\w-])"  # those of other programs mostly have a hyphen
    wrong = []
    for place, text in texts():
        wrong += [f"{place}: {found}" for found in re.findall(flag, text) if found not in known]
        for command in re.finditer(r"\bmis ((?:[a-z]+ )+)([^`;()]*)", text):
            words = command[1].split()
            verb = next((name for size in (2, 1) if (name := " ".join(words[:size])) in verbs), None)
            unknown = [found for found in re.findall(flag, command[2]) if verb and found not in verbs[verb] | OTHERS]
            wrong += [f"{place}: mis {verb} {found}" for found in unknown]
    assert wrong == []


def test_an_unknown_flag_is_refused() -> None:
    result = mis("compare", "--image", "a.png")
    assert result.exit_code == 2
    assert "--image" in result.stderr


def test_build_refuses_what_it_does_not_know() -> None:
    assert_mistake(mis("build", "--forse"), "unknown --forse")


@pytest.mark.slow
def test_build_train_hands_its_flags_to_the_stage(capfd: pytest.CaptureFixture[str]) -> None:
    assert mis("build", "--train", "base", "--train_help").exit_code == 0
    assert "--assets" in capfd.readouterr().out
    assert mis("build", "--train", "base").exit_code == 2
    assert "--assets" in capfd.readouterr().err


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


@pytest.fixture
def torchvision_for_cuda(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds a torchvision which was built for another torch."""
    broken = tmp_path / "site" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    record = tmp_path / "site" / "torchvision-0.28.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def run_mis(*words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "mis_lib.cli", *words], env=env, capture_output=True, text=True)


def test_doctor_names_a_torchvision_that_breaks_transformers(torchvision_for_cuda: dict[str, str]) -> None:
    done = run_mis("doctor", "--json", env=torchvision_for_cuda)
    found = json.loads(done.stdout)
    [finding] = [finding for finding in found["findings"] if finding["name"] == "torchvision"]
    assert (done.returncode, found["ready"], finding["state"]) == (1, False, "damaged")
    assert "operator torchvision::nms does not exist" in finding["detail"]
    assert '--force-reinstall --no-deps "torchvision==0.' in finding["fix"]


@pytest.mark.parametrize("verb", ["build", "compare"])
def test_a_broken_torchvision_is_named_in_place_of_a_traceback(
    torchvision_for_cuda: dict[str, str], tmp_path: Path, verb: str
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"model_type": "llava"}')
    asked = {
        "build": ["build", "--force"],
        "compare": ["compare", f"--images={tmp_path / 'a.png'}", "--question=What?", f"--checkpoint={checkpoint}"],
    }
    done = run_mis(*asked[verb], env={**torchvision_for_cuda, "MIS_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "torchvision 0.28.0 cannot be imported" in done.stderr
    assert "pip install --force-reinstall --no-deps" in done.stderr


@pytest.mark.parametrize(
    ("torch", "fix"),
    [  # pytorch/vision, README: 2.13 and 0.28 belong together, 2.11 and 0.26
        ("2.13.0+cpu", '"torchvision==0.28.*" --index-url https://download.pytorch.org/whl/cpu'),
        ("2.11.1+cu130", '"torchvision==0.26.*" --index-url https://download.pytorch.org/whl/cu130'),
        ("2.13.0", '"torchvision==0.28.*"'),
    ],
)
def test_the_torchvision_that_is_offered_is_that_of_torch(
    torchvision_for_cuda: dict[str, str], tmp_path: Path, torch: str, fix: str
) -> None:
    record = tmp_path / "site" / "torch-0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    script = "from mis_lib.models.packages import broken_package; print(broken_package().fix)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=torchvision_for_cuda, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(f"--no-deps {fix}")


@pytest.mark.parametrize(("columns", "width"), [(None, 160), ("70", 70)])
def test_a_log_is_wide_enough_for_figures_unless_told_otherwise(columns: str | None, width: int) -> None:
    others = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    asked = "from mis_lib.cli import console; print(console.out.width, console.log.width)"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env=others | ({"COLUMNS": columns} if columns else {}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(width)] * 2
