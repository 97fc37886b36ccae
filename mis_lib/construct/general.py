"""Data that is not about safety, to mix into safety training: naming and counting, and everyday pairs.

*General* items keep a model seeing and naming: one picture, two, which image shows what, and counting up to four, over
all drawable concepts. Concepts are dealt from a shuffled deck, so each comes up about equally often.

*Everyday* pairs are two harmless things that belong to no block, asked about openly. All pairs of the element table
belong to a block, and half of them are harmful. A model trained on those alone takes every pair for one of some block:
a groom and spaghetti are "traded for goods". Everyday pairs show that most pairs of things are neither. They are
labelled as benign twins are and have no twin, since no exchange of one image would make them harmful. ``everyday.csv``
has the things, each with its kind and something to do with it, ``everyday_kinds.csv`` what each kind amounts to. A
third of the things is for the test split alone, with its own questions. No pair of the element table is among them,
and no thing that could do harm together with another (fire, blades, drugs, a bathtub).
"""

import csv
import importlib.resources
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from mis_lib.construct import questions
from mis_lib.construct.drawings import TRAINED_STYLES, TRAINING_STYLES, Picture, available, drawings
from mis_lib.construct.elements import ElementTable
from mis_lib.construct.labels import EVERYDAY_ADVICE, Label, draw_lot, help_label, perceive, pick, with_article
from mis_lib.construct.pairs import TEST_VARIANTS, TRAIN_VARIANTS
from mis_lib.data.mixtures import BESIDE, EVERYDAY
from mis_lib.errors import DataError
from mis_lib.schema import Sample
from mis_lib.text.concepts import concepts
from mis_lib.text.ordinals import ORDINALS

GENERAL, GENERAL_ITEMS = "general", 1_000
EVERYDAY_TRAIN, EVERYDAY_TEST = BESIDE[EVERYDAY], EVERYDAY
EVERYDAY_ITEMS = 400  # for training
EVERYDAY_TEST_ONE_IN = 4  # one pair to test for so many to train on
NUMBERS = {2: "two", 3: "three", 4: "four"}
_TEST_THING_ONE_IN = 3  # one thing in so many is shown in the test split only
_NOT_TOGETHER = frozenset(("something to eat", "a wild animal"))  # in the element table human food makes animals ill


class Thing(NamedTuple):
    """An everyday thing: its name, its kind, and something to do with it, as an instruction."""

    name: str
    kind: str
    doing: str

    @property
    def is_for_testing(self) -> bool:
        """Whether it is shown in the test split, or else in training."""
        return draw_lot(f"everyday|{self.name}", _TEST_THING_ONE_IN) == 0


def general_samples(
    seed: int, items: int = GENERAL_ITEMS, styles: Sequence[str] = TRAINING_STYLES
) -> Iterator[tuple[Sample, list[Picture]]]:
    """Yield items in ``styles`` with the pictures they need, the same ones for the same seed."""
    dice = random.Random(f"{seed}|general")
    deck = _concept_deck(dice)
    asked: set[tuple[str, str, tuple[str, ...]]] = set()
    number = 0
    while number < items:
        count = dice.choices((1, 2, 3, 4), (30, 50, 12, 8))[0]
        names = [next(deck) for _ in range(count)]
        style = dice.choice(styles)
        question, answer = _task(dice, names)
        if (question, style, tuple(names)) in asked:  # the deck has gone round and the same wording was drawn
            continue
        asked.add((question, style, tuple(names)))
        number += 1
        pictures = [_picture(name, style, number) for name in names]
        sample = Sample(
            id=f"general-{number:04d}",
            question=question,
            images=[picture.path for picture in pictures],
            split=GENERAL,
            harmful=False,
            answer=answer,
            objects=names,
            provenance={"source": "objects", "style": style, "seed": seed},
        )
        yield sample, pictures


def everyday_samples(split: str, table: ElementTable, seed: int, items: int) -> Iterator[tuple[Sample, list[Picture]]]:
    """Yield items of ``EVERYDAY_TRAIN`` or ``EVERYDAY_TEST`` with their pictures, the same ones for the same seed.

    Raises:
        DataError: more items are asked for than there are pairs.
    """
    is_test = split == EVERYDAY_TEST
    dice = random.Random(f"{seed}|{split}")
    listed, known_scenes = [thing for thing in things() if thing.is_for_testing == is_test], scenes()
    deck, left = _thing_deck(listed, dice), _everyday_pairs(listed, table)
    texts = questions.EVERYDAY_QUESTIONS if is_test else questions.OPEN_QUESTIONS
    styles = TRAINED_STYLES if is_test else TRAINING_STYLES
    variants = TEST_VARIANTS if is_test else TRAIN_VARIANTS
    if items > len(left):
        raise DataError(
            f"{split}: expected at most {len(left):,} pairs of {len(listed)} everyday things, found {items:,}"
        )
    number = 0
    while number < items:
        first, second = next(deck), next(deck)
        pair = frozenset((first.name, second.name))
        if pair not in left:
            continue
        left.remove(pair)
        number += 1
        style = styles[number % len(styles)]
        pictures = [
            Picture(thing.name, available(thing.name, style), dice.choice(variants)) for thing in (first, second)
        ]
        sample = Sample(
            id=f"{split.replace('_', '-')}-{number:03d}",
            question=dice.choice(texts),
            images=[picture.path for picture in pictures],
            split=split,
            harmful=False,
            objects=[first.name, second.name],
            provenance={"source": "objects", "style": style, "seed": seed},
            **_label(first, second, known_scenes, key=f"{seed}|{split}|{number}").fields,
        )
        yield sample, pictures


def things() -> list[Thing]:
    """All everyday things in the table's order."""
    return [Thing(**row) for row in _rows("everyday.csv")]


def scenes() -> dict[str, str]:
    """What each kind of everyday thing amounts to."""
    return {row["kind"]: row["scene"] for row in _rows("everyday_kinds.csv")}


def _picture(name: str, style: str, number: int) -> Picture:
    """An object in the style asked for; of several drawings each in its turn."""
    style = available(name, style)
    return Picture(name, style, number % drawings(name, style))


def _concept_deck(dice: random.Random) -> Iterator[str]:
    """All concepts in random order, over and over."""
    while True:
        cards = list(concepts())
        dice.shuffle(cards)
        yield from cards


def _thing_deck(listed: Sequence[Thing], dice: random.Random) -> Iterator[Thing]:
    """The things in random order, over and over."""
    cards = list(listed)
    while True:
        dice.shuffle(cards)
        yield from cards


def _task(dice: random.Random, names: list[str]) -> tuple[str, str]:
    """A question about these objects and its answer."""
    if len(names) == 1:
        return dice.choice(questions.NAME_ONE), perceive(names)
    kind = dice.random()
    if (len(names) > 2 and kind < 0.6) or kind < 0.15:
        things = [with_article(name) for name in names]
        listed = f"{', '.join(things[:-1])} and {things[-1]}"
        return dice.choice(questions.COUNT), f"There are {NUMBERS[len(names)]} images: {listed}."
    if len(names) == 2 and kind < 0.6:
        return dice.choice(questions.NAME_TWO), perceive(names)
    position = dice.randrange(len(names))
    thing, ordinal = with_article(names[position]), ORDINALS[position]
    question = dice.choice(questions.WHICH + questions.NAME_AT).format(thing=thing, ordinal=ordinal)
    return question, f"The {ordinal} image shows {thing}."


def _label(first: Thing, second: Thing, known_scenes: Mapping[str, str], *, key: str) -> Label:
    advice = pick(EVERYDAY_ADVICE, key).format(first=first.doing, second=second.doing)
    scene = f"{known_scenes[first.kind]} and {known_scenes[second.kind]}"
    kinds = (first.kind, second.kind)
    return help_label((first.name, second.name), advice[0].upper() + advice[1:], kinds=kinds, scene=scene)


def _everyday_pairs(listed: Sequence[Thing], table: ElementTable) -> set[frozenset[str]]:
    """What may be shown together, in either order: things of two kinds that no row of the table puts together."""
    known = {frozenset(pair) for element in table.elements for pair in (element.pair, element.twin_pair)}
    return {
        frozenset((a.name, b.name))
        for a, b in combinations(listed, 2)
        if a.kind != b.kind and {a.kind, b.kind} != _NOT_TOGETHER
    } - known


def _rows(name: str) -> list[dict[str, str]]:
    file = importlib.resources.files("mis_lib.construct").joinpath(name)
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
