"""A PostgreSQL of the tests' own: a cluster in a temporary folder, reached through a socket in it, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def find_programs() -> Path | None:
    """The folder of initdb and pg_ctl, newest version first; Debian does not put them on the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """Start a server; yields the URL of its maintenance database."""
    with tempfile.TemporaryDirectory(prefix="mis-pg-") as name:  # a short path: sockets' names have little room
        folder = Path(name)
        person = _person()
        shutil.chown(folder, person)
        data, log = folder / "data", folder / "log"
        run = {"user": person, "check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
        subprocess.run([programs / "initdb", "-D", data, "-U", "mis", "-A", "trust", "--no-sync"], **run)
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=120"
        subprocess.run([programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", settings, "start"], **run)
        try:
            yield f"postgresql://mis@/postgres?host={folder}"
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **run)


def new_database(server: str) -> str:
    """The URL of a fresh, empty database on a server."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


def _person() -> str:
    """Who runs the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
