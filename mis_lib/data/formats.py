"""Forms of single records, recognised by their fields: what a row says, what is wrong with it, and its ``Sample``.

    ours        {"question", "images", ...}                         our JSON Lines; also {"question", "image"}
    MIS test    {"question", "image_path1", "image_path2", ...}
    ShareGPT    {"conversations": [{"from", "value"}], "image(s)"}  LLaVA, InternVL, MIS train, LLaMA-Factory
    messages    {"messages": [{"role", "content"}], "images"}       ms-swift, OpenAI, TRL; content: text or typed parts
    completion  {"prompt": [...], "completion": [...], "images"}    TRL

A row of text has ``"images": []``; a dialogue may leave the field out, as LLaVA's do.

``parse`` goes on after a fault, so that a check reports all of them; ``to_sample`` raises the first. A dialogue that
ends with a question, or shows images after its first one, is asked and learned at its last question: the turns before
it are the sample's ``history``. Of any other one the first question is the sample's, and the turns after its answer are
kept in ``later_turns``. A system prompt is kept in ``system_prompt``. What ``export.py`` packed into ``mis``
is unpacked, so that a sample comes back as it went out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mis_lib.data import images as pictures
from mis_lib.data.findings import Finding, Kind, Location, printable
from mis_lib.data.loader import not_in_json, sample_fields
from mis_lib.data.mixtures import BESIDE, EVERYDAY
from mis_lib.data.records import Row, field_and_rest
from mis_lib.errors import DataError, close_to
from mis_lib.schema import Sample, Split
from mis_lib.text.refusals import opens_with_refusal

PLACEHOLDER = "<image>"
PACKED = "mis"
SOURCE = "file"  # provenance of records that no published set claims
SYSTEM = "system_prompt"
LATER, SEGMENTS, HISTORY = "later_turns", "segments", "history"
LATER_TURNS, EARLIER_ANSWERS = "later turns", "answers to earlier questions"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPLITS = frozenset([*(split.value for split in Split), *BESIDE.values(), EVERYDAY])
_SHOWN = 60
_LABELS = ("category", "sub_category", "split")
_IMAGE_PATH = re.compile(r"image_path(\d{1,2})")
_TAG = re.escape(PLACEHOLDER)
_BEFORE = re.compile(rf"\s*(?:(?:Image-?\s?\d+:\s*)?{_TAG}\s*)+")  # InternVL numbers its images: "Image-1: <image>"
_TYPES = {str: "the text", int: "the number", float: "the number", bool: "the value", list: "the list",
          type(None): "the value"}  # fmt: skip
_EXPECTED = {"string_type": "a text", "bool_type": "true or false", "bool_parsing": "true or false",
             "list_type": "a list", "dict_type": "an object"}  # fmt: skip


class Form(StrEnum):
    """How a row is laid out."""

    SAMPLE = "sample"
    MIS_TEST = "mis_test"
    CONVERSATIONS = "conversations"
    MESSAGES = "messages"


@dataclass
class View:
    """What one row says; fields that are missing or wrong are empty, and ``findings`` say so."""

    row: Row
    form: Form | None = None
    """None if it is none of those known."""
    question: str = ""
    """All user turns, without placeholders."""
    answer: str | None = None
    """All assistant turns; None where the row has none."""
    images: list[str] = field(default_factory=list)
    category: str | None = None
    sub_category: str | None = None
    harmful: bool | None = None
    twin_id: str | None = None
    mask_eos: bool = False
    not_shown: list[str] = field(default_factory=list)
    """What the row holds and one use leaves out: ``LATER_TURNS`` are not asked, ``EARLIER_ANSWERS`` not learned."""
    system: str = ""
    exchanges: int = 1
    """Questions, each with its answer."""
    later: str = ""
    """What our own form keeps of later turns and of answers in the history.

    ``question`` and ``answer`` hold them in the others.
    """
    sample: Sample | None = None
    """What is trained and asked; None where there are errors."""
    findings: list[Finding] = field(default_factory=list)
    errors: list[DataError] = field(default_factory=list)
    """Why the row is no sample, in the order in which it was read."""
    place: Location = field(init=False)
    """File and row, with the id if there is one."""

    def __post_init__(self) -> None:
        self.place = self.row.location

    @cached_property
    def declines(self) -> bool:
        """Whether the answer opens with a refusal."""
        return self.answer is not None and opens_with_refusal(self.answer)

    def note(self, kind: Kind, name: str, message: str, fix: str) -> None:
        """Add a finding about this row, which can be read all the same."""
        self.findings.append(self.place.finding(kind, name, message, fix))

    def refuse(self, kind: Kind, name: str, expected: str, found: Any, fix: str, *, words: str = "") -> None:
        """Add a finding about this row, and the error of a reader that stops at it.

        ``words``: what the finding says was found [default: the value].
        """
        self.note(kind, name, f"expected {expected}, found {words or _shown(found)}", fix)
        self.errors.append(self.row.error(re.sub(r"\[(\d+)\]", r".\1", name), expected, found, fix))

    def wrong(self, values: Mapping[str, Any], name: str, expected: str, fix: str, *, may_pass: bool = False) -> None:
        """Refuse a field that is missing or of another type; ``may_pass``: note it alone."""
        value = values.get(name)
        kind = Kind.MISSING_FIELD if value is None else Kind.WRONG_TYPE
        words = _shown(value) if name in values else "no such field"
        if may_pass:
            self.note(kind, name, f"expected {expected}, found {words}", fix)
        else:
            self.refuse(kind, name, expected, value, fix, words=words)

    def strictly(self) -> Sample:
        """The sample.

        Raises:
            DataError: the first thing that is wrong, with file, row, field and fix.
            ImageError: an image is not there.
        """
        if self.sample is None:
            raise self.errors[0]
        return self.sample


def form_of(values: Mapping[str, Any]) -> Form | None:
    """Which form a row has; None if it is none of them."""
    if "question" in values and "images" in values:
        return Form.SAMPLE
    if "conversations" in values:
        return Form.CONVERSATIONS
    if "messages" in values or ("prompt" in values and "completion" in values):
        return Form.MESSAGES
    if any(_IMAGE_PATH.fullmatch(name) for name in values):
        return Form.MIS_TEST
    return Form.SAMPLE if "question" in values or "images" in values else None


def to_sample(row: Row, folder: Path) -> Sample:
    """The sample that a record of any of the forms describes.

    Args:
        row: the record.
        folder: what its images are relative to.

    Raises:
        DataError: the record has none of the forms, or is not as its form promises.
        ImageError: an image is not there.
    """
    return parse(row, folder).strictly()


def parse(
    row: Row,
    folder: Path,
    *,
    form: Form | None = None,
    roots: Sequence[str] = ("",),
    source: str = SOURCE,
    **fields: Any,
) -> View:
    """What a record says, what is wrong with it, and its sample if nothing is that a sample could not hold.

    Args:
        row: the record.
        folder: what its images are relative to.
        form: how it is laid out [default: as its fields say].
        roots: folders below ``folder`` that images may be relative to.
        source: the data set, for the provenance.
        fields: fields of the sample that win over what the record says.
    """
    seen = View(row, form or form_of(row.values))
    if seen.form is None:
        _no_form(seen)
    else:
        _Reader(seen, folder, roots, source, fields).read()
    return seen


def view_of(sample: Sample, file: str, row: int) -> View:
    """The view of a row that was read as a sample already: no field is missing or of another type."""
    extra = sample.model_extra or {}
    seen = View(Row(Path(file), row, {}), Form.SAMPLE, answer=sample.answer, images=sample.images, sample=sample)
    seen.place = Location(file, row, printable(sample.id))
    seen.question = sample.question.replace(PLACEHOLDER, "").strip()
    without_placeholders(seen, [sample.question], len(sample.images_of_turns[-1]))
    _beside_the_first_exchange(seen, extra, SYSTEM)
    _before_the_question(seen, sample)
    _labels(seen, {**extra, **{name: getattr(sample, name) for name in ("twin_id", "harmful", *_LABELS)}})
    _texts_say_something(seen)
    return seen


def without_placeholders(
    seen: View, texts: list[str], images: int, *, name: str = "question", needed: bool = False, in_turns: bool = False
) -> list[str]:
    """The texts with placeholders taken out, or numbered where they are within a text (``[image 2]``).

    ``prompts.py`` shows all images before the question. No text of a sample holds a placeholder, which a processor
    would take for an image. Refused are placeholders that are not one for each image, and a question that is empty.

    Args:
        seen: the view of the record.
        texts: the question, and texts that come after it.
        images: how many images the record has.
        name: the field that holds them, for messages.
        needed: whether the form asks for a placeholder for each image.
        in_turns: whether each text shows its own images, not the first one all of them.
    """
    found = sum(words.count(PLACEHOLDER) for words in texts)
    if found != images and (found or needed):
        expected = f"{images} {PLACEHOLDER}, one for each image"
        fix = f"write {PLACEHOLDER} once for each image, in the user's turn{'' if needed else ', or nowhere'}"
        fix = fix if images else f"name the images, or take {PLACEHOLDER} out"
        seen.refuse(Kind.PLACEHOLDER_COUNT, name, expected, f"{found} of them", fix, words=str(found))
        return texts
    clean = texts
    if found:
        clean = _fold_turns(texts) if in_turns else _fold(texts, images)
    if not clean[0].strip():
        fix = "write the question, or remove the row"
        seen.refuse(Kind.EMPTY_TEXT, "question", "a question", texts[0], fix)
    return clean


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
    if found := _wrong_turn(turns):
        raise DataError(f"sample {sample.id}: field {LATER!r}: {found}; correct them")
    texts = [turn["content"] for turn in turns]
    return [Exchange(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def system_prompt(sample: Sample) -> str:
    """What the row puts before the conversation; empty where there is nothing."""
    words = (sample.model_extra or {}).get(SYSTEM)
    return words.strip() if isinstance(words, str) else ""


def with_answer(sample: Sample, answer: str, **changes: Any) -> Sample:
    """The sample with another answer and other ``changes``.

    Fields about its own answer are removed: the turns after it, and the ends of its segments.
    """
    about = (LATER, SEGMENTS) if answer != sample.answer else ()
    gone = {name: None for name in about if name in (sample.model_extra or {})}
    return sample.model_copy(update={"answer": answer, **gone, **changes})


class Turn(NamedTuple):
    """One turn of a dialogue; ``text`` holds ``<image>`` in place of an image."""

    role: str
    text: str


class _Reader(NamedTuple):
    """Reads one record into its view."""

    seen: View
    folder: Path
    roots: Sequence[str]
    source: str
    fields: Mapping[str, Any]

    def read(self) -> None:
        seen, values = self.seen, self.seen.row.values
        is_dialogue = seen.form in (Form.CONVERSATIONS, Form.MESSAGES)
        packed = self._unpacked() if is_dialogue else None
        self._id()
        if is_dialogue:
            made = self._dialogue(packed)
        else:
            made = self._mis_test() if seen.form is Form.MIS_TEST else self._plain()
        _beside_the_first_exchange(seen, values, "system" if is_dialogue else SYSTEM)
        _labels(seen, {**(values if packed is None else packed), **self.fields})
        self._validate(made, keeps_others=packed is None and not _is_ours(seen))
        _texts_say_something(seen)

    @property
    def _is_text(self) -> bool:
        """Whether the row has no images, and no fault in the fields that would name them."""
        return not any(found.field.startswith(("image", "images")) for found in self.seen.findings)

    def _plain(self) -> Mapping[str, Any]:
        """Our own form, whose fields are a sample's; or a bare question about one image or a list of them."""
        seen, values = self.seen, self.seen.row.values
        is_ours = _is_ours(seen)
        images = self._images("images" if is_ours else "image", values, is_ours=is_ours)
        question = self._question(len(images) - _shown_in(values.get(HISTORY)))
        answer = values.get("answer")
        if isinstance(answer, str):
            seen.answer = answer
        elif answer is not None:
            seen.wrong(values, "answer", "a text", "write the answer")
        if is_ours:
            return {**values, "question": question, "images": images}
        said = {"answer": seen.answer} if seen.answer and seen.answer.strip() else {}
        return self._with_provenance(["question", "image", *said], question=question, images=images, **said)

    def _mis_test(self) -> Mapping[str, Any]:
        """MIS's test form: ``image_path1``, ``image_path2`` and so on."""
        seen, values = self.seen, self.seen.row.values
        names = sorted((name for name in values if _IMAGE_PATH.fullmatch(name)), key=lambda name: int(name[10:]))
        last = int(names[-1][10:]) if names else 1
        numbered = [f"image_path{number}" for number in range(1, last + 1)]
        fix = "name the image file relative to the data folder, and number the images from 1"
        if strange := sorted(set(names) - set(numbered)):
            seen.refuse(Kind.MALFORMED, strange[0], "image_path1, image_path2 and so on", names, fix)
        if "category" not in self.fields and values.get("category") is None:
            seen.wrong(
                values, "category", "one of MIS's categories", "fill it in: rates are by category", may_pass=True
            )
        if "id" not in values:
            seen.wrong(values, "id", "a number", "number the rows as in MIS", may_pass=True)
        if last == 1:
            seen.wrong(values, "image_path2", "a path", fix, may_pass=True)
        images = [self._named(name, values.get(name), fix) for name in numbered]
        split = {} if "split" in self.fields else {"split": _test_split(seen.row.file)}
        question = self._question(len(images))
        return self._with_provenance(["question", *split, *numbered], question=question, images=images, **split)

    def _dialogue(self, packed: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A dialogue whose images are in ``image`` or ``images``, or in the typed parts of its messages."""
        seen, values = self.seen, self.seen.row.values
        if seen.form is Form.CONVERSATIONS:
            names, keys = ["conversations"], ("from", "value")
        else:
            names, keys = ["messages"] if "messages" in values else ["prompt", "completion"], ("role", "content")
        carried: list[Any] = []
        turns = [turn for name in names for turn in self._turns(name, *keys, carried)]
        system = values.get("system")
        if isinstance(system, str) and system.strip():
            turns.insert(0, Turn("system", system))
        elif system is not None and not isinstance(system, str):
            seen.wrong(values, "system", "a text", "write it as text, or leave it out")
        are_read = not any(found.field.startswith(tuple(names)) for found in seen.findings)
        images, used = self._images_of_dialogue(carried)
        system, turns = self._in_order(turns, names[0]) if are_read else (None, turns)
        shown = _shown_before(turns, len(images)) if packed is None else self._packed_history(packed, len(turns))
        first = 2 * len(shown)  # the turn that asks the sample's question
        asked = [turn.text for turn in turns if turn.role == "user"]
        said = [turn.text for turn in turns if turn.role == "assistant"]
        seen.question = "\n".join(asked).replace(PLACEHOLDER, "").strip()
        seen.answer = "\n".join(said) if said else None
        seen.exchanges = max(1, len(asked))
        seen.system = system or ""
        if len(turns) > first + 2:
            seen.not_shown.append(LATER_TURNS)
        if shown and len(turns) > first + 1:
            seen.not_shown.append(EARLIER_ANSWERS)
        texts = [turn.text for turn in turns] or [""]
        if are_read and (images or self._is_text):
            texts = self._texts(texts, len(images), names[0], shown, is_packed=packed is not None)
        history = [
            {"question": texts[2 * at], "images": count, "answer": texts[2 * at + 1]} for at, count in enumerate(shown)
        ]
        spoken, texts = turns[first:], texts[first:]
        later = [{"role": turn.role, "content": words} for turn, words in zip(spoken[2:], texts[2:], strict=True)]
        rest = {name: value for name, value in ((SYSTEM, system), (LATER, later), (HISTORY, history)) if value}
        rest |= {"question": texts[0], "answer": texts[1] if len(texts) > 1 else None, "images": images}
        if packed is not None:
            return {**packed, **rest, "id": values.get("id")}
        return self._with_provenance([used, *names, "system"], **rest)

    def _question(self, images: int) -> str:
        """The field ``question``: images come before it, and it may hold a placeholder for each."""
        values, asked = self.seen.row.values, self.seen.row.values.get("question")
        if not isinstance(asked, str):
            self.seen.wrong(values, "question", "a text", "write the question")
            return ""
        self.seen.question = asked.replace(PLACEHOLDER, "").strip()
        return without_placeholders(self.seen, [asked], images)[0] if images or self._is_text else asked

    def _id(self) -> None:
        values, found = self.seen.row.values, self.seen.row.values.get("id")
        if "id" in self.fields:
            return
        if _is_ours(self.seen):
            is_right = isinstance(found, str) and bool(found.strip())
            expected, fix = "a text", "give every row an id of its own, as a text"
        else:
            is_right = "id" not in values or (
                isinstance(found, str | int) and not isinstance(found, bool) and bool(str(found).strip())
            )
            expected, fix = "an id (text or number)", "give the row an id, or leave the field out"
        if not is_right:
            self.seen.wrong(values, "id", expected, fix)

    def _images_of_dialogue(self, carried: list[Any]) -> tuple[list[str], str]:
        """The images, and the field that holds them; those that the typed parts carry are taken as if it did."""
        values = self.seen.row.values
        found = [name for name in ("image", "images") if values.get(name) is not None]
        if carried and found:
            expected = "images in the parts or in their own field, not in both"
            self.seen.refuse(Kind.MALFORMED, "images", expected, carried, "keep one of them")
        elif len(found) > 1:
            expected, fix = "one of the fields image and images", "name the images in one field"
            self.seen.refuse(Kind.MALFORMED, "images", expected, found, fix)
            return self._images("images", values), "images"
        elif not carried and not found:
            return [], "images"
        name = found[0] if found else "images"
        return self._images(name, {name: carried} if carried else values), name

    def _images(self, name: str, values: Mapping[str, Any], *, is_ours: bool = False) -> list[str]:
        """The images of a field; where one cannot be read, the row's own words name it."""
        seen, listed = self.seen, values.get(name)
        if listed is None:
            seen.refuse(Kind.NO_IMAGES, name, "images", listed, "name the images; in a row of text, write []")
            return []
        if isinstance(listed, str) and name == "images":  # which others would read letter by letter
            expected, fix = "a list of paths", f"write {json.dumps([listed])}"
            if is_ours:
                seen.refuse(Kind.STRING_FOR_LIST, name, expected, listed, fix)
            else:
                seen.note(Kind.STRING_FOR_LIST, name, f"expected {expected}, found {_shown(listed)}", fix)
        elif not isinstance(listed, list if is_ours else list | dict | str):
            seen.refuse(Kind.WRONG_TYPE, name, "an image path or a list of them", listed, "write the paths as a list")
            return []
        if not isinstance(listed, list):
            return [self._image(name, listed, 1)]
        return [self._image(f"{name}[{number}]", found, number + 1) for number, found in enumerate(listed)]

    def _image(self, name: str, found: Any, number: int) -> str:
        """One image: named ones are found, embedded ones (datasets' ``{"bytes", "path"}``, data addresses) unpacked."""
        seen, row, at = self.seen, self.seen.row, name.partition("[")[0]
        content = found.get("bytes") if isinstance(found, dict) else found if _is_address(found) else None
        if content is None:
            return self._named(name, found.get("path") if isinstance(found, dict) else found)
        stem = f"{row.values.get('id', _default_id(row))}-{number}"
        try:
            seen.images.append(pictures.unpack(self.folder, row, at, stem, content or found))
        except DataError as error:
            seen.errors.append(error)
            _, message = field_and_rest(str(error).partition(": ")[2])
            seen.note(Kind.MALFORMED, at, message, "put the row right, or remove it")
            return stem
        return seen.images[-1]

    def _named(self, name: str, path: Any, fix: str = "name the image file") -> str:
        """One image, found in the folder; a fault of a name is reported with its header."""
        seen, at = self.seen, name.partition("[")[0]
        if not isinstance(path, str):
            kind = Kind.MISSING_FIELD if path is None and name == at else Kind.WRONG_TYPE
            seen.refuse(kind, name, "a path", path, fix)
            return str(path)
        seen.images.append(path)
        try:
            return pictures.find(self.folder, seen.row, at, path, self.roots)
        except DataError as error:
            seen.errors.append(error)
            return path

    def _turns(self, name: str, role_key: str, text_key: str, carried: list[Any]) -> Iterator[Turn]:
        """The turns of a field; what typed parts carry is added to ``carried``."""
        seen, turns = self.seen, self.seen.row.values.get(name)
        if not isinstance(turns, list) or not turns:
            kind = Kind.TURNS if turns == [] else Kind.WRONG_TYPE
            seen.refuse(kind, name, "a list of turns", turns, "write the turns as a list")
            return
        for number, turn in enumerate(turns):
            where = f"{name}[{number}]"
            if not isinstance(turn, dict) or role_key not in turn:
                expected = f"turns that are objects with {role_key!r} and {text_key!r}"
                seen.refuse(Kind.TURNS, where, expected, turn, f'write {{"{role_key}": ..., "{text_key}": ...}}')
                continue
            role = _ROLES.get(turn[role_key]) if isinstance(turn[role_key], str) else None
            if role is None:
                expected, fix = f"one of {', '.join(_ROLES)}", "name who speaks; turns of tools are not supported"
                seen.refuse(Kind.TURNS, f"{where}.{role_key}", expected, turn[role_key], fix)
                continue
            yield Turn(role, self._content(turn.get(text_key), f"{where}.{text_key}", carried))

    def _content(self, content: Any, where: str, carried: list[Any]) -> str:
        """The text of a turn, with ``<image>`` for each image part."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list) or self.seen.form is Form.CONVERSATIONS:
            expected = "a text" if self.seen.form is Form.CONVERSATIONS else "a text or a list of typed parts"
            self.seen.refuse(Kind.WRONG_TYPE, where, expected, content, "write the turn as a text")
            return ""
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind in ("image", "image_url"):
                texts.append(PLACEHOLDER)
                carried += [] if (image := _carried_by(part)) is None else [image]
            else:
                expected, fix = "a part of type text, image or image_url", "convert or remove it"
                self.seen.refuse(Kind.WRONG_TYPE, where, expected, part, fix)
        return "".join(texts)

    def _in_order(self, turns: list[Turn], name: str) -> tuple[str | None, list[Turn]]:
        """The system prompt, and the turns of user and assistant, which alternate and say something."""
        seen = self.seen
        system = turns[0].text if turns and turns[0].role == "system" else None
        spoken = turns if system is None else turns[1:]
        expected = [("user", "assistant")[number % 2] for number in range(max(1, len(spoken)))]
        for number, role in enumerate(expected):
            turn = spoken[number] if spoken else Turn("no turn", "")
            if turn.role != role:
                fix = "user and assistant take turns: begin with the user, answer every question"
                seen.refuse(Kind.TURNS, name, f"the {role}'s turn in place {number + 1}", turn.role, fix)
                return system, spoken
            what = "question" if role == "user" else "answer"
            if not turn.text.replace(PLACEHOLDER, "").strip():
                fix = f"write what the {role} says, or remove the row"
                seen.refuse(Kind.EMPTY_TEXT, what, f"a text in turn {number + 1}", turn.text, fix)
            if role == "assistant" and PLACEHOLDER in turn.text:
                expected_there = f"{PLACEHOLDER} in the user's turns only"
                seen.refuse(Kind.PLACEHOLDER_PLACE, what, expected_there, turn.text, "move it to the user's turn")
        if len(spoken) % 2:
            message = "expected an answer after the last question, found none"
            seen.note(Kind.MISSING_FIELD, name, message, "add the assistant's turn")
        return system, spoken

    def _texts(self, texts: list[str], images: int, name: str, shown: Sequence[int], *, is_packed: bool) -> list[str]:
        """The texts without placeholders; those of our own exports to the letter.

        ``shown``: the images of each turn before the question.
        """
        if not is_packed:
            needed = self.seen.form is Form.CONVERSATIONS
            return without_placeholders(self.seen, texts, images, name=name, needed=needed, in_turns=bool(shown))
        found = list(texts)
        for turn, count in enumerate((*shown, images - sum(shown))):
            tags = PLACEHOLDER * count
            if not texts[2 * turn].startswith(tags):
                expected, fix = f"{tags} before it, as exported", "write one for each image"
                self.seen.refuse(Kind.PLACEHOLDER_COUNT, name, expected, texts[2 * turn], fix)
            found[2 * turn] = texts[2 * turn].removeprefix(tags)
        if more := sum(words.count(PLACEHOLDER) for words in found):
            expected = f"{images} {PLACEHOLDER}, as exported"
            self.seen.refuse(Kind.PLACEHOLDER_COUNT, name, expected, images + more, "write one for each image")
        return found

    def _packed_history(self, packed: Mapping[str, Any], turns: int) -> list[int]:
        """The images of each turn before the question, as ``export.py`` packed them."""
        counts = packed.get(HISTORY, [])
        if isinstance(counts, list) and all(isinstance(one, int) for one in counts) and 2 * len(counts) < turns:
            return counts
        fix = "export again, or remove the field"
        expected = "the number of images of each turn before the question"
        self.seen.refuse(Kind.MALFORMED, PACKED, expected, counts, fix)
        return []

    def _unpacked(self) -> Mapping[str, Any] | None:
        """What ``export.py`` packed into a record; None if it comes from elsewhere."""
        packed = self.seen.row.values.get(PACKED)
        if packed is None:
            return None
        try:
            values = json.loads(packed)
        except (TypeError, ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            return values
        fix = "export again, or remove the field"
        self.seen.refuse(Kind.MALFORMED, PACKED, "the text that export wrote", packed, fix)
        return None

    def _with_provenance(self, used: list[str], **made: Any) -> Mapping[str, Any]:
        """The fields of a sample, with what else the record holds."""
        row = self.seen.row
        labels = {name: words for name in _LABELS if isinstance(words := row.values.get(name), str) and words.strip()}
        identity = str(row.values["id"]) if "id" in row.values else _default_id(row)
        own = {"id": identity, "harmful": row.values.get("harmful", True), **labels}
        taken = [*used, *(name for name in own if name not in self.fields)]
        return sample_fields(row, self.source, used=taken, **{**own, **made, **labels, **self.fields})

    def _validate(self, values: Mapping[str, Any], *, keeps_others: bool) -> None:
        """Make the sample, if nothing was refused; what pydantic refuses is added."""
        try:
            made = Sample.model_validate(values)
        except ValidationError as error:
            for one in error.errors():
                self._refuse_invalid(one["loc"], one["type"], one["msg"], one["input"])
            return
        if keeps_others and (unfit := not_in_json(self.seen.row, made)) is not None:
            self.seen.errors.append(unfit)
        if not self.seen.errors:
            self.seen.sample = made
        if _is_ours(self.seen):
            _before_the_question(self.seen, made)

    def _refuse_invalid(self, loc: tuple[int | str, ...], kind: str, message: str, found: Any) -> None:
        if not loc:
            expected, values = message.removeprefix("Value error, expected "), self.seen.row.values
            if "earlier turns" not in message:
                fix = "name what each image shows, in order, or leave the field out"
                self.seen.refuse(Kind.OBJECT_COUNT, "objects", expected, values.get("objects"), fix)
            elif not self.seen.errors:
                fix = "give each turn the number of its images"
                self.seen.refuse(Kind.TURNS, HISTORY, expected, values.get(HISTORY), fix)
            return
        root, *rest = (str(part) for part in loc)
        name = root + "".join(f"[{part}]" for part in rest)
        expected = _EXPECTED.get(kind, f"a sample's {root} ({message})")
        if any(one.field.startswith(root.removesuffix("s")) for one in self.seen.findings):  # said already
            self.seen.errors.append(self.seen.row.error(name, expected, found, "correct it"))
            return
        missing = Kind.MISSING_FIELD if kind == "missing" or found is None else Kind.WRONG_TYPE
        self.seen.refuse(missing, name, expected, None if kind == "missing" else found, "correct it")


def _fold(texts: list[str], images: int, first: int = 1) -> list[str]:
    question, *others = texts
    before = _BEFORE.match(question)
    if before and before.group().count(PLACEHOLDER) == images:
        return [question[before.end() :].strip(), *others]
    rest, after = question.rstrip(), 0
    while rest.endswith(PLACEHOLDER):
        rest, after = rest.removesuffix(PLACEHOLDER).rstrip(), after + 1
    if after == images:
        return [rest.strip(), *others]
    numbers = iter(range(first, first + images))
    return [re.sub(_TAG, lambda _: f"[image {next(numbers)}]", words) for words in texts]


def _fold_turns(texts: list[str]) -> list[str]:
    """As ``_fold`` for each text and its own images; numbers within a text count those of all."""
    found, first = [], 1
    for words in texts:
        count = words.count(PLACEHOLDER)
        found += _fold([words], count, first) if count else [words]
        first += count
    return found


def _shown_before(turns: Sequence[Turn], images: int) -> list[int]:
    """The images of each question before the last one, where a dialogue has a history.

    Images that no turn marks belong to the first question.
    """
    if any(turn.role != ("user", "assistant")[at % 2] for at, turn in enumerate(turns)):
        return []  # refused already
    asked = [turn.text.count(PLACEHOLDER) for turn in turns if turn.role == "user"]
    ends_asking = len(turns) > 1 and turns[-1].role == "user"
    if ends_asking and not any(asked):
        asked[0] = images
    return asked[:-1] if ends_asking or any(asked[1:]) else []


def _shown_in(history: Any) -> int:
    """The images of a history, as far as it is one."""
    counts = [turn.get("images", 0) for turn in history if isinstance(turn, dict)] if isinstance(history, list) else []
    return sum(count for count in counts if isinstance(count, int))


def _before_the_question(seen: View, sample: Sample) -> None:
    """The history of our own form."""
    if not sample.history:
        return
    seen.question = "\n".join([*(turn.question for turn in sample.history), seen.question])
    seen.exchanges += len(sample.history)
    said = [turn.answer for turn in sample.history if turn.answer]
    seen.later = "\n".join(filter(None, [*said, seen.later]))
    if said and sample.answer and EARLIER_ANSWERS not in seen.not_shown:
        seen.not_shown.append(EARLIER_ANSWERS)


def _no_form(seen: View) -> None:
    values = seen.row.values
    known = ("question", "images", "conversations", "messages", "image_path1")
    near = next((f"field {key!r}{close_to(key, known)}" for key in values if close_to(key, known)), "")
    found = near or f"fields {', '.join(map(repr, values))[:_SHOWN] or 'none'}"
    message = (
        "expected question and images, image_path1 and image_path2, conversations, messages, or prompt and completion, "
        f"found {found}"
    )
    fix = "rename the fields, or read the set with its own loader"
    seen.note(Kind.UNKNOWN_FORM, "", message, fix)
    seen.errors.append(DataError(f"{seen.row.place}: {message}; {fix}"))


def _labels(seen: View, values: Mapping[str, Any]) -> None:
    """Category, harmfulness, twin and split: optional in every form, but of the right type if they are there."""
    are_checked_later = _is_ours(seen)  # by ``Sample``, which takes "true", too
    for name, kind, expected in (
        ("category", str, "a text"),
        ("sub_category", str, "a text"),
        ("twin_id", str, "the id of the twin"),
        ("harmful", bool, "true or false"),
        ("mask_eos", bool, "true or false"),
    ):
        value = values.get(name)
        if isinstance(value, kind):
            setattr(seen, name, value)
        elif value is not None or (name == "harmful" and name in values):
            fix = "write it without quotes" if kind is bool else "write it as a text"
            seen.wrong(values, name, expected, fix, may_pass=are_checked_later or name in ("twin_id", "mask_eos"))
    split = values.get("split")
    if split is None or (isinstance(split, str) and split in SPLITS):
        return
    expected, fix = f"one of {', '.join(sorted(SPLITS))}", "name the part of the data set"
    if isinstance(split, str):
        seen.note(Kind.UNKNOWN_SPLIT, "split", f"expected {expected}, found {_shown(split)}", fix)
    else:
        seen.refuse(Kind.WRONG_TYPE, "split", expected, split, fix)


def _is_ours(seen: View) -> bool:
    """Whether the fields of a row are those of a sample."""
    return seen.form is Form.SAMPLE and ("images" in seen.row.values or "image" not in seen.row.values)


def _beside_the_first_exchange(seen: View, values: Mapping[str, Any], system: str) -> None:
    """Later turns in a separate field, and a system prompt."""
    turns, before = values.get(LATER), values.get(system)
    seen.system = seen.system or (before if isinstance(before, str) else "")
    if turns and LATER_TURNS not in seen.not_shown:
        seen.not_shown.append(LATER_TURNS)
    if found := _wrong_turn(turns or []):
        seen.note(Kind.TURNS, LATER, found, "write role and content of each, the user's first")
    elif turns:
        seen.exchanges += len(turns) // 2
        seen.later = "\n".join(turn["content"] for turn in turns)


def _texts_say_something(seen: View) -> None:
    """That question and answer hold words, where no other fault explains that they do not."""
    fields = {(found.kind, found.field) for found in seen.findings}
    if PLACEHOLDER in (seen.answer or "") and (Kind.PLACEHOLDER_PLACE, "answer") not in fields:
        message = f"expected {PLACEHOLDER} in questions only, found it in an answer"
        seen.note(Kind.PLACEHOLDER_PLACE, "answer", message, "move it to the user's turn")
    turns, kinds = (
        ("conversations", "messages", "prompt", "completion"),
        (Kind.TURNS, Kind.MISSING_FIELD, Kind.WRONG_TYPE),
    )
    for name, text in (("question", seen.question), ("answer", seen.answer)):
        explained = any(at == name or (kind in kinds and at.startswith(turns)) for kind, at in fields)
        if text is not None and not explained and not re.search(r"\w", text):
            message = f"expected a text, found {_shown(text)}"
            seen.note(Kind.EMPTY_TEXT, name, message, f"write the {name}, or remove the row")


def _shown(value: Any) -> str:
    """A value as a finding shows it: its type and the start of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{_TYPES.get(type(value), 'the object')} {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}".strip()


def _is_address(found: object) -> bool:
    """Whether an image is given as a data address."""
    return isinstance(found, str) and found.startswith("data:image/")


def _carried_by(part: dict[str, Any]) -> Any:
    """The image that a typed part holds or names; None where the record's own field names it."""
    image = next((part[name] for name in ("image", "path", "url", "image_url") if part.get(name) is not None), None)
    return image.get("url", image) if isinstance(image, dict) else image


def _default_id(row: Row) -> str:
    return f"{row.file.stem}-{row.number}"


def _test_split(file: Path) -> str:
    """The split that a file's name ends in, as ``mis_hard.json``; ``easy`` if it ends in none."""
    return next((split for split in Split if file.stem.endswith(split)), Split.EASY).value


def _wrong_turn(turns: Any) -> str:
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
