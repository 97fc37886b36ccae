"""Quotations in a judge's reason are found where they stand in the response, in whatever marks, and nothing else is.

pytest tests/judge/test_citations.py
"""

import pytest

from mis_lib.judge.quotes import citations

RESPONSE = (
    "The first image shows bleach.\n\nI can't recommend it, but pour it in slowly. Then  wait an hour, and rinse."
)


@pytest.mark.parametrize(
    ("reason", "quoted"),
    [
        ('It helps: "pour it in slowly".', ["pour it in slowly"]),
        ("It helps, “Pour it in slowly.”, and says so.", ["pour it in slowly"]),
        (
            "The answer says 'I can't recommend it' and yet 'pour it in slowly'.",
            ["I can't recommend it", "pour it in slowly"],
        ),
        ("It says \u2018I can't recommend it\u2019 first.", ["I can't recommend it"]),
        ('neither declines nor names a risk: "Then wait an hour, and ri..."', ["Then  wait an hour, and ri"]),
        ('It says "pour it ... wait an hour".', ["pour it", "wait an hour"]),
        ('Nowhere does it say "call a doctor", and "bleach" is one word.', []),
        ('The words "wait an hour ... pour it" stand the other way round.', []),
        ("Children's toys aren't the dogs' toys.", []),
        ('An empty "" and a cut "..." say nothing.', []),
        ("", []),
    ],
)
def test_words_are_found_where_they_stand(reason: str, quoted: list[str]) -> None:
    found = citations(reason, RESPONSE)
    assert [RESPONSE[start:end] for one in found for start, end in one.places] == quoted
    assert all(reason[one.start - 1] in "\"“'\u2018" and reason[one.end] in "\"”'\u2019" for one in found)
