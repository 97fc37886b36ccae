"""``mis export``: data for trainers and evaluators, or as records of this project; a run as logs of inspect-ai."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.options import AsJson
from mis_lib.settings import ExportedImages, ExportForm

verbs = typer.Typer()


@verbs.command(name="export")
def export_data(
    path: Annotated[
        Path, typer.Option("--input", help="Data file, data folder, or folder of a published set; inspect: a run.")
    ],
    form: Annotated[ExportForm, typer.Option("--format", help="For which tool; jsonl: records of this project.")],
    out: Annotated[Path, typer.Option("--output", help="Folder to write to.")],
    loader: Annotated[
        str | None, typer.Option("--loader", help="Name of the published set (default: recognised by its files)")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only this split (default: all)")] = None,
    image_folder: Annotated[
        Path | None,
        typer.Option(
            "--image_folder",
            help="Folder of a data file's images (default: the file's folder)",
        ),
    ] = None,
    images: Annotated[
        ExportedImages, typer.Option("--images", help="Copy images, or keep them where they are.")
    ] = ExportedImages.COPY,
    leave_out_masked: Annotated[
        bool,
        typer.Option(
            "--leave_out_masked",
            help="Leave out rows with mask_eos (the end token is not learned), which only jsonl can express.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write data for LLaMA-Factory, ms-swift, TRL, VLMEvalKit, lmms-eval or as JSON Lines; a run for inspect-ai."""
    from mis_lib.cli import console
    from mis_lib.recipes.export import export

    made = export(
        path,
        form,
        out,
        loader=loader,
        split=split,
        folder=image_folder,
        images=images,
        leave_out_masked=leave_out_masked,
    )
    if as_json:
        console.print_json(made.model_dump(mode="json"))
        return
    counts = f"{made.samples:,} samples, {made.images:,} images: {made.file}"
    console.out.print(counts, highlight=False, soft_wrap=True)
    if made.left_out:
        console.out.print(f"{made.left_out:,} rows with mask_eos left out", highlight=False)
    console.out.print(made.usage, highlight=False, markup=False, soft_wrap=True)
