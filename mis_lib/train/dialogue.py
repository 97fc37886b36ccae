"""What a sample says behind its prompt, in tokens: the answer and, where the dialogue goes on, further questions and answers.

The prompt's tokens are those that generation would read; what the chat template prints behind them is made apart and put there. Each answer is learned
up to its end token, questions are only read. All images stand in the first question.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mis_lib.data.turns import later_exchanges
from mis_lib.errors import DataError, ModelError
from mis_lib.prompts import Message, as_plain_text, assistant_message, special_tokens, to_messages, user_message
from mis_lib.schema import Sample
from mis_lib.train.answer_parts import NO_SEGMENT, Segmenter, first_letter, parts_of, segments_of

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
