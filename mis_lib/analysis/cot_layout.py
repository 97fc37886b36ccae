"""How a response is laid out: its sentences, headings, labels, tags, tables and code, and which part each of them names.

``mis_lib.text.sentences`` cuts for the judge, whose verdicts hang on it, so what only the look of an answer tells is added here: a label or heading
begins a piece of its own, a row of a table is one piece, a block of code is one.
"""

import itertools
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from mis_lib.analysis.cot_cues import more_roles
from mis_lib.schema import SegmentKind
from mis_lib.text.headings import ANSWER, ITEM, PERCEPTION, REASONING, first_of, name_of, steps_think
from mis_lib.text.roles import Role, Sentence, roles_of
from mis_lib.text.sentences import spans


class Layout(StrEnum):
    """What a piece of a response is by its look."""

    PROSE = "prose"
    TAG = "tag"  # <think>, </answer>
    HEADING = "heading"  # a line of its own over what follows
    LABEL = "label"  # a name with a colon before its text
    TABLE = "table"  # a row
    CODE = "code"  # a fenced block


class Piece(NamedTuple):
    """A sentence with its layout; ``name`` is the text of its tag, heading or label in lower case, ``level`` its depth (1 is the highest)."""

    sentence: Sentence
    layout: Layout
    kind: SegmentKind | None = None
    name: str = ""
    level: int = 0
    starts_line: bool = False

    def has(self, *roles: Role) -> bool:
        """Whether the sentence has any of ``roles``."""
        return self.sentence.has(*roles)

    @property
    def indent(self) -> int:
        """White space in front of it, in characters."""
        return len(self.sentence.text) - len(self.sentence.text.lstrip(" \t"))

    @property
    def is_item(self) -> bool:
        """Whether it begins as an item of a list does."""
        return bool(ITEM.match(self.sentence.text))


_TAGS = {
    PERCEPTION: "caption perception description observation image_description images vision",
    REASONING: "think thinking thought thoughts reasoning analysis reflection rationale summary",
    ANSWER: "answer conclusion response output final final_answer",
}
_TAG_KINDS = {name: kind for kind, names in _TAGS.items() for name in names.split()}
_TAG = re.compile(r"\s*<(/?)([A-Za-z_]{2,20})>\s*")
FENCE = re.compile(r"\s*(?:```|~~~)")
"""Begins a block of code, and ends it."""
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
ROW = re.compile(r"\s*\|.*\|\s*$")
"""A row of a table."""

_TABLE_HEADS = (
    (ANSWER, re.compile(r"alternative|instead|safer|option|solution|recommend|替代|建议")),
    (REASONING, re.compile(r"\brisk|danger|hazard|why|consequence|concern|风险|危险|后果")),
    (PERCEPTION, re.compile(r"image|picture|photo|图")),
)


def pieces(text: str) -> list[Piece]:
    """Cut a response into pieces that cover it in order; empty text has none."""
    found: list[Piece] = []
    thinks = steps_think(text)
    for start, end in itertools.pairwise([*_cuts(text, thinks=thinks), len(text)]):
        piece = _piece(text, start, end, thinks=thinks)
        in_table = found and found[-1].layout is piece.layout is Layout.TABLE
        found.append(piece._replace(kind=found[-1].kind) if in_table else piece)
    return found


def orders(item: Sentence) -> bool:
    """Whether an item of a list tells what to do also without its marker, which makes a step of nearly anything."""
    return Role.INSTRUCTS in roles_of(ITEM.sub("", item.text, count=1))


def _cuts(text: str, *, thinks: bool) -> list[int]:
    """Where pieces begin: at sentences, labels and rows, not inside code or a row."""
    cuts = {start for start, _ in spans(text)}
    for start, end, content in _lines_and_code(text):
        if FENCE.match(content) or ROW.match(content):
            cuts -= set(range(start + 1, end))
            cuts |= {start, end}
        elif name := name_of(content, steps_think=thinks):
            cuts -= set(range(start + 1, end)) if name.alone else set()
            cuts |= {start, end} if name.alone else {start}
    # what is blank belongs to the piece before it, but for the indentation of a line
    ordered = sorted({cut + len(blank[0]) if (blank := _BLANK_LINES.match(text, cut)) else cut for cut in cuts})
    return [0, *(cut for cut in ordered if text[:cut].strip() and cut < len(text))] if text else []


def _lines_and_code(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and text of each line with something on it; a fenced block counts as one line, an open one reaches to the end."""
    at, fence_from = 0, -1
    for line in text.splitlines(keepends=True):
        end = at + len(line)
        if FENCE.match(line):
            if fence_from >= 0:
                yield fence_from, end, text[fence_from:end]
            fence_from = -1 if fence_from >= 0 else at
        elif fence_from < 0 and line.strip():
            yield at, end, line
        at = end
    if fence_from >= 0:
        yield fence_from, at, text[fence_from:]


def _piece(text: str, start: int, end: int, *, thinks: bool) -> Piece:
    content = text[start:end]
    starts_line = not text[:start].strip(" \t") or text[:start].rstrip(" \t").endswith("\n")
    bare = Sentence(content, start, end, frozenset())
    if tag := _TAG.fullmatch(content):
        kind = _TAG_KINDS.get(tag[2].lower())
        return Piece(bare._replace(roles=frozenset({Role.HEADING})), Layout.TAG, kind, tag[1] + tag[2].lower())
    if FENCE.match(content):
        return Piece(bare, Layout.CODE, starts_line=True)
    if ROW.match(content):
        return Piece(bare, Layout.TABLE, first_of(_TABLE_HEADS, content.lower()), starts_line=True)
    sentence = bare._replace(roles=more_roles(content, roles_of(content)))
    may_name = starts_line or Role.HEADING in sentence.roles
    name = name_of(content, steps_think=thinks) if may_name else None
    if name is None:
        return Piece(sentence, Layout.PROSE, starts_line=starts_line)
    if name.alone:
        sentence = sentence._replace(roles=frozenset({Role.HEADING}))
    return Piece(
        sentence, Layout.HEADING if name.alone else Layout.LABEL, name.kind, name.text, name.level, starts_line
    )
