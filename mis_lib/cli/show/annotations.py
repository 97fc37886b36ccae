"""How ``mis annotations`` shows deltas and agreement."""

from rich.table import Table
from rich.text import Text

from mis_lib.annotate.agreement import TeamAgreement
from mis_lib.annotate.delta import About
from mis_lib.cli import console


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
            f"{tests:,} rows come from test splits: they count in no test figure from now on (regression.jsonl lists them)"
        )


def show_agreement(found: TeamAgreement) -> None:
    """Agreement of each two people, and of all."""
    table = Table(title="Agreement on outcomes", title_justify="left")
    for heading in ("first", "second", "equal, %", "Cohen's kappa", "n"):
        table.add_column(heading)
    for pair in found.pairs:
        table.add_row(pair.first, pair.second, str(pair.share), str(pair.kappa), f"{pair.share.n:,}")
    console.out.print(table)
    people = ", ".join(f"{name} {count:,}" for name, count in found.authors.items()) or "nobody"
    console.out.print(
        Text(f"labelled by {people}; Krippendorff's alpha {found.alpha} on {found.alpha.n:,} shared responses")
    )
    console.out.print(Text(f"{len(found.disputed):,} disputed, {found.adjudicated:,} adjudicated"))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
