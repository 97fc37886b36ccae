"""Random damage: preflight never crashes on it, and never passes what a strict loader refuses."""

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mis_layout import write_mis

from mis_lib.cli.console import out
from mis_lib.cli.show.check import report_tables
from mis_lib.data.findings import Kind
from mis_lib.data.preflight import PreflightSettings, preflight
from mis_lib.data.sources import find_source, scan
from mis_lib.errors import DataError
from mis_lib.recipes.check import page

DAMAGES = 400  # of each form
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, float("nan"), "", " ", "a", "<image>", "<image><image><image>", "\ud800",
    "é" * 300, "../a.png", "/etc/hosts",
    "C:\\a.png", "\0", "a" * 3000, "http://a/b.png", [], {}, [[]], ["a"], [None], [{}], {"a": 1}, {"from": "gpt"},
    {"type": "image"}, "gpt", "human",
    [{"from": "human", "value": "?"}], [{"role": "user", "content": [{"type": "text", "text": 3}]}],
    {"bytes": "x", "path": None}, "easy_image",
)  # fmt: skip
NAMES = ("question", "images", "image", "conversations", "messages", "prompt", "completion", "image_path1",
         "image_path0", "image_path77", "mis", "id",
         "answer", "objects", "harmful", "twin_id", "split", "category", "sub_category", "mask_eos", "system",
         "provenance")  # fmt: skip


def ours(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "mis_easy.json").read_text())
    return [
        {
            "id": f"r{row['id']}", "question": row["question"], "images": [row["image_path1"], row["image_path2"]],
            "category": row["category"],
            "sub_category": row["sub_category"], "split": "easy", "harmful": True, "twin_id": None, "answer": None,
            "objects": ["a", "b"],
            "provenance": {},
        }
        for row in rows
    ]  # fmt: skip


def messages(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "mis_train.json").read_text())
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {
            "id": row["id"],
            "messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
            "images": row["image"],
        }
        for row in rows
    ]


def hit(dice: random.Random, value: Any) -> Any:
    """A copy with one place somewhere inside replaced, removed or added."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], dict | list):
                walk(inside[key])

    walk(value)
    holder, key = dice.choice(places)
    kind = dice.random()
    if kind < 0.2:
        del holder[key]
    elif kind < 0.35 and isinstance(holder, dict):
        holder[dice.choice(NAMES)] = dice.choice(VALUES)
    else:
        holder[key] = dice.choice(VALUES)
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mis(tmp_path_factory.mktemp("mis"))


@pytest.mark.parametrize("form", ["mis_test", "conversations", "sample", "messages"])
def test_random_damage_is_never_a_crash_and_never_passes_a_loader_that_refuses(folder: Path, form: str) -> None:
    sound = {
        "mis_test": lambda: json.loads((folder / "mis_easy.json").read_text()),
        "conversations": lambda: json.loads((folder / "mis_train.json").read_text()),
        "sample": lambda: ours(folder),
        "messages": lambda: messages(folder),
    }[form]()
    dice = random.Random(form)
    file = folder / "damaged.json"
    reported = 0
    for _ in range(DAMAGES):
        damaged = sound
        for _ in range(dice.randint(1, 2)):
            damaged = hit(dice, damaged)
        file.write_text(json.dumps(damaged))
        report = preflight(file, PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct"))
        reported += bool(report.findings)
        report.model_dump_json()
        if refused := [found for found in scan(find_source(file)) if isinstance(found, DataError)]:
            assert not report.ready, f"{refused[0]}: {json.dumps(damaged)[:2000]}"
    assert reported > DAMAGES / 2
    with out.capture():
        out.print(report_tables(report, 5))
    page(report).encode()


def encoded(lines: bytes) -> bytes:
    return lines.decode().encode("utf-16")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("write", "passes"),
    [
        (lambda line: line + b"\n" + line.replace(b"r0", b"r1"), True),
        (lambda line: b"\n" + line, True),
        (lambda line: b"\xef\xbb\xbf" + line, True),
        (lambda line: line + b"\n\xef\xbb\xbf" + line.replace(b"r0", b"r1"), False),
        (encoded, False),
    ],
    ids=["lines", "blank first", "mark", "mark within", "UTF-16"],
)
def test_what_passes_loads_whatever_the_ending(
    folder: Path, name: str, write: Callable[[bytes], bytes], passes: bool
) -> None:
    (folder / name).write_bytes(write(json.dumps({**ours(folder)[0], "id": "r0"}).encode()))
    report, found = preflight(folder / name), list(scan(find_source(folder / name)))
    (folder / name).unlink()
    assert (report.ready, not any(isinstance(one, DataError) for one in found)) == (passes, passes)


def test_ids_are_kept_apart_over_the_files_of_a_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("*.json"):
        file.unlink()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in ours(folder)))
    report = preflight(tmp_path)
    refused = [found for found in scan(find_source(tmp_path)) if isinstance(found, DataError)]
    assert [(found.kind, found.file, found.row) for found in report.findings] == [
        (Kind.DUPLICATE_ID, "b.jsonl", row) for row in range(1, len(refused) + 1)
    ]
    assert refused


def test_a_file_that_no_reader_takes_does_not_pass(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"expected a file ending in \.jsonl, \.json"):
        preflight(tmp_path / "data.txt")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[", b"[" * 100_000, b"{}", b"null", b"[null]", b'"a"', b"{\n", b"[1, 2", b"\n\n"]
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_no_file_is_too_broken_to_be_reported(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    report = preflight(tmp_path / name)
    assert report.findings
    assert all(found.file == name for found in report.findings)
