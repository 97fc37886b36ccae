"""``mis report``: the tables of rates, of a new evaluation or of existing run folders.

Builds model and data if they are missing, generates what has no response yet, judges what has no verdict yet, and
returns the rates of every variant and split with n and Wilson intervals. Responses and verdicts are kept in a run
folder (``results.runs``): the second call loads no model. With ``existing`` nothing is generated or judged: those runs
are read as they are, under each of their judges.

Tables, in this order: regression set (if the data have one); rates (without what was trained on); bounds (if a judge
failed); slices (if a file names them); the comparison asked for; official scores (of a published set); the published
reference (if asked for); notes on the runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mis_lib.construct.drawings import STYLES
from mis_lib.errors import DataError, SettingsError
from mis_lib.probe.rewording import in_reverse, read_questions, reworded, with_first_word
from mis_lib.recipes.generate import answer_all, known_variants
from mis_lib.recipes.judge import check_judge, is_stored, judge_name, verdicts_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import limited, read_samples
from mis_lib.recipes.settings import ReportSettings
from mis_lib.results.edits import edits_table
from mis_lib.results.evaluated import Evaluated, data_folder, disambiguate, judges_of, majority, open_folder, read_run
from mis_lib.results.metrics import GROUPINGS, SEEN, RateRow, rate_rows
from mis_lib.results.naming import ensure_naming_data, naming_samples, naming_table
from mis_lib.results.official import EXACT, OFFICIAL, read_effects, source_of
from mis_lib.results.published import MIS_RATES, reference_table, select
from mis_lib.results.regression import REGRESSION, Entry, read_regression
from mis_lib.results.report_tables import (
    bounds_table,
    find_side,
    notes_table,
    official_tables,
    paired_tables,
    prompting_table,
    rates_table,
    regression_table,
)
from mis_lib.results.runs import Run, fitting, write_note
from mis_lib.results.slices import Slices, grouping, is_file, read_slices, slices_table
from mis_lib.results.tables import Table, write_folder
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.settings import RULE, all_known

NAMING_TOKENS = 48


def check(settings: ReportSettings) -> None:
    """Refuse what cannot be done before anything is built or loaded.

    Raises:
        SettingsError: settings are unknown or do not go together; names the flags.
        DataError: the slices cannot be read.
    """
    if settings.paired and len(settings.paired) != 2:
        raise SettingsError(f"--paired: expected two sides, BEFORE AFTER, found {len(settings.paired)}")
    if settings.questions is not None and (settings.existing or settings.naming):
        raise SettingsError(
            "--questions: expected pairs to be asked again; leave out --existing and --naming, or the questions"
        )
    for flag, given in (("--exchanged", settings.exchanged), ("--one_word", settings.one_word)):
        if given and (settings.existing or settings.naming):
            raise SettingsError(f"{flag}: expected pairs to be asked again; leave out --existing and --naming, or it")
    fitting(settings.note or "")
    if settings.note is not None and len(settings.existing) > 1:
        raise SettingsError(
            f"--note: expected one run that it is about, found {len(settings.existing)}; name that one alone "
            "(--existing RUN --note TEXT)"
        )
    if not settings.existing:
        all_known("--variants", settings.variants, known_variants(settings))
    all_known("--styles", settings.styles, STYLES)
    if is_file(settings.by):
        read_slices(settings.by)
    else:
        all_known("--by", [settings.by], [*GROUPINGS, SEEN, "a file of slices (.csv, .json ...)"])
    if settings.by == SEEN and settings.paired:
        raise SettingsError(
            f"--by {SEEN}: expected no --paired, since each side names other things; compare by "
            f"{', '.join(GROUPINGS)}, "
            "or leave out --paired"
        )


def read_existing(settings: ReportSettings) -> list[Evaluated]:
    """The runs that ``settings`` name, once under each judge; with a majority, what most of them say.

    Raises:
        DataError: a folder is no run.
        SettingsError: a judge, variant or split is missing, a run needs verdicts and has none, or a run is named twice.
    """
    folders = [open_folder(folder).folder.resolve() for folder in settings.existing]
    if again := [folder for at, folder in enumerate(folders) if folder in folders[:at]]:
        raise SettingsError(f"--existing: expected each run once, found {again[0]} twice; name it once")
    runs = disambiguate([one for folder in settings.existing for one in _read(folder, settings)])
    if settings.majority:
        judges = dict.fromkeys(run.judge for run in runs)
        runs = [majority([run for run in runs if run.judge == judge]) for judge in judges]
    return runs


def needs_no_judge(sample: Sample) -> bool:
    """Whether a sample is scored by exact match."""
    benchmark = OFFICIAL.get(source_of(sample))
    return benchmark is not None and benchmark.judge == EXACT


def _read(folder: Path, settings: ReportSettings) -> list[Evaluated]:
    """A run once for each judge; with ``settings.variants`` given, its other variants are left out."""
    run = open_folder(folder)
    known = judges_of(run)
    if missing := set(settings.judges) - set(known):
        raise SettingsError(
            f"--judges: {run.folder} has no verdicts of {min(missing)!r}; there: {', '.join(known) or 'none'}"
        )
    judges = [judge for judge in known if not settings.judges or judge in settings.judges]
    first = read_run(run.folder, judges[0] if judges else None, settings.data)
    found = [first, *(replace(first, judge=judge, verdicts=run.verdicts(judge)) for judge in judges[1:])]
    if "variants" in settings.model_fields_set:
        all_known("--variants", settings.variants, found[0].variants)
        found = [one.only(settings.variants) for one in found]
    if not judges and not any(map(needs_no_judge, found[0].samples)):
        raise SettingsError(f"{run.folder}: expected verdicts, found none; judge it first: mis judge {run.folder}")
    return _narrowed(found, settings)


def _narrowed(found: Sequence[Evaluated], settings: ReportSettings) -> list[Evaluated]:
    """One run under each judge, without the samples of other splits and those beyond the limit."""
    chosen = "splits" in settings.model_fields_set
    if not chosen and settings.limit is None:
        return list(found)
    splits: dict[str, list[Sample]] = {}
    for sample in found[0].samples:
        splits.setdefault(sample.split, []).append(sample)
    named = settings.splits if chosen else tuple(splits)
    all_known("--splits", named, splits)
    kept = {sample.id for split in named for sample in limited(splits[split], settings.limit)}
    return [one.without({sample.id for sample in one.samples} - kept) for one in found]


class Evaluation(NamedTuple):
    """What was asked and answered, and how it was judged."""

    run: Run
    data: Path
    """Folder of the samples' images."""
    samples: list[Sample]
    responses: list[Response]
    verdicts: list[Verdict]


class Report(NamedTuple):
    """Rows of the main table with their title, and all tables, that of the rows first."""

    rows: list[RateRow]
    title: str
    tables: list[Table]


def report(settings: ReportSettings) -> Report:
    """Evaluate, or read what has been evaluated; tables are written to a folder where ``settings.out`` names one.

    Raises:
        MisError: a variant, split, file or model cannot be used; the message says which and why.
    """
    check(settings)
    found = existing_report(settings) if settings.existing else new_report(settings)
    if settings.out is not None:
        files = write_folder(found.tables, settings.out)
        say(f"wrote {len(files)} files into {settings.out}")
    return found


def new_report(settings: ReportSettings) -> Report:
    """Generate and judge what is missing, and report on it."""
    evaluation = evaluate_naming(settings) if settings.naming else evaluate(settings)
    run = evaluation.run
    say(f"run folder: {run.folder}")
    if settings.note is not None:
        write_note(run.folder, settings.note)
    if settings.naming:
        rows = naming_table(evaluation.samples, evaluation.responses)
        run.write_metrics(rows)
        title = f"Concepts named [{run.config.tag}]"
        return Report(rows, title, [rates_table(rows, title, tag=run.config.tag)])
    judged = Evaluated(
        run, judge_name(settings.judges or RULE), evaluation.samples, evaluation.responses, evaluation.verdicts
    )
    found = _assemble([judged], settings.model_copy(update={"data": evaluation.data}))
    run.write_metrics(found.rows)
    return found


def existing_report(settings: ReportSettings) -> Report:
    """Report on runs as they are, under each judge; a run that no judge has read is scored where that needs none.

    Raises:
        DataError: a folder is no run.
        SettingsError: as ``read_existing``.
    """
    runs = read_existing(settings)
    if settings.note is not None:
        write_note(runs[0].run.folder, settings.note)
    return _assemble(runs, settings)


def _assemble(runs: Sequence[Evaluated], settings: ReportSettings) -> Report:
    entries = _regression(runs, settings)
    regression = [regression_table(runs, entries)] if entries else []
    trained = {entry.sample_id for entry in entries if entry.trained_on}.union(*(run.trained_on for run in runs))
    trained &= {sample.id for run in runs for sample in run.samples}
    runs = [run.without(trained) for run in runs] if trained else runs
    by = grouping(settings.by)
    rows = [row for run in runs for row in _rows_of(run, by)]
    groups = list(dict.fromkeys(row.group for row in rows))
    rows.sort(key=lambda row: groups.index(row.group))
    tags = ", ".join(dict.fromkeys(run.run.config.tag for run in runs))
    judges = ", ".join(dict.fromkeys(run.judge for run in runs if run.judge))
    called = by.replace("_", "-") if isinstance(by, str) else by.name
    without = f", without {len(trained):,} items that were trained on" if trained else ""
    title = f"Safety and helpfulness by {called}, judge: {judges} [{tags}]{without}"
    tables = [*regression, *([rates_table(rows, title), bounds_table(rows)] if rows else [])]
    if isinstance(by, Slices):
        tables.append(slices_table(by, list({sample.id: sample for run in runs for sample in run.samples}.values())))
    if settings.paired:
        tables += _paired(runs, settings, by)
    tables += [prompting_table(runs), edits_table(runs)]
    tables += official_tables(runs, read_effects(settings.effectiveness) if settings.effectiveness else None)
    if settings.published:
        tables.append(_published(runs))
    tables.append(notes_table(runs))
    return Report(rows, title, [one for one in tables if one.cells])


def _published(runs: Sequence[Evaluated]) -> Table:
    """The published figures of the benchmarks that the samples come from; of MIS where they come from none."""
    titles = {
        OFFICIAL[source].title.lower() for run in runs for source in map(source_of, run.samples) if source in OFFICIAL
    }
    rows = [row for row in select() if row.benchmark.lower() in titles]
    return reference_table(rows or [row for row in select(benchmark="MIS") if row.metric in MIS_RATES])


def _regression(runs: Sequence[Evaluated], settings: ReportSettings) -> list[Entry]:
    """The regression set that was named, or that is in the data folder of a run."""
    entries = read_regression(settings.regression) if settings.regression is not None else _beside(runs, settings)
    if settings.limit is None and "splits" not in settings.model_fields_set:
        return entries
    asked = {sample.id for run in runs for sample in run.samples}
    return [entry for entry in entries if entry.sample_id in asked]


def _beside(runs: Sequence[Evaluated], settings: ReportSettings) -> list[Entry]:
    places = {data_folder(run.run, settings.data): run.name for run in runs}
    for place, name in places.items():
        if not place.exists():
            say(
                f"{name}: its data folder {place} is missing, and so is its regression set: what was trained on is "
                "not left out; name the folder with --data, or the set with --regression"
            )
    return [entry for place in places if (place / REGRESSION).exists() for entry in read_regression(place)]


def _paired(runs: Sequence[Evaluated], settings: ReportSettings, by: str | Slices) -> list[Table]:
    """The comparison under each judge that has read both sides."""
    found: list[Table] = []
    judges = list(dict.fromkeys(run.judge for run in runs if run.judge))
    for judge in judges:
        before, after = (find_side(text, [run for run in runs if run.judge == judge]) for text in settings.paired)
        if before == after:
            raise SettingsError(f"--paired: expected two sides, found {before.label} twice; name another one")
        tables = paired_tables(before, after, by=by)
        found += [one._replace(name=f"{one.name}_{judge}") if len(judges) > 1 else one for one in tables]
    return found


def _rows_of(run: Evaluated, by: str | Slices) -> list[RateRow]:
    """The rates of one run under one judge; samples that are scored by exact match have none."""
    samples = [sample for sample in run.samples if not needs_no_judge(sample)]
    if not samples or not run.judge:
        return []
    rows = rate_rows(run.verdicts, samples, run.responses, by=by, total=by != "split")
    of = {"tag": run.run.config.tag, "run": run.name, "judge": run.judge, "by": "" if isinstance(by, str) else by.name}
    return [row.model_copy(update=of) for row in rows]


def evaluate(settings: ReportSettings) -> Evaluation:
    """Generate and judge whatever of ``settings`` has not been generated and judged yet.

    Raises:
        DataError: the samples cannot be read, nothing is left of them to ask in other words or in the other order, or
            the judge can rule on none of them.
        MisError: the judge cannot be made or asked.
    """
    questions = read_questions(settings.questions) if settings.questions else []
    samples, folder = read_samples(settings)
    name = settings.name
    if settings.questions is not None:
        every, name = len(samples), f"{name}-{settings.questions.stem}"
        samples, left_out = reworded(samples, questions)
        if not samples:
            raise DataError(
                f"--questions: expected pairs to ask, found none: all {every} items have a harmful question"
            )
        if left_out:
            say(f"{left_out} of {every} items are left out: their question is harmful")
    if settings.exchanged:
        samples, name = _exchanged(samples), f"{name}-exchanged"
    if settings.one_word is not None:
        samples, name = _one_word(samples, settings.one_word), f"{name}-{settings.one_word.lower()}"
    named, ruled = settings.judges or RULE, [sample for sample in samples if not needs_no_judge(sample)]
    if not is_stored(named):
        check_judge(named, ruled, "--judges")
    run, responses = answer_all(samples, folder, settings, name)
    return Evaluation(run, folder, samples, responses, verdicts_on(run, named, ruled, responses, folder))


def _exchanged(samples: Sequence[Sample]) -> list[Sample]:
    """Those of several images in the other order."""
    several = [sample for sample in samples if len(sample.images) > 1]
    if not several:
        raise DataError(f"--exchanged: expected items of two images or more, found {len(samples)} of one")
    if len(several) < len(samples):
        say(f"{len(samples) - len(several)} of {len(samples)} items are left out: they have one image")
    return [in_reverse(sample) for sample in several]


def _one_word(samples: Sequence[Sample], word: str) -> list[Sample]:
    """Those whose question begins with another word, which is exchanged for this one."""
    found, left_out = with_first_word(samples, word)
    if not found:
        raise DataError(f"--one_word: expected questions that begin otherwise, found {word!r} in all {len(samples)}")
    if left_out:
        say(f"{left_out} of {len(samples)} items are left out: their question begins with {word!r}")
    return found


def evaluate_naming(settings: ReportSettings) -> Evaluation:
    """Ask every variant what each concept's picture shows, in every style, alone and in pairs."""
    folder = ensure_naming_data(say)
    samples = naming_samples(settings.styles, settings.limit)
    short = settings.generation.model_copy(
        update={"max_new_tokens": min(NAMING_TOKENS, settings.generation.max_new_tokens)}
    )
    run, responses = answer_all(
        samples, folder, settings.model_copy(update={"generation": short}), f"{settings.name}-naming"
    )
    return Evaluation(run, folder, samples, responses, [])
