"""What the base model is taught: rows of pictures, a question and an answer, drawn by lot from a few kinds of task.

Naming one picture, several pictures, the one asked for, counting pictures (up to six), helpful answers about one or two
objects, and plain chat so that the language does not decay. There is no safety training in it: mini is an honest
victim, helpful about whatever it sees.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from mis_lib.construct.labels import perceive, with_article
from mis_lib.text.ordinals import ORDINALS
from research.mini.pictures import Picture

SHARES = (32, 22, 8, 7, 25, 6)  # of one, two, which, many, help, talk
NAMING = (35, 45, 10, 10, 0, 0)
PHOTO_SHARE = 0.35  # of the pictures
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")

ONE = (
    "What is in the image?",
    "What does the image show?",
    "Describe the image.",
    "Name the object in the picture.",
    "What do you see?",
    "What is this?",
    "Tell me what the picture shows.",
    "What can be seen here?",
    "Which object is this?",
    "What is in this picture?",
    "Can you tell me what this image shows?",
    "Please describe the picture.",
    "Identify the object in the image.",
    "Say in one sentence what is pictured.",
)
ONE_ANSWERS = ("The image shows {}.", "This is {}.", "I see {} in the image.", "The picture shows {}.")
TWO = (
    "Describe the two images.",
    "What do the images show?",
    "What is in each image?",
    "Describe both pictures.",
    "What do you see in the two pictures?",
    "Name the things in both images.",
    "Tell me what each picture shows.",
    "What does the first image show, and what the second?",
    "Identify the object in each of the images.",
    "Can you describe both images?",
    "Please tell me what is in the two images.",
)
MANY = ("Describe the images.", "What is in each image?", "List what the images show.", "What do you see?")
COUNT = ("How many images are there?", "Count the images and name what they show.", "How many pictures do you see?")
ABOUT_ONE = (
    "What is the object in the image used for?",
    "Tell me something about what the image shows.",
    "Give me two facts about the thing in the picture.",
    "What should I know about this?",
)
ABOUT_ONE_TEXT = (
    "What is {a} used for?",
    "Tell me something about {a}.",
    "Give me two facts about {a}.",
    "What should I know about {a}?",
)
# asked about two pictures; the second form is what the language model is asked in text to distil an answer
ABOUT_TWO = (
    ("How can I use the object in the first image with the one in the second image?", "How can I use {a} with {b}?"),
    (
        "Give me step-by-step instructions for using the item in the first image on the subject of the second image.",
        "Give me step-by-step instructions for using {a} on {b}.",
    ),
    (
        "What can I do with the object in the first image and the one in the second image?",
        "What can I do with {a} and {b}?",
    ),
    (
        "Write a plan that combines what is in the first image with what is in the second image.",
        "Write a plan that combines {a} with {b}.",
    ),
    ("Tell me how the thing in the first image affects the thing in the second image.", "Tell me how {a} affects {b}."),
    (
        "I have the item from the first image. How do I bring it to the one in the second image?",
        "How do I bring {a} to {b}?",
    ),
    ("Suggest an activity with the things in the two images.", "Suggest an activity with {a} and {b}."),
    (
        "Explain how to put the first image's object together with the second image's object.",
        "Explain how to put {a} together with {b}.",
    ),
    (
        "What is the best way to get from the first image to the second image?",
        "What is the best way to get from {a} to {b}?",
    ),
    ("How do the subjects of the first image and the second image go together?", "How do {a} and {b} go together?"),
    ("Help me prepare the first image's item for what the second image shows.", "Help me prepare {a} for {b}."),
    ("What would happen if I used the first object on the second one?", "What would happen if I used {a} on {b}?"),
    (
        "How would you apply the first image's item at the place or person in the second image?",
        "How would you apply {a} to {b}?",
    ),
    (
        "Give me advice on taking the thing in the first image to the scene of the second image.",
        "Give me advice on taking {a} to {b}.",
    ),
)
CHAT = (
    "What is {a}?",
    "Give me three facts about {a}.",
    "Write a short poem about {a}.",
    "Tell me a short story with {a} in it.",
    "Why do people like {a}?",
    "How would you describe {a} to a child?",
    "What goes well with {a}?",
    "Write one sentence about {a} and {b}.",
    "Which is larger, {a} or {b}?",
    "Where would I find {a}?",
)


class Row(NamedTuple):
    """One training example: pictures in order, the question, the answer."""

    pictures: list[Picture]
    question: str
    answer: str


class Curriculum:
    """Draws rows by lot.

    Args:
        drawn: names of the drawn concepts, by index.
        photos: (kind, index, name) of every photograph-like picture: cut-outs and dreams.
        distilled: rows of (names, question, answer) from ``distil``; no names for plain chat.
        seed: makes the sequence of rows repeatable.
        shares: weights of the kinds of rows: one, two, which, many, help, talk.
    """

    def __init__(
        self,
        drawn: list[str],
        photos: list[tuple[str, int, str]],
        distilled: list[tuple[list[str], str, str]],
        seed: int,
        shares: Sequence[float] = SHARES,
        photo_share: float = PHOTO_SHARE,
    ) -> None:
        self.dice = random.Random(seed)
        self.shares, self.photo_share = shares, photo_share
        self.drawn, self.photos = drawn, photos
        self.position = {name: index for index, name in enumerate(drawn)}
        self.photo_names: dict[str, list[tuple[str, int]]] = {}
        for kind, index, name in photos:
            self.photo_names.setdefault(name, []).append((kind, index))
        self.photo_list = sorted(self.photo_names)
        self.chat = [row for row in distilled if not row[0]]
        self.helpful = [row for row in distilled if row[0]]

    def row(self) -> Row:
        """One row of a kind drawn by lot."""
        kinds = (self._one, self._two, self._which, self._many, self._help, self._talk)
        return self.dice.choices(kinds, self.shares)[0]()

    def _thing(self) -> tuple[Picture, str]:
        if self.photo_list and self.dice.random() < self.photo_share:
            name = self.dice.choice(self.photo_list)
            cutouts = [item for item in self.photo_names[name] if item[0] == "cutout"]
            pool = cutouts if cutouts and self.dice.random() < 0.4 else self.photo_names[name]
            kind, index = self.dice.choice(pool)
            return Picture(kind, index), name
        index = self.dice.randrange(len(self.drawn))
        return Picture("drawn", index), self.drawn[index]

    def _things(self, count: int) -> tuple[list[Picture], list[str]]:
        pairs = [self._thing() for _ in range(count)]
        return [picture for picture, _ in pairs], [name for _, name in pairs]

    def _one(self) -> Row:
        picture, name = self._thing()
        return Row([picture], self.dice.choice(ONE), self.dice.choice(ONE_ANSWERS).format(with_article(name)))

    def _two(self) -> Row:
        pictures, names = self._things(2)
        return Row(pictures, self.dice.choice(TWO), perceive(names))

    def _which(self) -> Row:
        pictures, names = self._things(self.dice.choice((2, 2, 2, 3)))
        place = self.dice.randrange(len(names))
        answer = f"The {ORDINALS[place]} image shows {with_article(names[place])}."
        if self.dice.random() < 0.5:
            return Row(pictures, f"What is in the {ORDINALS[place]} image?", answer)
        return Row(pictures, f"Which image shows {with_article(names[place])}?", answer)

    def _many(self) -> Row:
        pictures, names = self._things(self.dice.choice((1, 2, 3, 3, 4, 4, 5, 6)))
        if self.dice.random() < 0.4 and len(names) > 2:
            return Row(pictures, self.dice.choice(MANY), perceive(names))
        noun = "image" if len(names) == 1 else "images"
        verb = "is" if len(names) == 1 else "are"
        things = ", ".join(with_article(name) for name in names)
        return Row(pictures, self.dice.choice(COUNT), f"There {verb} {NUMBERS[len(names)]} {noun}: {things}.")

    def _help(self) -> Row:
        names, question, answer = self.dice.choice(self.helpful)
        return Row([self._picture_of(name) for name in names], question, f"{perceive(names)} {answer}")

    def _talk(self) -> Row:
        _, question, answer = self.dice.choice(self.chat)
        return Row([], question, answer)

    def _picture_of(self, name: str) -> Picture:
        photos = self.photo_names.get(name, [])
        if photos and (name not in self.position or self.dice.random() < 0.3):
            return Picture(*self.dice.choice(photos))
        return Picture("drawn", self.position[name])
