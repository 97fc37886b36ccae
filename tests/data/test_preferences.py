"""Preference pairs: what is wanted, what is not, where it comes from, and what is refused before training starts."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.published import WRITERS

from mis_lib.construct.labels import cot_label, help_label, perceive
from mis_lib.construct.preferences import Own, preferences
from mis_lib.data.preferences import PAIRS, Preference, Preferred, read_preferences
from mis_lib.errors import DataError
from mis_lib.files import write_records
from mis_lib.recipes.dpo import pairs_of
from mis_lib.schema import Sample
from mis_lib.text.refusals import opens_with_refusal
from mis_lib.train.settings import DpoSettings

QUESTION = "How can I give the first to the second?"
HARMFUL, BENIGN = ["wine glass", "baby"], ["wine glass", "cook"]


def twins(answer: str | None = None) -> list[Sample]:
    cot = cot_label(HARMFUL, "Wine makes a baby ill.", "Offer milk instead.", key="a").text
    shared = {"question": QUESTION, "images": ["a.png", "b.png"]}
    harmful = Sample(id="a", **shared, harmful=True, twin_id="b", answer=answer or cot, objects=HARMFUL)
    helped = help_label(BENIGN, "Hand over the glass by its stem.").text
    return [harmful, Sample(id="b", **shared, harmful=False, twin_id="a", answer=helped, objects=BENIGN)]


def test_harm_is_declined_and_help_is_given() -> None:
    harmful, benign = preferences(twins())
    assert harmful.chosen == twins()[0].answer
    assert harmful.rejected == f"{perceive(HARMFUL)} Hand over the glass by its stem."  # help, said of the wrong images
    assert benign.chosen == twins()[1].answer
    assert opens_with_refusal(benign.rejected)
    assert [pair.provenance["rejected"] for pair in (harmful, benign)] == ["constructed", "constructed"]


def test_help_said_of_the_wrong_images_goes_with_their_kinds() -> None:
    harmful, benign = twins()
    alcohol, child, grown_up = "alcohol", "a child", "a grown-up"
    cot = cot_label(
        HARMFUL, "Wine makes a baby ill.", "Offer milk.", key="a", kinds=(alcohol, child), scene="a sip"
    ).text
    helped = help_label(BENIGN, "Hand over the glass.", (alcohol, grown_up), "a sip").text
    pairs = preferences([harmful.model_copy(update={"answer": cot}), benign.model_copy(update={"answer": helped})])
    assert (
        pairs[0].rejected
        == f"{perceive(HARMFUL, (alcohol, child))} Together that is a sip, which does no harm. Hand over the glass."
    )


def test_a_models_own_unsafe_answer_is_rejected_and_items_without_one_are_left_out() -> None:
    own = preferences(twins(), {"a": Own(unsafe="Just pour it into the bottle.")})
    assert [(pair.sample.id, pair.provenance["rejected"]) for pair in own] == [("a", "own"), ("b", "constructed")]
    assert own[0].rejected == "Just pour it into the bottle."
    assert [pair.sample.id for pair in preferences(twins(), {})] == ["b"]


def test_a_refusal_is_no_chain_of_thought() -> None:
    with pytest.raises(DataError, match="a: expected a safety chain of thought"):
        preferences(twins("I'm sorry, but I can't help with that."))


def test_without_labels_there_are_no_pairs() -> None:
    with pytest.raises(DataError, match="among 0 samples"):
        preferences([])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    return tmp_path


def test_pairs_come_back_as_they_were_written(folder: Path) -> None:
    written = preferences(twins())
    write_records(folder / PAIRS, written)
    assert read_preferences(folder / PAIRS) == written == read_preferences(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"rejected": " same "}, "row 1: .*the same twice", id="equal-answers"),
        pytest.param({"chosen": ""}, "row 1: field 'chosen'", id="empty"),
        pytest.param({"images": ["a.png", "c.png"]}, r"row 1 \(a\): expected the image .*c.png", id="no-image"),
    ],
)
def test_a_wrong_pair_is_named_by_file_and_row(folder: Path, change: dict[str, object], message: str) -> None:
    sample = twins()[0].model_dump(mode="json") | {"images": change.pop("images", ["a.png", "b.png"])}
    line = {"sample": sample, "chosen": "same", "rejected": "other"} | change
    (folder / PAIRS).write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message):
        read_preferences(folder)


def test_a_doubled_pair_and_an_empty_file_are_refused(folder: Path) -> None:
    pair = Preference(sample=twins()[0], chosen="yes", rejected="no")
    write_records(folder / PAIRS, [pair, pair])
    with pytest.raises(DataError, match="row 2: the same pair as row 1"):
        read_preferences(folder)
    write_records(folder / PAIRS, [])
    with pytest.raises(DataError, match="found none"):
        read_preferences(folder)


@pytest.fixture(scope="module")
def beavertails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beavertails")
    WRITERS["beavertails_v"](folder)
    return folder


class TestPublishedRatings:
    """BeaverTails-V: in every second row the safer response is not the more helpful one; both of its are unsafe."""

    @pytest.mark.parametrize(
        ("prefer", "chosen", "safe"),
        [
            ("safer", ["With care.", "With care."] * 2, [True, False] * 2),
            ("helpful", ["With care.", "Badly."] * 2, [True, False] * 2),
            ("agreed", ["With care."] * 2, [True] * 2),
        ],
    )
    def test_dpo_learns_the_rating_that_is_named(
        self, beavertails: Path, prefer: Preferred, chosen: list[str], safe: list[bool]
    ) -> None:
        pairs, folder = pairs_of(DpoSettings(data=beavertails, prefer=prefer, rejected="constructed"))
        assert [pair.chosen for pair in pairs] == chosen
        assert [pair.provenance["chosen_safe"] for pair in pairs] == safe
        assert all(pair.provenance["preferred"] == prefer for pair in pairs)
        assert all({pair.chosen, pair.rejected} == {"With care.", "Badly."} for pair in pairs)
        assert all((folder / name).is_file() for pair in pairs for name in pair.sample.images)

    def test_a_set_of_two_ratings_needs_the_name_of_one(self, beavertails: Path) -> None:
        with pytest.raises(DataError, match=r"one of helpful, safer, agreed, .*found none for 4 rated rows"):
            pairs_of(DpoSettings(data=beavertails))
        with pytest.raises(DataError, match=r"one of helpful, safer, agreed, .*found overall"):
            pairs_of(DpoSettings(data=beavertails, prefer="overall"))

    def test_spa_vl_has_one_preference_and_equal_responses_make_no_pair(self, tmp_path: Path) -> None:
        WRITERS["spa_vl"](tmp_path)
        (pair,), _ = pairs_of(DpoSettings(data=tmp_path))
        assert (pair.chosen, pair.rejected) == ("They rest on a bench.", "Nothing good.")
        assert pair.provenance == {"rejected": "published", "preferred": "overall"}
        with pytest.raises(DataError, match=r"one of overall, .*found safer"):
            pairs_of(DpoSettings(data=tmp_path, prefer="safer"))

    def test_other_data_has_no_ratings_to_prefer(self, folder: Path) -> None:
        write_records(folder / "train.jsonl", twins())
        with pytest.raises(DataError, match=r"prefer=safer: expected a set that publishes two rated responses"):
            pairs_of(DpoSettings(data=folder, prefer="safer"))
