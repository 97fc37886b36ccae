r"""Exact match: which option an answer to a multiple-choice question chose, or that it cannot be read. Nothing is guessed.

The parsers of the published sets end in a random option where they find none, or take the last of several. Here an answer that names
no option, or several and no final one, is a parse failure: it counts as wrong, and how many there were is told. First match wins:

1. a statement of the answer: "the answer is (B)", "Answer: B", \boxed{B}, "I choose B", "option B is correct", the same in Chinese; of several
   the last. Neither an option that is only mentioned or rejected ("option A is wrong"), nor several letters at once, states anything
2. a letter that is the whole answer, heads its first line ("B", "(b)", "B. a dog") or is all of a line; where these differ, none
3. letters in brackets or standing alone ("A" and "I" as words of a sentence aside), if they are all the same and none is rejected
4. the text of exactly one option, if it is not rejected
"""

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from mis_lib.analysis.choice_phrases import HAN, REACH, is_list, is_rejected, is_something_else, is_stated

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


class _Mention(NamedTuple):
    """A letter that may stand for an option, and ``REACH`` characters on both sides; ``counts``: also where nothing is stated."""

    letter: str
    start: int
    end: int
    before: str
    after: str
    counts: bool


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter out of ``options`` that an answer chose, or ``None`` if it cannot be told."""
    said = _unmarked(_final(text))
    mentions = _mentions(said)
    listed = _listed(said, mentions)
    stated = [one.letter for one in mentions if one.start not in listed and is_stated(one.before, one.after)]
    if stated:
        return stated[-1] if stated[-1] in options else None
    lines = _on_a_line(said, options)
    if lines:
        return lines.pop() if len(lines) == 1 else None
    named = [one for one in mentions if one.counts and one.letter in options and not is_something_else(one.before)]
    if named:
        sure = len({one.letter for one in named}) == 1 and not any(is_rejected(one.before, one.after) for one in named)
        return named[0].letter if sure else None
    return _by_text(_final(text), options)


def is_right(text: str, answer: str, options: Mapping[str, str]) -> bool | None:
    """Whether an answer is right; ``None`` if no choice can be read from it.

    Open questions compare words or numbers; an ``answer`` that is a Python list in text, as in MMMU, holds alternatives, each of them right.
    """
    if options:
        chosen = read_choice(text, options)
        return None if chosen is None else chosen == answer
    said = _plain(re.split(r"answer(?: is|:)", _unboxed(_final(text)), flags=re.IGNORECASE)[-1])
    return any(_same(said, _plain(one)) for one in _alternatives(answer)) if said else None


def _final(text: str) -> str:
    return text.rpartition("</think>")[2]


def _unboxed(text: str) -> str:
    r"""``\boxed{B}`` and ``<answer>B</answer>`` as "answer: B."."""
    text = re.sub(r"\\(?:text|math)\w*\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\boxed\s*\{([^{}]*)\}|<answer>([^<]*)</answer>", _told, text)


def _told(found: re.Match[str]) -> str:
    return f" answer: {(found[1] or found[2] or '').strip()}. "


def _unmarked(text: str) -> str:
    """With straight quotes, narrow letters and no marks of Markdown or LaTeX."""
    narrow = unicodedata.normalize("NFKC", _unboxed(text)).translate(_QUOTES)
    return re.sub(r"\\(?=[()\[\]])|[*`]|__|\$(?!\d)", "", narrow).strip()


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
        if a.letter != b.letter and is_list(between := said[a.end : b.start])
        if "\n" not in between or _LINE_ENDS.match(b.after)  # "Answer: B" and on the next line "C is wrong" is no list
    ]
    return {one.start for pair in joined for one in pair}


def _on_a_line(said: str, options: Mapping[str, str]) -> set[str]:
    """The letter at the head of the first line, and those that are all of a line; heads that list the options in turn choose none."""
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


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    said = _plain(text)
    places = {letter: _places(said, _plain(option)) for letter, option in options.items()}
    named = [letter for letter, found in places.items() if found]
    if len(named) != 1:
        return None
    denies = _plain(options[named[0]]).split()[0] in ("no", "not", "none", "neither", "never")
    rejected = any(
        is_rejected(said[max(0, start - REACH) : start], said[end : end + REACH]) for start, end in places[named[0]]
    )
    return named[0] if denies or not rejected else None


def _places(said: str, words: str) -> list[tuple[int, int]]:
    pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
    return [found.span() for found in re.finditer(pattern, said)] if words else []


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
