"""Tables of the annotation store, and the way from records to their rows and back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mis_lib.annotate.decisions import MAX_NAME, MAX_TEXT, Decision, Event, Kind, Subject, storable
from mis_lib.errors import DataError
from mis_lib.schema import Sample

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


def standing() -> Sequence[sa.ColumnElement[bool]]:
    """Decisions that were not taken back."""
    undoing = EVENTS.alias("undoing")
    taken_back = sa.exists().where(undoing.c.undoes == EVENTS.c.id)
    return EVENTS.c.kind != Kind.UNDO.value, ~taken_back


def latest() -> sa.Select[tuple[int]]:
    """Numbers of each person's latest standing decision on each response (and pair): by time, then by number."""
    whose = (EVENTS.c.subject_id, sa.func.coalesce(EVENTS.c.other_id, 0), EVENTS.c.author, EVENTS.c.kind)
    place = sa.func.row_number().over(partition_by=whose, order_by=(EVENTS.c.at.desc(), EVENTS.c.seq.desc()))
    ranked = sa.select(EVENTS.c.seq, place.label("place")).where(*standing()).subquery()
    return sa.select(ranked.c.seq).where(ranked.c.place == 1)


def newest_time(connection: sa.Connection, author: str, subject: Subject) -> str:
    """The latest time of the author's events and of all on the response; empty where there is none."""
    of_response = sa.select(SUBJECTS.c.id).where(
        *(SUBJECTS.c[name] == value for name, value in subject_key(subject).items() if name != "digest")
    )
    known = sa.or_(EVENTS.c.author == author, EVENTS.c.subject_id.in_(of_response))
    return connection.scalar(sa.select(sa.func.max(EVENTS.c.at)).where(known)) or ""


def time_text(time: datetime) -> str:
    """A time as it is stored: of one zone and one length, so that times sort as their texts do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def read_time(event: Event) -> str:
    """The time of an event that comes from elsewhere, as it is stored.

    Raises:
        DataError: it is none, or does not tell its zone.
    """
    expected = f"event {event.id!r}: field 'at': expected a time with its zone, as 2026-01-31T12:00:00+00:00"
    try:
        time = datetime.fromisoformat(event.at)
        if time.tzinfo is not None:
            return time_text(time)
    except (ValueError, OverflowError) as error:  # the latter at the ends of the calendar
        raise DataError(f"{expected}, found {event.at!r:.80}; correct it") from error
    raise DataError(f"{expected}, found {event.at!r:.80}; add the zone")


def subject_key(subject: Subject) -> dict[str, str]:
    """What tells one subject from another, as its row holds it."""
    names = ("run", "sample_id", "variant", "digest")
    return dict(zip(names, (storable(part) for part in subject.key), strict=True))


def put(connection: sa.Connection, subject: Subject) -> int:
    """The row number of a subject, which is added if it is new."""
    key = subject_key(subject)
    same = [SUBJECTS.c[name] == value for name, value in key.items()]
    found = connection.scalar(sa.select(SUBJECTS.c.id).where(*same))
    if found is not None:
        return found
    row = {**key, "sample": subject.sample.model_dump_json(), "response": storable(subject.response)}
    return connection.execute(sa.insert(SUBJECTS).values(row).returning(SUBJECTS.c.id)).scalar_one()


def put_event(connection: sa.Connection, event: Event) -> None:
    """Add an event, and its subjects where they are new."""
    fields = event.model_dump(include={"id", "author", "at", "undoes", "reason"})
    ids = {
        "subject_id": put(connection, event.subject),
        "other_id": put(connection, event.other) if event.other else None,
    }
    text = event.decision.model_dump_json()
    connection.execute(sa.insert(EVENTS).values(**fields, **ids, kind=event.kind.value, decision=text))


def decided(event: Event) -> tuple[Any, ...]:
    """Who decided what about which responses: all that an event sent twice must have in common."""
    other = subject_key(event.other) if event.other else None
    return event.author, event.kind, event.decision, subject_key(event.subject), other


def _labelled(table: Any, prefix: str) -> list[Any]:
    """A subject's columns under names that two subjects of one event can share a row with."""
    return [table.c[name].label(f"{prefix}_{name}") for name in ("run", "variant", "sample", "response")]


def event_rows(*wanted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """What ``event_of`` reads of the events that are wanted, as they came in."""
    other = SUBJECTS.alias("other")
    return (
        sa.select(EVENTS, *_labelled(SUBJECTS, "subject"), *_labelled(other, "other"))
        .join(SUBJECTS, EVENTS.c.subject_id == SUBJECTS.c.id)
        .outerjoin(other, EVENTS.c.other_id == other.c.id)
        .where(*wanted)
        .order_by(EVENTS.c.seq)
    )


def label_rows(after: int) -> sa.Select[Any]:
    """The events numbered above ``after`` as ``Label.of`` takes them."""
    other = SUBJECTS.alias("other")
    wanted = (EVENTS.c[name] for name in ("seq", "id", "kind", "author", "at", "undoes", "decision"))
    return (
        sa.select(*wanted, *(SUBJECTS.c[name] for name in ("run", "sample_id", "variant", "digest")), other.c.variant)
        .join(SUBJECTS, EVENTS.c.subject_id == SUBJECTS.c.id)
        .outerjoin(other, EVENTS.c.other_id == other.c.id)
        .where(EVENTS.c.seq > after)
        .order_by(EVENTS.c.seq)
    )


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
            f"author: expected a name of 1 to {MAX_NAME} characters without line breaks or spaces around it, found {author!r:.100}"
        )
    if len(reason) > MAX_TEXT or "\0" in reason:
        raise DataError(f"reason: expected text of at most {MAX_TEXT:,} characters, found {len(reason):,}")
    if not 8 <= len(event_id) <= 64 or not event_id.isascii() or not event_id.replace("-", "").isalnum():
        raise DataError(f"event id: expected 8 to 64 letters, digits and '-', found {event_id!r:.80}")
