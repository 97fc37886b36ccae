"""A cached folder is made once on a machine: of several processes that miss it, one makes it and the others wait.

A folder is made next to its place and moved there when it is whole. The places next to it have fixed names, so that
the next process after a kill finds what it left:

    CACHE/NAME  CACHE/.NAME.lock  CACHE/.NAME.making/ (half made)  CACHE/.NAME.replaced (briefly: the old one)

A folder that this program has made holds ``manifest.json``, the hash of every file in it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from mis_lib.files import hold, is_held, sha256

MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """Where assembled models and drawn data live: ``$MIS_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("MIS_CACHE") or platformdirs.user_cache_dir("mis-workbench"))


def write_manifest(folder: Path) -> None:
    """Write the hash of every file below a folder into its ``manifest.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def is_intact(folder: Path) -> bool:
    """Whether every file that a folder's manifest lists is there with the hash it was written with."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in hashes.items())


def made_once(
    folder: Path,
    make: Callable[[Path], object],
    progress: Callable[[str], None],
    *,
    is_whole: Callable[[Path], bool] = is_intact,
    force: bool = False,
) -> Path:
    """Return a folder of the cache, made by one process if it is missing or not whole.

    Who reads the folder while it is made again sees the old one, then the new one; between two renames there is none,
    and a kill just then is mended by the next call, which puts the old one back.

    Args:
        folder: in the cache.
        make: writes it as the folder that it is given, which is not there yet; what it needs meanwhile may be next
            to it.
        progress: receives a message while waiting.
        is_whole: whether what is there can be used.
        force: make it again even so.

    Raises:
        OSError: the cache cannot be written.
    """
    if not force and is_whole(folder):
        if any(place.exists() for place in _places_of(folder)):
            _tidy_if_idle(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder, progress):
        _tidy(folder)
        if force or not is_whole(folder):  # no other process made it while this process waited
            making, replaced = _places_of(folder)
            try:
                making.mkdir()
                made = making / folder.name
                make(made)
                if folder.exists():
                    folder.rename(replaced)  # removing it first would take long
                made.rename(folder)
            finally:
                _tidy(folder)
    return folder


def _places_of(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.making"), folder.with_name(f".{folder.name}.replaced")


@contextmanager
def _lock(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    path = folder.with_name(f".{folder.name}.lock")
    with hold(path, waits=lambda: progress(f"Another process is making {folder}: waiting for it")):
        yield


def _tidy(folder: Path) -> None:
    """Remove what a maker left next to the folder.

    What it had moved aside goes back if nothing took its place. Under the lock.
    """
    making, replaced = _places_of(folder)
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)
    for place in (making, replaced):
        shutil.rmtree(place, ignore_errors=True)


def _tidy_if_idle(folder: Path) -> None:
    """The same, unless somebody is at it, or the cache is one that can only be read."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        if not is_held(path):
            with hold(path, TimeoutError(str(path))):
                _tidy(folder)
    except OSError:
        return
