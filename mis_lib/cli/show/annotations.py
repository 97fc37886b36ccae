"""How ``mis annotations`` shows deltas and agreement."""

from rich.table import Table
from rich.text import Text

from mis_lib.annotate.agreement import TeamAgreement
from mis_lib.annotate.delta import About
from mis_lib.cli import console
from mis_lib.results.tables import rich_table


def show_delta(made: About) -> None:
    """What a delta holds, what was left out, and how many rows are no test rows any more."""
    table = Table(title=Text(made.folder), title_justify="left", show_header=False)
    for label, value in {
        "training rows": f"{made.rows:,} ({_listed(made.targets) or '-'}), {made.replayed:,} replayed",
        "of splits": _listed(made.splits) or "-",
        "preference pairs": f"{made.pairs:,}",
        "regression set": f"{made.regression:,}, {made.failing:,} of them failing",
        "from": f"{', '.join(made.runs)}; decided by {', '.join(made.authors)}",
    }.items():
        table.add_row(label, Text(value))
    console.out.print(table)
    for response, reason in made.left_out.items():
        console.say(f"left out {response}: {reason}")
    tests = sum(count for split, count in made.splits.items() if split != "train")
    if tests:
        console.say(
            f"{tests:,} rows come from test splits: no test figure counts them from now on (see regression.jsonl)"
        )


def show_agreement(found: TeamAgreement) -> None:
    """Agreement of each two people, and of all."""
    headings = ("first", "second", "equal, %", "Cohen's kappa", "n")
    rows = [(pair.first, pair.second, str(pair.share), str(pair.kappa), f"{pair.share.n:,}") for pair in found.pairs]
    console.out.print(rich_table(headings, rows, title="Agreement on outcomes", left=2))
    people = ", ".join(f"{name} {count:,}" for name, count in found.authors.items()) or "nobody"
    console.out.print(
        Text(f"labelled by {people}; Krippendorff's alpha {found.alpha} on {found.alpha.n:,} shared responses")
    )
    console.out.print(Text(f"{len(found.disputed):,} disputed, {found.adjudicated:,} adjudicated"))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
