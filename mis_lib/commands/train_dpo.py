"""``method: dpo``: direct preference optimisation in an ordinary run folder, by TRL (``train.dpo``).

The log has the keys of ``mis train`` as far as TRL tells them, and DPO's own: ``reward_margin`` (how much further the model prefers the better answer
than it did at the start) and ``reward_accuracy`` (share of pairs in which it does). A run that was killed begins anew: TRL's checkpoints hold
weights and optimiser, but what a resumed run sees is TRL's business and is not held to an uninterrupted one.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mis_lib import console
from mis_lib.commands.preference_data import data_folder, pairs_of
from mis_lib.commands.train_card import write_card
from mis_lib.errors import TrainingError
from mis_lib.files import open_append
from mis_lib.recipes.train import base_of, open_shared
from mis_lib.results.train_runs import LOG, TrainRun
from mis_lib.store.provenance import digest_of, folder_digest
from mis_lib.train.distributed import main_first
from mis_lib.train.preference_settings import DpoSettings

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
        from mis_lib.train.callbacks import memory_gb

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


def train_dpo(settings: DpoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train on preference pairs; returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: told every line of ``train_log.jsonl`` as it is written.

    Raises:
        MisError: something is refused, missing or went wrong; says what, where and how to put it right.
    """
    checkpoint = base_of(settings)
    source = settings.pairs or data_folder(settings.data)
    digests = {
        "base": checkpoint if isinstance(checkpoint, str) else folder_digest(checkpoint),
        "data": digest_of(source),
    } | ({"start_from": folder_digest(settings.start_from)} if settings.start_from else {})
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
            if is_main:
                (run.folder / LOG).unlink(missing_ok=True)
        return _train(settings, checkpoint, run, on_line, is_main=is_main)


def _train(
    settings: DpoSettings,
    checkpoint: Path | str,
    run: TrainRun,
    on_line: Callable[[dict[str, Any]], None] | None,
    *,
    is_main: bool,
) -> Path:
    from mis_lib.train.dpo import dpo_trainer, preference_rows
    from mis_lib.train.lora import groups
    from mis_lib.train.lowrank import restore
    from mis_lib.train.model import limits_in, load
    from mis_lib.train.run import ADAPTER, CHECKPOINTS
    from mis_lib.train.saving import save_result

    pairs, folder = pairs_of(settings)
    loaded = load(settings, checkpoint)
    restore(loaded.model)  # TRL switches adapters, which the short way through LoRA layers does not know
    parts = {group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)}
    rows = preference_rows(pairs, folder, loaded.processor)
    log = DpoLog(run.folder / LOG, settings, on_line)
    if is_main:
        console.say(f"DPO on {len(pairs):,} pairs")
    trainer = dpo_trainer(loaded.model, loaded.processor, rows, settings, run.folder / CHECKPOINTS, callbacks=[log])
    trainer.train()
    save_result(trainer, run.folder / ADAPTER, checkpoint, limits=limits_in(settings), again="DPO begins anew")
    if not is_main:
        return run.folder
    write_card(run, settings, len(pairs))
    run.finish(
        {
            "finished": True,
            "step": trainer.state.global_step,
            "steps": trainer.state.max_steps,
            "rows": len(pairs),
            "rejected": {
                kind: sum(pair.provenance.get("rejected") == kind for pair in pairs)
                for kind in sorted({str(pair.provenance.get("rejected")) for pair in pairs})
            },
            "parameters": parts,
        }
    )
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return run.folder
