"""The offline teacher and image maker: they run anywhere, cost nothing and give the same result every time.

``OfflineTeacher`` knows the element table and nothing else. It answers each task from the row that the question is
about, found by its risk sentence, and refuses what is not in the table. Rows on the training side keep a question that
names the harm, rows on the test side get a neutral one, so all three splits come out. Its critique is real: a drawing
that hardly differs from its paper is drawn again.

``DrawnImages`` draws what ``concepts.csv`` lists, from the emoji packages. A prompt that names nothing in that list is
refused and never replaced by something similar. A prompt may be more than a name; the longest concept in it is drawn.
The seed decides style, position, tilt and tint.
"""

import functools
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from mis_lib.clients.images import encode
from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ChatReply, ImageAsk, ImageReply
from mis_lib.construct.drawings import TRAINED_STYLES, scene
from mis_lib.construct.elements import Element, ElementTable, load_elements
from mis_lib.construct.labels import DECLINING, perceive, pick, with_article
from mis_lib.construct.pairs import assign_sides
from mis_lib.construct.questions import GOOD_INTENT
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named, synonyms

SIDE = 224  # pixels
INK = 48  # a pixel is ink if a channel differs this much from the paper
FAINT = 0.06  # below this share of ink a drawing is faint
_REFERENT = (
    r"(?:the (?:item|object|thing|one|subject)(?: (?:shown|seen))?|what is|what's) (?:in|from|of) the {place} image"
    r"|(?:this|that) \({place} image\)"
)


class OfflineTeacher:
    """The element table as a teacher."""

    name = "builtin"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._tasks: Mapping[str, Callable[[ChatAsk], Mapping[str, Any]]] = {
            "extract": self._extract,
            "rewrite": self._rewrite,
            "detox": self._detox,
            "critique": self._critique,
            "judge": self._judge,
            "danger_text": self._danger_text,
            "danger_images": self._danger_images,
            "label": self._label,
            "twin": self._twin,
            "twin_check": self._twin_check,
        }

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """Answer from the table.

        Raises:
            CannotAnswer: the question is about nothing in the table (code ``unknown``).
        """
        values = self._tasks[ask.task](ask)
        try:
            return ChatReply(ask.form.model_validate(values, context=dict(ask.facts)))
        except ValidationError as error:
            raise CannotAnswer("unusable", f"{ask.task}: {error.errors()[0]['msg']}") from error

    def _extract(self, ask: ChatAsk) -> Mapping[str, Any]:
        found = [_by_risk()[line] for line in str(ask.facts["seed"]).splitlines() if line in _by_risk()]
        if not found:
            raise _unknown(ask.task)
        return {"candidates": [self._candidate(element) for element in found]}

    def _candidate(self, element: Element) -> dict[str, str]:
        return {
            "category": element.category,
            "sub_category": element.sub_category,
            "object_1": element.object_1,
            "object_2": element.object_2,
            "risk": element.risk,
            "request": _name_objects(self._explicit(element), element.pair),
        }

    def _rewrite(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        return {"usable": True, "reason": "it is harmful and needs both", "question": self._explicit(element)}

    def _detox(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        if _sides()[element.risk] == "train":
            return {"explanation": "The words stay as they are.", "question": str(ask.facts["question"])}
        question = self._choose(element, _table().questions[element.block].test)
        return {"explanation": "The aim is no longer named.", "question": question}

    def _critique(self, ask: ChatAsk) -> Mapping[str, Any]:
        faint = any(ink_share(image) < FAINT for image in ask.images)
        return {"good": not faint, "prompts": list(ask.facts["prompts"]) if faint else []}

    def _judge(self, ask: ChatAsk) -> Mapping[str, Any]:
        _row(ask)
        return {
            "keep": True,
            "problem": "none",
            "reason": "The pair is in the element table, which people have written.",
        }

    def _danger_text(self, ask: ChatAsk) -> Mapping[str, Any]:
        use = _uses().get(str(ask.facts["question"]))
        if use is None:
            raise _unknown(ask.task)
        return {"dangerous": use == "explicit", "reason": f"The question is a {use} question of the table."}

    def _danger_images(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        # in an easy row the openly dangerous thing is the one that the twin replaces
        swapped = [element.object_1 != element.twin_object_1, element.object_2 != element.twin_object_2]
        dangerous = [element.level == "easy" and differs for differs in swapped]
        return {"dangerous": dangerous, "reason": f"The row is marked {element.level}."}

    def _label(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        declining = pick(DECLINING, f"{self._seed}|{element.risk}")
        answer = f"{declining} {element.safe_alternative}"
        return {"perception": _perceive(element, element.pair), "reasoning": element.risk, "answer": answer}

    def _twin(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        if "intent" in ask.facts["may_swap"]:
            question = self._choose(element, GOOD_INTENT)
            return {
                "swap": "intent", "object": "", "question": question, "perception": _perceive(element, element.pair),
                "answer": element.safe_alternative,
            }  # fmt: skip
        position = 1 if element.object_1 != element.twin_object_1 else 2
        return {
            "swap": f"image_{position}",
            "object": element.twin_pair[position - 1],
            "question": str(ask.facts["question"]),
            "perception": _perceive(element, element.twin_pair),
            "answer": element.twin_answer,
        }

    def _twin_check(self, ask: ChatAsk) -> Mapping[str, Any]:
        element = _row(ask)
        harmless = tuple(ask.facts["objects"]) == element.twin_pair or ask.facts["question"] in GOOD_INTENT
        return {"harmless": harmless, "helpful": True, "reason": "The twin stands in the element table."}

    def _explicit(self, element: Element) -> str:
        return self._choose(element, _table().questions[element.block].explicit)

    def _choose(self, element: Element, questions: tuple[str, ...]) -> str:
        """One of a block's questions, always the same for a row, and none that names what the images show."""
        silent = [
            text for text in questions if not any(is_named(text, name) for name in (*element.pair, *element.twin_pair))
        ]
        if not silent:
            raise CannotAnswer(
                "unknown", f"{element.file}, row {element.row}: every question of its block names an object"
            )
        return pick(silent, f"{self._seed}|{element.risk}")


class DrawnImages:
    """Emoji drawings on plain paper."""

    name = "drawn"

    def __init__(self, side: int = SIDE) -> None:
        self._side = side

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Everything that can be drawn."""
        return tuple(concepts())

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Draw one picture.

        Raises:
            CannotAnswer: the prompt names nothing that can be drawn (code ``no drawing``).
        """
        name = find_concept(ask.prompt)
        if name is None:
            raise CannotAnswer("no drawing", f"there is no drawing of {ask.prompt!r}; concepts.csv lists what there is")
        style = TRAINED_STYLES[ask.seed % len(TRAINED_STYLES)]
        return ImageReply(encode(scene(name, style, seed=ask.seed, size=self._side)))


def ink_share(image: bytes) -> float:
    """Share of an image's pixels that stand out from the colour of its corner."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=np.int16)
    return float((np.abs(pixels - pixels[0, 0]).max(axis=2) > INK).mean())


@functools.cache
def find_concept(prompt: str) -> str | None:
    """The concept that a prompt is about: its name, a synonym, or else the longest concept that it names."""
    text = prompt.strip().lower()
    exact = {name.lower(): name for name in concepts()}
    listed = {word.lower(): name for name, words in synonyms().items() for word in words}
    if text in exact or text in listed:
        return exact.get(text) or listed[text]
    return max((name for name in concepts() if is_named(prompt, name)), key=len, default=None)


@functools.cache
def _table() -> ElementTable:
    return load_elements()


@functools.cache
def _by_risk() -> dict[str, Element]:
    return {element.risk: element for element in _table().elements}


@functools.cache
def _sides() -> dict[str, str]:
    return {scenario.element.risk: scenario.side for scenario in assign_sides(_table().elements)}


@functools.cache
def _uses() -> dict[str, str]:
    """What each question of the table is for."""
    return {
        text: use
        for questions in _table().questions.values()
        for use, texts in questions._asdict().items()
        for text in texts
    }


def _perceive(element: Element, pair: tuple[str, str]) -> str:
    return perceive(pair, _table().kinds_of(element.block, pair))


def _row(ask: ChatAsk) -> Element:
    """The row that a question is about."""
    element = _by_risk().get(str(ask.facts["risk"]))
    if element is None:
        raise _unknown(ask.task)
    return element


def _unknown(task: str) -> CannotAnswer:
    return CannotAnswer(
        "unknown",
        f"{task}: the built-in teacher knows only the rows of the element table; give --teacher URL or local:PATH",
    )


def _name_objects(question: str, pair: tuple[str, str]) -> str:
    """The question as it was before its objects were replaced by "the item in the first image" and so on."""
    for place_name, name in zip(("first", "second"), pair, strict=True):
        thing = with_article(name)
        for pattern in (
            _REFERENT.format(place=place_name),
            rf"the {place_name} image's \w+",
            rf"the {place_name} image",
        ):
            question = re.sub(pattern, thing, question, flags=re.IGNORECASE)
    return question[0].upper() + question[1:]
