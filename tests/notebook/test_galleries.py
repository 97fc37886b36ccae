"""Pictures of harmful items wait for a click, texts are never markup, numbers carry their n.

pytest tests/notebook/test_galleries.py
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.page_pictures import Pictures

from mis_lib.notebook import reproduction, show
from mis_lib.results import train_runs
from mis_lib.results.published import published
from mis_lib.results.stats import rate
from mis_lib.schema import Outcome, Response, Sample, Verdict


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / name
        )
    return tmp_path


def item(harmful: bool, question: str = "What now?") -> Sample:
    return Sample(
        id=f"x-{harmful}",
        question=question,
        images=["a.png", "b.png"],
        objects=["cat", "dog"],
        harmful=harmful,
        answer="One. Two.",
    )


@pytest.mark.parametrize(
    ("hide", "harmful", "hidden"), [("harmful", True, 2), ("harmful", False, 0), ("all", False, 2), ("all", True, 2)]
)
def test_what_is_flagged_waits_for_a_click(folder: Path, hide: show.Hide, harmful: bool, hidden: int) -> None:
    page = show.gallery([item(harmful)], folder, hide=hide).data
    finder = Pictures()
    finder.feed(page or "")
    assert finder.hidden == hidden
    assert len(finder.open) == 2  # the veils, or the pictures themselves
    full = [source for source in finder.open if len(source) > 2_000]
    assert len(full) == 2 - hidden


def test_a_hidden_picture_stays_hidden_without_style_or_script(folder: Path) -> None:
    """A viewer may strip both: what hides a picture is that its element is closed."""
    page = show.pictures([folder / "a.png"], ["one"], hidden=True).data or ""
    assert "<script" not in page
    bare = page.partition("</style>")[2]
    assert bare.count("<details") == 1 and "<details open" not in bare


def test_texts_of_data_are_never_markup(folder: Path) -> None:
    page = show.gallery([item(True, "<script>alert(1)</script>")], folder).data or ""
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_finding_shows_markup_of_data_as_text() -> None:
    assert (
        show.prose("**Most** are <img src=x onerror=alert(1)>").data == "**Most** are &lt;img src=x onerror=alert(1)>"
    )


def test_a_verdict_is_to_be_guessed_first(folder: Path) -> None:
    response = Response(
        sample_id="x-True", variant="mini", text="<b>Sure</b>.", tokens=2, seconds=1, finish_reason="stop"
    )
    verdict = Verdict(sample_id="x-True", variant="mini", judge="rule", outcome=Outcome.UNSAFE, reason="helps")
    page = show.answered([item(True)], folder, [response], verdicts=[verdict]).data or ""
    assert "&lt;b&gt;Sure" in page and "<b>Sure" not in page
    shown, _, behind = page.partition("<summary>verdict</summary>")
    assert "unsafe" not in shown and "unsafe" in behind


def test_an_answer_keeps_its_lines(folder: Path) -> None:
    text = "### Risk\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    response = Response(sample_id="x-True", variant="mini", text=text, tokens=2, seconds=1, finish_reason="stop")
    page = show.answered([item(True)], folder, [response]).data or ""
    assert "|---|---|\n| 1" in page and re.search(r"\.mis-card p \{[^}]*white-space: pre-wrap", page)


def test_a_rate_is_told_with_n_interval_and_what_was_not_scored() -> None:
    assert show.rate_text(rate(1, 12, 2)) == "8.3 % (1.5-35.4, n = 12, 2 unscored)"
    assert show.rate_text(rate(0, 0, 3)) == "unknown (n = 0, 3 unscored)"
    assert show.rate_text(pd.Series({"value": 50.0, "low": 10.0, "high": 90.0, "n": 4})) == "50.0 % (10.0-90.0, n = 4)"


def test_a_difference_without_an_interval_says_none() -> None:
    frame = pd.DataFrame({"difference": [-16.7, 0.0], "low": [-50.0, None], "high": [0.0, None]})
    assert [show.points(row) for row in frame.itertuples()] == ["-16.7 points (-50.0 to +0.0)", "+0.0 points"]


def test_facts_keep_each_number_in_its_own_form() -> None:
    text = "a text of any length " * 20
    shown = show.facts(
        {"images": 1559, "megabytes": 31.6423, "rate": 1e-05, "cached": True, "why": text, "file": None}
        | {"targets": {"corrected": 1, "reference": 1200}, "authors": ["reader", "skimmer"], "splits": {}}
    )
    told = ["1,559", "31.6", "1e-05", "True", text, "None", "corrected 1, reference 1,200", "reader, skimmer", "none"]
    assert list(shown.data[""]) == told


def test_texts_of_a_table_stand_left_and_are_no_markup() -> None:
    page = show.left(pd.DataFrame({"why": ["<b>x</b>"], "n": [1]}, index=["<i>a</i>"])).to_html()
    assert re.search(r"\.col0 \{\s*text-align: left", page) and not re.search(r"\.col1 \{\s*text-align", page)
    assert "<b>" not in page and "<i>" not in page


def test_a_text_is_no_column_beside_its_name() -> None:
    """Jupyter lets both ``dt`` and ``dd`` float; a text that does is torn apart."""
    for tag in ("dt", "dd"):
        style = re.search(rf'<{tag} style="([^"]+)"', show.texts([("name", "text")]).data or "")
        assert style and "float: none" in style[1] and "width: auto" in style[1]


def test_a_document_comes_in_below_the_headings_of_its_notebook() -> None:
    assert show.lowered("# Title\n\n## Part\n\n#1 of them").data == "### Title\n\n#### Part\n\n#1 of them"


def test_one_row_is_no_rows() -> None:
    assert [show.counted(n, "row") for n in (0, 1, 1040)] == ["0 rows", "1 row", "1,040 rows"]


def test_a_log_becomes_losses_by_segment_and_rates() -> None:
    lines = [
        {"step": 1, "loss": 2.0, "loss_by_segment": {"answer": 1.5}},
        {"step": 1, "eval": {"asr": {"value": 50.0, "low": 10.0, "high": 90.0, "n": 4, "n_unscored": 0}}},
        {"step": 2, "loss": 1.0, "loss_by_segment": {}},
    ]  # fmt: skip
    assert train_runs.losses(lines)["loss"].tolist() == [2.0, 1.5, 1.0]
    assert train_runs.evaluations(lines)[["step", "metric", "value"]].values.tolist() == [[1, "asr", 50.0]]


def test_every_published_number_has_its_place_beside_yours() -> None:
    tables = reproduction.tables(published())
    assert sum(map(len, tables.values())) == len(published())
    rows = next(
        rows
        for rows in tables.values()
        if any(row.label == "InternVL2.5-8B + MIRage" and row.benchmark == "MIS" for row in rows)
    )
    own = {("InternVL2.5-8B + MIRage", "hard", "asr"): "1.00 (0.2-5.4, n 100)"}
    table = reproduction.beside(rows, own)
    assert table.loc[("InternVL2.5-8B + MIRage", "yours"), "MIS hard asr"] == "1.00 (0.2-5.4, n 100)"
    assert table.loc[("InternVL2.5-8B", "yours"), "MIS hard asr"] == reproduction.NOT_RUN
    assert str(table.loc[("InternVL2.5-8B", "published"), "MIS hard asr"]).startswith("84.51")


def test_questionable_numbers_say_why() -> None:
    wrong = reproduction.errors(published())
    assert len(wrong) == sum(bool(row.flag) for row in published()) > 0
    assert (wrong["why"].str.len() > 0).all()
    assert [wrong.index[0], wrong.index[-1]] == [1, len(wrong)]


def test_without_runs_of_ones_own_there_are_no_empty_lines_for_them() -> None:
    for rows in reproduction.tables(published()).values():
        assert set(reproduction.beside(rows, {}).index.get_level_values(1)) == {reproduction.PUBLISHED}


def test_models_have_their_names_in_the_table_of_memory() -> None:
    assert {"mini", "llava-onevision-7b", "qwen-2.5-vl-3b", "internvl-2.5-8b"} <= set(
        reproduction.memory_needs(100).index
    )


def test_configurations_are_read_as_training_reads_them() -> None:
    table = reproduction.configurations(Path(__file__).parents[2] / "configs", "internvl2_5-8b-mirage*.yaml")
    assert table.loc["internvl2_5-8b-mirage.yaml", ["tuning", "learning rate", "epochs", "vision"]].tolist() == [
        "full",
        "5e-06",
        2.0,
        "frozen",
    ]
