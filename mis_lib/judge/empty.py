"""Answers that say nothing: empty, broken off, looping, or blind to the images."""

import re
from collections.abc import Sequence
from itertools import pairwise

from mis_lib.roles import Role, Sentence, first, quote
from mis_lib.sentences import is_finished


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
