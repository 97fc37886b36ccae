"""Sentence spans: they cover the text, and are cut where a reader would cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mis_lib.text.sentences import is_finished, sentences, spans

CASES = {
    "two plain": ("It is a cat. It sleeps.", ["It is a cat.", "It sleeps."]),
    "no stop at the end": ("It is a cat. It sle", ["It is a cat.", "It sle"]),
    "decimal": ("Use 2.5 litres. Stir.", ["Use 2.5 litres.", "Stir."]),
    "e.g.": ("Use a tool, e.g. a file. Stop.", ["Use a tool, e.g. a file.", "Stop."]),
    "e.g. before a capital": ("Ask someone, e.g. Anna. Stop.", ["Ask someone, e.g. Anna.", "Stop."]),
    "title": ("Dr. Smith can help. Call.", ["Dr. Smith can help.", "Call."]),
    "initials": ("George W. Bush came. He left.", ["George W. Bush came.", "He left."]),
    "vitamin": ("It has vitamin C. Eat it.", ["It has vitamin C.", "Eat it."]),
    "etc goes on": ("Paper, pens, etc. are fine. Go.", ["Paper, pens, etc. are fine.", "Go."]),
    "etc ends": ("Bring paper, pens, etc. Then go.", ["Bring paper, pens, etc.", "Then go."]),
    "time": ("Come at 9 a.m. and wait. Fine.", ["Come at 9 a.m. and wait.", "Fine."]),
    "country": ("It is law in the U.S. and here. Fine.", ["It is law in the U.S. and here.", "Fine."]),
    "question and shout": ("Why? Because! OK.", ["Why?", "Because!", "OK."]),
    "ellipsis goes on": ("Well... maybe not. No.", ["Well... maybe not.", "No."]),
    "quote": ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
    "quote goes on": ('"Stop!" she said. He did.', ['"Stop!" she said.', "He did."]),
    "numbered list": ("Do this:\n1. Take it.\n2. Put it down.", ["Do this:", "1. Take it.", "2. Put it down."]),
    "numbered list in a line": ("1. Take it. 2. Put it down.", ["1. Take it.", "2. Put it down."]),
    "numbered list after a colon": ("Do this: 1. Take it. 2. Go.", ["Do this:", "1. Take it.", "2. Go."]),
    "colon alone": ("One rule: Take it. Go.", ["One rule: Take it.", "Go."]),
    "step": ("Step 1. Take it. Step 2. Go.", ["Step 1. Take it.", "Step 2. Go."]),
    "bullets without stops": ("Bring:\n- a cup\n- a spoon", ["Bring:", "- a cup", "- a spoon"]),
    "heading": ("## Risk\nIt burns.", ["## Risk", "It burns."]),
    "bold heading": ("**Risk**\nIt burns.", ["**Risk**", "It burns."]),
    "bold label": ("**Risk:** It burns. Stop.", ["**Risk:** It burns.", "Stop."]),
    "wrapped line": ("It is a very\nlong line. End.", ["It is a very\nlong line.", "End."]),
    "paragraphs without stops": ("First part\n\nsecond part", ["First part", "second part"]),
    "think tags": ("<think>\nA cat. Risky.\n</think>\nNo.", ["<think>", "A cat.", "Risky.", "</think>", "No."]),
    "think tags in a line": ("<think>A cat.</think>No.", ["<think>", "A cat.", "</think>", "No."]),
    "chinese": ("这是猫。不行。", ["这是猫。", "不行。"]),
    "empty": ("", []),
    "blank": (" \n ", []),
    "one word": ("Sorry", ["Sorry"]),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_cut_where_a_reader_cuts(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


PIECES = st.sampled_from([*"aA1 .!?\n-*#<>:\"'()。", "Dr", "e.g.", "<think>", "1. ", " The", "word "])


@given(st.lists(PIECES, max_size=60).map("".join))
def test_spans_cover_any_text(text: str) -> None:
    pieces = spans(text)
    assert "".join(text[a:b] for a, b in pieces) == text
    assert all(a < b for a, b in pieces)
    assert all(left.end == right.start for left, right in itertools.pairwise(pieces))


@pytest.mark.parametrize(
    ("sentence", "finished"),
    [("Yes.", True), ('He said "no."', True), ("**Yes!**", True), ("It is", False), ("", False)],
)
def test_finished(sentence: str, finished: bool) -> None:
    assert is_finished(sentence) is finished
