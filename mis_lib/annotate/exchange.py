"""Annotations as files: JSON Lines and CSV without loss, and a redacted form that can be passed on.

A cell of a CSV that begins like a formula (``= + - @``, tab, return) gets an apostrophe in front, which spreadsheets show as text; reading takes
it off again. Line ends inside a text stay as they are, because marks count characters. What a spreadsheet makes of a file when it saves it is read:
semicolons or tabs, TRUE and FALSE, rows of empty cells. Redacted files have no images and no texts: each text is
replaced by a keyed hash, so that equal texts can be told but not guessed, and people are numbered by the same key. They cannot be read back.
"""

import csv
import hashlib
import hmac
import io
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from mis_lib.annotate.decisions import Event, read_event
from mis_lib.errors import DataError
from mis_lib.files import read_jsonl

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # the apostrophe itself too, so that taking one off is never wrong
SUBJECT_FIELDS, KEPT = ("run", "variant", "response"), ("id", "split", "category", "sub_category", "harmful")
DECISION_FIELDS = ("outcome", "causes", "severity", "mark", "comment", "corrected", "preference", "swapped")
EVENT_FIELDS = ("id", "kind", "author", "at", "undoes", "reason")
OTHER_FIELDS = ("other_run", "other_variant", "other_sample", "other_response")  # the sample only where it differs
COLUMNS = (*EVENT_FIELDS, *SUBJECT_FIELDS, "sample", *OTHER_FIELDS, *DECISION_FIELDS)
LATER_COLUMNS = (
    "other_run",
    "other_sample",
)  # exports from before they were written lack them: the subject's are meant
BOOLEANS = {"TRUE": "true", "FALSE": "false"}  # as spreadsheets write them
AS_JSON = ("sample", "other_sample", "causes", "mark", "severity", "swapped")

csv.field_size_limit(2**31 - 1)  # a sample with all that it carries may be longer than the 128 KiB of Python's own


class Form(StrEnum):
    """How annotations are written."""

    JSONL = "jsonl"
    CSV = "csv"


def write_events(events: Iterable[Event], form: Form, *, redact_with: bytes | None = None) -> str:
    """Events as text, in the order given.

    Args:
        events: all of a store, decisions that were taken back included.
        form: JSON Lines or CSV.
        redact_with: a key; leaves out images and replaces texts and names by hashes under it.
    """
    records = [event.model_dump(mode="json", exclude={"seq"}) for event in events]
    if redact_with is not None:
        records = [_redacted(record, redact_with) for record in records]
    if form is Form.JSONL:
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    stream = io.StringIO()
    # All cells are quoted: Python leaves a lone return bare otherwise, and reads it as the end of the row.
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({key: neutral(value) for key, value in _flat(record).items()} for record in records)
    return stream.getvalue()


def read_events(path: Path) -> list[Event]:
    """The events of an export, told by its ending (.jsonl or .csv).

    Raises:
        DataError: no such file, another form, a redacted file, or a row is wrong (file, row and field named).
    """
    rows = list(_read_csv(path)) if path.suffix.lower() == ".csv" else list(read_jsonl(path))
    return [_event(record, f"{path}, row {row}") for row, record in enumerate(rows, 1)]


def neutral(value: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value


def _event(record: dict[str, Any], where: str) -> Event:
    if record.get("redacted"):
        raise DataError(f"{where}: a redacted export holds no texts and cannot be read back; export without --redacted")
    return read_event(record, where)


def _redacted(record: dict[str, Any], key: bytes) -> dict[str, Any]:
    def hidden(text: str | None) -> str | None:
        return f"hmac-sha256:{_digest(key, text)}" if text else text

    decision = record["decision"]
    return {
        "redacted": True,
        **record,
        "author": f"person-{_digest(key, record['author'])[:8]}",
        "reason": hidden(record["reason"]),
        "decision": {**decision, "comment": hidden(decision["comment"]), "corrected": hidden(decision["corrected"])},
        "subject": _redacted_subject(record["subject"], hidden),
        "other": _redacted_subject(record["other"], hidden) if record["other"] else None,
    }


def _redacted_subject(subject: dict[str, Any], hidden: Any) -> dict[str, Any]:
    sample = subject["sample"]
    kept = {name: sample[name] for name in KEPT} | {"question": hidden(sample["question"])}
    return {**subject, "response": hidden(subject["response"]), "sample": kept}


def _digest(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _flat(record: dict[str, Any]) -> dict[str, str]:
    subject, other, decision = record["subject"], record["other"], record["decision"]
    values = {name: record[name] for name in EVENT_FIELDS} | {name: subject[name] for name in SUBJECT_FIELDS}
    values |= {name: decision[name] for name in DECISION_FIELDS} | {"sample": subject["sample"]}
    if other:
        values |= {f"other_{name}": other[name] for name in SUBJECT_FIELDS}
        values |= {"other_sample": None if other["sample"] == subject["sample"] else other["sample"]}
    return {
        name: "" if value is None else json.dumps(value, ensure_ascii=False) if name in AS_JSON else str(value)
        for name, value in values.items()
    }


def _read_csv(path: Path) -> Iterable[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark in front
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8, found {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    heading = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count))
    _check_columns(path, reader.fieldnames or [])
    for number, row in enumerate(reader, 1):
        if any(row.values()):
            yield _unflat({name: plain(row.get(name) or "") for name in COLUMNS}, f"{path}, row {number}")


def plain(cell: str) -> str:
    """What ``neutral`` was given."""
    return cell.removeprefix("'")


def _check_columns(path: Path, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in (*found, *LATER_COLUMNS)]
    if missing:
        raise DataError(
            f"{path}: expected the columns of an export, {', '.join(missing)} missing; write it with mis annotations export"
        )


def _unflat(row: dict[str, str], where: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = {
            name: json.loads(BOOLEANS.get(cell, cell)) if name in AS_JSON and cell else cell
            for name, cell in row.items()
        }
    except ValueError as error:
        raise DataError(
            f"{where}: expected JSON in {', '.join(AS_JSON)} ({error}); leave these cells as they were written"
        ) from error
    subject = {name: values[name] for name in (*SUBJECT_FIELDS, "sample")}
    told = {name: values[f"other_{name}"] or subject[name] for name in ("run", "sample")}
    other = told | {name: values[f"other_{name}"] for name in ("variant", "response")}
    empty_is_none = ("outcome", "severity", "mark", "corrected", "preference")
    decision = {name: values[name] for name in DECISION_FIELDS}
    decision |= {name: None for name in empty_is_none if decision[name] == ""} | {"causes": decision["causes"] or []}
    if isinstance(values["sample"], dict) and "images" not in values["sample"]:
        raise DataError(f"{where}: a redacted export holds no texts and cannot be read back; export without --redacted")
    return {
        **{name: values[name] for name in EVENT_FIELDS},
        "undoes": values["undoes"] or None,
        "subject": subject,
        "other": other if values["other_variant"] else None,
        "decision": decision | {"swapped": bool(decision["swapped"])},
    }
