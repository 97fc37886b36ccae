"""Sentences of a response, as spans that cover the whole text: ``"".join(text[a:b] for a, b in spans(text)) == text``.

Rules and not a learned splitter, because a response must be cut the same way on every machine, and because what breaks plain splitting on
". " is a short list: abbreviations, decimals, initials, list markers ("1. Take ..."), headings, tags and code fences.
Line ends cut where a new line starts something (a list item, a heading, a tag, a table row) or follows a finished sentence; a line
that merely wraps does not cut.
"""

import itertools
import re
import unicodedata
from typing import NamedTuple

# ruff: noqa: RUF001 - typographic and full-width marks are what this module looks for


# The full stop of these does not end a sentence ...
_ABBREVIATION = re.compile(
    r"(?:mr|mrs|ms|dr|prof|st|sr|jr|vs|e\.g|i\.e|eg|ie|cf|approx|figs?|nos|vol|dept|corp|min|max|hrs?|sec|est|resp"
    r"|incl|excl|ca|gen"
    r"|gov|sen|rep|capt|lt|col|sgt|rev|hon|ave|blvd|rd|no|etc|inc|ltd|co|al|oz|lbs?|ft|[ap]\.m|u\.[skn])"
)
# ... but that of these does where a capital follows.
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


class Span(NamedTuple):
    """Half-open range of characters."""

    start: int
    end: int


def spans(text: str) -> list[Span]:
    """Cut ``text`` into sentences; white space belongs to the sentence before it. Empty text has none."""
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
    """The sentences themselves, stripped of the white space around them."""
    return [text[a:b].strip() for a, b in spans(text) if text[a:b].strip()]


def is_finished(sentence: str) -> bool:
    """Whether a sentence ends as sentences do: a mark, perhaps inside quotes, brackets or emphasis."""
    return bool(re.search(r"""[.!?…。！？][\s"'”’)\]*_`]*$""", sentence))


def _blocks(text: str) -> list[Span]:
    """Ranges within which no line end separates sentences."""
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
    """Where sentences end inside one block: the start of the next one."""
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
        # "George W. Bush" goes on, "rich in vitamin C. Eat" ends: an initial stands first or after a capital
        previous = text[last : stop.start() - 1].split()
        return bool(previous) and not previous[-1][0].isupper()
    return True


def _join_blank(text: str, pieces: list[Span]) -> list[Span]:
    """Give pieces without a visible character to their neighbour before (the first: after)."""
    joined: list[Span] = []
    for piece in pieces:
        if joined and (
            not text[piece.start : piece.end].strip() or not text[joined[-1].start : joined[-1].end].strip()
        ):
            joined[-1] = Span(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined


# ---------- Texts in the form in which they are compared: without case, accents of typography, punctuation and runs of white space.

_NOT_WORD = re.compile(r"[^\w]+|_")


def normalised(text: str) -> str:
    """The words of a text in lower case, NFKC, single spaces between them."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
