"""``mis import``: answers of other tools, into a run."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.parsing import FAILED_ITEMS, AsJson, ManyValues, RunsFolder, named_values, resolve

verbs = typer.Typer()


@verbs.command(name="import", cls=ManyValues)
def import_answers(
    answers: Annotated[list[str], typer.Option("--answers", help="VARIANT=FILE of each model's answers.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="What was asked: folder, file or set [default: MIS-Mini]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Of a folder: those that were asked.")] = None,
    field: Annotated[
        str | None, typer.Option("--field", help="Which field holds the answer, if not a usual one.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="The model's name, for tables [default: the run's]")] = None,
    runs: RunsFolder = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "import",
    as_json: AsJson = False,
) -> None:
    """Take in answers that LLaMA-Factory, ms-swift, VLMEvalKit, lmms-eval, inspect-ai or MIS's scripts gave, as a run."""
    from mis_lib.cli import console
    from mis_lib.recipes.generate import GenerateSettings
    from mis_lib.recipes.import_answers import import_answers as take_in

    files = {variant: Path(file) for variant, file in (named_values("--answers", answers, what="FILE") or {}).items()}
    flags = {"data": data, "splits": splits, "runs": runs, "name": name, "variants": list(files)}
    done = take_in(files, resolve(GenerateSettings, None, flags, None), field=field, tag=tag)
    if as_json:
        console.print_json({**done._asdict(), "run": str(done.run.folder)})
    else:
        for variant, count in done.answers.items():
            found = done.by[variant]
            console.out.print(f"{variant}: {count:,} answers, found by {found}", highlight=False, soft_wrap=True)
            if found == "order alone":
                console.say(
                    f"{variant}: its rows tell neither ids nor questions, so their order was believed; look at a few"
                )
            if ids := done.unanswered.get(variant):
                console.say(f"{variant}: no row for {len(ids):,} of the {done.asked:,} samples (such as {ids[0]!r})")
        for variant, sample in done.empty[:5]:
            console.say(f"no answer: {sample} by {variant}: its row holds none")
        console.out.print(f"in {done.run.folder}", highlight=False, soft_wrap=True)
    if done.empty:
        raise typer.Exit(FAILED_ITEMS)
