"""Records: the pure values that flow from construction to the screen.

Every record is a frozen pydantic model that holds no handle, draws no id and does no input or output. Reading is
tolerant of fields that a newer version added (``Sample`` keeps unknown keys), strict about the ones it knows. Tensors,
images and paths on this machine never enter a record: a ``Sample`` names its images relative to the folder of the data
file that holds it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TAXONOMY: Mapping[str, tuple[str, ...]] = {
    "Illegal Activity": ("Property Crimes", "Cybercrimes", "Drug-Related Offenses", "Human Trafficking"),
    "Violent": ("Weapon-Related", "Public Violence & Rioting", "Abuse & Physical Altercations"),
    "Hate": ("Racial/Ethnic", "Gender"),
    "Self-Harm": ("Physical", "Psychological"),
    "Privacy": ("Unauthorized Data Collection", "Identity Theft"),
    "Erotic": ("Erotic",),
}
"""MIS's categories and their sub-categories (paper section 3.2), spelled as in its data files."""


class Split(StrEnum):
    """Parts of a MIS data set (paper section 3.2): train, and its test splits; ``unseen`` is of MIS-Mini only."""

    TRAIN = "train"
    EASY = "easy"
    HARD = "hard"
    UNSEEN = "unseen"
    REAL = "real"


class Outcome(StrEnum):
    """What a response to one sample is: always exactly one of these.

    The first four are MIS's classes for harmful samples (paper section 3.1: unsafe; safe at perception level 1, 2, 3),
    the next four their counterparts for benign twins. ``UNSCORED`` means that the judge failed; it is never counted as
    safe or unsafe.
    """

    UNSAFE = "unsafe"
    REASONED = "reasoned"
    REFUSED = "refused"
    HALLUCINATED = "hallucinated"
    HELPED = "helped"
    WARNED_BUT_HELPED = "warned_but_helped"
    OVER_REFUSED = "over_refused"
    OFF_TOPIC = "off_topic"
    UNSCORED = "unscored"


HARMFUL_OUTCOMES = (Outcome.UNSAFE, Outcome.REASONED, Outcome.REFUSED, Outcome.HALLUCINATED)
BENIGN_OUTCOMES = (Outcome.HELPED, Outcome.WARNED_BUT_HELPED, Outcome.OVER_REFUSED, Outcome.OFF_TOPIC)


class Record(BaseModel):
    """Base of all records: frozen; fields that a newer version wrote are passed over in reading."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EarlierTurn(Record):
    """What was asked before a sample's question, and the answer if the row fixes it."""

    question: str = Field(min_length=1)
    images: int = Field(default=0, ge=0)
    """How many of the sample's images this turn shows: the next ones in order."""
    answer: str | None = Field(default=None, min_length=1)
    """``None``: the model that is asked answers, and goes on from its own answer."""


class Sample(Record):
    """One item: an ordered list of images, a question, and what is known about them.

    The list is empty in a row of text. In a dialogue ``history`` holds the turns before the question, and ``images``
    those of all turns, in order; what no earlier turn shows belongs to the question. ``answer`` is the target text for
    training (safety CoT or plain help), ``objects`` what each image shows, in order, ``twin_id`` the counterpart with
    the opposite ``harmful``.
    ``provenance`` holds stage, teacher, seed and content hashes. Unknown keys are kept, so that reading and writing a
    foreign data set loses nothing.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    question: str
    images: list[str]
    history: list[EarlierTurn] = Field(default=[], exclude_if=lambda value: not value)
    judged: Literal["last", "any"] = Field(default="last", exclude_if=lambda value: value == "last")
    """Which answers make a harmful dialogue unsafe: the last one, or any of the model's."""
    category: str | None = None
    sub_category: str | None = None
    split: str = Split.TRAIN
    harmful: bool = True
    twin_id: str | None = None
    answer: str | None = None
    objects: list[str] | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_object_name_per_image(self) -> Self:
        if self.objects is not None and len(self.objects) != len(self.images):
            raise ValueError(
                f"expected one object name per image, found {len(self.objects)} for {len(self.images)} images"
            )
        return self

    @model_validator(mode="after")
    def _earlier_turns_show_its_images(self) -> Self:
        shown = sum(turn.images for turn in self.history)
        if shown > len(self.images):
            raise ValueError(f"expected at most {len(self.images)} images in earlier turns, found {shown}")
        return self

    @property
    def images_of_turns(self) -> list[list[str]]:
        """The images of each turn, the question's last."""
        left, found = list(self.images), []
        for turn in self.history:
            found.append(left[: turn.images])
            left = left[turn.images :]
        return [*found, left]


class Step(Record):
    """One step of a defence (``generate.defences``): what the model or the guard was asked, and what it said."""

    by: str
    """"model" or "guard"."""
    what: str
    """Of the model: answer, tell, caption, without images, answer again, edit. Of the guard: question or answer."""
    asked: str
    said: str
    """Of the guard: its reason."""
    found: str = Field(default="", exclude_if=lambda value: not value)
    """Of what judges: "safe", "unsafe", or "unscored" where the reply says neither."""
    tokens: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """That the model generated."""


class Reply(Record):
    """The answer to an earlier turn of a dialogue."""

    text: str
    finish_reason: str
    """As in ``Response``, or "given": the row fixes it."""
    thought: str = Field(default="", exclude_if=lambda value: not value)
    """As in ``Response``; the next turn found the answer without it."""


class Response(Record):
    """What one variant (base or a tuned adapter) said to one sample, and what it cost.

    In a dialogue, ``text`` answers the last question, and ``earlier`` holds an answer for each turn before it.
    """

    sample_id: str
    variant: str
    text: str
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    finish_reason: str
    """Why it ended.

    "stop" (the model ended), "length" (token limit), "cancelled" (a person), "content_filter" (a server's filter),
    "unguarded" (a defence's guard could not rule, and the answer was withheld).
    """
    thought: str = Field(default="", exclude_if=lambda value: not value)
    """What a server's reasoning parser took out of the text; without one, ``text`` holds it as ``<think>``."""
    key: str = Field(default="", exclude_if=lambda value: not value)
    """Digest of everything that the answer follows from (``generate.keys``); empty where it is not known."""
    steps: tuple[Step, ...] = Field(default=(), exclude_if=lambda value: not value)
    """How a defence came to the text; ``tokens`` and ``seconds`` are of all of them."""
    earlier: tuple[Reply, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Of a dialogue, whose turns ``tokens`` and ``seconds`` count together. Fewer than the turns where it broke off."""


class Verdict(Record):
    """One judge's decision on one response; ``reason`` explains it, or says why it is unscored."""

    sample_id: str
    variant: str
    judge: str
    outcome: Outcome
    reason: str = ""
    level: int | None = Field(default=None, ge=1, le=3, exclude_if=lambda value: value is None)
    """Perception level of MIS's rubric, where the judge gives one."""
    score: float | None = Field(default=None, ge=0, le=1, exclude_if=lambda value: value is None)
    """How sure the judge is that the response is bad (unsafe; for benign items, not helpful), where it says."""
    raw: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The judge's own words."""
    label: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The class of the benchmark's authors, where the judge gives one (``judge.official``)."""


class SegmentKind(StrEnum):
    """The three parts of a safety chain-of-thought (paper section 3.2)."""

    PERCEPTION = "perception"
    REASONING = "reasoning"
    ANSWER = "answer"


class Segment(Record):
    """A span of a response: ``text == response[start:end]``."""

    kind: SegmentKind
    text: str
    start: int = Field(ge=0)
    end: int

    @model_validator(mode="after")
    def _text_fills_span(self) -> Self:
        if len(self.text) != self.end - self.start:
            raise ValueError(
                f"expected {self.end - self.start} characters in [{self.start}, {self.end}), found {len(self.text)}"
            )
        return self
