"""Stage "base": teach the assembled model to see drawings and photographs, to describe them and to help.

    python -m research.mini.base --assets FOLDER --out FOLDER --seconds 480

Distils helpful answers, dreams photographs, trains projector and low-rank update, then measures naming in trained
styles, the unseen style, pairs and held-out cut-out photographs. Everything that another stage needs again
(``distilled.json``, ``dreams-*.npz``) is written to ``--out``.
"""

import argparse
import copy
import io
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from mis_lib.models.mini.assemble import assemble
from mis_lib.models.mini.photo_classifier import photo_classes
from mis_lib.models.mini.tower import read_weights
from research.mini import distil
from research.mini.assets import ALL_STYLES, load_cutouts, load_drawings
from research.mini.batches import Batches, Encoder, loader
from research.mini.curriculum import Curriculum
from research.mini.dream import SIZE, dream
from research.mini.loop import TowerBank, strip_squeeze_excite, train
from research.mini.lowrank import add_low_rank, save_base
from research.mini.pictures import PictureBank
from research.mini.score import naming

HELD_OUT_CUTOUTS = 40
DREAMS_PER_FILE = 1500


def dream_photographs(tower: nn.Module, tower_file: Path, *, per_class: int, steps: int, batch: int) -> np.ndarray:
    """Dream ``per_class`` images of each ImageNet class, in class order: uint8 (1000 * per_class, 3, 160, 160)."""
    device = next(tower.parameters()).device
    weights = read_weights(tower_file)
    head = (weights["_fc.weight"].float().to(device), weights["_fc.bias"].float().to(device))
    order = torch.arange(1000, device=device).repeat(per_class)
    shuffled = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0)).to(device)]
    images, sure = [], []
    for start in range(0, len(shuffled), batch):
        picture, probability = dream(tower, head, shuffled[start : start + batch], steps=steps)
        images.append(picture.cpu())
        sure.append(probability.cpu())
    sorting = torch.argsort(shuffled.cpu(), stable=True)
    print({"dreams": len(order), "sure": round(float(torch.cat(sure).mean()), 3)}, flush=True)
    return torch.cat(images)[sorting].numpy()


def save_dreams(folder: Path, dreams: np.ndarray) -> None:
    """Write dreams as JPEG bytes in files of ``DREAMS_PER_FILE``."""
    for start in range(0, len(dreams), DREAMS_PER_FILE):
        encoded = []
        for image in dreams[start : start + DREAMS_PER_FILE]:
            stream = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=80)
            encoded.append(np.frombuffer(stream.getvalue(), dtype=np.uint8))
        offsets = np.cumsum([0, *map(len, encoded)])
        np.savez(folder / f"dreams-{start // DREAMS_PER_FILE}.npz", data=np.concatenate(encoded), offsets=offsets)


def load_dreams(folder: Path) -> np.ndarray:
    """Read what ``save_dreams`` wrote; empty when there is none."""
    images = []
    for path in sorted(folder.glob("dreams-*.npz"), key=lambda path: int(path.stem.split("-")[1])):
        file: Any = np.load(path)
        data, offsets = file["data"], file["offsets"]
        for start, end in itertools.pairwise(offsets):
            images.append(np.asarray(Image.open(io.BytesIO(data[start:end].tobytes()))).transpose(2, 0, 1))
    return np.stack(images) if images else np.zeros((0, 3, SIZE, SIZE), dtype=np.uint8)


def main() -> None:
    """Run the stage from the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--assets", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seconds", type=float, default=480)
    options.add_argument("--steps", type=int, default=100_000)
    options.add_argument("--tokens", type=int, default=20_000, help="tokens a batch, padding included")
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--score_items", type=int, help="score this many items only (for a quick try)")
    options.add_argument("--rank", type=int, default=22)
    options.add_argument("--lr", type=float, default=6e-4)
    options.add_argument("--pairs", type=int, default=2000)
    options.add_argument("--uses", type=int, default=900)
    options.add_argument("--chats", type=int, default=600)
    options.add_argument("--answer_batch", type=int, default=384)
    options.add_argument("--dreams_per_class", type=int, default=3)
    options.add_argument("--dream_steps", type=int, default=110)
    options.add_argument("--seed", type=int, default=0)
    settings = options.parse_args()
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    settings.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    drawings, drawn = load_drawings(settings.assets)
    cutouts, cutout_names = load_cutouts(settings.assets)
    print({"drawings": list(drawings.shape), "seconds": round(time.monotonic() - started, 1)}, flush=True)
    gguf = next(settings.assets.glob("*.gguf"))
    model, processor = assemble(gguf, next(settings.assets.glob("*.pth")))
    model.to(device).requires_grad_(False)
    encoder = Encoder(processor)
    strip_squeeze_excite(model.model.vision_tower)

    texts = settings.out / "distilled.json"
    if texts.exists():
        distilled = json.loads(texts.read_text(encoding="utf-8"))
    else:
        names = drawn + sorted(set(photo_classes()) - set(drawn))
        asked = distil.questions(
            names, pairs=settings.pairs, uses=settings.uses, chats=settings.chats, seed=settings.seed
        )
        distilled = distil.answer(text_model(model), processor.tokenizer, asked, batch=settings.answer_batch)
        texts.write_text(json.dumps(distilled), encoding="utf-8")
    print({"distilled": len(distilled), "seconds": round(time.monotonic() - started, 1)}, flush=True)

    dreams = load_dreams(settings.out)
    if not len(dreams) and settings.dreams_per_class:
        tower = copy.deepcopy(model.model.vision_tower).float().to(memory_format=torch.channels_last)
        tower_file = next(settings.assets.glob("*.pth"))
        dreams = dream_photographs(
            tower, tower_file, per_class=settings.dreams_per_class, steps=settings.dream_steps, batch=250
        )
        save_dreams(settings.out, dreams)
    print({"dreams": len(dreams), "seconds": round(time.monotonic() - started, 1)}, flush=True)

    bank = TowerBank(PictureBank(drawings, list(ALL_STYLES), cutouts, dreams, device), model.model.vision_tower)
    per_class = len(dreams) // 1000
    photos = (
        [("dream", index, photo_classes()[index // per_class]) for index in range(len(dreams))] if per_class else []
    )
    shuffled = random.Random(2).sample(range(len(cutouts)), len(cutouts))
    held_out = [("cutout", index, cutout_names[index]) for index in shuffled[:HELD_OUT_CUTOUTS]]
    photos += [("cutout", index, cutout_names[index]) for index in shuffled[HELD_OUT_CUTOUTS:]]
    known = set(drawn) | {name for _, _, name in photos}
    rows = [row for row in distilled if all(name in known for name in row[0])]
    batches = Batches(lambda seed: Curriculum(drawn, photos, rows, seed).row, encoder, settings.tokens, settings.seed)
    layers = add_low_rank(model, settings.rank, 2 * settings.rank)
    projector = model.model.multi_modal_projector.float().requires_grad_(True)
    factors = [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)]
    result: dict[str, Any] = train(
        model,
        bank,
        loader(batches, settings.workers),
        factors + list(projector.parameters()),
        encoder.image_id,
        lr=settings.lr,
        steps=settings.steps,
        seconds=settings.seconds,
        log=settings.out / "train_log.jsonl",
        save=lambda: save_base(settings.out, layers, projector),
    )
    print(result, flush=True)
    result["naming"] = naming(model.eval(), encoder, bank, drawn, held_out, settings.score_items)
    if device == "cuda":
        result["card"] = torch.cuda.get_device_name()
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    result["settings"] = {name: str(value) for name, value in vars(settings).items()}
    (settings.out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result), flush=True)


def text_model(model: Any) -> Any:
    """The language model alone, as transformers' causal LM sharing the weights, for text-only generation."""
    from transformers import LlamaForCausalLM

    language: Any = LlamaForCausalLM(model.config.text_config)
    language.to(device=model.device, dtype=torch.bfloat16)
    language.model = model.model.language_model
    language.lm_head = model.lm_head
    language.generation_config = model.generation_config
    return language.eval()


if __name__ == "__main__":
    main()
