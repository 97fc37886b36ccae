"""Trackers to which a training also reports its log: Trackio, TensorBoard, Weights & Biases, MLflow.

accelerate's trackers send what ``train_log.jsonl`` has, so losses by segment and rates of evaluations, too. Nothing
leaves this machine unless the person's environment says so: ``LOCAL`` holds unless a variable is set already.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.errors import MissingPackageError
from mis_lib.train.settings import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

LOCAL = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true"}
NOT_IN_A_NAME = re.compile(r"[^\w .:/-]")  # MLflow refuses other characters


def check_trackers(names: Sequence[Tracker]) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        MissingPackageError: names the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"report_to: {name} needs the package {name}: pip install {name}")


class Trackers:
    """Reports the lines of a log; a tracker starts at the first line, in the process that writes it.

    Args:
        names: of the trackers.
        folder: of the run, NAME/vN; NAME is the project, vN the run in it.

    Raises:
        MissingPackageError: as ``check_trackers``.
    """

    def __init__(self, names: Sequence[Tracker], folder: Path) -> None:
        check_trackers(names)
        self._names, self._folder = names, folder
        self._started: list[GeneralTracker] | None = None

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Report a line."""
        if not self._names:
            return
        with redirect_stdout(sys.stderr):  # Trackio prints, and standard output is for results
            if self._started is None:
                self._started = [_started(name, self._folder) for name in self._names]
            for tracker in self._started:
                tracker.log(dict(_scalars(line)), step=line["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        with redirect_stdout(sys.stderr):
            for name, tracker in zip(self._names, self._started or (), strict=False):
                tracker.finish()
                if name == "trackio":
                    from trackio import context_vars

                    context_vars.current_run.set(None)  # or it is finished once more when Python ends


def _started(name: Tracker, folder: Path) -> "GeneralTracker":
    from accelerate import tracking  # imports torch

    for variable, value in LOCAL.items():
        os.environ.setdefault(variable, value)
    project, run = folder.parent.name, folder.name
    if name == "trackio":
        tracker = tracking.TrackioTracker(project, name=run, resume="allow", auto_log_gpu=False, auto_log_cpu=False)
    elif name == "tensorboard":
        tracker = tracking.TensorBoardTracker("tensorboard", folder)
    elif name == "wandb":
        tracker = tracking.WandBTracker(project, name=run, dir=str(folder))
    else:
        tracker = tracking.MLflowTracker(project, run_name=run)
    tracker.start()
    return tracker


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and numbers of a log line, groups with a slash."""
    for name, value in line.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                number = inner["value"] if isinstance(inner, dict) else inner
                if number is not None:
                    yield NOT_IN_A_NAME.sub("_", f"{name}/{key}"), number
        elif name not in ("step", "steps"):
            yield f"train/{name}", value
