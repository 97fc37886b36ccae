"""The loop from labelled failures to a better model: five steps, what each has come to, what is missing and its cost.

Nothing is kept: the state is read from the labels, the newest training data, its training run and the report of that
run. So a reload, another person's page and a command in a shell all show the same.
"""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from mis_lib.annotate.delta import ABOUT, About, about
from mis_lib.errors import MisError
from mis_lib.recipes.annotations import DELTAS, overrides
from mis_lib.results.metrics import RIGHT
from mis_lib.results.regression import compare, read_regression
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome
from workbench.annotate.actions import CONFIG, Annotations
from workbench.evaluate import EvaluationJobs, Now, phase
from workbench.evaluate import Outcome as Ended
from workbench.host import Host
from workbench.html import macros
from workbench.jobs import in_a_shell, time_in_words
from workbench.links import Link, Tab, resolve_run
from workbench.measure import report_argv
from workbench.trainings import State, Trainings, progress

METHODS = {
    CONFIG: "Corrected answers (fine-tuning)",
    "mini-dpo": "Better and worse answers (DPO)",
    "mini-kto": "Right and wrong answers, without corrections (KTO)",
}
"""Settings files that learn from annotations, and from what of them."""
USUAL = 0.45  # rows/s: 48 rows of the embedded model in 106 s on two busy cores, loading included


class Stand(StrEnum):
    """State of a step."""

    DONE = "done"
    NEXT = "next"
    RUNNING = "running"
    MISSING = "missing"  # a step before it has not been done


class Step(NamedTuple):
    """One step of the loop."""

    title: str
    stand: Stand
    words: str
    """What it has come to, or what is missing."""
    cost: str = ""
    command: str = ""
    links: Sequence[tuple[str, str]] = ()
    """Address and label."""


class Loop(NamedTuple):
    """Where one is."""

    steps: list[Step]
    delta: str
    """NAME/vN of the training data."""
    tuned: str
    """Name of the training run."""

    @property
    def is_running(self) -> bool:
        """Whether a process is at work."""
        return any(step.stand is Stand.RUNNING for step in self.steps)

    def is_next(self, at: int) -> bool:
        """Whether a step can be started."""
        return self.steps[at].stand in (Stand.NEXT, Stand.DONE)


def training_name(config: str, delta: Path) -> str:
    """The name of a training run on a delta."""
    return f"{config}-{delta.parent.name}-{delta.name}"


def newest_delta(runs: Path) -> Path | None:
    """The training data that were built last."""
    found = [file.parent for file in (runs / DELTAS).glob(f"*/v*/{ABOUT}")]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def last_config(runs: Path, trainings: Trainings) -> str:
    """The settings file with which the newest training data were learned from last; the usual one if none was."""
    folder = newest_delta(runs)
    ending = f"-{folder.parent.name}-{folder.name}" if folder else ""
    found = (name.removesuffix(ending) for name in trainings.names() if ending and name.endswith(ending))
    return next((name for name in found if name in trainings.configurations()), CONFIG)


class Loops:
    """The loop of one app."""

    def __init__(self, annotations: Annotations, trainings: Trainings, evaluations: EvaluationJobs) -> None:
        self.annotations, self.trainings, self.evaluations = annotations, trainings, evaluations

    @property
    def host(self) -> Host:
        """What the app's sessions share."""
        return self.evaluations.host

    def loop(self, config: str, name: str = "delta", replay: float | None = 0) -> Loop:
        """Where one is with the newest training data and the settings file ``config``.

        Raises:
            MisError: a file that says so is damaged.
        """
        folder = newest_delta(self.annotations.root)
        tuned = training_name(config, folder) if folder else ""
        set_ = self._failing()
        data = self._data(folder, set_, name, replay)
        tune = self._tune(folder, config, tuned, data)
        measured, side = self._measured(folder, tuned, tune), self._side(folder, tuned, tune)
        delta = f"{folder.parent.name}/{folder.name}" if folder else ""
        return Loop([set_, data, tune, measured, side], delta, tuned)

    def measure(self, tuned: str) -> str:
        """Start the report of a re-tuned model beside what it was trained from; returns the name of its run.

        Raises:
            MisError: the training has not finished, or the report is running already.
        """
        name, command = self._report(tuned)
        self.evaluations.start_command(name, command)
        return name

    def _report(self, tuned: str) -> tuple[str, list[str]]:
        run = self.trainings.newest(tuned)
        version = run.folder if run is not None else self.trainings.runs / tuned / "v1"
        found = report_argv(tuned, version)
        return f"{tuned}-report", [sys.executable, "-m", "mis_lib.cli", *found, "--runs", str(self.trainings.runs)]

    def _failing(self) -> Step:
        labels = self.annotations.labels()
        outcomes = [{one.decision.outcome for one in labels.of(key)} - {None, Outcome.UNSCORED} for key in labels.keys]
        failing = sum(bool(found - set(RIGHT)) for found in outcomes)
        words = f"{failing:,} of {sum(map(bool, outcomes)):,} labelled answers fail"
        return Step(
            "Failing set", Stand.DONE if failing else Stand.NEXT,
            words if failing else f"{words}: label a failure above, or under an answer in Compare",
            command=in_a_shell([*MIS, "annotations", "import", "--input", "LABELS.csv", "--run", "NAME/vN"]),
        )  # fmt: skip

    def _data(self, folder: Path | None, failing: Step, name: str, replay: float | None) -> Step:
        command = [*MIS, "annotations", "delta", "--name", name or "delta", "--replay", str(int(replay or 0))]
        shown = in_a_shell([*command, "--runs", str(self.annotations.root)])
        if folder is None:
            stand = Stand.NEXT if failing.stand is Stand.DONE else Stand.MISSING
            return Step("Training data", stand, "none built yet", "seconds", shown)
        made = about(folder)
        words = (
            f"{made.rows:,} rows, {made.pairs:,} pairs, {made.failing:,} failures in {folder.parent.name}/{folder.name}"
        )
        return Step("Training data", Stand.DONE, words, "", shown)

    def _tune(self, folder: Path | None, config: str, tuned: str, data: Step) -> Step:
        title = "Re-tune"
        if folder is None:
            return Step(title, Stand.MISSING, f"needs training data ({data.words})")
        try:
            method = self.trainings.method(config)
            plan = self.trainings.plan(config, [*overrides(folder, self.annotations.root, method), f"name={tuned}"])
        except MisError as error:
            return Step(title, Stand.MISSING, str(error))
        command = in_a_shell(plan.command)
        state, run = self.trainings.state(tuned), self.trainings.newest(tuned)
        watch = [(Link(tab=Tab.TRAIN, run=f"{tuned}/v1").query(), "Watch it in Train")]
        if state is State.RUNNING:
            step = self.trainings.step(tuned)
            counted = f" {step.done:,} of {step.total:,}" if step is not None and step.total else ""
            return Step(title, Stand.RUNNING, f"{tuned}: {phase(step).lower()}{counted}", "", command, watch)
        if state is State.FINISHED:
            return Step(title, Stand.DONE, tuned, "", command, watch)
        rows = plan.settings.epochs * _rows(about(folder), method)
        cost = f"about {time_in_words(60 * max(1, round(rows / self._rate() / 60)))}"
        words = f"not run with {config}" if self.trainings.job(tuned) is None else f"{tuned} has stopped: start goes on"
        return Step(title, Stand.NEXT, words, cost, command, watch if run is not None else ())

    def _measured(self, folder: Path | None, tuned: str, tune: Step) -> Step:
        title = "Measure"
        if folder is None or tune.stand is not Stand.DONE:
            return Step(title, Stand.MISSING, "needs the re-tuned model")
        name, command = self._report(tuned)
        now, shown = self.evaluations.now(name), in_a_shell(command)
        if now.state is Ended.RUNNING:
            step = now.step
            counted = f" {step.done:,} of {step.total:,}" if step is not None and step.total else ""
            return Step(title, Stand.RUNNING, f"{name}: {phase(step).lower()}{counted}", "", shown)
        if now.state is Ended.FINISHED and now.run:
            words = became(folder, resolve_run(self.annotations.root, now.run), tuned)
            return Step(title, Stand.DONE, words, "", shown, _results(now, command))
        stopped = [line for line in now.printed.splitlines() if line.strip()][-2:]
        words = f"stopped: {' '.join(stopped)}" if stopped else "asks the failures again, with their harmless twins"
        cost = self.evaluations.cost(2 * 2 * len(read_regression(folder)))
        return Step(title, Stand.NEXT, words, f"about {time_in_words(cost.seconds or 0)}", shown)

    def _side(self, folder: Path | None, tuned: str, tune: Step) -> Step:
        title = "Side by side"
        if folder is None or tune.stand is not Stand.DONE:
            return Step(title, Stand.MISSING, "needs the re-tuned model")
        run = self.trainings.newest(tuned)
        version = run.folder.name if run is not None else "v1"
        base = next(iter(self.host.adapters or self.host.known_variants), "")
        variants = tuple(filter(None, [base, f"{tuned}-{version}"]))
        link = Link(tab=Tab.COMPARE, run=f"{tuned}/{version}", variants=variants).query()
        adapter = f"tuned={self.trainings.runs / tuned / version / 'adapter'}"
        words = [*MIS, "compare", "--question", "QUESTION", "--images", "A.png", "B.png", "--adapters", adapter]
        command = in_a_shell(words)
        return Step(
            title,
            Stand.NEXT,
            "loads the new adapter together with its base",
            "",
            command,
            [(link, "Compare with base")],
        )

    def _rate(self) -> float:
        """Rows a second of the newest training here, else as measured before."""
        for name in self.trainings.names()[:8]:
            run = self.trainings.newest(name)
            speed = progress(run.folder).newest.get("samples_per_second") if run is not None else None
            if speed:
                return float(speed)
        return USUAL


MIS = (sys.executable, "-m", "mis_lib.cli")


def became(delta: Path, run: Run, variant: str) -> str:
    """What became of the labelled answers in a re-tuned model, by the rule judge; those trained on apart."""
    found = compare(read_regression(delta), run.verdicts("rule"), variant, "rule")
    lists = {"fixed": found.fixed, "still failing": found.still_failing, "newly broken": found.newly_broken,
             "still right": found.still_right, "unscored": found.unscored}  # fmt: skip
    trained = set(found.trained_on)
    parts = {
        "trained on": {name: sum(one in trained for one in ids) for name, ids in lists.items()},
        "not trained on": {name: sum(one not in trained for one in ids) for name, ids in lists.items()},
    }
    return "; ".join(f"{part}: {_counts(counts)}" for part, counts in parts.items() if any(counts.values()))


def _counts(counts: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) + f" (n = {sum(counts.values()):,})"
    )


def _rows(made: About, method: str) -> int:
    """How many rows a method learns from."""
    by_method = {"sft": made.rows + made.replayed, "dpo": made.pairs}
    return by_method.get(method, made.regression)


def _results(now: Now, command: Sequence[str]) -> list[tuple[str, str]]:
    before, after = command[command.index("--variants") + 1 :][:2]
    return [
        (Link(tab=Tab.RESULTS, view="overview", runs=(now.run,)).query(), "Rates with over-refusal"),
        (Link(tab=Tab.RESULTS, view="changes", run=now.run, variants=(before, after)).query(), "What changed"),
    ]


def strip(loop: Loop) -> Markup:
    """The five steps."""
    return macros("annotate/loop.html").strip(loop.steps)
