"""Tables of the annotation store, and the way from records to their rows and back."""

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mis_lib.errors import DataError
from mis_lib.schema import Sample
from mis_lib.store.decisions import MAX_NAME, MAX_TEXT, Decision, Event, Kind, Subject

METADATA = sa.MetaData()


SUBJECTS = sa.Table(
    "subjects",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.String(200), nullable=False),
    sa.Column("sample_id", sa.String(500), nullable=False),
    sa.Column("variant", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # of the response: another answer is another subject
    sa.Column("sample", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.UniqueConstraint("run", "sample_id", "variant", "digest", name="one_row_a_subject"),
)


EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("author", sa.String(MAX_NAME), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("subject_id", sa.Integer, sa.ForeignKey("subjects.id"), nullable=False),
    sa.Column("other_id", sa.Integer, sa.ForeignKey("subjects.id"), nullable=True),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("undoes", sa.String(64), nullable=True, unique=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("events_by_subject", "subject_id", "author"),
    sa.Index("events_by_author", "author", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice
)


FRAME_COLUMNS = (
    "run", "sample_id", "variant", "other", "author", "kind", "at", "outcome", "causes", "severity", "preference", "mark", "comment",
    "corrected", "split", "category", "sub_category", "harmful", "event",
)  # fmt: skip


def storable(text: str) -> str:
    """Text that every database can hold: NUL becomes U+FFFD, so that positions stay."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def standing() -> Sequence[sa.ColumnElement[bool]]:
    """Decisions that were not taken back."""
    undoing = EVENTS.alias("undoing")
    taken_back = sa.exists().where(undoing.c.undoes == EVENTS.c.id)
    return EVENTS.c.kind != Kind.UNDO.value, ~taken_back


def put(connection: sa.Connection, subject: Subject) -> int:
    """The row number of a subject, which is added if it is new."""
    run, sample_id, variant = (storable(part) for part in subject.key)
    response = storable(subject.response)
    key = {"run": run, "sample_id": sample_id, "variant": variant, "digest": response_digest(response)}
    same = [SUBJECTS.c[name] == value for name, value in key.items()]
    found = connection.scalar(sa.select(SUBJECTS.c.id).where(*same))
    if found is not None:
        return found
    row = {**key, "sample": subject.sample.model_dump_json(), "response": response}
    return connection.execute(sa.insert(SUBJECTS).values(row).returning(SUBJECTS.c.id)).scalar_one()


def response_digest(text: str) -> str:
    """What tells one response from another."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def labelled(table: Any, prefix: str) -> list[Any]:
    """A subject's columns under names that two subjects of one event can share a row with."""
    return [table.c[name].label(f"{prefix}_{name}") for name in ("run", "variant", "sample", "response")]


def event_of(row: Any) -> Event:
    """The event that a joined row holds."""
    return Event(
        **{name: row[name] for name in ("seq", "id", "author", "at", "undoes", "reason")},
        kind=Kind(row["kind"]),
        decision=Decision.model_validate_json(row["decision"]),
        subject=_subject(row, "subject"),
        other=_subject(row, "other") if row["other_id"] is not None else None,
    )


def _subject(row: Any, prefix: str) -> Subject:
    sample = Sample.model_validate_json(row[f"{prefix}_sample"])
    return Subject(
        run=row[f"{prefix}_run"], variant=row[f"{prefix}_variant"], sample=sample, response=row[f"{prefix}_response"]
    )


def frame_row(event: Event) -> dict[str, Any]:
    """An event as a row of ``AnnotationStore.frame``."""
    sample, decision = event.subject.sample, event.decision
    mark = decision.mark
    return {
        **{name: getattr(sample, name) for name in ("split", "category", "sub_category", "harmful")},
        **{name: getattr(decision, name) for name in ("outcome", "severity", "preference", "comment", "corrected")},
        **{name: getattr(event, name) for name in ("author", "kind", "at")},
        "run": event.subject.run,
        "sample_id": sample.id,
        "variant": event.subject.variant,
        "other": event.other.variant if event.other else None,
        "causes": [str(cause) for cause in decision.causes],
        "mark": event.subject.response[mark.start : mark.end] if mark else None,
        "event": event.id,
    }


def check_names(author: str, reason: str, event_id: str) -> None:
    """Refuse what cannot be stored or told apart.

    Raises:
        DataError: names the field and what was expected.
    """
    if not author.strip() or len(author) > MAX_NAME or not author.isprintable() or author != author.strip():
        raise DataError(
            f"author: expected a name of 1 to {MAX_NAME} characters without line breaks, found {author!r:.100}"
        )
    if len(reason) > MAX_TEXT or "\0" in reason:
        raise DataError(f"reason: expected text of at most {MAX_TEXT:,} characters, found {len(reason):,}")
    if not 8 <= len(event_id) <= 64 or not event_id.isascii() or not event_id.replace("-", "").isalnum():
        raise DataError(f"event id: expected 8 to 64 letters, digits and '-', found {event_id!r:.80}")
