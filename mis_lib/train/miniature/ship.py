"""An adapter that ``mis train`` made becomes one that is shipped: factors in bfloat16, half the size, and a settings file without PEFT's many defaults.

mis build --train ship runs/mini-mirage/v1/adapter mirage
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mis_lib.models.mini import ADAPTERS
from mis_lib.models.shipped import WEIGHTS

CONFIG = "adapter_config.json"
KEPT = (
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "inference_mode",
)  # fmt: skip


def ship(adapter: Path, folder: Path) -> Path:
    """Write the adapter into ``folder``; the model card there is for people to keep.

    Args:
        adapter: a PEFT folder of low-rank factors.
        folder: made if it is not there.
    """
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    factors = load_file(adapter / WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in factors.items()}, folder / WEIGHTS)
    kept = {name: config[name] for name in KEPT}
    (folder / CONFIG).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    """Ship one adapter from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapter", type=Path, help="a PEFT folder, such as runs/mini-mirage/v1/adapter")
    options.add_argument("name", help="of the variant, such as mirage")
    settings = options.parse_args()
    print(ship(settings.adapter, ADAPTERS / settings.name))


if __name__ == "__main__":
    main()
