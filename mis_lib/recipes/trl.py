"""A run of a method that TRL trains: what DPO, KTO and constrained GRPO share from settings to adapter."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.train import Interrupted, Listener, base_of, open_shared, write_card
from mis_lib.results.runs import folder_digest
from mis_lib.results.train_runs import LOG, TrainRun
from mis_lib.schema import Sample
from mis_lib.train.distributed import main_first
from mis_lib.train.settings import TrainSettings
from mis_lib.train.trackers import Trackers

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from mis_lib.train.model import Loaded

STATE = "trainer_state.json"  # what Trainer writes last in a checkpoint

Tell = Callable[[str], None]


class Prepared(NamedTuple):
    """What one method adds to a run."""

    said: str
    """What is trained on, in words."""
    rows: int
    learned: Iterable[tuple[Sample, Path]]
    """Every sample that is trained on, and the folder of its images."""
    trainer: Callable[["Loaded", Path, "TrainerCallback", Tell], Any]
    """From the model, the folder of checkpoints, the log and where to say things to TRL's trainer."""
    names: Mapping[str, str]
    """TRL's metrics of the method, and what the log calls them."""
    result: Mapping[str, Any] = {}
    """What ``result.json`` has besides."""


def train_by_trl(
    settings: TrainSettings,
    data: str,
    prepare: Callable[[TrainRun], Prepared],
    on_line: Listener | None,
    *,
    resumes: bool = False,
) -> Path:
    """Train, and write adapter, log, card and result; returns the folder of the finished run.

    Args:
        settings: resolved.
        data: digest of what is trained on.
        prepare: called once the run is open, so that it may take long.
        on_line: called with every line of ``train_log.jsonl`` as it is written.
        resumes: whether a stopped run goes on from its newest whole checkpoint; else it starts again.

    Raises:
        Interrupted: the run was asked to end and has saved a checkpoint.
        MisError: something is refused or missing, or training failed; the message says what, where and how to fix it.
    """
    from transformers import set_seed

    from mis_lib.train.callbacks import Stop
    from mis_lib.train.lora import groups, restore
    from mis_lib.train.model import limits_in, load
    from mis_lib.train.run import ADAPTER, CHECKPOINTS
    from mis_lib.train.trainer import GOES_ON, save_result
    from mis_lib.train.trl import TrlLog

    checkpoint = base_of(settings)
    digests = {"base": checkpoint if isinstance(checkpoint, str) else folder_digest(checkpoint), "data": data} | (
        {"start_from": folder_digest(settings.start_from)} if settings.start_from else {}
    )
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
        tell: Tell = say if is_main else lambda message: None
        prepared = prepare(run)
        trained_on = read_trained_on(settings.start_from) | {*item_digests(prepared.learned)}
        set_seed(settings.seed)  # the adapter's first values are drawn
        loaded = load(settings, checkpoint)
        restore(loaded.model)  # TRL switches adapters, which the short way through LoRA layers does not know
        parts = {
            group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)
        }
        stop = Stop()
        trackers = held.enter_context(closing(Trackers(settings.report_to, run.folder)))
        listeners = [one for one in (on_line, trackers) if one is not None]
        log = TrlLog(run.folder / LOG, settings, listeners, prepared.names, stop if resumes else None)
        trainer = prepared.trainer(loaded, run.folder / CHECKPOINTS, log, tell)
        tell(prepared.said)
        newest = _newest(run.folder / CHECKPOINTS) if resumes else None
        if newest is not None:
            tell(f"Goes on from {newest.name}")
        if resumes:
            held.enter_context(stop.listening())
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        step, steps = trainer.state.global_step, trainer.state.max_steps
        if resumes and step < steps:
            raise Interrupted.after(run.folder, step, steps, stop.signal)
        save_result(
            trainer,
            run.folder / ADAPTER,
            checkpoint,
            limits=limits_in(settings),
            quantization=settings.quantization,
            trained_on=trained_on,
            again=GOES_ON if resumes else "the run starts again",
        )
        if is_main:
            write_card(run, settings, prepared.rows)
            counts = {"step": step, "steps": steps, "rows": prepared.rows}
            run.finish({"finished": True, **counts, **prepared.result, "parameters": parts})
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return run.folder


def _newest(folder: Path) -> Path | None:
    """The checkpoint of the most steps that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{STATE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
