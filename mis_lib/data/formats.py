"""Forms of single records, recognised by their fields: each record becomes one ``Sample``; an ambiguous one is refused.

    ours        {"question", "images", ...}                         our JSON Lines; also {"question", "image"}
    MIS test    {"question", "image_path1", "image_path2", ...}
    ShareGPT    {"conversations": [{"from", "value"}], "image(s)"}  LLaVA, InternVL, MIS train, LLaMA-Factory
    messages    {"messages": [{"role", "content"}], "images"}       ms-swift, OpenAI, TRL; content: text or typed parts
    completion  {"prompt": [...], "completion": [...], "images"}    TRL

Turns after the first answer are kept in ``later_turns``, a system prompt in ``system_prompt``. What ``export.py``
packed into ``mis`` is unpacked, so that a sample comes back as it went out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mis_lib.data import images as pictures
from mis_lib.data.loader import identifier, optional_text, sample, text
from mis_lib.data.records import Row
from mis_lib.errors import DataError
from mis_lib.schema import Sample, Split

# ---------- Dialogues: who says what in a record of ShareGPT turns or chat messages, and where its images stand.
#
# ``prompts.py`` shows all images before the question. So a run of ``<image>`` before or after the question is taken
# out, and ``<image>`` elsewhere becomes ``[image 2]``; no text of a sample holds a placeholder, which a processor would
# take for an image.

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TAG = re.escape(PLACEHOLDER)
_BEFORE = re.compile(rf"\s*(?:(?:Image-?\s?\d+:\s*)?{_TAG}\s*)+")  # InternVL numbers its images: "Image-1: <image>"


class Turn(NamedTuple):
    """One turn of a dialogue; ``text`` holds ``<image>`` in place of an image."""

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
    """The turns of chat messages (``role``, ``content``) in one or more fields, and the images of their typed parts.

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
    clean = _fold(texts, images) if found else texts
    if not clean[0].strip():
        raise row.error("question", "a question beside the images", texts[0], "write it, or remove the row")
    return clean


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


# ---------- Turns after the first answer: kept in ``later_turns``, exported, learned in fine-tuning, never asked.

LATER, SEGMENTS = "later_turns", "segments"


class Exchange(NamedTuple):
    """A further question, and its answer."""

    asked: str
    said: str


def later_exchanges(sample: Sample) -> list[Exchange]:
    """The exchanges after the first one, in order.

    Raises:
        DataError: they are no turns of user and assistant, the assistant's last, with a text in each.
    """
    turns = (sample.model_extra or {}).get(LATER) or []
    if found := wrong_turn(turns):
        raise DataError(f"sample {sample.id}: field {LATER!r}: {found}; correct them")
    texts = [turn["content"] for turn in turns]
    return [Exchange(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def wrong_turn(turns: Any) -> str:
    """What is wrong with later turns, in words; empty if nothing is."""
    expected = "expected turns of user and assistant, the assistant's last, found"
    if not isinstance(turns, list) or len(turns) % 2:
        return f"{expected} {turns!r:.80}"
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role") != ("user", "assistant")[number % 2]:
            return f"{expected} {turn!r:.80} in place {number + 1}"
        words = turn.get("content")
        if not isinstance(words, str) or not words.strip():
            return f"expected a text in each turn, found {words!r:.80} in place {number + 1}"
    return ""


def with_answer(sample: Sample, answer: str, **changes: Any) -> Sample:
    """The sample with another answer and other ``changes``.

    Fields about its own answer are removed: the turns after it, and the ends of its segments.
    """
    about = (LATER, SEGMENTS) if answer != sample.answer else ()
    gone = {name: None for name in about if name in (sample.model_extra or {})}
    return sample.model_copy(update={"answer": answer, **gone, **changes})


PACKED = "mis"
SOURCE = "file"  # provenance of records that no published set claims
SYSTEM = "system_prompt"
_IMAGE_PATH = re.compile(r"image_path(\d{1,2})")
_LABELS = ("category", "sub_category", "split")


def to_sample(row: Row, folder: Path) -> Sample:
    """The sample that a record of any of the forms describes.

    Args:
        row: the record.
        folder: what its images are relative to.

    Raises:
        DataError: the record has none of the forms, or is not as its form promises.
        ImageError: an image is not there.
    """
    values = row.values
    if "question" in values and "images" in values:
        return _ours(row, folder)
    if "conversations" in values:
        return dialogue(row, conversations(row), folder, SOURCE)
    if "messages" in values:
        return _chat(row, ["messages"], folder, SOURCE)
    if "prompt" in values and "completion" in values:
        return _chat(row, ["prompt", "completion"], folder, SOURCE)
    if "question" in values and any(_IMAGE_PATH.fullmatch(name) for name in values):
        return numbered_paths(row, folder, SOURCE)
    if "question" in values and "image" in values:
        return _question(row, folder, SOURCE)
    raise DataError(
        f"{row.place}: expected question and images, image_path1 and image_path2, conversations, messages, or prompt "
        "and completion, "
        f"found {', '.join(map(repr, values)) or 'no field'}; rename the fields, or name the set's own loader"
    )


def dialogue(
    row: Row,
    turns: list[Turn],
    folder: Path,
    source: str,
    *,
    used: tuple[str, ...] = ("conversations",),
    roots: tuple[str, ...] = ("",),
    **fields: Any,
) -> Sample:
    """A sample from a dialogue whose images stand in ``image`` or ``images``; ``fields`` win over what the record says.

    Raises:
        DataError: turns do not alternate, texts are empty, or placeholders and images differ in number.
        ImageError: an image is not there.
    """
    field = _only_one(row, "image", "images")
    images = _images(row, folder, field, roots)
    system, turns = in_order(row, turns)
    packed = _unpacked(row)
    texts = _texts(row, turns, len(images), exact=packed is not None)
    said = {"question": texts[0], "answer": texts[1] if len(texts) > 1 else None}
    later = [{"role": turn.role, "content": words} for turn, words in zip(turns[2:], texts[2:], strict=True)]
    rest = {name: value for name, value in ((SYSTEM, system), (LATER, later)) if value}
    if packed is not None:
        return _validated(row, {**packed, **rest, "id": row.values.get("id"), "images": images, **said})
    labels = {name: words for name in _LABELS if name not in fields and (words := optional_text(row, name))}
    own = {name: value for name, value in (("id", _id(row)), ("harmful", _harmful(row))) if name not in fields}
    taken = [field, *used, *labels, *own, "system"]
    return sample(row, source, used=taken, images=images, **own, **labels, **rest, **said, **fields)


def numbered_paths(row: Row, folder: Path, source: str, *, roots: tuple[str, ...] = ("",), **fields: Any) -> Sample:
    """A sample of MIS's test form: ``image_path1``, ``image_path2`` and so on.

    Raises:
        DataError: the paths are not numbered from 1, or a field is malformed.
        ImageError: an image is not there.
    """
    names = sorted((name for name in row.values if _IMAGE_PATH.fullmatch(name)), key=lambda name: int(name[10:]))
    if not names or names != [f"image_path{number}" for number in range(1, len(names) + 1)]:
        raise row.error("image_path1", "image_path1, image_path2 and so on", names, "number the images from 1")
    images = [pictures.find(folder, row, name, row.values[name], roots) for name in names]
    labels = {name: words for name in _LABELS if name not in fields and (words := optional_text(row, name))}
    (question,) = without_placeholders(row, [text(row, "question")], len(images))
    given = (("id", _id(row)), ("split", _test_split(row.file)), ("harmful", _harmful(row)))
    own = {name: value for name, value in given if name not in fields}
    fields = {**own, **labels, **fields}
    return sample(row, source, used=["question", *own, *labels, *names], question=question, images=images, **fields)


def _ours(row: Row, folder: Path) -> Sample:
    listed = row.values["images"]
    embedded = isinstance(listed, list) and any(isinstance(one, dict) or is_address(one) for one in listed)
    values = {**row.values, "images": _images(row, folder, "images")} if embedded else row.values
    made = _validated(row, values)
    images = [pictures.find(folder, row, "images", name) for name in made.images]
    (question,) = without_placeholders(row, [made.question], len(images))
    return made.model_copy(update={"images": images, "question": question})


def _question(row: Row, folder: Path, source: str) -> Sample:
    """A bare question about one image or a list of them."""
    images = _images(row, folder, "image")
    (question,) = without_placeholders(row, [text(row, "question")], len(images))
    known = {name: words for name in ("answer", *_LABELS) if (words := optional_text(row, name))}
    used = ["id", "image", "question", "harmful", *known]
    return sample(row, source, used=used, id=_id(row), question=question, images=images, harmful=_harmful(row), **known)


def _chat(row: Row, fields: list[str], folder: Path, source: str) -> Sample:
    """Images that the typed parts carry are put where the other forms have them."""
    turns, carried = messages(row, fields)
    if carried and any(row.values.get(name) is not None for name in ("image", "images")):
        raise row.error("images", "images in the parts or in their own field, not in both", carried, "keep one of them")
    if carried:
        row = row._replace(values={**row.values, "images": carried})
    return dialogue(row, turns, folder, source, used=tuple(fields))


def _texts(row: Row, turns: list[Turn], images: int, *, exact: bool) -> list[str]:
    """The texts without placeholders; those of our own exports to the letter."""
    texts = [turn.text for turn in turns]
    if not exact:
        return without_placeholders(row, texts, images, needed="conversations" in row.values)
    tags = PLACEHOLDER * images
    if not texts[0].startswith(tags) or sum(words.count(PLACEHOLDER) for words in texts) != images:
        raise row.error("question", f"{tags} before it, as exported", texts[0], "write one for each image")
    return [texts[0].removeprefix(tags), *texts[1:]]


def _unpacked(row: Row) -> dict[str, Any] | None:
    """What ``export.py`` packed into a record; None if it comes from elsewhere."""
    if row.values.get(PACKED) is None:
        return None
    packed = row.values[PACKED]
    try:
        values = json.loads(packed)
    except (TypeError, ValueError, RecursionError) as error:
        raise row.error(PACKED, "the text that export wrote", packed, "export again, or remove the field") from error
    if not isinstance(values, dict):
        raise row.error(PACKED, "the text that export wrote", packed, "export again, or remove the field")
    return values


def _validated(row: Row, values: Mapping[str, Any]) -> Sample:
    """A record whose fields are a sample's own: no provenance is added, nothing is renamed."""
    try:
        made = Sample.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "record"
        raise row.error(name, f"a sample's {name} ({first['msg']})", first["input"], "correct it") from error
    for name, value in (("id", made.id), ("question", made.question)):
        if not value.strip():
            raise row.error(name, "a text", value, "write it, or remove the row")
    return made


def _images(row: Row, folder: Path, field: str, roots: tuple[str, ...] = ("",)) -> list[str]:
    """The images of a field.

    Named ones are found, embedded ones (datasets' ``{"bytes", "path"}``, data addresses) unpacked.
    """
    return [
        _image(row, folder, field, found, roots, number) for number, found in enumerate(pictures.names(row, field), 1)
    ]


def _image(row: Row, folder: Path, field: str, found: Any, roots: tuple[str, ...], number: int) -> str:
    embedded = found.get("bytes") if isinstance(found, dict) else None
    if embedded is not None or is_address(found):
        return pictures.unpack(folder, row, field, f"{_id(row)}-{number}", embedded or found)
    return pictures.find(folder, row, field, found.get("path") if isinstance(found, dict) else found, roots)


def is_address(found: object) -> bool:
    """Whether an image is given as a data address."""
    return isinstance(found, str) and found.startswith("data:image/")


def _only_one(row: Row, *fields: str) -> str:
    found = [name for name in fields if row.values.get(name) is not None]
    if len(found) != 1:
        raise row.error(fields[-1], f"one of the fields {' and '.join(fields)}", found, "name the images in one field")
    return found[0]


def _id(row: Row) -> str:
    return identifier(row, "id") if "id" in row.values else f"{row.file.stem}-{row.number}"


def _harmful(row: Row) -> bool:
    value = row.values.get("harmful", True)
    if not isinstance(value, bool):
        raise row.error("harmful", "true or false", value, "write true or false, without quotes")
    return value


def _test_split(file: Path) -> str:
    """The split that a file's name ends in, as ``mis_hard.json``; ``easy`` if it ends in none."""
    return next((split for split in Split if file.stem.endswith(split)), Split.EASY).value
