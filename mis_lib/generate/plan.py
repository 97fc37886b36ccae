"""The order of work: which prompts are answered together, decided by the prompts alone, so that every process and every resumed run decides the same.

Longest first, by number of tokens where it is known, else by images and question. A batch ends where one more row would pass the budget:
rows x (longest prompt + longest answer), which is what padding makes the batch cost.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.data.headers import read_header
from mis_lib.data.vision_families import from_checkpoint
from mis_lib.data.vision_tokens import ImageTokens
from mis_lib.errors import ModelError
from mis_lib.prompts import user_message
from mis_lib.schema import Sample

if TYPE_CHECKING:
    from mis_lib.generate.engine import Engine

UNKNOWN_IMAGE = 1024  # tokens, for models whose way of counting is not known: too many rather than too few

OF_THE_PROCESSOR = (
    "patch_size", "num_additional_image_tokens", "vision_feature_select_strategy", "num_image_tokens", "image_seq_len", "image_seq_length",
)  # fmt: skip
"""What a processor, and not its image processor, says about the tokens of an image."""


def plan_batches(
    samples: Sequence[Sample],
    batch_size: int,
    *,
    rows: int = 1,
    lengths: Mapping[str, int] | None = None,
    budget: int | None = None,
    answer: int = 0,
) -> list[tuple[Sample, ...]]:
    """The batches in the order of work.

    Args:
        samples: what is asked, in any order.
        batch_size: at most so many rows.
        rows: that each sample takes (one for each variant that answers in the same batch).
        lengths: tokens of each sample's prompt, by id.
        budget: at most so many tokens with padding; a single sample may exceed it.
        answer: tokens of the longest answer.
    """
    sizes = lengths or {}
    ordered = sorted(
        samples,
        key=lambda sample: (-sizes.get(sample.id, 0), -len(sample.images), -len(sample.question), sample.id),
    )
    batches: list[list[Sample]] = []
    for sample in ordered:
        full = not batches or (len(batches[-1]) + 1) * rows > batch_size
        if not full and budget is not None:
            longest = sizes.get(batches[-1][0].id, 0)
            full = (len(batches[-1]) + 1) * rows * (longest + answer) > budget
        if full:
            batches.append([])
        batches[-1].append(sample)
    return [tuple(batch) for batch in batches]


def prompt_lengths(samples: Sequence[Sample], data_dir: Path, engine: "Engine") -> dict[str, int]:
    """Tokens of each sample's prompt: its text through the model's own template and tokenizer, its images by their sizes.

    An image whose header cannot be read counts as nothing; it is named when it is opened.
    """
    processor, count = engine.processor, _counting(engine)
    image_token = getattr(processor, "image_token", None)
    texts = [
        processor.apply_chat_template(
            [user_message([None] * len(sample.images), sample.question)], add_generation_prompt=True, tokenize=False
        )
        for sample in samples
    ]
    if isinstance(image_token, str):
        texts = [text.replace(image_token, "") for text in texts]
    encoded = processor.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return {
        sample.id: len(tokens) + _image_tokens(sample, data_dir, count)
        for sample, tokens in zip(samples, encoded, strict=True)
    }


def _image_tokens(sample: Sample, data_dir: Path, count: ImageTokens | None) -> int:
    if count is None:
        return UNKNOWN_IMAGE * len(sample.images)
    sizes = [header.size for name in sample.images if (header := read_header(data_dir / name)).size is not None]
    return sum(count.count([size for size in sizes if size is not None]))


def _counting(engine: "Engine") -> ImageTokens | None:
    config: dict[str, Any] = engine.network.config.to_dict()
    images = getattr(engine.processor, "image_processor", None)
    settings: dict[str, Any] = {} if images is None else images.to_dict()
    own = {name: getattr(engine.processor, name, None) for name in OF_THE_PROCESSOR}
    try:
        return from_checkpoint(config, {**{k: v for k, v in own.items() if v is not None}, **settings})
    except ModelError:
        return None
