"""Verbs that train to compare: every mixture against the papers (``study``), our engine against what people use (``bench train``)."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.commands.parsing import FAILED_ITEMS, AsJson, ManyValues

verbs = typer.Typer()


@verbs.command(name="study", cls=ManyValues)
def run_study(
    arms: Annotated[
        list[str] | None, typer.Option("--arms", help="Which mixtures: mirage, refusal, ... or rows-N [default: all]")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", help="Rows of every mixture [default: 900]")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Pairs a split that are asked [default: 40]")] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: easy hard real]")] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of all runs [default: runs]")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this study [default: study]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with these settings and more.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value, wins over the file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train every mixture at the same budget, test all on the same items, and hold the rates against the papers."""
    from mis_lib import console
    from mis_lib.commands.study import show, study
    from mis_lib.commands.study_plan import StudySettings
    from mis_lib.configs import load_settings

    flags = {"arms": arms, "rows": rows, "limit": limit, "splits": splits, "runs": runs, "name": name}
    given = [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value is not None]
    found = study(load_settings(StudySettings, config, overrides=[*given, *(sets or [])]))
    if as_json:
        console.print_json(
            {
                "entries": [entry.model_dump(mode="json") for entry in found.entries],
                "findings": [finding.model_dump(mode="json") for finding in found.findings],
                "failed": found.failed,
            }
        )
    else:
        for part in show(found):
            console.out.print(part, highlight=False)
    if found.failed:
        raise typer.Exit(FAILED_ITEMS)
