"""A sample as a training row: the model's own prompt, then the answer, and which tokens the loss is taken at.

The prompt's tokens are those that generation would read, made by the same call on the same messages; the answer's tokens are made apart from them and
put behind. So training and inference cannot drift apart, no mask has to be guessed from a finished text, and an image's placeholders are never cut.
Where a dialogue goes on behind the first answer (``later_turns``), each further question is read and each further answer learned.

Shapes: T tokens of a row. Labels are token ids at the answer up to its end token, and ``IGNORED`` elsewhere.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageEnhance

from mis_lib.data.paths import inside
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image
from mis_lib.prompts import as_plain_text, user_message
from mis_lib.schema import Sample
from mis_lib.train.answer_parts import NO_SEGMENT, Segmenter
from mis_lib.train.dialogue import IGNORED, Dialogue

PIXELS = "pixel"
"""How the names of a processor's outputs begin that an image encoder consumes."""
PER_TOKEN = ("token_type_ids", "mm_token_type_ids")


class Place(NamedTuple):
    """A sample and the folder that its images lie in."""

    sample: Sample
    folder: Path


class Prompt(NamedTuple):
    """A user's turn as the model reads it."""

    ids: torch.Tensor
    """(T,)"""
    per_token: dict[str, torch.Tensor]
    """What else the model reads for each token, (T,) each."""
    vision: dict[str, torch.Tensor]
    """What the processor made of the images, as it made it: pixels, grids, sizes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded sample."""

    id: str
    category: str
    ids: torch.Tensor
    """(T,)"""
    labels: torch.Tensor
    """(T,), each token's own id where the loss is taken at predicting it, that is at answers, else ``IGNORED``."""
    segments: torch.Tensor
    """(T,), index into ``SEGMENTS`` of each answer token, else ``NO_SEGMENT``."""
    per_token: dict[str, torch.Tensor]
    """What else the model reads for each token, (T,) each."""
    vision: dict[str, torch.Tensor]
    """What the processor made of the images, as it made it: pixels, grids, sizes."""
    features: tuple[torch.Tensor, ...] = field(default=(), repr=False)
    """Features of each image in place of its pixels, where they were computed before (``features``)."""

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Dialogue):
    """Makes rows of samples with one model's processor.

    Args:
        processor: of the model; pads on either side, it is not asked to.
        segmenter: splits an answer into its parts; only asked where the sample does not tell them itself.
        end_tokens: ids that end an answer.
        max_length: tokens that a row may have.
        augment: vary the images.
    """

    def __init__(
        self,
        processor: Any,
        *,
        segmenter: Segmenter | None = None,
        end_tokens: Sequence[int] = (),
        max_length: int | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__(processor, segmenter=segmenter, end_tokens=end_tokens)
        self.max_length, self.augment = max_length, augment

    def row(self, place: Place, *, seed: int = 0, category: str | None = None) -> Row:
        """Encode one sample, images included.

        Args:
            place: the sample and its folder.
            seed: of the augmentation.
            category: under which its loss is counted [default: the sample's].

        Raises:
            DataError: the sample has no answer, or is longer than ``max_length``.
            ImageError: an image is missing or damaged.
            ModelError: the model's chat template or processor does not serve for training.
        """
        return self.with_answer(place.sample, self.prompt(place, seed=seed), category=category)

    def prompt(self, place: Place, *, seed: int = 0) -> Prompt:
        """The user's turn of a sample, images included.

        Raises:
            ImageError: an image is missing or damaged.
        """
        sample = place.sample
        images = [self._image(place, name, seed + number) for number, name in enumerate(sample.images)]
        made = self._process(images, as_plain_text(sample.question, self.special))
        made.pop("attention_mask", None)
        ids = made.pop("input_ids")[0]
        per_token = {name: made.pop(name)[0] for name in PER_TOKEN if name in made}
        return Prompt(ids, per_token, {name: value for name, value in made.items() if isinstance(value, torch.Tensor)})

    def with_answer(self, sample: Sample, made: Prompt, *, category: str | None = None) -> Row:
        """A row of a prompt and the sample's answer.

        Raises:
            DataError: the sample has no answer, or is longer than ``max_length``.
            ModelError: the model's chat template does not serve for training.
        """
        prompt, per_token, vision = made
        answer, labels, segments, _ = self.completion(sample)
        length = len(prompt) + len(answer)
        if self.max_length is not None and length > self.max_length:
            raise DataError(too_long(sample.id, length, self.max_length))
        before = torch.full_like(prompt, IGNORED)
        return Row(
            id=sample.id,
            category=category or sample.category or "none",
            ids=torch.cat([prompt, answer]),
            labels=torch.cat([before, labels]),
            segments=torch.cat([torch.full_like(prompt, NO_SEGMENT), segments]),
            per_token={name: torch.cat([value, value.new_zeros(len(answer))]) for name, value in per_token.items()},
            vision=vision,
        )

    def _image(self, place: Place, name: str, seed: int) -> Image.Image:
        try:
            image = load_image(inside(place.folder, name))
        except ImageError as error:
            raise ImageError(f"row {place.sample.id!r}, image {name!r}: {error}") from error
        return varied(image, random.Random(seed)) if self.augment else image

    def _process(self, images: list[Image.Image], question: str) -> dict[str, Any]:
        return dict(
            self.processor.apply_chat_template(
                [[user_message(images, question)]],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )


def too_long(row: str, length: int, limit: int) -> str:
    """The message about a row that does not fit."""
    return (
        f"row {row!r}: expected at most {limit:,} tokens, found {length:,}; nothing is cut: lower max_pixels or "
        "max_dynamic_patch, raise max_length, shorten the answer, or leave the row out"
    )


def varied(image: Image.Image, dice: random.Random) -> Image.Image:
    """The image with up to a tenth of each side cropped away and its brightness varied by up to 15 %."""
    width, height = image.size
    left, right = sorted((dice.uniform(0, 0.05), dice.uniform(0.95, 1)))
    top, bottom = sorted((dice.uniform(0, 0.05), dice.uniform(0.95, 1)))
    box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    return ImageEnhance.Brightness(image.crop(box)).enhance(dice.uniform(0.85, 1.15))
