"""What lies in the cache is made once on a machine: of several processes that miss it, one makes it and the others wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def one_maker(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock over a folder of the cache while the block lasts; whoever gets it looks again whether the folder is there.

    Without it the second of two processes would put its own folder in the place of the first one's while that one is being read.

    Args:
        folder: in the cache; the lock lies beside it.
        progress: is told of waiting.

    Raises:
        OSError: the cache cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"Another process is making {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
