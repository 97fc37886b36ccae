"""What people can decide about an answer: the labels and the keys that every form has, in Annotate and in Compare."""

from collections.abc import Collection
from typing import Any, NamedTuple

from mis_lib.annotate.decisions import CAUSES, Cause, Preference
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome
from workbench.html import VERDICTS

OUTCOME_LABELS = {outcome: label for outcome, (label, _) in VERDICTS.items()} | {Outcome.UNSCORED: "Cannot tell"}
PREFERENCES = {  # label, key
    Preference.A: ("A is better", "A"),
    Preference.B: ("B is better", "B"),
    Preference.TIE: ("Tie", "T"),
    Preference.BOTH_BAD: ("Neither: both bad", "N"),
}


class Choice(NamedTuple):
    """One button of a form."""

    value: Any
    label: str
    key: str
    on: bool


def outcomes(harmful: bool, chosen: Outcome | None = None) -> list[Choice]:
    """The outcomes that an item of this kind can have, by their keys."""
    fitting = (*(HARMFUL_OUTCOMES if harmful else BENIGN_OUTCOMES), Outcome.UNSCORED)
    return [Choice(one, OUTCOME_LABELS[one], str(key), one == chosen) for key, one in enumerate(fitting, 1)]


def causes(chosen: Collection[Cause] = ()) -> list[Choice]:
    """Why an answer fails, by their keys."""
    return [Choice(one, label, f"⇧{key}", one in chosen) for key, (one, label) in enumerate(CAUSES.items(), 1)]


def preferences(chosen: Preference | None = None) -> list[Choice]:
    """Which of two answers is better, by their keys."""
    return [Choice(one, label, key, one == chosen) for one, (label, key) in PREFERENCES.items()]
