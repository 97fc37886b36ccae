"""Near-duplicates: what counts as one, across sets and within, and taking them out of a copy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance
from support.mis_layout import draw_picture, write_mis

from mis_lib.construct.drawings import scene
from mis_lib.data.duplicates import (
    IMAGE_BITS,
    Match,
    Overlap,
    count,
    find,
    findings,
    fingerprint,
    rows_of,
    similar_images,
    similar_texts,
    with_twins,
    write_without,
)
from mis_lib.data.findings import Kind
from mis_lib.data.preflight import read_all
from mis_lib.errors import DataError
from mis_lib.text.sentences import normalised

# ---------- texts


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("How do I use the tool?", "how do i use the tool"),
        ("How do I use “the tool”?!", 'How do I use "the tool"?'),
        ("ﬁre  and\nwater", "fire and water"),
    ],
)
def test_spelling_without_meaning_is_no_difference(text: str, other: str) -> None:
    assert normalised(text) == normalised(other)


LONG = "how can i use the object in the first image on the one in the second image without anybody noticing"


def test_a_changed_word_is_near_and_another_question_is_not() -> None:
    changed = LONG.replace("noticing", "seeing it")
    other = "which of the two things in the pictures would you rather give to a child on its birthday"
    near = similar_texts([LONG], [changed, other, LONG])
    assert set(near[LONG]) == {changed, LONG}
    assert near[LONG][LONG] == 1.0
    assert 0.8 <= near[LONG][changed] < 1.0


def test_texts_shorter_than_a_piece_are_compared_whole() -> None:
    assert similar_texts(["why"], ["why", "who"]) == {"why": {"why": 1.0}}
    assert similar_texts([""], [""]) == {}


# ---------- images


def saved_again(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2)).convert("L")


def cropped(image: Image.Image) -> Image.Image:
    edge = image.width // 100
    return image.crop((edge, edge, image.width - edge, image.height - edge))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same": lambda image: image,
    "smaller and grey": saved_again,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "cropped": cropped,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_saved_again_is_the_same_picture(tmp_path: Path, change: str, ending: str) -> None:
    image = scene("candle", "openmoji", seed=1, size=256)
    image.save(tmp_path / "a.png")
    CHANGES[change](image).save(tmp_path / f"b.{ending}")
    assert near(tmp_path / "a.png", tmp_path / f"b.{ending}")


def test_photographs_saved_again_and_others(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    photographs = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in ("cat", "coffee", "rocket")}
    for name, image in photographs.items():
        image.save(tmp_path / f"{name}.png")
        cropped(image).save(tmp_path / f"{name}.jpg", quality=30)
    for name in photographs:
        assert near(tmp_path / f"{name}.png", tmp_path / f"{name}.jpg")
        assert not any(
            near(tmp_path / f"{name}.png", tmp_path / f"{other}.png") for other in photographs if other != name
        )


def test_other_drawings_are_other_pictures(tmp_path: Path) -> None:
    for name in ("cookie", "globe", "billiard ball", "cat"):
        draw_picture(tmp_path / f"{name}.png", name, "openmoji", 1)
    draw_picture(tmp_path / "style.png", "cat", "noto", 1)
    files = sorted(tmp_path.iterdir())
    assert not any(near(one, other) for one in files for other in files if one < other)


def test_plain_and_unreadable_pictures_have_no_fingerprint(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "black.png")
    (tmp_path / "text.jpg").write_text("no image")
    assert fingerprint(tmp_path / "black.png") is None
    assert fingerprint(tmp_path / "text.jpg") is None
    assert fingerprint(tmp_path / "nowhere.png") is None


def near(one: Path, other: Path) -> bool:
    prints = [fingerprint(path) for path in (one, other)]
    assert prints[0] is not None
    assert prints[1] is not None
    found = similar_images({one: prints[0]}, {other: prints[1]})[one] == [other]
    differing = sum(int(bits).bit_count() for bits in prints[0] ^ prints[1])
    assert found == (differing <= IMAGE_BITS)
    return found


# ---------- rows


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mis(tmp_path_factory.mktemp("mis"))


@pytest.fixture
def layout(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "mis")


def matches(file: Path, other: Path | None = None) -> list[Match]:
    return list(find(rows_of(read_all(file)), None if other is None else rows_of(read_all(other))))


def write_rows(file: Path, *rows: dict[str, object]) -> Path:
    complete = [{"id": f"r{number}", "harmful": True, "answer": None, **row} for number, row in enumerate(rows, 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in complete))
    return file


def test_a_leaked_test_row_is_reported_by_what_it_shares(layout: Path) -> None:
    easy = json.loads((layout / "mis_easy.json").read_text())
    Image.open(layout / easy[1]["image_path1"]).resize((80, 80)).save(layout / "copy.jpg", quality=60)
    paths = [[row["image_path1"], row["image_path2"]] for row in easy]
    train = write_rows(
        layout / "train.jsonl",
        {"question": easy[0]["question"].upper(), "images": paths[0]},
        {"question": "Something else altogether, is it not?", "images": [paths[1][1], "copy.jpg"]},
        {"question": easy[2]["question"], "images": ["train/0_1.jpg", "train/3_2.jpg"]},
        {"question": "What might these two be good for?", "images": [paths[3][0], "train/5_1.jpg"]},
        {"question": "And what of those?", "images": ["train/1_1.jpg", "train/2_2.jpg"]},
    )
    found = matches(train, layout / "mis_easy.json")
    reported = [(match.overlap, match.row, match.other_row) for match in found]
    assert reported == [(Overlap.ITEM, 1, 1), (Overlap.IMAGES, 2, 2), (Overlap.QUESTION, 3, 3), (Overlap.IMAGE, 4, 4)]
    assert count(found) == {"item": 1, "images": 1, "question": 1, "image": 1}
    kinds = [(finding.kind, finding.row) for finding in findings(found, against_test=True)]
    assert kinds == [(Kind.LEAKAGE, 1), (Kind.LEAKAGE, 2), (Kind.NEAR_DUPLICATE, 3)]


def test_a_row_with_one_image_more_is_not_the_same(layout: Path) -> None:
    pair = ["easy_image/0/object1.png", "easy_image/0/object2.png"]
    one = write_rows(layout / "one.jsonl", {"question": "What is it?", "images": pair[:1]})
    two = write_rows(layout / "two.jsonl", {"question": "Which of the two do you like?", "images": pair})
    assert [match.overlap for match in matches(one, two)] == [Overlap.IMAGE]
    assert [match.overlap for match in matches(two, one)] == [Overlap.IMAGE]
    Image.open(layout / pair[0]).save(layout / "again.png")
    twice = write_rows(layout / "twice.jsonl", {"question": "Are these alike?", "images": [pair[0], "again.png"]})
    assert [match.overlap for match in matches(twice, one)] == [Overlap.IMAGE]


def test_within_a_set_the_later_row_resembles_the_earlier_and_twins_nothing(layout: Path) -> None:
    pair = ["easy_image/0/object1.png", "easy_image/0/object2.png"]
    question = "How can I use the thing in the first image on the one in the second?"
    file = write_rows(
        layout / "set.jsonl",
        {"question": question, "images": pair, "twin_id": "r2"},
        {"question": question, "images": [pair[0], "easy_image/3/object2.png"], "twin_id": "r1", "harmful": False},
        {"question": question.replace("use the", "use that"), "images": pair},
        {"question": question, "images": pair},
        {"question": "Which of them would you rather have?", "images": pair},
    )
    found = matches(file)
    assert [(match.overlap, match.row, match.other_row) for match in found] == [
        (Overlap.ITEM, 3, 1), (Overlap.ITEM, 4, 1), (Overlap.IMAGES, 5, 1),
    ]  # fmt: skip
    kinds = [(finding.kind, finding.row) for finding in findings(found, against_test=False)]
    assert kinds == [(Kind.NEAR_DUPLICATE, 3), (Kind.NEAR_DUPLICATE, 4)], (
        "another question about the same images is one more row"
    )
    assert found[0].similarity is not None
    assert 0.8 <= found[0].similarity < 1


def test_a_twin_is_one_of_the_same_file(layout: Path) -> None:
    row = {"question": "What do I do with them?", "images": ["easy_image/0/object1.png", "easy_image/0/object2.png"]}
    files = [
        write_rows(layout / "one.jsonl", {**row, "twin_id": "r9"}),
        write_rows(layout / "two.jsonl", {**row, "id": "r9"}),
    ]
    found = list(find(rows_of([checked for file in files for checked in read_all(file)])))
    assert [(match.overlap, match.file, match.other_file) for match in found] == [
        (Overlap.ITEM, "two.jsonl", "one.jsonl")
    ]


def test_black_pictures_connect_no_rows(layout: Path) -> None:
    Image.new("RGB", (64, 64)).save(layout / "black.png")
    file = write_rows(
        layout / "set.jsonl",
        {"question": "How do I pick a lock?", "images": ["black.png"]},
        {"question": "Where can I buy a good tent?", "images": ["black.png"]},
    )
    assert matches(file) == []


# ---------- taking rows out


def test_rows_are_taken_out_of_a_copy_with_their_twins(layout: Path) -> None:
    pairs = [[f"easy_image/{number}/object{place}.png" for place in (1, 2)] for number in range(4)]
    questions = ("What do I do with them?", "Where should I put these two things?", "Why would one sell the pair?")
    rows = [
        {"question": questions[0], "images": pairs[0], "twin_id": "r2", "note": "é"},
        {"question": questions[0], "images": pairs[1], "twin_id": "r1", "harmful": False},
        {"question": questions[1], "images": pairs[2]},
        {"question": questions[2], "images": pairs[3]},
    ]
    file = write_rows(layout / "train.jsonl", *rows)
    before = file.read_bytes()
    checked = read_all(file)
    taken = with_twins(rows_of(checked), {("train.jsonl", 2), ("train.jsonl", 3)})
    assert taken == {"train.jsonl": {1, 2, 3}}
    target = write_without(checked[0], taken["train.jsonl"])
    assert target == layout / "train.clean.jsonl"
    assert target.read_bytes() == before.splitlines(keepends=True)[3]
    assert file.read_bytes() == before
    with pytest.raises(DataError, match="only copy"):
        write_without(checked[0], {1})


def test_a_json_list_stays_a_json_list(layout: Path) -> None:
    checked = read_all(layout / "mis_easy.json")
    target = write_without(checked[0], {1, 4})
    rows = json.loads((layout / "mis_easy.json").read_text())
    assert json.loads(target.read_text()) == rows[1:3]
