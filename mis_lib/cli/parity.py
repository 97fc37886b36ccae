"""``mis parity``: whether all forms of a tuned model read and say the same."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.cli.parsing import (
    FAILED_ITEMS,
    AsJson,
    Checkpoint,
    ConfigFile,
    DataFolder,
    Device,
    ManyValues,
    SetValues,
    adapter_folders,
    resolve,
)

verbs = typer.Typer()


@verbs.command(name="parity", cls=ManyValues)
def check_parity(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which adapters [default: all of them]")
    ] = None,
    forms: Annotated[
        list[str] | None,
        typer.Option("--forms", help="training rows merged reloaded engine served [default: all but served]"),
    ] = None,
    checkpoint: Checkpoint = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each adapter [default: those shipped]")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option("--merged", help="A checkpoint merged elsewhere, to hold against one adapter.")
    ] = None,
    served: Annotated[
        str | None, typer.Option("--served", help="A running server: URL or URL#MODEL; implies the form served.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option("--images", help="Ask about these images ...")] = None,
    question: Annotated[
        str | None, typer.Option("--question", help="... this question [default: items of the data]")
    ] = None,
    data: DataFolder = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many items [default: 2]")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max_new_tokens", help="[default: 24]")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16 [default: float32]")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep everything that was compared in this JSON file.")
    ] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an adapter in training, merged, re-loaded, in the app's engine and served reads and says the same."""
    from mis_lib.cli import console
    from mis_lib.cli.show.parity import shown
    from mis_lib.recipes.parity import LOCAL, Form, ParitySettings, parity

    if served and not forms:
        forms = [*LOCAL, Form.SERVED]
    flags = {
        "variants": variants, "forms": forms, "checkpoint": checkpoint, "adapters": adapter_folders(adapters), "merged": merged,
        "served": served, "images": images, "question": question, "data": data, "limit": limit, "max_new_tokens": max_new_tokens,
        "device": device, "dtype": dtype, "out": out,
    }  # fmt: skip
    report = parity(resolve(ParitySettings, config, flags, sets))
    if as_json:
        console.print_json({"same": report.same, **report.model_dump(mode="json")})
    else:
        console.out.print(shown(report), highlight=False)
    if not report.same:
        raise typer.Exit(FAILED_ITEMS)
