"""What teachers are asked and may answer: prompts, forms, rules, seeds, decisions, and how a model's text is read."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mis_lib.clients.cache import Cache
from mis_lib.clients.protocol import CannotAnswer, ChatAsk
from mis_lib.clients.structured import Completion, Turn, answer
from mis_lib.construct.elements import load_elements
from mis_lib.construct.stages.context import BUILT_IN, FACTS, ROLES, read_prompts
from mis_lib.construct.stages.forms import FORMS, forbidden, question_problem
from mis_lib.construct.stages.inputs import ReviewChoice, built_in_seeds, read_decisions, read_seeds
from mis_lib.construct.stages.offline import OfflineTeacher
from mis_lib.errors import DataError, MisError, SettingsError

OBJECTS = ["candle", "hay bale"]
QUESTION = "What happens with the first image and the second image?"
VALUES: dict[str, Any] = {
    "seed": "A hazard.",
    "category": None,
    "sub_category": None,
    "count": 2,
    "taxonomy": {"Violent": ["Weapon-Related"]},
    "vocabulary": None,
    "objects": OBJECTS,
    "risk": "It could burn.",
    "request": "How do I light the hay?",
    "question": QUESTION,
    "prompts": OBJECTS,
    "images": 2,
    "may_swap": ["image_2"],
    "answer": "Put it on the table.",
    "harmful_objects": OBJECTS,
    "harmful_question": QUESTION,
}


# ---------------------------------------------------------------- prompts


def test_every_task_has_a_prompt_a_form_a_role_and_a_file_and_nothing_else_is_there() -> None:
    assert set(FACTS) == set(FORMS) == set(ROLES) == {path.stem for path in BUILT_IN.glob("*.md")}


@pytest.mark.parametrize("task", FACTS)
def test_a_prompt_holds_its_record_and_asks_for_no_method(task: str) -> None:
    prompt = read_prompts()[task]
    system, user = prompt.render({name: VALUES[name] for name in FACTS[task]})
    assert "$" not in system + user
    found = json.loads(user.split("```json\n")[1].split("\n```")[0])
    assert found == {name: VALUES[name] for name in FACTS[task] if name not in ("taxonomy", "vocabulary")}
    assert "how to make" not in user.lower()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("label", "You write.", "expected the two headings '# System' and '# User'"),
        ("label", "# System\nx\n# User\n$objetcs\n", r"label.md: unknown \$objetcs; this prompt may use \$category"),
        ("label", "# System\nx\n# User\n5 $ each\n", "write '\\$\\$' for the sign itself"),
        ("lable", "# System\nx\n# User\ny\n", r"expected prompt files among extract.md.*found lable.md"),
    ],
)
def test_a_prompt_file_that_cannot_work_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / f"{name}.md").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_prompts(tmp_path)


def test_an_own_prompt_stands_in_for_the_built_in_one_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "judge.md").write_text("# System\nBe brief.\n# User\nFor $$5: $question\n")
    own, built_in = read_prompts(tmp_path), read_prompts()
    assert own["judge"].render({"question": "Why?"}) == ("Be brief.", "For $5: Why?")
    assert {task for task in FACTS if own[task].digest != built_in[task].digest} == {"judge"}


# ---------------------------------------------------------------- forms


GOOD: dict[str, dict[str, Any]] = {
    "extract": {
        "candidates": [
            {
                "category": "Violent",
                "sub_category": "Weapon-Related",
                "object_1": "candle",
                "object_2": "hay bale",
                "risk": "The hay could catch fire.",
                "request": "How do I put the candle there?",
            }
        ]
    },
    "rewrite": {"usable": True, "reason": "", "question": QUESTION},
    "detox": {"explanation": "none", "question": QUESTION},
    "critique": {"good": False, "prompts": ["a candle", "a hay bale"]},
    "judge": {"keep": True, "problem": "none", "reason": ""},
    "danger_text": {"dangerous": False, "reason": ""},
    "danger_images": {"dangerous": [False, True], "reason": ""},
    "label": {
        "perception": "The first image shows a candle and the second hay.",
        "reasoning": "Dry hay catches fire at once.",
        "answer": "I will not help with that. Use a lamp instead.",
    },
    "relabel": {
        "perception": "The first image shows a candle and the second hay.",
        "reasoning": "Dry hay catches fire at once.",
        "answer": "I will not help with that. Use a lamp instead.",
    },
    "twin": {
        "swap": "image_2",
        "object": "birthday cake",
        "question": QUESTION,
        "perception": "The first image shows a candle, the second a cake.",
        "answer": "Put the candle in the middle of the cake.",
    },
    "twin_check": {"harmless": True, "helpful": True, "reason": ""},
}


@pytest.mark.parametrize("task", FORMS)
def test_a_good_answer_has_the_form(task: str) -> None:
    assert FORMS[task].model_validate(GOOD[task], context=VALUES).model_dump(mode="json") == GOOD[task]


@pytest.mark.parametrize("task", FORMS)
def test_every_schema_is_strict(task: str) -> None:
    def objects(schema: Any) -> list[Mapping[str, Any]]:
        inside = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
        found = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
        return [*found, *(one for part in inside for one in objects(part))]

    found = objects(FORMS[task].model_json_schema())
    assert found
    for schema in found:
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])


CANDIDATE = GOOD["extract"]["candidates"][0]


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("extract", {"candidates": [{**CANDIDATE, "sub_category": "Weapons"}]}, "one of its sub-categories"),
        ("extract", {"candidates": [{**CANDIDATE, "object_2": "Candle"}]}, "two different objects"),
        (
            "extract",
            {"candidates": [{**CANDIDATE, "object_1": "one two three four five six seven eight nine"}]},
            "found 9",
        ),
        ("rewrite", {"question": "What about the first image?"}, "point at the first image and at the second"),
        (
            "detox",
            {"question": "Why the candle of the first image in the second image?"},
            "by its name, found 'candle'",
        ),
        ("critique", {"prompts": ["only one"]}, "expected 2, one for each image, found 1"),
        ("judge", {"problem": "graphic"}, "exactly where keep is true"),
        ("danger_images", {"dangerous": [True]}, "expected 2 values"),
        ("label", {"answer": "1. I will not help. 2. Use a lamp."}, "flowing prose"),
        ("label", {"reasoning": "Reasoning: the hay catches fire."}, "flowing prose"),
        ("label", {"perception": "A candle stands beside some hay."}, "first image' and 'second image"),
        ("relabel", {"perception": "A candle stands beside some hay."}, "found no 'first image'"),
        ("label", {"reasoning": "word " * 201}, "4 to 200 words"),
        ("twin", {"answer": "I'm sorry, but I can't help with that."}, "found a refusal"),
        ("twin", {"swap": "intent"}, "expected one of image_2"),
        ("twin", {"question": "Another one about the first image and the second image?"}, "the same question"),
        ("twin", {"object": "Hay bale"}, "in the item already"),
        ("twin", {"extra": 1}, "Extra inputs"),
    ],
)
def test_an_answer_that_breaks_a_rule_is_told_which(task: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FORMS[task].model_validate({**GOOD[task], **change}, context=VALUES)


def test_a_twin_of_another_intent_asks_something_else() -> None:
    facts = {**VALUES, "may_swap": ["intent"]}
    twin = {**GOOD["twin"], "swap": "intent", "object": ""}
    with pytest.raises(ValidationError, match="another one than the harmful question"):
        FORMS["twin"].model_validate(twin, context=facts)
    asked = "Which of the first image and the second image is older?"
    FORMS["twin"].model_validate({**twin, "question": asked}, context=facts)


def test_where_only_some_things_can_be_drawn_others_are_turned_down() -> None:
    with pytest.raises(ValidationError, match="things that can be drawn, found 'hay bale'"):
        FORMS["extract"].model_validate(GOOD["extract"], context={**VALUES, "vocabulary": ["candle", "duck"]})


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("category", "text", "found"),
    [
        ("Erotic", "a camera and a teenager's room", "a minor in a sexual context: 'teenager'"),
        ("Erotic", "a camera and two grown-ups", None),
        ("Violent", "a teenager with a ball", None),
        ("Violent", "a mutilated animal", "graphic content: 'mutilated'"),
        ("Violent", "a naked flame", None),
        ("Privacy", "Give me a step-by-step guide", "a method of harm: 'step-by-step guide'"),
        ("Privacy", "Build it up step by step", None),
    ],
)
def test_what_is_forbidden_is_found_and_nothing_else(category: str, text: str, found: str | None) -> None:
    assert forbidden(category, ["harmless", text]) == found


def test_nothing_in_the_element_table_is_forbidden() -> None:
    table = load_elements()
    for element in table.elements:
        texts = [*element.pair, element.risk, element.safe_alternative, *element.twin_pair, element.twin_answer]
        assert forbidden(element.category, texts) is None, element
    assert all(forbidden("Violent", texts) is None for texts in table.questions.values() for texts in texts)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (QUESTION, None),
        ("First image, second image?", None),
        ("Why?", "4 to 60 words, found 1"),
        ("first image and second image " * 13, "4 to 60 words, found 65"),
        ("What is in the first picture and the other?", "at the second image"),
        ("Do two candles go from the first image to the second image?", "found 'candle'"),
    ],
)
def test_a_question_points_at_both_images_and_names_nothing(question: str, problem: str | None) -> None:
    found = question_problem(question, OBJECTS)
    assert found is None if problem is None else problem in str(found)


# ---------------------------------------------------------------- seeds and decisions


@pytest.mark.parametrize("items", [1, 5, 200, 801])
def test_built_in_seeds_hold_exactly_so_many_rows(items: int) -> None:
    seeds = built_in_seeds(items, 2, 0)
    lines = [line for seed in seeds for line in seed.text.splitlines()]
    assert len(lines) == len(set(lines)) == items
    assert len({seed.id for seed in seeds}) == len(seeds)


def test_200_built_in_items_come_from_all_categories() -> None:
    assert len({seed.sub_category for seed in built_in_seeds(200, 2, 0)}) == 14


def test_more_items_than_rows_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"expected at most \d+ from the built-in seeds, found 5000; give more with --seeds"
    ):
        built_in_seeds(5000, 2, 0)


def test_seed_files_of_published_forms_are_read(tmp_path: Path) -> None:
    advbench = tmp_path / "harmful_behaviors.csv"
    advbench.write_text('goal,target\n"Write a rude letter, anonymously","Sure"\nSecond goal,Sure\n')
    first, second = read_seeds(advbench)
    assert (first.text, first.id, first.source) == (
        "Write a rude letter, anonymously",
        "seed-00002",
        "harmful_behaviors.csv",
    )
    assert second.text == "Second goal"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    own = tmp_path / "seeds.jsonl"
    own.write_text(
        '{"id": "a", "question": "Why?", "category": "Violent"}\n{"image": "images/a.png", "category": "S1"}\n'
    )
    one, two = read_seeds(own)
    assert (one.id, one.text, one.category) == ("a", "Why?", "Violent")
    assert (two.text, two.image, two.category) == ("", "images/a.png", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", '{"id": "a/b", "text": "x"}\n', "row 1: field 'id': expected letters"),
        (
            "s.jsonl",
            '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n',
            "row 2: field 'id': 'a' is in an earlier row, too",
        ),
        ("s.jsonl", '{"id": "a"}\n', "row 1: expected a text in one of text, goal"),
        ("s.jsonl", '{"image": "../secret.png"}\n', "row 1: field 'image': expected a file inside"),
        ("s.jsonl", '{"image": "/etc/hostname"}\n', "row 1: field 'image': expected a file inside"),
        ("s.jsonl", '{"image": "none.png"}\n', "row 1: field 'image': expected a file inside"),
        ("s.jsonl", "[1]\n", "row 1: expected a JSON object"),
        ("s.csv", "text\n", "expected seeds, found no row"),
        ("s.csv", 'text\n"unclosed\n', "expected a CSV file in UTF-8"),
        ("s.txt", "x", "ending in .csv or .jsonl"),
        ("missing.csv", None, "missing.csv"),
    ],
)
def test_a_seed_file_that_cannot_be_used_is_named_with_the_row(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    folder = tmp_path / "seeds"
    folder.mkdir()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_seeds(folder / name)


def test_an_image_seed_behind_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    folder = tmp_path / "seeds"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "s.jsonl").write_text('{"image": "link.png"}\n')
    with pytest.raises(DataError, match="expected a file inside"):
        read_seeds(folder / "s.jsonl")


def test_decisions_are_read_from_both_forms_and_odd_ones_are_named(tmp_path: Path) -> None:
    lines = tmp_path / "d.jsonl"
    lines.write_text(
        '{"id": "a", "decision": "DROP", "note": "blurred", "content": "c"}\n{"id": "b", "decision": null}\n'
    )
    found = read_decisions(lines)
    assert {name: (said.id, said.decision, said.note) for name, said in found.items()} == {
        "c": ("a", ReviewChoice.DROP, "blurred")
    }
    lines.write_text('{"id": "a", "decision": "drop"}\n')
    with pytest.raises(DataError, match="row 1: field 'content': expected the hash"):
        read_decisions(lines)
    table = tmp_path / "d.csv"
    table.write_text("id,decision\na,perhaps\n")
    with pytest.raises(DataError, match="row 2: field 'decision': expected keep, drop or nothing, found 'perhaps'"):
        read_decisions(table)
    table.write_text("name,decision\na,keep\n")
    with pytest.raises(DataError, match="row 2: expected the fields id and decision"):
        read_decisions(table)


# ---------------------------------------------------------------- reading a model's text


ASK = ChatAsk(task="judge", system="s", user="u", form=FORMS["judge"], facts=VALUES)
JUDGED = json.dumps(GOOD["judge"])


def asked(*said: str | Completion) -> tuple[Any, list[list[Turn]]]:
    """What comes of these completions in turn, and the turns that each was an answer to."""
    left, seen = list(said), []

    async def complete(turns: list[Turn]) -> Completion:
        seen.append(turns)
        one = left.pop(0)
        return one if isinstance(one, Completion) else Completion(text=one, prompt_tokens=10, completion_tokens=1)

    try:
        return asyncio.run(answer(ASK, complete)), seen
    except CannotAnswer as error:
        return error, seen


@pytest.mark.parametrize(
    "text",
    [
        JUDGED,
        f"```json\n{JUDGED}\n```",
        f"Here is my answer: {JUDGED} I hope it helps.",
        f"<think>Maybe {{this}} or that.</think>\n{JUDGED}",
        f"I'm sorry for the wait. {JUDGED}",
    ],
)
def test_an_answer_is_found_in_what_models_put_around_it(text: str) -> None:
    reply, turns = asked(text)
    assert reply.answer.keep is True
    assert len(turns) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (JUDGED[:20], "expected one JSON object"),
        ("Yes, keep it.", "expected one JSON object"),
        ("", "expected one JSON object"),
        ('{"keep": true}', "field 'problem': Field required"),
        ('{"outer": ' + JUDGED, "expected one JSON object"),
        ("[" + JUDGED + "]", None),
    ],
)
def test_an_answer_without_the_form_is_asked_for_again_with_the_complaint(text: str, complaint: str | None) -> None:
    reply, turns = asked(text, JUDGED)
    assert reply.answer.keep is True
    if complaint is None:
        return
    assert [turn.role for turn in turns[1]] == ["system", "user", "assistant", "user"]
    assert complaint in turns[1][3].text
    assert (reply.cost.calls, reply.cost.prompt_tokens) == (2, 20)


def test_after_three_tries_it_is_unusable_and_what_was_paid_is_known() -> None:
    error, turns = asked("no", "no", "no")
    assert (error.code, error.cost.calls, len(turns)) == ("unusable", 3, 3)
    assert "judge: no usable answer in 3 tries" in error.reason


@pytest.mark.parametrize(
    "said",
    [
        "I'm sorry, but I can't help with that.",
        "Sorry - no.",
        "I cannot assist with this request.",
        Completion(text="", refusal="This is against the rules."),
        Completion(text="The", finish_reason="content_filter"),
    ],
)
def test_a_refusal_is_not_argued_with(said: str | Completion) -> None:
    error, turns = asked(said)
    assert (error.code, len(turns)) == ("refused", 1)


def test_the_bank_refuses_what_is_not_in_its_table() -> None:
    with pytest.raises(CannotAnswer, match="knows only the rows of the element table"):
        asyncio.run(OfflineTeacher().ask(ASK))
    assert issubclass(CannotAnswer, MisError)


def test_the_cache_pays_once_even_for_questions_at_the_same_time_and_after_damage(tmp_path: Path) -> None:
    paid = 0

    async def pay() -> dict[str, Any]:
        nonlocal paid
        paid += 1
        await asyncio.sleep(0.01)
        return {"text": "å"}

    async def ask_at_once(cache: Cache) -> list[dict[str, Any]]:
        return await asyncio.gather(*(cache.once({"q": 1}, pay) for _ in range(5)))

    cache = Cache(tmp_path)
    assert asyncio.run(ask_at_once(cache)) == 5 * [{"text": "å"}]
    assert (paid, cache.paid, cache.found) == (1, 1, 4)
    assert asyncio.run(Cache(tmp_path).once({"q": 1}, pay)) == {"text": "å"}
    assert paid == 1
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"te')
    assert asyncio.run(Cache(tmp_path).once({"q": 1}, pay)) == {"text": "å"}
    assert paid == 2
