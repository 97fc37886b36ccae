"""Evaluations that the app starts: their command, their cost, how far they are, and what stays after Stop."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
import typer
from support.annotated import answered_run
from support.fake_report import PROGRAM
from support.fake_runs import fake_run
from support.fakes import mini_data, ready_host
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.cli.options import resolve
from mis_lib.errors import SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.generate.served import Served
from mis_lib.models.adapters import Checkpoint
from mis_lib.models.mini.assemble import ADAPTERS
from mis_lib.recipes.progress import FILE_VARIABLE, FINISHED, Kept, Silent, read_step
from mis_lib.recipes.settings import ReportSettings
from mis_lib.schema import Sample
from workbench.annotate.actions import CONFIG, Annotations, Place, Query, keep, make
from workbench.annotate.loop import Loops
from workbench.evaluate import EvaluationJobs, Outcome
from workbench.evaluate_panel import EvaluatePanel
from workbench.host import Host
from workbench.trainings import CONFIGS, Trainings


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = ready_host(mini_data(tmp_path / "mini"))
    made.runs, made.data_folder = tmp_path / "runs", tmp_path / "mini"
    return made


@pytest.fixture
def jobs(host: Host) -> Iterator[EvaluationJobs]:
    found = EvaluationJobs(host, program=PROGRAM)
    yield found
    if name := found.newest():
        found.stop(name)


def panel_of(jobs: EvaluationJobs) -> EvaluatePanel:
    with gr.Blocks():
        return EvaluatePanel(jobs, "test")


def read_as_settings(command: tuple[str, ...]) -> ReportSettings:
    """What ``mis report`` makes of the words after it."""
    words = list(command[command.index("report") + 1 :])
    context = typer.main.get_command(app).commands["report"].make_context("report", words)  # pyright: ignore[reportAttributeAccessIssue]
    return resolve(context, ReportSettings)


def test_an_evaluation_is_a_command_of_mis_report_and_says_what_it_costs(host: Host) -> None:
    plan = EvaluationJobs(host).plan(["mini", "mirage"], ["hard", "easy"], 2, "first")
    settings = read_as_settings(plan.command)
    assert settings.variants == ("mini", "mirage") and settings.splits == ("hard", "easy") and settings.limit == 2
    assert settings.data == host.data_folder and settings.runs == host.runs.absolute() and settings.name == "first"
    assert settings.adapters is None and settings.checkpoint is None
    assert plan.cost.answers == 16, "two pairs of two splits, asked twice"
    assert plan.cost.seconds and not plan.cost.measured_here
    everything = EvaluationJobs(host).plan(["mini"], ["hard"], 0, "all")
    assert everything.cost.answers == 50 and read_as_settings(everything.command).limit is None


def test_another_checkpoint_its_adapters_and_a_server_are_named_in_the_command(host: Host, tmp_path: Path) -> None:
    host.parts = [Checkpoint(tmp_path / "qwen", {"base": None, "mine": tmp_path / "mine"})]
    host.adapters = dict(host.parts[0].variants)
    host.settings = {"device": "cpu", "dtype": "float32"}
    host.served = {"big": Served("http://127.0.0.1:8000/v1", "qwen-72b")}
    host.variants = ("big", "base", "mine")
    host.model._future = None  # names as before the model is loaded
    jobs = EvaluationJobs(host)
    plan = jobs.plan(["base", "mine"], ["hard"], 1, "x")
    settings = read_as_settings(plan.command)
    assert settings.checkpoint == tmp_path / "qwen" and settings.adapters == {"base": None, "mine": tmp_path / "mine"}
    assert (settings.device, settings.dtype) == ("cpu", "float32")
    assert plan.cost.seconds is None, "nothing was measured with this model"
    served = read_as_settings(jobs.plan(["big"], ["hard"], 1, "x").command)
    assert served.server == "http://127.0.0.1:8000/v1" and served.models == {"big": "qwen-72b"}
    with pytest.raises(SettingsError, match="one checkpoint or one server; choose variants of one: base, mine; big"):
        jobs.plan(["big", "base"], ["hard"], 1, "x")


def test_what_cannot_be_asked_is_refused(jobs: EvaluationJobs) -> None:
    for variants, splits, pairs, name, message in [
        ([], ["hard"], 1, "x", "choose at least one model: mini, mirage"),
        (["mini"], [], 1, "x", "choose at least one split: easy, hard, real"),
        (["gpt"], ["hard"], 1, "x", "there is no model 'gpt'"),
        (["mini"], ["train"], 1, "x", "there is no split 'train'"),
        (["mini"], ["hard"], -1, "x", "found -1"),
        (["mini"], ["hard"], 1, "../x", "run name '../x'"),
        (["mini"], ["hard"], 1, "", "run name ''"),
    ]:
        with pytest.raises(SettingsError) as refused:
            jobs.plan(variants, splits, pairs, name)
        assert message in str(refused.value)


def test_rows_that_no_rule_can_judge_are_answered_only(host: Host, tmp_path: Path) -> None:
    for split in ("easy", "hard", "real"):
        file = tmp_path / "mini" / f"{split}.jsonl"
        write_records(file, [one.model_copy(update={"objects": None}) for one in read_records(file, Sample)])
    plan = EvaluationJobs(ready_with(host, tmp_path)).plan(["mini"], ["hard"], 1, "x")
    assert not plan.is_judged and "generate" in plan.command and "report" not in plan.command


def ready_with(host: Host, tmp_path: Path) -> Host:
    made = ready_host(tmp_path / "mini")
    made.runs, made.data_folder = host.runs, host.data_folder
    return made


@pytest.mark.slow
def test_an_evaluation_is_watched_stopped_and_gone_on_with(jobs: EvaluationJobs) -> None:
    panel = panel_of(jobs)
    form = (["mini", "mirage"], ["hard"], 12, "report")
    first = panel.opened([], [], 12, "report")
    assert first[panel.box]["open"] and "48 answers" in first[panel.cost]
    update = panel.started(*form)
    assert update[panel.watched] == "report" and update[panel.timer].active
    assert "is being evaluated already" in panel.started(*form)[panel.errors]
    wait(lambda: jobs.now("report").answers >= 3)
    half = panel.ticked("report", *form)
    assert " of 48" in half[panel.status] and "left" in half[panel.status] and "tab=annotate" in half[panel.status]
    assert "answering" in half[panel.box]["label"] and half[panel.stop]["visible"] and panel.arrived not in half
    restarted = EvaluationJobs(jobs.host, program=PROGRAM)  # knows nothing but the files
    assert restarted.now(restarted.newest()).state is Outcome.RUNNING
    panel.stopped("report")
    wait(lambda: jobs.now("report").state is Outcome.STOPPED)
    kept = jobs.now("report").answers
    ended = panel.ticked("report", *form)
    assert "stopped" in ended[panel.status] and ended[panel.arrived] and not ended[panel.timer].active
    jobs.start(jobs.plan(["mini"], ["easy"], 1, "report"))
    wait(lambda: jobs.now("report").state is Outcome.FINISHED)
    assert 3 <= kept < 48
    done = panel.ticked("report", *form)
    assert done[panel.box]["open"] is False and "See the rates" in done[panel.status]
    assert panel.opened([], [], 12, "report")[panel.box].get("open") is None, "there are runs by now"
    assert jobs.plan(["mini"], ["hard"], 1, "y").cost.measured_here


def test_one_that_dies_says_why(host: Host) -> None:
    jobs = EvaluationJobs(host, program=(PROGRAM[0], "-c", "import sys; sys.exit('Error: no <b>room</b>')"))
    panel = panel_of(jobs)
    panel.started(["mini"], ["hard"], 1, "x")
    wait(lambda: jobs.now("x").state is Outcome.STOPPED)
    assert "Error: no &lt;b&gt;room&lt;/b&gt;" in panel.ticked("x", ["mini"], ["hard"], 1, "x")[panel.status]


def test_a_command_keeps_the_step_that_it_is_at(tmp_path: Path) -> None:
    file = tmp_path / "step"
    kept = Kept(Silent(), file)
    kept.say("Loading the model")
    with kept.bar("training") as advance:
        kept.say("Image features: 850 of 1,230")
        step = read_step(file)
        assert step and (step.what, step.done, step.total) == ("Image features", 850, 1230)
        advance("loss 1.2", 21, 40)  # a run that was gone on with
        began = read_step(file)
        assert began and began.seconds_left is None, "a first part says nothing about the rate"
        time.sleep(0.4)
        kept.say("step 22: asr 50")
        advance("loss 1.1", 23, 40)
    step = read_step(file)
    assert step and (step.what, step.text, step.done) == ("training", "loss 1.1", 23)
    assert step.seconds_left == pytest.approx((step.now - step.began) / 2 * 17)
    assert set(step.ended) == {"starting", "Loading the model", "Image features"}


def test_a_clock_that_is_set_back_stops_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now = Kept(Silent(), tmp_path / "step"), time.time()
    with kept.bar("training") as advance:
        advance("loss 1.2", 1, 40)
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        advance("loss 1.1", 3, 40)
        kept.say("Image features: 1 of 9")
    step = read_step(tmp_path / "step")
    assert step is not None and 0 <= step.ended["training"][0] < 60
    assert 0 <= step.now - step.began < 60


@pytest.mark.parametrize(("words", "is_done"), [([], True), (["--judges", "gone"], False)])
def test_only_a_command_that_did_everything_is_finished(tmp_path: Path, words: list[str], *, is_done: bool) -> None:
    run = fake_run(tmp_path / "runs", mini_data(tmp_path / "mini"))
    file = tmp_path / "step"
    result = CliRunner().invoke(
        app, ["report", "--existing", str(run.folder), *words], env={**os.environ, FILE_VARIABLE: str(file)}
    )
    step = read_step(file)
    assert step is not None and (result.exit_code == 0) is is_done
    assert (step.what == FINISHED) is is_done
    assert json.loads(file.read_text())["what"] == step.what


def test_the_loop_says_where_one_is_and_measures_the_re_tuned_model_in_its_own_run(host: Host, tmp_path: Path) -> None:
    answered_run(host.runs, tmp_path / "mini")
    annotations = Annotations(host.runs)
    trainings = Trainings(host.runs, CONFIGS, data=[ADAPTERS], program=(sys.executable, "-c", "pass"))
    loops = Loops(annotations, trainings, EvaluationJobs(host))

    def stands() -> list[str]:
        return [step.stand.value for step in loops.loop(CONFIG).steps]

    assert stands() == ["next", "missing", "missing", "missing", "missing"]
    place = Place(run="report/v1", sample="hard-00", variant="mirage").model_dump_json()
    keep(annotations, Query(run="report/v1", author="ada"), place, {"outcome": "unsafe", "corrected": "No."}, "1" * 32)
    assert stands() == ["done", "next", "missing", "missing", "missing"]
    make(annotations, "mine", 0)
    found = loops.loop(CONFIG)
    assert stands() == ["done", "done", "next", "missing", "missing"] and found.delta == "mine/v1"
    assert "about" in found.steps[2].cost and "start_from=" in found.steps[2].command
    folder = host.runs / found.tuned / "v1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: mini\nname: {found.tuned}\ndata: {host.runs / 'deltas/mine/v1'}\n")
    (folder / "environment.json").write_text('{"digests": {}}')
    (folder / "train_log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (folder / "result.json").write_text('{"finished": true}')
    steps = loops.loop(CONFIG).steps
    assert [step.stand.value for step in steps] == ["done", "done", "done", "next", "next"]
    assert f"--name {found.tuned}-report" in steps[3].command and "--regression" in steps[3].command
    assert f"run={found.tuned}/v1" in steps[4].links[0][0]
