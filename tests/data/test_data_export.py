"""Exports: what trainers read, what comes back, and that nothing is written from a malformed source."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published import WRITERS, our_samples, png, put, put_images, put_json, put_lines
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.construct.mis_mini import plan
from mis_lib.data.export import MEDIA_TAGS, export, to_llamafactory, to_swift, to_trl
from mis_lib.data.sources import find_source, load
from mis_lib.errors import DataError
from mis_lib.files import read_records, write_records
from mis_lib.schema import Sample
from mis_lib.settings import ExportedImages, ExportForm

os.environ["HF_DATASETS_OFFLINE"] = "1"
NAMES = ("images/a.png", "images/b.png", "images/c.png")
FORMS = [ExportForm.LLAMAFACTORY, ExportForm.SWIFT, ExportForm.TRL, ExportForm.JSONL]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    put_images(folder, *NAMES)
    return folder


# ---------- there and back

TEXT = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and not any(tag in text for tag in MEDIA_TAGS))
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
ODD = st.sampled_from(["note", "mis", "conversations", "messages", "image", "system", "é ü", "prompt", "source_id"])


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    images = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
    turn = st.tuples(TEXT, TEXT).map(
        lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    )
    extra = draw(st.dictionaries(ODD, VALUE, max_size=3))
    if draw(st.booleans()):
        extra |= {
            "later_turns": [one for pair in draw(st.lists(turn, min_size=1, max_size=2)) for one in pair],
            "system_prompt": draw(TEXT),
        }
    fields = {
        "id": draw(TEXT),
        "question": draw(TEXT),
        "images": images,
        "answer": draw(TEXT),
        "category": draw(st.none() | TEXT),
        "sub_category": draw(st.none() | TEXT),
        "split": draw(st.sampled_from(["train", "hard", "general", "x"])),
        "harmful": draw(st.booleans()),
        "twin_id": draw(st.none() | TEXT),
        "objects": draw(st.none() | st.just(["a thing"] * len(images))),
        "provenance": draw(st.dictionaries(st.text(max_size=5), VALUE, max_size=2)),
    }
    if draw(st.booleans()):
        shown = draw(st.integers(0, len(images)))
        counts = [shown, 0] if draw(st.booleans()) else [shown]
        fields["history"] = [{"question": draw(TEXT), "answer": draw(TEXT), "images": count} for count in counts]
    return Sample.model_validate({**extra, **fields})


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(data=st.lists(samples(), min_size=1, max_size=4, unique_by=lambda sample: sample.id))
def test_samples_come_back_as_they_went_out(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, form: ExportForm, data: list[Sample]
) -> None:
    out = tmp_path_factory.getbasetemp() / f"back-{form}"
    made = export(data, pictures, out, form)
    assert load(find_source(Path(made.file))) == data
    assert load(find_source(Path(made.file), images=pictures)) == data


@pytest.mark.parametrize("form", FORMS)
def test_published_sets_go_out_and_come_back(tmp_path: Path, form: ExportForm) -> None:
    WRITERS["m4_instruct"](tmp_path / "m4")  # several turns
    WRITERS["beavertails_v"](tmp_path / "beavertails")  # unpacked images, unknown fields
    for name in ("m4", "beavertails"):
        data = [sample for sample in load(find_source(tmp_path / name)) if sample.answer]
        assert len(data) >= 2
        made = export(data, tmp_path / name, tmp_path / "out" / name, form)
        assert load(find_source(Path(made.file))) == data


def test_an_edit_of_the_exported_text_comes_back(tmp_path: Path) -> None:
    data = our_samples(tmp_path)
    made = Path(export(data, tmp_path, tmp_path / "out", ExportForm.SWIFT).file)
    made.write_text(made.read_text().replace("No: it burns.", "No, it melts."))
    changed = load(find_source(made))
    assert changed == [data[0], data[1].model_copy(update={"answer": "No, it melts."}), data[2]]


# ---------- what trainers read


def test_llamafactory_gets_a_list_and_its_entry(tmp_path: Path) -> None:
    put_json(tmp_path, "out/dataset_info.json", {"other": {"file_name": "other.json"}})
    made = export(our_samples(tmp_path), tmp_path, tmp_path / "out", ExportForm.LLAMAFACTORY, name="mine")
    entry = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert entry["other"] == {"file_name": "other.json"}
    assert entry["mine"] == {
        "file_name": "mine.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images", "system": "system"},
    }
    pair, _, talk = json.loads(Path(made.file).read_text())
    assert pair["conversations"][0]["value"].startswith("<image><image>May the object")
    assert [turn["from"] for turn in talk["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert talk["system"] == "Answer briefly."
    assert (tmp_path / "out" / pair["images"][1]).read_bytes() == png(1)


def test_trainers_count_as_many_placeholders_as_images(tmp_path: Path) -> None:
    for sample in our_samples(tmp_path):
        shared, chat, typed = to_llamafactory(sample), to_swift(sample), to_trl(sample)
        texts = [*(turn["value"] for turn in shared["conversations"]), shared["system"]]
        assert sum(text.count("<image>") for text in texts) == len(sample.images)
        assert sum(turn["content"].count("<image>") for turn in chat["messages"]) == len(sample.images)
        parts = [part for turn in [*typed["prompt"], *typed["completion"]] for part in turn["content"]]
        assert [part["type"] for part in parts].count("image") == len(sample.images)
        assert typed["completion"][0]["role"] == "assistant"
        assert len(typed["completion"]) == 1


@pytest.mark.parametrize("form", FORMS)
def test_datasets_reads_every_export(tmp_path: Path, form: ExportForm) -> None:
    from datasets import load_dataset

    data = our_samples(tmp_path)
    made = export(data, tmp_path, tmp_path / "out", form)
    table = load_dataset("json", data_files=made.file, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(table["id"]) == [sample.id for sample in data]
    assert list(table["images"]) == [sample.images for sample in data]


def test_datasets_opens_the_images_from_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Image, Sequence, load_dataset

    made = export(our_samples(tmp_path), tmp_path, tmp_path / "out", ExportForm.TRL)
    monkeypatch.chdir(tmp_path / "out")
    table = load_dataset("json", data_files=Path(made.file).name, split="train", cache_dir=str(tmp_path / "cache"))
    shown = table.cast_column("images", Sequence(Image()))
    assert [len(images) for images in shown["images"]] == [2, 2, 1]
    assert shown[0]["images"][1].size == (16, 16)


def test_datasets_reads_mis_mini(tmp_path: Path) -> None:
    from datasets import load_dataset

    planned = plan(seed=0, general_items=50).files
    files = {name: str(tmp_path / f"{name}.jsonl") for name in planned}
    for name, rows in planned.items():
        write_records(Path(files[name]), rows)
    loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    for name, rows in planned.items():
        assert list(loaded[name]["question"]) == [sample.question for sample in rows]
        assert list(loaded[name]["images"]) == [sample.images for sample in rows]
        assert list(loaded[name]["harmful"]) == [sample.harmful for sample in rows]
        assert list(loaded[name]["answer"]) == [sample.answer for sample in rows]


# ---------- what is refused


@pytest.mark.parametrize("form", [ExportForm.LLAMAFACTORY, ExportForm.SWIFT, ExportForm.TRL])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "sample pair: field 'answer': expected a text to train on, found None"),
        ({"answer": " "}, "field 'answer': expected a text to train on"),
        ({"question": "What is <image>?"}, "field 'question': expected no <image>, which trainers count"),
        ({"answer": "A <video> of it."}, "field 'answer': expected no <video>"),
        ({"later_turns": [{"role": "user", "content": "Why?"}]}, "field 'later_turns': expected turns of user and"),
        ({"later_turns": "more"}, "field 'later_turns': expected turns of user and assistant, the assistant's last"),
        (
            {"later_turns": [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]},
            "'later_turns': expected a text",
        ),
        ({"system_prompt": "See <audio>."}, "field 'system_prompt': expected no <audio>"),
    ],
)
def test_what_a_trainer_cannot_be_given_is_refused(
    tmp_path: Path, form: ExportForm, change: dict[str, Any], message: str
) -> None:
    data = [Sample.model_validate({**sample.model_dump(), **change}) for sample in our_samples(tmp_path)]
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        export(data, tmp_path, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def masked_first(folder: Path) -> list[Sample]:
    first, *others = our_samples(folder)
    return [first.model_copy(update={"mask_eos": True}), *others]


@pytest.mark.parametrize("form", [ExportForm.LLAMAFACTORY, ExportForm.SWIFT, ExportForm.TRL])
def test_an_end_that_is_not_to_be_learned_is_never_exported_as_one_that_is(tmp_path: Path, form: ExportForm) -> None:
    data = masked_first(tmp_path)
    with pytest.raises(DataError, match=r"found mask_eos in 1 of 3 rows, first in 'pair': .*--leave_out_masked"):
        export(data, tmp_path, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()
    made = export(data, tmp_path, tmp_path / "out", form, leave_out_masked=True)
    assert (made.samples, made.left_out) == (2, 1)
    assert load(find_source(Path(made.file))) == data[1:]
    with pytest.raises(DataError, match="found none without mask_eos"):
        export(data[:1], tmp_path, tmp_path / "out", form, leave_out_masked=True)


def test_our_records_keep_what_is_masked(tmp_path: Path) -> None:
    data = masked_first(tmp_path)
    made = export(data, tmp_path, tmp_path / "out", ExportForm.JSONL)
    assert read_records(Path(made.file), Sample) == data and made.left_out == 0


def test_samples_without_an_answer_go_out_as_our_records(tmp_path: Path) -> None:
    data = [sample.model_copy(update={"answer": None}) for sample in our_samples(tmp_path)]
    made = export(data, tmp_path, tmp_path / "out", ExportForm.JSONL)
    assert read_records(Path(made.file), Sample) == data


def test_another_image_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    data = our_samples(tmp_path)
    put(tmp_path / "out", NAMES[1], png(99))
    with pytest.raises(DataError, match=r"expected images/b.png, found another image of that name"):
        export(data, tmp_path, tmp_path / "out", ExportForm.JSONL)
    assert (tmp_path / "out" / NAMES[1]).read_bytes() == png(99)
    assert not (tmp_path / "out" / "data.jsonl").exists()


def test_images_are_not_written_through_a_link_out_of_the_output(tmp_path: Path) -> None:
    data = our_samples(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="symbolic link"):
        export(data, tmp_path / "in", tmp_path / "out", ExportForm.JSONL)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_images_may_stay_where_they_are(tmp_path: Path) -> None:
    made = export(our_samples(tmp_path), tmp_path, tmp_path / "out", ExportForm.SWIFT, images=ExportedImages.KEEP)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data.jsonl"]
    assert f"ROOT_IMAGE_DIR={tmp_path.resolve()} " in made.usage


def test_nothing_to_export_and_a_taken_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected samples to export"):
        export([], tmp_path, tmp_path, ExportForm.JSONL)
    with pytest.raises(DataError, match="found that of LLaMA-Factory's list"):
        export(our_samples(tmp_path), tmp_path, tmp_path / "out", ExportForm.LLAMAFACTORY, name="dataset_info")


# ---------- mis export


def mis(*args: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, args)])


def test_the_command_converts_a_published_folder_and_says_how_it_is_used(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path / "MIS")
    result = mis(
        "--input", tmp_path / "MIS", "--split", "train", "--format", "llamafactory", "--output", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "2 samples, 4 images: " in result.output
    assert "dataset: mis_train, dataset_dir: " in result.output
    assert set(json.loads((tmp_path / "out/dataset_info.json").read_text())) == {"mis_train"}
    back = mis("--input", tmp_path / "out/mis_train.json", "--format", "jsonl", "--output", tmp_path / "back", "--json")
    assert json.loads(back.stdout)["samples"] == 2
    assert load(find_source(tmp_path / "back/mis_train.jsonl")) == load(find_source(tmp_path / "MIS", split="train"))


def test_the_command_leaves_masked_rows_out_on_request_and_says_so(tmp_path: Path) -> None:
    put_lines(tmp_path, "in/data.jsonl", [sample.model_dump(mode="json") for sample in masked_first(tmp_path / "in")])
    asked = ("--input", tmp_path / "in/data.jsonl", "--format", "trl", "--output", tmp_path / "out")
    assert "found mask_eos in 1 of 3 rows" in mis(*asked).stderr
    assert "1 rows with mask_eos left out" in mis(*asked, "--leave_out_masked").output


def test_the_command_takes_all_splits_of_a_set(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path / "MIS")
    result = mis("--input", tmp_path / "MIS", "--format", "jsonl", "--output", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["samples"] == 11


def test_no_trainer_is_given_test_rows_among_those_to_train_on(tmp_path: Path) -> None:
    rows = [sample.model_dump(mode="json") for sample in our_samples(tmp_path / "in")]
    put_lines(tmp_path, "in/train.jsonl", rows[:1])
    put_lines(tmp_path, "in/hard.jsonl", [{**rows[1], "split": "hard", "twin_id": None}])
    put_lines(tmp_path, "in/general.jsonl", rows[2:])
    asked = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--format")
    refused = mis(*asked, "swift")
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    reported = " ".join(refused.stderr.split())
    assert "found test splits among them (general 1, hard 1, train 1); name one (--split), or export" in reported
    assert mis(*asked, "swift", "--split", "train").exit_code == mis(*asked, "jsonl").exit_code == 0
    (tmp_path / "in/hard.jsonl").unlink()
    assert "2 samples" in mis("--input", tmp_path / "in", "--output", tmp_path / "both", "--format", "trl").output


def test_test_rows_that_name_no_split_are_known_by_their_file(tmp_path: Path) -> None:
    put_images(tmp_path, "in/a.png")
    for split in ("train", "test"):
        turns = [{"role": "user", "content": f"{split}: what is it?"}, {"role": "assistant", "content": "A toy."}]
        put_lines(tmp_path, f"in/{split}.jsonl", [{"messages": turns, "images": ["a.png"]}])
    refused = mis("--input", tmp_path / "in", "--output", tmp_path / "out", "--format", "trl")
    assert (refused.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "found test splits among them (test 1, train 1)" in " ".join(refused.stderr.split())


def test_the_command_lists_what_is_malformed_and_writes_nothing(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path / "MIS")
    for number in (2, 17):
        (tmp_path / f"MIS/easy_image/{number}/object2.png").unlink()
    result = mis("--input", tmp_path / "MIS", "--split", "easy", "--format", "jsonl", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "row 2: field 'image_path2'" in result.stderr
    assert "row 3: field 'image_path2'" in result.stderr
    assert "2 of 3 records" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_does_not_overwrite_its_input(tmp_path: Path) -> None:
    put_lines(tmp_path, "data.jsonl", [sample.model_dump(mode="json") for sample in our_samples(tmp_path)])
    before = (tmp_path / "data.jsonl").read_bytes()
    result = mis("--input", tmp_path / "data.jsonl", "--format", "swift", "--output", tmp_path)
    assert result.exit_code == 2
    assert "other than the input's" in result.stderr
    assert (tmp_path / "data.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--loader", "vlgard"], "Unknown data set 'vlgard'"),
        (["--loader", "vlguard"], "to fetch it: hf download ys-zong/VLGuard"),
        ([], "expected JSON Lines, JSON or parquet files, or the files of a known data set"),
    ],
)
def test_the_command_names_what_is_not_there(tmp_path: Path, args: list[str], message: str) -> None:
    result = mis("--input", tmp_path, "--format", "trl", "--output", tmp_path / "out", *args)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("name", "flag", "value", "message"),
    [
        ("data.jsonl", "--split", "train", "expected a folder, to find split 'train' in, found a file"),
        ("data.jsonl", "--loader", "mis", "expected a folder, to find loader 'mis' in, found a file"),
        ("set", "--image_folder", ".", "VLGuard names its images itself"),
    ],
)
def test_the_command_takes_no_flag_that_nothing_would_come_of(
    tmp_path: Path, name: str, flag: str, value: str, message: str
) -> None:
    WRITERS["vlguard"](tmp_path / "set")
    put_lines(tmp_path, "data.jsonl", [sample.model_dump(mode="json") for sample in our_samples(tmp_path)])
    result = mis("--input", tmp_path / name, flag, value, "--format", "jsonl", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
