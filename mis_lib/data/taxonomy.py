"""MIS's categories and sub-categories (paper section 3.2), spelled as in its data files: what every other spelling is held against."""

import difflib
from collections.abc import Iterable, Mapping

TAXONOMY: Mapping[str, tuple[str, ...]] = {
    "Illegal Activity": ("Property Crimes", "Cybercrimes", "Drug-Related Offenses", "Human Trafficking"),
    "Violent": ("Weapon-Related", "Public Violence & Rioting", "Abuse & Physical Altercations"),
    "Hate": ("Racial/Ethnic", "Gender"),
    "Self-Harm": ("Physical", "Psychological"),
    "Privacy": ("Unauthorized Data Collection", "Identity Theft"),
    "Erotic": ("Erotic",),
}


def close_to(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x' or 'y'?)"`` for the known names that look like ``name``; empty if none does."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
