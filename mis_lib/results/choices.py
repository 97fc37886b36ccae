r"""Exact match: which option an answer to a multiple-choice question chose, or that it cannot be read.

Nothing is guessed. The parsers of the published sets end in a random option where they find none, or take the last of
several. Here an answer that names no option, or several and no final one, is a parse failure: it counts as wrong, and
the number of parse failures is reported. First match wins:

1. a statement of the answer: "the answer is (B)", "Answer: B", \boxed{B}, "I choose B", "option B is correct", the same
   in Chinese; of several the last. An option that is only mentioned or rejected ("option A is wrong") states nothing,
   nor do several letters at once
2. a letter that is the whole answer, heads its first line ("B", "(b)", "B. a dog") or is all of a line; where these
   differ, none
3. letters in brackets or single letters ("A" and "I" as words of a sentence aside), if they are all the same and none
   is rejected
4. the text of exactly one option, if it is not rejected

The phrases around a letter say whether it is the answer: some state it, some reject it, some only list it. They are
matched directly before and after a letter, within its clause. A phrase that is in no list says nothing.
"""

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

HAN = r"\u3040-\u9fff\uac00-\ud7af"
"""Scripts without spaces, for a character class: a letter next to one of these signs is still a single letter."""
REACH = 160
"""Characters before and after a letter that are matched; answers can be long."""
_LETTER = re.compile(
    rf"(?P<open>[(\[\"']\s?)?(?<![^\W{HAN}])(?<!\w')(?<![$.])(?P<letter>[A-Za-z])(?![^\W{HAN}]|['+#]\w|[+#]|-\w|\.\w)(?P<close>\s?[)\]\"'])?"
)
_ENDS = re.compile(rf"\s*(?:[.,;:!?)/&\]\n、。{HAN}]|$)|\s+[-\u2013\u2014]\s")
_NO_ARTICLE = re.compile(
    r"\s+(?:and|or|nor|because|since|as|for|in|on|with|based|given|is|isn't|was|does|doesn't|cannot|can't|would|seems|shows|"
    r"best (?:describes|matches|fits|represents))\b"
)
_NAMED = re.compile(r"\b(?:option|choice|letter)\s+$", re.IGNORECASE)
_HEAD = re.compile(r"[(\[\"']?([A-Za-z])(?:[)\].:\"']+\s+(?!\W*[A-Z]\W*$)|[)\].:\"']*\s*$)")
_BARE = re.compile(r"[(\[\"']?([A-Za-z])[)\].\"']*")
_LINE_ENDS = re.compile(r"[.)\s]*?(?:\n|$)")
_WRONG = re.compile(r"(?:this |it )?(?:is )?(?:clearly )?(?:wrong|incorrect|not correct|not right)\b", re.IGNORECASE)
_WORDS = frozenset("AI")  # a letter that is also a word
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
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
    r"\b(?:not|no(?! doubt)|never|neither|nor|none|cannot|wrong|incorrect|false|if|whether|without|except|unlike|than|"
    r"instead of|"
    r"rul(?:e|es|ed|ing) out|(?:eliminat|exclud|reject|discard|dismiss)(?:e|es|ed|ing|s)?)\b|n't\b"
)
_LEADS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:answers?|(?:{_RIGHT}|final|closest|my|our)\s+(?:answer\s+)?{_NOUN})\b{_CLAUSE}\b{_IS}\b\s*:?\s*{_ADVERB}"
        rf"(?:not\s+\W?[a-z]\W?,?\s*but\s+)?{_CALLED}$",
        rf"(?<!other )\b(?:answer|option|choice|selection|correct)(?:\s+(?:choice|option|letter))?[\"']?"
        rf"\s*[:=]\s*{_CALLED}$",
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
    rf"\s*(?:\([^()\n]*\))?(?:{_FEW_WORDS}{{0,2}}?\s+"
    r"(?:\w+n't|not|no|never|cannot|wrong|incorrect|false|ruled out|out|eliminated|excluded|lacks|fails)\b"
    rf"|[{HAN}]{{0,3}}?(?:不|错|排除))",
    re.IGNORECASE,
)
_LEFT_OPEN = re.compile(r"\s*(?:\?|\b(?:if|unless|when)\b)")
# between two letters: joins them
_BETWEEN = re.compile(
    r"(?:(?:[,/&+、]|\b(?:and|or|nor|also|option|choice)\b|[和或及与]|[选選][项項])\s*)*", re.IGNORECASE
)
_ELSE = re.compile(
    r"\b(?i:images?|pictures?|photos?|figures?|panels?|points?|lines?|angles?|groups?|types?|classe?s?|vitamins?|hepatitis|plans?)\s+"
    r"(?:[(\[]?[A-Z][)\]]?\s*(?:,|/|&|and\b|or\b)*\s*)*$"
)  # fmt: skip


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter out of ``options`` that an answer chose, or ``None`` if it cannot be read."""
    said = _unmarked(_final(text))
    mentions = _mentions(said)
    listed = _listed(said, mentions)
    stated = [one.letter for one in mentions if one.start not in listed and _is_stated(one.before, one.after)]
    if stated:
        return stated[-1] if stated[-1] in options else None
    lines = _on_a_line(said, options)
    if lines:
        return lines.pop() if len(lines) == 1 else None
    named = [one for one in mentions if one.counts and one.letter in options and not _ELSE.search(one.before)]
    if named:
        sure = len({one.letter for one in named}) == 1 and not any(_is_rejected(one.before, one.after) for one in named)
        return named[0].letter if sure else None
    return _by_text(_final(text), options)


def is_right(text: str, answer: str, options: Mapping[str, str]) -> bool | None:
    """Whether an answer is right; ``None`` if no choice can be read from it.

    Open questions compare words or numbers; an ``answer`` that is a Python list in text, as in MMMU, holds
    alternatives, each of them right.
    """
    if options:
        chosen = read_choice(text, options)
        return None if chosen is None else chosen == answer
    said = _plain(re.split(r"answer(?: is|:)", _unboxed(_final(text)), flags=re.IGNORECASE)[-1])
    return any(_same(said, _plain(one)) for one in _alternatives(answer)) if said else None


class _Mention(NamedTuple):
    """A letter that may name an option, and ``REACH`` characters on both sides; ``counts``: also unstated."""

    letter: str
    start: int
    end: int
    before: str
    after: str
    counts: bool


def _mentions(said: str) -> list[_Mention]:
    found: list[_Mention] = []
    for match in _LETTER.finditer(said):
        letter, bracketed = match["letter"], bool(match["open"] and match["close"])
        start, end = match.start(), match.end() if bracketed else match.end("letter")
        before, after = said[max(0, start - REACH) : start], said[end : end + REACH]
        ends = _ENDS.match(after) is not None
        no_word = _NO_ARTICLE.match(after) is not None
        named = _NAMED.search(before) is not None
        alone = letter.isupper() and (ends or no_word or letter not in _WORDS)
        if letter == "I":
            alone = ends and not after.startswith(",")
        if bracketed or named or ends or no_word or alone:
            counts = alone or named or (bracketed and letter.isupper())
            found.append(_Mention(letter.upper(), start, end, before, after, counts))
    return found


def _listed(said: str, mentions: Sequence[_Mention]) -> set[int]:
    """Where letters start that are named in one breath with another one."""
    joined = [
        (a, b)
        for a, b in pairwise(mentions)
        if a.letter != b.letter and _BETWEEN.fullmatch((between := said[a.end : b.start]).strip())
        if "\n" not in between or _LINE_ENDS.match(b.after)  # "Answer: B" and on the next line "C is wrong" is no list
    ]
    return {one.start for pair in joined for one in pair}


def _on_a_line(said: str, options: Mapping[str, str]) -> set[str]:
    """The letter at the head of the first line, and those that fill a line; a list of the options chooses none."""
    lines = [line.strip(" \t#>-") for line in said.splitlines() if line.strip(" \t#>-")] or [""]
    heads = [head[1].upper() for line in lines if (head := _HEAD.match(line))]
    bare = [found[1].upper() for line in lines if (found := _BARE.fullmatch(line))]
    head = _HEAD.match(lines[0])
    if head and heads[:2] != list(options)[:2] and not _called_wrong(lines[0][head.end() :], options.get(heads[0], "")):
        bare.append(heads[0])
    return {letter for letter in bare if letter in options}


def _called_wrong(rest: str, option: str) -> bool:
    """Whether what follows the head of a line rejects it ("B: wrong"), rather than being the option's own text."""
    own = bool(_plain(option)) and _plain(rest).startswith(_plain(option))
    return not own and _WRONG.match(rest) is not None


def _is_stated(before: str, after: str) -> bool:
    """Whether the words around a letter say that it is the answer."""
    stated = bool(_leads(before)) or _FOLLOWS.match(after) is not None
    return stated and not _is_denied(before) and not _LEFT_OPEN.match(after)


def _is_rejected(before: str, after: str) -> bool:
    """Whether the words around a letter, or an option's text, reject it, or only ask or suppose that it is right."""
    return _is_denied(before) or any(pattern.match(after) for pattern in (_REJECTS_AFTER, _LEFT_OPEN))


def _is_denied(before: str) -> bool:
    return any(_REJECTS_BEFORE.search(text) for text in (before, *_leads(before)))


def _leads(before: str) -> list[str]:
    """The text before each phrase that announces the letter of the answer."""
    return [before[: found.start()] for lead in _LEADS if (found := lead.search(before))]


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    said = _plain(text)
    places = {letter: _places(said, _plain(option)) for letter, option in options.items()}
    named = [letter for letter, found in places.items() if found]
    if len(named) != 1:
        return None
    denies = _plain(options[named[0]]).split()[0] in ("no", "not", "none", "neither", "never")
    rejected = any(
        _is_rejected(said[max(0, start - REACH) : start], said[end : end + REACH]) for start, end in places[named[0]]
    )
    return named[0] if denies or not rejected else None


def _places(said: str, words: str) -> list[tuple[int, int]]:
    pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
    return [found.span() for found in re.finditer(pattern, said)] if words else []


def _final(text: str) -> str:
    return text.rpartition("</think>")[2]


def _unmarked(text: str) -> str:
    """With straight quotes, narrow letters and no marks of Markdown or LaTeX."""
    narrow = unicodedata.normalize("NFKC", _unboxed(text)).translate(_QUOTES)
    return re.sub(r"\\(?=[()\[\]])|[*`]|__|\$(?!\d)", "", narrow).strip()


def _unboxed(text: str) -> str:
    r"""``\boxed{B}`` and ``<answer>B</answer>`` as "answer: B."."""
    text = re.sub(r"\\(?:text|math)\w*\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(
        r"\\boxed\s*\{([^{}]*)\}|<answer>([^<]*)</answer>",
        lambda found: f" answer: {(found[1] or found[2] or '').strip()}. ",
        text,
    )


def _alternatives(answer: str) -> list[str]:
    """The answers that count as right: the texts of a list, or else the text itself."""
    if not answer.startswith("["):
        return [answer]
    try:
        found = ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [answer]  # no list, but words in brackets
    several = isinstance(found, list) and bool(found) and all(isinstance(one, str) for one in found)
    return found if several else [answer]  # numbers, as in [0, 1], are one answer


def _same(said: str, answer: str) -> bool:
    return said == answer or _number(said) == _number(answer) is not None


def _plain(text: str) -> str:
    """Lower case, no punctuation at the ends, single spaces."""
    return " ".join(text.lower().translate(_QUOTES).split()).strip(" .,:;!?\"'`*()[]$")


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").removeprefix("$").removesuffix("%"))
    except ValueError:
        return None
