"""What happens between the steps: log lines, evaluations, checkpoints, and an end on a signal.

    train_log.jsonl  one line every ``log_every`` steps, and one for each evaluation ({"step": ..., "eval": {...}})

A line holds sums over all devices since the line before, so that nothing is averaged twice.
"""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mis_lib.files import open_append, read_jsonl, write_atomic
from mis_lib.models.load import peak_memory
from mis_lib.train.encode import SEGMENTS
from mis_lib.train.settings import TrainSettings
from mis_lib.train.trainer import AnswerTrainer, Tally, publish_checkpoint

LOG = "train_log.jsonl"

Line = dict[str, Any]
Listener = Callable[[Line], None]
Evaluate = Callable[[Any, Any], Mapping[str, Any]]
"""From model and processor to rates by name, each as JSON."""


class Stop:
    """Remembers that a signal asked the run to end; the step in hand is finished and a checkpoint written."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """While the block lasts, SIGTERM and SIGINT end the run after the current step; a second one, at once."""
        try:
            old = {kind: signal.signal(kind, self._ask) for kind in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread, as in a notebook's or an app's worker
            yield self
            return
        try:
            yield self
        finally:
            for kind, handler in old.items():
                signal.signal(kind, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


class RunCallback(TrainerCallback):
    """Writes the log, evaluates, saves and stops.

    Args:
        settings: of the run.
        folder: of the run.
        stop: read after each step.
        evaluate: measures safety and helpfulness; None for no evaluations.
        listeners: called with every line.
    """

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        stop: Stop,
        evaluate: Evaluate | None = None,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        self.settings, self.folder, self.stop = settings, folder, stop
        self.evaluate, self.listeners = evaluate, listeners
        self.trainer: AnswerTrainer | None = None
        self._since = self._began = time.perf_counter()
        self._first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove what a killed run left after the checkpoint it goes on from: log lines, and half a checkpoint."""
        if state.is_world_process_zero:
            shutil.rmtree(str(args.output_dir), ignore_errors=True)
            truncate(self.folder / LOG, state.global_step)
        self._since = self._began = time.perf_counter()
        self._first = state.global_step

    def on_step_end(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Decide on a log line, an evaluation, a checkpoint and on stopping; ``Trainer`` does them in this order."""
        step, settings = state.global_step, self.settings
        is_last = step >= state.max_steps
        control.should_log = step % settings.log_every == 0 or is_last
        every = settings.evaluation.every
        control.should_evaluate = bool(every) and (step % every == 0 or is_last)
        control.should_save = bool(settings.save_every) and step % settings.save_every == 0 and not is_last
        if self._is_asked_to_stop() and not is_last:
            control.should_save = control.should_training_stop = True
        return control

    def on_log(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Line, **kwargs: Any
    ) -> None:
        """Write a log line; ``logs`` are ``Trainer``'s numbers of the last step."""
        if "learning_rate" in logs:  # the last call of a run has only its duration
            self._log(state, logs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure safety and helpfulness."""
        self._evaluate(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Publish the checkpoint that was written."""
        publish_checkpoint(self._trainer(), Path(str(args.output_dir)).parent, self.settings.keep_checkpoints)

    def _is_asked_to_stop(self) -> bool:
        """Whether any process was asked to; all of them must end after the same step."""
        trainer = self._trainer()
        asked = torch.tensor(float(self.stop.signal is not None), device=trainer.args.device)
        return bool(trainer.sum_over_devices(asked))

    def _trainer(self) -> AnswerTrainer:
        assert self.trainer is not None, "set callback.trainer before training"
        return self.trainer

    def _log(self, state: TrainerState, logs: Line) -> None:
        trainer = self._trainer()
        tally, categories = trainer.drain(), trainer.drain_categories()
        now = time.perf_counter()
        line = {
            "step": state.global_step,
            "steps": state.max_steps,
            "epoch": round(state.global_step / trainer.steps.plan.steps_per_epoch, 4),
            **quotients(tally, now - self._since),
            "lr": logs["learning_rate"],
            "grad_norm": round(logs.get("grad_norm", math.nan), 5),
            "memory_gb": memory_gb(trainer.args.device),
            "eta_seconds": self._eta(state, now),
            "loss_by_category": {name: round(loss, 6) for name, loss in categories.items()},
        }
        self._since = now
        self._write(state, line)

    def _eta(self, state: TrainerState, now: float) -> float:
        done = state.global_step - self._first
        return round((now - self._began) / max(1, done) * (state.max_steps - state.global_step), 1)

    def _evaluate(self, state: TrainerState) -> None:
        trainer = self._trainer()
        if self.evaluate is not None and state.is_world_process_zero:
            began = time.perf_counter()
            model: Any = trainer.model
            model.eval()
            with trainer.accelerator.autocast():
                found = self.evaluate(trainer.accelerator.unwrap_model(model), trainer.processing_class)
            model.train()
            self._write(state, {"step": state.global_step, "eval": dict(found)})
            self._since += time.perf_counter() - began  # answering is no training time
        trainer.accelerator.wait_for_everyone()

    def _write(self, state: TrainerState, line: Line) -> None:
        if not state.is_world_process_zero:
            return
        with open_append(self.folder / LOG) as stream:
            stream.write(json.dumps(line) + "\n")
        for listener in self.listeners:
            listener(line)


def quotients(tally: Tally, seconds: float) -> Line:
    """The numbers of a log line that follow from sums over passes."""
    losses, counts = tally.losses.tolist(), tally.counts.tolist()
    rows, tokens, padded = tally.sizes.tolist()
    answers = max(1.0, sum(counts))
    return {
        "loss": round(sum(losses) / answers, 7),
        "token_accuracy": round(float(tally.hits) / answers, 5),
        "samples_per_second": round(rows / seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "padding_share": round(1 - tokens / padded, 4),
        "loss_by_segment": {
            kind.value: round(losses[at] / counts[at], 6) for at, kind in enumerate(SEGMENTS) if counts[at]
        },
    }


def memory_gb(device: torch.device) -> float:
    """The most memory that was in use so far: on a GPU the device's, else this process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return round(peak_memory() / 1e9, 3)


def truncate(path: Path, step: int) -> None:
    """Keep the log's lines up to a step."""
    if not path.exists():
        return
    kept = [line for line in read_jsonl(path) if line.get("step", math.inf) <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
