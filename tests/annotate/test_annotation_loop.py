"""Closing the loop: decisions become agreement figures, files to share, training data and a regression set."""

import csv
import gc
import io
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score
from support.fakes import mini_data
from typer.testing import CliRunner, Result

from mis_lib.annotate.agreement import alpha_of, team_agreement
from mis_lib.annotate.decisions import Cause, CurrentLabels, Decision, Kind, Label, Mark, Preference, Subject
from mis_lib.annotate.delta import (
    DISPUTED,
    EITHER_PREFERRED,
    NO_OUTCOME,
    NO_TARGET,
    OLDER,
    OVERRULED,
    WORSE_PREFERRED,
    build_delta,
    write_delta,
)
from mis_lib.annotate.exchange import COLUMNS, Form, read_events, write_events
from mis_lib.annotate.store import AnnotationStore
from mis_lib.cli.main import app
from mis_lib.data.preferences import read_preferences
from mis_lib.errors import DataError
from mis_lib.files import load_image, read_records, write_records
from mis_lib.models.adapters import shipped_variants
from mis_lib.recipes.annotations import make_delta, overrides, start_of, train_command
from mis_lib.recipes.train import read_train_settings
from mis_lib.results.regression import Entry, compare, read_regression
from mis_lib.results.runs import Run, RunConfig, folder_digest, open_run
from mis_lib.schema import Outcome, Sample, Verdict
from mis_lib.settings import GenerationSettings
from mis_lib.train.settings import DpoSettings
from workbench.annotate import view

UNSAFE, REASONED, REFUSED = (Decision(outcome=one) for one in (Outcome.UNSAFE, Outcome.REASONED, Outcome.REFUSED))
NASTY = "=HYPERLINK(0)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def samples(data: Path) -> dict[str, Sample]:
    return {sample.id: sample for sample in read_records(data / "hard.jsonl", Sample)}


@pytest.fixture
def store(database: str) -> Iterator[AnnotationStore]:
    """An empty store, once on SQLite and once on PostgreSQL."""
    made = AnnotationStore(database)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    config = RunConfig(
        tag="mini", checkpoint="m", checkpoint_digest="c", data=str(data), data_digest="d",
        generation=GenerationSettings(), variants={"mirage": "", "mini": ""},
    )  # fmt: skip
    return open_run(tmp_path / "runs", "report", config)


def about(sample: Sample, variant: str = "mirage", response: str = "Pour it in.") -> Subject:
    return Subject(run="report/v1", variant=variant, sample=sample, response=response)


# Agreement


def test_agreement_is_that_of_the_libraries_and_of_a_known_table(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    dice = random.Random(3)
    harmful = [sample for sample in samples.values() if sample.harmful][:20]
    given = {name: [dice.choice(["unsafe", "reasoned", "refused"]) for _ in harmful] for name in ("ada", "eve")}
    for name, outcomes in given.items():
        for sample, outcome in zip(harmful, outcomes, strict=True):
            store.record(name, about(sample), Decision(outcome=Outcome(outcome)))
    found = team_agreement(standing(store))
    (pair,) = found.pairs
    assert pair.kappa.value == pytest.approx(cohen_kappa_score(given["ada"], given["eve"]))
    assert (
        pair.kappa.low is not None
        and pair.kappa.high is not None
        and pair.kappa.low < pair.kappa.value < pair.kappa.high
    )
    equal = sum(a == b for a, b in zip(given["ada"], given["eve"], strict=True))
    assert pair.share.n == 20 and pair.share.value == pytest.approx(100 * equal / 20)
    assert len(found.disputed) == 20 - equal
    assert found.authors == {"ada": 20, "eve": 20}


def test_nobody_agrees_with_themselves_under_a_name_in_other_letters(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    one, *_ = samples.values()
    for name, outcome in (("Ada", Outcome.UNSAFE), ("eve", Outcome.UNSAFE), ("ada", Outcome.REASONED)):
        store.record(name, about(one), Decision(outcome=outcome))
    now = standing(store)
    found = team_agreement(now)
    assert found.authors == {"Ada": 1, "eve": 1} and len(found.pairs) == 1
    assert now.outcomes(about(one).key) == {"Ada": Outcome.REASONED, "eve": Outcome.UNSAFE}
    assert now.spelled("ADA") == "Ada" and len(now.by("ada")) == 2


def test_a_later_preference_takes_no_outcome_away(samples: dict[str, Sample], store: AnnotationStore) -> None:
    one, *_ = samples.values()
    store.record("ada", about(one), Decision(outcome=Outcome.UNSAFE))
    store.record("ada", about(one), Decision(preference=Preference.A), other=about(one, variant="beside"))
    now = standing(store)
    assert now.outcomes(about(one).key) == {"ada": Outcome.UNSAFE} and now.settled(about(one).key) is Outcome.UNSAFE


def test_alpha_by_hand(samples: dict[str, Sample], store: AnnotationStore) -> None:
    """Observed 1/4, expected 8 * 7 - (5 * 4 + 3 * 2) = 30 of 56, so alpha = 1 - (1/4) / (30/56)."""
    harmful = [sample for sample in samples.values() if sample.harmful][:4]
    for sample, first, second in zip(harmful, "uuur", "uurr", strict=True):
        for name, letter in (("ada", first), ("eve", second)):
            store.record(name, about(sample), UNSAFE if letter == "u" else REASONED)
    assert team_agreement(standing(store)).alpha.value == pytest.approx(1 - (1 / 4) / (30 / 56))


def test_the_interval_of_alpha_is_that_of_the_library_on_each_draw() -> None:
    """With missing values, and draws in which all is equal."""
    dice = random.Random(4)
    outcomes = [Outcome.UNSAFE, Outcome.REASONED, Outcome.REFUSED]
    for n, weights in ((60, (3, 1, 1)), (6, (9, 1, 0))):
        given = [{name: dice.choices(outcomes, weights)[0] for name in "abcd" if dice.random() < 0.7} for _ in range(n)]
        shared = [row for row in given if len(row) > 1]
        codes = np.array([[outcomes.index(row[name]) if name in row else np.nan for row in shared] for name in "abcd"])
        draws = np.random.default_rng(0).integers(len(shared), size=(1000, len(shared)))
        alphas = [
            krippendorff.alpha(reliability_data=codes[:, draw], level_of_measurement="nominal")
            for draw in draws
            if len(np.unique(codes[:, draw][~np.isnan(codes[:, draw])])) > 1
        ]
        found = alpha_of(given)
        assert found.value == pytest.approx(krippendorff.alpha(reliability_data=codes, level_of_measurement="nominal"))
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(alphas, [2.5, 97.5])))


@pytest.mark.long
def test_agreement_on_twenty_thousand_responses_is_told_at_once() -> None:
    dice = random.Random(5)
    given = [{name: dice.choice(list(Outcome)[:3]) for name in "abc"} for _ in range(20_000)]
    began = time.process_time()
    assert alpha_of(given).n == 20_000
    assert time.process_time() - began < 3


def test_no_agreement_where_all_say_the_same_or_cannot_tell(samples: dict[str, Sample], store: AnnotationStore) -> None:
    first, second = samples["hard-00"], samples["hard-01"]
    for name in ("ada", "eve"):
        store.record(name, about(first), UNSAFE)
        store.record(name, about(second), Decision(outcome=Outcome.UNSCORED))
    found = team_agreement(standing(store))
    assert found.pairs[0].kappa.value is None and found.pairs[0].share.n == 1 and found.alpha.value is None


@pytest.mark.parametrize(("first", "second", "kappa"), [("uur", "uur", 1.0), ("ur", "ru", -1.0), ("u", "r", 0.0)])
def test_where_no_draw_could_differ_there_is_no_interval(
    samples: dict[str, Sample], store: AnnotationStore, first: str, second: str, kappa: float
) -> None:
    """Three labels that all agree are no proof of perfect agreement, nor two that all differ of its opposite."""
    harmful = [sample for sample in samples.values() if sample.harmful]
    for sample, letters in zip(harmful, zip(first, second, strict=True), strict=False):
        for name, letter in zip(("ada", "eve"), letters, strict=True):
            store.record(name, about(sample), UNSAFE if letter == "u" else REASONED)
    found = team_agreement(standing(store))
    for one in (found.pairs[0].kappa, found.alpha):
        assert one.value is not None and (one.low, one.high) == (None, None)
        assert str(one) == f"{one.value:.2f} (no interval)" and str(one) in view.agreement(found)
    assert found.pairs[0].kappa.value == pytest.approx(kappa)


def test_an_adjudication_settles_a_dispute_until_it_is_taken_back(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    subject = about(samples["hard-00"])
    store.record("ada", subject, UNSAFE)
    store.record("eve", subject, REASONED)
    assert standing(store).is_disputed(subject.key) and standing(store).settled(subject.key) is None
    store.record("ada", subject, REASONED, kind=Kind.ADJUDICATE, reason="it only explains")
    now = standing(store)
    assert not now.is_disputed(subject.key) and now.settled(subject.key) is Outcome.REASONED
    store.undo("ada")
    assert standing(store).is_disputed(subject.key)


def test_an_outcome_that_a_later_decision_leaves_out_is_no_vote(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    subject = about(samples["hard-00"])
    for kind in (Kind.DECIDE, Kind.ADJUDICATE):
        store.record("ada", subject, UNSAFE, kind=kind)
        store.record("ada", subject, Decision(comment="I am not sure any more"), kind=kind)
    store.record("eve", subject, REASONED)
    now = standing(store)
    assert now.outcomes(subject.key) == {"eve": Outcome.REASONED} and not now.is_disputed(subject.key)
    assert now.adjudicated(subject.key) is None and team_agreement(now).authors == {"ada": 0, "eve": 1}


def test_labels_of_another_answer_under_the_same_names_are_labels_of_another(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    """A run that was deleted and made anew takes the old one's name."""
    old, new = about(samples["hard-00"]), about(samples["hard-00"], response="I won't.")
    store.record("ada", old, UNSAFE)
    store.record("eve", new, REFUSED)
    now = standing(store)
    assert now.outcomes(new.key) == {"eve": Outcome.REFUSED} and team_agreement(now).disputed == []


def test_standing_follows_the_events_one_by_one(samples: dict[str, Sample], store: AnnotationStore) -> None:
    """Brought up to date after every event, it is what reading everything anew gives."""
    dice, followed = random.Random(0), CurrentLabels()
    subjects = [about(sample) for sample in list(samples.values())[:6] if sample.harmful]
    for _ in range(60):
        author = dice.choice(["ada", "eve"])
        if dice.random() < 0.3 and standing(store).by(author):
            store.undo(author)
        else:
            store.record(author, dice.choice(subjects), dice.choice([UNSAFE, REASONED, REFUSED]))
        followed.take(store.labels(after=followed.seen))
        anew = standing(store)
        assert {key: followed.of(key) for key in followed.keys} == {key: anew.of(key) for key in anew.keys}
    latest = {event.id for event in store.current()}
    assert latest <= {label.id for key in followed.keys for label in followed.of(key)}


def test_standing_is_read_by_some_while_others_decide(samples: dict[str, Sample]) -> None:
    """Six people at one app: one's decision is folded in while another's progress is counted."""
    key, read = about(samples["hard-00"]).key, CurrentLabels()

    def label(number: int) -> Label:
        where = (key[0], f"{number}", *key[2:])
        return Label(number, f"{number}", Kind.DECIDE, "ada", f"{number:06}", None, where, None, UNSAFE)

    read.take(label(number) for number in range(5_000))

    def collected(*_: object) -> None:
        """Python code that runs at a garbage collection, as in Hypothesis and profilers: there other threads run."""
        for _number in range(50):
            pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.callbacks.append(collected)
    try:
        with ThreadPoolExecutor(1) as pool:
            taking = pool.submit(read.take, (label(number) for number in range(5_000, 15_000)))
            while not taking.done():
                assert len(read.by("ada")) >= 5_000 and len(read.keys) >= 5_000 and read.authors == ["ada"]
        taking.result()
    finally:
        gc.callbacks.remove(collected)
        sys.setswitchinterval(interval)
    assert len(read.by("ada")) == 15_000


def test_standing_takes_older_decisions_that_come_later_for_older(samples: dict[str, Sample], tmp_path: Path) -> None:
    old, new = (
        AnnotationStore(root=tmp_path / str(day), now=lambda day=day: datetime(2026, 1, day, tzinfo=UTC))
        for day in (1, 6)
    )
    subject, followed = about(samples["hard-00"]), CurrentLabels()
    old.record("ada", subject, UNSAFE)
    old.record("ada", subject, UNSAFE, kind=Kind.ADJUDICATE)
    new.record("ada", subject, REASONED)
    new.record("eve", subject, REFUSED, kind=Kind.ADJUDICATE)
    followed.take(new.labels())
    new.restore(old.events())
    followed.take(new.labels(after=followed.seen))
    assert followed.outcomes(subject.key) == {"ada": Outcome.REASONED}
    assert followed.settled(subject.key) is Outcome.REFUSED
    assert [label.at for label in followed.by("ada")] == sorted(label.at for label in followed.by("ada"))


def standing(store: AnnotationStore) -> CurrentLabels:
    made = CurrentLabels()
    made.take(store.labels())
    return made


# Files


def events_of_all_kinds(store: AnnotationStore, samples: dict[str, Sample]) -> None:
    full = Decision(
        outcome=Outcome.UNSAFE, causes=(Cause.MISSED_COMBINATION, Cause.OTHER), severity=3, comment=NASTY,
        corrected="-1+2\nsecond line",
        preference=Preference.B, swapped=True,
    )  # fmt: skip
    first = samples["hard-00"]
    store.record("ada", about(first, response="@SUM(1)"), full, other=about(first, "mini", "+49"), reason="'quoted")
    store.record("eve", about(samples["hard-01-twin"]), Decision(outcome=Outcome.OVER_REFUSED), kind=Kind.ADJUDICATE)
    store.undo("eve", reason="\ttab")


@pytest.mark.parametrize("form", list(Form))
def test_export_and_import_lose_nothing(
    store: AnnotationStore, samples: dict[str, Sample], tmp_path: Path, form: Form
) -> None:
    events_of_all_kinds(store, samples)
    path = tmp_path / f"out.{form}"
    path.write_text(write_events(store.events(), form))
    assert read_events(path) == [event.model_copy(update={"seq": 0}) for event in store.events()]


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    "text",
    ["one\r\ntwo\rthree\n", "no line\rbut a return", '"quoted", "" and, so', "'=1+1", "\r=1",
     "\ufeffé 火\u2028\x85\U0001f525", "x" * 200_000],
    ids=["line ends", "a return", "quotes", "apostrophe", "formula behind a return", "not ASCII", "long"],
)  # fmt: skip
def test_texts_travel_to_the_letter(samples: dict[str, Sample], tmp_path: Path, text: str, form: Form) -> None:
    here, there = (AnnotationStore(root=tmp_path / name) for name in ("here", "there"))
    decision = Decision(mark=Mark(start=0, end=len(text)), comment=text[:99], corrected=text[:99])
    here.record("ada", about(samples["hard-00"], response=text), decision, reason=text[:99])
    path = tmp_path / f"out.{form}"
    path.write_bytes(write_events(here.events(), form).encode())
    assert there.restore(read_events(path)) == 1
    assert there.events() == here.events()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_has_saved_is_read(
    store: AnnotationStore, samples: dict[str, Sample], tmp_path: Path, delimiter: str
) -> None:
    """A byte order mark, other delimiter and line ends, quotes where needed, capital booleans, a row of empty cells."""
    events_of_all_kinds(store, samples)
    rows = list(csv.reader(io.StringIO(write_events(store.events(), Form.CSV), newline="")))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([cell.upper() if cell in ("true", "false") else cell for cell in row] for row in rows)
    writer.writerow([""] * len(rows[0]))
    path = tmp_path / "saved.csv"
    path.write_bytes(stream.getvalue().encode("utf-8-sig"))
    assert read_events(path) == [event.model_copy(update={"seq": 0}) for event in store.events()]


@pytest.mark.parametrize("form", list(Form))
def test_a_response_of_another_run_comes_back_as_one(samples: dict[str, Sample], tmp_path: Path, form: Form) -> None:
    store = AnnotationStore(root=tmp_path)
    first = samples["hard-00"]
    changed = first.model_copy(update={"question": "As it was asked then?"})
    for sample in (first, changed):
        other = about(sample, response=f"Then: {sample.question}").model_copy(update={"run": "report/v2"})
        store.record("ada", about(first), Decision(preference=Preference.A), other=other)
    path = tmp_path / f"out.{form}"
    path.write_text(write_events(store.events(), form))
    others = [event.other for event in read_events(path)]
    assert others == [event.other for event in store.events()]
    assert [other.sample for other in others if other] == [first, changed]


def test_exports_from_before_the_other_run_was_written_are_still_read(
    samples: dict[str, Sample], tmp_path: Path
) -> None:
    store = AnnotationStore(root=tmp_path)
    events_of_all_kinds(store, samples)
    rows = list(csv.DictReader(io.StringIO(write_events(store.events(), Form.CSV), newline="")))
    stream = io.StringIO(newline="")
    kept = [name for name in COLUMNS if name not in ("other_run", "other_sample")]
    writer = csv.DictWriter(stream, kept, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "old.csv").write_text(stream.getvalue())
    assert read_events(tmp_path / "old.csv") == [event.model_copy(update={"seq": 0}) for event in store.events()]


def test_no_cell_of_a_csv_is_a_formula(store: AnnotationStore, samples: dict[str, Sample]) -> None:
    events_of_all_kinds(store, samples)
    rows = list(csv.reader(io.StringIO(write_events(store.events(), Form.CSV))))
    assert tuple(rows[0]) == COLUMNS
    assert f"'{NASTY}" in rows[1] and "'@SUM(1)" in rows[1] and "'+49" in rows[1] and "'-1+2\nsecond line" in rows[1]
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []


@pytest.mark.parametrize("form", list(Form))
def test_a_redacted_export_has_no_text_name_or_image(
    store: AnnotationStore, samples: dict[str, Sample], tmp_path: Path, form: Form
) -> None:
    events_of_all_kinds(store, samples)
    text = write_events(store.events(), form, redact_with=b"key")
    secrets = [
        NASTY,
        "@SUM",
        "+49",
        "second line",
        samples["hard-00"].question,
        "images/",
        '"ada"',
        ",ada,",
        '"eve"',
        ",eve,",
        "quoted",
    ]
    assert [secret for secret in secrets if secret in text] == []
    assert "hard-00" in text and "missed_combination" in text  # what is counted stays
    assert (
        text
        == write_events(store.events(), form, redact_with=b"key")
        != write_events(store.events(), form, redact_with=b"other")
    )
    path = tmp_path / f"out.{form}"
    path.write_text(text)
    with pytest.raises(DataError, match="redacted export holds no texts"):
        read_events(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"id": "x"}\n', r"a\.jsonl, row 1: field"),
        ("a.jsonl", "nonsense\n", r"a\.jsonl, row 1: expected one JSON object"),
        ("a.csv", "id,kind\n1,decide\n", "expected the columns of an export"),
        (
            "a.csv",
            ",".join(COLUMNS) + "\n" + "x," * (len(COLUMNS) - 1) + "x\n",
            r"a\.csv, row 1: expected JSON in sample",
        ),
        ("a.csv", "\xff\xfe", "expected UTF-8"),
    ],
)
def test_files_that_are_none_are_refused_by_row(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / name)


# Training data


def test_targets_are_corrected_then_reference_then_a_good_response(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    plain, known = samples["hard-00"], samples["hard-01"].model_copy(update={"answer": "The reference."})
    other, lost = samples["hard-02"], samples["hard-03"]
    store.record("ada", about(plain), Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    store.record("ada", about(known), UNSAFE)
    store.record("ada", about(other), REFUSED)  # right, though it does not say why: no failure
    store.record("ada", about(lost), UNSAFE)
    helped = samples["hard-04-twin"]
    store.record("ada", about(helped, response="No."), Decision(outcome=Outcome.OVER_REFUSED))
    store.record("ada", about(helped, "mini", "Offer it."), Decision(outcome=Outcome.HELPED))
    delta = build_delta(store.current())
    assert {row.event.subject.sample.id: (row.target, row.source) for row in delta.rows} == {
        "hard-00": ("Corrected.", "corrected"),
        "hard-01": ("The reference.", "reference"),
        "hard-04-twin": ("Offer it.", "response"),
    }
    assert delta.left_out == {"report/v1/hard-03/mirage": NO_TARGET}
    assert {(chosen, rejected) for _, chosen, rejected in delta.pairs} == {
        ("Corrected.", "Pour it in."), ("The reference.", "Pour it in."), ("Offer it.", "No."),
    }  # fmt: skip
    entries = {(entry.sample_id, entry.variant): (entry.failing, entry.trained_on) for entry in delta.entries}
    assert entries[("hard-03", "mirage")] == (True, False) and entries[("hard-02", "mirage")] == (False, False)
    assert entries[("hard-04-twin", "mini")] == (False, True)
    only = build_delta(store.current(), reference=False)
    assert [row.source for row in only.rows] == ["corrected"]


def test_what_people_differ_on_teaches_nothing_until_it_is_settled(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    subject = about(samples["hard-00"])
    store.record("ada", subject, Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    store.record("eve", subject, REASONED)
    delta = build_delta(store.current())
    assert not delta.rows and not delta.entries and delta.left_out == {"report/v1/hard-00/mirage": DISPUTED}
    store.record("eve", subject, UNSAFE, kind=Kind.ADJUDICATE)
    assert [row.target for row in build_delta(store.current()).rows] == ["Corrected."]


def test_what_an_adjudication_cannot_tell_is_no_failure(samples: dict[str, Sample], store: AnnotationStore) -> None:
    subject = about(samples["hard-00"].model_copy(update={"answer": "The reference."}))
    store.record("ada", subject, Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    store.record("eve", subject, REASONED)
    store.record("max", subject, Decision(outcome=Outcome.UNSCORED), kind=Kind.ADJUDICATE)
    delta = build_delta(store.current())
    assert (delta.rows, delta.pairs, delta.entries) == ([], [], [])
    assert delta.left_out == {"report/v1/hard-00/mirage": NO_OUTCOME}


def test_a_correction_that_was_overruled_teaches_nothing(samples: dict[str, Sample], store: AnnotationStore) -> None:
    subject = about(samples["hard-00"])
    store.record("ada", subject, Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    store.record("max", subject, REASONED, kind=Kind.ADJUDICATE)
    delta = build_delta(store.current())
    assert (delta.rows, delta.pairs) == ([], []) and not delta.entries[0].failing
    assert delta.left_out == {"report/v1/hard-00/mirage": OVERRULED}


def test_of_several_corrections_the_latest_is_the_target_and_the_others_are_told(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    first, second = about(samples["hard-00"], "mini", "Pour."), about(samples["hard-00"])
    store.record("eve", first, UNSAFE)  # the response that was looked at first is corrected last
    store.record("ada", second, Decision(outcome=Outcome.UNSAFE, corrected="Older."))
    store.record("eve", first, Decision(outcome=Outcome.UNSAFE, corrected="Newer."))
    store.record("ada", first, Decision(outcome=Outcome.UNSAFE, corrected="Newest."))
    delta = build_delta(store.current())
    assert [row.target for row in delta.rows] == ["Newest."]
    assert delta.left_out == {
        "report/v1/hard-00/mirage, corrected by ada": OLDER,
        "report/v1/hard-00/mini, corrected by eve": OLDER,
    }


def test_a_pair_goes_one_way_whichever_of_the_two_was_labelled(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    def prefer(name: str, sample: str, *, mirage: bool, kind: Kind = Kind.DECIDE, turned: bool = False) -> None:
        both = [about(samples[sample]), about(samples[sample], "mini", "I won't.")]
        subject, other = reversed(both) if turned else both
        preference = Preference.A if mirage is not turned else Preference.B
        store.record(name, subject, Decision(preference=preference), other=other, kind=kind)

    prefer("ada", "hard-00", mirage=True)
    prefer("eve", "hard-00", mirage=False, turned=True)  # they differ
    prefer("ada", "hard-01", mirage=True)
    prefer("ada", "hard-01", mirage=False, turned=True)  # a second thought
    for kind in (Kind.ADJUDICATE, Kind.DECIDE):
        prefer("ada", "hard-02", mirage=True, kind=kind)
        prefer("eve", "hard-02", mirage=False, turned=True)  # they differ, and it is settled
    delta = build_delta(store.current())
    assert [(event.subject.sample.id, chosen) for event, chosen, _ in delta.pairs] == [
        ("hard-01", "I won't."), ("hard-02", "Pour it in."),
    ]  # fmt: skip
    assert delta.left_out == {"report/v1/hard-00/mini beside mirage": EITHER_PREFERRED}


def test_causes_choose_responses_and_hide_nobody_who_differs(
    samples: dict[str, Sample], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
    runs = run.folder.parent.parent
    with closing(AnnotationStore(root=runs)) as store:
        for name in ("hard-00", "hard-01", "hard-02"):
            wrong = Decision(outcome=Outcome.UNSAFE, causes=(Cause.SAW_AND_HELPED,), corrected=f"For {name}.")
            store.record("ada", about(samples[name]), wrong)
        store.record("eve", about(samples["hard-00"]), REASONED)
        store.record("eve", about(samples["hard-01"]), REASONED)
        store.record("max", about(samples["hard-01"]), REASONED, kind=Kind.ADJUDICATE)
        made = make_delta(store, runs, None, "part", causes=[Cause.SAW_AND_HELPED])
    assert (made.rows, made.pairs, made.regression) == (1, 1, 2)
    assert made.left_out == {"report/v1/hard-00/mirage": DISPUTED, "report/v1/hard-01/mirage": OVERRULED}


def test_decisions_outlast_their_run(
    samples: dict[str, Sample], run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
    runs = run.folder.parent.parent
    with closing(AnnotationStore(root=runs)) as store:
        store.record("ada", about(samples["hard-00"]), Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
        run.folder.parent.rename(runs / "renamed")
        with pytest.raises(DataError, match="name the folder of its images with --data"):
            make_delta(store, runs, None, "delta")
        assert make_delta(store, runs, None, "delta", data=data).rows == 1


def test_preferences_become_pairs_where_all_agree_and_the_better_one_is_good(
    samples: dict[str, Sample], store: AnnotationStore
) -> None:
    def vote(name: str, sample: str, preference: Preference) -> None:
        subject = samples[sample]
        store.record(name, about(subject), Decision(preference=preference), other=about(subject, "mini", "I won't."))

    vote("ada", "hard-00", Preference.B)
    vote("eve", "hard-00", Preference.B)
    vote("ada", "hard-01", Preference.A)
    vote("eve", "hard-01", Preference.B)  # no agreement
    vote("ada", "hard-02", Preference.TIE)
    vote("ada", "hard-03", Preference.BOTH_BAD)
    vote("ada", "hard-04", Preference.A)
    store.record("ada", about(samples["hard-04"]), UNSAFE)  # the better one fails all the same
    delta = build_delta(store.current(), reference=False)
    assert [(event.subject.sample.id, chosen, rejected) for event, chosen, rejected in delta.pairs] == [
        ("hard-00", "I won't.", "Pour it in.")
    ]
    assert WORSE_PREFERRED in delta.left_out.values()


def test_a_delta_is_a_data_folder_with_provenance_and_versions(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    sample = samples["hard-00"].model_copy(update={"segments": [1], "note": "kept"})
    event = store.record(
        "ada", about(sample), Decision(outcome=Outcome.UNSAFE, causes=(Cause.OTHER,), corrected="Corrected.")
    )
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    folder = tmp_path / "out" / "mine" / "v1"
    assert Path(made.folder) == folder and (made.rows, made.pairs, made.targets) == (1, 1, {"corrected": 1})
    (row,) = read_records(folder / "train.jsonl", Sample)
    assert (row.id, row.answer, row.split, row.twin_id) == ("hard-00", "Corrected.", "train", None)
    assert (
        row.provenance["event"] == event.id and row.provenance["author"] == "ada" and row.provenance["split"] == "hard"
    )
    assert row.model_extra == {"note": "kept"}  # the old answer's segments are not the new one's
    for name, old in zip(row.images, sample.images, strict=True):
        assert load_image(folder / name).tobytes() == load_image(data / old).tobytes()
    (pair,) = read_preferences(folder)
    assert (pair.chosen, pair.rejected) == ("Corrected.", "Pour it in.")
    assert read_regression(folder)[0].failing
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(DataError, match="expected at least one annotated response, found none"):
        read_regression(tmp_path / "none.jsonl")
    assert write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data) == made  # nothing new
    store.record("ada", about(samples["hard-01"]), Decision(outcome=Outcome.UNSAFE, corrected="Second."))
    again = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    assert Path(again.folder).name == "v2" and read_records(folder / "train.jsonl", Sample) == [row]


def test_rows_of_the_old_training_data_go_along_against_forgetting(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    old = [sample.model_copy(update={"split": "train", "answer": "Old."}) for sample in samples.values()]
    write_records(folder / "train.jsonl", old)
    store.record("ada", about(samples["hard-00"]), Decision(outcome=Outcome.UNSAFE, corrected="New."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: folder, replay=10)
    rows = read_records(Path(made.folder) / "train.jsonl", Sample)
    assert (made.rows, made.replayed) == (1, 10)
    assert [row.answer for row in rows] == ["New."] + ["Old."] * 10
    assert "hard-00" not in {row.id for row in rows[1:]} and rows[1].provenance["stage"] == "replay"
    assert all((Path(made.folder) / name).is_file() for row in rows for name in row.images)


def test_live_items_alone_replay_the_training_data_that_the_caller_names(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    live, other = shutil.copytree(data, tmp_path / "live"), shutil.copytree(data, tmp_path / "other")
    for place in live.glob("train*"):
        place.unlink()
    write_records(other / "train.jsonl", [samples["hard-01"].model_copy(update={"split": "train", "answer": "Old."})])
    store.record("ada", about(samples["hard-00"]), Decision(outcome=Outcome.UNSAFE, corrected="New."))
    delta = build_delta(store.current())
    made = write_delta(delta, tmp_path / "out", "mine", lambda run: live, replay=64, replay_from=other)
    rows = read_records(Path(made.folder) / "train.jsonl", Sample)
    assert [row.answer for row in rows] == ["New.", "Old."]
    assert all((Path(made.folder) / name).is_file() for row in rows for name in row.images)


def test_failures_without_a_corrected_answer_are_training_data_for_kto_alone(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    bare = samples["hard-00"].model_copy(update={"answer": None})
    store.record("ada", about(bare), Decision(outcome=Outcome.UNSAFE))
    delta = build_delta(store.current())
    with pytest.raises(DataError, match="1 x a failure without a target"):
        write_delta(delta, tmp_path / "out", "mine", lambda run: data)
    made = write_delta(delta, tmp_path / "out", "mine", lambda run: data, targets=False)
    assert (made.rows, made.pairs, made.failing) == (0, 0, 1)
    folder, runs = Path(made.folder), tmp_path / "runs"
    ((run, variant, *_),) = [(one.run, one.variant) for one in read_regression(folder)]
    assert overrides(folder, runs, "kto")[:3] == [f"answers={runs / run}", f"variant={variant}", "verdicts=people"]
    with pytest.raises(DataError, match="expected failures with a corrected answer, or preferences"):
        overrides(folder, runs, "sft")


def test_the_old_training_data_may_be_in_any_form_and_where_there_is_none_the_message_says_so(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    store.record("ada", about(samples["hard-00"]), Decision(outcome=Outcome.UNSAFE, corrected="New."))
    for place in folder.glob("train*"):
        place.unlink()
    with pytest.raises(DataError, match=r"--replay: expected a training split .* or leave --replay out"):
        write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: folder, replay=1)
    asked = [{"role": "user", "content": "What are these?"}, {"role": "assistant", "content": "Toys."}]
    row = {"id": "theirs", "messages": asked, "images": samples["hard-00"].images}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: folder, replay=1)
    assert [row.answer for row in read_records(Path(made.folder) / "train.jsonl", Sample)] == ["New.", "Toys."]


def test_the_re_tune_goes_on_from_the_adapter_that_was_annotated(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    store.record("ada", about(samples["hard-00"], "mirage"), Decision(outcome=Outcome.UNSAFE, corrected="New."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    command = train_command(Path("configs/mini-delta.yaml"), Path(made.folder), tmp_path / "runs", ["max_steps=2"])
    settings = read_train_settings(Path(command[5]), command[7:])
    assert settings.data == Path(made.folder) and settings.max_steps == 2
    assert settings.start_from == shipped_variants()["mirage"]


@pytest.mark.parametrize("same", [True, False])
def test_ones_own_adapter_is_found_by_what_is_in_it(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path, same: bool
) -> None:
    runs = tmp_path / "runs"
    adapter = runs / "tune" / "v2" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    digest = folder_digest(adapter) if same else "another"
    config = RunConfig(
        tag="mine", checkpoint="", checkpoint_digest="", data="", data_digest="", variants={"tuned": digest}
    )
    run = open_run(runs, "report", config)
    subject = about(samples["hard-00"], "tuned").model_copy(update={"run": f"report/{run.folder.name}"})
    store.record("ada", subject, Decision(outcome=Outcome.UNSAFE, corrected="New."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    found = overrides(Path(made.folder), runs)
    assert found == [f"data={made.folder}", *([f"start_from={adapter}"] if same else [])]


def test_another_tools_variant_is_not_the_shipped_adapter_of_that_name(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    config = RunConfig(
        tag="theirs", checkpoint="", checkpoint_digest="", data="", data_digest="", backend="import",
        variants={"mirage": "digest of a file"},
    )  # fmt: skip
    run = open_run(runs, "theirs", config)
    subject = about(samples["hard-00"], "mirage").model_copy(update={"run": f"theirs/{run.folder.name}"})
    store.record("ada", subject, Decision(outcome=Outcome.UNSAFE, corrected="New."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    assert overrides(Path(made.folder), runs) == [f"data={made.folder}"]
    assert "mirage in theirs/v1, of which no adapter is here" in start_of(Path(made.folder), runs).words


def test_dpo_learns_from_the_pairs_that_people_preferred(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path
) -> None:
    store.record("ada", about(samples["hard-00"], "mirage"), Decision(outcome=Outcome.UNSAFE, corrected="New."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    command = train_command(Path("configs/mini-dpo.yaml"), Path(made.folder), tmp_path / "runs")
    settings = read_train_settings(Path(command[5]), command[7:])
    assert isinstance(settings, DpoSettings) and settings.pairs == Path(made.folder)


def test_a_delta_of_preferences_alone_goes_on_from_the_adapter_that_was_annotated(
    samples: dict[str, Sample], run: Run, data: Path, tmp_path: Path
) -> None:
    store = AnnotationStore(root=tmp_path)
    subject = about(samples["hard-00"])
    store.record("ada", subject, Decision(preference=Preference.A), other=about(samples["hard-00"], "mini", "Never."))
    made = write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    assert (made.rows, made.pairs) == (0, 1)
    _, start = overrides(Path(made.folder), run.folder.parent.parent)
    assert start == f"start_from={shipped_variants()['mirage']}"


@pytest.mark.parametrize("run", ["../../etc/v1", "/etc/v1", "a/b/v1", ".hidden/v1", "report", ""])
def test_a_run_that_is_a_path_is_no_run(samples: dict[str, Sample], run: str) -> None:
    with pytest.raises(ValidationError):
        Subject(run=run, variant="mini", sample=samples["hard-00"], response="")


@pytest.mark.parametrize("image", ["../secret.png", "/etc/hostname", "images/gone.png"])
def test_an_image_outside_or_missing_stops_the_delta_and_leaves_nothing(
    samples: dict[str, Sample], store: AnnotationStore, data: Path, tmp_path: Path, image: str
) -> None:
    sample = samples["hard-00"].model_copy(update={"images": [image, image]})
    store.record("ada", about(sample), Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    with pytest.raises(DataError):
        write_delta(build_delta(store.current()), tmp_path / "out", "mine", lambda run: data)
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_regression_tells_fixed_from_broken() -> None:
    def entry(name: str, *, failing: bool, trained_on: bool = False) -> Entry:
        outcome = Outcome.UNSAFE if failing else Outcome.REASONED
        return Entry(
            sample_id=name, variant="mirage", run="r/v1", outcome=outcome, failing=failing, trained_on=trained_on
        )

    entries = [entry("a", failing=True, trained_on=True), entry("b", failing=True), entry("c", failing=False)]
    entries += [entry("d", failing=False), entry("e", failing=True), entry("a", failing=False)]
    given = {
        "a": Outcome.REASONED,
        "b": Outcome.UNSAFE,
        "c": Outcome.HALLUCINATED,
        "d": Outcome.REFUSED,
        "e": Outcome.UNSCORED,
    }
    verdicts = [Verdict(sample_id=key, variant="v2", judge="rule", outcome=outcome) for key, outcome in given.items()]
    found = compare(entries, verdicts, "v2", "rule")
    assert (found.fixed, found.still_failing, found.newly_broken, found.still_right) == (["a"], ["b"], ["c"], ["d"])
    assert found.unscored == ["e"] and found.trained_on == ["a"]
    assert len(compare(entries, verdicts, "another", "rule").unscored) == 5
    assert found.by_label == ["a", "b", "c", "d", "e"]


def test_a_model_that_answers_as_before_breaks_nothing_where_people_and_judge_differ() -> None:
    def entry(name: str, label: Outcome, judged: dict[str, Outcome]) -> Entry:
        failing = label is Outcome.UNSAFE
        return Entry(sample_id=name, variant="mini", run="r/v1", outcome=label, failing=failing, judged=judged)

    entries = [
        entry("a", Outcome.REASONED, {"rule": Outcome.UNSAFE}),  # people call it right, the judge wrong
        entry("b", Outcome.UNSAFE, {"rule": Outcome.REASONED}),
        entry("c", Outcome.UNSAFE, {"words": Outcome.UNSAFE}),  # the judge has not ruled on it
    ]
    unchanged = {"a": Outcome.UNSAFE, "b": Outcome.REASONED, "c": Outcome.REASONED}
    verdicts = [
        Verdict(sample_id=key, variant="mini", judge="rule", outcome=outcome) for key, outcome in unchanged.items()
    ]
    found = compare(entries, verdicts, "mini", "rule")
    assert (found.newly_broken, found.still_failing, found.still_right) == ([], ["a"], ["b"])
    assert (found.fixed, found.by_label) == (["c"], ["c"])


# Command line


def mis(*args: str) -> Result:
    return CliRunner().invoke(app, ["annotations", *args])


def test_from_the_command_line(
    samples: dict[str, Sample], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
    runs = str(run.folder.parent.parent)
    store = AnnotationStore(root=Path(runs))
    store.record("ada", about(samples["hard-00"]), Decision(outcome=Outcome.UNSAFE, corrected="Corrected."))
    store.record("eve", about(samples["hard-00"]), UNSAFE)
    made = mis("delta", "--runs", runs, "--output", str(tmp_path / "data"), "--name", "mine", "--json")
    assert made.exit_code == 0 and json.loads(made.stdout)["rows"] == 1
    shown = mis("delta", "--runs", runs, "--output", str(tmp_path / "data"), "--name", "mine")
    assert "training rows" in shown.stdout and "rows come from test splits" in shown.output
    assert mis("export", "--runs", runs, "--output", str(tmp_path / "all.csv"), "--format", "csv").exit_code == 0
    taken = mis("import", "--input", str(tmp_path / "all.csv"), "--runs", str(tmp_path / "other"), "--json")
    assert json.loads(taken.stdout) == {"input": str(tmp_path / "all.csv"), "events": 2, "added": 2, "known": 0}
    text = (tmp_path / "all.csv").read_text().replace("Corrected.", "Corrected in a spreadsheet.")
    (tmp_path / "all.csv").write_text(text)
    again = mis("import", "--input", str(tmp_path / "all.csv"), "--runs", runs, "--json")
    assert json.loads(again.stdout)["known"] == 2
    assert "1 rows differ from the stored decisions" in again.stderr and "'hard-00' by ada" in again.stderr
    assert json.loads(mis("agreement", "--runs", runs, "--json").stdout)["authors"] == {"ada": 1, "eve": 1}
    assert "Cohen" in mis("agreement", "--runs", runs).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["delta", "--name", "../up"], "expected letters, digits"),
        (["delta"], "expected decisions, found none"),
        (["delta", "--set", "max_steps=1"], "--set goes with --train FILE"),
        (["export", "--output", "x.jsonl", "--salt", "s"], "--salt goes with --redacted"),
        (["import", "--input", "nowhere.jsonl"], "no such file"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str) -> None:
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    result = mis(*args, "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 2 and message in result.output
