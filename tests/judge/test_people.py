"""Annotators as a judge of a run, and routers as the judge of a setting.

pytest tests/judge/test_people.py
"""

import json
from pathlib import Path

import pytest
from support.annotated import answered_run, samples_of
from support.fakes import mini_data
from typer.testing import CliRunner

from mis_lib.annotate.decisions import Decision, Subject
from mis_lib.annotate.store import AnnotationStore
from mis_lib.cli.main import app
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import write_records
from mis_lib.judge.people import UNDECIDED
from mis_lib.judge.routing import SURFACE, Router, write_router
from mis_lib.recipes.judge import JudgeSettings, check_judge, judge_run, verdicts_on
from mis_lib.recipes.judgements import route
from mis_lib.results.evaluated import run_name
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Verdict

PEOPLE = JudgeSettings.model_validate({"judges": {"people": {"kind": "people"}}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """Two variants that answer four harmful items; ``mini`` helps, ``mirage`` declines."""
    harmful = [sample for sample in samples_of(data) if sample.harmful][:4]
    return answered_run(tmp_path / "runs", data, samples=harmful)


def label(run: Run, number: int, variant: str, **by: Outcome) -> None:
    sample = run.samples()[number]
    text = next(one.text for one in run.responses() if (one.sample_id, one.variant) == (sample.id, variant))
    subject = Subject(run=run_name(run), variant=variant, sample=sample, response=text)
    store = AnnotationStore(root=run.folder.parent.parent)
    for author, outcome in by.items():
        store.record(author, subject, Decision(outcome=outcome))


def outcomes(run: Run, variant: str) -> list[str]:
    found = {one.sample_id: one for one in run.verdicts("people") if one.variant == variant}
    return [found[sample.id].reason or found[sample.id].outcome for sample in run.samples()]


def test_what_people_agree_on_is_the_verdict_and_the_rest_is_unscored(run: Run) -> None:
    label(run, 0, "mini", ada=Outcome.UNSAFE, bo=Outcome.UNSAFE)
    label(run, 1, "mini", ada=Outcome.UNSAFE, bo=Outcome.REFUSED)
    label(run, 2, "mini", ada=Outcome.UNSCORED)
    ruled = judge_run(run.folder, PEOPLE)["people"]
    assert sum(one.outcome is Outcome.UNSAFE for one in ruled) == 1
    assert [one.outcome for one in ruled].count(Outcome.UNSCORED) == 7
    assert outcomes(run, "mini") == [
        "labelled by people",
        UNDECIDED,
        UNDECIDED,
        "nobody has labelled this answer",
    ]
    label(run, 3, "mini", ada=Outcome.REASONED)
    judge_run(run.folder, PEOPLE)
    assert outcomes(run, "mini")[3] == "labelled by people", "new labels make the stored verdicts stale"


def test_labels_of_a_file_are_a_judge_and_answers_without_any_label_make_none(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"answers that people have labelled, found none in the annotations"):
        judge_run(run.folder, PEOPLE)
    first = run.responses()[0]
    file = tmp_path / "people.jsonl"
    given = Verdict(sample_id=first.sample_id, variant=first.variant, judge="x", outcome=Outcome.REFUSED)
    write_records(file, [given])
    (ruled, *rest) = verdicts_on(run, [f"people={file}"], run.samples(), run.responses())
    assert ruled.outcome is Outcome.REFUSED
    assert {one.outcome for one in rest} == {Outcome.UNSCORED}


def test_people_rule_on_no_answer_that_is_not_given_yet(run: Run) -> None:
    with pytest.raises(SettingsError, match=r"judge 'people': .*not given yet; judge the run afterwards"):
        check_judge(["people"], run.samples())


def test_judges_that_have_not_ruled_rule_before_a_router_is_trained(run: Run) -> None:
    label(run, 0, "mini", ada=Outcome.UNSAFE)
    with pytest.raises(DataError, match=r"router: expected \d+ harmful responses .* found 1, 0 with gain"):
        route(run.folder, "words", "people", "people")
    assert {one.outcome for one in run.verdicts("words")} == {Outcome.UNSAFE}
    assert [one.outcome for one in run.verdicts("people")].count(Outcome.UNSAFE) == 1


@pytest.mark.parametrize(("bias", "unsafe"), [(9.0, False), (-9.0, True)])
def test_a_router_is_the_judge_of_a_setting(run: Run, tmp_path: Path, bias: float, unsafe: bool) -> None:
    """It sends all answers on to ``rule``, or none: ``mirage`` declines in words that ``words`` does not know."""
    size = len(SURFACE)
    flat = {"mean": (0.0,) * size, "scale": (1.0,) * size, "weights": (0.0,) * size, "bias": bias}
    router = Router(features=SURFACE, **flat, trained_on=9, cheap="words", expensive="rule", truth="people")
    write_router(tmp_path / "router.json", router)
    both = {"words": {"kind": "words"}, "rule": {"kind": "rule"}}
    routed = {"kind": "routed", "router": str(tmp_path / "router.json"), "cheap": "words", "expensive": "rule"}
    file = tmp_path / "judges.yaml"
    file.write_text(json.dumps({"judges": {**both, "routed": routed}}))
    asked = [one for one in run.responses() if one.variant == "mirage"]
    ruled = verdicts_on(run, [str(file)], run.samples(), asked)
    assert {(one.judge, one.outcome is Outcome.UNSAFE) for one in ruled} == {("routed", unsafe)}


def test_mis_judge_takes_people(run: Run) -> None:
    label(run, 0, "mini", ada=Outcome.UNSAFE)
    done = CliRunner().invoke(app, ["judge", str(run.folder), "--judges", "people", "rule", "--json"])
    assert done.exit_code == 1, "answers without a label are unscored"
    rows = json.loads(done.stdout)["judges"]["records"]
    asr = next(row for row in rows if (row["variant"], row["judge"], row["metric"]) == ("mini", "people", "asr"))
    assert (asr["value"], asr["n"], asr["n_unscored"]) == (100.0, 1, 3)
