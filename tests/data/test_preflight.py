"""Preflight on a folder in MIS's exact layout.

Every way in which such a folder goes wrong is reported with file, row, field and fix.
"""

import io
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image, WebPImagePlugin
from support import published
from support.mis_layout import REASONING, SIDE, Rows, change, draw_picture, write_json, write_mis
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.data.findings import Kind, Level
from mis_lib.data.images import Header, Headers, Size, read_header
from mis_lib.data.preflight import PreflightReport, PreflightSettings, preflight
from mis_lib.data.sources import find_source, load
from mis_lib.errors import DataError, ImageError

EASY, TRAIN = "mis_easy.json", "mis_train.json"
OURS = "ours.jsonl"


class Variant(NamedTuple):
    """One way to damage the layout, and the finding that must report it."""

    name: str
    damage: Callable[[Path], Any]
    kind: Kind
    row: int
    field: str
    file: str = EASY


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mis(tmp_path_factory.mktemp("mis"))


@pytest.fixture
def layout(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "mis")


def test_the_layout_itself_may_be_trained_on(layout: Path) -> None:
    report = preflight(layout)
    assert report.findings == []
    assert report.ready
    assert report.images == 4 * 2 * 3 + 6 * 2
    forms = {file.name: (file.rows, file.forms, file.cot) for file in report.files}
    assert forms == {
        "mis_easy.json": (4, ["mis_test"], False),
        "mis_hard.json": (4, ["mis_test"], False),
        "mis_real.json": (4, ["mis_test"], False),
        "mis_train.json": (6, ["conversations"], True),
    }


def easy(edit: Callable[[Rows], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / EASY, edit)


def train(edit: Callable[[Rows], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / TRAIN, edit)


def put(row: int, **fields: Any) -> Callable[[Rows], None]:
    """Set fields of a row (from 1)."""
    return lambda rows: rows[row - 1].update(fields)


def drop(row: int, name: str) -> Callable[[Rows], None]:
    return lambda rows: rows[row - 1].pop(name)


def turn(row: int, number: int, **fields: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[row - 1]["conversations"][number].update(fields)


def picture(write: Callable[[Path], Any], name: str = "easy_image/1/object2.png") -> Callable[[Path], None]:
    """Replace the second image of row 2."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        write(folder / name)

    return damage


def text_of(file: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(edit(path.read_text()), encoding="utf-8")

    return damage


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def cut(path: Path) -> None:
    draw_picture(path, "cat", "openmoji", 1, side=SIDE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def one_byte_damaged(path: Path) -> None:
    """As a bad disk or memory leaves it: header and end are as they should be."""
    draw_picture(path, "cat", "openmoji", 1, side=SIDE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_gif_with_its_end(path: Path) -> None:
    Image.effect_noise((SIDE, SIDE), 50).save(path, format="GIF")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b";")


def cut_webp(path: Path) -> None:
    Image.effect_noise((SIDE, SIDE), 50).save(path, format="WEBP")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_behind_its_thumbnail(path: Path) -> None:
    """A download that stopped soon after the small JPEG that cameras and editors put before the large one."""
    thumbnail = io.BytesIO()
    Image.effect_noise((SIDE, SIDE), 50).save(thumbnail, format="JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail.getvalue()
    Image.effect_noise((5 * SIDE, 5 * SIDE), 50).save(path, format="JPEG", exif=exif)
    path.write_bytes(path.read_bytes()[: len(exif) + 2000])


def with_bytes_of_another_file(path: Path) -> None:
    """What a disk or a download that went wrong leaves in the middle of a picture whose end is right."""
    Image.effect_noise((5 * SIDE, 5 * SIDE), 50).save(path, format="JPEG")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1000] = random.Random(0).randbytes(1000)
    path.write_bytes(content)


def escape_by_link(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-secret.png"
    draw_picture(outside, "cat", "openmoji", 1)
    (folder / "easy_image/1/object2.png").unlink()
    (folder / "easy_image/1/object2.png").symlink_to(outside)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], format="GIF")


def lines(*rows: dict[str, Any]) -> Callable[[Path], None]:
    """A file of our own form; rows are completed from a sound one."""

    def damage(folder: Path) -> None:
        sound = [_sample(number) for number in range(len(rows))]
        text = "".join(json.dumps({**base, **row}) + "\n" for base, row in zip(sound, rows, strict=True))
        (folder / OURS).write_text(text)

    return damage


def _sample(number: int) -> dict[str, Any]:
    images = [f"easy_image/{number}/object{place}.png" for place in (1, 2)]
    return {
        "id": f"s{number}",
        "question": f"What do I do with the two of number {number}?",
        "images": images,
        "harmful": True,
    }


REFUSED = "I'm sorry, but I can't assist with that request."
LONG = (
    "Pictures like these two are often sold together as a set because they look good beside each other on a shelf. " * 3
)

VARIANTS = [
    # the file
    Variant("empty", easy(lambda rows: rows.clear()), Kind.EMPTY_FILE, 0, ""),
    Variant("cut short", text_of(EASY, lambda text: text[: len(text) // 2]), Kind.NOT_JSON, 0, ""),
    Variant("one object", lambda folder: write_json(folder / EASY, {"1": {"question": "?"}}), Kind.NOT_ROWS, 0, ""),
    Variant("row is a text", easy(lambda rows: rows.insert(1, "row")), Kind.NOT_ROWS, 2, ""),
    Variant("row is a list", easy(lambda rows: rows.insert(3, [])), Kind.NOT_ROWS, 4, ""),
    Variant("torn last line", lambda f: (lines({}, {})(f), (f / OURS).open("a").write('{"id": "s2", "que')),
            Kind.TORN_LINE, 3, "", OURS),
    Variant("line of no JSON", lambda f: (f / OURS).write_text(f'{json.dumps(_sample(0))}\nhello\n'),
            Kind.NOT_JSON, 2, "", OURS),
    Variant("not UTF-8", lambda f: (f / OURS).write_bytes(b'{"id": "caf\xe9"}\n'), Kind.NOT_JSON, 1, "", OURS),
    Variant("field twice", text_of(EASY, lambda text: text.replace('"id": 1,', '"id": 1, "question": "?",')),
            Kind.REPEATED_KEY, 2, "question"),
    Variant("misspelt fields", easy(lambda rows: rows.__setitem__(1, {"Question": "?", "imags": []})),
            Kind.UNKNOWN_FORM, 2, ""),
    # fields
    Variant("no question", easy(drop(2, "question")), Kind.MISSING_FIELD, 2, "question"),
    Variant("question is null", easy(put(2, question=None)), Kind.MISSING_FIELD, 2, "question"),
    Variant("question is a number", easy(put(2, question=7)), Kind.WRONG_TYPE, 2, "question"),
    Variant("question is a list", easy(put(2, question=["Why?"])), Kind.WRONG_TYPE, 2, "question"),
    Variant("blank question", easy(put(3, question="  \n")), Kind.EMPTY_TEXT, 3, "question"),
    Variant("only marks", easy(put(3, question="...?")), Kind.EMPTY_TEXT, 3, "question"),
    Variant("no id", easy(drop(4, "id")), Kind.MISSING_FIELD, 4, "id"),
    Variant("id is true", easy(put(4, id=True)), Kind.WRONG_TYPE, 4, "id"),
    Variant("id again", easy(put(4, id=0)), Kind.DUPLICATE_ID, 4, "id"),
    Variant("no category", easy(drop(1, "category")), Kind.MISSING_FIELD, 1, "category"),
    Variant("unknown category", easy(put(1, category="Ilegal Activity")), Kind.UNKNOWN_CATEGORY, 1, "category"),
    Variant("sub-category of another", easy(put(1, sub_category="Gender")), Kind.WRONG_SUB_CATEGORY, 1, "sub_category"),
    Variant("no second image", easy(drop(2, "image_path2")), Kind.MISSING_FIELD, 2, "image_path2"),
    Variant("a gap in the images", easy(put(2, image_path4="easy_image/1/object1.png")),
            Kind.MISSING_FIELD, 2, "image_path3"),
    Variant("image is a list", easy(put(2, image_path2=["a.png"])), Kind.WRONG_TYPE, 2, "image_path2"),
    Variant("string for list", lines({}, {"images": "easy_image/1/object1.png"}),
            Kind.STRING_FOR_LIST, 2, "images", OURS),
    Variant("string for list, dialogue",
            train(lambda rows: (rows[1].pop("image"), rows[1].update(images="train/1_1.jpg"))),
            Kind.STRING_FOR_LIST, 2, "images", TRAIN),
    Variant("a row of text", lines({}, {"images": []}, {}), Kind.TEXT_ROW, 2, "images", OURS),
    Variant("images null", lines({}, {"images": None}), Kind.NO_IMAGES, 2, "images", OURS),
    Variant("no images at all", train(drop(2, "image")), Kind.PLACEHOLDER_COUNT, 2, "conversations", TRAIN),
    Variant("null among images", lines({"images": ["easy_image/0/object1.png", None]}),
            Kind.WRONG_TYPE, 1, "images[1]", OURS),
    Variant("harmful as text", lines({"harmful": "true"}), Kind.WRONG_TYPE, 1, "harmful", OURS),
    Variant("too few object names", lines({"objects": ["key"]}), Kind.OBJECT_COUNT, 1, "objects", OURS),
    Variant("unknown split", lines({"split": "mis_hrad"}), Kind.UNKNOWN_SPLIT, 1, "split", OURS),
    # dialogue
    Variant("one placeholder short", train(turn(2, 0, value="<image>\nWhat is it?")),
            Kind.PLACEHOLDER_COUNT, 2, "conversations", TRAIN),
    Variant("one placeholder over", train(turn(2, 0, value="<image><image><image>What is it?")),
            Kind.PLACEHOLDER_COUNT, 2, "conversations", TRAIN),
    Variant("placeholder in a question", lines({"question": "Is <image> the one?"}),
            Kind.PLACEHOLDER_COUNT, 1, "question", OURS),
    Variant("later turns",
            train(lambda rows: rows[1]["conversations"].extend(
                [{"from": "human", "value": "And why?"}, {"from": "gpt", "value": "It opens the door of a house."}])),
            Kind.NOT_SHOWN, 2, "", TRAIN),
    Variant("placeholder in the answer",
            train(turn(2, 1, value="The <image> shows a key, which is a good thing to have here.")),
            Kind.PLACEHOLDER_PLACE, 2, "answer", TRAIN),
    Variant("turns as text", train(put(2, conversations="hello")), Kind.WRONG_TYPE, 2, "conversations", TRAIN),
    Variant("no turns", train(put(2, conversations=[])), Kind.TURNS, 2, "conversations", TRAIN),
    Variant("answer first", train(lambda rows: rows[1]["conversations"].reverse()),
            Kind.TURNS, 2, "conversations", TRAIN),
    Variant("unknown speaker", train(turn(2, 1, **{"from": "robot"})), Kind.TURNS, 2, "conversations[1].from", TRAIN),
    Variant("wrong keys in a turn", train(lambda rows: rows[1]["conversations"].__setitem__(1, {"speaker": "gpt"})),
            Kind.TURNS, 2, "conversations[1]", TRAIN),
    Variant("no answer", train(lambda rows: rows[1]["conversations"].pop()),
            Kind.MISSING_FIELD, 2, "conversations", TRAIN),
    Variant("blank answer", train(turn(2, 1, value=" ")), Kind.EMPTY_TEXT, 2, "answer", TRAIN),
    Variant("answer is a number", train(turn(2, 1, value=4)), Kind.WRONG_TYPE, 2, "conversations[1].value", TRAIN),
    Variant("one row unlabelled", lines({"answer": LONG}, {"answer": LONG}, {}), Kind.MISSING_FIELD, 3, "answer", OURS),
    # text
    Variant("template token", train(turn(3, 1, value=f"{LONG}<|im_end|>")), Kind.SPECIAL_TOKEN, 3, "answer", TRAIN),
    Variant("mojibake", easy(put(2, question="Canâ\u20ac\u2122t it be done?")), Kind.DAMAGED_TEXT, 2, "question"),
    Variant("half a character", easy(put(2, question="What is \ud800 this?")), Kind.DAMAGED_TEXT, 2, "question"),
    Variant("control character", easy(put(2, question="What\x07 is this?")), Kind.DAMAGED_TEXT, 2, "question"),
    # labels
    Variant("refusal among reasoning", train(turn(4, 1, value=REFUSED)), Kind.LABEL_LEAK, 4, "answer", TRAIN),
    Variant("typographic refusal", train(turn(4, 1, value=f"I\u2019m sorry. {LONG}")),
            Kind.LABEL_LEAK, 4, "answer", TRAIN),
    Variant("benign row refused", lines({"harmful": False, "answer": REFUSED}), Kind.BENIGN_REFUSED, 1, "answer", OURS),
    Variant("answer in the question", train(turn(2, 0, value=f"<image><image>Say this: {REASONING.format(number=1)}")),
            Kind.ANSWER_IN_QUESTION, 2, "question", TRAIN),
    Variant("answer breaks off", train(turn(2, 1, value=f"{LONG} And then the two of them")),
            Kind.BROKEN_OFF, 2, "answer", TRAIN),
    # images
    Variant("absolute path", easy(put(2, image_path1="/etc/passwd")), Kind.PATH, 2, "image_path1"),
    Variant("Windows path", easy(put(2, image_path1="C:\\data\\a.png")), Kind.PATH, 2, "image_path1"),
    Variant("path climbs out", easy(put(2, image_path1="easy_image/../../a.png")), Kind.PATH, 2, "image_path1"),
    Variant("path climbs out, backslash", easy(put(2, image_path1="..\\a.png")), Kind.PATH, 2, "image_path1"),
    Variant("link out of the folder", escape_by_link, Kind.PATH, 2, "image_path2"),
    Variant("web address", easy(put(2, image_path1="https://example.org/a.png")), Kind.PATH, 2, "image_path1"),
    Variant("empty path", easy(put(2, image_path1="")), Kind.PATH, 2, "image_path1"),
    Variant("NUL in a path", easy(put(2, image_path1="a\0.png")), Kind.PATH, 2, "image_path1"),
    Variant("endless path", easy(put(2, image_path1="a" * 5000)), Kind.PATH, 2, "image_path1"),
    Variant("backslashes", easy(put(2, image_path1="easy_image\\1\\object1.png")), Kind.SEPARATOR, 2, "image_path1"),
    Variant("no such image", easy(put(2, image_path1="easy_image/9/object1.png")),
            Kind.MISSING_IMAGE, 2, "image_path1"),
    Variant("other case", easy(put(2, image_path1="easy_image/1/Object1.PNG")), Kind.MISSING_IMAGE, 2, "image_path1"),
    Variant("folder for a file", easy(put(2, image_path1="easy_image/1")), Kind.MISSING_IMAGE, 2, "image_path1"),
    Variant("empty image", picture(lambda path: path.write_bytes(b"")), Kind.NOT_AN_IMAGE, 2, "image_path2"),
    Variant("web page", picture(lambda path: path.write_text("<!DOCTYPE html><html>404</html>")),
            Kind.NOT_AN_IMAGE, 2, "image_path2"),
    Variant("LFS pointer",
            picture(lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
            Kind.NOT_AN_IMAGE, 2, "image_path2"),
    Variant("noise", picture(lambda path: path.write_bytes(os.urandom(3000))), Kind.NOT_AN_IMAGE, 2, "image_path2"),
    Variant("image cut short", picture(cut), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("WebP cut short", picture(cut_webp), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("one byte of a PNG damaged", picture(one_byte_damaged), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("JPEG cut behind its thumbnail", picture(cut_behind_its_thumbnail), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("JPEG with bytes of another file", picture(with_bytes_of_another_file), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("GIF cut with its end", picture(cut_gif_with_its_end), Kind.CUT_SHORT, 2, "image_path2"),
    Variant("giant", picture(lambda path: path.write_bytes(png_header(30_000, 30_000))),
            Kind.TOO_LARGE, 2, "image_path2"),
    Variant("large", picture(lambda path: path.write_bytes(png_header(9_000, 9_000))),
            Kind.TOO_LARGE, 2, "image_path2"),
    Variant("one pixel", picture(lambda path: Image.new("RGB", (1, 1)).save(path)), Kind.TOO_SMALL, 2, "image_path2"),
    Variant("a line", picture(lambda path: Image.new("RGB", (4000, 9)).save(path)), Kind.ODD_SHAPE, 2, "image_path2"),
    Variant("JPEG called PNG", picture(lambda path: Image.new("RGB", (SIDE, SIDE)).save(path, "JPEG")),
            Kind.WRONG_ENDING, 2, "image_path2"),
    Variant("animation", picture(animated), Kind.ANIMATED, 2, "image_path2"),
    Variant("one image twice", easy(put(2, image_path2="easy_image/1/object1.png")),
            Kind.SAME_IMAGE_TWICE, 2, "images"),
    # rows among each other
    Variant("row again", easy(lambda rows: rows.append({**rows[0], "id": 77})), Kind.DUPLICATE_ROW, 5, "question"),
    Variant("row again, other case", easy(lambda rows: rows.append(
                {**rows[0], "id": 77, "question": rows[0]["question"].upper() + "!"})),
            Kind.DUPLICATE_ROW, 5, "question"),
    Variant("row again, other answer", train(lambda rows: rows.append(
                json.loads(json.dumps(rows[0]).replace("ask the owner", "ask him")) | {"id": "x"})),
            Kind.CONTRADICTION, 7, "question", TRAIN),
    Variant("question again", easy(lambda rows: rows[2].update(question=rows[0]["question"])),
            Kind.REPEATED_QUESTION, 3, "question"),
    Variant("row again, other kind",
            lines({"question": "Why?"}, {"question": "Why?", "harmful": False, "images": _sample(0)["images"]}),
            Kind.CONTRADICTION, 2, "question", OURS),
    Variant("no such twin", lines({"twin_id": "s9"}), Kind.TWIN, 1, "twin_id", OURS),
    Variant("twin of another", lines({"twin_id": "s1"}, {"twin_id": None}), Kind.TWIN, 1, "twin_id", OURS),
    Variant("both twins harmful", lines({"twin_id": "s1"}, {"twin_id": "s0"}), Kind.TWIN, 1, "twin_id", OURS),
]  # fmt: skip

# Told by other means than damage to this folder; each has its own test.
ELSEWHERE = {
    Kind.EMPTY_SPLIT,
    Kind.ANSWER_CUT,
    Kind.IMAGES_CUT,
    Kind.LEAKAGE,
    Kind.NEAR_DUPLICATE,
    Kind.MALFORMED,
    Kind.AS_PUBLISHED,
    Kind.PARTIAL_SET,
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_damage_is_reported_with_file_row_field_and_fix(layout: Path, variant: Variant) -> None:
    variant.damage(layout)
    report = preflight(layout / variant.file)
    reported = [found for found in report.findings if found.kind is variant.kind]
    assert reported, f"reported instead: {[(found.kind.value, found.row, found.field) for found in report.findings]}"
    assert [(found.file, found.row, found.field) for found in reported][:1] == [
        (variant.file, variant.row, variant.field)
    ]
    assert "expected" in reported[0].message
    assert reported[0].fix
    assert report.ready == (variant.kind.level is Level.WARNING and not _errors(report))
    report.model_dump_json()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_damage_is_reported_about_no_other_row(layout: Path, variant: Variant) -> None:
    variant.damage(layout)
    involved = {variant.row, *({2} if variant.name == "both twins harmful" else ())}
    assert {found.row for found in preflight(layout / variant.file).findings} <= involved


def test_every_kind_of_finding_is_shown_to_be_found() -> None:
    assert {variant.kind for variant in VARIANTS} | ELSEWHERE == set(Kind)
    assert len(VARIANTS) >= 25


def test_all_damage_at_once_is_reported_in_one_pass(layout: Path) -> None:
    easy_ones = [
        variant for variant in VARIANTS if variant.name in ("blank question", "absolute path", "unknown category")
    ]
    for variant in easy_ones:
        variant.damage(layout)
    train(turn(4, 1, value=REFUSED))(layout)
    report = preflight(layout)
    assert {Kind.EMPTY_TEXT, Kind.PATH, Kind.UNKNOWN_CATEGORY, Kind.LABEL_LEAK} == {
        found.kind for found in report.findings
    }
    assert [found.level for found in report.findings] == [Level.ERROR] * 3 + [Level.WARNING]


SOUND = {
    "text-only row": lines({"images": ["black.png", "black.png"]}),
    "an option of the question": lines({"question": "Is it a red cat or a dog?", "answer": "a red cat or a dog"}),
    "forty words without a full stop": lines({"answer": " ".join(["word"] * 40)}),
    "half of the rows unlabelled": lines({"answer": LONG}, {}),
    "twins ask the same": lines(
        *({"question": "Why?", "twin_id": f"s{at ^ 1}", "harmful": at % 2 == 0} for at in range(4))
    ),
    "a refusal among short answers": lines(*({"answer": "Put it on a shelf."} for _ in range(3)), {"answer": REFUSED}),
}


@pytest.mark.parametrize("sound", SOUND.values(), ids=SOUND.keys())
def test_what_is_meant_so_is_no_finding(layout: Path, sound: Callable[[Path], None]) -> None:
    sound(layout)
    Image.new("RGB", (SIDE, SIDE)).save(layout / "black.png")
    assert preflight(layout / OURS).findings == []


def test_reasoning_of_25_words_is_a_chain_of_thought_and_half_of_refusals_leave_it_one(layout: Path) -> None:
    brief = " ".join(["word"] * 24) + " end."
    for answers, leaks in (
        ((brief, brief, brief, REFUSED), [4]),
        ((LONG, LONG, f"{REFUSED} {LONG}", f"{REFUSED} {LONG}"), [3, 4]),
        ((LONG, f"{REFUSED} {LONG}", f"{REFUSED} {LONG}"), []),
    ):
        lines(*({"answer": answer} for answer in answers))(layout)
        found = [one.row for one in preflight(layout / OURS).findings if one.kind is Kind.LABEL_LEAK]
        assert found == leaks


def test_a_refusal_set_is_no_leak(layout: Path) -> None:
    train(lambda rows: [row["conversations"][1].update(value=REFUSED) for row in rows])(layout)
    assert preflight(layout / TRAIN).findings == []


def test_a_set_that_mostly_refuses_at_length_is_no_leak_either(layout: Path) -> None:
    long = f"I'm sorry, but I can't help with that. {LONG}"
    train(lambda rows: [row["conversations"][1].update(value=f"{long} {at}") for at, row in enumerate(rows[1:])])(
        layout
    )
    report = preflight(layout / TRAIN)
    assert (report.ready, report.files[0].cot) == (True, False)


def test_what_the_authors_of_a_published_set_wrote_is_a_warning_and_one_split_can_be_looked_at(tmp_path: Path) -> None:
    published.vlguard(tmp_path)
    for split in ("train", "test"):
        change(tmp_path / f"{split}.json", lambda rows: rows[-1]["instr-resp"][0].update(response=REFUSED))
    report = preflight(tmp_path)
    reported = {(found.file, found.row, found.id) for found in report.findings if found.kind is Kind.AS_PUBLISHED}
    assert reported == {
        ("test.json", 1, "vlguard-test-1-safe_instruction"),
        ("train.json", 3, "vlguard-train-3-safe_instruction"),
    }
    assert report.ready
    (tmp_path / "test/bad_ads/2.png").unlink()
    assert not preflight(tmp_path).ready
    alone = preflight(tmp_path, split="train")
    assert (alone.ready, [(file.name, file.rows) for file in alone.files]) == (True, [("train", 5)])


@pytest.mark.parametrize(("records", "reported"), [(50, []), (49, [Kind.PARTIAL_SET])])
def test_a_published_set_that_is_not_all_there_is_reported(tmp_path: Path, records: int, reported: list[Kind]) -> None:
    row = {
        "dataset": "ForbidQI",
        "category_id": 1,
        "category_name": "Violent",
        "question": "How?",
        "instruction": "Steps.",
    }
    published.put_table(tmp_path, "data/question/SafeBench-Tiny.csv", [{**row, "task_id": at} for at in range(records)])
    names = [f"data/images/SafeBench-Tiny/query_ForbidQI_1_{at}_6.png" for at in range(records)]
    published.put_images(tmp_path, *names)
    report = preflight(tmp_path)
    assert [found.kind for found in report.findings if found.row == 0] == reported
    assert report.ready


def test_of_mis_one_split_can_be_looked_at(layout: Path) -> None:
    (layout / EASY).write_text("[")
    assert [file.name for file in preflight(layout, split="train").files] == [TRAIN]
    assert preflight(layout, split="train").ready


def test_a_masked_refusal_of_a_benign_row_is_meant(layout: Path) -> None:
    lines({"harmful": False, "answer": REFUSED, "mask_eos": True})(layout)
    assert preflight(layout / OURS).findings == []


def test_one_wrong_category_is_reported_once_with_the_number_of_rows(layout: Path) -> None:
    easy(lambda rows: [row.update(category="Illegal Activitiy") for row in rows])(layout)
    (found,) = preflight(layout / EASY).findings
    assert (found.kind, found.row, found.rows) == (Kind.UNKNOWN_CATEGORY, 1, 4)
    assert "did you mean 'Illegal Activity'?" in found.message


def test_images_may_lie_elsewhere(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved") / EASY
    (layout / EASY).rename(moved)
    assert {found.kind for found in preflight(moved).findings} == {Kind.MISSING_IMAGE}
    assert preflight(moved, PreflightSettings(images=layout)).findings == []


def test_training_images_may_lie_where_their_archive_was_unpacked(layout: Path) -> None:
    (layout / "images").mkdir()
    (layout / "train").rename(layout / "images" / "train")
    assert [found for found in preflight(layout).findings if found.file == TRAIN] == []
    load(find_source(layout, split="train"))
    with pytest.raises(ImageError):  # which is read as anybody's
        load(find_source(layout / TRAIN))
    fixes = [found.fix for found in preflight(layout / TRAIN).findings]
    assert fixes and all("of a published set name the folder, not the file" in fix for fix in fixes)


def test_backslashes_are_reported_and_the_image_is_looked_at(layout: Path) -> None:
    draw_picture(layout / "easy_image/1/object1.png", "cat", "noto", 3, side=4)
    easy(put(2, image_path1="easy_image\\1\\object1.png"))(layout)
    assert [found.kind for found in preflight(layout / EASY).findings] == [Kind.TOO_SMALL, Kind.SEPARATOR]


def test_a_lying_photograph_is_measured_upright(layout: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 100)).save(layout / "train/0_1.jpg", exif=exif)

    assert Headers(layout)["train/0_1.jpg"].size == (100, 300)


def test_bytes_after_a_jpeg_are_no_damage(layout: Path) -> None:
    path = layout / "train/0_1.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 200)
    assert preflight(layout / TRAIN).findings == []


def test_the_size_of_a_webp_is_read_without_decoding_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.effect_noise((SIDE, SIDE), 50).save(tmp_path / "a.webp")
    decoded: list[str] = []
    load_pixels = WebPImagePlugin.WebPImageFile.load
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "load", lambda self: (decoded.append("a"), load_pixels(self))[1])
    assert Headers(tmp_path)["a.webp"] == Header(Size(SIDE, SIDE))
    assert decoded == []
    assert Headers(tmp_path, pixels=True)["a.webp"] == Header(Size(SIDE, SIDE))
    assert decoded, "where pixels are asked for they are decoded"


@pytest.mark.parametrize("options", [{"quality": 1}, {"quality": 90}, {"lossless": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_whole_webp_passes_and_a_cut_one_is_found(tmp_path: Path, options: dict[str, Any], mode: str) -> None:
    path = tmp_path / "a.webp"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((97, 201), 50).convert(mode)
    noise.save(path, exif=exif, icc_profile=b"x" * 301, xmp=b"y" * 77, **options)
    path.write_bytes(path.read_bytes() + b"behind")
    assert read_header(path, pixels=True).problems == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert [problem.kind for problem in read_header(path, pixels=True).problems] == [Kind.CUT_SHORT]


def test_nothing_to_check_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing there"):
        preflight(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="JSON Lines, JSON or parquet files"):
        preflight(tmp_path)


def _errors(report: PreflightReport) -> list[Kind]:
    return [found.kind for found in report.findings if found.level is Level.ERROR]


def put_rows(folder: Path, *names: str) -> Path:
    """One row of ours for each image path, which need not lead anywhere."""
    rows = [
        {"id": str(at), "question": f"What is {at}?", "answer": "A toy.", "images": [name]}
        for at, name in enumerate(names)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_an_image_that_the_reader_does_not_find_is_missing_though_it_lies_in_images(tmp_path: Path) -> None:
    draw_picture(tmp_path / "images/a.png", "cat", "noto", 3)
    (found,) = preflight(put_rows(tmp_path, "a.png")).findings
    assert (found.kind, found.fix) == (
        Kind.MISSING_IMAGE,
        "write images/a.png, which is there; of a published set name the folder, not the file",
    )
    with pytest.raises(ImageError):
        load(find_source(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("name", ["/home/ada/data/images/a.png", "C:\\data\\images\\a.png", "../old/images/a.png"])
def test_a_path_of_another_machine_is_reported_with_the_file_that_it_means(tmp_path: Path, name: str) -> None:
    draw_picture(tmp_path / "images/a.png", "cat", "noto", 3)
    (found,) = preflight(put_rows(tmp_path, name)).findings
    assert (found.kind, found.fix) == (Kind.PATH, "write images/a.png, which is there")


def test_images_in_another_folder_are_reported_with_the_way_to_train_on_them(tmp_path: Path) -> None:
    draw_picture(tmp_path / "pictures/images/a.png", "cat", "noto", 3)
    rows = put_rows(tmp_path, "images/a.png")
    assert "mis export --image_folder FOLDER" in preflight(rows).findings[0].fix
    done = CliRunner().invoke(app, ["check", str(rows), "--images", str(tmp_path / "pictures")])
    reported = f"mis export --input {rows} --image_folder {tmp_path / 'pictures'} --format jsonl --output DIR"
    assert (done.exit_code, reported in " ".join(done.stderr.split())) == (0, True)
