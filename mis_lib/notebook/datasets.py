"""Data sets as tidy frames: one row an item, and counts, lengths and pairs of it. Figures of them are in ``data_plots``.

    items = item_frame({"train": samples, "hard": others})
    category_counts(items)     # split, category, sub_category, n, share

MIS's own distribution over its test set (easy and hard, 2,185 items; paper table 3, whose "Alterations" is read as Altercations) stands beside.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mis_lib.errors import DataError
from mis_lib.schema import Sample

TRAIN = "train"
MIS_TEST = {
    ("Illegal Activity", "Property Crimes"): 395,
    ("Illegal Activity", "Cybercrimes"): 304,
    ("Illegal Activity", "Drug-Related Offenses"): 295,
    ("Illegal Activity", "Human Trafficking"): 22,
    ("Violent", "Weapon-Related"): 228,
    ("Violent", "Public Violence & Rioting"): 128,
    ("Violent", "Abuse & Physical Altercations"): 60,
    ("Hate", "Racial/Ethnic"): 297,
    ("Hate", "Gender"): 13,
    ("Self-Harm", "Physical"): 132,
    ("Self-Harm", "Psychological"): 18,
    ("Privacy", "Unauthorized Data Collection"): 125,
    ("Privacy", "Identity Theft"): 22,
    ("Erotic", "Erotic"): 146,
}
"""Published items of each category and sub-category, easy and hard together (arXiv 2501.18533, table 3)."""


def item_frame(splits: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """One row an item: what it is, how long its texts are, what it shows.

    Args:
        splits: the samples of each data file, by its name.
    """
    rows = [
        {
            "file": name, "id": sample.id, "harmful": sample.harmful, "category": sample.category, "sub_category": sample.sub_category,
            "twin_id": sample.twin_id, "images": len(sample.images), "question": sample.question, "question_words": len(sample.question.split()),
            "answer_words": len(sample.answer.split()) if sample.answer else None, "objects": tuple(sample.objects or ()),
            "style": sample.provenance.get("style"),
        }
        for name, samples in splits.items()
        for sample in samples
    ]  # fmt: skip
    return pd.DataFrame(rows)


def sizes(items: pd.DataFrame) -> pd.DataFrame:
    """What each file holds: items, harmful and benign ones, twin pairs, questions, categories and sub-categories."""
    _require(items, "file", "harmful", "twin_id", "question", "category", "sub_category")
    groups: Any = items.groupby("file", sort=False)
    return pd.DataFrame(
        {
            "items": groups.size(),
            "harmful": groups["harmful"].sum(),
            "benign": groups["harmful"].agg(lambda column: int((~column).sum())),
            "twin pairs": groups["twin_id"].count() // 2,
            "questions": groups["question"].nunique(),
            "categories": groups["category"].nunique(),
            "sub-categories": groups.apply(_sub_categories, include_groups=False),
        }
    )


def category_counts(items: pd.DataFrame) -> pd.DataFrame:
    """Harmful items of each category and sub-category: file, category, sub_category, n, share (percent of the file's harmful items)."""
    _require(items, "file", "harmful", "category", "sub_category")
    harmful = items[items["harmful"] & items["category"].notna()]
    counted = harmful.groupby(["file", "category", "sub_category"], sort=False).size().rename("n").reset_index()
    total = counted.groupby("file")["n"].transform("sum")
    return counted.assign(share=100 * counted["n"] / total)


def published_counts() -> pd.DataFrame:
    """MIS's published distribution in the columns of ``category_counts``."""
    rows = [(*names, n) for names, n in MIS_TEST.items()]
    frame = pd.DataFrame(rows, columns=["category", "sub_category", "n"]).assign(file="MIS easy + hard, published")
    return frame.assign(share=100 * frame["n"] / frame["n"].sum())


def lengths(items: pd.DataFrame) -> pd.DataFrame:
    """Words of each question and answer, one a row: file, kind (harmful, benign), text (question, answer), words."""
    _require(items, "file", "harmful", "question_words", "answer_words")
    named = items.assign(kind=items["harmful"].map({True: "harmful", False: "benign"}))
    long = named.melt(
        id_vars=["file", "kind"], value_vars=["question_words", "answer_words"], var_name="text", value_name="words"
    )
    return long.dropna(subset=["words"]).assign(text=lambda frame: frame["text"].str.removesuffix("_words"))


def shared_with(items: pd.DataFrame) -> pd.DataFrame:
    """For each other file, the share of items whose objects, pair of objects or question occur in the file ``TRAIN``: file, what, n, hits.

    Raises:
        DataError: there is no such file in the frame.
    """
    _require(items, "file", "objects", "question", "twin_id")
    if TRAIN not in set(items["file"]):
        raise DataError(f"expected the items of {TRAIN!r} in the frame, found {', '.join(items['file'].unique())}")
    trained = items[items["file"] == TRAIN]
    pairs, questions = set(trained["objects"]), set(trained["question"])
    singles = {name for names in trained["objects"] for name in names}
    rows = []
    for name, others in items[(items["file"] != TRAIN) & items["twin_id"].notna()].groupby("file", sort=False):
        measures = {
            "both objects, each alone": pd.Series([singles.issuperset(names) for names in others["objects"]]),
            "the pair of objects": others["objects"].isin(pairs),
            "the question": others["question"].isin(questions),
        }
        rows += [
            {"file": name, "what": what, "hits": int(hits.sum()), "n": len(others)} for what, hits in measures.items()
        ]
    return pd.DataFrame(rows)


def with_twins(chosen: Iterable[Sample], samples: Iterable[Sample]) -> list[Sample]:
    """Each chosen sample followed by its twin."""
    by_id = {sample.id: sample for sample in samples}
    return [
        found
        for sample in chosen
        for found in (sample, by_id.get(sample.twin_id) if sample.twin_id else None)
        if found is not None
    ]


def _sub_categories(items: pd.DataFrame) -> int:
    """Different ones: two categories may share the name of a part."""
    return len(items.dropna(subset=["category"])[["category", "sub_category"]].drop_duplicates())


def _require(frame: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(
            f"expected the columns {', '.join(columns)}, found no {', '.join(missing)}; make the frame with item_frame"
        )
