"""Image features computed once: a frozen tower says the same of an image each time, so it is asked once.

    CACHE/features/DIGEST/  features.bin   numbers one behind the other, mapped into memory
                            index.jsonl    an image's digest, where its numbers lie, and how the prompt holds it

DIGEST covers the weights of everything in front of the features, the image processor's settings and the number types of numbers and products, so that a changed model never
reads another one's features; an image's digest is that of its file. Features are stored behind the projector where that is frozen, before it
where it is trained. Whether a model's images can be taken one by one is tried on rows of several images before anything is stored, never assumed.
"""

import hashlib
import inspect
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock

from mis_lib.cache import cache_dir
from mis_lib.data.paths import inside
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import append_record, open_append, read_records, sha256, write_records
from mis_lib.schema import Record
from mis_lib.train.encode import Encoder, Place, Prompt
from mis_lib.train.feature_source import Entry, Source, differs, entry_of, one_image, source_of, spliced
from mis_lib.train.lora import Part, part_of

NUMBERS, INDEX = "features.bin", "index.jsonl"
TRIALS = 2  # rows on which it is tried whether images can be taken one by one
ROOM = 0.5  # share of the free disk that features may take

Progress = Callable[[str], None]


class Worth(Record):
    """What the cache costs and saves."""

    images: int
    """Different ones in the data."""
    computed: int
    """Those that were not in the store yet."""
    shown: int
    """Images in one epoch's rows, repetitions counted."""
    megabytes: float
    """Of these images; the store may hold those of other data too."""
    seconds: float
    """That computing took."""
    seconds_per_image: float
    """Decoding, preprocessing and encoding of one image, which every row would cost without the cache."""
    milliseconds_to_read: float
    break_even_epochs: float | None
    """Epochs after which the cache has saved more than it cost; ``None`` if it cost nothing."""


class FeatureCache:
    """Reads features of images; ``build`` computes those that are missing first."""

    def __init__(self, folder: Path, source: Source, encoder: Encoder, dtype: torch.dtype) -> None:
        self.folder, self.source, self.encoder, self.dtype = folder, source, encoder, dtype
        self._entries: dict[str, Entry] = {}
        self._digests: dict[Path, str] = {}
        self._numbers: Any = None
        self._load()

    @property
    def size(self) -> int:
        """Size on disk."""
        path = self.folder / NUMBERS
        return path.stat().st_size if path.exists() else 0

    def digest(self, place: Place, name: str) -> str:
        """Digest of an image's file."""
        path = inside(place.folder, name)
        if path not in self._digests:
            self._digests[path] = sha256(path)
        return self._digests[path]

    def holds(self, place: Place) -> bool:
        """Whether all images of a sample are in the store."""
        return all(self.digest(place, name) in self._entries for name in place.sample.images)

    def missing(self, places: Iterable[Place]) -> dict[str, tuple[Place, str]]:
        """The images that are not in the store: digest, and one sample that shows it under which name."""
        wanted = ((self.digest(place, name), (place, name)) for place in places for name in place.sample.images)
        return {digest: where for digest, where in wanted if digest not in self._entries}

    def prompt(self, place: Place) -> Prompt:
        """The user's turn of a sample without touching an image."""
        entries = [self._entries[self.digest(place, name)] for name in place.sample.images]
        return spliced(self.encoder, place.sample, entries)

    def features(self, place: Place) -> tuple[torch.Tensor, ...]:
        """The features of a sample's images, in order."""
        return tuple(self.image(place, name) for name in place.sample.images)

    def image(self, place: Place, name: str) -> torch.Tensor:
        """The features of one image of a sample."""
        return self._read(self._entries[self.digest(place, name)])

    def different(self, places: Iterable[Place]) -> dict[str, tuple[Place, str]]:
        """The different images of samples by digest: one sample that shows it, and under which name."""
        return {self.digest(place, name): (place, name) for place in places for name in place.sample.images}

    def build(self, places: Sequence[Place], progress: Progress = lambda message: None) -> Worth:
        """Compute what is missing, and say what that was worth.

        Raises:
            DataError: the disk is full.
            ImageError: an image is missing or damaged.
        """
        started, computed = time.perf_counter(), 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            self._load()
            missing = self.missing(places)
            with self._open_end() as numbers, open_append(self.folder / INDEX) as index:
                for digest, (place, name) in missing.items():
                    try:
                        append_record(index, self._compute(digest, place, name, numbers))
                    except OSError as error:
                        raise DataError(
                            f"{self.folder}: expected room for image features, found: {error.strerror}; free some, or set feature_cache: false"
                        ) from error
                    computed += 1
                    if computed % 50 == 0:
                        progress(f"Image features: {computed:,} of {len(missing):,}")
        self._load()
        return self._worth(places, computed, time.perf_counter() - started)

    def _open_end(self) -> IO[bytes]:
        """The file of numbers behind the last whole image; what a killed writer left there is cut off, in the index too."""
        write_records(self.folder / INDEX, list(self._entries.values()))
        end = max((entry.end for entry in self._entries.values()), default=0)
        path = self.folder / NUMBERS
        path.touch()
        stream = path.open("r+b")
        stream.truncate(end * self.dtype.itemsize)
        stream.seek(0, 2)
        return stream

    def _compute(self, digest: str, place: Place, name: str, numbers: Any) -> Entry:
        alone, made, features = one_image(self.source, self.encoder, place, name)
        values = features.to(self.dtype).contiguous().cpu()
        entry = entry_of(self.encoder, alone, made).model_copy(
            update={
                "image": digest,
                "offset": numbers.seek(0, 2) // values.element_size(),
                "shape": tuple(values.shape),
            }
        )
        numbers.write(values.view(torch.uint8).numpy().tobytes())
        numbers.flush()
        return entry

    def _load(self) -> None:
        """Read the index; entries whose numbers are not whole (a killed writer) count as missing."""
        path = self.folder / INDEX
        entries = read_records(path, Entry) if path.exists() else []
        size = self.size // self.dtype.itemsize
        self._entries = {entry.image: entry for entry in entries if entry.end <= size}
        self._numbers = None

    def _read(self, entry: Entry) -> torch.Tensor:
        if self._numbers is None:
            kind = {2: np.int16, 4: np.int32}[self.dtype.itemsize]
            self._numbers = np.memmap(self.folder / NUMBERS, dtype=kind, mode="r")
        values = torch.from_numpy(np.array(self._numbers[entry.offset : entry.end]))
        return values.view(self.dtype).view(entry.shape)

    def _worth(self, places: Sequence[Place], computed: int, seconds: float) -> Worth:
        shown = sum(len(place.sample.images) for place in places)
        different = [self._entries[digest] for digest in self.different(places)]
        started = time.perf_counter()
        read = sum(len(self.features(place)) for place in places[:64])
        reading = (time.perf_counter() - started) / max(1, read)
        each = seconds / computed if computed else 0.0
        saved = shown * (each - reading)
        return Worth(
            images=len(different),
            computed=computed,
            shown=shown,
            megabytes=round(sum(entry.end - entry.offset for entry in different) * self.dtype.itemsize / 1e6, 4),
            seconds=round(seconds, 2),
            seconds_per_image=round(each, 5),
            milliseconds_to_read=round(1000 * reading, 3),
            break_even_epochs=round(seconds / saved, 2) if computed and saved > 0 else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which read features but never compute any: without the model and the open file."""
        return {**vars(self), "source": None, "_numbers": None}


def open_cache(network: Any, encoder: Encoder, places: Sequence[Place], *, projector_is_frozen: bool) -> FeatureCache:
    """The feature store of a model, after a trial on some of the rows.

    Raises:
        SettingsError: this model's features cannot be stored; says why.
    """
    refused = "feature_cache: {}; leave it out or set feature_cache: false"
    if "mm_encoder_outputs" not in inspect.signature(network.forward).parameters:
        raise SettingsError(refused.format("this architecture takes no features in place of pixels"))
    source = source_of(network, encoder, places, projector_is_frozen=projector_is_frozen)
    several = [place for place in places if len(place.sample.images) > 1][:TRIALS]
    for place in several or places[:TRIALS]:
        if (reason := differs(source, encoder, place)) is not None:
            raise SettingsError(refused.format(reason))
    dtype = torch.bfloat16 if network.dtype is torch.bfloat16 else torch.float32
    folder = cache_dir() / "features" / _digest(network, encoder, projector_is_frozen=projector_is_frozen, dtype=dtype)
    return FeatureCache(folder, source, encoder, dtype)


def has_room(cache: FeatureCache, places: Sequence[Place]) -> bool:
    """Whether the features of all missing images fit into half of the free disk."""
    missing = cache.missing(places)
    if not missing:
        return True
    _, _, features = one_image(cache.source, cache.encoder, *next(iter(missing.values())))
    folder = next(folder for folder in (cache.folder, *cache.folder.parents) if folder.exists())
    return len(missing) * features.numel() * cache.dtype.itemsize < ROOM * shutil.disk_usage(folder).free


def _digest(network: Any, encoder: Encoder, *, projector_is_frozen: bool, dtype: torch.dtype) -> str:
    """Digest of everything that an image's features follow from."""
    products = "|products in bfloat16" if torch.is_autocast_enabled(network.device.type) else ""
    digest = hashlib.sha256(f"{type(network).__name__}|{dtype}|{projector_is_frozen}{products}".encode())
    digest.update(encoder.processor.image_processor.to_json_string().encode())
    for name, weight in network.state_dict().items():  # running means of a normalisation count too
        if part_of(name) is Part.VISION or (projector_is_frozen and part_of(name) is Part.PROJECTOR):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:20]
