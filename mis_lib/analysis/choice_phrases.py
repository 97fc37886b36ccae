"""The phrases around a letter that tell whether it is the answer, in English and Chinese: which state it, which reject it, which only list it.

Each function looks at the text directly before and after a letter, within its clause. A phrase that is in no list says nothing: where several
letters are mentioned the answer then cannot be read, and only where one letter is mentioned in all it is taken.
"""

import re

HAN = r"\u3040-\u9fff\uac00-\ud7af"
"""Scripts without spaces, for a character class: a letter beside one of these signs still stands alone."""
REACH = 160
"""So many characters before and after a letter tell what it is; the functions here are given no more, since answers can be long."""

_NOUN = r"(?:answer|option|choice|letter|one|match|fit|description|response|image|picture|figure)"
_RIGHT = r"(?:correct|right|best|true|accurate|suitable|appropriate|fitting|likely)"
_ADVERB = r"(?:(?:the|a|most|clearly|definitely|likely|probably|indeed|therefore|thus|simply|only|my|our)\s+){0,3}"
_IS = r"(?:is|(?:would|should|must|will|seems to|appears to) be|seems|appears)"
_CLAUSE = r"(?:(?!\bnot\b|n't\b|\bwrong\b|\bincorrect\b)[^.\n:;,?!]){0,80}?"
_CALLED = r"(?:(?:the\s+)?(?:option|choice|letter|answer)\s+)?"
_JOINED = (
    r"so|then|thus|hence|therefore|but|and|because|since|as|which|that"  # what is denied before these is another thing
)
_FEW_WORDS = rf"(?:\s+(?!(?:{_JOINED})\b)[\w']+)"
_DENIED = (
    r"\b(?:not|no(?! doubt)|never|neither|nor|none|cannot|wrong|incorrect|false|if|whether|without|except|unlike|than|instead of|"
    r"rul(?:e|es|ed|ing) out|(?:eliminat|exclud|reject|discard|dismiss)(?:e|es|ed|ing|s)?)\b|n't\b"
)

_LEADS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:answers?|(?:{_RIGHT}|final|closest|my|our)\s+(?:answer\s+)?{_NOUN})\b{_CLAUSE}\b{_IS}\b\s*:?\s*{_ADVERB}"
        rf"(?:not\s+\W?[a-z]\W?,?\s*but\s+)?{_CALLED}$",
        rf"(?<!other )\b(?:answer|option|choice|selection|correct)(?:\s+(?:choice|option|letter))?[\"']?\s*[:=]\s*{_CALLED}$",
        r"(?:^|\n)\W*(?:(?:final|correct|my)\s+)?answer\s+$",
        rf"\b(?:choose|chose|choosing|pick|select|opt for|go with|going with|settle on)\s+{_CALLED}$",
        r"(?:答案|正确的?[选選][项項]|正确的)[^\W不非]{0,4}?\s*(?:是|为|:)\s*(?:[选選][项項])?\s*$",
        r"[选選][择擇]?\s*(?:[选選][项項])?\s*:?\s*$",
    )
]
_FOLLOWS = re.compile(
    rf"\s*(?:\([^()\n]*\))?\s+(?:{_IS}\s+{_ADVERB}(?:answer\b|{_RIGHT}\s+{_NOUN}\b|{_RIGHT}(?=\s*(?:[.,;:!)\n]|$)|\s+(?:because|since|as|for)\b))"
    r"|best\s+(?:describes|matches|fits|represents|answers|corresponds|explains|captures)\b)"
    r"|\s*(?:[选選][项項])?\s*[是为]?最?(?:正确|对的|合适)",
    re.IGNORECASE,
)
_REJECTS_BEFORE = re.compile(rf"(?:{_DENIED}){_FEW_WORDS}{{0,3}}\s*$|(?:[不非]|排除)[{HAN}]{{0,2}}\s*$", re.IGNORECASE)
_REJECTS_AFTER = re.compile(
    rf"\s*(?:\([^()\n]*\))?(?:{_FEW_WORDS}{{0,2}}?\s+(?:\w+n't|not|no|never|cannot|wrong|incorrect|false|ruled out|out|eliminated|excluded|lacks|fails)\b"
    rf"|[{HAN}]{{0,3}}?(?:不|错|排除))",
    re.IGNORECASE,
)
_LEFT_OPEN = re.compile(r"\s*(?:\?|\b(?:if|unless|when)\b)")
_BETWEEN = re.compile(
    r"(?:(?:[,/&+、]|\b(?:and|or|nor|also|option|choice)\b|[和或及与]|[选選][项項])\s*)*", re.IGNORECASE
)
_ELSE = re.compile(
    r"\b(?i:images?|pictures?|photos?|figures?|panels?|points?|lines?|angles?|groups?|types?|classe?s?|vitamins?|hepatitis|plans?)\s+"
    r"(?:[(\[]?[A-Z][)\]]?\s*(?:,|/|&|and\b|or\b)*\s*)*$"
)  # fmt: skip


def is_stated(before: str, after: str) -> bool:
    """Whether the words around a letter say that it is the answer."""
    told = bool(_leads(before)) or _FOLLOWS.match(after) is not None
    return told and not _is_denied(before) and not _LEFT_OPEN.match(after)


def is_rejected(before: str, after: str) -> bool:
    """Whether the words around a letter, or an option's text, say that it is not the answer, or only ask or suppose that it is."""
    return _is_denied(before) or any(pattern.match(after) for pattern in (_REJECTS_AFTER, _LEFT_OPEN))


def is_something_else(before: str) -> bool:
    """Whether a letter names another thing than an option: "image B", "vitamin C"."""
    return _ELSE.search(before) is not None


def is_list(between: str) -> bool:
    """Whether the text between two letters only joins them: "B and C", "B, or option C"."""
    return _BETWEEN.fullmatch(between.strip()) is not None


def _leads(before: str) -> list[str]:
    """What stands before each phrase that leads to the letter as the answer."""
    return [before[: found.start()] for lead in _LEADS if (found := lead.search(before))]


def _is_denied(before: str) -> bool:
    return any(_REJECTS_BEFORE.search(text) for text in (before, *_leads(before)))
