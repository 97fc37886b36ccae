"""Verbs about data: making it (``construct``), checking and mixing it (``check``), giving it to other trainers (``export``)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.parsing import FAILED_ITEMS, AsJson, ManyValues, resolve
from mis_lib.data.export import Form, Images
from mis_lib.errors import SettingsError

verbs = typer.Typer()

# flags of check that go with --mixture; the last two without it, too
OF_MIXTURE = ("mixture", "general", "output", "against", "set")
OF_OBJECTS = ("elements", "icons", "both_orders", "general_items")  # flags of construct that go with that source


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
    _check_source(source, [name for name, value in flags.items() if value is not None])
    if source is Source.STAGES:
        from mis_lib.recipes.construct import ConstructSettings, construct_with_teachers

        values = {name: flags[name] for name in ("teacher", "images", "items", "seeds", "concurrency")}
        settings = resolve(ConstructSettings, config, {**values, "seed": seed}, sets)
        construct_with_teachers(out, settings, stage=stage, as_json=as_json)
        return
    from mis_lib import console
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
        console.out.print(console.summary(summary, out))


def _check_source(source: Source, given: list[str]) -> None:
    """Refuse flags that belong to the other way of constructing."""
    wrong = [name for name in given if (name in OF_OBJECTS) == (source is Source.STAGES)]
    if wrong:
        other = Source.OBJECTS if source is Source.STAGES else Source.STAGES
        raise SettingsError(f"--{wrong[0]} goes with --source {other.value}, found --source {source.value}")


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


@verbs.command(name="export")
def export_data(
    path: Annotated[Path, typer.Option("--input", help="Data file, folder of ours, or folder of a published set.")],
    form: Annotated[Form, typer.Option("--format", help="Which trainer; jsonl: our own records.")],
    out: Annotated[Path, typer.Option("--output", help="Folder to write to.")],
    loader: Annotated[
        str | None, typer.Option("--loader", help="Name of the set [default: told by the folder's files]")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only this split [default: all that are there]")] = None,
    image_folder: Annotated[
        Path | None,
        typer.Option(
            "--image_folder",
            help="Folder of the images of data files; published sets know theirs [default: the files']",
        ),
    ] = None,
    images: Annotated[Images, typer.Option("--images", help="Copy them, or leave them where they are.")] = Images.COPY,
    leave_out_masked: Annotated[
        bool,
        typer.Option(
            "--leave_out_masked",
            help="Leave out rows whose end is not to be learned (mask_eos): only jsonl can carry them.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert data of any known form or set for LLaMA-Factory, ms-swift or TRL, or to our JSON Lines; and back."""
    from mis_lib.recipes.export import export

    export(
        path,
        form,
        out,
        loader=loader,
        split=split,
        folder=image_folder,
        images=images,
        leave_out_masked=leave_out_masked,
        as_json=as_json,
    )


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
    from mis_lib.recipes import check as commands

    told = {
        "images": images, "model": model, "max_pixels": max_pixels, "min_pixels": min_pixels, "max_dynamic_patch": max_dynamic_patch,
        "max_length": max_length, "batch_size": batch_size, "lora_rank": lora_rank, "checkpointing": checkpointing or None, "against": against,
        "duplicates": duplicates or None, "remove": remove or None, "mixture": mixture, "general": general, "output": output, "config": config,
        "set": sets, "html": html,
    }  # fmt: skip
    is_hub = path is not None and path.startswith(commands.HUB)
    _check_what(is_hub, mixture, [name for name, value in told.items() if value is not None])
    if path is None:
        from mis_lib.construct.mis_mini import ensure_mini_data

        path = str(ensure_mini_data())
    if is_hub:
        commands.hub(path.removeprefix(commands.HUB), as_json=as_json)
        return
    if mixture is not None:
        from mis_lib.recipes.check import mixture as compose

        fine = compose(
            Path(path), mixture, sets or [], general=general, against=against, output=output, as_json=as_json
        )
    else:
        from mis_lib.data.preflight import PreflightSettings

        flags = {
            "images": images, "model": model, "max_pixels": max_pixels, "min_pixels": min_pixels, "max_dynamic_patch": max_dynamic_patch,
            "max_length": max_length, "training.batch_size": batch_size, "training.lora_rank": lora_rank,
            "training.checkpointing": checkpointing or None,
        }  # fmt: skip
        settings = resolve(PreflightSettings, config, flags, sets)
        fine = commands.check(
            Path(path), settings, against=against, duplicates=duplicates, remove=remove, html=html, as_json=as_json
        )
    if not fine:
        raise typer.Exit(FAILED_ITEMS)
