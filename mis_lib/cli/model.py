"""Verbs about models: ``doctor`` (what is installed), ``build``, ``merge``, ``compare``, ``app``."""

import subprocess
import sys
from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mis_lib.cli.checkout import command_of
from mis_lib.cli.options import AsJson, ManyValues, OnDevice, adapter_folders, prompt_files
from mis_lib.cli.parsing import FAILED_ITEMS
from mis_lib.errors import MisError, SettingsError
from mis_lib.settings import IMAGE_PIXELS, Quantization

verbs = typer.Typer()


class Stage(StrEnum):
    """What ``--train`` runs: gather data, train the base, its CPU steps, its vision on a GPU, or ship an adapter."""

    GATHER = "gather"
    BASE = "base"
    CPU = "cpu"
    FRESH = "fresh"
    SHIP = "ship"


MODULES = {Stage.GATHER: "gather", Stage.BASE: "base", Stage.CPU: "on_cpu", Stage.FRESH: "fresh", Stage.SHIP: "ship"}


@verbs.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what is installed, the device, weights and data, and what is missing for which purpose."""
    from mis_lib.cli import console
    from mis_lib.cli.doctor import examine

    found = examine()
    if as_json:
        console.print_json({"ready": found.ready, **found.model_dump(mode="json")})
    else:
        console.out.print(console.diagnosis(found))
    if not found.ready:
        raise typer.Exit(FAILED_ITEMS)


@verbs.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    ctx: typer.Context,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="SmolLM2's GGUF file, on a machine without a package index.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again even if the cached model is intact.")] = False,
    train: Annotated[
        Stage | None,
        typer.Option(
            "--train",
            help="Instead: gather FOLDER the training data, train the base, its vision (fresh), or ship FOLDER NAME of "
            "an adapter; further words go to the stage (--train_help).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Assemble the embedded model in the cache (about 20 s), unless it is there and intact."""
    if train is not None:
        raise typer.Exit(run_stage(train, ctx.args))
    if ctx.args:
        raise SettingsError(f"mis build: unknown {' '.join(ctx.args)}; known flags: mis build --help")
    from mis_lib.cli import console
    from mis_lib.models.mini.assemble import ensure_mini

    folder = ensure_mini(console.say, gguf=gguf, force=force)
    if as_json:
        console.print_json({"checkpoint": str(folder)})
    else:
        console.out.print(f"model mini: {folder}", highlight=False, soft_wrap=True)


def run_stage(stage: Stage, args: list[str]) -> int:
    """Run a training stage in a separate process, which frees memory and GPU at its end; returns its status."""
    flags = ["--help" if arg == "--train_help" else arg for arg in args]
    command, environment = command_of(f"research.mini.{MODULES[stage]}", flags, f"mis build --train {stage}")
    return subprocess.run(command, env=environment, check=False).returncode


@verbs.command(name="compare", cls=ManyValues)
def compare_variants(
    question: Annotated[str, typer.Option("--question", help="What to ask.")],
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="At most six images, in order; without any, words alone.")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variants", help="Which variants answer (default: mini mirage, or all that are named)."),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            help="NAME=FILE: texts around a question, for --variants base+NAME (default: the shipped).",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint", help="Checkpoint folder or hub id, or NAME=PATH of several (default: the embedded model)"
        ),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapters",
            help="NAME=FOLDER of each PEFT adapter or NAME=FILE of a weight edit, NAME@CHECKPOINT=FOLDER where it does "
            "not say on which (default: the shipped adapters)",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", help="URL or URL#MODEL of an OpenAI-compatible server; its models answer."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Served models: MODEL, NAME=MODEL, or NAME=URL#MODEL of another server."),
    ] = None,
    image_pixels: Annotated[
        int, typer.Option("--image_pixels", min=64 * 64, help="Most pixels of an image that a server is sent.")
    ] = IMAGE_PIXELS,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="For temperatures above 0.")] = 0,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            "--chat_template_kwargs", help='JSON of variables for the chat template, as {"enable_thinking": false}.'
        ),
    ] = None,
    device: OnDevice = "auto",
    quantization: Annotated[
        Quantization | None,
        typer.Option("--quantization", help="nf4 (4 bits a weight) or int8: linear layers' weights (bitsandbytes)."),
    ] = None,
    min_pixels: Annotated[int | None, typer.Option("--min_pixels", min=1, help="Of one image (grids).")] = None,
    max_pixels: Annotated[int | None, typer.Option("--max_pixels", min=1, help="Of one image (grids).")] = None,
    max_dynamic_patch: Annotated[
        int | None, typer.Option("--max_dynamic_patch", min=1, help="Tiles of one image (default: the adapter's own).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show several variants' answers, local or served, to one question about the same images; segments in colours."""
    from mis_lib.cli import console
    from mis_lib.generate.prompting import Prompting
    from mis_lib.generate.served import read_served
    from mis_lib.models.adapters import ImageLimits, read_checkpoints
    from mis_lib.recipes.compare import compare
    from mis_lib.settings import GenerationSettings

    asked_for: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "chat_template_kwargs": chat_template_kwargs,
    }
    settings = GenerationSettings(**asked_for)
    served = read_served(server, models)
    stream = compare(
        images or [],
        question,
        variants,
        settings,
        checkpoint=read_checkpoints(checkpoint),
        adapters=adapter_folders(adapters),
        device=device,
        quantization=quantization,
        served=served,
        image_pixels=image_pixels,
        prompts={name: Prompting.model_validate(file) for name, file in prompt_files(prompts or [], {}).items()},
        limits=ImageLimits(min_pixels=min_pixels, max_pixels=max_pixels, max_dynamic_patch=max_dynamic_patch),
    )
    if as_json or not console.out.is_terminal:
        columns = deque(stream, maxlen=1)[0]
    else:
        columns = console.stream_answers(stream, served)
    if as_json:
        asked = {
            "question": question,
            "images": [str(path) for path in images or []],
            "settings": settings.model_dump(),
        }
        records = [console.answer_record(column, served.get(column.variant)) for column in columns]
        console.print_json({**asked, "answers": records})
    else:
        console.out.print(console.answers(columns, served))
    if any(column.finish_reason == "failed" for column in columns):
        raise typer.Exit(FAILED_ITEMS)


@verbs.command(name="merge")
def merge_variant(
    adapter: Annotated[
        Path, typer.Argument(help="PEFT folder, a run of mis train (runs/NAME/v1), or a shipped variant's name.")
    ],
    out: Annotated[Path, typer.Argument(help="New folder for the checkpoint.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="Checkpoint folder or hub id (default: the one that the adapter was trained on)"
        ),
    ] = None,
    device: OnDevice = "auto",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16 (default: the checkpoint's own)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a tuned model as one checkpoint with the adapter merged, for programs that take no PEFT adapter."""
    from mis_lib.cli import console
    from mis_lib.recipes.merge import merge_adapter

    folder = merge_adapter(adapter, out, checkpoint=checkpoint, device=device, dtype=dtype)
    if as_json:
        console.print_json({"checkpoint": str(folder)})
    else:
        console.out.print(f"checkpoint: {folder}", highlight=False, soft_wrap=True)


@verbs.command(
    name="app", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def open_app(ctx: typer.Context) -> None:
    """Open the app in a browser; takes the options of python app.py (listed by mis app --help)."""
    import importlib.util

    spec = importlib.util.find_spec("workbench")  # found, not imported: the library does not depend on the app
    script = Path(spec.origin).parent.parent / "app.py" if spec and spec.origin else Path("app.py")
    if not script.exists():
        raise MisError(f"expected app.py next to the package, found none at {script}; run it from a checkout")
    try:
        raise typer.Exit(subprocess.run([sys.executable, str(script), *ctx.args], check=False).returncode)
    except KeyboardInterrupt as stop:  # Ctrl-C has reached the app, too
        raise typer.Exit from stop
