"""``mis export``: data of any known form, written for another trainer or in our form; all or nothing."""

from collections import Counter
from pathlib import Path

from mis_lib.data import export as exports
from mis_lib.data.export import Export
from mis_lib.data.mixtures import BESIDE
from mis_lib.data.sources import Source, find_source, scan
from mis_lib.errors import DataError
from mis_lib.recipes.progress import say
from mis_lib.schema import Sample, Split
from mis_lib.settings import ExportedImages, TrainerForm

SHOWN = 20
TO_TRAIN_ON = frozenset([Split.TRAIN.value, *BESIDE.values()])


def export(
    path: Path,
    form: TrainerForm,
    out: Path,
    *,
    loader: str | None = None,
    split: str | None = None,
    folder: Path | None = None,
    images: ExportedImages = ExportedImages.COPY,
    leave_out_masked: bool = False,
) -> Export:
    """Read a file or folder and write it for a trainer.

    Args:
        path: a data file, a folder of ours, or a folder in a published layout.
        form: which trainer.
        out: folder to write to.
        loader: name of the set's loader [default: recognised by the folder].
        split: only this split.
        folder: folder of a data file's images [default: its own].
        images: copy them, or leave them where they are.
        leave_out_masked: leave out the rows with ``mask_eos``, which only ``jsonl`` can carry.

    Raises:
        DataError: records are malformed (the first 20 are listed), cannot be expressed in the form, or mix training and
            test splits.
    """
    source = find_source(path, loader=loader, split=split, images=folder)
    samples = _all_or_nothing(source)
    if form is not TrainerForm.JSONL and max(len(source.files), len(source.splits)) > 1:
        _refuse_tests_among_training(path, samples, form)
    target = out / f"{source.name}.jsonl"
    if target.is_file() and any(target.samefile(file) for file in source.files):
        raise DataError(f"{target}: expected an output folder other than the input's; name another --output")
    return exports.export(
        samples, source.folder, out, form, name=source.name, images=images, leave_out_masked=leave_out_masked
    )


def _refuse_tests_among_training(path: Path, samples: list[Sample], form: TrainerForm) -> None:
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
