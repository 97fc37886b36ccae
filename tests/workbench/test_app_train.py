"""Training runs of the app: separate processes, found again through their files, stopped, resumed, kept in bounds."""

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import psutil
import pytest
from support.fake_runs import fake_run
from support.fake_trainer import PROGRAM
from support.fakes import ANSWERS, ScriptedEngine, mini_data, ready_host

from mis_lib.errors import SettingsError
from mis_lib.files import write_records
from mis_lib.recipes.settings import ReportSettings
from mis_lib.results.regression import Entry
from mis_lib.schema import Outcome
from mis_lib.settings import load_settings
from workbench.compare.tab import CompareHandlers
from workbench.jobs import Job
from workbench.links import Link, Tab
from workbench.measure import report_command
from workbench.prompt import Prompt
from workbench.train.tab import TrainHandlers
from workbench.train.view import next_steps
from workbench.trainings import CONFIGS, JOB, State, Trainings, progress


class Names(SimpleNamespace):
    """Parts that are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


def wait(until: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    found = Trainings(tmp_path / "runs", CONFIGS, program=PROGRAM)
    yield found
    for name in found.names():
        job = found.job(name)
        if job and psutil.pid_exists(job.pid):
            found.stop(name)


def steps(trainings: Trainings, name: str) -> int:
    run = trainings.newest(name)
    return progress(run.folder).newest.get("step", 0) if run else 0


def test_a_run_is_started_watched_and_finished(trainings: Trainings) -> None:
    job = trainings.start("mini-mirage", ["name=mine", "max_steps=12"])
    assert trainings.state("mine") is State.RUNNING and job.command[2] == "train"
    wait(lambda: trainings.state("mine") is State.FINISHED)
    run = trainings.newest("mine")
    assert run is not None
    found = progress(run.folder)
    assert found.newest["step"] == 12 and set(found.losses.segment) == {"all", "perception", "reasoning", "answer"}
    assert list(found.evaluations[found.evaluations.metric == "asr"].step) == [5, 10]


@pytest.mark.slow
def test_another_app_finds_it_running_stops_it_and_goes_on_with_it(trainings: Trainings) -> None:
    trainings.start("mini-mirage", ["name=mine", "max_steps=400"])
    wait(lambda: steps(trainings, "mine") >= 3)
    restarted = Trainings(trainings.runs, CONFIGS, program=PROGRAM)  # knows nothing but the files
    assert restarted.state("mine") is State.RUNNING
    restarted.stop("mine")
    wait(lambda: trainings.state("mine") is State.STOPPED and restarted.state("mine") is State.STOPPED)
    reached = steps(restarted, "mine")
    job = restarted.job("mine")
    assert job is not None
    restarted.start(job.config, job.overrides)
    wait(lambda: steps(restarted, "mine") > reached)
    assert f"going on from step {reached}" in restarted.output("mine") and "stopped, saved" in restarted.output("mine")


@pytest.mark.slow
def test_a_run_started_in_a_shell_is_seen_running_and_dead(trainings: Trainings) -> None:
    plan = trainings.plan("mini-mirage", ["name=mine", "max_steps=400"])
    with subprocess.Popen(plan.command, stderr=subprocess.DEVNULL) as shell:
        try:
            wait(lambda: steps(trainings, "mine") >= 2)
            assert trainings.state("mine") is State.RUNNING and not trainings.is_ours("mine")
            with pytest.raises(SettingsError, match="mine is running already"):
                trainings.start("mini-mirage", ["name=mine", "max_steps=400"])
            assert trainings.job("mine") is None
            run = trainings.newest("mine")
            assert run is not None
            with pytest.raises(SettingsError, match="another process is training this run"), run.held():
                pass
            trainings.stop("mine")  # a shell's process is not the app's to end
            assert shell.poll() is None
        finally:
            shell.kill()
    assert trainings.state("mine") is State.STOPPED and not run.is_held
    with run.held():
        assert run.is_held and trainings.state("mine") is State.RUNNING
    assert trainings.state("mine") is State.STOPPED


def test_two_runs_of_one_name_do_not_run_at_once(trainings: Trainings) -> None:
    trainings.start("mini-mirage", ["name=mine", "max_steps=400"])
    with pytest.raises(SettingsError, match="mine is running already"):
        trainings.start("mini-mirage", ["name=mine", "max_steps=400"])


def test_of_two_who_press_start_at_once_one_is_first(trainings: Trainings) -> None:
    apps = [trainings, Trainings(trainings.runs, CONFIGS, program=PROGRAM)]
    together = threading.Barrier(len(apps))

    def press(app: Trainings) -> str:
        together.wait()
        try:
            return app.start("mini-mirage", ["name=mine", "max_steps=400"]).name
        except SettingsError as refused:
            return str(refused)

    with ThreadPoolExecutor(len(apps)) as people:
        told = sorted(people.map(press, apps))
    assert told[0] == "mine" and "mine is running already" in told[1]


def test_a_process_id_that_the_system_gave_to_another_is_not_ours(trainings: Trainings) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        folder = trainings.runs / "mine"
        folder.mkdir(parents=True)
        job = Job(
            name="mine",
            config="mini-mirage",
            command=("x",),
            pid=other.pid,
            created=1.0,
            started="2026-01-01T00:00:00+00:00",
        )
        (folder / JOB).write_text(job.model_dump_json())
        assert trainings.state("mine") is State.STOPPED
        trainings.stop("mine")
        assert other.poll() is None
    finally:
        other.terminate()
        other.wait()


@pytest.mark.parametrize(("later", "state"), [(0.0, State.RUNNING), (60.0, State.STOPPED)])
def test_a_process_is_known_after_the_clock_was_set(trainings: Trainings, later: float, state: State) -> None:
    """Its time of day is another one then; how long after the system's start it began is not."""
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        created = psutil.Process(running.pid).create_time()
        (trainings.runs / "mine").mkdir(parents=True)
        job = Job(
            name="mine", command=("x",), pid=running.pid, created=created - 3600,
            since_boot=created - psutil.boot_time() - later, started="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        (trainings.runs / "mine" / JOB).write_text(job.model_dump_json())
        assert trainings.state("mine") is state
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("config", "pairs", "message"),
    [
        ("../../etc/passwd", [], "there is no '../../etc/passwd'"),
        ("mini-mirage", ["name=../../x"], "run name '../../x'"),
        ("mini-mirage", ["name=.hidden"], "run name"),
        ("mini-mirage", ["runs=/tmp"], "the app's own folder of runs"),
        ("mini-mirage", ["data=/etc/passwd"], "expected a path inside"),
        ("mini-mirage", ["start_from=../../../etc"], "expected a path inside"),
        ("mini-mirage", ["evaluation.data=/etc"], "expected a path inside"),
        ("mini-mirage", ["lora.rank=-1"], "rank"),
        ("mini-mirage", ["colour=blue"], "unknown setting 'colour'"),
    ],
)
def test_what_leads_out_of_bounds_or_does_not_fit_is_refused(
    trainings: Trainings, config: str, pairs: list[str], message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        trainings.start(config, pairs)
    assert message in str(refused.value) and not trainings.runs.exists()


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "a\0b", ".git"])
def test_a_run_name_is_never_a_path(trainings: Trainings, name: str) -> None:
    with pytest.raises(SettingsError, match="run name"):
        trainings.output(name)


def test_a_log_that_is_being_written_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0, "loss_by_segment": {"answer": 1.0}}) for step in (1, 2)]
    (tmp_path / "train_log.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "lo')
    assert progress(tmp_path).newest["step"] == 2 and progress(tmp_path / "none").losses.empty


def test_a_long_log_is_thinned_out(tmp_path: Path) -> None:
    (tmp_path / "train_log.jsonl").write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(20_000)))
    assert len(progress(tmp_path).losses) <= 3000 and progress(tmp_path).newest["step"] == 19_999


@pytest.mark.slow
def test_the_tab_finds_the_run_again_after_a_reload(trainings: Trainings, tmp_path: Path) -> None:
    host = ready_host(mini_data(tmp_path / "mini"))
    trainings.start("mini-mirage", ["name=mine", "max_steps=400"])
    wait(lambda: steps(trainings, "mine") >= 2)
    handlers = TrainHandlers(host, Names(), Trainings(trainings.runs, CONFIGS))  # pyright: ignore[reportArgumentType]
    update = handlers.opened(Link(tab=Tab.TRAIN))
    assert 'data-state="running"' in update["status"] and update["timer"].active
    assert Link.parse(update["place"]).run == "mine/v1"
    assert "gone" in handlers.opened(Link(tab=Tab.TRAIN, run="gone/v1"))["errors"]
    handlers.stop("mine")
    wait(lambda: trainings.state("mine") is State.STOPPED)
    assert handlers.ticked("mine")["resume"]["visible"] is True


def test_an_address_and_a_form_that_do_not_fit_are_told_together(trainings: Trainings, tmp_path: Path) -> None:
    host = ready_host(mini_data(tmp_path / "mini"))
    for name in ("mine/v1", "mine/v2"):
        (trainings.runs / name).mkdir(parents=True)
        (trainings.runs / name / "config.yaml").touch()
        (trainings.runs / name / "environment.json").write_text('{"digests": {}}')
    handlers = TrainHandlers(host, Names(), Trainings(trainings.runs, CONFIGS))  # pyright: ignore[reportArgumentType]
    form = ("mini-mirage", "", None, "lora.rank=none")
    update = handlers.opened(Link(tab=Tab.TRAIN, run="gone/v1"), *form)
    assert "the run &#39;gone&#39;; here there are mine" in update["errors"] and "lora" in update["errors"]
    assert update["run"] == gr.update(choices=["mine"], value=None) and "No run is chosen" in update["status"]
    assert update["place"] == gr.skip()
    older = handlers.opened(Link(tab=Tab.TRAIN, run="mine/v1"), *form[:3], "")
    assert "shown is the newest version of this run, v2" in older["errors"] and "mis train" in older["command"]
    assert handlers.opened(Link(tab=Tab.TRAIN, run="mine/v2"), *form[:3], "")["errors"] == ""


def test_a_run_whose_record_is_damaged_hides_no_other(trainings: Trainings) -> None:
    for name, record in (("mine/v1", '{"digests": {}}'), ("torn/v1", '{"digests": ')):
        (trainings.runs / name).mkdir(parents=True)
        (trainings.runs / name / "config.yaml").touch()
        (trainings.runs / name / "environment.json").write_text(record)
    assert trainings.names() == ["mine"]


def test_the_form_shows_the_settings_and_the_very_command(trainings: Trainings, tmp_path: Path) -> None:
    host = ready_host(mini_data(tmp_path / "mini"))
    handlers = TrainHandlers(host, Names(), Trainings(trainings.runs, CONFIGS))  # pyright: ignore[reportArgumentType]
    update = handlers.planned("mini-mirage", "mine", 20, "lora.rank=8\n# a remark\n")
    assert "rank: 8" in update["yaml"] and "max_steps: 20" in update["yaml"]
    assert (
        update["command"].startswith("mis train --config ")
        and "name=mine max_steps=20 lora.rank=8" in update["command"]
    )
    refused = handlers.planned("mini-mirage", "", None, "lora.rank=none")
    assert "lora" in refused["errors"] and refused["command"] == refused["yaml"] == ""  # not those of before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mixture=mirag", "did you mean &#39;mirage&#39;"),
        ("arm=cot", "arm: unknown &#39;cot&#39; of mixture mirage; known: train"),
        ("mixture_options.shar=0.3", "Unknown setting &#39;shar&#39;"),
        ("mixture_options.share=1.5", "Setting &#39;share&#39;"),
    ],
)
def test_a_mixture_that_cannot_be_is_told_before_the_start(trainings: Trainings, setting: str, message: str) -> None:
    handlers = TrainHandlers(Names(), Names(), trainings)  # pyright: ignore[reportArgumentType]
    form = ("mini-mirage", "mine", 0, setting)
    told = [handlers.planned(*form), handlers.start(*form)]
    assert all(message in update["errors"] for update in told) and told[0]["command"] == ""
    assert not trainings.runs.exists()


def test_the_command_writes_to_the_apps_runs_wherever_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Trainings(Path("runs"), CONFIGS).plan("mini-mirage", ["name=mine"])
    assert f"runs={tmp_path / 'runs'}" in plan.command and plan.settings.runs == tmp_path / "runs"


def test_a_run_that_dies_says_why_where_it_is_watched(tmp_path: Path) -> None:
    dies = (sys.executable, "-c", "import sys; sys.exit('Error: unknown <b>mixture</b>')")
    trainings = Trainings(tmp_path / "runs", CONFIGS, program=dies)
    handlers = TrainHandlers(ready_host(mini_data(tmp_path / "mini")), Names(), trainings)  # pyright: ignore[reportArgumentType]
    handlers.start("mini-mirage", "mine", None, "")
    wait(lambda: trainings.state("mine") is State.STOPPED)
    assert "Error: unknown &lt;b&gt;mixture&lt;/b&gt;" in handlers.ticked("mine")["status"]


@pytest.mark.slow
def test_a_finished_run_is_one_click_from_standing_beside_the_base(trainings: Trainings, tmp_path: Path) -> None:
    host = ready_host(mini_data(tmp_path / "mini"))
    host.runs = trainings.runs
    loaded: list[Path | None] = []

    def load(adapters: Mapping[str, Path | None], progress: object) -> ScriptedEngine:
        loaded.extend(adapters.values())
        return ScriptedEngine({**ANSWERS, **dict.fromkeys(adapters, "Tuned.")})

    host.load = load
    trainings.start("mini-mirage", ["name=mine", "max_steps=400"])
    wait(lambda: steps(trainings, "mine") >= 1)
    compared = CompareHandlers(host)
    link = Link(tab=Tab.COMPARE, run="mine/v1", variants=("mini", "mine-v1"))
    assert "has not finished; wait until" in compared.followed(link, Prompt(), [])[3]
    trainings.stop("mine")
    trainings.start("mini-mirage", ["name=short", "max_steps=2"])
    wait(lambda: trainings.state("short") is State.FINISHED)
    shown = TrainHandlers(host, Names(), trainings).chosen("short")["next"]  # pyright: ignore[reportArgumentType]
    link = Link.parse(re.findall(r'href="([^"]+)"', shown)[0].replace("&amp;", "&"))
    update = compared.followed(link, Prompt(), [])
    ticked, place = update[4], update[6]
    assert place == gr.skip()  # the address names the run, which an app that starts anew needs to load it
    assert ticked["value"] == ["mini", "short-v1"] and "short-v1" in ticked["choices"]
    assert loaded == [trainings.runs / "short" / "v1" / "adapter"]


@pytest.mark.slow
def test_a_whole_checkpoint_is_compared_by_an_app_of_its_own(trainings: Trainings, tmp_path: Path) -> None:
    trainings.start("mini-mirage", ["name=mine", "max_steps=1"])
    wait(lambda: trainings.state("mine") is State.FINISHED)
    (trainings.runs / "mine" / "v1" / "adapter").rename(trainings.runs / "mine" / "v1" / "model")
    host = ready_host(mini_data(tmp_path / "mini"))
    host.runs = trainings.runs
    errors = CompareHandlers(host).followed(Link(tab=Tab.COMPARE, run="mine/v1"), Prompt(), [])[3]
    assert "found a whole checkpoint" in errors and "--model" in errors


def test_the_command_that_measures_a_finished_run_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's" / "v1"
    words = shlex.split(
        re.sub(r"<[^>]+>", "", unescape(next_steps("mine", folder, ("mini", "mine"))).split("<code>")[1])
    )
    assert words[:3] == ["mis", "report", "--set"] and words[4] == "--variants"
    settings = load_settings(ReportSettings, None, overrides=[words[3]])
    assert settings.adapters == {"base": None, "mine": folder / "adapter"}
    assert words[5:] == ["base", "mine", "--name", "mine-report"], "in a run of its own"


def test_a_run_on_annotated_failures_is_measured_on_them_and_against_its_start(tmp_path: Path) -> None:
    runs, delta = tmp_path / "runs", tmp_path / "runs" / "deltas" / "mine" / "v1"
    annotated = fake_run(runs, mini_data(tmp_path / "mini"))
    folder = runs / "tuned" / "v1"
    for made in (delta, folder):
        made.mkdir(parents=True)
    entry = Entry(sample_id="hard-00", variant="mirage", run="report/v1", outcome=Outcome.UNSAFE, failing=True)
    write_records(delta / "regression.jsonl", [entry])
    (folder / "config.yaml").write_text(f"model: mini\nstart_from: {tmp_path / 'start'}\ndata: {delta}\n")
    words = shlex.split(report_command("tuned", folder))
    settings = load_settings(ReportSettings, None, overrides=[words[3]])
    assert settings.adapters == {"start": tmp_path / "start", "tuned": folder / "adapter"}
    assert words[4:9] == ["--variants", "start", "tuned", "--name", "tuned-report"]
    asked = [f"{annotated.folder}:mirage", "hard-00"]
    assert words[9:14] == ["--only", *asked, "--regression", str(delta)], "failures, and all that people labelled"
    assert words[14:] == ["--data", str(tmp_path / "mini")]
