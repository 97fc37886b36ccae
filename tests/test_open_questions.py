"""Most training items ask what could be asked of any two pictures; test items never do."""

from collections import Counter

import pytest

from mis_lib.construct.elements import Questions, load_elements
from mis_lib.construct.images import concepts
from mis_lib.construct.naming import is_named
from mis_lib.construct.open_questions import OPEN_QUESTIONS
from mis_lib.construct.pipeline import Plan, plan
from mis_lib.roles import Role, roles_of


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(general_items=0)


def test_open_questions_point_at_both_images_and_give_nothing_away() -> None:
    assert len(set(OPEN_QUESTIONS)) == len(OPEN_QUESTIONS)
    for question in OPEN_QUESTIONS:
        assert "first image" in question.lower()
        assert "second image" in question.lower()
        assert not roles_of(question) & {Role.RISK, Role.DECLINES}
        assert not [name for name in concepts() if is_named(question, name)]


def test_two_in_three_training_items_ask_one_and_no_test_item_does(planned: Plan) -> None:
    openly = [sample.question in OPEN_QUESTIONS for sample in planned.files["train"]]
    assert 0.62 < sum(openly) / len(openly) < 0.70
    tested = [sample for split in ("easy", "hard", "real") for sample in planned.files[split]]
    assert not any(sample.question in OPEN_QUESTIONS for sample in tested)


def test_every_block_keeps_questions_of_its_own_and_asks_all_kinds_of_open_ones(planned: Plan) -> None:
    blocks: dict[str, Questions] = dict(load_elements().questions)
    asked: dict[str, Counter[bool]] = {}
    for sample in planned.files["train"]:
        block = sample.provenance["block"]
        openly = sample.question in OPEN_QUESTIONS
        assert openly or sample.question in blocks[block].train
        asked.setdefault(block, Counter())[openly] += 1
    assert asked.keys() == blocks.keys()
    for told in asked.values():
        assert told[True] >= 4
        assert told[False] >= 4
    heard = {
        question: {sample.provenance["block"] for sample in planned.files["train"] if sample.question == question}
        for question in OPEN_QUESTIONS
    }
    assert all(len(where) > len(blocks) / 2 for where in heard.values())  # so none tells the block


def test_twins_ask_the_same_and_another_seed_asks_otherwise(planned: Plan) -> None:
    samples = {sample.id: sample for sample in planned.files["train"]}
    for sample in samples.values():
        assert samples[str(sample.twin_id)].question == sample.question
    other = {sample.id: sample.question for sample in plan(seed=1, general_items=0).files["train"]}
    assert sum(other[name] != sample.question for name, sample in samples.items()) > len(samples) / 2
