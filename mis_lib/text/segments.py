"""Which part of a response is perception, which reasoning, which answer: the parts of a safety chain-of-thought.

The parts (paper section 3.2): perception says what the images show, reasoning finds the risk of the combination, the
answer declines, warns, helps or offers another way. Every sentence is in exactly one part; adjacent sentences of one
part are one segment.

Rules, in this order:
1. A tag, heading or label that names a part (``<think>``, "## Analysis", "**Answer:**", "Reasoning:") decides the text
   below it. It reaches to the next heading, the name of a list item over that item. Models seldom mark the end of a
   part, so a refusal leaves it, and so does a new line that does something else: an instruction below "Analysis", a
   risk below "Image 2". Inside ``<think>`` nothing is answer.
2. A sentence that says what an image shows is perception; so is one between two of them that does nothing else.
3. A refusal is answer, and so is the text after it; but a risk explained right after an opening refusal is reasoning.
4. Between perception and refusal (or "Answer:") is reasoning, unless the sentence gives instructions.
5. Without a refusal, sentences that name a risk or infer from both images are reasoning until the first that answers,
   and again after a "However"; the rest is answer. A table or code block has the part of the text before it.
"""

import re
from collections.abc import Sequence

from mis_lib.schema import Segment, SegmentKind
from mis_lib.text.headings import (
    ANSWER,
    PERCEPTION,
    REASONING,
    Layout,
    Piece,
    concludes,
    kind_before_answer,
    orders,
    pieces,
)
from mis_lib.text.roles import Role

# ruff: noqa: RUF001 - a full-width colon introduces text as well

_THINKS = (Role.RISK, Role.CONSEQUENCE, Role.INFERS, Role.SUPPOSES)
_HELPS = (Role.DECLINES, Role.AGAINST, Role.TURNS, Role.OFFERS, Role.INSTRUCTS)
_LEADS_IN = re.compile(r"[:：][\s*]*$")
_REASONS = re.compile(r"\b(?:concerns?|reasons?|risks?|dangers?|hazards?|problems?|because)\b|原因|风险", re.IGNORECASE)
_CONTINUES = re.compile(
    r"(?:it|this|they|he|she|both|the \w+(?: \w+)?|(?:a|an|one|another) \w+(?: \w+)?) (?:appears?|seems?|looks?"
    r"|stands?|sits?|lies|wears?|(?:is|are) (?:drawn|shown|"
    r"placed|wearing|holding|standing|sitting|lying|visible|depicted|colou?red|surrounded|made of|lit))\b|there (?:is"
    r"|are) (?!several|many|some (?:ways|steps)|a few|no way|two ways|three|various|better|also (?:ways|risks))"
    r"|in the background|the background|in the (?:first|second|third|fourth|other|latter)(?: \w+)?,? (?:there(?: is|'s"
    r"| are)|(?:is|are) |an? )"
)
# "I understand that you ask about ..." has none of these
_ANSWERS = (Role.INSTRUCTS, Role.AGAINST, Role.DECLINES, Role.TURNS, Role.LISTED)
_WORDS = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")  # Chinese has no spaces: a character counts as a word
_BUT = re.compile(r"(?:however|but|that said|on the other hand|still|yet)\b", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\b(?:the|my) (?:\w+ )?answer is\b|\\boxed\{|答案是", re.IGNORECASE)


def segment(text: str) -> list[Segment]:
    """Split a response into perception, reasoning and answer spans that cover it in order; empty text has none."""
    merged: list[Segment] = []
    for piece in label_sentences(text):
        if merged and merged[-1].kind == piece.kind:
            start = merged.pop().start
            piece = Segment(kind=piece.kind, text=text[start : piece.end], start=start, end=piece.end)
        merged.append(piece)
    return merged


def label_sentences(text: str) -> list[Segment]:
    """One segment for each sentence, adjacent ones of a kind not merged: the basis of accuracy by sentence."""
    found = pieces(text)
    return [
        Segment(kind=kind, text=text[part.start : part.end], start=part.start, end=part.end)
        for part, kind in zip((piece.sentence for piece in found), _kinds(found), strict=True)
    ]


def _kinds(parts: Sequence[Piece]) -> list[SegmentKind]:
    kinds = [_own_kind(part, zone) for part, zone in zip(parts, _zones(parts), strict=True)]
    _continue_perception(parts, kinds)
    _fill_by_refusal(parts, kinds)
    _fill_by_cues(parts, kinds)
    return _lend_to_blanks(parts, kinds)


def _zones(parts: Sequence[Piece]) -> list[SegmentKind | None]:
    """The part that the tag, heading, label or introduction above each piece names, if any."""
    walk = _Walk(_tag_at_start(parts))
    return [walk.take(part) for part in parts]


def _tag_at_start(parts: Sequence[Piece]) -> SegmentKind | None:
    """Reasoning, if the first tag only closes a thought: some models have the opening tag in their prompt."""
    first = next((part for part in parts if part.layout is Layout.TAG), None)
    return REASONING if first and first.name.startswith("/") and first.kind is REASONING else None


class _Walk:
    """What is above the current piece, from the first piece to the last."""

    def __init__(self, tag: SegmentKind | None) -> None:
        self.tag = self.zone = tag
        self.level = 0
        self.answering = False
        self.below_heading = False  # the text right below a heading has its part, whatever the text says
        # indentation of the item that named the zone, and the zone around it
        self.item: tuple[int, SegmentKind | None] | None = None
        self.list: SegmentKind | None = None  # the part that the line before this list names

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
        if _leads_in(part):
            self.list = zone or _list_kind(part)
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


def _leads_in(part: Piece) -> bool:
    """Whether a piece ends in a colon: it has the part of the text after it."""
    return bool(_LEADS_IN.search(part.sentence.text))


def _leaves(part: Piece, zone: SegmentKind) -> bool:
    """Whether a sentence does not belong to the part that the heading above it names."""
    if zone is ANSWER or part.layout is not Layout.PROSE:
        return False
    if part.has(Role.DECLINES):
        return True
    if not part.starts_line or part.has(Role.LISTED, Role.DESCRIBES):
        return False
    thinks, helps = part.has(*_THINKS), part.has(*_HELPS)
    return helps or part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS) if zone is PERCEPTION else helps and not thinks


def _list_kind(part: Piece) -> SegmentKind | None:
    """The part that a line ending in a colon gives to the list or table below it."""
    if part.has(Role.OFFERS, Role.TURNS, Role.INSTRUCTS, Role.DECLINES, Role.LISTED):
        return None
    if part.has(Role.DESCRIBES):
        return PERCEPTION
    return REASONING if _REASONS.search(part.sentence.text) else None


def _own_kind(part: Piece, zone: SegmentKind | None) -> SegmentKind | None:
    """The part of a sentence by its roles or by the heading above it."""
    if part.has(Role.HEADING):
        return zone
    if part.has(Role.DESCRIBES) and zone is not ANSWER and not part.has(Role.DECLINES):
        return PERCEPTION
    if zone is None and (part.has(Role.DECLINES, Role.BLIND, Role.TURNS) or _ANSWER_IS.search(part.sentence.text)):
        return ANSWER
    return zone


def _continue_perception(parts: Sequence[Piece], kinds: list[SegmentKind | None]) -> None:
    """Sentences that continue a description, or only separate two descriptions, are perception too."""
    acts = (Role.RISK, Role.CONSEQUENCE, Role.INSTRUCTS, Role.AGAINST, Role.INFERS, Role.HEADING)
    for i in range(1, len(parts)):
        if kinds[i] in (None, REASONING) and kinds[i - 1] is PERCEPTION and not parts[i].has(*acts):
            soon = kinds[i + 1 : i + 3]
            between = PERCEPTION in soon and ANSWER not in soon[: soon.index(PERCEPTION)]
            if between or (kinds[i] is None and _CONTINUES.match(parts[i].sentence.text.lower())):
                kinds[i] = PERCEPTION


def _fill_by_refusal(parts: Sequence[Piece], kinds: list[SegmentKind | None]) -> None:
    """Rules 3 and 4: the text before and after the first refusal, or "Answer:"."""
    refusal = next((i for i, part in enumerate(parts) if kinds[i] is ANSWER and _decides(part)), None)
    if refusal is None:
        return
    commands = [i for i in range(refusal) if kinds[i] is None and _commands(parts[i])]
    for i in range(refusal):
        if kinds[i] is None and not _is_blank(parts[i]):
            # one order-like sentence before a refusal is reasoning ("Pour juice on it and it breaks"), several are help
            kinds[i] = ANSWER if i in commands and (len(commands) > 1 or parts[i].has(Role.LISTED)) else REASONING
    explained = REASONING in kinds[:refusal]
    for i in range(refusal + 1, len(parts)):
        explains = parts[i].has(*_THINKS) and not parts[i].has(Role.INSTRUCTS, Role.OFFERS, Role.AGAINST, Role.DECLINES)
        if kinds[i] is None:
            kinds[i] = (
                REASONING
                if explains and not explained and kinds[i - 1] is not None and _only_refused(parts, kinds, i)
                else ANSWER
            )


def _decides(part: Piece) -> bool:
    return part.has(Role.DECLINES) or concludes(part.name) or bool(_ANSWER_IS.search(part.sentence.text))


def _commands(part: Piece) -> bool:
    return part.has(Role.INSTRUCTS) and not part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS)


def _only_refused(parts: Sequence[Piece], kinds: list[SegmentKind | None], i: int) -> bool:
    """Whether the sentences before ``i`` only refuse, describe and explain."""
    return all(kind is not ANSWER or part.has(Role.DECLINES) for part, kind in zip(parts[:i], kinds[:i], strict=True))


def _fill_by_cues(parts: Sequence[Piece], kinds: list[SegmentKind | None]) -> None:
    """Rule 5: without a refusal, risk and inference are reasoning until the response starts to answer."""
    answering = False
    for i, part in enumerate(parts):
        if kinds[i] is None and not _is_blank(part):
            thinks = part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS) or (
                part.has(Role.SUPPOSES) and _goes_on_thinking(parts, kinds, i)
            )
            acts = (
                part.has(Role.AGAINST)
                or (part.has(Role.INSTRUCTS, Role.LISTED) and not _goes_on_listing(parts, kinds, i))
                or (part.has(Role.OFFERS) and REASONING in kinds[:i])
            )
            turns = not answering or _BUT.match(part.sentence.text)
            kinds[i] = REASONING if thinks and not acts and turns else ANSWER
        opens = kinds[i] is PERCEPTION and not any(earlier.has(*_ANSWERS) for earlier in parts[:i])
        answering = kinds[i] is ANSWER or (answering and kinds[i] is not REASONING and not opens)


def _goes_on_listing(parts: Sequence[Piece], kinds: Sequence[SegmentKind | None], i: int) -> bool:
    """Whether sentence ``i`` is the next item of a list of perception or reasoning."""
    both = i > 0 and parts[i].has(Role.LISTED) and parts[i - 1].has(Role.LISTED)
    return both and kinds[i - 1] is not ANSWER and not orders(parts[i].sentence)


def _goes_on_thinking(parts: Sequence[Piece], kinds: Sequence[SegmentKind | None], i: int) -> bool:
    """Whether sentence ``i`` comes right after perception or reasoning; a closing tag ends both."""
    return i > 0 and kinds[i - 1] in (PERCEPTION, REASONING) and parts[i - 1].layout is not Layout.TAG


def _is_blank(part: Piece) -> bool:
    """Whether it has no part by itself: a heading without one, "Sure!", "Here is what I found:", a table row, code."""
    return (
        part.has(Role.HEADING)
        or (not part.sentence.roles and _leads_in(part))
        or part.layout in (Layout.TABLE, Layout.CODE)
        or (len(_WORDS.findall(part.sentence.text)) <= 2 and not part.sentence.roles)
    )


def _lend_to_blanks(parts: Sequence[Piece], kinds: list[SegmentKind | None]) -> list[SegmentKind]:
    """Give each undecided piece the kind of the next decided one; a row or code that of the piece before."""
    for i in range(1, len(parts)):
        if parts[i].layout in (Layout.TABLE, Layout.CODE):
            kinds[i] = kinds[i] or kinds[i - 1]
    filled: list[SegmentKind] = []
    following: SegmentKind | None = None
    for kind in reversed(kinds):
        following = kind or following
        filled.append(following or next((known for known in reversed(kinds) if known), ANSWER))
    return filled[::-1]
