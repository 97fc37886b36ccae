"""What ``on_cpu`` runs: the steps by which weights are improved on a CPU."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mis_lib.files import read_records
from mis_lib.models.mini import PROJECTOR_FILE, UPDATE_FILE, merge_base
from mis_lib.schema import Sample
from mis_lib.train.miniature.align import align, codebook, nearest
from mis_lib.train.miniature.base import photo_classes
from mis_lib.train.miniature.batches import Batches, loader
from mis_lib.train.miniature.curriculum import Row
from mis_lib.train.miniature.loop import compile_layers, train
from mis_lib.train.miniature.lowrank import LowRankLinear, add_low_rank, save_adapter, save_base
from mis_lib.train.miniature.material import Material
from mis_lib.train.miniature.pictures import Picture
from mis_lib.train.miniature.safety import SafetyRows
from mis_lib.train.miniature.score import naming, outcomes
from mis_lib.train.miniature.upper import store, train_upper

ROWS = 8000  # rows of an adapter's training set
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
    rows_seed: int,
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
    batches = loader(Batches(lambda seed: material.curriculum(seed).row, material.encoder, tokens, rows_seed), 0)
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


def train_adapter(
    material: Material,
    stage: str,
    start: Path,
    data: Path,
    out: Path,
    *,
    rank: int,
    lower: int,
    told: float,
    opened: float,
    start_from: Path | None,
    count: int,
    tokens: int,
    score_items: int | None,
    lr: float,
    seconds: float,
    seed: int,
    rows_seed: int,
) -> dict[str, Any]:
    """Train one safety adapter in the layers above ``lower`` on stored states of a fixed set of rows.

    ``told`` is the share of mirage's safety rows without images; at 1 there are no images at all and each item comes with its twin: what follows from
    two named things is learned at half the price first, and what the things are is known to the base.
    """
    model, bank, encoder = material.model, material.bank, material.encoder
    merge_base(model, start)
    samples = read_records(data / "train.jsonl", Sample)
    draw = SafetyRows(stage, samples, material.curriculum(rows_seed).row, material.drawn, rows_seed, told, opened)
    only_told = stage == "mirage" and told >= 1
    rows: list[Row] = []
    while len(rows) < count:
        rows += draw.told_pair() if only_told else [draw.row()]
    layers = add_low_rank(model, rank, 2 * rank)
    if start_from is not None:
        _continue(layers, start_from)
    layers = {name: layer for name, layer in layers.items() if _depth(name) >= lower}
    compile_layers(model)
    stored = store(model, bank, encoder, rows, lower=lower, tokens=tokens, neighbours=2 if only_told else 1)
    log = out / f"train_log-{stage}.jsonl"
    trained = train_upper(
        model.train(), stored, _parameters(layers), lower=lower, lr=lr, seconds=seconds, log=log, seed=seed
    )
    result: dict[str, Any] = {"stage": stage, **trained}
    save_adapter(out / stage, layers, rank, 2 * rank)
    for split in ("easy", "hard", "real"):
        samples = read_records(data / f"{split}.jsonl", Sample)[:score_items]
        result[split], _ = outcomes(material.plain(), encoder, bank, samples, material.drawn)
        result[f"{split}, told"], _ = outcomes(material.plain(), encoder, bank, samples, material.drawn, told=True)
    return result


def _continue(layers: dict[str, LowRankLinear], adapter: Path) -> None:
    """Fill factors from a PEFT adapter, in place; layers that it does not hold stay as they are."""
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, layer in layers.items():
        prefix = f"base_model.model.{name}"
        if f"{prefix}.lora_A.weight" in factors:
            layer.lora_A.data.copy_(factors[f"{prefix}.lora_A.weight"])
            layer.lora_B.data.copy_(factors[f"{prefix}.lora_B.weight"])


def _parameters(layers: dict[str, LowRankLinear]) -> list[torch.nn.Parameter]:
    return [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)]


def _depth(name: str) -> int:
    return int(name.split(".layers.")[1].split(".")[0])
