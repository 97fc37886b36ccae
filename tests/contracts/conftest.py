"""Runs the command line on copies of what old code wrote, and holds what it says against golden files. The app is imported here and nowhere else."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mis_lib.cli import app

HERE = Path(__file__).parent
DATA, GOLDEN = HERE / "data", HERE / "golden"
WRITTEN_IN = "/tmp/written/data"  # where the artefacts were made: what their files call by a whole path
WRITES = os.environ.get("MIS_WRITE_GOLDEN") == "1"
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?[\d.+:Z]*")
CLOCKED = frozenset({"seconds", "at", "tokens_per_second", "first_token_seconds"})


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
    """A copy of the artefacts, which is the working folder; their files still name the place where they were written."""
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


def settled(work: Path) -> Path:
    """Tell the runs of a copy that their data lie in it."""
    for path in [*work.glob("runs/*/v*/config.yaml"), *work.glob("runs/*/v*/settings.yaml")]:
        path.write_text(path.read_text(encoding="utf-8").replace(WRITTEN_IN, str(work)), encoding="utf-8")
    return work


@pytest.fixture
def golden(tmp_path: Path, one_copy: Path) -> Iterator[Callable[..., None]]:
    """``golden("name", value)``: the value is the one that was kept; numbers within a millionth, paths, times and speeds left aside."""

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


def laid_out(value: Any, margin: str = "") -> str:
    """JSON with what fits into a line in one line."""
    short = json.dumps(value, ensure_ascii=False)
    if len(short) < 400 or not isinstance(value, dict | list):
        return short
    inner = f"{margin} "
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"{inner}{laid_out(one, inner)}" for one in value) + f"\n{margin}]"
    rows = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {laid_out(one, inner)}" for key, one in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{margin}}}"


def plain(value: Any, folder: str) -> Any:
    """The value without what differs from machine to machine and from minute to minute."""
    if isinstance(value, dict):
        return {key: "(clock)" if key in CLOCKED else plain(one, folder) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, folder) for one in value]
    if isinstance(value, str):
        return TIMES.sub(
            "(time)",
            value.replace(f"{folder}/work", "WORK")
            .replace(str(HERE.parents[1]), "REPO")
            .replace(folder, "TMP")
            .replace(WRITTEN_IN, "WORK"),
        )
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value


def differences(kept: Any, found: Any, close: float, place: str = "$") -> Iterator[str]:
    """Where two JSON values differ, in words."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in [*kept, *(key for key in found if key not in kept)]:
            if key not in found or key not in kept:
                yield f"{place}.{key}: {'is gone' if key in kept else 'is new'}"
            else:
                yield from differences(kept[key], found[key], close, f"{place}.{key}")
    elif isinstance(kept, list) and isinstance(found, list):
        if len(kept) != len(found):
            yield f"{place}: {len(kept)} entries were kept, found {len(found)}"
        for at, (one, other) in enumerate(zip(kept, found, strict=False)):
            yield from differences(one, other, close, f"{place}[{at}]")
    elif (
        isinstance(kept, bool)
        or isinstance(found, bool)
        or not (isinstance(kept, int | float) and isinstance(found, int | float))
    ):
        if kept != found or type(kept) is not type(found):
            yield f"{place}: kept {kept!r:.300}, found {found!r:.300}"
    elif not math.isclose(kept, found, rel_tol=close, abs_tol=close):
        yield f"{place}: kept {kept!r}, found {found!r}"


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON Lines file; a torn last line is left aside."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            found.append(json.loads(line))
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of a folder but locks and a database's own, by its path in it."""
    return {name: (path.stat().st_size, path.stat().st_mtime_ns) for name, path in _files(folder)}


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file, as in ``stamps``."""
    return {name: path.read_bytes() for name, path in _files(folder)}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith((".lock", "-wal", "-shm")):
            yield path.relative_to(folder).as_posix(), path
