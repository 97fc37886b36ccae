"""Quotations in a judge's reason, located in the response: the evidence for a verdict.

Judges quote in straight or curly marks, on one line, with cuts ("...") inside or at the end. A quotation counts if the
response contains its words in this order; white space and case are ignored. A single word does not count: it is
usually a name with many occurrences.
"""

import re
from typing import NamedTuple

_QUOTED = re.compile(
    r"\"(?P<straight>[^\"]+)\"|\u201c(?P<curly>[^\u201d]+)\u201d"
    # an apostrophe within a word is no mark
    r"|(?<!\w)'(?P<single>.+?)'(?!\w)|(?<!\w)\u2018(?P<turned>.+?)\u2019(?!\w)",
    re.DOTALL,
)
_CUT = re.compile(r"\[?(?:\.\.\.|\u2026)\]?")
_LEAST = 2  # words


class Citation(NamedTuple):
    """A quotation: characters ``[start, end)`` of the reason, without the marks."""

    start: int
    end: int
    places: tuple[tuple[int, int], ...]
    """Ranges of characters in the response: one, or several around cuts."""


def citations(reason: str, response: str) -> list[Citation]:
    """The quotations of a reason that the response contains, in the order of the reason."""
    found = []
    for quoted in _QUOTED.finditer(reason):
        name = quoted.lastgroup or ""
        if places := _places(quoted[name], response):
            found.append(Citation(*quoted.span(name), places))
    return found


def _places(words: str, response: str) -> tuple[tuple[int, int], ...]:
    """Ranges of the stretches between cuts, one after the other; empty unless all are found."""
    # a judge may put its own full stop inside the marks
    stretches = [stretch.rstrip(" .,;:").split() for stretch in _CUT.split(words)]
    places: list[tuple[int, int]] = []
    for stretch in (one for one in stretches if one):
        pattern = re.compile(r"\s+".join(map(re.escape, stretch)), re.IGNORECASE)
        hit = pattern.search(response, places[-1][1] if places else 0)
        if hit is None:
            return ()
        places.append(hit.span())
    return tuple(places) if sum(map(len, stretches)) >= _LEAST else ()
