"""Verbs of an evaluation's two halves: answers (``generate``) and verdicts on them (``judge``)."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mis_lib.commands.parsing import FAILED_ITEMS, AsJson, ManyValues
from mis_lib.errors import SettingsError

verbs = typer.Typer()


@verbs.command(name="generate", cls=ManyValues)
def generate_answers(
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which answer [default: all that are named, or the shipped]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder, data file or published set [default: MIS-Mini]")
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Of a folder [default: easy hard real]")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many pairs a split.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder, or hub id in the local cache [default: embedded model]")
    ] = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each further variant, beside base.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="URL#MODEL of an OpenAI-compatible server that answers instead.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--models", help="VARIANT=NAME of each served model or LoRA.")
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
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ... [default: cpu]")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, ... [default: what suits the machine]")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: this process is the I-th of N [default: as accelerate tells]")
    ] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of all runs [default: runs]")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run [default: generate]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with these settings and more.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value, wins over the file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let variants answer samples, batched here or by a server; resumable, sharded, nothing generated twice."""
    from mis_lib import console
    from mis_lib.commands.generate import GenerateSettings, generate_run
    from mis_lib.configs import load_settings

    flags = {
        "variants": variants, "data": data, "splits": splits, "limit": limit, "checkpoint": checkpoint, "server": server, "images_as": images_as,
        "concurrency": concurrency, "generation.max_new_tokens": max_new_tokens, "generation.temperature": temperature, "batch_size": batch_size,
        "batch_tokens": batch_tokens, "device": device, "dtype": dtype, "shard": shard, "runs": runs, "name": name,
        "adapters": _named("--adapters", adapters, {"base": None}), "models": _named("--models", models),
    }  # fmt: skip
    settings = load_settings(GenerateSettings, config, overrides=[*overrides(flags), *(sets or [])])
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


def overrides(flags: dict[str, Any]) -> list[str]:
    """Flags that were given, as ``key=value`` for ``load_settings``."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value is not None]


def _named(flag: str, values: list[str] | None, first: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """``["one=a", "two=b"]`` as a mapping, after ``first``; ``None`` if nothing was given."""
    if not values:
        return None
    pairs = dict(first or {})
    for value in values:
        name, _, target = value.partition("=")
        if not name or not target:
            raise SettingsError(f"{flag}: expected NAME=VALUE, found {value!r}")
        pairs[name] = target
    return pairs
