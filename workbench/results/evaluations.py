"""Evaluated runs for the screen: found by name below one folder, read again only when their files have changed.

Reading 20,000 responses takes a second, so the latest runs are kept in memory. A run has grown if size or time of its
files have changed. Every name is looked up among the runs that exist, so a name is never a path.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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
from workbench.results.view import without

KEPT = 8  # runs in memory, each under one judge
MAX_RUNS = 5  # that are shown unless others are chosen
Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Loaded:
    """A run as it was read, without what its variants were trained on, and the rates computed from it since.

    Rates are kept by the further items that they leave out.
    """

    stamp: Stamp
    run: Evaluated
    trained_on: frozenset[str]
    boards: dict[frozenset[str], pd.DataFrame] = field(default_factory=dict)
    seen: dict[frozenset[str], pd.DataFrame] = field(default_factory=dict)


class Boards(NamedTuple):
    """The rates of several runs."""

    by_run: dict[str, pd.DataFrame]
    messages: list[str]
    """On each run that is not shown."""
    notes: list[str]
    """On what is shown: which items were asked, and which are left out."""


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
        """The newest version of each of the runs that were answered last; those of chosen items only if no other is."""
        newest: dict[str, str] = {}
        for name in self.names():
            newest.setdefault(name.partition("/")[0], name)
        whole = [name for name in newest.values() if not self._selection(name)]
        return (whole or list(newest.values()))[:MAX_RUNS]

    def judges(self, name: str) -> list[str]:
        """The judges of a run.

        Raises:
            DataError: there is no such run.
        """
        return judges_of(resolve_run(self.root, name))

    def read(self, name: str, judge: str = "") -> Evaluated:
        """A run under one judge; by default the first judge that could score some of it, ``rule`` before others.

        Items that one of its variants was trained on are left out (``trained_on``).

        Raises:
            DataError: there is no such run, or its files are damaged.
            SettingsError: it has no such judge.
        """
        return self._load(name, judge).run

    def trained_on(self, name: str, judge: str = "") -> frozenset[str]:
        """Ids of the items that ``read`` leaves out; raises as ``read``."""
        return self._load(name, judge).trained_on

    def board(self, name: str, judge: str = "", left_out: frozenset[str] = frozenset()) -> pd.DataFrame:
        """The rates of a run (``frames.leaderboard``) without some items, computed once; raises as ``read``."""
        loaded = self._load(name, judge)
        if left_out not in loaded.boards:
            loaded.boards[left_out] = frames.leaderboard([loaded.run.without(left_out)])
        return loaded.boards[left_out]

    def seen(self, name: str, left_out: frozenset[str] = frozenset()) -> pd.DataFrame:
        """The rates of answers that name what every image shows, and of those that do not.

        Empty if no judge has read the run, or if nothing says what the images show.
        """
        loaded = self._load(name)
        if left_out not in loaded.seen:
            found = untyped(frames.leaderboard([loaded.run.without(left_out)], by=SEEN, total=False))
            loaded.seen[left_out] = pd.DataFrame(found[~found.group.str.endswith(NAMELESS) & bool(loaded.run.judge)])
        return loaded.seen[left_out]

    def boards(self, names: Sequence[str]) -> Boards:
        """``board`` and ``seen`` of several runs, all without what any of their variants was trained on."""
        found: dict[str, pd.DataFrame] = {}
        selections = {name: self._selection(name) for name in names}
        shown = "" if "" in selections.values() else next(iter(selections.values()), "")
        messages = [
            f"{name} is not shown: it asked {selection or 'whole splits'}, the others {shown or 'whole splits'}; such "
            "rates cannot be compared, choose it alone"
            for name, selection in selections.items()
            if selection != shown
        ]
        trained: dict[str, set[str]] = {}  # by data: ids are unique within one
        readable = []
        for name in (name for name, selection in selections.items() if selection == shown):
            try:
                loaded = self._load(name)
                trained.setdefault(loaded.run.run.config.data, set()).update(loaded.trained_on)
                readable.append((name, loaded.run.run.config.data))
            except (MisError, OSError) as error:
                messages.append(f"{name} is not shown: {error}")
        for name, data in readable:
            left_out = frozenset(trained[data])
            rates = [self.board(name, left_out=left_out), self.seen(name, left_out)]
            found[name] = pd.concat(rates, ignore_index=True)
        notes = [f"Asked: {shown}."] if shown and found else []
        if count := sum(map(len, trained.values())):
            notes.append(without(count))
        return Boards(found, messages, notes)

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        """What people noted about runs; read each time, since other programs may write it."""
        return {name: read_note(resolve_run(self.root, name).folder) for name in names}

    def grid(self, name: str) -> pd.DataFrame:
        """Every item of an ablation under every condition (``probe.ablation.ablation_grid``).

        Raises:
            DataError: there is no such run, or it is not an ablation.
        """
        return ablation_grid(resolve_run(self.root, name).folder)

    def _selection(self, name: str) -> str:
        """Which items a run asked, in words; empty for whole splits, and for a run whose settings cannot be read."""
        try:
            return resolve_run(self.root, name).config.selection
        except (MisError, OSError):  # reading the run itself reports it
            return ""

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
            found = read_run(run.folder, judge or None)
            trained = found.trained_on & {sample.id for sample in found.samples}
            loaded = Loaded(stamp, found.without(trained) if trained else found, trained)
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
