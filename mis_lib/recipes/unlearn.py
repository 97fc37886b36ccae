"""``method: npo`` and ``method: rmu``: unlearning of unsafe answers (``train.unlearn``) in an ordinary run folder.

Forgotten are the rejected answers of harmful preference pairs, kept the preferred ones of benign pairs (both as for
DPO: read, constructed, or the model's own) and the rows of ``retain``. No safe answer to a harmful row is learned. A
run that was stopped or killed goes on from its newest whole checkpoint.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.errors import DataError
from mis_lib.recipes.dpo import pairs_of
from mis_lib.recipes.progress import say
from mis_lib.recipes.raft import data_folder
from mis_lib.recipes.trl import Prepared, Tell, train_by_trl
from mis_lib.results.runs import digest_of
from mis_lib.results.train_runs import TrainRun
from mis_lib.train.settings import NpoSettings, RmuSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from mis_lib.train.encode import Example
    from mis_lib.train.model import Loaded


def train_unlearn(settings: NpoSettings | RmuSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Unlearn; returns the folder of the finished run. Arguments and errors: ``train_by_trl``."""

    def prepare(run: TrainRun) -> Prepared:
        from mis_lib.train.unlearn import NAMES, unlearn_trainer

        forget, keep = rows_of(settings, run.folder)

        def trainer(loaded: "Loaded", checkpoints: Path, log: "TrainerCallback", tell: Tell) -> Any:
            return unlearn_trainer(loaded, forget, keep, settings, checkpoints, tell, callbacks=[log])

        return Prepared(
            said=f"{settings.method.upper()}: {len(forget):,} unsafe answers to forget, {len(keep):,} answers to keep",
            rows=len(forget) + len(keep),
            learned=[*forget, *keep],
            trainer=trainer,
            names=NAMES,
            result={"forget": len(forget), "keep": len(keep)},
        )

    return train_by_trl(
        settings, digest_of(settings.pairs or data_folder(settings.data)), prepare, on_line, resumes=True
    )


def rows_of(settings: NpoSettings | RmuSettings, work: Path) -> tuple[list["Example"], list["Example"]]:
    """The answers that are forgotten, and those that are kept.

    Args:
        settings: the run's.
        work: folder that data are prepared in.

    Raises:
        DataError: one of them is empty, or the pairs or the data cannot be used.
    """
    from mis_lib.train.dataset import examples_of
    from mis_lib.train.encode import Example

    pairs, folder = pairs_of(settings)

    def answered(sample: Any, answer: str) -> Example:
        return Example(sample.model_copy(update={"answer": answer, "segments": None}), folder)

    harmful = [pair for pair in pairs if pair.sample.harmful]
    unsafe = [pair for pair in harmful if not pair.provenance.get("rejected_safe")]
    if len(unsafe) < len(harmful):
        say(f"{len(harmful) - len(unsafe):,} rejected answers are not forgotten: the set calls them safe")
    forget = [answered(pair.sample, pair.rejected) for pair in unsafe]
    keep = [answered(pair.sample, pair.chosen) for pair in pairs if not pair.sample.harmful]
    if settings.retain is not None:
        plain = settings.model_copy(update={"limit": None})
        keep += examples_of(plain, settings.retain, work, say)
    for name, found, cure in (("forget", forget, "harmful rows"), ("keep", keep, "benign rows, or name some (retain)")):
        if not found:
            raise DataError(
                f"{settings.method}: expected answers to {name}, found none among {len(pairs):,} pairs; give data with "
                f"{cure}"
            )
    return forget, keep
