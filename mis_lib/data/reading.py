"""Reading: a raw row of any form as a view, with a finding for each field that is not as its form promises.

Reading goes on after a fault, with what is left of the row: a row with a missing image may have a leaking label too, and both should be told.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mis_lib.data.dialogues import PLACEHOLDER, carried_by
from mis_lib.data.findings import Finding, Kind
from mis_lib.data.formats import PACKED
from mis_lib.data.formats import SYSTEM as SYSTEM_FIELD
from mis_lib.data.mixtures import BESIDE, EVERYDAY
from mis_lib.data.rows import IMAGE_PATH, Form, RawRow, form_of, no_form, shown
from mis_lib.data.turns import LATER, wrong_turn
from mis_lib.data.views import LATER_TURNS, SYSTEM_PROMPT, View, image_list, text_field, wrong
from mis_lib.schema import Split

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


def _later(seen: View, turns: Any) -> None:
    """The turns that our own form keeps beside question and answer."""
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
    """Whether a fault that explains a missing text has been told already."""
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
    """Dialogues may go without an id; their place in the file stands for it."""
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
    """Read a dialogue: user and assistant in turn, placeholders in the user's turns only, as many as there are images."""
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
    """A question in a field of its own: images come before it, so it needs no placeholder, but may hold one for each."""
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
