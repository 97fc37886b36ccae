"""The Data tab without a browser: items with twins, unsafe image names, preflight, an item through the stages."""

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from support.fakes import mini_data, ready_host

from mis_lib.annotate.worklist import Item
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.schema import Response, Sample
from workbench.annotate.view import Shown, item
from workbench.background import Background
from workbench.compare.actions import check_request
from workbench.data.datasets import BENIGN, HARMFUL, Shelf
from workbench.data.live_item import EDITABLE, STAGES, LiveItem, advance, begin, discard, prompt_of, seeds
from workbench.data.tab import Choice, DataHandlers
from workbench.data.view import PAGE, items
from workbench.examples import Catalogue
from workbench.host import Host
from workbench.links import Link, PromptPort, Tab

HOSTILE = [
    "../secret.png",
    "/etc/passwd",
    "images/../../secret.png",
    "C:\\secret.png",
    "http://x/y.png",
    "images/link.png",
    "a\0.png",
]


class Names(SimpleNamespace):
    """Parts that are their own names."""

    def __getattr__(self, name: str) -> Any:
        return tuple(f"edit-{field}" for field in EDITABLE) if name == "edits" else name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "mini")


@pytest.fixture
def host(folder: Path) -> Host:
    return ready_host(folder)


@pytest.fixture
def handlers(host: Host) -> DataHandlers:
    port = PromptPort((), lambda prompt, question: {"p": prompt, "q": question}, lambda _: None)  # pyright: ignore
    return DataHandlers(host, Names(port=port))  # pyright: ignore


def test_items_are_filtered_and_stand_beside_their_twins(host: Host) -> None:
    data = Shelf(host).read("MIS-Mini")
    assert len(data.find()) == len(data.samples) == 58
    assert {sample.harmful for sample in data.find(truth=BENIGN)} == {False}
    assert [sample.id for sample in data.find(split="hard", truth=HARMFUL, words="CAMERA beer")] == ["hard-24"]
    html = items(data, data.find(words="camera beer"), 0, twins=True)
    assert (
        html.count("mis-pair") == 2 and 'data-item="hard-24"' in html and 'data-item="hard-24-twin"' in html
    )  # frame and pair


def test_pictures_of_harmful_items_are_blurred_and_others_are_not(host: Host) -> None:
    data = Shelf(host).read("MIS-Mini")
    assert items(data, data.find(truth=HARMFUL), 0, twins=False).count("data-reveal") == 2 * PAGE
    assert "data-reveal" not in items(data, data.find(truth=BENIGN), 0, twins=False)


@pytest.mark.parametrize("page", [-3, 0, 2, 99])
def test_any_page_number_shows_items(host: Host, page: int) -> None:
    data = Shelf(host).read("MIS-Mini")
    assert "mis-item" in items(data, data.find(), page, twins=True)


def test_the_address_says_what_is_shown(handlers: DataHandlers) -> None:
    update = handlers.chosen("MIS-Mini", "hard", "", HARMFUL, "camera", True)
    again = handlers.opened(Link.parse(update["place"]))
    assert update["items"] == again["items"] and again["truth"] == HARMFUL
    assert 'data-item="real-1"' in handlers.opened(Link(tab=Tab.DATA, item="real-1"))["items"]
    assert Choice("MIS-Mini").link() == Link(tab=Tab.DATA, data="MIS-Mini")
    turned = handlers.turn("MIS-Mini", "", "", "", "", False, SimpleNamespace(page=2))  # pyright: ignore[reportArgumentType]
    again = handlers.opened(Link.parse(turned["place"]))
    assert "page 3 of" in again["items"] and turned["items"] == again["items"] and again["twins"] is False


def test_only_a_link_fills_in_the_words(handlers: DataHandlers) -> None:
    assert handlers.opened(Link(tab=Tab.DATA, words="camera"))["words"] == "camera"
    assert "words" not in handlers.chosen("MIS-Mini", "", "", "", "came", True)
    turned = handlers.turn("MIS-Mini", "", "", "", "came", True, SimpleNamespace(page=1))  # pyright: ignore[reportArgumentType]
    assert "words" not in turned


def test_words_that_a_link_fills_in_do_not_turn_back_its_page(handlers: DataHandlers) -> None:
    link = Link(tab=Tab.DATA, words="glass", single="yes", sheet="2")
    update = handlers.opened(link)
    values = ["MIS-Mini", "", "", "", "glass", False]
    assert "page 2 of" in update["items"] and handlers.searched(update["filled"], *values) == {"filled": None}
    assert "page 1 of" in handlers.searched(None, *values)["items"]


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (Link(tab=Tab.DATA, split="zz"), "the split &#39;zz&#39;; in MIS-Mini there are easy, hard, real"),
        (Link(tab=Tab.DATA, category="qq"), "the category &#39;qq&#39;; in MIS-Mini there are Illegal Activities"),
        (Link(tab=Tab.DATA, view="items-odd"), "the truth &#39;odd&#39;; in MIS-Mini there are harmful, benign"),
    ],
)
def test_a_link_to_what_a_data_set_does_not_have_says_so(handlers: DataHandlers, link: Link, message: str) -> None:
    update = handlers.opened(link)
    assert message in update["errors"] and "58 of 58 items" in update["items"]
    assert update["place"] == gr.skip()


def test_an_address_waits_for_the_examples(folder: Path) -> None:
    loaded = threading.Event()
    host = ready_host(folder)
    host.data = Background(lambda progress: Catalogue.read(folder) if loaded.wait(60) else None, what="Examples")
    host.data.start()
    handlers, link = DataHandlers(host, Names()), Link(tab=Tab.DATA, data="MIS-Mini", split="hard")  # pyright: ignore[reportArgumentType]
    update = handlers.opened(link)
    assert update["timer"].active and "errors" not in update
    loaded.set()
    for _ in host.data.wait(threading.Event(), interval=0.01):
        pass
    assert handlers.waited(link, *Choice())["split"]["value"] == "hard"
    assert handlers.waited(link, *Choice(words="camera"))["split"]["value"] == ""  # typed while one waited


@pytest.mark.parametrize("name", ["../../etc", "/etc", "nothing", "x" * 300])
def test_a_data_set_is_a_name_and_never_a_path(handlers: DataHandlers, name: str) -> None:
    assert "there is no data set" in handlers.opened(Link(tab=Tab.DATA, data=name))["errors"].lower()


def test_a_twin_that_cannot_be_read_is_not_called_missing(folder: Path, tmp_path: Path) -> None:
    data = mini_data(tmp_path / "mini")
    first, *others = read_records(data / "easy.jsonl", Sample)
    twin = next(sample for sample in others if sample.id == first.twin_id)
    host = ready_host(folder)
    host.data_folders = (data,)

    def shown(*samples: Sample) -> str:
        write_records(data / "easy.jsonl", samples)
        read = Shelf(host).read("mini")
        return items(read, read.find(split="easy"), 0, twins=True)

    damaged = shown(first, twin.model_copy(update={"images": ["nowhere.png", *twin.images[1:]]}))
    assert "no twin" not in damaged and f"Its twin, {twin.id}, is not among the items that could be read" in damaged
    assert "nowhere.png" in damaged
    assert f"names the twin {twin.id}, which is not in this data set" in shown(first)
    assert "has no twin in this data set" in shown(first.model_copy(update={"twin_id": None}))


@pytest.mark.parametrize("image", HOSTILE)
def test_an_image_that_leads_out_of_its_folder_is_not_opened(folder: Path, tmp_path: Path, image: str) -> None:
    data = mini_data(tmp_path / "mini")
    (tmp_path / "secret.png").write_bytes(next((data / "images").iterdir()).read_bytes())
    (data / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    first = read_records(data / "easy.jsonl", Sample)[0]
    write_records(data / "easy.jsonl", [first.model_copy(update={"images": [image, *first.images[1:]]})])
    with pytest.raises(DataError, match="expected a path inside"):
        Catalogue.read(data)
    host = ready_host(folder)
    host.data_folders = (data,)
    shelf = Shelf(host)
    shown = shelf.read("mini")
    assert shown.problems or "not opened" in items(shown, shown.find(split="easy"), 0, twins=False)
    with pytest.raises(DataError):
        shown.prompt(first.id)


def test_a_long_question_is_cut_until_it_is_opened(tmp_path: Path) -> None:
    data = mini_data(tmp_path / "mini")
    first = read_records(data / "easy.jsonl", Sample)[0]
    write_records(data / "easy.jsonl", [first.model_copy(update={"question": "word " * 60})])
    host = ready_host(data)
    shown = Shelf(host).read("MIS-Mini")
    assert items(shown, shown.find(split="easy"), 0, twins=False).count("mis-long-question") == 1
    assert "mis-long-question" not in items(shown, shown.find(split="hard"), 0, twins=False)


def test_an_item_of_text_has_no_empty_tile_and_can_be_compared(tmp_path: Path) -> None:
    data = mini_data(tmp_path / "mini")
    first = read_records(data / "easy.jsonl", Sample)[0].model_copy(update={"images": [], "objects": None})
    write_records(data / "easy.jsonl", [first])
    host = ready_host(data)
    html = items(Shelf(host).read("MIS-Mini"), [first], 0, twins=False)
    assert "Text, no image" in html and "mis-item-pictures" not in html
    prompt, _ = Shelf(host).read("MIS-Mini").prompt(first.id)
    check_request(host, prompt, first.question, ["mini"])
    said = Response(sample_id=first.id, variant="mini", text="No.", tokens=1, seconds=0, finish_reason="stop")
    shown = item(Shown(Item("run", first, said, {}, ()), None, swapped=False, revealed=False, data=data))
    assert first.question in shown and "mis-look" not in shown


def test_markup_in_items_is_shown_as_text(folder: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    data = mini_data(tmp_path / "mini")
    first = read_records(data / "easy.jsonl", Sample)[0]
    changed = first.model_copy(
        update={"id": evil, "question": evil, "category": evil, "objects": [evil, evil], "answer": evil}
    )
    write_records(data / "easy.jsonl", [changed])
    host = ready_host(folder)
    host.data_folders = (data,)
    shown = Shelf(host).read("mini")
    assert "<script>" not in items(shown, shown.find(split="easy"), 0, twins=True)


def test_preflight_tells_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    data = mini_data(tmp_path / "broken")
    (data / "images" / "hard-laptop.png").unlink()
    host = ready_host(folder)
    host.data_folders = (data,)
    handlers = DataHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    assert (
        "must not start" in handlers.check("broken")["report"] and "missing-image" in handlers.check("broken")["report"]
    )


def test_the_report_is_named_and_its_download_is_what_was_checked(folder: Path, tmp_path: Path) -> None:
    data = mini_data(tmp_path / "broken")
    (data / "images" / "hard-laptop.png").unlink()
    host = ready_host(folder)
    host.data_folders = (data,)
    handlers = DataHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    update = handlers.check("broken")
    assert "<b>broken: training must not start" in update["report"]
    file = json.loads(update["checked"].file)
    assert file["name"] == "findings-broken.csv" and "hard-laptop.png" in file["text"]
    assert handlers.check("gone")["checked"].file == handlers.check("gone")["report"] == ""


def test_another_data_set_empties_the_report_and_is_named_on_the_button(handlers: DataHandlers) -> None:
    checked = handlers.check("MIS-Mini")["checked"]
    assert handlers.renamed("MIS-Mini", checked) == {"check": gr.update(value="Check MIS-Mini")}
    update = handlers.renamed("other", checked)
    assert update["check"]["value"] == "Check other" and update["report"] == update["checked"].file == ""


def test_an_item_is_sent_to_compare_with_its_pictures(handlers: DataHandlers) -> None:
    update = handlers.send("MIS-Mini", SimpleNamespace(id="hard-00"))  # pyright: ignore[reportArgumentType]
    assert [image.name for image in update["p"].images] == ["glass of milk", "laptop"] and update["q"]
    assert "there is no item" in handlers.send("MIS-Mini", SimpleNamespace(id="../x"))["errors"].lower()  # pyright: ignore


# One item through the stages


def made(stages: int) -> LiveItem:
    item = begin(next(iter(seeds().values())))
    for _ in range(stages):
        item = advance(item, {})
    return item


def test_an_item_goes_through_all_stages_and_can_be_compared(tmp_path: Path) -> None:
    item = made(len(STAGES))
    assert [step.stage for step in item.steps] == [stage.name for stage in STAGES] and not item.next_stage
    draft = item.draft
    assert draft is not None and draft.twin is not None and draft.answer
    prompt, question = prompt_of(item)
    assert question == draft.question and all(image.flagged for image in prompt.images)
    with pytest.raises(SettingsError, match="all stages"):
        advance(item, {})
    discard(item)
    assert not item.folder.exists()


def test_an_edit_is_what_the_next_stage_works_on_and_is_marked() -> None:
    item = advance(made(3), {"objects": "hammer; window"})
    assert (
        item.draft is not None and item.draft.objects == ("hammer", "window") and item.steps[-1].edited == ("objects",)
    )
    with pytest.raises(SettingsError, match="expected 2 names"):
        advance(item, {"objects": "one"})
    discard(item)


def test_a_stage_that_rejects_says_why_and_can_be_tried_again() -> None:
    item = made(4)
    bad = advance(item, {"question": "What is this hammer for?"})
    good = bad.draft
    assert bad.steps[-1].rejected and bad.next_stage == item.next_stage and good is not None
    again = advance(bad, {"question": item.draft.question if item.draft else ""})
    assert again.steps[-1].draft is not None and not any(step.rejected for step in again.steps)
    discard(item)


def test_a_cache_that_cannot_be_written_is_told_and_the_item_in_hand_stays(
    handlers: DataHandlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = made(1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "file" / "cache"))
    update = handlers.begin(item, next(iter(seeds())))
    assert str(tmp_path / "file") in update["errors"] and item.folder.is_dir()
    discard(item)


def test_examples_that_could_not_be_prepared_are_told_with_the_reason(handlers: DataHandlers) -> None:
    def fail(progress: object) -> Catalogue:
        raise DataError("the disk is full")

    handlers.host.data = Background(fail, what="Examples")
    handlers.host.data.start()
    for _ in handlers.host.data.wait(threading.Event()):
        pass
    assert "could not be prepared: the disk is full" in handlers.opened(Link(tab=Tab.DATA))["errors"]


@pytest.mark.long
def test_twenty_thousand_items_are_shown_in_two_seconds_and_filtered_in_one(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "large"
    items_ = read_records(folder / "hard.jsonl", Sample)
    many = [
        sample.model_copy(update={"id": f"{sample.id}~{turn}", "twin_id": f"{sample.twin_id}~{turn}"})
        for turn in range(400)
        for sample in items_
    ]
    write_records(data / "hard.jsonl", many)
    (data / "images").mkdir()
    for file in (folder / "images").iterdir():
        (data / "images" / file.name).write_bytes(file.read_bytes())
    host = ready_host(folder)
    host.data_folders = (data,)
    handlers = DataHandlers(host, Names())  # pyright: ignore[reportArgumentType]
    began = time.process_time()
    assert "mis-item" in handlers.opened(Link(tab=Tab.DATA, data="large"))["items"]
    first, began = time.process_time() - began, time.process_time()
    assert "mis-item" in handlers.chosen("large", "", "", HARMFUL, "camera beer", True)["items"]
    filtered = time.process_time() - began
    sys.stdout.write(f"20,000 items: first view {first:.2f} s, filter {filtered:.2f} s (processor time)\n")
    assert len(many) == 20_000 and first < 2 and filtered < 1
