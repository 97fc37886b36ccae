"""Steps made ready before the device asks for them: encoding, decoding and collating in worker processes.

One item of the data set is one whole step of this device: a list of passes. Rows whose images are in the feature cache are encoded once and
kept; other rows are read from their files each time, by workers that run ahead of the device.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mis_lib.data.images import Headers
from mis_lib.errors import DataError, SettingsError
from mis_lib.train.batches import Batch, Plan, collate
from mis_lib.train.encode import IGNORED, Encoder, Example, Row, too_long
from mis_lib.train.features import FeatureCache

# ---------- Unclear images: features of two images mixed, while the answer stays that of the first (mixup, Zhang et al. 2018, with one label).
#
# A model tuned on pictures of a few kinds only ever meets images that say clearly what they show, and never learns what to do with one that does not.
# Mixed images are unclear. What is mixed in looks like the image half of the time, since such things are what it will be taken for. The embedded model
# names the things that it was trained on better for it in a style that it never saw. That it would tell what is unclear by what goes with
# the other image was hoped for and is not seen.

ALIKE, OFTEN = 96, 0.5  # how many images look like one, and the share of mixtures with one of these
CHUNK = 1024  # images compared in one go


class Mixer:
    """Mixes images of rows with other images of the data, of which all are drawn alike, however many rows show them.

    Args:
        cache: holds the features of all images.
        examples: the rows of the data.
        most: share of the other image at most; the square of an even lot makes most shares small, so that clear images stay frequent.

    Raises:
        SettingsError: no two images have features of the same shape (models with tiles or grids, images of different sizes).
    """

    def __init__(self, cache: FeatureCache, examples: Sequence[Example], most: float) -> None:
        self.cache, self.most = cache, most
        images = cache.different(examples)
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
                f"image_mixup: expected images whose features have the same shape, found {len(shapes)} of different shapes; "
                "bring the images to one size, or leave it out"
            )
        alike = most_alike(torch.stack(means))
        self.alike = [[at for at in found if shapes[at] == shape] for found, shape in zip(alike, shapes, strict=True)]

    def features(self, example: Example, dice: random.Random) -> tuple[torch.Tensor, ...]:
        """A row's features, mixed anew by every ``dice``."""
        return tuple(self._mixed(example, name, dice) for name in example.sample.images)

    def _mixed(self, example: Example, name: str, dice: random.Random) -> torch.Tensor:
        number = self.number[self.cache.digest(example, name)]
        alike = self.alike[number]
        other = dice.choice(alike if alike and dice.random() < OFTEN else self.same_shape[number])
        return torch.lerp(
            self.cache.image(example, name), self.cache.image(*self.images[other]), self.most * dice.random() ** 2
        )


def most_alike(means: torch.Tensor) -> list[list[int]]:
    """For each of n images, by its mean feature (n, width), the others that look most like it, at most ``ALIKE``."""
    units = F.normalize(means - means.mean(0), dim=1)
    found: list[list[int]] = []
    for start in range(0, len(units), CHUNK):
        likeness = units[start : start + CHUNK] @ units.T
        rows = torch.arange(len(likeness))
        likeness[rows, start + rows] = -torch.inf  # itself
        found += likeness.topk(min(ALIKE, len(units) - 1)).indices.tolist()
    return found


Step = list[Batch]
MANY = 8  # more workers than this only fight for memory


class Steps(Dataset[Step]):
    """All steps of a run as one device sees them; item ``i`` is step ``i`` counted from the start of training."""

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: Encoder,
        plan: Plan,
        cache: FeatureCache | None = None,
        *,
        device: int = 0,
        devices: int = 1,
        image_mixup: float = 0.0,
    ) -> None:
        self.examples, self.encoder, self.plan, self.cache = examples, encoder, plan, cache
        self.device, self.devices = device, devices
        self.mixer = Mixer(cache, examples, image_mixup) if cache is not None and image_mixup else None
        self.pad_token: int = encoder.tokenizer.pad_token_id
        self._kept: dict[int, Row] = {}
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> Step:
        epoch, at = divmod(step, self.plan.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self.plan.epoch(epoch)
        passes = self.plan.passes(self._epoch[1][at], self.devices)[self.device]
        return [
            collate([self.row(number, epoch) for number in rows], pad_token=self.pad_token, packed=self.plan.packed)
            for rows in passes
        ]

    def row(self, number: int, epoch: int = 0) -> Row:
        """Row ``number`` as it is in an epoch; of ``~number``, the same row with no label that counts."""
        if number < 0:
            row = self.row(~number, epoch)
            return replace(row, labels=torch.full_like(row.labels, IGNORED))
        example = self.examples[number]
        if self.cache is None:
            return self.encoder.row(example, seed=hash((self.plan.seed, epoch, number)))
        if number not in self._kept:
            self._kept[number] = self.encoder.with_answer(example.sample, self.cache.prompt(example))
        if self.mixer is None:
            return replace(self._kept[number], features=self.cache.features(example))
        # by numbers alone: the same on every device, and after a run was killed
        dice = random.Random(f"{self.plan.seed}|{epoch}|{number}")
        return replace(self._kept[number], features=self.mixer.features(example, dice))


def lengths_of(examples: Sequence[Example], encoder: Encoder, cache: FeatureCache | None) -> list[int]:
    """Tokens of each row, images counted: from the cache or from the images' headers, without decoding any.

    Raises:
        DataError: rows are longer than ``encoder.max_length``; all of them are named.
    """
    headers: dict[Any, Headers] = {}
    from_headers = cache is None and encoder.knows_prompt_lengths(examples)
    lengths = []
    for example in examples:
        if cache is not None:
            prompt = len(cache.prompt(example).ids)
        elif from_headers:
            prompt = encoder.prompt_length(example, headers.setdefault(example.folder, Headers(example.folder)))
        else:
            prompt = len(encoder.prompt(example).ids)
        lengths.append(prompt + encoder.answer_length(example.sample))
    limit = encoder.max_length
    long = [
        (example.sample.id, length)
        for example, length in zip(examples, lengths, strict=True)
        if limit and length > limit
    ]
    if long and limit:
        others = f" And {len(long) - 1:,} more: {', '.join(name for name, _ in long[1:20])}" if len(long) > 1 else ""
        raise DataError(f"{too_long(*long[0], limit)}.{others}")
    return lengths


def make_loader(steps: Steps, workers: int, *, pin: bool) -> DataLoader[Step]:
    """A loader whose batches are steps; ``workers`` processes run ahead of the device (0: none)."""
    options: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
    return DataLoader(
        steps, batch_size=1, shuffle=False, collate_fn=_only, num_workers=workers, pin_memory=pin, **options
    )


def suitable_workers(*, cached: bool, on_gpu: bool) -> int:
    """Worker processes that pay: none where features are read from the cache or where they would take the CPU from the model."""
    return 0 if cached or not on_gpu else min(MANY, max(1, (os.cpu_count() or 2) - 1))


def _only(steps: list[Step]) -> Step:
    return steps[0]
