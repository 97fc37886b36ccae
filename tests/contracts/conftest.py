"""Runs the command line on copies of what old code wrote, and holds what it says against golden files. The app is
imported here and nowhere else.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from artefacts import DATA, GOLDEN, WRITES, differences, laid_out, plain, settled, stamps
from typer.testing import CliRunner

from mis_lib.cli.main import app


class Said(NamedTuple):
    """What a verb answered."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which is one JSON document."""
        return json.loads(self.out)


def call(*words: object) -> Said:
    """Run a verb in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def mis() -> Callable[..., Said]:
    """``mis("report", "--json")``."""
    return call


@pytest.fixture(scope="session")
def command() -> Any:
    """The whole command line as click sees it."""
    import typer

    return typer.main.get_command(app)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, database, server or width of the machine's own plays a part."""
    monkeypatch.setenv("MIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MIS_DATABASE_URL", raising=False)


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the artefacts, the working folder; their files still name the place where they were written."""
    work = tmp_path / "work"
    shutil.copytree(DATA, work)
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def work(moved: Path) -> Path:
    """A copy of the artefacts that lies, as its files tell it, where it was written."""
    return settled(moved)


@pytest.fixture(scope="session")
def one_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settled(Path(shutil.copytree(DATA, tmp_path_factory.mktemp("whole") / "work")))


@pytest.fixture
def whole(one_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As ``work``, one copy for all tests that show what changes nothing; it is looked at whether that is so."""
    monkeypatch.chdir(one_copy)
    before = stamps(one_copy)
    yield one_copy
    assert stamps(one_copy) == before, "nothing is changed, made or left behind"


@pytest.fixture
def golden(tmp_path: Path, one_copy: Path) -> Iterator[Callable[..., None]]:
    """``golden("name", value)``: the value is the one that was kept; numbers within a millionth, paths, times and
    speeds left aside.
    """

    def check(name: str, value: Any, *, close: float = 1e-6) -> None:
        found, path = plain(plain(value, str(one_copy.parent)), str(tmp_path)), GOLDEN / f"{name}.json"
        if WRITES:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(laid_out(found) + "\n", encoding="utf-8")
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = json.loads(json.dumps(found))
        wrong = list(differences(kept, found, close))
        assert not wrong, f"{path.name}: {len(wrong)} differ, such as\n" + "\n".join(wrong[:12])

    yield check
