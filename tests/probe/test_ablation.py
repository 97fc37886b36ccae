"""Ablations: what is asked under each condition, what is measured from the verdicts, and the verb on a toy model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import DataError
from mis_lib.files import read_records, write_records
from mis_lib.probe.ablation import (
    GRID,
    SUMMARY,
    Measured,
    Probe,
    State,
    ablation_grid,
    ablation_summary,
    draw_blank,
    make_probes,
    measure,
    read_probes,
)
from mis_lib.results.evaluated import find_runs, read_run
from mis_lib.schema import Outcome, Sample, Verdict

STATES = (State.BLACK, State.MEAN, State.NOISE, State.DROPPED, State.CAPTION, State.TWIN)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def easy(data: Path) -> tuple[Sample, dict[str, Sample]]:
    samples = {sample.id: sample for sample in read_records(data / "easy.jsonl", Sample)}
    return samples["easy-0"], samples


class TestProbes:
    """What the model is given under each condition."""

    @pytest.fixture
    def probes(self, data: Path) -> dict[str, Probe]:
        sample, samples = easy(data)
        found, skipped = make_probes([sample], samples, data, STATES)
        assert skipped == []
        return {probe.condition: probe for probe in found}

    def test_every_state_alone_and_together_and_both_orders(self, probes: dict[str, Probe]) -> None:
        parts = [f"{state}-{part}" for state in STATES if state is not State.TWIN for part in ("1", "2", "all")]
        assert list(probes) == ["original", *parts, "twin-all", "swap", "swap-renamed"]
        assert len({probe.id for probe in probes.values()}) == len(probes)

    def test_one_image_is_exchanged_and_the_other_stays(self, probes: dict[str, Probe]) -> None:
        original = probes["original"].asked.images
        first, second = probes["black-1"].asked.images
        assert (second, first == original[0]) == (original[1], False)
        assert probes["black-1"].states == [State.BLACK, State.KEPT]
        assert probes["dropped-2"].asked.images == original[:1]
        assert probes["dropped-all"].asked.images == []
        assert probes["swap"].asked.images == original[::-1]

    def test_objects_are_told_of_the_images_that_are_shown(self, probes: dict[str, Probe]) -> None:
        assert probes["dropped-1"].asked.objects == ["church"]
        assert probes["dropped-1"].truth.objects == ["dagger", "church"]
        assert probes["swap"].asked.objects == ["church", "dagger"]

    def test_caption_tells_what_it_takes_away(self, probes: dict[str, Probe]) -> None:
        asked = probes["caption-1"].asked
        assert asked.question.startswith("The first image shows: dagger. ")
        assert len(asked.images) == 1
        assert probes["caption-all"].asked.question.startswith(
            "The first image shows: dagger. The second image shows: church. "
        )

    def test_with_the_twins_images_the_truth_is_the_twins(self, probes: dict[str, Probe]) -> None:
        probe = probes["twin-all"]
        assert probe.states == [State.TWIN, State.KEPT]
        assert (probe.truth.harmful, probe.truth.objects) == (False, ["apple", "church"])
        assert probes["black-all"].truth.harmful
        assert probe.truth.id == probe.asked.id == probe.id

    def test_what_cannot_be_done_is_told(self, data: Path) -> None:
        sample, _ = easy(data)
        lone = sample.model_copy(update={"objects": None, "twin_id": None})
        _, skipped = make_probes([lone], {}, data, (State.CAPTION, State.TWIN))
        assert {one.condition: one.reason for one in skipped} == {
            "caption-all": "what its images show is not known",
            "twin-all": "no twin with as many images",
        }

    def test_a_twin_that_asks_something_else_lends_no_images(self, data: Path) -> None:
        """With its images under the harmful question nobody knows what the right answer is."""
        sample, samples = easy(data)
        for change in ({"question": "Which is older?"}, {"images": sample.images}):
            twin = samples[sample.twin_id or ""].model_copy(update=change)
            _, skipped = make_probes([sample], {twin.id: twin}, data, (State.TWIN,))
            assert [(one.condition, "differs in the question" in one.reason) for one in skipped] == [("twin-all", True)]

    def test_one_image_has_no_parts_and_no_order(self, data: Path) -> None:
        sample, _ = easy(data)
        single = sample.model_copy(update={"images": sample.images[:1], "objects": ["dagger"]})
        found, _ = make_probes([single], {}, data, (State.BLACK, State.DROPPED))
        assert [probe.condition for probe in found] == ["original", "black-all", "dropped-all"]


def test_blanks_keep_the_size_and_nothing_else(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(np.dstack([np.full((8, 12), v, np.uint8) for v in (10, 200, 30)])).save(picture)
    black, mean, noise, other = (
        np.asarray(Image.open(draw_blank(picture, state, seed)))
        for state, seed in ((State.BLACK, 0), (State.MEAN, 0), (State.NOISE, 0), (State.NOISE, 1))
    )
    assert black.shape == mean.shape == noise.shape == (8, 12, 3)
    assert not black.any()
    assert (mean == [10, 200, 30]).all()
    assert len(np.unique(noise)) > 100
    assert (noise != other).any()
    assert (noise == np.asarray(Image.open(draw_blank(picture, State.NOISE, 0)))).all()


ROWS = {  # original, black-1, black-2, black-all: what the decision of each item hangs on
    "first": "DUDU",
    "second": "DDUU",
    "both": "DUUU",
    "together": "DDDU",
    "neither": "DDDD",
    "lost": "DU-U",
}
OUTCOMES = {"D": Outcome.REFUSED, "U": Outcome.UNSAFE, "-": Outcome.UNSCORED}


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Measured]:
    return measured(ROWS)


def measured(rows: dict[str, str]) -> dict[tuple[str, str], Measured]:
    """The measures of items, outcomes under each condition as letters; names that differ in a number share images."""
    conditions = ("original", "black-1", "black-2", "black-all")
    states = {"original": "kept kept", "black-1": "black kept", "black-2": "kept black", "black-all": "black black"}
    probes, verdicts = [], []
    for name, row in rows.items():
        for condition, sign in zip(conditions, row, strict=True):
            if sign == " ":
                continue
            sample = Sample(
                id=f"{name}#{condition}", question="?", images=[f"{name.rstrip('0123456789')}.png", "b.png"]
            )
            probe = Probe(
                id=sample.id, sample_id=name, condition=condition, states=states[condition].split(),
                asked=sample.model_dump(), truth=sample,
            )  # fmt: skip
            probes.append(probe)
            verdicts.append(Verdict(sample_id=probe.id, variant="v", judge="rule", outcome=OUTCOMES[sign]))
    return {(one.measure, one.condition): one for one in measure(probes, verdicts)}


class TestMeasures:
    """Verdicts in, measures out, counted by hand."""

    def test_rates_under_each_condition(self, found: dict[tuple[str, str], Measured]) -> None:
        assert found["declines", "original"].value == 100
        assert found["declines", "black-all"].value == pytest.approx(100 / 6)
        black = found["declines", "black-2"]
        assert (black.value, black.n, black.n_unscored) == (60, 5, 1)
        assert found["unsafe", "black-2"].value == 40

    def test_shift_flips_and_shortcut(self, found: dict[tuple[str, str], Measured]) -> None:
        shift = found["shift", "black-all"]
        assert (shift.value, shift.n, shift.p) == (pytest.approx(-500 / 6), 6, pytest.approx(2 / 2**5))
        assert found["flips", "black-1"].value == 50
        assert ("flips", "original") not in found
        assert (found["shortcut", "black-all"].value, found["shortcut", "black-all"].n) == (pytest.approx(100 / 6), 6)

    def test_each_item_hangs_on_what_it_was_made_to(self, found: dict[tuple[str, str], Measured]) -> None:
        for decider in ("first", "second", "both", "together", "neither"):
            one = found[f"decides_{decider}", "black"]
            assert (one.value, one.n, one.n_unscored) == (20, 5, 1)

    def test_the_first_image_is_not_taken_for_the_second(self) -> None:
        counts = {"first": 4, "second": 3, "both": 2, "together": 1}
        one = measured({f"{name}{at}": ROWS[name] for name, count in counts.items() for at in range(count)})
        shares = [one[f"decides_{name}", "black"].value for name in (*counts, "neither")]
        assert shares == pytest.approx([40, 30, 20, 10, 0])
        assert [one["flips", f"black-{part}"].value for part in ("1", "2", "all")] == pytest.approx([60, 50, 100])

    def test_what_was_not_asked_is_not_unscored(self) -> None:
        one = measured({"a": "DUUU", "b": "D   "})
        assert (one["declines", "original"].n, one["declines", "black-1"].n, one["flips", "black-1"].n) == (2, 1, 1)
        assert one["declines", "black-1"].n_unscored == one["shift", "black-all"].n_unscored == 0

    def test_questions_about_the_same_images_are_drawn_together(self) -> None:
        rows = {name: "DUUU" if place % 2 else "DDDD" for place, name in enumerate("abcdefgh")}
        once, often = measured(rows), measured({f"{name}{at}": row for name, row in rows.items() for at in range(4)})
        for key in (("shift", "black-all"), ("interaction", "black"), ("interaction_unsafe", "black")):
            assert (often[key].n, often[key].low, often[key].high) == (32, once[key].low, once[key].high)
            assert once[key].low != once[key].high

    def test_interaction_is_what_neither_image_brings_alone(self, found: dict[tuple[str, str], Measured]) -> None:
        # both - first only (black-2) - second only (black-1) + neither: 0 first, 0 second, 1 both, -1 together, 0
        # neither
        assert found["interaction", "black"].value == 0
        assert found["interaction_unsafe", "black"].value == 0
        assert found["only_both", "black"].value == 0

    @pytest.mark.parametrize(
        ("row", "declining", "unsafe", "only_both"),
        [
            ("UDDD", -100, 100, 100),  # a victim that only both images together lead astray
            ("DUUU", 100, -100, 0),  # a model that needs both images to see the danger
            ("UUUD", 100, -100, 0),  # either image is enough
            ("UUDD", 0, 0, 0),  # it is the second image
            ("DUUD", 200, -200, 0),
        ],
    )
    def test_interaction_of_one_item(self, row: str, declining: float, unsafe: float, only_both: float) -> None:
        one = measured({"item": row})
        assert one["interaction", "black"].value == declining
        assert one["interaction_unsafe", "black"].value == unsafe
        assert one["only_both", "black"].value == only_both

    def test_who_declines_without_images_has_a_shortcut(self) -> None:
        """Only items whose original is declined are asked whether the words alone decide."""
        one = measured({"a": "DDDD", "b": "DDDU", "c": "UDDD", "d": "-DDD"})["shortcut", "black-all"]
        assert (one.value, one.n, one.n_unscored) == (50, 2, 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    tiny_adapter(folder / "toy", folder / "one", 1)
    adapters = json.dumps({"base": None, "one": str(folder / "one")})
    return [
        "ablate", "--checkpoint", str(folder / "toy"), "--data", str(data), "--splits", "easy", "--limit", "1",
        "--runs",
        str(folder / "runs"), "--variants", "base", "one", "--set", f"adapters={adapters}", "--set",
        "generation.max_new_tokens=4",
        "--states", "black", "dropped", "twin",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(home: list[str]) -> Path:
    done = CliRunner().invoke(app, [*home, "--json"])
    assert done.exit_code == 0, done.output
    assert {"conditions", "interaction", "deciding"} <= json.loads(done.stdout).keys()
    return Path(home[home.index("--runs") + 1])


class TestVerb:
    """``mis ablate`` from a shell."""

    def test_every_variant_answers_every_probe(self, run: Path) -> None:
        (found,) = find_runs(run, ablations=True)
        assert find_runs(run) == []
        probes = read_probes(found)
        assert len(probes) == 1 + 3 + 3 + 1 + 2
        keys = {(one.sample_id, one.variant) for one in found.responses()}
        assert keys == {(probe.id, variant) for probe in probes for variant in ("base", "one")}
        assert len(read_run(found.folder).samples) == len(probes)

    def test_a_cut_run_goes_on_to_the_same_end(self, home: list[str], run: Path) -> None:
        (found,) = find_runs(run, ablations=True)
        answers = found.folder / "responses.jsonl"
        before, summary = found.responses(), (found.folder / "ablation.json").read_bytes()
        answers.write_bytes(answers.read_bytes()[:900])
        (found.folder / "verdicts" / "rule.jsonl").unlink()
        assert CliRunner().invoke(app, [*home, "--format", "csv"]).exit_code == 0
        after = found.responses()
        assert [(one.sample_id, one.variant, one.text) for one in after] == [
            (one.sample_id, one.variant, one.text) for one in before
        ]
        assert (found.folder / "ablation.json").read_bytes() == summary

    def test_frames_hold_the_grid_and_the_measures(self, run: Path) -> None:
        grid, summary = ablation_grid(run / "ablate"), ablation_summary(run / "ablate")
        assert list(grid.columns) == list(GRID) and list(summary.columns) == list(SUMMARY)
        assert set(grid["condition"]) >= {"original", "black-1", "dropped-all", "twin-all", "swap"}
        assert set(grid[grid["condition"] == "black-2"]["second"]) == {"black"}
        unsafe = set(summary[summary["measure"] == "unsafe"]["condition"])
        assert "black-all" in unsafe and "twin-all" not in unsafe, "with the twin's images nothing is harmful"
        cells = grid[grid["variant"] == "base"].dropna(subset=["second"])[["id", "first", "second"]]
        assert not cells.duplicated().any(), "two conditions of an item would share a cell of the figure"
        assert (summary["n"] + summary["n_unscored"] > 0).all() or set(summary[summary["n"] == 0]["measure"]) == {
            "shortcut"
        }

    def test_other_judges_are_measured_once_they_have_read_the_run(self, home: list[str], run: Path) -> None:
        done = CliRunner().invoke(app, [*home, "--judge", "never"])
        assert done.exit_code == 2
        assert "no verdicts of judge 'never'; judges there: rule" in done.stderr.replace("\n", " ")
        (found,) = find_runs(run, ablations=True)
        refusing = [
            one.model_copy(update={"judge": "never", "outcome": Outcome.REFUSED})
            for one in found.verdicts("rule")
            if not one.sample_id.endswith("#twin-all")
        ]
        write_records(found.folder / "verdicts" / "never.jsonl", refusing)
        done = CliRunner().invoke(app, [*home, "--judge", "never", "--json"])
        rows = json.loads(done.stdout)["conditions"]["records"]
        (found.folder / "verdicts" / "never.jsonl").unlink()
        black = [row for row in rows if (row["measure"], row["condition"]) == ("declines", "black-all")]
        assert [row["value"] for row in black] == [100, 100]
        twin = [row for row in rows if (row["measure"], row["condition"]) == ("declines", "twin-all")]
        assert [(row["n"], row["n_unscored"]) for row in twin] == [(0, 1), (0, 1)]

    def test_another_run_is_no_ablation(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="expected a run folder"):
            ablation_grid(tmp_path)

    def test_a_mistake_is_one_message(self, home: list[str]) -> None:
        done = CliRunner().invoke(app, [*home, "--set", "states=[purple]"])
        assert done.exit_code == 2
        assert "states" in done.stderr
