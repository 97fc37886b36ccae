"""``mis generate``: variants answer samples into a run folder, on this machine or by a server, in one process or in many.

What a run was asked with stands in its ``config.yaml``; other settings open the next version, so settings never mix in one run. Only what is missing
is generated, and an answer that an older version holds under the same key is taken over. Shards (``--shard 1/4``, or ``accelerate launch``) write
files of their own, which are merged by whichever process finds the run complete. Two processes never write one file: the second is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib import console
from mis_lib.commands.answerers import Key, Local, Server
from mis_lib.commands.generate_settings import GenerateSettings
from mis_lib.commands.selection import select, told
from mis_lib.data.sources import find_source, load, splits_of
from mis_lib.data.spread import spread
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import append_record, open_append, sha256
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.server import Failure
from mis_lib.results.runs import RESPONSES, Run, RunConfig
from mis_lib.schema import Response, Sample
from mis_lib.store.provenance import folder_digest
from mis_lib.store.versions import open_run, versions


class Answered(NamedTuple):
    """A run with the answers that were asked for, and what is still missing."""

    run: Run
    responses: list[Response]
    missing: list[Failure]


def generate_run(settings: GenerateSettings) -> Answered:
    """Answer everything that ``settings`` ask for and that has no answer yet.

    Raises:
        MisError: a variant, split, file, model or server cannot be used, or another process is writing the same file; the message says which
            and why.
    """
    samples, folder = read_samples(settings)
    return answer(samples, folder, settings, settings.name)


def answer_all(
    samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str
) -> tuple[Run, list[Response]]:
    """Open the run, generate what is missing, and return the responses of these samples and variants, in the order asked for.

    Raises:
        ModelError: some are without an answer; what was answered is kept.
    """
    run, responses, missing = answer(samples, data, settings, name)
    if missing:
        raise ModelError(
            f"{len(missing)} answers are missing (first: {missing[0].reason}); run the same command again to go on"
        )
    return run, responses


def answer(samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str) -> Answered:
    """As ``answer_all``, but what is missing is told instead of raised.

    Args:
        samples: what is asked; a sample without images is asked as plain text.
        data: folder to which the samples' image paths are relative.
        settings: who answers, how, and where it is kept.
        name: of the run.
    """
    who = Local.of(settings) if settings.server is None else Server.of(settings)
    selection, identity = told(settings.only), who.identity
    config = RunConfig(
        **{**identity, "tag": ", ".join(filter(None, (identity["tag"], selection)))},
        selection=selection,
        data=str((settings.data if settings.data and settings.data.is_file() else data).resolve()),
        data_digest=data_digest(data, settings),
        generation=settings.generation,
        batch_size=settings.batch_size if settings.server is None else 1,
        batch_tokens=settings.batch_tokens if settings.server is None else None,
        dtype=settings.dtype,
    )
    run = open_run(settings.runs, name, config)
    run.keep_samples(samples)
    same = {**settings.generation.model_dump(), "dtype": settings.dtype} | who.sees
    keys = AnswerKeys(data, config.checkpoint_digest, config.variants, same)
    wanted = {(sample.id, variant): keys.of(sample, variant) for variant in settings.variants for sample in samples}
    _check_stored(run, wanted)
    failures: list[Failure] = []
    there = len(wanted.keys() & _answered(run).keys())
    if there and settings.server is not None:
        console.say(
            f"{there:,} of {len(wanted):,} answers are in {run.folder} already and are not asked for again; a server's models are known "
            "by their names alone: one that was exchanged under its name needs another --name"
        )
    if there < len(wanted):
        with run.writing(who.file):
            _adopt(run, who.file, wanted, settings.runs, name)
            if missing := wanted.keys() - _answered(run):
                failures = who.generate(samples, data, run, keys, missing)
    answers = _answered(run)
    if wanted.keys() <= answers.keys():
        run.settle()
    elif who.file == RESPONSES:  # not a shard: nobody else brings the rest
        failures += _lost(run, wanted.keys() - answers.keys() - {(one.sample_id, one.variant) for one in failures})
    return Answered(run, [answers[key] for key in wanted if key in answers], failures)


def read_samples(settings: GenerateSettings) -> tuple[list[Sample], Path]:
    """The samples that ``settings`` name, and the folder of their images; where no split was named, the usual ones that are there, or else all.

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


def _selected(settings: GenerateSettings) -> tuple[list[Sample], Path]:
    """The samples that ``only`` names, looked for in all splits that are there, or in those that were named."""
    if settings.limit is not None and "limit" in settings.model_fields_set:
        raise SettingsError("--only: expected no --limit beside it, since it names the items; leave one of them out")
    folder = settings.data or mini_data()
    everywhere = {} if folder.is_file() or "splits" in settings.model_fields_set else {"splits": (*splits_of(folder),)}
    samples, folder = read_samples(settings.model_copy(update={"only": (), "limit": None, **everywhere}))
    return select(samples, settings.only), folder


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
                f"{folder}: expected ids of their own in split {split!r}, found that {twice[0]!r} stands in an earlier one too; rename one"
            )
        found |= {sample.id: sample for sample in samples}
    return list(found.values())


def read_split(folder: Path, split: str, limit: int | None = None) -> list[Sample]:
    """The samples of one split of a folder in any form; ``limit`` as in ``limited``.

    Raises:
        DataError: there is no such split, or a record of it is malformed (file, row, field and fix named).
    """
    return limited(load(find_source(folder, split=split)), limit)


def limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most so many harmful items, spread over the categories, each with its twin, and as many benign ones that are no twin; all for ``None``."""
    if limit is None:
        return samples
    harmful = [sample for sample in samples if sample.harmful]
    paired = {sample.id for sample in harmful} | {sample.twin_id for sample in harmful}
    alone = [sample for sample in samples if sample.id not in paired and sample.twin_id not in paired - {None}]
    kept = [*spread(harmful, limit), *spread(alone, limit)]
    wanted = {sample.id for sample in kept} | {sample.twin_id for sample in kept}
    return [sample for sample in samples if sample.id in wanted]


def _check_stored(run: Run, wanted: Mapping[Key, str]) -> None:
    """Refuse to mix answers to pictures or questions that have changed under the same names."""
    for one in run.responses():
        expected = wanted.get((one.sample_id, one.variant), one.key)
        if one.key and one.key != expected:
            raise DataError(
                f"{run.folder}: sample {one.sample_id!r} was answered with other content (key {one.key[:12]}, now {expected[:12]}); "
                "its images or question have changed since: take another --name"
            )


def _answered(run: Run) -> dict[Key, Response]:
    return {(one.sample_id, one.variant): one for one in run.responses()}


def _lost(run: Run, keys: Iterable[Key]) -> list[Failure]:
    """Answers that were given and yet are not there: whoever else writes the file knows of no locks, or it has been edited."""
    reason = f"its answer is not in {run.folder / RESPONSES}, which something else has changed meanwhile"
    return [Failure(*key, reason) for key in sorted(keys)]


def _adopt(run: Run, file: str, wanted: Mapping[Key, str], root: Path, name: str) -> None:
    """Take over from older versions what was answered there under the same key."""
    have = _answered(run)
    missing = {key: digest for key, digest in wanted.items() if key not in have}
    if not missing:
        return
    older = [one for other in versions(root, name) if other != run for one in other.responses()]
    found = {key: one for one in older if one.key and missing.get(key := (one.sample_id, one.variant)) == one.key}
    if found:
        with open_append(run.folder / file) as stream:
            for response in found.values():
                append_record(stream, response)


def data_digest(data: Path, settings: GenerateSettings) -> str:
    """What tells whether a run's data are still the same."""
    if settings.data is not None and settings.data.is_file():
        return sha256(settings.data)  # its images are in the keys of the answers
    return folder_digest(data)


def mini_data() -> Path:
    """MIS-Mini, drawn if it is not there."""
    from mis_lib.construct.cached import ensure_mini_data

    return ensure_mini_data(console.say)
