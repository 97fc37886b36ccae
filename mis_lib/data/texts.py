"""Texts in the form in which they are compared: without case, accents of typography, punctuation and runs of white space."""

import re
import unicodedata

_NOT_WORD = re.compile(r"[^\w]+|_")


def normalised(text: str) -> str:
    """The words of a text in lower case, NFKC, single spaces between them."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
