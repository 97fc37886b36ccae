"""The Results tab without a browser: drawings follow from the run, links choose it, downloads are complete and safe."""

import csv
import io
import json
import re
import shutil
import time
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pandas as pd
import pytest
from support.fake_runs import VARIANTS, fake_ablation, fake_run, outcome_of
from support.fakes import mini_data, ready_host

from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.results.tables import Table, csv_text
from mis_lib.schema import Outcome, Sample, Verdict
from workbench.gate import GRADIOS
from workbench.html import table
from workbench.links import Link, Tab, resolve_run
from workbench.results import view as results
from workbench.results.evaluations import Evaluations
from workbench.results.tab import ResultsHandlers
from workbench.results.view import CHANGES, ITEM, JUDGES, OVERVIEW, Choice


class Names(SimpleNamespace):
    """Parts that are their own names, so that a handler's update can be read without Gradio."""

    def __getattr__(self, name: str) -> str:
        return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    fake_run(root / "runs", mini_data(root / "mini"))
    return root


@pytest.fixture
def handlers(folder: Path) -> ResultsHandlers:
    host = ready_host(folder / "mini")
    host.runs = folder / "runs"
    return ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]


def figure(update: dict[Any, Any], part: str) -> dict[str, Any]:
    return json.loads(update[part].plot)


def test_the_overview_draws_every_variant_and_says_where_it_is(handlers: ResultsHandlers) -> None:
    update = handlers.opened(Link(tab=Tab.RESULTS))
    assert update["errors"] == ""
    assert {trace["name"] for trace in figure(update, "plane")["data"]} == {"mini", "mirage", "refusal"}
    assert figure(update, "board")["config"]["showSendToCloud"] is False
    assert Link.parse(update["place"]) == Link(tab=Tab.RESULTS, view=OVERVIEW, split="all")
    assert "29" in update["board_table"] and "Wilson" in update["board_table"]


def test_a_note_on_a_run_is_kept_and_stands_under_its_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    host = ready_host(folder / "mini")
    host.runs = tmp_path / "runs"
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    note = "<b>warm-up</b> was 0; the third of three draws, " + "long " * 20
    update = handlers.keep_note("report/v1", note, *Choice(OVERVIEW, runs=["report/v1"]))
    assert f'title="{escape(note.strip())}"' in update["board_table"] and "<b>warm-up" not in update["board_table"]
    assert (tmp_path / "runs/report/v1/note.md").read_text().strip() == note.strip()
    assert f"Kept in {tmp_path}/runs/report/v1/note.md. It stands under the run" in unescape(update["kept"])
    for name, message in ((None, "choose the run"), ("../report/v1", "../report/v1")):
        assert message in handlers.keep_note(name, "no", *Choice(OVERVIEW))["errors"].lower()
    gone = handlers.keep_note("report/v1", " ", *Choice(OVERVIEW, runs=["report/v1"]))
    assert "mis-note" not in gone["board_table"] and "report/v1 has no note now" in gone["kept"]
    assert handlers.chosen(*Choice(OVERVIEW, runs=["report/v1"]))["kept"] == "", (
        "the message goes with the next drawing"
    )


def test_a_note_on_a_run_that_the_table_does_not_show_is_said_to_be_kept(folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copytree(folder / "runs/report/v1", tmp_path / f"runs/report/v{number}")
    host = ready_host(folder / "mini")
    host.runs = tmp_path / "runs"
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    update = handlers.keep_note("report/v2", "another draw", *Choice(OVERVIEW, runs=["report/v1"]))
    assert "another draw" not in update["board_table"]
    assert f"Kept in {tmp_path}/runs/report/v2/note.md." in update["kept"]
    assert "no line of report/v2" in update["kept"]
    assert "Kept in" in handlers.keep_note("report/v2", "another", *Choice(CHANGES, run="report/v1"))["kept"]


def test_a_link_and_the_choices_it_comes_from_draw_the_same(handlers: ResultsHandlers) -> None:
    first = handlers.chosen(
        *Choice(CHANGES, run="report/v1", judge="words", before="refusal", after="mini", by="category")
    )
    again = handlers.opened(Link.parse(first["place"]))
    assert first["flips"] == again["flips"] and figure(first, "heatmap") == figure(again, "heatmap")


@pytest.mark.parametrize(
    "choice",
    [
        Choice(OVERVIEW, runs=("report/v1",), group="hard", published=True),
        Choice(CHANGES, run="report/v1", judge="rule", before="mini", after="mirage", by="split"),
        Choice(JUDGES, run="report/v1", judge="rule", metric="over_refusal"),
    ],
)
def test_an_address_brings_every_choice_back(folder: Path, tmp_path: Path, choice: Choice) -> None:
    for name in ("report", "second"):
        fake_run(tmp_path, folder / "mini", name)
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    first = handlers.chosen(*choice)
    again = handlers.opened(Link.parse(first["place"]))
    assert first["errors"] == again["errors"] == "" and again["place"] == first["place"]
    parts = set(first) - {"views"}
    assert {part: str(first[part]) for part in parts} == {part: str(again[part]) for part in parts}


def test_an_item_that_was_taken_apart_is_drawn_and_the_run_is_in_no_other_list(folder: Path, tmp_path: Path) -> None:
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    fake_run(tmp_path, folder / "mini")
    fake_ablation(tmp_path, folder / "mini")
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    update = handlers.opened(Link(tab=Tab.RESULTS, view=ITEM))
    assert update["errors"] == "" and update["ablation"]["value"] == "ablate/v1"
    grids = figure(update, "grid")["data"]
    assert len(grids) == len(VARIANTS) and grids[0]["text"][0][0] == "unsafe"
    assert handlers.evaluations.names() == ["report/v1"]


def test_whoever_has_only_taken_items_apart_sees_those(folder: Path, tmp_path: Path) -> None:
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    assert handlers.opened(Link(tab=Tab.RESULTS))["empty"]["visible"]
    fake_ablation(tmp_path, folder / "mini")
    update = handlers.opened(Link(tab=Tab.RESULTS))
    assert update["view"] == ITEM and update["errors"] == "" and len(figure(update, "grid")["data"]) == len(VARIANTS)
    assert update["body"]["visible"] and not update["empty"]["visible"]


def test_each_cell_of_the_flip_matrix_opens_its_items_in_annotate(handlers: ResultsHandlers, folder: Path) -> None:
    html = handlers.opened(Link(tab=Tab.RESULTS, view=CHANGES, variants=("mini", "mirage")))["flips"]
    found = re.findall(r'href="([^"]+)" data-link[^>]*>(\d+)<', html)
    samples = [
        sample
        for split in ("easy", "hard", "real")
        for sample in read_records(folder / "mini" / f"{split}.jsonl", Sample)
    ]
    expected: dict[tuple[Outcome, Outcome], int] = {}
    for number, sample in enumerate(samples):
        pair = outcome_of(sample, "mini", number), outcome_of(sample, "mirage", number)
        expected[pair] = expected.get(pair, 0) + 1
    links = {Link.parse(address.replace("&amp;", "&")): int(count) for address, count in found}
    assert all(link.tab is Tab.ANNOTATE and link.run == "report/v1" for link in links)
    assert {(link.before, link.after): count for link, count in links.items()} == expected


@pytest.fixture
def retested(folder: Path, tmp_path: Path) -> ResultsHandlers:
    """A run, and a later one whose ``mirage`` was trained on two of its items."""
    fake_run(tmp_path, folder / "mini")
    later = fake_run(tmp_path, folder / "mini", "retest", variants=("mini", "mirage"))
    later.note_trained_on({"mirage": [sample.id for sample in later.samples() if sample.harmful][:2]})
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    return ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("chosen", [("retest/v1",), ("report/v1", "retest/v1")])
def test_items_that_a_variant_was_trained_on_are_in_no_rate(retested: ResultsHandlers, chosen: tuple[str, ...]) -> None:
    update = retested.opened(Link(tab=Tab.RESULTS, runs=chosen))
    assert "Without 2 items that a variant shown was trained on." in update["board_table"]
    boards = retested.evaluations.boards(chosen).by_run
    asked = {
        (run, row.variant): row.n for run, board in boards.items() for row in board.itertuples()
        if row.metric == "asr" and row.group == "all"
    }  # fmt: skip
    assert set(asked.values()) == {27} and len(asked) == (2 if len(chosen) == 1 else 5)  # 29 without the two
    alone = retested.evaluations.boards(["report/v1"])
    assert alone.notes == [] and 29 in set(alone.by_run["report/v1"].n)


def test_changes_and_judges_leave_out_what_was_trained_on(retested: ResultsHandlers) -> None:
    link = Link(tab=Tab.RESULTS, view=CHANGES, run="retest/v1", variants=("mini", "mirage"))
    flips = retested.opened(link)["flips"]
    assert "Without 2 items" in flips and sum(map(int, re.findall(r"data-link[^>]*>\s*(\d+)\s*<", flips))) == 56
    assert "Without 2 items" in retested.opened(Link(tab=Tab.RESULTS, view=JUDGES, run="retest/v1"))["swap_table"]


def test_a_run_of_failures_is_not_mixed_with_whole_runs(folder: Path, tmp_path: Path) -> None:
    fake_run(tmp_path, folder / "mini")
    failures = fake_run(tmp_path, folder / "mini", "failures")
    failures.save(failures.config.model_copy(update={"selection": "only failures of report/v1:mini"}))
    evaluations = Evaluations(tmp_path)
    assert evaluations.defaults() == ["report/v1"]
    both = evaluations.boards(["failures/v1", "report/v1"])
    assert set(both.by_run) == {"report/v1"}
    assert "failures/v1 is not shown: it asked only failures of report/v1:mini" in both.messages[0]
    alone = evaluations.boards(["failures/v1"])
    assert set(alone.by_run) == {"failures/v1"} and alone.notes == ["Asked: only failures of report/v1:mini."]


def test_judges_are_drawn_beside_each_other(handlers: ResultsHandlers) -> None:
    update = handlers.opened(Link(tab=Tab.RESULTS, view=JUDGES, run="report/v1"))
    assert {trace["name"] for trace in figure(update, "swap")["data"]} == {"rule", "words"}


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (Link(tab=Tab.RESULTS, view=CHANGES, run="gone/v7"), "no run 'gone/v7'"),
        (Link(tab=Tab.RESULTS, runs=("report/v1", "gone/v7")), "run 'gone/v7'; here there are report/v1"),
        (Link(tab=Tab.RESULTS, view="odd"), "view 'odd'; here there are overview, changes"),
        (Link(tab=Tab.RESULTS, split="zz"), "group of items 'zz'; here there are all, easy"),
        (Link(tab=Tab.RESULTS, view=CHANGES, by="mood"), "grouping 'mood'; here there are category"),
        (Link(tab=Tab.RESULTS, view=JUDGES, metric="luck"), "rate 'luck'; here there are asr"),
        (Link(tab=Tab.RESULTS, view=CHANGES, judge="oracle"), "judge 'oracle'; here there are rule, words"),
        (Link(tab=Tab.RESULTS, view=CHANGES, variants=("mini", "gpt")), "variant 'gpt'; here there are mini"),
    ],
)
def test_a_link_to_what_is_not_there_says_so(handlers: ResultsHandlers, link: Link, message: str) -> None:
    assert message in unescape(handlers.opened(link)["errors"])


def test_the_run_is_named_above_its_judges(handlers: ResultsHandlers) -> None:
    update = handlers.opened(Link(tab=Tab.RESULTS, view=JUDGES))
    assert update["judged"] == update["run"] == gr.update(choices=["report/v1"], value="report/v1")


def test_an_emptied_overview_says_so_until_it_is_refreshed(handlers: ResultsHandlers) -> None:
    emptied = Choice(OVERVIEW, runs=[])
    update = handlers.runs_changed(["report/v1"], *emptied)
    assert update["board"] is update["plane"] is None and "No run is chosen" in update["board_table"]
    assert "runs" not in update and update["drawn"] == []
    assert "No run is chosen" in handlers.chosen(*emptied)["board_table"]
    assert handlers.refreshed(*emptied)["runs"]["value"] == ["report/v1"]
    assert handlers.chosen(*emptied._replace(runs=["gone/v1"]))["runs"]["value"] == ["report/v1"]


def test_runs_that_the_page_itself_has_set_are_not_drawn_again(handlers: ResultsHandlers) -> None:
    update = handlers.opened(Link(tab=Tab.RESULTS))
    for runs in (["report/v1"], None):
        assert handlers.runs_changed(update["drawn"], *Choice(OVERVIEW, runs=runs)) == {"view": gr.skip()}


def test_without_runs_the_tab_says_how_to_get_some(folder: Path) -> None:
    host = ready_host(folder / "mini")
    host.runs = folder / "nothing"
    update = ResultsHandlers(host, Names()).opened(Link(tab=Tab.RESULTS))  # pyright: ignore[reportArgumentType]
    assert update["empty"]["visible"] is True and update["body"]["visible"] is False
    assert "<em>Evaluate</em> above" in results.empty("results")


def test_the_download_holds_every_item_once(handlers: ResultsHandlers) -> None:
    choice = Choice(CHANGES, run="report/v1", judge="rule", before="mini", after="mirage")
    file = json.loads(handlers.csv(*choice)[0])
    rows = list(csv.DictReader(io.StringIO(file["text"])))
    assert file["name"] == "flips-report-v1.csv" and len({row["id"] for row in rows}) == len(rows) == 58


def test_cells_that_begin_like_formulas_are_harmless_and_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"text": ["=1+1", "+x", "-y", "@z", "\t=1", "plain"], "value": [-1.5, 0, 1, 2, 3, 4]})
    rows = list(csv.DictReader(io.StringIO(csv_text(frame))))
    assert [row["text"] for row in rows] == ["'=1+1", "'+x", "'-y", "'@z", "'\t=1", "plain"]
    assert rows[0]["value"] == "-1.5"
    table = Table("t", "T", ["Category"], [["=1+1"]], [{"category": "=1+1", "=2": 3}])
    assert table.csv() == "category,'=2\n'=1+1,3\n"


def test_markup_in_a_table_is_shown_as_text() -> None:
    frame = pd.DataFrame({"variant": ["<script>alert(1)</script>"]})
    html = table(frame, {"variant": "variant"}, name="<b>")
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>" not in html


def test_words_are_broken_in_columns_of_running_text_only() -> None:
    frame = pd.DataFrame({"kind": ["contradiction"], "what": ["a long text"]})
    html = table(frame, {"kind": "kind", "what": "what"}, name="x", long=("what",))
    assert '<td class="mis-long-cell">a long text' in html and "<td>contradiction" in html


@pytest.mark.parametrize(
    "name", ["../mini/v1", "report/v1/..", "/etc/v1", "report/v9", "..", "", "report/../report/v1", "a\0/v1"]
)
def test_a_run_is_a_name_and_never_a_path(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="there is no run"):
        resolve_run(folder / "runs", name)


def test_a_run_that_is_a_link_out_of_the_folder_is_none(folder: Path, tmp_path: Path) -> None:
    outside = fake_run(tmp_path / "secret", folder / "mini", variants=("mini",))
    (tmp_path / "runs" / "report").mkdir(parents=True)
    (tmp_path / "runs" / "report" / "v1").symlink_to(outside.folder)
    with pytest.raises(DataError, match="there is no run"):
        resolve_run(tmp_path / "runs", "report/v1")


def test_a_run_that_grows_is_read_again(folder: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path, folder / "mini", variants=("mini",))
    evaluations = Evaluations(tmp_path)
    first = evaluations.read("report/v1")
    assert evaluations.read("report/v1") is first
    lines = (run.folder / "responses.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "responses.jsonl").write_text("".join(lines[:-2]))
    assert len(evaluations.read("report/v1").responses) == len(first.responses) - 2


def test_a_damaged_run_is_named_and_keeps_nobody_from_the_others(folder: Path, tmp_path: Path) -> None:
    fake_run(tmp_path, folder / "mini")
    damaged = fake_run(tmp_path, folder / "mini", "torn")
    (damaged.folder / "verdicts" / "rule.jsonl").write_text('{"garbage": 1}\n')
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    overview = handlers.opened(Link(tab=Tab.RESULTS))
    assert "report/v1" in overview["board_table"] and "mirage" in overview["board_table"]
    assert "torn/v1 is not shown" in overview["errors"] and "rule.jsonl, row 1" in overview["errors"]
    judges = handlers.opened(Link(tab=Tab.RESULTS, view=JUDGES))  # of the newest, which is the damaged one
    assert "rule.jsonl, row 1" in judges["errors"]
    assert sorted(judges["judged"]["choices"]) == sorted(judges["run"]["choices"]) == ["report/v1", "torn/v1"]


def test_a_judge_that_could_score_nothing_gives_way_to_one_that_could(folder: Path, tmp_path: Path) -> None:
    """The rule judge on data of one's own knows no truth."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    file = tmp_path / "runs/report/v1/verdicts/rule.jsonl"
    unscored = [
        one.model_copy(update={"outcome": Outcome.UNSCORED, "reason": "no truth"})
        for one in read_records(file, Verdict)
    ]
    write_records(file, unscored)
    evaluations = Evaluations(tmp_path / "runs")
    assert set(evaluations.board("report/v1").judge) == {"words"}
    assert set(evaluations.board("report/v1", "rule").judge) == {"rule"}


def test_a_run_of_one_variant_is_told_as_such(folder: Path, tmp_path: Path) -> None:
    fake_run(tmp_path, folder / "mini", variants=("mini",))
    with pytest.raises(SettingsError, match=r"only mini has answered in report/v1.*choose a run"):
        results.changes(Evaluations(tmp_path).read("report/v1"), "mini", "mini")


def test_the_same_variant_twice_is_refused(folder: Path) -> None:
    run = Evaluations(folder / "runs").read("report/v1")
    with pytest.raises(SettingsError, match="two different variants"):
        results.changes(run, "mini", "mini")


def test_published_figures_are_marked_and_stand_apart(folder: Path) -> None:
    board = Evaluations(folder / "runs").board("report/v1")
    with_them = results.overview({"report/v1": board}, "hard", results.published())
    assert with_them.frame[with_them.frame.published].judge.ne("rule").all()
    alone = results.overview({"report/v1": board}, "hard").table
    assert "published</span>" in with_them.table and "published" not in alone and "No line here" not in alone


def test_answers_that_name_what_is_shown_can_be_looked_at_apart(handlers: ResultsHandlers) -> None:
    update = handlers.opened(Link(tab=Tab.RESULTS, runs=("report/v1",), split="hard, all named"))
    assert update["errors"] == "" and Link.parse(update["place"]).split == "hard, all named"
    choices = update["group"]["choices"]
    assert choices[0] == "all" and [choice.endswith("named") for choice in choices] == sorted(
        choice.endswith("named") for choice in choices
    )
    assert {"hard", "hard, all named", "hard, not all named"} <= set(choices)
    board = pd.concat([handlers.evaluations.board("report/v1"), handlers.evaluations.seen("report/v1")])
    counted = board[(board.metric == "over_refusal") & (board.variant == "mini")].set_index("group").n
    assert counted["hard"] == counted["hard, all named"] + counted["hard, not all named"] > 0
    shown = results.overview({"report/v1": board}, "hard, all named")
    assert f"{counted['hard, all named']:,}" in shown.table
    absent = results.overview({"report/v1": board, "typed/v1": board[board.group != "easy"]}, "easy").table
    assert "typed/v1 has" in absent and "named only" not in absent


def test_a_run_without_a_line_is_named_with_the_reason(folder: Path) -> None:
    board = Evaluations(folder / "runs").board("report/v1")
    hard = board[board.group == "hard"].assign(run="typed/v1")
    view = results.overview({"report/v1": board, "typed/v1": hard, "begun/v1": board.iloc[:0]}, "all")
    assert "No line here: typed/v1 has hard only; begun/v1 has no answers yet." in view.table
    assert set(view.frame.run) == {"report/v1", "typed/v1"}, "the file has all"


def test_names_that_no_judge_has_read_are_not_counted_as_unscored(folder: Path) -> None:
    board = Evaluations(folder / "runs").board("report/v1").assign(judge="", value=None, n=0, n_unscored=12)
    waiting = results.overview({"report/v1": board}, "all").table
    assert waiting.count("0 + 12<") == 2 * len(set(board.variant)), "answers to harmful items wait for a judge"
    names = board.assign(n_unscored=board.n_unscored.where(board.metric != "asr", 0))
    assert "+ 12" not in results.overview({"report/v1": names}, "all").table


# Addresses


@pytest.mark.parametrize(
    "query",
    [
        "?tab=nowhere",
        "?run=../../etc/v1",
        "?run=a",
        "?runs=a/v1,../b/v1",
        "?outcome=dead",
        "?whose=nobody",
        "?signal=none",
        "?order=best",
        "?sheet=-1",
        "?sheet=x",
        "?item=%00",
        f"?item={'x' * 301}",
        "?item=%ff",
        "?" + "a=1&" * 99,
    ],
)
def test_an_address_that_cannot_be_is_refused_with_a_reason(query: str) -> None:
    with pytest.raises(DataError, match="the address"):
        Link.parse(query)


def test_links_come_back_as_they_went_out() -> None:
    link = Link(
        tab=Tab.ANNOTATE, run="mine/v2", variants=("a", "b"), item="x&y=<é>", category="Self-Harm", before="unsafe"
    )
    assert Link.parse(link.query()) == link
    assert Link.parse("?__theme=dark&item=7&other=1") == Link(item="7")


def test_no_field_of_a_link_is_a_key_of_gradios() -> None:
    assert not GRADIOS & set(Link.model_fields)


@pytest.mark.long
def test_twenty_thousand_responses_are_shown_in_two_seconds_and_filtered_in_one(folder: Path, tmp_path: Path) -> None:
    fake_run(tmp_path, folder / "mini", repeat=115)  # 58 items x 3 variants x 115 = 20,010
    host = ready_host(folder / "mini")
    host.runs = tmp_path
    handlers = ResultsHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    times: dict[str, float] = {}
    for name, link in {
        "first": Link(tab=Tab.RESULTS),
        "split": Link(tab=Tab.RESULTS, split="hard"),
        "changes": Link(tab=Tab.RESULTS, view=CHANGES),
        "other": Link(tab=Tab.RESULTS, view=CHANGES, variants=("mini", "refusal")),
    }.items():
        began = time.process_time()
        assert handlers.opened(link)["errors"] == ""
        times[name] = time.process_time() - began
    assert times["first"] < 2 and times["split"] < 1 and times["changes"] < 2 and times["other"] < 1, times
