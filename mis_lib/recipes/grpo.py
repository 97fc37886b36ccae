"""``method: safe_grpo``: constrained GRPO (``train.grpo``) in an ordinary run folder.

Prompts are the harmful rows of a split and their benign twins; no written answer is used. Each line of the log has
reward, cost (the share of unsafe answers), multiplier, over-refusal, the share that is unscored, and the distance from
the start (KL). A run that was stopped or killed goes on from its newest whole checkpoint (``save_every``).
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from mis_lib.errors import DataError
from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.recipes.judge import CACHE, check_judge, verdicts_of
from mis_lib.recipes.progress import say
from mis_lib.recipes.raft import data_folder
from mis_lib.recipes.samples import read_split
from mis_lib.recipes.train import Interrupted, base_of, open_shared, write_card
from mis_lib.results.runs import digest_of, folder_digest
from mis_lib.results.train_runs import LOG
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.train.distributed import main_first
from mis_lib.train.settings import GrpoSettings
from mis_lib.train.trackers import Trackers

STATE = "trainer_state.json"  # what Trainer writes last in a checkpoint


def train_grpo(settings: GrpoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train under a limit on unsafe answers; returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: called with every line of ``train_log.jsonl`` as it is written.

    Raises:
        MisError: something is refused or missing, or training failed; the message says what, where and how to fix it.
    """
    from transformers import set_seed

    from mis_lib.train.callbacks import Stop
    from mis_lib.train.grpo import NAMES, grpo_trainer
    from mis_lib.train.lora import groups, restore
    from mis_lib.train.model import limits_in, load
    from mis_lib.train.run import ADAPTER, CHECKPOINTS
    from mis_lib.train.trainer import save_result
    from mis_lib.train.trl import TrlLog

    checkpoint, folder = base_of(settings), data_folder(settings.data)
    samples = read_split(folder, settings.split, settings.limit)
    if not any(sample.harmful for sample in samples):
        raise DataError(
            f"{folder}, split {settings.split}: expected harmful rows, whose answers can be unsafe, found none of "
            f"{len(samples):,}"
        )
    check_judge(settings.judge, samples)
    digests = {
        "base": checkpoint if isinstance(checkpoint, str) else folder_digest(checkpoint),
        "data": digest_of(folder),
    } | ({"start_from": folder_digest(settings.start_from)} if settings.start_from else {})
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
        resumed = _newest(run.folder / CHECKPOINTS)
        set_seed(settings.seed)  # the adapter's first values are drawn
        loaded = load(settings, checkpoint)
        restore(loaded.model)  # TRL switches adapters, which the short way through LoRA layers does not know
        parts = {
            group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)
        }

        def rule(asked: Sequence[Sample], answers: Sequence[Response]) -> list[Outcome]:
            found = verdicts_of(settings.judge, asked, answers, folder, run.folder.parent / CACHE)
            outcomes = {verdict.sample_id: verdict.outcome for verdict in found}
            return [outcomes.get(sample.id, Outcome.UNSCORED) for sample in asked]

        stop = Stop()
        trackers = held.enter_context(closing(Trackers(settings.report_to, run.folder)))
        log = TrlLog(run.folder / LOG, settings, [one for one in (on_line, trackers) if one is not None], NAMES, stop)
        trainer = grpo_trainer(
            loaded.model,
            loaded.processor,
            samples,
            folder,
            rule,
            settings,
            run.folder / CHECKPOINTS,
            callbacks=[log],
        )
        if is_main:
            harmful = sum(sample.harmful for sample in samples)
            say(f"Constrained GRPO on {harmful:,} harmful and {len(samples) - harmful:,} harmless prompts")
            if resumed is not None:
                say(f"Goes on from {resumed.name}")
        with stop.listening():
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        if trainer.state.global_step < trainer.state.max_steps:
            raise Interrupted.after(run.folder, trainer.state.global_step, trainer.state.max_steps, stop.signal)
        save_result(
            trainer,
            run.folder / ADAPTER,
            checkpoint,
            limits=limits_in(settings),
            quantization=settings.quantization,
            trained_on=read_trained_on(settings.start_from) | {*item_digests((one, folder) for one in samples)},
        )
        if is_main:
            write_card(run, settings, len(samples))
            run.finish(
                {
                    "finished": True,
                    "step": trainer.state.global_step,
                    "steps": trainer.state.max_steps,
                    "rows": len(samples),
                    "parameters": parts,
                }
            )
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return run.folder


def _newest(folder: Path) -> Path | None:
    """The checkpoint of the most steps that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{STATE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
