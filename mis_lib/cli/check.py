"""``mis check``: may training start on this data?"""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson, given, options_of, resolve
from mis_lib.cli.parsing import FAILED_ITEMS
from mis_lib.errors import SettingsError

verbs = typer.Typer()

SHOWN = 20  # findings that the terminal lists
OF_MIXTURE = ("mixture", "general", "output", "against", "set")  # the last two are options of any check


OPTIONS = options_of(
    "mis_lib.data.preflight:PreflightSettings",
    "images model max_pixels min_pixels max_dynamic_patch max_length training.batch_size training.lora_rank "
    "training.checkpointing training.batch_tokens training.gpus training.quantization",
)


@verbs.command(name="check", cls=OPTIONS)
def check_data(
    ctx: typer.Context,
    path: Annotated[
        str | None,
        typer.Argument(
            help="Data file or folder (default: MIS-Mini); hub: or hub:NAME says how to fetch published sets."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Test data; rows that resemble it are errors.")
    ] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look for near-duplicates within the set.")] = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--remove", help="Write a copy NAME.clean of each file without what --against and --duplicates found."
        ),
    ] = False,
    mixture: Annotated[
        str | None,
        typer.Option(
            "--mixture", help="Show instead what this recipe makes of the data, and its overlap with test data."
        ),
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option("--general", help="With --mixture: general data (default: split general of the data folder)"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="With --mixture: folder to write it to.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as an HTML page, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find every fault of a data set before training; status 1 means that training must not start."""
    from mis_lib.cli import console
    from mis_lib.cli.show import check as show
    from mis_lib.recipes import check as recipe

    own = {
        "against": against,
        "duplicates": duplicates or None,
        "remove": remove or None,
        "mixture": mixture,
        "general": general,
        "output": output,
        "html": html,
    }
    flags = [*given(ctx), *(name for name, value in own.items() if value is not None)]
    is_hub = path is not None and path.startswith(recipe.HUB)
    _check_what(is_hub, mixture, flags)
    if path is None:
        from mis_lib.construct.mis_mini import ensure_mini_data

        path = str(ensure_mini_data())
    if is_hub:
        _show_hub(path.removeprefix(recipe.HUB), as_json=as_json)
        return
    if mixture is not None:
        mixed = recipe.mixture(
            Path(path), mixture, given(ctx).get("set", ()), general=general, against=against, output=output
        )
        if as_json:
            console.print_json(mixed.record())
        else:
            console.out.print(show.mixture_tables(mixed))
        fine = not mixed.leaks
    else:
        from mis_lib.data.preflight import PreflightSettings

        settings = resolve(ctx, PreflightSettings)
        report = recipe.check(Path(path), settings, against=against, duplicates=duplicates, remove=remove, html=html)
        fine = report.ready
        if settings.images is not None and fine:
            console.say(
                f"The images are in {settings.images}, but mis train and mis generate look for them in the folder of "
                "the "
                "rows. To bring both together:"
            )
            console.offer(f"mis export --input {path} --image_folder {settings.images} --format jsonl --output DIR")
        if as_json:
            console.print_json({"ready": fine, **report.model_dump(mode="json")})
        else:
            console.out.print(show.report_tables(report, SHOWN))
    if not fine:
        raise typer.Exit(FAILED_ITEMS)


def _show_hub(name: str, *, as_json: bool) -> None:
    from mis_lib.cli import console
    from mis_lib.cli.show.check import fetch_lines
    from mis_lib.recipes.check import hub

    wanted = hub(name)
    if as_json:
        console.print_json([instruction.model_dump(mode="json") for instruction in wanted])
    else:
        console.out.print(*fetch_lines(wanted), sep="\n", soft_wrap=True)


def _check_what(is_hub: bool, mixture: str | None, given: list[str]) -> None:
    """Refuse options that would have no effect."""
    if is_hub and given:
        raise SettingsError(f"--{given[0]} goes with data, found a name that only says how to fetch it")
    alone = [name for name in given if name not in OF_MIXTURE]
    if mixture is not None and alone:
        raise SettingsError(
            f"--{alone[0]} goes with a check of data as it is, found --mixture {mixture}; run the two apart"
        )
    mixed = [name for name in given if name in ("general", "output")]
    if mixture is None and mixed:
        raise SettingsError(f"--{mixed[0]} goes with --mixture NAME, found none")
