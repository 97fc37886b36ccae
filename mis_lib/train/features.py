"""Image features, computed once and stored: a frozen vision tower returns the same features of an image each time.

    CACHE/features/DIGEST/  features.bin   the numbers of all images in a row, mapped into memory
                            index.jsonl    an image's digest, where its numbers are, and its tokens in a prompt

DIGEST covers the weights that the features depend on, the image processor's settings and the number types, so that a
changed model never reads another one's features. An image's digest is that of its file. The projector's output is
stored where the projector is frozen, and its input where it is trained. Whether a model's images can be encoded one by
one is tried on rows of several images, never assumed.

Mixup of stored features is at the end: an image's features with some of another image's.
"""

import hashlib
import inspect
import math
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mis_lib.cache import cache_dir
from mis_lib.data.images import inside
from mis_lib.errors import DataError, MisError, SettingsError
from mis_lib.files import append_record, hold, open_append, read_records, sha256, write_records
from mis_lib.schema import Record, Sample
from mis_lib.train.batches import join_vision, without_pixels
from mis_lib.train.encode import Encoder, Example, Prompt
from mis_lib.train.lora import Part, part_of
from mis_lib.train.model import FORWARD_ERRORS

NUMBERS, INDEX = "features.bin", "index.jsonl"
TRIALS = 2  # rows on which it is tried whether images can be encoded one by one
ROOM = 0.5  # share of the free disk that features may take
USUAL = frozenset({"last_hidden_state", "pooler_output", "hidden_states", "attentions"})
"""Outputs of ``get_image_features``; language models read only ``pooler_output`` of them."""
REFUSED = "feature_cache: {}; leave it out or set feature_cache: false"

Progress = Callable[[str], None]


class Entry(Record):
    """One image in the store."""

    image: str
    """Digest of its file."""
    offset: int
    """In numbers, not bytes."""
    shape: tuple[int, ...]
    ids: tuple[int, ...]
    """The tokens that replace its placeholder in a prompt."""
    per_token: dict[str, tuple[int, ...]]
    vision: dict[str, list[Any]]
    """Grids and sizes that the model reads in addition to the features."""

    @property
    def end(self) -> int:
        """End of its numbers."""
        return self.offset + math.prod(self.shape)


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
    """Epochs until the cache has saved more than it cost; ``None`` if it cost nothing."""


class FeatureCache:
    """The stored image features of a model.

    ``build`` computes what is missing, ``prompt`` and ``features`` make rows without opening an image, and ``outputs``
    are what the model takes in place of pixels.

    Args:
        network: the transformers model.
        encoder: of its rows.
        examples: some have images.
        projector_is_frozen: store the projector's output, and not its input.

    Raises:
        SettingsError: this model's features cannot be stored; says why.
    """

    def __init__(
        self, network: Any, encoder: Encoder, examples: Sequence[Example], *, projector_is_frozen: bool
    ) -> None:
        if "mm_encoder_outputs" not in inspect.signature(network.forward).parameters:
            raise SettingsError(REFUSED.format("this architecture takes no features in place of pixels"))
        self.network, self.encoder = network, encoder
        self.projector = None if projector_is_frozen else _projector(network)
        with declining():
            self._try(examples)
        self.dtype = torch.bfloat16 if network.dtype is torch.bfloat16 else torch.float32
        digest = _digest(network, encoder, projector_is_frozen=projector_is_frozen, dtype=self.dtype)
        self.folder = cache_dir() / "features" / digest
        self._digests: dict[Path, str] = {}
        self._load()

    def _try(self, examples: Sequence[Example]) -> None:
        """Refuse a model whose images cannot be encoded one by one."""
        first = next(example for example in examples if example.sample.images)
        found = self._encode(self.encoder.prompt(first).vision)
        if more := sorted(found.keys() - USUAL):
            raise SettingsError(
                REFUSED.format(f"this model reads more of an image than can be stored ({', '.join(more)})")
            )
        self._in_list = isinstance(found.pooler_output, (list, tuple))
        self._trailing = tuple((found.pooler_output[0] if self._in_list else found.pooler_output).shape[1:])
        several = [example for example in examples if len(example.sample.images) > 1][:TRIALS]
        for example in several or [example for example in examples if example.sample.images][:TRIALS]:
            if (reason := self.differs(example)) is not None:
                raise SettingsError(REFUSED.format(reason))

    @property
    def size(self) -> int:
        """Bytes of all features on disk."""
        path = self.folder / NUMBERS
        return path.stat().st_size if path.exists() else 0

    def outputs(self, features: torch.Tensor) -> dict[str, BaseModelOutputWithPooling]:
        """``mm_encoder_outputs`` of the model for a batch's features; gradients reach a trained projector."""
        if self.projector is not None:
            features = self.projector(features).flatten(0, -2)
            if len(self._trailing) > 1:
                features = features.unflatten(0, (-1, *self._trailing[:-1]))
        pooled: Any = [features] if self._in_list else features
        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}

    def prompt(self, example: Example) -> Prompt:
        """The user's turn of a sample without its pixels."""
        if not example.sample.images:
            return self.encoder.prompt(example)
        entries = [self._entries[self.digest(example, name)] for name in example.sample.images]
        return self._splice(example.sample, entries)

    def features(self, example: Example) -> tuple[torch.Tensor, ...]:
        """The features of a sample's images, in order."""
        return tuple(self.image(example, name) for name in example.sample.images)

    def image(self, example: Example, name: str) -> torch.Tensor:
        """The features of one image of a sample."""
        entry = self._entries[self.digest(example, name)]
        if self._numbers is None:
            kind = {2: np.int16, 4: np.int32}[self.dtype.itemsize]
            self._numbers = np.memmap(self.folder / NUMBERS, dtype=kind, mode="r")
        values = torch.from_numpy(np.array(self._numbers[entry.offset : entry.end]))
        return values.view(self.dtype).view(entry.shape)

    def digest(self, example: Example, name: str) -> str:
        """Digest of an image's file."""
        path = inside(example.folder, name)
        if path not in self._digests:
            self._digests[path] = sha256(path)
        return self._digests[path]

    def distinct_images(self, examples: Iterable[Example]) -> dict[str, tuple[Example, str]]:
        """The different images of samples by digest: one sample that shows it, and its name there."""
        return {self.digest(example, name): (example, name) for example in examples for name in example.sample.images}

    def missing(self, examples: Iterable[Example]) -> dict[str, tuple[Example, str]]:
        """Those of ``distinct_images`` that are not in the store."""
        found = self.distinct_images(examples)
        return {digest: image for digest, image in found.items() if digest not in self._entries}

    def has_room(self, examples: Sequence[Example]) -> bool:
        """Whether the features of all missing images fit into half of the free disk."""
        missing = self.missing(examples)
        if not missing:
            return True
        _, _, features = self._alone(*next(iter(missing.values())))
        folder = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return len(missing) * features.numel() * self.dtype.itemsize < ROOM * shutil.disk_usage(folder).free

    def build(self, examples: Sequence[Example], progress: Progress = lambda message: None) -> Worth:
        """Compute what is missing; returns what that cost and saves.

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
                            f"{self.folder}: expected room for image features, found: {error.strerror}; "
                            "free some, or set feature_cache: false"
                        ) from error
                    computed += 1
                    if computed % 50 == 0:
                        progress(f"Image features: {computed:,} of {len(missing):,}")
        self._load()
        return self._worth(examples, computed, time.perf_counter() - started)

    @torch.no_grad()
    def differs(self, example: Example) -> str | None:
        """How a row whose images are encoded one by one differs from the whole row, or ``None`` if it does not."""
        row, whole = f"row {example.sample.id!r}", self.encoder.prompt(example)
        alone = [self._alone(example, name) for name in example.sample.images]
        if any(len(self._placeholders(self._unexpanded(sample))) != 1 for sample, _, _ in alone):
            return "this chat template writes no placeholder of its own for an image"
        built = self._splice(example.sample, [self._entry(sample, prompt) for sample, prompt, _ in alone])
        if not torch.equal(built.ids, whole.ids) or any(
            not torch.equal(built.per_token[key], value) for key, value in whole.per_token.items()
        ):
            return f"{row}: an image's place in the prompt depends on the row's other images"
        kept = without_pixels(whole.vision)
        if kept.keys() != built.vision.keys() or any(
            not torch.equal(built.vision[key], value) for key, value in kept.items()
        ):
            return f"{row}: what the model reads of an image depends on the row's other images"
        pooled = self.outputs(torch.cat([features for _, _, features in alone]))["image"].pooler_output
        own, rebuilt = _flat(self._encode(whole.vision).pooler_output), _flat(pooled)
        tolerance = 1e-2 * float(own.float().std())
        if own.shape != rebuilt.shape or not torch.allclose(own.float(), rebuilt.float(), rtol=1e-2, atol=tolerance):
            return f"{row}: this model's features cannot be taken image by image"
        return None

    @torch.no_grad()
    def _alone(self, example: Example, name: str) -> tuple[Sample, Prompt, torch.Tensor]:
        """A sample that shows this image alone, its prompt, and the image's features."""
        sample = example.sample.model_copy(update={"images": [name], "objects": None})
        prompt = self.encoder.prompt(Example(sample, example.folder))
        if self.projector is None:
            return sample, prompt, _flat(self._encode(prompt.vision).pooler_output)
        seen: list[torch.Tensor] = []

        def keep(projector: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if len(args) != 1 or options:
                raise SettingsError(
                    "feature_cache: the projector reads more than the tower's features, which are all that is stored; "
                    "leave it out, or set freeze_projector: true"
                )
            seen.append(args[0])

        hook = self.projector.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self._encode(prompt.vision)
        finally:
            hook.remove()
        if len({(one.ndim, one.shape[1:]) for one in seen}) != 1:
            raise SettingsError(REFUSED.format("the projector reads features of different shapes"))
        return sample, prompt, torch.cat(seen)

    @torch.no_grad()
    def _encode(self, vision: Mapping[str, torch.Tensor]) -> Any:
        """The model's output for images: ``pooler_output``, and whatever else it may read of them."""
        known = inspect.signature(self.network.get_image_features).parameters
        device, dtype = self.network.device, self.network.dtype
        given = {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in vision.items()
            if name in known
        }
        return self.network.get_image_features(**given, return_dict=True)

    def _splice(self, sample: Sample, entries: Sequence[Entry]) -> Prompt:
        """A sample's prompt with each placeholder replaced by the image's tokens."""
        ids = self._unexpanded(sample)
        parts, per_token = [], {key: [] for key in (entries[0].per_token if entries else {})}
        start = 0
        for at, entry in zip(self._placeholders(ids), entries, strict=True):
            parts += [ids[start:at], torch.tensor(entry.ids)]
            for key, values in per_token.items():
                values += [torch.zeros(at - start, dtype=torch.long), torch.tensor(entry.per_token[key])]
            start = at + 1
        for values in per_token.values():
            values.append(torch.zeros(len(ids) - start, dtype=torch.long))
        vision = join_vision([{key: torch.tensor(value) for key, value in entry.vision.items()} for entry in entries])
        joined = {key: torch.cat(values) for key, values in per_token.items()}
        return Prompt(torch.cat([*parts, ids[start:]]), joined, vision)

    def _entry(
        self, alone: Sample, prompt: Prompt, image: str = "", offset: int = 0, shape: tuple[int, ...] = ()
    ) -> Entry:
        """The entry of the one image of a sample."""
        short = self._unexpanded(alone)
        at = self._placeholders(short)[0]
        part = slice(at, len(prompt.ids) - (len(short) - at - 1))
        return Entry(
            image=image,
            offset=offset,
            shape=shape,
            ids=tuple(prompt.ids[part].tolist()),
            per_token={key: tuple(value[part].tolist()) for key, value in prompt.per_token.items()},
            vision={key: value.tolist() for key, value in without_pixels(prompt.vision).items()},
        )

    def _unexpanded(self, sample: Sample) -> torch.Tensor:
        """Tokens of a sample's prompt with one placeholder for each image, (T,)."""
        text = self.encoder.prompt_text(sample)
        return self.encoder.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]

    def _placeholders(self, ids: torch.Tensor) -> list[int]:
        token = self.encoder.tokenizer.convert_tokens_to_ids(self.encoder.processor.image_token)
        return (ids == token).nonzero().flatten().tolist()

    def _compute(self, digest: str, example: Example, name: str, numbers: IO[bytes]) -> Entry:
        sample, prompt, features = self._alone(example, name)
        values = features.to(self.dtype).contiguous().cpu()
        entry = self._entry(sample, prompt, digest, numbers.seek(0, 2) // values.element_size(), tuple(values.shape))
        numbers.write(values.view(torch.uint8).numpy().tobytes())
        numbers.flush()
        return entry

    def _load(self) -> None:
        """Read the index; entries whose numbers are not whole (a killed writer) count as missing."""
        path = self.folder / INDEX
        entries = read_records(path, Entry) if path.exists() else []
        size = self.size // self.dtype.itemsize
        self._entries = {entry.image: entry for entry in entries if entry.end <= size}
        self._numbers: Any = None

    def _open_end(self) -> IO[bytes]:
        """The file of numbers, opened at its end; what a killed writer left is cut off, also in the index."""
        write_records(self.folder / INDEX, list(self._entries.values()))
        end = max((entry.end for entry in self._entries.values()), default=0)
        path = self.folder / NUMBERS
        path.touch()
        stream = path.open("r+b")
        stream.truncate(end * self.dtype.itemsize)
        stream.seek(0, 2)
        return stream

    def _worth(self, examples: Sequence[Example], computed: int, seconds: float) -> Worth:
        shown = sum(len(example.sample.images) for example in examples)
        images = [self._entries[digest] for digest in self.distinct_images(examples)]
        started = time.perf_counter()
        read = sum(len(self.features(example)) for example in examples[:64])
        reading = (time.perf_counter() - started) / max(1, read)
        each = seconds / computed if computed else 0.0
        saved = shown * (each - reading)
        return Worth(
            images=len(images),
            computed=computed,
            shown=shown,
            megabytes=round(sum(entry.end - entry.offset for entry in images) * self.dtype.itemsize / 1e6, 4),
            seconds=round(seconds, 2),
            seconds_per_image=round(each, 5),
            milliseconds_to_read=round(1000 * reading, 3),
            break_even_epochs=round(seconds / saved, 2) if computed and saved > 0 else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which read features but never compute any: without the model and the open file."""
        return {**vars(self), "network": None, "projector": None, "_numbers": None}


@contextmanager
def declining() -> Iterator[None]:
    """Turn what a model's code raises when it encodes images by themselves into a refusal.

    Raises:
        SettingsError: it failed; says how.
    """
    try:
        yield
    except (MisError, torch.OutOfMemoryError):
        raise
    except FORWARD_ERRORS as error:
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"this model's code does not encode images by themselves ({type(error).__name__}: {first})"
        raise SettingsError(REFUSED.format(reason)) from error


def _projector(network: Any) -> nn.Module:
    found = [
        module
        for name, module in network.named_modules()
        if part_of(f"{name}.weight") is Part.PROJECTOR
        and part_of(f"{name.rpartition('.')[0]}.weight") is not Part.PROJECTOR
    ]
    if len(found) != 1:
        reason = f"expected one projector to train on the stored features, found {len(found)}"
        raise SettingsError(REFUSED.format(reason))
    return found[0]


def _flat(pooled: Any) -> torch.Tensor:
    return torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled


def _digest(network: Any, encoder: Encoder, *, projector_is_frozen: bool, dtype: torch.dtype) -> str:
    """Digest of everything that an image's features depend on."""
    products = "|products in bfloat16" if torch.is_autocast_enabled(network.device.type) else ""
    digest = hashlib.sha256(f"{type(network).__name__}|{dtype}|{projector_is_frozen}{products}".encode())
    digest.update(encoder.processor.image_processor.to_json_string().encode())
    for name, weight in network.state_dict().items():  # running means of a normalisation count too
        if part_of(name) is Part.VISION or (projector_is_frozen and part_of(name) is Part.PROJECTOR):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:20]


ALIKE, OFTEN = 96, 0.5  # number of most similar images, and the share of mixtures with one of these
CHUNK = 1024  # images compared at a time


class Mixer:
    """Mixes stored features of two images; the answer stays the first's (mixup, Zhang et al. 2018, with one label).

    A model that is tuned on pictures of a few kinds only meets clear images; mixed ones are not clear. The second image
    looks like the first in half of the mixtures, since these are the pairs that are confused. Measured: the embedded
    model names the trained concepts better in a style that it never saw. It does not learn to infer an unclear image's
    content from the other image.

    Args:
        cache: holds the features of all images.
        examples: of the data; the second image is drawn from their different images, however many examples show one.
        most: upper bound of the second image's share; the share is ``most`` times the square of a uniform draw, so that
            clear images stay frequent.

    Raises:
        SettingsError: no two images have features of the same shape (models with tiles or grids, images of different
            sizes).
    """

    def __init__(self, cache: FeatureCache, examples: Sequence[Example], most: float) -> None:
        self.cache, self.most = cache, most
        images = cache.distinct_images(examples)
        self.number = {digest: number for number, digest in enumerate(images)}
        self.images = list(images.values())
        means, shapes = [], []
        for image in self.images:
            features = cache.image(*image)
            means.append(features.float().flatten(0, -2).mean(0))
            shapes.append(features.shape)
        by_shape: dict[torch.Size, list[int]] = {}
        for at, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(at)
        self.same_shape = [by_shape[shape] for shape in shapes]
        if all(len(same) < 2 for same in by_shape.values()):
            raise SettingsError(
                "image_mixup: expected images whose features have the same shape, "
                f"found {len(shapes)} of different shapes; bring the images to one size, or leave it out"
            )
        alike = most_alike(torch.stack(means))
        self.alike = [[at for at in found if shapes[at] == shape] for found, shape in zip(alike, shapes, strict=True)]

    def features(self, example: Example, dice: random.Random) -> tuple[torch.Tensor, ...]:
        """The features of an example's images, each mixed with another image as ``dice`` decides."""
        return tuple(self._mixed(example, name, dice) for name in example.sample.images)

    def _mixed(self, example: Example, name: str, dice: random.Random) -> torch.Tensor:
        number = self.number[self.cache.digest(example, name)]
        alike = self.alike[number]
        other = dice.choice(alike if alike and dice.random() < OFTEN else self.same_shape[number])
        share = self.most * dice.random() ** 2
        return torch.lerp(self.cache.image(example, name), self.cache.image(*self.images[other]), share)


def most_alike(means: torch.Tensor) -> list[list[int]]:
    """For each of n images with mean features (n, width), the ``ALIKE`` others of highest cosine similarity."""
    units = F.normalize(means - means.mean(0), dim=1)
    found: list[list[int]] = []
    for start in range(0, len(units), CHUNK):
        likeness = units[start : start + CHUNK] @ units.T
        rows = torch.arange(len(likeness))
        likeness[rows, start + rows] = -torch.inf  # itself
        found += likeness.topk(min(ALIKE, len(units) - 1)).indices.tolist()
    return found
