"""Safety and helpfulness measured while training goes on, by the rule judge."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mis_lib.files import load_image
from mis_lib.judge import rule
from mis_lib.recipes.generate import mini_data, read_place
from mis_lib.results.metrics import rates
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.settings import EvaluationSettings


def evaluator(settings: EvaluationSettings) -> Callable[[Any, Any], Mapping[str, Any]]:
    """A function that measures a model in training on MIS-Mini (or other data that the rule judge knows).

    Raises:
        DataError: a split is not there.
    """
    samples, folder = read_place(settings.data or mini_data(), settings.splits, settings.limit)
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)

    def evaluate(model: Any, processor: Any) -> Mapping[str, Any]:
        responses = _answers(model, processor, samples, folder, generation, settings.batch_size)
        asked = {sample.id: sample for sample in samples}
        verdicts = [rule.judge(asked[response.sample_id], response) for response in responses]
        return {name: rate.model_dump() for name, rate in rates(verdicts, samples, responses).items()}

    return evaluate


def _answers(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    folder: Path,
    generation: GenerationSettings,
    batch_size: int,
) -> list[Response]:
    from mis_lib.generate.batch import answer
    from mis_lib.models.load import LoadedModel

    loaded, found = LoadedModel(model, processor), []
    ordered = sorted(samples, key=lambda sample: (-len(sample.images), len(sample.question), sample.id))
    for start in range(0, len(ordered), batch_size):
        part = ordered[start : start + batch_size]
        images = [[load_image(folder / name) for name in sample.images] for sample in part]
        texts = answer(images, [sample.question for sample in part], loaded, generation)
        found += [
            Response(
                sample_id=sample.id,
                variant="trained",
                text=text.text,
                tokens=text.tokens,
                seconds=0,
                finish_reason=text.finish_reason,
            )
            for sample, text in zip(part, texts, strict=True)
        ]
    return found
