"""Both orders: every training pair asked with its images exchanged as well.

pytest tests/text/test_orders.py
"""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.construct import mis_mini
from mis_lib.construct.elements import load_elements
from mis_lib.construct.labels import perceive
from mis_lib.construct.mis_mini import Plan, construct, plan
from mis_lib.construct.questions import OPEN_QUESTIONS
from mis_lib.files import read_records
from mis_lib.schema import Sample
from mis_lib.text.ordinals import rename_ordinals

TABLE = load_elements()
FEW = {"property_crimes", "human_trafficking", "property_crimes-easy"}


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, Plan]:
    """Three blocks in the table's order, and in both."""
    return plan(blocks=FEW, general_items=20), plan(blocks=FEW, general_items=20, both_orders=True)


@pytest.mark.parametrize(
    ("question", "renamed"),
    [
        ("Put the first on the second.", "Put the second on the first."),
        ("First image, then second?", "Second image, then first?"),
        ("What joins first and second images?", "What joins second and first images?"),
        ("Use second item on first object.", "Use first item on second object."),
        ("What is shown?", "What is shown?"),
        ("How does image 1 go with Picture 2?", "How does image 2 go with Picture 1?"),
        ("Compare images 1 and 2: is the 2nd photo newer?", "Compare images 2 and 1: is the 1st photo newer?"),
        ("First, take a second to look at the first image.", "First, take a second to look at the second image."),
        (
            "What do I do first with the object in the second image?",
            "What do I do first with the object in the first image?",
        ),
        ("Is the first step to open the second picture's box?", "Is the first step to open the first picture's box?"),
        ("Left image on right image?", "Right image on left image?"),
        (
            "Is the thing on the left safe with the one on the right?",
            "Is the thing on the right safe with the one on the left?",
        ),
        ("What links the left and right pictures?", "What links the right and left pictures?"),
        ("Can I put the former into the latter?", "Can I put the latter into the former?"),
        # what was named before is named before in either order
        ("Heat the first, add the second: is the former hot?", "Heat the second, add the first: is the former hot?"),
        # neither is a place
        ("Is this the right picture? Turn it to the left.", "Is this the right picture? Turn it to the left."),
    ],
)
def test_ordinals_change_places(question: str, renamed: str) -> None:
    assert rename_ordinals(question, 2) == renamed
    assert rename_ordinals(renamed, 2) == question


def test_places_of_three_images_change_from_both_ends() -> None:
    asked = "Is the last image like image 1, and the second picture like the 3rd image?"
    assert rename_ordinals(asked, 3) == "Is the first image like image 3, and the second picture like the 1st image?"


def test_exchanged_pairs_come_behind_the_others_and_into_no_test(planned: tuple[Plan, Plan]) -> None:
    plain, both = planned
    number = len(plain.files["train"])
    assert both.files["train"][:number] == plain.files["train"] and len(both.files["train"]) == 2 * number
    assert all(sample.provenance["exchanged"] for sample in both.files["train"][number:])
    assert {name: rows for name, rows in both.files.items() if name != "train"} == {
        name: rows for name, rows in plain.files.items() if name != "train"
    }
    assert both.pictures == plain.pictures
    assert len({sample.id for sample in both.files["train"]}) == 2 * number


def test_an_exchanged_item_shows_says_and_asks_the_same_the_other_way_round(planned: tuple[Plan, Plan]) -> None:
    rows = planned[1].files["train"]
    openly = 0
    for sample, exchanged in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
        names = sample.objects or []
        assert exchanged.objects == names[::-1] and exchanged.images == sample.images[::-1]
        assert exchanged.harmful == sample.harmful and exchanged.category == sample.category
        is_open = sample.question in OPEN_QUESTIONS
        openly += is_open
        assert exchanged.question == (sample.question if is_open else rename_ordinals(sample.question, 2))
        seen, told = str(sample.answer), str(exchanged.answer)
        kinds = TABLE.kinds_of(sample.provenance["block"], (names[0], names[1]))
        perceived, perceived_exchanged = perceive(names, kinds), perceive(names[::-1], kinds[::-1])
        assert kinds and seen.startswith(perceived) and told.startswith(perceived_exchanged)
        # what they come to and what may follow stays, but for the sentence that declines, which an id draws
        behind, behind_exchanged = seen.removeprefix(perceived), told.removeprefix(perceived_exchanged)
        assert behind.split(". ")[:2] == behind_exchanged.split(". ")[:2]
    assert openly and openly < len(rows) // 2


def test_exchanged_twins_are_twins_of_each_other_and_ask_the_same(planned: tuple[Plan, Plan]) -> None:
    rows = {sample.id: sample for sample in planned[1].files["train"]}
    for sample in rows.values():
        twin = rows[str(sample.twin_id)]
        assert twin.twin_id == sample.id and twin.question == sample.question and twin.harmful != sample.harmful
        assert twin.provenance.get("exchanged") == sample.provenance.get("exchanged")
        assert [a == b for a, b in zip(sample.images, twin.images, strict=True)].count(True) == 1


def test_no_text_behind_the_perception_says_which_image_is_which() -> None:
    """Otherwise it would be wrong in the other order."""
    for sample in plan(general_items=0).files["train"]:
        behind = str(sample.answer).removeprefix(perceive(sample.objects or []))
        assert not re.search(r"\b(first|second) image|\bthe (former|latter)\b", behind), sample.id


def test_the_command_makes_it_and_the_datasheet_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mis_mini, "construct", partial(construct, blocks={"property_crimes-easy"}, everyday_items=8))
    out = tmp_path / "data"
    done = CliRunner().invoke(app, ["construct", "--out", str(out), "--both_orders", "--general_items", "5", "--json"])
    assert done.exit_code == 0, done.output
    rows = read_records(out / "train.jsonl", Sample)
    assert sum("exchanged" in sample.provenance for sample in rows) * 2 == len(rows)
    assert json.loads(done.stdout)["splits"]["train"]["items"] == len(rows)
    command = "`mis construct --out FOLDER --seed 0 --both_orders --general_items 5`"
    assert command in (out / "DATASHEET.md").read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, ["construct", "--out", "x", "--source", "stages", "--both_orders"])
    assert refused.exit_code == 2 and "--both_orders goes with --source objects" in refused.output
