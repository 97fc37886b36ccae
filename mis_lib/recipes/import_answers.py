"""``mis import``: answers of another tool become a run, judged, compared, annotated and reported like any other.

What is not known of such answers is recorded as unknown: settings, tokens, time, why an answer ended. The run's
configuration records the digest of each variant's file, so the same call changes nothing, and a changed file opens the
next version.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mis_lib.data.import_answers import Given, Matched, match, read_answers
from mis_lib.errors import SettingsError
from mis_lib.files import append_records, open_append, sha256
from mis_lib.recipes.samples import data_digest, read_samples
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.schema import Response

BACKEND = "import"


class Imported(NamedTuple):
    """The run of an import, and what was found in the files."""

    run: Run
    answers: dict[str, int]
    """How many each variant has."""
    by: dict[str, str]
    """By what its rows were matched (``data.import_answers.Matched``)."""
    empty: list[tuple[str, str]]
    """Variant and id of rows that hold no answer."""
    asked: int
    unanswered: dict[str, list[str]]
    """Ids of the data for which a variant's file has no row."""


def import_answers(
    files: Mapping[str, Path], settings: GenerateSettings, *, field: str | None = None, tag: str | None = None
) -> Imported:
    """Write a run from the answers of other tools.

    Args:
        files: file of each variant.
        settings: data, splits, limit, runs and name; nothing is generated.
        field: which field holds the answer [default: recognised].
        tag: the model's name, for tables [default: the run's].

    Raises:
        DataError: data or answers cannot be read, or a row fits no sample, or several.
        SettingsError: no file is named, or the run's name cannot be a folder's, or another process is writing the run.
    """
    if not files:
        raise SettingsError("--answers: expected NAME=FILE for each variant, found none")
    samples, folder = read_samples(settings)
    given = {variant: read_answers(file, field) for variant, file in files.items()}
    matched = {variant: match(rows, samples) for variant, rows in given.items()}
    config = RunConfig(
        tag=tag or settings.name,
        checkpoint="",
        checkpoint_digest="",
        data=str((settings.data or folder).resolve()),
        data_digest=data_digest(folder, settings),
        generation=None,
        backend=BACKEND,
        variants={variant: sha256(file) for variant, file in files.items()},
    )
    run = open_run(settings.runs, settings.name, config)
    with run.writing(RESPONSES):
        there = {(one.sample_id, one.variant) for one in run.responses()}
        answers = [one for name in files for one in _responses(name, given[name], matched[name])]
        wanted = {one.sample_id for one in answers}
        run.keep_samples([sample for sample in samples if sample.id in wanted])
        with open_append(run.folder / RESPONSES) as stream:
            append_records(stream, [one for one in answers if (one.sample_id, one.variant) not in there])
    run.settle()
    rows = {variant: {sample.id for sample in matched[variant].samples} for variant in files}
    return Imported(
        run=run,
        answers={variant: sum(one.variant == variant for one in answers) for variant in files},
        by={variant: found.by for variant, found in matched.items()},
        empty=[
            (variant, sample.id)
            for variant in files
            for one, sample in zip(given[variant], matched[variant].samples, strict=True)
            if one.text is None
        ],
        asked=len(samples),
        unanswered={
            variant: [sample.id for sample in samples if sample.id not in rows[variant]]
            for variant in files
            if len(rows[variant]) < len(samples)
        },
    )


def _responses(variant: str, given: list[Given], matched: Matched) -> list[Response]:
    """Answers as records; an empty text is an answer for a judge to rule on, a missing one is none."""
    return [
        Response(
            sample_id=sample.id, variant=variant, text=one.text, tokens=0, seconds=0, finish_reason=one.finish_reason
        )
        for one, sample in zip(given, matched.samples, strict=True)
        if one.text is not None
    ]
