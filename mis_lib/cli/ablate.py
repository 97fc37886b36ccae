"""``mis ablate``: the same items with their images taken away, exchanged or described in words."""

import sys
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson, options_of, resolve, with_base
from mis_lib.settings import TableFormat

verbs = typer.Typer()
FIELDS = "variants splits states limit only benign judge data checkpoint adapters batch_size device runs name"


@verbs.command(name="ablate", cls=options_of("mis_lib.recipes.ablate:AblateSettings", FIELDS, adapters=with_base))
def ablate_images(
    ctx: typer.Context,
    form: Annotated[TableFormat, typer.Option("--format", help="How the tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Remove, blank or swap images, one at a time and all: which image matters, and does the text alone decide?"""
    from mis_lib.cli import console
    from mis_lib.recipes.ablate import AblateSettings, ablate
    from mis_lib.results.tables import render, rich_tables

    found = ablate(resolve(ctx, AblateSettings))
    if as_json or form is not TableFormat.TEXT:
        sys.stdout.write(render(found.tables(), TableFormat.JSON if as_json else form))
    else:
        console.out.print(rich_tables(found.tables()))
        console.say(f"run folder: {found.run.folder}")
