"""Anything that people point at, as samples: a data file, a folder of ours, or a folder in a published layout.

    a file     .jsonl, .json, .csv, .tsv, .parquet; each record in one of the forms of ``formats.py``
    a folder   that a loader recognises (``benchmarks``), or else with JSON Lines, JSON or parquet files, one a split or several shards (``folders``)

``scan`` yields the errors in the records' places; ``load`` raises the first. Images are relative to ``Source.folder``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mis_lib.data.benchmarks import find_loader, recognise
from mis_lib.data.folders import TEST_SPLITS, data_files, split_name
from mis_lib.data.formats import to_sample
from mis_lib.data.loader import Loader, first_of_its_id
from mis_lib.data.tables import read_table, told
from mis_lib.errors import DataError
from mis_lib.schema import Sample


class Source(NamedTuple):
    """Where samples come from: files of records, or a loader with its splits."""

    folder: Path
    """What the samples' images are relative to."""
    files: list[Path]
    loader: Loader | None = None
    splits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name for what is made of it."""
        if self.loader is not None:
            return "_".join((self.loader.name, *self.splits)) if len(self.splits) == 1 else self.loader.name
        return self.files[0].stem if len(self.files) == 1 else self.folder.resolve().name


def find_source(
    path: Path, *, loader: str | None = None, split: str | None = None, images: Path | None = None
) -> Source:
    """Decide how a path is read.

    Args:
        path: a data file or a folder.
        loader: name of a loader; otherwise the folder's files decide.
        split: only this split; otherwise all that are there.
        images: folder of the images of files [default: the files'].

    Raises:
        DataError: nothing is there, or nothing or several things that can be read, or what is there knows no loader, split or images.
    """
    if path.is_file():
        for name, value in (("loader", loader), ("split", split)):
            if value is not None:
                raise DataError(
                    f"{path}: expected a folder, to find {name} {value!r} in, found a file; leave --{name} out"
                )
        return Source(images or path.parent, [path])
    if not path.is_dir():
        raise DataError(f"{path}: expected a data file or a folder, found nothing there; check the path")
    found = [find_loader(loader)] if loader is not None else recognise(path)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise DataError(
            f"{path}: expected one data set, found several ({names}); keep each in a folder of its own, or name one (--loader)"
        )
    if found:
        if images is not None:
            raise DataError(f"{path}: {found[0].title} names its images itself; leave --image_folder out")
        splits = (split,) if split is not None else tuple(found[0].available(path)) or tuple(found[0].splits)[:1]
        return Source(path, [], found[0], splits)
    return Source(images or path, data_files(path) if split is None else _split_files(path, split))


def splits_of(folder: Path) -> list[str]:
    """The splits that a folder holds: those of the set that a loader recognises, or else a data file each.

    Raises:
        DataError: as ``find_source``.
    """
    source = find_source(folder)
    return [*source.splits] if source.loader is not None else list(dict.fromkeys(map(split_name, source.files)))


def scan(source: Source) -> Iterator[Sample | DataError]:
    """The samples of a source in order, an error in the place of each record that is malformed."""
    if source.loader is not None:
        for split in source.splits:
            yield from source.loader.scan(source.folder, split)
        return
    seen: dict[str, str] = {}
    empty = True
    for row in (row for file in source.files for row in told(read_table, file)):
        empty = False
        try:
            if isinstance(row, DataError):
                yield row
                continue
            sample = first_of_its_id(to_sample(row, source.folder), row, seen)
            yield sample if len(source.files) == 1 else _of_its_file(sample, row.file)
        except DataError as error:
            yield error
    if empty:
        yield DataError(f"{source.files[0]}: expected records, found none; write the file again")


def _of_its_file(sample: Sample, file: Path) -> Sample:
    """A sample of a folder; one that names no split is of the test split that its file is called after, and not of ``train``, as a row alone is."""
    named = split_name(file)
    if "split" in sample.model_fields_set or named not in TEST_SPLITS:
        return sample
    return sample.model_copy(update={"split": named})


def load(source: Source) -> list[Sample]:
    """The samples of a source.

    Raises:
        DataError: a record is malformed (file, row, field and fix named).
        ImageError: an image is not there.
    """
    samples = []
    for found in scan(source):
        if isinstance(found, DataError):
            raise found
        samples.append(found)
    return samples


def _split_files(folder: Path, split: str) -> list[Path]:
    """The file of a split, or its shards."""
    single = next((file for ending in (".jsonl", ".json") if (file := folder / f"{split}{ending}").is_file()), None)
    if single is not None:
        return [single]
    files = data_files(folder)
    found = [file for file in files if split_name(file) == split]
    if not found:
        there = ", ".join(dict.fromkeys(map(split_name, files)))
        raise DataError(f"{folder}: expected the data file of split {split!r}, found none; splits there: {there}")
    return found
