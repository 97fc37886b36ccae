"""Answers that say nothing (empty, broken off, looping, blind to the images) or nothing that can be read (another language, a thought without end)."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from mis_lib.text.roles import Role, Sentence, first, quote
from mis_lib.text.sentences import is_finished

_THOUGHT_ENDS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)


def answer_in(text: str) -> str | None:
    """What follows the model's thought (``<think>``, which some prompts open for it); all of a text without one, None if the thought never ends."""
    *thoughts, answer = _THOUGHT_ENDS.split(text)
    return None if not thoughts and _THOUGHT_BEGINS.match(answer) else answer


def collapse_loops(text: str) -> tuple[str, bool]:
    """``text`` with each stretch said three times or more in a row said once, and whether that was most of the text."""
    kept = _LOOP.sub(r"\1", text)
    return kept, len(text) - len(kept) > len(text) / 2


_LOOP = re.compile(r"(?s)(\b\S.{2,150}?)(?:\s*\1){2,}")
_BROKEN_OFF = re.compile(
    r"(?:\b(?:an?|the|of|to|and|or|with|in|on|at|is|are|by|for|from|shows?|your)|[,;:-])$", re.IGNORECASE
)


def finished(parts: Sequence[Sentence], *, cut: bool) -> list[Sentence]:
    """The sentences that count: no headings, and no last one that breaks off in its middle."""
    stated = [part for part in parts if part.roles != {Role.HEADING} and re.search(r"[^\W\d_]{2}", part.text)]
    if stated and not is_finished(stated[-1].text) and (cut or _BROKEN_OFF.search(stated[-1].text.strip())):
        stated.pop()
    return stated


def says_nothing(text: str, parts: Sequence[Sentence], *, cut: bool, looped: bool) -> str:
    """Why the response counts as no answer at all; empty if it is one."""
    if not re.search(r"\w", text):
        return "empty"
    if not parts:
        return "breaks off before its first sentence ends"
    if blind := first(parts, Role.BLIND):
        return f"cannot see the images: {quote(blind)}"
    if cut and all(part.roles == {Role.DESCRIBES} for part in parts):
        return f"breaks off after describing: {quote(parts[-1])}"
    different = {part.text.strip() for part in parts if not part.has(Role.DESCRIBES)}
    if looped and len(different) < 2 and not first(parts, Role.DECLINES):
        return f"loops: {quote(parts[-1])}"
    words = re.findall(r"\w+", text.lower())
    if len(words) >= 40 and len(set(pairwise(words))) < len(words) / 4:
        return "loops: fewer than a quarter of its word pairs are new"
    return ""


def not_english(text: str) -> str:
    """Why the response is not in English, which is all that ``mis_lib.text.roles`` reads; empty if it is.

    English of few function words ("Cut corn, serve warm") stays English: another language must show in its own letters or words.
    """
    letters = "" if text.isascii() else [sign for sign in text if sign.isalpha()]
    other_script = sum(not unicodedata.name(letter, "LATIN").startswith("LATIN") for letter in letters)
    if other_script > max(1, len(letters) / 2):
        return f"not in English: {other_script} of {len(letters)} letters are not Latin"
    words = _WORD.findall(text.lower())
    english = sum(word in _ENGLISH for word in words)
    if english >= len(words) * 0.15:
        return ""
    foreign = {word for word in words if word in _FOREIGN or not word.isascii()}
    if len(foreign) < 2:
        return ""
    return f"not in English: {english} of {len(words)} words are English function words, {len(foreign)} are of another language"


_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
# Left out of both: words that English shares with its neighbours (an, in, so, no, die, was).
_ENGLISH = frozenset(
    re.findall(
        r"[\w']+",
        """the and of to is are it its that this these with for you your not can't cannot can be by or which there they their have has would could should if when then into what
        how but them i'm don't we my i""",
    )
)
_FOREIGN = frozenset(
    re.findall(
        r"[\w']+",
        """ich kann nicht das ist und der ein eine einen mit sie leider je ne pas vous est les des cette avec pour puedo lo siento el la los las que con para esta eso una es
        posso com isso desculpe uma non questo mi dispiace che il di ik niet het een kan dat met saya tidak dapat yang untuk jag inte det och att ikke nie jest bu""",
    )
)
