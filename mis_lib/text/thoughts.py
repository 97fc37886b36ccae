"""The thought of a reasoning model: ``<think>`` around it in the text, or apart where a server's parser took it out.

Judges and people get both forms alike: ``written`` is the text as a model writes it, ``answer_in`` what the user is
given of it.
"""

import re
from typing import Protocol

_ENDS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BEGINS = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)


OPENED = "<think>\n"


def opened_by(prompt: str) -> str:
    """What a prompt has begun of the answer: ``OPENED`` where it ends with the opening tag, else nothing."""
    return OPENED if prompt.rstrip().endswith("<think>") else ""


def written(thought: str, answer: str, finish_reason: str | None) -> str:
    """Thought and answer as one text; an answer that has not begun leaves the thought open, unless the model ended."""
    if not thought:
        return answer
    if not answer and finish_reason != "stop":
        return f"<think>{thought}"
    return f"<think>{thought}</think>\n\n{answer}".rstrip()


class Spoken(Protocol):
    """What a model said, as responses and earlier replies keep it."""

    @property
    def text(self) -> str:
        """The answer, with the thought if no parser took it out."""
        ...

    @property
    def thought(self) -> str:
        """What a parser took out."""
        ...

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        ...


def given(one: Spoken) -> str:
    """What the user is given: the answer without the thought; empty where the thought does not end."""
    return (answer_in(written(one.thought, one.text, one.finish_reason)) or "").strip()


def answer_in(text: str) -> str | None:
    """The text after the model's thought, all of it without a thought, None if the thought does not end.

    Some prompts contain the opening ``<think>``, so a text may contain the closing tag alone.
    """
    *thoughts, answer = _ENDS.split(text)
    return None if not thoughts and _BEGINS.match(answer) else answer


def thought_in(text: str) -> str | None:
    """The model's thought in a text, without its tags; None if it has none, or one that does not end."""
    *thoughts, _ = _ENDS.split(text)
    return "\n".join(_BEGINS.sub("", one, count=1).strip() for one in thoughts) if thoughts else None
