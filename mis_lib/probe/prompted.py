"""Prompts as tensors for analyses that read a model's states: the same prompt as in generation, no new token.

Rows are padded on the left, so that the last position of every row is the last prompt token, from which the answer
begins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mis_lib.errors import DataError
from mis_lib.files import load_image
from mis_lib.generate import batch as local
from mis_lib.models.load import LoadedModel
from mis_lib.schema import Sample


class Pair(NamedTuple):
    """A harmful item and its benign twin: the same question about images of which one differs."""

    harmful: Sample
    benign: Sample


def pairs_of(samples: Sequence[Sample]) -> list[Pair]:
    """Harmful items with their twins, in the order of the harmful ones; without a twin in ``samples``, left out.

    Raises:
        DataError: there is no pair at all.
    """
    known = {sample.id: sample for sample in samples}
    found = [
        Pair(sample, known[sample.twin_id])
        for sample in samples
        if sample.harmful and sample.twin_id in known and not known[sample.twin_id].harmful
    ]
    if not found:
        raise DataError(
            f"expected harmful items with benign twins, found no pair among {len(samples)} items; "
            "choose a split that has twins"
        )
    return found


def prompts(loaded: LoadedModel, images: Sequence[Sequence[Any]], questions: Sequence[str]) -> Any:
    """The processor's output for a batch of prompts, as generation reads them."""
    return local.prompts(images, questions, loaded.processor, loaded.model)


def prompts_of(loaded: LoadedModel, samples: Sequence[Sample], data_dir: Path) -> Any:
    """``prompts`` of samples, whose images are in ``data_dir``."""
    images = [[load_image(data_dir / name) for name in sample.images] for sample in samples]
    return prompts(loaded, images, [sample.question for sample in samples])


def continued(inputs: Any, text_T: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs of a batch of prompts (rows, P), each continued with the same text (T,): (rows, P + T)."""
    shape = inputs["input_ids"].shape
    longer: dict[str, torch.Tensor] = dict(inputs)
    for name, value in inputs.items():
        if value.shape == shape:
            tail = text_T.to(value.device).expand(shape[0], -1) if name == "input_ids" else None
            fill = 1 if name == "attention_mask" else 0
            added = value.new_full((shape[0], len(text_T)), fill) if tail is None else tail.to(value.dtype)
            longer[name] = torch.cat([value, added], dim=-1)
    return longer
