"""What a dialogue goes on with behind its first answer: kept with the sample in ``later_turns``, exported, and learned in fine-tuning; never asked."""

from typing import Any, NamedTuple

from mis_lib.errors import DataError
from mis_lib.schema import Sample

LATER, SEGMENTS = "later_turns", "segments"


class Exchange(NamedTuple):
    """A further question, and its answer."""

    asked: str
    said: str


def later_exchanges(sample: Sample) -> list[Exchange]:
    """The exchanges behind the first one, in order.

    Raises:
        DataError: they are no turns of user and assistant, the assistant's last, with a text in each.
    """
    turns = (sample.model_extra or {}).get(LATER) or []
    if found := wrong_turn(turns):
        raise DataError(f"sample {sample.id}: field {LATER!r}: {found}; correct them")
    texts = [turn["content"] for turn in turns]
    return [Exchange(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def wrong_turn(turns: Any) -> str:
    """What is wrong with later turns, in words; empty if nothing is."""
    expected = "expected turns of user and assistant, the assistant's last, found"
    if not isinstance(turns, list) or len(turns) % 2:
        return f"{expected} {turns!r:.80}"
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role") != ("user", "assistant")[number % 2]:
            return f"{expected} {turn!r:.80} in place {number + 1}"
        words = turn.get("content")
        if not isinstance(words, str) or not words.strip():
            return f"expected a text in each turn, found {words!r:.80} in place {number + 1}"
    return ""


def with_answer(sample: Sample, answer: str, **changes: Any) -> Sample:
    """The sample with another answer and other ``changes``; what is told of its own answer goes: what was said after it, and where its parts end."""
    told = (LATER, SEGMENTS) if answer != sample.answer else ()
    gone = {name: None for name in told if name in (sample.model_extra or {})}
    return sample.model_copy(update={"answer": answer, **gone, **changes})
