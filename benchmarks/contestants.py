"""Who trains in the training benchmark, what it took, and the clock that tells it."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import TrainerCallback

from mis_lib.schema import Record
from mis_lib.settings import Settings
from mis_lib.train.settings import TrainSettings


class Contestant(Settings):
    """Who trains on what; the settings hold everything that both kinds share."""

    name: str
    engine: Literal["trl", "ours"]
    short_lora: bool = True
    """Whether LoRA layers take the short way (``lowrank``)."""
    whole_logits: bool = False
    """Ours computes logits at every position, as TRL does, to tell what leaving them out is worth."""
    checkpoint: str
    data: Path
    """JSON Lines file of samples with answers; images beside it."""
    work: Path
    train: TrainSettings
    warmup: int = Field(default=2, ge=1)
    """First steps, which are not timed."""


class Measured(Record):
    """What one contestant took."""

    name: str
    seconds: list[float]
    """Of each timed step."""
    processor_seconds: list[float]
    """Of this process's threads, likewise; on a CPU it tells the work whatever else the machine does. Worker processes are left out."""
    rows: int
    """A step."""
    tokens: float
    """A row, images counted, padding left out; the same for all contestants."""
    losses: list[float]
    """Of each step, warm-up included."""
    memory_gb: float
    padding_share: float | None = None
    feature_seconds: float | None = None
    """What it took to fill the feature cache, which is not in ``seconds``."""
    device: str
    dtype: str
    packed: bool = False
    tower_flop: float = 0.0
    """Floating-point operations of a row's images in the tower, forward; zero where features are read from a cache."""
    flop: float = 0.0
    """Of a row in everything behind the tower, forward and backward."""


class Clock(TrainerCallback):
    """Notes when each step ended, by the clock on the wall and by the processor's."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[tuple[float, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self.ends.append(self._now())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the end of a step."""
        self.ends.append(self._now())

    def _now(self) -> tuple[float, float]:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def seconds(self, warmup: int) -> dict[str, Any]:
        """Of each step but the first ``warmup``, as fields of ``Measured``."""
        taken = [[b - a for a, b in zip(start, end, strict=True)] for start, end in pairwise(self.ends)][warmup:]
        return {
            "seconds": [round(wall, 5) for wall, _ in taken],
            "processor_seconds": [round(worked, 5) for _, worked in taken],
        }
