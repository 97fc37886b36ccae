"""Rows, batches and the order of work: label masks by token, batches of mixed numbers of images, passes in a budget."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.tiny import tiny_checkpoint
from support.tiny_architectures import LLAVA_ONEVISION
from support.tiny_rows import tiny_rows
from torch.nn import functional as F
from transformers import AutoProcessor

from mis_lib.errors import DataError, ImageError, ModelError
from mis_lib.files import load_image, read_records
from mis_lib.generate.decode import prompts
from mis_lib.prompts import user_message
from mis_lib.schema import Sample
from mis_lib.text.segments import segment
from mis_lib.train.batches import Plan, collate
from mis_lib.train.encode import IGNORED, NO_SEGMENT, SEGMENTS, Encoder, Example, first_letter, varied
from mis_lib.train.packing import PackedRows, packed_attention

IMAGE_TOKENS = 5  # of the tiny model: 4 patches and the class token


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoProcessor.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture
def examples(data: Path) -> list[Example]:
    return [Example(sample, data) for sample in read_records(data / "train.jsonl", Sample)]


def test_the_loss_is_taken_at_the_answer_and_its_end_and_nowhere_else(processor: Any, examples: list[Example]) -> None:
    for example in examples[:3]:  # one, two, three images
        row = Encoder(processor).row(example)
        counted = row.labels != IGNORED
        answer = (example.sample.answer or "").encode()  # byte-level tokens: one each
        assert int(counted.sum()) == len(answer) + 1
        assert processor.tokenizer.decode(row.ids[counted]) == f"{example.sample.answer}<|im_end|>"
        assert torch.equal(row.labels[counted], row.ids[counted])
        assert not counted[: len(row) - len(answer) - 1].any(), "something before the answer counts"
        assert row.ids[-1] == processor.tokenizer.eos_token_id, "nothing stands behind the end token"


def test_the_prompt_is_what_generation_reads(processor: Any, examples: list[Example]) -> None:
    for example in examples[:3]:
        images = [load_image(example.folder / name) for name in example.sample.images]
        read = processor.apply_chat_template(
            [[user_message(images, example.sample.question)]],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        row = Encoder(processor).row(example)
        length = read["input_ids"].shape[1]
        assert torch.equal(row.ids[:length], read["input_ids"][0])
        assert torch.equal(row.vision["pixel_values"], read["pixel_values"])


def test_an_answer_follows_the_prompt_where_the_template_prints_other_space_before_it(
    processor: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        processor, "chat_template", LLAVA_ONEVISION
    )  # "assistant \n" before an answer, "assistant\n" before none
    for example in examples[:3]:
        encoder = Encoder(processor)
        row, prompt = encoder.row(example), encoder.prompt(example).ids
        assert torch.equal(row.ids[: len(prompt)], prompt)
        assert processor.tokenizer.decode(row.ids[len(prompt) :]) == f"{example.sample.answer}<|im_end|>"
        assert row.labels[len(prompt) :].tolist() == row.ids[len(prompt) :].tolist()


def test_no_image_is_cut_and_an_over_long_row_is_an_error_that_names_it(
    processor: Any, examples: list[Example]
) -> None:
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    for example in examples[:3]:
        row = Encoder(processor).row(example)
        assert int((row.ids == image).sum()) == IMAGE_TOKENS * len(example.sample.images)
    with pytest.raises(DataError, match=r"row 'row-2': expected at most 50 tokens, found \d+; nothing is cut"):
        Encoder(processor, max_length=50).row(examples[2])
    assert len(Encoder(processor, max_length=len(row)).row(examples[2])) == len(row)


def test_a_masked_end_token_does_not_count(processor: Any, examples: list[Example]) -> None:
    sample = examples[0].sample.model_copy(update={"mask_eos": True})
    row = Encoder(processor).row(Example(sample, examples[0].folder))
    assert row.labels[-1] == IGNORED
    assert row.ids[-1] == processor.tokenizer.eos_token_id


def test_special_tokens_in_an_answer_are_plain_text(processor: Any, examples: list[Example]) -> None:
    sample = examples[0].sample.model_copy(update={"answer": "Use <image> and <|im_end|> here."})
    row = Encoder(processor).row(Example(sample, examples[0].folder))
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((row.ids == image).sum()) == IMAGE_TOKENS
    assert int((row.labels == processor.tokenizer.eos_token_id).sum()) == 1


def test_answer_tokens_know_their_segment(processor: Any, examples: list[Example]) -> None:
    answer = examples[0].sample.answer or ""
    row = Encoder(processor, segmenter=segment).row(examples[0])
    counted = row.labels != IGNORED
    assert (row.segments[~counted] == NO_SEGMENT).all()
    for part in segment(answer):
        tokens = row.segments[counted][part.start : part.end]  # one token a letter
        assert (tokens == SEGMENTS.index(part.kind)).all(), part.kind


def test_segments_that_the_data_tells_are_taken(processor: Any, examples: list[Example]) -> None:
    told = [{"kind": "perception", "start": 0, "end": 4}, {"kind": "answer", "start": 4, "end": 12}]
    sample = examples[0].sample.model_copy(update={"answer": "abcdefghijkl", "segments": told})
    row = Encoder(processor, segmenter=segment).row(Example(sample, examples[0].folder))
    assert row.segments[row.labels != IGNORED].tolist() == [0] * 4 + [2] * 9  # the end token belongs to the answer


@pytest.mark.parametrize(
    ("start", "end", "first"), [(0, 4, 0), (5, 14, 6), (4, 5, 4), (14, 17, 14), (15, 17, 15)], ids=repr
)
def test_the_space_before_a_word_belongs_to_the_word(start: int, end: int, first: int) -> None:
    assert first_letter("food. Together.\n\n", start, end) == first


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_row_without_an_answer_is_an_error(processor: Any, examples: list[Example], answer: str | None) -> None:
    sample = examples[0].sample.model_copy(update={"answer": answer})
    with pytest.raises(DataError, match="row 'row-0': expected an answer"):
        Encoder(processor).row(Example(sample, examples[0].folder))


def test_a_missing_image_names_row_and_file(processor: Any, examples: list[Example]) -> None:
    sample = examples[1].sample.model_copy(update={"images": ["images/gone.png"]})
    with pytest.raises(ImageError, match=r"row 'row-1', image 'images/gone.png': .*no such file"):
        Encoder(processor).row(Example(sample, examples[1].folder))


def test_a_template_that_changes_the_prompt_is_refused(processor: Any, examples: list[Example], tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    other: Any = AutoProcessor.from_pretrained(tmp_path)
    other.chat_template = other.chat_template.replace(
        "{% for message in messages %}", "{{ messages | length }}{% for message in messages %}", 1
    )
    with pytest.raises(ModelError, match="expected a chat template whose training text begins with the prompt"):
        Encoder(other).row(examples[0])


STRING_ONLY = {"prints the list": "{{ message['content'] }}", "adds strings": "{{ message['content'] + '' }}"}
"""What some templates print of an assistant's turn: GLM-4.1V's and Pixtral-12B's."""


def with_template(processor: Any, folder: Path, template: str | None) -> Any:
    processor.save_pretrained(folder)
    other: Any = AutoProcessor.from_pretrained(folder)
    other.chat_template = template
    return other


def assistant_prints(what: str) -> str:
    """LLaVA-OneVision's template with another way to print an assistant's turn."""
    return LLAVA_ONEVISION.replace(
        "{% for part in message['content'] %}",
        "{% if message['role'] == 'assistant' %}" + what + "{% else %}{% for part in message['content'] %}",
    ).replace("{% endif %}{% endfor %}{{ '<|im_end|>' }}", "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>' }}")


@pytest.mark.parametrize("kind", STRING_ONLY)
def test_a_template_that_reads_answers_as_strings_learns_the_answer(
    processor: Any, examples: list[Example], tmp_path: Path, kind: str
) -> None:
    other = with_template(processor, tmp_path, assistant_prints(STRING_ONLY[kind]))
    sample = examples[0].sample
    later = {"later_turns": [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "It's\nthat."}]}
    row = Encoder(other).row(examples[0]._replace(sample=sample.model_copy(update=later)))
    assert other.tokenizer.decode(row.ids[row.labels != IGNORED]) == f"{sample.answer}<|im_end|>It's\nthat.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "found: Cannot use apply_chat_template because this processor does not have a chat template"),
        (
            LLAVA_ONEVISION.replace("{% for part in", "{{ message['content'] + '' }}{% for part in"),
            "found: can only concatenate list .* Put the chat_template.jinja of the model's chat version into",
        ),
        (
            LLAVA_ONEVISION.replace("{% for part in", "{{ message['content'] }}{% for part in"),
            "found: that it prints {'type': 'text', 'text': 'What",
        ),
        (assistant_prints("{{ message['content'][:3] }}"), "the answer .* found one that prints '.* The<"),
    ],
    ids=["none", "user's turn as a string", "user's turn as a list", "answer cut"],
)
def test_a_template_that_cannot_print_a_row_is_named(
    processor: Any, examples: list[Example], tmp_path: Path, template: str | None, found: str
) -> None:
    encoder = Encoder(with_template(processor, tmp_path, template))
    with pytest.raises(ModelError, match="expected a chat template that prints .*" + found):
        encoder.row(examples[0])


def test_generation_names_a_checkpoint_without_a_template(processor: Any, tmp_path: Path) -> None:
    other = with_template(processor, tmp_path, None)
    with pytest.raises(ModelError, match="expected a chat template that prints messages with images and text, found"):
        prompts([[Image.new("RGB", (8, 8))]], ["What?"], other, network=None)


def test_augmentation_changes_the_image_and_depends_on_the_seed(processor: Any, examples: list[Example]) -> None:
    encoder = Encoder(processor, augment=True)
    one, same, other = (encoder.row(examples[0], seed=seed).vision["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    sample = examples[0].sample.model_copy(update={"images": [examples[0].sample.images[0]] * 2})
    first, second = encoder.row(Example(sample, examples[0].folder)).vision["pixel_values"]
    assert not torch.equal(first, second), "each image of a row is varied for itself"


def test_an_image_is_varied_by_no_more_than_is_told() -> None:
    made = [varied(Image.new("RGB", (200, 100), (100, 100, 100)), random.Random(seed)) for seed in range(60)]
    widths, heights, light = zip(*((*image.size, image.getpixel((0, 0))[0]) for image in made), strict=True)
    for sizes, side in ((widths, 200), (heights, 100)):
        assert 0.9 * side <= min(sizes) < 0.93 * side and 0.98 * side < max(sizes) <= side
    assert 85 <= min(light) < 90 and 110 < max(light) <= 115


def test_rows_of_one_two_and_three_images_share_a_batch(processor: Any, examples: list[Example]) -> None:
    rows = [Encoder(processor).row(example) for example in examples[:3]]
    batch = collate(rows, pad_token=0)
    assert len(batch.inputs["pixel_values"]) == 1 + 2 + 3
    assert torch.equal(batch.inputs["pixel_values"][1:3], rows[1].vision["pixel_values"])
    longest = max(map(len, rows))
    for at, row in enumerate(rows):
        assert batch.inputs["input_ids"][at].tolist() == row.ids.tolist() + [0] * (longest - len(row))
        assert batch.inputs["attention_mask"][at].tolist() == [1] * len(row) + [0] * (longest - len(row))
        assert batch.labels[at].tolist() == row.labels.tolist() + [IGNORED] * (longest - len(row))
        assert batch.row_of_token[at].tolist() == [at] * len(row) + [-1] * (longest - len(row))
    assert batch.tokens == sum(map(len, rows))
    assert batch.padded_tokens == 3 * longest
    assert batch.answer_tokens == sum(int((row.labels != IGNORED).sum()) for row in rows) < batch.tokens
    stored = [replace(row, features=(torch.full((1, 2), at),)) for at, row in enumerate(rows)]
    joined = collate(stored, pad_token=0).features
    assert joined is not None and joined[:, 0].tolist() == [0, 1, 2]


def test_packed_rows_stand_behind_each_other(processor: Any, examples: list[Example]) -> None:
    rows = [Encoder(processor).row(example) for example in examples[:3]]
    batch = collate(rows, pad_token=0, packed=True)
    assert batch.inputs["input_ids"].tolist() == [[token for row in rows for token in row.ids.tolist()]]
    assert "attention_mask" not in batch.inputs
    assert batch.padded_tokens == batch.tokens
    starts = [0, len(rows[0]), len(rows[0]) + len(rows[1])]
    assert all(batch.labels[0, start] == IGNORED for start in starts), (
        "a row's first token is predicted from the row before"
    )


def test_vision_tensors_of_different_shapes_are_filled_up() -> None:
    from mis_lib.train.batches import join_vision

    joined = join_vision([{"pixel_values": torch.ones(1, 2, 3)}, {"pixel_values": torch.ones(2, 3, 3) * 2}])
    assert joined["pixel_values"].shape == (3, 3, 3)
    assert joined["pixel_values"][0].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]


def test_examples_of_packed_rows() -> None:
    rows = PackedRows.of([2, 3])
    assert rows.starts.tolist() == [0, 2, 5]
    assert rows.below.tolist() == [[0, 1, 5], [2, 3, 4]]  # 5: nothing stands there
    assert rows.above.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_no_row_attends_to_another_nor_to_what_comes_later(dropout: float) -> None:
    torch.manual_seed(0)
    lengths = [3, 7, 1]
    states = [torch.randn(1, heads, sum(lengths), 4) for heads in (6, 2, 2)]
    found, _ = packed_attention(None, *states, None, packed_rows=PackedRows.of(lengths), dropout=dropout)
    row_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (row_of[:, None] == row_of) & torch.ones(11, 11, dtype=torch.bool).tril()
    wanted = F.scaled_dot_product_attention(*states, attn_mask=allowed, enable_gqa=True)
    assert torch.allclose(found, wanted.transpose(1, 2), atol=1e-6)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(10, 400), min_size=1, max_size=60),
    batch_size=st.integers(1, 17),
    tokens=st.integers(50, 900),
    devices=st.integers(1, 4),
    packed=st.booleans(),
    grouped=st.booleans(),
)
def test_every_row_is_trained_on_once_an_epoch_under_the_budget(
    lengths: list[int], batch_size: int, tokens: int, devices: int, packed: bool, grouped: bool
) -> None:
    plan = Plan(lengths, batch_size, tokens, steps=1, seed=3, group_by_length=grouped, packed=packed)
    steps = plan.epoch(0)
    assert len(steps) == plan.steps_per_epoch
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    for step in steps:
        shares = plan.passes(step, devices)
        assert len(shares) == devices
        assert len({len(share) for share in shares}) == 1, "devices make different numbers of passes"
        rows = [row for share in shares for part in share for row in part]
        assert sorted(row for row in rows if row >= 0) == sorted(step)
        for part in (part for share in shares for part in share):
            size = [lengths[row if row >= 0 else ~row] for row in part]
            assert len(part) == 1 or (sum(size) if packed else max(size) * len(size)) <= tokens


def test_the_order_of_work_follows_from_the_seed_and_differs_between_epochs() -> None:
    plan = Plan(list(range(50, 150)), 8, 1000, steps=1, seed=1)
    assert plan.epoch(0) == plan.epoch(0)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) != plan._replace(seed=2).epoch(0)


def test_the_longest_row_of_a_step_is_known_in_every_epoch() -> None:
    plan = Plan(list(range(50, 150)), 8, 1000, steps=26, seed=1)
    for step in range(26):
        rows = plan.epoch(step // 13)[step % 13]
        assert plan.longest(step) in rows and plan.lengths[plan.longest(step)] == max(plan.lengths[row] for row in rows)


def test_a_step_of_short_answers_is_divided_by_what_a_step_is_expected_to_have() -> None:
    plan = Plan([40, 40, 60, 60, 80], 2, 1000, steps=3, seed=0, learned=12.0)
    assert plan.divisor == 24.0, "two rows of 12 answer tokens on average"
    assert plan._replace(batch_size=16).divisor == 60.0, "there are only five rows"
    assert plan._replace(group_by_length=False).divisor is None, "mixed steps: their own tokens, as elsewhere"


def test_rows_of_a_step_have_about_the_same_length() -> None:
    lengths = [50 + 7 * (at * 37 % 101) for at in range(512)]

    def padding(*, grouped: bool) -> float:
        plan = Plan(lengths, 16, 10**6, steps=1, seed=0, group_by_length=grouped)
        spent = sum(max(lengths[row] for row in step) * len(step) for step in plan.epoch(0))
        return 1 - sum(lengths) / spent

    assert padding(grouped=True) < 0.1 < 0.3 < padding(grouped=False)
