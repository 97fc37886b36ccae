"""The variants that come with the package, told without loading anything: no torch, so that the app's first page can name them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mis_lib.errors import SettingsError
from mis_lib.models.mini.assemble import ADAPTERS

BASE = "mini"
SHIPPED = ("mirage", "refusal", "textual", "mirage_both")
SIDE_BY_SIDE = 4
"""How many variants the app shows at once, at most."""
WEIGHTS = "adapter_model.safetensors"


def shipped_variants() -> dict[str, Path | None]:
    """The base, and every shipped adapter whose files are there."""
    folders = {name: ADAPTERS / name for name in SHIPPED}
    return {BASE: None, **{name: folder for name, folder in folders.items() if (folder / WEIGHTS).exists()}}


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
