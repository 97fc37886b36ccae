"""Which model makes image tokens in which way (``vision_tokens``), and with which numbers.

``from_checkpoint`` reads the numbers from a checkpoint's own processor files, ``known`` has them for models by name, ``limited`` takes one's own limits.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mis_lib.data.vision_tokens import AnyRes, Fixed, Grid, ImageTokens, Splits, Tiles
from mis_lib.errors import ModelError, SettingsError

QWEN3_GRID = Grid(patch=16, min_pixels=65536, max_pixels=16777216)
LARGE_SMOLVLM = Splits(longest=1536, side=384, tokens=81)
# Model names as people write them -> how it counts; the first pattern found in the name wins.
FAMILIES: Mapping[str, ImageTokens] = {
    r"^mini$": Fixed(tokens=9),
    r"qwen-?3-?vl": QWEN3_GRID,
    r"qwen-?2(\.|_)5-?_?vl": Grid(),
    r"qwen-?2-?_?vl": Grid(),
    r"internvl": Tiles(),
    r"llava-?_?(onevision|ov)": AnyRes(),
    r"llava-?v?1\.5": Fixed(tokens=576),
    r"idefics-?3": Splits(),
    r"smolvlm2?-(256m|500m)": Splits(longest=2048, side=512, tokens=64),
    r"smolvlm": LARGE_SMOLVLM,
}


def known(name: str) -> ImageTokens:
    """How a model of this name counts, as published.

    Raises:
        ModelError: the name is of no known family.
    """
    for pattern, family in FAMILIES.items():
        if re.search(pattern, name.lower()):
            return family
    listed = "mini, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, LLaVA-OneVision, LLaVA-1.5, Idefics3, SmolVLM"
    raise ModelError(
        f"--model {name}: expected a checkpoint folder or a name with one of {listed} in it, found neither"
    )


def from_checkpoint(config: Mapping[str, Any], processor: Mapping[str, Any]) -> ImageTokens:
    """How a checkpoint counts, from its ``config.json`` and its processor's settings (both files merged into one mapping).

    Raises:
        ModelError: the model's type is not among the known ones.
    """
    size = processor.get("size") or {}
    match config.get("model_type"):
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            return Grid(
                patch=processor.get("patch_size", 14),
                merge=processor.get("merge_size", 2),
                min_pixels=processor.get("min_pixels") or size.get("shortest_edge", 56 * 56),
                max_pixels=processor.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280),
            )
        case "internvl":
            return Tiles(
                side=size.get("height", 448),
                tokens=processor.get("image_seq_length", config.get("image_seq_length", 256)),
                max_tiles=processor.get("max_patches", 12),
            )
        case "internvl_chat":
            patches = config.get("force_image_size", 448) // config.get("vision_config", {}).get("patch_size", 14)
            tokens = int(patches**2 * config.get("downsample_ratio", 0.5) ** 2)
            return Tiles(
                side=config.get("force_image_size", 448), tokens=tokens, max_tiles=config.get("max_dynamic_patch", 12)
            )
        case "llava_onevision":
            default = AnyRes()
            points = processor.get("image_grid_pinpoints") or config.get("image_grid_pinpoints") or default.pinpoints
            return AnyRes(
                side=min(size.values(), default=384),
                patches=math.isqrt(processor.get("num_image_tokens") or 729),
                max_tiles=int(config.get("vision_aspect_ratio", "anyres_max_9").rpartition("_")[2]),
                pinpoints=tuple((height, width) for height, width in points),
            )
        case "idefics3" | "smolvlm":
            return Splits(
                longest=size.get("longest_edge", 1456),
                side=(processor.get("max_image_size") or {}).get("longest_edge", 364),
                tokens=processor.get("image_seq_len", 169),
            )
        case "llava" | "fast_vlm":
            return _fixed(config, processor)
        case other:
            raise ModelError(f"expected a model type whose image tokens are known, found {other!r}; leave --model out")


def limited(
    family: ImageTokens,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_dynamic_patch: int | None = None,
) -> ImageTokens:
    """The same way of counting under limits of one's own.

    Raises:
        SettingsError: the model knows no such limit.
    """
    pixels = {
        name: value for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if value is not None
    }
    if pixels:
        if not isinstance(family, Grid):
            raise SettingsError(
                "--max_pixels and --min_pixels limit Qwen-VL's grids; this model has none, leave them out"
            )
        family = Grid(**{**family.model_dump(), **pixels})
    if max_dynamic_patch is not None:
        if not isinstance(family, Tiles):
            raise SettingsError("--max_dynamic_patch limits InternVL's tiles; this model has none, leave it out")
        family = Tiles(**{**family.model_dump(), "max_tiles": max_dynamic_patch})
    return family


def _fixed(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Fixed:
    """As LLaVA's processor counts: patches of the scaled image, one more for a class token, which "default" leaves out."""
    crop = processor.get("crop_size") or processor.get("size") or {}
    if not isinstance(crop, Mapping):
        crop = {"height": crop, "width": crop}
    side = crop.get("height") or crop.get("shortest_edge") or config.get("vision_config", {}).get("image_size", 336)
    patch = processor.get("patch_size") or config.get("vision_config", {}).get("patch_size", 14)
    tokens = (side // patch) ** 2 + processor.get("num_additional_image_tokens", 0)
    return Fixed(tokens=tokens - (processor.get("vision_feature_select_strategy") == "default"))
