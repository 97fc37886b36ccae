"""The mini study: rates of every mixture side by side, and where they agree with what the papers found.

Agreement is computed, never written down: a claim says which of two mixtures should have the lower or higher rate, the
interval of the difference between ours decides. An interval that lies on the claimed side agrees, one that excludes it
disagrees, any other is undecided: too few items, not a refutation. Intervals of differences are Newcombe's, made of the
two Wilson intervals; they do not collapse near 0 and 100, and as all mixtures answer the same items they are on the
safe side.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from mis_lib.results.stats import LEVEL, Interval, Rate
from mis_lib.results.tables import pipe_table
from mis_lib.schema import Record

BASE = "base"
HARD, LEFT_OUT, FORMATTED, NAMING = "hard", "left_out", "formatted", "naming"
MARGIN = 10.0
"""Percent points within which two rates count as about the same."""
SHOWN = ("asr", "rsr", "over_refusal", "pair", "named")

Expected = Literal["lower", "higher", "same", "not_lower", "open"]


class Agreement(StrEnum):
    """What the interval of a difference says of a claim."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    OPEN = "no published figure"


class Claim(Record):
    """``after`` has a lower (higher, about the same) rate than ``before``, says a paper."""

    text: str
    source: str
    before: str
    after: str
    metric: str
    expected: Expected
    group: str = HARD


def _claim(
    text: str, source: str, before: str, after: str, metric: str, expected: Expected, group: str = HARD
) -> Claim:
    return Claim(text=text, source=source, before=before, after=after, metric=metric, expected=expected, group=group)


CLAIMS = (
    _claim("MIRage lowers attack success", "figure 4: 84.5 to 0.2 %", BASE, "mirage", "asr", "lower"),
    _claim("MIRage answers by reasoning", "figure 4: RSR 14.1 to 99.8 %", BASE, "mirage", "rsr", "higher"),
    _claim("Textual SFT lowers attack success", "figure 4: 84.5 to 54.3 %", BASE, "textual", "asr", "lower"),
    _claim("MIRage lowers it further than Textual SFT", "figure 4: 54.3 to 0.2 %", "textual", "mirage", "asr", "lower"),
    _claim("VLGuard-R lowers attack success", "figure 4: 84.5 to 9.0 %", BASE, "vlguard_r", "asr", "lower"),
    _claim("MIRage lowers it further than VLGuard-R", "figure 4: 9.0 to 0.2 %", "vlguard_r", "mirage", "asr", "lower"),
    _claim("Plain refusals lower attack success as far as reasoning", "table 12: 0.0 and 0.2 %",
           "mirage", "refusal", "asr", "same"),
    _claim("Plain refusals cost help on harmless images", "table 11: MSS-safe 87.7 to 43.7 %",
           "mirage", "refusal", "over_refusal", "higher"),
    _claim("MIRage makes harmless requests be refused more often", "MOSSBench: 5.7 to 20.3 %",
           BASE, "mirage", "over_refusal", "higher"),
    _claim("Textual SFT makes harmless requests be refused more often", "MOSSBench: 5.7 to 26.7 %",
           BASE, "textual", "over_refusal", "higher"),
    _claim("MIRage keeps general ability", "table 6: mean 60.5 to 61.3 %",
           BASE, "mirage", "named", "not_lower", NAMING),
    _claim("General data help general ability", "table 6: mean 60.5 (MIRage*) to 61.3 %",
           "mirage_star", "mirage", "named", "higher", NAMING),
    _claim("Categories left out of training are made safe too", "figure 5: 69.0 to 0.0 %",
           BASE, "held_out", "asr", "lower", LEFT_OUT),
    _claim("... as far as if they had been trained on", "figure 5: 0.0 and 0.0 %",
           "mirage", "held_out", "asr", "same", LEFT_OUT),
    _claim("Refusing harmless prompts lowers attack success", "arXiv 2504.10000",
           BASE, "benign_refusal", "asr", "lower"),
    _claim("... as far as data about harm", "arXiv 2504.10000", "mirage", "benign_refusal", "asr", "same"),
    _claim("Safety rows in the user's format lower attack success there", "arXiv 2406.10288",
           BASE, "mimic", "asr", "lower", FORMATTED),
    _claim("DPO makes safer than fine-tuning on the preferred answers", "arXiv 2412.00074",
           "mirage", "dpo", "asr", "lower"),
    _claim("Two images apart against one picture of both: attack success", "asked for by reviewers",
           "single", "mirage", "asr", "open"),
    _claim("Reasoning against refusal for the same rows and twins: pair score", "asked for by reviewers",
           "refusal", "mirage", "pair", "open"),
)  # fmt: skip
"""What the papers found, as comparisons that a study can make.

Source: arXiv 2501.18533 where no other is named, InternVL2.5-8B on MIS-hard.
"""


class Entry(Record):
    """One rate of one mixture on one group of items; ``rows`` were trained on."""

    arm: str
    recipe: str
    rows: int
    group: str
    metric: str
    rate: Rate


class ClaimResult(Record):
    """A claim, the difference found (after less before, percent points) and what it says."""

    claim: Claim
    before: Rate | None
    after: Rate | None
    difference: Interval
    agreement: Agreement


def frame(entries: Iterable[Entry]) -> pd.DataFrame:
    """One row a rate: arm, recipe, rows, group, metric, value, low, high, n, n_unscored; percent."""
    columns = ["arm", "recipe", "rows", "group", "metric", "value", "low", "high", "n", "n_unscored"]
    rows = [{**entry.model_dump(exclude={"rate"}), **entry.rate.model_dump()} for entry in entries]
    return pd.DataFrame(rows, columns=columns)


def size_curve(entries: Iterable[Entry], *, group: str = HARD) -> pd.DataFrame:
    """How rates change with the number of training rows (base: 0): rows, metric, value, low, high, n."""
    found: Any = frame(entries)
    sized = found[(found["recipe"].isin(["mirage", BASE])) & (found["group"] == group) & found["metric"].isin(SHOWN)]
    columns = ["rows", "metric", "value", "low", "high", "n"]
    return sized[columns].sort_values(["metric", "rows"], ignore_index=True)


def findings(entries: Iterable[Entry], claims: Sequence[Claim] = CLAIMS) -> list[ClaimResult]:
    """Every claim against what was measured; claims about mixtures that were not run say so."""
    rates = {(entry.arm, entry.group, entry.metric): entry.rate for entry in entries}
    return [_find(claim, rates) for claim in claims]


def difference(before: Rate, after: Rate) -> Interval:
    """After less before in percent points with Newcombe's interval (1998, method 10)."""
    if before.value is None or after.value is None:
        return Interval(value=None, low=None, high=None)
    bounds = confint_proportions_2indep(after.hits, after.n, before.hits, before.n, method="newcomb", alpha=1 - LEVEL)
    return Interval(value=after.value - before.value, low=100 * float(bounds[0]), high=100 * float(bounds[1]))


def agreement(expected: Expected, found: Interval) -> Agreement:
    """What an interval says of a claim about the sign or size of a difference."""
    if found.low is None or found.high is None:
        return Agreement.NOT_RUN
    if expected == "open":
        return Agreement.OPEN
    agrees, excluded = {
        "lower": (found.high < 0, found.low >= 0),
        "higher": (found.low > 0, found.high <= 0),
        "same": (found.low > -MARGIN and found.high < MARGIN, found.low > 0 or found.high < 0),
        "not_lower": (found.low > -MARGIN, found.high < 0),
    }[expected]
    if agrees:
        return Agreement.AGREES
    return Agreement.DISAGREES if excluded else Agreement.UNDECIDED


def in_words(finding: ClaimResult) -> str:
    """One line: the claim, what the paper has, what was found here, and the verdict."""
    claim = finding.claim
    if finding.before is None or finding.after is None or finding.difference.value is None:
        return f"{claim.text} ({claim.source}): {finding.agreement}"
    low, high = finding.difference.low or 0.0, finding.difference.high or 0.0
    return (
        f"{claim.text} ({claim.source}): {finding.agreement}; "
        f"here {claim.before} {finding.before}, {claim.after} {finding.after}, "
        f"difference {finding.difference.value:+.1f} [{low:+.1f}, {high:+.1f}], "
        f"n {finding.before.n} and {finding.after.n}"
    )


def to_markdown(entries: Sequence[Entry], found: Sequence[ClaimResult], *, title: str) -> str:
    """The study as a document: a table of rates a group, then the findings."""
    groups = dict.fromkeys(entry.group for entry in entries)
    parts = [f"# {title}", "Percent with Wilson 95 % interval and n."]
    parts += [f"## {group}\n\n{_table(entries, group)}" for group in groups]
    counts = {kind: sum(finding.agreement is kind for finding in found) for kind in Agreement}
    summary = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
    lines = "\n".join(f"- {in_words(finding)}" for finding in found)
    return "\n\n".join([*parts, f"## Against the papers\n\n{summary}.\n\n{lines}"]) + "\n"


def cells(entries: Sequence[Entry], group: str) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of one group, mixtures in the order of the study."""
    mine: Mapping[tuple[str, str], Entry] = {(e.arm, e.metric): e for e in entries if e.group == group}
    metrics = [metric for metric in SHOWN if any(key[1] == metric for key in mine)]
    arms = {arm: entry.rows for (arm, _), entry in mine.items()}
    rows = [[arm, f"{size:,}", *(_cell(mine.get((arm, metric))) for metric in metrics)] for arm, size in arms.items()]
    return ["mixture", "rows", *metrics], rows


def _table(entries: Sequence[Entry], group: str) -> str:
    return pipe_table(*cells(entries, group))


def _cell(entry: Entry | None) -> str:
    return "-" if entry is None or entry.rate.value is None else f"{entry.rate} n={entry.rate.n}"


def _find(claim: Claim, rates: Mapping[tuple[str, str, str], Rate]) -> ClaimResult:
    before, after = (rates.get((arm, claim.group, claim.metric)) for arm in (claim.before, claim.after))
    if before is None or after is None:
        nothing = Interval(value=None, low=None, high=None)
        return ClaimResult(claim=claim, before=before, after=after, difference=nothing, agreement=Agreement.NOT_RUN)
    found = difference(before, after)
    return ClaimResult(
        claim=claim, before=before, after=after, difference=found, agreement=agreement(claim.expected, found)
    )
