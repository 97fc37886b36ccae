"""What is known of adapters without torch: base checkpoint, image limits, and which ones are shipped.

``base.json`` in an adapter's folder records the checkpoint that it was trained on; of a shipped adapter, the embedded
model on which it was measured. On another checkpoint of the same shapes it loads without an error and answers something
else. A checkpoint is identified by a fingerprint of its weights. The embedded model is assembled on each machine, where
sums may round differently, so the name of its folder, which follows from its sources, identifies it too. Where either
checkpoint is unknown, no warning is given.

``image_limits.json`` records the limits of an image. Tiles and grids decide how many tokens an image has; an adapter
that was trained on two tiles an image and gets eight sees something else.
"""

import json
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mis_lib.data.tokens import find_checkpoint
from mis_lib.errors import AdapterWarning, ModelError, SettingsError
from mis_lib.files import digest, write_atomic
from mis_lib.models.mini.assemble import ADAPTERS, mini_folder
from mis_lib.schema import Record
from mis_lib.settings import Quantization

BASE = "mini"
SHIPPED = ("mirage", "refusal", "textual", "mirage_both")
MAX_COLUMNS = 4
"""How many variants the app shows at once, at most."""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "base.json"
LIMITS = "image_limits.json"
EDIT = "edit"  # one key: several have no fixed order in a file's header, and the file's digest is in answers' keys
MINI = re.compile(r"mini-\d+-[0-9a-f]{12}")
SAMPLED = 4096  # bytes of each tensor: any training changes all of a tensor that it changes, and 16 GB need not be read


class Base(Record):
    """What identifies a checkpoint among others of its shapes."""

    name: str
    """Of its folder, or its hub id."""
    weights: str | None = None
    """Their fingerprint, as the checkpoint's files hold them; ``None`` where they cannot be read."""
    quantization: Quantization | None = Field(default=None, exclude_if=lambda value: value is None)
    """How they were stored while the adapter was trained, if not as in the files."""


def write_base(folder: Path, checkpoint: Path | str, quantization: Quantization | None = None) -> None:
    """Record the checkpoint that an adapter was trained on in the adapter's folder."""
    write_base_record(folder, base_of(checkpoint).model_copy(update={"quantization": quantization}))


def write_base_record(folder: Path, base: Base | None) -> None:
    """Record an adapter's checkpoint in its folder; ``None`` removes the record of an earlier adapter."""
    if base is None:
        (folder / BASE_FILE).unlink(missing_ok=True)
    else:
        write_atomic(folder / BASE_FILE, (base.model_dump_json() + "\n").encode())


def read_base(folder: Path) -> Base | None:
    """The recorded checkpoint of an adapter or weight edit; ``None`` where there is no record.

    Raises:
        ModelError: it cannot be read.
    """
    if is_edit(folder):
        return read_edit_record(folder).base
    try:
        return Base.model_validate_json((folder / BASE_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / BASE_FILE}: expected the record of an adapter's checkpoint, "
            f"found: {str(error).splitlines()[0]}; remove the file"
        ) from error


def warn_if_base_differs(variant: str, folder: Path, checkpoint: Path | str) -> None:
    """Warn (``AdapterWarning``) with the text of ``base_mismatch``, if there is any.

    Raises:
        ModelError: the adapter's record cannot be read.
    """
    if words := base_mismatch(variant, folder, checkpoint):
        warnings.warn(words, AdapterWarning, stacklevel=2)


def base_mismatch(variant: str, folder: Path, checkpoint: Path | str) -> str:
    """A warning if the adapter of a folder is known to belong to another checkpoint; else empty.

    Raises:
        ModelError: the adapter's record cannot be read.
    """
    recorded = read_base(folder)
    if recorded is None or is_of(recorded, checkpoint):
        return ""
    return (
        f"variant {variant!r}: expected the checkpoint that {folder} belongs to ({recorded.name}), found {checkpoint}, "
        "which has the same shapes and other weights: it answers otherwise than it does there. "
        "Name that checkpoint (--checkpoint), or train the adapter again"
    )


def is_of(recorded: Base, checkpoint: Path | str) -> bool:
    """Whether a checkpoint is the recorded one, or may be: where either is unknown, it may."""
    name = Path(checkpoint).name
    if MINI.fullmatch(name) and recorded.name == name:
        return True
    recorded, found = _as_rounded_here(recorded), base_of(checkpoint)
    return not (recorded.weights and found.weights) or recorded.weights == found.weights


def _as_rounded_here(base: Base) -> Base:
    """The embedded model as it was assembled on this machine, where it was; any other checkpoint unchanged."""
    if base.name != (folder := mini_folder()).name:
        return base
    here = base_of(folder)
    return here if here.weights else base


def base_of(checkpoint: Path | str) -> Base:
    """Name and fingerprint of a checkpoint; without a fingerprint where its weights cannot be read."""
    named = Path(checkpoint)
    folder = find_checkpoint(str(checkpoint)) if not named.exists() else named
    files = sorted(folder.glob("*.safetensors")) if folder is not None and folder.is_dir() else []
    name = named.name if folder == named and files else str(checkpoint)
    try:
        return Base(name=name, weights=_fingerprint(files) if files else None)
    except (OSError, ValueError, KeyError, struct.error):  # damage must not end a run that has trained for hours
        return Base(name=name)


def _fingerprint(files: list[Path]) -> str:
    """Digest of name, shape and first bytes of each tensor, whatever file holds it; raises for damaged files."""
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
    return digest(b"".join(tensors[name] for name in sorted(tensors)))[:16]


class EditRecord(Record):
    """What the file of a weight edit (``edits``) records next to its indices."""

    alpha: float
    """Factor of the weights that are edited."""
    tau: float
    """Share of the scores' mass that is left alone."""
    weights: int
    """Number of weights in the layers that were looked at."""
    base: Base


def is_edit(path: Path) -> bool:
    """Whether a variant is given by the file of a weight edit, and not by an adapter's folder."""
    return path.suffix == ".safetensors"


def read_edit_record(path: Path) -> EditRecord:
    """The record in the header of a weight edit's file.

    Raises:
        ModelError: the file is missing, damaged or no edit.
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, path.stat().st_size)))
        record = header.get("__metadata__", {}).get(EDIT)
        if record is not None:
            return EditRecord.model_validate_json(record)
    except (OSError, ValueError, AttributeError, struct.error) as error:
        raise ModelError(
            f"{path}: expected a weight edit, found: {str(error).splitlines()[0]}; make it with "
            "`mis analyse safeground`"
        ) from error
    raise ModelError(
        f"{path}: expected a weight edit, found tensors such as {min(header)}; an adapter is named by its folder"
    )


def recognised(folder: Path) -> str:
    """What a folder is instead of what was expected, and how to name it; empty if unknown."""
    as_model = "as the checkpoint (--checkpoint, or --model of the app)"
    if (folder / CONFIG).exists():
        return f"an adapter; name it as one (--adapters NAME={folder})"
    if (folder / "config.json").exists():
        return f"a whole checkpoint; name it {as_model}"
    if (folder / "adapter" / CONFIG).exists():
        return f"a run of `mis train`; name {folder / 'adapter'}"
    if (folder / "model" / "config.json").exists():
        return f"a run of `mis train` that tuned the whole model; name {folder / 'model'} {as_model}"
    return ""


class ImageLimits(Record):
    """Of one image; ``None`` is the checkpoint's own."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    """Of models with grids (Qwen-VL)."""
    max_dynamic_patch: int | None = None
    """Tiles, of models with tiles (InternVL)."""

    @property
    def given(self) -> dict[str, int]:
        """Those that differ from the checkpoint's own, by name."""
        return self.model_dump(exclude_none=True)


def limits_of(folder: Path | None) -> ImageLimits:
    """The limits that the adapter of a folder was trained with.

    Raises:
        ModelError: they are there and cannot be read.
    """
    if folder is None or not (folder / LIMITS).exists():
        return ImageLimits()
    try:
        return ImageLimits.model_validate_json((folder / LIMITS).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / LIMITS}: expected the image limits of an adapter, "
            f"found: {str(error).splitlines()[0]}; train it again"
        ) from error


def shared_limits(adapters: Mapping[str, Path | None], given: ImageLimits | None = None) -> ImageLimits:
    """The limits under which these variants answer together; those of the others also hold for the base and its edits.

    Args:
        adapters: PEFT folder or weight edit of each variant.
        given: limits that replace the adapters' own.

    Raises:
        ModelError: the limits of one cannot be read.
        SettingsError: adapters were trained with different ones.
    """
    tuned = {name: folder for name, folder in adapters.items() if folder is not None and not is_edit(folder)}
    given = given or ImageLimits()
    found = {name: limits_of(folder).model_copy(update=given.given) for name, folder in tuned.items()}
    if len(set(found.values())) > 1:
        described = "; ".join(
            f"{name}: {limits.given or 'the own of the checkpoint'}" for name, limits in found.items()
        )
        raise SettingsError(
            f"adapters: expected adapters that were trained with the same image limits, found {described}; "
            "let them answer in separate runs, or give the limits (max_dynamic_patch, max_pixels)"
        )
    return next(iter(found.values()), given)


def write_limits(folder: Path, limits: ImageLimits) -> None:
    """Record limits in an adapter's folder; without any, the file of an earlier adapter is removed."""
    if limits.given:
        write_atomic(folder / LIMITS, (limits.model_dump_json(exclude_none=True) + "\n").encode())
    else:
        (folder / LIMITS).unlink(missing_ok=True)


def limit_images(processor: Any, limits: ImageLimits) -> None:
    """Set a processor's limits for one image, in place.

    Raises:
        SettingsError: the processor knows no such limit.
    """
    images = processor.image_processor
    if limits.min_pixels is not None or limits.max_pixels is not None:
        size = images.size
        if "longest_edge" not in size or not hasattr(images, "merge_size"):
            raise SettingsError("min_pixels and max_pixels limit Qwen-VL's grids; this model has none, leave them out")
        shortest, longest = limits.min_pixels or size["shortest_edge"], limits.max_pixels or size["longest_edge"]
        images.size = {"shortest_edge": shortest, "longest_edge": longest}
    if limits.max_dynamic_patch is not None:
        if not hasattr(images, "max_patches"):
            raise SettingsError("max_dynamic_patch limits InternVL's tiles; this model has none, leave it out")
        images.max_patches = limits.max_dynamic_patch


def shipped_variants() -> dict[str, Path | None]:
    """The base, and every shipped adapter whose files are there."""
    folders = {name: ADAPTERS / name for name in SHIPPED}
    return {BASE: None, **{name: folder for name, folder in folders.items() if (folder / WEIGHTS).exists()}}


class Checkpoint(NamedTuple):
    """A checkpoint among those that are asked, and what answers on it."""

    path: Path | None
    """Folder or hub id; ``None`` for the embedded model."""
    variants: dict[str, Path | None]
    """PEFT folder or weight edit of each; ``None`` for the checkpoint itself, which comes first."""


def read_checkpoints(values: Sequence[str] | None) -> Path | dict[str, Path] | None:
    """``["PATH"]`` as a path, ``["base=PATH", "tuned=PATH"]`` as paths by name; ``None`` if nothing was given.

    Raises:
        SettingsError: several without a name each, or two of one name.
    """
    if not values:
        return None
    named = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path) or Path(value).exists():
            if len(values) == 1:
                return Path(value)
            raise SettingsError(f"--checkpoint: expected NAME=PATH for each of several, found {value!r}")
        if name in named:
            raise SettingsError(f"--checkpoint: the name {name!r} is taken already; call it something else")
        named[name] = Path(path)
    return named


def choose_checkpoints(
    checkpoint: Path | Mapping[str, Path] | None,
    adapters: Mapping[str, Path] | Sequence[tuple[str, Path]] | None,
) -> list[Checkpoint]:
    """What answers on which checkpoint.

    Args:
        checkpoint: one, as ``choose_variants`` takes it, or several by name; "mini" is the embedded model.
        adapters: PEFT folder of each; of several checkpoints, the name may say which (``NAME@CHECKPOINT``), else it is
            the one whose fingerprint the adapter has recorded.

    Raises:
        SettingsError: a name is given twice, or it is not known to which checkpoint an adapter belongs.
        ModelError: an adapter's record cannot be read.
    """
    if not isinstance(checkpoint, Mapping):
        path = None if checkpoint is None or _is_embedded(checkpoint) else checkpoint
        return [Checkpoint(path, choose_variants(path, adapters))]
    chosen = {name: Checkpoint(None if _is_embedded(path) else path, {name: None}) for name, path in checkpoint.items()}
    for given, folder in adapters.items() if isinstance(adapters, Mapping) else adapters or ():
        name, _, base = given.partition("@")
        owner = base or checkpoint_of_adapter(name, folder, checkpoint)
        if owner not in chosen:
            raise SettingsError(f"--adapters {given}: unknown checkpoint {owner!r}; named: {', '.join(chosen)}")
        if any(name in one.variants for one in chosen.values()):
            raise SettingsError(f"--adapters: the name {name!r} is taken already; call it something else")
        chosen[owner].variants[name] = folder
    return list(chosen.values())


def checkpoint_of_adapter(name: str, folder: Path, checkpoints: Mapping[str, Path]) -> str:
    """Which of several checkpoints an adapter was trained on, by the fingerprint that it has recorded.

    Raises:
        SettingsError: none of them, or several.
        ModelError: the adapter's record cannot be read.
    """
    recorded = read_base(folder)
    matching = list(checkpoints) if len(checkpoints) == 1 else []
    if recorded is not None and not matching:
        wanted = _as_rounded_here(recorded)
        for label, path in checkpoints.items():
            here = mini_folder() if _is_embedded(path) else path
            same_name = recorded.name == (here.name if MINI.fullmatch(here.name) else _hub_id(here))
            if same_name or (wanted.weights and base_of(here).weights == wanted.weights):
                matching.append(label)
    if len(matching) == 1:
        return matching[0]
    found = (
        f"that it fits {' and '.join(matching)}" if matching
        else "no record of it" if recorded is None
        else f"that it was trained on {recorded.name}"
    )  # fmt: skip
    raise SettingsError(
        f"--adapters {name}: expected one of {', '.join(checkpoints)} as the checkpoint that it belongs to, "
        f"found {found}; name it: --adapters {name}@{next(iter(checkpoints))}={folder}"
    )


def _hub_id(path: Path) -> str | None:
    return None if path.exists() or path.is_absolute() or len(path.parts) != 2 else path.as_posix()


def _is_embedded(path: Path) -> bool:
    return path == Path(BASE) and not path.exists()


def choose_variants(
    checkpoint: Path | None, adapters: Mapping[str, Path] | Sequence[tuple[str, Path]] | None
) -> dict[str, Path | None]:
    """The shipped variants if nothing else is named; else the checkpoint itself ("base", or "mini") and these adapters.

    Raises:
        SettingsError: a name is given twice, or is that of the checkpoint itself.
    """
    if checkpoint is None and not adapters:
        return shipped_variants()
    chosen: dict[str, Path | None] = {BASE if checkpoint is None else "base": None}
    for name, folder in adapters.items() if isinstance(adapters, Mapping) else adapters or ():
        if name in chosen:
            raise SettingsError(f"--adapters: the name {name!r} is taken already; call it something else")
        chosen[name] = folder
    return chosen
