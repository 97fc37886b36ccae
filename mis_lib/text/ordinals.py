"""How texts refer to the images of a prompt by position: "the first image", "image 1"."""

import re

ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth", "sixth")
"""One for each image that a prompt can have."""

_IMAGE = r"(?:image|picture|photo(?:graph)?|pic|panel|frame|figure)"
# Nouns after "the first" that are no image; "do this first", "First, ..." and "a second" are no images either.
_NO_IMAGE = r"(?:thing|step|time|place|aid|half|part|hour|minute|day|night|week|month|year|floor|hand|person|of all)"
# "The right picture" alone may be the correct one; "turn it to the left" is a direction.
_SIDE = re.compile(
    rf"\b(?:left|right)(?:-hand)?(?: (?:and|or) (?:the )?(?:left|right)(?:-hand)?)? {_IMAGE}s?\b"
    rf"|\b(?:{_IMAGE}|object|item|scene|thing|one)s? (?:on|to|at) the (?:left|right)\b(?! (?:track|path|foot)\b)",
    re.IGNORECASE,
)
_OTHER = {"left": "right", "right": "left", "former": "latter", "latter": "former"}


def rename_ordinals(question: str, count: int) -> str:
    """The question for ``count`` images in reverse order: of two images, "first" and "second" are exchanged.

    Images are named by words (the first, second image), by numbers (2nd picture, image 1, images 1 and 2), as the last
    one, or by side (the left image, the thing on the right). A "first" in time stays. "The former" of two is an image
    only if the question names images in no other way; otherwise it refers to those words and stays.
    """
    places = [*ORDINALS[:count]]
    numbers = [f"{place + 1}{('st', 'nd', 'rd')[place] if place < 3 else 'th'}" for place in range(count)]
    exchanged = {name: other for names in (places, numbers) for name, other in zip(names, names[::-1], strict=True)}
    exchanged["last"] = "first"
    place, any_name = "|".join(places), "|".join(exchanged)
    followed = rf"(?: (?:and|or|to|with) (?:{any_name})\b)?(?: (?:{_IMAGE}|object|item|scene|one)s?\b)"
    named = re.compile(
        rf"(?<=\bthe )(?:{place})\b(?! {_NO_IMAGE}s?\b)|\b(?:{any_name})\b(?={followed})"
        rf"|(?<=\bthen )(?:{place})\b(?=[?.!]|$)",
        re.IGNORECASE,
    )
    numbered = re.compile(
        rf"\b{_IMAGE}s?[ #-]{{,2}}[1-{count}]\b(?:(?:, ?| and | or | & |/)[1-{count}]\b)*", re.IGNORECASE
    )
    found = named.sub(lambda word: _same_case(exchanged[word[0].lower()], word[0]), question)
    found = numbered.sub(lambda name: re.sub(r"\d", lambda digit: str(count + 1 - int(digit[0])), name[0]), found)
    found = _exchange_sides(found)
    return _others(found, r"(?<=\bthe )(?:former|latter)\b") if found == question and count == 2 else found


def _exchange_sides(question: str) -> str:
    names = [name[0].lower() for name in _SIDE.finditer(question)]
    if all(name.startswith("right ") and "left" not in name for name in names):
        return question
    return _SIDE.sub(lambda name: _others(name[0], r"\b(?:left|right)\b"), question)


def _others(text: str, words: str) -> str:
    return re.sub(words, lambda word: _same_case(_OTHER[word[0].lower()], word[0]), text, flags=re.IGNORECASE)


def _same_case(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
