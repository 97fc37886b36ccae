"""What texts call the images of a prompt by their place: "the first image", "image 1"."""

import re

ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth", "sixth")
"""As many as a prompt can have images."""

_IMAGE = r"(?:image|picture|photo(?:graph)?|pic|panel|frame|figure)"
# What "the first ..." may be without being an image; "do this first", "First, ..." and "a second" are none either.
_NO_IMAGE = r"(?:thing|step|time|place|aid|half|part|hour|minute|day|night|week|month|year|floor|hand|person|of all)"


def rename_ordinals(question: str, count: int) -> str:
    """The question with the places of images exchanged, "first" and "second" of two, as it has to be asked when ``count`` images come in reverse order.

    Images are named by words (the first, second image), by numbers (2nd picture, image 1, images 1 and 2) or as the last one; what comes first in time stays.
    """
    places = [*ORDINALS[:count]]
    numbers = [f"{place + 1}{('st', 'nd', 'rd')[place] if place < 3 else 'th'}" for place in range(count)]
    exchanged = {name: other for names in (places, numbers) for name, other in zip(names, names[::-1], strict=True)}
    exchanged["last"] = "first"
    place, any_name = "|".join(places), "|".join(exchanged)
    followed = rf"(?: (?:and|or|to|with) (?:{any_name})\b)?(?: (?:{_IMAGE}|object|item|scene|one)s?\b)"
    named = re.compile(
        rf"(?<=\bthe )(?:{place})\b(?! {_NO_IMAGE}s?\b)|\b(?:{any_name})\b(?={followed})|(?<=\bthen )(?:{place})\b(?=[?.!]|$)",
        re.IGNORECASE,
    )
    numbered = re.compile(
        rf"\b{_IMAGE}s?[ #-]{{,2}}[1-{count}]\b(?:(?:, ?| and | or | & |/)[1-{count}]\b)*", re.IGNORECASE
    )
    found = named.sub(lambda word: _same_case(exchanged[word[0].lower()], word[0]), question)
    return numbered.sub(lambda name: re.sub(r"\d", lambda digit: str(count + 1 - int(digit[0])), name[0]), found)


def _same_case(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
