"""A sample as a training row: the model's own prompt, then the answer, and the tokens at which the loss is taken.

The prompt's tokens come from the same call on the same messages as in generation; the answer's tokens are made
separately and appended. So training and inference read the same prompt, no mask is guessed from a finished text, and an
image's placeholders are never cut. What precedes the question (``history``) is part of the prompt, images and answers
included. Of what follows the answer (``later_turns``), questions are context and answers contribute to the loss.

Shapes: T tokens of a row. Labels are token ids in answers up to their end tokens, and ``IGNORED`` elsewhere.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageEnhance

from mis_lib.data.formats import later_exchanges, system_prompt
from mis_lib.data.images import Headers, inside
from mis_lib.errors import DataError, ImageError, ModelError
from mis_lib.files import load_image
from mis_lib.prompts import (
    Message,
    Past,
    apply_template,
    as_plain_text,
    assistant_message,
    read_by,
    special_tokens,
    user_message,
)
from mis_lib.schema import Sample, Segment, SegmentKind

IGNORED = -100
SEGMENTS = tuple(SegmentKind)
"""Parts of an answer (perception, reasoning, the answer itself), in which losses are reported."""
NO_SEGMENT = len(SEGMENTS)
PIXELS = "pixel"
"""Prefix of those outputs of a processor that an image encoder consumes."""
SHOWN = 200
"""Characters of an answer or of a printed dialogue that a message shows."""

Segmenter = Callable[[str], Sequence[Segment]]
GoOn = Callable[[dict[str, Any]], dict[str, Any]]


class Example(NamedTuple):
    """A sample to train on, and the folder of its images."""

    sample: Sample
    folder: Path


class Prompt(NamedTuple):
    """A user's turn as the model reads it."""

    ids: torch.Tensor
    """(T,)"""
    per_token: dict[str, torch.Tensor]
    """Further inputs with a value for each token, (T, ...) each."""
    vision: dict[str, torch.Tensor]
    """The processor's output for the images: pixels, grids, sizes."""


class Completion(NamedTuple):
    """What follows a prompt, or a part of it."""

    ids: torch.Tensor
    """(T,)"""
    labels: torch.Tensor
    """(T,), as in ``EncodedRow``."""
    segments: torch.Tensor
    """(T,), as in ``EncodedRow``."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One encoded sample."""

    id: str
    category: str
    ids: torch.Tensor
    """(T,)"""
    labels: torch.Tensor
    """(T,), each token's own id where the loss of predicting it is taken, that is in answers, else ``IGNORED``."""
    segments: torch.Tensor
    """(T,), index into ``SEGMENTS`` of each answer token, else ``NO_SEGMENT``."""
    per_token: dict[str, torch.Tensor]
    """Further inputs with a value for each token, (T, ...) each."""
    vision: dict[str, torch.Tensor]
    """The processor's output for the images: pixels, grids, sizes."""
    features: tuple[torch.Tensor, ...] = field(default=(), repr=False)
    """Stored features of each image in place of its pixels (``features``)."""

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Makes rows of samples with one model's processor and chat template.

    Args:
        processor: of the model.
        segmenter: splits an answer into its parts; called only for samples that do not hold ``segments``.
        end_tokens: ids that end an answer.
        max_length: tokens that a row may have.
        augment: vary the images.
        go_on: the model's own way to extend such inputs by one token while it generates; where it extends none, the
            answer's tokens have the value of the prompt's last one.
    """

    def __init__(
        self,
        processor: Any,
        *,
        segmenter: Segmenter | None = None,
        end_tokens: Sequence[int] = (),
        max_length: int | None = None,
        augment: bool = False,
        go_on: GoOn | None = None,
    ) -> None:
        self.go_on = go_on
        self.processor, self.tokenizer, self.segmenter = processor, processor.tokenizer, segmenter
        self.special = special_tokens(processor)
        self.end_tokens = {*end_tokens, self.tokenizer.eos_token_id} - {None}
        self.max_length, self.augment = max_length, augment

    def row(self, example: Example, *, seed: int = 0, category: str | None = None) -> EncodedRow:
        """Encode one sample, images included.

        Args:
            example: the sample and its folder.
            seed: of the augmentation.
            category: in which its loss is counted [default: the sample's].

        Raises:
            DataError: the sample has no answer, or is longer than ``max_length``.
            ImageError: an image is missing or damaged.
            ModelError: the model's chat template or processor does not serve for training.
        """
        return self.with_answer(example.sample, self.prompt(example, seed=seed), category=category)

    def prompt(self, example: Example, *, seed: int = 0) -> Prompt:
        """The user's turn of a sample, images included.

        Raises:
            ImageError: an image is missing or damaged.
        """
        sample = example.sample
        images = [self._image(example, name, seed + number) for number, name in enumerate(sample.images)]
        inputs = dict(
            apply_template(
                self.processor,
                [self._asked(sample, images)],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )
        for name in ("attention_mask", "labels"):  # made here; PaliGemma's processor has labels of its own
            inputs.pop(name, None)
        ids = inputs.pop("input_ids")[0]
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        is_per_token = {
            name: not name.startswith(PIXELS) and value.shape[:2] == (1, len(ids)) for name, value in tensors.items()
        }
        per_token = {name: value[0] for name, value in tensors.items() if is_per_token[name]}
        vision = {name: value for name, value in tensors.items() if not is_per_token[name]}
        return Prompt(ids, per_token, vision)

    def with_answer(self, sample: Sample, made: Prompt, *, category: str | None = None) -> EncodedRow:
        """A row of a prompt and the sample's answer.

        Raises:
            DataError: the sample has no answer, or is longer than ``max_length``.
            ModelError: the model's chat template does not serve for training.
        """
        prompt, per_token, vision = made
        answer, labels, segments = self.completion(sample)
        length = len(prompt) + len(answer)
        if self.max_length is not None and length > self.max_length:
            raise DataError(too_long(sample.id, length, self.max_length))
        return EncodedRow(
            id=sample.id,
            category=category or sample.category or "none",
            ids=torch.cat([prompt, answer]),
            labels=torch.cat([torch.full_like(prompt, IGNORED), labels]),
            segments=torch.cat([torch.full_like(prompt, NO_SEGMENT), segments]),
            per_token={name: self._extended(name, value, len(answer)) for name, value in per_token.items()},
            vision=vision,
        )

    def completion(self, sample: Sample) -> Completion:
        """The answer and, in a dialogue, each further question, at which no loss is taken, and its answer.

        Raises:
            DataError: the sample has no answer, or malformed later turns.
            ModelError: the model's chat template does not serve for training.
        """
        if not sample.answer or not sample.answer.strip():
            raise DataError(
                f"row {sample.id!r}: expected an answer to learn, found none; construct labels, or leave the row out"
            )
        turns, answer = self._user_turn(sample), self.plain(sample.answer)
        part, after_end = self._answer(sample, turns, answer)
        parts = [part]
        for exchange in later_exchanges(sample):
            turns, earlier = self._answered(sample, turns, answer)
            turns = [*turns, user_message([], self.plain(exchange.asked))]
            answer = self.plain(exchange.said)
            text = self._printed(turns, generate=True)
            if not text.startswith(earlier):
                raise ModelError(
                    "expected a chat template that prints a dialogue's turns alike when it goes on, "
                    f"found one that changes earlier ones (row {sample.id!r}, which has several); "
                    "give the checkpoint another template, or leave such rows out"
                )
            question = self.tokenizer(text[len(earlier) :], add_special_tokens=False)["input_ids"]
            ids = torch.tensor(after_end + question, dtype=torch.long)
            parts.append(Completion(ids, torch.full_like(ids, IGNORED), torch.full_like(ids, NO_SEGMENT)))
            part, after_end = self._answer(sample, turns, answer)
            parts.append(part)
        return Completion(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def plain(self, text: str) -> str:
        """A text of the data as it is shown to the model: without special tokens."""
        return as_plain_text(text, self.special)

    def prompt_text(self, sample: Sample) -> str:
        """The user's turn as text, one placeholder for each image."""
        return self._printed(self._user_turn(sample), generate=True)

    def answer_text(self, sample: Sample, answer: str) -> str:
        """What the chat template prints after the prompt: the answer, of which no part is a special token, and its end.

        Raises:
            ModelError: the template changes the prompt when an answer follows.
        """
        return self._tail(sample, self._user_turn(sample), answer)

    def prompt_length(self, example: Example, headers: Headers) -> int:
        """Tokens of a prompt, from the sizes of its images alone; an image whose header cannot be read is opened.

        Raises:
            ImageError: an image is missing or damaged.
        """
        sizes = [size for name in example.sample.images if (size := headers[name].size) is not None]
        if len(sizes) < len(example.sample.images):
            return len(self.prompt(example).ids)
        text = self.tokenizer(self.prompt_text(example.sample), add_special_tokens=False).input_ids
        if not sizes:
            return len(text)
        counted = self.processor._get_num_multimodal_tokens([(size.height, size.width) for size in sizes])
        return len(text) - len(sizes) + sum(counted["num_image_tokens"])

    def knows_prompt_lengths(self, examples: Sequence[Example]) -> bool:
        """Whether ``prompt_length`` is right for this processor; tried on one example for each number of images."""
        if not hasattr(self.processor, "_get_num_multimodal_tokens"):
            return False
        one_of_each = {len(example.sample.images): example for example in reversed(examples)}
        return all(
            self.prompt_length(example, Headers(example.folder)) == len(self.prompt(example).ids)
            for example in one_of_each.values()
        )

    def _extended(self, name: str, values: torch.Tensor, more: int) -> torch.Tensor:
        """A per-token input (T, ...) with the values of ``more`` answer tokens, as generation would continue it."""
        longer = self.go_on({name: values[None]})[name][0] if self.go_on is not None else values
        return torch.cat([values, longer[-1:].expand(more, *values.shape[1:])])

    def _answer(self, sample: Sample, turns: list[Message], answer: str) -> tuple[Completion, list[int]]:
        """An answer to the last of ``turns`` with its end token, and what the template prints after that token."""
        tail = self._tail(sample, turns, answer)
        encoded = self.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        ids: list[int] = encoded["input_ids"]
        end = next((at for at, token in enumerate(ids) if token in self.end_tokens), None)
        if end is None:  # a template that leaves the last turn open
            ids, end = [*ids, self.tokenizer.eos_token_id], len(ids)
        ids, after_end = ids[: end + 1], ids[end + 1 :]
        labels = torch.tensor(ids)
        if (sample.model_extra or {}).get("mask_eos"):
            labels[end] = IGNORED
        offsets = encoded["offset_mapping"][:end] if self.tokenizer.is_fast else []
        starts = [first_letter(tail, *offset) for offset in offsets]
        segments = _segments(self._segment_ends(sample, answer), answer, tail, starts, len(ids))
        return Completion(torch.tensor(ids), labels, segments), after_end

    def _segment_ends(self, sample: Sample, answer: str) -> list[tuple[SegmentKind, int]]:
        """Kind and end of each part of an answer: those of the sample, or else those that the segmenter finds."""
        known = (sample.model_extra or {}).get("segments")
        if isinstance(known, list) and answer == sample.answer:
            return [(SegmentKind(part["kind"]), part["end"]) for part in known]
        return [(part.kind, part.end) for part in self.segmenter(answer)] if self.segmenter else []

    def _tail(self, sample: Sample, turns: list[Message], answer: str) -> str:
        # some templates (LLaVA-OneVision's) print other white space before an answer than before one that is to be
        # generated: the row has the prompt's
        (_, whole), prompt = self._answered(sample, turns, answer), self._printed(turns, generate=True)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if not whole.startswith(prompt.rstrip()):
            raise ModelError(
                "expected a chat template whose training text begins with the prompt of generation, "
                f"found one that changes it (row {sample.id!r}); give the checkpoint a template that prints both alike"
            )
        return whole[len(prompt.rstrip()) :].lstrip()

    def _user_turn(self, sample: Sample) -> list[Message]:
        """What precedes the answer, with None for each image."""
        return self._asked(sample, [None] * len(sample.images))

    def _asked(self, sample: Sample, images: Sequence[Any]) -> list[Message]:
        before = [Past(turn.question, self._said(sample, turn.answer), turn.images) for turn in sample.history]
        return read_by(self.processor, images, sample.question, system_prompt(sample), before)

    def _said(self, sample: Sample, answer: str | None) -> str:
        if answer is None:
            raise DataError(
                f"row {sample.id!r}: expected an answer to each earlier question, found none; write it into the "
                "history, or leave the row out"
            )
        return answer

    def _answered(self, sample: Sample, turns: list[Message], answer: str) -> tuple[list[Message], str]:
        """``turns`` with an answer, in typed parts or, for templates that do not print these, as a string; printed."""
        before = without_spaces(self._printed(turns))
        found = ""
        for message in (assistant_message(answer), {"role": "assistant", "content": answer}):
            try:
                whole = self._printed([*turns, message])
            except ModelError as error:
                found = str(error)
                continue
            if without_spaces(whole).count(without_spaces(answer)) > before.count(without_spaces(answer)):
                return [*turns, message], whole
            found = f"one that prints {whole[-SHOWN:]!r}"
        raise ModelError(
            f"row {sample.id!r}: expected a chat template that prints the answer {answer[:SHOWN]!r}, found {found}; "
            "give the checkpoint another template"
        )

    def _printed(self, turns: list[Message], *, generate: bool = False) -> str:
        return apply_template(self.processor, turns, tokenize=False, add_generation_prompt=generate)

    def _image(self, example: Example, name: str, seed: int) -> Image.Image:
        try:
            image = load_image(inside(example.folder, name))
        except ImageError as error:
            raise ImageError(f"row {example.sample.id!r}, image {name!r}: {error}") from error
        return varied(image, random.Random(seed)) if self.augment else image


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


def without_spaces(text: str) -> str:
    """A text without white space, which templates and tokenizers may change."""
    return "".join(text.split())


def first_letter(text: str, start: int, end: int) -> int:
    """Start of a token without the space before it, which many tokenizers join to the next word."""
    token = text[start:end]
    return end - len(token.lstrip()) if token.strip() else start


def _segments(
    ends: Sequence[tuple[SegmentKind, int]], answer: str, tail: str, starts: Sequence[int], length: int
) -> torch.Tensor:
    """The segment of each token's first letter, (``length``,) indices into ``SEGMENTS``; the end token is answer.

    ``tail`` is the answer as the chat template prints it; ``starts`` are the tokens' positions in it, without the end
    token.
    """
    lead = tail.find(answer.strip()) - (len(answer) - len(answer.lstrip()))
    found = torch.full((length,), NO_SEGMENT)
    if not ends or not starts or lead < 0:
        return found
    for at, start in enumerate(starts):
        kind, _ = next((part for part in ends if start - lead < part[1]), ends[-1])
        found[at] = SEGMENTS.index(kind)
    found[len(starts) :] = SEGMENTS.index(SegmentKind.ANSWER)
    return found
