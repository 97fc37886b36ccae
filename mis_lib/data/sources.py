"""Anything that people point at, as samples: a data file, a folder of ours, or a folder in a published layout.

    a file     .jsonl, .json, .csv, .tsv, .parquet; each record in one of the forms of ``formats.py``
    a folder   that a loader recognises (``benchmarks``), or else with data files: the first of ``PATTERNS`` that any
               file matches, one file a split or several shards

A folder also holds files that are no data: accounts, and records of other kinds (``NO_DATA``). What ``mis check
--remove`` writes is no split either, as long as the file that it was made of is in the folder; name the file itself to
use it.

``scan`` yields the errors in the records' places; ``load`` raises the first. Images are relative to ``Source.folder``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib.data.benchmarks import find_loader, recognise
from mis_lib.data.formats import to_sample
from mis_lib.data.loader import Loader, first_of_its_id
from mis_lib.data.records import Row, read_table, reported
from mis_lib.errors import DataError
from mis_lib.schema import Sample

MIXTURE = "mixture.json"
NO_DATA = frozenset(
    ["summary.json", "manifest.json", "dataset_info.json", "dataset_infos.json", "metadata.json", "delta.json", MIXTURE,
     "pairs.jsonl", "regression.jsonl", "pending.jsonl", "rejected.jsonl"]
)  # fmt: skip
TEST_SPLITS = (
    "easy", "hard", "unseen", "real", "everyday", "test", "validation", "valid", "val", "dev", "eval", "evaluation",
)  # fmt: skip
"""Names of splits, here and elsewhere, that nothing is trained on."""
CLEAN = ".clean"
# our own; MIS's layout; what other trainers read; what a data set on the hub is downloaded as
PATTERNS = ("*.jsonl", "mis_*.json", "mis_*/mis_*.json", "*.json", "*.parquet", "data/*.parquet")
SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` of ``datasets`` leaves in a folder with its Arrow files, which no other program reads."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def data_files(path: Path) -> list[Path]:
    """The data files that ``path`` means: itself, or the splits in the folder, by name.

    Raises:
        DataError: there is no such file, or the folder holds no data file, or what only the package ``datasets`` reads.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a data file or a folder, found nothing there; check the path")
    _refuse_saved(path)
    for pattern in PATTERNS:
        if found := sorted(file for file in path.glob(pattern) if _is_split(file)):
            return found
    raise DataError(
        f"{path}: expected JSON Lines, JSON or parquet files, or the files of a known data set, found none of them; "
        "name the data file"
    )


def split_name(file: Path) -> str:
    """The split that a data file holds, or a part of: its name without the number of the shard."""
    return _SHARD.sub("", file.stem)


def clean_file(file: Path) -> Path:
    """Where the copy of a data file without some of its rows goes."""
    return file.with_suffix(f"{CLEAN}{file.suffix}")


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
        DataError: nothing is there, or nothing or several things that can be read, or what is there knows no loader,
            split or images.
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
            f"{path}: expected one data set, found several ({names}); keep each in a folder of its own, or name one "
            "(--loader)"
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
    for row in (row for file in source.files for row in reported(read_table, file)):
        empty = False
        try:
            if isinstance(row, DataError):
                yield row
                continue
            yield of_source(source, to_sample(row, source.folder), row, seen)
        except DataError as error:
            yield error
    if empty:
        yield DataError(f"{source.files[0]}: expected records, found none; write the file again")


def of_source(source: Source, sample: Sample, row: Row, seen: dict[str, str]) -> Sample:
    """The sample of a row as one of several (``seen``: id -> place of those before it).

    Raises:
        DataError: another sample has its id.
    """
    sample = first_of_its_id(sample, row, seen)
    return sample if len(source.files) == 1 else _of_its_file(sample, row.file)


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


def stratified(samples: Iterable[Sample], n: int) -> list[Sample]:
    """At most ``n`` samples, one of each category in turn, and within a category one of each sub-category in turn.

    The first samples of a file often have only one category. A larger ``n`` keeps the samples of a smaller one, so that
    a run over few items can be continued with more.
    """
    categories: dict[str | None, dict[str | None, list[Sample]]] = {}
    for sample in samples:
        categories.setdefault(sample.category, {}).setdefault(sample.sub_category, []).append(sample)
    return _in_turn([_in_turn(list(parts.values())) for parts in categories.values()])[:n]


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


def _refuse_saved(path: Path) -> None:
    """Name the way out for a folder of Arrow files, whose ``.json`` files are no data."""
    is_dict = (path / SAVED[0]).is_file()
    if not is_dict and not ((path / SAVED[1]).is_file() and any(path.glob("*.arrow"))):
        return
    loaded = f"datasets.load_from_disk('{path}')"
    line = (
        f"for name, split in {loaded}.items(): split.to_parquet(f'NEW/{{name}}.parquet')"
        if is_dict
        else f"{loaded}.to_parquet('NEW/train.parquet')"
    )
    raise DataError(
        f"{path}: expected data files, found what save_to_disk of the package datasets wrote, which only that package "
        "reads; "
        f"make parquet files of it in a folder NEW, which is read: {line}"
    )


def _is_split(file: Path) -> bool:
    source = file.with_name(file.name.removesuffix(f"{CLEAN}{file.suffix}") + file.suffix)
    is_copy = source != file and source.is_file()
    return file.name not in NO_DATA and not is_copy and file.is_file()


def _of_its_file(sample: Sample, file: Path) -> Sample:
    """A sample of a folder.

    One that names no split is of the test split that its file is called after, and not of ``train``, as a row alone is.
    """
    named = split_name(file)
    if "split" in sample.model_fields_set or named not in TEST_SPLITS:
        return sample
    return sample.model_copy(update={"split": named})


def _in_turn(groups: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The first of every group, then the second of every group, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
