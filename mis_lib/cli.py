"""``mis VERB``: every job of the workbench from a shell.

Verbs are thin: they read flags, call one function of the library and show what it returns. Heavy modules are imported inside the verb that
needs them, so that ``mis --help`` answers at once. Long flags carry underscores, several values may follow one flag
(``--images a.png b.png``), ``--json`` prints for programs. Exit status: 0 done, 1 done with failed items, 2 a mistake in what was asked for.
"""

import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mis_lib import __version__
from mis_lib.commands.parsing import FAILED_ITEMS, ManyValues, Verbs, named_paths
from mis_lib.configs import TableFormat
from mis_lib.errors import MisError, SettingsError

app = typer.Typer(
    cls=Verbs,
    help="MIS workbench: multi-image safety of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
benches = typer.Typer(cls=Verbs, help="Measure what something costs on this machine.", no_args_is_help=True)
app.add_typer(benches, name="bench")


class Stage(StrEnum):
    """Steps that make the shipped weights anew: raw material, base, adapters."""

    GATHER = "gather"
    BASE = "base"
    MIRAGE = "mirage"
    REFUSAL = "refusal"
    TEXTUAL = "textual"


class Source(StrEnum):
    """How data is constructed: MIS-Mini from the element table, or by teachers stage by stage."""

    OBJECTS = "objects"
    STAGES = "stages"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        sys.stdout.write(f"mis {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Flags before the verb."""


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what is installed, which device, which weights and data are in place, and what is missing for what."""
    from mis_lib import console
    from mis_lib.doctor import examine

    found = examine()
    if as_json:
        console.print_json({"ready": found.ready, **found.model_dump(mode="json")})
    else:
        console.out.print(console.diagnosis(found))
    if not found.ready:
        raise typer.Exit(FAILED_ITEMS)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    ctx: typer.Context,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="SmolLM2's GGUF file, on a machine without a package index.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build anew even if the cached model is intact.")] = False,
    train: Annotated[
        Stage | None,
        typer.Option(
            "--train", help="Train shipped weights anew instead; further flags go to the stage (--train_help)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the embedded model together in the cache (about 20 s); nothing to do if it is there and intact."""
    if train is not None:
        raise typer.Exit(run_stage(train, ctx.args))
    if ctx.args:
        raise SettingsError(f"mis build: unknown {' '.join(ctx.args)}; known flags: mis build --help")
    from mis_lib import console
    from mis_lib.models.mini import ensure_mini

    folder = ensure_mini(console.say, gguf=gguf, force=force)
    if as_json:
        console.print_json({"checkpoint": str(folder)})
    else:
        console.out.print(f"model mini: {folder}", highlight=False, soft_wrap=True)


def run_stage(stage: Stage, args: list[str]) -> int:
    """Run a training stage in a process of its own, so that its memory and its GPU are free afterwards; returns its status."""
    adapter = stage not in (Stage.GATHER, Stage.BASE)
    module = f"mis_lib.train.miniature.{'safety' if adapter else stage.value}"
    flags = [
        *(["--stage", stage.value] if adapter else []),
        *("--help" if arg == "--train_help" else arg for arg in args),
    ]
    return subprocess.run([sys.executable, "-m", module, *flags], check=False).returncode


@app.command(name="construct")
def construct_data(
    out: Annotated[Path, typer.Option("--out", help="Folder to make; objects: an earlier build there is replaced.")],
    source: Annotated[
        Source, typer.Option("--source", help="objects: MIS-Mini; stages: teachers, seed by seed, resumable.")
    ] = Source.OBJECTS,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    elements: Annotated[
        Path | None, typer.Option("--elements", help="objects: folder with CSV files of your own, added to the table.")
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
        "set": sets, "elements": elements,
    }  # fmt: skip
    _check_source(source, [name for name, value in flags.items() if value is not None])
    if source is Source.STAGES:
        from mis_lib.commands.construct import ConstructSettings, construct_with_teachers
        from mis_lib.configs import load_settings

        values = {name: flags[name] for name in ("teacher", "images", "items", "seeds", "concurrency")}
        given = [f"{name}={json.dumps(value, default=str)}" for name, value in values.items() if value is not None]
        settings = load_settings(ConstructSettings, config, overrides=[*given, f"seed={seed}", *(sets or [])])
        construct_with_teachers(out, settings, stage=stage, as_json=as_json)
        return
    from mis_lib import console
    from mis_lib.construct.pipeline import construct

    summary = construct(out, seed, elements, console.say)
    if as_json:
        console.print_json({"out": str(out), "source": source.value, **summary.model_dump(mode="json")})
    else:
        console.out.print(console.summary(summary, out))


def _check_source(source: Source, given: list[str]) -> None:
    """Refuse flags that belong to the other way of constructing."""
    wrong = [name for name in given if (name == "elements") == (source is Source.STAGES)]
    if wrong:
        other = Source.OBJECTS if source is Source.STAGES else Source.STAGES
        raise SettingsError(f"--{wrong[0]} goes with --source {other.value}, found --source {source.value}")


@app.command(name="compare", cls=ManyValues)
def compare_variants(
    images: Annotated[list[Path], typer.Option("--images", help="One to six images, in order.")],
    question: Annotated[str, typer.Option("--question", help="What to ask about them.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants answer [default: mini mirage]")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="[default: the embedded model]")] = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each variant [default: those shipped]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="For temperatures above 0.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Let several variants answer one question about the same images, in one batch, with the reasoning in colours."""
    from mis_lib.commands.compare import compare
    from mis_lib.configs import GenerationSettings

    settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    compare(
        images,
        question,
        variants,
        settings,
        checkpoint=checkpoint,
        adapters=named_paths("--adapters", adapters),
        device=device,
        as_json=as_json,
    )


@app.command(name="report", cls=ManyValues)
def print_report(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants [default: mini mirage refusal textual]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Which splits [default: easy hard real]")] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Rows: split, category or sub_category [default: split]")
    ] = None,
    naming: Annotated[bool, typer.Option("--naming", help="What is recognised, instead of what is safe.")] = False,
    styles: Annotated[
        list[str] | None, typer.Option("--styles", help="With --naming: drawing styles [default: all]")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data files [default: MIS-Mini]")] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="[default: the embedded model]")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs a split, or concepts.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Rows generated together [default: 16]")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ... [default: cpu]")] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of all runs [default: runs]")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: report]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with these settings and more.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value, wins over the file.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Evaluate variants on MIS-Mini (or other data): build, generate, judge what is missing, and print the rates."""
    from mis_lib.commands.report import ReportSettings, report
    from mis_lib.configs import load_settings

    flags = {
        "variants": variants, "splits": splits, "by": by, "naming": naming or None, "styles": styles, "data": data, "checkpoint": checkpoint,
        "limit": limit, "batch_size": batch_size, "device": device, "runs": runs, "name": name,
    }  # fmt: skip
    given = [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value is not None]
    report(
        load_settings(ReportSettings, config, overrides=[*given, *(sets or [])]), TableFormat.JSON if as_json else form
    )


@benches.command(name="variants", cls=ManyValues)
def bench_variants(
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="[default: the embedded model]")] = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each variant [default: those shipped]")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=6, help="Images in the prompt.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens that every column writes.")] = 60,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything is measured.")] = 5,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Time one column against two and all of them, in one run: first token, tokens a second, ratios, memory."""
    from mis_lib import console
    from mis_lib.commands.bench import bench, show

    found = bench(
        checkpoint, named_paths("--adapters", adapters), images=images, tokens=tokens, rounds=rounds, device=device
    )
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    else:
        for part in show(found):
            console.out.print(part, highlight=False)


@app.command(
    name="app", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def open_app(ctx: typer.Context) -> None:
    """Open the app in a browser; takes the flags of python app.py (mis app --help lists them)."""
    import importlib.util

    spec = importlib.util.find_spec("workbench")  # found, not imported: the app sits on top of the library
    script = Path(spec.origin).parent.parent / "app.py" if spec and spec.origin else Path("app.py")
    if not script.exists():
        raise MisError(f"expected app.py beside the package, found none at {script}; run it from a checkout")
    try:
        raise typer.Exit(subprocess.run([sys.executable, str(script), *ctx.args], check=False).returncode)
    except KeyboardInterrupt as stop:  # Ctrl-C has reached the app too, which ends by itself
        raise typer.Exit from stop


if __name__ == "__main__":
    app()
