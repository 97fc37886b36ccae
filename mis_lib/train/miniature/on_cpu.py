"""The stages on a CPU: the same parts as ``base`` and ``safety``, ordered so that nothing costly is done twice.

    python -m mis_lib.train.miniature.on_cpu see     --assets A --work W             tower features of every picture (5 min)
    python -m mis_lib.train.miniature.on_cpu align   --assets A --work W --start B   projector alone (4 min)
    python -m mis_lib.train.miniature.on_cpu base    --assets A --work W --start B --seconds 720
    python -m mis_lib.train.miniature.on_cpu adapter --assets A --work W --start B --stage mirage --data MIS_MINI --seconds 720

A (``assets``) is the raw material and ``distilled.json``, W what the steps hand on, B a folder of base weights to go on from. Eight minutes on an H100 see
140,000 rows, twelve on one core some 4,000: a CPU run improves weights, it does not make them.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mis_lib.files import read_records
from mis_lib.models.mini import PROJECTOR_FILE, UPDATE_FILE, assemble, merge_base
from mis_lib.schema import Sample
from mis_lib.train.miniature import features
from mis_lib.train.miniature.align import align
from mis_lib.train.miniature.assets import STYLES, load_cutouts, load_drawings
from mis_lib.train.miniature.base import HELD_OUT_CUTOUTS, load_dreams, photo_classes
from mis_lib.train.miniature.batches import Batches, Encoder, loader
from mis_lib.train.miniature.curriculum import Curriculum
from mis_lib.train.miniature.loop import TowerBank, compile_layers, train
from mis_lib.train.miniature.lowrank import LowRankLinear, add_low_rank, save_adapter, save_base
from mis_lib.train.miniature.pictures import Picture, PictureBank
from mis_lib.train.miniature.safety import SafetyRows
from mis_lib.train.miniature.score import naming, outcomes
from mis_lib.train.miniature.upper import store, train_upper

VIEWS = 1  # augmented views of each picture beside the plain one
ROWS = 4600  # rows of an adapter's training set
TOLD = 0.55  # share of mirage's safety rows without images
TOKENS = 2600  # a batch that two cores' caches still hold


class Material:
    """What every step needs: the assembled model, the names, and which pictures show what."""

    def __init__(self, assets: Path, work: Path) -> None:
        self.model, processor = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
        self.model.requires_grad_(False)
        self.encoder = Encoder(processor)
        names = json.loads((work / "names.json").read_text(encoding="utf-8"))
        self.drawn: list[str] = names["drawn"]
        shuffled = random.Random(2).sample(range(len(names["cutouts"])), len(names["cutouts"]))
        cutouts = [("cutout", index, names["cutouts"][index]) for index in shuffled]
        self.held_out, kept = cutouts[:HELD_OUT_CUTOUTS], cutouts[HELD_OUT_CUTOUTS:]
        self.photos = kept + [("dream", index, name) for index, name in enumerate(names["dreams"])]
        known = {*self.drawn, *(name for _, _, name in self.photos)}
        rows = json.loads((assets / "distilled.json").read_text(encoding="utf-8"))
        self.distilled = [row for row in rows if all(name in known for name in row[0])]
        self.bank = features.load(work / "features.pt", "cpu")

    def curriculum(self, seed: int) -> Curriculum:
        """The base's tasks over these pictures."""
        return Curriculum(self.drawn, self.photos, self.distilled, seed)

    def plain(self) -> Any:
        """The model without fused layers, ready to answer."""
        language = self.model.model.language_model
        language.config._attn_implementation = "sdpa"
        for layer in language.layers:
            vars(layer).pop("forward", None)
        return self.model.eval()


def see(assets: Path, work: Path) -> None:
    """Compute the tower's features of all pictures and write them with the names that belong to them."""
    drawings, drawn = load_drawings(assets)
    cutouts, cutout_names = load_cutouts(assets)
    dreams = load_dreams(work)
    model, _ = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    pictures = PictureBank(drawings, list(STYLES), cutouts, dreams, "cpu")
    views, table = features.see(TowerBank(pictures, model.model.vision_tower), features.all_pictures(pictures), VIEWS)
    features.save(work / "features.pt", views, table)
    per_class = max(1, len(dreams) // 1000)
    dream_names = [photo_classes()[index // per_class] for index in range(len(dreams))]
    names = {"drawn": drawn, "cutouts": cutout_names, "dreams": dream_names}
    (work / "names.json").write_text(json.dumps(names), encoding="utf-8")


def align_projector(material: Material, start: Path, out: Path, steps: int) -> dict[str, Any]:
    """Align the projector of ``start`` to every style and photograph, and write it with the old update."""
    projector = material.model.model.multi_modal_projector.float().requires_grad_(True)
    projector.load_state_dict({name: value.float() for name, value in load_file(start / PROJECTOR_FILE).items()})
    position = {name: index for index, name in enumerate(material.drawn)}
    named = [(view, view.number) for view in material.bank.rows if view.kind == "drawn" and view.style != "noto"]
    photos = [(Picture(kind, index), position[name]) for kind, index, name in material.photos if name in position]
    result = align(projector, material.bank, named + photos * 6, len(material.drawn), steps=steps)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().bfloat16() for name, value in projector.state_dict().items()}, out / PROJECTOR_FILE)
    (out / UPDATE_FILE).write_bytes((start / UPDATE_FILE).read_bytes())
    return result


def train_base(material: Material, start: Path, out: Path, *, lr: float, seconds: float, seed: int) -> dict[str, Any]:
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
    batches = Batches(lambda seed: material.curriculum(seed).row, material.encoder, TOKENS, seed)
    result: dict[str, Any] = train(
        material.model.train(),
        material.bank,
        loader(batches, 0),
        _parameters(layers) + list(projector.parameters()),
        material.encoder.image_id,
        lr=lr,
        steps=1_000_000,
        seconds=seconds,
        log=out / "train_log.jsonl",
        save=lambda: save_base(out, layers, projector),
    )
    result["naming"] = naming(material.plain(), material.encoder, material.bank, material.drawn, material.held_out)
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
    lr: float,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Train one safety adapter in the layers above ``lower`` on stored states of a fixed set of rows."""
    model, bank, encoder = material.model, material.bank, material.encoder
    merge_base(model, start)
    draw = SafetyRows(
        stage, read_records(data / "train.jsonl", Sample), material.curriculum(seed).row, material.drawn, seed, TOLD
    )
    rows = [draw.row() for _ in range(ROWS)]
    layers = {name: layer for name, layer in add_low_rank(model, rank, 2 * rank).items() if _depth(name) >= lower}
    compile_layers(model)
    stored = store(model, bank, encoder, rows, lower=lower, tokens=TOKENS)
    log = out / f"train_log-{stage}.jsonl"
    trained = train_upper(
        model.train(), stored, _parameters(layers), lower=lower, lr=lr, seconds=seconds, log=log, seed=seed
    )
    result: dict[str, Any] = {"stage": stage, **trained}
    save_adapter(out / stage, layers, rank, 2 * rank)
    for split in ("easy", "hard", "real"):
        samples = read_records(data / f"{split}.jsonl", Sample)
        result[split], _ = outcomes(material.plain(), encoder, bank, samples, material.drawn)
    return result


def _parameters(layers: dict[str, LowRankLinear]) -> list[torch.nn.Parameter]:
    return [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)]


def _depth(name: str) -> int:
    return int(name.split(".layers.")[1].split(".")[0])


def main() -> None:
    """Run one step from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("step", choices=("see", "align", "base", "adapter"))
    options.add_argument("--assets", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--start", type=Path, help="folder with projector.safetensors and update.safetensors")
    options.add_argument("--out", type=Path, help="default: the work folder")
    options.add_argument("--stage", choices=("mirage", "refusal", "textual"), default="mirage")
    options.add_argument("--data", type=Path, help="a folder of MIS-Mini")
    options.add_argument("--steps", type=int, default=2200, help="of align")
    options.add_argument("--seconds", type=float, default=720)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--lower", type=int, default=12, help="decoder layers left alone by an adapter")
    options.add_argument("--lr", type=float, default=5e-4)
    options.add_argument("--seed", type=int, default=0)
    settings = options.parse_args()
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    out = settings.out or settings.work
    out.mkdir(parents=True, exist_ok=True)
    if settings.step == "see":
        see(settings.assets, settings.work)
        return
    material = Material(settings.assets, settings.work)
    common = {"lr": settings.lr, "seconds": settings.seconds, "seed": settings.seed}
    if settings.step == "align":
        result = align_projector(material, settings.start, out, settings.steps)
    elif settings.step == "base":
        result = train_base(material, settings.start, out, **common)
    else:
        result = train_adapter(
            material,
            settings.stage,
            settings.start,
            settings.data,
            out,
            rank=settings.rank,
            lower=settings.lower,
            **common,
        )
    (out / f"result-{settings.step}-{settings.stage}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
