"""The words of a response that a judge's reason quotes: what the verdict rests on, to be looked at where it stands.

Judges quote in their own way: in straight or curly marks, on one line, with a cut ("...") inside or at the end. A quotation counts if its words stand in the
response in this order, whatever the white space and the case; a single word does not, since it is mostly a name and stands in many places.
"""

import re
from typing import NamedTuple

_QUOTED = re.compile(
    r"\"(?P<straight>[^\"]+)\"|\u201c(?P<curly>[^\u201d]+)\u201d"
    r"|(?<!\w)'(?P<single>.+?)'(?!\w)|(?<!\w)\u2018(?P<turned>.+?)\u2019(?!\w)",  # an apostrophe within a word ends nothing
    re.DOTALL,
)
_CUT = re.compile(r"\[?(?:\.\.\.|\u2026)\]?")
_LEAST = 2  # words


class Citation(NamedTuple):
    """A quotation in a reason, characters ``[start, end)`` of it without its marks, and where its words stand in the response."""

    start: int
    end: int
    places: tuple[tuple[int, int], ...]
    """Characters of the response: one stretch, or several where the judge left words out."""


def citations(reason: str, response: str) -> list[Citation]:
    """The quotations of a reason whose words stand in the response, in the order of the reason."""
    found = []
    for quoted in _QUOTED.finditer(reason):
        name = quoted.lastgroup or ""
        if places := _places(quoted[name], response):
            found.append(Citation(*quoted.span(name), places))
    return found


def _places(words: str, response: str) -> tuple[tuple[int, int], ...]:
    """Where the stretches between cuts stand, one after the other; nothing unless all of them do."""
    stretches = [
        stretch.rstrip(" .,;:").split() for stretch in _CUT.split(words)
    ]  # a judge may put its own full stop inside
    places: list[tuple[int, int]] = []
    for stretch in (one for one in stretches if one):
        hit = re.compile(r"\s+".join(map(re.escape, stretch)), re.IGNORECASE).search(
            response, places[-1][1] if places else 0
        )
        if hit is None:
            return ()
        places.append(hit.span())
    return tuple(places) if sum(map(len, stretches)) >= _LEAST else ()
