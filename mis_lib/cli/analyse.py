"""``mis analyse``: what tuning did to a model."""

import json
from typing import Annotated

import typer

from mis_lib.cli.parsing import (
    AsJson,
    Checkpoint,
    ConfigFile,
    DataFolder,
    Device,
    ManyValues,
    RunsFolder,
    SetValues,
    adapter_folders,
    resolve,
)
from mis_lib.settings import AnalysisMethod

verbs = typer.Typer()


@verbs.command(name="analyse", cls=ManyValues)
def analyse_variants(
    method: Annotated[AnalysisMethod, typer.Argument(help="What to look at.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants [default: mini mirage refusal textual]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: hard]")] = None,
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each adapter [default: those shipped]")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs [default: 24]")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--formats", help="formats: question caption translation classification code [default: all]"),
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", help="separation: whose items are drawn.")] = None,
    device: Device = None,
    runs: RunsFolder = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    as_json: AsJson = False,
) -> None:
    """Look inside: separation (by layer), spectrum (of the weight change), formats (other tasks), safeground (and weight edits)."""
    from mis_lib.cli import console
    from mis_lib.recipes.analyse import AnalyseSettings, analyse
    from mis_lib.results.tables import rich_table

    named = adapter_folders(adapters)
    folders = None if named is None else {"mini" if checkpoint is None else "base": None, **named}
    flags = {
        "variants": variants, "splits": splits, "data": data, "checkpoint": checkpoint, "adapters": folders, "limit": limit,
        "formats": formats, "layer": layer, "device": device, "runs": runs,
    }  # fmt: skip
    result = analyse(method, resolve(AnalyseSettings, config, flags, sets))
    if as_json:
        frames = {name: json.loads(frame.to_json(orient="records") or "[]") for name, frame in result.frames.items()}
        console.print_json({"run": str(result.run.folder), **frames})
    else:
        rows = ([str(cell) for cell in row] for row in result.summary.itertuples(index=False))
        console.out.print(rich_table(list(result.summary.columns), rows), highlight=False)
        console.say(f"95 % intervals in brackets; all values: {', '.join(f'{name}.csv' for name in result.frames)}")
        console.say(f"figures: {', '.join(f'{name}.html' for name in result.figures)} in {result.run.folder}")
