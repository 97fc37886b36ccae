"""What a teacher is: something that is asked and answers in a fixed form, and something that makes an image from a prompt.

A construction stage knows only these protocols, so a 72 B model behind a server, a checkpoint on this machine and the built-in element bank
are exchanged by one flag. A question travels twice: as text for a model (``system``, ``user``) and as plain values (``facts``) for a
teacher that is no model. Two errors say what becomes of the record: ``CannotAnswer`` is final (it is rejected, with the reason),
``Unavailable`` is not (it stays pending and is tried again by the next run). Both carry what was paid all the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from mis_lib import files
from mis_lib.errors import MisError
from mis_lib.schema import Record


class Answer(BaseModel):
    """Base of all forms of answer. Every field is required and none may be added: what servers call a strict JSON schema.

    Rules that a schema cannot say are validators; they see the ``facts`` of the question as validation context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(Record):
    """What was paid for: calls that were answered (also from the cache, where they were paid for once) and their tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


FREE = Cost()


@dataclass(frozen=True)
class ChatAsk:
    """One question to a teacher; ``images`` are the bytes of PNG or JPEG files, in order, and stand before the text."""

    task: str  # names the prompt file: extract, rewrite ...
    system: str
    user: str
    form: type[Answer]
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 1024
    final: bool = False
    """Whether the object with which the answer ends counts, and not the first: for judges, who may quote others before."""

    @property
    def digest(self) -> str:
        """Hash of the texts and images that are asked."""
        return digest([self.system, self.user, [digest_bytes(image) for image in self.images]])


@dataclass(frozen=True)
class ChatReply:
    """An answer in the form that was asked for, and what it cost."""

    answer: Answer
    cost: Cost = FREE
    text: str = ""
    """As the model wrote it."""


@dataclass(frozen=True)
class ImageAsk:
    """One picture: the prompt, and the seed that the pictures of one item share so that they look alike."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class ImageReply:
    """A picture as the bytes of a PNG file, and what it cost."""

    content: bytes
    cost: Cost = FREE


class ChatTeacher(Protocol):
    """Answers questions in the form asked for; ``name`` stands in the lineage of every record."""

    @property
    def name(self) -> str:
        """Model, without address or key: what the answers follow from."""
        ...

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """Answer one question.

        Raises:
            CannotAnswer: it refuses, or never answers in the form asked for.
            Unavailable: it could not be reached; the same question may be asked again later.
            TeacherError: nothing can be asked at all, such as a wrong key or an unknown model.
        """
        ...


class ImageMaker(Protocol):
    """Makes pictures; ``vocabulary`` lists the only things that it can show, or is ``None`` where it shows anything."""

    @property
    def name(self) -> str:
        """Model, without address or key."""
        ...

    @property
    def vocabulary(self) -> Sequence[str] | None:
        """Names of what can be shown."""
        ...

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Make one picture; raises as ``ChatTeacher.ask``."""
        ...


class TeacherError(MisError, RuntimeError):
    """A teacher cannot be used at all: the run ends, and what is done stays done."""


class CannotAnswer(TeacherError):
    """This question gets no usable answer, however often it is asked; ``code`` is the kind of reason, ``text`` what was said last."""

    def __init__(self, code: str, reason: str, cost: Cost = FREE, text: str | None = None) -> None:
        super().__init__(reason)
        self.code, self.reason, self.cost, self.text = code, reason, cost, text


class Unavailable(TeacherError):
    """The teacher did not answer this time."""


def digest(value: Any) -> str:
    """Hash of a JSON value: the first 16 hexadecimal digits of SHA-256 over its canonical form."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return files.digest(canonical)[:16]


def digest_bytes(content: bytes) -> str:
    """The same for a file's bytes."""
    return files.digest(content)[:16]
