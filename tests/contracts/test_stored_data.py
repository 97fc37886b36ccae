"""Data of old code: checked, exported, constructed and gone on with."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from artefacts import DATA, lines, tree

CHECKS = {
    "pairs": "pairs",
    "rows": "rows",
    "file": "pairs/hard.jsonl",
    "stages": "stages",
    "delta": "runs/deltas/delta/v1",
    "duplicates": "pairs --duplicates",
    "against": "rows --against pairs",
    "model": "rows --model tiny --batch_size 2 --lora_rank 4",
    "cut": "rows --model tiny --max_length 40",
    "mixture": "pairs/hard.jsonl --mixture refusal --general pairs/general.jsonl",
    "mixture-set": "rows --mixture mirage --general pairs/general.jsonl --set share=0.5",
    "hub": "hub:",
    "llamafactory": "exports/llamafactory",
    "swift": "exports/swift",
    "trl": "exports/trl",
    "jsonl": "exports/jsonl",
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(whole: Path, mis: Callable[..., Any], golden: Callable[..., None], name: str) -> None:
    said = mis("check", *CHECKS[name].split(), "--json")
    golden(f"check/{name}", {"status": said.status, "said": said.json if said.out else None})


def test_what_is_wrong_with_data_is_found(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    rows = lines(work / "rows/train.jsonl")
    rows[1]["images"] = ["images/nowhere.png"]
    rows[2]["id"] = rows[0]["id"]
    rows[3]["answer"] = ""
    rows[4]["question"] = 7
    (work / "rows/images/cup.png").write_bytes(b"no picture")
    (work / "rows/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "torn')
    said = mis("check", "rows", "--json")
    golden("check/wrong", {"status": said.status, "said": said.json if said.out else None})
    assert said.status in (1, 2)


def test_near_duplicates_are_written_away(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    rows = lines(work / "pairs/hard.jsonl")
    again = [
        {**row, "id": f"{row['id']}-again", "twin_id": None, "question": f"{row['question']} Now?"} for row in rows[:2]
    ]
    (work / "pairs/hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *again]))
    before = tree(work / "pairs").keys()
    said = mis("check", "pairs/hard.jsonl", "--duplicates", "--remove", "--json")
    new = {name: content for name, content in tree(work / "pairs").items() if name not in before}
    golden(
        "check/removed",
        {
            "status": said.status,
            "kept": {name: [json.loads(line)["id"] for line in content.splitlines()] for name, content in new.items()},
        },
    )


def test_a_mixture_is_written_as_it_was(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis(
        "check",
        "rows",
        "--mixture",
        "refusal_only",
        "--general",
        "pairs/general.jsonl",
        "--set",
        "share=0.2",
        "--output",
        "mixed",
        "--json",
    )
    files = (
        {name: sha256(content).hexdigest() for name, content in tree(work / "mixed").items()}
        if (work / "mixed").exists()
        else {}
    )
    golden("check/mixed", {"status": said.status, "files": files})


@pytest.mark.parametrize("form", ["llamafactory", "swift", "trl", "jsonl"])
def test_exports_are_those_of_old(work: Path, mis: Callable[..., Any], golden: Callable[..., None], form: str) -> None:
    said = mis("export", "--input", "rows", "--format", form, "--output", "again", "--json")
    golden(f"export/{form}", {"status": said.status, "said": said.json})
    assert tree(work / "again") == tree(DATA / "exports" / form)


@pytest.mark.parametrize("form", ["llamafactory", "swift", "trl"])
def test_an_export_comes_back(work: Path, mis: Callable[..., Any], golden: Callable[..., None], form: str) -> None:
    said = mis("export", "--input", f"exports/{form}", "--format", "jsonl", "--output", "again", "--json")
    golden(
        f"export/back-{form}",
        {"status": said.status, "rows": lines(work / "again/train.jsonl") if said.status == 0 else None},
    )


def test_images_stay_where_they_are(work: Path, mis: Callable[..., Any]) -> None:
    said = mis(
        "export",
        "--input",
        "pairs",
        "--split",
        "hard",
        "--format",
        "trl",
        "--output",
        "again",
        "--images",
        "keep",
        "--json",
    )
    assert said.status == 0 and not list((work / "again").rglob("*.png"))


# ---------------------------------------------------------------- construct


def stages(mis: Callable[..., Any], out: str, *more: str) -> Any:
    teacher = yaml.safe_load((DATA / "stages/config.yaml").read_text())["teacher"]
    return mis(
        "construct",
        "--source",
        "stages",
        "--out",
        out,
        "--items",
        "2",
        "--teacher",
        teacher,
        "--set",
        "retries=0",
        "--json",
        *more,
    )


def test_a_construction_that_is_done_costs_nothing(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    (work / "stages/stages/.lock").touch()
    before = {name: content for name, content in tree(work / "stages").items() if name != "config.yaml"}
    said = stages(mis, "stages")
    golden("construct/again", {"status": said.status, "said": said.json})
    after = {name: content for name, content in tree(work / "stages").items() if name != "config.yaml"}
    assert after == before


def test_prompts_of_all_stages_find_the_replies_that_were_paid_for(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    """The teacher is gone. What is made anew of the cache alone is the same, byte for byte: prompts, forms, seeds,
    drawings.
    """
    cache = work / "cache-alone/stages"
    cache.mkdir(parents=True)
    shutil.copytree(work / "stages/stages/cache", cache / "cache")
    (cache / ".lock").touch()
    shutil.copy(work / "stages/config.yaml", work / "cache-alone")
    said = stages(mis, "cache-alone")
    golden("construct/from-cache", {"status": said.status, "said": said.json})
    made, kept = without_order(work / "cache-alone"), without_order(DATA / "stages")
    assert made.keys() == kept.keys()
    assert not [name for name in kept if made[name] != kept[name]]


def without_order(folder: Path) -> dict[str, Any]:
    """Files of a construction; a stage's records are kept in the order in which they were done."""
    return {
        name: sorted(content.splitlines()) if name.startswith("stages/") and name.endswith(".jsonl") else content
        for name, content in tree(folder).items()
        if name != "config.yaml"
    }
