"""Limits of an image lie beside the adapter that was trained with them, so that it answers about images as it has learnt to see them.

Tiles and grids decide how many tokens an image has; an adapter that was trained on two tiles an image and is shown eight sees something else. No torch in here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mis_lib.errors import ModelError, SettingsError
from mis_lib.files import write_atomic
from mis_lib.schema import Record

LIMITS = "image_limits.json"


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
            f"{folder / LIMITS}: expected the image limits of an adapter, found: {str(error).splitlines()[0]}; train it again"
        ) from error


def shared_limits(adapters: Mapping[str, Path | None]) -> ImageLimits:
    """The limits under which these variants answer together; a variant without an adapter goes by those of the others.

    Raises:
        ModelError: the limits of one cannot be read.
        SettingsError: adapters were trained with different ones.
    """
    found = {name: limits_of(folder) for name, folder in adapters.items() if folder is not None}
    if len(set(found.values())) > 1:
        told = "; ".join(f"{name}: {limits.given or 'the own of the checkpoint'}" for name, limits in found.items())
        raise SettingsError(
            f"adapters: expected adapters that were trained with the same image limits, found {told}; let them answer in runs of their own"
        )
    return next(iter(found.values()), ImageLimits())


def write_limits(folder: Path, limits: ImageLimits) -> None:
    """Put limits beside an adapter; without any there is no file, not even that of an earlier adapter."""
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
