"""People's decisions in an old database: read, carried on, exported, taken in and made into training data."""

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import access
import pytest
from artefacts import DATA, lines, tree


def test_an_old_database_is_read_whole(work: Path, golden: Callable[..., None]) -> None:
    golden(
        "annotations/history",
        [
            {**one, "subject": one["subject"]["sample"]["id"], "other": one["other"] and one["other"]["variant"]}
            for one in access.annotation_history(work / "runs")
        ],
    )
    golden("annotations/now", access.annotations_now(work / "runs"))


def test_an_old_database_is_brought_up_to_date_and_loses_nothing(work: Path) -> None:
    """The artefact stands at revision 0001; whatever comes after keeps its events."""
    path = work / "runs/annotations.sqlite"
    with sqlite3.connect(path) as before:
        assert before.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        ids = before.execute("SELECT id FROM events ORDER BY seq").fetchall()
    assert [(one["id"],) for one in access.annotation_history(work / "runs")] == ids
    with sqlite3.connect(path) as after:
        assert len(after.execute("SELECT version_num FROM alembic_version").fetchall()) == 1
    assert len(ids) == 13


def test_people_go_on_in_an_old_database(work: Path) -> None:
    runs, run = work / "runs", access.read_run(work / "runs/mini/v1")
    before = access.annotation_history(runs)
    sample = next(one for one in run["samples"] if one["id"] == "hard-abuse_physical_altercations-010")
    said = next(one["text"] for one in run["responses"] if (one["sample_id"], one["variant"]) == (sample["id"], "mini"))
    access.decide(runs, "ADA", "mini/v1", sample, "mini", said, "refused")
    now = {(one["author"], one["sample_id"], one["variant"]): one["outcome"] for one in access.annotations_now(runs)}
    assert now["ada", sample["id"], "mini"] == "refused", "the same person, and the same response"
    access.undo(runs, "ada")
    history = access.annotation_history(runs)
    assert history[: len(before)] == before and len(history) == len(before) + 2
    now = {(one["author"], one["sample_id"], one["variant"]): one["outcome"] for one in access.annotations_now(runs)}
    assert now["ada", sample["id"], "mini"] == "unsafe"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("kind", ["annotations", "redacted"])
def test_exports_are_those_of_old(work: Path, mis: Callable[..., Any], form: str, kind: str) -> None:
    more = ["--redacted", "--salt", "pinned"] if kind == "redacted" else []
    said = mis("annotations", "export", "--output", f"again.{form}", "--format", form, *more, "--json")
    assert (said.status, said.json) == (0, {"output": f"again.{form}", "events": 13, "redacted": kind == "redacted"})
    if form == "jsonl":
        assert lines(work / "again.jsonl") == lines(DATA / f"{kind}.jsonl")
    else:
        old, new = (
            list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True)))
            for path in (DATA / f"{kind}.csv", work / "again.csv")
        )
        assert new == old


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_old_export_is_taken_in_once(work: Path, mis: Callable[..., Any], form: str) -> None:
    words = ["annotations", "import", "--input", f"annotations.{form}", "--json"]
    known = mis(*words)
    assert (known.status, known.json) == (0, {"input": f"annotations.{form}", "events": 13, "added": 0, "known": 13}), (
        known.err
    )
    fresh = mis(*words, "--runs", "elsewhere")
    assert (fresh.status, fresh.json) == (0, {"input": f"annotations.{form}", "events": 13, "added": 13, "known": 0})
    assert access.annotations_now(work / "elsewhere") == access.annotations_now(work / "runs")


def test_labels_of_another_tool_are_taken_in(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    rows = [
        {"sample_id": one["sample_id"], "variant": one["variant"], "outcome": one["outcome"]}
        for one in lines(work / "runs/imported/v1/verdicts/rule.jsonl")
    ]
    (work / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = mis("annotations", "import", "--input", "labels.jsonl", "--run", "imported/v1", "--author", "hal", "--json")
    golden("annotations/labels", {"status": said.status, "said": said.json})


def test_agreement(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("annotations", "agreement", "--json")
    golden("annotations/agreement", {"status": said.status, "said": said.json})


def test_a_delta_is_made_again_of_the_same_decisions(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    said = mis("annotations", "delta", "--data", "pairs", "--json")
    golden("annotations/delta", {"status": said.status, "said": said.json})
    old = tree(DATA / "runs/deltas/delta/v1")
    both = tree(work / "runs/deltas/delta")
    assert {name: content for name, content in both.items() if name.startswith("v1/")} == {
        f"v1/{name}": content for name, content in old.items()
    }
    assert mis("annotations", "delta", "--data", "pairs", "--json").json == said.json, (
        "of the same decisions comes the same version"
    )
    assert mis("annotations", "delta", "--data", "pairs", "--output", "anew", "--json").status == 0
    new = tree(work / "anew/delta/v1")
    assert new.keys() == old.keys()
    for name in old.keys() - {"delta.json", "regression.jsonl"}:
        assert new[name] == old[name], name
    entries = [json.loads(line) for line in new["regression.jsonl"].splitlines()]
    assert all(entry.pop("judged") for entry in entries), "the stored delta was made before verdicts were kept"
    assert entries == [json.loads(line) for line in old["regression.jsonl"].splitlines()]
    golden("annotations/delta-told", json.loads(new["delta.json"]))


@pytest.mark.parametrize("flags", ["--corrected_only", "--authors ada", "--causes over_refusal", "--run mini/v1"])
def test_a_delta_of_some_decisions(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None], flags: str
) -> None:
    said = mis("annotations", "delta", "--data", "pairs", "--name", "some", *flags.split(), "--json")
    golden(f"annotations/delta{flags.replace(' ', '-').replace('/', '-')}", {"status": said.status, "said": said.json})
