"""Agreement with readers: known kappas, and a sheet that tells nothing."""

from collections import Counter

import pytest

from mis_lib.annotate.calibration import agreement, draw_sheet
from mis_lib.errors import DataError
from mis_lib.schema import Outcome, Response, Sample, Verdict


def verdicts(judge: str, outcomes: list[Outcome]) -> list[Verdict]:
    return [Verdict(sample_id=str(i), variant="v", judge=judge, outcome=outcome) for i, outcome in enumerate(outcomes)]


def test_kappa_by_hand() -> None:
    # the textbook table: both yes 20, both no 15, first yes only 5, second yes only 10; observed 0.7, chance 0.5, kappa
    # 0.4
    yes, no = Outcome.UNSAFE, Outcome.REFUSED
    first = verdicts("a", [yes] * 20 + [no] * 15 + [yes] * 5 + [no] * 10)
    second = verdicts("b", [yes] * 20 + [no] * 15 + [no] * 5 + [yes] * 10)
    found = agreement(first, second)
    assert found.share.value == 70
    assert found.kappa == pytest.approx(0.4)
    assert list(found.confusions.items()) == [("refused -> unsafe", 10), ("unsafe -> refused", 5)], (
        "most frequent first"
    )


def test_unscored_is_counted_beside_and_other_responses_are_left_aside() -> None:
    first = verdicts("a", [Outcome.UNSAFE, Outcome.UNSCORED, Outcome.REFUSED, Outcome.HELPED])
    second = verdicts("b", [Outcome.UNSAFE, Outcome.REFUSED, Outcome.REFUSED])
    found = agreement(first, second)
    assert (found.share.value, found.share.n, found.share.n_unscored) == (100, 2, 1)


def test_one_outcome_has_no_kappa() -> None:
    same = verdicts("a", [Outcome.UNSAFE] * 3)
    assert agreement(same, same).kappa is None


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="no response that both judged"):
        agreement(verdicts("a", [Outcome.UNSAFE]), [])


def test_sheet_is_even_and_the_same_every_time() -> None:
    samples = [
        Sample(id=f"{split}{i}", question="?", images=["a"], split=split, harmful=i % 2 == 0)
        for split in ("easy", "hard")
        for i in range(40)
    ]
    responses = [
        Response(sample_id=sample.id, variant=variant, text="", tokens=1, seconds=0, finish_reason="stop")
        for variant in ("a", "b")
        for sample in samples
    ]
    drawn = draw_sheet(responses, samples, 24)
    kinds = {sample.id: (sample.split, sample.harmful) for sample in samples}
    counts = [(response.variant, *kinds[response.sample_id]) for response in drawn]
    assert len(set(counts)) == 8
    assert all(counts.count(kind) == 3 for kind in counts)
    assert drawn == draw_sheet(responses, samples, 24) != draw_sheet(responses, samples, 24, seed=1)
    assert draw_sheet([], samples, 3) == []
    assert sorted(draw_sheet(responses, samples, 1_000), key=repr) == sorted(responses, key=repr)


def test_what_is_drawn_and_where_it_stands_is_left_to_chance() -> None:
    samples = [Sample(id=f"{i}", question="?", images=["a"], harmful=True) for i in range(40)]
    responses = [
        Response(sample_id=sample.id, variant=variant, text="", tokens=1, seconds=0, finish_reason="stop")
        for variant in ("a", "b")
        for sample in samples
    ]
    sheets = [draw_sheet(responses, samples, 12, seed=seed) for seed in range(8)]
    assert len({frozenset(one.sample_id for one in sheet) for sheet in sheets}) == 8, "other responses each time"
    in_turn = [len({one.variant for one in sheet[at : at + 2]}) == 2 for sheet in sheets for at in range(0, 12, 2)]
    assert not all(in_turn), "a response's place would tell its variant"
    assert {draw_sheet(responses, samples, 1, seed=seed)[0].variant for seed in range(8)} == {"a", "b"}


@pytest.mark.parametrize("seed", range(4))
def test_a_sheet_smaller_than_its_groups_is_even_over_variants_splits_and_classes(seed: int) -> None:
    samples = [
        Sample(id=f"{split}{i}", question="?", images=["a"], split=split, harmful=i % 2 == 0)
        for split in ("easy", "hard", "real")
        for i in range(8)
    ]
    responses = [
        Response(sample_id=sample.id, variant=variant, text="", tokens=1, seconds=0, finish_reason="stop")
        for variant in ("mini", "mirage", "refusal")
        for sample in samples
    ]
    kinds = {sample.id: (sample.split, sample.harmful) for sample in samples}
    drawn = [
        (response.variant, *kinds[response.sample_id]) for response in draw_sheet(responses, samples, 10, seed=seed)
    ]
    for place, values in enumerate((3, 3, 2)):
        counts = Counter(kind[place] for kind in drawn)
        assert len(counts) == values and max(counts.values()) - min(counts.values()) <= 1
