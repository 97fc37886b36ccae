"""``method: safe_grpo``: constrained GRPO (``train.grpo``) in an ordinary run folder.

Prompts are the harmful rows of a split and their benign twins; no written answer is used. Each line of the log has
reward, cost (the share of unsafe answers), multiplier, over-refusal, the share that is unscored, and the distance from
the start (KL). A run that was stopped or killed goes on from its newest whole checkpoint (``save_every``).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.errors import DataError
from mis_lib.recipes.judge import CACHE, check_judge, verdicts_of
from mis_lib.recipes.raft import data_folder
from mis_lib.recipes.samples import read_split
from mis_lib.recipes.trl import Prepared, Tell, train_by_trl
from mis_lib.results.runs import digest_of
from mis_lib.results.train_runs import TrainRun
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.train.settings import GrpoSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from mis_lib.train.model import Loaded


def train_grpo(settings: GrpoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train under a limit on unsafe answers; returns the folder of the finished run.

    Arguments and errors as ``train_by_trl``.

    Raises:
        DataError: no row is harmful, or the judge can rule on none.
    """
    folder = data_folder(settings.data)
    samples = read_split(folder, settings.split, settings.limit)
    harmful = sum(sample.harmful for sample in samples)
    if not harmful:
        raise DataError(
            f"{folder}, split {settings.split}: expected harmful rows, whose answers can be unsafe, found none of "
            f"{len(samples):,}"
        )
    check_judge(settings.judge, samples)

    def prepare(run: TrainRun) -> Prepared:
        from mis_lib.train.grpo import NAMES, grpo_trainer

        def rule(asked: Sequence[Sample], answers: Sequence[Response]) -> list[Outcome]:
            found = verdicts_of(settings.judge, asked, answers, folder, run.folder.parent / CACHE)
            outcomes = {verdict.sample_id: verdict.outcome for verdict in found}
            return [outcomes.get(sample.id, Outcome.UNSCORED) for sample in asked]

        def trainer(loaded: "Loaded", checkpoints: Path, log: "TrainerCallback", tell: Tell) -> Any:
            parts = loaded.model, loaded.processor, samples, folder, rule, settings, checkpoints
            return grpo_trainer(*parts, callbacks=[log])

        return Prepared(
            said=f"Constrained GRPO on {harmful:,} harmful and {len(samples) - harmful:,} harmless prompts",
            rows=len(samples),
            learned=[(sample, folder) for sample in samples],
            trainer=trainer,
            names=NAMES,
        )

    return train_by_trl(settings, digest_of(folder), prepare, on_line, resumes=True)
