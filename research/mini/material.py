"""The material that the steps of ``on_cpu`` share, and how it is made.

Texts distilled, photographs dreamed, every picture seen.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mis_lib.construct.drawings import is_distinct
from mis_lib.models.load import has_bfloat16_products
from mis_lib.models.mini.assemble import assemble
from mis_lib.models.mini.photo_classifier import photo_classes
from mis_lib.models.mini.tower import read_weights
from research.mini import distil, features
from research.mini.align import Codebook, codebook
from research.mini.assets import ALL_STYLES, load_cutouts, load_drawings
from research.mini.base import HELD_OUT_CUTOUTS, load_dreams, save_dreams, text_model
from research.mini.batches import Encoder
from research.mini.curriculum import NAMING, SHARES, Curriculum
from research.mini.dream import dream
from research.mini.loop import TowerBank, strip_squeeze_excite
from research.mini.pictures import Picture, PictureBank
from research.mini.tuning import Midway

VIEWS = 3  # augmented views of each picture beside the plain one
SCENES = 4  # views of each drawing as MIS-Mini shows it
BLANK = "blank picture"  # what a picture without anything is called
BLANK_SHARE = 0.04  # of pictures, beside drawings
DREAM_STEPS, DREAM_RATE, DREAM_BATCH = 40, 0.1, 32


class Drawings:
    """What seeing is tuned and scored on.

    The assembled model, the names of the things that are drawn, and features of pictures of them.

    Args:
        model: assembled, with the published tower.
        drawn: names; a picture's number is its thing's place among them.
        bank: features, midway where the tower's end is tuned.
    """

    def __init__(self, model: Any, drawn: list[str], bank: features.FeatureBank) -> None:
        self.model, self.drawn, self.bank = model, drawn, bank

    def drawings_in(self, style: str) -> list[tuple[Picture, str]]:
        """Every thing in a drawing style, with its name, as far as the style tells it."""
        return [
            (Picture("drawn", number, style), name)
            for number, name in enumerate(self.drawn)
            if is_distinct(name, style)
        ]


class Material(Drawings):
    """What every step needs: the assembled model, the names, and which pictures show what."""

    def __init__(self, assets: Path, work: Path, shares: Sequence[float] = SHARES) -> None:
        self.work = work
        self.tower_file = next(assets.glob("*.pth"))
        model, processor = assemble(next(assets.glob("*.gguf")), self.tower_file)
        model.requires_grad_(False)
        if not has_bfloat16_products():
            model.float()  # ten times as fast there
        self.encoder, self.processor, self.shares = Encoder(processor), processor, shares
        names = json.loads((work / "names.json").read_text(encoding="utf-8"))
        super().__init__(model, names["drawn"], features.load(work / "features.pt", "cpu", self.tower_file))
        shuffled = random.Random(2).sample(range(len(names["cutouts"])), len(names["cutouts"]))
        cutouts = [("cutout", index, names["cutouts"][index]) for index in shuffled]
        self.held_out, kept = cutouts[:HELD_OUT_CUTOUTS], cutouts[HELD_OUT_CUTOUTS:]
        self.photos = kept + [("dream", index, name) for index, name in enumerate(names["dreams"])]
        self.photos += [("prototype", index, name) for index, name in enumerate(photo_classes())]
        known = {*self.drawn, *(name for _, _, name in self.photos)}
        rows = json.loads((assets / "distilled.json").read_text(encoding="utf-8"))
        self.distilled = [row for row in rows if all(name in known for name in row[0])]

    def curriculum(self, seed: int) -> Curriculum:
        """The base's tasks over these pictures."""
        return Curriculum(self.drawn, self.photos, self.distilled, seed, self.shares)

    def drawings(self, blanks: int, seed: int) -> Curriculum:
        """Naming alone, of drawings and now and then one of ``blanks`` blank pictures."""
        blank = [("blank", number, BLANK) for number in range(blanks)]
        return Curriculum(self.drawn, blank, [], seed, NAMING, photo_share=BLANK_SHARE)

    def cutouts(self) -> list[tuple[Picture, str]]:
        """Cut-out photographs to train on, and their names."""
        return [(Picture(kind, number), name) for kind, number, name in self.photos if kind == "cutout"]

    def codebook(self) -> Codebook:
        """Where the language model reads each name from."""
        others = [name for _, _, name in self.photos + self.held_out]
        return codebook(self.model, self.processor.tokenizer, self.drawn, others)

    def plain(self) -> Any:
        """The model without fused layers, ready to answer."""
        language = self.model.model.language_model
        language.config._attn_implementation = "sdpa"
        for layer in language.layers:
            vars(layer).pop("forward", None)
        return self.model.eval()


def dream_known(assets: Path, work: Path, seed: int) -> None:
    """Dream one image of each name that is drawn, too, and write them with their names.

    Where photograph and drawing must meet.
    """
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
    """Let the language model answer in text about named things, and write ``distilled.json``."""
    model, processor = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    _, drawn = load_drawings(assets)
    names = drawn + sorted(set(photo_classes()) - set(drawn))
    asked = distil.questions(names, pairs=pairs, uses=uses, chats=chats, seed=seed)
    rows = distil.answer(text_model(model), processor.tokenizer, asked, batch=batch)
    (assets / "distilled.json").write_text(json.dumps(rows), encoding="utf-8")
    print({"distilled": len(rows)}, flush=True)


def see(assets: Path, work: Path, *, augmented: int = VIEWS, scenes: int = SCENES, midway: bool = False) -> None:
    """Compute the tower's features of all pictures and write them with the names that belong to them.

    Args:
        assets: the raw material.
        work: where ``features.pt`` and ``names.json`` go.
        augmented: views of each picture beside the plain one.
        scenes: views of each drawing as MIS-Mini shows it.
        midway: features (784, 40) where the tower's two ends begin, 63 kB a view, instead of its last ones (9, 1280).
    """
    drawings, drawn = load_drawings(assets)
    cutouts, cutout_names = load_cutouts(assets)
    dreams = load_dreams(work)
    model, _ = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    pictures = PictureBank(drawings, list(ALL_STYLES), cutouts, dreams, "cpu")
    tower = model.model.vision_tower
    bank = TowerBank(pictures, Midway(tower) if midway else tower)
    views, table = features.see(bank, features.all_pictures(pictures), augmented, drawn, scenes)
    features.save(work / "features.pt", views, table)
    dream_names = json.loads((work / "dream_names.json").read_text(encoding="utf-8")) if len(dreams) else []
    names = {"drawn": drawn, "cutouts": cutout_names, "dreams": dream_names}
    (work / "names.json").write_text(json.dumps(names), encoding="utf-8")
