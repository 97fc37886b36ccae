"""Which part of its answer (perception, reasoning, the answer itself) each token of a training row is in, so that losses are told by part."""

from collections.abc import Callable, Sequence

import torch

from mis_lib.schema import Sample, Segment, SegmentKind

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
