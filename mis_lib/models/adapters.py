"""Which checkpoint an adapter belongs to lies beside it: on another one of the same shapes it loads without an error, and answers something else.

It is the one that the adapter was trained on; of a shipped adapter it is the embedded model on which it was measured. A checkpoint is known by a
fingerprint of its weights. The embedded model is assembled on each machine, where sums may round otherwise, so it is known by the name of its folder
too, which follows from what it is assembled of. Where either is unknown, nothing is said. No torch in here.
"""

import hashlib
import json
import re
import struct
import warnings
from pathlib import Path

from mis_lib.errors import AdapterWarning, ModelError
from mis_lib.files import write_atomic
from mis_lib.models.mini.assemble import mini_folder
from mis_lib.schema import Record

BASE_FILE = "base.json"
MINI = re.compile(r"mini-\d+-[0-9a-f]{12}")
SAMPLED = 4096  # bytes of each tensor: any training changes all of a tensor that it changes, and 16 GB need not be read


class Base(Record):
    """What tells a checkpoint from others of its shapes."""

    name: str
    """Of its folder, or its hub id."""
    weights: str | None = None
    """Their fingerprint; ``None`` where they cannot be looked at."""


def write_base(folder: Path, checkpoint: Path | str) -> None:
    """Put beside an adapter what tells the checkpoint that it was trained on."""
    write_base_record(folder, _base_of(checkpoint))


def write_base_record(folder: Path, base: Base | None) -> None:
    """Put beside an adapter what is known of its checkpoint; of an unknown one, what lay there of an earlier adapter goes."""
    if base is None:
        (folder / BASE_FILE).unlink(missing_ok=True)
    else:
        write_atomic(folder / BASE_FILE, (base.model_dump_json() + "\n").encode())


def read_base(folder: Path) -> Base | None:
    """What lies beside an adapter about its checkpoint; ``None`` where nothing does.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return Base.model_validate_json((folder / BASE_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / BASE_FILE}: expected what tells an adapter's checkpoint, found: {str(error).splitlines()[0]}; remove the file"
        ) from error


def warn_if_strange(variant: str, folder: Path, checkpoint: Path | str) -> None:
    """Warn (``AdapterWarning``) with the words of ``strangeness``, if there are any.

    Raises:
        ModelError: what lies beside the adapter cannot be read.
    """
    if words := strangeness(variant, folder, checkpoint):
        warnings.warn(words, AdapterWarning, stacklevel=2)


def strangeness(variant: str, folder: Path, checkpoint: Path | str) -> str:
    """What is to be said where the adapter of a folder is known to belong to another checkpoint; empty where nothing is.

    Raises:
        ModelError: what lies beside the adapter cannot be read.
    """
    told = read_base(folder)
    name = Path(checkpoint).name
    if told is None or (MINI.fullmatch(name) and told.name == name):
        return ""
    told, found = _as_rounded_here(told), _base_of(checkpoint)
    if not (told.weights and found.weights) or told.weights == found.weights:
        return ""
    return (
        f"variant {variant!r}: expected the checkpoint that {folder} belongs to ({told.name}), found {checkpoint}, which has the same shapes and "
        "other weights: it answers otherwise than it does there. Name that checkpoint (--checkpoint), or train the adapter again"
    )


def _as_rounded_here(base: Base) -> Base:
    """The embedded model as it was assembled on this machine, where it was; any other checkpoint as it was told."""
    if base.name != (folder := mini_folder()).name:
        return base
    here = _base_of(folder)
    return here if here.weights else base


def _base_of(checkpoint: Path | str) -> Base:
    folder = Path(checkpoint)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    name = folder.name if files else str(checkpoint)
    try:
        return Base(name=name, weights=_fingerprint(files) if files else None)
    except (
        OSError,
        ValueError,
        KeyError,
        struct.error,
    ):  # a file that is none, beside a model that was trained for hours
        return Base(name=name)


def _fingerprint(files: list[Path]) -> str:
    """Of name, shape and first bytes of each tensor, however they are dealt to files; one that is damaged raises what reading it does."""
    tensors: dict[str, bytes] = {}
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                start, end = tensor["data_offsets"]
                stream.seek(8 + length + start)
                content = stream.read(min(SAMPLED, end - start))
                tensors[name] = f"{name} {tensor['dtype']} {tensor['shape']} ".encode() + content
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:16]
