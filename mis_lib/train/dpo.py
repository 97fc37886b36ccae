"""DPO on questions about several images, by TRL's ``DPOTrainer``; rows of one, two and six images share a batch.

TRL prepares images at the moment of use, as we do, and takes any number a row. Three things are ours: how question and
answer become texts (``encode.Encoder``: images first, no special tokens in people's texts), how images are read
(upright, bounded in size), and that nothing is cut (``max_length`` is checked before the first step). The adapter's
start is the reference, so no second model is held.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from mis_lib.data.preferences import Preference
from mis_lib.errors import DataError, MissingPackageError, SettingsError, TrainingError
from mis_lib.files import load_image, open_append
from mis_lib.prompts import as_plain_text
from mis_lib.train import distributed
from mis_lib.train.callbacks import memory_gb
from mis_lib.train.encode import Encoder
from mis_lib.train.settings import SCHEDULER_OPTIONS, DpoSettings


class PreferenceRows:
    """Collates rows of ``preference_rows``: reads the images of a row when it is needed, TRL does the rest."""

    def __init__(self, processor: Any) -> None:
        self._collate = _trl().DataCollatorForVisionPreference(processor=processor)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Rows to tensors: preferred answers first, then the rejected ones, (2 B, T)."""
        return self._collate([_with_images(example) for example in examples])


def preference_rows(pairs: Sequence[Preference], folder: Path, processor: Any) -> list[dict[str, Any]]:
    """Pairs in TRL's form, with texts from the chat template as in fine-tuning on answers; images stay paths.

    Raises:
        ModelError: the chat template does not serve for training.
    """
    encoder = Encoder(processor)
    return [
        {
            "images": [str(folder / name) for name in pair.sample.images],
            "prompt": encoder.prompt_text(pair.sample),
            "chosen": encoder.answer_text(pair.sample, as_plain_text(pair.chosen, encoder.special)),
            "rejected": encoder.answer_text(pair.sample, as_plain_text(pair.rejected, encoder.special)),
        }
        for pair in pairs
    ]


def dpo_trainer(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    settings: DpoSettings,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """TRL's trainer for a prepared model (a ``PeftModel`` with the adapter to train).

    Args:
        model: as ``train.parts.prepare`` makes it.
        processor: of the model.
        rows: of ``preference_rows``.
        settings: the run's.
        folder: where checkpoints go.
        callbacks: for logs.

    Raises:
        DataError: a row is longer than ``max_length``.
        ImageError: an image is damaged.
        MissingPackageError: TRL is not installed.
        SettingsError: ``batch_size`` cannot be shared by the processes.
    """
    from datasets import Dataset

    trl = _trl()
    collator = PreferenceRows(processor)
    longest = _longest(rows, collator, settings)
    size = rows_a_pass(settings, longest, distributed.count())
    losses = {"sigmoid": 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
    in_bfloat16 = model.get_base_model().dtype == torch.bfloat16
    distributed.declare_precision(bfloat16=in_bfloat16)
    cuda = next(model.parameters()).device.type == "cuda"
    args = trl.DPOConfig(
        output_dir=str(folder),
        beta=settings.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=None,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=settings.batch_size // distributed.count() // size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        lr_scheduler_kwargs=SCHEDULER_OPTIONS.get(settings.scheduler),
        warmup_steps=settings.warmup_ratio,  # below 1: a share of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        seed=settings.seed,
        bf16=in_bfloat16,  # TRL leaves pixels in float32 and lets autocast see to it
        use_cpu=not cuda,
        gradient_checkpointing=settings.gradient_checkpointing,
        dataloader_num_workers=settings.workers or 0,
        logging_steps=settings.log_every,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 500,
        save_total_limit=settings.keep_checkpoints,
        report_to=["tensorboard"] if settings.tensorboard else [],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    args._n_gpu = min(1, args.n_gpu)  # as in SFT: several GPUs are for accelerate launch
    trainer = trl.DPOTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=processor,
        data_collator=collator,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # would print each line on standard output, which is for results
    return trainer


def rows_a_pass(settings: DpoSettings, longest: int, devices: int = 1) -> int:
    """Pairs a pass on one device: the largest divisor of its share of ``batch_size`` that fits into ``batch_tokens``.

    A pair has two answers, each of at most ``longest`` tokens; at least one pair is a pass.

    Raises:
        SettingsError: ``batch_size`` cannot be shared by so many devices.
    """
    share, rest = divmod(settings.batch_size, devices)
    if rest:
        raise SettingsError(
            f"batch_size: expected a multiple of the {devices} processes that train, found {settings.batch_size}; "
            "TRL gives each as many pairs"
        )
    fitting = max(1, settings.batch_tokens // (2 * longest))
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= fitting)


def _trl() -> Any:
    """TRL's module of DPO.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from trl.trainer import dpo_trainer as module
    except ImportError as error:
        raise MissingPackageError(
            f'method dpo needs the package trl ({error}); pip install "mis-workbench[dpo]"'
        ) from error
    return module


def _longest(rows: Sequence[dict[str, Any]], collator: PreferenceRows, settings: DpoSettings) -> int:
    """Tokens of the longest row; every row is encoded once, so a damaged image fails here and not hours later."""
    longest = 0
    for number, row in enumerate(rows, 1):
        length = collator([row])["input_ids"].shape[1]
        if settings.max_length is not None and length > settings.max_length:
            raise DataError(
                f"pair {number}: expected at most {settings.max_length:,} tokens, found {length:,}; nothing is cut: "
                "raise max_length or leave the pair out"
            )
        longest = max(longest, length)
    return longest


def _with_images(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "images": [load_image(Path(name)) for name in example["images"]]}


NAMES = {  # TRL's -> ours
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
    "mean_token_accuracy": "token_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


class DpoLog(TrainerCallback):
    """Writes ``train_log.jsonl`` and stops where the loss is no number."""

    def __init__(self, path: Path, settings: DpoSettings, on_line: Callable[[dict[str, Any]], None] | None) -> None:
        self.path, self.settings, self.on_line = path, settings, on_line
        self.began = self.since = time.perf_counter()
        self.step = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line for each line of TRL's that has a loss.

        Raises:
            TrainingError: the loss is no number.
        """
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"step {state.global_step}: expected a loss, found {logs['loss']}; lower learning_rate or raise beta"
            )
        now = time.perf_counter()
        rows = (state.global_step - self.step) * self.settings.batch_size
        line = {"step": state.global_step, "steps": state.max_steps}
        line |= {ours: round(float(logs[name]), 6) for name, ours in NAMES.items() if name in logs}
        line |= {
            "samples_per_second": round(rows / (now - self.since), 3),
            "memory_gb": memory_gb(args.device),
            "eta_seconds": round((now - self.began) / state.global_step * (state.max_steps - state.global_step), 1),
        }
        self.since, self.step = now, state.global_step
        with open_append(self.path) as stream:
            stream.write(json.dumps(line) + "\n")
        if self.on_line is not None:
            self.on_line(line)
