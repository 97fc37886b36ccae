"""One contestant of ``mis bench train``, measured in a separate process, so that memory and threads are its own.

    python -m benchmarks.contest CONTESTANT.json MEASURED.json

Contestants share checkpoint, rows, LoRA targets, number type and rows a step. ``trl`` is TRL's ``SFTTrainer`` with its
defaults; ``ours`` is the engine of ``mis train`` with its optimisations switched on one by one. A step is timed from
the end of the step before, loading included.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from mis_lib.errors import MissingPackageError
from mis_lib.files import load_image, read_records, write_atomic
from mis_lib.prompts import as_plain_text, special_tokens
from mis_lib.schema import Record, Sample
from mis_lib.settings import Settings
from mis_lib.train.batches import collate
from mis_lib.train.callbacks import RunCallback, Stop, memory_gb
from mis_lib.train.encode import IGNORED, Example
from mis_lib.train.lora import is_tower, restore
from mis_lib.train.loss import AnswerHead
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder, make_trainer, plan_of, prepare_features, sizes_of
from mis_lib.train.settings import TrainSettings
from mis_lib.train.trial import layout_of


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
    """Of this process's threads, likewise; on a CPU it tells the work whatever else the machine does. Worker processes
    are left out.
    """
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


def measure(contestant: Contestant) -> Measured:
    """Train as the contestant does and tell what it took.

    Raises:
        MisError: the contestant cannot train on this.
    """
    return (_ours if contestant.engine == "ours" else _trl)(contestant)


def _examples(contestant: Contestant) -> list[Example]:
    return [Example(sample, contestant.data.parent) for sample in read_records(contestant.data, Sample)]


def _ours(contestant: Contestant) -> Measured:
    settings, examples = contestant.train, _examples(contestant)
    torch.manual_seed(settings.seed)
    loaded = load(settings, contestant.checkpoint)
    if not contestant.short_lora:
        restore(loaded.model)
    encoder = make_encoder(loaded, settings)
    cache, worth, _ = prepare_features(loaded, encoder, examples, settings)
    sizes = sizes_of(examples, encoder, cache)
    layout = layout_of(loaded, encoder, examples, [size.tokens for size in sizes], settings, cache)
    plan = plan_of(settings, sizes, layout)
    clock, lines = Clock(loaded.device), []
    callback = RunCallback(settings, contestant.work, Stop(), None, (lines.append,))
    trainer = make_trainer(loaded, encoder, examples, plan, settings, contestant.work, cache, callback)
    trainer.add_callback(clock)
    answers = trainer.head
    if contestant.whole_logits:
        trainer.head = AnswerHead(loaded.network, whole_logits=True)
    trainer.train()
    trainer.head = answers  # what the rows need is counted alike for all
    tower, behind = row_flop(loaded.model, trainer, cached=cache is not None)
    return Measured(
        name=contestant.name,
        **clock.seconds(contestant.warmup),
        rows=settings.batch_size,
        tokens=sum(plan.lengths) / len(plan.lengths),
        losses=[line["loss"] for line in lines],
        memory_gb=memory_gb(trainer.args.device),
        padding_share=sum(line["padding_share"] for line in lines) / len(lines),
        feature_seconds=None if worth is None else worth.seconds,
        device=loaded.device,
        dtype=_dtype(loaded.network),
        packed=plan.packed,
        tower_flop=tower,
        flop=behind,
    )


def _trl(contestant: Contestant) -> Measured:
    """TRL's ``SFTTrainer`` with its own collator, loss on answers only; images are read when a row is collated."""
    try:
        from datasets import Dataset
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling, SFTTrainer
    except ImportError as error:
        raise MissingPackageError(
            f'the comparison needs the package trl ({error}); pip install "mis-workbench[bench]"'
        ) from error
    settings, examples = contestant.train, _examples(contestant)
    torch.manual_seed(settings.seed)
    loaded = load(settings, contestant.checkpoint)
    restore(loaded.model)
    encoder = make_encoder(loaded, settings)
    tokens = [size.tokens for size in sizes_of(examples, encoder, None)]
    collator = DataCollatorForVisionLanguageModeling(processor=loaded.processor, completion_only_loss=True)
    size = rows_a_pass(settings.batch_size, settings.batch_tokens, max(tokens))
    on_gpu = loaded.device.startswith("cuda")
    clock = Clock(loaded.device)
    trainer = SFTTrainer(
        model=loaded.model,
        args=SFTConfig(
            output_dir=str(contestant.work / "trl"),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=settings.batch_size // size,
            max_steps=settings.max_steps or 1,
            max_length=None,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=settings.warmup_ratio,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            seed=settings.seed,
            bf16=loaded.network.dtype == torch.bfloat16,  # TRL leaves pixels in float32 and lets autocast see to it
            use_cpu=not on_gpu,
            gradient_checkpointing=settings.gradient_checkpointing,
            dataloader_num_workers=(4 if on_gpu else 0) if settings.workers is None else settings.workers,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_list(_rows(examples, loaded.processor)),
        processing_class=loaded.processor,
        data_collator=lambda rows: collator(
            [{**row, "images": [load_image(Path(p)) for p in row["images"]]} for row in rows]
        ),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return Measured(
        name=contestant.name,
        **clock.seconds(contestant.warmup),
        rows=settings.batch_size,
        tokens=sum(tokens) / len(tokens),
        losses=losses,
        memory_gb=memory_gb(trainer.args.device),
        device=loaded.device,
        dtype=_dtype(loaded.network),
    )


def rows_a_pass(batch_size: int, batch_tokens: int, longest: int) -> int:
    """Rows a pass where all passes have the same number.

    The largest divisor of a step's rows that fits into ``batch_tokens``.
    """
    fitting = max(1, batch_tokens // longest)
    return max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fitting)


def row_flop(model: Any, trainer: Any, *, cached: bool) -> tuple[float, float]:
    """Operations that one row alone needs in the vision tower and after it, forward and backward.

    As torch counts them.

    Recomputation under gradient checkpointing is no need and is not counted.
    """
    model.train()
    if hasattr(model, "gradient_checkpointing_disable"):
        model.gradient_checkpointing_disable()
    row = trainer.steps.row(0)
    batch = collate([row], pad_token=trainer.steps.pad_token, packed=trainer.steps.plan.packed)
    assert (batch.labels != IGNORED).any()
    with FlopCounterMode(display=False) as counter:
        trainer._pass(model, batch.to(trainer.args.device)).backward()
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    towers = [sum(ops.values()) for name, ops in counts.items() if is_tower(name)]
    tower = 0.0 if cached else float(max(towers, default=0.0))
    model.zero_grad()
    return tower, float(total - tower)


def _rows(examples: list[Example], processor: Any) -> list[dict[str, Any]]:
    special = special_tokens(processor)
    return [
        {
            "images": [str(example.folder / name) for name in example.sample.images],
            "prompt": [{"role": "user", "content": as_plain_text(example.sample.question, special)}],
            "completion": [{"role": "assistant", "content": as_plain_text(example.sample.answer or "", special)}],
        }
        for example in examples
    ]


def _dtype(network: Any) -> str:
    return str(network.dtype).removeprefix("torch.")


def main() -> None:
    """Measure the contestant of a file and write what it took into another."""
    source, target = (Path(argument) for argument in sys.argv[1:3])
    contestant = Contestant(**json.loads(source.read_text(encoding="utf-8")))
    write_atomic(target, measure(contestant).model_dump_json().encode())


if __name__ == "__main__":
    main()
