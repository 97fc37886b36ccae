"""The Results tab's views as plain functions: names of runs and variants in, figures, HTML and frames out, nothing of Gradio.

Each view returns what is drawn and the frame that it was drawn from, so that what people download is what they saw.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from mis_lib.analysis import plot_grids
from mis_lib.analysis.plot_parts import untyped
from mis_lib.errors import DataError, SettingsError
from mis_lib.results import frames
from mis_lib.results.evaluated import Evaluated
from mis_lib.results.figures import rates as plots
from mis_lib.results.metrics import ALL, METRICS, NAMED
from mis_lib.results.paired import Side
from mis_lib.results.published import select
from workbench.evaluations import Evaluations
from workbench.flips import flip_counts, flip_table, words
from workbench.tables import table

SHOWN_METRICS = ("asr", "rsr", "rr", "hr", "over_refusal", "helped", "pair", "named")
CHANGES = ("asr", "rsr", "over_refusal", "pair")
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
    found = frames.differences(*sides, by=by, metrics=CHANGES)
    flips = frames.flips(*sides)
    return Changes(
        plot_grids.category_heatmap(found, before=before, after=after),
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
        plot_grids.ablation_grid(in_order), table(frame, headings, name="item", cells=cells, long=("text",)), frame
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
    cells["variant"] = lambda row: f"{escape(row.variant)}{PUBLISHED if row.published else ''}"
    cells["run"] = lambda row: f"{escape(row.run)}{note_under(notes.get(row.run, ''))}"
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
        return f"<b>{rate.value:.1f}</b>{interval}"

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
            "-" if pd.isna(row.value) else f"<b>{row.value:.1f}</b><small>{row.low:.1f}-{row.high:.1f}</small>"
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
