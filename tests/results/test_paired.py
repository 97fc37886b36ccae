"""Two sides on the same items: what flipped, tests counted by hand, and what a comparison must not depend on."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mis_lib.errors import DataError, SettingsError
from mis_lib.results.evaluated import Evaluated
from mis_lib.results.frames import flip_matrix
from mis_lib.results.frames import flips as flip_frame
from mis_lib.results.paired import FLIPS, Side, compare, flips
from mis_lib.results.report_tables import find_side, paired_tables
from mis_lib.results.runs import Run
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome, Response, Sample, Verdict

UNSAFE, REASONED, REFUSED, HELPED, OVER, UNSCORED = (
    Outcome.UNSAFE, Outcome.REASONED, Outcome.REFUSED, Outcome.HELPED, Outcome.OVER_REFUSED, Outcome.UNSCORED,
)  # fmt: skip


def samples(pairs: int, *, question: str = "How?") -> list[Sample]:
    found = []
    for i in range(pairs):
        images = [f"{i}a.png", f"{i}b.png"]
        shared = {"question": question, "category": "C", "split": "hard"}
        found.append(Sample(id=f"h{i}", images=images, harmful=True, twin_id=f"b{i}", **shared))
        found.append(Sample(id=f"b{i}", images=[images[0], "x.png"], harmful=False, twin_id=f"h{i}", **shared))
    return found


def evaluated(
    outcomes: dict[str, list[Outcome]], *, name: str = "r", judge: str = "rule", question: str = "How?"
) -> Evaluated:
    """A run in which each variant has the outcomes given, harmful and benign items in turn."""
    asked = samples(len(next(iter(outcomes.values()))) // 2, question=question)
    verdicts = [
        Verdict(sample_id=sample.id, variant=variant, judge=judge, outcome=outcome)
        for variant, row in outcomes.items()
        for sample, outcome in zip(asked, row, strict=True)
    ]
    said = [
        Response(sample_id=v.sample_id, variant=v.variant, text="t", tokens=1, seconds=0, finish_reason="stop")
        for v in verdicts
    ]
    return Evaluated(Run(Path("runs") / name / "v1"), judge, asked, said, verdicts)


BEFORE = [UNSAFE, HELPED, UNSAFE, HELPED, UNSAFE, OVER, REFUSED, OVER, UNSAFE, UNSCORED]
AFTER = [REASONED, HELPED, REFUSED, OVER, UNSAFE, HELPED, UNSAFE, OVER, UNSCORED, HELPED]
KINDS = [
    "fixed", "still_not_refusing", "fixed", "newly_over_refusing", "still_unsafe", "no_longer_over_refusing", "broken",
    "still_over_refusing", "unscored", "unscored",
]  # fmt: skip


@pytest.fixture
def both() -> tuple[Side, Side]:
    run = evaluated({"base": BEFORE, "tuned": AFTER})
    return Side(run, "base"), Side(run, "tuned")


def test_each_item_is_one_kind_of_flip(both: tuple[Side, Side]) -> None:
    assert [flip.kind for flip in flips(*both)] == KINDS
    assert set(KINDS) <= set(FLIPS)


def test_differences_are_those_counted_by_hand(both: tuple[Side, Side]) -> None:
    found = {row.metric: row for row in compare(*both)}
    asr = found["asr"]
    assert (asr.before.value, asr.after.value, asr.before.n, asr.before.n_unscored) == (75, 50, 4, 1)
    assert asr.difference.value == -25
    assert (asr.fixed, asr.broken, asr.p) == (2, 1, 1.0)
    refusing = found["over_refusal"]
    assert (refusing.before.value, refusing.after.value, refusing.fixed, refusing.broken) == (50, 50, 1, 1)
    assert (found["rsr"].fixed, found["rsr"].broken) == (1, 0)
    pair = found["pair"]  # right: after, the first pair only
    assert (pair.before.value, pair.after.value, pair.before.n, pair.before.n_unscored) == (0, 25, 4, 1)


def test_a_clear_effect_has_the_p_of_the_coin() -> None:
    run = evaluated({"a": [UNSAFE, HELPED] * 10, "b": [REASONED, HELPED] * 10})
    (asr,) = compare(Side(run, "a"), Side(run, "b"), metrics=["asr"])
    assert asr.p == pytest.approx(2 / 2**10)
    assert (asr.difference.value, asr.difference.low) == (-100, None)  # all alike: no interval is made up


def test_all_groups_together_come_last_and_every_row_is_corrected_for() -> None:
    run = evaluated({"a": [UNSAFE, HELPED] * 12, "b": [REASONED, HELPED] * 12})
    one = compare(Side(run, "a"), Side(run, "b"), metrics=["asr", "over_refusal"])
    assert [row.group for row in one] == ["hard"] * 2, "one group is all of them"
    easy = [s.model_copy(update={"split": "easy"}) if int(s.id[1:]) < 5 else s for s in run.samples]
    split = Evaluated(run.run, run.judge, easy, run.responses, run.verdicts)
    rows = compare(Side(split, "a"), Side(split, "b"), metrics=["asr"])
    assert [(row.group, row.before.n) for row in rows] == [("easy", 5), ("hard", 7), ("all", 12)]
    ps = [2 / 2**n for n in (5, 7, 12)]
    assert [row.p for row in rows] == pytest.approx(ps)
    assert [row.p_holm for row in rows] == pytest.approx([ps[0], 2 * ps[1], 3 * ps[2]])
    run = evaluated({"a": [UNSAFE, UNSCORED] * 12, "b": [REASONED, HELPED] * 12})
    asr, nothing = compare(Side(run, "a"), Side(run, "b"), metrics=["asr", "over_refusal"])
    assert (nothing.before.n, nothing.before.n_unscored) == (0, 12)
    assert asr.p_holm == asr.p, "where nothing was scored nothing was tested"


def test_pairs_about_the_same_images_are_drawn_together() -> None:
    images = [(f"{i}a.png", f"{i}b.png") for i in range(12) for _ in range(4)]  # four questions about each image pair
    asked, verdicts = [], []
    for i, pair in enumerate(images):
        for harmful, shown in zip((True, False), pair, strict=True):
            key, twin = (f"h{i}", f"b{i}") if harmful else (f"b{i}", f"h{i}")
            asked.append(Sample(id=key, twin_id=twin, question=f"{i}?", images=[shown], harmful=harmful, split="chat"))
            better = REASONED if i // 4 % 2 else UNSAFE
            for variant, outcome in {"a": UNSAFE, "b": better}.items():
                verdicts.append(
                    Verdict(sample_id=key, variant=variant, judge="rule", outcome=outcome if harmful else HELPED)
                )
    said = [
        Response(sample_id=v.sample_id, variant=v.variant, text="t", tokens=1, seconds=0, finish_reason="stop")
        for v in verdicts
    ]
    run = Evaluated(Run(Path("runs/r/v1")), "rule", asked, said, verdicts)
    asr, pair = compare(Side(run, "a"), Side(run, "b"), metrics=["asr", "pair"])
    assert (pair.difference.value, pair.difference.low, pair.difference.high) == (
        -(asr.difference.value or 0), -(asr.difference.high or 0), -(asr.difference.low or 0),
    )  # fmt: skip


OUTCOMES = st.lists(
    st.tuples(
        *(st.sampled_from([*kind, UNSCORED]) for kind in 2 * (HARMFUL_OUTCOMES, BENIGN_OUTCOMES))
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=6)
@given(OUTCOMES)
def test_turning_the_sides_round_turns_the_signs_round(rows: list[tuple[Outcome, ...]]) -> None:
    before = [outcome for row in rows for outcome in row[:2]]
    after = [outcome for row in rows for outcome in row[2:]]
    run = evaluated({"a": before, "b": after})
    metrics = ("asr", "over_refusal", "pair")
    there = compare(Side(run, "a"), Side(run, "b"), metrics=metrics)
    back = compare(Side(run, "b"), Side(run, "a"), metrics=metrics)
    assert sum(1 for flip in flips(Side(run, "a"), Side(run, "b")) if flip.kind in FLIPS) == len(before)
    for one, other in zip(there, back, strict=True):
        assert (one.fixed, one.broken, one.p, one.p_holm) == (other.broken, other.fixed, other.p, other.p_holm)
        if one.difference.value is None or other.difference.value is None:
            assert one.before.n == 0
            continue
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert one.difference.value == pytest.approx((one.after.value or 0) - (one.before.value or 0))
        assert one.p_holm >= one.p
    same = compare(Side(run, "a"), Side(run, "a"), metrics=metrics)
    assert {(row.fixed, row.broken, row.p) for row in same} == {(0, 0, 1.0)}


def test_two_runs_are_compared_on_what_both_answered() -> None:
    first, second = evaluated({"m": BEFORE}), evaluated({"m": AFTER[:6]}, name="other")
    found = flips(Side(first, "m"), Side(second, "m"))
    assert [flip.kind for flip in found] == KINDS[:6]


def test_what_cannot_be_compared_is_refused(both: tuple[Side, Side]) -> None:
    with pytest.raises(SettingsError, match="expected one judge for both sides, found rule and guard"):
        flips(both[0], Side(evaluated({"base": BEFORE}, judge="guard"), "base"))
    with pytest.raises(DataError, match="'h0' is not the same in r/v1 and q/v1"):
        flips(both[0], Side(evaluated({"base": BEFORE}, name="q", question="Why?"), "base"))
    apart = replace(both[0].evaluated, samples=[])
    with pytest.raises(SettingsError, match="expected items that both answered, found none"):
        flips(both[0], Side(apart, "base"))
    with pytest.raises(SettingsError, match="unknown variant 'nobody'; it holds base, tuned"):
        flips(both[0], Side(both[0].evaluated, "nobody"))


def test_sides_are_found_by_name(both: tuple[Side, Side]) -> None:
    run, other = both[0].evaluated, evaluated({"base": BEFORE}, name="other")
    assert find_side("tuned", [run, other]).label == "r/v1:tuned"
    assert find_side("other:base", [run, other]).label == "other/v1:base"
    for text, message in {"base": "several runs have it", "x:base": "no run 'x'", "r:z": "unknown variant 'z'"}.items():
        with pytest.raises(SettingsError, match=message):
            find_side(text, [run, other])


def test_frames_and_sheets_hold_every_item(both: tuple[Side, Side]) -> None:
    frame = flip_frame(*both)
    matrix = flip_matrix(frame)
    assert matrix["n"].sum() == len(frame) == 10
    assert sorted(one for ids in matrix["ids"] for one in ids) == sorted(frame["id"])
    moved, tested = paired_tables(*both)
    assert "sign-flip test, both by block or image pair" in tested.note
    assert len(moved.records) == 10
    assert {row[0] for row in moved.cells} >= {"fixed, 2", "broken, 1"}
    assert {record["metric"] for record in tested.records} >= {"asr", "pair"}
    assert len(flip_matrix(frame.head(0))) == 0
