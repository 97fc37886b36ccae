"""Dialogues: who says what in a record of ShareGPT turns or chat messages, and where its images stand.

``prompts.py`` shows all images before the question. So a run of ``<image>`` before or after the question is taken out, and ``<image>``
elsewhere becomes ``[image 2]``; no text of a sample holds a placeholder, which a processor would take for an image.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mis_lib.data.loader import optional_text
from mis_lib.data.records import Row

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TAG = re.escape(PLACEHOLDER)
_BEFORE = re.compile(rf"\s*(?:(?:Image-?\s?\d+:\s*)?{_TAG}\s*)+")  # InternVL numbers its images: "Image-1: <image>"


class Turn(NamedTuple):
    """One turn of a dialogue; ``text`` holds ``<image>`` where an image stands."""

    role: str
    text: str


def conversations(row: Row) -> list[Turn]:
    """The turns of a ShareGPT record (``from``, ``value``), a system prompt first.

    Raises:
        DataError: a turn is not as the form promises.
    """
    field = "conversations"
    turns = [Turn(_role(row, field, turn, "from"), _words(row, field, turn, "value")) for turn in _turns(row, field)]
    return [*_system(row), *turns]


def messages(row: Row, fields: list[str]) -> tuple[list[Turn], list[Any]]:
    """The turns of chat messages (``role``, ``content``) in one or more fields, and the images that their typed parts carry.

    Raises:
        DataError: a message is not as the form promises.
    """
    carried: list[Any] = []
    turns = [
        Turn(_role(row, field, turn, "role"), _content(row, field, turn.get("content"), carried))
        for field in fields
        for turn in _turns(row, field)
    ]
    return [*_system(row), *turns], carried


def carried_by(part: dict[str, Any]) -> Any:
    """The image that a typed part holds or names; None where the record's own field names it."""
    image = next((part[name] for name in ("image", "path", "url", "image_url") if part.get(name) is not None), None)
    return image.get("url", image) if isinstance(image, dict) else image


def in_order(row: Row, turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    """The system prompt, and the turns of user and assistant.

    Raises:
        DataError: they do not alternate, the user does not begin, or one says nothing.
    """
    system = turns[0].text if turns[0].role == "system" else None
    spoken = turns[1:] if system is not None else turns
    for number, turn in enumerate(spoken):
        expected, field = ("user", "assistant")[number % 2], f"turn {number + 1}"
        if turn.role != expected:
            raise row.error(field, f"the {expected}'s turn", turn.role, "user and assistant take turns")
        if not turn.text.replace(PLACEHOLDER, "").strip():
            raise row.error(field, "a text", turn.text, f"write what the {expected} says, or remove the row")
        if turn.role == "assistant" and PLACEHOLDER in turn.text:
            raise row.error(field, f"{PLACEHOLDER} in the user's turns only", turn.text, "move it to the user's turn")
    if not spoken:
        raise row.error("turn 1", "the user's turn", "no turn", "write the question")
    return system, spoken


def without_placeholders(row: Row, texts: list[str], images: int, *, needed: bool = False) -> list[str]:
    """The texts with placeholders taken out, or numbered where they stand within a text.

    Args:
        row: the record, for messages.
        texts: the question, and texts that come after it.
        images: how many images the record has.
        needed: whether the form demands placeholders; otherwise there may be none.

    Raises:
        DataError: there are placeholders, and not one for each image, or nothing is left of the question.
    """
    found = sum(words.count(PLACEHOLDER) for words in texts)
    if found != images and (found or needed):
        fix = "write one for each image" if needed else "write one for each image, or none"
        raise row.error("question", f"{images} {PLACEHOLDER}, one for each image", f"{found} of them", fix)
    told = _fold(texts, images) if found else texts
    if not told[0].strip():
        raise row.error("question", "a question beside the images", texts[0], "write it, or remove the row")
    return told


def _fold(texts: list[str], images: int) -> list[str]:
    question, *others = texts
    before = _BEFORE.match(question)
    if before and before.group().count(PLACEHOLDER) == images:
        return [question[before.end() :].strip(), *others]
    rest, after = question.rstrip(), 0
    while rest.endswith(PLACEHOLDER):
        rest, after = rest.removesuffix(PLACEHOLDER).rstrip(), after + 1
    if after == images:
        return [rest.strip(), *others]
    numbers = iter(range(1, images + 1))
    return [re.sub(_TAG, lambda _: f"[image {next(numbers)}]", words) for words in texts]


def _turns(row: Row, field: str) -> Iterator[dict[str, Any]]:
    turns = row.values.get(field)
    if not isinstance(turns, list) or not turns:
        raise row.error(field, "a list of turns", turns, "write the dialogue's turns")
    for turn in turns:
        if not isinstance(turn, dict):
            raise row.error(field, "turns that are objects", turn, "write role and text of each")
        yield turn


def _role(row: Row, field: str, turn: dict[str, Any], name: str) -> str:
    role = turn.get(name)
    if not isinstance(role, str) or role not in ROLES:
        known = f"one of {', '.join(ROLES)}"
        raise row.error(f"{field}.{name}", known, role, "name who speaks; turns of tools are not supported")
    return ROLES[role]


def _words(row: Row, field: str, turn: dict[str, Any], name: str) -> str:
    if not isinstance(turn.get(name), str):
        raise row.error(f"{field}.{name}", "a text", turn.get(name), "write what is said")
    return turn[name]


def _content(row: Row, field: str, content: Any, carried: list[Any]) -> str:
    """The text of a message, with ``<image>`` for each image part; what the parts carry is added to ``carried``."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise row.error(f"{field}.content", "a text or a list of typed parts", content, "write {type, text} parts")
    return "".join(_part(row, field, part, carried) for part in content)


def _part(row: Row, field: str, part: Any, carried: list[Any]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "image_url"):
        image = carried_by(part)
        if image is not None:
            carried.append(image)
        return PLACEHOLDER
    raise row.error(f"{field}.content", "a part of type text, image or image_url", part, "convert or remove it")


def _system(row: Row) -> list[Turn]:
    words = optional_text(row, "system")
    return [Turn("system", words)] if words else []
