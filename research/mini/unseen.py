"""Eyes scored on what nothing tuned them to.

The unseen style, and icons by hands that are kept from them (``mis_lib.construct.drawings``).

The unseen style is what is tested in the end; which eyes to take is for the icons to say.
"""

from collections.abc import Sequence

import torch
from torch import nn

from mis_lib.construct.drawings import ICONS, STYLES, icons, scene
from mis_lib.construct.elements import load_elements
from research.mini.align import Codebook, nearest
from research.mini.features import BATCH, SCENE_SEED, FeatureBank, scene_pixels
from research.mini.loop import tower_features
from research.mini.material import Drawings
from research.mini.pictures import SIZE, Picture
from research.mini.tuning import Midway

Named = list[tuple[Picture, str]]


def table_things() -> set[str]:
    """Names of the things of MIS-Mini's element table."""
    return {name for element in load_elements().elements for name in (*element.pair, *element.twin_pair)}


def scores(
    material: Drawings, book: Codebook, eyes: Sequence[nn.Module], *, limit: int | None = None
) -> dict[str, list[float]]:
    """Share of drawings nearest to their own thing's place, by what is shown, for each of ``eyes``.

    Each of them maps features midway to projections.

    Args:
        material: with a bank of features midway.
        book: where each thing lies.
        eyes: a tower's end and a projector, one after the other.
        limit: of icons, the first so many.

    Returns:
        A list as long as ``eyes`` for each style and for "icons", and for the things of MIS-Mini's table among them.
    """
    kept, bank = kept_icons(material, limit)
    shown = [(style, material.bank, material.drawings_in(style)) for style in STYLES]
    table, result = table_things(), {}
    for group, found, pictures in [*shown, (ICONS, bank, kept)]:
        for name, chosen in ((group, pictures), (f"{group}, table", [one for one in pictures if one[1] in table])):
            result[name] = [round(nearest(one, found, book, chosen), 4) for one in eyes] if chosen else []
    return result


def kept_icons(material: Drawings, limit: int | None = None) -> tuple[Named, FeatureBank]:
    """Every icon, as MIS-Mini shows it, with its name; and features midway of them all."""
    drawn = [(name, number) for name, found in icons().items() for number in range(len(found))][:limit]
    pictures = [(Picture("icon", at), name) for at, (name, _) in enumerate(drawn)]
    tower = Midway(material.model.model.vision_tower)
    parts = []
    for start in range(0, len(drawn), BATCH):
        scenes = [
            scene(name, ICONS, seed=SCENE_SEED, size=SIZE, number=number)
            for name, number in drawn[start : start + BATCH]
        ]
        parts.append(tower_features(tower, scene_pixels(scenes)).to("cpu", torch.bfloat16))
    return pictures, FeatureBank([picture for picture, _ in pictures], torch.cat(parts), material.bank.device)
