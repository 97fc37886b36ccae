r"""The outcomes of the shipped variants on MIS-Mini, counted: README's table of results is made of this file.

    mis report --variants mini mirage mirage_both refusal textual --batch_size 48 \
        --splits easy hard unseen real everyday
    python -m tools.outcomes runs/report/v1

Variants of which no run is named keep their rows while their weights, the data and the judge are those that were
counted. The file names the weights and the data that were counted. A test holds them to the shipped ones and README to
the counts, so that no table outlives its weights.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mis_lib.construct.elements import load_elements
from mis_lib.construct.mis_mini import DATA_VERSION, mini_data_folder
from mis_lib.errors import DataError
from mis_lib.files import digest, sha256, write_atomic
from mis_lib.judge import rule
from mis_lib.models.adapters import WEIGHTS
from mis_lib.models.mini.assemble import ADAPTERS, BASE_FILES, mini_folder
from mis_lib.results.evaluated import Evaluated, read_run
from mis_lib.results.metrics import METRICS, RateRow, rate_rows
from mis_lib.results.runs import folder_digest
from mis_lib.results.stats import rate
from mis_lib.schema import Record

OUTCOMES = Path(__file__).parents[1] / "docs/outcomes.json"
BASE = "mini"


class Count(Record):
    """The counts of one variant on one split: metric -> hits, scored items, unscored items."""

    variant: str
    split: str
    counts: dict[str, tuple[int, int, int]]


class Outcomes(Record):
    """Counts, and the weights, the data and the judge that they are of."""

    data_version: int
    table: str
    judge: str
    weights: dict[str, str]
    rows: list[Count]


def of_shipped(variants: Sequence[str]) -> dict[str, Any]:
    """Data version, digests of the element table and of the judge, and of each variant's shipped weights."""
    weights = {
        name: digest("".join(sha256(ADAPTERS / "base" / file) for file in BASE_FILES))
        if name == BASE
        else sha256(ADAPTERS / name / WEIGHTS)
        for name in variants
    }
    table = load_elements().digest
    return {"data_version": DATA_VERSION, "table": table, "judge": rule.fingerprint(), "weights": weights}


def count(runs: Sequence[Path], before: Outcomes | None = None) -> Outcomes:
    """Count what stored runs say under the rule judge; a later run replaces the rows of an earlier one.

    Rows that were counted ``before`` stay where weights, data and judge are the same still.

    Raises:
        DataError: a run was made with other weights or other data than those that are shipped.
    """
    found: dict[tuple[str, str], Count] = {}
    for folder in runs:
        run = read_run(folder, rule.JUDGE)
        _check_shipped(run)
        for row in rate_rows(run.verdicts, run.samples, run.responses, total=False):
            counts = {name: (one.hits, one.n, one.n_unscored) for name, one in row.rates.items() if one.n}
            found[row.variant, row.group] = Count(variant=row.variant, split=row.group, counts=counts)
    counted = {variant for variant, _ in found}
    kept = [row for row in _still_true(before) if row.variant not in counted] if before else []
    order = list(dict.fromkeys([*(before.weights if before else ()), *(row.variant for row in found.values())]))
    rows = sorted([*kept, *found.values()], key=lambda row: order.index(row.variant))
    return Outcomes(**of_shipped(list(dict.fromkeys(row.variant for row in rows))), rows=rows)


def _still_true(before: Outcomes) -> list[Count]:
    now = of_shipped([name for name in before.weights if name == BASE or (ADAPTERS / name / WEIGHTS).exists()])
    if now | {"weights": {}} != before.model_dump(exclude={"rows"}) | {"weights": {}}:
        return []
    return [row for row in before.rows if before.weights[row.variant] == now["weights"].get(row.variant)]


def _check_shipped(run: Evaluated) -> None:
    asked, table = run.run.config, load_elements().digest
    others = [name for name in run.variants if asked.variants[name] != _digest_of(name)]
    if others or Path(asked.checkpoint).name != mini_folder().name:
        raise DataError(
            f"{run.name}: expected the shipped weights, found others of {', '.join(others) or BASE}; ask again"
        )
    tables = {sample.provenance.get("table_sha256", table) for sample in run.samples}  # everyday pairs are of no table
    if tables != {table} or Path(asked.data).name != mini_data_folder().name:
        raise DataError(f"{run.name}: expected MIS-Mini as it is now, found {asked.data}; ask again")


def _digest_of(variant: str) -> str:
    """As a run's configuration names an adapter; the base has none."""
    return "" if variant == BASE else folder_digest(ADAPTERS / variant)


def stored() -> Outcomes:
    """What is counted in the repository."""
    return Outcomes.model_validate_json(OUTCOMES.read_text(encoding="utf-8"))


def rate_table(outcomes: Outcomes) -> list[RateRow]:
    """The counts as rates with their intervals, split by split."""
    splits = dict.fromkeys(row.split for row in outcomes.rows)
    ordered = [row for split in splits for row in outcomes.rows if row.split == split]
    return [
        RateRow(
            variant=row.variant,
            group=row.split,
            rates={name: rate(*row.counts[name]) for name in METRICS if name in row.counts},
        )
        for row in ordered
    ]


def main() -> None:
    """Count the runs that are named and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    found = count(parser.parse_args().runs, stored()).model_dump(mode="json")
    rows = ",\n".join(f"  {json.dumps(row)}" for row in found.pop("rows"))
    head = json.dumps(found, indent=1).removesuffix("\n}")
    write_atomic(OUTCOMES, f'{head},\n "rows": [\n{rows}\n ]\n}}\n'.encode())


if __name__ == "__main__":
    main()
