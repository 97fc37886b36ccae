"""Twins: every scenario becomes two items, a harmful one and a benign one, that differ in one image and in nothing else.

Question, style, category and the picture of the unchanged object are the same, so whoever tells the two apart has looked at both images
*together*. Without the twin a model that refuses everything would have a perfect safety score.
"""

from typing import Any

from mis_lib.construct.drawings import ICONS, available, drawings
from mis_lib.construct.element_rows import Element
from mis_lib.construct.elements import ElementTable
from mis_lib.construct.gallery import Picture
from mis_lib.construct.labels import Label, cot_label, draw_lot, help_label
from mis_lib.construct.pairs import Ask, in_order
from mis_lib.schema import Sample, Split

TRAIN_VARIANTS = (0, 1)
TEST_VARIANTS = (2,)  # test pairs are shown in pictures that no training item shows


def twin_samples(ask: Ask, split: Split, *, seed: int, table: ElementTable) -> tuple[Sample, Sample]:
    """The harmful item and its benign twin.

    Args:
        ask: scenario, question, drawing style and order.
        split: where the items go; ids of ``real`` carry its name, because the same rows are also in easy and hard.
        seed: draws pictures and declining sentence.
        table: the element table, for kinds and provenance.
    """
    element = ask.scenario.element
    name = f"{'real-' if split is Split.REAL else ''}{ask.id}"
    twin = f"{name}-twin"
    harmful_label, benign_label = labels(element, table, key=f"{seed}|{name}", exchanged=ask.exchanged)
    common: dict[str, Any] = {
        "question": ask.question,
        "category": element.category,
        "sub_category": element.sub_category,
        "split": split.value,
    }
    provenance = {
        "source": "objects",
        "table": element.file,
        "table_sha256": table.digest,
        "block": element.block,
        "level": element.level,
        "harm_in_question": element.block in table.bound,
        "row": element.row,
        "style": ask.style,
        "seed": seed,
    }
    if ask.exchanged:
        provenance["exchanged"] = True
    if split is Split.TRAIN:
        common["explicit_question"] = ask.explicit
    harmful = Sample(
        id=name,
        harmful=True,
        twin_id=twin,
        provenance=provenance,
        **common,
        **_shown(element.pair, ask, seed),
        **_labelled(harmful_label),
    )
    if split is Split.TRAIN:
        common["explicit_question"] = None  # nobody asks with ill intent about a harmless pair
    benign = Sample(
        id=twin,
        harmful=False,
        twin_id=name,
        provenance=provenance,
        **common,
        **_shown(element.twin_pair, ask, seed),
        **_labelled(benign_label),
    )
    return harmful, benign


def labels(element: Element, table: ElementTable, *, key: str, exchanged: bool = False) -> tuple[Label, Label]:
    """What the harmful item and its twin are answered with; ``key`` draws the declining sentence, ``exchanged`` says that object 2 comes first."""
    pairs = (element.pair, element.twin_pair)
    pair, twin = (in_order(shown, exchanged) for shown in pairs)
    kinds, twin_kinds = (in_order(table.kinds_of(element.block, shown), exchanged) for shown in pairs)
    scene, twin_scene = (table.scene_of(element.block, shown) for shown in pairs)
    return (
        cot_label(pair, element.risk, element.safe_alternative, key=key, kinds=kinds, scene=scene),
        help_label(twin, element.twin_answer, twin_kinds, twin_scene),
    )


def pictures(ask: Ask, seed: int) -> list[Picture]:
    """The pictures that a scenario and its twin need."""
    return [picture for pair in ask.scenario.pairs for picture in _pictures(pair, ask, seed)]


def _pictures(pair: tuple[str, str], ask: Ask, seed: int) -> list[Picture]:
    """Both members of a twin pair draw by the same lots, so the object that stays is shown by the very same picture."""
    keys = [f"{seed}|{ask.scenario.id}|{ask.turn}|{place}" for place in range(2)]
    return [_picture(name, ask, key) for name, key in zip(pair, keys, strict=True)]


def _picture(name: str, ask: Ask, key: str) -> Picture:
    """An object in the style asked for, by a lot that follows from ``key``."""
    style = available(name, ask.style)
    variants = TRAIN_VARIANTS if ask.scenario.side == "train" else TEST_VARIANTS
    if style == ICONS:
        variants = range(drawings(name, ICONS))
    return Picture(name, style, variants[draw_lot(key, len(variants))])


def _shown(pair: tuple[str, str], ask: Ask, seed: int) -> dict[str, Any]:
    paths = [picture.path for picture in _pictures(pair, ask, seed)]
    return {"objects": in_order(pair, ask.exchanged), "images": in_order(paths, ask.exchanged)}


def _labelled(label: Label) -> dict[str, Any]:
    spans = [{"kind": part.kind.value, "start": part.start, "end": part.end} for part in label.segments]
    return {"answer": label.text, "segments": spans}
