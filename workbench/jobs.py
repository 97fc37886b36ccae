"""Jobs: processes that the app starts, watched through their files, found again by every app.

    runs/NAME/STEM.json      command, process id and its start time: written by the app that starts the job
    runs/NAME/STEM.log       what the process prints
    runs/NAME/STEM.progress  the step that it is at (``mis_lib.recipes.progress``)

The app keeps nothing that is not in these files, so a page that is loaded again, another person's page and an app that
was started again show the same. A process id alone proves nothing, as systems use them again; with the time at which
the process began it does.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, ValidationError

from mis_lib.errors import DataError, SettingsError
from mis_lib.files import hold, write_atomic
from mis_lib.recipes.progress import FILE_VARIABLE, Step, read_step
from mis_lib.schema import Record

PROGRAM = (sys.executable, "-m", "mis_lib.cli")
BOOT = 1.5  # seconds: systems round the time at which they began to whole ones
TAIL = 4000  # bytes of the output that are shown


class Job(Record):
    """What was started."""

    name: str
    config: str = ""
    """Settings file of a training."""
    overrides: tuple[str, ...] = ()
    command: tuple[str, ...]
    pid: int
    created: float
    """When the process began, in seconds since 1970, as the system has it."""
    since_boot: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """Seconds from the system's start to the process's, which stay where the clock is set."""
    started: str


class Jobs:
    """The jobs of one kind, whose files are called ``stem``, in the folders of ``runs``."""

    def __init__(self, runs: Path, stem: str) -> None:
        self.runs, self.stem = runs.absolute(), stem
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Of two people who start a job at once, also in two apps, let one be first."""
        return hold(self._file(name, "lock"))

    def open(self, name: str, command: Sequence[str], **more: Any) -> Job:
        """Start a process, which outlives the app, and note it down; to be called under ``hold``."""
        progress = self._file(name, "progress")
        progress.unlink(missing_ok=True)  # what the process before had reached
        with self._file(name, "log").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, FILE_VARIABLE: str(progress)},
            )  # fmt: skip
        self._children[process.pid] = process
        created, since_boot = _begun(psutil.Process(process.pid))
        job = Job(
            name=name, command=tuple(command), pid=process.pid, created=created, since_boot=since_boot,
            started=datetime.now(UTC).isoformat(timespec="seconds"), **more,
        )  # fmt: skip
        write_atomic(self._file(name, "json"), job.model_dump_json(indent=1).encode())
        return job

    def job(self, name: str) -> Job | None:
        """What was started under a name, by this app or an earlier one.

        Raises:
            SettingsError: the name cannot be a run's.
            DataError: what was kept of it is damaged.
        """
        path = self._file(name, "json")
        if not path.is_file():
            return None
        try:
            return Job.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(
                f"{path}: expected what was started, found {error.error_count()} mistakes; remove the file"
            ) from error

    def names(self) -> list[str]:
        """Names of all jobs, the one that was started last first."""
        files = self.runs.glob(f"*/{self.stem}.json")
        return [file.parent.name for file in sorted(files, key=lambda file: -file.stat().st_mtime)]

    def is_running(self, name: str) -> bool:
        """Whether the process still runs, and can be stopped from here."""
        return self._process(self.job(name)) is not None

    def stop(self, name: str) -> None:
        """Ask a process to end. One that is not running stays as it is."""
        process = self._process(self.job(name))
        if process is not None:
            process.terminate()

    def step(self, name: str) -> Step | None:
        """The step that the process is at, or has ended at."""
        return read_step(self._file(name, "progress"))

    def output(self, name: str) -> str:
        """The end of what the process has printed."""
        path = self._file(name, "log")
        return path.read_bytes()[-TAIL:].decode(errors="replace") if path.is_file() else ""

    def _file(self, name: str, ending: str) -> Path:
        check_name(name)
        return self.runs / name / f"{self.stem}.{ending}"

    def _process(self, job: Job | None) -> psutil.Process | None:
        """The job's process, if it still runs and is the one that was started."""
        if job is None:
            return None
        child = self._children.get(job.pid)
        if child is not None and child.poll() is not None:  # also takes the ended child off the system's table
            return None
        try:
            process = psutil.Process(job.pid)
            created, since_boot = _begun(process)
            unset = job.since_boot is not None and abs(since_boot - job.since_boot) < BOOT
            same = abs(created - job.created) < 0.5 or unset
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _begun(process: psutil.Process) -> tuple[float, float]:
    """When a process began, in seconds since 1970 and since the system's start."""
    created = process.create_time()
    return created, created - psutil.boot_time()


def check_name(name: str) -> None:
    """Refuse a name that cannot be a run's folder.

    Raises:
        SettingsError: it is empty, begins with a point, or has a sign that may lead elsewhere.
    """
    if not name or name.startswith(".") or not all(sign.isalnum() or sign in "._-" for sign in name):
        raise SettingsError(f"run name {name!r:.80}: expected letters, digits, '.', '_' and '-' only")


def in_a_shell(command: Sequence[str]) -> str:
    """The command as one types it."""
    shown = ["mis", *command[3:]] if list(command[1:3]) == ["-m", "mis_lib.cli"] else list(command)
    return shlex.join(shown)


def time_in_words(seconds: float) -> str:
    """A length of time as people read it."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def seconds_of(ended: Mapping[str, tuple[float, int]], what: str) -> float | None:
    """Seconds of one part of a step that has ended; None if there is none."""
    seconds, parts = ended.get(what, (0.0, 0))
    return seconds / parts if parts else None
