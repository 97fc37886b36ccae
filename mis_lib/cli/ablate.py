"""The verb that takes images away: ``mis ablate``."""

import sys
from typing import Annotated

import typer

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
    beside_base,
    resolve,
)
from mis_lib.settings import TableFormat

verbs = typer.Typer()


@verbs.command(name="ablate", cls=ManyValues)
def ablate_images(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants, in one batch [default: mini mirage]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: hard]")] = None,
    states: Annotated[
        list[str] | None,
        typer.Option("--states", help="What is done to images [default: black mean noise dropped caption twin]"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many items a split [default: 24]")] = None,
    only: Only = None,
    benign: Annotated[bool, typer.Option("--benign", help="Ablate the benign twins too.")] = False,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Whose verdicts are measured, after mis judge [default: rule]")
    ] = None,
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
    adapters: Adapters = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Rows generated together [default: 16]")
    ] = None,
    device: Device = None,
    runs: RunsFolder = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: ablate]")] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How the tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Drop, blank, swap or exchange images, one at a time and together: which image matters, and do words alone decide?"""
    from mis_lib.cli import console
    from mis_lib.recipes.ablate import AblateSettings, ablate
    from mis_lib.results.tables import render, rich_tables

    flags = {
        "variants": variants, "splits": splits, "states": states, "limit": limit, "only": only, "benign": benign or None, "judge": judge, "data": data,
        "checkpoint": checkpoint, "adapters": beside_base(adapters), "batch_size": batch_size, "device": device, "runs": runs, "name": name,
    }  # fmt: skip
    found = ablate(resolve(AblateSettings, config, flags, sets))
    if as_json or form is not TableFormat.TEXT:
        sys.stdout.write(render(found.tables(), TableFormat.JSON if as_json else form))
    else:
        console.out.print(rich_tables(found.tables()))
        console.say(f"run folder: {found.run.folder}")
