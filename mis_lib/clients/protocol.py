"""Protocols of chat models and image makers.

Construction stages and judges know only these protocols. One flag exchanges a 72 B model on a server, a checkpoint on
this machine and the built-in offline teacher. A question holds text for a model (``system``, ``user``) and plain values
(``facts``) for the offline teacher, which is no model. Two errors decide what becomes of a record. ``CannotAnswer`` is
final: the record is rejected, with the reason. ``Unavailable`` is temporary: the record stays pending, and the next run
asks again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from mis_lib import files
from mis_lib.errors import MisError
from mis_lib.schema import Record

LIKELY = 0.01  # least probability of yes and no together; below it the model was about to say something else

Message = Mapping[str, str]
"""A chat message without images: ``role`` and ``content``."""


class AnswerForm(BaseModel):
    """Base of all forms of answer. Every field is required and none may be added (a strict JSON schema).

    Rules that a schema cannot say are validators; they see the ``facts`` of the question as validation context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(Record):
    """Answered calls and their tokens; answers from the cache count, since they were paid for once."""

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
    """One question to a chat model; ``images`` are the bytes of PNG or JPEG files, in order, shown before the text."""

    task: str  # names the prompt file: extract, rewrite ...
    system: str
    user: str
    form: type[AnswerForm]
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 1024
    final: bool = False
    """Whether the last object of the answer counts, not the first: judges may quote others before."""

    @property
    def digest(self) -> str:
        """Hash of the texts and images that are asked."""
        return digest([self.system, self.user, [digest_bytes(image) for image in self.images]])


@dataclass(frozen=True)
class ChatReply:
    """An answer in the form that was asked for, and what it cost."""

    answer: AnswerForm
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


class ChatModel(Protocol):
    """Answers questions in the form asked for; the lineage of every record holds ``name``."""

    @property
    def name(self) -> str:
        """Model, without address or key."""
        ...

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """Answer one question.

        Raises:
            CannotAnswer: it refuses, or never answers in the form asked for.
            Unavailable: it could not be reached; the same question may be asked again later.
            ClientError: nothing can be asked at all, such as a wrong key or an unknown model.
        """
        ...


class Labels(NamedTuple):
    """The labels that an answer may give, and where it gives one."""

    words: tuple[str, ...]
    after: str = r"\s*"
    """Regular expression of all that precedes the label in an answer."""


class Classified(NamedTuple):
    """An answer that gives a label, and how likely each label was at that place."""

    text: str
    odds: Mapping[str, float]
    """Probability of each label's first token; empty where the model tells none, or the answer gives no label."""
    state: tuple[float, ...] = ()
    """Last hidden state, (hidden size,), from which the label's first token came; empty for models on a server."""


class PlainChatModel(Protocol):
    """Answers with labels, or with the odds of "yes" against "no" as first word: what judges ask classifiers."""

    @property
    def name(self) -> str:
        """Model, without address or key."""
        ...

    async def classify(
        self, messages: Sequence[Message], max_tokens: int, labels: Labels, images: Sequence[bytes] = ()
    ) -> Classified:
        """The answer to a conversation, with the images before the first question; raises as ``ChatModel.ask``."""
        ...

    async def odds_of_yes(self, question: str, images: Sequence[bytes], least: float = LIKELY) -> float:
        """p(yes) / (p(yes) + p(no)) of the first word; raises as ``ChatModel.ask``.

        ``least`` is the probability of both together below which neither is an answer.
        """
        ...


class ImageMaker(Protocol):
    """Makes pictures."""

    @property
    def name(self) -> str:
        """Model, without address or key."""
        ...

    @property
    def vocabulary(self) -> Sequence[str] | None:
        """Names of the only things that it can show; ``None`` if it shows anything."""
        ...

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Make one picture; raises as ``ChatModel.ask``."""
        ...


class ClientError(MisError, RuntimeError):
    """A model cannot be used at all: the run ends, finished items are kept."""


class CannotAnswer(ClientError):
    """This question gets no usable answer; ``code`` is the kind of reason, ``text`` the last answer."""

    def __init__(self, code: str, reason: str, cost: Cost = FREE, text: str | None = None) -> None:
        super().__init__(reason)
        self.code, self.reason, self.cost, self.text = code, reason, cost, text


class Unavailable(ClientError):
    """The model did not answer this time."""


def digest(value: Any) -> str:
    """Hash of a JSON value: the first 16 hexadecimal digits of SHA-256 over its canonical form."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return files.digest(canonical)[:16]


def digest_bytes(content: bytes) -> str:
    """The same for a file's bytes."""
    return files.digest(content)[:16]
