"""Labels that people gave in another tool (Label Studio, Argilla, a spreadsheet), as decisions on the responses of a run.

One label a row, in a table of any kind that data come in:

    sample_id (or id), variant (or model), author (or annotator, completed_by), outcome (or label, choice), comment (or reason, note), at (or updated_at, created_at),
    corrected (or correction, corrected_answer)

Only the first and the outcome are needed: the variant where the run has several, the author where none is given for all. That is what Label Studio's CSV and
JSON-MIN exports hold, if its tasks carry ``sample_id`` and ``variant`` and its choices are outcomes; of its JSON export each annotation of a task is such a
row. A row has the same event id each time it is read, so that a file which has grown can be read again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.annotate.decisions import MAX_TEXT, Decision, Event, Kind, Subject
from mis_lib.data.records import Row
from mis_lib.data.tables import read_table
from mis_lib.errors import DataError
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome, Response, Sample

SAMPLE, VARIANT, AUTHOR = ("sample_id", "id"), ("variant", "model"), ("author", "annotator", "completed_by")
CORRECTED = ("corrected", "correction", "corrected_answer")
OUTCOME, COMMENT, TIME = (
    ("outcome", "label", "choice"),
    ("comment", "reason", "note"),
    ("at", "updated_at", "created_at"),
)


class Labels(NamedTuple):
    """The decisions of a file, and how many of its rows say nothing (a task that was skipped)."""

    events: list[Event]
    empty: int


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
        DataError: the file cannot be read, or a row names no response of the run, no author or no outcome (file, row and fix named).
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
        told = _text(row, TIME)
        parts = [who, *subject.key, decision.model_dump_json(), told]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        events.append(
            Event(id=digest, kind=Kind.DECIDE, author=who, at=told or changed, subject=subject, decision=decision)
        )
    return Labels(events, empty)


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
    who = (
        next((who[name] for name in ("email", "username", "id") if who.get(name)), None)
        if isinstance(who, dict)
        else who
    )
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
            raise row.error(
                names[0],
                f"one outcome, in a control called {names[0]!r}",
                texts,
                "keep one choice, or name the control so",
            )
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
        raise row.error(
            VARIANT[0],
            f"a variant that answered {sample.id!r} ({', '.join(answered)})",
            variant,
            "name which answer was labelled",
        )
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
