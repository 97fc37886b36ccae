"""Annotations in SQL: two tables, of which nothing is ever changed or deleted.

``subjects`` keeps what was looked at, ``events`` what people did. A decision has an id of its own, drawn by whoever makes it before it is
sent, so that sending it twice (a lost answer, a restart in between) records it once. Of several decisions the latest by time stands, wherever it
was made, and of two of one time the one that came last. A clock that is behind cannot hide a new decision: its time is never earlier than that
of what the store knows of its author and its response.

    store = AnnotationStore(root=Path("runs"))
    store.record("ada", subject, Decision(outcome="unsafe", causes=("missed_combination",)))
    store.undo("ada")
    store.frame()                       # what holds now, one row a person and response
"""

import functools
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from mis_lib.annotate.database import checked_url, database_url, open_database, writing
from mis_lib.annotate.decisions import Decision, Event, Kind, Subject, check_decision
from mis_lib.errors import DataError
from mis_lib.store.annotation_tables import (
    EVENTS,
    FRAME_COLUMNS,
    SUBJECTS,
    check_names,
    decided,
    event_of,
    event_rows,
    frame_row,
    label_rows,
    latest,
    newest_time,
    put_event,
    read_time,
    standing,
    subject_key,
    time_text,
)
from mis_lib.store.labels import AGE, Label, person

if TYPE_CHECKING:
    import pandas as pd


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
            DataError, MissingPackageError: it cannot be opened (``store.database``).
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
            other: the response shown beside it; needed for a preference.
            kind: ``ADJUDICATE`` settles what several people disagree on.
            event_id: drawn by the caller before the first try; a new one where none is given.
            reason: in words, why.

        Raises:
            DataError: author or decision cannot be accepted, the id belongs to another decision, or the database cannot be written.
        """
        check_decision(decision, subject, other)
        if kind is Kind.UNDO:
            raise DataError("expected a decision or an adjudication, found undo; call undo()")
        values = self._values(author, reason, event_id)
        given = Event(**values, kind=kind, subject=subject, other=other, decision=decision)

        def add(connection: sa.Connection) -> None:
            at = max(given.at, newest_time(connection, author, subject))
            put_event(connection, given.model_copy(update={"at": at}))

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
            chosen = sa.select(EVENTS).where(EVENTS.c.author.in_(names), *standing())
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
                check_names(event.author, event.reason, event.id)
                put_event(connection, event.model_copy(update={"at": read_time(event)}))
                known.add(event.id)
                undone.update([event.undoes] if event.undoes else [])
                added += 1
        return added

    def events(self, *, subject: Subject | None = None) -> list[Event]:
        """Everything that happened, as it came in; all of it, or on one response."""
        wanted = subject_key(subject) if subject is not None else {}
        return self._read(*(SUBJECTS.c[name] == value for name, value in wanted.items()))

    def current(self, *, run: str | None = None) -> list[Event]:
        """What holds now: each person's latest decision on each response (and pair) that was not taken back, oldest first."""
        wanted: list[sa.ColumnElement[bool]] = [EVENTS.c.seq.in_(latest())]
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
        """As ``events``, from ``seq > after`` on and without what was looked at: what a queue of thousands needs after every decision."""
        with self._reading() as connection:
            return [Label.of(*row) for row in connection.execute(label_rows(after))]

    def newest(self) -> int:
        """The number of the latest event; 0 in an empty store."""
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.max(EVENTS.c.seq))) or 0

    def frame(self) -> "pd.DataFrame":
        """What holds now as a tidy frame (``FRAME_COLUMNS``), one row a person and response."""
        import pandas as pd

        return pd.DataFrame([frame_row(event) for event in self.current()], columns=list(FRAME_COLUMNS))

    def _values(self, author: str, reason: str, event_id: str | None) -> dict[str, Any]:
        chosen = event_id or uuid.uuid4().hex
        check_names(author, reason, chosen)
        return {"id": chosen, "author": author, "at": time_text(self._now()), "reason": reason}

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
            return [event_of(row) for row in connection.execute(event_rows(*wanted)).mappings()]

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
            raise DataError(f"annotations at {self.place}: nothing was recorded ({first}); try again") from error
