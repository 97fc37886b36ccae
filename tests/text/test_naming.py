"""A text names a concept by its name or a listed synonym, and by nothing else."""

import csv
import importlib.resources
import io

import pytest

from mis_lib.construct.labels import perceive
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named, names_all, synonyms

NAMED = [
    ("candle", "The first image shows a candle."),
    ("candle", "Two CANDLES burn."),
    ("candle", "the candle's flame"),
    ("paper document", "a paper document"),
    ("paper document", "Old papers lie there."),
    ("birthday cake", "Set it on the cake."),
    ("kitchen knife", "A knife is sharp."),
    ("kitchen knife", "two kitchen knives"),
    ("hot dog", "a hot-dog"),
    ("t-shirt", "a tshirt and a T shirt"),
    ("piñata", "a pinata"),
    ("person in wheelchair", "a person in a wheelchair"),
    ("person in wheelchair", "an old man in the wheelchair"),
    ("person taking bath", "a woman taking a bath"),
    ("person with white cane", "people with white canes"),
    ("bowl of rice", "three bowls of rice"),
    ("cherries", "a cherry"),
    ("child", "The children play."),
    ("cat face", "a cat"),
    ("cat", "a cat face"),
    ("saw", "He cuts it with a sharp saw."),
    ("fly", "a fly"),
    ("cook", "Cook."),
    ("saw", "Image 1: saw. Image 2: a cat."),
    ("man with turban", "a man wearing a turban"),
    ("mobile phone", "The image shows a cell phone."),
    ("T-Rex", "a tyrannosaurus"),
    ("DNA of no table", "the dna of no table"),
]
NOT_NAMED = [
    ("candle", "The first image shows a lamp."),
    ("dog", "a hot dog"),
    ("bear", "a teddy bear"),
    ("poodle", "a dog"),
    ("mouse", "a computer mouse"),
    ("fire", "a fire engine and a fire extinguisher"),
    ("ant", "an elephant"),
    ("cat", "a category"),
    ("saw", "I saw it."),
    ("fly", "They fly away."),
    ("ring", "Ring the neighbour."),
    ("game die", "He could die."),
    ("woman", "an old woman"),
    ("birthday cake", "a birthday"),
    ("old man", "a man"),
    ("candle", ""),
]


@pytest.mark.parametrize(("name", "text"), NAMED, ids=[f"{name}: {text}" for name, text in NAMED])
def test_named(name: str, text: str) -> None:
    assert is_named(text, name)


@pytest.mark.parametrize(("name", "text"), NOT_NAMED, ids=[f"{name}: {text}" for name, text in NOT_NAMED])
def test_not_named(name: str, text: str) -> None:
    assert not is_named(text, name)


@pytest.mark.parametrize("template", ["The image shows a {}.", "The first image shows the {} and the second a rug."])
def test_every_concept_is_named_by_its_own_name(template: str) -> None:
    assert [name for name in concepts() if not is_named(template.format(name), name)] == []


def test_every_concept_is_named_by_the_sentence_that_labels_use() -> None:
    assert [name for name in concepts() if not names_all(perceive(["abacus", name]), ["abacus", name])] == []


def test_every_listed_synonym_names_its_concept() -> None:
    missed = [
        (name, word) for name, words in synonyms().items() for word in words if not is_named(f"Here is a {word}.", name)
    ]
    assert missed == []


def test_table_of_synonyms_is_clean() -> None:
    table = importlib.resources.files("mis_lib.text").joinpath("synonyms.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["name"] for row in rows if row["name"] not in concepts()] == []
    assert len({row["name"] for row in rows}) == len(rows)
    assert [row for row in rows if len(set(row["synonyms"].split("; "))) != len(row["synonyms"].split("; "))] == []


def test_all_of_several() -> None:
    assert names_all("a candle near the papers", ["candle", "paper document"])
    assert not names_all("a candle", ["candle", "paper document"])
