"""One column of several answers side by side: the text of a variant as it grows, and what it has cost."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """One variant's answer after a step: the text so far, and what it has cost."""

    variant: str
    text: str
    tokens: int
    """Generated so far, the end token included."""
    seconds: float
    """Since generation began, the prompt included; stands still once the answer is finished."""
    finish_reason: str | None
    """``None`` while the answer grows, then "stop", "length" or "cancelled"; of a served one also "content_filter" (the server's filter answered),
    "failed" (``told`` says why) or "unknown" (the server did not say)."""
    unit: str = "tokens"
    """What ``tokens`` counts: "chunks", as they arrived, where a server has told no tokens (yet)."""
    told: str = ""
    """What went wrong, or otherwise than asked, in words for a person."""

    @property
    def speed(self) -> float | None:
        """Tokens a second, the prompt's time included; ``None`` where no tokens are known."""
        return self.tokens / self.seconds if self.seconds and self.unit == "tokens" else None


@dataclass
class Answer:
    """The answer of one variant as it grows."""

    variant: str
    tokenizer: Any
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    finished: Column | None = None

    def grow(self, token: int, seconds: float, over: str | None) -> Column:
        """Take one more token, unless the answer has ended; ``over`` is why it ends here if the token does not end it."""
        if self.finished is not None:
            return self.finished
        self.tokens.append(token)
        return self.column(seconds, "stop" if token in self.ends else over)

    def column(self, seconds: float, finish_reason: str | None) -> Column:
        """The answer so far; a character of which not all bytes have come yet is held back."""
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip()
        if finish_reason is None:
            text = text.rstrip("\ufffd")
        column = Column(self.variant, text, len(self.tokens), seconds, finish_reason)
        self.finished = column if finish_reason else None
        return column
