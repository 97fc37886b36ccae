"""The regression set: what people have decided about responses, held against the next run.

    regression.jsonl, one a line:
    {"sample_id": ..., "variant": ..., "run": ..., "outcome": ..., "failing": true, "trained_on": true,
     "judged": {JUDGE: OUTCOME}, ...}

What failed before is *fixed* or *still failing*, what was right is *still right* or *newly broken*. Before and after
are of one judge: ``judged`` holds its outcome of the annotated response. Where it has none, people's label is what was
before, and the sample is in ``by_label`` too: a person and a judge may differ on the same answer. Samples that became
training data (``trained_on``) show whether the lesson was learned, not whether it carries over: they belong in no test
figure.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.results.metrics import RIGHT
from mis_lib.schema import Outcome, Record, Verdict

REGRESSION = "regression.jsonl"


class Entry(Record):
    """One response whose outcome people agree on; ``failing`` is by their label."""

    sample_id: str
    variant: str
    run: str
    outcome: Outcome
    failing: bool
    trained_on: bool = False
    split: str = ""
    category: str | None = None
    harmful: bool = True
    causes: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    judged: dict[str, Outcome] = Field(default_factory=dict)
    """The outcome of the same response by each judge that has ruled on it."""


class Regression(Record):
    """What became of the samples of a regression set in one variant of a later run; ids, in the order of the set."""

    variant: str
    fixed: list[str]
    still_failing: list[str]
    newly_broken: list[str]
    still_right: list[str]
    unscored: list[str]
    trained_on: list[str]
    """Those of all lists that were in the training data."""
    by_label: list[str]
    """Those of all lists whose response the judge had not ruled on."""


def read_regression(path: Path) -> list[Entry]:
    """The entries of a file, or of the ``regression.jsonl`` of a folder.

    Raises:
        DataError: the file is missing or empty, or a line is wrong.
    """
    file = path / REGRESSION if path.is_dir() else path
    entries = read_records(file, Entry)
    if not entries:
        raise DataError(f"{file}: expected at least one annotated response, found none")
    return entries


def compare(entries: Sequence[Entry], verdicts: Iterable[Verdict], variant: str, judge: str) -> Regression:
    """Compare the verdicts of one judge on one variant with the set.

    A sample counts as failing if any annotated response to it failed.
    """
    found = {verdict.sample_id: verdict.outcome for verdict in verdicts if verdict.variant == variant}
    before = [(entry, entry.judged.get(judge, Outcome.UNSCORED)) for entry in entries]
    unknown = {entry.sample_id for entry, outcome in before if outcome is Outcome.UNSCORED}
    failing = {
        entry.sample_id
        for entry, outcome in before
        if (entry.failing if entry.sample_id in unknown else outcome not in RIGHT)
    }
    lists: dict[str, list[str]] = {
        name: [] for name in ("fixed", "still_failing", "newly_broken", "still_right", "unscored")
    }
    for sample_id in dict.fromkeys(entry.sample_id for entry in entries):
        lists[_became(sample_id in failing, found.get(sample_id, Outcome.UNSCORED))].append(sample_id)
    trained = list(dict.fromkeys(entry.sample_id for entry in entries if entry.trained_on))
    return Regression(variant=variant, trained_on=trained, by_label=sorted(unknown), **lists)


def _became(failed: bool, outcome: Outcome) -> str:
    if outcome is Outcome.UNSCORED:
        return "unscored"
    right = outcome in RIGHT
    return ("fixed" if right else "still_failing") if failed else ("still_right" if right else "newly_broken")
