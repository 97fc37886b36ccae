"""When a text names a concept: one rule for the judge, the metrics and the naming table.

A text names a concept if it contains the full name, or a synonym from ``synonyms.csv``, as whole words. These may
differ: case, accents, hyphen or space, plural or singular, an article inside ("person in a wheelchair"), and man, woman
... for "person".

These are no names: a wider word ("dog" for a poodle), a head noun that the table does not list, and a name inside
another concept's name ("hot dog" is no dog). A word that is often a verb or an adjective needs a determiner ("the saw",
not "I saw it").
"""

import csv
import functools
import importlib.resources
import io
import re
import unicodedata
from collections.abc import Iterable

from mis_lib.text.concepts import concepts

_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "knife": "knives", "wolf": "wolves", "leaf": "leaves",
    "elf": "elves", "loaf": "loaves", "die": "dice", "scarf": "scarves", "bacterium": "bacteria", "officer":
    "officers",
}  # fmt: skip
_PERSON = "(?:person|people|m[ae]n|wom[ae]n|boys?|girls?|someone|somebody|individuals?)"
_INSIDE = frozenset(
    re.findall(r"\w+", "in with of on and getting taking feeding rowing bouncing from to holding riding")
)
_DETERMINER = (
    r"(?:\b(?:an?|the|this|that|his|her|its|their|your|my|our|one|each|any|some|with|of|shows?|depicts?|displays?"
    r"|contains?|features?|sees?)"
    # a label ("Image 1: saw") or a whole answer ("Saw.") needs no determiner
    r" (?:[a-z]+ )?|: |^(?=\W*\w+(?: \w+)?\W*$)\W*)"
)
_NEEDS_DETERMINER = frozenset(
    re.findall(
        r"\w+",
        """saw fly pick watch ring wave hook seal duck clamp comb plug label tag drop ship rock stone star bow lift spy
        cap bat judge cook guard train drum hammer fan pin form sheet letter page mail bill box shell target screw slide
        torch pan bolt present goal net bug worm bear ram horn lock chain link fire flag wind shower bath sponge pilot
        captain doctor scale balance die mask tie shop store house cycle auto fork wing hug shrug massage drink gift pot
        pie key chest brush book shield scroll spool thread needle reel console barrier bank score disk disc ice skate
        trailer trolley cart vice nest pouch flame bin cash cup hat mate squash top log fog camp notice sweet orange
        card stamp paint ground light chips bills trousers mobile land rain snow""",
    )
)


def names_all(text: str, objects: Iterable[str]) -> bool:
    """Whether ``text`` names every one of ``objects``."""
    return all(is_named(text, name) for name in objects)


@functools.lru_cache(maxsize=1 << 15)  # the same responses are counted again for every group they are in
def is_named(text: str, name: str) -> bool:
    """Whether ``text`` names the concept ``name``; an unknown name has no synonyms."""
    return bool(named_spans(plain(text), name))


def named_spans(text: str, name: str) -> list[tuple[int, int]]:
    """Ranges of characters where a ``plain`` text names the concept."""
    pattern, wider = _patterns(name)
    found = [match.span("name") for match in pattern.finditer(text)]
    if not found or wider is None:
        return found
    hidden = [match.span() for match in wider.finditer(text)]
    return [(a, b) for a, b in found if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in hidden)]


def plain(text: str) -> str:
    """The form for comparing names: lower case, straight apostrophes, no accents or hyphens, single spaces."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        text = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    return re.sub(r"[\s\-\u2010-\u2015]+", " ", text.lower())


@functools.cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Synonyms by concept, without concepts that have none."""
    table = importlib.resources.files("mis_lib.text").joinpath("synonyms.csv").read_text(encoding="utf-8")
    return {row["name"]: tuple(row["synonyms"].split("; ")) for row in csv.DictReader(io.StringIO(table))}


@functools.cache
def _patterns(name: str) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """A pattern for the concept (group ``name``), and one for other concepts whose names contain it."""
    listed = synonyms().get(name, ())
    forms = [plain(form) for form in (name, *listed)]
    wider = [
        spelled
        for other, spelled in _plain_names()
        if other != name and other not in listed and _inside(forms, spelled)
    ]
    ordered = sorted(forms, key=len, reverse=True)  # the longest form first, so that "cat face" is found before "cat"
    pattern = "|".join(_form_pattern(form) for form in ordered)
    hiding = "|".join(rf"\b{_inflected(other)}\b" for other in wider)
    return re.compile(rf"(?P<determiner>{_DETERMINER})?\b(?P<name>{pattern})\b"), re.compile(hiding) if hiding else None


@functools.cache
def _plain_names() -> list[tuple[str, str]]:
    return [(name, plain(name)) for name in concepts()]


def _inside(forms: list[str], wider: str) -> bool:
    return any(f" {form} " in f" {wider} " for form in forms)


def _form_pattern(form: str) -> str:
    # (?(determiner)...|(?!)) matches only where the optional group before took part
    return f"(?(determiner){_inflected(form)}|(?!))" if form in _NEEDS_DETERMINER else _inflected(form)


def _inflected(form: str) -> str:
    """A pattern for one form: singular or plural last word and head (before "of", "with", "in"), optional articles."""
    words = form.split(" ")
    heads = {len(words) - 1} | {i - 1 for i, word in enumerate(words) if word in _INSIDE and i}
    parts = []
    for i, word in enumerate(words):
        one = _PERSON if word == "person" else _numbers(word) if i in heads else re.escape(word)
        gap = " (?:(?:an?|the|his|her|their) )?" if word in _INSIDE else " ?"
        parts.append(one + (gap if i < len(words) - 1 else ""))
    return "".join(parts)


def _numbers(word: str) -> str:
    """A pattern for singular and plural of one word."""
    if word in _IRREGULAR:
        return f"(?:{word}|{_IRREGULAR[word]})"
    if word in _IRREGULAR.values():
        return word
    if word.endswith("ss") or not word.endswith("s"):
        if re.search(r"[^aeiou]y$", word):
            return f"{re.escape(word[:-1])}(?:y|ies)"
        return re.escape(word) + ("(?:es)?" if re.search(r"(?:s|x|ch|sh|o)$", word) else "s?")
    return f"{re.escape(word[:-1])}s?"
