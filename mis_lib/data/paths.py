"""Paths in data files: relative names that stay inside the data folder, or a refusal.

A data set comes from strangers, and the program that reads it may run with rights that they do not have. So a name is refused if it is
absolute (on any system), climbs with ``..``, is a web address, or reaches out of the folder through a symbolic link. Whether
there is a file is another question, asked later. An absolute name that leads into the folder, as ms-swift's users write them, is read as the relative
one that it means (``within``).
"""

import ntpath
import os
import stat
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from mis_lib.errors import DataError


class Refusal(NamedTuple):
    """Why a name is not followed, and what to write instead."""

    reason: str
    fix: str


def refusal(folder: Path, name: str) -> Refusal | None:
    """What speaks against following ``name`` from ``folder``; None if nothing does."""
    relative = "write it relative to the data folder, with / between folders"
    if not name.strip():
        return Refusal("an empty path", "name the image file")
    if "\0" in name or not _can_be_written(name):
        return Refusal(f"a path with a character that no file name has ({name!r:.80})", relative)
    if "://" in name or name.startswith("data:"):
        return Refusal(f"a web address ({name:.80})", "save the image in the data folder and name that file")
    if name.startswith(("/", "\\", "~")) or ntpath.splitdrive(name)[0]:
        return Refusal(f"an absolute path ({name:.80})", relative)
    if ".." in name.replace("\\", "/").split("/"):
        return Refusal(f"a path that climbs out with '..' ({name:.80})", relative)
    if len(name) > 1024 or any(len(part) > 255 for part in name.split("/")):
        return Refusal(f"a path of {len(name):,} characters", "give the file a shorter name")
    try:
        if not _may_leave(folder, name):
            return None
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError):
        reason = f"a loop of symbolic links, or a folder that cannot be entered ({name:.80})"
        return Refusal(reason, "put the file itself there, and look at its rights")
    if not resolved.is_relative_to(folder.resolve()):
        reason = f"a symbolic link out of the data folder ({name:.80})"
        return Refusal(reason, "put the file itself there (hf download --local-dir FOLDER makes no links)")
    return None


def within(folder: Path, name: str) -> str:
    """The relative name that an absolute one means where it leads into ``folder``; any other name as it is."""
    if not Path(name).is_absolute() or ".." in name.split("/"):
        return name
    for root in (folder.absolute(), folder.resolve()):
        if Path(name).is_relative_to(root) and Path(name) != root:
            return Path(name).relative_to(root).as_posix()
    return name


def inside(folder: Path, name: str) -> Path:
    """The path that a data file in ``folder`` means by ``name``; there need not be a file.

    Raises:
        DataError: the name leaves the folder (absolute, ``..``, a symbolic link), is a web address or no path at all.
    """
    found = refusal(folder, name)
    if found is not None:
        raise DataError(f"expected a path inside {folder}, found {found.reason}; {found.fix}")
    return folder / name


def _may_leave(folder: Path, name: str) -> bool:
    """Whether a link stands on the way; a name that does not climb stays inside without one, and asking that is much quicker than resolving."""
    steps = accumulate(Path(name).parts, os.path.join, initial=str(folder))
    try:
        if any(stat.S_ISLNK(os.lstat(step).st_mode) for step in islice(steps, 1, None)):
            return True
    except (FileNotFoundError, NotADirectoryError):  # nothing is there, and so nothing behind it
        pass
    return os.name == "nt"  # whose junctions are no links to Python 3.11


def _can_be_written(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True
