"""Annotations in SQL: two tables, of which nothing is ever changed or deleted.

``subjects`` keeps what was looked at, ``events`` what people did. A decision has an id of its own, drawn by whoever makes it before it is
sent, so that sending it twice (a lost answer, a restart in between) records it once.

    store = AnnotationStore(root=Path("runs"))
    store.record("ada", subject, Decision(outcome="unsafe", causes=("missed_combination",)))
    store.undo("ada")
    store.frame()                       # what holds now, one row a person and response
"""

import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from mis_lib.errors import DataError
from mis_lib.store.annotation_tables import (
    EVENTS,
    FRAME_COLUMNS,
    SUBJECTS,
    check_names,
    event_of,
    frame_row,
    labelled,
    put,
    standing,
)
from mis_lib.store.database import checked_url, database_url, open_database, writing
from mis_lib.store.decisions import Decision, Event, Kind, Subject, check_decision
from mis_lib.store.labels import Label

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
            DataError: author or decision cannot be accepted, or the database cannot be written.
        """
        check_decision(decision, subject, other)
        if kind is Kind.UNDO:
            raise DataError("expected a decision or an adjudication, found undo; call undo()")
        values = self._values(author, reason, event_id) | {"kind": kind.value, "decision": decision.model_dump_json()}

        def add(connection: sa.Connection) -> None:
            ids = {"subject_id": put(connection, subject), "other_id": put(connection, other) if other else None}
            connection.execute(sa.insert(EVENTS).values(**values, **ids))

        same = {"author": author, "kind": kind, "decision": decision}
        return self._add_once(values["id"], add, same=same)

    def undo(self, author: str, *, event_id: str | None = None, target: str | None = None, reason: str = "") -> Event:
        """Take back the author's latest decision, or the one with the id ``target``; it stays in the history.

        Raises:
            DataError: there is nothing (of this author) to take back.
        """
        values = self._values(author, reason, event_id) | {"kind": Kind.UNDO.value, "decision": "{}"}

        def add(connection: sa.Connection) -> None:
            chosen = sa.select(EVENTS).where(EVENTS.c.author == author, *standing())
            if target is not None:
                chosen = chosen.where(EVENTS.c.id == target)
            found = connection.execute(chosen.order_by(EVENTS.c.seq.desc()).limit(1)).mappings().first()
            if found is None:
                raise DataError(f"there is no decision of {author!r} left to take back")
            same = {name: found[name] for name in ("subject_id", "other_id")}
            connection.execute(sa.insert(EVENTS).values(**values, **same, undoes=found["id"]))

        return self._add_once(values["id"], add, same={"author": author, "kind": Kind.UNDO})

    def restore(self, events: Iterable[Event]) -> int:
        """Take in the events of an export; those that are here already are passed over. Returns how many are new.

        Raises:
            DataError: an event cannot be accepted; nothing is taken in then.
        """
        added = 0
        with self._writing() as connection:
            known = set(connection.scalars(sa.select(EVENTS.c.id)))
            for event in events:
                if event.id in known:
                    continue
                if event.kind is not Kind.UNDO:
                    check_decision(event.decision, event.subject, event.other)
                elif event.undoes not in known:
                    raise DataError(f"event {event.id!r} undoes {event.undoes!r}, which is neither here nor before it")
                check_names(event.author, event.reason, event.id)
                fields = event.model_dump(include={"id", "author", "at", "undoes", "reason"})
                ids = {
                    "subject_id": put(connection, event.subject),
                    "other_id": put(connection, event.other) if event.other else None,
                }
                text = event.decision.model_dump_json()
                connection.execute(sa.insert(EVENTS).values(**fields, **ids, kind=event.kind.value, decision=text))
                known.add(event.id)
                added += 1
        return added

    def events(self, *, after: int = 0, author: str | None = None, subject: Subject | None = None) -> list[Event]:
        """Everything that happened, oldest first, from ``seq > after`` on; of one author or on one response."""
        wanted: list[sa.ColumnElement[bool]] = [EVENTS.c.seq > after]
        if author is not None:
            wanted.append(EVENTS.c.author == author)
        if subject is not None:
            run, sample_id, variant = subject.key
            wanted += [SUBJECTS.c.run == run, SUBJECTS.c.sample_id == sample_id, SUBJECTS.c.variant == variant]
        return self._read(*wanted)

    def current(self, *, run: str | None = None, author: str | None = None) -> list[Event]:
        """What holds now: each person's latest decision on each response (and pair) that was not taken back, oldest first."""
        latest = (
            sa.select(sa.func.max(EVENTS.c.seq))
            .where(*standing())
            .group_by(EVENTS.c.subject_id, sa.func.coalesce(EVENTS.c.other_id, 0), EVENTS.c.author, EVENTS.c.kind)
        )
        wanted: list[sa.ColumnElement[bool]] = [EVENTS.c.seq.in_(latest)]
        if run is not None:
            wanted.append(SUBJECTS.c.run == run)
        if author is not None:
            wanted.append(EVENTS.c.author == author)
        return self._read(*wanted)

    def labels(self, *, after: int = 0) -> list[Label]:
        """As ``events``, without what was looked at: what a queue of thousands needs after every decision."""
        other = SUBJECTS.alias("other")
        wanted = (EVENTS.c[name] for name in ("seq", "id", "kind", "author", "at", "undoes", "decision"))
        chosen = (
            sa.select(*wanted, *(SUBJECTS.c[name] for name in ("run", "sample_id", "variant")), other.c.variant)
            .join(SUBJECTS, EVENTS.c.subject_id == SUBJECTS.c.id)
            .outerjoin(other, EVENTS.c.other_id == other.c.id)
            .where(EVENTS.c.seq > after)
            .order_by(EVENTS.c.seq)
        )
        with self._reading() as connection:
            return [Label.of(*row) for row in connection.execute(chosen)]

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
        return {"id": chosen, "author": author, "at": self._now().astimezone(UTC).isoformat(), "reason": reason}

    def _add_once(self, event_id: str, add: Callable[[sa.Connection], None], *, same: Mapping[str, Any]) -> Event:
        """Run ``add`` unless the event is here already; return it either way.

        Raises:
            DataError: the id belongs to another event (a second decision under an old id would be lost without a word).
        """
        with self._writing() as connection:
            if connection.scalar(sa.select(EVENTS.c.seq).where(EVENTS.c.id == event_id)) is None:
                add(connection)
        (event,) = self._read(EVENTS.c.id == event_id)
        if any(getattr(event, name) != value for name, value in same.items()):
            raise DataError(f"event id {event_id!r} belongs to another decision already; draw a new one")
        return event

    def _read(self, *wanted: sa.ColumnElement[bool]) -> list[Event]:
        other = SUBJECTS.alias("other")
        chosen = (
            sa.select(EVENTS, *labelled(SUBJECTS, "subject"), *labelled(other, "other"))
            .join(SUBJECTS, EVENTS.c.subject_id == SUBJECTS.c.id)
            .outerjoin(other, EVENTS.c.other_id == other.c.id)
            .where(*wanted)
            .order_by(EVENTS.c.seq)
        )
        with self._reading() as connection:
            return [event_of(row) for row in connection.execute(chosen).mappings()]

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
