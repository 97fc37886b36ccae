"""The Annotate tab in real Chromium with a real keyboard: a session without the mouse, typing that is not taken for
keys, a restarted app.

Screenshots go to ``$MIS_SCREENSHOTS`` where that is set, to be looked at.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect
from support.annotated import answered_run
from support.fake_report import PROGRAM as REPORT
from support.fake_trainer import PROGRAM
from support.fakes import mini_data, ready_host
from support.visitor import DESK, PATIENCE, PHONE

from mis_lib.annotate.decisions import Cause, Preference
from mis_lib.annotate.store import AnnotationStore
from mis_lib.files import write_records
from mis_lib.models.mini.assemble import ADAPTERS
from mis_lib.schema import Outcome, Verdict
from workbench.app import build_app, free_port, launch_options
from workbench.evaluate import EvaluationJobs
from workbench.trainings import CONFIGS, State, Trainings

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


def serve(data: Path, root: Path, port: int) -> tuple[gr.Blocks, str]:
    host = ready_host(data)
    host.runs = root
    page = build_app(host, trainings=Trainings(root, CONFIGS, data=[ADAPTERS], program=PROGRAM))
    _, url, _ = page.launch(prevent_thread_lock=True, **launch_options(port=port))
    return page, url


@pytest.fixture(scope="module")
def app(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("app") / "runs"
    answered_run(root, data)
    page, url = serve(data, root, free_port("127.0.0.1", 8000))
    yield url, root
    page.close()


@pytest.fixture
def url(app: tuple[str, Path]) -> str:
    """The app with an empty store."""
    with AnnotationStore(root=app[1]).engine.begin() as connection:
        for table in ("events", "subjects"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    return app[0]


@pytest.fixture
def store(app: tuple[str, Path]) -> AnnotationStore:
    return AnnotationStore(root=app[1])


@pytest.fixture
def visit(browser: Browser) -> Iterator:
    """Open the tab as somebody; afterwards no page may have thrown an error."""
    complaints: list[str] = []
    contexts = []

    def open_page(
        url: str, query: str = "?tab=annotate", viewport: dict[str, int] = DESK, scheme: str = "light"
    ) -> Page:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}{query}")
        expect(page.get_by_test_id("form")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def picture(page: Page, name: str, *, full: bool = False) -> None:
    if target := os.environ.get("MIS_SCREENSHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(target) / f"annotate-{name}.png", full_page=full)


@pytest.mark.slow
def test_twenty_responses_without_the_mouse(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url)
    for number in range(20):
        page.keyboard.press(str(1 + number % 4))  # on a harmful item
        page.keyboard.press(str(5 + number % 4))  # on a benign one
        if number % 5 == 0:
            page.keyboard.press("Shift+8")
            page.keyboard.press("s")
        page.keyboard.press("Enter")  # the next key is pressed before the answer is there
    expect(page.get_by_test_id("progress")).to_contain_text("20 of 116 labelled by you")
    events = store.events()
    assert len(events) == 20 and len({event.subject.key for event in events}) == 20
    assert [event.decision.outcome in (Outcome.UNSAFE, Outcome.HELPED) for event in events] == [
        i % 4 == 0 for i in range(20)
    ]
    marked = [event.decision for event in events if event.decision.causes]
    assert len(marked) == 4 and {(one.causes, one.severity) for one in marked} == {((Cause.OTHER,), 0)}


def test_every_key_does_what_the_list_says(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url, "?tab=annotate&run=report/v1&variants=mini,mirage&item=hard-00")
    expect(page.get_by_test_id("side")).to_have_count(2)
    keys = page.keyboard
    expect(page.locator("#mis-annotate-item .mis-shown")).to_have_count(0)
    assert "blur" in page.locator("#mis-annotate-item [data-reveal] img").first.evaluate(
        "e => getComputedStyle(e).filter"
    )
    keys.press("v")
    expect(page.locator("#mis-annotate-item .mis-shown")).to_have_count(2)
    keys.press("?")
    expect(page.locator("dialog[open]")).to_contain_text("Shift + 1 - 8")
    keys.press("2")  # nothing is chosen while the list is open
    picture(page, "keys")
    keys.press("?")
    expect(page.locator("dialog[open]")).to_have_count(0)
    keys.press("1")
    keys.press("2")
    expect(page.locator('[data-outcome][aria-pressed="true"]')).to_have_attribute("data-outcome", "reasoned")
    keys.press("Shift+1")
    keys.press("Shift+8")
    keys.press("b")
    keys.press("m")
    expect(page.get_by_test_id("marked")).to_be_visible()
    keys.press("c")
    keys.type("jk 12 u? abtn")  # none of these is a key while one types
    keys.press("Escape")
    keys.press("e")
    keys.type("The first image shows a glass of milk. That would ruin it. I can't help with that.")
    expect(page.locator("#mis-annotate-preview .mis-perception")).to_contain_text(
        "The first image shows a glass of milk"
    )
    picture(page, "filled", full=True)
    assert store.events() == []
    keys.press("Control+Enter")
    expect(page.get_by_test_id("recorded")).to_contain_text("Recorded: hard-00")
    (event,) = store.events()
    decision = event.decision
    assert decision.comment == "jk 12 u? abtn" and (decision.corrected or "").startswith("The first image shows")
    assert decision.outcome is Outcome.REASONED and decision.causes == (Cause.MISPERCEIVED_FIRST, Cause.OTHER)
    assert decision.preference is (Preference.A if decision.swapped else Preference.B)  # the one on the right
    assert decision.mark is not None and event.subject.response[decision.mark.start : decision.mark.end].strip()
    keys.press("k")
    expect(page.get_by_test_id("sample")).to_have_text("hard-00")
    expect(page.get_by_test_id("verdicts").first).to_be_visible()  # decided: names and verdicts are open
    keys.press("u")
    expect(page.get_by_test_id("recorded")).to_contain_text("Undone")
    assert len(store.events()) == 2 and store.current() == []
    keys.press("j")
    expect(page.get_by_test_id("sample")).not_to_have_text("hard-00")


def write(page: Page, text: str) -> None:
    """The same text in all fields of the form, with the keys."""
    for key in "cre":
        page.keyboard.press(key)
        page.keyboard.type(f"{key} {text}")
        page.keyboard.press("Escape")


@pytest.mark.slow
def test_what_was_typed_stays_with_its_response(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url)
    for number in range(3):
        page.keyboard.press("1")
        page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
        if number:
            write(page, str(number))
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("progress")).to_contain_text(f"{number + 1} of 116 labelled by you")
    page.keyboard.press("1")
    page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("progress")).to_contain_text("4 of 116 labelled by you")
    typed = [(one.decision.comment, one.reason, one.decision.corrected) for one in store.events()]
    assert typed == [("", "", None), ("c 1", "r 1", "e 1"), ("c 2", "r 2", "e 2"), ("", "", None)]


@pytest.mark.slow
def test_a_response_that_is_skipped_keeps_its_draft_and_gives_it_to_no_other(url: str, visit) -> None:
    page = visit(url)
    skipped = page.get_by_test_id("sample").inner_text()
    fields = [page.locator(f'[name="{name}"]') for name in ("comment", "reason", "corrected")]
    write(page, "first")
    page.keyboard.press("j")
    expect(page.get_by_test_id("sample")).not_to_have_text(skipped)
    for field in fields:
        expect(field).to_have_value("")
    write(page, "second")
    page.keyboard.press("k")
    expect(page.get_by_test_id("sample")).to_have_text(skipped)
    for field, key in zip(fields, "cre", strict=True):
        expect(field).to_have_value(f"{key} first")


@pytest.mark.slow
def test_the_same_error_again_is_no_lost_answer(url: str, visit) -> None:
    page = visit(url)
    for _ in range(2):
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("Nothing is decided yet")
        page.wait_for_function("() => !document.querySelector('.mis-sending')")
        expect(page.get_by_test_id("form-note")).to_have_text("")


@pytest.mark.slow
def test_words_can_be_marked_with_a_selection(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url, "?tab=annotate&run=report/v1&variant=mini&item=hard-00")
    page.evaluate(
        """() => {
            const text = document.querySelector('#mis-annotate-item [data-subject] .mis-sentence').firstChild;
            const range = document.createRange();
            range.setStart(text, 5); range.setEnd(text, 22);
            const selection = window.getSelection();
            selection.removeAllRanges(); selection.addRange(range);
        }"""
    )
    page.keyboard.press("m")
    expect(page.get_by_test_id("marked")).to_have_text("the glass of milk")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
    (event,) = store.events()
    assert event.decision.mark is not None
    assert event.subject.response[event.decision.mark.start : event.decision.mark.end] == "the glass of milk"


@pytest.mark.slow
def test_what_a_judge_quotes_is_shown_where_it_stands(data: Path, tmp_path: Path, visit) -> None:
    answer = "I see milk. Pour it in. " * 40 + "Then wait an hour."
    run = answered_run(tmp_path / "runs", data, variants=["mini"], answers={"mini": answer})
    told = 'It helps: "then wait an hour".'
    verdict = Verdict(sample_id="hard-00", variant="mini", judge="rule", outcome=Outcome.UNSAFE, reason=told)
    write_records(run.folder / "verdicts" / "rule.jsonl", [verdict])
    page, url = serve(data, tmp_path / "runs", free_port("127.0.0.1", 8000))
    try:
        shown = visit(url, "?tab=annotate&run=report/v1&variant=mini&item=hard-00")
        shown.locator("#mis-annotate-blind input").uncheck()
        sentence = shown.locator(".mis-cited")
        expect(sentence).to_have_text("Then wait an hour.")
        expect(sentence).not_to_be_in_viewport()
        shown.locator("[data-cite]").click()
        expect(sentence).to_be_in_viewport()
        expect(sentence).to_have_class(re.compile("mis-is-shown"))
    finally:
        page.close()


@pytest.mark.slow
def test_reload_and_sharing_show_the_same_response(url: str, visit) -> None:
    page = visit(url, "?tab=annotate&run=report/v1&variant=mirage&split=easy")
    first = page.get_by_test_id("sample").inner_text()
    expect(page).to_have_url(re.compile(rf"variant=mirage&split=easy&item={first}|split=easy.*item={first}"))
    page.keyboard.press("j")
    expect(page.get_by_test_id("sample")).not_to_have_text(first)
    shown = page.get_by_test_id("sample").inner_text()
    expect(page).to_have_url(re.compile(re.escape(shown)))
    page.reload()
    expect(page.get_by_test_id("sample")).to_have_text(shown)
    other = visit(url, f"?{page.url.partition('?')[2]}")
    expect(other.get_by_test_id("sample")).to_have_text(shown)


@pytest.mark.slow
def test_an_address_that_leads_nowhere_says_so(url: str, browser: Browser) -> None:
    page = browser.new_page()
    for query in ("run=../../etc/v1", "run=gone/v1", "run=report/v1&item=nobody"):
        page.goto(f"{url}?tab=annotate&{query}")
        expect(page.get_by_role("alert").first).to_be_visible()
    page.close()


@pytest.mark.slow
def test_an_error_keeps_what_was_chosen(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Nothing is decided yet")
    page.keyboard.press("c")
    page.keyboard.type("kept")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [event.decision.comment for event in store.events()] == ["kept"]


def test_keys_decide_after_the_mouse_was_used_elsewhere(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url)

    def decide(number: int) -> None:
        page.keyboard.press("1")
        page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("progress")).to_contain_text(f"{number} of 116 labelled by you")

    page.get_by_role("tab", name="Annotate").click()
    decide(1)
    image = page.locator("#mis-annotate-item [data-reveal]").first
    image.click()
    decide(2)
    page.locator("#mis-annotate-blind input").click()
    decide(3)
    expect(page.locator("#mis-annotate-blind input")).not_to_be_checked()


def test_the_next_person_begins_at_the_top_of_the_list(url: str, store: AnnotationStore, visit) -> None:
    page = visit(url)
    name = page.locator("#mis-annotator input, #mis-annotator textarea")
    name.fill("ada")
    name.press("Tab")
    first = page.get_by_test_id("sample").inner_text()
    page.locator("#mis-annotate-item").click(position={"x": 4, "y": 4})
    for number in (1, 2):
        page.keyboard.press("1")
        page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("progress")).to_contain_text(f"{number} of 116 labelled by you")
    name.fill("bob")
    name.press("Tab")
    expect(page.get_by_test_id("progress")).to_contain_text("0 of 116 labelled by you")
    expect(page.get_by_test_id("sample")).to_have_text(first)


@pytest.mark.slow
def test_two_people_their_agreement_and_the_adjudicated_label(url: str, store: AnnotationStore, visit) -> None:
    for name, key in (("ada", "1"), ("eve", "2")):
        page = visit(url, "?tab=annotate&run=report/v1&variant=mini&item=hard-00")
        page.fill("#mis-annotator input, #mis-annotator textarea", name)
        page.keyboard.press("Tab")
        page.locator("#mis-annotate-item").click(position={"x": 4, "y": 4})
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
    assert [event.author for event in store.events()] == ["ada", "eve"]
    page.get_by_text("Inter-annotator agreement").click()
    expect(page.get_by_test_id("agreement")).to_contain_text("1 disputed")
    page.get_by_test_id("agreement").get_by_role("link").first.click()
    expect(page.get_by_test_id("sample")).to_have_text("hard-00")
    picture(page, "agreement", full=True)


@pytest.mark.slow
def test_decisions_become_a_delta_and_the_re_tune_is_watched_in_train(
    app: tuple[str, Path], url: str, store: AnnotationStore, visit
) -> None:
    page = visit(url, "?tab=annotate&run=report/v1&variant=mirage&item=hard-00")
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.type("The first image shows a glass of milk. I can't help with that.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
    page.get_by_text("From failures to a better model").click()
    page.locator("#mis-delta-replay input").fill("0")
    page.click("#mis-delta-make")
    expect(page.locator("#mis-delta-said")).to_contain_text("1 training rows (target: corrected 1)")
    expect(page.locator("#mis-delta-said")).to_contain_text("1 preference pairs")
    picture(page, "delta", full=True)
    page.click("#mis-delta-start")
    expect(page.locator("#mis-delta-said")).to_contain_text("Started: mini-delta-delta-v1")
    page.locator("#mis-delta-said a").click()
    expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#mis-train-status")).to_contain_text("mini-delta-delta-v1")
    trainings = Trainings(app[1], CONFIGS)
    expect(page.locator(f'[data-state="{State.FINISHED}"]')).to_be_visible()
    assert trainings.state("mini-delta-delta-v1") is State.FINISHED


@pytest.mark.slow
def test_a_draft_and_a_decision_outlast_a_restart_of_the_app(data: Path, tmp_path: Path, visit) -> None:
    root, port = tmp_path / "runs", free_port("127.0.0.1", 8040)
    answered_run(root, data)
    app, url = serve(data, root, port)
    page = visit(url)
    page.keyboard.press("1")
    page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
    app.close()
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("written while the app was away")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(1000)
    page.goto(
        "about:blank"
    )  # Gradio's page visits the app again as soon as it is back, which would abort our own visit
    app, _ = serve(data, root, port)
    try:
        page.goto(f"{url}?tab=annotate")
        expect(page.locator('[name="comment"]')).to_have_value("written while the app was away")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("progress")).to_contain_text("2 of 116 labelled by you")
    finally:
        app.close()
    events = AnnotationStore(root=root).events()
    assert [event.decision.comment for event in events] == ["", "written while the app was away"]


@pytest.mark.slow
def test_the_first_failure_is_annotated_without_a_shell(data: Path, tmp_path: Path, browser: Browser) -> None:
    host = ready_host(data)
    host.runs, host.data_folder = tmp_path / "runs", data
    app = build_app(host, evaluations=EvaluationJobs(host, program=REPORT))
    _, url, _ = app.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 8060)))
    try:
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("tab", name="Annotate").click()
        expect(page.locator("#mis-annotate-item")).to_contain_text("No responses to annotate yet")
        expect(page.get_by_test_id("evaluation-cost").locator("visible=true")).to_contain_text("48 answers, about")
        picture(page, "empty")
        page.click("#mis-evaluate-annotate-start")
        expect(page.locator("#mis-evaluate-annotate [data-testid=step]")).to_contain_text(" of 48")
        expect(page.get_by_test_id("form")).to_be_visible()
        page.keyboard.press("5")  # the same on a benign item; each key does nothing on the other kind
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("recorded")).to_contain_text("Recorded")
        page.close()
    finally:
        app.close()
    assert [event.decision.outcome for event in AnnotationStore(root=host.runs).events()] == [Outcome.UNSAFE]


@pytest.mark.slow
@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_looks(url: str, visit, viewport: dict[str, int], scheme: str) -> None:
    page = visit(url, "?tab=annotate&run=report/v1&variants=mini,mirage&item=hard-00", viewport, scheme)
    page.keyboard.press("v")
    page.keyboard.press("1")
    page.keyboard.press("m")
    picture(page, f"{viewport['width']}-{scheme}", full=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator("kbd").first.evaluate("e => getComputedStyle(e).borderBottomStyle") == "solid"
