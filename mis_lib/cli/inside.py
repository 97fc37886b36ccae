"""Verbs that look inside: whether all forms of a model are one (``parity``), and what tuning did to it (``analyse``)."""

import json
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
    RunsFolder,
    SetValues,
    adapter_folders,
    resolve,
)
from mis_lib.settings import AnalysisMethod

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
    from mis_lib import console
    from mis_lib.recipes.parity import LOCAL, Form, ParitySettings, parity, show

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
        console.out.print(show(report), highlight=False)
    if not report.same:
        raise typer.Exit(FAILED_ITEMS)


@verbs.command(name="analyse", cls=ManyValues)
def analyse_variants(
    method: Annotated[AnalysisMethod, typer.Argument(help="What to look at.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants [default: mini mirage refusal textual]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: hard]")] = None,
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each adapter [default: those shipped]")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs [default: 24]")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--formats", help="formats: question caption translation classification code [default: all]"),
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", help="separation: whose items are drawn.")] = None,
    device: Device = None,
    runs: RunsFolder = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    as_json: AsJson = False,
) -> None:
    """Look inside: separation (by layer), spectrum (of the weight change), formats (other tasks), safeground (and weight edits)."""
    from mis_lib import console
    from mis_lib.recipes.analyse import AnalyseSettings, analyse, show

    named = adapter_folders(adapters)
    folders = None if named is None else {"mini" if checkpoint is None else "base": None, **named}
    flags = {
        "variants": variants, "splits": splits, "data": data, "checkpoint": checkpoint, "adapters": folders, "limit": limit,
        "formats": formats, "layer": layer, "device": device, "runs": runs,
    }  # fmt: skip
    result = analyse(method, resolve(AnalyseSettings, config, flags, sets))
    if as_json:
        frames = {name: json.loads(frame.to_json(orient="records") or "[]") for name, frame in result.frames.items()}
        console.print_json({"run": str(result.run.folder), **frames})
    else:
        show(result)
