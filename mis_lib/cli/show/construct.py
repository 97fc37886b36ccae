"""How ``mis construct`` shows what it made."""

from pathlib import Path

from rich.console import Group
from rich.text import Text

from mis_lib.construct.mis_mini import Summary
from mis_lib.construct.relabel import Relabelled
from mis_lib.construct.stages.inputs import REVIEW
from mis_lib.construct.stages.pipeline import PENDING, REJECTED
from mis_lib.construct.stages.records import Account
from mis_lib.results.tables import rich_table


def summary(made: Summary, out_folder: Path) -> Group:
    """How much of what a constructed data set holds."""
    rows = [
        (name, *(f"{count:,}" for count in (split.items, split.harmful, split.benign, split.questions)))
        for name, split in made.splits.items()
    ]
    headings = ("split", "items", "harmful", "benign", "questions")
    table = rich_table(headings, rows, title=f"{out_folder} (seed {made.seed})")
    drawings = [credit.split(":")[0] for credit in made.styles.values()]  # the sets of icons are in its datasheet
    styles = Text("Drawings: " + "; ".join(drawings), style="dim")
    left_out = f"{len(made.dropped)} of {made.rows} rows left out, {len(made.not_in_real)} more of real"
    return Group(table, Text(f"{made.pictures:,} pictures; {left_out}"), styles)


def relabelled(made: Relabelled, out: Path, calls: dict[str, int]) -> Group:
    """How many rows were labelled, and how many are left out and why."""
    why = ", ".join(f"{code} {times:,}" for code, times in made.rejected.items())
    lines = [
        f"{out}: {made.rows:,} rows, of which {made.labelled:,} harmful ones have a new answer",
        f"calls paid for now: {calls['paid_now']:,}, answered from the cache: {calls['from_cache']:,}",
    ]
    if made.rejected:
        lines.append(f"{sum(made.rejected.values()):,} rows left out: {why} ({REJECTED} says why)")
    if made.pending:
        lines.append(f"{made.pending:,} rows pending ({PENDING} says why): run the same command again to go on")
    return Group(*map(Text, lines))


def balance(account: Account, out: Path, calls: dict[str, int]) -> Group:
    """The account as a table of stages and a few words."""
    headings = ("stage", "came in", "done", "rejected", "pending", "tokens", "why rejected")
    rows = []
    for count in account.stages:
        tokens = count.prompt_tokens + count.completion_tokens
        why = ", ".join(f"{code} {times}" for code, times in count.rejected.items())
        numbers = (count.came_in, count.done, sum(count.rejected.values()), count.pending, tokens)
        rows.append((count.stage, *(f"{number:,}" for number in numbers), why))
    title = f"{out}: {account.seeds} seeds, {account.drafts} drafts"
    table = rich_table(headings, rows, title=title, left=("stage", "why rejected"))
    splits = ", ".join(f"{name} {count}" for name, count in account.splits.items()) or "none"
    lines = [
        f"{account.done} items, each with its benign twin: {splits}",
        f"calls paid for now: {calls['paid_now']}, answered from the cache: {calls['from_cache']}",
    ]
    if account.unused_decisions:
        lines.append(
            f"{account.unused_decisions} decisions in {REVIEW} are about other items or images than these: "
            "kept at its end, not applied"
        )
    waiting = sum(account.pending.values())
    if waiting:
        lines.append(f"{waiting} records pending (pending.jsonl says why): run the same command again to go on")
    return Group(table, *lines)
