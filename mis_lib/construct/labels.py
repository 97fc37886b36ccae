"""Labels: the answer that an item is trained on, composed of written parts whose borders are known.

A safety chain of thought has the paper's three parts (section 3.2): *perception* (what both images show), *reasoning*
(what the combination could lead to, the row's ``risk``) and *answer* (a declining sentence and the row's
``safe_alternative``). A benign twin is answered with perception, the finding that nothing is wrong, and plain help.
A label knows its own segments, so a segmenter can be measured against it.

The texts that answers share are here; those of one row are in ``elements/NAME.csv``, flat refusals in
``text.refusals``. A change of a text changes the data: raise ``mis_mini.DATA_VERSION``.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mis_lib.schema import Segment, SegmentKind
from mis_lib.text.ordinals import ORDINALS
from mis_lib.text.refusals import REFUSALS

DECLINING = (
    "I can't help with this combination.",
    "For that reason I won't help with this.",
    "That is why I can't help you put these two together.",
    "I would rather not help with this one.",
    "So I'm not able to help with this request.",
    "Because of that, I have to say no to this.",
    "I don't want to help with something that could end like that.",
    "This is something I can't assist with.",
)
"""Sentences that decline, clear and polite. An item's id draws its sentence, so none is typical of a category."""
CAN_DO_HARM, DOES_NO_HARM = "can do harm", "does no harm"
"""If a scene is known, the reasoning starts with it and with one of these; all that follows depends on this word."""
EVERYDAY_ADVICE = (
    "{first}, and then {second}.",
    "First {first}; after that, {second}.",
    "{first}, take a break, and {second}.",
    "Take some time to {first}, and afterwards {second}.",
    "On one day {first}, and on the next {second}.",
)
"""What to do with the two things of an everyday pair."""

# Names without an article: stuff that is not counted, games, and plurals that do not end in s.
UNCOUNTED = frozenset(
    ["bread", "baguette bread", "butter", "salt", "soap", "fire", "rice", "curry rice", "bacon", "spaghetti",
     "garlic", "popcorn", "toilet paper", "ice", "shaved ice", "hay", "fog", "armor", "badminton", "bowling",
     "broccoli", "canned food", "chocolate", "corn", "dough", "face powder", "field hockey", "flying money",
     "fried shrimp", "guacamole", "horse racing", "ice hockey", "lacrosse", "luggage", "meat", "nail polish",
     "noodle soup", "oden", "palms up together", "people hugging", "people wrestling", "ping pong", "poo", "sushi",
     "tennis", "velvet", "wood"]
)  # fmt: skip
# Further plurals without an article.
PLURAL = frozenset(
    ["jeans", "scissors", "glasses", "goggles", "sunglasses", "binoculars", "pliers", "shorts", "pajamas"]
)
# Names that a sentence spells differently from the table.
SPOKEN = {
    "dna": "DNA",
    "locked": "a locked padlock",
    "unlocked": "an unlocked padlock",
    "locked with key": "a padlock locked with key",
    "milky way": "the Milky Way",
    "mount fuji": "Mount Fuji",
    "statue of liberty": "the Statue of Liberty",
    "kaaba": "the Kaaba",
    "Santa Claus": "Santa Claus",
    "couple holding hands": "a couple holding hands",
    "person lifting weights": "a person lifting weights",
    "nest with eggs": "a nest with eggs",
    "night with stars": "a night with stars",
    "umbrella with rain drops": "an umbrella with rain drops",
    "sign of the horns": "a sign of the horns",
    "skull and crossbones": "a skull and crossbones",
    "rhinoceros": "a rhinoceros",
    "mantis": "a mantis",
    "ear with hearing aid": "an ear with a hearing aid",
    "man with skullcap": "a man with a skullcap",
    "man with turban": "a man with a turban",
    "note with pencil": "a note with a pencil",
    "person bouncing ball": "a person bouncing a ball",
    "person feeding baby": "a person feeding a baby",
    "person getting haircut": "a person getting a haircut",
    "person getting massage": "a person getting a massage",
    "person in wheelchair": "a person in a wheelchair",
    "person rowing boat": "a person rowing a boat",
    "person taking bath": "a person taking a bath",
    "person with crown": "a person with a crown",
    "person with white cane": "a person with a white cane",
    "woman with headscarf": "a woman with a headscarf",
}
_SOUNDS_LIKE_A_VOWEL = ("hourglass", "suv", "x-ray")
_SOUNDS_LIKE_A_CONSONANT = ("uni", "uk", "one-")


class Label(NamedTuple):
    """A target text with the borders of its parts; ``"".join(segment.text for segment in segments) == text``."""

    text: str
    segments: tuple[Segment, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a sample: ``answer`` and ``segments``."""
        spans = [{"kind": part.kind.value, "start": part.start, "end": part.end} for part in self.segments]
        return {"answer": self.text, "segments": spans}


def cot_label(
    objects: Sequence[str], risk: str, safe_alternative: str, *, key: str, kinds: Sequence[str] = (), scene: str = ""
) -> Label:
    """Safety chain of thought: perception, reasoning, answer. ``key`` (id and seed) draws the declining sentence."""
    return compose(
        (SegmentKind.PERCEPTION, perceive(objects, kinds)),
        (SegmentKind.REASONING, f"{conclude(scene, CAN_DO_HARM)} {risk}" if scene else risk),
        (SegmentKind.ANSWER, f"{pick(DECLINING, key)} {safe_alternative}"),
    )


def help_label(objects: Sequence[str], answer: str, kinds: Sequence[str] = (), scene: str = "") -> Label:
    """The answer to a benign twin: perception, one sentence of reasoning if the scene is known, and plain help."""
    reasoning = [(SegmentKind.REASONING, conclude(scene, DOES_NO_HARM))] if scene else []
    return compose((SegmentKind.PERCEPTION, perceive(objects, kinds)), *reasoning, (SegmentKind.ANSWER, answer))


def refusal_label(key: str) -> Label:
    """The flat refusal that MIRage is compared with; ``key`` (id and seed) draws its wording."""
    return compose((SegmentKind.ANSWER, pick(REFUSALS, key)))


def compose(*parts: tuple[SegmentKind, str]) -> Label:
    """Join parts with single spaces; the space after a part belongs to it, so that the segments cover the text."""
    segments: list[Segment] = []
    at = 0
    for position, (kind, part) in enumerate(parts):
        piece = part if position == len(parts) - 1 else f"{part} "
        segments.append(Segment(kind=kind, text=piece, start=at, end=at + len(piece)))
        at += len(piece)
    return Label("".join(segment.text for segment in segments), tuple(segments))


def with_article(name: str) -> str:
    """The name as it is in a sentence: "a candle", "an apple", "scissors", "bread"."""
    if name in SPOKEN:
        return SPOKEN[name]
    if name in UNCOUNTED or name in PLURAL or (name.endswith("s") and not name.endswith(("ss", "us"))):
        return name
    start = name.lower()
    vowel = start[0] in "aeiou" and not start.startswith(_SOUNDS_LIKE_A_CONSONANT)
    return f"{'an' if vowel or start.startswith(_SOUNDS_LIKE_A_VOWEL) else 'a'} {name}"


def perceive(names: Sequence[str], kinds: Sequence[str] = ()) -> str:
    """The perception part of an answer: what the images show, in order, and the kinds of these things if given."""
    seen = _name_all([with_article(name) for name in names])
    return f"{seen} They show {' and '.join(kinds)}." if kinds else seen


def conclude(scene: str, verdict: str) -> str:
    """What both images amount to together, and whether that can do harm."""
    return f"Together that is {scene}, which {verdict}."


def perception_of(answer: str, names: Sequence[str]) -> str:
    """The sentences of ``perceive`` at the start of a label, kinds included; empty if it starts otherwise."""
    match = re.match(rf"{re.escape(perceive(names))}(?: They show [^.]+\.)?", answer) if names else None
    return match[0] if match else ""


def pick(choices: Sequence[str], key: str) -> str:
    """One of ``choices``, always the same for the same key on every machine."""
    return choices[draw_lot(key, len(choices))]


def draw_lot(key: str, sides: int) -> int:
    """A number below ``sides`` that follows from ``key`` alone (``hash()`` differs between processes)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % sides


def _name_all(things: Sequence[str]) -> str:
    if len(things) == 1:
        return f"The image shows {things[0]}."
    if len(things) == 2:
        return f"The first image shows {things[0]} and the second image shows {things[1]}."
    parts = [f"the {ORDINALS[index]} image shows {thing}" for index, thing in enumerate(things)]
    return f"T{'; '.join(parts)[1:]}."
