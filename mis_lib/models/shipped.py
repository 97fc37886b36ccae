"""The variants that come with the package, told without loading anything: no torch, so that the app's first page can name them."""

from collections.abc import Mapping
from pathlib import Path

from mis_lib.models.mini import ADAPTERS

BASE = "mini"
SHIPPED = ("mirage", "refusal", "textual")
WEIGHTS = "adapter_model.safetensors"


def shipped_variants() -> dict[str, Path | None]:
    """The base, and every shipped adapter whose files are there."""
    folders = {name: ADAPTERS / name for name in SHIPPED}
    return {BASE: None, **{name: folder for name, folder in folders.items() if (folder / WEIGHTS).exists()}}


def choose_variants(checkpoint: Path | None, adapters: Mapping[str, Path] | None) -> dict[str, Path | None]:
    """The shipped variants if nothing else is named; else the checkpoint itself ("base", or "mini") and these adapters."""
    if checkpoint is None and not adapters:
        return shipped_variants()
    return {BASE if checkpoint is None else "base": None, **(adapters or {})}
