"""What judges are worth: the corrected rate against hand-made numbers and simulations, and routers that save calls."""

import json
import math
import random
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mis_lib.annotate.calibration import calibrate, calibrated_rate, read_people
from mis_lib.annotate.decisions import Decision, Subject
from mis_lib.annotate.store import AnnotationStore
from mis_lib.annotate.worklist import at_random
from mis_lib.cli.main import app
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import append_record, open_append, write_records
from mis_lib.judge.protocol import JudgeInput, Ruling
from mis_lib.judge.routing import (
    STATE,
    SURFACE,
    RoutedJudge,
    entropy,
    features_of,
    read_router,
    write_router,
)
from mis_lib.judge.rule import RuleJudge, WordsJudge
from mis_lib.recipes.judgements import annotated, calibration_table, route
from mis_lib.results.routers import COMPONENTS, Measured, Routed, gather, measure, temperature, train_router
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.schema import Outcome, Response, Sample, Verdict


def verdict(sample: str, unsafe: bool | None, judge: str = "j", score: float | None = None) -> Verdict:
    outcome = Outcome.UNSCORED if unsafe is None else Outcome.UNSAFE if unsafe else Outcome.REFUSED
    return Verdict(sample_id=sample, variant="v", judge=judge, outcome=outcome, score=score)


def sample(name: str, harmful: bool = True) -> Sample:
    return Sample(id=name, question="How?", images=["a.png"], harmful=harmful)


class TestCalibratedRate:
    """PPI++."""

    def test_a_perfect_judge_is_taken_nearly_at_its_word(self) -> None:
        labels = [True] * 30 + [False] * 70
        rate, weight = calibrated_rate(labels, labels, [True] * 300 + [False] * 700)
        assert rate.value == pytest.approx(30)
        assert 0.85 < weight <= 1
        alone, _ = calibrated_rate(labels, [False] * 100, [False] * 1000)
        assert rate.high - rate.low < 0.6 * (alone.high - alone.low)

    def test_a_useless_judge_is_left_aside(self) -> None:
        dice = random.Random(0)
        labels = [dice.random() < 0.4 for _ in range(200)]
        guesses = [dice.random() < 0.5 for _ in range(200)]
        rate, weight = calibrated_rate(labels, guesses, [dice.random() < 0.5 for _ in range(2000)])
        assert weight < 0.25
        assert rate.value == pytest.approx(100 * sum(labels) / 200, abs=3)

    def test_the_bias_of_a_judge_is_taken_out(self) -> None:
        """By hand: people call 2 of 4 unsafe, the judge 1 of them, and 2 of 8 of the others."""
        y, f, rest = [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]
        rate, weight = calibrated_rate([bool(v) for v in y], [bool(v) for v in f], [bool(v) for v in rest])
        spread = np.var([*f, *rest], ddof=1)
        assert weight == pytest.approx((1 / 6) / ((1 + 4 / 8) * spread))  # covariance of y and f is 1/6
        assert rate.value == pytest.approx(100 * (0.5 + weight * (0.25 - 0.25)))
        assert rate.n == 4

    def test_without_unlabelled_responses_it_is_people_alone(self) -> None:
        rate, weight = calibrated_rate([True, False], [True, True], [])
        assert (rate.value, weight) == (50.0, 0.0)
        assert calibrated_rate([True, False], [True, False], [])[1] == 0
        assert calibrated_rate([True], [True], [True, False])[1] == 0, "one label tells of no covariance"

    def test_the_interval_by_hand(self) -> None:
        """The judge calls 24 of 60 labelled responses unsafe, 30 of 50 others; people 30 of 60, it found 22 of them."""
        y, f = [1] * 30 + [0] * 30, [1] * 22 + [0] * 8 + [1] * 2 + [0] * 28
        rest = [1] * 30 + [0] * 20
        rate, weight = calibrated_rate([bool(v) for v in y], [bool(v) for v in f], [bool(v) for v in rest])
        value = 0.5 + weight * (30 / 50 - 24 / 60)
        errors = [a - weight * b for a, b in zip(y, f, strict=True)]
        middle = statistics.mean(errors)
        variance = statistics.variance([*errors, middle + 1, middle - 1]) / 60
        variance += weight**2 * statistics.variance([*f, *rest]) / 50
        half = 1.959964 * math.sqrt(variance)
        assert 0.2 < weight < 0.6
        assert (rate.value, rate.low, rate.high) == pytest.approx(
            [100 * one for one in (value, value - half, value + half)]
        )

    def test_a_few_labels_without_error_are_no_certainty(self) -> None:
        rate, _ = calibrated_rate([False] * 10, [False] * 10, [False] * 90)
        assert (rate.value, rate.low) == (0.0, 0.0)
        assert rate.high > 15

    def test_the_interval_covers_the_truth_as_often_as_it_says(self) -> None:
        draws, covered = np.random.default_rng(0), 0
        for _ in range(400):
            truth = draws.random(600) < 0.3
            judge = np.where(draws.random(600) < 0.85, truth, ~truth)  # wrong in 15 of 100: its own rate would be 40.5
            labelled = draws.permutation(600)[:80]
            rest = np.setdiff1d(np.arange(600), labelled)
            rate, _ = calibrated_rate(truth[labelled].tolist(), judge[labelled].tolist(), judge[rest].tolist())
            covered += rate.low <= 30 <= rate.high
        assert 0.92 <= covered / 400 <= 0.995

    def test_mistakes(self) -> None:
        with pytest.raises(DataError, match="expected a prediction for each"):
            calibrated_rate([True], [], [])


def queue(*, fails: bool = False) -> tuple[list[Sample], list[Verdict], dict[str, bool], list[str]]:
    """500 responses, 32 % of them unsafe, a judge wrong on 6 %, and their names in the order of the app, worst first.

    With ``fails`` the judge cannot score every fourth response, whatever it is, and those come first.
    """
    draws = np.random.default_rng(2)
    names = [str(i) for i in range(500)]
    truth = {name: bool(draws.random() < 0.3) for name in names}
    said = {
        name: None if fails and draws.random() < 0.25 else truth[name] ^ bool(draws.random() < 0.06) for name in names
    }
    worth = {None: 3, True: 1, False: 0}
    order = sorted(names, key=lambda name: (-worth[said[name]], at_random(("r/v1", name, "v"))))
    return [sample(name) for name in names], [verdict(name, said[name]) for name in names], truth, order


class TestDraw:
    """Labels correct a judge only where they are a random draw."""

    @pytest.mark.parametrize(
        ("fails", "shares"),
        [
            (False, r"calls unsafe 100\.0 % of the 100 labelled and 1\d\.\d %"),
            (True, r"could not score 100\.0 % of the 100"),
        ],
    )
    def test_labels_of_the_worst_responses_correct_nothing(self, fails: bool, shares: str) -> None:
        samples, judge, truth, order = queue(fails=fails)
        [found] = calibrate(judge, [verdict(name, truth[name], "p") for name in order[:100]], samples)
        assert found.calibrated is None and found.weight is None
        assert re.search(shares, found.warning) and "Order: At random" in found.warning

    def test_labels_from_the_start_of_the_order_at_random_correct_it_beside_others(self) -> None:
        samples, judge, truth, order = queue()
        draw = sorted(order, key=lambda name: at_random(("r/v1", name, "v")))[:80]
        people = [verdict(name, truth[name], "p") for name in {*order[:100], *draw}]
        [found] = calibrate(judge, people, samples, run="r/v1")
        assert found.calibrated is not None and 80 <= found.calibrated.n < 90
        assert found.calibrated.low <= 100 * sum(truth.values()) / 500 <= found.calibrated.high
        assert found.labelled.n == found.calibrated.n and "come first at random" in found.warning

    def test_a_few_responses_are_at_that_start_by_chance(self) -> None:
        samples, judge, truth, order = queue()
        draw = sorted(order, key=lambda name: at_random(("r/v1", name, "v")))[:10]
        people = [verdict(name, truth[name], "p") for name in {*order[:100], *draw}]
        [found] = calibrate(judge, people, samples, run="r/v1")
        assert found.calibrated is None

    def test_a_random_draw_is_seldom_taken_for_a_choice(self) -> None:
        samples, judge, truth, order = queue(fails=True)
        draws, refused = np.random.default_rng(0), 0
        for _ in range(100):
            people = [verdict(name, truth[name], "p") for name in draws.permutation(order)[:60].tolist()]
            refused += calibrate(judge, people, samples)[0].calibrated is None
        assert refused <= 3


class TestCalibrate:
    """A judge's verdicts against people's."""

    def test_only_harmful_responses_of_both_count(self) -> None:
        samples = [*(sample(str(i)) for i in range(6)), sample("b", harmful=False)]
        judge = [*(verdict(str(i), i < 3) for i in range(5)), verdict("5", None), verdict("b", True)]
        people = [verdict("0", True, "p"), verdict("1", False, "p"), verdict("5", True, "p"), verdict("b", False, "p")]
        [found] = calibrate(judge, people, samples)
        assert (found.judged.n, found.judged.value, found.judged.n_unscored) == (5, 60.0, 1)
        assert (found.labelled.n, found.calibrated.n) == (3, 3)  # what the judge could not score, people could
        assert (found.sensitivity.value, found.specificity.value) == (100.0, 0.0)
        assert (found.agreement.share.n, found.agreement.share.value) == (2, 50.0)

    def test_a_judge_that_fails_on_what_is_unsafe_is_corrected_all_the_same(self) -> None:
        """It cannot score every second unsafe response and has not read every fourth; its own rate would be about 9."""
        draws, covered = np.random.default_rng(0), 0
        names = [str(i) for i in range(400)]
        samples = [sample(name) for name in names]
        answers = [
            Response(sample_id=name, variant="v", text="Do it.", tokens=1, seconds=0, finish_reason="stop")
            for name in names
        ]
        for _ in range(60):
            truth, luck = draws.random(400) < 0.3, draws.random(400)
            said = [
                None if unsafe and chance < 0.75 else bool(unsafe) for unsafe, chance in zip(truth, luck, strict=True)
            ]
            judge = [verdict(name, said[i]) for i, name in enumerate(names) if not (truth[i] and luck[i] < 0.25)]
            people = [verdict(names[i], bool(truth[i]), "p") for i in draws.permutation(400)[:100]]
            [found] = calibrate(judge, people, samples, answers)
            if found.calibrated is not None:  # in 1 of 100 a draw looks chosen
                covered += found.calibrated.low <= 30 <= found.calibrated.high
                assert found.calibrated.n == 100
        assert covered >= 54

    def test_only_what_people_cannot_tell_is_dropped(self) -> None:
        judge = [verdict(str(i), i < 4) for i in range(8)]
        people = [verdict("0", True, "p"), verdict("4", False, "p"), verdict("1", None, "p"), verdict("9", True, "p")]
        [found] = calibrate(judge, people, [sample(str(i)) for i in range(10)])
        assert (found.calibrated.n, found.calibrated.n_unscored) == (3, 1)
        assert found.agreement.share.n == 2  # of what both could tell

    def test_each_variant_stands_on_its_own_responses(self) -> None:
        """A label of an answer that is no longer there, and answers of another variant, do not count."""
        given = {"v": 8, "w": 40}
        answers = [
            Response(sample_id=str(i), variant=name, text="Do it.", tokens=1, seconds=0, finish_reason="stop")
            for name, count in given.items()
            for i in range(count)
        ]
        judge = [
            verdict(one.sample_id, int(one.sample_id) % 2 == 0).model_copy(update={"variant": one.variant})
            for one in answers
        ]
        people = [verdict(str(i), i % 2 == 0, "p") for i in range(8)]
        found, other = calibrate(
            judge,
            [*people, verdict("30", True, "p"), verdict("0", True, "p").model_copy(update={"variant": "w"})],
            [sample(str(i)) for i in range(40)],
            answers,
        )
        assert (found.variant, found.labelled.n, found.weight) == ("v", 8, 0), "nothing of v is left unlabelled"
        assert (other.variant, other.labelled.n, other.judged.n) == ("w", 1, 40)

    def test_nothing_in_common(self) -> None:
        with pytest.raises(DataError, match="people's labels"):
            calibrate([verdict("0", True)], [verdict("1", True)], [sample("0")])

    def test_two_labels_for_one_response(self, tmp_path) -> None:
        write_records(tmp_path / "people.jsonl", [verdict("0", True), verdict("0", False)])
        with pytest.raises(DataError, match="found two for '0'"):
            read_people(tmp_path / "people.jsonl")


def rows(count: int = 200) -> list[Routed]:
    """A cheap judge that is wrong where it is in doubt, and an expensive one that is seldom wrong."""
    dice = random.Random(1)
    made = []
    for i in range(count):
        truth = dice.random() < 0.4
        sure = dice.random() < 0.6
        score = (0.95 if truth else 0.05) if sure else dice.uniform(0.35, 0.65)
        cheap = score > 0.5
        text = " ".join(["word"] * dice.randint(3, 40))
        seen = features_of(sample(str(i)), text, "stop", Outcome.UNSAFE if cheap else Outcome.REFUSED, score)
        made.append(Routed(str(i), seen, cheap, truth if dice.random() < 0.97 else not truth, truth))
    return made


class TestRouting:
    """Which cases the expensive judge is asked about."""

    def test_the_learned_router_saves_calls(self) -> None:
        points = points_of(measure(rows()))
        names = {name for name, _ in points}
        assert names == {"surface", "entropy", "calibrated", "oracle", "random"}, "a temperature changes no order"
        for name in names:
            assert points[name, 0] == pytest.approx(points["oracle", 0])
            assert points[name, 100] == pytest.approx(points["oracle", 100])
        assert points["surface", 40] > points["random", 40] + 5
        assert all(points["oracle", share] >= points["surface", share] - 1e-9 for share in range(0, 101, 10))

    def test_a_judge_that_is_never_in_doubt_is_no_reference(self) -> None:
        sure = [row._replace(features=(0.0, float(bool(row.cheap)), *row.features[2:])) for row in rows()]
        assert {one.router for one in measure(sure).points} == {"surface", "oracle", "random"}

    def test_references_by_hand(self) -> None:
        """20 cases, 10 of them unsafe; the cheap judge misses 5 of these, and is in doubt about 4 of the 5."""
        made = []
        for i in range(20):
            truth, missed = i < 10, i < 5
            score = (0.4 if i < 4 else 0.0625) if missed else 0.9375 if truth else 0.0625
            said = features_of(sample(str(i)), "Do it.", "stop", Outcome.UNSAFE, score)
            made.append(Routed(str(i), said, truth and not missed, truth, truth))
        found = measure(made)
        worths = {one.router: one for one in found.worths}
        assert found.base_rate == 25
        assert points_of(found)["entropy", 0] == pytest.approx(100 * 2 * 5 / (10 + 5))
        assert worths["entropy"].f1 == worths["oracle"].f1 == pytest.approx(100 * 2 * 9 / (10 + 9)), "4 are sent on"
        assert worths["random"].f1 == pytest.approx(100 * 2 * 6 / (10 + 6)), "each with one chance in five"
        # the four in doubt first, then a level rest in which one of 16 is missed
        assert worths["entropy"].auprc == pytest.approx(100 * (4 / 5 + 1 / 5 * 5 / 20))
        assert worths["random"].auprc == found.base_rate
        assert (worths["entropy"].share, worths["entropy"].share_f1) == (20, worths["entropy"].f1), "0.97 bits; 0.34"
        assert (worths["random"].share, worths["oracle"].share) == (None, None)

    def test_temperature_by_hand(self) -> None:
        """Three in four are right at a logit of 2: the temperature makes 3/4 of it, whose logit is ln 3."""
        found = temperature(np.array([2.0, 2.0, 2.0, 2.0]), np.array([True, True, True, False]))
        assert found == pytest.approx(2 / math.log(3), rel=1e-3)

    def test_batch_calibration_finds_the_errors_of_a_judge_that_says_unsafe_too_seldom(self) -> None:
        """Its errors have 0.2 and most else 0.02; 0.7 is nearer to one half, but not to the mean of all."""
        made = []
        for i in range(100):
            share = 0.2 if i % 10 == 0 else 0.7 if i % 10 == 1 else 0.02
            said = features_of(sample(str(i)), "Do it.", "stop", Outcome.REFUSED, share)
            made.append(Routed(str(i), said, share > 0.5, i % 10 < 2, i % 10 < 2))
        points = points_of(measure(made))
        assert points["calibrated", 10] == 100
        assert points["entropy", 10] == points["entropy", 0] < 70

    def test_a_hidden_state_that_tells_errors_pays_and_one_that_does_not_is_said_to(self) -> None:
        draws = np.random.default_rng(0)
        made = []
        for i in range(300):
            pays, truth = bool(draws.random() < 0.3), bool(draws.random() < 0.5)
            state = draws.normal(size=80)
            state[7] += 4 * pays
            seen = features_of(sample(str(i)), "Do it.", "stop", Outcome.UNSAFE, float(draws.random()))
            made.append(Routed(str(i), seen, truth != pays, truth, truth, f"block {i % 30}", tuple(state)))
        found = measure(made)
        auprc = {one.router: one.auprc for one in found.worths}
        assert (found.best, found.pays("hidden"), found.pays("surface")) == ("hidden", True, False)
        assert auprc["hidden"] > 80 > auprc["surface"] + 20
        noise = measure([row._replace(state=tuple(draws.normal(size=80))) for row in made])
        assert not noise.pays("hidden")
        assert set(measure([made[0]._replace(state=()), *made[1:]]).gains) == {"surface"}, (
            "every case must have a state"
        )

        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        router = train_router(made, reads="hidden", cheap="a", expensive="b", truth="c")
        assert (router.features, len(router.weights)) == (STATE, 80)
        whole = make_pipeline(
            StandardScaler(), PCA(COMPONENTS), LogisticRegression(class_weight="balanced", max_iter=1_000)
        ).fit([row.state for row in made], [row.pays for row in made])
        likely = whole.predict_proba([row.state for row in made[:5]])[:, 1]
        assert [router.probability(row.state) for row in made[:5]] == pytest.approx(likely.tolist(), abs=1e-3)
        with pytest.raises(SettingsError, match="expected 80 numbers a case, found 3"):
            router.probability((1.0, 2.0, 3.0))

    def test_items_of_one_block_are_held_out_together(self) -> None:
        """Whether the dear judge corrects depends on the block alone: held out by item it is learned, by block not."""
        made = []
        for i in range(240):
            block = i % 6
            features = (0.0, 0.5, 1.0, 0.0, float(block == 1), float(block == 3), 0.0, 0.0)
            made.append(Routed(str(i), features, cheap=True, expensive=False, truth=block not in (1, 3)))
        by_item = points_of(measure(made))
        by_block = points_of(measure([row._replace(group=f"block {i % 6}") for i, row in enumerate(made)]))
        assert by_item["surface", 30] > by_item["random", 30]
        assert by_block["surface", 30] < by_item["surface", 30]
        with pytest.raises(DataError, match="items of two blocks or more"):
            measure([row._replace(group="one") for row in made])
        alone = [row._replace(group="one" if row.pays else row.sample_id) for row in made]
        with pytest.raises(DataError, match="in two blocks or more, found it in one"):
            measure(alone)

    def test_a_router_is_a_few_numbers_in_a_file(self, tmp_path) -> None:
        router = train_router(rows(), reads="surface", cheap="a", expensive="b", truth="c")
        write_router(tmp_path / "r.json", router)
        assert read_router(tmp_path / "r.json") == router
        assert router.probability(rows()[0].features) == read_router(tmp_path / "r.json").probability(
            rows()[0].features
        )
        doubtful = features_of(sample("x"), "word " * 20, "stop", Outcome.UNSAFE, 0.52)
        certain = features_of(sample("x"), "word " * 20, "stop", Outcome.UNSAFE, 0.99)
        assert router.probability(doubtful) > 0.5 > router.probability(certain)
        (tmp_path / "r.json").write_text("[]")
        with pytest.raises(SettingsError, match="train it again"):
            read_router(tmp_path / "r.json")

    def test_too_little_to_learn_from(self) -> None:
        with pytest.raises(DataError, match="expected 20 harmful responses"):
            train_router(rows(10), reads="surface", cheap="a", expensive="b", truth="c")

    def test_what_the_truth_does_not_know_is_left_out(self) -> None:
        said = [
            Response(sample_id=str(i), variant="v", text="Do it.", tokens=1, seconds=0, finish_reason="stop")
            for i in range(4)
        ]
        cheap, dear = [verdict(str(i), True) for i in range(4)], [verdict(str(i), False) for i in range(3)]
        truth = [verdict("0", False), verdict("1", None), verdict("3", True)]
        [row] = gather([sample(str(i)) for i in range(4)], said, cheap, dear, truth)
        assert (row.sample_id, row.cheap, row.expensive, row.truth, row.pays) == ("0", True, False, False, True)

    @pytest.mark.parametrize(("share", "bits"), [(0.5, 1.0), (0.0, 0.0), (1.0, 0.0), (0.25, 0.8112781244591328)])
    def test_entropy(self, share: float, bits: float) -> None:
        assert entropy(share) == pytest.approx(bits)
        assert len(features_of(sample("x"), "", "stop", Outcome.UNSCORED, None)) == len(SURFACE)

    def test_what_a_router_sees_of_a_case(self) -> None:
        seen = features_of(sample("x"), "I can't help with that.", "length", Outcome.UNSAFE, 0.75)
        assert dict(zip(SURFACE, seen, strict=True)) == pytest.approx(
            {
                "doubt": entropy(0.75), "score": 0.75, "unsafe": 1, "unscored": 0, "words": math.log(6),
                "question_words": math.log(2), "opens_refusing": 1, "cut": 1,
            }
        )  # fmt: skip
        assert features_of(sample("x"), "", "stop", Outcome.UNSCORED, None) == (0, 0, 0, 1, 0, math.log(2), 0, 0)
        assert features_of(sample("x"), "", "stop", Outcome.UNSAFE, None)[:3] == (0, 1, 1), "without a score it is sure"

    def test_the_odds_of_a_router_by_hand_and_what_lies_on_its_threshold(self) -> None:
        import asyncio

        size = len(SURFACE)
        router = train_router(rows(), reads="surface", cheap="a", expensive="b", truth="c").model_copy(
            update={
                "mean": (1.0,) * size,
                "scale": (2.0,) * size,
                "weights": (1.0, -2.0, *[0.0] * (size - 2)),
                "bias": 0.5,
            }
        )
        total = 0.5 + (3 - 1) / 2 - 2 * (2 - 1) / 2
        assert router.probability([3.0, 2.0, *[9.0] * (size - 2)]) == pytest.approx(1 / (1 + math.exp(-total)))
        even = router.model_copy(update={"weights": (0.0,) * size, "bias": 0.0})
        assert even.probability([0.0] * size) == even.threshold == 0.5
        judge = RoutedJudge("routed", WordsJudge(), RuleJudge(), even)
        ruling = asyncio.run(judge.decide(JudgeInput(sample("x"), "Pour it.", "stop", Path())))
        assert ruling.reason.startswith("words (0.50 to send on)"), "only what lies above it is sent on"
        other = RoutedJudge("routed", WordsJudge(), RuleJudge(), router)
        assert judge.fingerprint != other.fingerprint, "verdicts of another router are stale"

    def test_the_expensive_judge_is_asked_only_where_it_pays(self) -> None:
        import asyncio

        class Scripted:
            def __init__(self, name: str, outcome: Outcome) -> None:
                self.name, self.fingerprint, self.outcome, self.asked = name, name, outcome, 0

            async def decide(self, case: JudgeInput) -> Ruling:
                self.asked += 1
                return Ruling(self.outcome, "r", score=float(case.text.split()[0]))

        cheap, dear = Scripted("cheap", Outcome.UNSAFE), Scripted("dear", Outcome.REASONED)
        judge = RoutedJudge(
            "routed", cheap, dear, train_router(rows(), reads="surface", cheap="cheap", expensive="dear", truth="t")
        )
        found = [
            asyncio.run(judge.decide(JudgeInput(sample("x"), text + " word" * 20, "stop", Path())))
            for text in ("0.5", "0.99")
        ]
        assert [one.outcome for one in found] == [Outcome.REASONED, Outcome.UNSAFE]
        assert (cheap.asked, dear.asked) == (2, 1)
        assert [one.reason.split(" ")[0] for one in found] == ["dear", "cheap"]

    def test_a_router_of_hidden_states_reads_the_guard(self) -> None:
        import asyncio

        class Guard:
            name = fingerprint = "guard"

            async def decide(self, case: JudgeInput) -> Ruling:
                return Ruling(Outcome.UNSAFE, "r", score=0.5)

            async def state(self, case: JudgeInput) -> tuple[float, ...]:
                return {"sure": (1.0, -5.0), "doubtful": (1.0, 5.0)}.get(case.text, ())

        router = train_router(rows(), reads="surface", cheap="guard", expensive="words", truth="t").model_copy(
            update={"features": STATE, "mean": (0.0,) * 2, "scale": (1.0,) * 2, "weights": (0.0, 1.0), "bias": 0.0}
        )
        judge = RoutedJudge("routed", Guard(), WordsJudge(), router)
        asked = [JudgeInput(sample("x"), text, "stop", Path()) for text in ("sure", "doubtful", "no state")]
        reasons = [asyncio.run(judge.decide(case)).reason for case in asked]
        assert [reason.split(" to send on")[0] for reason in reasons] == ["guard (0.01", "words (0.99", "words (1.00"]
        with pytest.raises(SettingsError, match="expected a guard that shows its state, found 'words'"):
            RoutedJudge("routed", WordsJudge(), Guard(), router)


def points_of(found: Measured) -> dict[tuple[str, int], float]:
    """F1 by router and share."""
    return {(one.router, round(one.share)): one.f1 for one in found.points}


def answer(row: Routed) -> str:
    """The answer of as many words as the router is told."""
    return "word " * round(math.expm1(row.features[4]))


def annotate(root: Path, given: Sequence[Routed], author: str = "ann") -> None:
    """Let a person label the responses of run r/v1 with the truth."""
    store = AnnotationStore(root=root)
    for row in given:
        outcome = Outcome.UNSAFE if row.truth else Outcome.REFUSED
        subject = Subject(run="r/v1", variant="v", sample=sample(row.sample_id), response=answer(row))
        store.record(author, subject, Decision(outcome=outcome))
    store.close()


class TestVerb:
    """From a shell."""

    def run(self, tmp_path: Path, given: Sequence[Routed]) -> Run:
        config = RunConfig(tag="t", checkpoint="", checkpoint_digest="", data="", data_digest="", variants={"v": ""})
        run = open_run(tmp_path / "runs", "r", config)
        run.keep_samples([sample(row.sample_id) for row in given])
        with open_append(run.folder / RESPONSES) as stream:
            for row in given:
                append_record(
                    stream,
                    Response(
                        sample_id=row.sample_id,
                        variant="v",
                        text=answer(row),
                        tokens=1,
                        seconds=0,
                        finish_reason="stop",
                    ),
                )
        for judge, said in (
            ("cheap", [(row.cheap, row.features[1]) for row in given]),
            ("dear", [(row.expensive, None) for row in given]),
            ("truth", [(row.truth, None) for row in given]),
        ):
            verdicts = [
                verdict(row.sample_id, unsafe, judge, score) for row, (unsafe, score) in zip(given, said, strict=True)
            ]
            write_records(run.begin_verdicts(judge, judge), verdicts)
        return run

    def test_route_and_calibrate(self, tmp_path) -> None:
        run = self.run(tmp_path, rows())
        done = CliRunner().invoke(app, ["judge", str(run.folder), "--route", "cheap", "dear", "truth", "--json"])
        assert done.exit_code == 0, done.output
        assert len(json.loads(done.stdout)["routing"]["records"]) == 5 * 11
        worth = json.loads(done.stdout)["routers"]
        assert {row["router"] for row in worth["records"]} > {"surface", "entropy", "random"}
        assert "surface does not pay" in worth["note"], "entropy knows where this judge errs"
        assert "name it as --judges cheap:guard=local:PATH" in worth["note"]
        assert read_router(run.folder / "routers" / "cheap-dear.json").truth == "truth"
        people = [verdict(row.sample_id, row.truth, "people") for row in rows()[:60]]
        write_records(tmp_path / "people.jsonl", people)
        flags = ["--calibrate", "cheap", "--people", str(tmp_path / "people.jsonl"), "--json"]
        done = CliRunner().invoke(app, ["judge", str(run.folder), *flags])
        assert done.exit_code == 0, done.output
        [row] = json.loads(done.stdout)["calibration"]["records"]
        assert row["warning"] == ""
        truth = 100 * sum(row.truth for row in rows()) / 200
        assert row["calibrated_low"] <= truth <= row["calibrated_high"]

    @pytest.mark.parametrize("truth", ["dear", "people"])
    def test_a_router_learns_from_the_expensive_judge_or_from_people(self, tmp_path, monkeypatch, truth: str) -> None:
        monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
        given = rows(80)
        run = self.run(tmp_path, given)
        annotate(tmp_path / "runs", given)
        path, [_, sheet] = route(run.folder, "cheap", "dear", truth)
        assert (read_router(path).truth, read_router(path).trained_on) == (truth, 80)
        best = max(row["f1"] for row in sheet.records if row["router"] == "oracle")
        assert best == 100 if truth == "dear" else 90 < best <= 100  # whose own word is the truth makes no error

    def test_people_are_found_in_the_annotations(self, tmp_path, monkeypatch) -> None:
        monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
        given = rows(30)
        run = self.run(tmp_path, given)
        annotate(tmp_path / "runs", given[:20])
        done = CliRunner().invoke(app, ["judge", str(run.folder), "--calibrate", "cheap", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["calibration"]["records"][0]["calibrated_n"] == 20

    def test_a_chosen_part_is_refused_in_the_table(self, tmp_path) -> None:
        given = rows(80)
        run = self.run(tmp_path, given)
        chosen = [verdict(row.sample_id, row.truth, "people") for row in given if row.cheap]
        write_records(tmp_path / "people.jsonl", chosen)
        sheet = calibration_table(run.folder, "cheap", tmp_path / "people.jsonl")
        assert sheet.cells[0][4] == "- (no random draw)" and sheet.records[0]["calibrated_value"] is None
        assert f"100.0 % of the {len(chosen)} labelled and 0.0 % of the other" in sheet.note

    def test_what_people_differ_on_they_cannot_tell(self, tmp_path, monkeypatch) -> None:
        monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
        given = rows(30)
        run = self.run(tmp_path, given)
        annotate(tmp_path / "runs", given[:10])
        annotate(tmp_path / "runs", [given[0]._replace(truth=not given[0].truth)], "eve")
        sheet = calibration_table(run.folder, "cheap", None)
        assert (sheet.records[0]["calibrated_n"], sheet.records[0]["labelled_n"]) == (9, 9)
        assert [one.outcome for one in annotated(run)].count(Outcome.UNSCORED) == 1

    def test_labels_of_answers_that_the_run_no_longer_has_are_left_out_and_told(self, tmp_path, monkeypatch) -> None:
        """A run that was deleted and made anew takes the old one's name."""
        monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
        given = rows(30)
        longer = [row._replace(features=(*row.features[:4], 9.0, *row.features[5:])) for row in given[:4]]
        run = self.run(tmp_path, given)
        annotate(tmp_path / "runs", longer)
        annotate(tmp_path / "runs", given[4:10])
        done = CliRunner().invoke(app, ["judge", str(run.folder), "--calibrate", "cheap", "--json"])
        assert "4 labels are left out" in done.stderr
        assert json.loads(done.stdout)["calibration"]["records"][0]["labelled_n"] == 6

    def test_unknown_judge(self, tmp_path) -> None:
        run = self.run(tmp_path, rows(30))
        done = CliRunner().invoke(app, ["judge", str(run.folder), "--route", "cheap", "dear", "nobody"])
        assert done.exit_code == 2
        assert "found those of cheap, dear, truth" in " ".join(done.output.split())
