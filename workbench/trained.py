"""What has come of a training run so far: its newest line, its curves, and at the end its adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mis_lib.analysis import train_log
from mis_lib.errors import DataError
from mis_lib.files import read_jsonl
from mis_lib.results.train_runs import LOG, TrainRun

POINTS = 1500  # of a curve; longer ones are thinned out


class Progress(NamedTuple):
    """How far a run is: its newest line, and frames for the curves."""

    newest: Mapping[str, Any]
    losses: pd.DataFrame
    evaluations: pd.DataFrame


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
            f"{name}: expected an adapter, found a whole checkpoint; start an app on it: app.py --model {run.folder / 'model'}"
        )
    return adapter


def progress(folder: Path) -> Progress:
    """How far the run in a folder is, from its log; a log that is being written is read as far as it is whole."""
    lines = list(read_jsonl(folder / LOG)) if (folder / LOG).exists() else []
    steps = [line for line in lines if "loss" in line]
    thinned = steps[:: max(1, len(steps) // POINTS)]
    return Progress(steps[-1] if steps else {}, train_log.losses(thinned), train_log.evaluations(lines))
