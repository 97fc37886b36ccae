"""``mis report``: from nothing to the table of rates, and for free the second time.

Builds model and data if they are missing, generates what has no response yet, judges what has no verdict yet, and prints the rates of
every variant and split with n and Wilson intervals. Responses and verdicts are kept in a run folder (``store.runs``); the model is not even
loaded if nothing is left to generate.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mis_lib import console
from mis_lib.analysis.naming import ensure_naming_data, naming_samples, naming_table
from mis_lib.analysis.tables import render, rich_table
from mis_lib.configs import GenerationSettings, Settings, TableFormat
from mis_lib.construct.images import STYLES
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records
from mis_lib.judge import rule
from mis_lib.metrics import GROUPINGS, Row, table
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.store.runs import Run, RunConfig, folder_digest, open_run

NAMING_TOKENS = 48


class ReportSettings(Settings):
    """What is evaluated and where it is kept; every field has a default that needs nothing but this package."""

    variants: tuple[str, ...] = ("mini", "mirage", "refusal", "textual")
    splits: tuple[str, ...] = ("easy", "hard", "real")
    by: str = "split"
    data: Path | None = None
    """Folder with one JSON Lines file a split; MIS-Mini if not given."""
    checkpoint: Path | None = None
    """Checkpoint folder; the embedded model if not given."""
    adapters: dict[str, Path | None] | None = None
    """PEFT folder of each variant (null: the checkpoint itself); the shipped ones if not given."""
    generation: GenerationSettings = GenerationSettings()
    batch_size: int = 16
    device: str = "cpu"
    limit: int | None = None
    """At most so many harmful items a split, each with its twin."""
    runs: Path = Path("runs")
    name: str = "report"
    naming: bool = False
    styles: tuple[str, ...] = STYLES


class Evaluation(NamedTuple):
    """What was asked and answered, and how it was judged."""

    run: Run
    samples: list[Sample]
    responses: list[Response]
    verdicts: list[Verdict]


def report(settings: ReportSettings, form: TableFormat = TableFormat.TEXT) -> None:
    """Evaluate and print the table in the form asked for.

    Raises:
        MisError: a variant, split, file or model cannot be used; the message says which and why.
    """
    _check(settings)
    evaluation = evaluate_naming(settings) if settings.naming else evaluate(settings)
    rows = report_rows(evaluation, settings)
    evaluation.run.write_metrics(rows)
    config = evaluation.run.config
    title = (
        "Concepts named"
        if settings.naming
        else f"Safety and helpfulness by {settings.by.replace('_', '-')}, rule judge"
    )
    title = f"{title} [{config.tag}]"
    if form is TableFormat.TEXT:
        console.out.print(rich_table(rows, title))
        console.say(f"run folder: {evaluation.run.folder}")
    else:
        sys.stdout.write(render(rows, form, tag=config.tag, title=title))


def evaluate(settings: ReportSettings) -> Evaluation:
    """Generate and judge whatever of ``settings`` has not been generated and judged yet."""
    folder = settings.data or _mini_data()
    samples = [sample for split in settings.splits for sample in read_split(folder, split, settings.limit)]
    run, responses = answer_all(samples, folder, settings, settings.name)
    verdicts = run.judge_all(rule.JUDGE, rule.fingerprint(), rule.judge, samples)
    return Evaluation(
        run, samples, responses, [verdict for verdict in verdicts if verdict.variant in settings.variants]
    )


def evaluate_naming(settings: ReportSettings) -> Evaluation:
    """Ask every variant what each concept's picture shows, in every style, alone and in pairs."""
    folder = ensure_naming_data(console.say)
    samples = naming_samples(settings.styles, settings.limit)
    short = settings.generation.model_copy(
        update={"max_new_tokens": min(NAMING_TOKENS, settings.generation.max_new_tokens)}
    )
    run, responses = answer_all(
        samples, folder, settings.model_copy(update={"generation": short}), f"{settings.name}-naming"
    )
    return Evaluation(run, samples, responses, [])


def report_rows(evaluation: Evaluation, settings: ReportSettings) -> list[Row]:
    """The rows of the table, group by group, variants in the order asked for."""
    if settings.naming:
        return naming_table(evaluation.samples, evaluation.responses)
    rows = table(
        evaluation.verdicts, evaluation.samples, evaluation.responses, by=settings.by, total=settings.by != "split"
    )
    groups = list(dict.fromkeys(row.group for row in rows))
    return sorted(rows, key=lambda row: (groups.index(row.group), settings.variants.index(row.variant)))


def answer_all(
    samples: Sequence[Sample], data: Path, settings: ReportSettings, name: str
) -> tuple[Run, list[Response]]:
    """Open the run, generate what is missing, and return the responses of these samples and variants, in the order asked for."""
    checkpoint, adapters = settings.checkpoint or _mini_checkpoint(), _adapters(settings)
    config = RunConfig(
        tag="mini" if settings.checkpoint is None else checkpoint.name,
        checkpoint=str(checkpoint),
        checkpoint_digest=folder_digest(checkpoint),
        data=str(data),
        data_digest=folder_digest(data),
        generation=settings.generation,
        batch_size=settings.batch_size,
        device=settings.device,
        variants={variant: "" if folder is None else folder_digest(folder) for variant, folder in adapters.items()},
    )
    run = open_run(settings.runs, name, config)
    run.keep_samples(samples)
    done = {(response.sample_id, response.variant) for response in run.responses()}
    missing = [(sample.id, variant) for variant in adapters for sample in samples if (sample.id, variant) not in done]
    if missing:
        _generate(samples, data, run, settings, checkpoint, adapters, len(missing))
    answers = {(response.sample_id, response.variant): response for response in run.responses()}
    return run, [answers[sample.id, variant] for variant in settings.variants for sample in samples]


def read_split(folder: Path, split: str, limit: int | None = None) -> list[Sample]:
    """The samples of one split; with ``limit`` that many harmful items from the start of the file, each with its twin.

    Raises:
        DataError: there is no such split, or a line of it is wrong.
    """
    path = folder / f"{split}.jsonl"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "none"
        raise DataError(f"{path}: expected the data file of split {split!r}, found none; splits there: {there}")
    samples = read_records(path, Sample)
    if limit is None:
        return samples
    kept = [sample for sample in samples if sample.harmful][:limit]
    wanted = {sample.id for sample in kept} | {sample.twin_id for sample in kept}
    return [sample for sample in samples if sample.id in wanted]


def _generate(
    samples: Sequence[Sample],
    data: Path,
    run: Run,
    settings: ReportSettings,
    checkpoint: Path,
    adapters: Mapping[str, Path | None],
    missing: int,
) -> None:
    console.say(f"Generating {missing:,} responses; an interrupted run goes on where it stopped")
    from mis_lib.generate.local import generate  # torch and transformers take seconds to import
    from mis_lib.models.load import load_model

    model = load_model(checkpoint, adapters, settings.device)
    names = {variant: None if folder is None else variant for variant, folder in adapters.items()}
    responses = generate(samples, data, model, names, settings.generation, run.folder, batch_size=settings.batch_size)
    for _ in _shown(responses, missing):
        pass


def _shown(responses: Iterable[Response], total: int) -> Iterable[Response]:
    """Pass the responses on under a progress bar on standard error."""
    columns = (
        TextColumn("generating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console.log, transient=True) as progress:
        task = progress.add_task("", total=total)
        for response in responses:
            progress.update(task, advance=1, description=response.variant)
            yield response


def _check(settings: ReportSettings) -> None:
    """Refuse what cannot be done before anything is built or loaded."""
    known = settings.adapters if settings.adapters is not None else _shipped()
    _all_known("--variants", settings.variants, known)
    _all_known("--styles", settings.styles, STYLES)
    _all_known("--by", [settings.by], GROUPINGS)
    if settings.limit is not None and settings.limit < 1:
        raise SettingsError(f"--limit: expected 1 or more, found {settings.limit}")


def _all_known(flag: str, values: Sequence[str], known: Iterable[str]) -> None:
    listed = list(known)
    for value in values:
        if value not in listed:
            raise SettingsError(f"{flag}: unknown {value!r}; known here: {', '.join(listed)}")
    if not values or len(set(values)) != len(values):
        raise SettingsError(
            f"{flag}: expected each of {', '.join(listed)} at most once and at least one, found {values}"
        )


def _adapters(settings: ReportSettings) -> dict[str, Path | None]:
    known: Mapping[str, Path | None] = settings.adapters if settings.adapters is not None else _shipped()
    return {variant: known[variant] for variant in settings.variants}


def _shipped() -> dict[str, Path | None]:
    from mis_lib.models.shipped import shipped_variants

    return shipped_variants()


def _mini_checkpoint() -> Path:
    from mis_lib.models.mini import ensure_mini

    return ensure_mini(console.say)


def _mini_data() -> Path:
    from mis_lib.construct.pipeline import ensure_mini_data

    return ensure_mini_data(console.say)
