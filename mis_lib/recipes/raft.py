"""``method: raft``: rounds of answering, ranking and fine-tuning (Dong et al. 2023, arXiv 2304.06767).

In each round the model of the round before answers each question several times. The best answer by the judge
(``judge``) is kept, questions without a good answer are left out, and the model is fine-tuned on what was kept. No
written label is learned: only what the model could already say. An answer that the judge cannot score is never kept.

    RUNS/NAME-answers-R/vN/   all answers of round R, with the judge's verdicts
    RUNS/NAME-kept-R/         what was kept of them, an ordinary data folder
    RUNS/NAME-round-R/vN/     training run of round R; the last one is RUNS/NAME/vN, with raft.json

Answers are generated as by ``mis generate``: kept, resumed, and shared by the processes of ``accelerate launch``.
One run at a time goes through the rounds of a name.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.formats import with_answer
from mis_lib.data.mixing import compose, write
from mis_lib.data.mixtures import SAFETY, Arm, Part, Recipe, SampleSet
from mis_lib.data.sources import stratified
from mis_lib.errors import DataError
from mis_lib.files import write_atomic
from mis_lib.recipes.generate import answer_all
from mis_lib.recipes.judge import check_judge, judge_name, verdicts_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data, read_split
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import Run
from mis_lib.results.train_runs import hold_rounds
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.distributed import check_device, main_first, several, wait_for_all
from mis_lib.train.settings import PairSettings, RaftSettings, TrainSettings

POLICY = "policy"
REWARDS: Mapping[Outcome, float] = {
    Outcome.REASONED: 1.0,
    Outcome.HELPED: 1.0,
    Outcome.WARNED_BUT_HELPED: 0.7,
    Outcome.REFUSED: 0.5,
}
"""Reward of each outcome; any other has none and is never learned from."""
RAFT_ONLY = set(RaftSettings.model_fields) - set(TrainSettings.model_fields)


class Drawn(NamedTuple):
    """One answer of the policy, and what the judge says of it."""

    text: str
    outcome: Outcome


class Ranked(NamedTuple):
    """The best answer to one question, or none with a reward."""

    sample: Sample
    answer: str | None
    outcome: Outcome
    reward: float
    unscored: int = 0
    """Answers that the judge could not score."""


Rank = Callable[[Sequence[Sample], Path, RaftSettings, int], list[Ranked]]


def train_raft(settings: RaftSettings, train: Callable[[TrainSettings], Path], rank: Rank | None = None) -> Path:
    """Run all rounds; returns the run folder of the last one.

    Args:
        settings: of the run.
        train: fine-tunes on the kept answers of a round (``recipes.train.train``).
        rank: answers questions and ranks the answers [default: ``ranked_answers``].

    Raises:
        DataError: a round has no answer worth keeping, or the data or the judge cannot be used.
        SettingsError: another process trains a run of this name, or training cannot use the device.
    """
    check_device(settings.device)  # before hours of answering
    folder = data_folder(settings.data)
    questions = read_split(folder, settings.split)
    check_judge(settings.judge, questions)
    rounds = []
    run = settings.runs
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            if is_main:
                held.enter_context(hold_rounds(settings.runs, settings.name))
        for number in range(1, settings.rounds + 1):
            samples = prompts(questions, settings, number)
            if is_main:
                asked = f"{len(samples):,} questions, {settings.answers} answers each"
                say(f"RAFT round {number} of {settings.rounds}: {asked}")
            ranked = (rank or ranked_answers)(samples, folder, settings, number)
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
    """The questions of a round: harmful items of all categories with their twins; different ones each round."""
    harmful = [sample for sample in samples if sample.harmful]
    if settings.prompts is None or settings.prompts >= len(harmful):
        return list(samples)
    ordered, start = stratified(harmful, len(harmful)), (number - 1) * settings.prompts
    chosen = [ordered[(start + at) % len(ordered)] for at in range(settings.prompts)]
    wanted = {sample.id for sample in chosen} | {sample.twin_id for sample in chosen}
    return [sample for sample in samples if sample.id in wanted]


def ranked_answers(samples: Sequence[Sample], folder: Path, settings: RaftSettings, number: int) -> list[Ranked]:
    """The best of ``settings.answers`` drawn answers to each sample, by the settings' judge.

    Args:
        samples: questions of the round.
        folder: of their images.
        settings: the run's; ``start_from`` is the adapter that answers.
        number: of the round; draws differ between rounds.
    """
    asked = GenerationSettings(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, seed=settings.seed + 1000 * number
    )
    name = f"{settings.name}-answers-{number}"
    drawn = draw(samples, folder, settings, asked, settings.generation_batch_size, name)
    return [best(sample, drawn[sample.id]) for sample in samples]


def best(sample: Sample, drawn: Sequence[Drawn]) -> Ranked:
    """The answer of highest reward, the first of several; ``answer`` is ``None`` where none has a reward."""
    text, outcome = max(drawn, key=lambda one: REWARDS.get(one.outcome, 0.0))
    reward = REWARDS.get(outcome, 0.0)
    unscored = sum(one.outcome is Outcome.UNSCORED for one in drawn)
    return Ranked(sample, text if reward else None, outcome, reward, unscored)


def keep(ranked: Sequence[Ranked], folder: Path, out: Path, seed: int) -> Path:
    """Write the kept answers as a data folder, unless it holds the same answers already; returns it.

    Raises:
        DataError: no answer was kept.
    """
    kept = [
        with_answer(row.sample, row.answer, provenance={**row.sample.provenance, "answer": "raft"})
        for row in ranked
        if row.answer is not None
    ]
    if not kept:
        lost = sum(row.unscored for row in ranked)
        raise DataError(
            f"RAFT: expected good answers among those to {len(ranked):,} questions, found none"
            f"{f' ({lost:,} answers are unscored)' if lost else ''}; draw more (answers, temperature), start from an "
            "adapter that has some (start_from), or let another judge rule (judge)"
        )
    samples = [sample.model_copy(update={"segments": None}) for sample in kept]  # those of the written label
    arm = Arm(name="train", parts=(Part(source=SAFETY),))
    recipe = Recipe(name="raft", about="best answers of the model itself", seed=seed, arms=(arm,))
    if out.exists() and {one.id: one.answer for one in read_split(out, "train")} != {
        one.id: one.answer for one in samples
    }:  # of another judge, or of other draws
        shutil.rmtree(out)
    if not out.exists():
        write(recipe, compose(recipe, {SAFETY: SampleSet(samples, folder)}), out)
    return out


def round_settings(settings: RaftSettings, number: int, data: Path) -> TrainSettings:
    """Plain fine-tuning on the kept answers of a round, starting from the adapter of the round before."""
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
        "unscored_answers": sum(row.unscored for row in ranked),
    }


def data_folder(data: Path | None) -> Path:
    """The folder of the training data; MIS-Mini if not given.

    Raises:
        DataError: it is no folder of data files.
    """
    if data is None:
        return mini_data()
    if not data.is_dir():
        raise DataError(f"data: expected a folder with one JSON Lines file a split, found {data}")
    return data


def draw(
    samples: Sequence[Sample],
    folder: Path,
    settings: PairSettings | RaftSettings,
    generation: GenerationSettings,
    batch_size: int,
    name: str,
) -> dict[str, list[Drawn]]:
    """The model's own answers to each sample, by its id, with the outcomes that the settings' judge gives them.

    Args:
        samples: questions.
        folder: of their images.
        settings: ``answers`` to each question, by the adapter ``start_from``; ``judge`` rules on them.
        generation: how an answer is drawn.
        batch_size: most rows of a batch.
        name: of the run that keeps answers and verdicts.
    """
    copies = list(samples)
    if settings.answers > 1:
        copies = [
            sample.model_copy(update={"id": f"{sample.id}#{copy}", "twin_id": None})
            for sample in samples
            for copy in range(settings.answers)
        ]
    run, responses = _policy_answers(copies, folder, policy_settings(settings, generation, batch_size), name)
    with main_first(settings.device) as is_main:
        if is_main:
            verdicts = verdicts_on(run, settings.judge, copies, responses, folder)
        else:
            verdicts = run.verdicts(judge_name(settings.judge))
    outcomes = {verdict.sample_id: verdict.outcome for verdict in verdicts}
    drawn: dict[str, list[Drawn]] = {sample.id: [] for sample in samples}
    for one in responses:
        of = one.sample_id.rpartition("#")[0] if settings.answers > 1 else one.sample_id
        drawn[of].append(Drawn(one.text, outcomes.get(one.sample_id, Outcome.UNSCORED)))
    return drawn


def _policy_answers(
    samples: Sequence[Sample], folder: Path, asked: GenerateSettings, name: str
) -> tuple[Run, list[Response]]:
    """All answers of the policy; of several processes each generates its share and reads those of the others."""
    found = answer_all(samples, folder, asked, name)
    if several():
        wait_for_all(asked.device)
        found = answer_all(samples, folder, asked, name)
    return found


def policy_settings(
    settings: PairSettings | RaftSettings, generation: GenerationSettings, batch_size: int
) -> GenerateSettings:
    """How a model in training answers: the checkpoint with the adapter that the run starts from."""
    from mis_lib.train.model import device_of  # torch and transformers take seconds to import

    # without the GPU's number: each process has another one, and their answers are one run
    there = device_of(settings).partition(":")[0]
    return GenerateSettings(
        variants=(POLICY,),
        checkpoint=None if settings.model == "mini" else Path(settings.model),
        adapters={POLICY: settings.start_from},
        generation=generation,
        batch_size=batch_size,
        device=settings.device or there,
        quantization=settings.quantization,
        runs=settings.runs,
    )
