"""Results, Data and Train in real Chromium, with made-up runs and a stand-in trainer: the main path of each tab, and
addresses.

Screenshots go to ``$MIS_SCREENSHOTS`` where that is set, to be looked at.
"""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from support.fake_runs import fake_ablation, fake_run
from support.fake_trainer import PROGRAM
from support.fakes import ANSWERS, ScriptedEngine, mini_data, ready_host
from support.visitor import DESK, PHONE

from workbench.app import build_app, free_port, launch_options
from workbench.trainings import CONFIGS, Trainings

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("desk")
    fake_run(root / "runs", mini_data(root / "mini"))
    fake_ablation(root / "runs", root / "mini")
    host = ready_host(root / "mini", delay=0.005)
    host.runs = root / "runs"
    host.load = lambda adapters, progress: ScriptedEngine({**ANSWERS, **dict.fromkeys(adapters, "Tuned.")}, 0.005)
    app = build_app(host, trainings=Trainings(host.runs, CONFIGS, program=PROGRAM))
    _, address, _ = app.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 8200)))
    yield address
    app.close()


@pytest.mark.slow
def test_a_note_on_a_run_is_written_where_its_rates_are(desk: str, visit) -> None:
    me = visit(f"{desk}?tab=results")
    expect(me.page.locator("#mis-results-board table")).to_contain_text("refusal")
    me.page.get_by_role("button", name="Notes on runs").click()
    run, note = me.page.locator("#mis-results-noted input"), me.page.locator("#mis-results-note textarea")
    run.click()
    me.page.get_by_role("option", name="report/v1").click()
    note.fill("first draw; the judge was changed after it")
    me.page.locator("#mis-results-keep").click()
    expect(me.page.locator("#mis-results-board").get_by_test_id("note").first).to_have_text(
        "first draw; the judge was changed after it"
    )
    expect(me.page.locator("#mis-results-kept")).to_contain_text("runs/report/v1/note.md. It stands under")
    me.picture("results-note")
    me.page.locator("#mis-results-runs input").click()
    me.page.keyboard.press("Backspace")  # takes the one run out of the table
    me.page.keyboard.press("Escape")
    expect(me.page.locator("#mis-results-board")).to_contain_text("No run is chosen")
    me.page.locator("#mis-results-keep").click()
    expect(me.page.locator("#mis-results-kept")).to_contain_text("has no line of report/v1")
    me.picture("results-note-elsewhere")
    me.page.reload()
    expect(me.page.locator("#mis-results-board").get_by_test_id("note").first).to_be_visible()
    me.page.get_by_role("button", name="Notes on runs").click()
    run.click()
    me.page.get_by_role("option", name="report/v1").click()
    expect(note).to_have_value("first draw; the judge was changed after it")
    note.fill("")
    me.page.locator("#mis-results-keep").click()
    expect(me.page.locator("#mis-results-board").get_by_test_id("note")).to_have_count(0)


def test_results_from_the_overview_to_the_items_of_a_flip(desk: str, visit) -> None:
    me = visit(desk)
    me.page.get_by_role("tab", name="Results").click()
    expect(me.page.locator("#mis-figure-plane .js-plotly-plot")).to_be_visible()
    expect(me.page.locator("#mis-results-board table")).to_contain_text("refusal")
    me.picture("results-light")
    with me.page.expect_download() as download:
        me.page.locator("#mis-results-board").get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "leaderboard.csv"
    assert "asr" in download.value.path().read_text()
    with me.page.expect_download() as figure:
        me.page.locator('[data-figure="plane"][data-format="svg"]').click()
    assert "<svg" in figure.value.path().read_text()[:400]
    with me.page.expect_download() as figure:
        me.page.locator('[data-figure="plane"][data-format="png"]').click()
    assert figure.value.path().read_bytes().startswith(b"\x89PNG")
    expect(
        me.page.locator('.modebar-btn[data-title*="cloud" i], .modebar-btn[data-title*="Chart Studio"]')
    ).to_have_count(0)
    me.page.get_by_role("tab", name="What changed").click()
    cell = me.page.get_by_test_id("flip").first
    expect(cell).to_be_visible()
    expect(me.page).to_have_url(re.compile(r"(?=.*view=changes)(?=.*variants=mini,mirage)"))
    cell.click()
    expect(me.page.get_by_role("tab", name="Annotate")).to_have_attribute("aria-selected", "true")
    expect(me.page).to_have_url(re.compile("tab=annotate"))


@pytest.mark.slow
def test_an_address_opens_what_it_says_and_a_bad_one_says_why(desk: str, visit) -> None:
    me = visit(desk)
    me.page.goto(f"{desk}?tab=results&view=changes&run=report/v1&judge=words&variants=refusal,mini")
    expect(me.page.get_by_test_id("flips").locator("figcaption").first).to_contain_text("rows refusal, columns mini")
    me.page.reload()
    expect(me.page.get_by_test_id("flips").locator("figcaption").first).to_contain_text("rows refusal, columns mini")
    me.page.goto(f"{desk}?tab=results&run=../../etc/v1")
    expect(me.page.locator("#mis-page-errors .mis-error")).to_contain_text("The address has run=")
    me.page.goto(f"{desk}?tab=compare&item=hard-00")
    expect(me.page.locator(".mis-tile")).to_have_count(2)


@pytest.mark.slow
def test_another_page_of_items_can_be_reloaded(desk: str, visit) -> None:
    me = visit(desk)
    me.page.goto(f"{desk}?tab=data")
    expect(me.page).to_have_url(re.compile("data=MIS-Mini"))
    me.page.locator('#mis-data-items [data-page="1"]').click()
    expect(me.page).to_have_url(re.compile("sheet=2"))
    for address in (me.page.url, f"{me.page.url}&page=9999"):
        assert getattr(me.page.goto(address), "status", 0) == 200
        expect(me.page.locator("#mis-data-items")).to_contain_text("page 2 of")


@pytest.mark.slow
def test_no_letter_of_a_search_is_lost(desk: str, visit) -> None:
    me = visit(desk)
    me.page.get_by_role("tab", name="Data").click()
    expect(me.page.locator(".mis-pair").first).to_be_visible()
    for _ in range(3):
        me.page.fill("#mis-data-words input", "")
        me.page.locator("#mis-data-words input").press_sequentially("camera beer mug", delay=60)
        expect(me.page.locator(".mis-pair")).to_have_count(1)
        expect(me.page.locator("#mis-data-words input")).to_have_value("camera beer mug")


def test_data_browse_twins_construct_and_send_to_compare(desk: str, visit) -> None:
    me = visit(desk)
    me.page.get_by_role("tab", name="Data").click()
    expect(me.page.locator(".mis-pair").first).to_be_visible()
    me.picture("data-light")
    me.page.fill("#mis-data-words input", "camera beer")
    expect(me.page.locator(".mis-pair")).to_have_count(1)
    me.page.locator('.mis-pair [data-action="send"]').first.click()
    expect(me.page).to_have_url(re.compile("tab=compare&item=hard-24$"))
    me.page.get_by_role("tab", name="Data").click()
    me.page.get_by_role("tab", name="Construct an item").click()
    me.page.locator("#mis-data-hazard input").click()
    me.page.get_by_role("option").first.click()
    me.page.click("#mis-data-begin")
    expect(me.page.locator(".mis-seed")).to_be_visible()
    for stage in ("extract", "rewrite", "detox", "images"):
        me.page.click("#mis-data-advance")
        expect(me.page.locator(f'[data-stage="{stage}"]')).to_be_visible()
    me.picture("construct-light")
    question = me.page.locator("#mis-data-edit-question textarea").input_value()
    me.page.click("#mis-data-send")
    expect(me.page.locator("#mis-question textarea")).to_have_value(question)
    expect(me.page.locator(".mis-tile")).to_have_count(2)
    expect(me.page).to_have_url(re.compile("tab=compare$"))


@pytest.mark.slow
def test_labels_of_every_panel_have_the_ink_of_the_page(desk: str, visit) -> None:
    me = visit(desk)
    me.page.goto(f"{desk}?tab=results&view=item")
    labels = me.page.locator('#mis-figure-item :is([class$="tick"] text, text[class$="title"])')
    expect(labels.last).to_be_visible()
    assert len({label.evaluate("one => getComputedStyle(one).fill") for label in labels.all()}) == 1


def test_a_training_is_started_watched_found_after_a_reload_and_stopped(desk: str, visit) -> None:
    me = visit(desk)
    me.page.get_by_role("tab", name="Train").click()
    me.page.fill("#mis-train-name input, #mis-train-name textarea", "browser")
    me.page.fill("#mis-train-set textarea", "max_steps=20000")
    expect(me.page.locator("#mis-train-command")).to_contain_text("name=browser")
    me.page.click("#mis-train-start")
    expect(me.page.locator('[data-state="running"]')).to_be_visible()
    expect(me.page.locator("#mis-figure-training .js-plotly-plot")).to_be_visible()
    expect(me.page).to_have_url(re.compile("tab=train&run=browser/v1"))
    me.page.reload()
    expect(me.page.locator('[data-state="running"]')).to_contain_text("browser")
    me.picture("train-light")
    me.page.click("#mis-train-stop")
    expect(me.page.locator('[data-state="stopped"]')).to_be_visible()
    expect(me.page.locator("#mis-train-resume")).to_be_visible()


@pytest.mark.slow
def test_a_finished_training_stands_beside_the_base_in_one_click(desk: str, visit) -> None:
    me = visit(desk)
    me.page.goto(f"{desk}?tab=train")
    expect(me.page.locator("#mis-train-name")).to_be_visible()
    me.page.fill("#mis-train-name input, #mis-train-name textarea", "done")
    me.page.fill("#mis-train-set textarea", "max_steps=3")
    expect(me.page.locator("#mis-train-command")).to_contain_text("max_steps=3")
    me.page.click("#mis-train-start")
    me.page.get_by_role("link", name="Compare with base").click()
    expect(me.page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    ticked = me.page.locator("#mis-variants label:has(input:checked)")
    expect(ticked).to_have_text(["mini", "done-v1"])
    me.load("glass of milk + laptop")
    me.compare()
    expect(me.column("done-v1")).to_contain_text("Tuned.")


@pytest.mark.slow
def test_the_tour_can_be_skipped(desk: str, visit) -> None:
    me = visit(desk)
    me.page.locator('[data-tour="skip"]').click()
    expect(me.page.locator(".mis-tour")).to_have_count(0)
    me.page.reload()
    expect(me.page.locator(".mis-card").first).to_be_visible()
    expect(me.page.locator(".mis-tour")).to_be_hidden()


@pytest.mark.slow
def test_the_tour_is_shown_once(desk: str, visit) -> None:
    me = visit(desk)
    expect(me.page.locator(".mis-tour")).to_contain_text("1 of 5")
    for _ in range(5):
        me.page.locator('[data-tour="next"]').click()
    expect(me.page.locator(".mis-tour")).to_have_count(0)
    me.page.reload()
    expect(me.page.locator(".mis-card").first).to_be_visible()
    expect(me.page.locator(".mis-tour")).to_be_hidden()


@pytest.mark.parametrize("tab", ["results", "data", "train"])
@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "dark"), (PHONE, "light"), (PHONE, "dark")])
@pytest.mark.long
def test_tabs_fit_the_screen(desk: str, visit, tab: str, viewport: dict[str, int], scheme: str) -> None:
    me = visit(desk, viewport, scheme)
    me.page.goto(f"{desk}?tab={tab}")
    first = {"results": "#mis-results-board table", "data": ".mis-item", "train": "#mis-train-start"}[tab]
    expect(me.page.locator(first).first).to_be_visible()
    me.page.wait_for_timeout(1500)
    assert me.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    me.picture(f"{tab}-{viewport['width']}-{scheme}")
