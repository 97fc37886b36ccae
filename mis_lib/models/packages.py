"""Packages whose compiled parts fit one build of torch, and which transformers imports wherever it finds them.

One that was built for another torch breaks every model, also those that do not need it: pip's own index serves
torchvision for CUDA even where torch is the one for the CPU.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from packaging.version import Version

from mis_lib.errors import MissingPackageError
from mis_lib.settings import Quantization

BOUND_TO_TORCH = ("torchvision", "torchaudio")
TORCHVISION_AHEAD = 15  # torchvision 0.(n + 15) belongs to torch 2.n (pytorch/vision, README, table of versions)
WHEELS = "https://download.pytorch.org/whl"

_SYMPTOMS = (ImportError, ModuleNotFoundError, RuntimeError, AttributeError)  # of an import that failed, or later


def check_quantization(quantization: Quantization | None) -> None:
    """Refuse to quantize without the package that does it.

    Raises:
        MissingPackageError: it is not there.
    """
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackageError(
            f"quantization: {quantization} needs the package bitsandbytes; pip install 'mis-workbench[gpu]'"
        )


class Broken(NamedTuple):
    """A package that is installed and cannot be imported."""

    name: str
    found: str
    """Its version, torch's and the first line of the error."""
    fix: str
    """The command that puts it right."""


def broken_package() -> Broken | None:
    """The first package bound to torch's build that is installed and fails to be imported, if there is one."""
    for name in BOUND_TO_TORCH:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except (*_SYMPTOMS, OSError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            torch = importlib.metadata.version("torch")
            found = f"{importlib.metadata.version(name)} cannot be imported with torch {torch}: {first}"
            return Broken(name, found, _fix(name, Version(torch)))
    return None


@contextmanager
def naming_a_broken_package() -> Iterator[None]:
    """An error that a broken package may have caused names that package, if there is one, and the way out.

    Raises:
        MissingPackageError: in place of the error of a library.
    """
    try:
        yield
    except _SYMPTOMS as error:
        named = type(error) not in _SYMPTOMS  # MisError, and typer.Exit, which is a RuntimeError
        if named or (broken := broken_package()) is None:
            raise
        raise MissingPackageError(
            f"{broken.name} {broken.found}; transformers needs it in order, or not at all: {broken.fix}"
        ) from error


def _fix(name: str, torch: Version) -> str:
    if name != "torchvision":
        return f"pip uninstall -y {name}"  # nothing here uses it
    index = f" --index-url {WHEELS}/{torch.local}" if torch.local else ""  # "+cpu", "+cu130"; none is of pip's own
    wanted = f"torchvision==0.{torch.minor + TORCHVISION_AHEAD}.*"
    return f'pip install --force-reinstall --no-deps "{wanted}"{index}'
