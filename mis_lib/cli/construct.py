"""``mis construct``: MIS-Mini from the element table, or new items by teachers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.parsing import FAILED_ITEMS, AsJson, ManyValues, resolve
from mis_lib.errors import SettingsError

verbs = typer.Typer()

OF_OBJECTS = ("elements", "icons", "both_orders", "general_items")  # flags of that source


class Source(StrEnum):
    """How data is constructed: MIS-Mini from the element table, or by teachers stage by stage."""

    OBJECTS = "objects"
    STAGES = "stages"


@verbs.command(name="construct", cls=ManyValues)
def construct_data(
    out: Annotated[Path, typer.Option("--out", help="Folder to make; objects: an earlier build there is replaced.")],
    source: Annotated[
        Source, typer.Option("--source", help="objects: MIS-Mini; stages: teachers, seed by seed, resumable.")
    ] = Source.OBJECTS,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    elements: Annotated[
        Path | None, typer.Option("--elements", help="objects: folder with CSV files of your own, added to the table.")
    ] = None,
    icons: Annotated[
        int | None,
        typer.Option(
            "--icons", min=1, max=6, help="objects: ask every training pair so often in icons, too: hard to make out."
        ),
    ] = None,
    both_orders: Annotated[
        bool | None,
        typer.Option(
            "--both_orders", help="objects: ask every training pair with its images exchanged, too.", show_default=False
        ),
    ] = None,
    general_items: Annotated[
        int | None,
        typer.Option(
            "--general_items", min=1, help="objects: rows that have nothing to do with safety [default: 1000]"
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="stages: builtin, URL#MODEL or local:PATH [default: builtin]")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="stages: drawn, URL#MODEL or diffusers:MODEL [default: drawn]")
    ] = None,
    items: Annotated[int | None, typer.Option("--items", help="stages: at most so many items [default: 200]")] = None,
    seeds: Annotated[
        Path | None, typer.Option("--seeds", help="stages: seed set, CSV or JSONL [default: the table's hazards]")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="stages: work on this one only.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="stages: records worked on at a time [default: 8]")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="stages: YAML file with settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="stages: key=value, wins over the file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make data: MIS-Mini (harmful pairs and benign twins, drawn), or new items by teachers through the paper's stages."""
    flags = {
        "teacher": teacher, "images": images, "items": items, "seeds": seeds, "concurrency": concurrency, "stage": stage, "config": config,
        "set": sets, "elements": elements, "icons": icons, "both_orders": both_orders, "general_items": general_items,
    }  # fmt: skip
    from mis_lib.cli import console
    from mis_lib.cli.show import construct as show

    _check_source(source, [name for name, value in flags.items() if value is not None])
    if source is Source.STAGES:
        from mis_lib.clients.openai import in_words
        from mis_lib.recipes.construct import ConstructSettings, construct_with_teachers

        values = {name: flags[name] for name in ("teacher", "images", "items", "seeds", "concurrency")}
        settings = resolve(ConstructSettings, config, {**values, "seed": seed}, sets)
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
    from mis_lib.construct.general import ITEMS
    from mis_lib.construct.mis_mini import construct

    summary = construct(
        out,
        seed,
        elements,
        console.say,
        general_items=general_items or ITEMS,
        icon_turns=icons or 0,
        both_orders=bool(both_orders),
    )
    if as_json:
        console.print_json({"out": str(out), "source": source.value, **summary.model_dump(mode="json")})
    else:
        console.out.print(show.summary(summary, out))


def _check_source(source: Source, given: list[str]) -> None:
    """Refuse flags that belong to the other way of constructing."""
    wrong = [name for name in given if (name in OF_OBJECTS) == (source is Source.STAGES)]
    if wrong:
        other = Source.OBJECTS if source is Source.STAGES else Source.STAGES
        raise SettingsError(f"--{wrong[0]} goes with --source {other.value}, found --source {source.value}")
