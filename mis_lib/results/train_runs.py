"""Run folders of training: what was asked for, how it went, and what came out.

    runs/NAME/vN/  config.yaml        the resolved settings
                   environment.json   versions, device, git revision, digests of base and data
                   train_log.jsonl    losses and evaluations, as they came
                   checkpoints/       to go on from; gone once the run is finished
                   data/              the mixture, if one was made
                   adapter/           standard PEFT folder (or model/, a whole checkpoint)
                   result.json        written last: a run without it is not finished
    runs/NAME/.vN.lock                held by the process that trains it
    runs/NAME/.rounds.lock            held by the process that goes through the rounds of a method that has such (RAFT)

A run is resumed where settings, base and data are the same; anything else opens the next version. ``losses`` and
``evaluations`` are its log as frames.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mis_lib.errors import SettingsError
from mis_lib.files import hold, is_held, write_atomic
from mis_lib.results.runs import CONFIG, ENVIRONMENT, environment, is_training
from mis_lib.settings import Settings, dump_settings, load_settings

RESULT, LOG = "result.json", "train_log.jsonl"
# what a result does not follow from
PLACES = {"name", "runs", "resume", "keep_checkpoints", "workers", "log_every", "report_to"}
WATCHED = ("asr", "over_refusal", "named")
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainRun:
    """One version of a training run on disk."""

    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out, or ``None`` while the run is not finished."""
        path = self.folder / RESULT
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def environment(self) -> dict[str, Any]:
        """What the run was made with."""
        return json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8"))

    def settings(self, kind: type[Settings]) -> Settings | None:
        """The run's settings, or ``None`` if they are those of another method or an older version."""
        try:
            return load_settings(kind, self.folder / CONFIG)
        except SettingsError:
            return None

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from training this version while the block lasts; a process that dies lets go of it.

        Raises:
            SettingsError: another process trains it.
        """
        return _alone(self._lock, self.folder)

    @property
    def is_held(self) -> bool:
        """Whether some process is training it now, however it was started."""
        return is_held(self._lock)

    @property
    def _lock(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.lock")

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result."""
        write_atomic(self.folder / RESULT, (json.dumps(result, indent=1) + "\n").encode())


def open_train_run(
    root: Path, name: str, settings: Settings, digests: dict[str, str], device: str, *, resume: bool
) -> TrainRun:
    """The newest version of ``root/name`` of the same settings, base and data, or the next one.

    Args:
        root: folder of all runs.
        name: of the run.
        settings: resolved.
        digests: of base and data.
        device: for the record.
        resume: ``False`` opens the next version in any case.

    Raises:
        SettingsError: the name cannot be a folder's.
    """
    _check_name(name)
    for run in reversed(train_versions(root, name)) if resume else ():
        same = run.environment.get("digests") == digests and _essence(run.settings(type(settings))) == _essence(
            settings
        )
        if same:
            return run
    return _begin(root / name, settings, digests, device)


def train_versions(root: Path, name: str) -> list[TrainRun]:
    """All versions of a training run, oldest first; evaluation runs of the same name are left out."""
    folders = [path for path in (root / name).glob("v*") if path.name[1:].isdigit()]
    trained = [path for path in folders if (path / CONFIG).exists() and is_training(path)]
    return [TrainRun(path) for path in sorted(trained, key=lambda path: int(path.name[1:]))]


def hold_rounds(root: Path, name: str) -> AbstractContextManager[None]:
    """Keep other processes from the rounds of ``root/name`` while the block lasts: between two no version is held.

    Raises:
        SettingsError: another process does, or the name cannot be a folder's.
    """
    _check_name(name)
    return _alone(root / name / ".rounds.lock", root / name)


def losses(lines: Lines) -> pd.DataFrame:
    """Loss of every logged step by segment: step, segment ("all" answer tokens, or a kind), loss (nats a token)."""
    rows = [
        {"step": line["step"], "segment": segment, "loss": value}
        for line in lines
        if "loss" in line
        for segment, value in {"all": line["loss"], **(line.get("loss_by_segment") or {})}.items()
    ]
    return pd.DataFrame(rows, columns=["step", "segment", "loss"])


def evaluations(lines: Lines) -> pd.DataFrame:
    """The rates ``WATCHED`` measured on the way: step, metric, value, low, high, n."""
    rows = [
        {
            "step": line["step"],
            "metric": metric,
            **{key: line["eval"][metric][key] for key in ("value", "low", "high", "n")},
        }
        for line in lines
        for metric in WATCHED
        if metric in line.get("eval", {})
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value", "low", "high", "n"])


def constraint(lines: Lines) -> pd.DataFrame:
    """What constrained GRPO logged: step, measure ("unsafe", "over-refusal": percent; "multiplier"; "KL"), value."""
    measures = {"cost": ("unsafe", 100), "over_refusal": ("over-refusal", 100), "multiplier": ("multiplier", 1)}
    rows = [
        {"step": line["step"], "measure": measure, "value": line[name] * scale}
        for line in lines
        if "multiplier" in line
        for name, (measure, scale) in {**measures, "kl": ("KL", 1)}.items()
        if name in line
    ]
    return pd.DataFrame(rows, columns=["step", "measure", "value"])


def _essence(settings: Settings | None) -> dict[str, Any] | None:
    return None if settings is None else settings.model_dump(mode="json", exclude=PLACES)


def _begin(parent: Path, settings: Settings, digests: dict[str, str], device: str) -> TrainRun:
    taken = [int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit()]
    run = TrainRun(parent / f"v{max(taken, default=0) + 1}")
    run.folder.mkdir(parents=True)
    content = json.dumps(environment(device) | {"digests": digests}, indent=1)
    write_atomic(run.folder / ENVIRONMENT, f"{content}\n".encode())
    write_atomic(run.folder / CONFIG, dump_settings(settings).encode())  # last: a folder without it is no run
    return run


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SettingsError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")


def _alone(path: Path, shown: Path) -> AbstractContextManager[None]:
    return hold(
        path,
        SettingsError(
            f"{shown}: another process is training this run; wait until it has ended, "
            "or give the new one a name of its own (name)"
        ),
    )
