"""What preference methods learn from: a model's own answers to training questions, under the rule judge.

Answers are generated as everywhere (``answer_all``), so they are kept, resumed and can be looked at like any other run, and several processes share
the work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib import console
from mis_lib.commands.generate_settings import GenerateSettings
from mis_lib.construct.preferences import preferences
from mis_lib.data.preferences import PAIRS, Preference, read_preferences
from mis_lib.errors import DataError
from mis_lib.judge import rule
from mis_lib.recipes.generate import answer_all, mini_data, read_split
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.distributed import several, wait_for_all
from mis_lib.train.preference_settings import DpoSettings, RaftSettings

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
        console.say(
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
    console.say(f"Own unsafe answers: {len(found):,} of {len(harmful):,} harmful items")
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
