"""``mis import``: answers of another tool become a run, judged, compared, annotated and reported like any other.

What is not known of such answers is recorded as unknown: settings, tokens, time, why an answer ended. The run's
configuration records the digest of each variant's file, so the same call changes nothing, and a changed file opens the
next version.

``mis import --published`` takes the answers that a data set publishes with people's labels. The labels go where those
of the Annotate tab go, so that they calibrate judges and count as the judge ``people``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib.annotate.decisions import Decision, Event, Kind, Subject
from mis_lib.annotate.store import AnnotationStore
from mis_lib.data.import_answers import UNKNOWN, Given, Matched, match, read_answers
from mis_lib.data.loader import Labelled, PersonsLabel
from mis_lib.data.sources import find_source, splits_of
from mis_lib.errors import SettingsError
from mis_lib.files import append_records, digest_json, open_append, sha256
from mis_lib.recipes.samples import data_digest, read_samples
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.evaluated import run_name
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.schema import Response, Sample

BACKEND = "import"
UNDATED = "1970-01-01T00:00:00+00:00"  # published labels have no date, and any decision made here is later


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
    answers = [one for name in files for one in _responses(name, given[name], matched[name])]
    digests = {variant: sha256(file) for variant, file in files.items()}
    run = _write(settings, folder, tag or settings.name, digests, samples, answers)
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


class Published(NamedTuple):
    """The run of published answers, and how many of people's labels the annotations have of it."""

    run: Run
    answers: dict[str, int]
    labels: int
    added: int
    """Labels that the annotations did not have yet."""


def import_published(settings: GenerateSettings, *, tag: str | None = None) -> Published:
    """Write a run of the answers that a set publishes, and people's labels of them into the annotations.

    Args:
        settings: data, splits, runs and name; nothing is generated, and all answers of a split are taken.
        tag: a name for tables [default: the run's].

    Raises:
        DataError: answers or labels cannot be read.
        SettingsError: the set publishes none.
    """
    loader = None if settings.data is None else find_source(settings.data).loader
    if settings.data is None or loader is None or loader.labelled is None:
        raise SettingsError(
            f"--published: expected the folder of a set that publishes labelled answers (MSTS), found {settings.data}"
        )
    splits = settings.splits if "splits" in settings.model_fields_set else splits_of(settings.data)
    given = [one for split in splits for one in loader.labelled(settings.data, split)]
    samples = list({one.sample.id: one.sample for one in given}.values())
    answers = [_response(one.sample.id, one.model, one.answer) for one in given]
    models = list(dict.fromkeys(one.model for one in given))
    digests = {name: digest_json([one.model_dump() for one in answers if one.variant == name]) for name in models}
    run = _write(settings, settings.data, tag or settings.name, digests, samples, answers)
    events = [event for one in given for event in _events(run, one)]
    added = AnnotationStore(root=settings.runs).restore(events)
    return Published(run, dict(Counter(one.variant for one in answers)), len(events), added)


def _events(run: Run, given: Labelled) -> list[Event]:
    """People's labels as decisions, and what settled them as an adjudication; the same ids whenever they are read."""
    subject = Subject(run=run_name(run), variant=given.model, sample=given.sample, response=given.answer)

    def event(label: PersonsLabel, kind: Kind) -> Event:
        identity = digest_json([kind, label.author, *subject.key, label.outcome, label.comment])[:32]
        decision = Decision(outcome=label.outcome, comment=label.comment)
        return Event(id=identity, kind=kind, author=label.author, at=UNDATED, subject=subject, decision=decision)

    settled = [] if given.final is None else [event(given.final, Kind.ADJUDICATE)]
    return [*(event(label, Kind.DECIDE) for label in given.labels), *settled]


def _write(
    settings: GenerateSettings,
    folder: Path,
    tag: str,
    digests: dict[str, str],
    samples: Sequence[Sample],
    answers: Sequence[Response],
) -> Run:
    """The run of the answers; the same call again adds what is missing."""
    config = RunConfig(
        tag=tag,
        checkpoint="",
        checkpoint_digest="",
        data=str((settings.data or folder).resolve()),
        data_digest=data_digest(folder, settings),
        generation=None,
        backend=BACKEND,
        variants=digests,
    )
    run = open_run(settings.runs, settings.name, config)
    with run.writing(RESPONSES):
        there = {(one.sample_id, one.variant) for one in run.responses()}
        wanted = {one.sample_id for one in answers}
        run.keep_samples([sample for sample in samples if sample.id in wanted])
        with open_append(run.folder / RESPONSES) as stream:
            append_records(stream, [one for one in answers if (one.sample_id, one.variant) not in there])
    run.settle()
    return run


def _responses(variant: str, given: list[Given], matched: Matched) -> list[Response]:
    """Answers as records; an empty text is an answer for a judge to rule on, a missing one is none."""
    return [
        _response(sample.id, variant, one.text, one.finish_reason)
        for one, sample in zip(given, matched.samples, strict=True)
        if one.text is not None
    ]


def _response(sample_id: str, variant: str, text: str, finish_reason: str = UNKNOWN) -> Response:
    return Response(sample_id=sample_id, variant=variant, text=text, tokens=0, seconds=0, finish_reason=finish_reason)
