"""Items asked in other words or in the other order.

The list is read, twins are asked the same, and a report keeps these answers apart from others.
"""

from pathlib import Path

import pytest
from support.fakes import mini_data
from support.tiny import tiny_checkpoint

from mis_lib.construct.elements import load_elements
from mis_lib.construct.mis_mini import plan
from mis_lib.construct.questions import OPEN_QUESTIONS
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.probe.rewording import in_reverse, read_questions, reworded, with_first_word
from mis_lib.recipes.report import check, evaluate
from mis_lib.recipes.settings import ReportSettings
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import is_named

AS_TYPED = Path(__file__).parents[2] / "configs" / "questions-as-typed.txt"


def tiny_settings(place: Path) -> ReportSettings:
    """A report on a few items by a toy checkpoint, all below ``place``."""
    tiny_checkpoint(place / "toy")
    mini_data(place / "data")
    return ReportSettings(
        variants=("base",), splits=("easy",), data=place / "data", checkpoint=place / "toy", adapters={"base": None},
        generation=GenerationSettings(max_new_tokens=4), limit=1, runs=place / "runs",
    )  # fmt: skip


def test_the_list_at_hand_is_in_no_data_and_gives_nothing_away() -> None:
    questions = read_questions(AS_TYPED)
    assert len(questions) == 6
    asked = {text for block in load_elements().questions.values() for texts in block for text in texts}
    assert not {*questions} & {*asked, *OPEN_QUESTIONS}
    assert not [(text, name) for text in questions for name in concepts() if is_named(text, name)]


def test_comments_and_empty_lines_are_no_questions(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeff# mine\n\n  What now? \nAnd then?\n", encoding="utf-8")
    assert read_questions(file) == ["What now?", "And then?"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# nothing\n\n", "expected a question a line, found none"),
        (b"What now?\nWhy?\nWhat now?\n", "found 'What now.' again"),
        (b"\xff\xfe\x00", "a text file in UTF-8"),
        (None, "a text file in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=said) as found:
        read_questions(file)
    assert str(file) in str(found.value)


def test_twins_are_asked_the_same_and_nothing_else_changes() -> None:
    questions = read_questions(AS_TYPED)
    samples = [sample for sample in plan(general_items=0).files["hard"] if not sample.provenance["harm_in_question"]]
    asked, left_out = reworded(samples, questions)
    assert left_out == 0
    assert {sample.question for sample in asked} == {*questions}
    by_id = {sample.id: sample for sample in asked}
    assert all(by_id[str(sample.twin_id)].question == sample.question for sample in asked)
    assert [sample.model_copy(update={"question": "?"}) for sample in asked] == [
        sample.model_copy(update={"question": "?"}) for sample in samples
    ]
    assert reworded(samples[:6], questions) == (asked[:6], 0)


def test_pairs_whose_harm_lies_in_their_own_question_are_left_out_and_counted() -> None:
    files = plan(general_items=0).files
    bound = load_elements().harm_in_question
    asked, left_out = reworded(files["hard"], ["What now?"])
    assert left_out == sum(sample.provenance["block"] in bound for sample in files["hard"]) > 0
    assert len(asked) == len(files["hard"]) - left_out
    assert not bound & {sample.provenance["block"] for sample in asked}
    assert reworded(files["easy"], ["What now?"])[1] == 0


def test_a_report_asks_them_and_keeps_the_answers_in_a_run_of_their_own(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    questions = tmp_path / "mine.txt"
    questions.write_text("What now?\n", encoding="utf-8")
    own = evaluate(settings)
    found = evaluate(settings.model_copy(update={"questions": questions}))
    assert {sample.question for sample in found.samples} == {"What now?"}
    assert {sample.question for sample in read_records(found.run.folder / "samples.jsonl", Sample)} == {"What now?"}
    assert found.run.folder.parent.name == "report-mine"
    assert len(found.verdicts) == len(own.verdicts) == 2
    assert {one.key for one in found.responses}.isdisjoint(one.key for one in own.responses)
    again = evaluate(settings)
    assert again.run.folder == own.run.folder
    assert [one.key for one in again.responses] == [one.key for one in own.responses]


@pytest.mark.usefixtures("reported")
def test_a_report_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_settings(tmp_path)
    file = tmp_path / "data" / "easy.jsonl"
    samples = list(read_records(file, Sample))
    bound = [sample.model_copy(update={"provenance": {"harm_in_question": True}}) for sample in samples[:2]]
    write_records(file, [*bound, *samples[2:]])
    questions = tmp_path / "mine.txt"
    questions.write_text("What now?\n", encoding="utf-8")
    settings = settings.model_copy(update={"limit": 2, "questions": questions})
    assert [sample.id for sample in evaluate(settings).samples] == [sample.id for sample in samples[2:4]]
    assert "2 of 4 items are left out: their question is harmful" in capsys.readouterr().err
    with pytest.raises(DataError, match="found none: all 2 items have a harmful question"):
        evaluate(settings.model_copy(update={"limit": 1}))


@pytest.mark.parametrize("more", [{"naming": True}, {"existing": (Path("runs/report/v1"),)}])
def test_questions_without_pairs_to_ask_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="--questions: expected pairs to be asked again"):
        check(ReportSettings(questions=AS_TYPED, **more))


def test_in_the_other_order_the_same_is_asked_of_the_same_things() -> None:
    sample = plan(general_items=0).files["hard"][0]
    other = in_reverse(sample)
    assert other.images == sample.images[::-1] != sample.images and other.objects == (sample.objects or [])[::-1]
    assert other.question != sample.question and other.harmful == sample.harmful
    assert sample.answer and other.answer is None  # it says what the first image shows
    assert in_reverse(other).question == sample.question and in_reverse(other).images == sample.images
    assert in_reverse(sample.model_copy(update={"answer": "B"})).answer == "B"


@pytest.mark.usefixtures("reported")
def test_a_report_of_exchanged_pairs_is_a_run_of_its_own_and_tells_what_has_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings(tmp_path)
    file = tmp_path / "data" / "easy.jsonl"
    first, *others = read_records(file, Sample)
    alone = first.model_copy(update={"images": first.images[:1], "objects": (first.objects or [])[:1]})
    write_records(file, [alone, *others])
    settings = settings.model_copy(update={"limit": 2})
    own = evaluate(settings)
    found = evaluate(settings.model_copy(update={"exchanged": True}))
    assert "1 of 4 items are left out: they have one image" in capsys.readouterr().err
    assert found.samples == [in_reverse(sample) for sample in own.samples if len(sample.images) > 1]
    assert found.run.folder.parent.name == "report-exchanged" and len(found.verdicts) == 3
    write_records(file, [alone])
    with pytest.raises(DataError, match="--exchanged: expected items of two images or more, found 1 of one"):
        evaluate(settings.model_copy(update={"exchanged": True, "limit": 1, "name": "other"}))


def test_one_word_is_exchanged_and_nothing_else() -> None:
    texts = ["Share a plan for these.", "“What\u2019s” here?", "what now?", "¿?", "Which one, and what for?"]
    samples = [Sample(id=str(at), question=text, images=[], harmful=True) for at, text in enumerate(texts)]
    asked, left_out = with_first_word(samples, "What")
    assert [(one.id, one.question) for one in asked] == [
        ("0", "What a plan for these."),
        ("1", "“What” here?"),
        ("4", "What one, and what for?"),
    ]
    assert left_out == 2, "one begins with the word, one has no word"


def test_a_report_with_another_first_word_is_a_run_of_its_own(tmp_path: Path) -> None:
    found = evaluate(tiny_settings(tmp_path).model_copy(update={"one_word": "Share"}))
    assert found.run.folder.parent.name == "report-share"
    assert [sample.question.split()[0] for sample in found.samples] == ["Share", "Share"]
    with pytest.raises(SettingsError, match="one_word"):
        ReportSettings(one_word="two words")
    with pytest.raises(SettingsError, match="--one_word: expected pairs to be asked again"):
        check(ReportSettings(one_word="Share", naming=True))


@pytest.mark.parametrize("more", [{"naming": True}, {"existing": (Path("runs/report/v1"),)}])
def test_an_order_without_pairs_to_ask_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="--exchanged: expected pairs to be asked again"):
        check(ReportSettings(exchanged=True, **more))
