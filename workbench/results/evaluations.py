"""Evaluated runs for the screen: found by name below one folder, read again only when their files have changed.

Reading 20,000 responses takes a second, so the latest runs are kept in memory. A run has grown if size or time of its
files have changed. Every name is looked up among the runs that exist, so a name is never a path.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mis_lib.errors import DataError, MisError
from mis_lib.probe.ablation import ablation_grid
from mis_lib.results import frames
from mis_lib.results.evaluated import Evaluated, find_runs, judges_of, read_run, run_name
from mis_lib.results.figures.style import untyped
from mis_lib.results.metrics import NAMELESS, SEEN
from mis_lib.results.runs import Run, read_note
from mis_lib.schema import Outcome
from workbench.links import resolve_run

KEPT = 8  # runs in memory, each under one judge
MAX_RUNS = 5  # that are shown unless others are chosen
Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Loaded:
    """A run as it was read, and the rates that were computed from it since."""

    stamp: Stamp
    run: Evaluated
    board: pd.DataFrame | None = None
    seen: pd.DataFrame | None = None


class Evaluations:
    """The runs below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: OrderedDict[tuple[str, str], Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names (NAME/vN) of all runs that hold answers, the newest answers first; ablations are in ``ablations``."""
        return _newest_first(find_runs(self.root))

    def ablations(self) -> list[str]:
        """Names of the runs of ``mis ablate``, the newest answers first."""
        return _newest_first(find_runs(self.root, ablations=True))

    def newest(self) -> str:
        """The name of the run that was answered last.

        Raises:
            DataError: there is none.
        """
        names = self.names()
        if not names:
            raise DataError(f"there is no run in {self.root.name}/ yet; make one with `mis report`")
        return names[0]

    def defaults(self) -> list[str]:
        """The newest version of each of the runs that were answered last."""
        newest: dict[str, str] = {}
        for name in self.names():
            newest.setdefault(name.partition("/")[0], name)
        return list(newest.values())[:MAX_RUNS]

    def judges(self, name: str) -> list[str]:
        """The judges of a run.

        Raises:
            DataError: there is no such run.
        """
        return judges_of(resolve_run(self.root, name))

    def read(self, name: str, judge: str = "") -> Evaluated:
        """A run under one judge; by default the first judge that could score some of it, ``rule`` before others.

        Raises:
            DataError: there is no such run, or its files are damaged.
            SettingsError: it has no such judge.
        """
        return self._load(name, judge).run

    def board(self, name: str, judge: str = "") -> pd.DataFrame:
        """The rates of a run (``frames.leaderboard``), computed once; raises as ``read``."""
        loaded = self._load(name, judge)
        if loaded.board is None:
            loaded.board = frames.leaderboard([loaded.run])
        return loaded.board

    def seen(self, name: str) -> pd.DataFrame:
        """The rates of answers that name what every image shows, and of those that do not.

        Empty if no judge has read the run, or if nothing says what the images show.
        """
        loaded = self._load(name)
        if loaded.seen is None:
            found = untyped(frames.leaderboard([loaded.run], by=SEEN, total=False))
            loaded.seen = pd.DataFrame(found[~found.group.str.endswith(NAMELESS) & bool(loaded.run.judge)])
        return loaded.seen

    def boards(self, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """``board`` and ``seen`` of several runs by name, and a message on each run that cannot be read."""
        found: dict[str, pd.DataFrame] = {}
        damaged = []
        for name in names:
            try:
                found[name] = pd.concat([self.board(name), self.seen(name)], ignore_index=True)
            except (MisError, OSError) as error:
                damaged.append(f"{name} is not shown: {error}")
        return found, damaged

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        """What people noted about runs; read each time, since other programs may write it."""
        return {name: read_note(resolve_run(self.root, name).folder) for name in names}

    def grid(self, name: str) -> pd.DataFrame:
        """Every item of an ablation under every condition (``probe.ablation.ablation_grid``).

        Raises:
            DataError: there is no such run, or it is not an ablation.
        """
        return ablation_grid(resolve_run(self.root, name).folder)

    def _load(self, name: str, judge: str = "") -> Loaded:
        if judge:
            return self._load_under(name, judge)
        known = sorted(judges_of(resolve_run(self.root, name)), key=lambda one: one != "rule")
        read = (self._load_under(name, one) for one in known)
        scored = (one for one in read if any(verdict.outcome is not Outcome.UNSCORED for verdict in one.run.verdicts))
        return next(scored, None) or self._load_under(name, next(iter(known), ""))

    def _load_under(self, name: str, judge: str) -> Loaded:
        run = resolve_run(self.root, name)
        stamp = _stamp(run.folder)
        with self._lock:
            loaded = self._loaded.get((name, judge))
        if loaded is None or loaded.stamp != stamp:
            loaded = Loaded(stamp, read_run(run.folder, judge or None))
        with self._lock:
            self._loaded[name, judge] = loaded
            self._loaded.move_to_end((name, judge))
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        return loaded


def _newest_first(runs: Iterable[Run]) -> list[str]:
    def age(run: Run) -> int:
        return -max((time for _, time, _ in _stamp(run.folder)), default=0)

    return [run_name(run) for run in sorted(runs, key=age)]


def _stamp(folder: Path) -> Stamp:
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*/*.jsonl")])
    stats = ((file, file.stat()) for file in files)
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
