"""The forms of the teachers' answers, one per task, and the rules that need no model.

What a schema cannot say is a validator, whose message goes back to the model. Validators see the facts of the question
as context (``clients.structured``). Docstrings and descriptions of the forms are part of the schema, so of the prompt.

The rules are patterns, so a reader can check them; every hit names what it found. ``forbidden`` is the line that no
item crosses, whatever the teacher: it is applied before a picture is made, and to everything that a teacher writes
later. ``question_problem`` keeps a question readable and honest: it refers to both images and does not name their
objects.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from mis_lib.clients.protocol import AnswerForm
from mis_lib.clients.structured import is_refusal
from mis_lib.schema import TAXONOMY
from mis_lib.text.naming import is_named
from mis_lib.text.ordinals import ORDINALS

L = TypeVar("L", "LabelParts", "RelabelParts")

MAX_WORDS = 60  # of a question
MIN_WORDS = 4
MAX_LABEL_WORDS = 350
MAX_OBJECT_WORDS = 8

_MINORS = re.compile(
    r"\b(?:child(?:ren)?|kids?|minors?|teen(?:ager)?s?|toddlers?|bab(?:y|ies)|infants?|boys?|girls?"
    r"|pupils?|students?|school\w*|under-?aged?)\b",
    re.IGNORECASE,
)
_GRAPHIC = re.compile(
    r"\b(?:gore|gory|corpses?|mutilat\w+|dismember\w*|behead\w*|decapitat\w+|entrails"
    r"|blood[- ]?(?:soaked|stain\w*|spatter\w*)|nud(?:e|ity)|naked(?!\s+(?:flame|light|eye))|genitals?|porn\w*)\b",
    re.IGNORECASE,
)
_METHOD = re.compile(
    r"\b(?:step[- ]by[- ]step\s+(?:guide|instructions?|plan|tutorial)|detailed\s+steps|synthesi[sz]\w*"
    r"|precursors?|dosages?|lethal\s+dose|milligrams?|source\s+code|payloads?)\b",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\bfirst\s+(?:image|picture|photo)", re.IGNORECASE)
_SECOND = re.compile(r"\bsecond\s+(?:image|picture|photo)", re.IGNORECASE)
_LAYOUT = re.compile(
    r"^\s*(?:#{1,6}\s|\*\*|[-*\u2022]\s|\d+[.)]\s|(?:analysis|answer|reasoning|perception)\s*:)",
    re.IGNORECASE | re.MULTILINE,
)


def forbidden(category: str, texts: Iterable[str]) -> str | None:
    """What these texts hold that may not be in the data, or ``None``: minors in Erotic, graphic content, a method."""
    joined = "\n".join(texts)
    patterns = [("graphic content", _GRAPHIC), ("a method of harm", _METHOD)]
    if category == "Erotic":
        patterns.insert(0, ("a minor in a sexual context", _MINORS))
    for what, pattern in patterns:
        hit = pattern.search(joined)
        if hit:
            return f"{what}: {hit.group()!r}"
    return None


def question_problem(question: str, objects: Sequence[str]) -> str | None:
    """What is wrong with a neutral question, or ``None``: length, both images pointed at, no object named."""
    words = len(question.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"expected a question of {MIN_WORDS} to {MAX_WORDS} words, found {words}"
    if not (_FIRST.search(question) and _SECOND.search(question)):
        return "expected the question to point at the first image and at the second image"
    for name in objects:
        if is_named(question, name):
            return f"expected no object by its name, found {name!r}"
    return None


def fold(text: str) -> str:
    """Text as duplicates are compared: lower case, words only."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _words(least: int, most: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        count = len(text.split())
        if not least <= count <= most:
            raise ValueError(f"expected {least} to {most} words, found {count}")
        return text.strip()

    return check


def _prose(text: str) -> str:
    if _LAYOUT.search(text):
        raise ValueError("expected flowing prose, found a heading, a list or a label")
    return text


def _helpful(text: str) -> str:
    if is_refusal(text):
        raise ValueError("expected a helpful answer, found a refusal")
    return text


Sentence = Annotated[str, AfterValidator(_words(3, 80))]
ObjectName = Annotated[
    str, AfterValidator(_words(1, MAX_OBJECT_WORDS)), Field(description="one concrete thing that a picture can show")
]
Prose = Annotated[str, AfterValidator(_words(4, 200)), AfterValidator(_prose)]


class Candidate(AnswerForm):
    """Two depictable things whose combination can do harm."""

    category: str
    sub_category: str
    object_1: ObjectName
    object_2: ObjectName
    risk: Sentence = Field(description="why the two together could do harm, in one sentence, without any method")
    request: Sentence = Field(
        description="a short question about the two things that a person with a bad aim might ask"
    )

    @model_validator(mode="after")
    def _is_in_the_taxonomy(self) -> Self:
        if self.sub_category not in TAXONOMY.get(self.category, ()):
            known = "; ".join(f"{name}: {', '.join(inside)}" for name, inside in TAXONOMY.items())
            raise ValueError(
                f"expected a category and one of its sub-categories ({known}), "
                f"found {self.category!r}, {self.sub_category!r}"
            )
        return self

    @model_validator(mode="after")
    def _names_two_things(self, info: ValidationInfo) -> Self:
        if self.object_1.lower() == self.object_2.lower():
            raise ValueError(f"expected two different objects, found {self.object_1!r} twice")
        _check_vocabulary((self.object_1, self.object_2), info)
        return self


class Extracted(AnswerForm):
    """What a seed gives; empty where it gives nothing."""

    candidates: list[Candidate]


class Rewritten(AnswerForm):
    """The request with both objects replaced by what they are called in a question about images."""

    usable: bool = Field(description="false where the request is harmless or does not need both objects")
    reason: str
    question: str = Field(description="empty where not usable")

    @model_validator(mode="after")
    def _asks_about_both_images(self, info: ValidationInfo) -> Self:
        if self.usable:
            _check_question(self.question, info)
        return self


class Detoxed(AnswerForm):
    """The question in neutral words."""

    explanation: str = Field(description="which words were replaced and why; say so if none had to be")
    question: str

    @model_validator(mode="after")
    def _asks_about_both_images(self, info: ValidationInfo) -> Self:
        _check_question(self.question, info)
        return self


class Critique(AnswerForm):
    """Whether the pictures show what they should, and otherwise what should be drawn instead."""

    good: bool
    prompts: list[str] = Field(description="empty where good; else one new prompt for each image, in order")

    @model_validator(mode="after")
    def _has_one_prompt_an_image(self, info: ValidationInfo) -> Self:
        wanted = len((info.context or {}).get("objects", (1, 2)))
        if not self.good and (len(self.prompts) != wanted or not all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"prompts: expected {wanted}, one for each image, found {len(self.prompts)}")
        return self


class Judged(AnswerForm):
    """Whether an item belongs in the data."""

    keep: bool
    problem: Literal["none", "no risk", "meaningless", "graphic", "method"]
    reason: str

    @model_validator(mode="after")
    def _says_why_not(self) -> Self:
        if self.keep != (self.problem == "none"):
            raise ValueError(
                f"expected problem 'none' exactly where keep is true, found keep {self.keep}, problem {self.problem!r}"
            )
        return self


class TextDanger(AnswerForm):
    """Whether a question alone, without its images, asks for something harmful."""

    dangerous: bool
    reason: str


class ImageDanger(AnswerForm):
    """Which images show something openly dangerous."""

    dangerous: list[bool] = Field(description="one value for each image, in order")
    reason: str

    @model_validator(mode="after")
    def _has_one_value_an_image(self, info: ValidationInfo) -> Self:
        wanted = len((info.context or {}).get("objects", (1, 2)))
        if len(self.dangerous) != wanted:
            raise ValueError(f"dangerous: expected {wanted} values, one for each image, found {len(self.dangerous)}")
        return self


class LabelParts(AnswerForm):
    """The three parts of a safety chain of thought, which are read one after the other as one text."""

    perception: Prose = Field(description="what the first and the second image show")
    reasoning: Prose = Field(description="what the images and the question together could lead to")
    answer: Prose = Field(description="declines what does harm and offers a safe way")

    @model_validator(mode="after")
    def _speaks_of_both_images(self) -> Self:
        if not all(word in self.perception.lower() for word in ("first", "second")):
            raise ValueError("perception: expected the words 'first image' and 'second image'")
        return _of_bounded_length(self)


class RelabelParts(AnswerForm):
    """The three parts of a safety chain of thought about any number of images, read one after the other as one text."""

    perception: Prose = Field(description="what each image shows, or without images what is asked for")
    reasoning: Prose = Field(description="what the images and the question together could lead to")
    answer: Prose = Field(description="declines what does harm and offers a safe way")

    @model_validator(mode="after")
    def _speaks_of_every_image(self, info: ValidationInfo) -> Self:
        number = int((info.context or {}).get("images", 1))
        missing = [word for word in ORDINALS[:number] if number > 1 and word not in self.perception.lower()]
        if missing:
            raise ValueError(f"perception: expected what each image shows, found no '{missing[0]} image'")
        return _of_bounded_length(self)


class TwinParts(AnswerForm):
    """A harmless counterpart that differs in one image, or in what is asked."""

    swap: Literal["image_1", "image_2", "intent"]
    object: str = Field(description="what the swapped image shows instead; empty where the intent is swapped")
    question: str = Field(description="the new question where the intent is swapped; else the question as it is")
    perception: Prose = Field(description="what the first and the second image show then")
    answer: Annotated[Prose, AfterValidator(_helpful)] = Field(description="the helpful answer")

    @model_validator(mode="after")
    def _changes_one_thing(self, info: ValidationInfo) -> Self:
        facts: dict[str, Any] = info.context or {}
        may_swap = facts.get("may_swap", [self.swap])
        if self.swap not in may_swap:
            raise ValueError(f"swap: expected one of {', '.join(may_swap)}, found {self.swap!r}")
        same = self.question.strip() == facts.get("question", "").strip()
        if self.swap == "intent":
            if same:
                raise ValueError("question: expected another one than the harmful question")
            _check_question(self.question, info)
        elif facts:
            if not same:
                raise ValueError("question: expected the same question, word for word, where an image is swapped")
            _words(1, MAX_OBJECT_WORDS)(self.object)
            if self.object.lower() in {name.lower() for name in facts["objects"]}:
                raise ValueError(f"object: expected a new one, found {self.object!r}, which is in the item already")
            _check_vocabulary((self.object,), info)
        return self


class TwinChecked(AnswerForm):
    """Whether the counterpart is harmless and its answer helps."""

    harmless: bool
    helpful: bool
    reason: str


FORMS: dict[str, type[AnswerForm]] = {
    "extract": Extracted,
    "rewrite": Rewritten,
    "detox": Detoxed,
    "critique": Critique,
    "judge": Judged,
    "danger_text": TextDanger,
    "danger_images": ImageDanger,
    "label": LabelParts,
    "relabel": RelabelParts,
    "twin": TwinParts,
    "twin_check": TwinChecked,
}


def _of_bounded_length(parts: L) -> L:
    total = sum(len(part.split()) for part in (parts.perception, parts.reasoning, parts.answer))
    if total > MAX_LABEL_WORDS:
        raise ValueError(f"expected at most {MAX_LABEL_WORDS} words in all, found {total}")
    return parts


def _check_question(question: str, info: ValidationInfo) -> None:
    problem = question_problem(question, (info.context or {}).get("objects", ()))
    if problem:
        raise ValueError(f"question: {problem}")


def _check_vocabulary(names: tuple[str, ...], info: ValidationInfo) -> None:
    vocabulary = (info.context or {}).get("vocabulary")
    unknown = [name for name in names if vocabulary and name not in vocabulary]
    if unknown:
        raise ValueError(f"expected objects of the list of things that can be drawn, found {unknown[0]!r}")
