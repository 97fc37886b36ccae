"""Records of the stages: a seed becomes drafts, a draft grows from stage to stage to an item with its benign twin.

Records are values. The steps that made a draft, one per call to a teacher, are in the entries of the stages and not in
the draft: the same content has the same digest, however it was made. Digests are the first 16 hexadecimal digits of a
SHA-256.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from mis_lib.clients.protocol import digest
from mis_lib.schema import Record, Segment


class Seed(Record):
    """Where items come from: a hazard or a harmful request in words, or a picture, of a seed set."""

    id: str
    text: str = ""
    category: str | None = None
    sub_category: str | None = None
    image: str | None = None  # relative to the folder of the seed file
    source: str = "built-in"

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return digest(self.model_dump(mode="json"))


class Step(Record):
    """One call to a teacher, or one decision of a rule or a person."""

    stage: str
    task: str
    teacher: str
    prompt: str  # digest of the prompt file; of the prompt itself for a picture
    seed: int
    input: str  # digest of what was asked: texts and images
    output: str  # digest of what came back
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Twin(Record):
    """The benign counterpart: one image or the intent of the question swapped, and the helpful answer."""

    swap: str  # image_1, image_2 or intent
    question: str
    objects: tuple[str, ...]
    images: tuple[str, ...]
    answer: str
    segments: tuple[Segment, ...]


class Draft(Record):
    """An item in the making; what no stage has decided yet is ``None`` or empty."""

    id: str
    seed_id: str
    source: str
    category: str
    sub_category: str
    objects: tuple[str, ...]
    risk: str  # why the two together can do harm
    request: str  # the harmful question, with the objects named
    question: str = ""  # with the objects replaced by "the object in the first image" and so on
    images: tuple[str, ...] = ()
    image_prompts: tuple[str, ...] = ()
    image_seed: int = 0
    refined: bool = False
    text_danger: bool | None = None
    image_danger: tuple[bool, ...] = ()
    split: str = ""
    answer: str = ""
    segments: tuple[Segment, ...] = ()
    twin: Twin | None = None

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return digest(self.model_dump(mode="json"))


class EntryStatus(StrEnum):
    """What became of a record in a stage; one that is neither is pending."""

    DONE = "done"
    REJECTED = "rejected"


class Entry(Record):
    """One line of a stage's file: what became of one record. The last line with its id and a fitting key counts."""

    id: str
    key: str  # digest of all that the result follows from: record, prompts, teachers, seed
    status: EntryStatus
    code: str = ""  # kind of reason, for counting
    reason: str = ""
    input: str  # digest of the record that came in
    outputs: tuple[Draft, ...] = ()
    rejected: dict[str, Any] | None = None  # the record that was rejected, as far as it had come
    steps: tuple[Step, ...] = ()  # what this stage did about it


class Pending(Record):
    """A record that no decision has been made about, and why: the next run goes on with it."""

    id: str
    stage: str
    reason: str


class StageCount(Record):
    """A stage's balance: ``came_in == done + rejected + pending``; a seed may yield several drafts in ``went_out``."""

    stage: str
    came_in: int
    done: int
    rejected: dict[str, int] = Field(default_factory=dict)
    pending: int = 0
    went_out: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RejectedRecord(Record):
    """A record that is not in the data: the stage that rejected it, why, and how far it had come."""

    id: str
    stage: str
    code: str
    reason: str
    record: dict[str, Any]
    lineage: tuple[Step, ...]


class Account(Record):
    """What became of everything. A seed is accounted for in the first stage, its drafts from the second on."""

    seeds: int
    drafts: int  # that the seeds gave
    done: int  # items in the data, each with a twin
    rejected: dict[str, int]  # stage: kind of reason -> how many
    pending: dict[str, int]  # stage -> how many
    splits: dict[str, int]
    refined: int  # items whose images were drawn a second time
    twins: dict[str, int]  # what was swapped
    prompt_tokens: int
    completion_tokens: int
    stages: list[StageCount]
    teachers: dict[str, str] = Field(default_factory=dict)
    unused_decisions: int = 0  # of people, about nothing that is here now


class Rejected(Exception):
    """A stage rejects a record: a decision, not an error; ``code`` is for counting, ``reason`` for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Waiting(Exception):
    """A stage cannot go on with a record yet: it stays pending."""
