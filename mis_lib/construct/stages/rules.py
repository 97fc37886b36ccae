"""Rules: what can be decided without asking anyone. Patterns that a reader can check; every hit names what was hit.

``forbidden`` is the line that no item crosses, whoever the teacher is: it is drawn before a picture is made, and again over everything
that a teacher wrote later. The others keep a question readable and honest: it points at both images and does not give away what they show.
"""

import re
from collections.abc import Iterable, Sequence

from mis_lib.text.naming import is_named

MAX_WORDS = 60  # of a question
MIN_WORDS = 4

_MINORS = re.compile(
    r"\b(?:child(?:ren)?|kids?|minors?|teen(?:ager)?s?|toddlers?|bab(?:y|ies)|infants?|boys?|girls?|pupils?|students?|school\w*|under-?aged?)\b",
    re.IGNORECASE,
)
_GRAPHIC = re.compile(
    r"\b(?:gore|gory|corpses?|mutilat\w+|dismember\w*|behead\w*|decapitat\w+|entrails|blood[- ]?(?:soaked|stain\w*|spatter\w*)|nud(?:e|ity)|naked(?!\s+(?:flame|light|eye))|genitals?|porn\w*)\b",
    re.IGNORECASE,
)
_METHOD = re.compile(
    r"\b(?:step[- ]by[- ]step\s+(?:guide|instructions?|plan|tutorial)|detailed\s+steps|synthesi[sz]\w*|precursors?|dosages?|lethal\s+dose|milligrams?|source\s+code|payloads?)\b",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\bfirst\s+(?:image|picture|photo)", re.IGNORECASE)
_SECOND = re.compile(r"\bsecond\s+(?:image|picture|photo)", re.IGNORECASE)


def forbidden(category: str, texts: Iterable[str]) -> str | None:
    """Why these texts may not be in the data, or ``None``: sexual content with minors, graphic content, a method of harm."""
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
