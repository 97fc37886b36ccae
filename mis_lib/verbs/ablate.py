"""The verb that takes images away: ``mis ablate``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.commands.parsing import AsJson, ManyValues
from mis_lib.configs import TableFormat

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
    benign: Annotated[bool, typer.Option("--benign", help="Ablate the benign twins too.")] = False,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Whose verdicts are measured, after mis judge [default: rule]")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data files [default: MIS-Mini]")] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="[default: the embedded model]")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Rows generated together [default: 16]")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ... [default: cpu]")] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of all runs [default: runs]")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: ablate]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with these settings and more.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value, wins over the file.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How the tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Drop, blank, swap or exchange images, one at a time and together: which image matters, and do words alone decide?"""
    from mis_lib.analysis.sheets import render
    from mis_lib.commands.ablate import AblateSettings, ablate, show
    from mis_lib.configs import load_settings

    flags = {
        "variants": variants, "splits": splits, "states": states, "limit": limit, "benign": benign or None, "judge": judge, "data": data,
        "checkpoint": checkpoint, "batch_size": batch_size, "device": device, "runs": runs, "name": name,
    }  # fmt: skip
    given = [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value is not None]
    found = ablate(load_settings(AblateSettings, config, overrides=[*given, *(sets or [])]))
    if as_json or form is not TableFormat.TEXT:
        sys.stdout.write(render(found.sheets(), TableFormat.JSON if as_json else form))
    else:
        show(found)
