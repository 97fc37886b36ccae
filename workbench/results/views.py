"""The Results tab's views as plain functions: names of runs and variants in, figures, HTML and frames out, nothing of Gradio.

Each view returns what is drawn and the frame that it was drawn from, so that what people download is what they saw.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from mis_lib.errors import DataError, MisError, SettingsError
from mis_lib.probe.ablation import ablation_grid
from mis_lib.results import frames
from mis_lib.results.evaluated import Evaluated, find_runs, judges_of, read_run, run_name
from mis_lib.results.figures import rates
from mis_lib.results.figures import rates as plots
from mis_lib.results.figures.style import untyped
from mis_lib.results.metrics import ALL, METRICS, NAMED, NAMELESS, SEEN
from mis_lib.results.paired import FLIPS, Side
from mis_lib.results.published import select
from mis_lib.results.runs import Run, read_note
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome
from workbench.html import foot, table
from workbench.links import Link, Tab, resolve_run

# ---------- What changed hands between two variants, as tables: outcomes of one against those of the other, and how many items flipped which way.


def flip_table(matrix: pd.DataFrame, run: Evaluated, before: str, after: str) -> str:
    """Outcomes of one variant against those of another, harmful items and benign items apart; a number opens its items."""
    parts = (("harmful items", HARMFUL_OUTCOMES, True), ("benign items", BENIGN_OUTCOMES, False))
    drawn = [
        _flips_of(untyped(matrix)[matrix.harmful == harmful], title, outcomes, run, before, after)
        for title, outcomes, harmful in parts
    ]
    return f'<div class="mis-flips">{"".join(drawn)}</div>'


def _flips_of(
    matrix: pd.DataFrame, title: str, outcomes: Sequence[Outcome], run: Evaluated, before: str, after: str
) -> str:
    if matrix.empty:
        return ""
    counts = {(row.before, row.after): row.n for row in untyped(matrix).itertuples()}
    named = [outcome for outcome in (*outcomes, Outcome.UNSCORED) if any(outcome in pair for pair in counts)]
    most = max(counts.values())

    def cell(row: Outcome, column: Outcome) -> str:
        count = counts.get((row, column), 0)
        if not count:
            return '<td class="mis-flip-none">·</td>'
        link = Link(
            tab=Tab.ANNOTATE, run=run.name, judge=run.judge, variants=(before, after), before=row, after=column
        ).query()
        told = f"{count} items: {words(row)} by {before}, {words(column)} by {after}. Open them"
        same = " mis-flip-same" if row == column else ""
        return (
            f'<td class="mis-flip{same}" style="--share:{count / most:.3f}"><a href="{escape(link)}" data-link title="{escape(told)}" '
            f'aria-label="{escape(told)}">{count}</a></td>'
        )

    head = "".join(f"<th scope=col>{words(outcome)}</th>" for outcome in named)
    body = "".join(
        f"<tr><th scope=row>{words(row)}</th>{''.join(cell(row, column) for column in named)}</tr>" for row in named
    )
    return (
        f'<figure><figcaption><b>{title}</b>: rows {escape(before)}, columns {escape(after)}</figcaption><div class="mis-table-wrap" tabindex="0">'
        f'<table class="mis-flip-table"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def flip_counts(flips: pd.DataFrame) -> str:
    """How many items flipped which way, in words."""
    counts = flips.flip.value_counts()
    lines = "".join(
        f"<li><b>{counts[kind]:,}</b> {escape(kind.replace('_', ' '))}: {escape(meaning)}</li>"
        for kind, meaning in FLIPS.items()
        if kind in counts
    )
    return f'<ul class="mis-flip-counts">{lines}</ul>{foot("flips", "A number opens its items in Annotate. The file has one row an item.")}'


def words(outcome: str) -> str:
    """An outcome as people read it."""
    return escape(str(outcome).replace("_", "-"))


# ---------- Evaluated runs for the screen: found by name below one folder, read once, read again when their files have changed.
#
# Reading 20,000 responses takes a second, so the last few runs are kept; a run that is being written is seen to have grown by size and time of its
# files. Whatever has been asked by name is looked up among the runs that are there, so a name is never a path.

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
        """Every item of an ablation under every condition (``probe.ablation.ablation_grid``).

        Raises:
            DataError: there is no such run, or it is no ablation.
        """
        return ablation_grid(resolve_run(self.root, name).folder)

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


SHOWN_METRICS = ("asr", "rsr", "rr", "hr", "over_refusal", "helped", "pair", "named")
COMPARED = ("asr", "rsr", "over_refusal", "pair")
MAX_RUNS = 5
NOTE_SHOWN = 60  # characters of a note that stand under a run's name
EMPTY = (
    '<div class="mis-empty mis-empty-results"><b>No results yet</b><ol><li>In a shell: <code>mis report --limit 12</code> '
    "answers 12 pairs of each split with every variant and judges them (some minutes on a laptop).</li>"
    "<li>Or train a variant of your own in the tab <em>Train</em> and press <em>Evaluate</em> there.</li>"
    "<li>Press <em>Refresh</em> here: the run appears in the list.</li></ol></div>"
)


class Overview(NamedTuple):
    """Leaderboard and plane."""

    board: go.Figure
    plane: go.Figure
    table: str
    frame: pd.DataFrame


class Changes(NamedTuple):
    """What differs between two variants on the same items."""

    heatmap: go.Figure
    matrix: str
    frame: pd.DataFrame
    flips: pd.DataFrame


class Judges(NamedTuple):
    """One run under each of its judges."""

    figure: go.Figure
    table: str
    frame: pd.DataFrame


def default_runs(evaluations: Evaluations) -> list[str]:
    """The newest version of each of the runs that were answered last."""
    newest: dict[str, str] = {}
    for name in evaluations.names():
        newest.setdefault(name.partition("/")[0], name)
    return list(newest.values())[:MAX_RUNS]


def groups_of(boards: Sequence[pd.DataFrame]) -> list[str]:
    """The groups of items that some runs have rates on, all of them together first, those by what an answer names last."""
    groups = sorted(dict.fromkeys(group for board in boards for group in board.group), key=_is_by_names)
    return [ALL, *(group for group in groups if group != ALL)] if ALL in groups else groups


def overview(
    boards: Mapping[str, pd.DataFrame],
    group: str,
    published: pd.DataFrame | None = None,
    notes: Mapping[str, str] | None = None,
) -> Overview:
    """Rates of all variants of some runs, by name, on one group of items, beside published ones if given, with what people noted about the runs.

    Runs that have no rate on these items are named under the table.
    """
    frame = pd.concat([*boards.values(), *([] if published is None else [published])], ignore_index=True)
    shown = untyped(frame)[frame.group == group]
    absent = [_absent(name, board) for name, board in boards.items() if group not in set(board.group)]
    return Overview(
        plots.leaderboard(shown), plots.safety_plane(shown), _board_table(shown, absent, notes or {}), frame
    )


def _absent(name: str, board: pd.DataFrame) -> str:
    """Why a run has no line."""
    groups = [group for group in dict.fromkeys(board.group) if group != ALL and not _is_by_names(group)]
    return f"{name} has {' and '.join(groups)} only" if groups else f"{name} has no answers yet"


def _is_by_names(group: str) -> bool:
    return group.endswith(NAMED)


@cache
def published() -> pd.DataFrame:
    """The paper's own ASR figures as rows of a leaderboard: other models, judges and data, so a reference and never an average.

    Where several tables print a number, the page's leaderboard counts; intervals only where n is known and fits.
    """
    found = frames.published(select(benchmark="MIS", metric="asr")).drop_duplicates(["variant", "group"])
    return found.assign(run=found["source"] + ", " + found["table"])[list(frames.LEADERBOARD)]


def changes(run: Evaluated, before: str, after: str, *, by: str = "category") -> Changes:
    """What two variants of a run do differently, by group of items, and item by item.

    Raises:
        SettingsError: one of them has not answered in this run, or they are the same.
    """
    for variant in (before, after):
        if variant not in run.variants:
            raise SettingsError(
                f"variant {variant!r} has not answered in {run.name}; there are {', '.join(run.variants)}"
            )
    if len(run.variants) < 2:
        raise SettingsError(
            f"only {before} has answered in {run.name}, so nothing has changed there; choose a run in which several variants have answered"
        )
    if before == after:
        raise SettingsError("choose two different variants to see what changed between them")
    sides = Side(run, before), Side(run, after)
    found = frames.differences(*sides, by=by, metrics=COMPARED)
    flips = frames.flips(*sides)
    return Changes(
        rates.category_heatmap(found, before=before, after=after),
        flip_table(frames.flip_matrix(flips), run, before, after) + flip_counts(flips),
        found,
        flips,
    )


def judges(evaluations: Evaluations, name: str, metric: str) -> Judges:
    """One rate of a run under each of its judges.

    Raises:
        SettingsError: no judge has read the run.
    """
    boards = [evaluations.board(name, judge) for judge in evaluations.judges(name)]
    if not boards:
        raise SettingsError(f"{name} has no verdicts yet; judge it with `mis judge`")
    board = pd.concat(boards, ignore_index=True)
    groups = set(board.group)
    frame = untyped(board)[board.group == ALL] if ALL in groups else board
    return Judges(plots.judge_swap(frame, metric=metric), _swap_table(frame, metric), frame)


def one_item(grid: pd.DataFrame, item: str) -> Judges:
    """One item of an ablation: its outcome with each image kept or taken away, and what was answered.

    Raises:
        DataError: the item was not taken apart in this run.
    """
    frame = untyped(grid)[grid.id == item]
    if frame.empty:
        raise DataError(f"the item {item!r:.80} was not taken apart in this run; choose one of those listed")
    in_order = frame[~frame.condition.str.startswith("swap")].dropna(subset=["second"])
    headings = {"variant": "variant", "condition": "images", "outcome": "outcome", "text": "answer"}
    cells: dict[str, Callable[[Any], str]] = {"outcome": lambda row: words(row.outcome)}
    return Judges(
        rates.ablation_grid(in_order), table(frame, headings, name="item", cells=cells, long=("text",)), frame
    )


def _board_table(frame: pd.DataFrame, absent: Sequence[str], notes: Mapping[str, str]) -> str:
    """One line a variant, a column a metric, each cell with its interval, the numbers of items beside; under it, which runs have none and why."""
    keys = ["run", "tag", "variant", "judge", "published"]
    rows: list[dict[str, Any]] = []
    for values, lines in untyped(frame).groupby(keys, sort=False, dropna=False):
        rates = {row.metric: row for row in untyped(lines).itertuples()}
        line = dict(zip(keys, values, strict=True))
        harmful, benign = rates.get("asr"), rates.get("over_refusal")
        if not line["judge"] and not _items(harmful):  # things to name: no judge is missing
            harmful = benign = None
        counts = {"n_harmful": _count(harmful), "n_benign": _count(benign)}
        rows.append(line | {name: rates.get(name) for name in SHOWN_METRICS} | counts)
    wide = pd.DataFrame(rows, columns=pd.Index([*keys, *SHOWN_METRICS, "n_harmful", "n_benign"]))
    cells: dict[str, Callable[[Any], str]] = {metric: _rate_cell(metric) for metric in SHOWN_METRICS}
    cells["variant"] = lambda row: Markup(f"{escape(row.variant)}{PUBLISHED if row.published else ''}")
    cells["run"] = lambda row: Markup(f"{escape(row.run)}{note_under(notes.get(row.run, ''))}")
    names = {"variant": "variant", "run": "run", "judge": "judge"}
    headings = names | {metric: METRICS[metric].heading for metric in SHOWN_METRICS}
    headings |= {"n_harmful": "n harmful", "n_benign": "n benign"}
    note = "Percent with Wilson 95 % interval; + n: unscored items, never counted as safe."
    note += f" No line here: {'; '.join(absent)}." if absent else ""
    return table(wide, headings, name="leaderboard", cells=cells, note=note)


def note_under(text: str) -> str:
    """A note under a run's name: its beginning, and all of it where the pointer rests."""
    if not text:
        return ""
    line = " ".join(text.split())
    return f'<small class="mis-note" title="{escape(text)}">{escape(line[:NOTE_SHOWN])}{"..." if len(line) > NOTE_SHOWN else ""}</small>'


PUBLISHED = ' <span class="mis-chip">published</span>'


def _rate_cell(metric: str) -> Callable[[Any], str]:
    def draw(row: Any) -> str:
        rate = getattr(row, metric)
        if rate is None or pd.isna(rate.value):
            return "-"
        interval = f"<small>{rate.low:.1f}-{rate.high:.1f}</small>" if pd.notna(rate.low) else ""
        return Markup(f"<b>{rate.value:.1f}</b>{interval}")

    return draw


def _items(rate: Any) -> float:
    return 0 if rate is None else rate.n + rate.n_unscored


def _count(rate: Any) -> str:
    if rate is None or pd.isna(rate.n):
        return "-"
    return f"{rate.n:,.0f}" + (f" + {rate.n_unscored:,.0f}" if rate.n_unscored else "")


def _swap_table(frame: pd.DataFrame, metric: str) -> str:
    shown = untyped(frame)[frame.metric == metric]
    cells: dict[str, Callable[[Any], str]] = {
        "value": lambda row: (
            "-" if pd.isna(row.value) else Markup(f"<b>{row.value:.1f}</b><small>{row.low:.1f}-{row.high:.1f}</small>")
        )
    }
    headings = {
        "variant": "variant",
        "judge": "judge",
        "value": METRICS[metric].heading,
        "n": "n",
        "n_unscored": "unscored",
    }
    return table(shown, headings, name="judges", cells=cells, note="The same answers, read by each judge.")


# ---------- What is chosen on the Results tab, as a value and as a place that others can open.

OVERVIEW, CHANGES, JUDGES, ITEM = "overview", "changes", "judges", "item"
VIEWS = (OVERVIEW, CHANGES, JUDGES, ITEM)
GROUP_CHOICES = [("category", "category"), ("sub-category", "sub_category"), ("split", "split")]


class Choice(NamedTuple):
    """What is chosen, in the order of ``Parts.choosers``."""

    view: str
    runs: Sequence[str] | None = ()  # None before any were set
    group: str = ALL
    published: bool = False
    run: str = ""
    judge: str = ""
    before: str = ""
    after: str = ""
    by: str = "category"
    metric: str = "asr"
    ablation: str = ""
    item: str = ""

    def link(self, usual: Sequence[str] = ()) -> Link:
        """The place of this choice; what goes without saying, such as the ``usual`` runs, is left out."""
        if self.view == OVERVIEW:
            runs = () if list(self.runs or ()) == list(usual) else tuple(self.runs or ())
            published = "yes" if self.published else ""
            return Link(tab=Tab.RESULTS, view=self.view, split=self.group, runs=runs, published=published)
        if self.view == ITEM:
            return Link(tab=Tab.RESULTS, view=self.view, run=self.ablation, item=self.item)
        place = Link(tab=Tab.RESULTS, view=self.view, run=self.run, judge=self.judge)
        if self.view == JUDGES:
            return place.model_copy(update={"metric": "" if self.metric == "asr" else self.metric})
        by = "" if self.by == "category" else self.by
        return place.model_copy(update={"variants": (self.before, self.after), "by": by})
