"""What ``on_cpu`` runs: the steps by which weights are improved on a CPU."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mis_lib.models.mini import PROJECTOR_FILE, UPDATE_FILE, merge_base
from mis_lib.train.miniature.align import align, codebook, nearest
from mis_lib.train.miniature.base import photo_classes
from mis_lib.train.miniature.batches import Batches, loader
from mis_lib.train.miniature.loop import compile_layers, train
from mis_lib.train.miniature.lowrank import LowRankLinear, add_low_rank, save_base
from mis_lib.train.miniature.material import Material
from mis_lib.train.miniature.pictures import Picture
from mis_lib.train.miniature.score import naming

TOKENS = 2600  # a batch that two cores' caches still hold


def align_projector(material: Material, start: Path, out: Path, *, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Pull every picture to where its name is read, and write the base weights with that projector."""
    model, bank = material.model, material.bank
    merge_base(model, start)
    projector = model.model.multi_modal_projector.float().requires_grad_(True)
    cutouts: dict[str, list[Picture]] = {}
    for kind, number, name in material.photos:
        if kind == "cutout":
            cutouts.setdefault(name, []).append(Picture(kind, number))
    tokenizer, others = material.processor.tokenizer, [name for _, _, name in material.photos + material.held_out]
    book = codebook(model, tokenizer, material.drawn, others)
    result: dict[str, Any] = align(
        projector, bank, book, cutouts, classes=photo_classes(), steps=steps, lr=lr, seed=seed
    )
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in projector.state_dict().items()}
    save_file(weights, out / PROJECTOR_FILE)
    shutil.copy(start / UPDATE_FILE, out / UPDATE_FILE)
    for style in ("openmoji", "twemoji", "noto"):
        pictures = [(Picture("drawn", number, style), name) for number, name in enumerate(material.drawn)]
        result[style] = round(nearest(projector, bank, book, pictures), 4)
    held_out = [(Picture(kind, number), name) for kind, number, name in material.held_out]
    result["cutouts"] = round(nearest(projector, bank, book, held_out), 4)
    return result


def train_base(
    material: Material,
    start: Path,
    out: Path,
    *,
    tokens: int,
    score_items: int | None,
    lr: float,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Go on training the projector and the low-rank update of ``start`` with the language model in the loop."""
    factors = load_file(start / UPDATE_FILE)
    rank = next(value.shape[0] for name, value in factors.items() if name.endswith(".lora_A"))
    layers = add_low_rank(material.model, rank, float(factors["scale"]) * rank)
    for name, layer in layers.items():
        layer.lora_A.data.copy_(factors[f"{name}.lora_A"])
        layer.lora_B.data.copy_(factors[f"{name}.lora_B"])
    projector = material.model.model.multi_modal_projector.float().requires_grad_(True)
    projector.load_state_dict({name: value.float() for name, value in load_file(start / PROJECTOR_FILE).items()})
    compile_layers(material.model)
    batches = loader(Batches(lambda seed: material.curriculum(seed).row, material.encoder, tokens, seed), 0)
    result: dict[str, Any] = train(
        material.model.train(),
        material.bank,
        batches,
        _parameters(layers) + list(projector.parameters()),
        material.encoder.image_id,
        lr=lr,
        steps=1_000_000,
        seconds=seconds,
        log=out / "train_log.jsonl",
        save=lambda: save_base(out, layers, projector),
    )
    result["naming"] = naming(
        material.plain(), material.encoder, material.bank, material.drawn, material.held_out, score_items
    )
    return result


def _parameters(layers: dict[str, LowRankLinear]) -> list[torch.nn.Parameter]:
    return [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)]
