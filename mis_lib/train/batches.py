"""The order of work: which rows make a step, and which of them go through the model together, on which device.

Fixed by seed, lengths and settings before the first step, so that a run that was killed goes on with the rows it would have seen. A step is
the same set of rows on one device and on eight; only how they are cut into passes differs. All devices make the same number of passes in a step, as
sharded training demands.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

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

    def longest(self, step: int) -> int:
        """The row of a step, counted from 0 over all epochs, that has the most tokens."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return max(self.epoch(epoch)[at], key=self.lengths.__getitem__)

    def passes(self, rows: Sequence[int], devices: int = 1) -> list[list[list[int]]]:
        """Cut the rows of a step: for each device its passes, the same number for each, in none of them more than ``batch_tokens``.

        Where there are fewer rows than devices, the others compute a row whose loss does not count; it is written ``~row``.
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
