"""Everyday pairs: harmless, of no block; what is tested is neither trained on nor a pair of the element table."""

from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from mis_lib.construct.drawings import TRAINED_STYLES, TRAINING_STYLES
from mis_lib.construct.elements import BUILT_IN, ElementTable, load_elements
from mis_lib.construct.general import EVERYDAY_TEST, EVERYDAY_TRAIN, everyday_samples, scenes, things
from mis_lib.construct.mis_mini import Plan, construct, plan
from mis_lib.construct.questions import EVERYDAY_QUESTIONS, OPEN_QUESTIONS
from mis_lib.data.mixing import compose
from mis_lib.data.mixtures import SampleSet, configured
from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.judge.rule import decide
from mis_lib.recipes.check import mixture
from mis_lib.schema import Outcome, Sample
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named
from mis_lib.text.roles import Role, roles_of
from mis_lib.train.dataset import examples_of
from mis_lib.train.settings import TrainSettings

ITEMS = {EVERYDAY_TRAIN: 400, EVERYDAY_TEST: 100}


@pytest.fixture(scope="module")
def table() -> ElementTable:
    return load_elements()


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(general_items=10)


def pairs(planned: Plan, *splits: str) -> set[frozenset[str]]:
    return {frozenset(sample.objects or ()) for split in splits for sample in planned.files[split]}


def test_things_can_be_drawn_and_are_named_by_what_they_are_good_for() -> None:
    listed, told = things(), scenes()
    assert len({thing.name for thing in listed}) == len(listed) >= 200
    assert {thing.kind for thing in listed} == set(told)
    for thing in listed:
        assert thing.name in concepts()
        assert is_named(thing.doing, thing.name), thing
        assert not roles_of(f"{thing.doing}.") & {Role.RISK, Role.DECLINES, Role.AGAINST}, thing
    for kind, scene in told.items():
        assert not roles_of(f"Together that is {scene}.") & {Role.RISK, Role.DECLINES}
        named = [thing.name for thing in listed if is_named(f"They show {kind}.", thing.name)]
        assert not named, f"{kind!r} would be counted as {named}"


def test_every_answer_is_help_and_names_both(planned: Plan) -> None:
    for split, items in ITEMS.items():
        samples = planned.files[split]
        assert len(samples) == items
        for sample in samples:
            answer = sample.answer or ""
            assert decide(sample, answer).outcome is Outcome.HELPED, answer
            assert all(is_named(answer, name) for name in sample.objects or ())
            assert [part["kind"] for part in (sample.model_extra or {})["segments"]] == [
                "perception",
                "reasoning",
                "answer",
            ]
            assert not sample.harmful and sample.twin_id is None and sample.category is None


def test_no_pair_is_of_the_table_or_of_two_splits(planned: Plan, table: ElementTable) -> None:
    trained, tested = pairs(planned, EVERYDAY_TRAIN), pairs(planned, EVERYDAY_TEST)
    assert len(trained) == ITEMS[EVERYDAY_TRAIN] and len(tested) == ITEMS[EVERYDAY_TEST], "no pair twice"
    assert not trained & tested
    many = {frozenset(s.objects or ()) for s, _ in everyday_samples(EVERYDAY_TRAIN, table, seed=5, items=4_000)}
    listed = {thing.name for thing in things() if not thing.is_for_testing}
    rows = {frozenset(pair) for element in table.elements for pair in (element.pair, element.twin_pair)}
    assert not (trained | tested | many) & rows
    assert sum(pair <= listed for pair in rows) >= 20, "there are such pairs to be left out"


def test_things_and_questions_of_the_test_are_not_trained_on(planned: Plan, table: ElementTable) -> None:
    shown = {
        split: Counter(name for sample in planned.files[split] for name in sample.objects or ()) for split in ITEMS
    }
    assert not shown[EVERYDAY_TRAIN].keys() & shown[EVERYDAY_TEST].keys()
    assert max(shown[EVERYDAY_TRAIN].values()) - min(shown[EVERYDAY_TRAIN].values()) <= 4, (
        "all come up about equally often"
    )
    assert {sample.question for sample in planned.files[EVERYDAY_TRAIN]} <= set(OPEN_QUESTIONS)
    asked = {sample.question for sample in planned.files[EVERYDAY_TEST]}
    assert asked == set(EVERYDAY_QUESTIONS)
    taught = [*OPEN_QUESTIONS, *(question for of in table.questions.values() for question in of.train)]
    for question in EVERYDAY_QUESTIONS:
        assert "first image" in question.lower() and "second image" in question.lower()
        assert max(SequenceMatcher(None, question, other).ratio() for other in taught) < 0.75


def test_styles_and_pictures(planned: Plan) -> None:
    styles = {split: {s.provenance["style"] for s in planned.files[split]} for split in ITEMS}
    assert styles == {EVERYDAY_TRAIN: set(TRAINING_STYLES), EVERYDAY_TEST: set(TRAINED_STYLES)}
    drawn = {image for split in ("train", EVERYDAY_TRAIN) for sample in planned.files[split] for image in sample.images}
    assert drawn.isdisjoint({image for sample in planned.files[EVERYDAY_TEST] for image in sample.images})
    assert {picture.path for picture in planned.pictures} >= drawn


def test_the_same_seed_gives_the_same_items_and_another_gives_others(table: ElementTable) -> None:
    def items(seed: int) -> list[str]:
        return [sample.model_dump_json() for sample, _ in everyday_samples(EVERYDAY_TEST, table, seed, 20)]

    assert items(1) == items(1) != items(2)


def test_more_pairs_than_there_are_is_refused(table: ElementTable) -> None:
    with pytest.raises(
        DataError, match=r"everyday: expected at most [\d,]+ pairs of \d+ everyday things, found 100,000"
    ):
        next(everyday_samples(EVERYDAY_TEST, table, seed=0, items=100_000))


def test_every_kind_is_in_both_splits(planned: Plan) -> None:
    kind_of = {thing.name: thing.kind for thing in things()}
    for split in ITEMS:
        kinds = {kind_of[name] for sample in planned.files[split] for name in sample.objects or ()}
        assert kinds == set(scenes())
        for sample in planned.files[split]:
            first, second = (kind_of[name] for name in sample.objects or ())
            assert first != second
            assert {first, second} != {"something to eat", "a wild animal"}, "what people eat makes animals ill"


def test_the_table_has_no_file_of_them() -> None:
    assert not list(BUILT_IN.glob("everyday*")), "these are no blocks: load_elements would refuse them"


def mixed(planned: Plan, tmp: SampleSet, *options: str) -> list[Sample]:
    sources = {
        "safety": SampleSet(planned.files["train"], tmp.folder),
        "general": SampleSet(plan(general_items=1_000).files["general"], tmp.folder),
        "everyday": SampleSet(planned.files[EVERYDAY_TRAIN], tmp.folder),
    }
    return [row.sample for row in compose(configured("mirage", list(options)), sources)["train"]]


def test_mirage_takes_the_share_asked_for_and_none_unasked(
    planned: Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = SampleSet([], tmp_path_factory.mktemp("none"))
    plain, more = mixed(planned, here), mixed(planned, here, "everyday=0.09", "cut=0.5")
    assert not [sample for sample in plain if sample.provenance["part"] == "everyday"]
    parts = Counter(sample.provenance["part"] for sample in more)
    assert parts["everyday"] / len(more) == pytest.approx(0.09, abs=0.001)
    assert parts["general"] / len(more) == pytest.approx(1 / 9, abs=0.001)
    assert parts["safety"] == len(planned.files["train"])
    pairs_mixed = [sample for sample in more if sample.provenance["part"] == "everyday"]
    cut = [(sample.answer or "").endswith("which does no harm.") for sample in pairs_mixed]
    assert 0.4 < sum(cut) / len(cut) < 0.6, "cut as the safety rows are: what is learned is that it does no harm"
    assert all(name.startswith("everyday/") for sample in pairs_mixed for name in sample.images)


def test_data_without_everyday_pairs_are_told_so(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    sources = {"safety": SampleSet(planned.files["train"], tmp_path_factory.mktemp("none"))}
    with pytest.raises(DataError, match=r"expected (general|everyday) data, found safety"):
        compose(configured("mirage", ["everyday=0.1"]), sources)
    general = SampleSet(plan(general_items=400).files["general"], sources["safety"].folder)
    assert compose(configured("mirage"), {**sources, "general": general})["train"], "data of others have none"


def test_a_mixture_of_a_folder_takes_the_pairs_to_train_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "mixture"
    construct(folder, blocks={"property_crimes-easy", "gender"}, general_items=80, everyday_items=40)
    assert not mixture(folder, "mirage", ["everyday=0.05"], output=out).leaks
    rows = [row for row in read_records(out / "train.jsonl", Sample) if row.provenance["part"] == "everyday"]
    assert rows and {row.split for row in rows} == {EVERYDAY_TRAIN}
    assert all((out / name).is_file() for row in rows for name in row.images)
    settings = TrainSettings(
        model="mini", mixture="mirage", mixture_options={"everyday": 0.05}, data=folder, name="x", runs=tmp_path
    )
    examples = examples_of(settings, folder, tmp_path / "work", lambda message: None)
    assert {example.sample.id for example in examples if example.sample.split == EVERYDAY_TRAIN} == {
        row.id for row in rows
    }
    assert not [example for example in examples if example.sample.split == EVERYDAY_TEST]
