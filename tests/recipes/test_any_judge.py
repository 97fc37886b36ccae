"""Any judge, everywhere: rows as MIS publishes them (no objects, no twins), under a judge on a server."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.mis_layout import write_mis
from support.tiny import tiny_checkpoint
from typer.testing import CliRunner

from benchmarks.loopback import Fault, LoopbackJudge, asked_text
from mis_lib.cli.main import app
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_jsonl
from mis_lib.recipes.dpo import pairs_of
from mis_lib.recipes.judge import verdicts_of
from mis_lib.recipes.raft import train_raft
from mis_lib.recipes.samples import read_split
from mis_lib.recipes.study import StudySettings, study
from mis_lib.recipes.train import train_by
from mis_lib.schema import Outcome, Response
from mis_lib.settings import GenerationSettings
from mis_lib.train.settings import DpoSettings, RaftSettings, TrainSettings

SAFE = json.dumps({"reasoning": "scripted", "perception": 2, "verdict": "Safe"})
UNSAFE = json.dumps({"reasoning": "scripted", "perception": 2, "verdict": "Unsafe"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint, and MIS in miniature: two images a row, nothing said about them."""
    folder = tmp_path_factory.mktemp("any_judge")
    tiny_checkpoint(folder / "toy")
    write_mis(folder / "mis")
    return folder


@pytest.fixture
def server() -> Iterator[LoopbackJudge]:
    """A judge that calls answers to questions of an odd number unsafe."""

    def grade(body) -> str:
        question = json.loads(asked_text(body).rpartition("```json\n")[2].partition("\n```")[0])["question"]
        number = int("".join(filter(str.isdigit, question)) or 0)
        return UNSAFE if number % 2 else SAFE

    with LoopbackJudge(reply=grade) as running:
        yield running


def raft(home: Path, runs: Path, **more: object) -> RaftSettings:
    basic = {"model": str(home / "toy"), "data": home / "mis", "runs": runs, "name": "raft", "device": "cpu"}
    small = {"answers": 2, "prompts": None, "max_new_tokens": 4, "batch_size": 2, "max_steps": 1}
    return RaftSettings(**{**basic, **small, **more})


def learned(plain: TrainSettings) -> Path:
    """Stands for a training: what a toy says is no text to train on."""
    (plain.runs / plain.name / "v1").mkdir(parents=True, exist_ok=True)
    return plain.runs / plain.name / "v1"


class TestRaft:
    def test_a_judge_on_a_server_ranks_the_answers_to_rows_without_truth(
        self, home: Path, tmp_path: Path, server: LoopbackJudge
    ) -> None:
        run = train_raft(raft(home, tmp_path, judge=f"rubric={server.url}#m"), learned)
        (told,) = json.loads((run / "raft.json").read_text())["rounds"]
        assert told["outcomes"] == {"refused": 3, "unsafe": 3}
        assert (told["kept"], told["unscored_answers"]) == (3, 0)
        kept = read_jsonl(tmp_path / "raft-kept-1" / "train.jsonl")
        assert {row["id"] for row in kept} == {"mis-train-train-0", "mis-train-train-2", "mis-train-train-4"}
        (file,) = (tmp_path / "raft-answers-1").glob("v*/verdicts/rubric.jsonl")
        assert len(list(read_jsonl(file))) == 12, "verdicts are kept with the answers, so that none is paid for twice"
        asked = server.answered
        train_raft(raft(home, tmp_path, judge=f"rubric={server.url}#m"), learned)
        assert server.answered == asked

    def test_the_rule_judge_is_refused_before_anything_is_answered(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"judge: expected a judge that can .*none of 6 rows.*judge=rubric=URL"):
            train_by(raft(home, tmp_path))
        assert not (tmp_path / "raft-answers-1").exists()

    def test_a_judge_that_is_none_is_refused_by_name(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"judge 'oracle': expected \[NAME:\]KIND"):
            train_by(raft(home, tmp_path, judge="oracle"))
        with pytest.raises(SettingsError, match="rubric needs a model, as rubric=URL#MODEL"):
            train_by(raft(home, tmp_path, judge="rubric"))

    def test_a_file_of_mis_judge_names_a_panel(self, home: Path, tmp_path: Path, server: LoopbackJudge) -> None:
        file = tmp_path / "judges.yaml"
        one = {"kind": "rubric", "target": f"{server.url}#m"}
        file.write_text(
            json.dumps({"judges": {"a": one, "b": one | {"seed": 1}, "both": {"kind": "panel", "target": "a,b"}}})
        )
        run = train_raft(raft(home, tmp_path, judge=str(file)), learned)
        assert json.loads((run / "raft.json").read_text())["rounds"][0]["kept"] == 3
        (file,) = (tmp_path / "raft-answers-1").glob("v*/verdicts/*.jsonl")
        assert file.stem == "both"


def dpo(home: Path, runs: Path, **more: object) -> DpoSettings:
    basic = {"model": str(home / "toy"), "data": home / "mis", "runs": runs, "name": "dpo", "device": "cpu"}
    return DpoSettings(**{**basic, "batch_size": 2, "max_steps": 1, **more})


class TestDpo:
    def test_own_unsafe_answers_are_rejected_for_the_answers_of_the_data(
        self, home: Path, tmp_path: Path, server: LoopbackJudge
    ) -> None:
        settings = dpo(home, tmp_path, judge=f"rubric={server.url}#m")
        pairs, _ = pairs_of(settings)
        assert [pair.sample.id for pair in pairs] == ["mis-train-train-1", "mis-train-train-3", "mis-train-train-5"]
        own = {
            row["sample_id"]: row["text"]
            for file in (tmp_path / "dpo-answers").glob("v*/responses.jsonl")
            for row in read_jsonl(file)
        }
        assert len(own) == 6
        for pair in pairs:
            assert pair.chosen == pair.sample.answer and pair.rejected == own[pair.sample.id]
            assert pair.provenance == {"rejected": "own"}
        run = train_by(settings)
        assert json.loads((run / "result.json").read_text())["rejected"] == {"own": 3}

    def test_rows_without_an_answer_prefer_an_own_safe_draw(self, home: Path, tmp_path: Path) -> None:
        """The judge calls every second answer safe, so that most items have one of each kind."""
        turns = iter(range(10_000))
        with LoopbackJudge(reply=lambda body: (SAFE, UNSAFE)[next(turns) % 2]) as server:
            settings = dpo(home, tmp_path, split="hard", judge=f"rubric={server.url}#m", answers=4)
            pairs, _ = pairs_of(settings)
        verdicts = {
            row["sample_id"]: row["outcome"]
            for file in (tmp_path / "dpo-answers").glob("v*/verdicts/rubric.jsonl")
            for row in read_jsonl(file)
        }
        texts = {
            (row["sample_id"].partition("#")[0], verdicts[row["sample_id"]], row["text"])
            for file in (tmp_path / "dpo-answers").glob("v*/responses.jsonl")
            for row in read_jsonl(file)
        }
        assert pairs and set(verdicts.values()) == {"refused", "unsafe"}
        for pair in pairs:
            assert (pair.sample.id, "refused", pair.chosen) in texts
            assert (pair.sample.id, "unsafe", pair.rejected) in texts
            assert pair.provenance == {"rejected": "own", "chosen": "own"}

    def test_without_twins_the_rule_judge_is_refused_and_the_setting_named(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"judge: expected a judge that can .*judge=rubric=URL#MODEL"):
            pairs_of(dpo(home, tmp_path))
        with pytest.raises(DataError, match=r"their twins, found none among 6 samples.*rejected=own"):
            pairs_of(dpo(home, tmp_path, rejected="constructed"))

    def test_a_judge_that_finds_nothing_unsafe_leaves_no_pair(self, home: Path, tmp_path: Path) -> None:
        with (
            LoopbackJudge(reply=lambda body: SAFE) as server,
            pytest.raises(DataError, match=r"found none among 6 samples; draw more \(answers\).*another judge"),
        ):
            pairs_of(dpo(home, tmp_path, judge=f"rubric={server.url}#m"))


class TestEvaluationDuringTraining:
    def settings(self, home: Path, runs: Path, judge: str, **more: object) -> TrainSettings:
        basic = {"model": str(home / "toy"), "data": home / "mis", "runs": runs, "name": "sft", "device": "cpu"}
        evaluation = {"every": 1, "data": home / "mis", "judge": judge, "max_new_tokens": 4}
        return TrainSettings(**{**basic, "batch_size": 2, "max_steps": 2, "evaluation": evaluation, **more})

    def test_a_judge_on_a_server_rules_while_training_goes_on(
        self, home: Path, tmp_path: Path, server: LoopbackJudge
    ) -> None:
        lines: list[dict] = []
        train_by(self.settings(home, tmp_path, f"rubric={server.url}#m"), lines.append)
        found = [line["eval"]["asr"] for line in lines if "eval" in line]
        assert [(asr["n"], asr["n_unscored"], asr["value"]) for asr in found] == [(4, 0, 0.0)] * 2
        assert server.answered, "the questions have no number, so that all is safe"

    def test_a_server_that_fails_leaves_answers_unscored_and_does_not_end_the_training(
        self, home: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "judges.yaml"
        with LoopbackJudge(fault=lambda key, seen: Fault.FAIL) as server:
            one = {"kind": "rubric", "target": f"{server.url}#m"}
            file.write_text(json.dumps({"judges": {"rubric": one}, "retries": 0}))
            lines: list[dict] = []
            run = train_by(self.settings(home, tmp_path, str(file)), lines.append)
        found = [line["eval"]["asr"] for line in lines if "eval" in line]
        assert [(asr["n"], asr["n_unscored"]) for asr in found] == [(0, 4)] * 2
        assert json.loads((run / "result.json").read_text())["finished"]

    def test_a_judge_that_cannot_be_asked_at_all_leaves_answers_unscored(self, home: Path, tmp_path: Path) -> None:
        samples = read_split(home / "mis", "hard")
        answers = [
            Response(sample_id=one.id, variant="v", text="No.", tokens=1, seconds=0, finish_reason="stop")
            for one in samples
        ]
        with LoopbackJudge() as server:
            file = tmp_path / "judges.yaml"
            one = {"kind": "rubric", "target": server.url}
            file.write_text(json.dumps({"judges": {"rubric": one}, "retries": 0}))
        found = verdicts_of([str(file)], samples, answers, home / "mis", tmp_path / "asked")
        assert [(one.outcome, one.judge) for one in found] == [(Outcome.UNSCORED, "rubric")] * 4
        assert "the judge cannot be asked" in found[0].reason and server.url in found[0].reason

    def test_the_rule_judge_is_refused_before_training(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"evaluation\.judge: expected a judge that can .*evaluation\.judge=rubric"):
            train_by(self.settings(home, tmp_path, "rule"))
        assert not (tmp_path / "sft" / "v1" / "train_log.jsonl").exists()


@pytest.fixture
def toy(home: Path, tmp_path: Path) -> list[str]:
    """The flags of every verb that asks: the toy on MIS's layout, its answers short."""
    place = ["--checkpoint", str(home / "toy"), "--data", str(home / "mis"), "--runs", str(tmp_path)]
    return [*place, "--set", "generation.max_new_tokens=4", "--json"]


def told(verb: str, *flags: str) -> Any:
    """What a verb prints for programs, where all went well."""
    done = CliRunner().invoke(app, [*verb.split(), *flags])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


class TestMeasuring:
    @pytest.mark.parametrize(
        ("verb", "flag"),
        [("report", "--judges"), ("ablate", "--set judge="), ("analyse formats", "--set judge=")],
    )
    def test_the_rule_judge_is_refused_before_anything_is_answered(
        self, toy: list[str], tmp_path: Path, verb: str, flag: str
    ) -> None:
        done = CliRunner().invoke(app, [*verb.split(), *toy, "--limit", "2"])
        assert done.exit_code == 2
        assert "found rule" in done.stderr and f"as in {flag}" in done.stderr.replace("\n", " ")
        assert not list(tmp_path.glob("*/v*/responses.jsonl"))

    def test_a_report_by_a_judge_on_a_server(self, toy: list[str], server: LoopbackJudge) -> None:
        rows = told("report", *toy, "--splits", "hard", "--judges", f"rubric={server.url}#m")["rates"]["records"]
        (asr,) = [row for row in rows if row["metric"] == "asr"]
        assert (asr["judge"], asr["n"], asr["n_unscored"], asr["value"]) == ("rubric", 4, 0, 0.0)

    def test_an_ablation_asks_the_judge_about_the_item_itself(self, toy: list[str], server: LoopbackJudge) -> None:
        flags = ["--splits", "hard", "--limit", "1", "--states", "black", "dropped"]
        rows = told("ablate", *toy, *flags, "--judge", f"rubric={server.url}#m")["conditions"]["records"]
        declines = {row["condition"]: (row["value"], row["n"]) for row in rows if row["measure"] == "declines"}
        assert declines["black-all"] == declines["dropped-all"] == (100, 1)
        pictures = {len(picture_parts(body)) for body in server.bodies}
        assert pictures == {2}, "the judge sees what the item shows, whatever the model was shown"

    def test_formats_of_rows_without_twins(self, toy: list[str], server: LoopbackJudge) -> None:
        flags = ["--splits", "hard", "--limit", "2", "--formats", "question", "code"]
        rows = told("analyse formats", *toy, *flags, "--judge", f"rubric={server.url}#m")["formats"]
        asr = {row["format"]: (row["n"], row["n_unscored"], row["value"]) for row in rows if row["metric"] == "asr"}
        assert asr == {"question": (2, 0, 0.0), "code": (2, 0, 0.0)}

    def test_a_study_by_a_judge_on_a_server(self, home: Path, tmp_path: Path, server: LoopbackJudge) -> None:
        train = {"model": str(home / "toy"), "data": home / "mis", "max_steps": 1, "batch_size": 2, "device": "cpu"}
        basic = {"rows": 4, "splits": ("hard",), "naming": None, "runs": tmp_path, "train": TrainSettings(**train)}
        small = {**basic, "generation": GenerationSettings(max_new_tokens=4)}
        with pytest.raises(DataError, match=r"judge: .*found rule"):
            study(StudySettings(arms=("dpo",), **small))
        found = study(StudySettings(arms=("dpo",), judge=f"rubric={server.url}#m", **small))
        assert found.failed == {}
        asr = {entry.arm: entry.rate for entry in found.entries if (entry.group, entry.metric) == ("hard", "asr")}
        assert {arm: (rate.n, rate.n_unscored) for arm, rate in asr.items()} == {"base": (4, 0), "dpo": (4, 0)}


class TestDelta:
    def test_a_judge_decides_where_people_have_not(
        self, home: Path, toy: list[str], tmp_path: Path, server: LoopbackJudge
    ) -> None:
        told("generate", *toy, "--splits", "train", "--name", "asked")
        place = ["--runs", str(tmp_path), "--run", "asked/v1", "--judge", f"rubric={server.url}#m", "--json"]
        made = told("annotations delta", *place)
        rows = list(read_jsonl(Path(made["folder"]) / "train.jsonl"))
        assert {row["id"] for row in rows} == {f"mis-train-train-{number}" for number in (1, 3, 5)}
        assert all(row["provenance"]["author"] == "judge rubric" for row in rows)
        assert (made["rows"], made["failing"], made["targets"]) == (3, 3, {"reference": 3})
        assert told("annotations delta", *place)["folder"] == made["folder"], "the same verdicts, the same version"
        done = CliRunner().invoke(app, ["annotations", "delta", "--runs", str(tmp_path), "--judge", "rule"])
        assert done.exit_code == 2 and "--judge: expected one run" in done.stderr
        done = CliRunner().invoke(app, ["annotations", "delta", *place[:4], "--judge", "rule"])
        assert done.exit_code == 2 and "found rule" in done.stderr


def picture_parts(body: Mapping[str, Any]) -> list[Any]:
    """The images of a request."""
    parts = [
        part for message in body["messages"] for part in message["content"] if isinstance(message["content"], list)
    ]
    return [part for part in parts if part["type"] == "image_url"]
