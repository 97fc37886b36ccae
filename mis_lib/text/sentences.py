"""Sentences of a response, as spans that cover the whole text: ``"".join(text[a:b] for a, b in spans(text)) == text``.

Rules instead of a learned splitter: every machine must split a response in the same way, and few things break a split
at ". ": abbreviations, decimals, initials, list markers ("1. Take ..."), headings, tags and code fences. A line end
splits if the next line starts a block (list item, heading, tag, table row) or the line before is finished. A wrapped
line does not split.
"""

import itertools
import re
import unicodedata
from typing import NamedTuple

# ruff: noqa: RUF001 - this module searches for typographic and full-width marks

# A full stop after these does not end a sentence ...
_ABBREVIATION = re.compile(
    r"(?:mr|mrs|ms|dr|prof|st|sr|jr|vs|e\.g|i\.e|eg|ie|cf|approx|figs?|nos|vol|dept|corp|min|max|hrs?|sec|est|resp"
    r"|incl|excl|ca|gen|gov|sen|rep|capt|lt|col|sgt|rev|hon|ave|blvd|rd|no|etc|inc|ltd|co|al|oz|lbs?|ft|[ap]\.m"
    r"|u\.[skn])"
)
# ... but after these it does if a capital follows.
_ENDS_TOO = re.compile(r"(?:no|etc|inc|ltd|co|al|oz|lbs?|ft|min|hrs?|sec|max|[ap]\.m|u\.[skn])")

_STARTS_BLOCK = re.compile(
    r"""\s*(?: [-*•·–+]\s | \(?\d{1,3}[.)]\s | \(?[a-zA-Z][.)]\s | \#{1,6}\s | > | \|
        | \*\*[^*\n]{1,80}\*\*:?\s*$ | </?[A-Za-z_]{2,20}> | ``` | step\s+\d+\b )""",
    re.VERBOSE | re.IGNORECASE,
)
_ENDS_BLOCK = re.compile(
    r"""(?: [.!?…:;。！？]["'”’)\]*_`]* | ^\s*\#{1,6}\s.* | ^\s*\*\*[^*\n]{1,80}\*\*:? | > | ``` | ^\s*\|.* )\s*$""",
    re.VERBOSE,
)
_TAG = re.compile(r"</?[A-Za-z_]{2,20}>")
_STOP = re.compile(r"""[.!?…]+["'”’)\]*_`]*(?=\s)|:(?=\s+\(?1[.)]\s)|[。！？]+[」』”’]*""")
_MARKER_ONLY = re.compile(
    r"\s*(?:[-*•·–+]\s+)?(?:\*\*)?\(?(?:step\s+)?(?:\d{1,3}|[a-zA-Z])[.)]\s*(?:\*\*)?$", re.IGNORECASE
)
_WORD_BEFORE = re.compile(r"[\w.]*\w$")
_NOT_WORD = re.compile(r"[^\w]+|_")


class Span(NamedTuple):
    """Half-open range of characters."""

    start: int
    end: int


def spans(text: str) -> list[Span]:
    """Split ``text`` into sentences; white space belongs to the sentence before it. Empty text has none."""
    if not text:
        return []
    cuts = {0, len(text)}
    for block in _blocks(text):
        cuts.add(block.start)
        cuts.update(_stops(text, block))
    ordered = sorted(cuts)
    pieces = [Span(a, b) for a, b in itertools.pairwise(ordered)]
    return _join_blank(text, pieces)


def sentences(text: str) -> list[str]:
    """The sentences as text, without the white space around them."""
    return [text[a:b].strip() for a, b in spans(text) if text[a:b].strip()]


def is_finished(sentence: str) -> bool:
    """Whether a sentence ends with a final mark, also inside quotes, brackets or emphasis."""
    return bool(re.search(r"""[.!?…。！？][\s"'”’)\]*_`]*$""", sentence))


def normalised(text: str) -> str:
    """The words of a text for comparison: case-folded, NFKC, without punctuation, single spaces between them."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _blocks(text: str) -> list[Span]:
    """Ranges in which line ends do not separate sentences."""
    starts, at, before = [0], 0, ""
    for line in text.splitlines(keepends=True):
        content = line.strip()
        if at and content and (not before or _STARTS_BLOCK.match(line) or _ENDS_BLOCK.search(before)):
            starts.append(at)
        starts += [at + edge for tag in _TAG.finditer(line) for edge in tag.span()]
        at, before = at + len(line), content
    starts = sorted({start for start in starts if start < len(text)})
    return [Span(a, b) for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def _stops(text: str, block: Span) -> list[int]:
    """Starts of the sentences in a block, without the first."""
    found, last = [], block.start
    for stop in _STOP.finditer(text, block.start, block.end):
        after = stop.end() + len(text[stop.end() : block.end]) - len(text[stop.end() : block.end].lstrip())
        if after < block.end and _is_boundary(text, last, stop, after):
            found.append(after)
            last = after
    return found


def _is_boundary(text: str, last: int, stop: re.Match[str], after: int) -> bool:
    if stop[0][0] in "。！？:":
        return True
    following = text[after]
    if following.islower() or _MARKER_ONLY.match(text[last : stop.end()]):
        return False
    if stop[0] != ".":
        return True
    word = _WORD_BEFORE.search(text[last : stop.start()])
    if word is None:
        return True
    name = word[0].lower()
    if _ABBREVIATION.fullmatch(name):
        return bool(_ENDS_TOO.fullmatch(name)) and following.isupper()
    if len(name) == 1 and name.isalpha() and word[0].isupper():
        # "George W. Bush" continues, "rich in vitamin C. Eat" ends: an initial comes first or after a capital
        previous = text[last : stop.start() - 1].split()
        return bool(previous) and not previous[-1][0].isupper()
    return True


def _join_blank(text: str, pieces: list[Span]) -> list[Span]:
    """Join pieces of white space to the piece before (the first: after)."""
    joined: list[Span] = []
    for piece in pieces:
        if joined and (
            not text[piece.start : piece.end].strip() or not text[joined[-1].start : joined[-1].end].strip()
        ):
            joined[-1] = Span(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined
