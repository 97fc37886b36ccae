"""Several people in front of one model: order, place in the queue, memory, stop, and places that are given up."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client, handle_file
from support.fake_server import FakeServer, Script
from support.fakes import ScriptedEngine, good_images, mini_data, ready_host, started

from mis_lib.generate.served import Served
from workbench.app import MOST_WAITING, build_app, free_port, launch_options
from workbench.host import Host, make_host

pytestmark = pytest.mark.slow

PEOPLE = 20
ENOUGH_MB = 150


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return ready_host(mini_data(tmp_path / "mini"), answers={"mini": "word " * 10, "mirage": "word " * 10}, delay=0.01)


@pytest.fixture
def url(host: Host) -> Iterator[str]:
    page = build_app(host)
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 8100)))
    yield address
    page.close()


def questions(host: Host) -> list[str]:
    """What the model was asked, in order."""
    engine = host.model.value
    assert isinstance(engine, ScriptedEngine)
    return [call[1] for call in engine.calls]


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_twenty_requests_at_once_keep_their_order_see_their_place_and_cost_no_memory(
    host: Host, url: str, tmp_path: Path
) -> None:
    image = good_images(tmp_path, 1)[0]
    clients = [Client(url, verbose=False) for _ in range(PEOPLE)]
    for client in clients:
        client.predict([handle_file(image)], api_name="/add_images")
    before = psutil.Process().memory_info().rss
    jobs, places = [], []
    with host.lock:  # the model is busy until all have asked
        for number, client in enumerate(clients):
            jobs.append(client.submit(f"question {number}", ["mini"], 64, 0, 0, api_name="/compare"))
            if number == 0:
                wait(jobs[0].outputs)  # it has the model, so that all later ones are given a place
            else:
                wait(lambda job=jobs[-1]: job.status().rank is not None)
        places = [job.status().rank for job in jobs[1:]]
    for job in jobs:
        job.result(timeout=120)
    assert ["Done after" in job.outputs()[-1][0] for job in jobs] == [True] * PEOPLE
    assert questions(host) == [f"question {number}" for number in range(PEOPLE)]
    assert max(place for place in places if place is not None) >= PEOPLE - 3
    assert (psutil.Process().memory_info().rss - before) / 2**20 < ENOUGH_MB


def test_people_who_ask_servers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with FakeServer(Script(hold_after=0)) as slow, FakeServer(reply=lambda task, facts, images: "done") as quick:
        served = {"slow": Served(slow.url, "m"), "quick": Served(quick.url, "m")}
        page = build_app(started(make_host(None, None, mini_data(tmp_path / "mini"), served=served)))
        _, address, _ = page.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 8100)))
        first, second = (Client(address, verbose=False) for _ in range(2))
        for client in (first, second):
            client.predict([handle_file(good_images(tmp_path, 1)[0])], api_name="/add_images")
        held = first.submit("Why?", ["slow"], 64, 0, 0, api_name="/compare")
        wait(slow.holding.is_set)
        assert "Done after" in second.predict("Why?", ["quick"], 64, 0, 0, api_name="/compare")[0]
        first.predict(api_name="/stop")
        assert "Stopped after" in held.result(timeout=120)[0]
        page.close()


def test_a_page_that_is_closed_gives_up_its_place(host: Host, url: str, tmp_path: Path) -> None:
    """Three pages ask; the second one's connection is cut while it waits, as when its tab is closed."""
    image = good_images(tmp_path, 1)[0]
    clients = {name: Client(url, verbose=False) for name in ("first", "second", "third")}
    for client in clients.values():
        client.predict([handle_file(image)], api_name="/add_images")
    compare = next(dep["id"] for dep in clients["first"].config["dependencies"] if dep["api_name"] == "compare")

    def join(name: str) -> None:
        inputs = [None, f"{name} asks", ["mini"], 64, 0, 0, "", "", "", False]
        body = {"data": inputs, "fn_index": compare, "session_hash": clients[name].session_hash}
        assert httpx.post(f"{url}gradio_api/queue/join", json=body).status_code == 200

    def listen(name: str, *, messages: int) -> None:
        address = f"{url}gradio_api/queue/data?session_hash={clients[name].session_hash}"
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", address, timeout=120) as stream:
            for number, line in enumerate(stream.iter_lines(), 1):
                if number >= messages or "process_completed" in line:
                    return

    with host.lock:  # the model is busy with the first one
        threads = []
        for name, messages in (("first", 10**6), ("second", 1), ("third", 10**6)):
            join(name)
            threads.append(threading.Thread(target=listen, args=(name,), kwargs={"messages": messages}, daemon=True))
            threads[-1].start()
        threads[1].join(timeout=120)  # has left
        time.sleep(3)  # the server notices it at the next heartbeat
    for thread in threads:
        thread.join(timeout=120)
    assert questions(host) == ["first asks", "third asks"]


def test_the_queue_has_an_end() -> None:
    assert PEOPLE < MOST_WAITING < 100


def test_one_persons_stop_stops_only_theirs(url: str, host: Host, tmp_path: Path) -> None:
    engine = host.model.value
    assert isinstance(engine, ScriptedEngine)
    engine.answers, engine.delay = {"mini": "word " * 200}, 0.02
    image = good_images(tmp_path, 1)[0]
    mine, other = Client(url, verbose=False), Client(url, verbose=False)
    for client in (mine, other):
        client.predict([handle_file(image)], api_name="/add_images")
    job = mine.submit("mine", ["mini"], 300, 0, 0, api_name="/compare")
    wait(lambda: questions(host) == ["mine"])
    assert "Nothing is running" in other.predict(api_name="/stop")
    assert not job.done()
    mine.predict(api_name="/stop")
    job.result(timeout=120)
    assert "Stopped after" in job.outputs()[-1][0]
