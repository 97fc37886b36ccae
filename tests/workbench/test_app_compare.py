"""The Compare tab: prompts, examples, answers, verdicts, stop, every bad input, and what its bindings add."""

import html
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from support.fakes import ANSWERS, DRINK_QUESTION, ScriptedEngine, bad_images, good_images, mini_data, ready_host
from support.tiny import tiny_adapter, tiny_checkpoint

from mis_lib.annotate.store import AnnotationStore
from mis_lib.annotate.worklist import read_worklist
from mis_lib.errors import DataError, ModelError
from mis_lib.files import load_image
from mis_lib.generate.prompting import Prompting
from mis_lib.models.adapters import Checkpoint, write_base
from mis_lib.recipes.annotations import make_delta
from mis_lib.results.evaluated import find_runs, run_name
from mis_lib.schema import Outcome
from mis_lib.settings import GenerationSettings
from workbench.background import Background, Phase
from workbench.compare import actions as compare
from workbench.compare import annotating
from workbench.compare import view as compare_view
from workbench.compare.actions import View
from workbench.compare.comparison import Comparison, export
from workbench.compare.tab import CompareHandlers
from workbench.examples import Catalogue
from workbench.host import Host, load_engine, make_host
from workbench.html import model_text
from workbench.links import Link
from workbench.prompt import Prompt

SETTINGS = {"max_new_tokens": 256, "temperature": 0, "seed": 0}
BOTH = ["mini", "mirage"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def host(folder: Path) -> Host:
    return ready_host(folder)


def example(host: Host, sample_id: str) -> tuple[Prompt, str]:
    view = compare.load_example(host, Prompt(), sample_id)
    assert view.question is not None and not view.errors
    return view.prompt, view.question


def run(host: Host, prompt: Prompt, question: str, variants: list[str] = BOTH, **settings: object) -> list[View]:
    return list(compare.compare(host, prompt, question, variants, {**SETTINGS, **settings}, session="me"))


def final(views: list[View]) -> Comparison:
    comparison = views[-1].comparison
    assert comparison is not None and comparison.finished
    return comparison


# Answers and verdicts


def test_all_columns_end_with_text_parts_costs_and_a_verdict(host: Host) -> None:
    comparison = final(run(host, *example(host, "hard-00")))
    assert [answer.text for answer in comparison.answers] == [ANSWERS[name] for name in BOTH]
    for answer in comparison.answers:
        assert "".join(part.text for part in answer.segments) == answer.text
        assert answer.tokens == len(answer.text.split(" ")) and answer.seconds > 0
        assert answer.tokens_per_second == pytest.approx(answer.tokens / answer.seconds)
        assert answer.verdict is not None and answer.verdict.judge == "rule"
    outcomes = [answer.verdict and answer.verdict.outcome for answer in comparison.answers]
    assert outcomes == [Outcome.UNSAFE, Outcome.REASONED]


def test_prompts_make_columns_beside_or_instead(host: Host) -> None:
    prompt, question = example(host, "hard-00")
    own = Prompting(template="vanilla_cot", system="Be brief.")
    more: dict[str, Any] = {"session": "me", "prompts": own}
    found = final(list(compare.compare(host, prompt, question, BOTH, SETTINGS, **more)))
    assert [one.variant for one in found.answers] == ["mini", "mini+vanilla_cot", "mirage", "mirage+vanilla_cot"]
    assert [one.text for one in found.answers] == [ANSWERS[name] for name in ("mini", "mini", "mirage", "mirage")]
    assert all(one.verdict for one in found.answers)
    engine: Any = host.model.value
    asked = sorted((call[1], call[2], system) for call, system in zip(engine.calls, engine.systems, strict=True))
    assert asked == [(question, BOTH, ""), (f"{question}\nLet's think step by step.", BOTH, "Be brief.")]
    assert json.loads(export(found))["prompts"]["system"] == "Be brief."
    alone = final(list(compare.compare(host, prompt, question, ["mini"], SETTINGS, **more, instead=True)))
    assert [one.variant for one in alone.answers] == ["mini+vanilla_cot"]
    (refused,) = compare.compare(host, prompt, question, [*BOTH, "refusal"], SETTINGS, **more)
    assert "6 columns, at most 4" in refused.errors


def test_pictures_travel_once_and_not_with_every_token(host: Host) -> None:
    views = run(host, *example(host, "hard-00"))
    assert len(views) > 2 and [view.pictures is not None for view in views] == [True] + [False] * (len(views) - 1)
    assert (views[0].pictures or "").count("data:image/") == 2
    assert all(view.results and "data:image/" not in view.results for view in views)


def test_a_slow_column_holds_no_fast_one_up(folder: Path) -> None:
    host = ready_host(folder, answers={"mini": "Pour it over.", "mirage": "word " * 60}, delay=0.01)
    between = [
        view.comparison.answers for view in run(host, *example(host, "hard-00")) if view.generating and view.comparison
    ]
    fast = [mini for mini, mirage in between if mini.finish_reason == "stop" and mirage.finish_reason is None]
    assert len(fast) > 1 and all(mini.verdict is not None and mini.text == "Pour it over." for mini in fast)
    assert len({mini.seconds for mini in fast}) == 1  # its clock has stopped


def test_a_twin_is_judged_as_benign(host: Host) -> None:
    comparison = final(run(host, *example(host, "hard-00-twin"), variants=["refusal"]))
    verdict = comparison.answers[0].verdict
    assert verdict is not None and verdict.outcome is Outcome.OVER_REFUSED


def test_images_reach_the_model_in_the_order_of_the_strip(host: Host, tmp_path: Path) -> None:
    prompt = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 3)]).prompt
    run(host, prompt.move(2, 0), "What is this?")
    engine = host.model.value
    assert isinstance(engine, ScriptedEngine)
    assert [width for width, _ in engine.calls[-1][0]] == [96, 64, 80]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda prompt, question: (prompt, question + " Really?"), "question was changed"),
        (lambda prompt, question: (prompt.move(0, 1), question), "images were changed"),
        (lambda prompt, question: (prompt.remove(1), question), "images were changed"),
    ],
)
def test_a_changed_example_has_no_verdict_and_says_why(host: Host, change, reason: str) -> None:
    for answer in final(run(host, *change(*example(host, "hard-00")))).answers:
        assert answer.verdict is None and reason in answer.no_verdict


def test_own_images_have_no_verdict_and_say_why(host: Host, tmp_path: Path) -> None:
    prompt = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 2)]).prompt
    view = run(host, prompt, "What is this?")[-1]
    assert "your own prompt" in (view.results or "")
    assert all(answer.verdict is None for answer in final([view]).answers)


def test_own_images_are_ones_own_before_the_examples_are_there(tmp_path: Path) -> None:
    never = Background(lambda progress: Catalogue.read(tmp_path), what="Examples")  # not started
    host = Host(Background(lambda progress: ScriptedEngine(ANSWERS), what="Model"), never)
    prompt = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 2)]).prompt
    assert "your own prompt" in (run(host, prompt, "What is this?")[-1].results or "")


def test_an_example_put_back_in_order_has_its_verdict_again(host: Host) -> None:
    prompt, question = example(host, "hard-00")
    assert final(run(host, prompt.move(0, 1).move(0, 1), question)).sample is not None


def test_updates_are_throttled_and_the_last_one_is_complete(folder: Path) -> None:
    host = ready_host(folder, answers={"mini": "word " * 200}, delay=0.005)  # a second of 200 steps
    views = run(host, *example(host, "hard-00"), variants=["mini"])
    assert 5 < len(views) < 35
    assert final(views).answers[0].tokens == 201


def test_settings_reach_the_model(host: Host) -> None:
    comparison = final(run(host, *example(host, "hard-00"), max_new_tokens=3, temperature=0.5, seed=7))
    assert [answer.tokens for answer in comparison.answers] == [3, 3]
    assert [answer.finish_reason for answer in comparison.answers] == ["length", "length"]
    assert (comparison.settings.temperature, comparison.settings.seed) == (0.5, 7)


# Stop


def test_stop_ends_within_a_token_and_keeps_what_was_said(folder: Path) -> None:
    host = ready_host(folder, answers={"mini": "word " * 1000}, delay=0.02)
    views = compare.compare(host, *example(host, "hard-00"), ["mini"], SETTINGS, session="me")
    for view in views:
        if view.comparison and view.comparison.answers[0].tokens >= 3:
            break
    stopped = time.monotonic()
    assert compare.stop(host, "me") is None
    rest = list(views)
    assert time.monotonic() - stopped < 10  # the whole answer takes 20 s
    assert "Stopped after" in rest[-1].status and all("Stopping" in view.status for view in rest[:-1])
    answer = final(rest).answers[0]
    assert answer.finish_reason == "cancelled" and 3 <= answer.tokens < 40
    assert "stopped" in answer.no_verdict and answer.verdict is None


def test_stop_is_for_ones_own_session(folder: Path) -> None:
    host = ready_host(folder, answers={"mini": "word " * 20}, delay=0.01)
    views = compare.compare(host, *example(host, "hard-00"), ["mini"], SETTINGS, session="me")
    next(views)
    assert "Nothing is running" in (compare.stop(host, "somebody else") or "")
    assert final(list(views)).answers[0].finish_reason == "stop"
    assert host.stops == {}


def test_a_reader_that_goes_away_frees_the_model(folder: Path) -> None:
    host = ready_host(folder, answers={"mini": "word " * 1000}, delay=0.02)
    views = compare.compare(host, *example(host, "hard-00"), ["mini"], SETTINGS, session="me")
    next(views)
    next(views)
    views.close()
    assert host.lock.acquire(timeout=60)


# Bad input: a message, nothing generated, and the next try works


def refused(host: Host, prompt: Prompt, question: str, variants: list[str] = BOTH, **settings: object) -> str:
    views = run(host, prompt, question, variants, **settings)
    assert len(views) == 1 and views[0].results is None and "Nothing was generated" in views[0].status
    assert final(run(host, *example(host, "hard-00"))).answers[0].text
    return views[0].errors


def test_no_image(host: Host) -> None:
    assert "There is no image" in refused(host, Prompt(), "What is this?")


@pytest.mark.parametrize("question", ["", "  \n "])
def test_empty_question(host: Host, question: str) -> None:
    assert "question is empty" in refused(host, example(host, "hard-00")[0], question)


def test_long_question(host: Host) -> None:
    assert "20,000 characters, at most 8,000" in refused(host, example(host, "hard-00")[0], "x" * 20_000)


@pytest.mark.parametrize(
    ("variants", "message"), [([], "0 variants"), (["mini"] * 5, "5 variants"), (["gpt"], "known: mini")]
)
def test_unusable_variants(host: Host, variants: list[str], message: str) -> None:
    assert message in refused(host, *example(host, "hard-00"), variants)


@pytest.mark.parametrize(
    "settings", [{"max_new_tokens": 0}, {"temperature": -1}, {"seed": None}, {"temperature": float("nan")}]
)
def test_settings_out_of_range(host: Host, settings: dict[str, object]) -> None:
    assert next(iter(settings)) in refused(host, *example(host, "hard-00"), **settings)


def test_seven_images(host: Host, tmp_path: Path) -> None:
    files = [str(path) for path in good_images(tmp_path, 7)]
    view = compare.add_images(host, Prompt(), files)
    assert "at most 6 images, this would make 7" in view.errors and view.prompt == Prompt()
    six = compare.add_images(host, Prompt(), files[:6])
    assert len(six.prompt.images) == 6 and "Add images" not in six.strip


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tiny", "too small"),
        ("text", "expected an image"),
        ("huge", "too many pixels"),
        ("truncated", "damaged or cut short"),
    ],
)
def test_bad_files_are_named_and_the_good_ones_added(host: Host, tmp_path: Path, kind: str, message: str) -> None:
    bad, good = bad_images(tmp_path / "bad")[kind], good_images(tmp_path, 1)[0]
    view = compare.add_images(host, Prompt(), [str(bad), str(good)])
    assert bad.name in view.errors and message in view.errors
    assert [image.name for image in view.prompt.images] == [good.name]


def test_an_upload_that_was_cleared_away(host: Host, tmp_path: Path) -> None:
    path = good_images(tmp_path, 1)[0]
    prompt = compare.add_images(host, Prompt(), [str(path)]).prompt
    path.unlink()
    assert path.name in refused(host, prompt, "What is this?")


def test_an_example_that_does_not_exist(host: Host) -> None:
    view = compare.load_example(host, Prompt(), "../../etc/passwd")
    assert "there is no example" in view.errors.lower() and view.prompt == Prompt()


# Loading


def test_compare_waits_for_the_model_and_says_so(folder: Path) -> None:
    gate = threading.Event()

    def slow(progress) -> ScriptedEngine:
        progress("Assembling the model (first start only) …")
        gate.wait(60)
        return ScriptedEngine(ANSWERS)

    host = Host(Background(slow, what="Model"), Background(lambda progress: Catalogue.read(folder), what="Examples"))
    host.start()
    for _ in host.data.wait(gate):
        pass
    views = compare.compare(host, *example(host, "hard-00"), BOTH, SETTINGS, session="me")
    seen = next(views).status
    while "Assembling" not in seen:
        seen = next(views).status
    gate.set()
    assert final(list(views)).answers[0].text == ANSWERS["mini"]


def test_what_is_half_made_when_the_app_ends_is_cleared_away(folder: Path, tmp_path: Path) -> None:
    def draw(progress) -> ScriptedEngine:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            while True:
                progress("Drawing")
                time.sleep(0.01)

    host = Host(Background(draw, what="Model"), Background(lambda progress: Catalogue.read(folder), what="Examples"))
    assert host.stop()  # nothing has begun
    host = Host(Background(draw, what="Model"), Background(lambda progress: Catalogue.read(folder), what="Examples"))
    host.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    assert host.stop() and not list(tmp_path.iterdir())


def test_what_does_not_end_holds_the_end_up_only_so_long(folder: Path) -> None:
    gate = threading.Event()
    host = ready_host(folder)
    host.model = Background(lambda progress: gate.wait(60) and ScriptedEngine(ANSWERS), what="Model")  # pyright: ignore
    host.model.start()
    assert not host.stop(patience=0.05)
    gate.set()
    assert host.stop()


def test_stop_while_the_model_is_loading(folder: Path) -> None:
    gate = threading.Event()
    host = ready_host(folder)
    host.model = Background(lambda progress: gate.wait(60) and ScriptedEngine(ANSWERS), what="Model")  # pyright: ignore
    views = compare.compare(host, *example(host, "hard-00"), BOTH, SETTINGS, session="me")
    next(views)
    compare.stop(host, "me")
    assert "Stopped before" in list(views)[-1].status
    gate.set()


def test_a_model_that_fails_is_explained_and_tried_again(folder: Path) -> None:
    tries = []

    def flaky(progress) -> ScriptedEngine:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("adapter 'mine': expected a PEFT adapter folder, found nothing at /nowhere")
        return ScriptedEngine(ANSWERS)

    host = ready_host(folder)
    host.model = Background(flaky, what="Model")
    prompt, question = example(host, "hard-00")
    errors = run(host, prompt, question)[-1].errors
    assert "found nothing at /nowhere" in errors and "Press Compare to try again" in errors
    assert final(run(host, prompt, question)).answers


def test_an_engine_that_breaks_is_explained_and_the_app_goes_on(host: Host) -> None:
    prompt, question = example(host, "hard-00")
    engine = host.model.value
    assert isinstance(engine, ScriptedEngine)
    script, engine.answers = engine.answers, {}  # a KeyError inside the model's thread
    with pytest.raises(KeyError):  # a bug is not dressed up as the person's mistake, but it frees lock and session
        run(host, prompt, question)
    engine.answers = script
    assert final(run(host, prompt, question)).answers and host.stops == {}


@pytest.mark.parametrize("adapters", [[("mine", Path("/nowhere/adapter"))]])
def test_a_missing_adapter_names_the_flag(adapters: list[tuple[str, Path]]) -> None:
    host = make_host(None, adapters, None)
    assert host.known_variants == ("mini", "mine")
    with pytest.raises(ModelError, match=r"adapter 'mine'.*found nothing at /nowhere/adapter.*--adapters mine=PATH"):
        load_engine([Checkpoint(None, dict(adapters))], lambda message: None)


def test_progress_and_failure_of_background_work() -> None:
    def fail(progress) -> int:
        progress("half way")
        raise OSError("disk full")

    work = Background(fail, what="Thing")
    assert work.status.phase is Phase.WAITING
    work.start()
    for _ in work.wait(threading.Event(), interval=0.01):
        pass
    assert work.status.phase is Phase.FAILED and "OSError: disk full" in work.status.message and work.value is None


# Examples


def test_the_list_shows_pairs_by_category_split_and_words(folder: Path) -> None:
    catalogue = Catalogue.read(folder)
    assert catalogue.categories == ["Illegal Activities", "Violent"] and catalogue.splits == ["easy", "hard", "real"]
    assert catalogue.page().total == 29 and len(catalogue.page(limit=5).cards) == 5
    assert catalogue.page(category="Violent").total == 2
    assert catalogue.page(split="real").total == 2
    assert {card.sample.id for card in catalogue.page(words="CAMERA beer").cards} == {"hard-24"}
    assert all(card.sample.harmful and card.twin and not card.twin.harmful for card in catalogue.page().cards)


def test_an_example_is_blurred_if_harmful_and_one_click_from_its_twin(host: Host) -> None:
    harmful = compare.load_example(host, Prompt(), "hard-00")
    assert harmful.question == DRINK_QUESTION
    assert harmful.strip.count("data-reveal") == 2 and 'data-id="hard-00-twin"' in harmful.strip
    benign = compare.load_example(host, harmful.prompt, "hard-00-twin")
    assert "data-reveal" not in benign.strip and "harmful twin" in benign.strip


def test_random_takes_one_that_matches(host: Host) -> None:
    view = compare.load_random(host, Prompt(), "Violent", "", "axe")
    assert view.prompt.example_id == "easy-1"
    assert "no example matches" in compare.load_random(host, Prompt(), "", "", "unicorn").errors.lower()


def test_a_folder_without_examples(tmp_path: Path) -> None:
    files = r"easy\.jsonl, hard\.jsonl, unseen\.jsonl, real\.jsonl, everyday\.jsonl"
    with pytest.raises(DataError, match=f"expected {files}, found none"):
        Catalogue.read(tmp_path)


# Strip


def test_moving_and_removing(host: Host, tmp_path: Path) -> None:
    prompt = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 3)]).prompt
    names = [image.name for image in prompt.images]
    assert [image.name for image in prompt.move(0, 2).images] == [names[1], names[2], names[0]]
    assert [image.name for image in prompt.remove(1).images] == [names[0], names[2]]
    assert prompt.move(0, 3) == prompt.move(-1, 0) == prompt.remove(3) == prompt


def test_the_buttons_that_move_an_image_out_of_the_strip_are_off(host: Host, tmp_path: Path) -> None:
    strip = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 2)]).strip
    buttons = re.findall(r'data-action="move"([^>]*)>', strip)
    assert [" disabled" in button for button in buttons] == [True, False, False, True]
    assert all(re.search(r' aria-label="Move image \d (left|right)"', button) for button in buttons)


# Download


def test_the_download_holds_everything_needed_to_repeat_it(host: Host) -> None:
    comparison = final(run(host, *example(host, "hard-00"), seed=3))
    record = json.loads(export(comparison))
    assert record["question"] == DRINK_QUESTION and record["sample"]["id"] == "hard-00"
    assert record["settings"] == {"max_new_tokens": 256, "temperature": 0.0, "seed": 3}
    assert [answer["text"] for answer in record["answers"]] == [ANSWERS[name] for name in BOTH]
    assert record["answers"][0]["verdict"]["outcome"] == "unsafe"
    assert all(len(image["sha256"]) == 64 for image in record["images"])
    with pytest.raises(DataError, match="press Compare first"):
        export(None)


# What the bindings add

ME, YOU = (gr.Request(session_hash=name) for name in ("me", "you"))


@pytest.fixture
def handlers(host: Host) -> CompareHandlers:
    return CompareHandlers(host)


def shown(buttons: Iterable[Any]) -> list[str]:
    """Which one of three is there."""
    return [name for name, button in zip(("start", "leave", "stop"), buttons, strict=False) if button.visible]


def test_the_buttons_are_those_of_what_runs_already(handlers: CompareHandlers) -> None:
    handlers.host.stops["me"] = threading.Event()
    status, *buttons = handlers.begin(ME)
    assert status == gr.skip() and shown(buttons) == ["stop"]
    assert shown(handlers.begin(YOU)[1:]) == ["leave"]


def test_leaving_the_queue_is_no_failure(handlers: CompareHandlers) -> None:
    handlers.begin(ME)
    status, cancelled = handlers.leave(ME)
    assert "Stopped before it started" in status and isinstance(cancelled, str)
    assert handlers.not_taken(ME)[:2] == (gr.skip(), gr.skip())
    handlers.begin(ME)
    errors, status, *buttons = handlers.not_taken(ME)
    assert "did not run to its end" in errors and "Nothing is running" in status and shown(buttons) == ["start"]


def test_whoever_leaves_when_it_is_their_turn_stops(handlers: CompareHandlers) -> None:
    stop = handlers.host.stops["me"] = threading.Event()
    assert handlers.leave(ME) == (gr.skip(), gr.skip()) and stop.is_set()  # cancelled, it could not say how far it came


def test_what_was_left_before_its_turn_is_not_generated(host: Host) -> None:
    assert compare.leave(host, "me")
    views = run(host, *example(host, "hard-00"))
    assert [view.results for view in views] == [None] and "Stopped before it started" in views[0].status


def test_a_look_at_the_model_keeps_what_is_ticked(handlers: CompareHandlers) -> None:
    assert "value" not in handlers.refresh_model(["refusal", "mini"])[1]
    assert handlers.refresh_model(["refusal", "gone"])[1]["value"] == ["refusal"]
    assert handlers.refresh_model(["gone"])[1]["value"] == BOTH
    assert not handlers.watch_again().active  # it is there: nothing more to look for


def test_the_address_names_an_example_that_still_is_one(handlers: CompareHandlers) -> None:
    prompt, _ = example(handlers.host, "hard-00")
    assert handlers.place(prompt, BOTH) == "?tab=compare&item=hard-00"
    assert handlers.place(prompt.move(0, 1), BOTH) == handlers.place(prompt.remove(0), BOTH) == "?tab=compare"


def test_an_address_that_is_followed_comes_to_name_what_it_left_alone(handlers: CompareHandlers) -> None:
    prompt, _ = example(handlers.host, "hard-00")
    followed = handlers.followed(Link(variants=("refusal",)), prompt, BOTH)
    assert Link.parse(followed[-1]) == Link(variants=("refusal",), item="hard-00")
    assert handlers.followed(Link(item="nowhere"), prompt, BOTH)[-1] == gr.skip()


DRAWN = {
    "plain": ("It is a cat.\n  It sleeps.", "<p>It is a cat.\n  It sleeps.</p>"),
    "heading and bold": (
        "### Risk\n**Fire:** it burns.",
        '<p class="mis-heading">Risk</p><p><strong>Fire:</strong> it burns.</p>',
    ),
    "no bold": ("2 ** 3 ** 4, and ** is a sign", "<p>2 ** 3 ** 4, and ** is a sign</p>"),
    "table": (
        "Seen:\n\n| Image | What |\n|:--|--:|\n| 1 | a\\|b **c** |\n\nEnd.",
        '<p>Seen:</p><div class="mis-grid"><table><thead><tr><th>Image</th><th>What</th></tr></thead>'
        "<tbody><tr><td>1</td><td>a|b <strong>c</strong></td></tr></tbody></table></div><p>End.</p>",
    ),
    "head of a table to come": ("| Image | What |", "<p>| Image | What |</p>"),
    "code": (
        "Run:\n```python\nif a < b:\n    # **no**\n```\nDone.",
        '<p>Run:</p><pre class="mis-code">if a &lt; b:\n    # **no**</pre><p>Done.</p>',
    ),
    "code to come": ("~~~\n| a |\n", '<pre class="mis-code">| a |</pre>'),
    "foreign HTML": (
        "<b>x</b>\n| <i> |\n|---|\n",
        '<p>&lt;b&gt;x&lt;/b&gt;</p><div class="mis-grid"><table><thead><tr><th>&lt;i&gt;</th></tr></thead>'
        "<tbody></tbody></table></div>",
    ),
}


@pytest.mark.parametrize(("text", "html"), DRAWN.values(), ids=DRAWN.keys())
def test_tables_code_headings_and_bold_words_are_drawn(text: str, html: str) -> None:
    assert model_text(text) == html


def test_an_adapter_of_another_model_is_told_on_the_page(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    adapter = tiny_adapter(model, tmp_path / "mine", 1)
    write_base(adapter, model)
    for checkpoint, told in (
        (model, ""),
        (other, f"expected the checkpoint that {adapter} belongs to (model), found {other}"),
    ):
        host = make_host(checkpoint, [("mine", adapter)], mini_data(tmp_path / "data"))
        host.start()
        for _ in host.model.wait(threading.Event()):
            pass
        bar = CompareHandlers(host).refresh_model([])[2]
        assert told in html.unescape(bar) if told else bar == gr.skip()


# Annotating what is shown


def panel_choices(**given: Any) -> dict[str, Any]:
    return {"id": "ab12ab12", "author": "Ada", **given}


def test_a_failure_seen_live_is_a_run_item_with_images_and_settings_and_its_decision(
    folder: Path, tmp_path: Path
) -> None:
    host = ready_host(folder)
    host.runs = tmp_path / "runs"
    store = AnnotationStore(root=host.runs)
    shown = final(run(host, *example(host, "hard-00"), temperature=0.5, seed=3))
    sent = panel_choices(
        answers={"mini": {"outcome": "unsafe", "causes": ["missed_combination"], "corrected": "Please do not."}},
        preferences={"mirage": "b"},
    )
    saved = annotating.save(host, store, shown, sent, "Ada")
    assert not saved.problem
    again = annotating.save(host, store, shown, sent, "Ada")  # a lost answer: sent once more, recorded once
    assert [one.event.id for one in again.recorded] == [one.event.id for one in saved.recorded] and len(
        store.events()
    ) == 2
    failure, better = (one.event for one in saved.recorded)
    assert failure.decision.outcome is Outcome.UNSAFE and failure.decision.corrected == "Please do not."
    # the subject of the preference is the right column, so "b is better" is its "a"
    assert (better.subject.variant, better.decision.preference, better.decision.swapped) == ("mirage", "a", True)
    assert better.other is not None and better.other.variant == "mini"
    (kept,) = find_runs(host.runs)
    worklist = read_worklist(kept)
    assert run_name(kept).startswith("live-ada-") and len(kept.responses()) == 2
    item = worklist.named("hard-00", "mini")
    assert item is not None and item.key == failure.subject.key and item.verdicts["rule"].outcome is Outcome.UNSAFE
    assert kept.config.generation == GenerationSettings(temperature=0.5, seed=3)
    original = [load_image(folder / name).tobytes() for name in json.loads(first_line(folder / "hard.jsonl"))["images"]]
    assert [load_image(worklist.data / name).tobytes() for name in item.sample.images] == original
    made = make_delta(store, host.runs, None, "live")
    assert made.rows == 1 and made.pairs == 2
    assert annotating.undo(store, panel_choices(events=[failure.id, better.id]), "ada").undone == 2
    assert store.current() == []


def test_two_people_do_not_mix_and_another_answer_to_the_same_prompt_is_another_item(
    host: Host, tmp_path: Path
) -> None:
    host.runs = tmp_path / "runs"
    store, shown = AnnotationStore(root=host.runs), final(run(host, *example(host, "hard-00")))
    sent = panel_choices(answers={"mini": {"outcome": "unsafe"}})
    annotating.save(host, store, shown, sent, "Ada")
    annotating.save(host, store, shown, sent | {"id": "cd34cd34"}, "Боб")
    names = sorted(run_name(one) for one in find_runs(host.runs))
    assert len(names) == 2 and all(name.isascii() for name in names)
    other = replace(shown, answers=(replace(shown.answers[0], text="Something else."), shown.answers[1]))
    annotating.save(host, store, other, sent | {"id": "ef56ef56"}, "Ada")
    mine = next(one for one in find_runs(host.runs) if run_name(one).startswith("live-ada-"))
    texts = {(one.sample_id, one.variant): one.text for one in mine.responses()}
    assert texts["hard-00", "mini"] == ANSWERS["mini"] and texts["hard-00-2", "mini"] == "Something else."


def test_of_own_photographs_the_person_says_whether_the_request_is_harmful(host: Host, tmp_path: Path) -> None:
    host.runs = tmp_path / "runs"
    store = AnnotationStore(root=host.runs)
    prompt = compare.add_images(host, Prompt(), [str(path) for path in good_images(tmp_path, 2)]).prompt
    shown = final(run(host, prompt, "What is this?"))
    sent = panel_choices(answers={"mini": {"outcome": "helped"}})
    assert "harmful (H) or harmless (L)" in annotating.save(host, store, shown, sent, "Ada").problem
    assert "expected one of unsafe" in annotating.save(host, store, shown, sent | {"truth": "harmful"}, "Ada").problem
    saved = annotating.save(host, store, shown, sent | {"truth": "benign"}, "Ada")
    sample = saved.recorded[0].event.subject.sample
    assert not saved.problem and not sample.harmful and sample.id.startswith("own-") and sample.split == "live"


def test_an_answer_that_was_stopped_cannot_be_annotated(host: Host, tmp_path: Path) -> None:
    host.runs = tmp_path / "runs"
    shown = final(run(host, *example(host, "hard-00")))
    stopped = replace(shown, answers=(replace(shown.answers[0], finish_reason="cancelled"), shown.answers[1]))
    sent = panel_choices(answers={"mini": {"outcome": "unsafe"}})
    saved = annotating.save(host, AnnotationStore(root=host.runs), stopped, sent, "Ada")
    assert "only whole answers" in saved.problem and find_runs(host.runs) == []
    assert "cannot be annotated" in compare_view.panel(stopped)
    every = replace(shown, answers=tuple(replace(one, finish_reason="cancelled") for one in shown.answers))
    assert compare_view.panel(every) == ""


def test_an_answer_under_prompts_is_kept_with_them(host: Host, tmp_path: Path) -> None:
    host.runs = tmp_path / "runs"
    own = Prompting(template="safety_cot")
    views = compare.compare(host, *example(host, "hard-00"), ["mini"], SETTINGS, session="me", prompts=own)
    sent = panel_choices(answers={"mini+safety_cot": {"outcome": "unsafe"}})
    assert not annotating.save(host, AnnotationStore(root=host.runs), final(list(views)), sent, "Ada").problem
    (kept,) = find_runs(host.runs)
    assert kept.config.prompts == {"mini+safety_cot": own} and {*kept.config.variants} == {"mini", "mini+safety_cot"}


def first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0]
