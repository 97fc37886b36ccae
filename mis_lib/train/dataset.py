"""From settings to rows: the data is read, checked as ``mis check`` checks it, and mixed, before a model is loaded.

What preflight would refuse ends the run here, with row and fix, and not after two hours in the middle of an epoch.
"""

import random
from collections.abc import Callable
from pathlib import Path

from mis_lib.data.findings import Kind, Level
from mis_lib.data.mixing import compose, write
from mis_lib.data.mixtures import BESIDE, GENERAL, SAFETY, SampleSet
from mis_lib.data.preflight import PreflightReport, PreflightSettings, examine
from mis_lib.data.sources import MIXTURE, find_source, of_source
from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.schema import Sample
from mis_lib.train.encode import Example
from mis_lib.train.settings import TrainSettings, recipe_of

SHOWN = 5  # findings that a message lists

Progress = Callable[[str], None]


def examples_of(
    settings: TrainSettings, data: Path, work: Path, progress: Progress = lambda message: None
) -> list[Example]:
    """The samples to train on, with the folders of their images, in the order of the data (or of the mixture).

    Args:
        settings: what to read and how to mix it.
        data: ``settings.data``, or the folder of MIS-Mini.
        work: where a mixture is written, unless it stands there already.
        progress: told what is being done.

    Raises:
        DataError: a row is one that preflight refuses (file, row, field and fix named), or there is none.
        SettingsError: the mixture or its arm is unknown.
    """
    found = _mixed(settings, data, work, progress) if settings.mixture else _read(data, settings.split, progress)
    if settings.limit is not None and settings.limit < len(found):
        chosen = sorted(random.Random(f"{settings.seed}|limit").sample(range(len(found)), settings.limit))
        found = [found[at] for at in chosen]
    if not found:
        raise DataError(f"{data}: expected rows to train on, found none")
    return found


def _mixed(settings: TrainSettings, data: Path, work: Path, progress: Progress) -> list[Example]:
    recipe, arm = recipe_of(settings)
    if not (work / MIXTURE).exists():
        needed = {part.source for arm in recipe.arms for part in arm.parts}
        sources = {role: _source(settings, data, role, progress) for role in sorted(needed)}
        write(recipe, compose(recipe, sources), work)
    return [Example(sample, work) for sample in read_records(work / f"{arm}.jsonl", Sample)]


def _source(settings: TrainSettings, data: Path, role: str, progress: Progress) -> SampleSet:
    """The rows of one role of a mixture: safety, general or everyday."""
    if role == SAFETY:
        rows = _read(data, settings.split, progress)
    elif role == GENERAL and settings.general is not None:
        rows = _read(settings.general, settings.split, progress)
    else:
        rows = _read(data if data.is_dir() else data.parent, BESIDE[role], progress)
    return SampleSet([example.sample for example in rows], rows[0].folder if rows else data)


def _read(path: Path, split: str, progress: Progress) -> list[Example]:
    source = find_source(path, split=split if path.is_dir() else None)
    seen: dict[str, str] = {}
    examples = []
    if source.loader is not None:  # the other splits are neither read nor looked at
        report, checked = examine(path, None, progress, split=source.splits[0])
        _refuse(path, report, progress)
        examples = [Example(sample, source.folder) for one in checked for _, sample in one.samples()]
    for file in source.files:
        report, checked = examine(file, PreflightSettings(images=source.folder), progress)
        _refuse(file, report, progress)
        rows = [found for one in checked for found in one.samples()]
        examples += [Example(of_source(source, sample, row, seen), source.folder) for row, sample in rows]
    return examples


def _refuse(path: Path, report: PreflightReport, progress: Progress) -> None:
    """Raise what preflight found wrong; tell what of the rows is not trained."""
    for found in report.findings:
        if found.kind in (Kind.NOT_SHOWN, Kind.TEXT_ROW):
            progress(f"{found.file}: {found.rows:,} rows, {found.message}")
    wrong = [finding for finding in report.findings if finding.level is Level.ERROR]
    if wrong:
        told = [
            f"{found.file}, row {found.row}: {found.field or 'row'}: {found.message}; {found.fix}"
            for found in wrong[:SHOWN]
        ]
        more = f" ... and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        raise DataError(
            f"{path}: training must not start on this data. {' | '.join(told)}{more} (mis check {path} lists all)"
        )
