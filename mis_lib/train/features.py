"""Image features computed once: a frozen tower says the same of an image each time, so it is asked once.

    CACHE/features/DIGEST/  features.bin   numbers one behind the other, mapped into memory
                            index.jsonl    an image's digest, where its numbers lie, and how the prompt holds it

DIGEST covers the weights of everything in front of the features, the image processor's settings and the number types of numbers and products, so that a changed model never
reads another one's features; an image's digest is that of its file. Features are stored behind the projector where that is frozen, before it
where it is trained. Whether a model's images can be taken one by one is tried on rows of several images before anything is stored, never assumed.
"""

import hashlib
import inspect
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mis_lib.cache import cache_dir
from mis_lib.data.images import inside
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import append_record, hold, open_append, read_records, sha256, write_records
from mis_lib.schema import Record, Sample
from mis_lib.train.batches import join_vision, without_pixels
from mis_lib.train.encode import Encoder, Example, Prompt
from mis_lib.train.lora import Part, part_of

# ---------- Features of images one by one: where a model gives them, and how a prompt holds them in place of pixels.
#
# Whether a model's images can be taken one by one is tried on rows of several images (``differs``), never assumed.

USUAL = frozenset({"last_hidden_state", "pooler_output", "hidden_states", "attentions"})
"""What an image's features come with; language models read ``pooler_output`` of it."""


class Entry(Record):
    """One image in the store."""

    image: str
    """Digest of its file."""
    offset: int
    """In numbers, not bytes."""
    shape: tuple[int, ...]
    ids: tuple[int, ...]
    """What stands in the prompt for its placeholder."""
    per_token: dict[str, tuple[int, ...]]
    vision: dict[str, list[Any]]
    """Grids and sizes that the model reads beside the features."""

    @property
    def end(self) -> int:
        """Where its numbers end."""
        return self.offset + math.prod(self.shape)


class Source(NamedTuple):
    """Where in a model features are taken."""

    network: Any
    projector: nn.Module | None
    """Trained, so that features are taken before it; ``None``: behind the projector."""
    as_list: bool
    trailing: tuple[int, ...]
    """Shape of the model's own features behind the first dimension."""

    def outputs(self, features: torch.Tensor) -> dict[str, BaseModelOutputWithPooling]:
        """What the model takes in place of pixels; gradients reach a trained projector."""
        if self.projector is not None:
            features = self.projector(features).flatten(0, -2)
            features = features.unflatten(0, (-1, *self.trailing[:-1])) if len(self.trailing) > 1 else features
        pooled: Any = [features] if self.as_list else features
        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}


@torch.no_grad()
def one_image(source: Source, encoder: Encoder, example: Example, name: str) -> tuple[Sample, Prompt, torch.Tensor]:
    """A sample that shows this image alone, its prompt, and the image's features."""
    alone = example.sample.model_copy(update={"images": [name], "objects": None})
    made = encoder.prompt(Example(alone, example.folder))
    return alone, made, take(source, made.vision)


@torch.no_grad()
def take(source: Source, vision: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Features of pixels, before or behind the projector.

    Raises:
        SettingsError: a projector is trained that reads more than features.
    """
    if source.projector is None:
        return _flat(_pooled(source.network, vision))
    seen: list[torch.Tensor] = []

    def keep(projector: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if len(args) != 1 or options:
            raise SettingsError(
                "feature_cache: the projector reads more than the tower's features, which are all that is stored; leave it out, or set "
                "freeze_projector: true"
            )
        seen.append(args[0])

    handle = source.projector.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        _pooled(source.network, vision)
    finally:
        handle.remove()
    return torch.cat(seen)


def spliced(encoder: Encoder, sample: Sample, entries: Sequence[Entry]) -> Prompt:
    """A sample's prompt with each placeholder replaced by what stands there for the image."""
    ids = _unexpanded(encoder, sample)
    parts, per_token = [], {key: [] for key in (entries[0].per_token if entries else {})}
    start = 0
    for place, entry in zip(_placeholders(encoder, ids), entries, strict=True):
        parts += [ids[start:place], torch.tensor(entry.ids)]
        for key, values in per_token.items():
            values += [torch.zeros(place - start, dtype=torch.long), torch.tensor(entry.per_token[key])]
        start = place + 1
    for values in per_token.values():
        values.append(torch.zeros(len(ids) - start, dtype=torch.long))
    vision = join_vision([{key: torch.tensor(value) for key, value in entry.vision.items()} for entry in entries])
    return Prompt(
        torch.cat([*parts, ids[start:]]), {key: torch.cat(values) for key, values in per_token.items()}, vision
    )


def entry_of(encoder: Encoder, alone: Sample, made: Prompt) -> Entry:
    """How a prompt holds the one image of a sample; where its features lie is for the store to say."""
    short = _unexpanded(encoder, alone)
    place = _placeholders(encoder, short)[0]
    part = slice(place, len(made.ids) - (len(short) - place - 1))
    return Entry(
        image="",
        offset=0,
        shape=(),
        ids=tuple(made.ids[part].tolist()),
        per_token={key: tuple(value[part].tolist()) for key, value in made.per_token.items()},
        vision={key: value.tolist() for key, value in without_pixels(made.vision).items()},
    )


def _unexpanded(encoder: Encoder, sample: Sample) -> torch.Tensor:
    """Tokens of a sample's prompt with one placeholder for each image, (T,)."""
    text = encoder.prompt_text(sample)
    return encoder.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]


def _placeholders(encoder: Encoder, ids: torch.Tensor) -> list[int]:
    token = encoder.tokenizer.convert_tokens_to_ids(encoder.processor.image_token)
    return (ids == token).nonzero().flatten().tolist()


def source_of(network: Any, encoder: Encoder, examples: Sequence[Example], *, projector_is_frozen: bool) -> Source:
    """Where this network's features are taken, found by asking it for those of the first row with images.

    Raises:
        SettingsError: the model reads more of an image than its features, or a projector is trained and there is not exactly one.
    """
    example = next(example for example in examples if example.sample.images)
    with torch.no_grad():
        found = _asked(network, encoder.prompt(example).vision)
    if more := sorted(found.keys() - USUAL):
        raise SettingsError(
            f"feature_cache: this model reads more of an image than can be stored ({', '.join(more)}); leave it out or set feature_cache: false"
        )
    as_list = isinstance(found.pooler_output, (list, tuple))
    trailing = tuple((found.pooler_output[0] if as_list else found.pooler_output).shape[1:])
    projector = None if projector_is_frozen else _projector(network)
    return Source(network, projector, as_list, trailing)


def _projector(network: Any) -> nn.Module:
    found = [
        module
        for name, module in network.named_modules()
        if part_of(f"{name}.weight") is Part.PROJECTOR
        and part_of(f"{name.rpartition('.')[0]}.weight") is not Part.PROJECTOR
    ]
    if len(found) != 1:
        raise SettingsError(
            f"feature_cache: expected one projector to train behind the stored features, found {len(found)}; "
            "leave it out or set feature_cache: false"
        )
    return found[0]


def _pooled(network: Any, vision: Mapping[str, torch.Tensor]) -> Any:
    return _asked(network, vision).pooler_output


def _asked(network: Any, vision: Mapping[str, torch.Tensor]) -> Any:
    """What the model makes of pixels: its features as ``pooler_output``, and what else it may read of them."""
    known = inspect.signature(network.get_image_features).parameters
    given = {name: value for name, value in vision.items() if name in known}
    device = network.device
    moved = {
        name: value.to(device, network.dtype) if value.is_floating_point() else value.to(device)
        for name, value in given.items()
    }
    return network.get_image_features(**moved, return_dict=True)


def _flat(pooled: Any) -> torch.Tensor:
    return torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled


@torch.no_grad()
def differs(source: Source, encoder: Encoder, example: Example) -> str | None:
    """How a row's images taken one by one differ from the row as the model reads it, or ``None`` if they do not."""
    whole = encoder.prompt(example)
    alone = [one_image(source, encoder, example, name) for name in example.sample.images]
    if any(len(_placeholders(encoder, _unexpanded(encoder, one))) != 1 for one, _, _ in alone):
        return "this chat template writes no placeholder of its own for an image"
    built = spliced(encoder, example.sample, [entry_of(encoder, one, made) for one, made, _ in alone])
    if not torch.equal(built.ids, whole.ids) or any(
        not torch.equal(built.per_token[key], value) for key, value in whole.per_token.items()
    ):
        return f"row {example.sample.id!r}: an image's place in the prompt depends on the images beside it"
    kept = without_pixels(whole.vision)
    if kept.keys() != built.vision.keys() or any(
        not torch.equal(built.vision[key], value) for key, value in kept.items()
    ):
        return f"row {example.sample.id!r}: what the model reads of an image depends on the images beside it"
    pooled = source.outputs(torch.cat([features for _, _, features in alone]))["image"].pooler_output
    own, rebuilt = _flat(_pooled(source.network, whole.vision)), _flat(pooled)
    if own.shape != rebuilt.shape or not torch.allclose(
        own.float(), rebuilt.float(), rtol=1e-2, atol=1e-2 * float(own.float().std())
    ):
        return f"row {example.sample.id!r}: this model's features cannot be taken image by image"
    return None


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

    def digest(self, example: Example, name: str) -> str:
        """Digest of an image's file."""
        path = inside(example.folder, name)
        if path not in self._digests:
            self._digests[path] = sha256(path)
        return self._digests[path]

    def holds(self, example: Example) -> bool:
        """Whether all images of a sample are in the store."""
        return all(self.digest(example, name) in self._entries for name in example.sample.images)

    def missing(self, examples: Iterable[Example]) -> dict[str, tuple[Example, str]]:
        """The images that are not in the store: digest, and one sample that shows it under which name."""
        wanted = (
            (self.digest(example, name), (example, name)) for example in examples for name in example.sample.images
        )
        return {digest: where for digest, where in wanted if digest not in self._entries}

    def prompt(self, example: Example) -> Prompt:
        """The user's turn of a sample without touching an image."""
        entries = [self._entries[self.digest(example, name)] for name in example.sample.images]
        return spliced(self.encoder, example.sample, entries)

    def features(self, example: Example) -> tuple[torch.Tensor, ...]:
        """The features of a sample's images, in order."""
        return tuple(self.image(example, name) for name in example.sample.images)

    def image(self, example: Example, name: str) -> torch.Tensor:
        """The features of one image of a sample."""
        return self._read(self._entries[self.digest(example, name)])

    def different(self, examples: Iterable[Example]) -> dict[str, tuple[Example, str]]:
        """The different images of samples by digest: one sample that shows it, and under which name."""
        return {self.digest(example, name): (example, name) for example in examples for name in example.sample.images}

    def build(self, examples: Sequence[Example], progress: Progress = lambda message: None) -> Worth:
        """Compute what is missing, and say what that was worth.

        Raises:
            DataError: the disk is full.
            ImageError: an image is missing or damaged.
        """
        started, computed = time.perf_counter(), 0
        with hold(self.folder / "lock"):
            self._load()
            missing = self.missing(examples)
            with self._open_end() as numbers, open_append(self.folder / INDEX) as index:
                for digest, (example, name) in missing.items():
                    try:
                        append_record(index, self._compute(digest, example, name, numbers))
                    except OSError as error:
                        raise DataError(
                            f"{self.folder}: expected room for image features, found: {error.strerror}; free some, or set feature_cache: false"
                        ) from error
                    computed += 1
                    if computed % 50 == 0:
                        progress(f"Image features: {computed:,} of {len(missing):,}")
        self._load()
        return self._worth(examples, computed, time.perf_counter() - started)

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

    def _compute(self, digest: str, example: Example, name: str, numbers: Any) -> Entry:
        alone, made, features = one_image(self.source, self.encoder, example, name)
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

    def _worth(self, examples: Sequence[Example], computed: int, seconds: float) -> Worth:
        shown = sum(len(example.sample.images) for example in examples)
        different = [self._entries[digest] for digest in self.different(examples)]
        started = time.perf_counter()
        read = sum(len(self.features(example)) for example in examples[:64])
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


def open_cache(
    network: Any, encoder: Encoder, examples: Sequence[Example], *, projector_is_frozen: bool
) -> FeatureCache:
    """The feature store of a model, after a trial on some of the rows.

    Raises:
        SettingsError: this model's features cannot be stored; says why.
    """
    refused = "feature_cache: {}; leave it out or set feature_cache: false"
    if "mm_encoder_outputs" not in inspect.signature(network.forward).parameters:
        raise SettingsError(refused.format("this architecture takes no features in place of pixels"))
    source = source_of(network, encoder, examples, projector_is_frozen=projector_is_frozen)
    several = [example for example in examples if len(example.sample.images) > 1][:TRIALS]
    for example in several or examples[:TRIALS]:
        if (reason := differs(source, encoder, example)) is not None:
            raise SettingsError(refused.format(reason))
    dtype = torch.bfloat16 if network.dtype is torch.bfloat16 else torch.float32
    folder = cache_dir() / "features" / _digest(network, encoder, projector_is_frozen=projector_is_frozen, dtype=dtype)
    return FeatureCache(folder, source, encoder, dtype)


def has_room(cache: FeatureCache, examples: Sequence[Example]) -> bool:
    """Whether the features of all missing images fit into half of the free disk."""
    missing = cache.missing(examples)
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
