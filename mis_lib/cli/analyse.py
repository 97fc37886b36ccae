"""``mis analyse``: what fine-tuning did to a model."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from mis_lib.cli.options import AsJson, adapter_folders, options_of, resolve
from mis_lib.settings import AnalysisMethod

verbs = typer.Typer()
FIELDS = "variants splits data checkpoint adapters limit formats judge layer device runs"


def _adapters(values: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The base model comes first: every method compares with it."""
    return {"base" if "checkpoint" in given else "mini": None, **(adapter_folders(values) or {})}


@verbs.command(name="analyse", cls=options_of("mis_lib.recipes.analyse:AnalyseSettings", FIELDS, adapters=_adapters))
def analyse_variants(
    ctx: typer.Context,
    method: Annotated[AnalysisMethod, typer.Argument(help="What to analyse.")],
    as_json: AsJson = False,
) -> None:
    """Analyse models: separation (by layer), spectrum (weight changes), formats (other tasks), safeground (edits)."""
    from mis_lib.cli import console
    from mis_lib.recipes.analyse import AnalyseSettings, analyse
    from mis_lib.results.tables import rich_table

    result = analyse(method, resolve(ctx, AnalyseSettings))
    if as_json:
        frames = {name: json.loads(frame.to_json(orient="records") or "[]") for name, frame in result.frames.items()}
        console.print_json({"run": str(result.run.folder), **frames})
    else:
        rows = ([str(cell) for cell in row] for row in result.summary.itertuples(index=False))
        console.out.print(rich_table(list(result.summary.columns), rows), highlight=False)
        console.say(f"95 % intervals in brackets; all values: {', '.join(f'{name}.csv' for name in result.frames)}")
        console.say(f"figures: {', '.join(f'{name}.html' for name in result.figures)} in {result.run.folder}")
