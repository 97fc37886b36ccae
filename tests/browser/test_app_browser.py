"""The Compare tab in real Chromium, with a scripted model: what a person does in a demo, and that the page calls
nobody.

Screenshots go to ``$MIS_SCREENSHOTS`` where that is set, to be looked at.
"""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Locator, expect
from support.fake_server import FakeServer, Script
from support.fakes import ANSWERS, DRINK_QUESTION, ScriptedEngine, good_images, mini_data, ready_host, started
from support.visitor import DESK, PHONE, Visitor, contrast

from mis_lib.generate.served import Served
from workbench.app import build_app, free_port, launch_options
from workbench.host import Host, make_host

pytestmark = pytest.mark.browser

FILES = "#mis-prompt input[type=file]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


def serve(host: Host) -> Iterator[str]:
    app = build_app(host)
    _, address, _ = app.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 7900)))
    yield address
    app.close()


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """An app that answers at once."""
    yield from serve(ready_host(folder, delay=0.005))


@pytest.fixture(scope="module")
def slow_url(folder: Path) -> Iterator[str]:
    """An app whose answers take two minutes, so that only stopping ends them."""
    yield from serve(ready_host(folder, answers={"mini": "word " * 1200, "mirage": "word " * 1200}, delay=0.5))


@pytest.fixture
def broken(folder: Path) -> Iterator[tuple[ScriptedEngine, str]]:
    """An app whose model has lost its answers, and that model."""
    host = ready_host(folder)
    engine = host.model.value
    assert isinstance(engine, ScriptedEngine)
    engine.answers = {}
    for address in serve(host):
        yield engine, address


def test_example_compare_both_columns_legend_and_badges(url: str, visit) -> None:
    me = visit(url)
    me.picture("empty-light")
    me.load("glass of milk + laptop")
    expect(me.page.locator("#mis-question textarea")).to_have_value(DRINK_QUESTION)
    me.compare()
    for variant in ("mini", "mirage"):
        answer = re.sub(r"\s", "", ANSWERS[variant])
        shown = "".join(me.column(variant).locator(".mis-part p").all_inner_texts())
        assert re.sub(r"\s", "", shown) == answer
        expect(me.column(variant).locator(".mis-verdict")).to_have_count(1)
        expect(me.column(variant).locator(".mis-cost")).to_contain_text("tokens/s")
    expect(me.column("mini").locator(".mis-verdict")).to_have_attribute("data-outcome", "unsafe")
    expect(me.column("mirage").locator(".mis-verdict")).to_have_attribute("data-outcome", "reasoned")
    expect(me.column("mirage").locator(".mis-part.mis-perception")).to_contain_text("The first image shows")
    for part in ("perception", "reasoning", "answer"):
        expect(me.page.locator(f".mis-legend .mis-{part} b")).to_have_text(part)
        expect(me.column("mirage").locator(f".mis-part.mis-{part} b").first).to_be_visible()
    me.page.wait_for_timeout(500)  # the page scrolls to the answers
    expect(me.column("mini")).to_be_in_viewport()
    me.picture("compared-light")
    styles = {
        part: me.page.locator(f".mis-legend .mis-{part}").evaluate("e => getComputedStyle(e).borderLeftStyle")
        for part in ("perception", "reasoning", "answer")
    }
    assert len(set(styles.values())) == 3, styles  # parts differ in more than colour
    verdict = me.column("mirage").locator(".mis-verdict")
    verdict.evaluate("e => { e.style.width = '180px'; }")  # in a narrow column it keeps to its icon
    icon, words = (verdict.locator(f"> {part}").bounding_box() for part in ("svg", "b"))
    assert icon and words and words["height"] > 30  # two lines
    assert words["y"] < icon["y"] + icon["height"]


@pytest.mark.slow
def test_harmful_images_are_blurred_until_clicked_or_chosen_with_the_keyboard(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    first, second = (me.page.locator(".mis-tile [data-reveal]").nth(index) for index in (0, 1))

    def blur(veiled: Locator) -> str:
        return veiled.locator("img").evaluate("e => getComputedStyle(e).filter")

    assert "blur" in blur(first) and "blur" in blur(second)
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")
    assert blur(first) == "none" and "blur" in blur(second)
    second.focus()
    me.page.keyboard.press("Enter")
    assert blur(second) == "none"
    me.page.click('[aria-label="Move image 1 right"]')  # the strip is drawn again; what was revealed stays so
    expect(me.page.locator(".mis-tile figcaption").first).to_have_text("laptop")
    expect(me.page.locator(".mis-tile .mis-shown")).to_have_count(2)
    me.page.locator(".mis-tile [data-reveal]").first.click()
    assert "blur" in blur(me.page.locator(".mis-tile [data-reveal]").first)


@pytest.mark.slow
def test_twin_is_one_click_away_and_judged_the_other_way(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    me.page.get_by_role("button", name="Show its benign twin").click()
    expect(me.page.locator(".mis-tile figcaption").nth(1)).to_have_text("old man")
    expect(me.page.locator(".mis-tile [data-reveal]")).to_have_count(0)
    expect(me.card("glass of milk + laptop").locator('[aria-pressed="true"]')).to_have_text("Load benign twin")
    me.page.locator("#mis-variants label", has_text="refusal").click()
    me.compare()
    expect(me.column("refusal").locator(".mis-verdict")).to_have_attribute("data-outcome", "over_refused")
    me.page.get_by_role("button", name="Show its harmful twin").click()
    expect(me.page.locator(".mis-tile figcaption").nth(1)).to_have_text("laptop")


def test_answers_to_the_prompt_before_are_marked_until_it_is_asked(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    me.compare()
    note = me.page.get_by_test_id("stale")
    expect(note).to_be_hidden()
    me.page.get_by_role("button", name="Show its benign twin").click()
    expect(note).to_be_visible()
    me.picture("stale")
    me.page.get_by_role("button", name="Show its harmful twin").click()
    expect(note).to_be_hidden()
    question = me.page.locator("#mis-question textarea")
    question.press("End")
    question.press("Shift+Enter")
    assert question.input_value().endswith("\n")
    question.press_sequentially("And then?")
    expect(note).to_be_visible()
    question.press("Enter")
    expect(note).to_be_hidden()
    expect(me.page.get_by_test_id("asked")).to_contain_text("And then?")


@pytest.mark.slow
def test_back_returns_to_the_tab_before(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    for name in ("Data", "Results"):
        me.page.get_by_role("tab", name=name).click()
        expect(me.page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        me.page.wait_for_timeout(300)
    for name in ("Data", "Compare"):
        me.page.go_back()
        expect(me.page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
    expect(me.page.locator(".mis-tile figcaption").nth(1)).to_have_text("laptop")


@pytest.mark.slow
def test_two_own_images_without_verdict(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    me.page.set_input_files(FILES, good_images(tmp_path, 2))
    expect(me.page.locator(".mis-tile")).to_have_count(2)
    assert me.names() == ["photo 1.png", "photo 2.png"]
    me.page.fill("#mis-question textarea", "What colours are these?")
    me.compare()
    expect(me.page.locator(".mis-no-verdict")).to_have_count(2)
    expect(me.page.locator(".mis-no-verdict").first).to_contain_text("your own prompt")


@pytest.mark.slow
def test_dropped_and_pasted_files_are_added(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    content = list(good_images(tmp_path, 1)[0].read_bytes())
    script = """([bytes, kind]) => {
        const box = new DataTransfer();
        box.items.add(new File([new Uint8Array(bytes)], kind + '.png', {type: 'image/png'}));
        const target = document.querySelector(kind === 'drop' ? '#mis-prompt .mis-add' : '#mis-question textarea');
        const options = {bubbles: true, cancelable: true};
        target.dispatchEvent(kind === 'drop' ? new DragEvent(kind, {...options, dataTransfer: box})
                                             : new ClipboardEvent(kind, {...options, clipboardData: box}));
    }"""
    for count, kind in enumerate(("drop", "paste"), 1):
        me.page.evaluate(script, [content, kind])
        expect(me.page.locator(".mis-tile")).to_have_count(count)
    assert me.names() == ["drop.png", "paste.png"]


@pytest.mark.slow
def test_a_file_dropped_before_the_page_can_take_it_is_not_lost(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    expect(me.page.locator(FILES)).to_be_attached()
    script = """(bytes) => {
        const input = document.querySelector('#mis-prompt input[type=file]'), place = input.parentNode;
        input.remove();
        setTimeout(() => place.append(input), 400);
        const box = new DataTransfer();
        box.items.add(new File([new Uint8Array(bytes)], 'early.png', {type: 'image/png'}));
        document.querySelector('#mis-prompt .mis-add').dispatchEvent(
            new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: box}));
    }"""
    me.page.evaluate(script, list(good_images(tmp_path, 1)[0].read_bytes()))
    expect(me.page.locator(".mis-tile")).to_have_count(1)
    assert me.names() == ["early.png"]


@pytest.mark.slow
def test_files_dropped_in_one_moment_are_all_added_and_one_too_large_is_named(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    expect(me.page.locator(FILES)).to_be_attached()
    script = """(bytes) => {
        const file = (name, parts) => new File(parts, name, {type: 'image/png'});
        const image = (name) => file(name, [new Uint8Array(bytes)]);
        const large = () => file('large.png', [new Uint8Array(33 * 1024 * 1024)]);
        for (const files of [[image('a.png'), large()], [image('b.png')], [image('c.png')]]) {
            const box = new DataTransfer();
            for (const one of files) box.items.add(one);
            document.querySelector('#mis-prompt .mis-add').dispatchEvent(
                new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: box}));
        }
    }"""
    me.page.evaluate(script, list(good_images(tmp_path, 1)[0].read_bytes()))
    expect(me.page.locator(".mis-tile")).to_have_count(3)
    assert me.names() == ["a.png", "b.png", "c.png"]
    expect(me.page.locator("#mis-errors").first).to_contain_text("large.png: expected an image of at most 32mb")


@pytest.mark.slow
def test_order_by_buttons_and_by_dragging_and_removing(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    me.page.set_input_files(FILES, good_images(tmp_path, 3))
    tiles = me.page.locator(".mis-tile")
    expect(tiles).to_have_count(3)
    me.page.click('[aria-label="Move image 3 left"]')
    expect(tiles.nth(1)).to_contain_text("photo 3.png")
    tiles.nth(0).drag_to(tiles.nth(2))
    expect(tiles.nth(2)).to_contain_text("photo 1.png")
    assert me.names() == ["photo 3.png", "photo 2.png", "photo 1.png"]
    assert me.page.locator(".mis-number").all_inner_texts() == ["1", "2", "3"]
    me.page.click('[aria-label="Remove image 2"]')
    expect(tiles).to_have_count(2)
    assert me.names() == ["photo 3.png", "photo 1.png"]


def test_stop_ends_the_answer_and_says_so(slow_url: str, visit) -> None:
    me = visit(slow_url)
    me.load("glass of milk + laptop")
    me.page.click("#mis-compare")
    expect(me.column("mirage").locator(".mis-part")).to_contain_text("word word")
    me.page.click("#mis-stop")
    expect(me.page.locator("#mis-status")).to_contain_text("Stopped after")
    expect(me.column("mini").locator(".mis-cost")).to_contain_text("stopped by you")
    expect(me.column("mini").locator(".mis-no-verdict")).to_contain_text("stopped before its end")
    expect(me.page.locator("#mis-compare")).to_be_visible()


@pytest.mark.slow
def test_the_keyboard_stops_what_it_has_started_and_starts_nothing_twice(slow_url: str, visit) -> None:
    me = visit(slow_url)
    me.load("glass of milk + laptop")
    question = me.page.locator("#mis-question textarea")
    question.press("Tab")
    box = me.page.locator("#mis-variants input:focus")
    assert box.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    me.page.locator("#mis-compare").press("Enter")
    expect(me.page.locator("#mis-stop")).to_be_focused()
    expect(me.column("mirage").locator(".mis-part")).to_contain_text("word word")
    question.press("Enter")
    me.page.wait_for_timeout(500)  # nothing is to happen
    expect(question).to_be_focused()
    expect(me.page.locator("#mis-leave")).to_have_count(0)
    me.page.locator("#mis-stop").press("Enter")
    expect(me.page.locator("#mis-status")).to_contain_text("Stopped after")
    expect(me.page.locator("#mis-compare")).to_be_focused()


@pytest.mark.slow
def test_queue_shows_the_place_and_can_be_left_and_a_closed_tab_frees_it(slow_url: str, visit) -> None:
    first, second, third = (visit(slow_url) for _ in range(3))
    for visitor in (first, second, third):
        visitor.load("glass of milk + laptop")
        visitor.page.click("#mis-compare")
        visitor.page.wait_for_timeout(200)
    expect(first.column("mini").locator(".mis-part")).to_contain_text("word word")
    expect(third.page.locator("#mis-status")).to_contain_text(re.compile(r"queue: 2/2"))
    second.page.click("#mis-leave")
    expect(second.page.locator("#mis-status")).to_contain_text("Stopped before it started")
    expect(second.page.locator("#mis-compare")).to_be_visible()
    first.context.close()
    expect(third.column("mini").locator(".mis-part")).to_contain_text("word word")
    third.page.click("#mis-stop")
    expect(third.page.locator("#mis-status")).to_contain_text("Stopped after")
    expect(second.page.locator("#mis-status")).to_contain_text("Stopped before it started")  # and no failure since
    expect(second.page.get_by_role("alert")).to_have_count(0)


@pytest.mark.slow
def test_ticked_variants_stay_ticked(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    for name in ("mirage", "refusal"):
        me.page.locator("#mis-variants label", has_text=name).click()
    me.compare()
    me.page.wait_for_timeout(1500)  # a second after Compare was pressed the page looks at the model again
    expect(me.ticked()).to_have_text(["mini", "refusal"])


@pytest.mark.slow
def test_the_address_names_the_example_as_long_as_it_is_one(url: str, visit) -> None:
    me = visit(url)
    me.load("glass of milk + laptop")
    expect(me.page).to_have_url(re.compile("item=hard-00$"))
    me.page.get_by_role("button", name="Show its benign twin").click()
    expect(me.page).to_have_url(re.compile("item=hard-00-twin$"))
    me.page.click('[aria-label="Remove image 1"]')
    expect(me.page).to_have_url(re.compile(r"\?tab=compare$"))
    me.load("glass of milk + printer")
    expect(me.page).to_have_url(re.compile("item=hard-02$"))
    me.page.click("#mis-clear")
    expect(me.page).to_have_url(re.compile(r"\?tab=compare$"))


@pytest.mark.slow
def test_a_comparison_that_breaks_off_can_be_started_again(broken: tuple[ScriptedEngine, str], visit) -> None:
    engine, address = broken
    me = visit(address)
    me.load("glass of milk + laptop")
    me.page.click("#mis-compare")
    expect(me.page.get_by_role("alert").first).to_contain_text("did not run to its end")
    engine.answers = ANSWERS
    me.compare()


@pytest.mark.slow
def test_errors_stay_until_dismissed_or_put_right(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    me.page.click("#mis-compare")
    bar = me.page.get_by_role("alert")
    expect(bar).to_contain_text("There is no image; pick an example or add 1 to 6 images")
    me.picture("error-light")
    expect(me.page.locator("#mis-compare")).to_be_visible()
    bar.get_by_role("button", name="Dismiss").click()
    expect(bar).to_have_count(0)
    text = tmp_path / "notes.png"
    text.write_text("no image")
    me.page.set_input_files(FILES, text)
    expect(bar).to_contain_text("notes.png: expected an image")
    me.load("glass of milk + laptop")
    expect(bar).to_have_count(0)
    me.page.click("#mis-settings button")
    me.page.wait_for_timeout(300)  # the fields unfold
    me.page.fill("#mis-seed input", "-3")
    me.page.click("#mis-compare")
    expect(bar).to_contain_text("'seed': Input should be greater than or equal to 0, found -3")
    expect(me.page.locator("#mis-compare")).to_be_visible()


@pytest.mark.slow
def test_search_random_copy_download_regenerate_clear(url: str, visit) -> None:
    me = visit(url)
    me.page.get_by_label("Search").fill("axe")
    expect(me.page.locator(".mis-card")).to_have_count(1)
    me.page.get_by_role("button", name="Random example").click()
    expect(me.page.locator(".mis-tile figcaption").first).to_have_text("axe")
    me.compare()
    me.column("mini").get_by_role("button", name="Copy the answer of mini").click()
    expect(me.column("mini").locator(".mis-copy")).to_contain_text("Copied")
    assert me.page.evaluate("navigator.clipboard.readText()") == ANSWERS["mini"]
    with me.page.expect_download() as download:
        me.page.click("#mis-download")
    assert download.value.suggested_filename.startswith("comparison-")
    assert json.loads(download.value.path().read_text())["sample"]["id"] == "easy-1"
    expect(me.page.locator("#mis-again")).to_have_count(0)  # greedy answers would be the same again
    me.page.click("#mis-settings button")
    temperature = me.page.locator("#mis-temperature input[type=number]")
    expect(temperature).to_have_value("0")  # the opened settings are drawn; what is typed earlier can be lost
    temperature.fill("0.7")
    temperature.press("Enter")
    expect(me.page.locator("#mis-again")).to_be_visible()
    me.page.evaluate("document.querySelector('.mis-columns').dataset.first = 'yes'")
    me.page.click("#mis-again")
    expect(me.page.locator("#mis-seed input")).to_have_value("1")
    expect(me.page.locator(".mis-columns[data-first]")).to_have_count(0)  # the second answers are there
    expect(me.page.locator("#mis-status")).to_contain_text("Done after")
    expect(me.page.locator("#mis-clear")).to_be_enabled()
    me.page.click("#mis-clear")
    expect(me.page.locator(".mis-tile")).to_have_count(0)
    expect(me.page.locator("#mis-results")).to_contain_text("No answers yet")
    expect(me.page.locator("#mis-question textarea")).to_have_value("")


@pytest.mark.slow
def test_markup_is_shown_as_text(url: str, visit, tmp_path: Path) -> None:
    me = visit(url)
    me.page.set_input_files(FILES, good_images(tmp_path, 1)[0].rename(tmp_path / "<img src=x onerror=alert(1)>.png"))
    me.page.fill("#mis-question textarea", "<script>window.hacked = 1</script> ${1+1} {{value}}")
    me.compare()
    expect(me.page.locator(".mis-recap-question")).to_have_text("<script>window.hacked = 1</script> ${1+1} {{value}}")
    assert me.page.evaluate("window.hacked") is None


@pytest.mark.slow
@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "dark"), (PHONE, "light")])
def test_dark_and_phone(url: str, visit, viewport: dict[str, int], scheme: str) -> None:
    me = visit(url, viewport, scheme)
    me.load("glass of milk + laptop")
    me.compare()
    name = f"{viewport['width']}-{scheme}"
    me.page.wait_for_timeout(500)
    me.picture(f"compared-{name}")
    assert me.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    boxes = [me.column(variant).bounding_box() for variant in ("mini", "mirage")]
    assert boxes[0] and boxes[1]
    stacked = boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    assert stacked == (viewport is PHONE)
    for element in (me.column("mini").locator(".mis-part p").first, me.page.locator(".mis-cost").first):
        assert contrast(element) >= 4.5
    expect(me.page.locator("#mis-compare")).to_be_in_viewport()


@pytest.mark.slow
def test_six_images_leave_the_question_its_room_on_a_phone(url: str, visit, tmp_path: Path) -> None:
    me = visit(url, PHONE)
    me.page.set_input_files(FILES, good_images(tmp_path, 6))
    expect(me.page.locator(".mis-tile")).to_have_count(6)
    me.page.fill("#mis-question textarea", DRINK_QUESTION)
    me.compare()
    expect(me.page.locator(".mis-recap-images img")).to_have_count(6)
    box = me.page.locator(".mis-recap-question").bounding_box()
    assert box and box["width"] > 200


@pytest.mark.slow
def test_theme_switch(url: str, visit) -> None:
    me = visit(url)
    expect(me.page.locator("body")).not_to_have_class(re.compile("dark"))
    me.page.get_by_role("button", name="Switch between light and dark").click()
    expect(me.page.locator("body")).to_have_class(re.compile("dark"))
    me.page.reload()
    expect(me.page.locator("body")).to_have_class(re.compile("dark"))


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[dict[str, Served], str]]:
    """An app with served models alone: one that says a lot, a tuned one, and one whose server is down; and where these
    are asked.
    """

    def server(text: str, pause: float) -> FakeServer:
        return FakeServer(Script(pause=pause), reply=lambda task, facts, images: text)

    with server("word " * 1000, 1.0) as base, server(ANSWERS["mirage"], 0.03) as tuned:
        models = {
            "base": Served(base.url, "org/base"),
            "tuned": Served(tuned.url, "tuned"),
            "gone": Served("http://127.0.0.1:9/v1", "gone"),
        }
        for address in serve(started(make_host(None, None, folder, served=models))):
            yield models, address


@pytest.mark.slow
def test_served_models_stream_next_to_one_that_is_down_and_stop_when_asked(
    served: tuple[dict[str, Served], str], visit
) -> None:
    models, address = served
    me = visit(address)
    expect(me.page.locator(".mis-pill")).to_contain_text(f"Served by {models['base'].host}")
    expect(me.page.locator("#mis-variants")).to_contain_text(f"sent to {models['base'].host} for base")
    assert contrast(me.page.locator("#mis-variants .info-text")) >= 4.5
    me.page.get_by_role("button", name="Switch between light and dark").click()
    expect(me.page.locator("body")).to_have_class(re.compile("dark"))
    me.page.wait_for_timeout(500)  # colours change over a moment
    assert contrast(me.page.locator("#mis-variants .info-text")) >= 4.5
    expect(me.ticked()).to_have_text(["base", "tuned"])
    me.page.locator("#mis-variants label", has_text="gone").click()
    me.load("glass of milk + laptop")
    me.page.click("#mis-compare")
    expect(me.column("gone").locator("[role=alert]")).to_contain_text("nothing answers at")
    expect(me.column("base")).to_contain_text(f"sent to {models['base'].host} as org/base")
    expect(me.column("base")).to_contain_text("word word")
    expect(me.column("base").locator(".mis-cost")).to_contain_text("chunks/s")
    expect(me.column("tuned").locator("[data-outcome=reasoned]")).to_be_visible()
    expect(me.column("tuned").locator(".mis-reasoning")).to_be_visible()
    me.picture("served-running")
    me.page.click("#mis-stop")
    expect(me.page.locator("#mis-status")).to_contain_text("Stopped after")
    expect(me.column("base").locator(".mis-cost")).to_contain_text("stopped by you")
    me.picture("served-stopped")
    assert [one["server"] for one in answers_of(me)] == [one.url for one in models.values()]
    me.page.get_by_role("button", name="Show its benign twin").click()
    expect(me.page.locator(".mis-tile [data-reveal]")).to_have_count(0)
    me.page.locator("#mis-variants label", has_text="base").click()
    me.page.locator("#mis-variants label", has_text="gone").click()
    me.compare()
    expect(me.column("tuned").locator("[data-outcome=over_refused]")).to_be_visible()


@pytest.fixture(scope="module")
def real_url() -> Iterator[str]:
    """The app as it starts without options: the embedded model with its shipped variants, and MIS-Mini."""
    host = make_host(None, None, None)
    host.start()
    for background in (host.data, host.model):
        for _ in background.wait(threading.Event()):
            pass
        assert background.value is not None, background.status
    yield from serve(host)


def answers_of(me: Visitor) -> list[dict[str, Any]]:
    """The comparison on the page, as a person downloads it."""
    with me.page.expect_download() as download:
        me.page.click("#mis-download")
    return json.loads(download.value.path().read_text())["answers"]


@pytest.mark.long
def test_the_real_model_answers_an_example_and_its_twin(real_url: str, visit) -> None:
    me = visit(real_url)
    me.page.locator(".mis-card button.mis-harmful").first.click()
    expect(me.page.locator(".mis-tile")).to_have_count(2)
    question = me.page.locator("#mis-question textarea").input_value()
    seen = []
    for twin in (False, True):
        if twin:
            me.page.get_by_role("button", name="Show its benign twin").click()
            expect(me.page.locator(".mis-tile [data-reveal]")).to_have_count(0)
            assert me.page.locator("#mis-question textarea").input_value() == question
        me.compare()
        for variant in ("mini", "mirage"):
            expect(me.column(variant).locator(".mis-verdict")).to_have_count(1)
            expect(me.column(variant).locator(".mis-cost")).to_contain_text("tokens/s")
        answers = answers_of(me)
        assert [answer["variant"] for answer in answers] == ["mini", "mirage"]
        for answer in answers:
            assert answer["finish_reason"] in ("stop", "length") and answer["tokens"] > 3
            shown = "".join(me.column(answer["variant"]).locator(".mis-part p").all_inner_texts())
            assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", answer["text"])
            assert "".join(part["text"] for part in answer["segments"]) == answer["text"]
        assert answers[0]["text"] != answers[1]["text"]  # two variants, not one twice
        seen.append([answer["text"] for answer in answers])
        me.page.wait_for_timeout(500)
        me.picture(f"real-{'twin' if twin else 'harmful'}")
    assert seen[0] != seen[1]  # the images were looked at


@pytest.mark.long
def test_the_real_model_takes_two_photographs_and_stops_when_told(real_url: str, visit, tmp_path: Path) -> None:
    me = visit(real_url)
    photographs = [tmp_path / f"{name}.png" for name in ("coffee", "chelsea")]
    for path in photographs:
        Image.fromarray(getattr(skimage.data, path.stem)()).save(path)
    me.page.set_input_files(FILES, photographs)
    expect(me.page.locator(".mis-tile")).to_have_count(2)
    me.page.fill("#mis-question textarea", "What do the two images show? Describe each of them in three sentences.")
    me.page.click("#mis-compare")
    expect(me.column("mirage").locator(".mis-part").first).to_be_visible()
    me.page.click("#mis-stop")
    expect(me.page.locator("#mis-status")).to_contain_text(re.compile("Stopped after|Done after"))
    me.compare()
    expect(me.page.locator(".mis-no-verdict")).to_have_count(2)
    assert all(answer["text"] for answer in answers_of(me))
    me.page.wait_for_timeout(500)
    me.picture("real-photographs")
