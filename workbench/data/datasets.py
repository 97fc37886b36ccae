"""Data sets to look at: known by name, read whole, with the images and twins of their items.

A person names a data set, never a path; the folders are chosen when the app is started. Image names in a data file are
not trusted either: a name that leaves its folder is reported as a fault of the item, and nothing is opened.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mis_lib.data.images import refusal
from mis_lib.data.preflight import PreflightReport, PreflightSettings, preflight
from mis_lib.data.sources import find_source, scan
from mis_lib.errors import DataError, ImageError
from mis_lib.schema import Sample
from workbench.background import Phase
from workbench.host import Host
from workbench.prompt import Prompt, card_thumbnail, read_image

HARMFUL, BENIGN = "harmful", "benign"


@dataclass(frozen=True)
class DataSet:
    """The items of one folder or file, and what could not be read of it."""

    name: str
    folder: Path
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The items by id."""
        return {sample.id: sample for sample in self.samples}

    @cached_property
    def splits(self) -> list[str]:
        """The splits, in the order of the files."""
        return list(dict.fromkeys(str(sample.split) for sample in self.samples))

    @cached_property
    def categories(self) -> list[str]:
        """The categories in alphabetical order."""
        return sorted({sample.category for sample in self.samples if sample.category})

    @cached_property
    def _texts(self) -> list[str]:
        return [
            " ".join([sample.id, sample.question, sample.sub_category or "", *(sample.objects or [])]).lower()
            for sample in self.samples
        ]

    def find(self, *, split: str = "", category: str = "", truth: str = "", words: str = "") -> list[Sample]:
        """The items that match all that is given; every word has to occur in an item's texts."""
        wanted = words.lower().split()
        return [
            sample
            for sample, text in zip(self.samples, self._texts, strict=True)
            if (not split or sample.split == split)
            and (not category or sample.category == category)
            and (not truth or sample.harmful == (truth == HARMFUL))
            and all(word in text for word in wanted)
        ]

    def twin(self, sample: Sample) -> Sample | None:
        """The counterpart with the opposite truth."""
        return self.by_id.get(sample.twin_id) if sample.twin_id else None

    def thumbnails(self, sample: Sample) -> list[tuple[str, str]]:
        """(data URL, "") for each image of an item, or ("", what is wrong with it)."""
        return [self._thumbnail(name) for name in sample.images]

    def prompt(self, sample_id: str) -> tuple[Prompt, Sample]:
        """An item as a prompt.

        Raises:
            DataError: there is no such item, or an image's name leads out of the data folder.
            ImageError: an image cannot be read.
        """
        sample = self.by_id.get(sample_id)
        if sample is None:
            raise DataError(f"there is no item {sample_id!r:.80} in {self.name}; choose one of those shown")
        names = sample.objects or sample.images
        for image in sample.images:
            if found := refusal(self.folder, image):
                raise DataError(
                    f"{sample_id}: expected an image inside the data folder, found {found.reason}; {found.fix}"
                )
        images = tuple(
            read_image(self.folder / image, name=name, flagged=sample.harmful)
            for image, name in zip(sample.images, names, strict=True)
        )
        return Prompt(images, sample.id), sample

    def _thumbnail(self, name: str) -> tuple[str, str]:
        if found := refusal(self.folder, name):
            return "", f"not opened: {found.reason}"
        try:
            return card_thumbnail(self.folder / name), ""
        except ImageError as error:
            return "", str(error)


@dataclass
class Shelf:
    """The data sets of one app."""

    host: Host
    _read: dict[str, DataSet] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def places(self) -> Mapping[str, Path]:
        """Name -> folder or file of every data set; the examples of Compare come first, equal names get a number."""
        examples = self.host.data.value
        found = {self.host.data_name: examples.folder} if examples else {}
        for path in self.host.data_folders:
            if path.resolve() in {other.resolve() for other in found.values()}:
                continue
            name, number = path.stem if path.is_file() else path.name, 2
            unique = name
            while unique in found:
                unique, number = f"{name} ({number})", number + 1
            found[unique] = path
        return found

    def read(self, name: str) -> DataSet:
        """A data set by name, read once.

        Raises:
            DataError: there is none of that name, or nothing in it can be read.
        """
        path = self._path(name)
        with self._lock:
            if name not in self._read:
                self._read[name] = _read(name, path)
            return self._read[name]

    def check(self, name: str) -> PreflightReport:
        """The preflight report of a data set; raises as ``read``."""
        return preflight(self._path(name), PreflightSettings())

    def _path(self, name: str) -> Path:
        places = self.places()
        if name not in places:
            told = [
                f"there is no data set{f' {name!r:.80}' if name else ''} here; there are {', '.join(places) or 'none'}"
            ]
            if self.host.data.status.phase is Phase.FAILED:
                told.append(f"The examples could not be prepared: {self.host.data.status.message}")
            raise DataError(". ".join([*told, "Start the app with --datasets PATH to have more"]))
        return places[name]


def _read(name: str, path: Path) -> DataSet:
    source = find_source(path)
    found = list(scan(source))
    samples = tuple(one for one in found if isinstance(one, Sample))
    problems = tuple(str(one) for one in found if isinstance(one, DataError))
    return DataSet(name, source.folder, samples, problems)
