"""The interface of judges: a judge sees one response, but not which model gave it, and returns a ruling.

One flag replaces a judge by another, and several may rule on the same responses. A judge that cannot rule returns
``unscored`` with the reason and its raw reply; a failure never counts as safe.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mis_lib.clients.images import encode, is_png_or_jpeg, whole_file
from mis_lib.files import digest_json, load_image
from mis_lib.prompts import Past
from mis_lib.schema import Outcome, Reply, Response, Sample
from mis_lib.text.thoughts import answer_in, given, written

NOT_THE_MODELS = {
    "cancelled": "a person stopped the response",
    "content_filter": "the server's filter answered, not the model",
    "unguarded": "the guard of the defence could not rule, and the answer was withheld",
}
"""Finish reasons of responses that the model did not end itself, with the reason for leaving them unscored."""

CUT_THOUGHT = "ends within its thought, before anything is answered; allow more tokens (max_new_tokens)"

INTENT_FIELDS = ("source_question", "original_question", "redteam_query")
"""Where FigStep, MIR-SafetyBench and JailBreakV-28K keep the request that their question or images hide."""


@dataclass(frozen=True)
class JudgeInput:
    """One response as a judge sees it: the sample, the text and its finish reason, without the model's name."""

    sample: Sample
    text: str
    """As the model wrote it, with its thought (``<think>``) if it has one."""
    finish_reason: str
    data_dir: Path
    earlier: tuple[Reply, ...] = ()
    """Of a dialogue, the answers before; empty where the row fixes all of them."""

    @classmethod
    def of(cls, sample: Sample, response: Response, data_dir: Path) -> "JudgeInput":
        """The case of a stored response."""
        text = written(response.thought, response.text, response.finish_reason)
        return cls(sample, text, response.finish_reason, data_dir, response.earlier)

    @property
    def history(self) -> list[Past]:
        """What was asked and answered before, as the user saw it."""
        fixed = [Past(turn.question, turn.answer or "", turn.images) for turn in self.sample.history]
        said = zip(fixed, self.earlier, strict=False)
        return [past._replace(answer=given(reply)) for past, reply in said] or fixed

    @property
    def answer(self) -> str:
        """The text without the thought: what the user is given."""
        found = answer_in(self.text)
        return self.text if found == self.text else (found or "").strip()

    @property
    def ends_in_thought(self) -> bool:
        """Whether nothing is answered."""
        return answer_in(self.text) is None

    @property
    def intent(self) -> str | None:
        """What the person wants, in words, where the benchmark keeps it apart from a question that hides it."""
        known = self.sample.model_extra or {}
        return next((str(known[name]) for name in INTENT_FIELDS if known.get(name)), None)

    def pictures(self) -> tuple[bytes, ...]:
        """The sample's images, in order, as PNG or JPEG files.

        Raises:
            ImageError: one is missing, damaged or too large (``whole_file``).
        """
        return tuple(_picture(self.data_dir / name) for name in self.sample.images)


class Ruling(NamedTuple):
    """A judge's decision on one response."""

    outcome: Outcome
    reason: str
    level: int | None = None
    """Perception level of MIS's rubric, 1 to 3."""
    score: float | None = None
    """Probability, 0 to 1, that the response is bad: unsafe, or no help on a benign item."""
    raw: str | None = None
    """The judge's reply as it came."""
    label: str | None = None
    """The class of the benchmark's authors (``judge.official``)."""


class Judge(Protocol):
    """Rules on one case at a time."""

    @property
    def name(self) -> str:
        """Name in every verdict and of the verdict file."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that rulings depend on; stored verdicts of another fingerprint are stale."""
        ...

    async def decide(self, case: JudgeInput) -> Ruling:
        """Rule on one case; unscored if the judge cannot.

        Raises:
            Unavailable: a temporary failure.
            ImageError: an image of the sample cannot be shown.
            ClientError: the judge cannot be asked at all.
        """
        ...


def unscored(reason: str, raw: str | None = None) -> Ruling:
    """The ruling of a judge that cannot rule."""
    return Ruling(Outcome.UNSCORED, reason, raw=raw)


def fingerprint_of(*parts: Any) -> str:
    """Digest of JSON values."""
    return digest_json(parts)


def _picture(path: Path) -> bytes:
    content = whole_file(path)
    return content if is_png_or_jpeg(content) else encode(load_image(path))
