"""What ``on_cpu`` runs for photographs, after everything else.

Names that the tower's classifier sees, fitted alone and then with the language model.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from mis_lib.construct.drawings import STYLES, UNSEEN_STYLE
from mis_lib.models.mini.assemble import DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE, merge_base
from mis_lib.models.mini.photo_classifier import CLASSES, classifier, photo_classes, photo_names
from research.mini.align import PROTOTYPES
from research.mini.cpu_steps import BLANKS, in_the_loop
from research.mini.curriculum import NAMING, Curriculum
from research.mini.eye_steps import hand_on
from research.mini.loop import tower_features
from research.mini.material import Material
from research.mini.pictures import Picture
from research.mini.reading import (
    NamesBank,
    NamesProjector,
    blank_pictures,
    channels,
    codes_of,
    fit_photo,
    mean_score,
    name_averages,
    read,
    train_worth,
)
from research.mini.score import say

VIEWS = 24_000  # views that photographs are told apart from, at most
TURNED = 0.5  # score at which a picture is half a photograph
PART = 256  # pictures classified in one go


def train_reader(material: Material, start: Path, out: Path, *, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Fit what naming photographs by the tower's classifier needs.

    It is written next to the weights of ``start``, which stay as they are.

    Returns:
        Losses, the share of each style and of held-out cut-outs that is taken for a photograph, and how many of those
        are named.
    """
    merge_base(material.model, start)
    bank, names = material.bank, photo_names()
    cutouts = [picture for picture, _ in material.cutouts()]
    blanks = tower_features(material.model.model.vision_tower, blank_pictures(BLANKS, seed))
    photo, photo_bias = fit_photo(bank, cutouts, blanks, drawings=VIEWS, seed=seed)
    weight, bias = classifier(material.tower_file)
    drawn = [view for view in bank.rows if view.kind == "drawn" and view.style != UNSEEN_STYLE]
    known = [row for view in [*drawn, *cutouts] for row in bank.rows[view]]
    made = [Picture("prototype", number % CLASSES) for number in range(PROTOTYPES)]
    second = material.model.model.multi_modal_projector.linear_2.float()
    codes = codes_of(material.codebook(), names)

    def classified(looks: torch.Tensor) -> torch.Tensor:
        """Logits of every place, in half the memory."""
        parts = [F.linear(part.float(), weight, bias).bfloat16() for part in looks.split(PART)]
        return torch.cat(parts)

    logits = torch.cat([classified(bank.table[known]), classified(bank.features(made, augment=True))])
    worth, losses = train_worth(second, logits, codes, steps=steps, lr=lr, seed=seed)
    result: dict[str, Any] = dict(losses)
    fitted = {"photo": photo, "photo_bias": photo_bias, "worth": worth.to(torch.bfloat16)}
    save_file(fitted, out / NAMES_FILE)
    for name in (PROJECTOR_FILE, UPDATE_FILE, DRAWINGS_FILE):
        hand_on(name, start, out)
    held_out = [Picture(kind, number) for kind, number, _ in material.held_out]
    groups = {style: [view for view in bank.rows if view.style == style] for style in STYLES}
    looks = {
        group: bank.features(views, augment=False).float() for group, views in {**groups, "cutouts": held_out}.items()
    }
    scores = {group: mean_score(look @ photo + photo_bias) for group, look in looks.items()}
    result |= {group: round(float((score > TURNED).float().mean()), 4) for group, score in scores.items()}
    seen = channels(name_averages(classified(looks["cutouts"]).float()), scores["cutouts"])
    read_as = torch.cdist(read(second, worth, seen), codes).argmin(1).tolist()
    right = [names[at] == name for at, (_, _, name) in zip(read_as, material.held_out, strict=True)]
    return {**result, "cutouts_named": round(sum(right) / len(right), 4)}


def tell_names(
    material: Material, start: Path, out: Path, *, tokens: int, lr: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Go on fitting what each name is worth with the language model in the loop, so that it says the name.

    The rest stays as ``start`` has it.

    Returns:
        What ``train`` returns, and the share of held-out cut-outs, of those whose names the classifier has, that are
        named.
    """
    merge_base(material.model, start)
    fitted, names = load_file(start / NAMES_FILE), photo_names()
    head = classifier(material.tower_file)
    photo = (fitted["photo"], fitted["photo_bias"])
    projector = NamesProjector(material.model.model.multi_modal_projector.linear_2.float(), fitted["worth"].float())
    material.model.model.multi_modal_projector = projector
    bank = NamesBank(material.bank, head, photo, seed)
    shown = [("name", number, name) for number, name in enumerate(names)]
    shown += [("prototype", number, name) for number, name in enumerate(photo_classes())]
    shown += [(picture.kind, picture.number, name) for picture, name in material.cutouts() if name in names]

    def save() -> None:
        save_file(fitted | {"worth": projector.worth.detach().to(torch.bfloat16).contiguous()}, out / NAMES_FILE)

    result: dict[str, Any] = in_the_loop(
        material, bank, lambda seed: Curriculum([], shown, [], seed, NAMING, photo_share=1).row, [projector.worth], out,
        tokens=tokens, lr=lr, seconds=seconds, seed=seed, save=save,
    )  # fmt: skip
    for name in (PROJECTOR_FILE, UPDATE_FILE, DRAWINGS_FILE):
        hand_on(name, start, out)
    asked = [(Picture(kind, number), name) for kind, number, name in material.held_out if name in names]
    questions = [([picture], "What is in the image?") for picture, _ in asked]
    answers = say(material.plain(), material.encoder, bank, questions, tokens=24)
    right = [name.lower() in answer.lower() for (_, name), answer in zip(asked, answers, strict=True)]
    print([(name, answer) for (_, name), answer in zip(asked, answers, strict=True)], flush=True)
    return {**result, "cutouts_told": round(sum(right) / len(right), 4)}
