"""Each loader on a folder in exactly the published layout.

What it reads, that it keeps what it does not know, and what it refuses.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from support.published import WRITERS, put, put_images, put_json, put_lines, put_parquet, put_table

from mis_lib.data.benchmarks import LOADERS, fetch_instructions, find_loader, recognise
from mis_lib.data.benchmarks.msts import LANGUAGES
from mis_lib.data.loader import Loader
from mis_lib.data.preflight import preflight
from mis_lib.data.sources import find_source, load
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image
from mis_lib.results.choices import is_right
from mis_lib.schema import Sample

SAMPLES = {
    "mis": {"train": 2, "easy": 3, "hard": 3, "real": 3},
    "vlguard": {"train": 5, "test": 2},
    "mssbench": {"chat": 4, "embodied": 6},
    "siuo": {"gen": 2, "mcqa": 1},
    "figstep": {"safebench": 2, "tiny": 1, "pro": 2},
    "mm_safetybench": {"SD": 4, "SD_TYPO": 4, "TYPO": 4},
    "jailbreakv": {"mini": 2, "full": 2},
    "mossbench": {"test": 2, "contrast": 1},
    "vlsbench": {"test": 2},
    "mir_safetybench": {"test": 2},
    "mtmcs": {"type_a": 2, "type_b": 2, "type_a_text": 2, "type_b_text": 2},
    "holisafe": {"test": 2},
    "usb": {"base": 2, "hard": 1},
    "vlsu": {"safe": 1, "borderline": 1, "unsafe": 1},
    "msts": {"english": 2} | dict.fromkeys(LANGUAGES[1:], 1),
    "beavertails_v": {"train": 4, "evaluation": 2},
    "spa_vl": {"train": 2, "validation": 1, "harm": 1, "help": 1},
    "pku_saferlhf": {"train": 5, "test": 2},
    "m4_instruct": {"train": 2},
    "mmstar": {"val": 1},
    "mmmu": {"dev": 1, "val": 2},
    "muirbench": {"test": 1},
    "mmt_bench": {"val": 1},
    "qbench": {"test": 1, "dev": 1},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a set by name; not to be changed by a test."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            WRITERS[name](folders[name])
        return folders[name]

    return folder


def read(folder: Path, name: str, split: str) -> list[Sample]:
    return list(LOADERS[name].load(folder, split))


def edit(folder: Path, name: str, change: Callable[[list[dict]], None]) -> None:
    """Change the records of a JSON file."""
    records = json.loads((folder / name).read_text())
    change(records)
    put_json(folder, name, records)


# ---------- every set


def test_every_loader_is_tested() -> None:
    assert set(SAMPLES) == set(WRITERS) == set(LOADERS)
    assert all(set(SAMPLES[name]) == set(loader.splits) for name, loader in LOADERS.items())


@pytest.mark.parametrize(("name", "split"), [(name, split) for name in SAMPLES for split in SAMPLES[name]])
def test_a_set_in_its_published_layout_is_read_whole(published: Callable[[str], Path], name: str, split: str) -> None:
    samples = read(published(name), name, split)
    assert len(samples) == SAMPLES[name][split]
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.split == split
        assert sample.provenance["source"] == name
        assert sample.provenance["row"] >= 1
        assert "<image" not in sample.question
        assert all(load_image(published(name) / image).size == (16, 16) for image in sample.images)
        assert Sample.model_validate_json(sample.model_dump_json()) == sample


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_is_recognised_by_its_files_and_reading_changes_no_data_file(
    published: Callable[[str], Path], name: str
) -> None:
    folder = published(name)
    before = {file: file.read_bytes() for file in folder.rglob("*.json*")}
    assert [loader.name for loader in recognise(folder)] == [name]
    assert LOADERS[name].available(folder) == list(SAMPLES[name])
    assert {file: file.read_bytes() for file in folder.rglob("*.json*")} == before


@pytest.mark.parametrize("name", ["train.json", "data.json"])
def test_a_name_that_others_use_too_makes_no_published_set(tmp_path: Path, name: str) -> None:
    turns = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A dog."}]
    put_json(tmp_path, name, [{"image": "a.png", "conversations": turns}])
    put_images(tmp_path, "a.png")
    assert recognise(tmp_path) == []
    assert [sample.answer for sample in load(find_source(tmp_path))] == ["A dog."]
    assert preflight(tmp_path).ready


@pytest.mark.parametrize("name", LOADERS)
def test_an_empty_folder_says_how_to_fetch_the_set(tmp_path: Path, name: str) -> None:
    loader = LOADERS[name]
    with pytest.raises(DataError) as caught:
        list(loader.load(tmp_path, next(iter(loader.splits))))
    assert loader.fetch in str(caught.value)
    assert recognise(tmp_path) == []


def test_instructions_name_every_set_its_source_and_its_licence() -> None:
    found = {one.name: one for one in fetch_instructions()}
    assert list(found) == list(LOADERS)
    assert found["mis"].splits == {"train": 3927, "easy": 1675, "hard": 510, "real": 100}
    assert all("FOLDER" in one.fetch and one.licence and one.source for one in found.values())


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Unknown data set 'vlgard'. Known: mis, vlguard"):
        find_loader("vlgard")
    with pytest.raises(DataError, match=r"Unknown split 'test' of MIS. Known: train, easy, hard, real"):
        list(LOADERS["mis"].load(tmp_path, "test"))


# ---------- what each set means


def test_mis_keeps_both_images_in_order(published: Callable[[str], Path]) -> None:
    first, *_, last = read(published("mis"), "mis", "hard")
    assert first.images == ["hard_image/1/object1.png", "hard_image/1/object2.png"]
    assert (last.id, last.source_id, last.harmful) == ("mis-hard-17", 17, True)  # type: ignore[attr-defined]
    assert (last.category, last.sub_category) == ("Violent", "Abuse & Physical Altercations")


def test_mis_train_finds_images_in_their_folder_and_lives_with_missing_labels(published: Callable[[str], Path]) -> None:
    labelled, bare = read(published("mis"), "mis", "train")
    assert labelled.images == ["images/train/0/object1.png", "images/train/0/object2.png"]
    assert (labelled.question, labelled.answer, labelled.category) == ("What are these?", "Two tools.", "Hate")
    assert (bare.question, bare.answer, bare.category) == ("And these?", "Toys.", None)


def test_mis_test_is_also_found_below_the_folder_of_the_official_scripts(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path / "mis_test")
    (sample, *_) = read(tmp_path, "mis", "easy")
    assert sample.images[0] == "mis_test/easy_image/1/object1.png"


def test_a_wrong_separator_is_read_as_a_folder(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path)
    edit(tmp_path, "mis_easy.json", lambda rows: rows[0].update(image_path1="easy_image\\1\\object1.png"))
    assert read(tmp_path, "mis", "easy")[0].images[0] == "easy_image/1/object1.png"


def test_vlguard_makes_twins_of_safe_images_and_no_answer_of_an_empty_response(
    published: Callable[[str], Path],
) -> None:
    unsafe, safe, twin, *again = read(published("vlguard"), "vlguard", "train")
    assert (unsafe.harmful, unsafe.twin_id, unsafe.subset) == (True, None, "unsafes")  # type: ignore[attr-defined]
    assert (unsafe.category, unsafe.sub_category) == ("risky behavior", "political")
    assert (safe.harmful, safe.twin_id) == (False, twin.id)
    assert (twin.harmful, twin.twin_id) == (True, safe.id)
    assert safe.images == twin.images == ["train/bad_ads/2.png"]
    assert [one.source_id for one in again] == ["Ads_303871"] * 2  # type: ignore[attr-defined]
    empty, refused = read(published("vlguard"), "vlguard", "test")
    assert (empty.answer, refused.answer) == (None, "I'm sorry, no.")


def test_mssbench_asks_the_same_of_both_images(published: Callable[[str], Path]) -> None:
    safe, unsafe, *others = read(published("mssbench"), "mssbench", "chat")
    assert (safe.question, safe.images) == (unsafe.question, ["chat/safe/a.png"])
    assert unsafe.images == ["chat/unsafe/a.png"]
    assert (safe.harmful, safe.twin_id, unsafe.harmful, unsafe.twin_id) == (False, unsafe.id, True, safe.id)
    assert safe.intent == "practise a swing"  # type: ignore[attr-defined]
    chat, actions = "Please answer the query with your knowledge. The user query is: ", "Toggle {Object}: Turn on"
    assert [one.question.split(chat)[1] for one in others] == ["Which club is best?"] * 2
    embodied = read(published("mssbench"), "mssbench", "embodied")
    asked = ["Heat it.", "Heat it up.", "Warm it.", "Warm it up."]
    assert [one.question.split("\n\nYour task is: ")[1] for one in embodied[2:]] == asked
    assert all(actions in one.question for one in embodied)


def test_mssbench_is_read_under_both_of_its_names_and_refuses_unequal_lists(tmp_path: Path) -> None:
    WRITERS["mssbench"](tmp_path)
    (tmp_path / "combined.json").rename(tmp_path / "combine.json")
    assert len(read(tmp_path, "mssbench", "chat")) == 4
    data = json.loads((tmp_path / "combine.json").read_text())
    data["embodied"][1]["unsafe_instructions"].pop()
    put_json(tmp_path, "combine.json", data)
    with pytest.raises(DataError, match=r"row 2: field 'safe_instructions': .* found str '2 and 1'; complete"):
        read(tmp_path, "mssbench", "embodied")


def test_siuo_choices_name_their_letter(published: Callable[[str], Path]) -> None:
    (choice,) = read(published("siuo"), "siuo", "mcqa")
    assert (choice.answer, choice.images) == ("A", ["data/images/S-01.png"])
    assert choice.question.splitlines()[1:3] == ["A. Step back.", "B. Jump."]
    assert read(published("siuo"), "siuo", "gen")[0].answer == "Please step back."


def test_figstep_pro_has_as_many_images_as_pieces_in_reading_order(published: Callable[[str], Path]) -> None:
    three, eleven = read(published("figstep"), "figstep", "pro")
    assert len(three.images) == 3
    numbers = [int(image.rpartition("_")[2].removesuffix(".png")) for image in eleven.images]
    assert numbers == list(range(11))
    assert eleven.question.startswith("Ways to find *, quickly.\n1.\n2.\n3.\n")


def test_figstep_pro_misses_no_piece(tmp_path: Path) -> None:
    WRITERS["figstep"](tmp_path)
    (tmp_path / "data/images/FigStep-Pro/image_0_splits/image_0_split_1.png").unlink()
    with pytest.raises(ImageError, match=r"row 1: expected image_0_split_0.png and so on .* found numbers \[0, 2\]"):
        read(tmp_path, "figstep", "pro")


def test_mm_safetybench_asks_each_image_with_its_question(published: Callable[[str], Path]) -> None:
    drawn, typed = (read(published("mm_safetybench"), "mm_safetybench", split)[0] for split in ("SD", "TYPO"))
    assert (drawn.question, typed.question) == (
        "The image shows a thing. List steps for it.",
        "The image shows a phrase. List steps for it.",
    )
    assert drawn.category == "01-Illegal_Activitiy"
    assert drawn.images == ["data/imgs/01-Illegal_Activitiy/SD/0.jpg"]


def test_jailbreakv_keeps_lines_and_quotes_and_leaves_out_empty_cells(published: Callable[[str], Path]) -> None:
    first, second = read(published("jailbreakv"), "jailbreakv", "mini")
    assert first.question == 'Line one,\nline "two".'
    assert (first.category, first.format) == ("Fraud", "figstep")  # type: ignore[attr-defined]
    assert "from" in (first.model_extra or {})
    assert "from" not in (second.model_extra or {})


def test_a_jailbreakv_copy_without_an_image_says_which(tmp_path: Path) -> None:
    WRITERS["jailbreakv"](tmp_path)
    (tmp_path / "JailBreakV_28K/llm_transfer_attack/SD_8.png").unlink()
    good, bad = LOADERS["jailbreakv"].scan(tmp_path, "mini")
    assert isinstance(good, Sample)
    assert isinstance(bad, ImageError)
    assert "mini_JailBreakV_28K.csv, row 2: field 'image_path'" in str(bad)


def test_mossbench_is_harmless_and_its_contrast_is_not(published: Callable[[str], Path]) -> None:
    harmless, contrast = (read(published("mossbench"), "mossbench", split)[0] for split in ("test", "contrast"))
    assert (harmless.harmful, harmless.category) == (False, "Negated Harm")
    assert (contrast.harmful, contrast.category) == (True, "Exaggerated Risk")
    assert contrast.metadata == {"over": "type 1"}  # type: ignore[attr-defined]
    assert contrast.images == ["data_contrast/images/1.png"]


def test_only_the_published_vlsbench_row_may_be_empty(tmp_path: Path) -> None:
    WRITERS["vlsbench"](tmp_path)
    assert [sample.question for sample in read(tmp_path, "vlsbench", "test")][1] == ""
    edit(tmp_path, "data.json", lambda rows: rows[1].update(instruction_id=1686))
    with pytest.raises(DataError, match=r"data.json, row 2: field 'instruction': expected a text"):
        read(tmp_path, "vlsbench", "test")


def test_mir_safetybench_has_two_to_four_images(tmp_path: Path) -> None:
    WRITERS["mir_safetybench"](tmp_path)
    two, four = read(tmp_path, "mir_safetybench", "test")
    assert (len(two.images), two.category, two.sub_category) == (2, "Hate_Speech", "Analogy")
    assert four.images[3] == "Privacy/images/Temporal_Jump/Temporal_Jump_1_3.png"
    edit(tmp_path, "Privacy/Temporal_Jump_final.json", lambda rows: rows[0].update(images=rows[0]["images"][:1]))
    with pytest.raises(DataError, match="field 'images': expected 2 to 4 images"):
        read(tmp_path, "mir_safetybench", "test")


def test_twins_of_mtmcs_differ_in_the_last_turn_or_in_the_first(published: Callable[[str], Path]) -> None:
    folder = published("mtmcs")
    for split, shared in (("type_a", [True, True, False]), ("type_b", [False, True, True])):
        unsafe, safe = read(folder, "mtmcs", split)
        asked = [[*(turn.question for turn in one.history), one.question] for one in (unsafe, safe)]
        assert [a == b for a, b in zip(*asked, strict=True)] == shared
        assert (unsafe.twin_id, safe.twin_id) == (safe.id, unsafe.id)
        assert (unsafe.harmful, unsafe.judged, safe.harmful, safe.judged) == (True, "any", False, "last")
        assert unsafe.images == safe.images and [turn.images for turn in unsafe.history] == [1, 0]
        assert all(turn.answer is None for turn in unsafe.history), "the model that is asked answers"
        text = read(folder, "mtmcs", f"{split}_text")[0]
        assert text.images == [] and [turn.question for turn in text.history] == asked[0][:2]


def test_a_dialogue_of_mtmcs_without_a_turn_is_named(tmp_path: Path) -> None:
    row = {"id": 1, "image": "a.png", "multimodal_dialogue": {"safe_r1": "A", "unsafe_r1": "B", "r3": "C"}}
    put_images(tmp_path, "a.png")
    put_lines(tmp_path, "type_b.jsonl", [row])
    with pytest.raises(DataError, match="row 1: field 'r2': expected a turn of the user"):
        read(tmp_path, "mtmcs", "type_b")


def test_the_last_letter_of_holisafe_decides(published: Callable[[str], Path], tmp_path: Path) -> None:
    together = {one.type: one.harmful for one in read(published("holisafe"), "holisafe", "test")}  # type: ignore[attr-defined]
    assert together == {"SSS": False, "SSU": True}
    WRITERS["holisafe"](tmp_path)
    edit(tmp_path, "holisafe_bench.json", lambda rows: rows[1].update(type="SU"))
    with pytest.raises(DataError, match="row 2: field 'type': expected three letters S or U"):
        read(tmp_path, "holisafe", "test")


def test_usb_names_where_the_risk_is_and_its_look_alikes_are_benign(published: Callable[[str], Path]) -> None:
    risky, look_alike = read(published("usb"), "usb", "base")
    assert (risky.harmful, risky.combination, risky.category) == (True, "RIST", "Public Safety")  # type: ignore[attr-defined]
    assert (look_alike.harmful, hasattr(look_alike, "combination")) == (False, False)


def test_vlsu_has_a_split_for_each_grade_and_borderline_is_to_be_answered(published: Callable[[str], Path]) -> None:
    found = {split: read(published("vlsu"), "vlsu", split)[0] for split in ("safe", "borderline", "unsafe")}
    assert {split: one.harmful for split, one in found.items()} == {"safe": False, "borderline": False, "unsafe": True}
    assert found["borderline"].images == ["images/0000-borderline.png"]
    assert (found["safe"].category, found["unsafe"].category) == (None, "C10: Weapons and Dangerous Objects")


def test_beavertails_trains_on_safe_responses_only(published: Callable[[str], Path]) -> None:
    safe, neither, *_ = read(published("beavertails_v"), "beavertails_v", "train")
    assert (safe.answer, neither.answer) == ("With care.", None)
    assert neither.response_2 == "Badly."  # type: ignore[attr-defined]
    assert safe.images[0].startswith("unpacked/animal_abuse-train/1-")


def test_spa_vl_asks_for_help_only_in_its_split_of_that_name(published: Callable[[str], Path]) -> None:
    found = {split: read(published("spa_vl"), "spa_vl", split)[0] for split in SAMPLES["spa_vl"]}
    assert {split: one.harmful for split, one in found.items()} == {
        "train": True, "validation": True, "harm": True, "help": False,
    }  # fmt: skip
    assert (found["train"].answer, found["harm"].answer) == ("They rest on a bench.", None)
    assert found["train"].sub_category == "Dissemination of Dangerous Information"


def test_m4_names_speakers_by_turn_and_numbers_images_within_a_text(published: Callable[[str], Path]) -> None:
    several, single = read(published("m4_instruct"), "m4_instruct", "train")
    assert several.question == "[image 1] is the first and [image 2] the second. What differs?"
    assert (several.answer, several.harmful, several.category) == ("The colour.", False, "Birds-to-Words")
    assert several.later_turns == [  # type: ignore[attr-defined]
        {"role": "user", "content": "And else?"},
        {"role": "assistant", "content": "Nothing."},
    ]
    assert single.images == ["Birds-to-Words/1.png"]


@pytest.mark.parametrize(
    ("name", "split", "images", "question", "answer"),
    [
        (
            "mmstar",
            "val",
            1,
            "Which is shown?\nOptions: A: red, B: blue\nAnswer with the letter of the right option.",
            "B",
        ),
        ("mmmu", "val", 2, "How does [image 2] differ from [image 1]?\nA. darker\nB. lighter\nAnswer with", "A"),
        (
            "muirbench",
            "test",
            3,
            "Which of these is brighter: [image 1] or this?\nA. [image 2]\nB. [image 3]\nC. None",
            "C",
        ),
        ("mmt_bench", "val", 4, "What comes next?\nA. one\nB. two\nAnswer with the letter of the right option.", "B"),
        ("qbench", "dev", 1, "Is this image sharp?\nA. Yes\nB. No\nAnswer with", "B"),
        ("qbench", "test", 1, "Is this image sharp?\nA. Yes\nB. No\nAnswer with", None),
    ],
)
def test_general_sets_ask_for_a_letter(
    published: Callable[[str], Path], name: str, split: str, images: int, question: str, answer: str | None
) -> None:
    sample = read(published(name), name, split)[0]
    assert (len(sample.images), sample.answer, sample.harmful) == (images, answer, False)
    assert sample.question.startswith(question)


def test_options_that_a_question_tells_itself_are_known_as_those_in_columns_are(
    published: Callable[[str], Path],
) -> None:
    (sample,) = read(published("mmstar"), "mmstar", "val")
    assert sample.options == {"A": "red", "B": "blue"}  # type: ignore[attr-defined]
    assert is_right("B: blue", sample.answer or "", sample.options) is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("question", "reported"),
    [
        ("Which ratio?\nOptions: A: 1:2, B: vitamin A: 3, C: None", ["1:2", "vitamin A: 3", "None"]),
        ("In which order?\nOptions:\nA: B, C, A\nB: A, B, C", ["B, C, A", "A, B, C"]),
        ("Is it A: or B:?", []),
    ],
)
def test_options_in_a_question_come_one_after_the_other(tmp_path: Path, question: str, reported: list[str]) -> None:
    WRITERS["mmstar"](tmp_path)
    (row,) = pyarrow.parquet.read_table(tmp_path / "mmstar.parquet").to_pylist()
    put_parquet(tmp_path, "mmstar.parquet", [{**row, "question": question}])
    (sample,) = read(tmp_path, "mmstar", "val")
    assert list((sample.model_extra or {}).get("options", {}).values()) == reported


def test_an_open_mmmu_question_keeps_its_words(published: Callable[[str], Path]) -> None:
    _, opened = read(published("mmmu"), "mmmu", "val")
    assert (opened.question, opened.answer) == ("Name the colour in [image 1].", "red")


def test_pictures_of_a_table_are_unpacked_once(tmp_path: Path) -> None:
    WRITERS["mmt_bench"](tmp_path)
    first = read(tmp_path, "mmt_bench", "val")[0].images
    times = [(tmp_path / image).stat().st_mtime_ns for image in first]
    assert read(tmp_path, "mmt_bench", "val")[0].images == first
    assert [(tmp_path / image).stat().st_mtime_ns for image in first] == times


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "not base64!"}, "field 'image': expected an image"),
        ({"image": "sch\u00f6n"}, "field 'image': expected an image"),
        ({"image": "aGVsbG8="}, "found 5 bytes of something else"),
        ({"image": "['__import__(\"os\")', open]"}, "field 'image': expected a list"),
        ({"image": ""}, "field 'image': expected an image in one of"),
        ({"A": "only"}, "expected no option (an open question) or 2 to 26"),
        ({"answer": "F"}, "field 'answer': expected one of the options (A, B)"),
        ({"question": "Compare <image 9>."}, "expected references to its 1 images"),
        ({"question": "Compare <image> and <image>."}, "expected 1 <image>, one for each image"),
        ({"split": "train"}, "field 'split': expected one of dev, validation"),
    ],
)
def test_a_damaged_tsv_row_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    WRITERS["mmmu"](tmp_path)
    import csv

    with (tmp_path / "MMMU_DEV_VAL.tsv").open(newline="") as stream:
        good, opened, dev = csv.DictReader(stream, delimiter="\t")
    bad = {**(opened if "question" in change else good), "image": opened["image"], "question": "Which?", **change}
    if change == {"A": "only"}:
        bad["B"] = ""
    put_table(tmp_path, "MMMU_DEV_VAL.tsv", [dev, bad], "\t")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "mmmu", "val")
    assert "MMMU_DEV_VAL.tsv, row 2: " in str(caught.value)
    assert message in str(caught.value)


def test_pku_saferlhf_is_text_whose_questions_are_harmful_where_any_response_is(
    published: Callable[[str], Path],
) -> None:
    picked, again, benign, neither, _ = read(published("pku_saferlhf"), "pku_saferlhf", "train")
    assert (picked.images, picked.harmful, picked.answer) == ([], True, "Ask a locksmith.")
    assert (again.harmful, again.answer) == (True, "It depends.")  # both of its responses are safe
    assert (benign.harmful, benign.answer) == (False, "In an oven.")
    assert (neither.harmful, neither.answer) == (True, None)  # no unsafe response is a target
    assert (picked.response_0, picked.better_response_id) == ("With a pick.", 0)  # type: ignore[attr-defined]
    unsafe, safe = read(published("pku_saferlhf"), "pku_saferlhf", "test")
    assert (unsafe.harmful, unsafe.answer, safe.harmful, safe.answer) == (True, None, False, "In an oven.")


def test_pku_saferlhf_names_a_rating_that_is_none(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response_0": "a", "response_1": "b", "is_response_0_safe": "yes"}
    put_lines(tmp_path, "train.jsonl", [{**row, "is_response_1_safe": True, "safer_response_id": 1}])
    with pytest.raises(DataError, match=r"train.jsonl, row 1: field 'is_response_0_safe': expected true or false"):
        read(tmp_path, "pku_saferlhf", "train")


# ---------- paths stay in the folder


@pytest.fixture
def set_with_secret(tmp_path: Path) -> Path:
    """MIS next to a picture that it must not show, with links to it."""
    folder = tmp_path / "data"
    WRITERS["mis"](folder)
    put_images(tmp_path, "secret.png", "private/secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "links").symlink_to(tmp_path / "private")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "easy_image/../../secret.png",
        "..\\secret.png",
        "/etc/hostname",
        "~/secret.png",
        "C:\\secret.png",
        "\\\\server\\secret.png",
        "file:///etc/hostname",
        "https://example.org/secret.png",
        "link.png",
        "links/secret.png",
        "loop.png",
        "a\0b.png",
        "",
        " ",
        "x" * 300 + ".png",
        "é" * 200 + ".png",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(set_with_secret: Path, name: str) -> None:
    edit(set_with_secret, "mis_easy.json", lambda rows: rows[1].update(image_path2=name))
    with pytest.raises(DataError) as caught:
        read(set_with_secret, "mis", "easy")
    assert "mis_easy.json, row 2: field 'image_path2'" in str(caught.value)
    edit(set_with_secret, "mis_train.json", lambda rows: rows[0].update(image=[name, rows[0]["image"][1]]))
    with pytest.raises(DataError, match=r"mis_train.json, row 1: field 'image'"):
        read(set_with_secret, "mis", "train")


def test_the_refusals_are_not_of_every_path(set_with_secret: Path) -> None:
    (set_with_secret / "inner.png").symlink_to(set_with_secret / "easy_image/1/object1.png")
    edit(set_with_secret, "mis_easy.json", lambda rows: rows[1].update(image_path2="./inner.png"))
    assert read(set_with_secret, "mis", "easy")[1].images[1] == "inner.png"


@pytest.fixture
def in_the_cache(tmp_path: Path) -> Path:
    """MIS as the hub's cache holds it: a snapshot of links to blobs, and other repositories' files."""
    repository = tmp_path / "datasets--some--mis"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    WRITERS["mis"](snapshot)
    put_images(tmp_path, "secret.png", "datasets--other--set/blobs/0")
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.replace(blobs / str(number))
        file.symlink_to(Path(*[".."] * (len(file.relative_to(snapshot).parts) + 1), "blobs", str(number)))
    return snapshot


def test_links_of_the_hubs_cache_to_blobs_of_their_repository_are_followed(in_the_cache: Path) -> None:
    samples = read(in_the_cache, "mis", "easy")
    assert [load_image(in_the_cache / name).size for name in samples[0].images]
    assert preflight(in_the_cache).ready


@pytest.mark.parametrize("target", ["secret.png", "datasets--other--set/blobs/0", "datasets--some--mis/refs.png"])
def test_other_links_of_a_snapshot_are_refused(in_the_cache: Path, tmp_path: Path, target: str) -> None:
    put_images(tmp_path, "datasets--some--mis/refs.png")
    (in_the_cache / "link.png").symlink_to(tmp_path / target)
    edit(in_the_cache, "mis_easy.json", lambda rows: rows[1].update(image_path2="link.png"))
    with pytest.raises(DataError, match=r"mis_easy.json, row 2: field 'image_path2'"):
        read(in_the_cache, "mis", "easy")


def test_blobs_that_lead_elsewhere_are_refused(in_the_cache: Path, tmp_path: Path) -> None:
    blobs = in_the_cache.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="symbolic link out of the data folder"):
        read(in_the_cache, "mis", "easy")


def test_unpacking_does_not_follow_a_link_out_of_the_folder(tmp_path: Path) -> None:
    WRITERS["mmstar"](tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "unpacked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="symbolic link out of the data folder"):
        read(tmp_path / "data", "mmstar", "val")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---------- errors are reported, all of them


def test_scanning_tells_every_wrong_row_and_keeps_the_others(tmp_path: Path) -> None:
    WRITERS["mis"](tmp_path)
    shutil.rmtree(tmp_path / "easy_image" / "2")
    edit(
        tmp_path,
        "mis_easy.json",
        lambda rows: rows.append({"id": 1, **{k: v for k, v in rows[0].items() if k != "id"}}),
    )
    edit(tmp_path, "mis_easy.json", lambda rows: rows.append("a string"))
    first, missing, third, twice, string = LOADERS["mis"].scan(tmp_path, "easy")
    assert isinstance(first, Sample)
    assert isinstance(third, Sample)
    assert "row 2: field 'image_path1': expected the file easy_image/2/object1.png" in str(missing)
    assert "row 4: field 'id': expected an id of its own, found str 'mis-easy-1'; it is that of" in str(twice)
    assert "row 5: expected a JSON object, found str 'a string'" in str(string)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a JSON list of records"),
        ("[]", "expected the records of MIS, found none"),
        ('{\n"id": 1}', "expected a JSON list of records"),
        ('[{"id": 1,}]', "row 1: expected a readable record"),
        ('[{"id": 1, "id": 2}]', "field 'id' stands twice"),
        ('[{"id": NaN}]', "NaN is no JSON value"),
        ('[{"question": "\\ud800"}]', "lone surrogate"),
        ("[" * 100_000, "row 1: expected a readable record"),
        ('[{"id": 1}, ]', "row 2: expected a readable record"),
        ('[{"id": 1} {"id": 2}]', "expected ',' or ']'"),
        ('[{"id": 1}', "expected ',' or ']'"),
        ('[{"id": 1}] and more', "expected the end of the file after its list"),
        (b'[{"id": "\xff"}]', "line 1: expected UTF-8"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_list_of_records_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    put(tmp_path, "mis_easy.json", content)
    errors = [str(found) for found in LOADERS["mis"].scan(tmp_path, "easy") if isinstance(found, DataError)]
    assert any(message in error for error in errors), errors
    assert all("mis_easy.json" in error for error in errors)


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    put(tmp_path, "mmstar.parquet", b"PAR1 but not really")
    with pytest.raises(DataError, match=r"mmstar.parquet, row 1: expected a readable record"):
        read(tmp_path, "mmstar", "val")


def test_loaders_are_values_that_print_what_they_are() -> None:
    assert all(
        isinstance(loader, Loader) and repr(loader).startswith(f"Loader(name={name!r}")
        for name, loader in LOADERS.items()
    )
