"""Labels that people gave in another tool become decisions on a run's responses: none is guessed, none is doubled.

pytest tests/annotate/test_labels_elsewhere.py
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.annotated import answered_run
from support.fakes import mini_data
from typer.testing import CliRunner, Result

from mis_lib.annotate.store import AnnotationStore
from mis_lib.cli.main import app
from mis_lib.schema import Outcome

ADA = {"sample_id": "hard-00", "variant": "mini", "annotator": "ada", "outcome": "unsafe"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return answered_run(tmp_path / "runs", mini_data(tmp_path / "data")).folder.parent.parent


def take_in(runs: Path, rows: list[dict[str, Any]], *more: str, name: str = "labels.csv") -> Result:
    file = runs.parent / name
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(json.dumps(rows), encoding="utf-8")
    where = ["--input", str(file), "--runs", str(runs), "--run", "report/v1"]
    return CliRunner().invoke(app, ["annotations", "import", *where, *more])


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_label_studios_flat_exports_are_read(runs: Path, name: str) -> None:
    """Its ``id`` counts tasks: the sample's id is in the data that the task carried."""
    rows = [
        {
            "id": 71,
            "annotation_id": 9,
            "created_at": "2026-01-31T12:00:00.5Z",
            "lead_time": "4.2",
            "comment": "why",
            **ADA,
        },
        {**ADA, "id": 72, "sample_id": "hard-00-twin", "annotator": "eve@lab.org", "outcome": "Over-refused"},
        {**ADA, "id": 73, "outcome": ""},
    ]
    done = take_in(runs, rows, name=name)
    assert done.exit_code == 0, done.output
    assert "1 rows hold neither an outcome nor a comment" in " ".join(done.stderr.split())
    first, second = AnnotationStore(root=runs).events()
    assert (first.author, first.decision.outcome, first.decision.comment) == ("ada", Outcome.UNSAFE, "why")
    assert first.at == "2026-01-31T12:00:00.500000+00:00" and first.subject.response
    assert (second.author, second.decision.outcome) == ("eve@lab.org", Outcome.OVER_REFUSED)
    agreed = CliRunner().invoke(app, ["annotations", "agreement", "--runs", str(runs)])
    assert agreed.exit_code == 0, agreed.output


def annotation(by: object, outcome: str, at: str, **more: Any) -> dict[str, Any]:
    """As Label Studio's JSON export has it, with another control beside the outcome."""
    results = [
        {"from_name": "severity", "to_name": "text", "type": "choices", "value": {"choices": ["high"]}},
        {"from_name": "outcome", "to_name": "text", "type": "choices", "value": {"choices": [outcome]}},
        {"from_name": "why", "to_name": "text", "type": "textarea", "value": {"text": ["seen", "twice"]}},
    ]
    return {
        "id": 5,
        "completed_by": by,
        "result": results,
        "created_at": at,
        "updated_at": at,
        "was_cancelled": False,
        **more,
    }


def test_label_studios_json_export_is_read_annotation_by_annotation(runs: Path) -> None:
    one, two = "2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z"
    data = {"sample_id": "hard-00", "variant": "mini", "text": "..."}
    given = [
        annotation(3, "unsafe", one),
        annotation({"id": 4, "email": "eve@lab.org"}, "reasoned", two),
        annotation(5, "unsafe", two, was_cancelled=True),
    ]
    done = take_in(runs, [{"id": 71, "data": data, "annotations": given, "predictions": []}], name="labels.json")
    assert done.exit_code == 0, done.output
    assert "1 rows hold neither an outcome nor a comment" in " ".join(done.stderr.split())
    first, second = AnnotationStore(root=runs).events()
    assert (first.author, first.decision.outcome, first.decision.comment) == ("3", Outcome.UNSAFE, "seen\ntwice")
    assert (second.author, second.decision.outcome, second.subject.variant) == ("eve@lab.org", Outcome.REASONED, "mini")
    both = annotation(
        3, "unsafe", one, result=[*annotation(3, "unsafe", one)["result"], *annotation(3, "refused", one)["result"]]
    )
    done = take_in(runs, [{"id": 71, "data": data, "annotations": [both]}], name="labels.json")
    assert done.exit_code == 2 and "row 1: field 'outcome': expected one outcome" in " ".join(done.stderr.split())
    done = take_in(runs, [{"id": 71, "data": {"text": "..."}, "annotations": given}], name="labels.json")
    assert done.exit_code == 2 and "field 'sample_id': expected the id of a sample" in " ".join(done.stderr.split())


@pytest.mark.parametrize("later_first", [False, True])
def test_a_label_that_was_changed_where_it_was_given_is_the_one_that_stands(runs: Path, later_first: bool) -> None:
    """Label Studio keeps ``created_at`` when somebody changes an annotation."""
    given = {**ADA, "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z"}
    changed = {**given, "outcome": "refused", "updated_at": "2026-01-31T13:00:00Z"}
    for row in (changed, given) if later_first else (given, changed):
        assert take_in(runs, [row]).exit_code == 0
    (event,) = AnnotationStore(root=runs).current()
    assert event.decision.outcome == Outcome.REFUSED


def test_corrected_answers_come_along_and_become_training_data(runs: Path) -> None:
    text = "These come to harm together, so I would rather not."
    corrected = {"from_name": "corrected", "to_name": "text", "type": "textarea", "value": {"text": [text]}}
    given = annotation("ada", "unsafe", "2026-01-31T12:00:00Z")
    given["result"].append(corrected)
    data = {"sample_id": "hard-00", "variant": "mini"}
    assert take_in(runs, [{"id": 1, "data": data, "annotations": [given]}], name="labels.json").exit_code == 0
    assert take_in(runs, [{**ADA, "variant": "mirage", "corrected": text}]).exit_code == 0
    decisions = [event.decision for event in AnnotationStore(root=runs).events()]
    assert [(one.corrected, one.comment) for one in decisions] == [(text, "seen\ntwice"), (text, "")]
    done = take_in(runs, [{**ADA, "corrected": "a" * 100_000}])
    assert done.exit_code == 2 and "row 1: field 'corrected': expected at most" in " ".join(done.stderr.split())


def test_a_file_that_has_grown_is_read_again_and_nothing_is_doubled(runs: Path) -> None:
    assert take_in(runs, [ADA]).exit_code == 0
    done = take_in(runs, [ADA, {**ADA, "annotator": "eve"}], "--json")
    assert json.loads(done.stdout)["added"] == 1
    assert [event.author for event in AnnotationStore(root=runs).events()] == ["ada", "eve"]


def test_one_author_for_all(runs: Path) -> None:
    rows = [{key: value for key, value in ADA.items() if key != "annotator"}]
    assert take_in(runs, rows, "--author", "grace").exit_code == 0
    (event,) = AnnotationStore(root=runs).events()
    assert event.author == "grace"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sample_id": "hard-99"},
            "row 2: field 'sample_id': expected the id of a sample of the run, found str 'hard-99'",
        ),
        (
            {"variant": ""},
            "row 2: field 'variant': expected a variant that answered 'hard-00' (mini, mirage), found str ''",
        ),
        ({"annotator": ""}, "row 2: field 'author': expected who gave the label"),
        ({"outcome": "bad"}, "row 2: field 'outcome': expected an outcome of a harmful sample (unsafe, reasoned,"),
        ({"outcome": "helped"}, "row 2: field 'outcome': expected an outcome of a harmful sample (unsafe, reasoned,"),
        ({"created_at": "2026-01-31 12:00"}, "add the zone"),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_nothing_is_taken_in(
    runs: Path, change: dict[str, str], message: str
) -> None:
    done = take_in(runs, [ADA, {**ADA, **change}])
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
    assert not AnnotationStore(root=runs).events()


def test_an_author_without_a_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["annotations", "import", "--input", str(tmp_path / "a.csv"), "--author", "ada"])
    assert done.exit_code == 2 and "--author goes with --run" in done.stderr
