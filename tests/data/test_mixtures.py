"""Mixtures.

Every recipe's rows, shares and labels; the same twice; nothing substituted in silence; written as a folder that checks.
"""

import json
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from support.mis_layout import draw_picture

from mis_lib.construct.elements import load_elements
from mis_lib.construct.general import EVERYDAY_TRAIN, everyday_samples
from mis_lib.data.checks import is_cot
from mis_lib.data.findings import Kind
from mis_lib.data.mixing import compose, composition, overlaps, write
from mis_lib.data.mixtures import RECIPES, Arms, MixedRow, Part, Recipe, SampleSet, configured
from mis_lib.data.preflight import preflight, read_all
from mis_lib.data.tasks import FORMS, TASKS
from mis_lib.errors import DataError, SettingsError
from mis_lib.judge.rule import decide
from mis_lib.schema import Outcome, Sample
from mis_lib.text.refusals import REFUSALS, opens_with_refusal

NAMES = ("candle", "key", "house", "dog")
CATEGORIES = ("Illegal Activity", "Privacy", "Self-Harm", "Hate")
REASONED = (
    "The first image shows a candle and the second image shows a curtain. A flame that stands so near to cloth could "
    "set the whole room "
    "alight while people sleep in it. I can't help with this combination, but a lamp would do."
)
HELP = (
    "The first image shows a key and the second image shows a house. "
    "Put the key into the lock and turn it twice to the left."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets")
    for name in NAMES:
        draw_picture(made / f"{name}.png", name, "openmoji", 1)
    return made


@pytest.fixture(scope="module")
def safety(folder: Path) -> SampleSet:
    """Eighty harmful rows with their benign twins."""
    return SampleSet([sample for number in range(80) for sample in _twins(number)], folder)


@pytest.fixture(scope="module")
def general(folder: Path) -> SampleSet:
    rows = [
        Sample(
            id=f"general-{number}", question=f"What is number {number}?", images=[f"{NAMES[number % 4]}.png"],
            split="general",
            harmful=False, answer=f"It is thing {number}.",
        )
        for number in range(70)
    ]  # fmt: skip
    return SampleSet(rows, folder)


def _twins(number: int) -> tuple[Sample, Sample]:
    shared = {"question": f"How do I use these two, in case {number}?", "category": CATEGORIES[number % 4]}
    names = (f"s{number}", f"s{number}-twin")
    harmful = Sample(
        id=names[0],
        images=["candle.png", "key.png"],
        twin_id=names[1],
        answer=REASONED,
        objects=["candle", "key"],
        **shared,
    )
    benign = Sample(
        id=names[1],
        images=["candle.png", "dog.png"],
        twin_id=names[0],
        answer=HELP,
        objects=["candle", "dog"],
        harmful=False,
        **shared,
    )
    return harmful, benign


def _with_perception(sample: Sample) -> Sample:
    """The sample with its first sentence labelled as what it sees."""
    end = (sample.answer or "").index(".") + 1
    parts = [{"kind": "perception", "start": 0, "end": end}]
    return Sample.model_validate({**sample.model_dump(), "segments": parts})


def mixed(name: str, safety: SampleSet, general: SampleSet, *options: str) -> Arms:
    everyday = SampleSet(
        [sample.model_copy(update={"id": f"everyday-{n}", "split": "everyday_train"}) for n, sample in enumerate(
            general.samples[:28])], general.folder,
    )  # fmt: skip
    if name == "rewrite":
        safety = safety._replace(samples=[_with_perception(sample) for sample in safety.samples])
    return compose(configured(name, options), {"safety": safety, "general": general, "everyday": everyday})


def only(arms: Arms) -> list[MixedRow]:
    assert list(arms) == ["train"]
    return arms["train"]


# name -> harmful, benign, general rows of each arm, from 80 harmful, 80 benign and 70 general ones
COUNTS = {
    "mirage": [(80, 80, 20)],
    "mirage_star": [(80, 80, 0)],
    "refusal": [(80, 80, 20)],
    "refusal_only": [(80, 0, 10)],
    "textual": [(80, 40, 0)],
    "vlguard_p": [(80, 40, 0)],
    "vlguard_r": [(80, 40, 0)],
    "benign_refusal": [(0, 28, 70)],
    "held_out": [(40, 40, 10)],
    "single_vs_two": [(80, 80, 20), (80, 80, 20)],
    "rewrite": [(80, 53, 0)],
}


@pytest.mark.parametrize("name", COUNTS)
def test_composition_is_the_papers(name: str, safety: SampleSet, general: SampleSet) -> None:
    found = composition(mixed(name, safety, general))
    assert [(arm.harmful, arm.benign, arm.general) for arm in found] == COUNTS[name]
    assert all(arm.rows == arm.harmful + arm.benign + arm.general for arm in found)


def test_every_recipe_is_tried() -> None:
    assert set(COUNTS) | {"vlguard_m", "mimic"} == set(RECIPES)


def test_mirage_has_a_ninth_of_general_rows_and_reasoned_labels(safety: SampleSet, general: SampleSet) -> None:
    (arm,) = composition(mixed("mirage", safety, general))
    assert arm.general_share == pytest.approx(0.111, abs=0.001)
    assert arm.labels == {"reasoned": 160}
    assert mis_size_general() == 491  # of MIS's 3,927 rows: the paper took 500 and calls it 11.1 %


def mis_size_general() -> int:
    rows = [Sample(id=str(number), question="?", images=["a.png"], answer=REASONED) for number in range(3927)]
    others = [
        Sample(id=f"g{number}", question="?", images=["a.png"], answer="x", harmful=False) for number in range(600)
    ]
    sources = {"safety": SampleSet(rows, Path()), "general": SampleSet(others, Path())}
    return composition(compose(configured("mirage"), sources))[0].general


SEEN = {True: REASONED.index(" A flame"), False: HELP.index(" Put")}
"""Where the perception of each answer ends."""


def labelled(safety: SampleSet) -> SampleSet:
    """The same rows with the borders of the parts of their answers."""
    rows = [
        sample.model_copy(
            update={
                "segments": [
                    {"kind": "perception", "start": 0, "end": SEEN[sample.harmful] + 1},
                    {"kind": "answer", "start": SEEN[sample.harmful] + 1, "end": len(sample.answer or "")},
                ]
            }
        )
        for sample in safety.samples
    ]
    return SampleSet(rows, safety.folder)


def test_cut_rows_stop_at_the_turn_without_an_end(safety: SampleSet, general: SampleSet) -> None:
    seen = SEEN
    rows = mixed("mirage", labelled(safety), general, "cut=0.5")["train"]
    answers = {True: REASONED, False: HELP}
    cut = [row.sample for row in rows if row.sample.model_extra and row.sample.model_extra.get("mask_eos")]
    assert 55 < len(cut) < 105  # of 160
    for sample in cut:
        first = answers[sample.harmful][seen[sample.harmful] :].split(". ")[0].rstrip(".")
        assert sample.answer == f"{answers[sample.harmful][: seen[sample.harmful]]}{first}."
        assert [part["end"] for part in sample.segments] == [seen[sample.harmful] + 1, len(sample.answer)]
    assert any(sample.answer != REASONED and sample.harmful for sample in cut)
    whole = [row.sample for row in rows if row.part.source == "safety" and row.sample not in cut]
    assert {sample.answer for sample in whole} == {REASONED, HELP}


def test_rows_without_labelled_segments_are_not_cut(safety: SampleSet, general: SampleSet) -> None:
    with pytest.raises(DataError, match=r"cut expects answers with labelled segments .* found none in s"):
        mixed("mirage", safety, general, "cut=1")


def test_refusal_is_mirage_with_only_the_harmful_answers_exchanged(safety: SampleSet, general: SampleSet) -> None:
    """The paper's label ablation: the same rows in the same order, questions, images and benign answers included."""
    reasoned, refused = (only(mixed(name, safety, general, "seed=3")) for name in ("mirage", "refusal"))
    for cot, flat in zip(reasoned, refused, strict=True):
        renamed = {**flat.sample.provenance, "mixture": "mirage"}
        same = flat.sample.model_copy(update={"answer": cot.sample.answer, "provenance": renamed})
        assert same == cot.sample
        assert (cot.sample.answer != flat.sample.answer) == cot.sample.harmful
    assert {row.sample.answer for row in refused if row.sample.harmful} == set(REFUSALS)


def test_refusals_are_not_cut_and_the_benign_rows_are_cut_as_in_mirage(safety: SampleSet, general: SampleSet) -> None:
    cut = {}
    for name in ("mirage", "refusal"):
        rows = mixed(name, labelled(safety), general, "cut=0.5")["train"]
        cut[name] = {row.sample.id for row in rows if (row.sample.model_extra or {}).get("mask_eos")}
        assert len(rows) == 180
    benign = {sample.id for sample in safety.samples if not sample.harmful}
    assert cut["refusal"] == cut["mirage"] & benign
    assert 25 < len(cut["refusal"]) < 55  # of 80


def test_an_editor_learns_to_leave_harmless_help_and_to_rewrite_what_is_said_of_harm(
    safety: SampleSet, general: SampleSet
) -> None:
    known = {sample.id: sample for sample in safety.samples}
    rows = [row.sample for row in only(mixed("rewrite", safety, general, "share=0.5"))]
    assert sum(row.harmful for row in rows) == sum(not row.harmful for row in rows) == 80
    for row in rows:
        first = known[row.id]
        asked, _, rest = row.question.partition("\n\nDraft of an answer:\n")
        draft, _, order = rest.partition("\n\n")
        assert asked == first.question and order.startswith("Rewrite the draft so that it is safe.")
        assert row.answer == first.answer and row.images == [f"safety/{name}" for name in first.images]
        assert (draft == row.answer) is not first.harmful
        if first.harmful:
            seen = (first.answer or "").partition(".")[0]
            assert draft.startswith(seen) and draft.endswith((known[first.twin_id or ""].answer or "")[-20:])


def test_a_row_brings_its_own_draft_and_needs_one_without_a_twin(safety: SampleSet, general: SampleSet) -> None:
    alone = [sample.model_copy(update={"twin_id": None}) for sample in safety.samples]
    with pytest.raises(DataError, match="expected an unsafe draft, found neither the key draft nor a twin"):
        mixed("rewrite", safety._replace(samples=alone), general)
    own = [Sample.model_validate({**sample.model_dump(), "draft": "Mix them."}) for sample in alone]
    rows = [row.sample for row in only(mixed("rewrite", safety._replace(samples=own), general))]
    assert all("answer:\nMix them.\n\n" in row.question for row in rows)


def test_refusal_only_has_no_benign_row(safety: SampleSet, general: SampleSet) -> None:
    rows = [row for row in only(mixed("refusal_only", safety, general)) if row.part.source == "safety"]
    assert {row.sample.answer for row in rows} == set(REFUSALS)
    assert all(row.sample.harmful and row.sample.twin_id is None for row in rows)  # no twin is in the mixture


@pytest.mark.parametrize(
    "said",
    [
        "I'm sorry, that is a thing I have never helped with.",
        "No, this image shows a private document, and it would be unethical to pass it on.",  # as many of VLGuard's
        "It is not appropriate to make such jokes about people.",
    ],
)
def test_an_answer_that_declines_already_stays(said: str, folder: Path, general: SampleSet) -> None:
    rows = [Sample(id="a", question="?", images=["dog.png"], answer=said)]
    arms = mixed("refusal", SampleSet(rows, folder), general)
    assert said in {row.sample.answer for row in only(arms)}


def test_textual_says_in_words_what_black_images_do_not_show(safety: SampleSet, general: SampleSet) -> None:
    rows = only(mixed("textual", safety, general))
    assert all(row.sample.images == ["black.png", "black.png"] for row in rows)
    words = {
        True: "The first image shows: candle. The second image shows: key. How",
        False: "The first image shows: candle. The second image shows: dog. How",
    }
    assert all(row.sample.question.startswith(words[row.sample.harmful]) for row in rows)
    assert all(opens_with_refusal(row.sample.answer or "") == row.sample.harmful for row in rows)


@pytest.mark.parametrize("name", ["vlguard_p", "vlguard_m"])
def test_vlguards_answers_stay_as_published(name: str, safety: SampleSet, general: SampleSet) -> None:
    """Those too that open with no refusal: a quarter of the unsafe ones (github.com/ys-zong/VLGuard, train.json)."""
    published = [
        "No, this image shows a private document, and it would be unethical to pass it on.",
        "The image shows a person's bank card. Such details belong to their owner alone.",
    ]
    rows = [
        row.model_copy(update={"answer": published[number % 4 // 2]}) if row.harmful else row
        for number, row in enumerate(safety.samples)
    ]
    kept = only(mixed(name, safety._replace(samples=rows), general, "rows=80"))
    assert {row.sample.answer for row in kept if row.sample.harmful} == set(published)
    reasoned = only(mixed("vlguard_r", safety, general, "rows=80"))
    drawn = [{row.sample.id for row in rows if row.part.source == "safety"} for rows in (kept, reasoned)]
    assert drawn[0] <= drawn[1]  # R: the rows of P


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "benign_refusal"])
def test_a_mixture_of_so_many_rows_has_so_many(name: str, safety: SampleSet, general: SampleSet) -> None:
    for rows in range(40, 61):
        found = composition(mixed(name, safety, general, f"rows={rows}"))
        assert [arm.rows for arm in found] == [rows] * len(found)


def test_vlguard_mixed_is_five_eighths_general(safety: SampleSet, general: SampleSet) -> None:
    with pytest.raises(DataError, match="expected 200 all rows of general data in 320, found 70"):
        mixed("vlguard_m", safety, general)
    (arm,) = composition(mixed("vlguard_m", safety, general, "rows=80"))
    assert (arm.harmful, arm.benign, arm.general) == (20, 10, 50)


def test_benign_refusal_refuses_one_source_and_answers_another(safety: SampleSet, general: SampleSet) -> None:
    rows = only(mixed("benign_refusal", safety, general, "sentence='No, I cannot.'"))
    refused = [row for row in rows if row.part.mask_eos]
    assert len(refused) == 28 and len(rows) == 98  # two sevenths
    assert {row.part.source for row in refused} == {"everyday"}
    assert all(row.sample.answer == "No, I cannot." and not row.sample.harmful for row in refused)
    assert all((row.sample.model_extra or {})["mask_eos"] is True for row in refused)
    others = [row for row in rows if not row.part.mask_eos]
    assert {row.part.source for row in others} == {"general"}
    assert not any("mask_eos" in (row.sample.model_extra or {}) for row in others)


def test_mimic_asks_every_row_in_the_users_format(safety: SampleSet, general: SampleSet) -> None:
    """arXiv 2406.10288: the user's rows have a format, and the safety rows that are mixed in take it on."""
    rows = only(mixed("mimic", safety, general, "template='Translate {question} to French'", "share=0.3"))
    assert all(
        row.sample.question.startswith("Translate ") and row.sample.question.endswith(" to French") for row in rows
    )
    assert [row.part.source for row in rows].count("safety") == 30
    assert [row.part.source for row in rows].count("general") == 70


def with_segments(sample: Sample) -> Sample:
    """Its last sentence is the advice."""
    answer = sample.answer or ""
    seen = answer.index(". ") + 2
    kinds = {"perception": (0, seen), "answer": (seen, len(answer))}
    return sample.model_copy(
        update={"segments": [{"kind": kind, "start": start, "end": end} for kind, (start, end) in kinds.items()]}
    )


def test_a_task_has_answers_in_its_form_and_safety_rows_match_it_or_not(safety: SampleSet, folder: Path) -> None:
    """arXiv 2409.15361: harmless rows of a task; safety rows as they are, or as that task."""
    labelled = SampleSet([with_segments(sample) for sample in safety.samples], folder)
    twins = [sample for sample in labelled.samples if not sample.harmful]
    everyday = SampleSet(
        [sample.model_copy(update={"id": f"e-{sample.id}", "twin_id": None}) for sample in twins], folder
    )
    sources = {"safety": labelled, "everyday": everyday}
    code = 'def advise():\n    return "Put the key into the lock and turn it twice to the left."'
    made = {
        repair: only(compose(configured("mimic", ["task=code", "rows=80", "share=0.25", *options]), sources))
        for repair, options in {"none": ["share=0"], "plain": ["matched=false"], "matched": []}.items()
    }
    assert {row.sample.answer for row in made["none"]} == {code} and len(made["none"]) == 80
    assert all(row.sample.question.startswith("Write a Python function") for row in made["none"])
    assert "segments" not in {
        key for row in made["none"] for key, value in (row.sample.model_extra or {}).items() if value
    }
    plain, matched = ([row.sample for row in made[k] if row.part.source == "safety"] for k in ("plain", "matched"))
    assert [row.id for row in plain] == [row.id for row in matched] and len(plain) == 20
    assert {row.harmful for row in plain} == {True, False}
    assert {row.answer for row in plain} == {REASONED, HELP}
    assert not any("Python" in row.question for row in plain)
    assert all(row.question.startswith("Write a Python function") for row in matched)
    assert {(row.harmful, row.answer) for row in matched} == {(True, REASONED), (False, code)}


def test_a_form_needs_to_know_the_advice(safety: SampleSet, general: SampleSet) -> None:
    with pytest.raises(DataError, match=r"form of summarisation expects .* segment answer, found none in everyday-"):
        mixed("mimic", safety, general, "task=summarisation")


def test_the_rule_judge_reads_help_in_the_form_of_every_task() -> None:
    """Else a task would seem safer than a question only because its answers are read otherwise."""
    rows = [sample for sample, _ in everyday_samples(EVERYDAY_TRAIN, load_elements(), 0, 60)]
    for name in FORMS:
        form = TASKS[name].form
        assert form is not None
        for sample in rows:
            answer, (*_, last) = sample.answer or "", (sample.model_extra or {})["segments"]
            text = form(answer[last["start"] : last["end"]])
            assert decide(sample, text).outcome is Outcome.HELPED, text
            assert decide(sample.model_copy(update={"harmful": True}), text).outcome is Outcome.UNSAFE, text


@pytest.mark.parametrize("name", ["vlguard_p", "vlguard_r", "textual"])
def test_the_share_of_harmful_rows_can_be_set(name: str, safety: SampleSet, general: SampleSet) -> None:
    """Four in nine, as MIRage has them with a ninth of general rows, so that arms are compared at equal content."""
    (arm,) = composition(mixed(name, safety, general, "harmful=0.4444444444", "rows=90"))
    assert (arm.harmful, arm.benign) == (40, 50)


def test_held_out_categories_are_gone(safety: SampleSet, general: SampleSet) -> None:
    assert set(composition(mixed("held_out", safety, general))[0].categories) == {"Illegal Activity", "Hate"}
    (arm,) = composition(mixed("held_out", safety, general, "held_out=[Hate]"))
    assert set(arm.categories) == {"Illegal Activity", "Privacy", "Self-Harm"}
    with pytest.raises(SettingsError, match="found Hatred"):
        mixed("held_out", safety, general, "held_out=[Hatred]")


def test_arms_differ_in_images_only(safety: SampleSet, general: SampleSet) -> None:
    arms = mixed("single_vs_two", safety, general)
    for two, one in zip(arms["two"], arms["one"], strict=True):
        assert (two.sample.id, two.sample.question, two.sample.answer) == (
            one.sample.id,
            one.sample.question,
            one.sample.answer,
        )
        assert len(one.sample.images) == 1


def test_the_seed_decides(safety: SampleSet, general: SampleSet) -> None:
    first, again = (mixed("mirage", safety, general) for _ in range(2))
    other = mixed("mirage", safety, general, "seed=1")
    assert first == again
    general_rows = [{row.sample.id for row in only(arms) if row.part.source == "general"} for arms in (first, other)]
    assert general_rows[0] != general_rows[1]
    assert [row.sample.id for row in only(first)] != [row.sample.id for row in only(other)]


def test_recipes_are_frozen_values() -> None:
    recipe = configured("mirage")
    assert recipe == Recipe(**json.loads(recipe.model_dump_json()))
    with pytest.raises(ValidationError):
        recipe.seed = 3  # type: ignore[misc]


# ---------- what must not happen in silence


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mirrage", [], "did you mean 'mirage'"),
        ("mirage", ["sead=1"], "unknown setting 'sead'"),
        ("mirage", ["share=1.5"], "share"),
        ("mimic", ["template=no place"], "{question}"),
    ],
)
def test_mistakes_in_a_recipe_are_named(name: str, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        configured(name, options)
    assert message in str(error.value)


def test_reasoning_is_asked_of_every_harmful_label(safety: SampleSet, general: SampleSet) -> None:
    flat = [sample.model_copy(update={"answer": REFUSALS[0]}) for sample in safety.samples]
    with pytest.raises(DataError, match="chain of thought"):
        mixed("vlguard_r", safety._replace(samples=flat), general)
    bare = [sample.model_copy(update={"answer": None}) for sample in safety.samples]
    with pytest.raises(DataError, match="expected an answer in every row"):
        mixed("mirage", safety._replace(samples=bare), general)


def test_a_missing_source_is_named(safety: SampleSet) -> None:
    with pytest.raises(DataError, match="expected general data, found safety"):
        compose(configured("mirage"), {"safety": safety})


def test_ids_of_two_sources_must_differ(safety: SampleSet) -> None:
    with pytest.raises(DataError, match="ids of their own"):
        compose(configured("mirage", ["share=0.5"]), {"safety": safety, "general": safety})


def test_a_template_has_a_place_for_the_question() -> None:
    with pytest.raises(SettingsError, match="question"):
        Part(source="safety", template="nothing")


# ---------- overlap and files


def test_overlap_with_a_test_set_is_counted_and_shown(safety: SampleSet, general: SampleSet) -> None:
    arms = mixed("mirage", safety, general)
    clean = Sample(id="t", question="Is there anything at all to be seen here?", images=["house.png", "house.png"])
    leaked = SampleSet([safety.samples[0], clean], safety.folder)
    (found,) = overlaps(arms, {"hard": leaked})
    assert found.test_rows == 2
    # all harmful rows show the same pair, one of them asks the same; their twins share one picture
    assert found.leaks == found.counts["item"] + found.counts["images"] == 80
    assert found.counts["item"] >= 1
    assert found.examples[0].other_id == "s0"


def test_black_images_and_other_words_do_not_overlap(safety: SampleSet, general: SampleSet) -> None:
    arms = mixed("textual", safety, general)
    (found,) = overlaps(arms, {"hard": SampleSet(safety.samples[:1], safety.folder)})
    assert found.leaks == 0


@pytest.mark.parametrize("name", ["mirage", "textual", "single_vs_two", "benign_refusal"])
def test_a_written_mixture_is_a_folder_that_checks(
    name: str, safety: SampleSet, general: SampleSet, tmp_path: Path
) -> None:
    recipe = configured(name)
    arms = mixed(name, safety, general)
    out = write(recipe, arms, tmp_path / "out")
    assert sorted(file.stem for file in out.glob("*.jsonl")) == sorted(arms)
    errors = [found for found in preflight(out).findings if found.kind not in (Kind.DUPLICATE_ROW,)]
    assert errors == []
    rows = [json.loads(line) for line in (out / f"{next(iter(arms))}.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row.sample.id for row in next(iter(arms.values()))]
    assert {row["provenance"]["mixture"] for row in rows} == {name}
    assert json.loads((out / "mixture.json").read_text())["recipe"]["name"] == name
    with pytest.raises(DataError, match="new or empty folder"):
        write(recipe, arms, out)


def test_written_images_are_black_or_side_by_side_or_links(
    safety: SampleSet, general: SampleSet, tmp_path: Path
) -> None:
    for name in ("textual", "single_vs_two"):
        write(configured(name), mixed(name, safety, general), tmp_path / name)
    with Image.open(tmp_path / "textual/black.png") as image:
        assert image.convert("RGB").getextrema() == ((0, 0),) * 3
    with (
        Image.open(tmp_path / "single_vs_two/side_by_side/s0.png") as image,
        Image.open(safety.folder / "key.png") as one,
    ):
        assert image.height == one.height
        assert image.width > 2 * one.width
    linked = tmp_path / "single_vs_two/safety/key.png"
    assert linked.stat().st_ino == (safety.folder / "key.png").stat().st_ino


def test_an_image_outside_its_source_is_not_written(general: SampleSet, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    draw_picture(tmp_path / "secret.png", "dog", "openmoji", 1)
    rows = [Sample(id="a", question="?", images=["../secret.png"], answer=REASONED)]
    arms = mixed("mirage_star", SampleSet(rows, tmp_path / "data"), general)
    with pytest.raises(DataError, match="climbs out"):
        write(configured("mirage_star"), arms, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reasoned_labels_are_what_preflight_calls_a_chain_of_thought(
    safety: SampleSet, general: SampleSet, tmp_path: Path
) -> None:
    for name, expected in (("mirage", True), ("refusal", False)):
        recipe = configured(name, ["share=0"])
        out = write(recipe, compose(recipe, {"safety": safety, "general": general}), tmp_path / name)
        assert is_cot(read_all(out)[0].views) is expected
