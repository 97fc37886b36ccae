"""Verbs of an evaluation's two halves, answers (``generate``) and verdicts on them (``judge``), and what they cost (``bench``)."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.measure import benches
from mis_lib.cli.parsing import (
    FAILED_ITEMS,
    Adapters,
    AsJson,
    Checkpoint,
    ConfigFile,
    DataFolder,
    Device,
    ManyValues,
    Only,
    RunsFolder,
    SetValues,
    adapter_folders,
    beside_base,
    resolve,
)
from mis_lib.errors import SettingsError
from mis_lib.schema import Outcome
from mis_lib.settings import TableFormat

if TYPE_CHECKING:
    from mis_lib.results.tables import Table

verbs = typer.Typer()

REASONS = 3  # why a judge could not rule: so many are told, the most frequent first


@verbs.command(name="generate", cls=ManyValues)
def generate_answers(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which answer [default: all that are named, or the shipped]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder, data file or published set [default: MIS-Mini]")
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option("--splits", help="Of a folder [default: those of easy hard real that are there, or all]"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs a split.")] = None,
    only: Only = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder, or hub id in the local cache [default: embedded model]")
    ] = None,
    adapters: Adapters = None,
    server: Annotated[
        str | None, typer.Option("--server", help="URL#MODEL of an OpenAI-compatible server that answers instead.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--models", help="Served models or LoRAs: MODEL, or VARIANT=MODEL.")
    ] = None,
    images_as: Annotated[
        str | None, typer.Option("--images_as", help="server: base64, or file (paths that it sees) [default: base64]")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="server: requests under way at a time [default: 16]")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max_new_tokens", help="Longest answer [default: 1024, as in the paper]")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="[default: 0, greedy]")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="Most rows of a batch [default: 16]")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch_tokens", help="Most tokens of a batch, padded [default: 32768]")
    ] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, ... [default: what suits the machine]")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: this process is the I-th of N [default: as accelerate tells]")
    ] = None,
    runs: RunsFolder = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: generate]")] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    as_json: AsJson = False,
) -> None:
    """Let variants answer samples, batched here or by a server; resumable, sharded, nothing generated twice."""
    from mis_lib.cli import console
    from mis_lib.generate.served import named_models
    from mis_lib.recipes.generate import GenerateSettings, generate_run

    flags = {
        "variants": variants, "data": data, "splits": splits, "limit": limit, "only": only, "checkpoint": checkpoint, "server": server, "images_as": images_as,
        "concurrency": concurrency, "generation.max_new_tokens": max_new_tokens, "generation.temperature": temperature, "batch_size": batch_size,
        "batch_tokens": batch_tokens, "device": device, "dtype": dtype, "shard": shard, "runs": runs, "name": name,
        "adapters": beside_base(adapters), "models": named_models(models),
    }  # fmt: skip
    settings = resolve(GenerateSettings, config, flags, sets)
    done = generate_run(settings)
    if as_json:
        failed = [failure._asdict() for failure in done.missing]
        console.print_json({"run": str(done.run.folder), "answers": len(done.responses), "failed": failed})
    else:
        console.out.print(f"{len(done.responses):,} answers in {done.run.folder}", highlight=False, soft_wrap=True)
        for failure in done.missing[:5]:
            console.say(f"no answer: {failure.sample_id} by {failure.variant}: {failure.reason}")
        if done.missing:
            console.say(f"{len(done.missing):,} answers are missing; run the same command again to go on")
    if done.missing:
        raise typer.Exit(FAILED_ITEMS)


@verbs.command(name="judge", cls=ManyValues)
def judge_answers(
    run: Annotated[Path, typer.Argument(help="Run folder: runs/NAME/vN, or runs/NAME for its newest version.")],
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judges",
            help="[NAME:]KIND[=URL#MODEL|local:PATH]; kinds: rule, words, rubric, guard, precondition [default: rule]",
        ),
    ] = None,
    variants: Annotated[list[str] | None, typer.Option("--variants", help="Only their answers.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of samples and images, if it has moved.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Answers that each judge works on at a time [default: 16]")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Of local judges [default: cpu]")] = None,
    retry_unscored: Annotated[bool, typer.Option("--retry_unscored", help="Rule again on what is unscored.")] = False,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", help="Compare this judge, which has ruled, with people's labels of a random draw."),
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--people", help="Labels, JSON Lines of verdicts [default: the annotations]")
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option("--route", help="CHEAP EXPENSIVE TRUTH: train a router between two judges that have ruled."),
    ] = None,
    config: ConfigFile = None,
    sets: SetValues = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Let judges rule on the answers of a run, several at once; compare them, calibrate them, route between them."""
    from mis_lib.cli import console
    from mis_lib.recipes import judgements
    from mis_lib.recipes.judge import JudgeSettings, judge_run, read_judges
    from mis_lib.results.evaluated import open_folder

    failed = False
    if calibrate is not None:
        tables = [judgements.calibration_table(run, calibrate, people, data)]
    elif route is not None:
        if len(route) != 3:
            raise SettingsError(f"--route: expected CHEAP EXPENSIVE TRUTH, found {' '.join(route)}")
        path, tables = judgements.route(run, *route, data=data)
        console.say(f"router: {path}")
    else:
        named = None if judges is None else read_judges(judges)
        flags = {
            "judges": named, "variants": variants, "data": data, "concurrency": concurrency, "device": device,
            "retry_unscored": retry_unscored or None,
        }  # fmt: skip
        settings = resolve(JudgeSettings, config, flags, sets)
        verdicts = judge_run(run, settings)
        tables = judgements.swap_tables(open_folder(run), list(verdicts), settings.data, settings.variants)
        for name, given in verdicts.items():
            lost = [one for one in given if one.outcome is Outcome.UNSCORED]
            failed = failed or bool(lost)
            if lost:
                console.say(f"{name}: {len(lost):,} of {len(given):,} unscored, most of all:")
                for reason, count in Counter(one.reason for one in lost).most_common(REASONS):
                    console.say(f"  {count:,}: {reason}")
    _show(tables, TableFormat.JSON if as_json else form)
    if failed:
        raise typer.Exit(FAILED_ITEMS)


@benches.command(name="generate", cls=ManyValues)
def bench_generation(
    checkpoint: Checkpoint = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each variant [default: those shipped]")
    ] = None,
    variants: Annotated[list[str] | None, typer.Option("--variants", help="[default: base and one adapter]")] = None,
    data: DataFolder = None,
    split: Annotated[str, typer.Option("--split", help="Of the data.")] = "hard",
    items: Annotated[int, typer.Option("--items", min=1, help="Pairs of the split.")] = 12,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Longest answer.")] = 96,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Rows of a batch.")] = 32,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of both: float32, bfloat16 ...")] = "float32",
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Time batched generation against one question at a time, as the paper's scripts ask, and compare the answers."""
    from mis_lib.settings import GenerationSettings

    bench = outside("benchmarks.generate", "mis bench generate")
    found = bench.bench_generate(
        checkpoint,
        adapter_folders(adapters),
        variants,
        data=data,
        split=split,
        items=items,
        settings=GenerationSettings(max_new_tokens=max_new_tokens),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    _show([bench.generation_table(found)], TableFormat.JSON if as_json else form)


@benches.command(name="judge")
def bench_judging(
    items: Annotated[int, typer.Option("--items", min=2, help="Answers to judge.")] = 48,
    in_flight: Annotated[int, typer.Option("--in_flight", min=2, help="Calls at a time.")] = 16,
    delay: Annotated[
        float, typer.Option("--delay", min=0.0, help="Seconds for a reply; hosted judges take 1 to 3.")
    ] = 1.0,
    fail_one_in: Annotated[int, typer.Option("--fail_one_in", min=2, help="One call in so many fails.")] = 5,
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Time judging with many calls in flight against one at a time, on a server of our own whose calls fail."""
    bench = outside("benchmarks.judge", "mis bench judge")
    found = bench.bench_judge(items=items, in_flight=in_flight, delay=delay, fail_one_in=fail_one_in)
    _show([bench.judge_table(found)], TableFormat.JSON if as_json else form)
    if found.same < found.items or found.unscored:
        raise typer.Exit(FAILED_ITEMS)


def _show(tables: "list[Table]", form: TableFormat) -> None:
    from mis_lib.cli import console
    from mis_lib.results.tables import render, rich_tables

    if form is TableFormat.TEXT:
        console.out.print(rich_tables(tables))
    else:
        sys.stdout.write(render(tables, form))
