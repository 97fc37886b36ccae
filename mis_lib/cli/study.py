"""Verbs that train to compare: every mixture against the papers (``study``), our engine against what people use (``bench train``)."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.measure import benches
from mis_lib.cli.parsing import FAILED_ITEMS, AsJson, ConfigFile, ManyValues, RunsFolder, SetValues, resolve

verbs = typer.Typer()


@verbs.command(name="study", cls=ManyValues)
def run_study(
    arms: Annotated[
        list[str] | None, typer.Option("--arms", help="Which mixtures: mirage, refusal, ... or rows-N [default: all]")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", help="Rows of every mixture [default: 900]")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Pairs a split that are asked [default: 40]")] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: easy hard real]")] = None,
    runs: RunsFolder = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this study [default: study]")] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    as_json: AsJson = False,
) -> None:
    """Train every mixture at the same budget, test all on the same items, and hold the rates against the papers."""
    from mis_lib.cli import console
    from mis_lib.cli.show.study import shown
    from mis_lib.recipes.study import StudySettings, study

    flags = {"arms": arms, "rows": rows, "limit": limit, "splits": splits, "runs": runs, "name": name}
    found = study(resolve(StudySettings, config, flags, sets))
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


@benches.command(name="train", cls=ManyValues)
def measure_training(
    model: Annotated[
        str | None,
        typer.Option("--model", help="mini, internvl2_5-8b, qwen2-vl-7b, tiny-llava ... or a folder [default: mini]"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Samples with answers [default: MIS-Mini for mini, else noise]")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Timed steps [default: 10]")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="How often all are measured [default: 2]")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="Rows a step [default: 8]")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch_tokens", help="Tokens a pass [default: 4096]")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32 or bfloat16")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda ... [default: a GPU if there is one]")
    ] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for a document.")] = False,
    as_json: AsJson = False,
) -> None:
    """Our training engine against TRL's SFTTrainer on the same rows, and what each optimisation is worth."""
    from mis_lib.cli import console

    bench = outside("benchmarks.train", "mis bench train")
    flags = {
        "model": model, "data": data, "steps": steps, "rounds": rounds, "batch_size": batch_size, "batch_tokens": batch_tokens,
        "precision": precision, "device": device,
    }  # fmt: skip
    found = bench.bench_train(resolve(bench.BenchTrainSettings, config, flags, sets))
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    elif markdown:
        sys.stdout.write(bench.to_markdown(found) + "\n")
    else:
        for part in bench.show(found):
            console.out.print(part, highlight=False)
