"""The views of the Results tab, pure: what is chosen, and from frames of rates to figures and HTML.

Each view also returns the frame that it was drawn from, so that a download holds what was shown.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from mis_lib.errors import DataError, SettingsError
from mis_lib.results import frames
from mis_lib.results.evaluated import Evaluated
from mis_lib.results.figures import rates as figures
from mis_lib.results.figures.style import untyped
from mis_lib.results.metrics import ALL, METRICS, NAMED
from mis_lib.results.paired import FLIPS, Side
from mis_lib.results.published import select
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome
from workbench.html import Cell, macros, render, table, words
from workbench.links import Link, Tab

OVERVIEW, CHANGES, JUDGES, ITEM = "overview", "changes", "judges", "item"
VIEWS = (OVERVIEW, CHANGES, JUDGES, ITEM)
GROUP_CHOICES = [("category", "category"), ("sub-category", "sub_category"), ("split", "split")]
SHOWN = ("asr", "rsr", "sound", "rr", "hr", "over_refusal", "helped", "pair", "named")  # metrics of the leaderboard
COMPARED = ("asr", "rsr", "over_refusal", "pair")  # metrics of two variants
NOTE_SHOWN = 60  # characters of a note under a run's name


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

    @classmethod
    def of(cls, link: Link) -> "Choice":
        """What an address says."""
        before, after = (*link.variants, "", "")[:2]
        return cls(
            link.view or (CHANGES if link.variants else OVERVIEW),
            runs=link.runs,
            group=link.split,
            published=bool(link.published),
            run="" if link.view == ITEM else link.run,
            judge=link.judge,
            before=before,
            after=after,
            by=link.by or "category",
            metric=link.metric or "asr",
            ablation=link.run if link.view == ITEM else "",
            item=link.item if link.view == ITEM else "",
        )

    def link(self, defaults: Sequence[str] = ()) -> Link:
        """The address of this choice; defaults, such as the runs ``defaults``, are left out."""
        if self.view == OVERVIEW:
            runs = () if list(self.runs or ()) == list(defaults) else tuple(self.runs or ())
            published = "yes" if self.published else ""
            return Link(tab=Tab.RESULTS, view=self.view, split=self.group, runs=runs, published=published)
        if self.view == ITEM:
            return Link(tab=Tab.RESULTS, view=self.view, run=self.ablation, item=self.item)
        place = Link(tab=Tab.RESULTS, view=self.view, run=self.run, judge=self.judge)
        if self.view == JUDGES:
            return place.model_copy(update={"metric": "" if self.metric == "asr" else self.metric})
        by = "" if self.by == "category" else self.by
        return place.model_copy(update={"variants": (self.before, self.after), "by": by})


class Overview(NamedTuple):
    """Leaderboard and plane."""

    board: go.Figure
    plane: go.Figure
    table: Markup
    frame: pd.DataFrame


class Changes(NamedTuple):
    """What differs between two variants on the same items."""

    heatmap: go.Figure
    flips: Markup
    frame: pd.DataFrame


class Panel(NamedTuple):
    """A figure with its table."""

    figure: go.Figure
    table: Markup
    frame: pd.DataFrame


def empty(what: str) -> Markup:
    """How to get something to show, if there are no "results", no "run" is chosen or no "item" was ablated."""
    return _macros().empty(what)


def groups_of(boards: Sequence[pd.DataFrame]) -> list[str]:
    """The groups of items that runs have rates on: all items first, those by what an answer names last."""
    groups = sorted(dict.fromkeys(group for board in boards for group in board.group), key=_is_by_names)
    return [ALL, *(group for group in groups if group != ALL)] if ALL in groups else groups


def overview(
    boards: Mapping[str, pd.DataFrame],
    group: str,
    published: pd.DataFrame | None = None,
    notes: Mapping[str, str] | None = None,
    on_items: Sequence[str] = (),
) -> Overview:
    """Rates of all variants of some runs, by name, on one group of items.

    Runs that have no rate on these items are named under the table.

    Args:
        boards: rates by run, as ``Evaluations.boards`` returns them.
        group: of items.
        published: rates to show next to them, marked as such.
        notes: what people noted about runs.
        on_items: which items were asked or are left out, each in a sentence.
    """
    frame = pd.concat([*boards.values(), *([] if published is None else [published])], ignore_index=True)
    shown = untyped(frame)[frame.group == group]
    absent = [_absent(name, board) for name, board in boards.items() if group not in set(board.group)]
    rows = _board_table(shown, absent, notes or {}, on_items)
    return Overview(figures.leaderboard(shown), figures.safety_plane(shown), rows, frame)


@cache
def published() -> pd.DataFrame:
    """The paper's own ASR figures as rows of a leaderboard, for reference: models, judges and data are other ones.

    Of several tables that print a number, the leaderboard of the paper's page counts. Intervals are given only where n
    is known and fits.
    """
    found = frames.published(select(benchmark="MIS", metric="asr")).drop_duplicates(["variant", "group"])
    return found.assign(run=found["source"] + ", " + found["table"])[list(frames.LEADERBOARD)]


def changes(run: Evaluated, before: str, after: str, *, by: str = "category", left_out: int = 0) -> Changes:
    """What two variants of a run do differently, by group of items, and item by item (``frame``).

    ``left_out`` items that one was trained on are not in the run.

    Raises:
        SettingsError: one of them has not answered in this run, or they are the same.
    """
    for variant in (before, after):
        if variant not in run.variants:
            there = ", ".join(run.variants)
            raise SettingsError(f"variant {variant!r} has not answered in {run.name}; there are {there}")
    if len(run.variants) < 2:
        raise SettingsError(
            f"only {before} has answered in {run.name}, so nothing has changed there; "
            "choose a run in which several variants have answered"
        )
    if before == after:
        raise SettingsError("choose two different variants to see what changed between them")
    sides = Side(run, before), Side(run, after)
    found = frames.differences(*sides, by=by, metrics=COMPARED)
    flips = frames.flips(*sides)
    heatmap = figures.category_heatmap(found, before=before, after=after)
    return Changes(heatmap, _flip_tables(flips, run, before, after, without(left_out)), flips)


def without(left_out: int) -> str:
    """The sentence on items that are left out; empty without any."""
    return f"Without {left_out:,} items that a variant shown was trained on." if left_out else ""


def judges(name: str, boards: Sequence[pd.DataFrame], metric: str, *, left_out: int = 0) -> Panel:
    """One rate of the run ``name`` under each of its judges, whose rates are ``boards``.

    Raises:
        SettingsError: no judge has read the run.
    """
    if not boards:
        raise SettingsError(f"{name} has no verdicts yet; judge it with `mis judge`")
    board = pd.concat(boards, ignore_index=True)
    frame = untyped(board)[board.group == ALL] if ALL in set(board.group) else board
    headings = {"variant": "variant", "judge": "judge", "value": METRICS[metric].heading}
    headings |= {"n": "n", "n_unscored": "unscored"}
    rows = table(
        untyped(frame)[frame.metric == metric],
        headings,
        name="judges",
        cells={"value": _rate},
        note=f"The same answers, read by each judge. {without(left_out)}".strip(),
    )
    return Panel(figures.judge_swap(frame, metric=metric), rows, frame)


def one_item(grid: pd.DataFrame, item: str) -> Panel:
    """One item of an ablation: its outcome with each image kept or taken away, and what was answered.

    Raises:
        DataError: this run did not ablate the item.
    """
    frame = untyped(grid)[grid.id == item]
    if frame.empty:
        raise DataError(f"the item {item!r:.80} has no ablation in this run; choose one of those listed")
    in_order = frame[~frame.condition.str.startswith("swap")].dropna(subset=["second"])
    headings = {"variant": "variant", "condition": "images", "outcome": "outcome", "text": "answer"}
    cells: dict[str, Cell] = {"outcome": lambda row: words(row.outcome)}
    rows = table(frame, headings, name="item", cells=cells, long=("text",))
    return Panel(figures.ablation_grid(in_order), rows, frame)


def run_cell(name: str, note: str) -> Markup:
    """A run's name with the beginning of its note; the whole note is the tooltip."""
    line = " ".join(note.split())
    return _macros().run(name, note, line, NOTE_SHOWN)


def _macros() -> Any:
    return macros("results/parts.html")


def _absent(name: str, board: pd.DataFrame) -> str:
    """Why a run has no line."""
    groups = [group for group in dict.fromkeys(board.group) if group != ALL and not _is_by_names(group)]
    return f"{name} has {' and '.join(groups)} only" if groups else f"{name} has no answers yet"


def _is_by_names(group: str) -> bool:
    return group.endswith(NAMED)


def _board_table(
    frame: pd.DataFrame, absent: Sequence[str], notes: Mapping[str, str], on_items: Sequence[str]
) -> Markup:
    """One line a variant: rates with intervals, and numbers of items; below, which runs have none and why."""
    keys = ["run", "tag", "variant", "judge", "published"]
    rows: list[dict[str, Any]] = []
    for values, lines in untyped(frame).groupby(keys, sort=False, dropna=False):
        rates = {row.metric: row for row in untyped(lines).itertuples()}
        line = dict(zip(keys, values, strict=True))
        harmful, benign = rates.get("asr"), rates.get("over_refusal")
        if not line["judge"] and not _items(harmful):  # it only has things to name: no judge is missing
            harmful = benign = None
        counts = {"n_harmful": _count(harmful), "n_benign": _count(benign)}
        rows.append(line | {name: rates.get(name) for name in SHOWN} | counts)
    wide = pd.DataFrame(rows, columns=pd.Index([*keys, *SHOWN, "n_harmful", "n_benign"]))
    headings = {"variant": "variant", "run": "run", "judge": "judge"}
    headings |= {metric: METRICS[metric].heading for metric in SHOWN}
    headings |= {"n_harmful": "n harmful", "n_benign": "n benign"}
    cells: dict[str, Cell] = {metric: _rate_in(metric) for metric in SHOWN}
    cells["variant"] = lambda row: _macros().variant(row.variant, row.published)
    cells["run"] = lambda row: run_cell(row.run, notes.get(row.run, ""))
    note = "Percent with Wilson 95 % interval; + n: unscored items, never counted as safe."
    note += "".join(f" {line}" for line in on_items)
    note += f" No line here: {'; '.join(absent)}." if absent else ""
    return table(wide, headings, name="leaderboard", cells=cells, note=note)


def _rate_in(column: str) -> Callable[[Any], Markup | str]:
    return lambda row: _rate(getattr(row, column))


def _rate(rate: Any) -> Markup | str:
    """A rate and its interval; anything with ``value``, ``low`` and ``high``, or None."""
    if rate is None or pd.isna(rate.value):
        return "-"
    return _macros().rate(rate, pd.notna(rate.low))


def _items(rate: Any) -> float:
    return 0 if rate is None else rate.n + rate.n_unscored


def _count(rate: Any) -> str:
    if rate is None or pd.isna(rate.n):
        return "-"
    return f"{rate.n:,.0f}" + (f" + {rate.n_unscored:,.0f}" if rate.n_unscored else "")


class _Matrix(NamedTuple):
    """Outcomes of one variant (rows) against those of another: how many items, and links to them."""

    title: str
    outcomes: list[Outcome]
    counts: dict[tuple[str, str], int]
    links: dict[tuple[str, str], str]

    @property
    def most(self) -> int:
        """The largest count."""
        return max(self.counts.values())


def _flip_tables(flips: pd.DataFrame, run: Evaluated, before: str, after: str, note: str) -> Markup:
    """Outcomes of one variant against those of the other, for harmful and benign items, and how many flipped how."""
    found = untyped(frames.flip_matrix(flips))
    kinds = (("harmful items", HARMFUL_OUTCOMES, True), ("benign items", BENIGN_OUTCOMES, False))
    matrices = [
        _matrix(found[found.harmful == harmful], title, outcomes, run, before, after)
        for title, outcomes, harmful in kinds
        if (found.harmful == harmful).any()
    ]
    counted = flips.flip.value_counts()
    counts = [(counted[kind], kind.replace("_", " "), meaning) for kind, meaning in FLIPS.items() if kind in counted]
    return render("results/flips.html", matrices=matrices, counts=counts, before=before, after=after, note=note)


def _matrix(
    found: pd.DataFrame, title: str, outcomes: Sequence[Outcome], run: Evaluated, before: str, after: str
) -> _Matrix:
    counts = {(row.before, row.after): row.n for row in untyped(found).itertuples()}
    named = [outcome for outcome in (*outcomes, Outcome.UNSCORED) if any(outcome in pair for pair in counts)]
    place = Link(tab=Tab.ANNOTATE, run=run.name, judge=run.judge, variants=(before, after))
    links = {pair: place.model_copy(update={"before": pair[0], "after": pair[1]}).query() for pair in counts}
    return _Matrix(title, named, counts, links)
