"""Which part of a response is perception, which reasoning, which answer: the three parts of a safety chain-of-thought.

The parts (paper section 3.2): perception says what the images show, reasoning finds the risk that they carry together, the answer
declines, warns, helps or offers another way. Every sentence belongs to exactly one part, and neighbours of one part are one segment.

Rules, in this order:
1. A tag or heading that names a part (``<think>``, "## Analysis", "**Answer:**") colours what follows it. Inside ``<think>`` nothing is answer.
2. A sentence that says what an image shows is perception; so is one between two of them that does nothing else.
3. A refusal is answer, and so is what follows it; except that a risk explained right after an opening refusal is reasoning.
4. Between perception and refusal lies reasoning, unless the sentence gives instructions.
5. Without a refusal, sentences that name a risk or infer from both images are reasoning until the first that answers; the rest is answer.
"""

import re
from collections.abc import Sequence

from mis_lib.roles import Role, Sentence, read
from mis_lib.schema import Segment, SegmentKind

_THINKS = (Role.RISK, Role.CONSEQUENCE, Role.INFERS, Role.SUPPOSES)
PERCEPTION, REASONING, ANSWER = SegmentKind.PERCEPTION, SegmentKind.REASONING, SegmentKind.ANSWER

_TAGS = {
    PERCEPTION: "caption perception description observation image_description images vision",
    REASONING: "think thinking thought thoughts reasoning analysis reflection rationale summary",
    ANSWER: "answer conclusion response output final final_answer",
}
_TAG_KINDS = {name: kind for kind, names in _TAGS.items() for name in names.split()}
_TAG = re.compile(r"\s*<(/?)([A-Za-z_]{2,20})>\s*")
_HEADINGS = (  # the first that matches decides; "risk analysis of the images" is reasoning, so perception comes last
    (ANSWER, re.compile(r"answer|response|conclusion|recommend|alternative|suggest|solution|steps|instruction|how to|what (?:you can|to) do|advice|help|tips|precaution|guideline")),
    (REASONING, re.compile(r"analy|reason|risk|safety|concern|implication|why|danger|harm|context|combin|intent|consider|issue|problem")),
    (PERCEPTION, re.compile(r"image|picture|photo|descri|observ|perception|caption|see\b")),
)  # fmt: skip
_LABEL = re.compile(r"\s*(?:#{1,6}\s*)?(?:[-*]\s+)?\**([A-Za-z][\w ,&/'-]{1,50}?)\**:")
_CONTINUES = re.compile(
    r"(?:it|they|he|she|both|the \w+(?: \w+)?|(?:a|an|one|another) \w+(?: \w+)?) (?:appears?|seems?|looks?|stands?|sits?|lies|wears?|(?:is|are) (?:drawn|shown|"
    r"placed|wearing|holding|standing|sitting|lying|visible|depicted|colou?red|surrounded|made of|lit))\b|there (?:is|are) (?!several|many|some (?:ways|steps)|a few"
    r"|no way|two ways|three|various|better|also (?:ways|risks))|in the background|the background"
    r"|in the (?:first|second|third|fourth|other|latter)(?: \w+)?,? (?:there(?: is|'s| are)|(?:is|are) |an? )"
)


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
    """One segment for each sentence, neighbours of one kind not merged: what the accuracy by sentence is counted on."""
    parts = read(text)
    return [
        Segment(kind=kind, text=part.text, start=part.start, end=part.end)
        for part, kind in zip(parts, _kinds(parts), strict=True)
    ]


def _kinds(parts: Sequence[Sentence]) -> list[SegmentKind]:
    zones = _zones(parts)
    kinds: list[SegmentKind | None] = [_own_kind(part, zone) for part, zone in zip(parts, zones, strict=True)]
    _continue_perception(parts, kinds)
    _fill_by_refusal(parts, kinds)
    _fill_by_cues(parts, kinds)
    return _lend_to_blanks(kinds)


def _zones(parts: Sequence[Sentence]) -> list[SegmentKind | None]:
    """The part that the tag or heading above (or the label in front of) each sentence names, if any."""
    zones: list[SegmentKind | None] = []
    zone: SegmentKind | None = None
    tag_zone: SegmentKind | None = None
    for part in parts:
        if tag := _TAG.fullmatch(part.text):
            kind = _TAG_KINDS.get(tag[2].lower())
            zones.append(kind)
            tag_zone = None if tag[1] else kind
            zone = tag_zone
        elif (label := _LABEL.match(part.text)) or Role.HEADING in part.roles:
            named = _heading_kind(label[1] if label else part.text)
            zone = tag_zone or (
                named if Role.HEADING in part.roles or "*" in part.text[: label.end() + 2 if label else 0] else zone
            )
            zones.append(zone)
        else:
            zones.append(zone)
    return zones


def _heading_kind(heading: str) -> SegmentKind | None:
    return next((kind for kind, words in _HEADINGS if words.search(heading.lower())), None)


def _own_kind(part: Sentence, zone: SegmentKind | None) -> SegmentKind | None:
    """What a sentence is by itself, or by the heading above it."""
    if part.has(Role.HEADING):
        return zone
    if part.has(Role.DESCRIBES) and zone is not ANSWER and not part.has(Role.DECLINES):
        return PERCEPTION
    if zone is None and part.has(Role.DECLINES, Role.BLIND, Role.TURNS):
        return ANSWER
    return zone


def _continue_perception(parts: Sequence[Sentence], kinds: list[SegmentKind | None]) -> None:
    """Sentences that go on describing, or stand between two descriptions and do nothing else, are perception too."""
    acts = (Role.RISK, Role.CONSEQUENCE, Role.INSTRUCTS, Role.AGAINST, Role.INFERS, Role.HEADING)
    for i in range(1, len(parts)):
        if kinds[i] in (None, REASONING) and kinds[i - 1] is PERCEPTION and not parts[i].has(*acts):
            soon = kinds[i + 1 : i + 3]
            between = PERCEPTION in soon and ANSWER not in soon[: soon.index(PERCEPTION)]
            if between or (kinds[i] is None and _CONTINUES.match(parts[i].text.lower())):
                kinds[i] = PERCEPTION


def _fill_by_refusal(parts: Sequence[Sentence], kinds: list[SegmentKind | None]) -> None:
    """Rules 3 and 4: what stands before and after the first refusal."""
    refusal = next((i for i, part in enumerate(parts) if part.has(Role.DECLINES) and kinds[i] is ANSWER), None)
    if refusal is None:
        return
    commands = [i for i in range(refusal) if kinds[i] is None and _commands(parts[i])]
    for i in range(refusal):
        if kinds[i] is None and not _is_blank(parts[i]):
            # one order-like sentence before a refusal is a thought ("Pour juice on it and it breaks"), several are help
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


def _commands(part: Sentence) -> bool:
    return part.has(Role.INSTRUCTS) and not part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS)


def _only_refused(parts: Sequence[Sentence], kinds: list[SegmentKind | None], i: int) -> bool:
    """Whether nothing but refusing, describing and explaining stands before sentence ``i``."""
    return all(kind is not ANSWER or part.has(Role.DECLINES) for part, kind in zip(parts[:i], kinds[:i], strict=True))


def _fill_by_cues(parts: Sequence[Sentence], kinds: list[SegmentKind | None]) -> None:
    """Rule 5: without a refusal, risk and inference are reasoning until the response starts to answer."""
    answering = False
    for i, part in enumerate(parts):
        if kinds[i] is None and not _is_blank(part):
            thinks = part.has(Role.RISK, Role.CONSEQUENCE, Role.INFERS) or (
                part.has(Role.SUPPOSES) and _after_perception(kinds, i)
            )
            acts = part.has(Role.INSTRUCTS, Role.AGAINST, Role.LISTED) or (
                part.has(Role.OFFERS) and REASONING in kinds[:i]
            )
            kinds[i] = REASONING if thinks and not acts and not answering else ANSWER
        answering = answering or kinds[i] is ANSWER


def _after_perception(kinds: Sequence[SegmentKind | None], i: int) -> bool:
    return i > 0 and kinds[i - 1] is PERCEPTION


def _is_blank(part: Sentence) -> bool:
    """A heading that names no part, or an opening word ("Sure!", "Okay."): it belongs to what follows."""
    return part.has(Role.HEADING) or (len(part.text.split()) <= 2 and not part.roles)


def _lend_to_blanks(kinds: list[SegmentKind | None]) -> list[SegmentKind]:
    """Give each undecided sentence the kind of the next decided one, at the end that of the last."""
    filled: list[SegmentKind] = []
    following: SegmentKind | None = None
    for kind in reversed(kinds):
        following = kind or following
        filled.append(following or next((known for known in reversed(kinds) if known), ANSWER))
    return filled[::-1]
