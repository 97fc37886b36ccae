"""``mis report``: how safe and helpful; ``mis bench variants``: how fast."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.options import AsJson, ManyValues, adapter_folders, options_of, prompt_files, resolve, with_base
from mis_lib.cli.parsing import Verbs
from mis_lib.settings import TableFormat

verbs = typer.Typer()
benches = typer.Typer(cls=Verbs, help="Benchmarks on this machine.", no_args_is_help=True)
verbs.add_typer(benches, name="bench")


REPORT = options_of(
    "mis_lib.recipes.settings:ReportSettings",
    "variants prompts splits by naming styles questions exchanged one_word data checkpoint adapters limit only "
    "batch_size device min_pixels max_pixels max_dynamic_patch runs name existing judges majority paired published "
    "regression note out",
    adapters=with_base,
    prompts=prompt_files,
)


@verbs.command(name="report", cls=REPORT)
def print_report(
    ctx: typer.Context,
    form: Annotated[TableFormat, typer.Option("--format", help="How the tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Evaluate variants on MIS-Mini or other data, or read existing runs; print rates, comparisons, official scores."""
    from mis_lib.cli import console
    from mis_lib.recipes.report import report
    from mis_lib.recipes.settings import ReportSettings
    from mis_lib.results.report_tables import rich_rates
    from mis_lib.results.tables import render, rich_tables

    found = report(resolve(ctx, ReportSettings))
    if as_json or form is not TableFormat.TEXT:
        sys.stdout.write(render(found.tables, TableFormat.JSON if as_json else form))
        return
    for one in found.tables:
        console.out.print(rich_rates(found.rows, found.title) if one.name == "rates" else rich_tables([one]))


@benches.command(name="variants", cls=ManyValues)
def bench_variants(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Checkpoint folder (default: the embedded model)")
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapters", help="NAME=FOLDER of each variant (default: the first four shipped)"),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=6, help="Images in the prompt.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens that every variant generates.")] = 60,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds.")] = 5,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, ... (default: what suits the machine)")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a document.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure one variant against several side by side: time to first token, tokens a second, ratios, memory."""
    from mis_lib.cli import console

    columns = outside("benchmarks.variants", "mis bench variants")
    found = columns.bench(
        checkpoint,
        adapter_folders(adapters),
        images=images,
        tokens=tokens,
        rounds=rounds,
        device=device,
        dtype=dtype,
    )
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    elif markdown:
        sys.stdout.write(columns.to_markdown(found) + "\n")
    else:
        for part in columns.show(found):
            console.out.print(part, highlight=False)
