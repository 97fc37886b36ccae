"""What ``on_cpu`` runs for the tower's second end: tuning it to drawings, scoring it, and handing on what it sees."""

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from mis_lib.errors import SettingsError
from mis_lib.models.mini.assemble import DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE, merge_base
from research.mini import features
from research.mini.aims import Aims, aims_from, aims_of, write_goals
from research.mini.align import Codebook
from research.mini.loop import strip_squeeze_excite
from research.mini.material import Drawings, Material
from research.mini.tuning import End, features_of, tune
from research.mini.unseen import scores, table_things


def aims_at(goals: Path | None, eyes: nn.Module, material: Material) -> Aims:
    """What to aim at: what another model made of the drawings, or what these eyes make of them."""
    return aims_from(goals, material.bank) if goals else aims_of(eyes, material.bank)


def tune_end(
    material: Material,
    start: Path,
    out: Path,
    *,
    goals: Path | None,
    batch: int,
    often: float,
    steps: int,
    lr: float,
    seed: int,
) -> dict[str, Any]:
    """Tune the tower's second end and the projector to drawings, from features midway.

    A second end that ``start`` has goes on from there.

    Things that MIS-Mini's element table has are shown ``often`` times as often as others.
    """
    merge_base(material.model, start)
    tower, bank = tower_of(material, start).float(), material.bank
    end, projector = End(tower), material.model.model.multi_modal_projector.float()
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)
    aims = aims_at(goals, before, material)
    book = Codebook(material.drawn, aims.places)
    table = table_things()
    shown = [often if name in table else 1.0 for name in material.drawn]
    mean_end, mean_projector, losses = tune(
        end, trainable(projector, start), aims, bank, steps=steps, lr=lr, seed=seed, batch=batch, often=shown
    )
    save_eyes(mean_end, mean_projector, start, out)
    result: dict[str, Any] = dict(losses)
    eyes = (before, nn.Sequential(end, projector), nn.Sequential(mean_end, mean_projector))
    return result | scores(material, book, eyes)


def score_eyes(material: Material, folders: Sequence[Path], goals: Path | None = None) -> dict[str, Any]:
    """What the eyes of each folder see of every style and of icons that none was tuned to.

    Places are those of ``goals``, or of the first folder's eyes.
    """
    eyes = []
    for folder in folders:
        projector = copy.deepcopy(material.model.model.multi_modal_projector).float()
        projector.load_state_dict(load_file(folder / PROJECTOR_FILE))
        eyes.append(nn.Sequential(End(tower_of(material, folder).float()), projector))
    book = Codebook(material.drawn, aims_at(goals, eyes[0], material).places)
    return {"eyes": [str(folder) for folder in folders], **scores(material, book, eyes)}


def note_goals(checkpoint: Path, work: Path, out: Path) -> None:
    """Write ``goals.pt``: what the whole model in ``checkpoint`` projects plain drawings of the things in ``work`` to.

    Its tower may be any.
    """
    drawn = json.loads((work / "names.json").read_text(encoding="utf-8"))["drawn"]
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    print({"goals": write_goals(model, drawn, out / "goals.pt")}, flush=True)


def mean_of_eyes(start: Path, others: Sequence[Path], out: Path) -> None:
    """Write the mean of several folders' tower ends and projectors; the rest is that of ``start``.

    They were tuned on from one another or from one that went before.

    Such a mean may see a style that none was tuned on a little better than any (weights of before and after averaged,
    Wortsman et al. 2022, arXiv 2109.01903).

    Raises:
        SettingsError: there are no others; or their names of photographs, updates of the language model or tensors
            differ, so that they do not come from one another.
    """
    if not others:
        raise SettingsError("mean: expected folders beside that of --start, found none; name them with --other")
    for name in (NAMES_FILE, UPDATE_FILE):
        for other in others:
            if (start / name).read_bytes() != (other / name).read_bytes():
                raise SettingsError(
                    f"{other / name}: expected that of {start}, found another; a mean takes ends that come from one "
                    f"another"
                )
        hand_on(name, start, out)
    for name in (DRAWINGS_FILE, PROJECTOR_FILE):
        parts = [load_file(folder / name) for folder in (start, *others)]
        for other, part in zip(others, parts[1:], strict=True):
            if part.keys() != parts[0].keys():
                raise SettingsError(
                    f"{other / name}: expected the tensors of {start}, found others, such as "
                    f"{min(part.keys() ^ parts[0].keys())!r}"
                )
        mean = {key: torch.stack([part[key].float() for part in parts]).mean(0).to(torch.bfloat16) for key in parts[0]}
        save_file(mean, out / name)


def look_again(material: Material, start: Path, out: Path, *, every: int) -> dict[str, Any]:
    """Write what the end of ``start`` makes of every picture, or of each ``every``-th view, for later steps.

    ``names.json`` is written, too. The input is features midway.
    """
    bank = material.bank
    views = {row: view for view, rows in bank.rows.items() for row in rows}
    table = features_of(End(tower_of(material, start).float()), bank.table[::every])
    features.save(out / "features.pt", [views[row] for row in range(0, len(views), every)], table)
    hand_on("names.json", material.work, out)
    return {"views": len(table)}


def tower_of(material: Drawings, start: Path) -> Any:
    """A copy of the tower with the second end of ``start``, or with the published one where it has none."""
    tower = copy.deepcopy(material.model.model.vision_tower)
    strip_squeeze_excite(tower)
    if (start / DRAWINGS_FILE).exists():
        tower.load_state_dict(load_file(start / DRAWINGS_FILE), strict=False)
    return tower.to(memory_format=torch.channels_last)


def trainable(projector: Any, start: Path) -> Any:
    """The projector to train.

    All of it, or its first layer where names were fitted to the second, so that they stay worth what they are.
    """
    projector.requires_grad_(True)
    projector.linear_2.requires_grad_(not (start / NAMES_FILE).exists())
    return projector


def save_eyes(end: End, projector: nn.Module, start: Path, out: Path) -> None:
    """Write base weights with this end of the tower and this projector; the rest is that of ``start``."""
    save_projector(projector, start, out)
    tuned = {name: value.detach().cpu().to(torch.bfloat16).contiguous() for name, value in end.own().items()}
    save_file(tuned, out / DRAWINGS_FILE)
    hand_on(NAMES_FILE, start, out)


def save_projector(projector: nn.Module, start: Path, out: Path) -> None:
    """Write base weights with this projector; the rest is that of ``start``."""
    weights = {
        name: value.detach().cpu().to(torch.bfloat16).contiguous() for name, value in projector.state_dict().items()
    }
    save_file(weights, out / PROJECTOR_FILE)
    for name in (UPDATE_FILE, DRAWINGS_FILE):
        hand_on(name, start, out)


def hand_on(name: str, start: Path, out: Path) -> None:
    """Copy what a step leaves as it is, if it is there."""
    if out.resolve() != start.resolve() and (start / name).exists():
        shutil.copy(start / name, out / name)
