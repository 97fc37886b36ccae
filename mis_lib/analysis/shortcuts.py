"""Shortcuts: how well harm can be told without understanding, from one image, one question or the drawing style alone.

A model that does no better on a test split than the best guess from a single view has not been shown to reason over images. Two numbers
for each view: a linear classifier *trained* on train and tried on the split, and the *bound*, the accuracy that no classifier seeing only this
view can pass on the split, fitted on its own items. Chance is the share of the larger class.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mis_lib.results.stats import rate
from mis_lib.schema import Sample

View = Callable[[Sample], str]
PAIR = "both objects"
VIEWS: Mapping[str, View] = {
    "object 1": lambda sample: (sample.objects or [""])[0],
    "object 2": lambda sample: (sample.objects or [""])[-1],
    "question": lambda sample: sample.question,
    "drawing style": lambda sample: str(sample.provenance.get("style")),
    PAIR: lambda sample: " + ".join(sample.objects or ()),
}


def shortcuts(train: Sequence[Sample], tests: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """Accuracy of telling harmful from benign by each of ``VIEWS`` alone: view, split, measure (trained, bound), value, low, high, n.

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
                found = rate(hits, len(samples))
                rows.append({"view": name, "split": split, "measure": measure, **found.model_dump(exclude={"n_unscored"})})  # fmt: skip
    return pd.DataFrame(rows)


def best_single(found: pd.DataFrame) -> pd.DataFrame:
    """The view that a classifier could learn most from, by split: view (of equal ones all, in words), value, n.

    Args:
        found: as ``shortcuts`` returns it; ``both objects``, which is no single view, is left aside.
    """
    single = found[(found["measure"] == "bound") & (found["view"] != PAIR)]
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


def _features(samples: Sequence[Sample], view: View) -> list[dict[str, str]]:
    return [{"seen": view(sample)} for sample in samples]


def _harm(samples: Sequence[Sample]) -> list[bool]:
    return [sample.harmful for sample in samples]
