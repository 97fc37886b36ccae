"""What the methods that TRL trains share: its arguments from our settings, its metrics in our log, its absence."""

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from mis_lib.errors import MissingPackageError, SettingsError, TrainingError
from mis_lib.files import open_append
from mis_lib.train import distributed
from mis_lib.train.callbacks import Stop, memory_gb, truncate
from mis_lib.train.model import device_of
from mis_lib.train.settings import SCHEDULER_OPTIONS, TrainSettings

NAMES: Mapping[str, str] = {  # TRL's -> ours
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
}


def trl_module(name: str, method: str) -> Any:
    """A module of TRL.

    Args:
        name: of the module in ``trl.trainer``.
        method: that needs it.

    Raises:
        MissingPackageError: TRL is not installed.
    """
    try:
        return importlib.import_module(f"trl.trainer.{name}")
    except ImportError as error:
        raise MissingPackageError(
            f'method {method} needs the package trl ({error}); pip install "mis-workbench[dpo]"'
        ) from error


def trl_arguments(settings: TrainSettings, model: Any, folder: Path, rows_a_pass: int) -> dict[str, Any]:
    """Arguments of any of TRL's configurations.

    Args:
        settings: the run's.
        model: a ``PeftModel``.
        folder: where checkpoints go.
        rows_a_pass: rows a pass on one device.
    """
    in_bfloat16 = model.get_base_model().dtype == torch.bfloat16
    distributed.declare_precision(bfloat16=in_bfloat16)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": rows_a_pass,
        "gradient_accumulation_steps": share_of_step(settings) // rows_a_pass,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "lr_scheduler_kwargs": SCHEDULER_OPTIONS.get(settings.scheduler),
        "warmup_steps": settings.warmup_ratio,  # below 1: a share of all steps
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "seed": settings.seed,
        "bf16": in_bfloat16,  # TRL leaves pixels in float32 and lets autocast see to it
        "use_cpu": not device_of(settings).startswith("cuda"),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "dataloader_num_workers": settings.workers or 0,
        "logging_steps": settings.log_every,
        "save_strategy": "steps" if settings.save_every else "no",
        "save_steps": settings.save_every or 500,
        "save_total_limit": settings.keep_checkpoints,
        "report_to": [],  # as ``TrlLog`` says, in our names
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def share_of_step(settings: TrainSettings, devices: int | None = None) -> int:
    """Rows of a step that one of ``devices`` takes [default: as many as there are processes].

    Raises:
        SettingsError: ``batch_size`` cannot be shared by so many.
    """
    devices = devices or distributed.count()
    share, rest = divmod(settings.batch_size, devices)
    if rest:
        raise SettingsError(
            f"batch_size: expected a multiple of the {devices} processes that train, found {settings.batch_size}; "
            "TRL gives each as many rows"
        )
    return share


def on_one_gpu(arguments: Any) -> Any:
    """TRL's arguments with one GPU a process, as in fine-tuning on answers: several are for accelerate launch."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def without_printing(trainer: Trainer) -> Trainer:
    """TRL's trainer without lines on standard output, which is for results."""
    trainer.remove_callback(PrinterCallback)
    return trainer


class TrlLog(TrainerCallback):
    """Writes ``train_log.jsonl`` and stops where the loss is no number.

    Args:
        path: of the log.
        settings: the run's.
        listeners: called with each line.
        names: TRL's metrics of the method, and what the log calls them.
        stop: ends the run after a step, with a checkpoint.
    """

    def __init__(
        self,
        path: Path,
        settings: TrainSettings,
        listeners: Sequence[Callable[[dict[str, Any]], None]],
        names: Mapping[str, str],
        stop: Stop | None = None,
    ) -> None:
        self.stop = stop
        self.path, self.settings, self.listeners, self.names = path, settings, listeners, {**NAMES, **names}
        self.began = self.since = time.perf_counter()
        self.first = self.step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and remove the lines that a killed run left after the checkpoint it goes on from."""
        if state.is_world_process_zero:
            truncate(self.path, state.global_step)
        self.began = self.since = time.perf_counter()
        self.first = self.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the run where that was asked for."""
        if self.stop is not None and self.stop.signal is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

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
        found = {ours: logs[name] for name, ours in self.names.items() if name in logs}
        line |= {ours: round(float(value), 6) for ours, value in found.items() if value is not None}
        a_step = (now - self.began) / (state.global_step - self.first)
        line |= {
            "samples_per_second": round(rows / (now - self.since), 3),
            "memory_gb": memory_gb(args.device),
            "eta_seconds": round(a_step * (state.max_steps - state.global_step), 1),
        }
        self.since, self.step = now, state.global_step
        with open_append(self.path) as stream:
            stream.write(json.dumps(line) + "\n")
        for listener in self.listeners:
            listener(line)
