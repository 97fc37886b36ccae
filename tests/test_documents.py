"""What README says about the code is made from the code.

pytest tests/test_documents.py
"""

from pathlib import Path

import pytest
import typer

from mis_lib.cli import app
from mis_lib.commands import documents
from mis_lib.commands.judge import KINDS
from mis_lib.errors import DataError
from workbench.links import Tab

ROOT = Path(__file__).parent.parent
MIS = typer.main.get_command(app)


def test_the_tables_in_readme_are_those_of_the_code() -> None:
    assert documents.update(ROOT / "README.md", MIS, check=True) == "", "run mis docs"


def test_every_tab_and_every_judge_has_its_line() -> None:
    assert list(documents.TABS) == [tab.value for tab in Tab]
    assert set(documents.JUDGES) == set(KINDS)


def test_every_verb_has_its_line_and_says_something() -> None:
    lines = documents.verbs(MIS).splitlines()[2:]
    assert {"`mis doctor`", "`mis notebooks`", "`mis bench variants`"} <= {line.split("|")[1].strip() for line in lines}
    assert all(len(line.split("|")[2].split()) >= 3 for line in lines)


def test_only_known_marks_are_filled() -> None:
    text = "a\n<!-- table: judges -->\nold\n<!-- /table: judges -->\nb\n<!-- table: speed -->\n| 1 |\n<!-- /table: speed -->\n"
    filled = documents.fill(text, MIS)
    assert documents.judges(MIS) in filled and "old" not in filled
    assert "<!-- table: speed -->\n| 1 |\n<!-- /table: speed -->" in filled
    assert documents.fill(filled, MIS) == filled


@pytest.mark.parametrize(
    "text", ["<!-- table: judges -->\n", "<!-- /table: judges -->", "<!-- table: a -->\n<!-- /table: b -->"]
)
def test_marks_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="closed in turn"):
        documents.fill(text, MIS)


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- table: tabs -->\nold\n<!-- /table: tabs -->\n")
    assert "-old" in documents.update(path, MIS, check=True)
    assert "old" in path.read_text()
    documents.update(path, MIS, check=False)
    assert documents.update(path, MIS, check=True) == ""


def test_cells_keep_to_one_line() -> None:
    assert documents.markdown(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"
