"""Locks on what one process may write at a time: the operating system's, so that a process lets go of its own however it ends.

A lock is an empty file beside what it stands for. It may stay behind when nobody is at work, which means nothing. Who only reads takes no lock. On a
network file system locks hold between machines where it passes them on: NFS 4 does; NFS mounted with ``nolock`` or ``local_lock`` does not, and there
all processes that write one file must run on one machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mis_lib.errors import SettingsError

PATIENCE = 2.0  # seconds: ``is_held`` takes a lock for an instant, and a process that was killed takes a moment to go


@contextmanager
def alone(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock while the block lasts.

    Args:
        path: of the lock.
        refusal: where it is held: by whom, and what to do.

    Raises:
        SettingsError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingsError(refusal) from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether some process holds a lock now."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def lock_of(root: Path, name: str) -> FileLock:
    """The lock over the run ``root/name``, for whoever changes what several processes share."""
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / f".{name}.lock")
