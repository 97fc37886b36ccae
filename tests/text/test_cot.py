"""Segments cover a response and agree with known labels, measured on element files that were never used for tuning."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mis_lib.construct.elements import Element, load_elements
from mis_lib.construct.labels import DECLINING, Label, compose, pick, refusal_label, with_article
from mis_lib.construct.pairs import labels
from mis_lib.schema import SegmentKind
from mis_lib.text.refusals import REFUSALS
from mis_lib.text.segments import label_sentences, segment

P, R, A = SegmentKind.PERCEPTION, SegmentKind.REASONING, SegmentKind.ANSWER

TABLE = load_elements()
# The rules were tuned on rows of these files; every other file is held out.
TUNED_ON = {
    "abuse_physical_altercations.csv",
    "self_harm_physical.csv",
    "property_crimes.csv",
    "racial_ethnic.csv",
    "cybercrimes.csv",
    "unauthorized_data_collection.csv",
    "drug_related_offenses.csv",
    "gender.csv",
}
PERCEPTIONS = (
    "I can see {} in the first image and {} in the second one.",
    "Image 1: {}. Image 2: {}.",
    "In the first picture there is {}. The second picture depicts {}.",
)


class Accuracy(NamedTuple):
    """Share of right characters and sentences, with the number of each."""

    characters: float
    n_characters: int
    sentences: float
    n_sentences: int


def measure(labels: Iterator[Label]) -> Accuracy:
    right_characters = n_characters = right_sentences = n_sentences = 0
    for label in labels:
        truth = [part.kind for part in label.segments for _ in part.text]
        for piece in label_sentences(label.text):
            hits = sum(kind == piece.kind for kind in truth[piece.start : piece.end])
            right_characters += hits
            right_sentences += hits == piece.end - piece.start
            n_sentences += 1
        n_characters += len(truth)
    return Accuracy(right_characters / n_characters, n_characters, right_sentences / n_sentences, n_sentences)


def held_out() -> list[Element]:
    return [row for row in TABLE.elements if row.file not in TUNED_ON]


def shipped_form(row: Element) -> Iterator[Label]:
    """The three forms that the shipped variants are trained on."""
    key = f"{row.file} {row.row}"
    yield from labels(row, TABLE, key=key)
    yield refusal_label(key)


def other_perception(row: Element) -> Iterator[Label]:
    """The same parts behind perception sentences of another form."""
    key = f"{row.file} {row.row}"
    shape = pick(PERCEPTIONS, key)
    seen, twin_seen = (shape.format(*map(with_article, pair)) for pair in (row.pair, row.twin_pair))
    yield compose((P, seen), (R, row.risk), (A, f"{pick(DECLINING, key)} {row.safe_alternative}"))
    yield compose((P, twin_seen), (A, row.twin_answer))
    yield compose((R, row.risk), (A, f"{pick(DECLINING, key)} {row.safe_alternative}"))


def other_order(row: Element) -> Iterator[Label]:
    """Forms that no shipped variant is trained on: no refusal at all, or the refusal first."""
    key = f"{row.file} {row.row}"
    seen = PERCEPTIONS[0].format(*map(with_article, row.pair))
    yield compose((P, seen), (R, row.risk), (A, row.safe_alternative))
    yield compose((A, pick(REFUSALS, key)), (R, row.risk), (A, row.safe_alternative))


@pytest.mark.parametrize(
    ("form", "bar"),
    [(shipped_form, 0.97), (other_perception, 0.97), (other_order, 0.80)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_accuracy_on_held_out_rows(form, bar: float, record_property) -> None:
    rows = held_out()
    assert len(rows) >= 150
    accuracy = measure(label for row in rows for label in form(row))
    record_property("accuracy", str(accuracy))
    assert accuracy.characters >= bar, accuracy
    assert accuracy.sentences >= bar - 0.02, accuracy


MARKS = {"P": P, "R": R, "A": A}


def shaped(half: str) -> list[tuple[str, list[tuple[SegmentKind, str]]]]:
    """Text and parts of the hand-marked answers of one half."""
    section = (
        (Path(__file__).parents[1] / "data/answer_shapes.txt").read_text(encoding="utf-8").split(f"##### {half}\n")[1]
    )
    found = []
    for block in section.split("\n#####")[0].split("=== ")[1:]:
        marked = block.split("\n", 1)[1].strip("\n")
        parts = [(MARKS[mark], text) for mark, text in re.findall(r"«([PRA])»([^«]*)", marked)]
        found.append(("".join(text for _, text in parts), parts))
    return found


@pytest.mark.parametrize(
    ("half", "count", "bar", "whole_bar"), [("tuned", 62, 0.98, 0.95), ("held out", 44, 0.97, 0.93)]
)
def test_accuracy_on_the_shapes_of_answers(
    half: str, count: int, bar: float, whole_bar: float, record_property
) -> None:
    answers = shaped(half)
    assert len(answers) == count
    right = total = whole = 0
    for text, parts in answers:
        truth = [kind for kind, part in parts for _ in part]
        said = [part.kind for part in segment(text) for _ in part.text]
        hits = [truth[i] is said[i] for i, letter in enumerate(text) if letter.isalnum()]
        right, total, whole = right + sum(hits), total + len(hits), whole + all(hits)
    found = f"{right} of {total} letters, {whole} of {count} answers without a fault"
    record_property("accuracy", found)
    assert right / total >= bar, found
    assert whole / count >= whole_bar, found


SEEN = "The first image shows a candle and the second image shows a paper document."
RISK = "Bringing the lit candle near the papers could set them alight."
CASES: dict[str, tuple[str, list[tuple[SegmentKind, str]]]] = {
    "safety chain of thought": (
        f"{SEEN} {RISK} I can't help with that. If you need to get rid of old papers, use a shredder.",
        [(P, SEEN), (R, RISK), (A, "I can't help with that. If you need to get rid of old papers, use a shredder.")],
    ),
    "benign help": (
        f"{SEEN} Set the candle upright and put the papers away.",
        [(P, SEEN), (A, "Set the candle upright and put the papers away.")],
    ),
    "flat refusal": ("I'm sorry, but I can't help with that.", [(A, "I'm sorry, but I can't help with that.")]),
    "one word": ("Sorry", [(A, "Sorry")]),
    "caption only": ("The image shows a cat.", [(P, "The image shows a cat.")]),
    "one-line answer": ("Use a shredder.", [(A, "Use a shredder.")]),
    "refusal, then why": (
        "I'm sorry, but I can't help with that. Doing so could injure someone. Please talk to a friend.",
        [
            (A, "I'm sorry, but I can't help with that."),
            (R, "Doing so could injure someone."),
            (A, "Please talk to a friend."),
        ],
    ),
    "advice after a refusal may mention harm": (
        f"{SEEN} {RISK} I won't help with this. If someone could be hurt, call the emergency number.",
        [(P, SEEN), (R, RISK), (A, "I won't help with this. If someone could be hurt, call the emergency number.")],
    ),
    "numbered steps": (
        "The first image shows a bowl.\n1. Take the bowl.\n2. Fill it with 2.5 litres of water.\n3. Stir.",
        [
            (P, "The first image shows a bowl."),
            (A, "1. Take the bowl.\n2. Fill it with 2.5 litres of water.\n3. Stir."),
        ],
    ),
    "bulleted steps": (
        "Sure! Here is how:\n- take the candle\n- light it, e.g. with a match",
        [(A, "Sure! Here is how:\n- take the candle\n- light it, e.g. with a match")],
    ),
    "perception in several sentences": (
        "The first image shows a candle. It appears lit. The second image shows papers. To read them, open the folder.",
        [
            (P, "The first image shows a candle. It appears lit. The second image shows papers."),
            (A, "To read them, open the folder."),
        ],
    ),
    "perception by image label": (
        "Image 1: a candle.\nImage 2: papers.\n\nTogether they point to a fire. I can't assist with this.",
        [
            (P, "Image 1: a candle.\nImage 2: papers."),
            (R, "Together they point to a fire."),
            (A, "I can't assist with this."),
        ],
    ),
    "think block": (
        "<think>\nThe first image shows a knife. The second shows a child. The user wants to combine them. That is "
        "dangerous.\n</think>\nI can't help with this. Keep knives away from children.",
        [
            (R, "<think>"),
            (P, "The first image shows a knife. The second shows a child."),
            (R, "The user wants to combine them. That is dangerous.\n</think>"),
            (A, "I can't help with this. Keep knives away from children."),
        ],
    ),
    "markdown headings": (
        "## Image descriptions\nA candle on a table.\n\n## Risk analysis\nA flame next to paper starts fires.\n\n"
        "## Recommendation\nKeep them apart.\n- Store paper in a cabinet.",
        [
            (P, "## Image descriptions\nA candle on a table."),
            (R, "## Risk analysis\nA flame next to paper starts fires."),
            (A, "## Recommendation\nKeep them apart.\n- Store paper in a cabinet."),
        ],
    ),
    "tips behind steps": (
        "### How to use it\n1. Rinse it.\n\n### Safety tips\n- Switch off the mains first.",
        [(A, "### How to use it\n1. Rinse it.\n\n### Safety tips\n- Switch off the mains first.")],
    ),
    "one image after the other": (
        f"I can see two images. In the first, there's a candle; in the second, a pile of papers. {RISK} Keep them "
        "apart.",
        [
            (P, "I can see two images. In the first, there's a candle; in the second, a pile of papers."),
            (R, RISK),
            (A, "Keep them apart."),
        ],
    ),
    "bold labels": (
        "**Perception:** A candle and papers.\n**Reasoning:** Fire spreads.\n**Answer:** I won't help.",
        [
            (P, "**Perception:** A candle and papers."),
            (R, "**Reasoning:** Fire spreads."),
            (A, "**Answer:** I won't help."),
        ],
    ),
    "tags of parts": (
        "<caption>A candle and papers.</caption><reasoning>Fire spreads.</reasoning><answer>I won't help.</answer>",
        [
            (P, "<caption>A candle and papers.</caption>"),
            (R, "<reasoning>Fire spreads.</reasoning>"),
            (A, "<answer>I won't help.</answer>"),
        ],
    ),
    "instruction that points at an image": (
        "To use the object shown in the first image, hold it upright.",
        [(A, "To use the object shown in the first image, hold it upright.")],
    ),
    "reasoning without refusal": (
        f"{SEEN} {RISK} Keep open flames away from paper.",
        [(P, SEEN), (R, RISK), (A, "Keep open flames away from paper.")],
    ),
    "no reasoning, no images": ("Paris is the capital of France.", [(A, "Paris is the capital of France.")]),
    "abbreviation inside": (
        "The image shows Dr. Smith at 9 a.m. today. Call him.",
        [(P, "The image shows Dr. Smith at 9 a.m. today."), (A, "Call him.")],
    ),
    "opening word": ("Sure! The image shows a cat.", [(P, "Sure! The image shows a cat.")]),
    "blind": ("I can't see the images.", [(A, "I can't see the images.")]),
    "empty": ("", []),
    "a name over an item reaches over that item": (
        "Here is how:\n\n1. **Rinse it**\n   - **Why:** it takes the starch away.\n2. **Boil it**\n   - Add water.",
        [
            (
                A,
                "Here is how:\n\n1. **Rinse it**\n   - **Why:** it takes the starch away.\n2. **Boil it**\n"
                "   - Add water.",
            )
        ],
    ),
    "an item of thought among steps": (
        "### Steps\n1. Rinse it.\n2. **Risk**: it burns\n3. Boil it.",
        [(A, "### Steps\n1. Rinse it."), (R, "2. **Risk**: it burns"), (A, "3. Boil it.")],
    ),
    "what leads to a description": (
        f"Based on the images provided:\n\n- **Image 1** shows a match.\n- **Image 2** shows hay.\n\n{RISK}",
        [(P, "Based on the images provided:\n\n- **Image 1** shows a match.\n- **Image 2** shows hay."), (R, RISK)],
    ),
    "a remark before the description answers nothing": (
        "I understand that you ask about these two. The image provided shows a candle next to a propane tank. "
        "Propane is highly flammable. A spark could cause an explosion. Instead, use a lamp.",
        [
            (A, "I understand that you ask about these two."),
            (P, "The image provided shows a candle next to a propane tank."),
            (R, "Propane is highly flammable. A spark could cause an explosion."),
            (A, "Instead, use a lamp."),
        ],
    ),
    "a label behind those of the images": (
        "**Image 1**: a needle.\n\n**Image 2**: a balloon.\n\n**Connection**: The needle can pop the balloon.",
        [
            (P, "**Image 1**: a needle.\n\n**Image 2**: a balloon."),
            (R, "**Connection**: The needle can pop the balloon."),
        ],
    ),
    "a Chinese sentence is no opening word": (
        "图中有一只猫。可以给它一些水。",
        [(P, "图中有一只猫。"), (A, "可以给它一些水。")],
    ),
    "numbered headings": (
        "### 1. Description of the images:\n**Image 1**: knife.\n\n### 2. Safety analysis\nNo risk here.\n\n"
        "### 3. Final answer\nCut it.",
        [
            (P, "### 1. Description of the images:\n**Image 1**: knife."),
            (R, "### 2. Safety analysis\nNo risk here."),
            (A, "### 3. Final answer\nCut it."),
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_hand_written(text: str, expected: list[tuple[SegmentKind, str]]) -> None:
    assert [(part.kind, part.text.strip()) for part in segment(text)] == expected


DESCRIPTIONS = (
    "The image on the left shows a bottle, while the image on the right shows a steering wheel.",
    "The images you've provided show a knife and a child.",
    "The images provided show a knife and a child.",
    "The two images you shared are of a knife and a child.",
    "On the left is a bottle of bleach, and on the right is a toddler.",
    "Image A is a knife.",
    "The first image you sent shows a knife.",
    "From the images, I can see a knife and a cake.",
    "Looking at the images, I notice a knife in the first and a cake in the second.",
    "It looks like the first image is a knife.",
    "You've shared two images: one of a knife and one of a cake.",
    "The person in the first image is holding a knife.",
    "The second photo, taken at night, shows a street.",
    "The scene in the second image includes a table.",
)


@pytest.mark.parametrize("sentence", DESCRIPTIONS)
def test_ways_to_say_what_the_images_show(sentence: str) -> None:
    parts = segment(f"{sentence} {RISK} I can't help with that.")
    assert [(part.kind, part.text.strip()) for part in parts] == [
        (P, sentence),
        (R, RISK),
        (A, "I can't help with that."),
    ]


LONG = """<think>
Let me look at the images first. The first image shows a chef's knife on a wooden board. The blade is about 20 cm \
long. The second image shows a toddler on a kitchen floor. The question asks how to let the one use the other. \
A toddler could cut himself badly. I should not explain that.
</think>

# Safe answer

I can't give instructions for this, because the child might be injured.

**What you can do instead**

1. Give the child a wooden spoon.
2. Store knives in a locked drawer, e.g. above 1.5 m.

Stay nearby while you cook!"""


def test_long_answer_of_a_thinking_model() -> None:
    parts = segment(LONG)
    assert [part.kind for part in parts] == [R, P, R, A]
    answer = parts[-1].text
    assert "20 cm" in parts[1].text
    assert answer.startswith("# Safe answer")
    assert answer.endswith("Stay nearby while you cook!")


PIECES = st.sampled_from(
    [
        "The first image shows a cat. ",
        "It could hurt him. ",
        "I can't help with that. ",
        "Use it. ",
        "1. Take it.\n",
        "<think>",
        "</think>",
        "## Risk\n",
        "**Answer:** ",
        "\n\n",
        "| a. B | c |\n",
        "```\n",
        "\nReasoning: ",
        "Step 1: Look.\n",
        "Analysis\n",
        "   - **Risk**: ",
        "图1: ",
        "危险。",
        "  ",
        "word ",
        ".",
        "Why? ",
        "é",
        "Image 2: a dog. ",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_segments_cover_any_text_in_order(text: str) -> None:
    parts = segment(text)
    assert "".join(part.text for part in parts) == text
    at = 0
    for part in parts:
        assert (part.start, text[part.start : part.end]) == (at, part.text)
        at = part.end
    assert all(left.kind != right.kind for left, right in itertools.pairwise(parts))
