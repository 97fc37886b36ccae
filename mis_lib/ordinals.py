"""What texts call the images of a prompt by their place: "the first image"."""

import re

ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth", "sixth")
"""As many as a prompt can have images."""


def rename_ordinals(question: str, count: int) -> str:
    """The question with "first" and "last" ... exchanged, as it has to be asked when ``count`` images come in reverse order."""
    names = ORDINALS[:count]
    exchanged = dict(zip(names, reversed(names), strict=True))
    return re.sub(
        rf"\b({'|'.join(names)})\b",
        lambda found: _same_case(exchanged[found[0].lower()], found[0]),
        question,
        flags=re.IGNORECASE,
    )


def _same_case(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
