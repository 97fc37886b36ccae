"""What ``on_cpu`` runs: the steps by which weights are improved on a CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mis_lib.construct.drawings import STYLES
from mis_lib.models.mini.assemble import DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE, merge_base
from mis_lib.models.mini.photo_classifier import photo_classes
from research.mini.align import Codebook, align, nearest
from research.mini.batches import Batches, loader
from research.mini.curriculum import Row
from research.mini.eye_steps import aims_at, hand_on, save_projector, tower_of, trainable
from research.mini.loop import Bank, compile_layers, tower_features, train
from research.mini.lowrank import LowRankLinear, add_low_rank, save_base
from research.mini.material import Material
from research.mini.pictures import Picture
from research.mini.reading import blank_pictures
from research.mini.score import naming
from research.mini.widen import widen

BLANKS = 64  # grey ones, and as many coloured ones
TOKENS = 2600  # a batch that two cores' caches still hold


def align_projector(material: Material, start: Path, out: Path, *, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Pull every picture to where its name is read, and write the base weights with that projector."""
    model, bank = material.model, material.bank
    merge_base(model, start)
    projector = model.model.multi_modal_projector.float().requires_grad_(True)
    cutouts: dict[str, list[Picture]] = {}
    for picture, name in material.cutouts():
        cutouts.setdefault(name, []).append(picture)
    book = material.codebook()
    result: dict[str, Any] = align(
        projector, bank, book, cutouts, classes=photo_classes(), steps=steps, lr=lr, seed=seed
    )
    save_projector(projector, start, out)
    for style in STYLES:
        result[style] = round(nearest(projector, bank, book, material.drawings_in(style)), 4)
    held_out = [(Picture(kind, number), name) for kind, number, name in material.held_out]
    result["cutouts"] = round(nearest(projector, bank, book, held_out), 4)
    return result


def widen_projector(
    material: Material, start: Path, out: Path, *, goals: Path | None, steps: int, lr: float, seed: int
) -> dict[str, Any]:
    """Pull every style and view of a thing to where its plain drawings are projected.

    Writes the base weights with that projector.

    With ``goals`` the tower may be another one than what the projector of ``start`` was trained with.
    """
    merge_base(material.model, start)
    projector = material.model.model.multi_modal_projector.float()
    before = copy.deepcopy(projector).requires_grad_(False)
    bank, aims = material.bank, aims_at(goals, before, material)
    result: dict[str, Any] = widen(trainable(projector, start), aims, bank, steps=steps, lr=lr, seed=seed)
    save_projector(projector, start, out)
    book = Codebook(material.drawn, aims.places)
    for style in STYLES:
        result[style] = [round(nearest(one, bank, book, material.drawings_in(style)), 4) for one in (before, projector)]
    return result


def train_eyes(
    material: Material, start: Path, out: Path, *, tokens: int, lr: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Go on training the projector alone with the language model in the loop, so that it is read as it is meant.

    Pictures are drawings and blank ones.
    """
    merge_base(material.model, start)
    blanks = tower_features(tower_of(material, start), blank_pictures(BLANKS, seed))
    material.bank.add([Picture("blank", number) for number in range(len(blanks))], blanks)
    hand_on(NAMES_FILE, start, out)
    projector = material.model.model.multi_modal_projector.float()
    trained = [value for value in trainable(projector, start).parameters() if value.requires_grad]
    return in_the_loop(
        material, material.bank, lambda seed: material.drawings(len(blanks), seed).row, trained, out,
        tokens=tokens, lr=lr, seconds=seconds, seed=seed, save=lambda: save_projector(projector, start, out),
    )  # fmt: skip


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
    parameters = _parameters(layers) + list(projector.parameters())
    result: dict[str, Any] = in_the_loop(
        material, material.bank, lambda seed: material.curriculum(seed).row, parameters, out,
        tokens=tokens, lr=lr, seconds=seconds, seed=seed, save=lambda: save_base(out, layers, projector),
    )  # fmt: skip
    hand_on(DRAWINGS_FILE, start, out)
    result["naming"] = naming(
        material.plain(), material.encoder, material.bank, material.drawn, material.held_out, score_items
    )
    return result


def in_the_loop(
    material: Material,
    bank: Bank,
    rows: Callable[[int], Callable[[], Row]],
    parameters: list[nn.Parameter],
    out: Path,
    *,
    tokens: int,
    lr: float,
    seconds: float,
    seed: int,
    save: Callable[[], None],
) -> dict[str, float]:
    """Train ``parameters`` with the language model in the loop until ``seconds`` are used up.

    ``bank`` gives what pictures look like, ``rows`` draws the examples of a seed.
    """
    compile_layers(material.model)
    return train(
        material.model.train(),
        bank,
        loader(Batches(rows, material.encoder, tokens, seed), 0),
        parameters,
        material.encoder.image_id,
        lr=lr,
        steps=1_000_000,
        seconds=seconds,
        log=out / "train_log.jsonl",
        save=save,
    )


def _parameters(layers: dict[str, LowRankLinear]) -> list[torch.nn.Parameter]:
    return [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)]
