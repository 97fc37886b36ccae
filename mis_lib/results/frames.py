"""Tidy pandas frames of what runs hold: one row an observation, columns that figures and notebooks name.

Every rate has its columns ``value, low, high`` (percent, Wilson 95 %), ``n`` and ``n_unscored``. Published rows are
marked ``published`` and never enter a number. Frames of nothing have their columns all the same.

    ev = read_run(Path("runs/report/v1"))
    leaderboard([ev])
    differences(Side(ev, "mini"), Side(ev, "mirage"), by="category")
    flip_matrix(flips(Side(ev, "mini"), Side(ev, "mirage")))
    judge_swap(Path("runs/report/v1"))
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mis_lib.results import paired
from mis_lib.results.evaluated import Evaluated, judges_of, open_folder, read_run
from mis_lib.results.metrics import METRICS, Grouping, rate_rows
from mis_lib.results.paired import PAIRED_METRICS, Side
from mis_lib.results.paired import flips as flips_of
from mis_lib.results.published import Published, select
from mis_lib.results.stats import Rate
from mis_lib.schema import Outcome

RATE = ("value", "low", "high", "n", "n_unscored")
LEADERBOARD = ("run", "tag", "variant", "judge", "group", "metric", *RATE, "worst_low", "worst_high", "published")
PUBLISHED = (*LEADERBOARD, "benchmark", "source", "table", "corrected", "flag", "note")
DIFFERENCES = (
    "group", "metric", "before", "after", "difference", "low", "high", "n", "n_unscored", "fixed", "broken",
    "p", "p_holm",
)  # fmt: skip
FLIPS = ("id", "twin_id", "split", "category", "sub_category", "harmful", "before", "after", "flip")
FLIP_MATRIX = ("before", "after", "harmful", "n", "ids")
JUDGE_SWAP = ("variant", "judge", "metric", *RATE)
ANSWERS = (
    "run", "variant", "id", "split", "category", "sub_category", "harmful", "outcome", "reason", "tokens", "words",
    "seconds", "tokens_per_second", "finish_reason", "text",
    "thought",
)  # fmt: skip


def leaderboard(runs: Sequence[Evaluated], *, by: str | Grouping = "split", total: bool = True) -> pd.DataFrame:
    """All rates of all variants of several runs; columns ``LEADERBOARD``.

    Args:
        runs: as ``evaluated.read_run`` returns them.
        by: "split", "category", "sub_category" or "seen", or a grouping such as ``slices.read_slices`` returns: what
            ``group`` holds.
        total: whether to add the group "all" where there are several.
    """
    rows = [
        {
            "run": run.name,
            "tag": run.run.config.tag,
            "variant": row.variant,
            "judge": run.judge,
            "group": row.group,
            "metric": metric,
            **_rate(found),
            "worst_low": found.worst[0],
            "worst_high": found.worst[1],
            "published": False,
        }
        for run in runs
        for row in rate_rows(run.verdicts, run.samples, run.responses, by=by, total=total)
        for metric, found in row.rates.items()
    ]
    return _frame(rows, LEADERBOARD)


def published(rows: Iterable[Published] | None = None) -> pd.DataFrame:
    """Published numbers in the columns of ``leaderboard`` and where they come from; columns ``PUBLISHED``.

    ``low`` and ``high`` are empty where n is not known or no k of n gives the number: such a number has no interval.

    Args:
        rows: as ``published.select`` returns them; those on MIS if not given.
    """
    chosen = select(benchmark="MIS") if rows is None else rows
    found = [
        {
            **row.model_dump(include={"judge", "metric", "benchmark", "source", "table", "corrected", "flag", "note"}),
            "run": "published",
            "tag": row.source,
            "variant": row.label,
            "group": row.split or row.benchmark,
            **_rate(row.rate),
            **({} if row.n and row.fits else {"low": None, "high": None}),
            "n": row.n,
            "published": True,
        }
        for row in chosen
    ]
    return _frame(found, PUBLISHED)


def differences(
    before: Side, after: Side, *, by: str = "category", metrics: Sequence[str] = PAIRED_METRICS
) -> pd.DataFrame:
    """Each metric and group, before and after on the same items, with interval and test; columns ``DIFFERENCES``.

    ``difference`` is after less before in percent points, ``low`` and ``high`` its cluster bootstrap interval, ``p``
    of the exact sign-flip test by cluster.
    """
    rows = [row.flat() for row in paired.compare(before, after, by=by, metrics=metrics)]
    return _frame(rows, DIFFERENCES)


def flips(before: Side, after: Side) -> pd.DataFrame:
    """One row for each item that both sides were asked; ``flip`` is a key of ``flips.FLIPS``; columns ``FLIPS``."""
    rows = [
        {**flip.model_dump(mode="json", exclude={"sample_id", "kind"}), "id": flip.sample_id, "flip": flip.kind}
        for flip in flips_of(before, after)
    ]
    return _frame(rows, FLIPS)


def flip_matrix(found: pd.DataFrame) -> pd.DataFrame:
    """How many items went from which outcome to which, and their ids, from ``flips``; columns ``FLIP_MATRIX``."""
    groups = found.groupby(["before", "after", "harmful"], sort=False) if len(found) else ()
    rows = [
        {"before": before, "after": after, "harmful": harmful, "n": len(items), "ids": items["id"].tolist()}
        for (before, after, harmful), items in groups
    ]
    return _frame(rows, FLIP_MATRIX)


def judge_swap(folder: Path, judges: Iterable[str] | None = None, data: Path | None = None) -> pd.DataFrame:
    """The rates of one run under each of its judges: how far the judge moves the number; columns ``JUDGE_SWAP``."""
    names = judges_of(open_folder(folder)) if judges is None else list(judges)
    board = leaderboard([read_run(folder, judge, data) for judge in names], total=True)
    groups = board.groupby(["variant", "judge"], sort=False)["group"].transform("last") if len(board) else []
    whole = board[board["group"] == groups] if len(board) else board
    judged = [name for name in METRICS if name != "named"]  # naming needs no judge
    return whole[whole["metric"].isin(judged)].reset_index(drop=True)[list(JUDGE_SWAP)]


def answers(run: Evaluated) -> pd.DataFrame:
    """One row an answer: its outcome, length and time; columns ``ANSWERS``."""
    samples = {sample.id: sample for sample in run.samples}
    verdicts = {(verdict.sample_id, verdict.variant): verdict for verdict in run.verdicts}
    rows: list[dict[str, Any]] = []
    for response in run.responses:
        sample, verdict = samples[response.sample_id], verdicts.get((response.sample_id, response.variant))
        rows.append(
            {
                "run": run.name,
                "variant": response.variant,
                **sample.model_dump(include={"id", "split", "category", "sub_category", "harmful"}),
                "outcome": str(verdict.outcome if verdict else Outcome.UNSCORED),
                "reason": verdict.reason if verdict else "no verdict",
                "tokens": response.tokens,
                "words": len(response.text.split()),
                "seconds": response.seconds,
                "tokens_per_second": response.tokens / response.seconds if response.seconds else None,
                "finish_reason": response.finish_reason,
                "text": response.text,
                "thought": response.thought,
            }
        )
    return _frame(rows, ANSWERS)


def _rate(found: Rate) -> dict[str, Any]:
    return {name: getattr(found, name) for name in RATE}


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=pd.Index(columns))
