"""Adapters that ``mis train`` made become one that is shipped.

Factors in bfloat16, half the size, and a settings file without PEFT's many defaults.

    mis build --train ship runs/mini-mirage/v1/adapter runs/mini-mirage-further/v1/adapter mirage

Layers that an adapter changes little can be left out (``--without o_proj down_proj``), for they cost time at every
token; trained on from there, the rest makes up for them. Of several adapters, each trained on from the one before, the
mean is shipped: it keeps what the first one still knew and the last one has forgotten (weights of before and after
fine-tuning averaged, Wortsman et al. 2022, arXiv 2109.01903).

What lies beside a trained adapter goes with it: the checkpoint that it belongs to, and its image limits. Of a mean both
are those of the last adapter, which was trained on from the others, though perhaps on a later checkpoint than they
were.
"""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mis_lib.errors import AdapterWarning, ModelError, SettingsError
from mis_lib.models.adapters import BASE_FILE, WEIGHTS, Base, read_base, shared_limits, write_base_record, write_limits
from mis_lib.models.load import CONFIG
from mis_lib.models.mini.assemble import ADAPTERS
from mis_lib.train.lora import pattern_of

DOWN, UP = "lora_A", "lora_B"
KEPT = (
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias", "target_modules",
    "inference_mode",
)  # fmt: skip


def ship(adapters: Sequence[Path], folder: Path, without: Collection[str] = ()) -> Path:
    """Write the adapter, or the mean of several, into ``folder``; the model card there is for people to keep.

    Args:
        adapters: PEFT folders of low-rank factors, all of one base, rank, scale and targets.
        folder: made if it is not there.
        without: last names of layers whose factors are left out.

    Raises:
        SettingsError: the adapters are not alike, or have no layer called so.
        ModelError: what lies beside one, about its checkpoint or its image limits, cannot be read.
    """
    kept = [_settings(adapter) for adapter in adapters]
    for adapter, settings in zip(adapters, kept, strict=True):
        if settings != kept[0]:
            name = next(name for name in KEPT if settings[name] != kept[0][name])
            raise SettingsError(
                f"{adapter}: expected {name} {kept[0][name]!r} as in {adapters[0]}, found {settings[name]!r}; only "
                f"adapters that are alike have a mean"
            )
    limits = shared_limits({str(adapter): adapter for adapter in adapters})
    base = _base(adapters)
    stored = [load_file(adapter / WEIGHTS) for adapter in adapters]
    factors = stored[0] if len(stored) == 1 else mean(stored, rank=kept[0]["r"])
    if without:
        factors = _without(factors, without)
        kept[0]["target_modules"] = pattern_of([_layer(name) for name in factors if DOWN in name])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in factors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(kept[0], indent=2) + "\n", encoding="utf-8")
    write_base_record(folder, base)
    write_limits(folder, limits)
    return folder


def _base(adapters: Sequence[Path]) -> Base | None:
    """The checkpoint of the last adapter; a warning (``AdapterWarning``) where it is unknown, or not that of all."""
    bases = [read_base(adapter) for adapter in adapters]
    if bases[-1] is None:
        warnings.warn(
            f"{adapters[-1]}: expected {BASE_FILE} beside the adapter, found none; the checkpoint of what is shipped "
            f"is unknown, and on another one of "
            "the same shapes nothing will warn. Train it again (mis train writes the file)",
            AdapterWarning,
            stacklevel=3,
        )
    elif len(set(bases)) > 1:
        told = "; ".join(
            f"{adapter}: {base.name if base else 'unknown'}" for adapter, base in zip(adapters, bases, strict=True)
        )
        warnings.warn(
            f"expected adapters of one checkpoint, found {told}; what is shipped belongs to the last one's",
            AdapterWarning,
            stacklevel=3,
        )
    return bases[-1]


def mean(adapters: Sequence[dict[str, torch.Tensor]], rank: int) -> dict[str, torch.Tensor]:
    """Factors of the mean update B A of several adapters, as near to it as ``rank`` allows.

    Args:
        adapters: by name, A of shape (rank, in) and B of shape (out, rank) of each layer.
        rank: of the result.
    """
    factors = {}
    for name in (name for name in adapters[0] if DOWN in name):
        twin = name.replace(DOWN, UP)
        down = torch.cat([adapter[name].float() for adapter in adapters])
        up = torch.cat([adapter[twin].float() / len(adapters) for adapter in adapters], dim=1)
        # The mean is up @ down exactly, of the ranks' sum; its singular values are those of the small product of both
        # triangles.
        (left, upper), (right, lower) = torch.linalg.qr(up), torch.linalg.qr(down.T)
        u, size, v = torch.linalg.svd(upper @ lower.T)
        root = size[:rank].sqrt()
        factors[name] = (root[:, None] * v[:rank]) @ right.T
        factors[twin] = left @ u[:, :rank] * root
    return factors


def _without(factors: dict[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    """The factors of all layers but those whose last names are told."""
    there = {_layer(name).rpartition(".")[2] for name in factors}
    if not there > set(names):
        raise SettingsError(
            f"--without: expected some of {', '.join(sorted(there))}, not all, found {', '.join(names)}"
        )
    return {name: value for name, value in factors.items() if _layer(name).rpartition(".")[2] not in names}


def _layer(factor: str) -> str:
    """The layer, as the model calls it, that a factor of PEFT's file belongs to."""
    return re.sub(rf"\.({DOWN}|{UP})\.weight$", "", factor.removeprefix("base_model.model."))


def _settings(adapter: Path) -> dict[str, Any]:
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    return {name: config[name] for name in KEPT}


def main() -> None:
    """Ship one adapter, or the mean of several, from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapters", type=Path, nargs="+", help="PEFT folders, such as runs/mini-mirage/v1/adapter")
    options.add_argument("name", help="of the variant, such as mirage; or a folder to write to, where it has a slash")
    options.add_argument("--without", nargs="+", default=(), metavar="LAYER", help="leave these out, such as o_proj")
    settings = options.parse_args()
    folder = Path(settings.name) if "/" in settings.name else ADAPTERS / settings.name
    warnings.showwarning = lambda message, *_: print(f"Warning: {message}", file=sys.stderr)
    try:
        print(ship(settings.adapters, folder, settings.without))
    except (SettingsError, ModelError) as error:
        options.error(str(error))


if __name__ == "__main__":
    main()
