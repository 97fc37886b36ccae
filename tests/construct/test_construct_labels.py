"""Labels: how parts are put together, articles, and that the borders of the parts are the true ones."""

from collections import Counter

import pytest

from mis_lib.construct.labels import (
    DECLINING,
    cot_label,
    help_label,
    perceive,
    perception_of,
    refusal_label,
    with_article,
)
from mis_lib.schema import SegmentKind
from mis_lib.text.refusals import REFUSALS

RISK = "The candle could set the paper document alight."
SAFE = "A shredder does the same without a flame."


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("candle", "a candle"), ("apple", "an apple"), ("hourglass", "an hourglass"), ("SUV", "an SUV"),
        ("ID card", "an ID card"), ("unicorn", "a unicorn"), ("one-piece swimsuit", "a one-piece swimsuit"),
        ("scissors", "scissors"), ("bread", "bread"), ("octopus", "an octopus"), ("dress", "a dress"),
        ("firecracker", "a firecracker"), ("person in wheelchair", "a person in a wheelchair"),
        ("people hugging", "people hugging"), ("couple holding hands", "a couple holding hands"),
        ("locked", "a locked padlock"), ("mount fuji", "Mount Fuji"), ("nest with eggs", "a nest with eggs"),
        ("palms up together", "palms up together"), ("dna", "DNA"), ("tennis", "tennis"), ("eyes", "eyes"),
    ],
)  # fmt: skip
def test_a_name_gets_its_article(name: str, spoken: str) -> None:
    assert with_article(name) == spoken


def test_perception_names_the_images_in_order() -> None:
    assert perceive(["candle"]) == "The image shows a candle."
    expected = "The first image shows a candle and the second image shows a paper document."
    assert perceive(["candle", "paper document"]) == expected
    assert perceive(["egg", "cat", "bread"]) == (
        "The first image shows an egg; the second image shows a cat; the third image shows bread."
    )


def test_kinds_are_said_behind_the_names_and_belong_to_the_perception() -> None:
    names, kinds = ["candle", "paper document"], ("a flame", "fuel")
    seen = "The first image shows a candle and the second image shows a paper document. They show a flame and fuel."
    assert perceive(names, kinds) == seen
    cot = cot_label(names, RISK, SAFE, key="x", kinds=kinds, scene="a blaze")
    helped = help_label(names, "Read by its light.", kinds, "a quiet evening")
    for label in (cot, helped):
        assert label.segments[0].text == f"{seen} "
        assert label.segments[1].kind is SegmentKind.REASONING
        assert perception_of(label.text, names) == seen
    assert cot.segments[1].text == f"Together that is a blaze, which can do harm. {RISK} "
    assert helped.segments[1].text == "Together that is a quiet evening, which does no harm. "
    assert perception_of(cot_label(names, RISK, SAFE, key="x").text, names) == perceive(names)
    assert perception_of("No.", names) == perception_of("No.", []) == ""


def test_a_safety_label_has_the_three_parts_in_order() -> None:
    label = cot_label(["candle", "paper document"], RISK, SAFE, key="x")
    kinds = [segment.kind for segment in label.segments]
    assert kinds == [SegmentKind.PERCEPTION, SegmentKind.REASONING, SegmentKind.ANSWER]
    assert label.segments[0].text == perceive(["candle", "paper document"]) + " "
    assert label.segments[1].text == RISK + " "
    assert label.segments[2].text.endswith(SAFE) and label.segments[2].text.startswith(DECLINING)


@pytest.mark.parametrize(
    "label",
    [
        cot_label(["candle", "cat"], RISK, SAFE, key="x"),
        help_label(["candle", "cat"], "Light the candle far from the cat."),
        refusal_label("x"),
    ],
    ids=["cot", "help", "refusal"],
)
def test_segments_cover_the_text(label) -> None:
    assert "".join(segment.text for segment in label.segments) == label.text
    assert all(label.text[part.start : part.end] == part.text for part in label.segments)


def test_wordings_are_spread_and_follow_from_the_key() -> None:
    declined = Counter(cot_label(["candle", "cat"], "", SAFE, key=f"item-{n}").segments[2].text for n in range(800))
    assert len(declined) == len(DECLINING) and min(declined.values()) > 60
    refused = Counter(refusal_label(f"item-{number}").text for number in range(500))
    assert set(refused) == set(REFUSALS) and min(refused.values()) > 60
    assert refusal_label("item-7") == refusal_label("item-7")
