"""Training runs as jobs of the app: started from settings files, watched through their run folders.

The run itself, ``runs/NAME/vN/``, is as ``mis train`` writes it, so a training that was started in a shell is seen too.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from pydantic import BaseModel

from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_jsonl
from mis_lib.recipes.progress import Step
from mis_lib.recipes.train import read_train_settings
from mis_lib.results import train_runs
from mis_lib.results.figures.rates import constraint_curves, training_curves
from mis_lib.results.train_runs import LOG, TrainRun, train_versions
from mis_lib.settings import dump_settings
from mis_lib.train.settings import TrainSettings
from workbench.jobs import PROGRAM, Job, Jobs, check_name

CONFIGS = Path(__file__).parent.parent / "configs"
STEM = "job"
JOB = f"{STEM}.json"
POINTS = 1500  # of a curve; longer ones are thinned out


class State(StrEnum):
    """State of a training run."""

    RUNNING = "running"
    STOPPED = "stopped"  # can be gone on with
    FINISHED = "finished"


class Plan(NamedTuple):
    """What would be started: the settings as YAML and the command."""

    config: str
    settings: TrainSettings
    yaml: str
    command: tuple[str, ...]
    overrides: tuple[str, ...]


class Trainings:
    """All training runs below ``runs``, and the settings files they can be started from."""

    def __init__(
        self, runs: Path, configs: Path, *, data: Sequence[Path] = (), program: Sequence[str] = PROGRAM
    ) -> None:
        self.runs = runs.absolute()  # the command that is shown writes there wherever it is run
        self.configs, self._program = configs, tuple(program)
        self._readable = [Path.cwd(), runs, configs, *data]
        self._jobs = Jobs(runs, STEM)

    def configurations(self) -> list[str]:
        """Names of the settings files, those of the embedded model first; studies are no single runs."""
        names = [path.stem for path in self.configs.glob("*.yaml") if not path.stem.startswith("study")]
        return sorted(names, key=lambda name: (not name.startswith("mini"), name))

    def method(self, config: str) -> str:
        """How a settings file learns; raises as ``plan``."""
        return self.plan(config, []).settings.method

    def plan(self, config: str, overrides: Sequence[str]) -> Plan:
        """What a settings file and ``key=value`` pairs come to.

        Raises:
            SettingsError: there is no such file, a value does not fit, or a path leads out of the folders the app was
                given.
        """
        if config not in self.configurations():
            raise SettingsError(
                f"configuration: there is no {config!r:.80} in {self.configs.name}/; choose one of those listed"
            )
        pairs = tuple(pair.strip() for pair in overrides if pair.strip())
        if any(pair.partition("=")[0].strip() == "runs" for pair in pairs):
            raise SettingsError("runs: the app's own folder of runs is used; start it with --runs to have another")
        path = self.configs / f"{config}.yaml"
        settings = read_train_settings(path, [*pairs, f"runs={self.runs}"])
        self._check_paths(settings, read_train_settings(path))
        check_name(settings.name)
        command = (*self._program, "train", "--config", str(path), "--set", *pairs, f"runs={self.runs}")
        return Plan(config, settings, dump_settings(settings), command, pairs)

    def start(self, config: str, overrides: Sequence[str]) -> Job:
        """Start a run, or go on with it; its process outlives the app.

        Raises:
            SettingsError: as ``plan``; or a run of that name is running.
        """
        plan = self.plan(config, overrides)
        name = plan.settings.name
        with self._jobs.hold(name):
            if self.state(name) is State.RUNNING:
                raise SettingsError(f"{name} is running already; stop it first, or give the new run another name")
            return self._jobs.open(name, plan.command, config=plan.config, overrides=plan.overrides)

    def stop(self, name: str) -> None:
        """Ask a run to end: it finishes its step and writes a checkpoint. One that is not running stays as it is."""
        self._jobs.stop(name)

    def job(self, name: str) -> Job | None:
        """What was started under a name; None for runs started in a shell. Raises as ``Jobs.job``."""
        return self._jobs.job(name)

    def step(self, name: str) -> Step | None:
        """The step that the process is at; None for runs started in a shell."""
        return self._jobs.step(name)

    def names(self) -> list[str]:
        """Names of all training runs, those that changed last first."""
        folders = [folder for folder in self.runs.iterdir() if folder.is_dir()] if self.runs.is_dir() else []
        known = [folder for folder in folders if (folder / JOB).is_file() or train_versions(self.runs, folder.name)]
        return [folder.name for folder in sorted(known, key=_changed, reverse=True)]

    def state(self, name: str) -> State:
        """State of the newest version of a run."""
        run = self.newest(name)
        if self.is_ours(name) or (run is not None and run.is_held):
            return State.RUNNING
        return State.FINISHED if run is not None and run.result is not None else State.STOPPED

    def is_ours(self, name: str) -> bool:
        """Whether this app or an earlier one started the running process, so that it can be stopped from here."""
        return self._jobs.is_running(name)

    def newest(self, name: str) -> TrainRun | None:
        """The version of a run that was written to last."""
        check_name(name)
        return max(train_versions(self.runs, name), key=lambda run: _changed(run.folder), default=None)

    def output(self, name: str) -> str:
        """The end of what the process has printed."""
        return self._jobs.output(name)

    def _check_paths(self, settings: TrainSettings, usual: TrainSettings) -> None:
        """Refuse paths that lead out of the folders this app was given, unless the settings file itself names them."""
        allowed = [folder.resolve() for folder in self._readable]
        for path in set(_paths(settings)) - set(_paths(usual)) - {self.runs}:
            if not any(path.resolve().is_relative_to(folder) for folder in allowed):
                raise SettingsError(
                    f"{path}: expected a path inside {', '.join(map(str, allowed))}; "
                    "put it there, or start the run in a shell"
                )


class Progress(NamedTuple):
    """How far a run is: its newest line, and frames for the curves."""

    newest: Mapping[str, Any]
    losses: pd.DataFrame
    evaluations: pd.DataFrame
    constraint: pd.DataFrame

    @property
    def figure(self) -> go.Figure:
        """The curves of its method."""
        if self.constraint.empty:
            return training_curves(self.losses, self.evaluations)
        return constraint_curves(self.constraint)


def adapter_of(run: TrainRun) -> Path:
    """The adapter that a finished run has made.

    Raises:
        DataError: the run is not finished, or it has made a whole checkpoint.
    """
    name, adapter = f"{run.folder.parent.name}/{run.folder.name}", run.folder / "adapter"
    if run.result is None:
        raise DataError(f"{name}: it has not finished; wait until the tab Train says so, then compare it")
    if not adapter.is_dir():
        raise DataError(
            f"{name}: expected an adapter, found a whole checkpoint; "
            f"start an app on it: app.py --model {run.folder / 'model'}"
        )
    return adapter


def progress(folder: Path) -> Progress:
    """How far the run in a folder is, from its log; a log that is being written is read as far as it is whole."""
    lines = list(read_jsonl(folder / LOG)) if (folder / LOG).exists() else []
    steps = [line for line in lines if "loss" in line]
    thinned = steps[:: max(1, len(steps) // POINTS)]
    measured = train_runs.evaluations(lines), train_runs.constraint(thinned)
    return Progress(steps[-1] if steps else {}, train_runs.losses(thinned), *measured)


def _paths(settings: BaseModel) -> list[Path]:
    found: list[Path] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path):
            found.append(value)
        elif isinstance(value, BaseModel):
            found += _paths(value)
        elif name == "model" and ("/" in str(value) or "\\" in str(value)) and Path(str(value)).exists():
            found.append(Path(str(value)))
    return found


def _changed(folder: Path) -> float:
    files = [folder / JOB, folder / LOG, *folder.glob(f"v*/{LOG}"), folder]
    return max(file.stat().st_mtime for file in files if file.exists())
