"""``mis train``: fine-tuning."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson, ManyValues

verbs = typer.Typer()


@verbs.command(name="train", cls=ManyValues)
def run_training(
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with settings, such as those in configs/.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, wins over the file: lora.rank=8 max_steps=50 ...")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved settings and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model with a settings file; the same command resumes a run that was stopped."""
    import sys

    from rich.console import Console

    from mis_lib.cli import console
    from mis_lib.recipes.train import Interrupted, read_train_settings, train_by
    from mis_lib.results.train_runs import TrainRun
    from mis_lib.settings import dump_settings
    from mis_lib.train.distributed import leave

    settings = read_train_settings(config, sets or [])
    if show:
        sys.stdout.write(dump_settings(settings))
        return
    try:
        folder = train_by(settings)
    except Interrupted as stop:
        leave()
        Console(stderr=True, soft_wrap=True).print(str(stop), style="yellow", markup=False, highlight=False)
        raise typer.Exit(stop.status) from stop
    leave()
    if as_json:
        console.print_json({"run": str(folder), **(TrainRun(folder).result or {})})
    else:
        console.out.print(f"run: {folder}", highlight=False, soft_wrap=True)
