"""The training that follows on annotations: which command learns from a delta, and from which weights it goes on."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib.analysis.delta_files import TRAIN
from mis_lib.data.preferences import PAIRS
from mis_lib.files import read_jsonl
from mis_lib.models.shipped import shipped_variants
from mis_lib.recipes.train import read_train_settings
from mis_lib.results.runs import CONFIG, Run
from mis_lib.store.provenance import folder_digest


def train_command(config: Path, folder: Path, runs: Path, sets: Sequence[str] = ()) -> list[str]:
    """The command that trains on a delta: ``config`` with the delta as its data."""
    settings = [*overrides(folder, runs, read_train_settings(config, sets).method), *sets]
    return [sys.executable, "-m", "mis_lib.cli", "train", "--config", os.fspath(config), "--set", *settings]


def overrides(folder: Path, runs: Path, method: str = "sft") -> list[str]:
    """The settings that make a delta the data of a training run, going on from the adapter that people annotated most; DPO gets the delta's pairs."""
    adapter = start_of(folder, runs).adapter
    return [
        f"data={folder}",
        *([f"pairs={folder}"] if method == "dpo" else []),
        *([f"start_from={adapter}"] if adapter else []),
    ]


class Start(NamedTuple):
    """Where a re-tune begins."""

    adapter: Path | None
    """``None``: where the settings file says."""
    words: str


def start_of(folder: Path, runs: Path) -> Start:
    """Where the re-tune on a delta begins: at the adapter that people annotated most, a shipped one or the result of a training run below ``runs``."""
    annotated = _annotated(folder / TRAIN) or _annotated(folder / PAIRS)
    if not annotated:
        return Start(None, f"No row of {folder} says who answered: training begins where its settings say")
    (run, variant), _ = annotated.most_common(1)[0]
    adapter = _adapter_of(run, variant, runs)
    if adapter is None:
        begins = "training begins where its settings say; --set start_from=ADAPTER names another start"
        return Start(None, f"Most rows are of {variant} in {run}, of which no adapter is here: {begins}")
    return Start(adapter, f"Most rows are of {variant} in {run}: training goes on from {adapter}")


def _annotated(file: Path) -> Counter[tuple[str, str]]:
    """How many rows of a delta's file come from each run and variant; replayed ones from none."""
    origins = [row["provenance"] for row in read_jsonl(file)]
    return Counter((str(origin["run"]), str(origin["variant"])) for origin in origins if "run" in origin)


def _adapter_of(run: str, variant: str, runs: Path) -> Path | None:
    """The adapter that answered: the one with the digest that the run was made with, else the shipped one of that name.

    Of answers that a server or another tool gave nothing is known but names: theirs is not the shipped adapter because it is called so.
    """
    config = Run(runs / run).config if (runs / run / CONFIG).exists() else None
    if config is not None and config.backend != "local":
        return None
    digest = config.variants.get(variant) if config is not None else None
    shipped = shipped_variants().get(variant)
    candidates = [*([shipped] if shipped else []), *sorted(runs.glob("*/v*/adapter"))]
    same = (adapter for adapter in candidates if digest and folder_digest(adapter) == digest)
    return next(same, shipped)
