"""``mis bench train``: our engine against TRL's ``SFTTrainer``, and what each of its optimisations is worth, measured in one run.

Contestants train the same LoRA on the same rows, each in a process of its own; they take turns, round after round, so that another program's work
falls on all alike, and ratios are taken within a round. What the rows need in operations is counted by torch and held against the rate at which this
machine multiplies matrices (model FLOPs utilisation).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from benchmarks.bench_train_ladder import Rung, ladder
from benchmarks.bench_train_results import Result, result_of
from benchmarks.bench_train_rows import mini_rows, write_rows
from mis_lib import console
from mis_lib.errors import SettingsError, TrainingError
from mis_lib.files import write_atomic
from mis_lib.settings import Settings
from mis_lib.train.settings import LoraSettings, TrainSettings


class BenchTrainSettings(Settings):
    """What is measured and for how long."""

    model: str = "mini"
    """``mini``, a shape with random weights (internvl2_5-8b, qwen2-vl-7b, tiny-...), or a checkpoint folder."""
    data: Path | None = None
    """JSON Lines file of samples with answers; MIS-Mini's training rows for mini, else rows made for the purpose."""
    steps: int = Field(default=10, ge=1)
    """Timed steps a round; ``warmup`` more go before."""
    warmup: int = Field(default=2, ge=1)
    rounds: int = Field(default=2, ge=1)
    batch_size: int = Field(default=8, ge=1)
    batch_tokens: int = Field(default=4096, ge=16)
    images: int = Field(default=2, ge=1, le=6)
    """Of a made row, 448 pixels a side."""
    answer_tokens: int = Field(default=250, ge=1)
    """Of a made row, for shapes, whose tokens are bytes."""
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(default=2e-4, gt=0)
    precision: Literal["float32", "bfloat16"] | None = None
    device: str | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    """Measure compiled layers too."""
    liger: bool = False
    """Measure Liger kernels too (GPU, package liger-kernel)."""
    contestants: tuple[str, ...] | None = None
    """Names of the ladder; all if not given."""
    seed: int = 0


class TrainBench(BaseModel):
    """All contestants, and under what they were measured."""

    settings: BenchTrainSettings
    results: list[Result]
    device: str
    dtype: str
    matmul_tflops: float
    rows: int
    tokens_per_row: float
    cores: int
    load_average: float | None


def bench_train(settings: BenchTrainSettings) -> TrainBench:
    """Measure every contestant in every round.

    Raises:
        SettingsError: model, data or contestants are unknown.
        TrainingError: a contestant failed; its own message is quoted.
    """
    rungs = ladder(settings.contestants, on_gpu=_on_gpu(settings), compiled=settings.compile, liger=settings.liger)
    checkpoint = _checkpoint(settings)
    with tempfile.TemporaryDirectory(prefix="mis-bench-") as name:
        work = Path(name)
        source = settings.data or (mini_rows() if settings.model == "mini" else None)
        data = write_rows(
            source,
            work / "data",
            _rows_needed(settings),
            images=settings.images,
            answer_tokens=settings.answer_tokens,
            seed=settings.seed,
        )
        taken: dict[str, list[Any]] = {rung.name: [] for rung in rungs}
        for number in range(1, settings.rounds + 1):
            for rung in rungs:
                started = time.monotonic()
                taken[rung.name].append(_measure(rung, settings, checkpoint, data, work))
                console.say(
                    f"round {number} of {settings.rounds}: {rung.name}, {time.monotonic() - started:.0f} s in all"
                )
    one = next(iter(taken.values()))[0]
    rate = matmul_rate(one.device, one.dtype)
    return TrainBench(
        settings=settings,
        results=[result_of(rung.name, taken, rate) for rung in rungs],
        device=one.device,
        dtype=one.dtype,
        matmul_tflops=round(rate / 1e12, 4),
        rows=_rows_needed(settings),
        tokens_per_row=round(one.tokens, 1),
        cores=os.cpu_count() or 0,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def matmul_rate(device: str, dtype: str) -> float:
    """Operations a second of the fastest square matrix product, best of several."""
    import torch

    side = 8192 if device.startswith("cuda") else 1024
    left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _checkpoint(settings: BenchTrainSettings) -> Path:
    from benchmarks.architectures import SHAPES
    from benchmarks.shapes import ensure_shape

    if settings.model == "mini":
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(console.say)
    if settings.model in SHAPES:
        import torch

        fast = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        console.say(f"Making random weights: {SHAPES[settings.model].about}")
        return ensure_shape(settings.model, device=fast, progress=console.say)
    if not (Path(settings.model) / "config.json").exists():
        raise SettingsError(
            f"model: unknown {settings.model!r}; expected mini, a checkpoint folder or one of {', '.join(SHAPES)}"
        )
    return Path(settings.model)


def _on_gpu(settings: BenchTrainSettings) -> bool:
    import torch

    return torch.cuda.is_available() if settings.device is None else settings.device.startswith("cuda")


def _rows_needed(settings: BenchTrainSettings) -> int:
    return (settings.steps + settings.warmup) * settings.batch_size


def _measure(rung: Rung, settings: BenchTrainSettings, checkpoint: Path, data: Path, work: Path) -> Any:
    from benchmarks.contestants import Contestant, Measured  # imports torch

    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        contestant = Contestant(
            name=rung.name,
            engine=rung.engine,
            short_lora=rung.short_lora,
            whole_logits=rung.whole_logits,
            checkpoint=str(checkpoint),
            data=data,
            work=folder,
            train=_train_settings(settings, rung, folder),
            warmup=settings.warmup,
        )
        write_atomic(folder / "contestant.json", contestant.model_dump_json().encode())
        command = [
            sys.executable,
            "-m",
            "benchmarks.contest",
            str(folder / "contestant.json"),
            str(folder / "out.json"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise TrainingError(f"{rung.name} on {settings.model}: {reason}")
        return Measured.model_validate_json((folder / "out.json").read_bytes())


def _train_settings(settings: BenchTrainSettings, rung: Rung, folder: Path) -> TrainSettings:
    return TrainSettings(
        model=settings.model,
        lora=settings.lora,
        learning_rate=settings.learning_rate,
        max_steps=settings.steps + settings.warmup,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        precision=settings.precision,
        device=settings.device,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        runs=folder,
        **rung.changes,
    )
