"""The paper's tables next to one's own: every printed number keeps its place, one's own run is the line under it.

    own = own_rates({"InternVL2.5-8B + MIRage": Mine(Path("runs/mirage/v1"), "mirage")})
    beside(select(benchmark="MIS"), own)          # two lines a model: published, yours ("-" if not run)

What a configuration file asks for is read by the settings that training itself uses, so this table cannot differ from
the run.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mis_lib.data.tokens import SHAPES, Training, memory
from mis_lib.results import frames
from mis_lib.results.evaluated import read_run
from mis_lib.results.published import Published
from mis_lib.settings import load_settings
from mis_lib.train.settings import TrainSettings

NOT_RUN = "-"
PUBLISHED, YOURS = "published", "yours"
Key = tuple[str, str, str]  # label, split, metric


class Mine(NamedTuple):
    """One's own run of a published line."""

    folder: Path
    variant: str
    judge: str | None = None


def own_rates(mine: Mapping[str, Mine]) -> dict[Key, str]:
    """One's own rates by label, split and metric, with intervals and n, as cells of a table.

    Raises:
        DataError: a folder is no run.
        SettingsError: a run has several judges and none is named.
    """
    cells = {}
    for label, (folder, variant, judge) in mine.items():
        board = frames.leaderboard([read_run(folder, judge)], total=False)
        for row in board[(board["variant"] == variant) & board["value"].notna()].itertuples():
            cells[label, str(row.group), str(row.metric)] = f"{row.value:.2f} ({row.low:.1f}-{row.high:.1f}, n {row.n})"
    return cells


def tables(rows: Iterable[Published]) -> dict[str, list[Published]]:
    """Published numbers by the table they are printed in, in the order of the file."""
    found: dict[str, list[Published]] = {}
    for row in rows:
        found.setdefault(", ".join(filter(None, (row.source, row.table))), []).append(row)
    return found


def beside(rows: Iterable[Published], own: Mapping[Key, str]) -> pd.DataFrame:
    """One printed table, with one's own run under each line once there is any; * marks a number known to be wrong."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        column = " ".join(filter(None, (row.benchmark, row.split, row.metric)))
        mark = "*" if row.flag else ""
        lines.setdefault((row.label, PUBLISHED), {})[column] = f"{row.value:.{row.decimals}f}{mark}"
        if own:
            key = (row.label, row.split, row.metric)
            mine = own.get(key, NOT_RUN) if row.benchmark == "MIS" else NOT_RUN
            lines.setdefault((row.label, YOURS), {})[column] = mine
    frame = pd.DataFrame(lines.values(), index=pd.MultiIndex.from_tuples(lines, names=["model", ""]))
    return frame.fillna("")


def errors(rows: Iterable[Published]) -> pd.DataFrame:
    """The printed numbers that cannot be right, one row each: source, model, what, printed, corrected, why."""
    found = [
        {
            "source": ", ".join(filter(None, (row.source, row.table))),
            "model": row.label,
            "what": " ".join(filter(None, (row.benchmark, row.split, row.metric))),
            "printed": f"{row.value:.{row.decimals}f}",
            "corrected": "" if row.corrected is None else f"{row.corrected:g}",
            "why": "; ".join(filter(None, (row.flag, row.note))),
        }
        for row in rows
        if row.flag
    ]
    columns = ["source", "model", "what", "printed", "corrected", "why"]
    return pd.DataFrame(found, columns=columns, index=pd.RangeIndex(1, len(found) + 1))  # people count from 1


def configurations(folder: Path, pattern: str = "*.yaml") -> pd.DataFrame:
    """What the configuration files of training ask for, one row a file."""
    rows = []
    for path in sorted(folder.glob(pattern)):
        settings = load_settings(TrainSettings, path)
        rows.append(
            {
                "file": path.name,
                "mixture": settings.mixture or "as given",
                "tuning": f"LoRA rank {settings.lora.rank}" if settings.tuning == "lora" else "full",
                "vision": "frozen" if settings.freeze_vision else "trained",
                "projector": "frozen" if settings.projector_is_frozen else "trained",
                "learning rate": f"{settings.learning_rate:g}",
                "epochs": settings.epochs,
                "rows a step": settings.batch_size,
                "warm-up": f"{settings.warmup_ratio:g}",
                "scheduler": settings.scheduler,
            }
        )
    return pd.DataFrame(rows).set_index("file")


def memory_needs(longest: int, *, rank: int = 16) -> pd.DataFrame:
    """What training needs by ``data.tokens.memory``: GB for one row a pass with checkpointing, LoRA and full, by model.

    Args:
        longest: tokens of the longest row.
        rank: of LoRA.
    """
    rows = {}
    for pattern, shape in SHAPES.items():
        lora, full = (memory(shape, longest, Training(lora_rank=value, checkpointing=True)) for value in (rank, 0))
        rows[_readable(pattern)] = {
            "parameters (10^9)": shape.parameters / 1e9,
            f"LoRA rank {rank} (GB)": lora.total / 1e9,
            "full (GB, over all GPUs)": full.total / 1e9,
        }
    return pd.DataFrame(rows).T


def _readable(pattern: str) -> str:
    """A pattern of ``SHAPES`` as people write the name: its first alternatives, without signs of patterns."""
    plain = re.sub(r"\(\\\.5\)\?|\((\w+)\|\w+\)", r"\1", pattern.strip("^$"))
    for sign, written in {"_?": "", ".*": "-", "[._]": ".", "?": "", "\\": ""}.items():
        plain = plain.replace(sign, written)
    return plain
