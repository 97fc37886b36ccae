"""MIS's categories and sub-categories (paper section 3.2), spelled as in its data files: what every other spelling is held against."""

from collections.abc import Mapping

TAXONOMY: Mapping[str, tuple[str, ...]] = {
    "Illegal Activity": ("Property Crimes", "Cybercrimes", "Drug-Related Offenses", "Human Trafficking"),
    "Violent": ("Weapon-Related", "Public Violence & Rioting", "Abuse & Physical Altercations"),
    "Hate": ("Racial/Ethnic", "Gender"),
    "Self-Harm": ("Physical", "Psychological"),
    "Privacy": ("Unauthorized Data Collection", "Identity Theft"),
    "Erotic": ("Erotic",),
}
