"""Records of every form: where their images and texts go, what is kept, and how each wrong one is named."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published import our_samples, png, put_images, put_lines, put_parquet, put_table

from mis_lib.construct.stages.pipeline import PENDING, REJECTED
from mis_lib.data.benchmarks import LOADERS
from mis_lib.data.export import export
from mis_lib.data.findings import Kind, Level
from mis_lib.data.formats import to_sample
from mis_lib.data.preferences import PAIRS
from mis_lib.data.preflight import preflight
from mis_lib.data.records import Row, json_lines, read_table
from mis_lib.data.sources import find_source, load, scan, splits_of
from mis_lib.errors import DataError, ImageError
from mis_lib.results.regression import REGRESSION
from mis_lib.results.runs import folder_digest
from mis_lib.schema import EarlierTurn, Sample
from mis_lib.settings import ExportForm

A, B = "a.png", "b.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_images(tmp_path, A, B)
    return tmp_path


def convert(folder: Path, record: dict[str, Any]) -> Sample:
    return to_sample(Row(folder / "data.jsonl", 4, record), folder)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


IMAGE = {"type": "image"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# ---------- one meaning, many forms

FORMS = {
    "ours": {"id": "7", "question": "What are these?", "images": [A, B], "answer": "Toys."},
    "llava": {"id": 7, "image": [A, B], "conversations": turns("<image>\n<image>\nWhat are these?", "Toys.")},
    "llava, images last": {
        "id": 7,
        "image": [A, B],
        "conversations": turns("What are these?\n<image><image>", "Toys."),
    },
    "llamafactory": {"id": "7", "images": [A, B], "conversations": turns("<image><image>What are these?", "Toys.")},
    "internvl": {
        "id": 7,
        "image": [A, B],
        "conversations": turns("Image-1: <image>\nImage-2: <image>\nWhat are these?", "Toys."),
    },
    "swift": {"id": "7", "images": [A, B], "messages": chat("<image><image>What are these?", "Toys.")},
    "swift, no tags": {"id": "7", "images": [A, B], "messages": chat("What are these?", "Toys.")},
    "swift, path objects": {
        "id": "7",
        "images": [{"path": A, "bytes": None}, {"path": B, "bytes": None}],
        "messages": chat("<image><image>What are these?", "Toys."),
    },
    "trl": {
        "id": "7",
        "images": [A, B],
        "prompt": [{"role": "user", "content": [IMAGE, IMAGE, words("What are these?")]}],
        "completion": [{"role": "assistant", "content": [words("Toys.")]}],
    },
    "trl messages as datasets reads them": {
        "id": "7",
        "images": [A, B],
        "messages": [
            {"role": "user", "content": [{**IMAGE, "text": None}, {**IMAGE, "text": None}, words("What are these?")]},
            {"role": "assistant", "content": [words("Toys.")]},
        ],
    },
    "transformers": {
        "id": "7",
        "messages": [
            {"role": "user", "content": [{**IMAGE, "image": A}, {**IMAGE, "path": B}, words("What are these?")]},
            {"role": "assistant", "content": [words("Toys.")]},
        ],
    },
    "openai": {
        "id": "7",
        "messages": [
            {
                "role": "user",
                "content": [
                    words("What are these?"),
                    {"type": "image_url", "image_url": {"url": A}},
                    {"type": "image_url", "image_url": {"url": B}},
                ],
            },
            {"role": "assistant", "content": "Toys."},
        ],
    },
}


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_one_meaning_in_every_form_is_one_sample(folder: Path, record: dict[str, Any]) -> None:
    sample = convert(folder, record)
    assert (sample.id, sample.question, sample.answer) == ("7", "What are these?", "Toys.")
    assert sample.images == [A, B]


@pytest.mark.parametrize("form", ["ours", "llava", "swift, no tags", "trl", "transformers"])
def test_a_row_of_text_is_read_in_every_form_and_said_among_rows_with_images(folder: Path, form: str) -> None:
    record = json.loads(json.dumps(FORMS[form]).replace("<image>\\n", ""))
    for turn in [*record.get("messages", ()), *record.get("prompt", ())]:
        turn["content"] = turn["content"][-1:] if isinstance(turn["content"], list) else turn["content"]
    record.pop("image", None)
    put_lines(folder, "data.jsonl", [text := {**record, "images": []}, {**FORMS[form], "id": "8"}, {**OURS, "id": "9"}])
    sample, *_ = load(find_source(folder / "data.jsonl"))
    assert (sample.question, sample.answer, sample.images) == ("What are these?", "Toys.", [])
    found = [one for one in preflight(folder / "data.jsonl").findings if one.kind is Kind.TEXT_ROW]
    assert [(one.level, one.row) for one in found] == [(Level.WARNING, 1)]
    for trainer in (ExportForm.LLAMAFACTORY, ExportForm.SWIFT, ExportForm.TRL, ExportForm.JSONL):  # and comes back
        made = export([sample], folder, folder / trainer, trainer)
        assert load(find_source(Path(made.file)))[0].images == []
    if form in ("llava", "transformers"):  # which leave the field out
        assert convert(folder, {name: value for name, value in text.items() if name != "images"}).images == []
    put_lines(folder, "data.jsonl", [text])
    assert preflight(folder / "data.jsonl").findings == []


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_what_is_read_in_a_form_is_not_found_fault_with(folder: Path, record: dict[str, Any]) -> None:
    put_lines(folder, "data.jsonl", [record])
    report = preflight(folder / "data.jsonl")
    assert (report.ready, report.images) == (True, 2)


def test_embedded_images_are_looked_at_as_they_are_read(folder: Path) -> None:
    parts = [f"data:image/png;base64,{base64.b64encode(png(number)).decode()}" for number in (5, 6)]
    shown = [{"type": "image_url", "image_url": {"url": part}} for part in parts]
    asked = {"role": "user", "content": [*shown, words("What are these?")]}
    answer = {"role": "assistant", "content": "Toys."}
    put_lines(
        folder,
        "data.jsonl",
        [{"messages": [asked, answer]}, {"question": "What?", "image": parts[0], "answer": "A toy."}],
    )
    report = preflight(folder / "data.jsonl")
    assert (report.ready, report.images, len(load(find_source(folder / "data.jsonl")))) == (True, 3, 2)
    asked["content"][0] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    put_lines(folder, "data.jsonl", [{"messages": [asked, answer]}])
    (found,) = preflight(folder / "data.jsonl").findings
    assert (found.kind, found.row, found.field) == (Kind.MALFORMED, 1, "images")


def test_mis_test_takes_as_many_numbered_images_as_there_are(folder: Path) -> None:
    record = {"id": 3, "question": "What?", **{f"image_path{place}": (A, B)[place % 2] for place in range(1, 11)}}
    assert convert(folder, record).images == [B, A] * 5  # 10 comes after 9
    del record["image_path2"]
    with pytest.raises(DataError, match="number the images from 1"):
        convert(folder, record)


def test_a_bare_path_is_one_image_and_not_a_list_of_letters(folder: Path) -> None:
    assert convert(folder, {"image": A, "conversations": turns("<image>What?", "A toy.")}).images == [A]
    assert convert(folder, {"question": "What?", "image": A}).images == [A]


def test_images_within_a_text_are_numbered_in_order(folder: Path) -> None:
    texts = ("<image> left, <image> right?", "Yes.", "Sure?", "Sure.")
    sample = convert(folder, {"image": [A, B], "conversations": turns(*texts)})
    assert sample.question == "[image 1] left, [image 2] right?"
    later = convert(folder, {"images": [A, B], "messages": chat("<image>What?", "A toy.", "And <image>?", "A box.")})
    assert (later.question, later.answer) == ("And [image 2]?", "A box.")
    assert later.history == [EarlierTurn(question="What?", images=1, answer="A toy.")]


PARTS = [{"type": "image", "image": B}, {"type": "text", "text": "And this?"}]


@pytest.mark.parametrize(
    "record",
    [
        {"images": [A, B], "messages": chat("<image>What?", "A toy.", "<image>And this?", "A box.", "Both?")},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": A}, {"type": "text", "text": "What?"}]},
                      *chat("x", "A toy.")[1:], {"role": "user", "content": PARTS}, *chat("x", "A box.", "Both?")[1:]]},
        {"image": [A, B], "conversations": turns("<image>\nWhat?", "A toy.", "And this?<image>", "A box.", "Both?")},
        {"id": "1", "images": [A, B], "question": "Both?", "history": [
            {"question": "What?", "images": 1, "answer": "A toy."},
            {"question": "And this?", "images": 1, "answer": "A box."}]},
    ],
    ids=["messages", "parts", "conversations", "ours"],
)  # fmt: skip
def test_a_dialogue_that_ends_with_a_question_keeps_the_images_of_each_turn(
    folder: Path, record: dict[str, Any]
) -> None:
    sample = convert(folder, record)
    assert (sample.question, sample.answer, sample.images_of_turns) == ("Both?", None, [[A], [B], []])
    assert [(turn.question, turn.answer) for turn in sample.history] == [("What?", "A toy."), ("And this?", "A box.")]


def test_a_history_that_shows_more_images_than_there_are_is_named(folder: Path) -> None:
    record = {"id": "1", "question": "Why?", "images": [A], "history": [{"question": "What?", "images": 2}]}
    with pytest.raises(DataError, match="field 'history': expected at most 1 images in earlier turns, found 2"):
        convert(folder, record)


def test_an_earlier_answer_that_is_not_learned_is_reported(folder: Path) -> None:
    before = [{"question": "What?", "images": 1, "answer": "A toy."}]
    row = {"id": "1", "images": [A, B], "question": "And this?", "answer": "A box.", "history": before}
    put_lines(folder, "data.jsonl", [row])
    told = [one.message for one in preflight(folder / "data.jsonl").findings if one.kind is Kind.NOT_SHOWN]
    assert len(told) == 1 and "found answers to earlier questions beside them" in told[0]


def test_an_absolute_path_into_the_folder_is_the_relative_one_that_it_means(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(folder)
    images = [str(folder / A), str(folder / B)]
    put_lines(folder, "data.jsonl", [{"id": "1", "messages": chat("What are these?", "Toys."), "images": images}])
    for place in (folder, link):
        assert preflight(place / "data.jsonl").findings == []
        assert load(find_source(place / "data.jsonl"))[0].images == [A, B]
    outside = tmp_path_factory.mktemp("outside")
    put_images(outside, A)
    for wrong in (str(outside / A), f"{folder}/../{outside.name}/{A}", str(folder)):
        put_lines(folder, "data.jsonl", [{"id": "1", "messages": chat("What?", "Toys."), "images": [wrong]}])
        assert not preflight(folder / "data.jsonl").ready
        with pytest.raises(DataError):
            load(find_source(folder / "data.jsonl"))


SYSTEM_TURN = {"role": "system", "content": "Be careful."}
LONG = chat("What are these?", "Toys.", "And why?", "They are small.")


@pytest.mark.parametrize(
    ("record", "reported"),
    [
        ({"messages": LONG}, ["later turns"]),
        ({"messages": [SYSTEM_TURN, *LONG[:2]]}, []),
        ({"messages": LONG, "system": "Be careful."}, ["later turns"]),
        ({"conversations": turns("<image><image>What are these?", "Toys.", "And?", "Small.")}, ["later turns"]),
        ({"question": "What?", "answer": "Toys.", "id": "1", "later_turns": LONG[2:], "system_prompt": "x"},
         ["later turns"]),
        ({"messages": LONG[:2], "system": ""}, []),
    ],
)  # fmt: skip
def test_what_no_model_is_shown_is_reported_once(folder: Path, record: dict[str, Any], reported: list[str]) -> None:
    put_lines(folder, "data.jsonl", [{**record, "id": str(at), "images": [A, B]} for at in range(2)])
    found = [one for one in preflight(folder / "data.jsonl").findings if one.kind is Kind.NOT_SHOWN]
    assert [(one.row, one.rows, one.level) for one in found] == [(1, 2, Level.WARNING)] * len(reported)
    assert all(any(f"found {what} beside them" in one.message for one in found) for what in reported)


def test_a_system_prompt_is_kept_wherever_it_stands(folder: Path) -> None:
    first = {"images": [A], "messages": [{"role": "system", "content": "Be brief."}, *chat("<image>What?", "A toy.")]}
    in_a_field = {"images": [A], "system": "Be brief.", "conversations": turns("<image>What?", "A toy.")}
    assert (
        convert(folder, first).model_extra == convert(folder, in_a_field).model_extra == {"system_prompt": "Be brief."}
    )


def test_unknown_fields_are_kept_and_taken_names_get_another(folder: Path) -> None:
    record = {
        "image": [A],
        "conversations": turns("<image>What?", "A toy."),
        "answer": 4,
        "source_answer": 5,
        "note": {"by": ["x"]},
        "split": "val",
    }
    sample = convert(folder, record)
    assert sample.model_extra == {"source_source_answer": 4, "source_answer": 5, "note": {"by": ["x"]}}
    assert (sample.answer, sample.split, sample.id) == ("A toy.", "val", "data-4")


def test_embedded_images_are_unpacked(folder: Path) -> None:
    coded = "data:image/png;base64," + base64.b64encode(png(5)).decode()
    part = {"type": "image_url", "image_url": {"url": coded}}
    sample = convert(folder, {"id": "../7", "messages": [{"role": "user", "content": [part, words("What?")]}]})
    assert (folder / sample.images[0]).read_bytes() == png(5)
    assert sample.images[0].startswith("unpacked/data/___7-1-")
    put_parquet(
        folder, "set.parquet", [{"images": [{"bytes": png(6), "path": None}], "messages": chat("What?", "A toy.")}]
    )
    (sample,) = load(find_source(folder / "set.parquet"))
    assert (folder / sample.images[0]).read_bytes() == png(6)


@pytest.mark.parametrize("as_address", [False, True])
def test_several_embedded_images_beside_a_question_are_unpacked(folder: Path, as_address: bool) -> None:
    coded = [f"data:image/png;base64,{base64.b64encode(png(n)).decode()}" for n in (5, 6)]
    images = coded if as_address else [{"bytes": png(n), "path": None} for n in (5, 6)]
    row = {"id": "1", "question": "What are these?", "images": images, "answer": "Toys."}
    if as_address:
        put_lines(folder, "set.jsonl", [row])
    else:
        put_parquet(folder, "set.parquet", [row])
    file = folder / ("set.jsonl" if as_address else "set.parquet")
    assert preflight(file).findings == []
    (sample,) = load(find_source(file))
    assert [(folder / name).read_bytes() for name in sample.images] == [png(5), png(6)]


# ---------- each wrong record is named

OURS, LLAVA, SWIFT = FORMS["ours"], FORMS["llava"], FORMS["swift"]
WRONG = {
    "no form": ({"text": "hello"}, "expected question and images"),
    "no images": ({**OURS, "images": None}, "write []"),
    "a tag for no image": ({**OURS, "images": [], "question": "<image> What?"}, "expected 0 <image>"),
    "string for a list": ({**OURS, "images": A}, "field 'images'"),
    "number in the list": ({**OURS, "images": [A, 5]}, "field 'images.1'"),
    "image missing": ({**OURS, "images": [A, "none.png"]}, "expected the file none.png"),
    "image is a folder": ({**OURS, "images": [A, "."]}, "expected the file ."),
    "number for text": ({**OURS, "question": 5}, "field 'question'"),
    "blank question": ({**OURS, "question": "  "}, "field 'question'"),
    "number for id": ({**OURS, "id": 7}, "field 'id'"),
    "blank id": ({**OURS, "id": ""}, "field 'id'"),
    "no id": ({key: value for key, value in OURS.items() if key != "id"}, "field 'id'"),
    "names and images differ": ({**OURS, "objects": ["toy"]}, "expected one object name per image, found 1 for 2"),
    "one tag for two": ({**OURS, "question": "<image> What?"}, "expected 2 <image>, one for each image"),
    "only tags": ({**OURS, "question": "<image><image>"}, "a question, found"),
    "no tags in llava": ({**LLAVA, "conversations": turns("What?", "Toys.")}, "expected 2 <image>"),
    "three tags for two": (
        {**LLAVA, "conversations": turns("<image><image><image>What?", "Toys.")},
        "found str '3 of them'",
    ),
    "tag in the answer": (
        {**LLAVA, "conversations": turns("<image>What?", "Toys. <image>")},
        "in the user's turns only",
    ),
    "two image fields": ({**LLAVA, "images": [A, B]}, "one of the fields image and images"),
    "no turns": ({**LLAVA, "conversations": []}, "expected a list of turns"),
    "turns as text": ({**LLAVA, "conversations": "What?"}, "expected a list of turns"),
    "a turn as text": ({**LLAVA, "conversations": ["What?"]}, "expected turns that are objects"),
    "a turn of a tool": ({**SWIFT, "messages": [{"role": "tool", "content": "x"}]}, "tools are not supported"),
    "user twice": (
        {**SWIFT, "messages": [*chat("<image><image>What?"), *chat("And?")]},
        "expected the assistant's turn",
    ),
    "assistant first": ({**SWIFT, "messages": chat("x", "y")[1:]}, "expected the user's turn"),
    "empty answer": ({**LLAVA, "conversations": turns("<image><image>What?", "")}, "write what the assistant says"),
    "system alone": ({**SWIFT, "messages": [{"role": "system", "content": "Be brief."}]}, "expected the user's turn"),
    "no content": ({**SWIFT, "messages": [{"role": "user"}]}, "expected a text or a list of typed parts"),
    "a video": (
        {**SWIFT, "messages": [{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}]},
        "expected a part of type text, image or image_url",
    ),
    "images twice": (
        {**SWIFT, "messages": [{"role": "user", "content": [{**IMAGE, "image": A}, words("What?")]}]},
        "not in both",
    ),
    "harmful as text": ({**LLAVA, "harmful": "no"}, "expected true or false"),
    "category as number": ({**LLAVA, "category": 3}, "field 'category': expected a text"),
    "packed badly": ({**LLAVA, "mis": "{"}, "field 'mis'"),
    "packed list": ({**LLAVA, "mis": "[]"}, "field 'mis'"),
    "packed, tag lost": (
        {**LLAVA, "mis": "{}", "conversations": turns("<image>What?", "Toys.")},
        "before it, as exported",
    ),
    "embedded text": (
        {"messages": [{"role": "user", "content": [{**IMAGE, "image": "data:image/png;base64,aGk="}, words("What?")]}]},
        "found 2 bytes of something else",
    ),
}


@pytest.mark.parametrize(("record", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_record_is_named_with_its_place(folder: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        convert(folder, record)
    assert f"{folder / 'data.jsonl'}, row 4: " in str(caught.value)
    assert message in str(caught.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([A, "<image>", "user", "gpt"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
OUR_FIELDS = (
    "id question images image image_path1 image_path2 conversations messages prompt completion mis system harmful "
    "category objects "
    "provenance answer twin_id split"
)
THEIR_FIELDS = (
    "id image safe instr-resp harmful_category queries Type safe_image_path unsafe_image_path safe unsafe "
    "safe_instruction "
    "unsafe_instructions question_id question options correct_option category dataset category_id task_id "
    "category_name sentence "
    "jailbreak_query image_path policy metadata pid instruction instruction_id sub_category revised_prompt "
    "relationship_type images "
    "safer_response_id response_1 is_response_1_safe conversations index image_list image_1 answer candidates "
    "correct_ans A B option0 split"
)
TURN = st.fixed_dictionaries(
    {}, optional={"from": JSON, "value": JSON, "role": st.just("user") | JSON, "content": JSON}
)
RECORD = st.dictionaries(st.sampled_from(OUR_FIELDS.split()), JSON | st.lists(TURN, max_size=3), max_size=8)


@settings(max_examples=400)
@given(record=RECORD)
def test_no_record_whatsoever_crashes_the_reader(shared_folder: Path, record: dict[str, Any]) -> None:
    try:
        sample = convert(shared_folder, record)
    except DataError as error:
        assert "data.jsonl, row 4" in str(error)
    else:
        assert sample.question.strip()
        assert all((shared_folder / image).is_file() for image in sample.images)


@settings(max_examples=400)
@given(data=st.data(), name=st.sampled_from(sorted(LOADERS)))
def test_no_record_whatsoever_crashes_a_loader(shared_folder: Path, data: st.DataObject, name: str) -> None:
    loader = LOADERS[name]
    record = data.draw(st.dictionaries(st.sampled_from(THEIR_FIELDS.split()), JSON | st.just(A), max_size=10))
    split = data.draw(st.sampled_from(sorted(loader.splits)))
    file = shared_folder / "Privacy" / "Analogy_final.json"
    try:
        samples = list(loader.convert(Row(file, 4, record, key=split), shared_folder, split))
    except DataError as error:
        assert "row 4" in str(error)
    else:
        assert all(Sample.model_validate_json(sample.model_dump_json()) for sample in samples)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    put_images(folder, A, B)
    return folder


# ---------- files and folders


def test_a_folder_of_ours_is_read_split_by_split(tmp_path: Path) -> None:
    samples = our_samples(tmp_path)
    put_lines(tmp_path, "train.jsonl", [sample.model_dump(mode="json") for sample in samples[:2]])
    put_lines(tmp_path, "general.jsonl", [samples[2].model_dump(mode="json")])
    assert load(find_source(tmp_path)) == [samples[2], *samples[:2]]
    assert load(find_source(tmp_path, split="general")) == [samples[2]]
    with pytest.raises(DataError, match="file of split 'hard', found none; splits there: general, train"):
        find_source(tmp_path, split="hard")


@pytest.mark.parametrize("place", ["", "data/"])
def test_a_folder_from_the_hub_is_read_split_by_split_and_is_no_published_set(tmp_path: Path, place: str) -> None:
    def rows(*numbers: int) -> list[dict[str, Any]]:
        return [
            {"images": [{"bytes": png(n), "path": None}], "messages": chat(f"What is {n}?", "A toy.")} for n in numbers
        ]

    put_parquet(tmp_path, f"{place}train-00000-of-00002.parquet", rows(0, 1))
    put_parquet(tmp_path, f"{place}train-00001-of-00002.parquet", rows(2))
    put_parquet(tmp_path, f"{place}test-00000-of-00001.parquet", rows(3))
    report = preflight(tmp_path)
    assert (report.rows, report.images, report.findings, report.ready) == (4, 4, [], True)
    assert splits_of(tmp_path) == ["test", "train"]
    assert [sample.question for sample in load(find_source(tmp_path, split="train"))] == [
        f"What is {n}?" for n in range(3)
    ]
    assert [sample.split for sample in load(find_source(tmp_path))] == ["test", "train", "train", "train"]
    assert not list((tmp_path / "data").glob("unpacked"))  # once, next to what is read
    with pytest.raises(DataError, match="split 'hard', found none; splits there: test, train"):
        find_source(tmp_path, split="hard")


def test_reading_a_table_with_its_pictures_leaves_the_folders_digest_as_it_was(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "What is it?", "images": [{"bytes": png(1), "path": None}]}]
    put_parquet(tmp_path, "data/train-00000-of-00001.parquet", rows)
    before = folder_digest(tmp_path)
    (sample,) = load(find_source(tmp_path))
    assert (tmp_path / sample.images[0]).is_file()
    assert folder_digest(tmp_path) == before  # so that a training that was killed is found again
    put_images(tmp_path, "unpacked/mine.png")
    assert folder_digest(tmp_path) != before


@pytest.mark.parametrize(
    "marks", [["dataset_dict.json", "train/data-00000-of-00001.arrow"], ["state.json", "data-00000-of-00001.arrow"]]
)
def test_what_datasets_saved_to_disk_is_reported_with_the_way_to_parquet(tmp_path: Path, marks: list[str]) -> None:
    for mark in marks:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).write_text("{}")
    with pytest.raises(DataError, match=r"save_to_disk .* make parquet files of it .*load_from_disk"):
        preflight(tmp_path)


@pytest.mark.parametrize("name", [PAIRS, REGRESSION, PENDING, REJECTED])
def test_a_file_of_other_records_beside_the_splits_is_no_split(tmp_path: Path, name: str) -> None:
    put_lines(tmp_path, "train.jsonl", [sample.model_dump(mode="json") for sample in our_samples(tmp_path)])
    put_lines(tmp_path, name, [{"id": "a", "stage": "label", "reason": "not tried yet"}])
    assert load(find_source(tmp_path)) == our_samples(tmp_path)
    assert [file.name for file in preflight(tmp_path).files] == ["train.jsonl"]


def test_a_cleaned_copy_is_no_split_beside_its_source_and_can_be_named(tmp_path: Path) -> None:
    rows = [sample.model_dump(mode="json") for sample in our_samples(tmp_path)]
    put_lines(tmp_path, "train.jsonl", rows)
    put_lines(tmp_path, "train.clean.jsonl", rows[1:])
    assert len(load(find_source(tmp_path))) == preflight(tmp_path).rows == len(rows)
    for source in (find_source(tmp_path / "train.clean.jsonl"), find_source(tmp_path, split="train.clean")):
        assert len(load(source)) == len(rows) - 1
    (tmp_path / "train.jsonl").unlink()
    assert len(load(find_source(tmp_path))) == preflight(tmp_path).rows == len(rows) - 1


def test_a_split_may_be_empty_where_others_are_not(tmp_path: Path) -> None:
    put_lines(tmp_path, "hard.jsonl", [])
    assert [found.kind for found in preflight(tmp_path).findings] == [Kind.EMPTY_FILE]
    put_lines(tmp_path, "train.jsonl", [sample.model_dump(mode="json") for sample in our_samples(tmp_path)])
    report = preflight(tmp_path)
    assert {found.kind for found in report.findings} == {Kind.EMPTY_SPLIT, Kind.NOT_SHOWN}
    assert report.ready


def test_images_may_lie_in_another_folder(tmp_path: Path) -> None:
    samples = our_samples(tmp_path / "pictures")
    put_lines(tmp_path, "data.jsonl", [sample.model_dump(mode="json") for sample in samples])
    with pytest.raises(ImageError, match="row 1"):
        load(find_source(tmp_path / "data.jsonl"))
    assert load(find_source(tmp_path / "data.jsonl", images=tmp_path / "pictures")) == samples


def test_nothing_there_and_nothing_known_are_kept_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing there"):
        find_source(tmp_path / "none")
    with pytest.raises(DataError, match="found none of them"):
        find_source(tmp_path)
    (tmp_path / "data.txt").write_text("{}")
    with pytest.raises(DataError, match=r"expected a file ending in \.jsonl, \.json"):
        load(find_source(tmp_path / "data.txt"))


def test_every_bad_line_is_reported_and_a_torn_one_is_no_end(tmp_path: Path) -> None:
    good = json.dumps(our_samples(tmp_path)[0].model_dump(mode="json")).encode()
    lines = [good, b"", b"{broken", b'{"id": "\xff"}', b'["a list"]', b'{"a": 1, "a": 2}', good, good[:40]]
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    found = list(scan(find_source(tmp_path / "data.jsonl")))
    assert isinstance(found[0], Sample)
    rows = [
        "row 3: ",
        "row 4: ",
        "row 5: ",
        "field 'a' stands twice",
        "row 7: field 'id': expected an id of its own",
        "row 8: ",
    ]
    assert all(part in str(error) for part, error in zip(rows, found[1:], strict=True))


@pytest.mark.parametrize("columns", [["image"], ["image_path1", "image_path2"]], ids=["one image", "two images"])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_text_table_can_say_that_a_row_is_harmless_and_is_checked(
    folder: Path, columns: list[str], ending: str, delimiter: str
) -> None:
    images = dict(zip(columns, (A, B), strict=False))
    rows = [
        {"id": name, "question": f"What is {name}?", "harmful": word, "category": "Hate", **images}
        for name, word in (("one", "true"), ("two", "FALSE"))
    ]
    put_table(folder, f"data.{ending}", rows, delimiter)
    samples = load(find_source(folder / f"data.{ending}"))
    assert [(sample.id, sample.harmful, len(sample.images)) for sample in samples] == [
        ("one", True, len(columns)),
        ("two", False, len(columns)),
    ]
    report = preflight(folder / f"data.{ending}")
    assert (report.rows, report.images, report.findings) == (2, len(columns), [])


def test_a_table_with_a_wrong_row_does_not_pass(folder: Path) -> None:
    rows = [{"id": name, "question": "What is it?", "harmful": name, "image": A} for name in ("true", "yes")]
    put_table(folder, "data.csv", rows)
    (found,) = preflight(folder / "data.csv").findings
    assert (found.kind, found.row, found.field) == (Kind.MALFORMED, 2, "harmful")
    assert "found str 'yes'" in found.message


def test_a_parquet_file_with_its_pictures_inside_is_checked(folder: Path) -> None:
    rows = [{"id": str(n), "question": f"What is {n}?", "image": {"bytes": png(n), "path": None}} for n in range(2)]
    put_parquet(folder, "set.parquet", rows)
    report = preflight(folder / "set.parquet")
    assert (report.rows, report.images, report.findings) == (2, 2, [])


def test_rows_of_text_tables_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes('id,question\n1,"two\nlines"\n2\n3,"é"\n'.encode())
    first, short, third = read_table(tmp_path / "data.csv")
    assert isinstance(first, Row)
    assert first.values == {"id": "1", "question": "two\nlines"}
    assert "row 2: expected 2 cells as in the header" in str(short)
    assert isinstance(third, Row)
    assert third.number == 3
    (tmp_path / "twice.csv").write_text("id,id\n1,2\n")
    with pytest.raises(DataError, match="names each column once"):
        list(read_table(tmp_path / "twice.csv"))
    assert list(json_lines(tmp_path / "data.csv"))  # errors, not an exception
