"""What ``on_cpu`` runs: the steps by which weights are improved on a CPU, and the material that they share."""

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mis_lib.files import read_records
from mis_lib.models.device import has_bfloat16_products
from mis_lib.models.mini import PROJECTOR_FILE, UPDATE_FILE, assemble, merge_base
from mis_lib.models.tower import read_weights
from mis_lib.schema import Sample
from mis_lib.train.miniature import distil, features
from mis_lib.train.miniature.align import align, codebook, nearest
from mis_lib.train.miniature.assets import STYLES, load_cutouts, load_drawings
from mis_lib.train.miniature.base import HELD_OUT_CUTOUTS, load_dreams, photo_classes, save_dreams, text_model
from mis_lib.train.miniature.batches import IMAGE_TOKENS, Batch, Batches, Encoder, loader
from mis_lib.train.miniature.curriculum import SHARES, Curriculum, Row
from mis_lib.train.miniature.dream import dream
from mis_lib.train.miniature.loop import TowerBank, compile_layers, strip_squeeze_excite, train
from mis_lib.train.miniature.lowrank import LowRankLinear, add_low_rank, save_adapter, save_base
from mis_lib.train.miniature.pictures import Picture, PictureBank
from mis_lib.train.miniature.safety import SafetyRows
from mis_lib.train.miniature.score import naming, outcomes
from mis_lib.train.miniature.upper import store, train_upper

VIEWS = 3  # augmented views of each picture beside the plain one
KEEP = 20  # patches that a training row keeps of a picture's 49
WHOLE = 0.15  # share of the base's time at the end in which rows keep all of them
ROWS = 8000  # rows of an adapter's training set
DREAM_STEPS, DREAM_RATE, DREAM_BATCH = 40, 0.1, 32
TOKENS = 2600  # a batch that two cores' caches still hold


class Material:
    """What every step needs: the assembled model, the names, and which pictures show what."""

    def __init__(self, assets: Path, work: Path, keep: int = KEEP, shares: Sequence[float] = SHARES) -> None:
        self.model, processor = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
        self.model.requires_grad_(False)
        if not has_bfloat16_products():
            self.model.float()  # ten times as fast there
        self.encoder, self.processor, self.shares = Encoder(processor, keep), processor, shares
        names = json.loads((work / "names.json").read_text(encoding="utf-8"))
        self.drawn: list[str] = names["drawn"]
        shuffled = random.Random(2).sample(range(len(names["cutouts"])), len(names["cutouts"]))
        cutouts = [("cutout", index, names["cutouts"][index]) for index in shuffled]
        self.held_out, kept = cutouts[:HELD_OUT_CUTOUTS], cutouts[HELD_OUT_CUTOUTS:]
        self.photos = kept + [("dream", index, name) for index, name in enumerate(names["dreams"])]
        self.photos += [("prototype", index, name) for index, name in enumerate(photo_classes())]
        known = {*self.drawn, *(name for _, _, name in self.photos)}
        rows = json.loads((assets / "distilled.json").read_text(encoding="utf-8"))
        self.distilled = [row for row in rows if all(name in known for name in row[0])]
        self.bank = features.load(work / "features.pt", "cpu", next(assets.glob("*.pth")))

    def curriculum(self, seed: int) -> Curriculum:
        """The base's tasks over these pictures."""
        return Curriculum(self.drawn, self.photos, self.distilled, seed, self.shares)

    def plain(self) -> Any:
        """The model without fused layers, ready to answer about whole pictures."""
        self.encoder.keep = IMAGE_TOKENS
        language = self.model.model.language_model
        language.config._attn_implementation = "sdpa"
        for layer in language.layers:
            vars(layer).pop("forward", None)
        return self.model.eval()


def dream_known(assets: Path, work: Path, seed: int) -> None:
    """Dream one image of each name that is drawn, too, and write them with their names: where photograph and drawing must meet."""
    model, _ = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    tower = model.model.vision_tower.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    strip_squeeze_excite(tower)
    weights = read_weights(next(assets.glob("*.pth")))
    head = (weights["_fc.weight"].float(), weights["_fc.bias"].float())
    drawn = set(load_drawings(assets)[1])
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(photo_classes()):
        by_name.setdefault(name, []).append(number)
    dice = random.Random(seed)
    classes = [dice.choice(numbers) for name, numbers in by_name.items() if name in drawn]
    dice.shuffle(classes)
    images = [
        dream(tower, head, torch.tensor(classes[at : at + DREAM_BATCH]), steps=DREAM_STEPS, lr=DREAM_RATE)[0].numpy()
        for at in range(0, len(classes), DREAM_BATCH)
    ]
    save_dreams(work, np.concatenate(images))
    names = [photo_classes()[number] for number in classes]
    (work / "dream_names.json").write_text(json.dumps(names), encoding="utf-8")


def distil_answers(assets: Path, *, pairs: int, uses: int, chats: int, batch: int, seed: int) -> None:
    """Let the language model answer in text about named things, and write ``distilled.json`` beside the raw material."""
    model, processor = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    _, drawn = load_drawings(assets)
    names = drawn + sorted(set(photo_classes()) - set(drawn))
    asked = distil.questions(names, pairs=pairs, uses=uses, chats=chats, seed=seed)
    rows = distil.answer(text_model(model), processor.tokenizer, asked, batch=batch)
    (assets / "distilled.json").write_text(json.dumps(rows), encoding="utf-8")
    print({"distilled": len(rows)}, flush=True)


def see(assets: Path, work: Path) -> None:
    """Compute the tower's features of all pictures and write them with the names that belong to them."""
    drawings, drawn = load_drawings(assets)
    cutouts, cutout_names = load_cutouts(assets)
    dreams = load_dreams(work)
    model, _ = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    pictures = PictureBank(drawings, list(STYLES), cutouts, dreams, "cpu")
    views, table = features.see(TowerBank(pictures, model.model.vision_tower), features.all_pictures(pictures), VIEWS)
    features.save(work / "features.pt", views, table)
    dream_names = json.loads((work / "dream_names.json").read_text(encoding="utf-8")) if len(dreams) else []
    names = {"drawn": drawn, "cutouts": cutout_names, "dreams": dream_names}
    (work / "names.json").write_text(json.dumps(names), encoding="utf-8")


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
    batches = _ending_whole(material, tokens, seed, seconds)
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


def _ending_whole(material: Material, tokens: int, seed: int, seconds: float) -> Iterator[Batch]:
    """Batches of rows with few patches, and with all of them towards the end."""
    started = time.monotonic()

    def stream(encoder: Encoder, seed: int) -> Iterator[Batch]:
        return loader(Batches(lambda seed: material.curriculum(seed).row, encoder, tokens, seed), 0)

    few = stream(material.encoder, seed)
    while time.monotonic() - started < (1 - WHOLE) * seconds:
        yield next(few)
    yield from stream(Encoder(material.processor), seed + 1)


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
) -> dict[str, Any]:
    """Train one safety adapter in the layers above ``lower`` on stored states of a fixed set of rows.

    ``told`` is the share of mirage's safety rows without images; at 1 there are no images at all and each item comes with its twin: what follows from
    two named things is learned at half the price first, and what the things are is known to the base.
    """
    model, bank, encoder = material.model, material.bank, material.encoder
    merge_base(model, start)
    samples = read_records(data / "train.jsonl", Sample)
    draw = SafetyRows(stage, samples, material.curriculum(seed).row, material.drawn, seed, told, opened)
    only_told = stage == "mirage" and told >= 1
    rows: list[Row] = []
    while len(rows) < count:
        rows += draw.told_pair() if only_told else [draw.row()]
    layers = add_low_rank(model, rank, 2 * rank)
    if start_from is not None:
        _continue(layers, start_from)
    layers = {name: layer for name, layer in layers.items() if _depth(name) >= lower}
    compile_layers(model)
    stored = store(model, bank, encoder, rows, lower=lower, tokens=tokens, together=2 if only_told else 1)
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
