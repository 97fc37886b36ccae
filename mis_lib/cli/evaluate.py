"""The two halves of an evaluation, answers (``mis generate``) and verdicts (``mis judge``), and their benchmarks."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mis_lib.cli.checkout import outside
from mis_lib.cli.measure import benches
from mis_lib.cli.options import AsJson, ManyValues, adapter_folders, given, options_of, prompt_files, resolve, with_base
from mis_lib.cli.parsing import FAILED_ITEMS
from mis_lib.errors import SettingsError
from mis_lib.schema import Outcome
from mis_lib.settings import TableFormat

if TYPE_CHECKING:
    from mis_lib.results.tables import Table

verbs = typer.Typer()

REASONS = 3  # most frequent reasons of unscored answers that are shown


def _models(values: Sequence[str], _: Mapping[str, Any]) -> dict[str, str] | None:
    from mis_lib.generate.served import named_models

    return named_models(values)


GENERATE = options_of(
    "mis_lib.recipes.settings:GenerateSettings",
    "variants prompts data splits limit only checkpoint adapters server models images_as image_pixels concurrency "
    "generation.max_new_tokens generation.temperature batch_size batch_tokens device dtype quantization min_pixels "
    "max_pixels max_dynamic_patch shard runs name",
    adapters=with_base,
    models=_models,
    prompts=prompt_files,
)


@verbs.command(name="generate", cls=GENERATE)
def generate_answers(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Generate the variants' answers to samples, in batches here or by a server; resumable and sharded."""
    from mis_lib.cli import console
    from mis_lib.recipes.generate import generate_run
    from mis_lib.recipes.settings import GenerateSettings

    done = generate_run(resolve(ctx, GenerateSettings))
    if as_json:
        failed = [failure._asdict() for failure in done.missing]
        counts = {"answers": len(done.responses), "cut": done.cut, "cut_in_thought": done.cut_in_thought}
        console.print_json({"run": str(done.run.folder), **counts, "failed": failed})
    else:
        console.out.print(f"{len(done.responses):,} answers in {done.run.folder}", highlight=False, soft_wrap=True)
        for failure in done.missing[:5]:
            console.say(f"no answer: {failure.sample_id} by {failure.variant}: {failure.reason}")
        if done.missing:
            console.say(f"{len(done.missing):,} answers are missing; run the same command again to continue")
    if done.missing:
        raise typer.Exit(FAILED_ITEMS)


def _judges(values: Sequence[str], _: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    from mis_lib.recipes.judge import read_judges

    return read_judges(values)


JUDGE = options_of(
    "mis_lib.recipes.judge:JudgeSettings",
    "judges variants data image_pixels concurrency device retry_unscored",
    judges=_judges,
)


@verbs.command(name="judge", cls=JUDGE)
def judge_answers(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder: runs/NAME/vN, or runs/NAME for its newest version.")],
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", help="Compare this judge's verdicts with people's labels of a random sample."),
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--people", help="Labels, JSON Lines of verdicts (default: the annotations)")
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            help="CHEAP EXPENSIVE TRUTH: train a router between two judges that have ruled; with --judges for CHEAP it "
            "reads hidden states.",
        ),
    ] = None,
    twins: Annotated[
        bool,
        typer.Option(
            "--twins", help="Measure the precondition judges of --judges on benign twins, without labels and verdicts."
        ),
    ] = False,
    thoughts: Annotated[
        bool,
        typer.Option("--thoughts", help="Also judge the thoughts of models that think, apart from their answers."),
    ] = False,
    form: Annotated[TableFormat, typer.Option("--format", help="How tables are written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Judge the answers of a run, with several judges at once; compare, calibrate and route judges."""
    from mis_lib.cli import console
    from mis_lib.recipes import judgements
    from mis_lib.recipes.judge import JudgeSettings, judge_run
    from mis_lib.results.evaluated import open_folder

    data = given(ctx).get("data")
    failed = False
    if calibrate is not None:
        tables = [judgements.calibration_table(run, calibrate, people, data)]
    elif route is not None:
        if len(route) != 3:
            raise SettingsError(f"--route: expected CHEAP EXPENSIVE TRUTH, found {' '.join(route)}")
        path, tables = judgements.route(run, *route, settings=resolve(ctx, JudgeSettings))
        console.say(f"router: {path}")
    elif twins:
        from mis_lib.recipes.twins import measure_twins

        tables = measure_twins(run, resolve(ctx, JudgeSettings))
    else:
        settings = resolve(ctx, JudgeSettings)
        verdicts = judge_run(run, settings)
        tables = judgements.swap_tables(open_folder(run), list(verdicts), settings.data, settings.variants)
        if thoughts:
            tables.append(judgements.judge_thoughts(run, settings, verdicts))
        for name, ruled in verdicts.items():
            lost = [one for one in ruled if one.outcome is Outcome.UNSCORED]
            failed = failed or bool(lost)
            if lost:
                console.say(f"{name}: {len(lost):,} of {len(ruled):,} unscored, most of all:")
                for reason, count in Counter(one.reason for one in lost).most_common(REASONS):
                    console.say(f"  {count:,}: {reason}")
    _show(tables, TableFormat.JSON if as_json else form)
    if failed:
        raise typer.Exit(FAILED_ITEMS)


@benches.command(name="generate", cls=ManyValues)
def bench_generation(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Checkpoint folder (default: the embedded model)")
    ] = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="NAME=FOLDER of each variant (default: those shipped)")
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants (default: base and one adapter)")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data files (default: MIS-Mini)")] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the data.")] = "hard",
    items: Annotated[int, typer.Option("--items", min=1, help="Number of pairs.")] = 12,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Longest answer, in tokens.")] = 96,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Rows of a batch.")] = 32,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Number type of the weights: float32, bfloat16 ...")
    ] = "float32",
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Measure batched generation against one question at a time, as in the paper's scripts; compare the answers."""
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
    items: Annotated[int, typer.Option("--items", min=2, help="Number of answers to judge.")] = 48,
    in_flight: Annotated[int, typer.Option("--in_flight", min=2, help="Calls at a time.")] = 16,
    delay: Annotated[
        float, typer.Option("--delay", min=0.0, help="Seconds until a reply; hosted judges take 1 to 3.")
    ] = 1.0,
    fail_one_in: Annotated[int, typer.Option("--fail_one_in", min=2, help="One call in so many fails.")] = 5,
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = TableFormat.TEXT,
    as_json: AsJson = False,
) -> None:
    """Measure judging with many calls at a time against one at a time, on a local server whose calls fail."""
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
