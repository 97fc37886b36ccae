"""General data: what has nothing to do with safety, to mix into safety training so that a model goes on seeing and naming.

Naming one picture, naming two, which image shows what, and counting up to four, over all drawable concepts. Concepts are dealt from a
shuffled deck, so each comes up about equally often; wordings are drawn by lot.
"""

import random
from collections.abc import Iterator, Sequence

from mis_lib.construct.drawings import TRAINING_STYLES, available, concepts, drawings
from mis_lib.construct.gallery import Picture
from mis_lib.construct.labels import perceive, with_article
from mis_lib.ordinals import ORDINALS
from mis_lib.schema import Sample

ITEMS = 1_000
SPLIT = "general"

NAME_ONE = (
    "What is shown in the image?",
    "Please name what you see in this picture.",
    "Which thing does the picture contain?",
    "Say in one sentence what the image shows.",
)
NAME_TWO = (
    "What can be seen in the first image and in the second image?",
    "Please say what each of the two images shows.",
    "Name the content of both images, in order.",
    "Describe these two pictures in one sentence.",
)
WHICH = ("Which of the images shows {thing}?", "In which image do you find {thing}?", "Which picture shows {thing}?")
AT = ("What is shown in the {ordinal} image?", "Please name what is in the {ordinal} image.")
COUNT = (
    "How many images did I send, and what is in them?",
    "Count the pictures and say what they show.",
    "How many pictures are there? List their contents.",
)
NUMBERS = {2: "two", 3: "three", 4: "four"}


def general_samples(
    seed: int, items: int = ITEMS, styles: Sequence[str] = TRAINING_STYLES
) -> Iterator[tuple[Sample, list[Picture]]]:
    """Yield items in ``styles`` with the pictures they need, the same ones for the same seed."""
    dice = random.Random(f"{seed}|general")
    deck = _deck(dice)
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
        provenance = {"source": "objects", "style": style, "seed": seed}
        sample = Sample(
            id=f"general-{number:04d}",
            question=question,
            images=[picture.path for picture in pictures],
            split=SPLIT,
            harmful=False,
            answer=answer,
            objects=names,
            provenance=provenance,
        )
        yield sample, pictures


def _picture(name: str, style: str, number: int) -> Picture:
    """An object in the style asked for; of several drawings each in its turn."""
    style = available(name, style)
    return Picture(name, style, number % drawings(name, style))


def _deck(dice: random.Random) -> Iterator[str]:
    """All concepts in random order, over and over."""
    while True:
        cards = list(concepts())
        dice.shuffle(cards)
        yield from cards


def _task(dice: random.Random, names: list[str]) -> tuple[str, str]:
    """A question about these objects and its answer."""
    if len(names) == 1:
        return dice.choice(NAME_ONE), perceive(names)
    kind = dice.random()
    if (len(names) > 2 and kind < 0.6) or kind < 0.15:
        things = [with_article(name) for name in names]
        listed = f"{', '.join(things[:-1])} and {things[-1]}"
        return dice.choice(COUNT), f"There are {NUMBERS[len(names)]} images: {listed}."
    if len(names) == 2 and kind < 0.6:
        return dice.choice(NAME_TWO), perceive(names)
    place = dice.randrange(len(names))
    thing, ordinal = with_article(names[place]), ORDINALS[place]
    question = dice.choice(WHICH + AT).format(thing=thing, ordinal=ordinal)
    return question, f"The {ordinal} image shows {thing}."
