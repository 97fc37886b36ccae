"""Which part of a response a heading or label names: "### Analysis" reasoning, "**Image 1:**" perception, "Final answer:" the answer.

A heading ("### Why this is risky", "**What I see**") may be worded freely. A label that could be anything ("Note: ...", an item of a list
"1. **Combine colours**: ...") names a part only if it is one of the usual names; and the steps of a recipe name none.
"""
# ruff: noqa: RUF001 - full-width marks and Chinese names are what this module looks for

import re
from typing import NamedTuple

from mis_lib.schema import SegmentKind
from mis_lib.text.patterns import IMAGE

PERCEPTION, REASONING, ANSWER = SegmentKind.PERCEPTION, SegmentKind.REASONING, SegmentKind.ANSWER
Table = tuple[tuple[SegmentKind, re.Pattern[str]], ...]


class Name(NamedTuple):
    """What a line is called: in lower case, the part it names (if any), whether nothing follows it, and its depth (1 is the highest)."""

    text: str
    kind: SegmentKind | None
    alone: bool
    level: int


_BOLD_LEVEL = 7  # below the six levels of "#"
_MARKUP = re.compile(
    r"""^(?:\s|[>\#*_•+–-]|\(?\d{1,2}[.)](?=[\s*])|\d\ufe0f?\u20e3|[^\w\s|<`"'“‘(\[{$.,:;!?\\/&@=~。，：；！？（【《「])*""",
    re.VERBOSE,
)
ITEM = re.compile(r"\s*(?:[-*•+–]|\(?\d{1,2}[.)])\s")
_SYMBOL = re.compile(r"[^\w\s>#*_•+().–-]")
_WORD = re.compile(r"\w")
_STEP = re.compile(r"step\s*\d{1,2}[\s:.)*–—-]+(?P<name>[a-z][^.:!\n*]{2,60})", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>[A-Za-z\u4e00-\u9fff][\w ,&/'’()?-]{0,60}?)\s*[*_]{0,2}\s*(?:(?P<colon>[:：])\s*[*_]{0,2}\s*|$)(?P<rest>.*)"
)

# The first that matches a heading decides: "risk analysis of the images" is reasoning, "image analysis" is perception.
_HEADINGS = (
    (PERCEPTION, re.compile(r"(?:images?|pictures?|photos?|visual|scene)(?: \w+)? analysis$|^(?:analy\w+|look\w*|consider\w*)(?: of| at)? (?:the |both |each |individual )?(?:\w+ )?(?:image|picture|photo)s?(?: \w+)?$"
                             r"|^(?:图|第.张)|(?:图像|图片|视觉)分析")),
    (REASONING, re.compile(r"^(?:why|reasons?)\b")),
    (ANSWER, re.compile(r"answer|respon[sd]|conclusion|recommend|alternative|suggest|solution|steps|instruction|how to|what (?:you can|to|you could) do|advice|help|tips?\b|precaution"
                        r"|guideline|safer? option|instead|decision|verdict|结论|建议|回答|答案|回复|替代|总结")),
    (REASONING, re.compile(r"analy|reason|\brisk|concern|why|danger|harm|hazard|deduc|assess|thought|thinking|rationale|think about|风险|分析|推理|思考|原因|理由|危险|危害")),
    (PERCEPTION, re.compile(r"image|picture|photo|descri|observ|percept|caption|see\b|visual|identif\w+ the (?:object|item|content)|what is shown|图|描述|观察|照片|画面")),
)  # fmt: skip
# These do so only before the answer has begun: behind it "Safety" or "Context" is a part of the help.
_BEFORE_ANSWER = re.compile(
    r"safety|implication|context|combin|intent|consider|issue|problem|understand|connection|relation|interact|interpret|inference|synthesis|意图|安全|组合"
)

_OWN = (
    r"(?:(?:the|my|an?|potential|possible|main|key|overall|combined|joint|final|safety|risk|image|images|visual|logical|critical|detailed|initial|brief|short|safe|safer|suggested"
    r"|recommended|first|second|scene|picture|photo|step-by-step|correct|proposed|better|general|contextual) ){0,3}"
)
# What a label may be called in order to name a part though neither "#" nor a line of its own says that it is a heading.
_USUAL = (
    (PERCEPTION, re.compile(rf"{_OWN}(?:perceptions?|descriptions?|observations?|captions?|contents?|what i (?:can )?see|(?:image|visual|scene) analysis)|(?:图像|图片|画面|内容)*(?:描述|内容|观察)")),
    (REASONING, re.compile(rf"{_OWN}(?:reasoning|analysis|rationale|explanation|justification|thoughts?|thinking|thought process|risks?|dangers?|hazards?|concerns?|issues?|problems?|combination|intent|assessment"
                           r"|consequences?|implications?)|(?:潜在|安全|综合)*(?:风险|分析|推理|思考|原因|理由|危险|思路)(?:分析|评估|提示)?")),
    (ANSWER, re.compile(rf"{_OWN}(?:answers?|responses?|conclusions?|recommendations?|advice|suggestions?|solutions?|decision|verdict|alternatives?|tips?|options?)|(?:最终|安全|我的)*(?:结论|建议|回答|答案|回复|总结)")),
)  # fmt: skip
_IMAGE = re.compile(rf"{IMAGE}(?: [a-f])?|图\w|第\w张图\w?")
_STAGE = re.compile(
    r"(?:look|identify|observe|examine|describe|inspect|view|recogni[sz]e|understand|analy[sz]e|assess|consider|think|evaluate|determine|image|visual|percep|observ|reason|analysis)"
)
_CONCLUDES = re.compile(r"answer|conclusion|respon[sd]|verdict|decision|结论|答案|回答")


def name_of(content: str, *, steps_think: bool) -> Name | None:
    """The name in front of a line, if it is a heading or label; its kind is None where it names no part."""
    line = content.strip().split("\n", 1)[0]
    rest = _MARKUP.sub("", line, count=1)
    before = line[: len(line) - len(rest)]
    hashes = re.search(r"#+", before)
    level = len(hashes[0]) if hashes else _BOLD_LEVEL
    if step := _STEP.match(rest):
        text = step["name"].strip().lower()
        return (
            Name(text, _of_heading(text) or kind_before_answer(text), not _WORD.search(rest, step.end()), level)
            if steps_think
            else None
        )
    named = _NAMED.match(rest)
    if not named:
        return Name(rest.lower(), _of_heading(rest.lower()), True, level) if hashes else None
    text, alone, colon = named["name"].strip().lower(), not named["rest"].strip(" *_"), bool(named["colon"])
    bold, item = "**" in before, bool(ITEM.match(line))
    usual = PERCEPTION if (bold or alone) and _IMAGE.fullmatch(text) else first_of(_USUAL, text, whole=True)
    over_text = (bold and not (item and colon)) or (
        alone and ((colon and len(text.split()) <= 3) or (not item and _SYMBOL.search(before)))
    )
    if hashes or over_text:
        return Name(text, usual or _of_heading(text), alone, level)
    return Name(text, usual, alone, level) if usual and (bold or colon or not item) else None


def kind_before_answer(name: str) -> SegmentKind | None:
    """What a name such as "Safety" or "Context" stands for as long as the answer has not begun."""
    return REASONING if _BEFORE_ANSWER.search(name) else None


def concludes(name: str) -> bool:
    """Whether a name of the answer says that it is the outcome of what stands before it: "Answer", "Conclusion"; "Tips" does not."""
    return bool(_CONCLUDES.search(name))


def steps_think(text: str) -> bool:
    """Whether the steps of a response are those of its thought: the first of them looks or thinks."""
    step = _STEP.search(text)
    return bool(step and _STAGE.match(step["name"].lower()))


def first_of(table: Table, text: str, *, whole: bool = False) -> SegmentKind | None:
    """The kind of the first pattern that is found in ``text``, or that is all of it."""
    return next((kind for kind, words in table if (words.fullmatch(text) if whole else words.search(text))), None)


def _of_heading(text: str) -> SegmentKind | None:
    return first_of(_HEADINGS, text)
