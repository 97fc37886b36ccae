"""Most training items ask what could be asked of any two pictures; test items never do."""

from collections import Counter

import pytest

from mis_lib.construct.elements import Questions, load_elements
from mis_lib.construct.mis_mini import Plan, plan
from mis_lib.construct.pairs import UNSEEN_BLOCKS
from mis_lib.construct.questions import OPEN_QUESTIONS
from mis_lib.schema import Sample
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named
from mis_lib.text.roles import Role, roles_of


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(general_items=0)


def is_bound(sample: Sample) -> bool:
    """Whether the sample's harm lies in its question, so that no open one may stand in its place."""
    return bool(sample.provenance["harm_in_question"])


def test_open_questions_point_at_both_images_and_give_nothing_away() -> None:
    assert len(set(OPEN_QUESTIONS)) == len(OPEN_QUESTIONS)
    for question in OPEN_QUESTIONS:
        assert "first image" in question.lower()
        assert "second image" in question.lower()
        assert not roles_of(question) & {Role.RISK, Role.DECLINES}
        assert not [name for name in concepts() if is_named(question, name)]


def test_two_in_three_training_items_ask_one_and_no_test_item_does(planned: Plan) -> None:
    openly = [sample.question in OPEN_QUESTIONS for sample in planned.files["train"] if not is_bound(sample)]
    assert 0.62 < sum(openly) / len(openly) < 0.70
    tested = [sample for split in ("easy", "hard", "unseen", "real") for sample in planned.files[split]]
    assert not any(sample.question in OPEN_QUESTIONS for sample in tested)


def test_every_block_keeps_questions_of_its_own_and_asks_all_kinds_of_open_ones(planned: Plan) -> None:
    blocks: dict[str, Questions] = dict(load_elements().questions)
    asked: dict[str, Counter[bool]] = {}
    for sample in planned.files["train"]:
        block = sample.provenance["block"]
        openly = sample.question in OPEN_QUESTIONS
        assert openly or sample.question in blocks[block].train
        asked.setdefault(block, Counter())[openly] += 1
    assert asked.keys() == blocks.keys() - UNSEEN_BLOCKS
    for block, told in asked.items():
        assert told[False] >= 4
        assert told[True] == 0 if block in load_elements().harm_in_question else told[True] >= 4
    heard = {
        question: {sample.provenance["block"] for sample in planned.files["train"] if sample.question == question}
        for question in OPEN_QUESTIONS
    }
    assert all(len(where) >= 8 for where in heard.values())  # of 19 that ask openly: none tells the block


def test_blocks_whose_harm_lies_in_the_question_have_many_of_their_own(planned: Plan) -> None:
    table = load_elements()
    assert table.harm_in_question == {"gender", "human_trafficking", "identity_theft", "self_harm_psychological"}
    for block in table.harm_in_question:
        asked = Counter(sample.question for sample in planned.files["train"] if sample.provenance["block"] == block)
        assert asked.keys() == {*table.questions[block].train}
        assert len(asked) >= 18  # six would be learned by heart
        assert max(asked.values()) < 2 * min(asked.values())


@pytest.mark.parametrize("turns", [0, 6])
def test_no_row_is_asked_the_same_question_twice(turns: int) -> None:
    asked: dict[tuple[object, ...], list[str]] = {}
    for sample in plan(general_items=0, icon_turns=turns).files["train"]:
        if sample.question in OPEN_QUESTIONS:
            row = (sample.provenance["table"], sample.provenance["row"], sample.harmful)
            asked.setdefault(row, []).append(sample.question)
    assert any(len(questions) > 1 for questions in asked.values())
    assert all(len(set(questions)) == len(questions) for questions in asked.values())


def test_twins_ask_the_same_and_another_seed_asks_otherwise(planned: Plan) -> None:
    samples = {sample.id: sample for sample in planned.files["train"]}
    for sample in samples.values():
        assert samples[str(sample.twin_id)].question == sample.question
    other = {sample.id: sample.question for sample in plan(seed=1, general_items=0).files["train"]}
    free = [sample for sample in samples.values() if not is_bound(sample)]
    assert sum(other[sample.id] != sample.question for sample in free) > len(free) / 2
