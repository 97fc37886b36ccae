"""``mis check``: what it prints for people and programs, the page, the exit status, and what it writes."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import published
from support.mis_layout import REASONING, change, draw_picture, write_mis
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.data.benchmarks import LOADERS
from mis_lib.data.findings import Kind
from mis_lib.data.preflight import preflight

EVIL = '</td><script>alert(1)</script>[red]<b onmouseover="x">'


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mis(tmp_path_factory.mktemp("mis"))


@pytest.fixture
def layout(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "mis")


def mis_check(*args: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, args)], env={"COLUMNS": "200"})


def test_sound_data_may_start_training(layout: Path) -> None:
    result = mis_check(layout, "--model", "OpenGVLab/InternVL2_5-8B", "--max_dynamic_patch", 6)
    assert result.exit_code == 0, result.output
    assert "Training may start." in result.stdout
    assert "mis_easy.json: 4 rows (mis_test)" in result.stdout
    assert "memory: " in result.stdout


def test_unsound_data_may_not(layout: Path) -> None:
    change(layout / "mis_hard.json", lambda rows: rows[2].update(image_path2="../a.png"))
    result = mis_check(layout)
    assert result.exit_code == 1
    assert "Training must not start: 1 errors." in result.stdout
    told = " ".join(result.stdout.split())  # lines are broken where the path ends
    assert "mis_hard.json, row 3 (2), image_path2: ../a.png: expected a path inside the data folder" in told


def test_warnings_do_not_stop_training(layout: Path) -> None:
    change(layout / "mis_hard.json", lambda rows: rows[2].update(category="Violence"))
    result = mis_check(layout)
    assert result.exit_code == 0
    assert "unknown-category" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "found nothing there"),
        (["DATA", "--model", "gpt-4o"], "Qwen2-VL"),
        (["DATA", "--model", "OpenGVLab/InternVL2_5-8B", "--max_pixels", "100"], "--max_pixels"),
        (["DATA", "--remove"], "--against TEST or --duplicates"),
        (["DATA", "--mixture", "mirrage"], "did you mean 'mirage'"),
        (["DATA", "--set", "modle=x"], "unknown setting 'modle'"),
        (["hub:imagenet"], "unknown set"),
        (["hub:mis", "--duplicates"], "--duplicates goes with data"),
        (["DATA", "--mixture", "mirage", "--model", "mini", "--remove"], "--model goes with a check of data as it is"),
        (["DATA", "--mixture", "mirage", "--html", "x.html"], "--html goes with a check of data as it is"),
        (["DATA", "--mixture", "mirage", "--lora_rank", "0"], "--lora_rank goes with a check of data as it is"),
        (["DATA", "--output", "mixed"], "--output goes with --mixture NAME"),
        (["DATA", "--max_length", "100"], "max_length: expected a model"),
        (["DATA", "--lora_rank", "0"], "lora_rank: expected a model"),
        (["SET", "--images", "elsewhere"], "VLGuard names its images itself"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(layout: Path, args: list[str], message: str) -> None:
    if "SET" in args:
        published.vlguard(layout / "set")
    places = {"DATA": layout, "SET": layout / "set"}
    result = mis_check(*(places.get(arg, arg) for arg in args))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_json_has_every_row_and_finding(layout: Path) -> None:
    change(layout / "mis_easy.json", lambda rows: rows[1].update(question=" "))
    result = mis_check(layout / "mis_easy.json", "--model", "Qwen/Qwen2-VL-7B-Instruct", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ready"] is False
    (found,) = report["findings"]
    assert (found["kind"], found["file"], found["row"], found["field"]) == (
        "empty-text",
        "mis_easy.json",
        2,
        "question",
    )
    assert found["fix"]
    assert [(row["row"], row["images"], row["image_tokens"]) for row in report["tokens"]["rows"]] == [
        (row, 2, 2 * (3 * 3 + 2)) for row in (1, 2, 3, 4)
    ]
    assert set(report["memory"]) == {"weights", "gathered", "state", "activations", "longest", "training"}


class Page(HTMLParser):
    """Tags and texts of a page; fails on anything left open."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open += [tag] if tag != "meta" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_page_shows_what_data_holds_and_runs_none_of_it(layout: Path, tmp_path: Path) -> None:
    change(layout / "mis_easy.json", lambda rows: rows[1].update(category=EVIL, image_path1=f"{EVIL}.png"))
    page = tmp_path / "report.html"
    result = mis_check(layout / "mis_easy.json", "--html", page, "--model", "Qwen/Qwen2-VL-7B-Instruct")
    assert result.exit_code == 1
    assert EVIL in " ".join(result.stdout.split())
    text = page.read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert set(parsed.tags).isdisjoint({"script", "b", "img", "link", "iframe"})
    assert not re.search(r"(src|href)=|https?://", text)
    assert any(EVIL in cell for cell in parsed.cells)
    assert {"missing-image", "unknown-category", "mis_easy.json"} <= set(parsed.cells)


def test_settings_come_from_a_file_and_flags_win(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "check.yaml").write_text(
        "model: Qwen/Qwen2-VL-7B-Instruct\nmax_length: 40\ntraining: {lora_rank: 64}\n"
    )
    first = json.loads(mis_check(layout / "mis_easy.json", "--config", tmp_path / "check.yaml", "--json").stdout)
    again = mis_check(layout / "mis_easy.json", "--config", tmp_path / "check.yaml", "--max_length", 4000, "--json")
    assert {found["kind"] for found in first["findings"]} == {"answer-cut"}
    assert first["memory"]["training"]["lora_rank"] == 64
    assert json.loads(again.stdout)["ready"]


# ---------------------------------------------------------------- against a test set


def test_leaks_stop_training_and_are_taken_out_of_a_copy(layout: Path) -> None:
    easy = json.loads((layout / "mis_easy.json").read_text())

    def leak(rows: list[dict]) -> None:
        paths = [easy[1]["image_path1"], easy[1]["image_path2"]]
        turns = [
            {"from": "human", "value": f"<image><image>{easy[1]['question']}"},
            {"from": "gpt", "value": REASONING},
        ]
        rows.insert(3, {"id": "leak", "image": paths, "conversations": turns, "category": "Hate"})

    change(layout / "mis_train.json", leak)
    before = (layout / "mis_train.json").read_bytes()
    result = mis_check(layout / "mis_train.json", "--against", layout / "mis_easy.json", "--remove", "--json")
    assert result.exit_code == 1
    found = [finding for finding in json.loads(result.stdout)["findings"] if finding["kind"] == "leakage"]
    assert [(finding["row"], finding["id"]) for finding in found] == [(4, "leak")]
    assert "mis_easy.json, row 2" in found[0]["message"]
    assert (layout / "mis_train.json").read_bytes() == before
    cleaned = layout / "mis_train.clean.json"
    assert [row["id"] for row in json.loads(cleaned.read_text())] == [f"train-{number}" for number in range(6)]
    assert mis_check(cleaned, "--against", layout / "mis_easy.json").exit_code == 0


def test_what_cannot_be_written_again_is_refused_with_the_way_to_do_it(tmp_path: Path) -> None:
    published.vlguard(tmp_path / "set")
    draw_picture(tmp_path / "set" / "train" / "bad_ads" / "2.png", "dog", "noto", 1)  # of two rows
    result = mis_check(tmp_path / "set", "--duplicates", "--remove")
    assert result.exit_code == 2
    assert "found VLGuard as it is published; export it (mis export --input " in " ".join(result.stderr.split())
    told = json.loads(mis_check(tmp_path / "set", "--duplicates", "--json").stdout)["findings"]
    assert {found["fix"].split()[0] for found in told if found["kind"] == "near-duplicate"} == {"export"}
    export = ["export", "--input", str(tmp_path / "set"), "--format", "jsonl", "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(app, export).exit_code == 0
    mis_check(tmp_path / "out" / "vlguard.jsonl", "--duplicates", "--remove")
    assert (tmp_path / "out" / "vlguard.clean.jsonl").is_file()


def test_rows_of_a_csv_file_are_not_taken_out(layout: Path) -> None:
    published.put_table(layout, "data.csv", [{"id": "a", "question": "What is it?", "image": "train/0_1.jpg"}])
    result = mis_check(layout / "data.csv", "--duplicates", "--remove")
    assert (result.exit_code, "found data.csv; export it" in " ".join(result.stderr.split())) == (2, True)


def test_near_duplicates_within_a_set_are_a_warning(layout: Path) -> None:
    def repeat(rows: list[dict]) -> None:
        rows.append(
            {
                **rows[0],
                "id": 9,
                "question": rows[0]["question"].replace("thing", "object").replace("on the", "upon the"),
            }
        )

    change(layout / "mis_easy.json", repeat)
    assert json.loads(mis_check(layout / "mis_easy.json", "--json").stdout)["findings"] == []
    result = mis_check(layout / "mis_easy.json", "--duplicates", "--json")
    assert result.exit_code == 0
    assert [(found["kind"], found["row"]) for found in json.loads(result.stdout)["findings"]] == [("near-duplicate", 5)]


# ---------------------------------------------------------------- mixtures, published sets


def test_a_mixture_prints_composition_and_overlap_and_is_written(layout: Path, tmp_path: Path) -> None:
    others = [
        {
            "id": f"g{n}",
            "question": f"What is it, {n}?",
            "images": ["train/0_1.jpg"],
            "answer": f"Thing {n}.",
            "harmful": False,
        }
        for n in range(4)
    ]
    (layout / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    args = (
        layout / "mis_train.json",
        "--mixture",
        "mirage",
        "--general",
        layout / "general.jsonl",
        "--against",
        layout / "mis_easy.json",
    )
    result = mis_check(*args, "--json", "--output", tmp_path / "mixed")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    (arm,) = found["composition"]
    assert (arm["rows"], arm["harmful"], arm["general"]) == (7, 6, 1)
    assert [(overlap["test"], overlap["leaks"]) for overlap in found["overlaps"]] == [("mis_easy.json", 0)]
    assert preflight(tmp_path / "mixed").ready
    shown = mis_check(*args).stdout
    assert "14.3%" in shown
    assert "Rows that resemble a test row" in shown


def test_training_data_that_stands_alone_has_no_tests_to_overlap(layout: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    shutil.copytree(layout / "train", lone / "train")
    shutil.copy(layout / "mis_train.json", lone / "mine.json")
    result = mis_check(lone / "mine.json", "--mixture", "mirage_star")
    assert result.exit_code == 0, result.stderr
    assert "name them with --against" in result.stdout


def test_a_published_set_can_be_mixed(tmp_path: Path) -> None:
    published.vlguard(tmp_path)
    result = mis_check(tmp_path, "--mixture", "vlguard_p", "--set", "rows=2", "--json")
    assert result.exit_code in (0, 1), result.stderr  # its drawn miniature shows the same few pictures in both splits
    found = json.loads(result.stdout)
    assert found["recipe"]["name"] == "vlguard_p"
    assert found["composition"][0]["rows"] == 2
    assert [overlap["test"] for overlap in found["overlaps"]] == ["test"]


def test_a_mixture_that_leaks_has_status_1(layout: Path) -> None:
    result = mis_check(
        layout / "mis_train.json", "--mixture", "mirage_star", "--against", layout / "mis_train.json", "--json"
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["overlaps"][0]["leaks"] == 6


def test_test_splits_of_a_published_folder_are_found(layout: Path) -> None:
    result = mis_check(layout, "--mixture", "mirage_star", "--json")
    assert result.exit_code == 0, result.stderr
    assert [overlap["test"] for overlap in json.loads(result.stdout)["overlaps"]] == ["easy", "hard", "real"]


def test_a_published_set_is_read_by_its_own_loader_and_its_errors_told(tmp_path: Path) -> None:
    published.vlguard(tmp_path)
    report = preflight(tmp_path)
    assert report.rows > 0
    assert not [found for found in report.findings if found.kind in (Kind.MALFORMED, Kind.MISSING_IMAGE)]
    image = next((tmp_path / "train").rglob("*.*"))
    image.unlink()
    told = [found for found in preflight(tmp_path).findings if found.kind is Kind.MALFORMED]
    assert told
    assert told[0].row > 0
    assert image.name in told[0].message


def test_hub_tells_how_to_fetch_every_set_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = mis_check("hub:", "--json")
    told = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(told) == set(LOADERS)
    assert all(entry["fetch"] and entry["licence"] and entry["source"] for entry in told.values())
    assert "Tuwhy/MIS_Train" in mis_check("hub:mis").stdout
    assert list(tmp_path.iterdir()) == []
