"""Dialogues: every answer is learned, questions are only read, and what was said after an answer goes with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.tiny import tiny_checkpoint
from support.tiny_architectures import LLAVA_ONEVISION
from support.tiny_rows import tiny_rows
from transformers import AutoProcessor

from mis_lib.data.findings import Kind
from mis_lib.data.formats import Exchange, later_exchanges, with_answer
from mis_lib.data.mixing import compose
from mis_lib.data.mixtures import Arm, Part, Recipe, SampleSet
from mis_lib.data.preferences import Preference
from mis_lib.data.preflight import PreflightSettings, preflight
from mis_lib.errors import DataError, ModelError
from mis_lib.files import load_image
from mis_lib.prompts import assistant_message, to_messages, user_message
from mis_lib.schema import Sample, SegmentKind
from mis_lib.text.segments import segment
from mis_lib.train.batches import collate
from mis_lib.train.dpo import preference_rows
from mis_lib.train.encode import IGNORED, NO_SEGMENT, SEGMENTS, Encoder, Example

LATER = [
    {"role": "user", "content": "And the <image> behind it?"},
    {"role": "assistant", "content": "A curtain. It may catch fire."},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "You are welcome."},
]
SAID = ["Two things.", "A curtain. It may catch fire.", "You are welcome."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def processor(checkpoint: Path) -> Any:
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "data")


def dialogue(**fields: Any) -> Sample:
    images = ["images/cup.png", "images/knife.png"]
    return Sample(
        **{"id": "d", "question": "What is there?", "images": images, "answer": SAID[0], "later_turns": LATER, **fields}
    )


def counted(row: Any, processor: Any) -> list[str]:
    """What the loss is taken at, stretch by stretch."""
    found, open_stretch = [], False
    for token, label in zip(row.ids.tolist(), row.labels.tolist(), strict=True):
        if label == IGNORED:
            open_stretch = False
            continue
        assert label == token
        if not open_stretch:
            found.append([])
        found[-1].append(token)
        open_stretch = True
    return [processor.tokenizer.decode(stretch) for stretch in found]


@pytest.mark.parametrize("template", [None, LLAVA_ONEVISION], ids=["ChatML", "LLaVA-OneVision"])
def test_every_answer_is_learned_and_the_rest_only_read(processor: Any, data: Path, template: str | None) -> None:
    processor.chat_template = template or processor.chat_template
    encoder, sample = Encoder(processor), dialogue()
    row = encoder.row(Example(sample, data))
    assert counted(row, processor) == [f"{said}<|im_end|>" for said in SAID]
    prompt = encoder.prompt(Example(sample, data)).ids
    assert torch.equal(row.ids[: len(prompt)], prompt)
    assert len(encoder.completion(sample).ids) == len(row) - len(prompt)
    behind = processor.tokenizer.decode(row.ids[len(prompt) :])
    assert "And the < image> behind it?" in behind, "a token in a person's text is text"
    assert int((row.ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum()) == 10
    assert all(len(value) == len(row) for value in row.per_token.values())


def test_a_dialogue_is_what_the_template_prints(processor: Any, data: Path) -> None:
    sample = dialogue()
    images = [load_image(data / name) for name in sample.images]
    turns = to_messages(images, sample.question, SAID[0])
    for asked, said in (("And the < image> behind it?", SAID[1]), ("Thanks.", SAID[2])):
        turns += [user_message([], asked), assistant_message(said)]
    whole = processor.apply_chat_template([turns], tokenize=True, return_dict=True, return_tensors="pt")["input_ids"][0]
    row = Encoder(processor).row(Example(sample, data))
    assert torch.equal(row.ids, whole[: len(row)])
    assert processor.tokenizer.decode(whole[len(row) :]).strip() == ""


def test_earlier_turns_are_part_of_the_prompt_with_their_images(processor: Any, data: Path) -> None:
    turns = [{"question": "What is there?", "images": 1, "answer": SAID[0]}]
    sample = dialogue(history=turns, question="And <image> here?", answer=SAID[1], later_turns=[])
    images = [load_image(data / name) for name in sample.images]
    printed = [user_message(images[:1], "What is there?"), assistant_message(SAID[0])]
    printed += [user_message(images[1:], "And < image> here?"), assistant_message(SAID[1])]
    row = Encoder(processor).row(Example(sample, data))
    whole = processor.apply_chat_template([printed], tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(row.ids, whole["input_ids"][0][: len(row)])
    assert counted(row, processor) == [f"{SAID[1]}<|im_end|>"]
    unsaid = sample.model_copy(update={"history": [sample.history[0].model_copy(update={"answer": None})]})
    with pytest.raises(DataError, match="row 'd': expected an answer to each earlier question, found none"):
        Encoder(processor).row(Example(unsaid, data))


def test_later_answers_have_parts_of_their_own(processor: Any, data: Path) -> None:
    told = [{"kind": "reasoning", "start": 0, "end": len(SAID[0])}]
    row = Encoder(processor, segmenter=segment).row(Example(dialogue(segments=told), data))
    read = row.labels == IGNORED
    assert bool((row.segments[read] == NO_SEGMENT).all())
    first = row.segments[~read][: len(SAID[0])]
    assert set(first.tolist()) == {SEGMENTS.index(SegmentKind.REASONING)}, "what the sample tells is of its own answer"
    assert bool((row.segments[~read] != NO_SEGMENT).all())


def test_a_whole_dialogue_must_fit(processor: Any, data: Path) -> None:
    example = Example(dialogue(), data)
    length = len(Encoder(processor).row(example))
    assert len(Encoder(processor, max_length=length).row(example)) == length
    with pytest.raises(DataError, match=f"row 'd': expected at most {length - 1} tokens, found {length}"):
        Encoder(processor, max_length=length - 1).row(example)
    alone = Encoder(processor).row(Example(dialogue(later_turns=[]), data))
    both = collate([Encoder(processor).row(example), alone], pad_token=0)
    assert both.answer_tokens == sum(len(said) + 1 for said in SAID) + len(SAID[0]) + 1


def test_a_template_that_changes_earlier_turns_is_refused(processor: Any, data: Path) -> None:
    """As those do that drop earlier thoughts."""
    processor.chat_template = processor.chat_template.replace(
        "{{ part['text'] }}",
        "{{ part['text'] if loop.last and (message == messages[-1] or message['role'] == 'user') else '' }}",
    )
    assert Encoder(processor).row(Example(dialogue(later_turns=[]), data))
    with pytest.raises(ModelError, match="prints a dialogue's turns alike when it goes on"):
        Encoder(processor).row(Example(dialogue(), data))


def test_a_preference_is_about_the_first_answer(processor: Any, data: Path) -> None:
    rows = preference_rows([Preference(sample=dialogue(), chosen=SAID[0], rejected="No.")], data, processor)
    assert "curtain" not in json.dumps([str(value) for value in rows[0].values()])


@pytest.mark.parametrize(
    "turns",
    [
        "text",
        LATER[:1],
        [*LATER[2:], LATER[0], LATER[1] | {"role": "user"}],
        [LATER[0], {"role": "assistant", "content": " "}],
    ],
)
def test_later_turns_that_are_none_are_told_before_training_and_in_it(
    processor: Any, data: Path, tmp_path: Path, turns: Any
) -> None:
    with pytest.raises(
        DataError, match=r"sample d: field 'later_turns': expected (turns of user and assistant|a text in each turn)"
    ):
        Encoder(processor).row(Example(dialogue(later_turns=turns), data))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    row = {"id": "d", "question": "What?", "images": ["a.png"], "answer": "A thing.", "later_turns": turns}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    report = preflight(tmp_path / "train.jsonl")
    assert [found.field for found in report.findings if found.kind is Kind.TURNS] == ["later_turns"]
    assert not report.ready


@pytest.mark.parametrize("form", ["ours", "messages", "conversations"])
def test_tokens_of_a_dialogue_are_foretold(checkpoint: Path, processor: Any, tmp_path: Path, form: str) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    later = [turn | {"content": turn["content"].replace("<image> ", "")} for turn in LATER]
    turns = [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": SAID[0]}, *later]
    names = {"user": "human", "assistant": "gpt"}
    rows: dict[str, dict[str, Any]] = {
        "ours": {"question": "What is there?", "answer": SAID[0], "later_turns": later},
        "messages": {"messages": turns},
        "conversations": {
            "conversations": [
                {"from": names[turn["role"]], "value": ("<image>" if not at else "") + turn["content"]}
                for at, turn in enumerate(turns)
            ]
        },
    }
    (tmp_path / "train.jsonl").write_text(json.dumps({"id": "d", "images": ["a.png"], **rows[form]}))
    report = preflight(tmp_path / "train.jsonl", PreflightSettings(model=str(checkpoint)))
    assert report.tokens is not None and report.tokens.exact
    sample = Sample(id="d", question="What is there?", images=["a.png"], answer=SAID[0], later_turns=later)
    row = Encoder(processor).row(Example(sample, tmp_path))
    # a newline joins each text to the next of its kind, and the template prints one behind the last turn
    assert abs(report.tokens.rows[0].total - len(row)) <= 5


def test_another_answer_takes_what_was_said_after_it_along() -> None:
    told = [{"kind": "answer", "start": 0, "end": 5}]
    sample = dialogue(segments=told)
    assert later_exchanges(sample) == [Exchange(*(turn["content"] for turn in LATER[at : at + 2])) for at in (0, 2)]
    same = with_answer(sample, SAID[0], split="train")
    assert (len(later_exchanges(same)), same.split, (same.model_extra or {})["segments"]) == (2, "train", told)
    other = with_answer(sample, "No.")
    assert other.answer == "No." and later_exchanges(other) == [] and not (other.model_extra or {})["segments"]
    assert not with_answer(Sample(id="a", question="?", images=["a.png"]), "Yes.").model_extra


def test_a_refusal_in_a_mixture_is_not_followed_by_the_old_dialogue(data: Path) -> None:
    rows = SampleSet([dialogue(id="h", harmful=True), dialogue(id="b", harmful=False)], data)
    part = Part(source="safety", label="refusal")
    (mixed,) = compose(
        Recipe(name="r", about="A test.", arms=[Arm(name="one", parts=[part])]), {"safety": rows}
    ).values()
    kept = {row.sample.id: later_exchanges(row.sample) for row in mixed}
    assert kept["h"] == [] and len(kept["b"]) == 2
