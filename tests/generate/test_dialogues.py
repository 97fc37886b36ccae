"""Dialogues with images in any turn: asked turn by turn, here and by a server, beside single questions."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint

from benchmarks.loopback import LoopbackJudge
from mis_lib.files import load_image, read_records
from mis_lib.generate.batch import answer_active, answer_batch, prompt_lengths
from mis_lib.generate.defences import GIVEN, UNGUARDED, Check, Ruled, Said, converse
from mis_lib.generate.engine import Engine
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.prompting import BARE, Prompting
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.prompts import Past, apply_template, read_by
from mis_lib.recipes.generate import generate_run
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings

SHORT = GenerationSettings(max_new_tokens=6)
VARIANTS = {"base": None, "one": "one"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy checkpoint, an adapter and a small data set."""
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    tiny_adapter(folder / "toy", folder / "one", 1)
    mini_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def model(home: Path) -> LoadedModel:
    return load_model(home / "toy", {"base": None, "one": home / "one"})


@pytest.fixture(scope="module")
def talk(home: Path) -> Sample:
    """Three turns, an image in the first and in the last; the second answer is fixed."""
    first = read_records(home / "data" / "easy.jsonl", Sample)[0]
    turns = [{"question": "What is this?", "images": 1}, {"question": "Is it new?", "answer": "It is."}]
    return Sample.model_validate({**first.model_dump(), "id": "talk", "question": "And this?", "history": turns})


def single(talk: Sample, turn: int) -> Sample:
    """A turn of a dialogue as a question of its own."""
    asked = [*(one.question for one in talk.history), talk.question][turn]
    return Sample(id=f"single-{turn}", question=asked, images=talk.images_of_turns[turn])


def test_each_turn_goes_on_from_the_answers_before_it(home: Path, model: LoadedModel, talk: Sample) -> None:
    engine, data = Engine(model, pack=False), home / "data"
    asked = [single(talk, 0), talk, single(talk, 2)]
    found = {(one.sample_id, one.variant): one for one in answer_batch(asked, data, engine, VARIANTS, SHORT)}
    for variant in VARIANTS:
        first, whole = found["single-0", variant], found["talk", variant]
        assert [reply.finish_reason for reply in whole.earlier] == [first.finish_reason, GIVEN]
        assert [reply.text for reply in whole.earlier] == [first.text, "It is."]
        pairs = zip(talk.history, whole.earlier, strict=True)
        fixed = [turn.model_copy(update={"answer": one.text}) for turn, one in pairs]
        (again,) = answer_batch(
            [talk.model_copy(update={"history": fixed})], data, engine, {variant: VARIANTS[variant]}, SHORT
        )
        assert again.text == whole.text, "what the model said and what a row fixes are the same context"
        assert whole.tokens == first.tokens + again.tokens
    assert found["talk", "base"].text != found["single-2", "base"].text, "the history is read"
    (alone,) = answer_active([talk], data, load_model(home / "toy"), SHORT, "base")
    assert (alone.text, alone.earlier) == (found["talk", "base"].text, found["talk", "base"].earlier)


def test_images_of_any_turn_are_seen(home: Path, model: LoadedModel, talk: Sample) -> None:
    engine = Engine(model, pack=False)
    other = talk.model_copy(update={"images": [talk.images[0], talk.images[0]]})
    longer = GenerationSettings(max_new_tokens=24)
    texts = [answer_batch([one], home / "data", engine, {"base": None}, longer)[0] for one in (talk, other)]
    assert texts[0].earlier == texts[1].earlier and texts[0].text != texts[1].text


def test_a_prompt_is_what_the_template_prints_and_its_length_is_known(
    home: Path, model: LoadedModel, talk: Sample
) -> None:
    processor, images = model.processor, [load_image(home / "data" / name) for name in talk.images]
    messages = read_by(processor, images, "And <image>?", "Be brief.", [Past("What?", "A cup <image>.", 1)])
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "user"]
    assert [sum(part["type"] == "image" for part in turn["content"]) for turn in messages] == [0, 1, 0, 1]
    printed = apply_template(processor, messages, tokenize=False)
    assert printed.count("<image>") == 2 and "A cup < image>." in printed, "a token in a text is text"
    fixed = [turn.model_copy(update={"answer": turn.answer or "A cup."}) for turn in talk.history]
    whole = talk.model_copy(update={"history": fixed})
    past = [Past(turn.question, turn.answer or "", turn.images) for turn in fixed]
    ids = apply_template(
        processor, [read_by(processor, images, talk.question, "", past)], add_generation_prompt=True, tokenize=True,
        return_dict=True,
    )["input_ids"][0]  # fmt: skip
    engine = Engine(model, pack=False)
    assert prompt_lengths([whole], home / "data", engine) == {talk.id: len(ids)}
    lengths = [prompt_lengths([talk], home / "data", engine, answer=count)[talk.id] for count in (0, 100)]
    assert lengths[1] - lengths[0] == 100, "one answer is to come"


def test_a_template_for_strings_gets_earlier_answers_as_strings(home: Path) -> None:
    processor = load_model(home / "toy").processor
    processor.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '[' + m.content + ']' }}{% else %}"
        "{% for p in m.content %}{{ p.text if p.type == 'text' else '<image>' }}{% endfor %}{% endif %}{% endfor %}"
    )
    messages = read_by(processor, ["a"], "Why?", history=[Past("What?", "A cup.", 1)])
    assert apply_template(processor, messages, tokenize=False) == "<image>What?[A cup.]Why?"


def test_the_key_of_an_answer_covers_every_turn(home: Path, talk: Sample) -> None:
    keys = AnswerKeys(home / "data", "model", {"base": ""}, {})
    first, second = talk.history
    others = [
        talk.model_copy(update={"history": []}),
        talk.model_copy(update={"history": [first.model_copy(update={"question": "Who?"}), second]}),
        talk.model_copy(update={"history": [first.model_copy(update={"images": 2}), second]}),
        talk.model_copy(update={"history": [first, second.model_copy(update={"answer": None})]}),
    ]
    assert len({keys.of(one, "base") for one in (talk, *others)}) == 5


def test_a_turn_that_is_withheld_ends_the_dialogue(talk: Sample) -> None:
    prompting = Prompting(defence="gate", guard=("guard=http://127.0.0.1:9/v1#g",))
    flow = converse(prompting, talk)
    assert isinstance(next(flow), Check)
    with pytest.raises(StopIteration) as end:
        flow.send(Ruled(None, "no word"))
    assert (end.value.value.said.finish_reason, end.value.value.earlier) == (UNGUARDED, ())


def test_a_guard_sees_what_was_said_before(talk: Sample) -> None:
    flow = converse(Prompting(defence="gate", gates=("back",), guard=("guard=http://127.0.0.1:9/v1#g",)), talk)
    next(flow)
    assert flow.send(Said("A cup.", 3, "stop")) == Check("What is this?", "A cup.", (), 1)
    asked = flow.send(Ruled(False, ""))
    assert (asked.question, asked.shown(["a", "b", "c"])) == ("And this?", ["a", "b"])
    before = (Past("What is this?", "A cup.", 1), Past("Is it new?", "It is.", 0))
    assert flow.send(Said("A knife.", 3, "stop")) == Check("And this?", "A knife.", before, 1)


def test_a_thought_does_not_enter_the_history(talk: Sample) -> None:
    flow = converse(BARE, talk)
    next(flow)
    asked = flow.send(Said("<think>A mug?</think>A cup.", 9, "stop"))
    assert asked.history[0].answer == "A cup."


def test_a_server_is_asked_turn_by_turn(home: Path, talk: Sample, tmp_path: Path) -> None:
    file = home / "data" / "talk.jsonl"
    file.write_text(f"{talk.model_dump_json()}\n{single(talk, 0).model_dump_json()}\n")
    numbers = itertools.count(1)

    def reply(body: Mapping[str, Any]) -> str:
        return f"Answer {next(numbers)}."

    with LoopbackJudge(reply) as server:
        settings = GenerateSettings(server=f"{server.url}#m", data=file, runs=tmp_path, concurrency=1, generation=SHORT)
        done = generate_run(settings)
        bodies = list(server.bodies)
        assert generate_run(settings).responses == done.responses and len(server.bodies) == 3
    whole = next(one for one in done.responses if one.sample_id == "talk")
    turns = next(body["messages"] for body in bodies if len(body["messages"]) == 5)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    shown = [0 if isinstance(turn["content"], str) else sum(part["type"] == "image_url" for part in turn["content"])
             for turn in turns]  # fmt: skip
    assert shown == [1, 0, 0, 0, 1]
    assert turns[1]["content"] == whole.earlier[0].text and turns[3]["content"] == "It is."
    assert whole.tokens == 40, "both answers of the model"
