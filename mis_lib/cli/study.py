"""``mis study``: every mixture against the papers; ``mis bench train``: this engine against TRL's."""

import sys
from typing import Annotated

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.measure import benches
from mis_lib.cli.options import AsJson, options_of, resolve
from mis_lib.cli.parsing import FAILED_ITEMS

verbs = typer.Typer()
BENCH = "mis bench train"


@verbs.command(
    name="study", cls=options_of("mis_lib.recipes.study:StudySettings", "arms rows limit splits judge runs name")
)
def run_study(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Train every mixture at the same budget, test all on the same items, and compare the rates with the papers'."""
    from mis_lib.cli import console
    from mis_lib.cli.show.study import shown
    from mis_lib.recipes.study import StudySettings, study

    found = study(resolve(ctx, StudySettings))
    if as_json:
        console.print_json(
            {
                "entries": [entry.model_dump(mode="json") for entry in found.entries],
                "findings": [finding.model_dump(mode="json") for finding in found.findings],
                "failed": found.failed,
            }
        )
    else:
        for part in shown(found):
            console.out.print(part, highlight=False)
    if found.failed:
        raise typer.Exit(FAILED_ITEMS)


@benches.command(
    name="train",
    cls=options_of(
        "benchmarks.train:BenchTrainSettings",
        "model data steps rounds batch_size batch_tokens precision device",
        verb=BENCH,
    ),
)
def measure_training(
    ctx: typer.Context,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a document.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure training against TRL's SFTTrainer on the same rows, and the gain of each optimisation."""
    from mis_lib.cli import console

    bench = outside("benchmarks.train", BENCH)
    found = bench.bench_train(resolve(ctx, bench.BenchTrainSettings))
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    elif markdown:
        sys.stdout.write(bench.to_markdown(found) + "\n")
    else:
        for part in bench.show(found):
            console.out.print(part, highlight=False)
