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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.construct.preferences import preferences
from mis_lib.data.formats import with_answer
from mis_lib.data.mixing import compose, spread, write
from mis_lib.data.mixtures import SAFETY, Arm, Part, Recipe, SampleSet
from mis_lib.data.preferences import PAIRS, Preference, read_preferences
from mis_lib.errors import DataError
from mis_lib.files import write_atomic
from mis_lib.judge import rule
from mis_lib.recipes.generate import GenerateSettings, answer_all
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data, read_split
from mis_lib.results.train_runs import hold_rounds
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.distributed import check_device, main_first, several, wait_for_all
from mis_lib.train.settings import DpoSettings, RaftSettings, TrainSettings

# ---------- What preference methods learn from: a model's own answers to training questions, under the rule judge.
#
# Answers are generated as everywhere (``answer_all``), so they are kept, resumed and can be looked at like any other run, and several processes share
# the work.

POLICY = "policy"
REWARDS: Mapping[Outcome, float] = {
    Outcome.REASONED: 1.0,
    Outcome.HELPED: 1.0,
    Outcome.WARNED_BUT_HELPED: 0.7,
    Outcome.REFUSED: 0.5,
}
"""What an answer is worth in RAFT; an outcome that is not here is worth nothing and never learned from."""


class Ranked(NamedTuple):
    """The best answer to one question, or none that is worth anything."""

    sample: Sample
    answer: str | None
    outcome: Outcome
    reward: float


def pairs_of(settings: DpoSettings) -> tuple[list[Preference], Path]:
    """Preference pairs of a run and the folder that their images lie in: read, or made of the training data.

    Raises:
        DataError: the pairs or the data cannot be used.
    """
    if settings.pairs is not None:
        folder = settings.pairs if settings.pairs.is_dir() else settings.pairs.parent
        return _read(settings.pairs, settings.limit), folder
    folder = data_folder(settings.data)
    if (folder / PAIRS).exists():  # a data folder that brings its own, such as a delta of annotations
        return _read(folder, settings.limit), folder
    samples = read_split(folder, settings.split, settings.limit)
    unsafe = None if settings.rejected == "constructed" else unsafe_answers(samples, folder, settings)
    return preferences(samples, unsafe, seed=settings.seed), folder


def _read(path: Path, limit: int | None) -> list[Preference]:
    pairs = read_preferences(path)
    if limit is not None and limit < len(pairs):
        say(
            f"{len(pairs) - limit:,} of {len(pairs):,} pairs are left out: limit is {limit:,}; --set limit=null takes all"
        )
    return pairs[:limit]


def unsafe_answers(samples: Sequence[Sample], folder: Path, settings: DpoSettings) -> dict[str, str]:
    """The model's own unsafe answers to harmful items, by sample id; greedy, as it would answer a user."""
    harmful = [sample for sample in samples if sample.harmful]
    asked = _asked(settings, GenerationSettings(max_new_tokens=160, seed=settings.seed), 24)
    responses = _answers(harmful, folder, asked, f"{settings.name}-answers")
    known = {sample.id: sample for sample in harmful}
    found = {
        response.sample_id: response.text
        for response in responses
        if rule.judge(known[response.sample_id], response).outcome is Outcome.UNSAFE
    }
    say(f"Own unsafe answers: {len(found):,} of {len(harmful):,} harmful items")
    return found


def ranked_answers(samples: Sequence[Sample], folder: Path, settings: RaftSettings, number: int) -> list[Ranked]:
    """The best of ``settings.answers`` drawn answers to each sample, by the rule judge.

    Args:
        samples: questions of the round.
        folder: of their images.
        settings: the run's; ``start_from`` is the adapter that answers.
        number: of the round; draws differ between rounds.
    """
    copies = [
        sample.model_copy(update={"id": f"{sample.id}#{copy}", "twin_id": None})
        for sample in samples
        for copy in range(settings.answers)
    ]
    drawn = GenerationSettings(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, seed=settings.seed + 1000 * number
    )
    asked = _asked(settings, drawn, settings.generation_batch_size)
    responses = _answers(copies, folder, asked, f"{settings.name}-answers-{number}")
    answers: dict[str, list[Response]] = {}
    for response in responses:
        answers.setdefault(response.sample_id.rpartition("#")[0], []).append(response)
    return [best(sample, answers[sample.id]) for sample in samples]


def best(sample: Sample, responses: Sequence[Response]) -> Ranked:
    """The answer of highest reward, the first of several; ``answer`` is ``None`` where none is worth anything."""
    judged = [(rule.judge(sample, response).outcome, response.text) for response in responses]
    outcome, text = max(judged, key=lambda found: REWARDS.get(found[0], 0.0))
    reward = REWARDS.get(outcome, 0.0)
    return Ranked(sample, text if reward else None, outcome, reward)


def data_folder(data: Path | None) -> Path:
    """The folder of the training data; MIS-Mini if not given.

    Raises:
        DataError: it is no folder of ours.
    """
    if data is None:
        return mini_data()
    if not data.is_dir():
        raise DataError(f"data: expected a folder with one JSON Lines file a split, found {data}")
    return data


def _answers(samples: Sequence[Sample], folder: Path, asked: GenerateSettings, name: str) -> list[Response]:
    """All answers; of several processes each gives its share, and all have them once the last one is done."""
    _, responses = answer_all(samples, folder, asked, name)
    if several():
        wait_for_all(asked.device)
        _, responses = answer_all(samples, folder, asked, name)
    return responses


def _asked(settings: DpoSettings | RaftSettings, generation: GenerationSettings, batch_size: int) -> GenerateSettings:
    from mis_lib.train.model import device_of  # torch and transformers take seconds to import

    # without a GPU's number: the processes of a run have one each, and what they answer is one run
    there = device_of(settings).partition(":")[0]
    return GenerateSettings(
        variants=(POLICY,),
        checkpoint=None if settings.model == "mini" else Path(settings.model),
        adapters={POLICY: settings.start_from},
        generation=generation,
        batch_size=batch_size,
        device=settings.device or there,
        runs=settings.runs,
    )


RAFT_ONLY = set(RaftSettings.model_fields) - set(TrainSettings.model_fields)


Rank = Callable[[Sequence[Sample], Path, RaftSettings, int], list[Ranked]]


def train_raft(settings: RaftSettings, train: Callable[[TrainSettings], Path], rank: Rank = ranked_answers) -> Path:
    """Run all rounds; returns the run folder of the last one.

    Args:
        settings: of the run.
        train: fine-tunes on the kept answers of a round (``recipes.train.train``).
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
                say(
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
