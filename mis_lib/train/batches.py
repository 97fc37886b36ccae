"""Steps and passes: which rows make a step, which of them go through the model together, and the tensors of a pass.

Fixed by seed, lengths and settings before the first step, so that a run that was killed goes on with the rows it would
have seen. A step is the same set of rows on one device and on eight; only how they are cut into passes differs. All
devices make the same number of passes in a step, as sharded training demands.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch

from mis_lib.train.encode import IGNORED, NO_SEGMENT, PIXELS, EncodedRow

WINDOW = 32  # steps whose rows are sorted by length together


class Plan(NamedTuple):
    """All steps of a run."""

    lengths: Sequence[int]
    """Tokens of each row, images counted."""
    batch_size: int
    batch_tokens: int
    steps: int
    seed: int
    group_by_length: bool = True
    packed: bool = False
    learned: float | None = None
    """Tokens of a row at which the loss is taken, on average over all rows."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row is seen once."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def epoch(self, number: int) -> list[list[int]]:
        """Rows of each step of one epoch; each row is in exactly one of them."""
        dice = random.Random(f"{self.seed}|{number}")
        order = dice.sample(range(len(self.lengths)), len(self.lengths))
        size = self.batch_size
        if not self.group_by_length:
            return [order[start : start + size] for start in range(0, len(order), size)]
        steps = []
        for start in range(0, len(order), size * WINDOW):
            window = sorted(order[start : start + size * WINDOW], key=lambda row: -self.lengths[row])
            steps += [window[at : at + size] for at in range(0, len(window), size)]
        dice.shuffle(steps)
        return steps

    @property
    def divisor(self) -> float | None:
        """What the summed loss of a step is divided by; None for the step's own number of answer tokens.

        Steps of rows of like length have short answers in one step and long ones in another. Divided by their own
        numbers of tokens, an answer of 10 tokens would weigh six times as much as one of 60; refusals are the shortest.
        The number that is expected of a step gives all tokens one weight.
        """
        if not self.group_by_length or self.learned is None:
            return None
        return self.learned * min(self.batch_size, len(self.lengths))

    def longest(self, step: int) -> int:
        """The row of a step, counted from 0 over all epochs, that has the most tokens."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return max(self.epoch(epoch)[at], key=self.lengths.__getitem__)

    def passes(self, rows: Sequence[int], devices: int = 1) -> list[list[list[int]]]:
        """Cut the rows of a step into passes of at most ``batch_tokens`` tokens, the same number for each device.

        Where there are fewer rows than devices, the others compute a row whose loss does not count; it is written
        ``~row``.
        """
        ordered = sorted(rows, key=lambda row: -self.lengths[row])
        number = devices
        while True:
            parts = self._cut(ordered, number)
            if number >= len(ordered) or all(
                self._tokens(part) <= self.batch_tokens or len(part) == 1 for part in parts
            ):
                return [parts[device::devices] for device in range(devices)]
            number += devices

    def _cut(self, ordered: Sequence[int], number: int) -> list[list[int]]:
        """``number`` runs of rows of about the same cost."""
        if len(ordered) < number:
            return [[ordered[at]] if at < len(ordered) else [~ordered[0]] for at in range(number)]
        parts: list[list[int]] = []
        start = 0
        for left in range(number, 0, -1):
            rest = ordered[start:]
            share = self._cost(rest) / left
            take = 1
            while take <= len(rest) - left and self._tokens(rest[: take + 1]) <= max(share, 1):
                take += 1
            take = len(rest) if left == 1 else take
            parts.append(list(rest[:take]))
            start += take
        return parts

    def _cost(self, rows: Sequence[int]) -> int:
        return sum(self.lengths[row] for row in rows)

    def _tokens(self, rows: Sequence[int]) -> int:
        """Tokens that a pass over these rows computes, padding counted."""
        lengths = [self.lengths[row if row >= 0 else ~row] for row in rows]
        return sum(lengths) if self.packed else max(lengths) * len(lengths)


class Batch(NamedTuple):
    """What one pass reads, in one of two layouts; nothing is cut.

    *Padded*: rows are filled up on the right to the longest, ``(rows, T)``. *Packed*: rows are concatenated to one long
    row ``(1, sum of T)`` without any padding; attention and positions keep them apart (``packing``). Images are
    concatenated in the order of the rows, as models of this kind read them.
    """

    inputs: dict[str, torch.Tensor]
    """Keyword arguments of the model: ``input_ids``, ``attention_mask`` (padded layout only), pixels, grids ..."""
    labels: torch.Tensor
    """Like ``input_ids``; a token's own id where predicting it counts."""
    segments: torch.Tensor
    """Like ``input_ids``; index into ``encode.SEGMENTS``."""
    row_of_token: torch.Tensor
    """Like ``input_ids``; which of the batch's rows a token belongs to, -1 for padding."""
    rows: tuple[EncodedRow, ...]
    packed: bool
    features: torch.Tensor | None = None
    """Of all images, concatenated, where they were computed before; there are no pixels then."""

    @property
    def tokens(self) -> int:
        """Tokens of the rows, padding left out."""
        return sum(map(len, self.rows))

    @property
    def padded_tokens(self) -> int:
        """Tokens that the model computes."""
        return self.labels.numel()

    @property
    def answer_tokens(self) -> int:
        """Tokens at which the loss is taken."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device | str) -> Self:
        """The batch on a device."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return self._replace(
            inputs=moved,
            labels=self.labels.to(device, non_blocking=True),
            segments=self.segments.to(device, non_blocking=True),
            row_of_token=self.row_of_token.to(device, non_blocking=True),
            features=None if self.features is None else self.features.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU copies from without waiting."""
        features = None if self.features is None else self.features.pin_memory()
        return self._replace(
            inputs={name: value.pin_memory() for name, value in self.inputs.items()}, features=features
        )


def collate(rows: Sequence[EncodedRow], *, pad_token: int, packed: bool = False) -> Batch:
    """Put rows into one batch.

    Args:
        rows: at least one, in order.
        pad_token: id that fills up shorter rows.
        packed: rows concatenated instead of padded.
    """
    inputs = {"input_ids": _join([row.ids for row in rows], pad_token, packed=packed)}
    for name in rows[0].per_token:
        values = [row.per_token[name] for row in rows]
        inputs[name] = _stack(values)[None] if packed else _stack([value[None] for value in values])
    if not packed:
        inputs["attention_mask"] = _join([torch.ones_like(row.ids) for row in rows], 0, packed=False)
    features = [part for row in rows for part in row.features]
    numbers = [torch.full_like(row.ids, number) for number, row in enumerate(rows)]
    return Batch(
        inputs=inputs | join_vision([row.vision for row in rows]),
        labels=_join([row.labels for row in rows], IGNORED, packed=packed),
        segments=_join([row.segments for row in rows], NO_SEGMENT, packed=packed),
        row_of_token=_join(numbers, -1, packed=packed),
        rows=tuple(rows),
        packed=packed,
        features=torch.cat(features) if features else None,
    )


def join_vision(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The processor's outputs for several rows' images, concatenated as its output for all of them would be.

    Where the parts differ beyond the first dimension (numbers of tiles, padded pixels), the smaller ones are filled up
    with zeros, which the models that make such tensors take for padding.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _stack([part[name] for part in parts if name in part]) for name in names}


def without_pixels(vision: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of the processor's output is read together with image features: grids, sizes, numbers of images."""
    return {name: value for name, value in vision.items() if not name.startswith(PIXELS)}


def _join(values: Sequence[torch.Tensor], fill: int, *, packed: bool) -> torch.Tensor:
    if packed:
        return torch.cat(list(values))[None]
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=fill)


def _stack(values: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(list(values))
    whole = [max(value.shape[axis] for value in values) for axis in range(1, values[0].ndim)]
    filled = [value.new_zeros(len(value), *whole) for value in values]
    for target, value in zip(filled, values, strict=True):
        target[tuple(slice(side) for side in value.shape)] = value
    return torch.cat(filled)
