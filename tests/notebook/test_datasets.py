"""Data sets as frames, shortcuts and choices: counted on sets small enough to count by hand.

pytest tests/notebook/test_datasets.py
"""

import pandas as pd
import pytest

from mis_lib.data.sources import stratified
from mis_lib.errors import DataError
from mis_lib.notebook import datasets
from mis_lib.schema import TAXONOMY, Sample


def item(
    name: str, first: str, second: str, *, harmful: bool = True, category: str = "Violent", part: str = "a"
) -> Sample:
    twin = f"{name}-twin" if harmful else name.removesuffix("-twin")
    return Sample(
        id=name, question=f"What about {name.removesuffix('-twin')}?", images=["1.png", "2.png"],
        objects=[first, second], harmful=harmful, twin_id=twin,
        category=category, sub_category=part, answer="one two three" if harmful else "one",
        provenance={"style": "openmoji"},
    )  # fmt: skip


TRAIN = [
    item("t1", "knife", "cake"),
    item("t1-twin", "knife", "bread", harmful=False),
    item("t2", "bread", "cup", category="Hate"),
]
HARD = [item("h1", "knife", "cup"), item("h1-twin", "cake", "cup", harmful=False)]


def test_counts_are_of_harmful_items_and_add_up() -> None:
    counts = datasets.category_counts(datasets.item_frame({"train": TRAIN, "hard": HARD}))
    assert counts.groupby("file")["n"].sum().to_dict() == {"train": 2, "hard": 1}
    assert counts.groupby("file")["share"].sum().round(9).to_dict() == {"train": 100.0, "hard": 100.0}
    sizes = datasets.sizes(datasets.item_frame({"train": TRAIN, "hard": HARD}))
    assert sizes.loc["train", ["items", "harmful", "benign", "categories"]].tolist() == [3, 2, 1, 2]


def test_lengths_leave_out_answers_that_are_not_there() -> None:
    bare = TRAIN[0].model_copy(update={"answer": None})
    words = datasets.lengths(datasets.item_frame({"train": [bare, TRAIN[1]]}))
    assert words[words["text"] == "answer"]["words"].tolist() == [1]
    assert len(words[words["text"] == "question"]) == 2


def test_what_is_shared_with_train_is_counted() -> None:
    shared = datasets.shared_with(datasets.item_frame({"train": TRAIN, "hard": HARD, "easy": TRAIN[:1]})).set_index(
        ["file", "what"]
    )["hits"]
    assert shared["hard", "both objects, each alone"] == 2
    assert shared["hard", "the pair of objects"] == 0
    assert shared["easy", "the pair of objects"] == shared["easy", "the question"] == 1
    with pytest.raises(DataError, match="train"):
        datasets.shared_with(datasets.item_frame({"hard": HARD}))


def test_the_published_distribution_is_the_papers() -> None:
    published = datasets.published_counts()
    assert published["n"].sum() == 2185
    assert {(row.category, row.sub_category) for row in published.itertuples()} == {
        (name, part) for name, parts in TAXONOMY.items() for part in parts
    }


def test_a_shortcut_is_found_where_there_is_one() -> None:
    """Knives are harmful always, cups never tell: the bound says so for each view."""
    rows = [item(f"x{n}", "knife", f"thing {n % 2}") for n in range(6)] + [
        item(f"y{n}-twin", "spoon", f"thing {n % 2}", harmful=False) for n in range(6)
    ]
    found = datasets.shortcuts(rows, {"hard": rows}).set_index(["view", "measure"])["value"]
    assert found["object 1", "bound"] == found["object 1", "trained"] == 100
    assert found["object 2", "bound"] == found["object 2", "trained"] == 50


def test_the_bound_of_a_view_by_hand() -> None:
    """Three of four with a candle are harmful and the only key is not: that object alone gives 4 of 5 at best."""
    seen = [("candle", True), ("candle", True), ("candle", False), ("candle", True), ("key", False)]
    rows = [
        Sample(id=str(at), question="?", images=["a.png", "b.png"], objects=[name, "house"], harmful=harmful)
        for at, (name, harmful) in enumerate(seen)
    ]
    assert [datasets.bound(rows, datasets.VIEWS[view]) for view in ("object 1", "object 2")] == [4, 3]


def test_the_best_single_view_is_named_and_of_equal_ones_all() -> None:
    bounds = {"hard": (50, 50, 50, 100), "easy": (75, 75, 50, 100), "real": (50, 75, 50, 100)}
    rows = [
        {"view": view, "split": split, "measure": "bound", "value": value, "n": 8}
        for split, values in bounds.items()
        for view, value in zip(("object 1", "object 2", "question", datasets.PAIR), values, strict=True)
    ]
    best = datasets.best_single(pd.DataFrame(rows))
    assert best["view"].tolist() == ["every single view", "object 1 and object 2", "object 2"]
    assert best["value"].tolist() == [50, 75, 75]


def test_few_samples_are_spread_and_more_keep_the_few() -> None:
    rows = [item(f"a{n}", "x", "y", part=str(n % 2)) for n in range(8)] + [
        item(f"b{n}", "x", "y", category="Hate") for n in range(2)
    ]
    assert [sample.category for sample in stratified(rows, 4)] == ["Violent", "Hate", "Violent", "Hate"]
    assert [sample.sub_category for sample in stratified(rows, 4) if sample.category == "Violent"] == ["0", "1"]
    for n in range(len(rows)):
        assert stratified(rows, n) == stratified(rows, n + 1)[:n]
    assert sorted(sample.id for sample in stratified(rows, 99)) == sorted(sample.id for sample in rows)
