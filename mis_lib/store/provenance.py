"""What a run was made with: digests of the folders that it reads, versions, machine and git revision."""

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mis_lib import __version__
from mis_lib.cache import MANIFEST
from mis_lib.data.images import is_unpacked
from mis_lib.errors import DataError
from mis_lib.files import sha256
from mis_lib.models.adapters import BASE_FILE
from mis_lib.models.shipped import WEIGHTS

VERSIONED = ("torch", "transformers", "peft", "safetensors", "pillow", "numpy")
HASHED_WHOLE = (
    16 * 2**20
)  # larger files enter a folder's digest with their size and both ends: hashing 16 GB would take a minute


def folder_digest(folder: Path) -> str:
    """Digest of a folder's content: of its manifest where it has one, else of every file in it but an adapter's ``base.json``.

    What an adapter belongs to is told for people: no answer follows from it, and none must be asked for again once it is put there.

    Pictures unpacked from a table do not count: they are there as soon as the table was read, and the table itself counts. A training would otherwise
    not find the run again that it was killed in.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, found none")
    if (folder / MANIFEST).exists():
        return sha256(folder / MANIFEST)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        tells_a_base = path.name == BASE_FILE and (path.parent / WEIGHTS).exists()
        if not tells_a_base and not is_unpacked(relative):
            digest.update(f"{relative} {path.stat().st_size} {_file_digest(path)}\n".encode())
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Digest of a data file, or of a folder's content; raises as ``folder_digest``."""
    return sha256(path) if path.is_file() else folder_digest(path)


def environment(device: str) -> dict[str, Any]:
    """What a run was made with: versions, machine, device, git revision and whether files had been changed since."""
    return {
        "mis": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in VERSIONED},
        "device": device,
        "git": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= HASHED_WHOLE:
        return sha256(path)
    with path.open("rb") as stream:
        head = stream.read(HASHED_WHOLE // 2)
        stream.seek(size - HASHED_WHOLE // 2)
        return hashlib.sha256(head + stream.read()).hexdigest()


def _git(*arguments: str) -> str:
    """What git says about this checkout; empty where there is no git or no checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
