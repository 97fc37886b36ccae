"""Published numbers, shown next to one's own and never mixed with them: what MIS's paper, page and reviews print.

``published.csv`` holds one printed number a row with its source, table, judge and n. Numbers stand as printed; what is
wrong with one says ``flag``, why says ``note``, and ``corrected`` holds the number that another version of the same
table gives. Rows of the MIS table whose four rates do not sum to 100, and numbers that no k of n gives, are not marked
by hand but found. Judge, prompts and data differ from one's own: they are a reference, not a baseline. Sources: arXiv
2501.18533 (v1 and v3, the ICLR 2026 text), its project page, its OpenReview thread.
"""

import csv
import importlib.resources
from collections.abc import Iterable, Sequence
from functools import cache

from pydantic import field_validator

from mis_lib.results.stats import Rate, rate
from mis_lib.results.tables import Table
from mis_lib.schema import Record

FILE = "results/published.csv"
MIS_RATES = ("asr", "rsr", "rr", "hr")
ROUNDING = 0.02
"""Points by which four rates of two digits after the point may miss 100 by rounding alone."""
NOT_100 = "row does not sum to 100"


class Published(Record):
    """One printed number, in percent."""

    model: str
    method: str
    """"base" or how it was tuned or prompted."""
    benchmark: str
    split: str
    metric: str
    value: float
    decimals: int = 2
    """Printed digits after the point."""
    corrected: float | None
    n: int | None
    """Items, as the benchmark has them; ``flag`` says where the number contradicts it."""
    general_share: float | None
    """Percent of general data in training, where the table says it."""
    judge: str
    source: str
    table: str
    flag: str
    """What is wrong with the number; empty if nothing is known to be."""
    note: str

    @field_validator("corrected", "n", "general_share", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def label(self) -> str:
        """Model and method as tables name them."""
        return self.model if self.method == "base" else f"{self.model} + {self.method}"

    @property
    def rate(self) -> Rate:
        """The printed value with the Wilson interval of its n; no interval without n, or where no k of n gives it."""
        if self.n and self.fits:
            return rate(self._nearest, self.n).model_copy(update={"value": self.value})
        return Rate(value=self.value, n=self.n or 0, low=0.0, high=100.0)

    @property
    def fits(self) -> bool:
        """Whether some k of n is within one unit of the last printed digit: tables round, cut off, and round twice."""
        return not self.n or abs(100 * self._nearest / self.n - self.value) < 1.01 * 10**-self.decimals

    @property
    def _nearest(self) -> int:
        return round(self.value * (self.n or 0) / 100)


@cache
def published() -> tuple[Published, ...]:
    """Every number, in the order of the file, with the flags that follow from the row sums."""
    text = importlib.resources.files("mis_lib").joinpath(FILE).read_text(encoding="utf-8")
    rows = [_read(row) for row in csv.DictReader(text.splitlines())]
    sums = row_sums(rows)
    return tuple(_flagged(row, sums.get(_row(row))) for row in rows)


def row_sums(rows: Iterable[Published]) -> dict[tuple[str, ...], float]:
    """Sum of the four MIS rates of each row that prints all four, as printed."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        if row.benchmark == "MIS" and row.metric in MIS_RATES:
            groups.setdefault(_row(row), {})[row.metric] = row.value
    return {key: round(sum(found.values()), 2) for key, found in groups.items() if len(found) == len(MIS_RATES)}


def select(
    *, benchmark: str | None = None, split: str | None = None, metric: str | None = None, model: str | None = None
) -> list[Published]:
    """The numbers that fit all that is given; ``model`` fits any part of the name."""
    return [
        row
        for row in published()
        if (benchmark is None or row.benchmark == benchmark)
        and (split is None or row.split == split)
        and (metric is None or row.metric == metric)
        and (model is None or model.lower() in row.label.lower())
    ]


def reference_table(rows: Sequence[Published]) -> Table:
    """The published numbers as a separate table: a line for each row of a printed table, a column for each metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, ...], dict[str, Published]] = {}
    for row in rows:
        lines.setdefault((row.benchmark, *_row(row), row.judge), {})[row.metric] = row
    return Table(
        "published",
        "Published reference: other models, judges and prompts, not comparable with one's own figures",
        ("benchmark", "model", *metrics, "n", "source, judge, remarks"),
        [_line(found, metrics) for _, found in sorted(lines.items(), key=lambda line: line[0][0])],
        [row.model_dump() for row in rows],
        "percent as printed; what is known to be wrong with a number stands beside it",
    )


def _line(found: dict[str, Published], metrics: Sequence[str]) -> list[str]:
    one = next(iter(found.values()))
    remarks = dict.fromkeys(part for row in found.values() for part in (row.flag, row.note) if part)
    corrected = [f"{row.metric} corrected: {row.corrected:g}" for row in found.values() if row.corrected is not None]
    return [
        f"{one.benchmark} {one.split}".strip(),
        one.label,
        *(f"{found[name].value:.{found[name].decimals}f}" if name in found else "-" for name in metrics),
        "-" if one.n is None else f"{one.n:,}",
        "; ".join([", ".join(filter(None, (one.source, one.table, f"judge {one.judge}"))), *remarks, *corrected]),
    ]


def _row(row: Published) -> tuple[str, ...]:
    return (row.split, row.source, row.table, row.label)


def _read(row: dict[str, str]) -> Published:
    return Published.model_validate({**row, "decimals": len(row["value"].partition(".")[2])})


def _flagged(row: Published, total: float | None) -> Published:
    """The number with the flags that arithmetic gives it, before those of the file."""
    off = row.metric in MIS_RATES and total is not None and abs(total - 100) >= ROUNDING - 1e-9
    found = [f"{NOT_100} ({total:g})"] if off else []
    if not row.fits and not row.flag:
        found.append(f"no k of {row.n:,} gives it")
    return row.model_copy(update={"flag": "; ".join([*found, *filter(None, [row.flag])])})
