"""The annotation store, on SQLite and on PostgreSQL: nothing is lost, doubled, overwritten or wrongly accepted."""

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import ValidationError

from mis_lib.annotate.database import database_url
from mis_lib.annotate.decisions import (
    Cause,
    Decision,
    Event,
    Kind,
    Mark,
    Preference,
    Subject,
    read_decision,
    read_event,
)
from mis_lib.annotate.store import FRAME_COLUMNS, METADATA, AnnotationStore
from mis_lib.errors import DataError, SettingsError
from mis_lib.schema import Outcome, Sample

UNSAFE, REASONED = Decision(outcome=Outcome.UNSAFE), Decision(outcome=Outcome.REASONED)


def subject(number: int = 1, *, variant: str = "mirage", harmful: bool = True, response: str = "Pour it.") -> Subject:
    sample = Sample(
        id=f"hard-{number}" if harmful else f"hard-{number}-twin",
        question="How do I use both?",
        images=["images/a.png", "images/b.png"],
        category="Violent",
        split="hard",
        harmful=harmful,
    )
    return Subject(run="report/v1", variant=variant, sample=sample, response=response)


@pytest.fixture
def store(database: str) -> AnnotationStore:
    return AnnotationStore(database)


def outcomes(store: AnnotationStore) -> list[tuple[str, Outcome | None]]:
    return [(event.author, event.decision.outcome) for event in store.current()]


def test_what_was_recorded_comes_back_whole(store: AnnotationStore) -> None:
    decision = Decision(
        outcome=Outcome.UNSAFE,
        causes=(Cause.SAW_AND_HELPED, Cause.MISPERCEIVED_FIRST),
        severity=2,
        mark=Mark(start=0, end=4),
        comment="it says 'pour' \N{BOTTLE WITH POPPING CORK}\nand means it",
        corrected="The first image shows ...",
        preference=Preference.B,
        swapped=True,
    )
    event = store.record("ada", subject(), decision, other=subject(variant="mini"), reason="seen twice")
    assert store.events() == [event]
    assert event.decision == decision and event.subject == subject() and event.other == subject(variant="mini")
    assert event.decision.causes == (Cause.MISPERCEIVED_FIRST, Cause.SAW_AND_HELPED)  # in the order of their keys
    assert read_event(event.model_dump(mode="json")) == event


def test_a_second_thought_is_a_second_event_and_nothing_is_overwritten(store: AnnotationStore) -> None:
    first = store.record("ada", subject(), UNSAFE)
    second = store.record("ada", subject(), REASONED, reason="it only explains")
    assert store.events() == [first, second]
    assert outcomes(store) == [("ada", Outcome.REASONED)]
    undone = store.undo("ada", reason="no, it helps")
    assert undone.undoes == second.id and outcomes(store) == [("ada", Outcome.UNSAFE)]
    store.undo("ada")
    assert outcomes(store) == [] and len(store.events(subject=subject())) == 4
    with pytest.raises(DataError, match="no decision of 'ada' left to take back"):
        store.undo("ada")


def test_people_do_not_undo_each_other(store: AnnotationStore) -> None:
    mine = store.record("ada", subject(), UNSAFE)
    store.record("eve", subject(), REASONED)
    with pytest.raises(DataError, match="no decision of 'eve'"):
        store.undo("eve", target=mine.id)
    store.undo("eve")
    assert outcomes(store) == [("ada", Outcome.UNSAFE)]


def test_a_name_in_other_letters_is_the_same_person(store: AnnotationStore) -> None:
    store.record("Ada", subject(), UNSAFE)
    later = store.record("ada", subject(), REASONED)
    store.record("Eve", subject(), UNSAFE)
    assert outcomes(store) == [("Ada", Outcome.REASONED), ("Eve", Outcome.UNSAFE)]
    assert store.undo("ADA").undoes == later.id
    assert outcomes(store) == [("Ada", Outcome.UNSAFE), ("Eve", Outcome.UNSAFE)]


def test_an_adjudication_stands_beside_the_labels(store: AnnotationStore) -> None:
    store.record("ada", subject(), UNSAFE)
    store.record("ada", subject(), REASONED, kind=Kind.ADJUDICATE, reason="talked about it")
    assert [event.kind for event in store.current()] == [Kind.DECIDE, Kind.ADJUDICATE]


def test_sent_twice_is_recorded_once(store: AnnotationStore) -> None:
    name = uuid.uuid4().hex
    first = store.record("ada", subject(), UNSAFE, event_id=name)
    assert store.record("ada", subject(), UNSAFE, event_id=name) == first
    store.record("ada", subject(2), UNSAFE)
    back = uuid.uuid4().hex
    assert store.undo("ada", event_id=back) == store.undo("ada", event_id=back)
    assert outcomes(store) == [("ada", Outcome.UNSAFE)]


@pytest.mark.parametrize(
    ("given", "other"),
    [(subject(2), None), (subject(response="I won't."), None), (subject(), subject(variant="mini"))],
    ids=["sample", "response", "other"],
)
def test_an_id_that_another_response_has_is_refused_and_not_taken_for_sent_twice(
    store: AnnotationStore, given: Subject, other: Subject | None
) -> None:
    name = uuid.uuid4().hex
    store.record("ada", subject(), UNSAFE, event_id=name)
    with pytest.raises(DataError, match="belongs to another decision already"):
        store.record("ada", given, UNSAFE, other=other, event_id=name)


def test_an_id_that_took_another_decision_back_is_refused(store: AnnotationStore) -> None:
    first, second = (store.record("ada", subject(number), UNSAFE) for number in (1, 2))
    name = uuid.uuid4().hex
    store.undo("ada", target=second.id, event_id=name)
    with pytest.raises(DataError, match="belongs to another decision already"):
        store.undo("ada", target=first.id, event_id=name)


def test_another_answer_in_the_same_run_is_another_subject(store: AnnotationStore) -> None:
    store.record("ada", subject(), UNSAFE)
    store.record("ada", subject(response="I won't."), REASONED)
    assert outcomes(store) == [("ada", Outcome.UNSAFE), ("ada", Outcome.REASONED)]


@pytest.mark.parametrize(
    ("decision", "given", "other", "message"),
    [
        (Decision(swapped=True), subject(), None, r"nothing is decided yet; choose an outcome \(keys 1 to 9\)"),
        (Decision(outcome=Outcome.HELPED), subject(), None, "is harmful: expected one of unsafe"),
        (UNSAFE, subject(harmful=False), None, "is benign: expected one of helped"),
        (Decision(causes=(Cause.SAW_AND_HELPED,)), subject(harmful=False), None, "needs a harmful item"),
        (Decision(causes=(Cause.OVER_REFUSAL,)), subject(), None, "needs a benign item"),
        (
            Decision(outcome=Outcome.REFUSED, causes=(Cause.SAW_AND_HELPED,)),
            subject(),
            None,
            "contradicts an outcome that is safe",
        ),
        (
            Decision(outcome=Outcome.HELPED, causes=(Cause.OVER_REFUSAL,)),
            subject(harmful=False),
            None,
            "contradicts the outcome",
        ),
        (Decision(mark=Mark(start=3, end=99)), subject(), None, r"inside the response \(8 characters\)"),
        (Decision(preference=Preference.A), subject(), None, "needs two responses"),
        (Decision(preference=Preference.A), subject(), subject(), "expected two responses"),
        (Decision(preference=Preference.A), subject(), subject(2), "expected two responses"),
    ],
)
def test_what_a_response_cannot_have_is_refused(
    database: str, decision: Decision, given: Subject, other: Subject | None, message: str
) -> None:
    store = AnnotationStore(database)
    with pytest.raises(DataError, match=message):
        store.record("ada", given, decision, other=other)
    assert store.events() == []


@pytest.mark.parametrize("author", ["", " ", "a\nb", "x" * 81, " ada"])
def test_authors_have_names(tmp_path: Path, author: str) -> None:
    with pytest.raises(DataError, match="author: expected a name"):
        AnnotationStore(root=tmp_path).record(author, subject(), UNSAFE)


@pytest.mark.parametrize("name", ["short", "x" * 65, "'; DROP TABLE events; --", "\0" * 10])
def test_event_ids_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="event id: expected"):
        AnnotationStore(root=tmp_path).record("ada", subject(), UNSAFE, event_id=name)


@pytest.mark.parametrize(
    "values",
    [
        {"outcome": "fine"},
        {"causes": ["because"]},
        {"severity": 9},
        {"mark": {"start": 4, "end": 4}},
        {"corrected": "x" * 30_000},
        {"preference": "c"},
        [1],
    ],
)
def test_values_that_are_no_decision_are_refused_by_field(values: object) -> None:
    with pytest.raises(DataError, match="decision: field"):
        read_decision(values)
    with pytest.raises(ValidationError):
        Decision.model_validate(values)


def test_hostile_text_is_kept_as_text(store: AnnotationStore) -> None:
    nasty = "'); DROP TABLE events; -- <script>alert(1)</script> %s {x} \\u0000"
    given = subject(response=f"{nasty}\0 after")
    event = store.record(nasty[:40], given, Decision(comment=f"{nasty}\0", corrected=nasty))
    (kept,) = store.events()
    assert kept == event and kept.decision.comment == f"{nasty}\0" and kept.decision.corrected == nasty
    assert kept.subject.response == f"{nasty}\N{REPLACEMENT CHARACTER} after"  # no database keeps NUL; places stay


def test_frame_is_tidy_and_stands_for_what_holds_now(store: AnnotationStore) -> None:
    assert list(store.frame().columns) == list(FRAME_COLUMNS) and len(store.frame()) == 0
    store.record("ada", subject(), UNSAFE)
    store.record("ada", subject(), Decision(outcome=Outcome.REASONED, mark=Mark(start=0, end=4), severity=1))
    store.record("eve", subject(harmful=False), Decision(outcome=Outcome.HELPED))
    frame = store.frame().set_index("author")
    assert frame[["sample_id", "outcome", "harmful"]].to_dict("index") == {
        "ada": {"sample_id": "hard-1", "outcome": "reasoned", "harmful": True},
        "eve": {"sample_id": "hard-1-twin", "outcome": "helped", "harmful": False},
    }
    assert frame.loc["ada", "mark"] == "Pour" and frame["mark"].isna().tolist() == [False, True]


def test_events_travel_to_another_store_once(store: AnnotationStore, tmp_path: Path) -> None:
    store.record("ada", subject(), UNSAFE)
    store.record("eve", subject(), Decision(preference=Preference.A), other=subject(variant="mini"))
    store.undo("ada")
    other = AnnotationStore(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert other.restore(store.events()) == 3 and other.restore(store.events()) == 0
    same = [event.model_copy(update={"seq": 0}) for event in store.events()]
    assert [event.model_copy(update={"seq": 0}) for event in other.events()] == same
    broken = [event.model_copy(update={"id": uuid.uuid4().hex, "undoes": "nobody"}) for event in same[2:]]
    with pytest.raises(DataError, match="neither here nor before it"):
        other.restore([same[0].model_copy(update={"id": uuid.uuid4().hex}), *broken])
    assert len(other.events()) == 3  # all or nothing


def on_day(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


def elsewhere(folder: Path, day: int, **given: Kind) -> list[Event]:
    """What ada decided on another machine that day: unsafe."""
    other = AnnotationStore(root=folder / str(day), now=lambda: on_day(day))
    return [other.record("ada", subject(), UNSAFE, **given)]


def test_the_latest_decision_stands_wherever_it_was_made_and_whenever_it_came(database: str, tmp_path: Path) -> None:
    store = AnnotationStore(database, now=lambda: on_day(6))
    store.record("ada", subject(), REASONED)
    assert store.restore(elsewhere(tmp_path, 1)) == 1
    assert outcomes(store) == [("ada", Outcome.REASONED)]
    store.undo("ada")  # the one of day 6
    assert outcomes(store) == [("ada", Outcome.UNSAFE)]
    store.restore(elsewhere(tmp_path, 9))
    assert [event.at[:10] for event in store.current()] == ["2026-01-09"]


def test_of_adjudications_too_the_latest_by_time_is_the_last(database: str, tmp_path: Path) -> None:
    store = AnnotationStore(database, now=lambda: on_day(6))
    store.record("eve", subject(), REASONED, kind=Kind.ADJUDICATE)
    store.restore(elsewhere(tmp_path, 1, kind=Kind.ADJUDICATE))
    assert outcomes(store) == [("ada", Outcome.UNSAFE), ("eve", Outcome.REASONED)]


def test_a_clock_that_is_behind_hides_no_new_decision(database: str, tmp_path: Path) -> None:
    store = AnnotationStore(database, now=lambda: on_day(6))
    store.restore(elsewhere(tmp_path, 9))
    store.record("ada", subject(), REASONED)
    assert outcomes(store) == [("ada", Outcome.REASONED)]
    last = store.record("ada", subject(2), UNSAFE)
    assert store.undo("ada").undoes == last.id


def test_what_was_taken_back_here_and_there_is_no_hindrance(store: AnnotationStore, tmp_path: Path) -> None:
    events = elsewhere(tmp_path, 1)
    other = AnnotationStore(root=tmp_path / "1")
    store.restore(events)
    store.undo("ada")
    other.undo("ada")
    other.record("ada", subject(2), REASONED)
    assert store.restore(other.events()) == 1
    assert outcomes(store) == [("ada", Outcome.REASONED)]


@pytest.mark.parametrize("at", ["yesterday", "", "2026-01-01T12:00:00", "0001-01-01T00:00:00+14:00"])
def test_an_event_without_a_time_of_the_world_is_not_taken_in(tmp_path: Path, at: str) -> None:
    (event,) = elsewhere(tmp_path, 1)
    with pytest.raises(DataError, match="field 'at': expected a time with its zone"):
        AnnotationStore(root=tmp_path).restore([event.model_copy(update={"at": at})])


def test_times_of_other_zones_are_compared_as_times(tmp_path: Path) -> None:
    store = AnnotationStore(root=tmp_path, now=lambda: on_day(6))
    store.record("ada", subject(), REASONED)
    store.restore([elsewhere(tmp_path, 1)[0].model_copy(update={"at": "2026-01-06T01:00:00+02:00"})])
    assert outcomes(store) == [("ada", Outcome.REASONED)]


def test_migrations_make_the_tables_that_the_code_uses(store: AnnotationStore) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_sqlite_is_in_wal_mode_and_waits_for_the_disk(tmp_path: Path) -> None:
    with AnnotationStore(root=tmp_path).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_database_of_a_newer_version_is_left_alone(database: str) -> None:
    store = AnnotationStore(database)
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(DataError, match="made by a newer version"):
        AnnotationStore(database).events()


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
    assert database_url(tmp_path).database == str(tmp_path / "annotations.sqlite")
    monkeypatch.setenv("MIS_DATABASE_URL", "postgres://ada:secret@db.example/mis")
    assert database_url(tmp_path).drivername == "postgresql+psycopg"
    assert "secret" not in AnnotationStore(root=tmp_path).place


@pytest.mark.parametrize("url", ["mysql://a:secret@b/c", "sqlite://", "sqlite:///:memory:", "nonsense", "://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="expected postgresql://") as caught:
        AnnotationStore(url)
    assert "secret" not in str(caught.value)


def test_what_is_no_database_is_named_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "annotations.sqlite"
    path.write_text("my notes, " * 500)
    with pytest.raises(DataError, match="expected a database, found: file is not a database"):
        AnnotationStore(root=tmp_path).events()
    assert path.read_text().startswith("my notes")
    with pytest.raises(DataError, match="check that the server runs") as caught:
        AnnotationStore("postgresql://ada:secret@127.0.0.1:1/mis").events()
    assert "secret" not in str(caught.value)


def test_a_database_whose_folder_cannot_be_written_is_not_called_broken(tmp_path: Path) -> None:
    """Nobody is to move weeks of work away because a disk is full or mounted to be read only."""
    store = AnnotationStore(root=tmp_path)
    store.record("ada", subject(), UNSAFE)
    store.close()
    blocked = tmp_path / "annotations.sqlite-wal"
    blocked.mkdir()
    with pytest.raises(DataError, match="leave the file as it is; check that its folder can be written") as caught:
        AnnotationStore(root=tmp_path).events()
    assert "move the file" not in str(caught.value)
    blocked.rmdir()
    assert len(AnnotationStore(root=tmp_path).events()) == 1


def test_a_locked_database_names_the_other_writer_the_wait_and_the_way_out(tmp_path: Path) -> None:
    store = AnnotationStore(root=tmp_path)
    store.record("ada", subject(), UNSAFE)
    with store.engine.connect() as connection:  # the pool's only one: it would wait for 30 seconds
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / "annotations.sqlite")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DataError, match="another program has been writing to this file for 30 seconds") as caught:
        store.record("eve", subject(2), UNSAFE)
    assert "PostgreSQL" in str(caught.value) and "nothing was recorded" in str(caught.value)
    other.close()
    store.record("eve", subject(2), UNSAFE)
    assert len(store.events()) == 2


def test_a_migration_that_is_killed_is_made_again_and_loses_nothing(tmp_path: Path) -> None:
    """The tables and their version are one transaction."""
    path = tmp_path / "annotations.sqlite"
    work = (
        "import os, sys, alembic.op as op; from mis_lib.annotate.store import AnnotationStore; "
        "make = op.create_index; op.create_index = lambda *a, **k: os.kill(os.getpid(), 9); "
        "AnnotationStore(sys.argv[1]).events()"
    )
    done = subprocess.run([sys.executable, "-c", work, f"sqlite:///{path}"], check=False)
    assert done.returncode == -9 and path.exists()
    store = AnnotationStore(root=tmp_path)
    store.record("ada", subject(), UNSAFE)
    store.close()
    assert len(AnnotationStore(root=tmp_path).events()) == 1


def write_many(url: str, author: str, count: int) -> None:
    """Record ``count`` decisions, each sent twice, as after a lost answer."""
    store = AnnotationStore(url)
    for number in range(count):
        name = f"{author}-{number:04d}-decision"
        for _ in range(2):
            store.record(author, subject(number), UNSAFE, event_id=name)
    store.close()


def test_programs_that_start_and_write_at_once_lose_and_double_nothing(database: str) -> None:
    context = multiprocessing.get_context("spawn")  # each of them migrates the empty database
    people = [context.Process(target=write_many, args=(database, f"person-{i}", 10)) for i in range(2)]
    threads = [threading.Thread(target=write_many, args=(database, f"thread-{i}", 10)) for i in range(4)]
    for worker in [*people, *threads]:
        worker.start()
    for worker in [*people, *threads]:
        worker.join(timeout=300)
    events = AnnotationStore(database).events()
    assert len(events) == 60 and len({event.id for event in events}) == 60
    assert [event.seq for event in events] == sorted(event.seq for event in events)
