"""``mis bench train``: our engine against TRL's ``SFTTrainer``, and the gain of each of its optimisations.

All are measured in one run.

Contestants train the same LoRA on the same rows, each in a separate process. They take turns, round after round, so
that load from other programs falls on all alike; ratios are taken within a round. Each rung of the ladder keeps the
optimisations of the rungs before it, so that the difference between two neighbours is the gain of one. torch counts the
operations that the rows need, which are compared with the rate of matrix products measured here (model FLOPs
utilisation).
"""

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, Field
from rich import box
from rich.table import Table

from mis_lib.cli.checkout import command_of
from mis_lib.errors import SettingsError, TrainingError
from mis_lib.files import read_records, write_atomic, write_records
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data
from mis_lib.results.tables import pipe_table
from mis_lib.schema import Record, Sample
from mis_lib.settings import Settings
from mis_lib.train.settings import LoraSettings, TrainSettings

TRL, PLAIN = "TRL SFTTrainer", "ours, plain"


class Rung(NamedTuple):
    """One contestant of the ladder and what it adds."""

    name: str
    engine: Literal["trl", "ours"]
    changes: dict[str, Any]
    """Settings of training that differ from the shared ones."""
    whole_logits: bool = False
    """Logits at every position, as most trainers compute them."""
    short_lora: bool = True
    """Whether LoRA layers take the short way (``train.lowrank``)."""
    on_gpu_only: bool = False


_OFF = {"feature_cache": False, "packing": False, "group_by_length": False}


_GROUPED = {**_OFF, "group_by_length": True}


_PACKED = {**_GROUPED, "packing": None}


_CACHED = {**_PACKED, "feature_cache": True}


LADDER = (
    Rung(TRL, "trl", _OFF, whole_logits=True, short_lora=False),
    Rung(PLAIN, "ours", {**_OFF, "workers": 0}, whole_logits=True, short_lora=False),
    Rung("+ logits at answers only", "ours", {**_OFF, "workers": 0}, short_lora=False),
    Rung("+ short LoRA path", "ours", {**_OFF, "workers": 0}),
    Rung("+ loader runs ahead", "ours", _OFF, on_gpu_only=True),
    Rung("+ grouped by length", "ours", _GROUPED),
    Rung("+ rows packed", "ours", _PACKED),
    Rung("+ features cached", "ours", _CACHED),
)


COMPILED = Rung("+ layers compiled", "ours", {**_CACHED, "compile": True})


LIGER = Rung("+ Liger kernels", "ours", {**_CACHED, "liger": True}, on_gpu_only=True)


class BenchTrainSettings(Settings):
    """What is measured and for how long."""

    model: str = "mini"
    """mini, a shape with random weights (internvl2_5-8b, qwen2-vl-7b, tiny-...), or a checkpoint folder."""
    data: Path | None = None
    """JSON Lines file of samples with answers (default: MIS-Mini's training rows for mini, else rows of noise)."""
    steps: int = Field(default=10, ge=1)
    """Timed steps a round; ``warmup`` more go before."""
    warmup: int = Field(default=2, ge=1)
    rounds: int = Field(default=2, ge=1)
    """How often all are measured."""
    batch_size: int = Field(default=8, ge=1)
    """Rows a step."""
    batch_tokens: int = Field(default=4096, ge=16)
    """Most tokens of a forward pass."""
    images: int = Field(default=2, ge=1, le=6)
    """Of a made row, 448 pixels a side."""
    answer_tokens: int = Field(default=250, ge=1)
    """Of a made row, for shapes, whose tokens are bytes."""
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(default=2e-4, gt=0)
    precision: Literal["float32", "bfloat16"] | None = None
    """float32 or bfloat16 (default: what suits the device)."""
    device: str | None = None
    """cpu, cuda, ... (default: a GPU if there is one)."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """Measure compiled layers too."""
    liger: bool = False
    """Measure Liger kernels too (GPU, package liger-kernel)."""
    contestants: tuple[str, ...] | None = None
    """Names of the ladder; all if not given."""
    seed: int = 0


class Result(Record):
    """One contestant over all rounds."""

    name: str
    samples_per_second: float
    """Median of the rounds; ``tokens_per_second`` likewise, padding left out."""
    tokens_per_second: float
    ratio: float | None
    """Samples a second against TRL's, median within a round."""
    work_ratio: float | None
    """Samples a second of processor time against TRL's, on a CPU: other programs slow this down far less."""
    memory_gb: float
    loss: float
    """Mean over all steps, first round; ``last_loss`` over the last quarter of them."""
    last_loss: float
    padding_share: float | None
    utilisation: float | None
    """Operations that the rows need against those this machine can do in the time, percent."""
    packed: bool
    feature_seconds: float | None
    """To fill the feature cache once, not in the speed."""


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
                say(f"round {number} of {settings.rounds}: {rung.name}, {time.monotonic() - started:.0f} s in all")
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
    from benchmarks.random_checkpoints import CHECKPOINTS, ensure_checkpoint

    if settings.model == "mini":
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(say)
    if settings.model in CHECKPOINTS:
        import torch

        fast = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        say(f"Making random weights: {CHECKPOINTS[settings.model].about}")
        return ensure_checkpoint(settings.model, device=fast, progress=say)
    if not (Path(settings.model) / "config.json").exists():
        raise SettingsError(
            f"model: unknown {settings.model!r}; expected mini, a checkpoint folder or one of {', '.join(CHECKPOINTS)}"
        )
    return Path(settings.model)


def _on_gpu(settings: BenchTrainSettings) -> bool:
    import torch

    return torch.cuda.is_available() if settings.device is None else settings.device.startswith("cuda")


def _rows_needed(settings: BenchTrainSettings) -> int:
    return (settings.steps + settings.warmup) * settings.batch_size


def _measure(rung: Rung, settings: BenchTrainSettings, checkpoint: Path, data: Path, work: Path) -> Any:
    from benchmarks.contest import Contestant, Measured  # imports torch

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
        files = [str(folder / "contestant.json"), str(folder / "out.json")]
        command, environment = command_of("benchmarks.contest", files, "mis bench train")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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


def ladder(names: Sequence[str] | None, *, on_gpu: bool, compiled: bool = False, liger: bool = False) -> list[Rung]:
    """The contestants asked for; all that this device is measured with if none is named.

    Raises:
        SettingsError: a name is unknown.
    """
    every = [*LADDER, *([COMPILED] if compiled else []), *([LIGER] if liger else [])]
    if names is None:
        return [rung for rung in every if on_gpu or not rung.on_gpu_only]
    known = {rung.name: rung for rung in every}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise SettingsError(f"contestants: unknown {', '.join(unknown) or 'none'}; known: {', '.join(known)}")
    return [known[name] for name in names]


PICTURES, SIDE = 32, 448
LETTERS = "etaoinshrdlu"


def write_rows(
    source: Path | None, folder: Path, number: int, *, images: int, answer_tokens: int, seed: int, side: int = SIDE
) -> Path:
    """Write ``number`` rows with their images into a new folder; returns the data file.

    Args:
        source: JSON Lines file of samples with answers, its images beside it; rows of noise are made if not given.
        folder: new.
        number: of rows; those of ``source`` are drawn by lot, again and again if need be.
        images: of a row of noise.
        answer_tokens: of a row of noise, where a token is a byte; its end token counts.
        seed: of the lot.
        side: of an image of noise, in pixels.

    Raises:
        SettingsError: the source has no row with an answer.
    """
    folder.mkdir()
    made = (
        _made(folder, number, images, answer_tokens, seed, side)
        if source is None
        else _drawn(source, folder, number, seed)
    )
    write_records(folder / "train.jsonl", made)
    return folder / "train.jsonl"


def mini_rows() -> Path:
    """The training rows of MIS-Mini."""
    return mini_data() / "train.jsonl"


def _drawn(source: Path, folder: Path, number: int, seed: int) -> list[Sample]:
    there = [sample for sample in read_records(source, Sample) if sample.answer]
    if not there:
        raise SettingsError(f"data: expected samples with answers in {source}, found none")
    chosen = random.Random(seed).choices(there, k=number)
    for image in {name for sample in chosen for name in sample.images}:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / image, folder / image)
    return [sample.model_copy(update={"id": f"{at}-{sample.id}"}) for at, sample in enumerate(chosen)]


def _made(folder: Path, number: int, images: int, answer_tokens: int, seed: int, side: int) -> list[Sample]:
    dice = random.Random(seed)
    for picture in range(PICTURES):
        noise = Image.frombytes("RGB", (56, 56), dice.randbytes(56 * 56 * 3)).resize((side, side))
        noise.save(folder / f"{picture}.png", compress_level=1)
    return [
        Sample(
            id=str(row),
            question="What do the images show together?",
            images=[f"{dice.randrange(PICTURES)}.png" for _ in range(images)],
            answer="".join(dice.choices(LETTERS, k=max(1, answer_tokens - 1))),
        )
        for row in range(number)
    ]


def result_of(name: str, taken: dict[str, list[Any]], rate: float) -> Result:
    """What a contestant took.

    Args:
        name: of the contestant.
        taken: ``Measured`` of every round, by contestant.
        rate: operations a second that the machine can do.
    """
    mine = taken[name]
    speeds = [_speed(each) for each in mine]
    rivals = taken.get(TRL)
    speed, first = statistics.median(speeds), mine[0]
    needed = _flop(first, taken)
    quarter = max(1, len(first.losses) // 4)
    on_cpu = first.device == "cpu" and bool(first.processor_seconds)
    return Result(
        name=name,
        samples_per_second=round(speed, 3),
        tokens_per_second=round(speed * first.tokens, 1),
        ratio=_ratio(mine, rivals, "seconds"),
        work_ratio=_ratio(mine, rivals, "processor_seconds") if on_cpu else None,
        memory_gb=max(each.memory_gb for each in mine),
        loss=round(statistics.fmean(first.losses), 4),
        last_loss=round(statistics.fmean(first.losses[-quarter:]), 4),
        padding_share=first.padding_share,
        utilisation=round(100 * needed * speed / rate, 1) if needed else None,
        packed=first.packed,
        feature_seconds=first.feature_seconds,
    )


def _ratio(mine: list[Any], rivals: list[Any] | None, clock: str) -> float | None:
    """How much less time a contestant takes than TRL, median over the rounds."""
    if rivals is None:
        return None
    return round(
        statistics.median(sum(getattr(b, clock)) / sum(getattr(a, clock)) for a, b in zip(mine, rivals, strict=True)),
        3,
    )


def _speed(measured: Any) -> float:
    """Samples a second: rows of all timed steps over their seconds."""
    return measured.rows * len(measured.seconds) / sum(measured.seconds)


def _flop(measured: Any, taken: dict[str, list[Any]]) -> float:
    """Operations that a row needs; TRL's rows need what ours do without a cache."""
    if measured.flop:
        return measured.tower_flop + measured.flop
    ours = next((each[0] for name, each in taken.items() if name != TRL and each[0].feature_seconds is None), None)
    return ours.tower_flop + ours.flop if ours else 0.0


def show(found: TrainBench) -> Iterator[Table | str]:
    """The measurement for a terminal: a table, and under what it was taken."""
    headings, *rows = _cells(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        first = heading == headings[0]
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first)  # figures stay whole
    for row in rows:
        table.add_row(*row)
    yield table
    yield _caption(found)


def to_markdown(found: TrainBench) -> str:
    """The measurement as a table for a document."""
    headings, *rows = _cells(found)
    return f"{pipe_table(headings, rows)}\n\n{_caption(found)}"


def _cells(found: TrainBench) -> list[list[str]]:
    headings = [
        "contestant",
        "rows/s",
        "tokens/s",
        "x TRL",
        "x work",
        "GB",
        "loss",
        "last",
        "pad",
        "of peak",
    ]
    return [
        headings,
        *(
            [
                row.name + (" (packed)" if row.packed else ""),
                f"{row.samples_per_second:.2f}",
                f"{row.tokens_per_second:,.0f}",
                "-" if row.ratio is None else f"{row.ratio:.2f}",
                "-" if row.work_ratio is None else f"{row.work_ratio:.2f}",
                f"{row.memory_gb:.2f}",
                f"{row.loss:.3f}",
                f"{row.last_loss:.3f}",
                "-" if row.padding_share is None else f"{100 * row.padding_share:.0f} %",
                "-" if row.utilisation is None else f"{row.utilisation:.0f} %",
            ]
            for row in found.results
        ),
    ]


def _caption(found: TrainBench) -> str:
    settings = found.settings
    cached = next((row.feature_seconds for row in found.results if row.feature_seconds is not None), None)
    filled = "" if cached is None else f"filling the feature cache took {cached:.1f} s and is not in the speed; "
    return (
        f"{settings.model}, LoRA r={settings.lora.rank}, {found.dtype} on {found.device}, {found.tokens_per_row:.0f} "
        f"tokens a row, "
        f"{settings.batch_size} rows a step, at most {settings.batch_tokens:,} tokens a pass; {settings.steps} timed "
        f"steps after "
        f"{settings.warmup}, {settings.rounds} rounds (median); x TRL: rows a second, x work: rows a second of "
        f"processor time; GB: peak memory; loss: mean of all steps, last quarter; {filled}"
        f"of peak: operations the rows need against {found.matmul_tflops:.2f} TFLOP/s of matrix products measured "
        f"here; "
        f"{found.cores} cores, load average {found.load_average}"
    )
