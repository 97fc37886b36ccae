"""``method: raft``: rounds of answering, ranking and fine-tuning (Dong et al. 2023, arXiv 2304.06767).

A round lets the model of the round before answer each question several times, keeps the best answer by the rule judge, leaves out questions
without any good one, and fine-tunes on what was kept. Nothing is learned from written labels: only what the model could already say.

    RUNS/NAME-answers-R/vN/   all answers of round R
    RUNS/NAME-kept-R/         what was kept of them, an ordinary data folder
    RUNS/NAME-round-R/vN/     training run of round R; the last one is RUNS/NAME/vN, with raft.json

One run at a time goes through the rounds of a name. Of several processes of a run (``accelerate launch``) each gives its share of the answers.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mis_lib import console
from mis_lib.commands.preference_data import Ranked, data_folder, ranked_answers
from mis_lib.data.mixed import write
from mis_lib.data.mixing import compose
from mis_lib.data.mixtures import SAFETY, Arm, Part, Recipe, SampleSet
from mis_lib.data.spread import spread
from mis_lib.data.turns import with_answer
from mis_lib.errors import DataError
from mis_lib.files import write_atomic
from mis_lib.recipes.generate import read_split
from mis_lib.results.train_runs import hold_rounds
from mis_lib.schema import Sample
from mis_lib.train.distributed import check_device, main_first, wait_for_all
from mis_lib.train.preference_settings import RaftSettings
from mis_lib.train.settings import TrainSettings

RAFT_ONLY = set(RaftSettings.model_fields) - set(TrainSettings.model_fields)


Rank = Callable[[Sequence[Sample], Path, RaftSettings, int], list[Ranked]]


def train_raft(settings: RaftSettings, train: Callable[[TrainSettings], Path], rank: Rank = ranked_answers) -> Path:
    """Run all rounds; returns the run folder of the last one.

    Args:
        settings: of the run.
        train: fine-tunes on the kept answers of a round (``commands.train.train``).
        rank: answers questions and ranks the answers.

    Raises:
        DataError: a round has no answer worth keeping, or the data cannot be used.
        SettingsError: another process trains a run of this name, or the device is another than training takes.
    """
    check_device(settings.device)  # not first when the answers of a round have been drawn
    folder = data_folder(settings.data)
    rounds = []
    run = settings.runs
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            if is_main:
                held.enter_context(hold_rounds(settings.runs, settings.name))
        for number in range(1, settings.rounds + 1):
            samples = prompts(read_split(folder, settings.split), settings, number)
            if is_main:
                console.say(
                    f"RAFT round {number} of {settings.rounds}: {len(samples):,} questions, {settings.answers} answers each"
                )
            ranked = rank(samples, folder, settings, number)
            rounds.append(summary(ranked))
            with main_first(settings.device):
                kept = keep(ranked, folder, settings.runs / f"{settings.name}-kept-{number}", settings.seed)
            run = train(round_settings(settings, number, kept))
            wait_for_all(settings.device)  # the main process has written the adapter
            settings = settings.model_copy(update={"start_from": run / "adapter"})
        if is_main:
            write_atomic(run / "raft.json", (json.dumps({"rounds": rounds}, indent=1) + "\n").encode())
    return run


def prompts(samples: Sequence[Sample], settings: RaftSettings, number: int) -> list[Sample]:
    """The questions of a round: harmful items of all categories and their twins, other ones each round until all have been asked."""
    harmful = [sample for sample in samples if sample.harmful]
    if settings.prompts is None or settings.prompts >= len(harmful):
        return list(samples)
    ordered, start = spread(harmful, len(harmful)), (number - 1) * settings.prompts
    chosen = [ordered[(start + at) % len(ordered)] for at in range(settings.prompts)]
    wanted = {sample.id for sample in chosen} | {sample.twin_id for sample in chosen}
    return [sample for sample in samples if sample.id in wanted]


def keep(ranked: Sequence[Ranked], folder: Path, out: Path, seed: int) -> Path:
    """Write the kept answers as a data folder, unless a killed run has done so; returns it.

    Raises:
        DataError: there is none.
    """
    kept = [
        with_answer(row.sample, row.answer, provenance={**row.sample.provenance, "answer": "raft"})
        for row in ranked
        if row.answer is not None
    ]
    if not kept:
        raise DataError(
            f"RAFT: expected good answers among those to {len(ranked):,} questions, found none; draw more (answers, temperature) or "
            "start from an adapter that has some (start_from)"
        )
    samples = [sample.model_copy(update={"segments": None}) for sample in kept]  # those of the written label
    recipe = Recipe(
        name="raft", about="best answers of the model itself", seed=seed, arms=(Arm(name="train", parts=(Part(source=SAFETY),)),)
    )  # fmt: skip
    if not out.exists():
        write(recipe, compose(recipe, {SAFETY: SampleSet(samples, folder)}), out)
    return out


def round_settings(settings: RaftSettings, number: int, data: Path) -> TrainSettings:
    """Plain fine-tuning on the kept answers of a round, going on from the adapter of the round before."""
    shared = {key: value for key, value in settings.model_dump().items() if key not in {*RAFT_ONLY, "method"}}
    name = settings.name if number == settings.rounds else f"{settings.name}-round-{number}"
    return TrainSettings(**{**shared, "data": data, "split": "train", "name": name})


def summary(ranked: Sequence[Ranked]) -> dict[str, Any]:
    """What a round's best answers were."""
    return {
        "questions": len(ranked),
        "kept": sum(row.answer is not None for row in ranked),
        "mean_reward": round(sum(row.reward for row in ranked) / len(ranked), 4) if ranked else None,
        "outcomes": dict(Counter(row.outcome.value for row in ranked)),
    }
