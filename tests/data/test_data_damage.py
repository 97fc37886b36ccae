"""2,000 randomly damaged records: each is refused with its file named, none crashes a loader, none passes as whole.

A damage is one that takes something away that a sample needs: a required field gone, null, blank or of the wrong type,
an image path that leads nowhere or out of the folder, an image that is none, a record that is no object, is there twice
or is torn, a byte that is no UTF-8.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.published import WRITERS, our_samples, put_images

from mis_lib.data.export import to_llamafactory, to_swift, to_trl
from mis_lib.data.sources import find_source, scan
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image

DAMAGES_EACH = 200
Record = dict[str, Any]


class Subject(NamedTuple):
    """A data file to damage: which fields a record needs, which of them name images, and whether ids must differ."""

    file: str
    fields: tuple[str, ...]
    images: tuple[str, ...]
    loader: str | None = None
    split: str | None = None
    where: tuple[str, ...] = ()
    ids: bool = True


SUBJECTS = {
    "mis test": Subject(
        "mis_hard.json",
        ("id", "question", "image_path1", "image_path2"),
        ("image_path1", "image_path2"),
        "mis",
        "hard",
    ),
    "mis train": Subject(
        "mis_train.json",
        ("image", "conversations", "conversations.0.from", "conversations.1.value"),
        ("image.0", "image.1"),
        "mis",
        "train",
        ids=False,
    ),
    "vlguard": Subject(
        "train.json",
        ("id", "image", "safe", "instr-resp", "instr-resp.0", "instr-resp.0.response"),
        ("image",),
        "vlguard",
        "train",
        ids=False,
    ),
    "mssbench": Subject(
        "combined.json",
        ("safe_image_path", "unsafe_image_path", "queries", "queries.0", "Type"),
        ("safe_image_path", "unsafe_image_path"),
        "mssbench",
        "chat",
        where=("chat",),
        ids=False,
    ),
    "siuo": Subject("data/siuo_gen.json", ("question_id", "image", "question", "category"), ("image",), "siuo", "gen"),
    "vlsbench": Subject(
        "data.json",
        ("instruction_id", "instruction", "image_path", "category", "sub_category"),
        ("image_path",),
        "vlsbench",
    ),
    "mir": Subject(
        "Privacy/Temporal_Jump_final.json",
        ("id", "revised_prompt", "images", "relationship_type"),
        ("images.0", "images.3"),
        "mir_safetybench",
    ),
    "m4": Subject(
        "m4_instruct_annotations.json",
        ("image", "conversations", "conversations.0", "conversations.1.value"),
        (),
        "m4_instruct",
        ids=False,
    ),
    "ours": Subject("train.jsonl", ("id", "question", "images"), ("images.0",)),
    "llamafactory": Subject("lf.json", ("id", "conversations", "images", "conversations.0.value"), ("images.0",)),
    "swift": Subject("swift.jsonl", ("id", "messages", "images", "messages.0.role"), ("images.0",)),
    "trl": Subject("trl.jsonl", ("id", "prompt", "completion", "images", "prompt.0.content"), ("images.0",)),
}


def write_ours(folder: Path) -> None:
    """Our own records and their exports, without a system prompt: it would come before the first turn."""
    samples = our_samples(folder)[:2]
    forms: dict[str, Callable[..., Record]] = {"lf.json": to_llamafactory, "swift.jsonl": to_swift, "trl.jsonl": to_trl}
    for name, form in forms.items():
        write(folder / name, [form(sample) for sample in samples])
    write(folder / "train.jsonl", [sample.model_dump(mode="json") for sample in samples])


def write(file: Path, document: Any) -> None:
    lines = file.suffix == ".jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in document) if lines else json.dumps(document))


def read(file: Path) -> Any:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    return json.loads(file.read_text())


def errors(folder: Path, subject: Subject) -> list[DataError]:
    """What reading the file and its images finds wrong."""
    path = folder if subject.loader else folder / subject.file
    found = []
    for sample in scan(find_source(path, loader=subject.loader, split=subject.split)):
        if isinstance(sample, DataError):
            found.append(sample)
            continue
        try:
            for image in sample.images:
                load_image(folder / image)
        except ImageError as error:
            found.append(error)
    return found


# ---------- damages; each returns what it did


def parent(record: Any, path: str) -> tuple[Any, Any]:
    *above, last = path.split(".")
    for part in above:
        record = record[int(part)] if isinstance(record, list) else record[part]
    return record, int(last) if isinstance(record, list) else last


def put_at(record: Record, path: str, value: Any) -> None:
    inside, key = parent(record, path)
    inside[key] = value


def drop(rng: random.Random, record: Record, subject: Subject) -> str:
    path = rng.choice([field for field in subject.fields if not field[-1].isdigit()])
    inside, key = parent(record, path)
    del inside[key]
    return f"no {path}"


def wrong_value(rng: random.Random, record: Record, subject: Subject) -> str:
    path = rng.choice(subject.fields)
    inside, key = parent(record, path)
    wrong = [value for value in (None, 3.5, {"a": 1}, [], [[]], "", " \t", "\n") if value != inside[key]]
    value = rng.choice([value for value in wrong if type(value) is not type(inside[key]) or not value or value == [[]]])
    put_at(record, path, value)
    return f"{path} = {value!r}"


def wrong_path(rng: random.Random, record: Record, subject: Subject) -> str:
    path = rng.choice(subject.images)
    names = [
        "../out.png",
        "/etc/hostname",
        "..\\out.png",
        "C:\\out.png",
        "https://x.org/a.png",
        "none.png",
        ".",
        "",
        "a\0.png",
        "~/a",
    ]
    name = rng.choice([*names, "link_out.png", "text.png", "torn.png", "empty.png", "x" * 400])
    put_at(record, path, name)
    return f"{path} = {name[:20]!r}"


RECORD_DAMAGES = (drop, wrong_value, wrong_path)


def records_of(document: Any, subject: Subject) -> list[Record]:
    for key in subject.where:
        document = document[key]
    return document


def damage(rng: random.Random, file: Path, document: Any, subject: Subject) -> str:
    """Damage a random record, or the file's bytes within one, and write the file."""
    records = records_of(document, subject)
    place = rng.randrange(len(records))
    kind = rng.choice(["record", "record", "record", "no object", "twice", "torn", "byte", "key"])
    if kind == "twice" and not subject.ids:
        kind = "no object"
    if kind == "record":
        usable = [one for one in RECORD_DAMAGES if subject.images or one is not wrong_path]
        done = rng.choice(usable)(rng, records[place], subject)
    elif kind == "no object":
        records[place] = rng.choice([None, 5, "text", ["list"]])  # type: ignore[call-overload]
        done = f"record = {records[place]!r}"
    elif kind == "twice":
        records.append(records[place])
        done = "record twice"
    else:
        done = kind
    write(file, document)
    if kind in ("torn", "byte", "key"):
        file.write_bytes(damaged_bytes(rng, file.read_bytes(), kind))
    return f"row {place + 1}: {done}"


def damaged_bytes(rng: random.Random, content: bytes, kind: str) -> bytes:
    if kind == "torn":
        inside = [
            place
            for place in range(2, len(content) - 1)
            if content[place] not in b"\n" and content[place - 1] not in b"\n"
        ]
        return content[: rng.choice(inside)]
    if kind == "byte":
        place = rng.randrange(len(content))
        return content[:place] + b"\xff" + content[place + 1 :]
    start = content.index(b'{"', rng.randrange(content.rindex(b'{"')))
    key = content[start + 1 : content.index(b":", start)]
    return content[: start + 1] + key + b": 1, " + content[start + 1 :]


# ---------- the test


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, subject in SUBJECTS.items():
        folder = found[name] = tmp_path_factory.mktemp("damage") / "data"
        WRITERS.get(subject.loader or "", write_ours)(folder)
        put_images(folder.parent, "out.png")
        roots = {(folder / subject.file).parent, folder, *(path.parent for path in folder.rglob("*.png"))}
        for root in roots:
            (root / "link_out.png").symlink_to(folder.parent / "out.png")
            (root / "text.png").write_text("no image")
            (root / "empty.png").write_bytes(b"")
            (root / "torn.png").write_bytes((folder.parent / "out.png").read_bytes()[:45])
    return found


@pytest.mark.parametrize("name", SUBJECTS)
def test_damaged_records_are_refused_by_name_and_none_passes(folders: dict[str, Path], name: str) -> None:
    folder, subject = folders[name], SUBJECTS[name]
    file = folder / subject.file
    whole, rng = file.read_bytes(), random.Random(name)
    assert errors(folder, subject) == []
    passed = []
    for _ in range(DAMAGES_EACH):
        done = damage(rng, file, read(file), subject)
        found = errors(folder, subject)
        if not found or not all(file.name in str(error) or isinstance(error, ImageError) for error in found):
            passed.append((done, [str(error) for error in found]))
        file.write_bytes(whole)
    assert passed == []


def test_two_thousand_records_are_damaged() -> None:
    assert DAMAGES_EACH * len(SUBJECTS) >= 2000
