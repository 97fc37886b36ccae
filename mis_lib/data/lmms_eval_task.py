"""Functions of an exported lmms-eval task; ``export_tasks`` copies this file next to the task's YAML.

It runs where lmms-eval runs, so it imports nothing of this project.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps


def images_of(doc: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> list[Image.Image]:
    """The images of a row in order, as 8-bit RGB, upright, transparency on white.

    Args:
        doc: the row; ``images`` holds paths.
        settings: ``image_folder`` is the folder of relative paths [default: that of this file].
    """
    folder = Path((settings or {}).get("image_folder") or Path(__file__).parent)
    return [_rgb(folder / name) for name in doc["images"]]


def answered(_: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether a text came back: no score of safety, which needs a judge (``mis import``, then ``mis judge``)."""
    return {"answered": float(bool(results and results[0].strip()))}


def _rgb(path: Path) -> Image.Image:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
