"""Reads a model's text as an answer in the form asked for, whatever client sent it.

Models wrap JSON in fences, put words around it, break it off, forget a field, or refuse. An answer that cannot be read
is asked for again with the complaint, ``TRIES`` times in all. A refusal is final. Nothing is repaired and nothing is
filled in.
"""

import functools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from pydantic import Field, ValidationError

from mis_lib.clients.protocol import LIKELY, AnswerForm, CannotAnswer, ChatAsk, ChatReply, Cost, Labels, Message
from mis_lib.schema import Record

TRIES = 3
SHOWN = 160  # characters of an answer that a message quotes

# How a refusal begins; only looked for where no JSON object was found.
_REFUSAL = re.compile(
    r"^\W*(?:i['\u2019]?m\s+(?:really\s+|very\s+|so\s+)?sorry|sorry|i\s+apologi[sz]e"
    r"|i\s+(?:can['\u2019]?t|can\s?not|won['\u2019]?t|will\s+not|must\s+decline"
    r"|am\s+(?:unable|not\s+able))|i['\u2019]m\s+(?:unable|not\s+able)|as\s+an\s+ai\b|unfortunately,?\s+i\b)",
    re.IGNORECASE,
)

_NEW_LINE = re.compile(r"\n[ \t]*(?:```\w*\s*)?$")  # what comes next begins a line, an opening fence aside


class Completion(Record):
    """A model's reply before it is read."""

    text: str
    thought: str = Field(default="", exclude_if=lambda value: not value)
    """What the server's reasoning parser took out of the text."""
    refusal: str | None = None  # in the field that servers have for it
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def cost(self) -> Cost:
        """One answered call."""
        return Cost(calls=1, prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens)


class Turn(Record):
    """One message; only the first question has images."""

    role: str
    text: str

    @property
    def message(self) -> Message:
        """As a chat message without images."""
        return {"role": self.role, "content": self.text}


Complete = Callable[[list[Turn]], Awaitable[Completion]]


async def answer(ask: ChatAsk, complete: Complete, *, tries: int = TRIES) -> ChatReply:
    """Ask until the answer has the form asked for.

    Args:
        ask: the question.
        complete: sends the turns so far to the model.
        tries: how often it is asked in all.

    Raises:
        CannotAnswer: refused (code ``refused``), or never in the form asked for (code ``unusable``).
    """
    turns = [Turn(role="system", text=ask.system), Turn(role="user", text=f"{ask.user}\n\n{describe(ask.form)}")]
    cost, problem, said = Cost(), "", ""
    for _ in range(tries):
        completion = await complete(turns)
        cost, said = cost + completion.cost, completion.text
        refusal = find_refusal(completion)
        if refusal:
            raise CannotAnswer("refused", f"{ask.task}: the teacher refused: {refusal[:SHOWN]!r}", cost, refusal)
        try:
            return ChatReply(read_answer(completion, ask), cost, said)
        except ValueError as error:
            problem = str(error)
        complaint = f"This answer cannot be used: {problem}. Answer again, with one JSON object and nothing else."
        turns = [*turns, Turn(role="assistant", text=completion.text), Turn(role="user", text=complaint)]
    raise CannotAnswer("unusable", f"{ask.task}: no usable answer in {tries} tries: {problem}", cost, said)


@functools.cache
def schema_of(form: type[AnswerForm]) -> dict[str, Any]:
    """The JSON schema of a form; cached, since composing it takes milliseconds."""
    return form.model_json_schema()


def describe(form: type[AnswerForm]) -> str:
    """The form of the answer in words, for servers that know no structured output."""
    schema = json.dumps(schema_of(form), ensure_ascii=False, separators=(",", ":"))
    return f"Answer with one JSON object and nothing else. It must fit this JSON schema:\n{schema}"


def find_refusal(completion: Completion) -> str | None:
    """The refusal's words, or ``None`` where the model did answer."""
    if completion.refusal:
        return completion.refusal
    if completion.finish_reason == "content_filter":
        return completion.text or "content filter"
    text = completion.text.strip()
    return text if "{" not in text and is_refusal(text) else None


def is_refusal(text: str) -> bool:
    """Whether a text begins as refusals do."""
    return bool(_REFUSAL.search(text.strip()))


def read_answer(completion: Completion, ask: ChatAsk) -> AnswerForm:
    """Read the first JSON object of a completion as an answer, or the last one if ``ask.final``.

    Raises:
        ValueError: there is none, or it does not have the form; says what is wrong in one line.
    """
    value = _last_object(completion, ask.form) if ask.final else _first_object(completion.text)
    if value is None:
        cut = f" (cut off after {completion.completion_tokens} tokens)" if completion.finish_reason == "length" else ""
        place = " at the end" if ask.final else ""
        raise ValueError(f"expected one JSON object{place}{cut}, found {completion.text.strip()[:SHOWN]!r}")
    try:
        return ask.form.model_validate(value, context=dict(ask.facts))
    except ValidationError as error:
        raise ValueError("; ".join(map(_explain, error.errors()[:3]))) from error


def ratio(odds: Iterable[Sequence[Any]], name: str, least: float = LIKELY) -> float:
    """p(yes) / (p(yes) + p(no)) from first words and their probabilities.

    Args:
        odds: pairs of a word and its probability.
        name: the model, for the message.
        least: probability of yes and no together below which their ratio says nothing.

    Raises:
        CannotAnswer: yes and no together are unlikely, as with models that think aloud first.
    """
    sums = shares_of(("yes", "no"), odds)
    total = sums["yes"] + sums["no"]
    if total < least or total == 0:
        raise CannotAnswer(
            "unusable", f"{name}: neither yes nor no is among the likely first words (together {100 * total:.2g} %)"
        )
    return sums["yes"] / total


def shares_of(words: Sequence[str], odds: Iterable[Sequence[Any]]) -> dict[str, float]:
    """The probability that an answer goes on with each of the words, from likely tokens and their probabilities.

    A token counts for the word that it begins, in any case; two letters are the least.
    """
    sums = dict.fromkeys(words, 0.0)
    for token, share in odds:
        plain = str(token).strip().lower().strip("▁Ġ.,!\"'")
        begun = [word for word in words if len(plain) > 1 and word.lower().startswith(plain)]
        if len(begun) == 1:
            sums[begun[0]] += float(share)
    return sums


def place_of(labels: Labels, pieces: Sequence[str]) -> int | None:
    """Which of an answer's tokens, given as texts, begins the label; ``None`` if none does."""
    before = ""
    for place, piece in enumerate(pieces):
        if piece.strip() and re.fullmatch(labels.after, before):
            return place
        before += piece
    return None


def _first_object(text: str) -> Any:
    """The JSON object that begins with the first brace; ``None`` if it is broken or there is none."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    start = text.find("{")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except (ValueError, RecursionError):  # an object inside a broken one must not be taken for the answer
        return None


def _last_object(completion: Completion, form: type[AnswerForm]) -> Any:
    """The JSON object that ends a completion (a closing fence aside); ``None`` if another text ends it, or it was cut.

    Of several objects the last must begin a line: inside a line it may be a quotation. A broken object voids all. A
    thought (``<think>``) is no answer, also if it never ends.

    Raises:
        ValueError: an earlier object gives another value in a field that is no free text. Which of the two is the
            model's own and which is a quotation cannot be known.
    """
    text = re.sub(r"<think>.*?</think>|\A\s*<think>.*", "", completion.text, flags=re.DOTALL)
    found, end, alone = [], 0, True
    while (start := text.find("{", end)) >= 0:
        alone = not found or bool(_NEW_LINE.search(text[end:start]))
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):  # what is inside or after a broken object may be a quotation
            return None
        found.append(value)
    if not found or not alone or text[end:].strip("`. \n\t") or completion.finish_reason == "length":
        return None
    for name, field in form.model_fields.items():
        said = dict.fromkeys(
            str(value[name]).casefold() for value in found if isinstance(value, dict) and name in value
        )
        if field.annotation is not str and len(said) > 1:
            raise ValueError(f"expected one {name!r}, found {' and '.join(said)} in the same answer")
    return found[-1]


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"field {place!r}: {message}" if place else message
