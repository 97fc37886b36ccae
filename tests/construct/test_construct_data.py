"""MIS-Mini as a whole: same bytes for the same seed, no leak from train to test, whole pictures, safe replacing."""

import filecmp
import importlib.resources
import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import resvg_py
from PIL import Image
from rich.console import Console

from mis_lib.cache import is_intact
from mis_lib.cli.show.construct import summary
from mis_lib.construct import mis_mini
from mis_lib.construct.drawings import (
    LIKE_ANOTHER,
    SIDE,
    STYLES,
    TRAINED_STYLES,
    TRAINING_STYLES,
    UNDRAWN,
    UNSEEN_STYLE,
    Picture,
    draw,
    sign_svg,
)
from mis_lib.construct.mis_mini import Plan, Summary, construct, ensure_mini_data, plan
from mis_lib.errors import DataError
from mis_lib.files import load_image, read_records
from mis_lib.schema import Sample
from mis_lib.text.concepts import concepts

FEW = {"property_crimes", "property_crimes-easy"}
SAFETY_SPLITS = ("train", "easy", "hard", "unseen", "real")


@pytest.fixture(scope="module")
def planned() -> Plan:
    """Every item of the shipped table, without pictures."""
    return plan()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A built data set of two blocks."""
    folder = tmp_path_factory.mktemp("data") / "mini"
    return folder, construct(folder, seed=3, blocks=FEW, general_items=30, everyday_items=8)


def safety(planned: Plan) -> list[Sample]:
    return [sample for split in SAFETY_SPLITS for sample in planned.files[split]]


def test_the_same_seed_gives_the_same_bytes(small: tuple[Path, Summary], tmp_path: Path) -> None:
    first, again = small[0], tmp_path / "again"
    construct(again, seed=3, blocks=FEW, general_items=30, everyday_items=8)
    names = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(first, again, names, shallow=False) == (names, [], [])


def test_another_seed_gives_other_pictures_and_words() -> None:
    one, two = plan(seed=1, blocks=FEW), plan(seed=2, blocks=FEW)
    assert [sample.id for sample in one.files["hard"]] == [sample.id for sample in two.files["hard"]]
    assert [sample.answer for sample in one.files["hard"]] != [sample.answer for sample in two.files["hard"]]
    assert [sample.question for sample in one.files["general"]] != [s.question for s in two.files["general"]]


def test_ids_are_unique_and_twins_point_at_each_other(planned: Plan) -> None:
    everything = [sample for samples in planned.files.values() for sample in samples]
    by_id = {sample.id: sample for sample in everything}
    assert len(by_id) == len(everything)
    for sample in safety(planned):
        twin = by_id[sample.twin_id or ""]
        assert twin.twin_id == sample.id and twin.harmful != sample.harmful and twin.split == sample.split
        assert (twin.question, twin.category, twin.sub_category) == (
            sample.question,
            sample.category,
            sample.sub_category,
        )
        same = [a == b for a, b in zip(sample.images, twin.images, strict=True)]
        assert sorted(same) == [False, True], f"{sample.id}: exactly one picture differs from the twin's"


def test_splits_are_balanced(planned: Plan) -> None:
    for split in SAFETY_SPLITS:
        harmful = Counter(sample.harmful for sample in planned.files[split])
        assert harmful[True] == harmful[False] > 0
    assert not any(sample.harmful for sample in planned.files["general"])


def test_no_pair_and_no_question_is_in_train_and_test(planned: Plan) -> None:
    train, test = planned.files["train"], [s for split in SAFETY_SPLITS[1:] for s in planned.files[split]]
    trained_pairs = {frozenset(sample.objects or ()) for sample in train}
    assert trained_pairs.isdisjoint({frozenset(sample.objects or ()) for sample in test})
    asked = {sample.question for sample in train} | {sample.model_extra["explicit_question"] for sample in train}
    assert asked.isdisjoint({sample.question for sample in test})
    drawn = {image for sample in train for image in sample.images}
    assert drawn.isdisjoint({image for sample in test for image in sample.images})


def test_dropped_rows_are_reported_and_gone(planned: Plan) -> None:
    used = {(sample.provenance["table"], sample.provenance["row"]) for sample in safety(planned)}
    dropped = {(row.file, row.row) for row in planned.dropped}
    assert used.isdisjoint(dropped) and len(used) + len(dropped) == planned.rows
    leaks = [row for row in planned.dropped if "is a test pair of" in row.reason]
    assert len(leaks) < 0.05 * planned.rows
    unused = {row.id for row in planned.dropped} - {row.id for row in leaks}
    blocks = {sample.provenance["block"] for sample in planned.files["unseen"]}
    assert {name.split("-", 1)[1].rsplit("-", 1)[0] for name in unused} <= {
        block.removesuffix("-easy") for block in blocks
    }, "rows of unseen blocks that its two diagonals leave"


def test_kinds_of_unseen_are_never_trained_on_together() -> None:
    """Twenty pairs of kinds, in either order and whatever is asked; each object is still drawn in general data."""
    made = plan(icon_turns=1, both_orders=True, general_items=1_000)

    def kinds(split: str) -> set[tuple[str, ...]]:
        return {tuple(sorted(sample.provenance["kinds"])) for sample in made.files[split]}

    assert len(kinds("unseen")) == 20
    assert not kinds("unseen") & kinds("train")
    for split in ("easy", "hard", "real"):
        assert kinds(split) <= kinds("train"), "a table of the trained pairs answers these"
    known = {kind for pair in kinds("train") for kind in pair}
    by_block: dict[str, set[str]] = {}
    for sample in made.files["unseen"]:
        by_block.setdefault(sample.provenance["block"], set()).update(sample.provenance["kinds"])
    assert all(of & known for of in by_block.values()), "one kind of each block is trained on in another company"
    assert all(len(of) == 4 or block.endswith("-easy") for block, of in by_block.items())
    shown = {name for sample in made.files["general"] for name in sample.objects or ()}
    assert {name for sample in made.files["unseen"] for name in sample.objects or ()} <= shown


def test_every_unseen_item_has_its_twin_and_no_object_decides(planned: Plan) -> None:
    samples = {sample.id: sample for sample in planned.files["unseen"]}
    assert all(samples[str(sample.twin_id)].harmful != sample.harmful for sample in samples.values())
    for place in (0, 1):
        seen = Counter(
            (sample.provenance["block"], (sample.objects or [])[place], sample.harmful)
            for sample in samples.values()
            if sample.provenance["level"] == "hard"
        )
        assert all(seen[block, name, True] == seen[block, name, False] for block, name, _ in seen)


def test_hard_rows_are_a_diagonal(planned: Plan) -> None:
    for place in (0, 1):
        seen = Counter(
            (sample.provenance["block"], (sample.objects or [])[place], sample.harmful)
            for sample in planned.files["hard"]
        )
        assert set(seen.values()) == {1}, "every object once harmful and once benign in its block"


def test_styles(planned: Plan) -> None:
    styles = {split: {s.provenance["style"] for s in planned.files[split]} for split in planned.files}
    assert styles["real"] == {UNSEEN_STYLE}
    assert styles["train"] == styles["general"] == set(TRAINING_STYLES)
    assert styles["easy"] == styles["hard"] == set(TRAINED_STYLES)
    real = {(sample.id, sample.question, *(sample.objects or ())) for sample in planned.files["real"]}
    drawn = {
        (f"real-{s.id}", s.question, *(s.objects or ())) for split in ("easy", "hard") for s in planned.files[split]
    }
    untold = {f"real-{row.id}{twin}" for row in planned.not_in_real for twin in ("", "-twin")}
    assert real == {asked for asked in drawn if asked[0] not in untold}, (
        "real asks what easy and hard ask, in the unseen style"
    )
    assert untold < {asked[0] for asked in drawn}
    harmful = Counter((s.provenance["style"], s.harmful) for s in planned.files["hard"])
    assert all(harmful[style, True] == harmful[style, False] for style in TRAINED_STYLES)


def test_real_leaves_out_what_its_style_does_not_tell(planned: Plan) -> None:
    untold = UNDRAWN | LIKE_ANOTHER
    assert not any(untold & set(sample.objects or ()) for sample in planned.files["real"])
    left_out = [s for split in ("easy", "hard") for s in planned.files[split] if untold & set(s.objects or ())]
    assert {row.id for row in planned.not_in_real} == {sample.id.removesuffix("-twin") for sample in left_out}
    reasons = {row.reason for row in planned.not_in_real}
    assert {"noto has no drawing of 'shovel'", "noto draws as another thing 'princess'"} <= reasons
    with pytest.raises(DataError, match="noto has no drawing of 'harp'; draw it in another style"):
        draw("harp", "noto")


def test_the_unseen_style_draws_every_other_concept_as_no_other() -> None:
    def ink(signs: str) -> np.ndarray:
        font = str(Path(str(importlib.resources.files("manimgx_fonts"))) / "NotoEmoji[wght].ttf")
        svg = sign_svg(signs, "Noto Emoji")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=48, height=48, skip_system_fonts=True, font_files=[font])
        return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]

    box = ink("10FFFF").tobytes()
    drawn = {name: ink(concept.codepoints) for name, concept in concepts().items()}
    one_sign = {name for name, shown in drawn.items() if not shown[:, [0, -1]].any()}  # two side by side reach the rims
    assert {name for name in drawn if drawn[name].tobytes() == box or name not in one_sign} == UNDRAWN
    alike = Counter(shown.tobytes() for name, shown in drawn.items() if name not in UNDRAWN)
    assert {name for name, shown in drawn.items() if alike[shown.tobytes()] > 1} == LIKE_ANOTHER


def test_an_outline_is_a_drawing_without_its_colours() -> None:
    for name in list(concepts())[::60]:
        lines, whole = (np.asarray(draw(name, style, 64)).astype(int) for style in ("outline", "openmoji"))
        ink, shape = lines[..., 3] > 200, whole[..., 3] > 0
        assert 60 < ink.sum() < shape.sum(), name
        assert lines[ink][:, :3].max() < 60, f"{name}: lines are black"
        assert shape[ink].all(), f"{name}: lines lie where the drawing is"


def test_explicit_questions_are_for_harmful_training_items_only(planned: Plan) -> None:
    for sample in planned.files["train"]:
        assert bool(sample.model_extra["explicit_question"]) == sample.harmful
    assert not any("explicit_question" in sample.model_extra for sample in planned.files["hard"])


def test_segments_cover_every_answer(planned: Plan) -> None:
    for sample in safety(planned):
        spans = sample.model_extra["segments"]
        assert [span["kind"] for span in spans] == ["perception", "reasoning", "answer"]
        edges = [0, *(span["end"] for span in spans)]
        assert edges[:-1] == [span["start"] for span in spans] and edges[-1] == len(sample.answer or "")


def test_general_data_covers_the_concepts(planned: Plan) -> None:
    samples = planned.files["general"]
    assert {name for sample in samples for name in sample.objects or ()} == set(concepts())
    assert {len(sample.images) for sample in samples} == {1, 2, 3, 4}
    for sample in samples:
        if sample.question.startswith(("How many", "Count")):
            number = {2: "two", 3: "three", 4: "four"}[len(sample.images)]
            assert (sample.answer or "").startswith(f"There are {number} images: ")


def test_no_two_pictures_share_a_file() -> None:
    paths = [Picture(name, style, 0).path for name in concepts() for style in STYLES]
    assert len(set(paths)) == len(paths)


def test_pictures_exist_and_open(small: tuple[Path, Summary]) -> None:
    folder, summary = small
    named = set()
    for split in summary.splits:
        for sample in read_records(folder / f"{split}.jsonl", Sample):
            named |= set(sample.images)
    assert named == {path.relative_to(folder).as_posix() for path in (folder / "images").iterdir()}
    assert len(named) == summary.pictures
    for name in sorted(named):
        image = load_image(folder / name)
        assert image.size == (SIDE, SIDE)
        low, high = image.convert("L").getextrema()
        assert low < high - 40, f"{name} is blank"


def test_the_summary_counts_what_is_there(small: tuple[Path, Summary]) -> None:
    folder, summary = small
    assert Summary.model_validate_json((folder / "summary.json").read_text(encoding="utf-8")) == summary
    for split, counts in summary.splits.items():
        samples = read_records(folder / f"{split}.jsonl", Sample)
        assert (len(samples), sum(sample.harmful for sample in samples)) == (counts.items, counts.harmful)
        in_categories = sum(count for subs in counts.categories.values() for count in subs.values())
        assert in_categories == (counts.items if split in SAFETY_SPLITS else 0)
    assert is_intact(folder)


def test_what_was_left_out_is_counted_on_the_screen(small: tuple[Path, Summary], planned: Plan) -> None:
    found = small[1].model_copy(
        update={"dropped": planned.dropped, "not_in_real": planned.not_in_real, "rows": planned.rows}
    )
    screen = Console(width=160, record=True, file=io.StringIO())
    screen.print(summary(found, small[0]))
    assert f"{len(planned.dropped)} of {planned.rows} rows left out, 10 more of real" in screen.export_text()


def test_an_earlier_build_is_replaced_and_nothing_else(small: tuple[Path, Summary], tmp_path: Path) -> None:
    out = tmp_path / "data"
    construct(out, blocks={"property_crimes-easy"}, general_items=1, everyday_items=4)
    (out / "hard.jsonl").write_text("damaged")
    construct(out, blocks={"property_crimes-easy"}, general_items=1, everyday_items=4)
    assert is_intact(out)
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "no temporary folder stays behind"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="found other files"):
        construct(mine, blocks={"property_crimes-easy"})
    assert (mine / "thesis.txt").exists()


def test_a_failing_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(mis_mini, "write_records", full_disk)
    with pytest.raises(DataError, match="No space left"):
        construct(tmp_path / "data", blocks={"property_crimes-easy"}, general_items=1, everyday_items=4)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(DataError, match="found no_such_block"):
        plan(blocks={"no_such_block"})


def test_the_cached_data_is_built_once_and_again_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def few(out: Path, progress: object = None) -> Summary:
        builds.append(out)
        return construct(out, blocks={"property_crimes-easy"}, general_items=1, everyday_items=4)

    monkeypatch.setenv("MIS_CACHE", str(tmp_path))
    monkeypatch.setattr(mis_mini, "construct", few)
    folder = ensure_mini_data()
    assert ensure_mini_data() == folder and len(builds) == 1
    next((folder / "images").iterdir()).unlink()
    assert ensure_mini_data() == folder and len(builds) == 2 and is_intact(folder)
    (folder / "manifest.json").unlink()
    assert ensure_mini_data() == folder and len(builds) == 3 and is_intact(folder)


DRAWS = "Drawing MIS-Mini on this machine (once, about 20 s)"


@pytest.mark.slow
def test_of_two_that_miss_the_cached_data_one_makes_it_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second must not put its own in the place of what the first one reads already."""
    builds, said, waits = [], [], Event()

    def slow(out: Path, progress: object = None) -> Summary:
        builds.append(out)
        assert waits.wait(120)
        return construct(out, blocks={"property_crimes-easy"}, general_items=1, everyday_items=4)

    def listen(message: str) -> None:
        said.append(message)
        if message.startswith("Another process"):
            waits.set()

    monkeypatch.setenv("MIS_CACHE", str(tmp_path))
    monkeypatch.setattr(mis_mini, "construct", slow)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(ensure_mini_data, [listen, listen]))
    assert len(builds) == 1 and made[0] == made[1] and is_intact(made[0])
    assert f"Another process is making {made[0]}: waiting for it" in said and said.count(DRAWS) == 1


def test_a_cache_that_cannot_be_written_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"building .*mis-mini-.* failed: .*100 MB of free, writable disk"):
        ensure_mini_data()
