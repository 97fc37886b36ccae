"""Intervals and tests against values known from elsewhere, and what may and may not change them."""

import math
import random
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mis_lib.errors import SettingsError
from mis_lib.results.stats import Interval, cluster_mean, holm, rate, sign_flip_exact


def binomial_tail(one_way: int, other_way: int) -> float:
    """Two-sided p of a fair coin, counted out in whole numbers."""
    n, few = one_way + other_way, min(one_way, other_way)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)


def test_mcnemar_of_a_textbook_table() -> None:
    # approval ratings of Agresti, Categorical Data Analysis: 150 and 86 changed their minds; R's exact2x2 prints
    # 3.716e-05
    assert alone(150, 86) == pytest.approx(3.716e-05, rel=1e-3)


def alone(one_way: int, other_way: int, unchanged: int = 7) -> float:
    values = [1] * one_way + [-1] * other_way + [0] * unchanged
    return sign_flip_exact(values, range(len(values)))


@given(st.integers(0, 60), st.integers(0, 60))
def test_of_single_items_the_sign_flip_test_is_mcnemars(one_way: int, other_way: int) -> None:
    assert alone(one_way, other_way) == pytest.approx(binomial_tail(one_way, other_way))
    assert alone(one_way, other_way) == alone(other_way, one_way)
    expected = mcnemar([[0, one_way], [other_way, 0]], exact=True)
    assert alone(one_way, other_way) == pytest.approx(expected.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_clusters_flip_as_one() -> None:
    """Sums 3, 3 and -1: of eight signs, totals 7, 5, 1, -1, 1, -1, -5, -7; four are at least 5 from 0."""
    values, clusters = [1] * 6 + [-1], list("aaabbbc")
    assert sign_flip_exact(values, clusters) == pytest.approx(4 / 8)
    assert alone(6, 1) == pytest.approx(0.125)  # as if seven items had been independent
    assert sign_flip_exact([1] * 6, list("aaabbb")) == pytest.approx(2 / 4)
    assert sign_flip_exact([1, -1, 0], list("aab")) == 1
    assert sign_flip_exact([], []) == 1


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 4)), max_size=14))
def test_the_sign_flip_test_counts_all_signs(items: list[tuple[int, int]]) -> None:
    values, clusters = [value for value, _ in items], [cluster for _, cluster in items]
    sums = [sum(value for value, place in items if place == cluster) for cluster in set(clusters)]
    totals = [sum(map(math.prod, zip(sums, signs, strict=True))) for signs in product((1, -1), repeat=len(sums))]
    share = sum(abs(total) >= abs(sum(values)) for total in totals) / len(totals)
    assert sign_flip_exact(values, clusters) == pytest.approx(share)


def test_every_value_has_a_cluster() -> None:
    with pytest.raises(SettingsError, match="found 1 for 2"):
        sign_flip_exact([1, 0], ["a"])


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(max_examples=10)  # each collects garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_what_statsmodels_makes_of_it(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
@example(5, 14, 0)  # 19 x 26.3 % is a little less than 5
def test_unscored_items_widen_what_may_be_and_leave_the_rate(hits: int, misses: int, unscored: int) -> None:
    found, n = rate(hits, hits + misses, unscored), hits + misses + unscored
    low, high = found.worst
    assert found.hits == hits
    assert (low, high) == ((0, 100) if n == 0 else (100 * hits / n, 100 * (hits + unscored) / n))
    assert found.value is None or low - 1e-9 <= found.value <= high + 1e-9
    assert rate(hits, hits + misses).value == found.value


def test_bootstrap_of_single_items_has_the_width_of_the_normal_interval() -> None:
    values = [1.0] * 120 + [0.0] * 280
    found = cluster_mean(values, range(400))
    half = 196 * math.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(30)
    assert found.low == pytest.approx(30 - half, abs=0.6)
    assert found.high == pytest.approx(30 + half, abs=0.6)


def test_items_of_one_cluster_count_once() -> None:
    """Asking each question four times gives four times the items and no bit more certainty."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    once = cluster_mean(values, range(8))
    assert cluster_mean(values * 4, list(range(8)) * 4) == once
    alone = cluster_mean(values * 4, range(32))
    assert once.high - once.low > 1.5 * (alone.high - alone.low)


def test_a_cluster_is_drawn_with_its_size() -> None:
    """No draw's mean leaves the range of the clusters' own, as with a large cluster's hits over a small one's size."""
    found = cluster_mean([1.0] * 9 + [0.0, 1.0], "a" * 9 + "bb")
    assert found.value == pytest.approx(1000 / 11)
    assert (found.low, found.high) == (50, 100)


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 5)), max_size=20), st.randoms())
def test_order_of_items_plays_no_part(items: list[tuple[int, int]], dice: random.Random) -> None:
    before = cluster_mean([value for value, _ in items], [cluster for _, cluster in items])
    dice.shuffle(items)
    assert cluster_mean([value for value, _ in items], [cluster for _, cluster in items]) == before


def test_where_all_clusters_are_alike_there_is_no_interval() -> None:
    assert cluster_mean([1, 1, 1], "abc") == Interval(value=100, low=None, high=None)
    assert cluster_mean([1, 0], "aa") == Interval(value=50, low=None, high=None)
    assert cluster_mean([1, 1, 1], "aab") == Interval(value=100, low=None, high=None), (
        "of unequal size, and still alike"
    )
    assert cluster_mean([], []) == Interval(value=None, low=None, high=None)


def test_each_value_needs_a_cluster() -> None:
    with pytest.raises(SettingsError, match="found 1 for 2"):
        cluster_mean([1, 0], "a")
