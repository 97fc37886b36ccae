"""``mis report``: from nothing to the table of rates, and for free the second time.

Builds model and data if they are missing, generates what has no response yet, judges what has no verdict yet, and prints the rates of
every variant and split with n and Wilson intervals. Responses and verdicts are kept in a run folder (``store.runs``); the model is not even
loaded if nothing is left to generate.
"""

import sys
from typing import NamedTuple

from mis_lib import console
from mis_lib.analysis.naming import ensure_naming_data, naming_samples, naming_table
from mis_lib.analysis.tables import render, rich_table
from mis_lib.commands.generate import GenerateSettings, all_known, answer_all, known_variants, mini_data, read_split
from mis_lib.configs import GenerationSettings, TableFormat
from mis_lib.construct.images import STYLES
from mis_lib.errors import SettingsError
from mis_lib.judge import rule
from mis_lib.metrics import GROUPINGS, Row, table
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.store.runs import Run

NAMING_TOKENS = 48


class ReportSettings(GenerateSettings):
    """What is evaluated and where it is kept; every field has a default that needs nothing but this package."""

    by: str = "split"
    generation: GenerationSettings = GenerationSettings()
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
    check(settings)
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
    folder = settings.data or mini_data()
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


def check(settings: ReportSettings) -> None:
    """Refuse what cannot be done before anything is built or loaded."""
    all_known("--variants", settings.variants, known_variants(settings))
    all_known("--styles", settings.styles, STYLES)
    all_known("--by", [settings.by], GROUPINGS)
    if settings.limit is not None and settings.limit < 1:
        raise SettingsError(f"--limit: expected 1 or more, found {settings.limit}")
