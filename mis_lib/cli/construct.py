"""``mis construct``: MIS-Mini from the element table, or new items by teacher models."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson, given, options_of, resolve
from mis_lib.cli.parsing import FAILED_ITEMS
from mis_lib.errors import SettingsError

verbs = typer.Typer()

OF_OBJECTS = ("elements", "icons", "both_orders", "general_items")  # options of that source only


class Source(StrEnum):
    """How data is constructed: MIS-Mini from the element table, or by teacher models stage by stage."""

    OBJECTS = "objects"
    STAGES = "stages"


OPTIONS = options_of(
    "mis_lib.recipes.construct:ConstructSettings",
    "teacher images items seeds concurrency",
    panel="With --source stages",
)


@verbs.command(name="construct", cls=OPTIONS)
def construct_data(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Output folder; objects: replaces an earlier build there.")],
    source: Annotated[
        Source, typer.Option("--source", help="objects: MIS-Mini; stages: teacher models, seed by seed, resumable.")
    ] = Source.OBJECTS,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same data.")] = 0,
    elements: Annotated[
        Path | None, typer.Option("--elements", help="objects: folder with CSV files to add to the element table.")
    ] = None,
    icons: Annotated[
        int | None,
        typer.Option(
            "--icons",
            min=1,
            max=6,
            help="objects: add every training pair so often drawn as icons, which are harder to recognise.",
        ),
    ] = None,
    both_orders: Annotated[
        bool | None,
        typer.Option(
            "--both_orders", help="objects: add every training pair with its images exchanged.", show_default=False
        ),
    ] = None,
    general_items: Annotated[
        int | None,
        typer.Option(
            "--general_items", min=1, help="objects: number of general rows, which are not about safety (default: 1000)"
        ),
    ] = None,
    relabel: Annotated[
        Path | None,
        typer.Option(
            "--relabel",
            help="Instead, have --teacher write safety chains of thought for the harmful rows of this file, or of this "
            "folder's split train (VLGuard-R of VLGuard); resumable.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Work on this stage only.", rich_help_panel="With --source stages"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Construct data: MIS-Mini (drawn harmful pairs, benign twins), or new items by the paper's stages and teachers."""
    flags = {
        **given(ctx),
        "stage": stage,
        "elements": elements,
        "icons": icons,
        "both_orders": both_orders,
        "general_items": general_items,
    }
    from mis_lib.cli import console
    from mis_lib.cli.show import construct as show

    if relabel is not None:
        if wrong := [name for name in (*OF_OBJECTS, "stage") if flags[name] is not None]:
            raise SettingsError(f"--{wrong[0]} does not go with --relabel; leave it out")
        _relabel(ctx, relabel, out, seed, as_json=as_json)
        return
    _check_source(source, [name for name, value in flags.items() if value is not None])
    if source is Source.STAGES:
        from mis_lib.clients.openai import in_words
        from mis_lib.recipes.construct import ConstructSettings, construct_with_teachers

        settings = resolve(ctx, ConstructSettings, seed=seed)
        made = construct_with_teachers(out, settings, stage=stage)
        if as_json:
            balance = {"out": str(out), "calls": made.calls, "left_out": made.left_out}
            console.print_json({**balance, **made.account.model_dump(mode="json")})
        else:
            console.out.print(show.balance(made.account, out, made.calls))
            for teacher, lacks in made.left_out.items():
                for words in in_words(teacher, lacks):
                    console.out.print(words, highlight=False, soft_wrap=True)
        if made.account.pending:
            raise typer.Exit(FAILED_ITEMS)
        return
    from mis_lib.construct.general import GENERAL_ITEMS
    from mis_lib.construct.mis_mini import construct

    summary = construct(
        out,
        seed,
        elements,
        console.say,
        general_items=general_items or GENERAL_ITEMS,
        icon_turns=icons or 0,
        both_orders=bool(both_orders),
    )
    if as_json:
        console.print_json({"out": str(out), "source": source.value, **summary.model_dump(mode="json")})
    else:
        console.out.print(show.summary(summary, out))


def _relabel(ctx: typer.Context, data: Path, out: Path, seed: int, *, as_json: bool) -> None:
    from mis_lib.cli import console
    from mis_lib.cli.show import construct as show
    from mis_lib.clients.openai import in_words
    from mis_lib.recipes.construct import ConstructSettings, relabel_with_teacher

    done = relabel_with_teacher(data, out, resolve(ctx, ConstructSettings, seed=seed))
    if as_json:
        console.print_json({"out": str(out), "calls": done.calls, "left_out": done.left_out, **done.made._asdict()})
    else:
        console.out.print(show.relabelled(done.made, out, done.calls))
        for teacher, lacks in done.left_out.items():
            for words in in_words(teacher, lacks):
                console.out.print(words, highlight=False, soft_wrap=True)
    if done.made.pending:
        raise typer.Exit(FAILED_ITEMS)


def _check_source(source: Source, given: list[str]) -> None:
    """Refuse options of the other source."""
    wrong = [name for name in given if (name in OF_OBJECTS) == (source is Source.STAGES)]
    if wrong:
        other = Source.OBJECTS if source is Source.STAGES else Source.STAGES
        raise SettingsError(f"--{wrong[0]} goes with --source {other.value}, found --source {source.value}")
