"""Annotations in SQL: two tables, of which nothing is ever changed or deleted.

``subjects`` keeps what was looked at, ``events`` what people did. The id of a decision is drawn before it is sent, so
that sending it twice (a lost answer, a restart in between) records it once. Of several decisions the latest by time
counts, whichever machine made it, and of two of one time the one that came last. A slow clock cannot hide a new
decision: its time is never earlier than that of what the store knows of its author and its response.

    store = AnnotationStore(root=Path("runs"))
    store.record("ada", subject, Decision(outcome="unsafe", causes=("missed_combination",)))
    store.undo("ada")
    store.frame()                       # what holds now, one row a person and response
"""

import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from mis_lib.annotate.database import LOCKED, checked_url, database_url, is_locked, open_database, writing
from mis_lib.annotate.decisions import (
    AGE,
    MAX_NAME,
    MAX_TEXT,
    Decision,
    Event,
    Kind,
    Label,
    Subject,
    check_agrees,
    check_decision,
    person,
    storable,
)
from mis_lib.errors import DataError
from mis_lib.schema import Sample

if TYPE_CHECKING:
    import pandas as pd

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
    "run", "sample_id", "variant", "other", "author", "kind", "at", "outcome", "causes", "severity", "preference",
    "mark", "comment", "corrected", "split", "category", "sub_category", "harmful", "event",
)  # fmt: skip


class AnnotationStore:
    """The events of one database; opened on first use, safe to use from several threads and programs."""

    def __init__(
        self,
        url: str | None = None,
        *,
        root: Path = Path("runs"),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = checked_url(url) if url else database_url(root)
        self._now = now

    @functools.cached_property
    def engine(self) -> sa.Engine:
        """The database, made and migrated when it is first asked for.

        Raises:
            DataError, MissingPackageError: it cannot be opened (``annotate.database``).
        """
        return open_database(self._url)

    @property
    def place(self) -> str:
        """The database's address, without its password."""
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Let go of the connections; the next use opens them again."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def record(
        self,
        author: str,
        subject: Subject,
        decision: Decision,
        *,
        other: Subject | None = None,
        kind: Kind = Kind.DECIDE,
        event_id: str | None = None,
        reason: str = "",
    ) -> Event:
        """Keep one decision; returned means that it is on disk. The same ``event_id`` again changes nothing.

        Args:
            author: who decided.
            subject: the response that is decided on.
            decision: what was decided.
            other: the response shown next to it; needed for a preference.
            kind: ``ADJUDICATE`` settles what several people disagree on.
            event_id: drawn by the caller before the first try; a new one where none is given.
            reason: in words, why.

        Raises:
            DataError: author or decision cannot be accepted, its parts contradict each other, the id belongs to another
                decision, or the database cannot be written.
        """
        check_decision(decision, subject, other)
        check_agrees(decision, subject.sample)
        if kind is Kind.UNDO:
            raise DataError("expected a decision or an adjudication, found undo; call undo()")
        values = self._values(author, reason, event_id)
        given = Event(**values, kind=kind, subject=subject, other=other, decision=decision)

        def add(connection: sa.Connection) -> None:
            at = max(given.at, _newest_time(connection, author, subject))
            _put_event(connection, given.model_copy(update={"at": at}))

        return self._add_once(given.id, add, same=lambda found: decided(found) == decided(given))

    def undo(self, author: str, *, event_id: str | None = None, target: str | None = None, reason: str = "") -> Event:
        """Take back the author's latest decision, or the one with the id ``target``; it stays in the history.

        Raises:
            DataError: there is nothing (of this author) to take back.
        """
        values = self._values(author, reason, event_id) | {"kind": Kind.UNDO.value, "decision": "{}"}

        def same_name(name: str) -> bool:
            return person(name) == person(author)

        def add(connection: sa.Connection) -> None:
            names = [name for name in connection.scalars(sa.select(EVENTS.c.author).distinct()) if same_name(name)]
            chosen = sa.select(EVENTS).where(EVENTS.c.author.in_(names), *_standing())
            if target is not None:
                chosen = chosen.where(EVENTS.c.id == target)
            chosen = chosen.order_by(EVENTS.c.at.desc(), EVENTS.c.seq.desc()).limit(1)
            found = connection.execute(chosen).mappings().first()
            if found is None:
                raise DataError(f"there is no decision of {author!r} left to take back")
            subjects = {name: found[name] for name in ("subject_id", "other_id")}
            connection.execute(sa.insert(EVENTS).values(**values, **subjects, undoes=found["id"]))

        def same(found: Event) -> bool:
            return same_name(found.author) and found.kind is Kind.UNDO and target in (None, found.undoes)

        return self._add_once(values["id"], add, same=same)

    def restore(self, events: Iterable[Event]) -> int:
        """Take in the events of an export; returns how many are new.

        Those that are here already are passed over, also where a decision was taken back here and there.

        Raises:
            DataError: an event cannot be accepted; nothing is taken in then.
        """
        added = 0
        with self._writing() as connection:
            known = set(connection.scalars(sa.select(EVENTS.c.id)))
            undone = set(connection.scalars(sa.select(EVENTS.c.undoes).where(EVENTS.c.undoes.is_not(None))))
            for event in events:
                if event.id in known or event.undoes in undone:
                    continue
                if event.kind is not Kind.UNDO:
                    check_decision(event.decision, event.subject, event.other)
                elif event.undoes not in known:
                    raise DataError(f"event {event.id!r} undoes {event.undoes!r}, which is neither here nor before it")
                _check_names(event.author, event.reason, event.id)
                _put_event(connection, event.model_copy(update={"at": _read_time(event)}))
                known.add(event.id)
                undone.update([event.undoes] if event.undoes else [])
                added += 1
        return added

    def events(self, *, subject: Subject | None = None) -> list[Event]:
        """Everything that happened, as it came in; all of it, or on one response."""
        wanted = _subject_key(subject) if subject is not None else {}
        return self._read(*(SUBJECTS.c[name] == value for name, value in wanted.items()))

    def current(self, *, run: str | None = None) -> list[Event]:
        """What holds now: each person's latest decision on each response (and pair), oldest first, none undone."""
        wanted: list[sa.ColumnElement[bool]] = [EVENTS.c.seq.in_(_latest())]
        if run is not None:
            wanted.append(SUBJECTS.c.run == run)
        names: dict[str, str] = {}
        found: dict[Any, Event] = {}
        for event in sorted(self._read(*wanted), key=AGE):
            name = names.setdefault(person(event.author), event.author)
            whose = (event.subject.key, event.other and event.other.key, name, event.kind)
            found.pop(whose, None)  # the same person's under another spelling
            found[whose] = event.model_copy(update={"author": name})
        return list(found.values())

    def labels(self, *, after: int = 0) -> list[Label]:
        """As ``events`` with ``seq > after``, without the responses: what a long queue needs after a decision."""
        with self._reading() as connection:
            return [Label.of(*row) for row in connection.execute(_label_rows(after))]

    def newest(self) -> int:
        """The number of the latest event; 0 in an empty store."""
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.max(EVENTS.c.seq))) or 0

    def frame(self) -> "pd.DataFrame":
        """What holds now as a tidy frame (``FRAME_COLUMNS``), one row a person and response."""
        import pandas as pd

        return pd.DataFrame([_frame_row(event) for event in self.current()], columns=list(FRAME_COLUMNS))

    def _values(self, author: str, reason: str, event_id: str | None) -> dict[str, Any]:
        chosen = event_id or uuid.uuid4().hex
        _check_names(author, reason, chosen)
        return {"id": chosen, "author": author, "at": _time_text(self._now()), "reason": reason}

    def _add_once(self, event_id: str, add: Callable[[sa.Connection], None], *, same: Callable[[Event], bool]) -> Event:
        """Run ``add`` unless the event is here already; return it either way.

        Raises:
            DataError: the id belongs to another event (a second decision under an old id would be lost without a word).
        """
        with self._writing() as connection:
            if connection.scalar(sa.select(EVENTS.c.seq).where(EVENTS.c.id == event_id)) is None:
                add(connection)
        (event,) = self._read(EVENTS.c.id == event_id)
        if not same(event):
            raise DataError(f"event id {event_id!r} belongs to another decision already; draw a new one")
        return event

    def _read(self, *wanted: sa.ColumnElement[bool]) -> list[Event]:
        with self._reading() as connection:
            return [_event_of(row) for row in connection.execute(_event_rows(*wanted)).mappings()]

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self._told(writing(self.engine))

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        return self._told(self.engine.connect())

    @contextmanager
    def _told(self, transaction: AbstractContextManager[sa.Connection]) -> Iterator[sa.Connection]:
        """A transaction whose database errors are ours."""
        try:
            with transaction as connection:
                yield connection
        except DBAPIError as error:
            first = str(error.orig).strip().splitlines()[0]
            fix = LOCKED if is_locked(error) else "try again"
            raise DataError(f"annotations at {self.place}: nothing was recorded ({first}); {fix}") from error


def decided(event: Event) -> tuple[Any, ...]:
    """Who decided what about which responses: all that an event sent twice must have in common."""
    other = _subject_key(event.other) if event.other else None
    return event.author, event.kind, event.decision, _subject_key(event.subject), other


def _standing() -> Sequence[sa.ColumnElement[bool]]:
    """Decisions that were not taken back."""
    undoing = EVENTS.alias("undoing")
    taken_back = sa.exists().where(undoing.c.undoes == EVENTS.c.id)
    return EVENTS.c.kind != Kind.UNDO.value, ~taken_back


def _latest() -> sa.Select[tuple[int]]:
    """Numbers of each person's latest standing decision on each response (and pair): by time, then by number."""
    whose = (EVENTS.c.subject_id, sa.func.coalesce(EVENTS.c.other_id, 0), EVENTS.c.author, EVENTS.c.kind)
    place = sa.func.row_number().over(partition_by=whose, order_by=(EVENTS.c.at.desc(), EVENTS.c.seq.desc()))
    ranked = sa.select(EVENTS.c.seq, place.label("place")).where(*_standing()).subquery()
    return sa.select(ranked.c.seq).where(ranked.c.place == 1)


def _newest_time(connection: sa.Connection, author: str, subject: Subject) -> str:
    """The latest time of the author's events and of all on the response; empty where there is none."""
    of_response = sa.select(SUBJECTS.c.id).where(
        *(SUBJECTS.c[name] == value for name, value in _subject_key(subject).items() if name != "digest")
    )
    known = sa.or_(EVENTS.c.author == author, EVENTS.c.subject_id.in_(of_response))
    return connection.scalar(sa.select(sa.func.max(EVENTS.c.at)).where(known)) or ""


def _put(connection: sa.Connection, subject: Subject) -> int:
    """The row number of a subject, which is added if it is new."""
    key = _subject_key(subject)
    same = [SUBJECTS.c[name] == value for name, value in key.items()]
    found = connection.scalar(sa.select(SUBJECTS.c.id).where(*same))
    if found is not None:
        return found
    row = {**key, "sample": subject.sample.model_dump_json(), "response": storable(subject.response)}
    return connection.execute(sa.insert(SUBJECTS).values(row).returning(SUBJECTS.c.id)).scalar_one()


def _put_event(connection: sa.Connection, event: Event) -> None:
    """Add an event, and its subjects where they are new."""
    fields = event.model_dump(include={"id", "author", "at", "undoes", "reason"})
    ids = {
        "subject_id": _put(connection, event.subject),
        "other_id": _put(connection, event.other) if event.other else None,
    }
    text = event.decision.model_dump_json()
    connection.execute(sa.insert(EVENTS).values(**fields, **ids, kind=event.kind.value, decision=text))


def _subject_key(subject: Subject) -> dict[str, str]:
    """What tells one subject from another, as its row holds it."""
    names = ("run", "sample_id", "variant", "digest")
    return dict(zip(names, (storable(part) for part in subject.key), strict=True))


def _event_rows(*wanted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """What ``_event_of`` reads of the events that are wanted, as they came in."""
    other = SUBJECTS.alias("other")
    return (
        sa.select(EVENTS, *_labelled(SUBJECTS, "subject"), *_labelled(other, "other"))
        .join(SUBJECTS, EVENTS.c.subject_id == SUBJECTS.c.id)
        .outerjoin(other, EVENTS.c.other_id == other.c.id)
        .where(*wanted)
        .order_by(EVENTS.c.seq)
    )


def _label_rows(after: int) -> sa.Select[Any]:
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


def _labelled(table: Any, prefix: str) -> list[Any]:
    """A subject's columns under names that two subjects of one event can share a row with."""
    return [table.c[name].label(f"{prefix}_{name}") for name in ("run", "variant", "sample", "response")]


def _event_of(row: Any) -> Event:
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


def _frame_row(event: Event) -> dict[str, Any]:
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


def _check_names(author: str, reason: str, event_id: str) -> None:
    """Refuse what cannot be stored or told apart.

    Raises:
        DataError: names the field and what was expected.
    """
    if not author.strip() or len(author) > MAX_NAME or not author.isprintable() or author != author.strip():
        raise DataError(
            f"author: expected a name of 1 to {MAX_NAME} characters without line breaks or spaces around it, "
            f"found {author!r:.100}"
        )
    if len(reason) > MAX_TEXT or "\0" in reason:
        raise DataError(f"reason: expected text of at most {MAX_TEXT:,} characters, found {len(reason):,}")
    if not 8 <= len(event_id) <= 64 or not event_id.isascii() or not event_id.replace("-", "").isalnum():
        raise DataError(f"event id: expected 8 to 64 letters, digits and '-', found {event_id!r:.80}")


def _time_text(time: datetime) -> str:
    """A time as it is stored: of one zone and one length, so that times sort as their texts do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _read_time(event: Event) -> str:
    """The time of an event that comes from elsewhere, as it is stored.

    Raises:
        DataError: it is none, or does not tell its zone.
    """
    expected = f"event {event.id!r}: field 'at': expected a time with its zone, as 2026-01-31T12:00:00+00:00"
    try:
        time = datetime.fromisoformat(event.at)
        if time.tzinfo is not None:
            return _time_text(time)
    except (ValueError, OverflowError) as error:  # the latter at the ends of the calendar
        raise DataError(f"{expected}, found {event.at!r:.80}; correct it") from error
    raise DataError(f"{expected}, found {event.at!r:.80}; add the zone")
