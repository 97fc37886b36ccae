"""Refusals: the sentences that a refusal baseline is trained on, and a test for answers that open with a refusal."""

import re

from mis_lib.text.roles import declines
from mis_lib.text.sentences import sentences

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with that request.",
    "Sorry, I can't help with this.",
    "I'm sorry, I am unable to help with that.",
    "I apologize, but I cannot answer this question.",
)
OPENING = 400  # characters; no first sentence is longer
_SORRY = re.compile(
    r"\W*(?:i(?:'|\u2019| a)m (?:very |so |truly )?sorry\b|sorry\b|(?:i|my) apologi|as an ai\b)", re.IGNORECASE
)


def opens_with_refusal(answer: str) -> bool:
    """Whether the first sentence declines or apologises."""
    first = next(iter(sentences(answer[:OPENING])), "")
    return bool(_SORRY.match(first)) or declines(first)
