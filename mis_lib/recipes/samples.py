"""Which samples a job works on: splits of a folder, a data file, items by their ids, or the failures of a stored run.

Failures come with their twins: what a model learned from its failures shows on both, as less help with harm and perhaps
less help at all. A run on such a selection is separate and says so in every table: a rate among failures is no rate of
the data.
"""

from collections.abc import Sequence
from pathlib import Path

from mis_lib.data.sources import find_source, load, splits_of, stratified
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import sha256
from mis_lib.recipes.progress import say
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.evaluated import judges_of, open_folder, run_name
from mis_lib.results.metrics import RIGHT
from mis_lib.results.runs import Run, folder_digest
from mis_lib.schema import Outcome, Sample

NAMED = 3  # ids that a selection's words list


def read_samples(settings: GenerateSettings) -> tuple[list[Sample], Path]:
    """The samples that ``settings`` name, and the folder of their images.

    Where no split is named: those of the default that the folder has, or else all.

    Raises:
        DataError: a split is not there, or a record is malformed.
        SettingsError: splits of a data file were asked for.
    """
    if settings.only:
        return _selected(settings)
    named = "splits" in settings.model_fields_set
    if settings.data is not None and settings.data.is_file():
        if named:
            raise SettingsError(f"--splits: expected a folder of splits, found the file {settings.data}; leave it out")
        return read_place(settings.data, (), settings.limit)
    folder, splits = settings.data or mini_data(), settings.splits
    if settings.data is not None and not named:
        there = splits_of(folder)
        splits = [split for split in splits if split in there] or there
    return read_splits(folder, splits, settings.limit), folder


def read_place(path: Path, splits: Sequence[str], limit: int | None = None) -> tuple[list[Sample], Path]:
    """The samples of a folder's splits, or of a data file, which is taken as one split; and the folder of their images.

    Raises:
        DataError, SettingsError: as ``read_splits``.
    """
    if path.is_file():
        source = find_source(path)
        return limited(load(source), limit), source.folder
    return read_splits(path, splits, limit), path


def read_splits(folder: Path, splits: Sequence[str], limit: int | None = None) -> list[Sample]:
    """The samples of several splits, one after the other; ``limit`` counts in each, as in ``read_split``.

    Raises:
        DataError: as ``read_split``, or a sample of one split has the id of one in another.
        SettingsError: no split is named, or one twice.
    """
    if not splits or len(set(splits)) < len(splits):
        raise SettingsError(f"--splits: expected at least one, and each once, found {' '.join(splits) or 'none'}")
    found: dict[str, Sample] = {}
    for split in splits:
        samples = read_split(folder, split, limit)
        if twice := [sample.id for sample in samples if sample.id in found]:
            raise DataError(
                f"{folder}: expected each id in one split only, found {twice[0]!r} of split {split!r} in an earlier "
                "one too; "
                "rename one"
            )
        found |= {sample.id: sample for sample in samples}
    return list(found.values())


def read_split(folder: Path, split: str, limit: int | None = None) -> list[Sample]:
    """The samples of one split of a folder in any form; ``limit`` as in ``limited``.

    Raises:
        DataError: the split is missing, or a record of it is malformed (file, row, field and fix named).
    """
    return limited(load(find_source(folder, split=split)), limit)


def limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most so many harmful items, each with its twin, and as many benign ones that are no twin; all for ``None``.

    They are stratified over the categories.
    """
    if limit is None:
        return samples
    harmful = [sample for sample in samples if sample.harmful]
    paired = {sample.id for sample in harmful} | {sample.twin_id for sample in harmful}
    alone = [sample for sample in samples if sample.id not in paired and sample.twin_id not in paired - {None}]
    kept = [*stratified(harmful, limit), *stratified(alone, limit)]
    wanted = {sample.id for sample in kept} | {sample.twin_id for sample in kept}
    return [sample for sample in samples if sample.id in wanted]


def mini_data() -> Path:
    """The folder of MIS-Mini, drawn if it is missing."""
    from mis_lib.construct.mis_mini import ensure_mini_data

    return ensure_mini_data(say)


def data_digest(data: Path, settings: GenerateSettings) -> str:
    """Digest of a run's data."""
    if settings.data is not None and settings.data.is_file():
        return sha256(settings.data)  # images are in the keys of the answers
    return folder_digest(data)


def select(samples: Sequence[Sample], only: Sequence[str]) -> list[Sample]:
    """The samples that ``only`` names, in their order.

    Args:
        samples: of all splits that are searched.
        only: ids; or RUN, RUN:VARIANT for what was answered wrong there, each with its twin.

    Raises:
        DataError: an id or a sample of the run is missing, or the run has no verdicts.
        SettingsError: the run has no such variant.
    """
    known = {sample.id: sample for sample in samples}
    wanted: set[str] = set()
    for value in only:
        if (side := _side(value)) is None:
            if value not in known:
                raise DataError(
                    f"--only: expected the id of an item, or a run's folder, found {value!r}; {_where(samples)}"
                )
            wanted.add(value)
        else:
            failed = _failures(*side)
            if lost := [name for name in failed if name not in known]:
                raise DataError(
                    f"--only {value}: expected its items, {len(lost):,} are not there (such as {lost[0]!r}); "
                    f"{_where(samples)}, and the run asked {side[0].config.data}"
                )
            wanted |= {name for one in failed for name in (one, known[one].twin_id or one)}
    return [sample for sample in samples if sample.id in wanted]


def selection_in_words(only: Sequence[str]) -> str:
    """The selection in words; a run has one name, however its folder is written."""
    sides = [side for value in only if (side := _side(value))]
    ids = sorted(value for value in only if _side(value) is None)
    failures = [f"failures of {run_name(run)}{f':{variant}' if variant else ''}" for run, variant in sides]
    named = ids if len(ids) <= NAMED else [*ids[:NAMED], f"{len(ids) - NAMED} more"]
    return f"only {', '.join([*failures, *named])}" if only else ""


def _selected(settings: GenerateSettings) -> tuple[list[Sample], Path]:
    """The samples that ``only`` names, of all splits, or of those that were named."""
    if settings.limit is not None and "limit" in settings.model_fields_set:
        raise SettingsError("--only: expected no --limit with it, since it names the items; leave one of them out")
    folder = settings.data or mini_data()
    everywhere = {} if folder.is_file() or "splits" in settings.model_fields_set else {"splits": (*splits_of(folder),)}
    samples, folder = read_samples(settings.model_copy(update={"only": (), "limit": None, **everywhere}))
    return select(samples, settings.only), folder


def _side(value: str) -> tuple[Run, str] | None:
    """The run and variant that a value names; None if it is an id."""
    folder, _, variant = (value, "", "") if Path(value).is_dir() else value.rpartition(":")
    return (open_folder(Path(folder)), variant) if folder and Path(folder).is_dir() else None


def _failures(run: Run, variant: str) -> list[str]:
    """Ids of samples that the variant (or any) answered wrong by any judge's verdict; unscored is no failure."""
    verdicts = [verdict for judge in judges_of(run) for verdict in run.verdicts(judge)]
    if not verdicts:
        raise DataError(
            f"{run.folder}: expected verdicts, found none; let judges read it first: mis judge {run.folder}"
        )
    variants = list(dict.fromkeys(verdict.variant for verdict in verdicts))
    if variant and variant not in variants:
        raise SettingsError(f"--only {run.folder}:{variant}: unknown variant; known: {', '.join(variants)}")
    found = [
        verdict.sample_id
        for verdict in verdicts
        if variant in ("", verdict.variant) and verdict.outcome not in (*RIGHT, Outcome.UNSCORED)
    ]
    if not found:
        raise DataError(
            f"{run.folder}: expected failures of {variant or 'any variant'}, found none: nothing to ask again"
        )
    return list(dict.fromkeys(found))


def _where(samples: Sequence[Sample]) -> str:
    splits = ", ".join(dict.fromkeys(sample.split for sample in samples))
    return f"looked at {len(samples):,} items ({splits}); name others with --data and --splits"
