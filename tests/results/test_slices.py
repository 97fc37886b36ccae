"""Named slices of the items in a report: every form of file, and nothing left out without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.fake_runs import fake_run
from support.fakes import mini_data
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.errors import DataError
from mis_lib.results.evaluated import read_run
from mis_lib.results.frames import leaderboard
from mis_lib.results.runs import Run
from mis_lib.results.slices import read_slices


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("slices")
    return fake_run(root / "runs", mini_data(root / "data"))


def report(run: Run, by: Path | str, *flags: str) -> Result:
    return CliRunner().invoke(
        app, ["report", "--existing", str(run.folder), "--judges", "rule", "--by", str(by), *flags]
    )


def sheets(run: Run, by: Path | str, *flags: str) -> dict[str, Any]:
    done = report(run, by, *flags, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def ids_of(run: Run) -> list[str]:
    return [sample.id for sample in run.samples()]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


class TestForms:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("people.csv", "id,people\na,two\nb,one\nc,two\nd,\n"),
            ("people.tsv", "sample_id\tpeople\na\ttwo\nb\tone\nc\ttwo\n"),
            (
                "people.jsonl",
                '{"id": "a", "people": ["two"]}\n{"id": "b", "people": "one"}\n{"id": "c", "people": "two"}\n',
            ),
            ("people.json", '{"two": ["a", "c"], "one": ["b"]}'),
            ("people.json", '{\n "a": "two", "b": "one",\n "c": ["two"], "d": null\n}'.replace('["two"]', '"two"')),
            (
                "people.json",
                '[{"id": "a", "people": "two"}, {"id": "b", "people": "one"}, {"id": "c", "people": "two"}]',
            ),
            (
                "people.json",
                '{"id": "a", "people": "two"}\n{"id": "b", "people": "one"}\n{"id": "c", "people": "two"}\n',
            ),
        ],
    )
    def test_all_say_the_same(self, tmp_path: Path, name: str, text: str) -> None:
        found = read_slices(str(written(tmp_path / name, text)))
        assert (found.name, found.rest) == ("people", "no people")
        assert found.ids == {"two": {"a", "c"}, "one": {"b"}}

    def test_one_of_several_columns_is_named(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.jsonl", '{"id": 7, "n": 2, "dark": true}\n{"id": 8, "n": 2.5, "dark": false}\n')
        assert read_slices(f"{file}#n").ids == {"2": {"7"}, "2.5": {"8"}}
        assert read_slices(f"{file}#dark").ids == {"true": {"7"}, "false": {"8"}}
        hashed = written(tmp_path / "a#b.csv", "id,n\nx,1\n")
        assert read_slices(str(hashed)).ids == read_slices(f"{hashed}#n").ids == {"1": {"x"}}

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.csv", "id,n,m\nx,1,2\n", r"one column beside the id, found n, m; name one as .*a.csv#COLUMN"),
            ("a.csv", "name,n\nx,1\n", "expected one column beside the id, found name, n"),
            ("a.csv", "id\nx\n", "expected one column beside the id, found none"),
            ("a.csv", "id,n\n", "found none"),
            ("a.csv", "id,n\nx,all\n", "cannot be called 'all'"),
            ("a.csv", "id,n\nx,no n\n", "cannot be called 'no n'"),
            ("a.jsonl", '{"id": "x", "n": {"a": 1}}\n', "row 1: field 'n': expected the name of a slice"),
            ("a.jsonl", '{"id": "x", "n": 1}\n{"n": 1}\n', "row 2: field 'id': expected the id of an item"),
            ("a.jsonl", '{"id": "x", "n"', "expected a readable record"),
            ("a.json", '{"two": ["a"], "b": "one"}', "found both"),
            ("a.json", '{"two": [["a"]]}', "slice 'two': expected ids"),
            ("a.json", "{}", "expected slices, found none"),
        ],
    )
    def test_a_file_that_names_none_is_refused(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_slices(str(written(tmp_path / name, text)))

    def test_a_file_or_column_that_is_not_there_is_refused_before_anything_is_read(
        self, run: Run, tmp_path: Path
    ) -> None:
        file = written(tmp_path / "a.csv", "id,n\nx,1\n")
        for by, message in ((f"{file}#m", "expected a column 'm', found n"), (tmp_path / "none.csv", "No such file")):
            done = report(run, by)
            assert done.exit_code == 2 and message in " ".join(done.output.split())
        assert "a file of slices" in " ".join(report(run, "colour").output.split())


class TestReport:
    def test_rates_of_slices_that_overlap_and_of_the_rest(self, run: Run, tmp_path: Path) -> None:
        ids = ids_of(run)
        file = written(tmp_path / "s.json", json.dumps({"first": ids[:8], "some": ids[4:12], "elsewhere": ["nobody"]}))
        found = sheets(run, file)
        asr = {(row["group"], row["variant"]): row for row in found["rates"]["records"] if row["metric"] == "asr"}
        over = {
            (row["group"], row["variant"]): row for row in found["rates"]["records"] if row["metric"] == "over_refusal"
        }
        groups = list(dict.fromkeys(group for group, _ in asr))
        assert groups == ["first", "some", "no s", "all"]
        counted = {group: asr[group, "mini"]["n"] + over[group, "mini"]["n"] for group in groups}
        assert counted == {"first": 8, "some": 8, "no s": len(ids) - 12, "all": len(ids)}
        told = {one["slice"]: one for one in found["slices"]["records"]}
        assert told["elsewhere"] == {"slice": "elsewhere", "items": 0, "unknown_ids": ["nobody"]}
        assert told["first"]["items"] == 8 and told["first"]["unknown_ids"] == []
        assert told["no s"]["ids"] == [name for name in ids if name not in ids[:12]]

    def test_the_column_heads_the_groups_in_every_table(self, run: Run, tmp_path: Path) -> None:
        rows = "".join(f"{name},{'two' if at % 3 else 'one'}\n" for at, name in enumerate(ids_of(run)[:-1]))
        file = written(tmp_path / "a.csv", f"id,people in it\n{rows}gone,one\n")
        text = report(run, file, "--paired", "mini", "mirage")
        assert text.exit_code == 0, text.output
        said = " ".join(text.output.split())
        assert "Safety and helpfulness by people in it" in said and "no people in it" in said and "gone" in said
        marked = report(run, file, "--paired", "mini", "mirage", "--format", "markdown").output
        assert marked.count("| people in it |") == 3, "of rates, slices and differences"

    def test_the_data_themselves_may_have_the_column(self, run: Run, tmp_path: Path) -> None:
        rows = [{**sample.model_dump(mode="json"), "dark": sample.id > "h"} for sample in run.samples()]
        file = written(tmp_path / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        found = sheets(run, f"{file}#dark")
        assert {row["group"] for row in found["rates"]["records"]} == {"false", "true", "all"}
        assert found["slices"]["records"][-1] == {"slice": "no dark", "items": 0, "ids": []}

    def test_a_file_for_other_data_is_refused(self, run: Run, tmp_path: Path) -> None:
        done = report(run, written(tmp_path / "a.csv", "id,n\nx,1\n"))
        assert done.exit_code == 2 and "found others (such as 'x'); is it the file for these data?" in " ".join(
            done.output.split()
        )

    def test_a_leaderboard_takes_them(self, run: Run, tmp_path: Path) -> None:
        ids = ids_of(run)
        file = written(tmp_path / "s.json", json.dumps({"first": ids[:8]}))
        board = leaderboard([read_run(run.folder, "rule")], by=read_slices(str(file)))
        assert list(dict.fromkeys(board["group"])) == ["first", "no s", "all"]
