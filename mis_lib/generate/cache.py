"""A cache of keys and values with room to grow: a token is written into place, where transformers' own copies the whole cache for each token.

Copying is nothing for one short answer, but it grows with rows and length: for four columns of 250 tokens on two cores it is a tenth of the time.
"""

from typing import Any

import torch
from transformers import Cache, DynamicCache, DynamicLayer

ROOM = 128  # tokens; how much a full cache grows by


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, T, dim) of one layer, views of tensors that are longer than needed."""

    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values of new tokens and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = self._larger(key_states, start, end), self._larger(value_states, start, end)
            if start and self.keys is not None and self.values is not None:
                self._room[0].narrow(-2, 0, start).copy_(self.keys)
                self._room[1].narrow(-2, 0, start).copy_(self.values)
        keys, values = self._room
        keys.narrow(-2, start, end - start).copy_(key_states)
        values.narrow(-2, start, end - start).copy_(value_states)
        self.keys, self.values = keys.narrow(-2, 0, end), values.narrow(-2, 0, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows; the next token finds new room for them."""
        super().batch_select_indices(indices)
        self._room = None

    @staticmethod
    def _larger(states: torch.Tensor, start: int, end: int) -> torch.Tensor:
        rows, heads, _, dim = states.shape
        return states.new_empty(rows, heads, end + ROOM, dim)


def make_room(cache: Cache | None) -> None:
    """Let the ordinary layers of an empty cache grow in place; layers of other kinds (sliding windows ...) stay as they are."""
    if isinstance(cache, DynamicCache):
        cache.layers = [
            RoomyLayer() if type(layer) is DynamicLayer and not layer.is_initialized else layer
            for layer in cache.layers
        ]
