"""``mis check``: may training start on this data?"""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.parsing import FAILED_ITEMS, AsJson, ManyValues, resolve
from mis_lib.errors import SettingsError

verbs = typer.Typer()

SHOWN = 20  # findings that the terminal lists
OF_MIXTURE = ("mixture", "general", "output", "against", "set")  # flags of --mixture; the last two without it, too


@verbs.command(name="check", cls=ManyValues)
def check_data(
    path: Annotated[
        str | None,
        typer.Argument(
            help="Data file or folder; hub: or hub:NAME tells how to fetch published sets; MIS-Mini where none is given."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images [default: the file's]")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Predict tokens and memory: checkpoint folder, hub id, or mini.")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option("--max_pixels", help="Qwen-VL: at most, for an image.")] = None,
    min_pixels: Annotated[int | None, typer.Option("--min_pixels", help="Qwen-VL: at least, for an image.")] = None,
    max_dynamic_patch: Annotated[
        int | None, typer.Option("--max_dynamic_patch", help="InternVL: at most so many tiles, of an image.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max_length", help="With --model: rows are cut after so many tokens [default: the context]"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="For the memory estimate [default: 1]")] = None,
    lora_rank: Annotated[
        int | None, typer.Option("--lora_rank", help="For the memory estimate; 0: all weights [default: 16]")
    ] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="For the memory estimate.")] = False,
    against: Annotated[Path | None, typer.Option("--against", help="Test data that no row may resemble.")] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look for near-duplicates within the set.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Write NAME.clean beside each file, without what these two found.")
    ] = False,
    mixture: Annotated[
        str | None,
        typer.Option("--mixture", help="Instead: what this recipe makes of the data, and its overlap with the tests."),
    ] = None,
    general: Annotated[Path | None, typer.Option("--general", help="Mixture: general data [default: beside]")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Mixture: folder to write it to.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: settings, or options of the mixture.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a page too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find everything wrong with a data set before it costs GPU hours; status 1 means that training must not start."""
    from mis_lib.cli import console
    from mis_lib.cli.show import check as show
    from mis_lib.recipes import check as recipe

    told = {
        "images": images, "model": model, "max_pixels": max_pixels, "min_pixels": min_pixels, "max_dynamic_patch": max_dynamic_patch,
        "max_length": max_length, "batch_size": batch_size, "lora_rank": lora_rank, "checkpointing": checkpointing or None, "against": against,
        "duplicates": duplicates or None, "remove": remove or None, "mixture": mixture, "general": general, "output": output, "config": config,
        "set": sets, "html": html,
    }  # fmt: skip
    is_hub = path is not None and path.startswith(recipe.HUB)
    _check_what(is_hub, mixture, [name for name, value in told.items() if value is not None])
    if path is None:
        from mis_lib.construct.mis_mini import ensure_mini_data

        path = str(ensure_mini_data())
    if is_hub:
        _show_hub(path.removeprefix(recipe.HUB), as_json=as_json)
        return
    if mixture is not None:
        mixed = recipe.mixture(Path(path), mixture, sets or [], general=general, against=against, output=output)
        if as_json:
            console.print_json(mixed.record())
        else:
            console.out.print(show.mixture_tables(mixed))
        fine = not mixed.leaks
    else:
        from mis_lib.data.preflight import PreflightSettings

        flags = {
            "images": images, "model": model, "max_pixels": max_pixels, "min_pixels": min_pixels, "max_dynamic_patch": max_dynamic_patch,
            "max_length": max_length, "training.batch_size": batch_size, "training.lora_rank": lora_rank,
            "training.checkpointing": checkpointing or None,
        }  # fmt: skip
        settings = resolve(PreflightSettings, config, flags, sets)
        report = recipe.check(Path(path), settings, against=against, duplicates=duplicates, remove=remove, html=html)
        fine = report.ready
        if settings.images is not None and fine:
            console.say(
                f"The images are in {settings.images}, but mis train and mis generate look for them in the folder of the rows. "
                "To bring both together:"
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
    """Refuse flags of ``check`` that nothing would come of."""
    if is_hub and given:
        raise SettingsError(f"--{given[0]} goes with data, found a name that only tells how to fetch it")
    alone = [name for name in given if name not in OF_MIXTURE]
    if mixture is not None and alone:
        raise SettingsError(
            f"--{alone[0]} goes with a check of data as it is, found --mixture {mixture}; run the two apart"
        )
    mixed = [name for name in given if name in ("general", "output")]
    if mixture is None and mixed:
        raise SettingsError(f"--{mixed[0]} goes with --mixture NAME, found none")
