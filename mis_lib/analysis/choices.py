"""Exact match: which option an answer to a multiple-choice question chose, or that it cannot be read. Nothing is guessed.

The parsers of the published sets end in a random option where they find none, or take the last of several. Here an answer that names
no option, or several and no final one, is a parse failure: it counts as wrong, and how many there were is told. First match wins:

1. a final statement: "the answer is (B)", "Answer: B", "option B is correct"; of several the last
2. the whole answer, or its first line, is a letter: "B", "(b)", "B. a dog"
3. letters in brackets or standing alone ("A" and "I" as words of a sentence aside), if they are all the same
4. the text of exactly one option
"""

import re
from collections.abc import Mapping

_STATED = re.compile(
    r"(?i:answer|choice|option|choose|pick|select)(?i:\s+(?:is|would be|should be|option|choice))*\s*[:=]?\s*\**\s*"
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])(?=\s*(?:[.,;:)*\n]|$))|([B-HJ-Z])(?![\w'])|(?<=ption )([A-Z])(?![\w'])|(?<=hoice )([A-Z])(?![\w']))"
)
_FIRST = re.compile(r"\s*\**[(\[]?([A-Za-z])[)\].:]*\**(?:\s*$|[).:\]]\s)", re.MULTILINE)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_ALONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_WORDS = frozenset("AI")  # a letter that is also a word counts only in brackets


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter out of ``options`` that an answer chose, or ``None`` if it cannot be told."""
    said = text.rpartition("</think>")[2].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    found = ["".join(groups).upper() for groups in _STATED.findall(said)]
    stated = [letter for letter in found if letter in options]
    if stated:
        return stated[-1]
    first = _FIRST.match(said)
    if first and first[1].upper() in options:
        return first[1].upper()
    letters = {letter for letter in _BRACKETED.findall(said) if letter in options}
    letters |= {letter for letter in _ALONE.findall(said) if letter in options and letter not in _WORDS}
    if letters:
        return letters.pop() if len(letters) == 1 else None
    named = [letter for letter, option in options.items() if _contains(said, option)]
    return named[0] if len(named) == 1 else None


def is_right(text: str, answer: str, options: Mapping[str, str]) -> bool | None:
    """Whether an answer is right; ``None`` if no choice can be read from it. Open questions compare words or numbers."""
    if options:
        chosen = read_choice(text, options)
        return None if chosen is None else chosen == answer
    said = _plain(re.split(r"answer(?: is|:)", text.rpartition("</think>")[2], flags=re.IGNORECASE)[-1])
    return None if not said else said == _plain(answer) or _number(said) == _number(_plain(answer)) is not None


def _contains(text: str, option: str) -> bool:
    words = _plain(option)
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", _plain(text)) is not None


def _plain(text: str) -> str:
    """Lower case, no punctuation at the ends, single spaces."""
    return " ".join(text.lower().split()).strip(" .,:;!?\"'`*()[]")


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").removeprefix("$").removesuffix("%"))
    except ValueError:
        return None
