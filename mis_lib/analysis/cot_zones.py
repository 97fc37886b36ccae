"""How far the headings, labels, tags and lead-ins of a response reach: the part that each of its pieces stands under.

A heading reaches to the next one, and the name of an item over that item; but models seldom say where a part ends, so a refusal, or a new line
that does what the part does not (an instruction below "Analysis", a risk below "Image 2"), leaves it too.
"""
# ruff: noqa: RUF001 - a full-width colon leads in as well

import re
from collections.abc import Sequence

from mis_lib.analysis.cot_layout import Layout, Piece
from mis_lib.schema import SegmentKind
from mis_lib.text.headings import ANSWER, PERCEPTION, REASONING, kind_before_answer
from mis_lib.text.roles import Role

THINKS = (Role.RISK, Role.CONSEQUENCE, Role.INFERS, Role.SUPPOSES)
_HELPS = (Role.DECLINES, Role.AGAINST, Role.TURNS, Role.OFFERS, Role.INSTRUCTS)
_LEADS_IN = re.compile(r"[:：][\s*]*$")
_REASONS = re.compile(r"\b(?:concerns?|reasons?|risks?|dangers?|hazards?|problems?|because)\b|原因|风险", re.IGNORECASE)


def zones(parts: Sequence[Piece]) -> list[SegmentKind | None]:
    """The part that the tag, heading, label or lead-in above each piece names, if any."""
    walk = _Walk(_tag_at_start(parts))
    return [walk.take(part) for part in parts]


def _tag_at_start(parts: Sequence[Piece]) -> SegmentKind | None:
    """Reasoning, if the first tag only closes a thought: the opening one stands in the prompt of some models."""
    first = next((part for part in parts if part.layout is Layout.TAG), None)
    return REASONING if first and first.name.startswith("/") and first.kind is REASONING else None


class _Walk:
    """What stands above the piece at hand, from the first piece to the last."""

    def __init__(self, tag: SegmentKind | None) -> None:
        self.tag = self.zone = tag
        self.level = 0
        self.answering = False
        self.below_heading = False  # what stands right below a heading is what it names, whatever it says
        self.item: tuple[int, SegmentKind | None] | None = (
            None  # indentation of the item that named the zone, and the zone around it
        )
        self.list: SegmentKind | None = None  # what the line that led to this list names

    def take(self, part: Piece) -> SegmentKind | None:
        """The zone of the next piece."""
        if part.starts_line and self.item and part.indent <= self.item[0]:
            self.zone, self.item = self.item[1], None
        if part.layout is Layout.TAG:
            self.zone = self.tag = None if part.name.startswith("/") else part.kind
            return part.kind
        if part.layout in (Layout.HEADING, Layout.LABEL):
            self._name(part)
            zone = self.zone
        else:
            zone = self._text(part)
        if leads_in(part):
            self.list = zone or _lead_in(part)
        self.answering = self.answering or zone is ANSWER or part.has(Role.DECLINES, Role.TURNS)
        return zone

    def _name(self, part: Piece) -> None:
        heads = part.layout is Layout.HEADING
        kind = part.kind or (None if self.answering else kind_before_answer(part.name))
        if part.is_item and kind:
            self.item = (part.indent, self.zone)
        if kind or (heads and part.level <= self.level):
            # a thought may describe, but not answer
            free = self.tag is None or (self.tag is REASONING and kind is PERCEPTION)
            self.zone, self.level = kind if free else self.tag, part.level
        self.below_heading = heads

    def _text(self, part: Piece) -> SegmentKind | None:
        listed = part.has(Role.LISTED) or part.layout is Layout.TABLE
        if part.starts_line and not listed:
            self.list = None
        if self.zone and not self.tag and not self.below_heading and _leaves(part, self.zone):
            self.zone = None
        self.below_heading = False
        return self.zone or (self.list if listed else None) or (part.kind if part.layout is Layout.TABLE else None)


def leads_in(part: Piece) -> bool:
    """Whether a piece ends in a colon: it belongs together with what follows."""
    return bool(_LEADS_IN.search(part.sentence.text))


def _leaves(part: Piece, zone: SegmentKind) -> bool:
    """Whether a sentence does not belong to the part that the heading above it names."""
    if zone is ANSWER or part.layout is not Layout.PROSE:
        return False
    if part.has(Role.DECLINES):
        return True
    if not part.starts_line or part.has(Role.LISTED, Role.DESCRIBES):
        return False
    thinks, helps = part.has(*THINKS), part.has(*_HELPS)
    return helps or part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS) if zone is PERCEPTION else helps and not thinks


def _lead_in(part: Piece) -> SegmentKind | None:
    """What a line that ends in a colon says about the list or table below it."""
    if part.has(Role.OFFERS, Role.TURNS, Role.INSTRUCTS, Role.DECLINES, Role.LISTED):
        return None
    if part.has(Role.DESCRIBES):
        return PERCEPTION
    return REASONING if _REASONS.search(part.sentence.text) else None
