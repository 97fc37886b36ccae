"""Evaluated runs for the screen: found by name below one folder, read once, read again when their files have changed.

Reading 20,000 responses takes a second, so the last few runs are kept; a run that is being written is seen to have grown by size and time of its
files. Whatever has been asked by name is looked up among the runs that are there, so a name is never a path.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mis_lib.analysis.plot_parts import untyped
from mis_lib.errors import DataError, MisError
from mis_lib.results import frames
from mis_lib.results.evaluated import Evaluated, find_runs, judges_of, read_run, run_name
from mis_lib.results.metrics import NAMELESS, SEEN
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome
from mis_lib.store.notes import read_note
from workbench.links import resolve_run

KEPT = 8
Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Kept:
    """A run as it was read, and the rates that were computed from it since."""

    stamp: Stamp
    run: Evaluated
    board: pd.DataFrame | None = None
    seen: pd.DataFrame | None = None


class Evaluations:
    """The runs below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._lock = threading.Lock()

    def runs(self) -> list[Run]:
        """All runs that hold answers, the one that was answered last first; ablations are listed by ``ablations``."""
        return sorted(find_runs(self.root), key=lambda run: -_changed(run.folder))

    def ablations(self) -> list[str]:
        """Names of the runs in which items were taken apart (``mis ablate``), the newest first."""
        found = find_runs(self.root, ablations=True)
        return [run_name(run) for run in sorted(found, key=lambda run: -_changed(run.folder))]

    def grid(self, name: str) -> pd.DataFrame:
        """Every item of an ablation under every condition (``frames.ablation_grid``).

        Raises:
            DataError: there is no such run, or it is no ablation.
        """
        return frames.ablation_grid(resolve_run(self.root, name).folder)

    def names(self) -> list[str]:
        """Their names, NAME/vN."""
        return [run_name(run) for run in self.runs()]

    def judges(self, name: str) -> list[str]:
        """The judges of a run.

        Raises:
            DataError: there is no such run.
        """
        return judges_of(resolve_run(self.root, name))

    def read(self, name: str, judge: str = "") -> Evaluated:
        """A run under one judge; without one, the first of those that could score some of it, ``rule`` before others.

        Raises:
            DataError: there is no such run, or its files are damaged.
            SettingsError: it has no such judge.
        """
        return self._read(name, judge).run

    def board(self, name: str, judge: str = "") -> pd.DataFrame:
        """The rates of a run (``frames.leaderboard``), computed once; raises as ``read``."""
        kept = self._read(name, judge)
        if kept.board is None:
            kept.board = frames.leaderboard([kept.run])
        return kept.board

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        """What people noted about runs; read anew each time, since it may be written beside the app."""
        return {name: read_note(resolve_run(self.root, name).folder) for name in names}

    def seen(self, name: str) -> pd.DataFrame:
        """The same for answers that name what every image shows and for those that do not, apart; empty where no judge has read them or nothing tells what the images show."""
        kept = self._read(name)
        if kept.seen is None:
            found = untyped(frames.leaderboard([kept.run], by=SEEN, total=False))
            kept.seen = pd.DataFrame(found[~found.group.str.endswith(NAMELESS) & bool(kept.run.judge)])
        return kept.seen

    def boards(self, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """The rates of several runs by name, ``board`` and ``seen`` in one, and a message on each run that cannot be read: it keeps nobody from the others."""
        found: dict[str, pd.DataFrame] = {}
        damaged = []
        for name in names:
            try:
                found[name] = pd.concat([self.board(name), self.seen(name)], ignore_index=True)
            except (MisError, OSError) as error:
                damaged.append(f"{name} is not shown: {error}")
        return found, damaged

    def _read(self, name: str, judge: str = "") -> Kept:
        if judge:
            return self._under(name, judge)
        known = sorted(judges_of(resolve_run(self.root, name)), key=lambda one: one != "rule")
        read = (self._under(name, one) for one in known)
        scored = (kept for kept in read if any(one.outcome is not Outcome.UNSCORED for one in kept.run.verdicts))
        return next(scored, None) or self._under(name, next(iter(known), ""))

    def _under(self, name: str, chosen: str) -> Kept:
        run = resolve_run(self.root, name)
        stamp = _stamp(run.folder)
        with self._lock:
            kept = self._kept.get((name, chosen))
        if kept is None or kept.stamp != stamp:
            kept = Kept(stamp, read_run(run.folder, chosen or None))
        with self._lock:
            self._kept[name, chosen] = kept
            self._kept.move_to_end((name, chosen))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept

    def newest(self) -> str:
        """The name of the run that was answered last.

        Raises:
            DataError: there is none.
        """
        names = self.names()
        if not names:
            raise DataError(f"there is no run in {self.root.name}/ yet; make one with `mis report`")
        return names[0]


def _stamp(folder: Path) -> Stamp:
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*/*.jsonl")])
    stats = ((file, file.stat()) for file in files)
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


def _changed(folder: Path) -> int:
    return max((stamp[1] for stamp in _stamp(folder)), default=0)
