"""Annotations as files: JSON Lines and CSV without loss, a redacted form to pass on, and labels from other tools.

A cell of a CSV that begins like a formula (``= + - @``, tab, return) gets an apostrophe in front, which spreadsheets
show as text; reading removes it. Line ends inside a text stay as they are, because marks count characters. What a
spreadsheet makes of a file when it saves it is read: semicolons or tabs, TRUE and FALSE, rows of empty cells. Redacted
files have no images and no texts: each text is replaced by a keyed hash, so that equal texts can be recognised but not
guessed, and people are numbered by the same key. They cannot be read back.

Labels that people gave in another tool (Label Studio, Argilla, a spreadsheet) become decisions on the responses of a
run. One label a row, in a table of any kind that data come in:

    sample_id (or id), variant (or model), author (or annotator, completed_by), outcome (or label, choice),
    comment (or reason, note), at (or updated_at, created_at), corrected (or correction, corrected_answer)

Only the first and the outcome are needed: the variant where the run has several, the author where none is given for
all. That is what Label Studio's CSV and JSON-MIN exports hold, if its tasks carry ``sample_id`` and ``variant`` and
its choices are outcomes; in its JSON export each annotation of a task is such a row. A row has the same event id each
time it is read, so that a file which has grown can be read again.
"""

import csv
import hashlib
import hmac
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.annotate.decisions import MAX_TEXT, Decision, Event, Kind, Subject, read_event
from mis_lib.data.records import Row, read_table
from mis_lib.errors import DataError
from mis_lib.files import digest, read_jsonl
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome, Response, Sample

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
SAMPLE, VARIANT, AUTHOR = ("sample_id", "id"), ("variant", "model"), ("author", "annotator", "completed_by")
CORRECTED = ("corrected", "correction", "corrected_answer")
OUTCOME, COMMENT, TIME = (
    ("outcome", "label", "choice"),
    ("comment", "reason", "note"),
    ("at", "updated_at", "created_at"),
)


class Form(StrEnum):
    """How annotations are written."""

    JSONL = "jsonl"
    CSV = "csv"


class Labels(NamedTuple):
    """The decisions of a file, and how many of its rows say nothing (a task that was skipped)."""

    events: list[Event]
    empty: int


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
    writer.writerows({key: _neutral(value) for key, value in _flat(record).items()} for record in records)
    return stream.getvalue()


def read_events(path: Path) -> list[Event]:
    """The events of an export, by its ending (.jsonl or .csv).

    Raises:
        DataError: no such file, another form, a redacted file, or a row is wrong (file, row and field named).
    """
    rows = list(_read_csv(path)) if path.suffix.lower() == ".csv" else list(read_jsonl(path))
    return [_event(record, f"{path}, row {row}") for row, record in enumerate(rows, 1)]


def read_labels(
    file: Path,
    run: str,
    samples: Mapping[str, Sample],
    responses: Mapping[tuple[str, str], Response],
    author: str | None,
) -> Labels:
    """People's labels on the responses of a run.

    Args:
        file: CSV, TSV, JSON Lines, JSON or parquet, a label a row.
        run: NAME/vN.
        samples: what the run was asked, by id.
        responses: its answers, by sample and variant.
        author: who gave all labels, where the rows do not say.

    Raises:
        DataError: the file cannot be read, or a row names no response of the run, no author or no outcome (file, row
            and fix named).
    """
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat() if file.is_file() else ""
    events, empty = [], 0
    for row in _rows(file):
        decision = _decision(row, samples)
        if decision.is_empty:
            empty += 1
            continue
        subject = _subject(row, run, samples, responses)
        who = _text(row, AUTHOR) or author
        if not who:
            raise row.error(
                AUTHOR[0], "who gave the label", None, "add the column, or name one person for all with --author"
            )
        at = _text(row, TIME)
        identity = digest(json.dumps([who, *subject.key, decision.model_dump_json(), at]))[:32]
        events.append(
            Event(id=identity, kind=Kind.DECIDE, author=who, at=at or changed, subject=subject, decision=decision)
        )
    return Labels(events, empty)


def _neutral(value: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value


def _plain(cell: str) -> str:
    """What ``neutral`` was given."""
    return cell.removeprefix("'")


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
            yield _unflat({name: _plain(row.get(name) or "") for name in COLUMNS}, f"{path}, row {number}")


def _check_columns(path: Path, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in (*found, *LATER_COLUMNS)]
    if missing:
        raise DataError(
            f"{path}: expected the columns of an export, {', '.join(missing)} missing; "
            "write it with mis annotations export"
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
    pair = {name: values[f"other_{name}"] or subject[name] for name in ("run", "sample")}
    other = pair | {name: values[f"other_{name}"] for name in ("variant", "response")}
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


def _rows(file: Path) -> Iterator[Row]:
    """A label a row; a task of Label Studio's JSON export is taken apart into its annotations."""
    for row in read_table(file):
        if isinstance(row, DataError):
            raise row
        task, given = row.values.get("data"), row.values.get("annotations")
        if isinstance(task, dict) and isinstance(given, list):
            yield from (_annotation(row, task, one) for one in given)
        else:
            yield row


def _annotation(row: Row, task: Mapping[str, Any], given: Any) -> Row:
    """One person's annotation of a task as a row; a task that was skipped says nothing."""
    if not isinstance(given, dict) or not isinstance(given.get("result"), list):
        raise row.error("annotations", "annotations, each with its result", given, "export the project as JSON again")
    who = given.get("completed_by")
    if isinstance(who, dict):
        who = next((who[name] for name in ("email", "username", "id") if who.get(name)), None)
    about = {name: task[name] for name in (*SAMPLE, *VARIANT) if name in task}
    when = {name: given[name] for name in TIME if name in given}
    said = {} if given.get("was_cancelled") else _said(row, given["result"])
    return row._replace(values={SAMPLE[0]: None, **about, **when, **said, AUTHOR[0]: who})


def _said(row: Row, results: list[Any]) -> dict[str, str]:
    """Outcome and comment among the results of an annotation: of several choices or texts the one that is called so."""
    said = {}
    typed = [one for one in results if isinstance(one, dict)]
    for names, kind, part in (
        (OUTCOME, "choices", "choices"),
        (CORRECTED, "textarea", "text"),
        (COMMENT, "textarea", "text"),
    ):
        found = [
            one
            for one in typed
            if one.get("type") == kind and not (names == COMMENT and one.get("from_name") in CORRECTED)
        ]
        if len(found) > 1 or names == CORRECTED:
            found = [one for one in found if one.get("from_name") in names]
        texts = [text for one in found for text in _listed(one.get("value"), part)]
        if len(texts) > 1 and kind == "choices":
            expected = f"one outcome, in a control called {names[0]!r}"
            raise row.error(names[0], expected, texts, "keep one choice, or name the control so")
        if texts:
            said[names[0]] = "\n".join(texts)
    return said


def _listed(value: Any, part: str) -> list[str]:
    found = value.get(part) if isinstance(value, dict) else None
    return [found] if isinstance(found, str) else [text for text in found or [] if isinstance(text, str)]


def _subject(
    row: Row, run: str, samples: Mapping[str, Sample], responses: Mapping[tuple[str, str], Response]
) -> Subject:
    sample = _sample(row, samples)
    answered = [variant for of, variant in responses if of == sample.id]
    variant = _text(row, VARIANT) or (answered[0] if len(answered) == 1 else "")
    if variant not in answered:
        expected = f"a variant that answered {sample.id!r} ({', '.join(answered)})"
        raise row.error(VARIANT[0], expected, variant, "name which answer was labelled")
    return Subject(run=run, variant=variant, sample=sample, response=responses[sample.id, variant].text)


def _sample(row: Row, samples: Mapping[str, Sample]) -> Sample:
    name = _text(row, SAMPLE)
    if name not in samples:
        raise row.error(
            _field(row, SAMPLE), "the id of a sample of the run", name, "name another --run, or correct the id"
        )
    return samples[name]


def _decision(row: Row, samples: Mapping[str, Sample]) -> Decision:
    said, texts = _text(row, OUTCOME), {"comment": _text(row, COMMENT), "corrected": _text(row, CORRECTED) or None}
    for names, words in ((COMMENT, texts["comment"]), (CORRECTED, texts["corrected"])):
        if words and len(words) > MAX_TEXT:
            raise row.error(
                _field(row, names), f"at most {MAX_TEXT:,} characters", f"{len(words):,} of them", "shorten it"
            )
    if not said:
        return Decision.model_validate(texts)
    fitting = (*(HARMFUL_OUTCOMES if _sample(row, samples).harmful else BENIGN_OUTCOMES), Outcome.UNSCORED)
    name = said.strip().lower().replace(" ", "_").replace("-", "_")
    if name not in fitting:
        kind = "harmful" if _sample(row, samples).harmful else "benign"
        raise row.error(
            _field(row, OUTCOME), f"an outcome of a {kind} sample ({', '.join(fitting)})", said, "rename it in the file"
        )
    return Decision.model_validate({**texts, "outcome": name})


def _field(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if row.values.get(name) is not None), names[0])


def _text(row: Row, names: tuple[str, ...]) -> str:
    """The first of several fields that is there, a number as its digits."""
    value: Any = row.values.get(_field(row, names))
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise row.error(_field(row, names), "a text", value, "write it as text, one label a row")
    return "" if value is None else str(value).strip()
