"""What ``on_cpu`` runs: the steps by which weights are improved on a CPU."""

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mis_lib.construct.images import STYLES
from mis_lib.errors import SettingsError
from mis_lib.models.mini import DRAWINGS_FILE, NAMES_FILE, PROJECTOR_FILE, UPDATE_FILE, merge_base
from mis_lib.models.reader import photo_classes
from mis_lib.train.miniature import features
from mis_lib.train.miniature.align import Codebook, align, nearest
from mis_lib.train.miniature.batches import Batches, loader
from mis_lib.train.miniature.curriculum import Row
from mis_lib.train.miniature.loop import Bank, compile_layers, strip_squeeze_excite, tower_features, train
from mis_lib.train.miniature.lowrank import LowRankLinear, add_low_rank, save_base
from mis_lib.train.miniature.material import Material
from mis_lib.train.miniature.pictures import Picture
from mis_lib.train.miniature.reading import blank_pictures
from mis_lib.train.miniature.score import naming
from mis_lib.train.miniature.tuning import End, features_of, tune
from mis_lib.train.miniature.unseen import scores, table_things
from mis_lib.train.miniature.widen import places, views_by_style, widen

VIEWS = 6000  # views that photographs are told apart from
BLANKS = 64  # grey ones, and as many coloured ones
TURNED = 0.5  # score at which a picture is half a photograph
PART = 256  # pictures classified in one go
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
    _save_projector(projector, start, out)
    for style in STYLES:
        result[style] = round(nearest(projector, bank, book, material.drawings_in(style)), 4)
    held_out = [(Picture(kind, number), name) for kind, number, name in material.held_out]
    result["cutouts"] = round(nearest(projector, bank, book, held_out), 4)
    return result


def widen_projector(material: Material, start: Path, out: Path, *, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Pull every style and view of a thing to where its plain drawings lie, and write the base weights with that projector."""
    merge_base(material.model, start)
    projector = material.model.model.multi_modal_projector.float()
    before = copy.deepcopy(projector).requires_grad_(False)
    bank, views = material.bank, views_by_style(material.bank)
    result: dict[str, Any] = widen(projector.requires_grad_(True), before, bank, steps=steps, lr=lr, seed=seed)
    _save_projector(projector, start, out)
    book = Codebook(material.drawn, places(before, bank, views))
    for style in STYLES:
        result[style] = [round(nearest(one, bank, book, material.drawings_in(style)), 4) for one in (before, projector)]
    return result


def tune_end(
    material: Material, start: Path, out: Path, *, batch: int, often: float, steps: int, lr: float, seed: int
) -> dict[str, Any]:
    """Tune the tower's second end and the projector to drawings, from features midway; a second end that ``start`` has goes on from there.

    Things that MIS-Mini's element table has are shown ``often`` times as often as others.
    """
    merge_base(material.model, start)
    tower, bank = tower_of(material, start).float(), material.bank
    end, projector = End(tower), material.model.model.multi_modal_projector.float()
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)
    book = Codebook(material.drawn, places(before, bank, views_by_style(bank)))
    table = table_things()
    shown = [often if name in table else 1.0 for name in material.drawn]
    mean_end, mean_projector, losses = tune(
        end, trainable(projector, start), before, bank, steps=steps, lr=lr, seed=seed, batch=batch, often=shown
    )
    tuned = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in mean_end.tensors().items()}
    _save_projector(mean_projector, start, out)
    save_file(tuned, out / DRAWINGS_FILE)
    result: dict[str, Any] = dict(losses)
    eyes = (before, nn.Sequential(end, projector), nn.Sequential(mean_end, mean_projector))
    hand_on(NAMES_FILE, start, out)
    return result | scores(material, book, eyes)


def score_eyes(material: Material, folders: Sequence[Path]) -> dict[str, Any]:
    """What the eyes of each folder see of every style and of icons that none was tuned to; places are those of the first folder's eyes."""
    eyes = []
    for folder in folders:
        projector = copy.deepcopy(material.model.model.multi_modal_projector).float()
        projector.load_state_dict(load_file(folder / PROJECTOR_FILE))
        eyes.append(nn.Sequential(End(tower_of(material, folder).float()), projector))
    book = Codebook(material.drawn, places(eyes[0], material.bank, views_by_style(material.bank)))
    return {"eyes": [str(folder) for folder in folders], **scores(material, book, eyes)}


def mean_of_eyes(start: Path, others: Sequence[Path], out: Path) -> None:
    """Write the mean of several folders' tower ends and projectors, tuned on from one another or from one that went before; the rest is that of ``start``.

    Such a mean may see a style that none was tuned on a little better than any (weights of before and after averaged, Wortsman et al. 2022, arXiv 2109.01903).

    Raises:
        SettingsError: there are no others; or their names of photographs or updates of the language model differ, so that they do not come from one another.
    """
    if not others:
        raise SettingsError("mean: expected folders beside that of --start, found none; name them with --other")
    for name in (NAMES_FILE, UPDATE_FILE):
        for other in others:
            if (start / name).read_bytes() != (other / name).read_bytes():
                raise SettingsError(
                    f"{other / name}: expected that of {start}, found another; a mean takes ends that come from one another"
                )
        hand_on(name, start, out)
    for name in (DRAWINGS_FILE, PROJECTOR_FILE):
        parts = [load_file(folder / name) for folder in (start, *others)]
        mean = {key: torch.stack([part[key].float() for part in parts]).mean(0).to(torch.bfloat16) for key in parts[0]}
        save_file(mean, out / name)


def look_again(material: Material, start: Path, out: Path, *, every: int) -> dict[str, Any]:
    """Write what the end of ``start`` makes of every picture, or of each ``every``-th view, with ``names.json``, for later steps; from features midway."""
    bank = material.bank
    views = {row: view for view, rows in bank.rows.items() for row in rows}
    table = features_of(End(tower_of(material, start).float()), bank.table[::every])
    features.save(out / "features.pt", [views[row] for row in range(0, len(views), every)], table)
    hand_on("names.json", material.work, out)
    return {"views": len(table)}


def tower_of(material: Material, start: Path) -> Any:
    """A copy of the tower with the second end of ``start``, or with the published one where it has none."""
    tower = copy.deepcopy(material.model.model.vision_tower)
    strip_squeeze_excite(tower)
    if (start / DRAWINGS_FILE).exists():
        tower.load_state_dict(load_file(start / DRAWINGS_FILE), strict=False)
    return tower.to(memory_format=torch.channels_last)


def trainable(projector: Any, start: Path) -> Any:
    """The projector to train: all of it, or its first layer where names were fitted to the second, so that they stay worth what they are."""
    projector.requires_grad_(True)
    projector.linear_2.requires_grad_(not (start / NAMES_FILE).exists())
    return projector


def _save_projector(projector: torch.nn.Module, start: Path, out: Path) -> None:
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in projector.state_dict().items()}
    save_file(weights, out / PROJECTOR_FILE)
    for name in (UPDATE_FILE, DRAWINGS_FILE):
        hand_on(name, start, out)


def hand_on(name: str, start: Path, out: Path) -> None:
    """Copy what a step leaves as it is, if it is there."""
    if out.resolve() != start.resolve() and (start / name).exists():
        shutil.copy(start / name, out / name)


def train_eyes(
    material: Material, start: Path, out: Path, *, tokens: int, lr: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Go on training the projector alone with the language model in the loop, on drawings and blank pictures, so that it is read as it is meant."""
    merge_base(material.model, start)
    blanks = tower_features(tower_of(material, start), blank_pictures(BLANKS, seed))
    material.bank.add([Picture("blank", number) for number in range(len(blanks))], blanks)
    hand_on(NAMES_FILE, start, out)
    projector = material.model.model.multi_modal_projector.float()
    trained = [value for value in trainable(projector, start).parameters() if value.requires_grad]
    return in_the_loop(
        material, material.bank, lambda seed: material.drawings(len(blanks), seed).row, trained, out,
        tokens=tokens, lr=lr, seconds=seconds, seed=seed, save=lambda: _save_projector(projector, start, out),
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
    """Train ``parameters`` with the language model in the loop until ``seconds`` are used up; ``bank`` gives what pictures look like, ``rows`` draws the examples of a seed."""
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
