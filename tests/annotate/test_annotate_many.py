"""Several annotators at once, and the app killed and restarted: every acknowledged decision is there, none twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from support.annotated import answered_run, samples_of
from support.fakes import mini_data

from mis_lib.annotate.store import AnnotationStore
from workbench.annotate.actions import Place
from workbench.app import free_port

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
PATIENCE = 240  # seconds that somebody keeps trying


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="module")
def starter(data: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that starts apps."""
    command = [sys.executable, str(TESTS / "support" / "annotate_app.py"), str(data)]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        yield process


class App:
    """The app as a process that can be killed."""

    def __init__(self, starter: "subprocess.Popen[str]", runs: Path, database: str) -> None:
        self.port = free_port("127.0.0.1", 8160)  # no other test begins here: one could take it while the app is down
        self.url = f"http://127.0.0.1:{self.port}/"
        self._starter, self._asked = starter, json.dumps([str(runs), self.port, database])
        self.start()

    def start(self) -> None:
        """Start, and again where the machine is too busy for Gradio's own patience of five seconds."""
        self.pid = self._open()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not self.lives:
                self.pid = self._open()
            try:
                httpx.get(self.url, timeout=60).raise_for_status()
                if self.lives:  # else somebody else has answered
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError("the app did not start")

    def _open(self) -> int:
        assert self._starter.stdin and self._starter.stdout
        print(self._asked, file=self._starter.stdin, flush=True)
        return int(self._starter.stdout.readline())

    @property
    def lives(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        while self.lives:
            time.sleep(0.01)


class Annotator(threading.Thread):
    """Somebody who decides ``count`` times, and sends again what was not acknowledged."""

    def __init__(self, app: App, name: str, places: list[str], count: int) -> None:
        super().__init__(name=name, daemon=True)
        self.app, self.places, self.count = app, places, count
        self.acknowledged: list[str] = []
        self.tries = 0
        self._client: Client | None = None

    def run(self) -> None:
        for number in range(self.count):
            event = f"{self.name}-{number:04d}-decision"
            place = self.places[number % len(self.places)]
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and not self._send(place, event):
                time.sleep(0.2)

    def _send(self, place: str, event: str) -> bool:
        self.tries += 1
        try:
            self._client = self._client or Client(self.app.url, verbose=False)
            answer = self._client.predict(place, json.dumps({"severity": 1}), event, self.name, api_name="/annotate")
        except Exception:  # noqa: BLE001 - whatever a killed server does to a client; it tries again
            self._client = None
            return False
        assert json.loads(answer)["id"] == event
        self.acknowledged.append(event)
        return True


@pytest.fixture
def app(starter: "subprocess.Popen[str]", data: Path, tmp_path: Path, database: str) -> Iterator[App]:
    answered_run(tmp_path / "runs", data, variants=("mini",))
    made = App(starter, tmp_path / "runs", database)
    yield made
    made.kill()


def work(app: App, data: Path, people: int, count: int) -> list[Annotator]:
    """Let people decide; kill the app when a third is done, and start it again."""
    places = [Place(run="report/v1", sample=sample.id, variant="mini").model_dump_json() for sample in samples_of(data)]
    annotators = [Annotator(app, f"person{number}", places, count) for number in range(people)]
    for annotator in annotators:
        annotator.start()
    while sum(len(annotator.acknowledged) for annotator in annotators) < people * count // 3:
        time.sleep(0.05)
        assert any(annotator.is_alive() for annotator in annotators)
    app.kill()
    app.start()
    for annotator in annotators:
        annotator.join(timeout=PATIENCE * 2)
    return annotators


@pytest.mark.parametrize(
    ("people", "count"), [pytest.param(2, 6, id="few"), pytest.param(8, 200, id="many", marks=pytest.mark.long)]
)
def test_all_acknowledged_decisions_are_there_and_none_twice(
    app: App, data: Path, database: str, people: int, count: int
) -> None:
    began = time.monotonic()
    annotators = work(app, data, people, count)
    acknowledged = [event for annotator in annotators for event in annotator.acknowledged]
    events = AnnotationStore(database).events()
    tries = sum(annotator.tries for annotator in annotators)
    sys.stdout.write(f"{people} x {count}: {len(events)} events of {tries} tries in {time.monotonic() - began:.0f} s\n")
    assert len(acknowledged) == people * count
    assert sorted(event.id for event in events) == sorted(acknowledged)
    assert {event.author for event in events} == {annotator.name for annotator in annotators}
    assert all(event.id.startswith(event.author) for event in events)
