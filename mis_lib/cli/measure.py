"""Verbs that measure: how safe and helpful (``report``), how fast (``bench``)."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.parsing import (
    Adapters,
    AsJson,
    Checkpoint,
    ConfigFile,
    DataFolder,
    Device,
    ManyValues,
    Only,
    RunsFolder,
    SetValues,
    Verbs,
    adapter_folders,
    beside_base,
    resolve,
)
from mis_lib.settings import TableFormat

verbs = typer.Typer()
benches = typer.Typer(cls=Verbs, help="Measure what something costs on this machine.", no_args_is_help=True)
verbs.add_typer(benches, name="bench")


@verbs.command(name="report", cls=ManyValues)
def print_report(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants [default: mini mirage refusal textual]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: easy hard real]")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Rows: split, category, sub_category, seen (does the answer name what the images show?), or FILE, FILE#COLUMN: ids and the names of their slices [default: split]",
        ),
    ] = None,
    naming: Annotated[bool, typer.Option("--naming", help="What is recognised, instead of what is safe.")] = False,
    styles: Annotated[
        list[str] | None, typer.Option("--styles", help="With --naming: drawing styles [default: all]")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help="Text file, a question a line: pairs are asked one of these instead of theirs, but where their harm lies in it.",
        ),
    ] = None,
    exchanged: Annotated[
        bool,
        typer.Option(
            "--exchanged", help="Pairs are asked in the other order: images, and first and second in the question."
        ),
    ] = False,
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
    adapters: Adapters = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs a split, or concepts.")] = None,
    only: Only = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Rows generated together [default: 16]")
    ] = None,
    device: Device = None,
    runs: RunsFolder = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: report]")] = None,
    existing: Annotated[
        list[Path] | None, typer.Option("--existing", help="Run folders to read as they are; nothing is generated.")
    ] = None,
    judges: Annotated[
        list[str] | None, typer.Option("--judges", help="With --existing: whose verdicts [default: all there are]")
    ] = None,
    majority: Annotated[
        bool, typer.Option("--majority", help="The existing runs are draws; the majority decides item by item.")
    ] = False,
    paired: Annotated[
        list[str] | None, typer.Option("--paired", help="BEFORE AFTER, each VARIANT or RUN:VARIANT: item by item.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Show the published reference too.")] = False,
    regression: Annotated[
        Path | None,
        typer.Option("--regression", help="Set of decided responses, shown first [default: the data's own]"),
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="Keep this note with the run; with --existing RUN, with that one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every table in every form here.")] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How the tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Evaluate variants on MIS-Mini (or other data) or read existing runs, and print rates, comparisons and official scores."""
    from mis_lib.cli import console
    from mis_lib.recipes.report import ReportSettings, report
    from mis_lib.results.report_tables import rich_rates
    from mis_lib.results.tables import render, rich_tables

    flags = {
        "variants": variants, "splits": splits, "by": by, "naming": naming or None, "styles": styles, "questions": questions, "exchanged": exchanged or None, "data": data, "checkpoint": checkpoint, "adapters": beside_base(adapters),
        "limit": limit, "only": only, "batch_size": batch_size, "device": device, "runs": runs, "name": name, "existing": existing, "judges": judges,
        "majority": majority or None, "paired": paired, "published": published or None, "regression": regression, "note": note, "out": out,
    }  # fmt: skip
    found = report(resolve(ReportSettings, config, flags, sets))
    if as_json or form is not TableFormat.TEXT:
        sys.stdout.write(render(found.tables, TableFormat.JSON if as_json else form))
        return
    for one in found.tables:
        console.out.print(rich_rates(found.rows, found.title) if one.name == "rates" else rich_tables([one]))


@benches.command(name="variants", cls=ManyValues)
def bench_variants(
    checkpoint: Checkpoint = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapters", help="NAME=FOLDER of each variant [default: the first four shipped]"),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=6, help="Images in the prompt.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens that every column writes.")] = 60,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything is measured.")] = 5,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, ... [default: what suits the machine]")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for a README.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time one column against two and all of them, in one run: first token, tokens a second, ratios, memory."""
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
