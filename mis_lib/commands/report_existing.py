"""Runs that are there already, as ``mis report --existing`` reads them: under each of their judges, and narrowed to what was asked for."""

from collections.abc import Sequence
from pathlib import Path

from mis_lib.analysis.draws import majority
from mis_lib.commands.answerers import all_known
from mis_lib.commands.report_settings import ReportSettings
from mis_lib.errors import SettingsError
from mis_lib.recipes.generate import limited
from mis_lib.results.evaluated import Evaluated, judges_of, open_folder, read_run, told_apart
from mis_lib.results.official import EXACT, OFFICIAL, source_of
from mis_lib.schema import Sample


def read_existing(settings: ReportSettings) -> list[Evaluated]:
    """The runs that ``settings`` name, once under each judge; with a majority, what most of them say.

    Raises:
        DataError: a folder is no run.
        SettingsError: a judge, variant or split asked for is not there, nobody has judged a run that needs it, or a run is named twice.
    """
    folders = [open_folder(folder).folder.resolve() for folder in settings.existing]
    if again := [folder for at, folder in enumerate(folders) if folder in folders[:at]]:
        raise SettingsError(f"--existing: expected each run once, found {again[0]} twice; name it once")
    runs = told_apart([one for folder in settings.existing for one in _read(folder, settings)])
    if settings.majority:
        judges = dict.fromkeys(run.judge for run in runs)
        runs = [majority([run for run in runs if run.judge == judge]) for judge in judges]
    return runs


def needs_no_judge(sample: Sample) -> bool:
    """Whether a sample is scored by exact match."""
    benchmark = OFFICIAL.get(source_of(sample))
    return benchmark is not None and benchmark.judge == EXACT


def _read(folder: Path, settings: ReportSettings) -> list[Evaluated]:
    """A run once for each judge; with ``settings.variants`` given, its other variants are left aside."""
    run = open_folder(folder)
    known = judges_of(run)
    if missing := set(settings.judges) - set(known):
        raise SettingsError(
            f"--judges: {run.folder} has no verdicts of {min(missing)!r}; there: {', '.join(known) or 'none'}"
        )
    judges = [judge for judge in known if not settings.judges or judge in settings.judges]
    found = [read_run(run.folder, judge, settings.data) for judge in judges] or [
        read_run(run.folder, None, settings.data)
    ]
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
