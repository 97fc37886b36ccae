"""``mis import``: answers of other tools become a run."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson, named_values, options_of, resolve
from mis_lib.cli.parsing import FAILED_ITEMS

verbs = typer.Typer()


@verbs.command(
    name="import", cls=options_of("mis_lib.recipes.settings:GenerateSettings", "data splits runs", file=False)
)
def import_answers(
    ctx: typer.Context,
    answers: Annotated[
        list[str] | None, typer.Option("--answers", help="VARIANT=FILE with the answers of each model.")
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="The answers that the set of --data publishes, with people's labels (MSTS)."),
    ] = False,
    field: Annotated[
        str | None, typer.Option("--field", help="Field that holds the answer (default: recognised)")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Name of the model in tables (default: the run's name)")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "import",
    as_json: AsJson = False,
) -> None:
    """Import answers of LLaMA-Factory, ms-swift, VLMEvalKit, lmms-eval, inspect-ai or MIS's scripts as a run."""
    from mis_lib.cli import console
    from mis_lib.recipes.import_answers import import_answers as run_import
    from mis_lib.recipes.settings import GenerateSettings

    if published:
        _import_published(ctx, answers, name, tag, as_json=as_json)
        return
    files = {variant: Path(file) for variant, file in named_values("--answers", answers or [], what="FILE").items()}
    settings = resolve(ctx, GenerateSettings, name=name, variants=list(files))
    done = run_import(files, settings, field=field, tag=tag)
    if as_json:
        console.print_json({**done._asdict(), "run": str(done.run.folder)})
    else:
        for variant, count in done.answers.items():
            found = done.by[variant]
            console.out.print(f"{variant}: {count:,} answers, found by {found}", highlight=False, soft_wrap=True)
            if found == "order alone":
                console.say(
                    f"{variant}: its rows have neither ids nor questions, so they were matched by order; look at a few"
                )
            if ids := done.unanswered.get(variant):
                console.say(f"{variant}: no row for {len(ids):,} of the {done.asked:,} samples (such as {ids[0]!r})")
        for variant, sample in done.empty[:5]:
            console.say(f"no answer: {sample} by {variant}: its row holds none")
        console.out.print(f"in {done.run.folder}", highlight=False, soft_wrap=True)
    if done.empty:
        raise typer.Exit(FAILED_ITEMS)


def _import_published(ctx: typer.Context, answers: object, name: str, tag: str | None, *, as_json: bool) -> None:
    from mis_lib.cli import console
    from mis_lib.errors import SettingsError
    from mis_lib.recipes.import_answers import import_published
    from mis_lib.recipes.settings import GenerateSettings

    if answers:
        raise SettingsError("--published: expected no --answers with it, since the set has them; leave one out")
    done = import_published(resolve(ctx, GenerateSettings, name=name), tag=tag)
    if as_json:
        console.print_json({**done._asdict(), "run": str(done.run.folder)})
        return
    for variant, count in done.answers.items():
        console.out.print(f"{variant}: {count:,} answers", highlight=False, soft_wrap=True)
    console.out.print(f"labels: {done.labels:,}, of which {done.added:,} are new", highlight=False, soft_wrap=True)
    console.out.print(f"in {done.run.folder}", highlight=False, soft_wrap=True)
