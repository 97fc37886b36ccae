"""Folders that a checkout has and an installed package has not: ``benchmarks``, ``research``, ``tools``.

Their verbs import them by name when they are called. No other module of the library imports them.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mis_lib
from mis_lib.errors import MissingPackageError

ROOT = Path(mis_lib.__file__).resolve().parent.parent
CLONE = "git clone of the repository, then pip install -e . there"


def outside(module: str, verb: str) -> Any:
    """The module of a folder that is next to the package, such as ``benchmarks.variants``.

    Raises:
        MissingPackageError: this installation has no such folder.
    """
    _require(module, verb)
    if str(ROOT) not in sys.path:  # an editable installation finds the package alone
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(module)


def command_of(module: str, arguments: Sequence[str], verb: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run such a module in a separate process, from any working folder.

    Raises:
        MissingPackageError: as ``outside``.
    """
    _require(module, verb)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, "PYTHONPATH": path}


def _require(module: str, verb: str) -> None:
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise MissingPackageError(
            f"{verb}: expected {file}, found none: the folder {module.partition('.')[0]} is in the repository, "
            f"not in an installed package. Run it from a checkout ({CLONE})"
        )
