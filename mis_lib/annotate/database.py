"""The database of the annotations: SQLite in the folder of runs, or PostgreSQL by ``MIS_DATABASE_URL``.

It is migrated on opening.

Writers go one at a time (SQLite: ``BEGIN IMMEDIATE``; PostgreSQL: an advisory lock), so that the order of the events is
the order in which they were acknowledged. Readers never wait: SQLite runs in WAL mode. What was committed outlasts a
power cut (``synchronous=FULL``).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from mis_lib.errors import DataError, MissingPackageError, SettingsError

URL_VARIABLE = "MIS_DATABASE_URL"
FILE = "annotations.sqlite"
LOCK = 250118533  # the advisory lock's number on PostgreSQL; any constant of our own
WAIT = 30_000  # milliseconds that a SQLite writer waits for another one
LOCKED = (
    f"another program has been writing to this file for {WAIT // 1000} seconds; end it (`fuser FILE` names it) and try "
    "again, or let several people write to PostgreSQL (MIS_DATABASE_URL)"
)


def database_url(root: Path) -> URL:
    """Where the annotations are: ``$MIS_DATABASE_URL``, else a SQLite file in the folder of all runs.

    Raises:
        SettingsError: the variable holds no URL of a database that is supported.
    """
    given = os.environ.get(URL_VARIABLE)
    return checked_url(given) if given else URL.create("sqlite", database=str((root / FILE).absolute()))


def checked_url(text: str) -> URL:
    """A URL with its driver; the password is never shown.

    Raises:
        SettingsError: it is none, or of another database.
    """
    expected = "expected postgresql://USER@HOST/NAME or sqlite:///PATH"
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise SettingsError(f"{URL_VARIABLE}: {expected}, found something that is no URL") from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    raise SettingsError(f"{URL_VARIABLE}: {expected}, found {url.drivername}://")


def open_database(url: URL) -> Engine:
    """Connect and bring the tables up to date.

    Raises:
        DataError: the database cannot be reached, is none, or was made by a newer version.
        MissingPackageError: PostgreSQL's driver is not installed.
    """
    shown = url.render_as_string(hide_password=True)
    try:
        engine = _engine(url)
        migrate(engine)
    except ImportError as error:
        raise MissingPackageError(
            f'{shown} needs the package psycopg; install it with: pip install "mis-workbench[postgres]"'
        ) from error
    except DBAPIError as error:
        first = str(error.orig).strip().splitlines()[0]
        raise DataError(f"annotations at {shown}: expected a database, found: {first}; {_fix(url, error)}") from error
    return engine


def migrate(engine: Engine) -> None:
    """Apply the migrations that the database has not seen; several programs may try at once.

    Raises:
        DataError: a newer version of this project made it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(files("mis_lib.annotate").joinpath("migrations")).replace("%", "%%"))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            shown = engine.url.render_as_string(hide_password=True)
            raise DataError(f"annotations at {shown}: made by a newer version; update this one ({error})") from error


def _fix(url: URL, error: DBAPIError) -> str:
    """What to do where a database cannot be opened; a file is called broken only where SQLite says so."""
    if url.get_backend_name() != "sqlite":
        return "check that the server runs and the address is right"
    if getattr(error.orig, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "move the file away or repair it"
    if is_locked(error):
        return LOCKED
    return (
        "leave the file as it is; check that its folder can be written, also for reading, and that the disk is not full"
    )


def is_locked(error: DBAPIError) -> bool:
    """Whether another program wrote to a SQLite file for all of ``WAIT``."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer's overlaps; committed at the end, undone on an error."""
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        yield connection


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_size=8, max_overflow=24)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say
    for pragma in (f"busy_timeout={WAIT}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
