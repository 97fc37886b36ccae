"""``method: kto``: learn from answers of a run that people or a judge called right or wrong (``train.kto``).

No corrected answer is needed. Answers without a verdict, or whose verdict is unscored, are left out and counted. The
model may be another than the one that answered. A run that was killed starts again, as DPO's does.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.annotate.calibration import PEOPLE
from mis_lib.errors import DataError
from mis_lib.files import digest_json
from mis_lib.recipes.people import annotated
from mis_lib.recipes.progress import say
from mis_lib.recipes.trl import Prepared, Tell, train_by_trl
from mis_lib.results.evaluated import data_folder, judges_of, open_folder, read_samples
from mis_lib.results.metrics import RIGHT
from mis_lib.results.train_runs import TrainRun
from mis_lib.schema import Outcome
from mis_lib.train.settings import KtoSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from mis_lib.train.kto import Labelled
    from mis_lib.train.model import Loaded


def train_kto(settings: KtoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train on right and wrong answers; returns the folder of the finished run. Errors: ``train_by_trl``."""
    rows, folder = labelled_answers(settings)
    right = sum(row.right for row in rows)

    def prepare(run: TrainRun) -> Prepared:
        from mis_lib.train.kto import NAMES, kto_trainer

        def trainer(loaded: "Loaded", checkpoints: Path, log: "TrainerCallback", tell: Tell) -> Any:
            return kto_trainer(loaded.model, loaded.processor, rows, folder, settings, checkpoints, callbacks=[log])

        return Prepared(
            said=f"KTO on {right:,} right and {len(rows) - right:,} wrong answers",
            rows=len(rows),
            learned=[(row.sample, folder) for row in rows],
            trainer=trainer,
            names=NAMES,
            result={"right": right},
        )

    digest = digest_json(sorted((row.sample.id, row.answer, row.right) for row in rows))
    return train_by_trl(settings, digest, prepare, on_line)


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
