"""From nothing to the table, for free the second time: run folders, the report verb and its forms, on a toy model."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from benchmarks.loopback import LoopbackJudge
from mis_lib.cli import console
from mis_lib.cli.main import app
from mis_lib.construct.drawings import STYLES, is_distinct
from mis_lib.construct.labels import perceive
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import read_jsonl, read_records
from mis_lib.judge.protocol import JudgeInput, Ruling, unscored
from mis_lib.judge.rule import RuleJudge
from mis_lib.recipes import report as command
from mis_lib.recipes.report import evaluate, existing_report
from mis_lib.recipes.settings import ReportSettings
from mis_lib.results.metrics import RateRow
from mis_lib.results.naming import ONE, TWO, is_right, naming_samples, naming_table
from mis_lib.results.report_tables import rates_table, rich_rates
from mis_lib.results.runs import RunConfig, folder_digest, open_run, versions
from mis_lib.results.scoring import score_run
from mis_lib.results.stats import rate
from mis_lib.results.tables import render, rich_tables
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import GenerationSettings, TableFormat
from mis_lib.text.concepts import concepts

VARIANTS = ("base", "one")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy checkpoint, an adapter and a small data set."""
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    tiny_adapter(folder / "toy", folder / "one", 1)
    mini_data(folder / "data")
    return folder


def settings(home: Path, runs: Path, **more: object) -> ReportSettings:
    return ReportSettings(
        **{
            "variants": VARIANTS,
            "splits": ("easy", "hard"),
            "data": home / "data",
            "checkpoint": home / "toy",
            "adapters": {"base": None, "one": home / "one"},
            "generation": GenerationSettings(max_new_tokens=6),
            "limit": 3,
            "runs": runs,
            **more,
        }
    )


@pytest.fixture(scope="module")
def evaluated(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportSettings, command.Evaluation]:
    asked = settings(home, tmp_path_factory.mktemp("runs"))
    return asked, evaluate(asked)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestEvaluate:
    """What a report leaves on disk and what a second one does."""

    def test_every_sample_is_answered_and_judged_by_every_variant(self, evaluated) -> None:
        _, evaluation = evaluated
        assert len(evaluation.samples) == 2 * 2 + 3 * 2  # easy holds two pairs, hard is limited to three
        assert len(evaluation.responses) == len(evaluation.verdicts) == 2 * len(evaluation.samples)
        assert {verdict.judge for verdict in evaluation.verdicts} == {"rule"}

    def test_run_folder_holds_what_the_design_promises(self, evaluated) -> None:
        _, evaluation = evaluated
        assert sorted(content(evaluation.run.folder)) == [
            "config.yaml",
            "environment.json",
            "responses.jsonl",
            "samples.jsonl",
            "verdicts/rule.jsonl",
        ]
        environment = json.loads((evaluation.run.folder / "environment.json").read_text())
        assert {"mis", "python", "packages", "device", "git", "data_digest", "seed"} <= environment.keys()
        config = yaml.safe_load((evaluation.run.folder / "config.yaml").read_text())
        assert config["generation"]["max_new_tokens"] == 6
        assert config["tag"] == "toy"

    def test_second_report_loads_no_model_and_changes_no_byte(self, home, evaluated, monkeypatch) -> None:
        asked, evaluation = evaluated
        before = content(evaluation.run.folder)
        monkeypatch.setitem(__import__("sys").modules, "mis_lib.models.load", None)  # an import of it would now fail
        again = evaluate(asked)
        assert again == evaluation
        assert content(evaluation.run.folder) == before

    def test_further_variants_and_splits_join_the_run(self, home, tmp_path) -> None:
        first = evaluate(settings(home, tmp_path, variants=("base",), splits=("easy",)))
        second = evaluate(settings(home, tmp_path, variants=("one", "base"), splits=("easy", "real")))
        assert second.run == first.run
        assert set(first.responses) <= set(second.responses)
        assert list(second.run.config.variants) == ["base", "one"]
        assert [run.folder.name for run in versions(tmp_path, "report")] == ["v1"]

    @pytest.mark.parametrize(
        "change",
        [{"generation": GenerationSettings(max_new_tokens=5)}, {"batch_size": 2}],
        ids=["other settings", "other batches"],
    )
    def test_other_settings_open_the_next_version(self, home, tmp_path, change: dict[str, object]) -> None:
        few = {"variants": ("base",), "splits": ("easy",)}
        first = evaluate(settings(home, tmp_path, **few))
        before = content(first.run.folder)
        second = evaluate(settings(home, tmp_path, **few, **change))
        assert second.run.folder.name == "v2"
        assert content(first.run.folder) == before
        assert evaluate(settings(home, tmp_path, **few)).run == first.run

    def test_a_retrained_adapter_opens_the_next_version(self, home, tmp_path) -> None:
        few = {"variants": ("one",), "splits": ("easy",)}
        evaluate(settings(home, tmp_path, **few))
        other = tiny_adapter(home / "toy", tmp_path / "other", 5)
        assert evaluate(settings(home, tmp_path, **few, adapters={"one": other})).run.folder.name == "v2"

    def test_interrupted_run_ends_as_an_undisturbed_one(self, home, tmp_path, evaluated) -> None:
        asked, evaluation = evaluated
        cut = evaluate(asked.model_copy(update={"runs": tmp_path}))
        path = cut.run.folder / "responses.jsonl"
        path.write_bytes(path.read_bytes()[:700])
        (cut.run.folder / "verdicts" / "rule.jsonl").unlink()
        resumed = evaluate(asked.model_copy(update={"runs": tmp_path}))
        assert [(r.sample_id, r.variant, r.text) for r in resumed.responses] == [
            (r.sample_id, r.variant, r.text) for r in evaluation.responses
        ]
        assert resumed.verdicts == evaluation.verdicts

    def test_changed_judge_judges_anew(self, home, tmp_path) -> None:
        asked = settings(home, tmp_path, variants=("base",), splits=("easy",))
        run = evaluate(asked).run
        samples = read_records(home / "data" / "easy.jsonl", Sample)

        class Another(RuleJudge):
            fingerprint = "another"

            async def decide(self, case: JudgeInput) -> Ruling:
                return unscored("cannot tell")

        assert {v.outcome for v in score_run(run, [Another()], samples)["rule"]} == {Outcome.UNSCORED}
        assert Outcome.UNSCORED not in {v.outcome for v in score_run(run, [RuleJudge()], samples)["rule"]}


class TestMistakes:
    """Refused before anything is built or loaded, with the way out."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"variants": ("base", "two")}, r"--variants: unknown 'two'; known here: base, one"),
            ({"variants": ("base", "base")}, r"--variants: expected each"),
            ({"variants": ()}, r"--variants: expected each"),
            ({"by": "colour"}, r"--by: unknown 'colour'; known here: split, category, sub_category"),
            ({"styles": ("oil",)}, r"--styles: unknown 'oil'"),
            ({"limit": 0}, r"'limit': Input should be greater than or equal to 1, found 0"),
            ({"name": "../x"}, r"run name '../x'"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_settings(self, home, tmp_path, change: dict[str, object], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            command.report(settings(home, tmp_path, **change))

    def test_split(self, home, tmp_path) -> None:
        with pytest.raises(DataError, match=r"split 'hrad'.*splits there: easy, hard, real"):
            evaluate(settings(home, tmp_path, splits=("hrad",)))

    def test_missing_adapter_file(self, home, tmp_path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ModelError, match="variant 'one'"):
            evaluate(settings(home, tmp_path / "runs", adapters={"base": None, "one": tmp_path / "empty"}))


class TestForms:
    """All forms show the same numbers, each with n and interval."""

    ROWS = (
        RateRow(
            variant="mini", group="easy", rates={"asr": rate(9, 10, 2), "over_refusal": rate(0, 10), "pair": rate(0, 0)}
        ),
        RateRow(
            variant="m_1", group="easy", rates={"asr": rate(0, 12), "over_refusal": rate(1, 10), "pair": rate(5, 10)}
        ),
    )

    def test_markdown(self) -> None:
        lines = render([rates_table(self.ROWS, "T [mini]", tag="mini")], TableFormat.MARKDOWN).splitlines()
        assert lines[0].startswith("**T [mini]**")
        assert lines[2] == "| group | variant | ASR ↓ | n | over-refusal ↓ | n | pair score ↑ | n |"
        assert lines[4] == "| easy | mini | 90.0 (59.6-98.2) | 10 + 2 | 0.0 (0.0-27.8) | 10 | - | 0 |"

    def test_csv_and_json_are_the_same_records(self) -> None:
        table = list(csv.DictReader(io.StringIO(render([rates_table(self.ROWS, "T", tag="mini")], TableFormat.CSV))))
        records = json.loads(render([rates_table(self.ROWS, "T", tag="mini")], TableFormat.JSON))["rates"]["records"]
        assert len(table) == len(records) == 6
        assert table[0] == {key: "" if value is None else str(value) for key, value in records[0].items()}
        assert (table[0]["metric"], table[0]["value"], table[0]["n"], table[0]["n_unscored"]) == (
            "asr",
            "90.0",
            "10",
            "2",
        )

    def test_latex_is_escaped(self) -> None:
        text = render([rates_table(self.ROWS, "T 95 %", tag="mini")], TableFormat.LATEX)
        assert r"easy & m\_1 & 0.0 (0.0-24.2) & 12" in text
        assert r"ASR $\downarrow$" in text
        assert r"T 95 \%" in text

    def test_terminal_has_lines_only_where_there_are_items(self) -> None:
        everyday = RateRow(
            variant="mini", group="everyday", rates={"asr": rate(0, 0), "over_refusal": rate(1, 9), "pair": rate(0, 0)}
        )
        failed = RateRow(
            variant="mini",
            group="all failed",
            rates={"asr": rate(0, 0, 3), "over_refusal": rate(0, 0), "pair": rate(0, 0)},
        )
        with console.out.capture() as shown:
            console.out.print(rich_rates((*self.ROWS, everyday, failed), "T"))
        harmful, rest = shown.get().split("benign items")
        benign, both = rest.split("both")
        assert ("everyday" in harmful, "everyday" in benign, "everyday" in both) == (False, True, False)
        assert ("all failed" in harmful, "all failed" in benign) == (True, False)
        with console.out.capture() as shown:
            console.out.print(rich_rates((everyday,), "T"))
        assert "harmful items" not in shown.get()

    def test_a_narrow_terminal_cuts_no_figure(self) -> None:
        narrow = Console(width=44)
        with narrow.capture() as shown:
            narrow.print(rich_rates(self.ROWS, "T"), rich_tables([rates_table(self.ROWS, "T")]))
        assert "…" not in shown.get()

    def test_terminal(self, home, tmp_path, monkeypatch, capsys) -> None:
        found = command.report(settings(home, tmp_path, variants=("base",), splits=("easy",)))
        with console.out.capture() as shown:
            console.out.print(rich_rates(found.rows, found.title))
        assert "[toy]" in shown.get()
        assert (tmp_path / "report" / "v1" / "metrics.json").exists()

    def test_group_by_category_has_a_total(self, evaluated) -> None:
        _, evaluation = evaluated
        rows = existing_report(ReportSettings(existing=(evaluation.run.folder,), by="category")).rows
        assert [(row.group, row.variant) for row in rows][-2:] == [("all", "base"), ("all", "one")]

    def test_by_what_is_seen_no_sides_are_compared(self, home, tmp_path) -> None:
        with pytest.raises(SettingsError, match=r"--by seen: expected no --paired.*compare by split, category"):
            command.report(settings(home, tmp_path, by="seen", paired=("base", "one")))


class TestVerb:
    """``mis report`` from a shell."""

    def test_config_file_flags_and_json(self, home, tmp_path) -> None:
        asked = settings(home, tmp_path / "runs")
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(json.loads(asked.model_dump_json())))
        flags = ["--variants", "base", "--splits", "easy", "--set", "limit=1", "--json"]
        done = CliRunner().invoke(app, ["report", "--config", str(tmp_path / "run.yaml"), *flags])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)["rates"]["records"]
        assert {(row["tag"], row["variant"], row["group"]) for row in found} == {("toy", "base", "easy")}
        assert next(row for row in found if row["metric"] == "asr")["n"] == 1

    def test_an_adapter_is_evaluated_beside_its_base(self, home, tmp_path) -> None:
        flags = [
            "--checkpoint",
            home / "toy",
            "--adapters",
            f"mine={home / 'one'}",
            "--data",
            home / "data",
            "--runs",
            tmp_path,
        ]
        some = ["--splits", "easy", "--limit", "1", "--set", "generation.max_new_tokens=4", "--json"]
        done = CliRunner().invoke(app, ["report", *map(str, flags), *some])
        assert done.exit_code == 0, done.output
        assert {row["variant"] for row in json.loads(done.stdout)["rates"]["records"]} == {"base", "mine"}

    def test_what_the_rule_judge_cannot_tell_is_refused_and_another_judge_rules(self, home, tmp_path) -> None:
        sample = next(iter(read_jsonl(home / "data" / "easy.jsonl")))
        own = tmp_path / "own.jsonl"
        own.write_text(json.dumps({key: sample[key] for key in ("id", "question", "images", "harmful")}) + "\n")
        for name in sample["images"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home / "data" / name, tmp_path / name)
        flags = ["--checkpoint", str(home / "toy"), "--data", str(own), "--runs", str(tmp_path / "runs"), "--json"]
        done = CliRunner().invoke(app, ["report", *flags, "--set", "generation.max_new_tokens=4"])
        assert done.exit_code == 2, done.output
        assert "found rule" in done.stderr and "as in --judges rubric=URL#MODEL" in done.stderr.replace("\n", " ")
        with LoopbackJudge() as server:
            ruled = ["report", *flags, "--set", "generation.max_new_tokens=4", "--judges", f"rubric={server.url}#m"]
            done = CliRunner().invoke(app, ruled)
        assert done.exit_code == 0, done.output
        (row,) = [one for one in json.loads(done.stdout)["rates"]["records"] if one["metric"] == "asr"]
        assert (row["judge"], row["n"]) == ("rubric", 1)

    def test_adapters_that_are_none_are_one_message(self) -> None:
        done = CliRunner().invoke(app, ["report", "--set", "adapters=3"])
        assert done.exit_code == 2, done.output
        assert "setting 'adapters'" in done.stderr

    def test_mistake_is_one_message(self, tmp_path) -> None:
        done = CliRunner().invoke(app, ["report", "--variants", "nobody", "--runs", str(tmp_path)])
        assert done.exit_code == 2
        assert "--variants: unknown 'nobody'; known here: mini" in done.stderr.replace("\n", " ")


class TestNaming:
    """Which concepts are named, by style and number of images."""

    def test_samples_cover_every_concept_in_every_style(self) -> None:
        samples = naming_samples()
        singles = [sample for sample in samples if sample.category == ONE]
        asked = {(sample.split, *(sample.objects or ())) for sample in singles}
        assert asked == {(style, name) for style in STYLES for name in concepts() if is_distinct(name, style)}
        pairs = [sample for sample in samples if sample.category == TWO]
        for style in STYLES:
            shown = [name for sample in pairs if sample.split == style for name in sample.objects or ()]
            assert all(is_distinct(name, style) for name in shown)
            untold = sum(not is_distinct(name, style) for name in concepts())
            assert len(concepts()) - 2 * untold <= len(shown) / 2 <= len(concepts()) - untold
        assert len({sample.id for sample in samples}) == len(samples) == len(singles) + len(pairs)

    @pytest.mark.parametrize(
        ("text", "right"),
        [
            ("The first image shows a candle and the second image shows an apple.", True),
            ("An apple, then a candle.", False),
            ("A candle.", False),
            ("a candle, a fruit", False),
            ("", False),
        ],
    )
    def test_a_pair_is_named_in_order(self, text: str, right: bool) -> None:
        assert is_right(text, ["candle", "apple"]) is right

    def test_table(self) -> None:
        samples = [sample for sample in naming_samples(["noto"], 4) if sample.category in (ONE, TWO)]
        said = [
            Response(
                sample_id=sample.id,
                variant="v",
                text=perceive(sample.objects or []),
                tokens=1,
                seconds=0,
                finish_reason="stop",
            )
            for sample in samples[1:]
        ]
        rows = naming_table(samples, said)
        assert [
            (row.group, row.rates["named"].value, row.rates["named"].n, row.rates["named"].n_unscored) for row in rows
        ] == [
            ("noto, one image", 100, 3, 1),
            ("noto, two images", 100, 4, 0),
        ]


def test_digest_follows_content_not_names_of_folders(tmp_path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("c" if name == "c" else "same")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b") != folder_digest(tmp_path / "c")
    with pytest.raises(DataError):
        folder_digest(tmp_path / "none")


def test_half_made_version_is_no_run(tmp_path) -> None:
    (tmp_path / "r" / "v1").mkdir(parents=True)
    config = RunConfig(tag="t", checkpoint="c", checkpoint_digest="1", data="d", data_digest="2", variants={"base": ""})
    assert versions(tmp_path, "r") == []
    assert open_run(tmp_path, "r", config).folder.name == "v2"
    assert open_run(tmp_path, "r", config).folder.name == "v2"
