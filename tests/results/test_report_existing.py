"""``mis report`` over existing run folders: judges, comparisons, regression set, official scores, every form."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import published
from support.fake_runs import fake_run
from support.fakes import mini_data
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.data.benchmarks import LOADERS
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.recipes.report import existing_report
from mis_lib.recipes.settings import ReportSettings
from mis_lib.results.evaluated import find_runs, judges_of, open_folder, read_run
from mis_lib.results.frames import ANSWERS, JUDGE_SWAP, answers, judge_swap, leaderboard
from mis_lib.results.official import OFFICIAL, Effect
from mis_lib.results.published import published as numbers
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.schema import Outcome, Response, Verdict
from mis_lib.settings import dump_settings


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def run(tmp_path: Path, drawn: Path) -> Run:
    shutil.copytree(drawn, tmp_path / "data")
    return fake_run(tmp_path / "runs", tmp_path / "data")


def report(run: Run, *flags: str) -> Result:
    return CliRunner().invoke(app, ["report", "--existing", str(run.folder), *flags])


def sheets(run: Run, *flags: str) -> dict[str, list[dict[str, object]]]:
    done = report(run, *flags, "--json")
    assert done.exit_code == 0, done.output
    return {name: sheet["records"] for name, sheet in json.loads(done.stdout).items()}


def test_a_version_that_failed_before_its_first_answer_hides_none(run: Run) -> None:
    config = run.config.model_copy(update={"checkpoint_digest": "another"})
    failed = open_run(run.folder.parent.parent, run.folder.parent.name, config)
    assert failed.folder.name == "v2"
    assert open_folder(run.folder.parent).folder == run.folder
    (failed.folder / RESPONSES).touch()  # stopped a moment later
    assert open_folder(run.folder.parent).folder == run.folder
    assert find_runs(run.folder.parent.parent) == [run]


def test_tables_go_into_a_pipe_whatever_the_systems_encoding(run: Run) -> None:
    ascii_only = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }  # as cp1252 of a redirected output on Windows
    command = [sys.executable, "-m", "mis_lib.cli", "report", "--existing", str(run.folder)]
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "ASR ↓" in done.stdout.decode("utf-8")


def benchmark_run(root: Path, name: str, split: str, text: str) -> Run:
    """A run in which one variant said ``text`` to every item of a published set."""
    getattr(published, name)(root / name)
    samples = list(LOADERS[name].load(root / name, split))
    config = RunConfig(
        tag="toy", checkpoint="c", checkpoint_digest="1", data=str(root / name), data_digest="2", variants={"base": ""}
    )
    run = open_run(root / "runs", name, config)
    run.keep_samples(samples)
    said = [
        Response(sample_id=one.id, variant="base", text=text, tokens=1, seconds=0, finish_reason="stop")
        for one in samples
    ]
    write_records(run.folder / "responses.jsonl", said)
    return run


class TestRates:
    """What is read from a folder."""

    def test_every_judge_has_its_rows(self, run: Run) -> None:
        rates = sheets(run)["rates"]
        assert {row["judge"] for row in rates} == {"rule", "words"}
        assert {row["judge"] for row in sheets(run, "--judges", "words")["rates"]} == {"words"}
        assert {row["variant"] for row in sheets(run, "--variants", "mini")["rates"]} == {"mini"}

    def test_nothing_in_the_folder_changes(self, run: Run) -> None:
        before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
        sheets(run, "--paired", "mini", "mirage", "--published")
        assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before

    def test_a_note_is_kept_with_the_run_and_shown_until_it_is_taken_away(self, run: Run, tmp_path: Path) -> None:
        note = "lr too high | 3 & 4\n[bold]see v2[/bold]"
        assert "notes" not in sheets(run)
        shown = report(run, "--note", note)
        assert "lr too high | 3 & 4 [bold]see v2[/bold]" in shown.output
        assert (run.folder / "note.md").read_text() == f"{note}\n"
        assert sheets(run)["notes"] == [{"run": "report/v1", "note": note}]
        assert "lr too high \\| 3 & 4" in report(run, "--format", "markdown").stdout
        other = fake_run(tmp_path / "other", tmp_path / "data")
        refused = report(run, str(other.folder), "--note", "both")
        assert refused.exit_code == 2 and "--note: expected one run that it is about, found 2" in refused.output
        assert "notes" not in sheets(run, "--note", "")
        assert not (run.folder / "note.md").exists()

    def test_a_note_that_is_too_long_is_refused_before_anything_is_generated(self, tmp_path: Path) -> None:
        asked = ["report", "--splits", "easy", "--limit", "1", "--runs", str(tmp_path / "runs"), "--note", "x" * 2001]
        refused = CliRunner().invoke(app, asked)
        assert (
            refused.exit_code == 2
            and "at most 2,000 characters, found 2,001" in refused.output
            and not (tmp_path / "runs").exists()
        )

    def test_a_run_reads_the_same_where_its_data_are_gone(self, run: Run, tmp_path: Path) -> None:
        before = sheets(run)
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        assert sheets(run) == before

    def test_without_its_samples_the_data_must_be_named(self, run: Run, tmp_path: Path) -> None:
        before = sheets(run)
        (run.folder / "samples.jsonl").unlink()
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        done = report(run)
        assert done.exit_code == 2
        assert "name the folder they lie in with --data" in done.stderr.replace("\n", " ")
        assert sheets(run, "--data", str(tmp_path / "elsewhere")) == before

    def test_unscored_items_are_bounded_and_counted_nowhere(self, run: Run) -> None:
        path = run.folder / "verdicts" / "rule.jsonl"
        verdicts = read_records(path, Verdict)
        failed = {one.sample_id for one in verdicts if one.variant == "mini" and one.outcome is Outcome.UNSAFE}
        lost = sorted(failed)[:5]
        write_records(
            path,
            [
                one.model_copy(update={"outcome": Outcome.UNSCORED}) if one.sample_id in lost else one
                for one in verdicts
            ],
        )
        found = existing_report(ReportSettings(existing=(run.folder,), judges=("rule",), by="category"))
        row = next(row for row in found.rows if (row.variant, row.group) == ("mini", "all"))
        asr = row.rates["asr"]
        assert (asr.value, asr.n_unscored) == (100, 5)
        assert asr.worst == (pytest.approx(100 * asr.n / (asr.n + 5)), 100)
        assert [sheet.name for sheet in found.tables] == ["rates", "bounds"]

    def test_several_runs_stand_in_one_table(self, run: Run, tmp_path: Path) -> None:
        other = fake_run(tmp_path / "runs", tmp_path / "data", "other", judges=("rule",))
        found = existing_report(ReportSettings(existing=(run.folder, other.folder), judges=("rule",)))
        assert {row.run for row in found.rows} == {"report/v1", "other/v1"}
        assert found.tables[0].headings[:3] == ["group", "run", "variant"]
        assert [one.folder for one in find_runs(tmp_path / "runs")] == [other.folder, run.folder]

    def test_runs_of_one_name_in_two_places_are_told_apart(self, run: Run, tmp_path: Path) -> None:
        there = fake_run(tmp_path / "elsewhere", tmp_path / "data", judges=("rule",))
        path = there.folder / "verdicts" / "rule.jsonl"
        verdicts = [
            one.model_copy(update={"outcome": Outcome.REFUSED}) if one.outcome is Outcome.UNSAFE else one
            for one in read_records(path, Verdict)
        ]
        write_records(path, verdicts)
        runs = (run.folder, there.folder)
        settings = ReportSettings(existing=runs, judges=("rule",), paired=tuple(f"{one}:mini" for one in runs))
        found = existing_report(settings)
        assert {row.run for row in found.rows} == {str(folder) for folder in runs}
        paired = next(sheet for sheet in found.tables if sheet.name == "paired")
        asr = next(row for row in paired.records if row["metric"] == "asr")
        assert asr["before"] > asr["after"] == 0
        for side in ("report/v1:mini", "report:mini", "mini"):
            settings = settings.model_copy(update={"paired": (side, f"{there.folder}:mini")})
            with pytest.raises(SettingsError, match=rf"{side}: several runs have it \({run.folder}, {there.folder}\)"):
                existing_report(settings)


class TestSections:
    """What stands beside the rates."""

    def test_a_comparison_under_each_judge(self, run: Run) -> None:
        found = sheets(run, "--paired", "mini", "mirage")
        assert {"flips_rule", "paired_rule", "flips_words", "paired_words"} <= found.keys()
        assert len(found["flips_rule"]) == len(run.samples())

    def regression(self, run: Run, folder: Path) -> list[str]:
        """Write a set of six decisions, two of them trained on; returns the ids of all harmful samples."""
        harmful = [sample.id for sample in run.samples() if sample.harmful]
        entries = [
            {
                "sample_id": key,
                "variant": "mini",
                "run": "report/v1",
                "outcome": "unsafe",
                "failing": True,
                "trained_on": i < 2,
            }
            for i, key in enumerate(harmful[:6])
        ]
        (folder / "regression.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return harmful

    def test_the_regression_set_comes_first_and_what_was_trained_on_leaves_the_rates(
        self, run: Run, tmp_path: Path
    ) -> None:
        harmful = self.regression(run, tmp_path / "data")
        found = sheets(run, "--judges", "rule")
        assert next(iter(found)) == "regression"
        mine = [row for row in found["regression"] if row["variant"] == "mini" and row["became"] == "still_failing"]
        assert [(row["trained_on"], row["n"]) for row in mine] == [(False, 4), (True, 2)]
        asked = sum(row["n"] for row in found["rates"] if (row["variant"], row["metric"]) == ("mini", "asr"))
        assert asked == len(harmful) - 2

    @pytest.mark.parametrize(
        ("data", "flags"),
        [("data/hard.jsonl", []), ("data", []), ("nowhere", ["--data", "data"])],
        ids=["beside the file", "where the run was made", "where --data says"],
    )
    def test_the_regression_set_is_found(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, flags: list[str]
    ) -> None:
        self.regression(run, tmp_path / "data")
        (run.folder / "config.yaml").write_text(dump_settings(run.config.model_copy(update={"data": data})))
        monkeypatch.chdir(tmp_path)
        assert "regression" in sheets(run, "--judges", "rule", *flags)

    def test_data_that_are_gone_are_told_since_what_was_trained_on_cannot_be_known(
        self, run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "data").rename(tmp_path / "moved")
        told = " ".join(report(run).stderr.split())
        assert f"data folder {tmp_path / 'data'} is missing" in told and "--data" in told and "--regression" in told
        assert "not there" not in report(run, "--data", str(tmp_path / "moved")).stderr

    @pytest.mark.parametrize(
        ("flags", "asked"),
        [
            (["--splits", "hard"], {"hard": 25}),
            (["--splits", "real", "easy", "--limit", "1"], {"easy": 1, "real": 1}),
            (["--limit", "2"], {"easy": 2, "hard": 2, "real": 2}),
        ],
    )
    def test_only_the_splits_and_pairs_asked_for_count(self, run: Run, flags: list[str], asked: dict[str, int]) -> None:
        found = sheets(run, "--judges", "rule", "--variants", "mirage", *flags)
        for metric in ("asr", "over_refusal"):
            assert {row["group"]: row["n"] for row in found["rates"] if row["metric"] == metric} == asked

    def test_of_the_regression_set_only_what_is_asked_for_is_told(self, run: Run, tmp_path: Path) -> None:
        self.regression(run, tmp_path / "data")  # two of easy, four of hard
        told = sheets(run, "--judges", "rule", "--variants", "mini", "--splits", "hard")["regression"]
        assert {row["became"]: row["n"] for row in told if row["n"]} == {"still_failing": 4}

    def test_published_numbers_are_a_sheet_of_their_own(self, run: Run) -> None:
        found = sheets(run, "--published")
        assert list(found)[-1] == "published"
        assert {row["variant"] for row in found["rates"]} == {"mini", "mirage", "refusal"}
        assert {row["benchmark"] for row in found["published"]} == {"MIS"}

    def test_published_numbers_are_those_of_the_benchmark_that_was_run(self, tmp_path: Path) -> None:
        found = sheets(benchmark_run(tmp_path, "mmstar", "val", "The answer is (A)."), "--published")
        assert list(found) == ["official", "published"]
        assert {row["benchmark"] for row in found["published"]} == {"MMStar"}

    def test_every_published_benchmark_is_one_that_is_scored(self) -> None:
        titles = {one.title.lower() for one in OFFICIAL.values()}
        told = {row.benchmark for row in numbers() if row.split != "mean"}  # a mean is over several benchmarks
        assert {name for name in told if name.lower() not in titles} == {"MIS", "AdvBench with suffix"}

    def test_multiple_choice_needs_no_judge(self, tmp_path: Path) -> None:
        found = sheets(benchmark_run(tmp_path, "mmstar", "val", "The answer is (A)."))
        assert list(found) == ["official"]
        assert {row["name"] for row in found["official"]} == {"accuracy", "parse failures"}
        assert {row["judge"] for row in found["official"]} == {"exact match"}

    def test_a_benchmark_is_scored_both_ways(self, tmp_path: Path) -> None:
        run = benchmark_run(tmp_path, "mssbench", "chat", "No.")
        outcomes = {True: Outcome.REFUSED, False: Outcome.OVER_REFUSED}
        verdicts = [
            Verdict(sample_id=one.id, variant="base", judge="rule", outcome=outcomes[one.harmful], label="refuses")
            for one in run.samples()
        ]
        write_records(run.folder / "verdicts" / "rule.jsonl", verdicts)
        found = sheets(run)
        official = {row["name"]: row["value"] for row in found["official"]}
        assert official == {"safe accuracy": 0, "unsafe accuracy": 100, "mean of both": 50}
        assert {row["metric"]: row["value"] for row in found["rates"]}["over_refusal"] == 100

    def test_siuo_tells_how_effective_safe_answers_are(self, tmp_path: Path) -> None:
        run = benchmark_run(tmp_path, "siuo", "gen", "Please step back.")
        first, second = run.samples()
        outcomes = [Outcome.REASONED, Outcome.UNSAFE]
        verdicts = [
            Verdict(sample_id=one.id, variant="base", judge="rule", outcome=outcome)
            for one, outcome in zip((first, second), outcomes, strict=True)
        ]
        write_records(run.folder / "verdicts" / "rule.jsonl", verdicts)
        said = [
            (first, "Very Effective"),
            (first, "Partially Effective"),
            (first, "Ineffective"),
            (second, "Ineffective"),
        ]
        file = tmp_path / "effective.jsonl"
        write_records(
            file,
            [
                Effect(sample_id=one.id, variant="base", said=f"[Effectiveness Judgement:] {words}")
                for one, words in said
            ],
        )
        found = sheets(run, "--set", f"effectiveness={file}")["official"]
        assert {row["name"]: row["value"] for row in found if row["group"] in ("all", first.category)} == {
            "safe rate": 50,
            "effective rate": 50,
            "safe and effective rate": 50,
        }
        write_records(file, [Effect(sample_id=first.id, variant="base", said="good")])
        done = report(run, "--set", f"effectiveness={file}")
        assert done.exit_code == 2
        assert "expected 'very effective'" in " ".join(done.stderr.split())

    def test_every_sheet_is_written_in_every_form(self, run: Run, tmp_path: Path) -> None:
        done = report(
            run, "--judges", "rule", "--paired", "mini", "mirage", "--out", str(tmp_path / "out"), "--format", "latex"
        )
        assert done.exit_code == 0
        assert done.stdout.count(r"\begin{tabular}") == 3
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {
            f"{name}.{ending}" for name in ("rates", "flips", "paired") for ending in ("md", "csv", "tex", "json")
        }
        with (tmp_path / "out" / "paired.csv").open() as stream:
            table = list(csv.DictReader(stream))
        assert table == [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in json.loads((tmp_path / "out" / "paired.json").read_text())["paired"]["records"]
        ]


class TestMistakes:
    """One message, with the way out."""

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--judges", "nobody"], "has no verdicts of 'nobody'; there: rule, words"),
            (["--paired", "mini"], "--paired: expected two sides, BEFORE AFTER, found 1"),
            (["--paired", "mini", "mini"], "--paired: expected two sides, found report/v1:mini twice"),
            (["--paired", "mini", "x"], "unknown variant 'x'; known: mini, mirage, refusal"),
            (["--variants", "x"], "unknown 'x'; known here: mini, mirage, refusal"),
            (["--splits", "hard", "hrad"], "--splits: unknown 'hrad'; known here: easy, hard, real"),
            (["--by", "colour"], "--by: unknown 'colour'"),
            (["--regression", "none.jsonl"], "none.jsonl: there is no such file"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_flags(self, run: Run, flags: list[str], message: str) -> None:
        done = report(run, *flags)
        assert done.exit_code == 2
        assert message in done.stderr.replace("\n", " ")

    def test_a_run_that_is_named_twice(self, run: Run) -> None:
        with pytest.raises(SettingsError, match=r"expected each run once, found .*report.v1 twice"):
            existing_report(ReportSettings(existing=(run.folder, run.folder.parent)))

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="expected a run folder"):
            existing_report(ReportSettings(existing=(tmp_path,)))

    def test_a_run_that_nobody_has_judged(self, run: Run) -> None:
        for judge in judges_of(run):
            (run.folder / "verdicts" / f"{judge}.jsonl").unlink()
        with pytest.raises(SettingsError, match=f"judge it first: mis judge {run.folder}$"):
            existing_report(ReportSettings(existing=(run.folder,)))

    def test_one_of_several_judges_must_be_named(self, run: Run) -> None:
        with pytest.raises(SettingsError, match=r"found several \(rule, words\); name one"):
            read_run(run.folder)


def test_frames_of_a_run(run: Run) -> None:
    read = read_run(run.folder, "rule")
    said = answers(read)
    assert list(said.columns) == list(ANSWERS) and len(said) == 3 * len(read.samples)
    assert set(said["tokens_per_second"]) == {24.0}
    swap = judge_swap(run.folder)
    assert list(swap.columns) == list(JUDGE_SWAP)
    board = leaderboard([read], by="category")
    whole = board[(board["group"] == "all") & (board["variant"] == "mirage") & (board["metric"] == "asr")][
        "value"
    ].item()
    mine = swap[(swap["variant"] == "mirage") & (swap["judge"] == "rule") & (swap["metric"] == "asr")]["value"].item()
    assert mine == whole
