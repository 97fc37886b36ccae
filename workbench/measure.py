"""The command that measures a fine-tuned model: with what it was trained from, and against what people labelled."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mis_lib.construct.mis_mini import mini_data_folder
from mis_lib.recipes.annotations import DELTAS
from mis_lib.results.evaluated import data_folder, judges_of
from mis_lib.results.metrics import RIGHT
from mis_lib.results.regression import REGRESSION, read_regression
from mis_lib.results.runs import CONFIG, Run
from mis_lib.schema import Outcome

MINI = "mini"  # the embedded model, which commands take by default


def report_command(name: str, folder: Path) -> str:
    """``report_argv`` as one types it."""
    return shlex.join(["mis", *report_argv(name, folder)])


def report_argv(name: str, folder: Path) -> list[str]:
    """The command of ``mis`` that measures a finished run's adapter and what it was trained from, in its own run.

    A run on annotated failures is measured on everything that people labelled there, on the failures of the annotated
    runs with their twins, and against what people decided.
    """
    settings = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) if (folder / CONFIG).exists() else {}
    start, data = settings.get("start_from"), _regression_folder(name, folder, settings)
    before = "start" if start else "base"
    adapters = json.dumps({before: start, name: str(folder / "adapter")})
    command = ["report", "--set", f"adapters={adapters}", "--variants", before, name, "--name", f"{name}-report"]
    if settings.get("model", MINI) != MINI:
        command += ["--checkpoint", settings["model"]]
    if data is not None:
        runs, entries = folder.parent.parent, read_regression(data)
        sides = {(entry.run, entry.variant): runs / entry.run for entry in entries}
        asked = [f"{place}:{variant}" for (_, variant), place in sorted(sides.items()) if _has_failures(place, variant)]
        asked += sorted({entry.sample_id for entry in entries})
        command += ["--only", *asked, "--regression", str(data)]
        places = {str(data_folder(Run(place))) for place in sides.values() if (place / CONFIG).exists()} - {
            str(mini_data_folder())
        }
        command += ["--data", *places] if len(places) == 1 else []
    return command


def _regression_folder(name: str, folder: Path, settings: Mapping[str, Any]) -> Path | None:
    """The training data with labels that a run learned from; KTO reads a run, and its name says which they were."""
    data = Path(settings.get("data") or "")
    deltas = (folder.parent.parent / DELTAS).glob("*/v*")
    named = [delta for delta in deltas if name.endswith(f"-{delta.parent.name}-{delta.name}")]
    return next((one for one in [data, *named] if (one / REGRESSION).is_file()), None)


def _has_failures(place: Path, variant: str) -> bool:
    """Whether a judge called an answer of a variant wrong."""
    run = Run(place)
    verdicts = (one for judge in judges_of(run) for one in run.verdicts(judge) if one.variant == variant)
    return any(one.outcome not in (*RIGHT, Outcome.UNSCORED) for one in verdicts)
