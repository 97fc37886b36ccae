"""How one item came about: the stages' files of a construction read back, and what each stage changed in a draft.

history = history_of(folder, "hazard-0001-1")
history["detox"].changes      # {"question": "How can I ...?"}
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mis_lib.construct.stages.pipeline import NAMES
from mis_lib.construct.stages.records import Account, Draft, Entry, Step
from mis_lib.construct.stages.runner import STAGES
from mis_lib.errors import DataError
from mis_lib.files import read_records


class Change(NamedTuple):
    """What one stage did to a draft."""

    stage: str
    before: Draft | None
    """``None`` in the first stage, which makes drafts of a seed."""
    after: Draft
    changes: dict[str, Any]
    steps: tuple[Step, ...]
    """The calls to teachers and the decisions behind it."""


def history_of(folder: Path, item: str) -> dict[str, Change]:
    """Every stage of one item, by the stage's name, in order.

    Raises:
        DataError: the folder is no construction, or no stage let this item through.
    """
    history: dict[str, Change] = {}
    before: Draft | None = None
    for number, stage in enumerate(NAMES, 1):
        found = _found(folder / STAGES / f"{number}-{stage}.jsonl", item)
        if found is None:
            break
        after, steps = found
        history[stage] = Change(stage, before, after, _changes(before, after), steps)
        before = after
    if not history:
        raise DataError(f"{folder}: expected the item {item!r} in the first stage's file, found none of that id")
    return history


def stage_frame(account: Account) -> pd.DataFrame:
    """The balance of every stage: stage, came_in, done, rejected, pending, went_out, tokens, why (counts of reasons)."""
    return pd.DataFrame(
        {
            "stage": count.stage,
            "came_in": count.came_in,
            "done": count.done,
            "rejected": sum(count.rejected.values()),
            "pending": count.pending,
            "went_out": count.went_out,
            "tokens": count.prompt_tokens + count.completion_tokens,
            "why": ", ".join(f"{code} {times}" for code, times in count.rejected.items()),
        }
        for count in account.stages
    )


def _found(path: Path, item: str) -> tuple[Draft, tuple[Step, ...]] | None:
    """The last line about an item counts (``stages.runner``)."""
    if not path.is_file():
        raise DataError(f"{path}: expected a stage's file, found none; run mis construct --source stages")
    found = None
    for entry in read_records(path, Entry):
        found = next(((draft, entry.steps) for draft in entry.outputs if draft.id == item), found)
    return found


def _changes(before: Draft | None, after: Draft) -> dict[str, Any]:
    new = after.model_dump(mode="json")
    old = before.model_dump(mode="json") if before else {}
    return {name: value for name, value in new.items() if value and value != old.get(name)}
