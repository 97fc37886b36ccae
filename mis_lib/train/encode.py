"""A sample as a training row: the model's own prompt, then the answer, and which tokens the loss is taken at.

The prompt's tokens are those that generation would read, made by the same call on the same messages; the answer's tokens are made apart from them and
put behind. So training and inference cannot drift apart, no mask has to be guessed from a finished text, and an image's placeholders are never cut.
Where a dialogue goes on behind the first answer (``later_turns``), each further question is read and each further answer learned.

Shapes: T tokens of a row. Labels are token ids at the answer up to its end token, and ``IGNORED`` elsewhere.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageEnhance

from mis_lib.data.formats import later_exchanges
from mis_lib.data.images import inside
from mis_lib.errors import DataError, ImageError, ModelError
from mis_lib.files import load_image
from mis_lib.prompts import Message, as_plain_text, assistant_message, special_tokens, to_messages, user_message
from mis_lib.schema import Sample, Segment, SegmentKind

# ---------- Which part of its answer (perception, reasoning, the answer itself) each token of a training row is in, so that losses are told by part.

SEGMENTS = tuple(SegmentKind)
NO_SEGMENT = len(SEGMENTS)
Segmenter = Callable[[str], Sequence[Segment]]
Part = tuple[SegmentKind, int]
"""Kind, and where it ends in the answer."""


def parts_of(sample: Sample, answer: str, segmenter: Segmenter | None) -> list[Part]:
    """The parts of an answer in order: those the sample tells, or else those that are found in it."""
    told = (sample.model_extra or {}).get("segments")
    if isinstance(told, list) and answer == sample.answer:
        return [(SegmentKind(part["kind"]), part["end"]) for part in told]
    return [(part.kind, part.end) for part in segmenter(answer)] if segmenter else []


def segments_of(parts: Sequence[Part], answer: str, tail: str, starts: Sequence[int], length: int) -> torch.Tensor:
    """The part that each token's first letter is in, (``length``,) indices into ``SEGMENTS``; the end token counts as answer.

    Args:
        parts: of the answer.
        answer: its text.
        tail: the answer as the chat template prints it.
        starts: where in ``tail`` each token begins, without the end token.
        length: tokens, the end token included.
    """
    lead = tail.find(answer.strip()) - (len(answer) - len(answer.lstrip()))
    found = torch.full((length,), NO_SEGMENT)
    if not parts or not starts or lead < 0:
        return found
    for at, start in enumerate(starts):
        part = next((part for part in parts if start - lead < part[1]), parts[-1])
        found[at] = SEGMENTS.index(part[0])
    found[len(starts) :] = SEGMENTS.index(SegmentKind.ANSWER)
    return found


def first_letter(text: str, start: int, end: int) -> int:
    """Where a token begins but for the space in front of it, which many tokenizers take to the word behind."""
    token = text[start:end]
    return end - len(token.lstrip()) if token.strip() else start


# ---------- What a sample says behind its prompt, in tokens: the answer and, where the dialogue goes on, further questions and answers.
#
# The prompt's tokens are those that generation would read; what the chat template prints behind them is made apart and put there. Each answer is learned
# up to its end token, questions are only read. All images stand in the first question.

IGNORED = -100


class Said(NamedTuple):
    """What the model is to say, or a part of a dialogue behind the prompt."""

    ids: torch.Tensor
    """(T,)"""
    labels: torch.Tensor
    """(T,), as ``Row``'s."""
    segments: torch.Tensor
    """(T,), as ``Row``'s."""
    behind: list[int]
    """What the template prints behind the end token, before whatever comes next."""


class Dialogue:
    """Puts into tokens what samples say, with one model's chat template.

    Args:
        processor: of the model.
        segmenter: splits an answer into its parts; only asked where the sample does not tell them itself.
        end_tokens: ids that end an answer.
    """

    def __init__(self, processor: Any, *, segmenter: Segmenter | None = None, end_tokens: Sequence[int] = ()) -> None:
        self.processor, self.tokenizer, self.segmenter = processor, processor.tokenizer, segmenter
        self.special = special_tokens(processor)
        self.end_tokens = {*end_tokens, self.tokenizer.eos_token_id} - {None}

    def prompt_text(self, sample: Sample) -> str:
        """The user's turn as text, one placeholder for each image."""
        return self._printed(self._asked(sample), asking=True)

    def completion(self, sample: Sample) -> Said:
        """The answer and, where the dialogue goes on, each further question, at which no loss is taken, and its answer.

        Raises:
            DataError: the sample has no answer, or later turns that are none.
            ModelError: the model's chat template does not serve for training.
        """
        if not sample.answer or not sample.answer.strip():
            raise DataError(
                f"row {sample.id!r}: expected an answer to learn, found none; construct labels, or leave the row out"
            )
        turns, said = self._asked(sample), as_plain_text(sample.answer, self.special)
        found = [self._said(sample, turns, said)]
        for exchange in later_exchanges(sample):
            turns = [*turns, assistant_message(said)]
            so_far = self._printed(turns)
            turns = [*turns, user_message([], as_plain_text(exchange.asked, self.special))]
            said = as_plain_text(exchange.said, self.special)
            text = self._printed(turns, asking=True)
            if not text.startswith(so_far):
                raise ModelError(
                    "expected a chat template that prints a dialogue's turns alike when it goes on, found one that changes earlier ones "
                    f"(row {sample.id!r}, which has several); give the checkpoint another template, or leave such rows out"
                )
            between = self.tokenizer(text[len(so_far) :], add_special_tokens=False)["input_ids"]
            found += [_unlearned(found[-1].behind + between), self._said(sample, turns, said)]
        ids, labels, segments, _ = zip(*found, strict=True)
        return Said(torch.cat(ids), torch.cat(labels), torch.cat(segments), [])

    def _said(self, sample: Sample, turns: list[Message], answer: str) -> Said:
        """An answer to the last of ``turns`` and its end token."""
        tail = self._tail(sample, turns, answer)
        made = self.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        ids: list[int] = made["input_ids"]
        end = next((at for at, token in enumerate(ids) if token in self.end_tokens), None)
        if end is None:  # a template that leaves the last turn open
            ids, end = [*ids, self.tokenizer.eos_token_id], len(ids)
        ids, behind = ids[: end + 1], ids[end + 1 :]
        labels = torch.tensor(ids)
        if (sample.model_extra or {}).get("mask_eos"):
            labels[end] = IGNORED
        starts = (
            [first_letter(tail, *place) for place in made["offset_mapping"]][:end] if self.tokenizer.is_fast else []
        )
        parts = parts_of(sample, answer, self.segmenter)
        return Said(torch.tensor(ids), labels, segments_of(parts, answer, tail, starts, len(ids)), behind)

    def answer_length(self, sample: Sample) -> int:
        """Tokens behind a sample's prompt: its answer, the end included, and what the dialogue goes on with.

        Raises:
            DataError: it has none.
        """
        return len(self.completion(sample).ids)

    def tail(self, sample: Sample, answer: str) -> str:
        """What the chat template prints behind the prompt: the answer, in which nothing is a special token, and the end of its turn.

        Some templates (LLaVA-OneVision's) print other white space in front of an answer than in front of one that is to come; the row has the prompt's.

        Raises:
            ModelError: the template changes more of the prompt.
        """
        return self._tail(sample, self._asked(sample), answer)

    def _tail(self, sample: Sample, turns: list[Message], answer: str) -> str:
        whole, prompt = self._printed([*turns, assistant_message(answer)]), self._printed(turns, asking=True)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if not whole.startswith(prompt.rstrip()):
            raise ModelError(
                "expected a chat template whose training text begins with the prompt of generation, found one that changes it "
                f"(row {sample.id!r}); give the checkpoint a template that prints both alike"
            )
        return whole[len(prompt.rstrip()) :].lstrip()

    def _asked(self, sample: Sample) -> list[Message]:
        """The user's turn, with holes for its images."""
        holes: list[Any] = [None] * len(sample.images)
        return to_messages(holes, as_plain_text(sample.question, self.special))

    def _printed(self, turns: list[Message], *, asking: bool = False) -> str:
        return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=asking)


def _unlearned(ids: list[int]) -> Said:
    """Tokens that are read and not learned."""
    found = torch.tensor(ids, dtype=torch.long)
    return Said(found, torch.full_like(found, IGNORED), torch.full_like(found, NO_SEGMENT), [])


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
