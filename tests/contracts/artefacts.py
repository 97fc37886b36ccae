"""What is there to hold against: copies of what old code wrote, golden files, and how two values differ."""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA, GOLDEN = HERE / "data", HERE / "golden"
WRITTEN_IN = "/tmp/written/data"  # where the artefacts were made: what their files call by a whole path
WRITES = os.environ.get("MIS_WRITE_GOLDEN") == "1"
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?[\d.+:Z]*")
CLOCKED = frozenset({"seconds", "at", "tokens_per_second", "first_token_seconds"})


def settled(work: Path) -> Path:
    """Tell the runs of a copy that their data lie in it."""
    for path in [*work.glob("runs/*/v*/config.yaml"), *work.glob("runs/*/v*/settings.yaml")]:
        path.write_text(path.read_text(encoding="utf-8").replace(WRITTEN_IN, str(work)), encoding="utf-8")
    return work


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
