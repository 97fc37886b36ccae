"""One contestant of the training benchmark, measured in a process of its own, so that its memory and threads are its own too.

    python -m benchmarks.contest CONTESTANT.json MEASURED.json

Contestants get the same checkpoint, rows, LoRA targets, number type and rows a step. ``trl`` is TRL's ``SFTTrainer`` as people use it; ``ours`` is the
engine of ``mis train`` with its optimisations switched one by one. A step is timed from the end of the one before, loading included.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import Clock, Contestant, Measured
from mis_lib.errors import MissingPackageError
from mis_lib.files import load_image, read_records, write_atomic
from mis_lib.prompts import as_plain_text, special_tokens
from mis_lib.schema import Sample
from mis_lib.train.batches import collate
from mis_lib.train.callbacks import RunCallback, Stop, memory_gb
from mis_lib.train.encode import IGNORED, Place
from mis_lib.train.loader import lengths_of
from mis_lib.train.lora import is_tower, restore
from mis_lib.train.loss import WholeHead
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder, make_trainer, plan_of, prepare_features, use_packing


def measure(contestant: Contestant) -> Measured:
    """Train as the contestant does and tell what it took.

    Raises:
        MisError: the contestant cannot train on this.
    """
    return (_ours if contestant.engine == "ours" else _trl)(contestant)


def _places(contestant: Contestant) -> list[Place]:
    return [Place(sample, contestant.data.parent) for sample in read_records(contestant.data, Sample)]


def _ours(contestant: Contestant) -> Measured:
    settings, places = contestant.train, _places(contestant)
    torch.manual_seed(settings.seed)
    loaded = load(settings, contestant.checkpoint)
    if not contestant.short_lora:
        restore(loaded.model)
    encoder = make_encoder(loaded, settings)
    cache, worth, _ = prepare_features(loaded, encoder, places, settings)
    packed = use_packing(loaded.network, settings)
    plan = plan_of(settings, lengths_of(places, encoder, cache), packed=packed)
    clock, lines = Clock(loaded.device), []
    callback = RunCallback(settings, contestant.work, Stop(), None, (lines.append,))
    trainer = make_trainer(loaded, encoder, places, plan, settings, contestant.work, cache, callback)
    trainer.add_callback(clock)
    answers = trainer.head
    if contestant.whole_logits:
        trainer.head = WholeHead(loaded.network)
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
        packed=packed,
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
    settings, places = contestant.train, _places(contestant)
    torch.manual_seed(settings.seed)
    loaded = load(settings, contestant.checkpoint)
    restore(loaded.model)
    encoder = make_encoder(loaded, settings)
    lengths = lengths_of(places, encoder, None)
    collator = DataCollatorForVisionLanguageModeling(processor=loaded.processor, completion_only_loss=True)
    size = rows_a_pass(settings.batch_size, settings.batch_tokens, max(lengths))
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
        train_dataset=Dataset.from_list(_rows(places, loaded.processor)),
        processing_class=loaded.processor,
        data_collator=lambda rows: collator([{**row, "images": [load_image(Path(p)) for p in row["images"]]} for row in rows]),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return Measured(
        name=contestant.name,
        **clock.seconds(contestant.warmup),
        rows=settings.batch_size,
        tokens=sum(lengths) / len(lengths),
        losses=losses,
        memory_gb=memory_gb(trainer.args.device),
        device=loaded.device,
        dtype=_dtype(loaded.network),
    )


def rows_a_pass(batch_size: int, batch_tokens: int, longest: int) -> int:
    """Rows a pass where all passes have the same number: the largest divisor of a step's rows that fits into ``batch_tokens``."""
    fitting = max(1, batch_tokens // longest)
    return max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fitting)


def row_flop(model: Any, trainer: Any, *, cached: bool) -> tuple[float, float]:
    """Operations that one row alone needs in the vision tower and behind it, forward and backward, as torch counts them.

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


def _rows(places: list[Place], processor: Any) -> list[dict[str, Any]]:
    special = special_tokens(processor)
    return [
        {
            "images": [str(place.folder / name) for name in place.sample.images],
            "prompt": [{"role": "user", "content": as_plain_text(place.sample.question, special)}],
            "completion": [{"role": "assistant", "content": as_plain_text(place.sample.answer or "", special)}],
        }
        for place in places
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
