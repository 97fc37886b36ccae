"""Icons: training pictures that mini's vision tower was not tuned to, their sources and their use in MIS-Mini."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.construct import mis_mini
from mis_lib.construct.drawings import (
    ICONS,
    OUTLINE,
    SIDE,
    STYLES,
    TRAINING_STYLES,
    Picture,
    draw,
    draw_all,
    drawings,
    icon_credits,
    icons,
    scene,
)
from mis_lib.construct.mis_mini import Plan, construct, plan
from mis_lib.construct.questions import OPEN_QUESTIONS
from mis_lib.errors import DataError
from mis_lib.files import load_image, read_records
from mis_lib.schema import Sample
from mis_lib.text.concepts import concepts
from research.mini import gather_icons
from research.mini.assets import STYLES as TUNED

FEW = {"property_crimes", "property_crimes-easy"}
TURNS = 2
MIT = {"name": "Set", "author": {"name": "A. Hand", "url": "https://x.org"}, "license": {"spdx": "MIT"}}


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, Plan]:
    """Two blocks without icons, and with."""
    return plan(blocks=FEW, general_items=200), plan(blocks=FEW, general_items=200, icon_turns=TURNS)


def styles_of(sample: Sample) -> list[str]:
    return [Path(name).stem.rsplit("-", 2)[1] for name in sample.images]


def test_icons_come_behind_what_is_trained_on_anyway_and_into_no_test(planned: tuple[Plan, Plan]) -> None:
    plain, more = planned
    rows = {sample.id: sample for sample in more.files["train"]}
    assert [rows[sample.id] for sample in plain.files["train"]] == plain.files["train"]
    assert len(rows) == len(plain.files["train"]) * 2 == len(more.files["train"])
    assert all(more.files[split] == plain.files[split] for split in ("easy", "hard", "real"))


def test_every_training_pair_is_asked_in_icons_and_a_thing_without_is_shown_in_lines(
    planned: tuple[Plan, Plan],
) -> None:
    asked = [sample for sample in planned[1].files["train"] if sample.provenance["style"] == ICONS]
    pairs = [tuple(sample.objects or ()) for sample in asked]
    assert set(pairs) == {tuple(sample.objects or ()) for sample in planned[0].files["train"]}
    shown = [(name, style) for s in asked for name, style in zip(s.objects or (), styles_of(s), strict=True)]
    assert all(style == (ICONS if drawings(name, ICONS) else OUTLINE) for name, style in shown)
    assert {style for _, style in shown} == {ICONS, OUTLINE}
    drawn = {image for sample in asked for image in sample.images if f"-{ICONS}-" in image}
    known = {name: drawings(name, ICONS) for name, style in shown if style == ICONS}
    assert 3 * len(known) < len(drawn) <= sum(known.values()), "a thing is shown by one icon here, by another there"
    questions: dict[tuple[object, ...], list[str]] = {}
    for sample in planned[1].files["train"]:
        if sample.question not in OPEN_QUESTIONS:
            questions.setdefault((*(sample.objects or ()), sample.harmful), []).append(sample.question)
    assert any(len(found) > 2 for found in questions.values())
    assert all(len(set(found)) == len(found) for found in questions.values()), "a block's questions come round once"


def test_twins_show_the_object_that_stays_by_the_same_icon(planned: tuple[Plan, Plan]) -> None:
    rows = {sample.id: sample for sample in planned[1].files["train"] if sample.provenance["style"] == ICONS}
    for sample in rows.values():
        twin = rows[sample.twin_id or ""]
        same = [a == b for a, b in zip(sample.objects or (), twin.objects or (), strict=True)]
        assert same == [a == b for a, b in zip(sample.images, twin.images, strict=True)] and sum(same) == 1


def test_general_items_show_icons_too(planned: tuple[Plan, Plan]) -> None:
    styles = {sample.provenance["style"] for sample in planned[1].files["general"]}
    assert styles == {*TRAINING_STYLES, ICONS}
    assert {s.provenance["style"] for s in planned[0].files["general"]} == set(TRAINING_STYLES)
    shown = {style for s in planned[1].files["general"] if s.provenance["style"] == ICONS for style in styles_of(s)}
    assert shown == {ICONS, OUTLINE}


def test_a_data_set_with_icons_says_whose_they_are_and_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mis_mini, "construct", partial(construct, blocks=FEW, everyday_items=8))
    out = tmp_path / "data"
    done = CliRunner().invoke(app, ["construct", "--out", str(out), "--icons", "1", "--general_items", "5", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["styles"][ICONS] == icon_credits() and "Lucide by Lucide Contributors (ISC)" in icon_credits()
    sheet = (out / "DATASHEET.md").read_text(encoding="utf-8")
    assert "`mis construct --out FOLDER --seed 0 --icons 1 --general_items 5`" in sheet and "Lucide" in sheet
    assert told["splits"]["general"]["items"] == 5
    rows = read_records(out / "train.jsonl", Sample)
    assert sum(sample.provenance["style"] == ICONS for sample in rows) * 3 == len(rows)
    assert all((out / name).is_file() for sample in rows for name in sample.images)


@pytest.mark.parametrize("option", ["icons", "general_items"])
def test_what_goes_with_drawn_data_is_refused_for_data_that_teachers_make(option: str) -> None:
    done = CliRunner().invoke(app, ["construct", "--out", "x", "--source", "stages", f"--{option}", "1"])
    assert done.exit_code == 2 and f"--{option} goes with --source objects" in done.output


def test_every_icon_can_be_drawn_and_none_is_missed_in_silence(tmp_path: Path) -> None:
    for name in list(icons())[::9]:
        for number in range(drawings(name, ICONS)):
            ink = np.asarray(draw(name, ICONS, 48, number))[..., 3] > 100
            assert 0.02 < ink.mean() < 0.99, (name, number)
    one, two = (scene("camera", ICONS, seed=1, size=64, number=number) for number in range(2))
    assert one.tobytes() != two.tobytes()
    wanted = [Picture("camera", ICONS, number) for number in range(2)]
    draw_all(wanted, tmp_path, 0, lambda message: None)
    for number, picture in enumerate(wanted):
        same = scene("camera", ICONS, seed=number, size=SIDE, number=number)
        assert load_image(tmp_path / picture.path).tobytes() == same.tobytes()
    known = drawings("camera", ICONS)
    assert known > 1 and drawings("camera", "twemoji") == 1
    assert draw("camera", ICONS, 48, 0).tobytes() != draw("camera", ICONS, 48, 1).tobytes()
    with pytest.raises(DataError, match=f"'camera': expected an icon number {known}, found {known} icons"):
        draw("camera", ICONS, 48, known)


def test_no_icon_is_of_a_set_that_the_eyes_were_tuned_to() -> None:
    used = {icon.set for found in icons().values() for icon in found}
    assert used <= set(gather_icons.SETS) and set(gather_icons.SETS).isdisjoint({*TUNED, *STYLES})
    assert gather_icons.CREDITS.read_text(encoding="utf-8").count("| MIT |") > 20
    assert set(icons()) <= set(concepts()) and all(len(found) <= gather_icons.MOST for found in icons().values())


def put(downloads: Path, name: str, icons: dict[str, str], about: dict[str, object]) -> None:
    package = downloads / f"iconify-json-{name}" / "package"
    package.mkdir(parents=True)
    table = {"width": 24, "height": 24, "icons": {key: {"body": body} for key, body in icons.items()}}
    (package / "icons.json").write_text(json.dumps(table), encoding="utf-8")
    (package / "info.json").write_text(json.dumps(about), encoding="utf-8")


def test_icons_are_gathered_by_their_very_name_whatever_sets_add_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_icons, "SETS", ("one", "two"))
    more = {"printer-2-fill": "<path id='b'/>", "printer-outline": "<path id='c'/>", "mouse": "<path/>"}
    put(tmp_path, "one", {**more, "dog": "<path/>", "chicken": "<path/>", "cow": "<path/>"}, MIT)
    put(tmp_path, "two", {"printer": "<path id='a'/>", "printers": "<path/>", "clown-face": "<path/>"}, MIT)
    found = gather_icons.gather_icons(tmp_path)
    assert found["sets"]["one"] == {"title": "Set", "author": "A. Hand", "licence": "MIT", "source": "https://x.org"}
    # a chicken is its leg and a mouse the computer's; a cow may be its face, and a dog is taken for either
    assert set(found["icons"]) == {"printer", "clown face", "dog", "chicken leg", "computer mouse"}
    assert [name for name, _ in found["icons"]["clown face"]] == ["two"]
    (first, b), (second, a) = found["icons"]["printer"]
    assert (first, second) == ("one", "two") and "id='b'" in b and "id='a'" in a


def test_a_set_that_may_not_be_passed_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_icons, "SETS", ("one",))
    put(tmp_path, "one", {}, {**MIT, "license": {"spdx": "MPL-2.0"}})
    with pytest.raises(SystemExit, match=r"one: expected a licence among .*MIT.*, found .*MPL-2.0"):
        gather_icons.gather_icons(tmp_path)


def test_small_data_with_icons_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    made = [
        construct(tmp_path / name, seed=3, blocks=FEW, general_items=5, everyday_items=8, icon_turns=1) for name in "ab"
    ]
    assert made[0] == made[1]
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in "ab"]
    assert manifests[0] == manifests[1]
