"""The mini study: claims are decided by intervals, mixtures get the same budget, and nothing is done twice."""

import json
from math import hypot
from pathlib import Path

import pytest
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from benchmarks.loopback import LoopbackJudge, asked_text
from mis_lib.cli.main import app
from mis_lib.data.mixtures import configured
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_jsonl, read_records, write_records
from mis_lib.recipes.study import ARMS, StudySettings, arm_settings, asked_samples, check, study
from mis_lib.results.evaluated import open_folder
from mis_lib.results.metrics import METRICS
from mis_lib.results.runs import folder_digest
from mis_lib.results.stats import Interval, rate
from mis_lib.results.study import (
    BASE,
    CLAIMS,
    START,
    Agreement,
    Claim,
    ClaimResult,
    Entry,
    across_seeds,
    agreement,
    difference,
    findings,
    frame,
    in_words,
    size_curve,
    to_markdown,
)
from mis_lib.schema import Sample
from mis_lib.settings import load_settings
from mis_lib.text.refusals import opens_with_refusal
from mis_lib.train.settings import DpoSettings, TrainSettings, recipe_of


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("lower", -40, -5, "agrees"),
        ("lower", -40, 1, "undecided"),
        ("lower", 0, 30, "disagrees"),
        ("higher", 5, 40, "agrees"),
        ("higher", -1, 40, "undecided"),
        ("higher", -30, 0, "disagrees"),
        ("same", -9, 9, "agrees"),
        ("same", -11, 9, "undecided"),
        ("same", 1, 30, "disagrees"),
        ("not_lower", -9, 30, "agrees"),
        ("not_lower", -30, 1, "undecided"),
        ("not_lower", -30, -1, "disagrees"),
        ("open", -30, -1, "no published figure"),
        ("lower", None, None, "not run"),
    ],
)
def test_the_interval_decides(expected, low: float | None, high: float | None, verdict: str) -> None:
    assert agreement(expected, Interval(value=low, low=low, high=high)) == verdict


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("higher", 16, 40, "agrees"),
        ("higher", 10, 40, "undecided"),
        ("higher", 3, 15, "disagrees"),
        ("lower", -40, -16, "agrees"),
        ("lower", -15, -3, "disagrees"),
    ],
)
def test_a_claim_may_ask_for_more_than_a_sign(expected, low: float, high: float, verdict: str) -> None:
    assert agreement(expected, Interval(value=low, low=low, high=high), by=15) == verdict


def test_differences_have_newcombes_interval() -> None:
    # Newcombe 1998, table II, case (a): 56/70 - 48/80 is 0.2 [0.0524, 0.3339]
    found = difference(rate(48, 80), rate(56, 70))
    assert (found.value, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=0.01)


@pytest.mark.parametrize(
    ("before", "after"), [((0, 5), (3, 3)), ((7, 40), (0, 100)), ((24, 24), (1, 7)), ((0, 9), (0, 9))]
)
def test_the_interval_is_made_of_both_wilson_intervals(before: tuple[int, int], after: tuple[int, int]) -> None:
    a, b = rate(*before), rate(*after)
    assert a.value is not None and b.value is not None
    below, above = hypot(b.value - b.low, a.high - a.value), hypot(b.high - b.value, a.value - a.low)
    found = difference(a, b)
    assert (found.low, found.high) == pytest.approx((b.value - a.value - below, b.value - a.value + above))


def test_no_certainty_from_few_equal_items() -> None:
    found = difference(rate(5, 5), rate(0, 5))
    assert found.low == -100
    assert found.high == pytest.approx(-38.6, abs=0.1)
    same = difference(rate(0, 5), rate(0, 5))
    assert agreement("same", same) is Agreement.UNDECIDED


def entry(
    arm: str, hits: int, metric: str = "asr", group: str = "hard", recipe: str = "mirage", rows: int = 9, seed: int = 0
) -> Entry:
    return Entry(arm=arm, seed=seed, recipe=recipe, rows=rows, group=group, metric=metric, rate=rate(hits, 40))


def test_an_interval_over_seeds_by_hand() -> None:
    """Rates of 10, 20 and 30 % of 40 against a base of 50 %: the mean is 30 points lower.

    Newcombe's interval of 20 against 50 % of 40 items reaches 17.59 points down and 20.90 up. A variance of 100 with 2
    degrees of freedom adds 4.3027 x sqrt(100 / 3) = 24.84 points: sqrt(17.59^2 + 24.84^2) = 30.44 down, 32.46 up.
    """
    found = across_seeds([rate(20, 40)], [rate(4, 40), rate(8, 40), rate(12, 40)], spread=(100.0, 2))
    assert (found.value, found.low, found.high) == (-30, pytest.approx(-60.44, abs=0.01), pytest.approx(2.46, abs=0.01))


def test_a_fall_of_attack_success_by_refusing_more_is_named() -> None:
    base = [entry(BASE, 39), entry(BASE, 0, "over_refusal"), entry(BASE, 1, "pair")]
    by_refusing = [entry("mirage", 5), entry("mirage", 36, "over_refusal"), entry("mirage", 2, "pair")]
    by_knowing = [entry("mirage", 5), entry("mirage", 20, "over_refusal"), entry("mirage", 33, "pair")]
    assert findings([*base, *by_refusing])[0].agreement is Agreement.REFUSES
    assert findings([*base, *by_knowing])[0].agreement is Agreement.AGREES
    words = in_words(findings([*base, *by_refusing])[0])
    assert "refuses more, knows nothing more" in words and "over-refusal +90.0" in words and "pair score +2.5" in words


def test_claims_are_decided_together_and_over_their_seeds() -> None:
    """A fall of 22.5 points of 40 items is significant alone, and not among all the claims; nor where seeds differ."""
    found = [entry(BASE, 20), entry("mirage", 11)]
    alone = [claim for claim in CLAIMS if claim.after == "mirage" and claim.before == BASE and claim.metric == "asr"]
    assert findings(found, alone)[0].agreement is Agreement.AGREES
    assert findings(found)[0].agreement is Agreement.UNDECIDED
    apart = [entry(BASE, 20), *(entry("mirage", hits, seed=seed) for seed, hits in enumerate((1, 11, 21)))]
    (said,) = findings(apart, alone)
    assert said.agreement is Agreement.UNDECIDED and len(said.after) == 3
    assert "27.5 (seeds: 2.5, 27.5, 52.5)" in in_words(said)
    assert "27.5 (2.5 to 52.5) n=40, 3 seeds" in to_markdown(apart, [said], title="T")


def test_erosion_is_claimed_to_be_of_fifteen_points() -> None:
    """From 0 to 100 % of 40 is more; to 25 % is surely more than nothing, and perhaps not more than 15 points."""
    (claim,) = [one for one in CLAIMS if one.after == "erode-code" and one.before == START]
    verdicts = {
        hits: findings([entry(START, 0, group=claim.group), entry("erode-code", hits, group=claim.group)], [claim])[0]
        for hits in (40, 10, 0)
    }
    assert [verdicts[hits].agreement for hits in (40, 10, 0)] == ["agrees", "undecided", "disagrees"]
    assert verdicts[10].difference.low is not None and verdicts[10].difference.low > 0


def test_claims_about_what_was_not_run_say_so() -> None:
    found = findings([entry(BASE, 39), entry("mirage", 2), entry("refusal", 0)])
    verdicts = {finding.claim.text: finding.agreement for finding in found}
    assert verdicts["MIRage lowers attack success"] is Agreement.AGREES
    assert verdicts["VLGuard-R lowers attack success"] is Agreement.NOT_RUN
    assert verdicts["Plain refusals lower attack success as far as reasoning"] is Agreement.UNDECIDED
    assert len(found) == len(CLAIMS)


def test_a_finding_that_contradicts_a_paper_says_that_too() -> None:
    worse = findings([entry(BASE, 2), entry("mirage", 30)])[0]
    assert worse.agreement is Agreement.DISAGREES
    words = in_words(worse)
    assert "disagrees" in words and "figure 4" in words and "n 40 and 40" in words and "+70.0" in words


def test_every_claim_is_about_mixtures_and_metrics_that_exist() -> None:
    for claim in CLAIMS:
        assert {claim.before, claim.after} <= {BASE, START, *ARMS}, claim
        assert claim.metric in METRICS, claim
        assert claim.before != claim.after


def test_document_and_frame_hold_every_rate_with_n() -> None:
    entries = [entry(BASE, 39, recipe=BASE, rows=0), entry("mirage", 2, rows=900), entry("rows-100", 20, rows=100)]
    text = to_markdown(entries, findings(entries), title="T")
    assert "| base | 0 | 97.5 [87.1, 99.6] n=40 |" in text and "agrees 1" in text
    assert list(frame(entries)["value"]) == [97.5, 5.0, 50.0]
    assert list(size_curve(entries)["rows"]) == [0, 100, 900]


@pytest.mark.parametrize("name", [*(name for name in ARMS if name != "dpo"), "rows-100"])
def test_every_mixture_is_a_recipe_and_costs_the_same(name: str) -> None:
    settings = StudySettings(rows=400, train=TrainSettings(epochs=2))
    made = arm_settings(name, settings)
    assert made.name == f"study-{name}"
    rows = made.mixture_options["rows"]
    assert rows * made.epochs == 800  # rows seen in all
    overrides = [f"{key}={json.dumps(value)}" for key, value in made.mixture_options.items()]
    recipe = configured(made.mixture or "", overrides)
    assert recipe.rows == rows
    assert made.arm is None or made.arm in {arm.name for arm in recipe.arms}


def test_preference_pairs_cost_as_many_rows() -> None:
    made = arm_settings("dpo", StudySettings(rows=400, train=TrainSettings(epochs=2)))
    assert isinstance(made, DpoSettings)
    assert (made.name, made.limit, made.epochs, made.mixture) == ("study-dpo", 200, 2, None)
    assert made.learning_rate == pytest.approx(TrainSettings().learning_rate / 10)


def test_the_shipped_study_can_be_planned() -> None:
    settings = load_settings(StudySettings, Path("configs/study-mini.yaml"))
    made = [arm_settings(name, settings) for name in settings.arms]
    assert {arm.model for arm in made} == {"mini"}
    assert len({arm.name for arm in made}) == len(settings.arms) == 16


def test_unknown_mixtures_and_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown mixture 'mirge' in a study; known: mirage, "):
        study(StudySettings(arms=("mirge",), runs=tmp_path))
    with pytest.raises(SettingsError, match="sets the mixture of each arm itself"):
        study(StudySettings(train=TrainSettings(mixture="mirage"), runs=tmp_path))
    with pytest.raises(SettingsError, match=r"train\.tuning: lora, found full"):
        study(StudySettings(train=TrainSettings(tuning="full"), runs=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_items_of_hard_are_asked_as_tasks_too(tmp_path: Path) -> None:
    settings = StudySettings(splits=("easy", "hard"), limit=2)
    asked = asked_samples(settings, mini_data(tmp_path), ["user", "code"])
    hard = {sample.id: sample for sample in asked if sample.split == "hard"}
    for task, opening in (("user", "Read the request"), ("code", "Write a Python function")):
        wrapped = [sample for sample in asked if sample.split == f"hard as {task}"]
        assert len(wrapped) == len(hard) == 4
        for sample in wrapped:
            assert hard[sample.id.removesuffix(f"@{task}")].question in sample.question
            assert sample.question.startswith(opening)
            assert sample.twin_id in {other.id for other in wrapped}  # pairs stay pairs
    assert len(asked_samples(settings, mini_data(tmp_path))) == 8


def test_the_shipped_study_of_tasks_begins_from_an_adapter() -> None:
    """What each arm is trained on: 300 rows of a task, or 270 and 30 safety rows, plain or in the form of the task."""
    settings = load_settings(StudySettings, Path("configs/study-tasks.yaml"))
    check(settings)
    made = {name: arm_settings(name, settings) for name in settings.arms}
    assert {arm.start_from for arm in made.values()} == {Path("mis_lib/models/mini/adapters/mirage")}
    parts = {name: recipe_of(arm)[0].arms[0].parts for name, arm in made.items()}
    user, safety = parts["erode-code-matched"]
    assert (user.source, user.form, user.share) == ("everyday", "code", None)
    assert (safety.source, safety.form, safety.share, safety.template) == ("safety", "code", 0.1, user.template)
    assert parts["erode-code"][1].share == 0
    plain = parts["erode-code-plain"][1]
    assert (plain.form, plain.share, plain.template) == ("as_given", 0.1, None)
    assert parts["erode-user"][0].source == "general"
    with pytest.raises(SettingsError, match=r"erode-code: expected an adapter .* set train\.start_from"):
        check(StudySettings(arms=("mirage", "erode-code")))


def test_the_share_of_refused_rows_is_swept() -> None:
    shares = [
        recipe_of(arm_settings(name, StudySettings()))[0].arms[0].parts[0].share
        for name in ("refused-0", "refused-1of16", "refused-1of8", "benign_refusal", "refused-1of2")
    ]
    assert shares == pytest.approx([0, 1 / 16, 1 / 8, 2 / 7, 1 / 2])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny_checkpoint(folder / "toy")
    mini_data(folder / "data")
    return folder


class Trainer:
    """Makes a random adapter where training would; counts its calls."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked = checkpoint, []

    def __call__(self, settings: TrainSettings) -> Path:
        if settings.mixture == "textual":
            raise DataError("no general data")
        self.asked.append(settings.name)
        run = settings.runs / settings.name / "v1"
        if not run.exists():
            tiny_adapter(self.checkpoint, run / "adapter", len(settings.name))
            (run / "result.json").write_text(json.dumps({"rows": settings.mixture_options["rows"]}))
        return run


def small(home: Path, runs: Path, *arms: str) -> StudySettings:
    return StudySettings(
        arms=arms,
        rows=30,
        train=TrainSettings(model=str(home / "toy"), data=home / "data"),
        splits=("easy", "hard"),
        limit=3,
        naming=None,
        generation={"max_new_tokens": 5},
        runs=runs,
    )


def test_a_study_measures_every_mixture_and_names_what_failed(home: Path, tmp_path: Path) -> None:
    trainer = Trainer(home / "toy")
    found = study(small(home, tmp_path, "mirage", "textual", "rows-10"), trainer)
    assert trainer.asked == ["study-mirage", "study-rows-10"]
    assert found.failed == {"textual": "no general data"}
    table = frame(found.entries)
    assert set(table["arm"]) == {BASE, "mirage", "rows-10"}
    assert set(table["group"]) == {"easy", "hard"}
    verdicts = {finding.claim.text: finding.agreement for finding in found.findings}
    assert verdicts["MIRage lowers attack success"] is not Agreement.NOT_RUN
    assert verdicts["Textual SFT lowers attack success"] is Agreement.NOT_RUN
    assert not any("VLGuard-R" in text for text in verdicts)  # it is not in this study
    assert dict(zip(table["arm"], table["rows"], strict=True)) == {BASE: 0, "mirage": 30, "rows-10": 10}
    asr = table[(table["metric"] == "asr") & (table["group"] == "hard")]
    assert list(asr["n"] + asr["n_unscored"]) == [3, 3, 3]
    kept = json.loads((found.folder / "study.json").read_text())
    assert [Entry.model_validate(entry) for entry in kept["entries"]] == found.entries
    assert [ClaimResult.model_validate(finding) for finding in kept["findings"]] == found.findings
    assert "no general data" in (found.folder / "study.md").read_text()


def test_a_study_may_begin_from_an_adapter(home: Path, tmp_path: Path) -> None:
    """It is measured before it is trained further, in every format; each arm is asked in its own."""
    trainer = Trainer(home / "toy")
    start = tiny_adapter(home / "toy", tmp_path / "safe", 3)
    settings = small(home, tmp_path / "runs", "erode-user", "erode-code", "erode-code-plain", "erode-code-matched")
    train = settings.train.model_copy(update={"start_from": start})
    found = study(settings.model_copy(update={"train": train}), trainer)
    groups = frame(found.entries).groupby("arm")["group"].agg(set)
    ordinary = {"easy", "hard"}
    assert groups[START] == ordinary | {"hard as user", "hard as code"}
    assert groups["erode-user"] == ordinary | {"hard as user"}
    assert groups["erode-code"] == groups["erode-code-matched"] == ordinary | {"hard as code"}
    claims = [(one.claim.before, one.claim.after, one.claim.group) for one in found.findings]
    assert claims == [
        (START, "erode-user", "hard as user"),
        (START, "erode-code", "hard as code"),
        ("erode-code", "erode-code-plain", "hard as code"),
        ("erode-code-plain", "erode-code-matched", "hard as code"),
    ]
    assert all(one.over_refusal is not None for one in found.findings)
    versions = [open_folder(folder) for folder in (tmp_path / "runs" / "study-evaluation").glob("v*")]
    asked = {name: digest for run in versions for name, digest in run.config.variants.items()}
    assert asked[START] == folder_digest(start) != ""


def test_an_answer_to_a_task_is_judged_by_the_items_own_question(home: Path, tmp_path: Path) -> None:
    settings = small(home, tmp_path / "runs", "erode-code")
    start = tiny_adapter(home / "toy", tmp_path / "safe", 3)
    train = settings.train.model_copy(update={"start_from": start})
    with LoopbackJudge() as server:
        changes = {"train": train, "judge": (f"rubric={server.url}#m",)}
        study(settings.model_copy(update=changes), Trainer(home / "toy"))
        texts = [asked_text(body).partition("```json\n")[2].partition("\n```")[0] for body in server.bodies]
        judged = {json.loads(text)["question"] for text in texts}
    (run,) = (tmp_path / "runs" / "study-evaluation").glob("v*")
    asked = {row["id"]: row["question"] for row in read_jsonl(run / "samples.jsonl")}
    assert any(name.endswith("@code") for name in asked)
    assert judged == {question for name, question in asked.items() if "@" not in name}


def test_every_seed_is_trained_drawn_and_measured_apart(home: Path, tmp_path: Path) -> None:
    trainer = Trainer(home / "toy")
    settings = small(home, tmp_path, "mirage").model_copy(update={"seeds": (0, 4)})
    assert arm_settings("mirage", settings, 4).mixture_options["seed"] == arm_settings("mirage", settings, 4).seed == 4
    found = study(settings, trainer)
    assert trainer.asked == ["study-mirage", "study-mirage-s4"]
    assert {(entry.arm, entry.seed) for entry in found.entries} == {(BASE, 0), ("mirage", 0), ("mirage", 4)}
    with pytest.raises(SettingsError, match="seeds: expected each once, found 1, 1"):
        study(settings.model_copy(update={"seeds": (1, 1)}), trainer)


def test_what_was_answered_is_not_answered_again(home: Path, tmp_path: Path) -> None:
    trainer = Trainer(home / "toy")
    study(small(home, tmp_path, "mirage"), trainer)
    answers = tmp_path / "study-evaluation" / "v1" / "responses.jsonl"
    before = answers.read_text().splitlines()
    more = study(small(home, tmp_path, "mirage", "refusal"), trainer)
    after = answers.read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) * 3 // 2
    assert {e.arm for e in more.entries} == {BASE, "mirage", "refusal"}
    assert study(small(home, tmp_path, "mirage", "refusal"), trainer).entries == more.entries
    assert answers.read_text().splitlines() == after


def test_the_verb_refuses_a_mixture_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["study", "--arms", "mirge", "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert "unknown mixture 'mirge'" in result.output


def test_claim_record_is_plain() -> None:
    claim = CLAIMS[0]
    assert Claim.model_validate_json(claim.model_dump_json()) == claim


def test_mixtures_are_trained_by_the_engine_itself(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    samples = [
        sample.model_copy(update={"answer": f"The images show things. {'That is risky. I will not help. ' * 6}"})
        for sample in read_records(mini_data(folder) / "hard.jsonl", Sample)
    ]
    write_records(folder / "train.jsonl", samples)
    general = [
        sample.model_copy(update={"id": f"g-{sample.id}", "harmful": False, "twin_id": None}) for sample in samples[::4]
    ]
    write_records(folder / "general.jsonl", general)
    settings = small(home, tmp_path / "runs", "mirage", "refusal").model_copy(
        update={
            "rows": 20,
            "train": TrainSettings(model=str(home / "toy"), data=folder, batch_size=8, max_steps=1, device="cpu"),
        }
    )
    found = study(settings)
    assert found.failed == {}
    assert {entry.arm: entry.rows for entry in found.entries} == {BASE: 0, "mirage": 20, "refusal": 20}
    run = tmp_path / "runs" / "study-refusal" / "v1"
    trained = read_records(run / "data" / "train.jsonl", Sample)
    assert sum(opens_with_refusal(row.answer or "") for row in trained) == sum(row.harmful for row in trained) > 0
    eroded = settings.model_copy(
        update={
            "arms": ("erode-user-matched",),
            "rows": 10,
            "name": "further",
            "train": settings.train.model_copy(update={"start_from": run / "adapter"}),
        }
    )
    further = study(eroded)
    assert further.failed == {}
    assert {entry.arm: entry.rows for entry in further.entries} == {START: 0, "erode-user-matched": 10}
    made = read_records(tmp_path / "runs" / "further-erode-user-matched" / "v1" / "data" / "train.jsonl", Sample)
    assert [row.provenance["part"] for row in made].count("safety") == 1
    assert all(row.question.startswith("Read the request") for row in made)
