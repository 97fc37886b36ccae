"""``mis export``: data of any known form, written for a trainer or an evaluator, or a run as logs; all or nothing."""

from collections import Counter
from pathlib import Path
from urllib.parse import quote

from mis_lib.data import export as exports
from mis_lib.data.export import Export
from mis_lib.data.export_tasks import TASKS, export_task
from mis_lib.data.mixtures import BESIDE
from mis_lib.data.sources import Source, find_source, scan
from mis_lib.errors import DataError, SettingsError
from mis_lib.recipes.progress import say
from mis_lib.results.evaluated import data_folder, open_folder, run_name
from mis_lib.results.inspect_log import eval_log, write_eval_log
from mis_lib.schema import Sample, Split
from mis_lib.settings import ExportedImages, ExportForm

SHOWN = 20
TO_TRAIN_ON = frozenset([Split.TRAIN.value, *BESIDE.values()])


def export(
    path: Path,
    form: ExportForm,
    out: Path,
    *,
    loader: str | None = None,
    split: str | None = None,
    folder: Path | None = None,
    images: ExportedImages = ExportedImages.COPY,
    leave_out_masked: bool = False,
) -> Export:
    """Read a file or folder and write it for a trainer or an evaluator.

    Args:
        path: a data file, a folder of ours, or a folder in a published layout; for ``inspect``, a run folder.
        form: which tool.
        out: folder to write to.
        loader: name of the set's loader [default: recognised by the folder].
        split: only this split.
        folder: folder of a data file's images [default: its own].
        images: copy them, or leave them where they are.
        leave_out_masked: leave out the rows with ``mask_eos``, which only ``jsonl`` can carry.

    Raises:
        DataError: records are malformed (the first 20 are listed), cannot be expressed in the form, or mix training and
            test splits.
        MissingPackageError: ``inspect`` without its package.
        SettingsError: ``inspect`` with a choice of data, which a run has made.
    """
    if form is ExportForm.INSPECT:
        if loader or split or leave_out_masked:
            raise SettingsError("expected a run as it is for inspect, found --loader, --split or --leave_out_masked")
        return export_run(path, out, folder=folder, images=images)
    source = find_source(path, loader=loader, split=split, images=folder)
    samples = _all_or_nothing(source)
    if form not in (ExportForm.JSONL, *TASKS) and max(len(source.files), len(source.splits)) > 1:
        _refuse_tests_among_training(path, samples, form)
    target = out / f"{source.name}.jsonl"
    if target.is_file() and any(target.samefile(file) for file in source.files):
        raise DataError(f"{target}: expected an output folder other than the input's; name another --output")
    if form in TASKS:
        return export_task(samples, source.folder, out, form, name=source.name, images=images)
    return exports.export(
        samples, source.folder, out, form, name=source.name, images=images, leave_out_masked=leave_out_masked
    )


def export_run(
    path: Path, out: Path, *, folder: Path | None = None, images: ExportedImages = ExportedImages.COPY
) -> Export:
    """Write each variant of a run as a log of inspect-ai, with the verdicts of all its judges.

    Args:
        path: ``runs/NAME/vN``, or ``runs/NAME`` for its newest version.
        out: folder to write to.
        folder: of the images, where they have been moved since.
        images: copy them into the logs, or name their paths.

    Raises:
        DataError: no run there, or its samples or images are missing.
        MissingPackageError: inspect-ai is not installed.
    """
    run = open_folder(path)
    pictures = folder or data_folder(run)
    files = [
        write_eval_log(eval_log(run, variant, pictures, images=images), out / _log_name(run_name(run), variant))
        for variant in run.config.variants
    ]
    samples = run.samples()
    shown = {image for sample in samples for image in sample.images}
    usage = f"inspect view --log-dir {out.resolve()}"
    return Export(
        form=ExportForm.INSPECT,
        file=str(files[0] if len(files) == 1 else out),
        samples=len(samples),
        images=len(shown),
        usage=usage,
    )


def _log_name(run: str, variant: str) -> str:
    """File name of a variant's log; what no file name holds is written as its code."""
    return f"{quote(run.replace('/', '-'), safe='')}_{quote(variant, safe='+')}.eval"


def _refuse_tests_among_training(path: Path, samples: list[Sample], form: ExportForm) -> None:
    """Refuse test rows in a training file: they would be learned, and no later test figure would be valid."""
    counts = Counter(sample.split for sample in samples)
    if len({split in TO_TRAIN_ON for split in counts}) > 1:
        found = ", ".join(f"{split} {number:,}" for split, number in counts.items())
        raise DataError(
            f"{path}: expected rows to train on for {form}, found test splits among them ({found}); name one "
            "(--split), "
            "or export as jsonl"
        )


def _all_or_nothing(source: Source) -> list[Sample]:
    samples: list[Sample] = []
    wrong: list[DataError] = []
    for found in scan(source):
        if isinstance(found, DataError):
            wrong.append(found)
        else:
            samples.append(found)
    for error in wrong[:SHOWN]:
        say(str(error))
    if wrong:
        raise DataError(
            f"{len(wrong):,} of {len(wrong) + len(samples):,} records of {source.folder} are malformed "
            f"(the first {min(len(wrong), SHOWN)} are listed above); nothing was written"
        )
    return samples
