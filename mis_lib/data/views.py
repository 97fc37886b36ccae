"""Views: what a row of any form says, and how its fields are looked at without stopping at the first that is wrong."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.findings import Finding, Kind, Location, printable
from mis_lib.data.formats import LATER, PACKED, PLACEHOLDER, carried_by, wrong_turn
from mis_lib.data.formats import SYSTEM as SYSTEM_FIELD
from mis_lib.data.mixtures import BESIDE, EVERYDAY
from mis_lib.data.records import BOM, is_document
from mis_lib.errors import DataError, close_to
from mis_lib.schema import Sample, Split
from mis_lib.text.refusals import opens_with_refusal

# ---------- Raw rows: what a data file holds before it is checked, in one lenient view for the forms that people have.
#
# Loaders refuse the first wrong row; here every row is read as far as it can be, and each thing that is wrong becomes a
# finding, so that one pass names them all. Forms, recognised by their fields: our JSON Lines (``question``,
# ``images``), MIS's test JSON (``image_path1``, ``image_path2``), LLaVA / ShareGPT / MIS train (``conversations``), and
# chat messages (``messages`` or ``prompt`` and ``completion``: TRL, ms-swift, OpenAI).

IMAGE_PATH = re.compile(r"image_path\d{1,2}")
SHOWN = 60


class Form(StrEnum):
    """How a row is laid out."""

    SAMPLE = "sample"
    MIS_TEST = "mis_test"
    CONVERSATIONS = "conversations"
    MESSAGES = "messages"


class RawRow(NamedTuple):
    """One record of a data file; ``row`` is its line (JSON Lines) or its position (other files), from 1."""

    file: str
    row: int
    values: dict[str, Any]
    """The object of a JSON file; empty for records of other files."""
    read: Sample | DataError | None = None
    """What the strict reader makes of the record; None until it was asked."""

    @property
    def place(self) -> Location:
        """File and row, with the id if there is one."""
        found = self.values.get("id")
        return Location(self.file, self.row, printable(str(found)) if isinstance(found, str | int) else "")


@dataclass
class RawFile:
    """A data file: its rows, and what is wrong with it as a whole."""

    path: Path
    is_lines: bool
    rows: list[RawRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_file(path: Path) -> RawFile:
    """Read a data file as far as it can be read; nothing in it raises.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        content = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found: {error.strerror}") from error
    file = RawFile(path, is_lines=path.suffix.lower() == ".jsonl" or not is_document(content))
    rows = _lines(file, content) if file.is_lines else _array(file, content)
    file.rows.extend(rows)
    if not file.rows and not file.findings:
        message = "expected rows, found none"
        file.findings.append(Location(path.name).finding(Kind.EMPTY_FILE, "", message, "write the file again"))
    return file


def form_of(values: dict[str, Any]) -> Form | None:
    """Which form a row has; None if it is none of them."""
    if "conversations" in values:
        return Form.CONVERSATIONS
    if "messages" in values or ("prompt" in values and "completion" in values):
        return Form.MESSAGES
    if any(IMAGE_PATH.fullmatch(key) for key in values):
        return Form.MIS_TEST
    return Form.SAMPLE if "question" in values or "images" in values else None


def no_form(row: RawRow) -> Finding:
    """The finding for a row of none of the forms."""
    known = ("question", "images", "conversations", "messages", "image_path1")
    near = next((f"field {key!r}{close_to(key, known)}" for key in row.values if close_to(key, known)), "")
    found = near or f"fields {', '.join(map(repr, row.values))[:SHOWN] or 'none'}"
    message = f"expected question and images, image_path1 and image_path2, conversations or messages, found {found}"
    return row.place.finding(Kind.UNKNOWN_FORM, "", message, "rename the fields, or read the set with its own loader")


class _Object(dict[str, Any]):
    """A JSON object in which a field stood more than once."""

    repeated: str = ""


def _lines(file: RawFile, content: bytes) -> Iterator[RawRow]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = Location(file.path.name, number)
            try:
                yield from _row(file, place, _parse(line))
            except ValueError as error:
                file.findings.append(_broken_line(place, line, error, is_last=number == len(lines)))


def _array(file: RawFile, content: bytes) -> Iterator[RawRow]:
    place = Location(file.path.name)
    try:
        values = _parse(content)
    except ValueError as error:
        line = content[: getattr(error, "pos", 0)].count(b"\n") + 1
        message = f"expected a JSON list of rows, found a fault in line {line}: {error}"
        file.findings.append(place.finding(Kind.NOT_JSON, "", message, "write the file again as UTF-8 JSON"))
        return
    if not isinstance(values, list):
        message, fix = (
            f"expected a list of rows, found {shown(values)}",
            "read the set with its own loader and export it",
        )
        file.findings.append(place.finding(Kind.NOT_ROWS, "", message, fix))
        return
    for number, value in enumerate(values, 1):
        yield from _row(file, place._replace(row=number), value)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content.decode(), object_pairs_hook=_object)  # of bytes it would take UTF-16, too
    except RecursionError as error:
        raise ValueError("brackets nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    found = _Object(values)
    found.repeated = next(name for place, (name, _) in enumerate(pairs) if any(name == key for key, _ in pairs[:place]))
    return found


def _row(file: RawFile, place: Location, value: Any) -> Iterator[RawRow]:
    if not isinstance(value, dict):
        message = f"expected a JSON object, found {shown(value)}"
        file.findings.append(place.finding(Kind.NOT_ROWS, "", message, "one object {...} for each row"))
        return
    row = RawRow(place.file, place.row, value)
    if isinstance(value, _Object):
        message = f"expected each field once, found {value.repeated!r} twice; only the last one counts"
        file.findings.append(row.place.finding(Kind.REPEATED_KEY, value.repeated, message, "keep one of the two"))
    if strange := _not_in_json(value):
        message = f"expected values that JSON can hold, found {strange}"
        file.findings.append(row.place.finding(Kind.NOT_JSON, "", message, "write the value again"))
    yield row


def _not_in_json(value: Any) -> str | None:
    """What Python's reader lets pass and other readers, pydantic and pyarrow among them, do not."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    except ValueError:
        return "NaN or infinity"
    return None


def _broken_line(place: Location, line: bytes, error: ValueError, *, is_last: bool) -> Finding:
    found = f"found {line[:SHOWN].decode(errors='replace').strip()!r} ({error})"
    if is_last:  # no newline after it
        fix = "the writer was stopped: let it go on, or delete the line"
        return place.finding(Kind.TORN_LINE, "", f"expected a whole last line, {found}", fix)
    fix = "one JSON object a line, UTF-8; write the line again"
    return place.finding(Kind.NOT_JSON, "", f"expected one JSON object, {found}", fix)


def shown(value: Any) -> str:
    """A value as a message shows it: its type and the start of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{_TYPES.get(type(value), 'the object')} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}".strip()


_TYPES = {
    str: "the text",
    int: "the number",
    float: "the number",
    bool: "the value",
    list: "the list",
    type(None): "the value",
}


LATER_TURNS, SYSTEM_PROMPT = "later turns", "a system prompt"


@dataclass
class View:
    """What one row says; fields that are missing or wrong are empty, and ``findings`` say so."""

    place: Location
    form: Form
    question: str = ""
    """All user turns, without placeholders."""
    answer: str | None = None
    """All assistant turns; None where the row has none."""
    images: list[str] = field(default_factory=list)
    placeholders: int | None = None
    """How many stand in the user's turns; None where the form uses none."""
    category: str | None = None
    sub_category: str | None = None
    harmful: bool | None = None
    twin_id: str | None = None
    mask_eos: bool = False
    not_shown: list[str] = field(default_factory=list)
    """What the row holds and no model is asked with.

    ``LATER_TURNS``, which fine-tuning learns, and ``SYSTEM_PROMPT``, which nothing reads.
    """
    exchanges: int = 1
    """Questions, each with its answer."""
    later: str = ""
    """What our own form keeps of later turns, which stand in ``question`` and ``answer`` in the others."""
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def declines(self) -> bool:
        """Whether the answer opens with a refusal."""
        return self.answer is not None and opens_with_refusal(self.answer)

    def note(self, kind: Kind, name: str, message: str, fix: str) -> None:
        """Add a finding about this row."""
        self.findings.append(self.place.finding(kind, name, message, fix))


def image_list(seen: View, values: Mapping[str, Any], name: str, *, may_be_one: bool) -> list[str]:
    """The paths of a list field.

    LLaVA's ``image`` may be a single path, ``images`` may not: it would be read letter by letter.
    """
    listed = values.get(name)
    if isinstance(listed, str):
        if not may_be_one:
            message = f"expected a list of paths, found {shown(listed)}"
            seen.note(Kind.STRING_FOR_LIST, name, message, f"write {json.dumps([listed])}")
        return [listed]
    if listed is None or listed == []:
        seen.note(
            Kind.NO_IMAGES,
            name,
            f"expected images, found {'an empty list' if listed == [] else 'none'}",
            "name the images",
        )
        return []
    if not isinstance(listed, list):
        seen.note(
            Kind.WRONG_TYPE, name, f"expected a list of paths, found {shown(listed)}", "write the paths as a list"
        )
        return []
    names = []
    for number, path in enumerate(listed):
        if isinstance(path, dict) and path.get("bytes") is None:
            path = path.get("path")
        if isinstance(path, str):
            names.append(path)
        else:
            seen.note(
                Kind.WRONG_TYPE, f"{name}[{number}]", f"expected a path, found {shown(path)}", "name the image file"
            )
    return names


def text_field(seen: View, values: Mapping[str, Any], name: str) -> str:
    """A field that must hold text; empty if it does not."""
    text = values.get(name)
    if not isinstance(text, str):
        wrong(seen, values, name, "a text", f"write the {name}")
        return ""
    return text


def wrong(seen: View, values: Mapping[str, Any], name: str, expected: str, fix: str) -> None:
    """Note that a field is missing or of another type."""
    kind = Kind.WRONG_TYPE if values.get(name) is not None else Kind.MISSING_FIELD
    found = shown(values[name]) if name in values else "no such field"
    seen.note(kind, name, f"expected {expected}, found {found}", fix)


# ---------- Reading: a raw row of any form as a view, with a finding for each field that is not as its form promises.
#
# Reading goes on after a fault, with what is left of the row: a row with a missing image may have a leaking label too,
# and both should be reported.

LABELS = ("category", "sub_category", "twin_id", "harmful", "split")
SPLITS = frozenset([*(split.value for split in Split), *BESIDE.values(), EVERYDAY])
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": SYSTEM}


def view(row: RawRow) -> View | Finding:
    """The view of a row, or the finding that it has no known form."""
    form = form_of(row.values)
    if form is None:
        return no_form(row)
    seen = View(row.place, form)
    _READERS[form](seen, row.values)
    system = "system" if form in (Form.CONVERSATIONS, Form.MESSAGES) else SYSTEM_FIELD
    for name, what in ((LATER, LATER_TURNS), (system, SYSTEM_PROMPT)):
        if row.values.get(name) and what not in seen.not_shown:
            seen.not_shown.append(what)
    _later(seen, row.values.get(LATER))
    _labels(seen, {**_packed(row.values), **row.values})
    _agree(seen)
    return seen


def view_of(sample: Sample, file: str, row: int) -> View:
    """The view of a row that was read as a sample already: no field is missing or of another type."""
    seen = View(Location(file, row, printable(sample.id)), Form.SAMPLE, answer=sample.answer, images=sample.images)
    extra = sample.model_extra or {}
    _plain_question(seen, {"question": sample.question})
    seen.not_shown = [what for name, what in ((LATER, LATER_TURNS), (SYSTEM_FIELD, SYSTEM_PROMPT)) if extra.get(name)]
    _later(seen, extra.get(LATER))
    _labels(seen, {**_packed(extra), **extra, **{name: getattr(sample, name) for name in LABELS}})
    _agree(seen)
    return seen


def _later(seen: View, turns: Any) -> None:
    """The turns that our own form keeps apart from question and answer."""
    if found := wrong_turn(turns or []):
        seen.note(Kind.TURNS, LATER, found, "write role and content of each, the user's first")
    elif turns:
        seen.exchanges += len(turns) // 2
        seen.later = "\n".join(turn["content"] for turn in turns)


def _packed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What our own export packed into a row of another trainer's form."""
    try:
        packed = json.loads(values.get(PACKED) or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return packed if isinstance(packed, dict) else {}


def _agree(seen: View) -> None:
    """What must hold in every form: images, as many placeholders (if any) as images, and texts that say something."""
    if not seen.images and not any(found.field.startswith("image") for found in seen.findings):
        seen.note(Kind.NO_IMAGES, "images", "expected images, found none", "name the images, or remove the row")
    if seen.placeholders is not None and seen.placeholders != len(seen.images):
        message = f"expected {len(seen.images)} {PLACEHOLDER}, one for each image, found {seen.placeholders}"
        fix = f"write {PLACEHOLDER} once for each image, in the user's turn"
        seen.note(Kind.PLACEHOLDER_COUNT, "question" if seen.form is Form.SAMPLE else seen.form.value, message, fix)
    if seen.answer is not None and PLACEHOLDER in seen.answer:
        message = f"expected {PLACEHOLDER} in questions only, found it in an answer"
        seen.note(Kind.PLACEHOLDER_PLACE, "answer", message, "move it to the user's turn")
    for name, text in (("question", seen.question), ("answer", seen.answer)):
        if text is not None and not re.search(r"\w", text) and not _noted(seen, name):
            seen.note(
                Kind.EMPTY_TEXT, name, f"expected a text, found {shown(text)}", f"write the {name}, or remove the row"
            )


def _noted(seen: View, name: str) -> bool:
    """Whether a fault that explains a missing text has been reported already."""
    turns = (Kind.TURNS, Kind.MISSING_FIELD, Kind.WRONG_TYPE)
    return any(
        found.field == name or (found.kind in turns and found.field.startswith(("conversations", "messages")))
        for found in seen.findings
    )


def _sample(seen: View, values: Mapping[str, Any]) -> None:
    name = "image" if "image" in values and "images" not in values else "images"
    if not isinstance(values.get("id"), str) and name == "images":
        wrong(seen, values, "id", "a text", "give every row an id of its own, as a text")
    _plain_question(seen, values)
    seen.images = image_list(seen, values, name, may_be_one=name == "image")
    if values.get("answer") is not None:
        seen.answer = text_field(seen, values, "answer")
    objects = values.get("objects")
    if objects is not None and (not isinstance(objects, list) or len(objects) != len(seen.images)):
        message = f"expected one name for each of {len(seen.images)} images, found {shown(objects)}"
        seen.note(Kind.OBJECT_COUNT, "objects", message, "name what each image shows, in order, or leave the field out")


def _mis_test(seen: View, values: Mapping[str, Any]) -> None:
    if isinstance(values.get("id"), bool) or not isinstance(values.get("id"), int | str):
        wrong(seen, values, "id", "a number", "number the rows as in MIS: images lie in easy_image/<id>/")
    _plain_question(seen, values)
    if not isinstance(values.get("category"), str):
        wrong(seen, values, "category", "one of MIS's categories", "fill it in: rates are told by category")
    names = sorted((key for key in values if IMAGE_PATH.fullmatch(key)), key=lambda key: int(key[10:]))
    for number in range(1, max(2, *(int(name[10:]) for name in names)) + 1):
        name = f"image_path{number}"
        path = values.get(name)
        if isinstance(path, str):
            seen.images.append(path)
        else:
            wrong(seen, values, name, "a path", "name the image file relative to the data folder")


def _optional_id(seen: View, values: Mapping[str, Any]) -> None:
    """Dialogues may go without an id; their position in the file replaces it."""
    found = values.get("id", "none")
    if isinstance(found, bool) or not isinstance(found, int | str) or not str(found).strip():
        wrong(seen, values, "id", "a text or number", "give the row an id, or leave the field out")


def _conversations(seen: View, values: Mapping[str, Any]) -> None:
    _optional_id(seen, values)
    name = "images" if "images" in values or "image" not in values else "image"
    seen.images = image_list(seen, values, name, may_be_one=name == "image")
    _turns(seen, values["conversations"], "conversations", "from", "value")


def _messages(seen: View, values: Mapping[str, Any]) -> None:
    _optional_id(seen, values)
    if "images" in values:
        seen.images = image_list(seen, values, "images", may_be_one=False)
    if "messages" in values:
        turns = values["messages"]
    else:
        turns = [turn for name in ("prompt", "completion") if isinstance(values[name], list) for turn in values[name]]
    _turns(seen, turns, "messages", "role", "content")


_READERS: Mapping[Form, Callable[[View, Mapping[str, Any]], None]] = {
    Form.SAMPLE: _sample,
    Form.MIS_TEST: _mis_test,
    Form.CONVERSATIONS: _conversations,
    Form.MESSAGES: _messages,
}


def _turns(seen: View, turns: Any, name: str, role_key: str, text_key: str) -> None:
    """Read a dialogue.

    User and assistant in turn, placeholders in the user's turns only, as many as there are images.
    """
    if not isinstance(turns, list):
        seen.note(Kind.WRONG_TYPE, name, f"expected a list of turns, found {shown(turns)}", "write the turns as a list")
        return
    texts: dict[str, list[str]] = {USER: [], ASSISTANT: [], SYSTEM: []}
    order: list[str] = []
    for number, turn in enumerate(turns):
        where = f"{name}[{number}]"
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            message = f"expected {role_key!r} and {text_key!r}, found {shown(turn)}"
            seen.note(Kind.TURNS, where, message, f'write {{"{role_key}": ..., "{text_key}": ...}}')
            continue
        role = ROLES.get(turn[role_key]) if isinstance(turn[role_key], str) else None
        if role is None:
            message = f"expected one of {', '.join(ROLES)}, found {shown(turn[role_key])}"
            seen.note(Kind.TURNS, f"{where}.{role_key}", message, "name who speaks")
            continue
        texts[role].append(_content(seen, turn[text_key], f"{where}.{text_key}"))
        order += [role] if role != SYSTEM else []
    if any(role != (USER, ASSISTANT)[place % 2] for place, role in enumerate(order)) or not order:
        message = f"expected user and assistant in turn, found {', '.join(order) or 'no turn'}"
        seen.note(Kind.TURNS, name, message, "begin with the user, answer every question")
    elif order[-1] == USER:
        seen.note(
            Kind.MISSING_FIELD,
            name,
            "expected an answer after the last question, found none",
            "add the assistant's turn",
        )
    seen.not_shown += [LATER_TURNS] if len(order) > 2 else []
    seen.exchanges = max(1, order.count(USER))
    seen.not_shown += [SYSTEM_PROMPT] if any(text.strip() for text in texts[SYSTEM]) else []
    asked = "\n".join(texts[USER])
    seen.placeholders = asked.count(PLACEHOLDER)
    if seen.form is Form.MESSAGES:  # ms-swift puts images whose place no text tells before the question, and so do we
        seen.placeholders = seen.placeholders or None
    seen.question = asked.replace(PLACEHOLDER, "").strip()
    seen.answer = "\n".join(texts[ASSISTANT]) if texts[ASSISTANT] else None


def _content(seen: View, content: Any, where: str) -> str:
    """The text of a turn; typed parts of images count as placeholders."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        seen.note(Kind.WRONG_TYPE, where, f"expected a text, found {shown(content)}", "write the turn as a text")
        return ""
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict) and part.get("type") in ("image", "image_url"):
            texts.append(PLACEHOLDER)
            if isinstance(named := carried_by(part), str):
                seen.images.append(named)
        else:
            message = f"expected parts of type text or image, found {shown(part)}"
            seen.note(Kind.WRONG_TYPE, where, message, 'write {"type": "text", "text": ...} or {"type": "image"}')
    return "".join(texts)


def _plain_question(seen: View, values: Mapping[str, Any]) -> None:
    """A question in a field of its own.

    Images come before it, so it needs no placeholder, but may hold one for each.
    """
    text = text_field(seen, values, "question")
    if PLACEHOLDER in text:
        seen.placeholders = text.count(PLACEHOLDER)
    seen.question = text.replace(PLACEHOLDER, "").strip()


def _labels(seen: View, values: Mapping[str, Any]) -> None:
    """Category, harmfulness, twin and split: optional in every form, but of the right type if they are there."""
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
        elif value is not None and not (seen.form is Form.MIS_TEST and name == "category"):
            wrong(seen, values, name, expected, "write it without quotes" if kind is bool else "write it as a text")
    split = values.get("split")
    if split is not None and not (isinstance(split, str) and split in SPLITS):
        message = f"expected one of {', '.join(sorted(SPLITS))}, found {shown(split)}"
        kind = Kind.UNKNOWN_SPLIT if isinstance(split, str) else Kind.WRONG_TYPE
        seen.note(kind, "split", message, "name the part of the data set")
