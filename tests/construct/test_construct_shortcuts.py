"""No shortcut in ``hard``: one image alone, the question alone or the style alone say nothing about harm.

Two measurements. *Learned*: a classifier trained on the train split is tried on hard. *Bound*: the accuracy of the best
possible classifier that sees this view only, fitted on the hard items themselves. Cross-validation inside hard is no
measure here: each object has one harmful and one benign item, so holding one out tilts the rest to the other side, and
accuracy falls far *below* chance. Whole blocks are held out instead, which shows whether words carry over.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from mis_lib.construct.mis_mini import plan
from mis_lib.notebook import datasets
from mis_lib.schema import Sample

CHANCE, MARGIN = 0.5, 0.1

View = Callable[[Sample], str]
VIEWS: dict[str, View] = {
    "object 1": lambda sample: (sample.objects or [])[0],
    "object 2": lambda sample: (sample.objects or [])[1],
    "question": lambda sample: sample.question,
    "style": lambda sample: sample.provenance["style"],
    "picture 1": lambda sample: sample.images[0],
}


@functools.cache
def files() -> dict[str, list[Sample]]:
    return plan(general_items=0).files


def one_hot(samples: list[Sample], names: list[str]) -> list[dict[str, str]]:
    return [{name: VIEWS[name](sample) for name in names} for sample in samples]


def harm(samples: list[Sample]) -> list[bool]:
    return [sample.harmful for sample in samples]


@pytest.mark.parametrize("names", [[name] for name in VIEWS] + [["object 1", "object 2", "question"]], ids=" + ".join)
def test_a_classifier_trained_on_train_is_at_chance_on_hard(names: list[str]) -> None:
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=2_000))
    model.fit(one_hot(files()["train"], names), harm(files()["train"]))
    assert abs(model.score(one_hot(files()["hard"], names), harm(files()["hard"])) - CHANCE) <= MARGIN


@pytest.mark.parametrize(("text", "held_out"), [("question", False), ("question", True), ("objects", True)])
def test_words_are_at_chance(text: str, held_out: bool) -> None:
    def read(samples: list[Sample]) -> list[str]:
        return [sample.question if text == "question" else " ".join(sample.objects or ()) for sample in samples]

    model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=2_000))
    if held_out:
        blocks = [sample.provenance["block"] for sample in files()["hard"]]
        scores = cross_val_score(model, read(files()["hard"]), harm(files()["hard"]), groups=blocks, cv=GroupKFold(5))
        accuracy = float(np.mean(scores))
    else:
        accuracy = model.fit(read(files()["train"]), harm(files()["train"])).score(
            read(files()["hard"]), harm(files()["hard"])
        )
    assert abs(accuracy - CHANCE) <= MARGIN


@pytest.mark.parametrize("name", VIEWS)
def test_the_best_possible_classifier_on_one_view_is_at_chance(name: str) -> None:
    assert bound(files()["hard"], VIEWS[name]) <= CHANCE + MARGIN


def test_the_measure_sees_a_shortcut_where_there_is_one() -> None:
    """In easy, the dangerous object gives the answer away: that is what makes it easy."""
    assert bound(files()["easy"], VIEWS["object 1"]) > CHANCE + 2 * MARGIN


def bound(samples: list[Sample], view: View) -> float:
    """Accuracy of the best classifier that sees ``view`` only, on the very items it was fitted on."""
    counts: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for sample in samples:
        counts[view(sample)][sample.harmful] += 1
    return sum(max(count.values()) for count in counts.values()) / len(samples)


def test_the_pair_tells() -> None:
    """Completing the table of trained pairs (which group goes with which) predicts the unseen test pairs."""
    trained = [sample for sample in files()["train"] if sample.provenance["level"] == "hard"]
    first = _numbered(trained, 0)
    second = _numbered(trained, 1)
    known = np.zeros((len(first), len(second)))
    for sample in trained:
        known[first[_cell(sample, 0)], second[_cell(sample, 1)]] = 1 if sample.harmful else -1
    svd = TruncatedSVD(n_components=len({sample.provenance["block"] for sample in trained}), random_state=0)
    completed = svd.inverse_transform(svd.fit_transform(known))
    guesses = [completed[first[_cell(s, 0)], second[_cell(s, 1)]] > 0 for s in files()["hard"]]
    assert float(np.mean(np.array(guesses) == np.array(harm(files()["hard"])))) >= 0.9


def _cell(sample: Sample, place: int) -> tuple[str, str]:
    return sample.provenance["block"], (sample.objects or [])[place]


def _numbered(samples: list[Sample], place: int) -> dict[tuple[str, str], int]:
    return {cell: number for number, cell in enumerate(sorted({_cell(sample, place) for sample in samples}))}


def test_a_table_of_trained_kinds_answers_every_split_but_unseen() -> None:
    """What ``unseen`` is for: a model that has learned the table by heart is right elsewhere and guesses there."""
    tests = {name: files()[name] for name in ("easy", "hard", "real", "unseen")}
    found = datasets.shortcuts(files()["train"], tests)
    trained = found[(found["view"] == datasets.KINDS) & (found["measure"] == "trained")].set_index("split")["value"]
    assert [trained[name] for name in ("easy", "hard", "real")] == [100, 100, 100]
    assert trained["unseen"] == 50
