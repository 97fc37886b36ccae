"""The datasheet of MIS-Mini says what the data says."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mis_lib.cache import is_intact
from mis_lib.construct.drawings import CREDITS
from mis_lib.construct.mis_mini import LIMITS, construct, plan, sheet
from mis_lib.data.checks import is_cot, set_findings, text_findings
from mis_lib.data.datasheet import About, datasheet
from mis_lib.data.formats import view_of
from mis_lib.schema import TAXONOMY, Sample


@pytest.fixture(scope="module")
def files() -> dict[str, list[Sample]]:
    return plan().files


@pytest.fixture(scope="module")
def text(files: dict[str, list[Sample]]) -> str:
    return sheet(files, seed=0, table="f" * 64, pictures=2715)


def table(text: str, heading: str) -> list[dict[str, str]]:
    """The table under a heading, a row as headings -> cells."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_sizes_are_those_of_the_files(text: str, files: dict[str, list[Sample]]) -> None:
    reported = {row["file"]: row for row in table(text, "What is in it")}
    assert list(reported) == list(files) == [
        "train", "easy", "hard", "unseen", "real", "general", "everyday_train", "everyday",
    ]  # fmt: skip
    for name, samples in files.items():
        harmful = [sample for sample in samples if sample.harmful]
        assert number(reported[name]["items"]) == len(samples)
        assert number(reported[name]["harmful"]) == len(harmful)
        assert number(reported[name]["benign"]) == len(samples) - len(harmful)
        assert number(reported[name]["twin pairs"]) == sum(sample.twin_id is not None for sample in harmful)
        assert number(reported[name]["questions"]) == len({sample.question for sample in samples})
        parts = [part.split(" x ") for part in reported[name]["items x images"].split(", ")]
        assert {int(images): int(items) for items, images in parts} == Counter(len(sample.images) for sample in samples)


def test_categories_add_up_to_the_harmful_items(text: str, files: dict[str, list[Sample]]) -> None:
    rows = table(text, "Harmful items by category")
    assert {(row["category"], row["sub-category"]) for row in rows} == {
        (category, sub_category) for category, subs in TAXONOMY.items() for sub_category in subs
    }
    for name in ("train", "easy", "hard", "unseen", "real"):
        assert sum(number(row[name]) for row in rows) == sum(sample.harmful for sample in files[name])
    physical = next(row for row in rows if row["sub-category"] == "Physical")
    assert number(physical["hard"]) == sum(s.harmful and s.sub_category == "Physical" for s in files["hard"])


def test_lengths_lie_between_the_shortest_and_the_longest(text: str, files: dict[str, list[Sample]]) -> None:
    for row in table(text, "Lengths, in words"):
        picked = [sample for sample in files[row["file"]] if sample.harmful is (row["items"] == "harmful")]
        words = sorted(len((sample.answer or "").split()) for sample in picked)
        least, median, most = row["answer: least / median / most"].split(" / ")
        assert (int(least), int(most)) == (words[0], words[-1])
        assert words[(len(words) - 1) // 2] <= float(median) <= words[len(words) // 2]


def test_training_and_test_share_no_pair_question_or_picture(text: str) -> None:
    section = text.partition("## Between training and test\n")[2].partition("\n## ")[0]
    found = re.findall(
        r"- (\w+): (\d+) of [\d,]+ items show an object pair of train, (\d+) ask .*?, (\d+) show a picture", section
    )
    assert found == [(name, "0", "0", "0") for name in ("easy", "hard", "unseen", "real")]


def test_an_overlap_would_be_reported(files: dict[str, list[Sample]]) -> None:
    leaked = {**files, "easy": [*files["easy"], files["train"][0]]}
    assert f"easy: 1 of {len(files['easy']) + 1} items show an object pair of train, 1 ask" in sheet(
        leaked, seed=0, table="", pictures=0
    )


def test_licences_and_limits_are_reported(text: str) -> None:
    assert all(credit in text for credit in CREDITS.values())
    assert "Apache-2.0" in text
    assert all(limit in text for limit in LIMITS)
    assert "hard: fewer than 10 harmful items in Cybercrimes" in text


def test_construct_writes_it_beside_the_data(tmp_path: Path) -> None:
    construct(tmp_path / "data", blocks=["gender"], general_items=5, everyday_items=8)
    text = (tmp_path / "data/DATASHEET.md").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in (tmp_path / "data/train.jsonl").read_text().splitlines()]
    assert number(table(text, "What is in it")[0]["items"]) == len(lines)
    pictures = len(list((tmp_path / "data/images").iterdir()))
    assert f"draws {pictures:,} pictures" in text
    assert is_intact(tmp_path / "data")
    assert "DATASHEET.md" in json.loads((tmp_path / "data/manifest.json").read_text())


def test_preflight_finds_nothing_wrong_with_mis_minis_texts_and_labels(files: dict[str, list[Sample]]) -> None:
    for name, samples in files.items():
        views = [view_of(sample, name, place) for place, sample in enumerate(samples, 1)]
        assert [finding for seen in views for finding in [*seen.findings, *text_findings(seen)]] == []
        assert list(set_findings(views, cot=is_cot(views))) == []
        assert is_cot(views) == any(sample.harmful for sample in samples)


def test_any_set_has_a_datasheet() -> None:
    about = About(title="T", purpose="P", made="M", licences={}, limits=())
    rows = [Sample(id="a", question="What is it?", images=["a.png"])]
    text = datasheet({"test": rows}, about)
    assert table(text, "What is in it")[0]["items"] == "1"
    assert "answer: least / median / most |" in text
    assert text.count("- none") == 4  # nothing paired, nothing shared, no licence, no limit
    assert datasheet({}, about).startswith("# T\n")
