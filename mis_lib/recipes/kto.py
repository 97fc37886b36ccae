"""``method: kto``: learn from answers of a run that people or a judge called right or wrong (``train.kto``).

No corrected answer is needed. Answers without a verdict, or whose verdict is unscored, are left out and counted. The
model may be another than the one that answered. A run that was killed starts again, as DPO's does.
"""

import random
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.annotate.calibration import PEOPLE
from mis_lib.errors import DataError
from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.recipes.judgements import annotated
from mis_lib.recipes.progress import say
from mis_lib.recipes.train import base_of, open_shared, write_card
from mis_lib.results.evaluated import data_folder, judges_of, open_folder, read_samples
from mis_lib.results.metrics import RIGHT
from mis_lib.results.runs import folder_digest
from mis_lib.results.train_runs import LOG
from mis_lib.schema import Outcome
from mis_lib.train.distributed import main_first
from mis_lib.train.settings import KtoSettings
from mis_lib.train.trackers import Trackers

if TYPE_CHECKING:
    from mis_lib.train.kto import Labelled


def train_kto(settings: KtoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train on right and wrong answers; returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: called with every line of ``train_log.jsonl`` as it is written.

    Raises:
        MisError: something is refused or missing, or training failed; the message says what, where and how to fix it.
    """
    from transformers import set_seed

    from mis_lib.files import digest_json
    from mis_lib.train.kto import NAMES, kto_trainer
    from mis_lib.train.lora import groups, restore
    from mis_lib.train.model import limits_in, load
    from mis_lib.train.run import ADAPTER, CHECKPOINTS
    from mis_lib.train.trainer import save_result
    from mis_lib.train.trl import TrlLog

    checkpoint = base_of(settings)
    rows, folder = labelled_answers(settings)
    digests = {
        "base": checkpoint if isinstance(checkpoint, str) else folder_digest(checkpoint),
        "data": digest_json(sorted((row.sample.id, row.answer, row.right) for row in rows)),
    } | ({"start_from": folder_digest(settings.start_from)} if settings.start_from else {})
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
        set_seed(settings.seed)  # the adapter's first values are drawn
        loaded = load(settings, checkpoint)
        restore(loaded.model)  # TRL switches adapters, which the short way through LoRA layers does not know
        parts = {
            group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)
        }
        trackers = held.enter_context(closing(Trackers(settings.report_to, run.folder)))
        log = TrlLog(run.folder / LOG, settings, [one for one in (on_line, trackers) if one is not None], NAMES)
        right = sum(row.right for row in rows)
        if is_main:
            say(f"KTO on {right:,} right and {len(rows) - right:,} wrong answers")
        trainer = kto_trainer(
            loaded.model, loaded.processor, rows, folder, settings, run.folder / CHECKPOINTS, callbacks=[log]
        )
        trainer.train()
        save_result(
            trainer,
            run.folder / ADAPTER,
            checkpoint,
            limits=limits_in(settings),
            quantization=settings.quantization,
            trained_on=read_trained_on(settings.start_from) | {*item_digests((row.sample, folder) for row in rows)},
            again="KTO starts again",
        )
        if is_main:
            write_card(run, settings, len(rows))
            run.finish(
                {
                    "finished": True,
                    "step": trainer.state.global_step,
                    "steps": trainer.state.max_steps,
                    "rows": len(rows),
                    "right": right,
                    "parameters": parts,
                }
            )
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return run.folder


def labelled_answers(settings: KtoSettings) -> tuple[list["Labelled"], Path]:
    """The answers of a run with a verdict, in an order drawn by the seed, and the folder of their images.

    TRL takes rows in the order given: it estimates the KL divergence from neighbours.

    Raises:
        DataError: no answer has a verdict, the judge has not ruled, or the samples cannot be found.
    """
    from mis_lib.train.kto import Labelled

    run = open_folder(settings.answers)
    responses = [one for one in run.responses() if settings.variant in (None, one.variant)]
    if settings.verdicts != PEOPLE and settings.verdicts not in judges_of(run):
        raise DataError(
            f"verdicts: expected people or a judge that has ruled on {run.folder}, found {settings.verdicts!r}; "
            f"known: {', '.join(judges_of(run)) or 'none'}"
        )
    verdicts = annotated(run) if settings.verdicts == PEOPLE else run.verdicts(settings.verdicts)
    outcomes = {(one.sample_id, one.variant): one.outcome for one in verdicts}
    found = [(one, outcomes.get((one.sample_id, one.variant), Outcome.UNSCORED)) for one in responses]
    scored = [(one, outcome) for one, outcome in found if outcome is not Outcome.UNSCORED and one.text.strip()]
    if not scored:
        whose = f" of {settings.variant}" if settings.variant else ""
        raise DataError(
            f"{run.folder}: expected answers{whose} that {settings.verdicts} called right or wrong, found none of "
            f"{len(responses):,}; annotate them, or name a judge (verdicts)"
        )
    if lost := len(found) - len(scored):
        say(f"{lost:,} of {len(found):,} answers are left out: they are empty or have no verdict")
    samples = {sample.id: sample for sample in read_samples(run, [one for one, _ in scored], settings.data)}
    rows = [Labelled(samples[one.sample_id], one.text, outcome in RIGHT) for one, outcome in scored]
    rows = rows if settings.limit is None else random.Random(settings.seed).sample(rows, min(settings.limit, len(rows)))
    random.Random(settings.seed).shuffle(rows)
    return rows, data_folder(run, settings.data)
