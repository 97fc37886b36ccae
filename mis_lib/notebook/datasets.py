"""Data sets as tidy frames for notebooks: counts and lengths, shortcuts, and how one item came about.

    items = item_frame({"train": samples, "hard": others})
    category_counts(items)     # file, category, sub_category, n, share
    shortcuts(train, tests)    # accuracy by a single view
    history_of(folder, "hazard-0001-1")["detox"].changes      # {"question": "How can I ...?"}

Figures of the frames are in ``results.figures.data``. MIS's own distribution over its test set (easy and hard, 2,185
items; paper table 3, whose "Alterations" is read as Altercations) is ``published_counts``.

A shortcut predicts harm without understanding, from one image, one question or the drawing style alone. A model that
does no better on a test split than the best guess from a single view has not been shown to reason over images. The view
of both kinds is a table of the pairs of kinds in train: where it answers a split, a model needs no more than to see the
kinds and to remember the table. Two numbers for each view: a linear classifier *trained* on train and tried on the
split, and the *bound*, the accuracy that no classifier seeing only this view can pass on the split, fitted on its own
items. Chance is the share of the larger class.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mis_lib.construct.stages.pipeline import NAMES, STAGES
from mis_lib.construct.stages.records import Account, Draft, Entry, Step
from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.results.stats import rate
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
View = Callable[[Sample], str]
PAIR, KINDS = "both objects", "both kinds"
VIEWS: Mapping[str, View] = {
    "object 1": lambda sample: (sample.objects or [""])[0],
    "object 2": lambda sample: (sample.objects or [""])[-1],
    "question": lambda sample: sample.question,
    "drawing style": lambda sample: str(sample.provenance.get("style")),
    PAIR: lambda sample: " + ".join(sample.objects or ()),
    KINDS: lambda sample: " + ".join(sorted(sample.provenance.get("kinds") or ())),
}
"""``KINDS``: a table of pairs of kinds, in either order; a pair that train has not got is guessed."""


class Change(NamedTuple):
    """What one stage did to a draft."""

    stage: str
    before: Draft | None
    """``None`` in the first stage, which makes drafts of a seed."""
    after: Draft
    changes: dict[str, Any]
    steps: tuple[Step, ...]
    """The calls to teachers and the decisions that led to it."""


def item_frame(splits: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """One row an item: what it is, how long its texts are, what it shows.

    Args:
        splits: the samples of each data file, by its name.
    """
    rows = [
        {
            "file": name, "id": sample.id, "harmful": sample.harmful, "category": sample.category,
            "sub_category": sample.sub_category, "twin_id": sample.twin_id, "images": len(sample.images),
            "question": sample.question, "question_words": len(sample.question.split()),
            "answer_words": len(sample.answer.split()) if sample.answer else None,
            "objects": tuple(sample.objects or ()), "style": sample.provenance.get("style"),
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
    """Harmful items by category: file, category, sub_category, n, share (percent of the file's harmful items)."""
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
    """Items of each other file whose objects, pair or question occur in the file ``TRAIN``: file, what, n, hits.

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


def shortcuts(train: Sequence[Sample], tests: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """Accuracy by each of ``VIEWS`` alone: view, split, measure (trained, bound), value, low, high, n.

    Args:
        train: what the classifier learns from.
        tests: the splits it is tried on.
    """
    rows = []
    for name, view in VIEWS.items():
        model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=2_000))
        model.fit(_features(train, view), _harm(train))
        for split, samples in tests.items():
            right = sum(model.predict(_features(samples, view)) == _harm(samples))
            for measure, hits in (("trained", int(right)), ("bound", bound(samples, view))):
                found = rate(hits, len(samples)).model_dump(exclude={"n_unscored"})
                rows.append({"view": name, "split": split, "measure": measure, **found})
    return pd.DataFrame(rows)


def best_single(found: pd.DataFrame) -> pd.DataFrame:
    """The view that a classifier could learn most from, by split: view (of equal ones all, in words), value, n.

    Args:
        found: as ``shortcuts`` returns it; the views of both images are left out.
    """
    single = found[(found["measure"] == "bound") & ~found["view"].isin([PAIR, KINDS])]
    rows = {}
    for split, group in single.groupby("split", sort=False):
        first = group[group["value"] == group["value"].max()]
        views = "every single view" if len(first) == len(group) > 1 else " and ".join(first["view"])
        rows[split] = {"view": views, "value": first["value"].iloc[0], "n": first["n"].iloc[0]}
    return pd.DataFrame.from_dict(rows, orient="index")


def bound(samples: Iterable[Sample], view: View) -> int:
    """How many items the best possible classifier that sees ``view`` only gets right, fitted on these very items."""
    counts: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for sample in samples:
        counts[view(sample)][sample.harmful] += 1
    return sum(max(count.values()) for count in counts.values())


def history_of(folder: Path, item: str) -> dict[str, Change]:
    """Every stage of one item, by the stage's name, in order.

    Raises:
        DataError: the folder is no construction, or no stage let this item through.
    """
    history: dict[str, Change] = {}
    before: Draft | None = None
    for number, stage in enumerate(NAMES, 1):
        found = _found(folder / STAGES / f"{number}-{stage}.jsonl", item)
        if found is None:
            break
        after, steps = found
        history[stage] = Change(stage, before, after, _changes(before, after), steps)
        before = after
    if not history:
        raise DataError(f"{folder}: expected the item {item!r} in the first stage's file, found none of that id")
    return history


def stage_frame(account: Account) -> pd.DataFrame:
    """The balance of each stage: stage, came_in, done, rejected, pending, went_out, tokens, why (reason counts)."""
    return pd.DataFrame(
        {
            "stage": count.stage,
            "came_in": count.came_in,
            "done": count.done,
            "rejected": sum(count.rejected.values()),
            "pending": count.pending,
            "went_out": count.went_out,
            "tokens": count.prompt_tokens + count.completion_tokens,
            "why": ", ".join(f"{code} {times}" for code, times in count.rejected.items()),
        }
        for count in account.stages
    )


def _sub_categories(items: pd.DataFrame) -> int:
    """Different ones: two categories may share the name of a part."""
    return len(items.dropna(subset=["category"])[["category", "sub_category"]].drop_duplicates())


def _require(frame: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(
            f"expected the columns {', '.join(columns)}, found no {', '.join(missing)}; make the frame with item_frame"
        )


def _features(samples: Sequence[Sample], view: View) -> list[dict[str, str]]:
    return [{"seen": view(sample)} for sample in samples]


def _harm(samples: Sequence[Sample]) -> list[bool]:
    return [sample.harmful for sample in samples]


def _found(path: Path, item: str) -> tuple[Draft, tuple[Step, ...]] | None:
    """The last line about an item counts (``construct.stages.pipeline``)."""
    if not path.is_file():
        raise DataError(f"{path}: expected a stage's file, found none; run mis construct --source stages")
    found = None
    for entry in read_records(path, Entry):
        found = next(((draft, entry.steps) for draft in entry.outputs if draft.id == item), found)
    return found


def _changes(before: Draft | None, after: Draft) -> dict[str, Any]:
    new = after.model_dump(mode="json")
    old = before.model_dump(mode="json") if before else {}
    return {name: value for name, value in new.items() if value and value != old.get(name)}
