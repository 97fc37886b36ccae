"""Weight edits: which weights of a checkpoint are multiplied by a factor, as a variant of it that needs no training.

An edit is one safetensors file: the flat indices of the weights by layer, and a record of factor and checkpoint. It is
named wherever an adapter is (``--adapters NAME=FILE``). ``load_model`` attaches it to the network; while that variant
answers its weights are exchanged, and afterwards every weight is, to the last bit, what it was.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mis_lib.errors import ModelError
from mis_lib.models.adapters import EDIT, EditRecord, base_of, is_of, read_edit_record

ATTACHED = "weight_edits"  # attribute of a network


@dataclass(frozen=True)
class Edit:
    """Which weights of which layers are multiplied by ``alpha``: flat indices (int64) by the layer's name."""

    indices: Mapping[str, torch.Tensor]
    alpha: float
    tau: float
    weights: int
    """Number of weights in the layers that were looked at."""

    @property
    def share(self) -> float:
        """Percent of the looked-at weights that are edited."""
        return 100 * sum(len(found) for found in self.indices.values()) / max(1, self.weights)

    def overlap(self, other: "Edit") -> float:
        """Percent of the edited weights that another edit changes, too."""
        both = sum(int(torch.isin(found, other.indices[name]).sum()) for name, found in self.indices.items())
        return 100 * both / max(1, sum(map(len, self.indices.values())))

    def save(self, path: Path, checkpoint: Path | str) -> None:
        """Write the edit as safetensors, with the name and fingerprint of the checkpoint that it was found on."""
        record = EditRecord(alpha=self.alpha, tau=self.tau, weights=self.weights, base=base_of(checkpoint))
        save_file(dict(self.indices), path, metadata={EDIT: record.model_dump_json()})

    @classmethod
    def read(cls, path: Path, checkpoint: Path | str) -> "Edit":
        """Read an edit of this checkpoint.

        Raises:
            ModelError: the file is missing, damaged or no edit, or is one of another checkpoint.
        """
        stored = read_edit_record(path)
        if not is_of(stored.base, checkpoint):
            raise ModelError(
                f"{path}: expected an edit of {checkpoint}, found one of {stored.base.name}: its indices are those of "
                "that checkpoint's weights; name that checkpoint (--checkpoint), or find the edit again with "
                "`mis analyse safeground`"
            )
        try:
            indices = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}; make it again with `mis analyse safeground`") from error
        return cls(indices, stored.alpha, stored.tau, stored.weights)


def attach(network: Any, edits: Mapping[str, Edit]) -> None:
    """Give the network its edits by the names of their variants.

    Raises:
        ModelError: the network lacks a layer of an edit, or the layer is smaller.
    """
    for edit in edits.values():
        _check(network, edit)
    setattr(network, ATTACHED, dict(edits))


def attached(network: Any) -> Mapping[str, Edit]:
    """The network's edits by name."""
    return getattr(network, ATTACHED, {})


@contextmanager
def edited(network: Any, edit: Edit) -> Iterator[None]:
    """The network with the edit while the block lasts; afterwards every weight is, to the last bit, what it was.

    Raises:
        ModelError: as ``attach``.
    """
    kept = apply(network, edit)
    try:
        yield
    finally:
        undo(network, edit, kept)


@torch.inference_mode()
def apply(network: Any, edit: Edit) -> dict[str, torch.Tensor]:
    """Edit the network in place; returns the weights' values from before, for ``undo``.

    Raises:
        ModelError: as ``attach``; nothing is changed then.
    """
    _check(network, edit)
    kept = {}
    for name, flat, found in _places(network, edit):
        kept[name] = flat[found]
        flat[found] = kept[name] * edit.alpha
    return kept


@torch.inference_mode()
def undo(network: Any, edit: Edit, kept: Mapping[str, torch.Tensor]) -> None:
    """Put back what ``apply`` has kept."""
    for name, flat, found in _places(network, edit):
        flat[found] = kept[name]


def _places(network: Any, edit: Edit) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, flat weight and indices of every layer of the edit; a layer with adapters gives its own weight."""
    modules = dict(network.named_modules())
    for name, found in edit.indices.items():
        flat = modules[name].weight.data.view(-1)
        yield name, flat, found.to(flat.device)


def _check(network: Any, edit: Edit) -> None:
    modules = dict(network.named_modules())
    for name, found in edit.indices.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or (len(found) and int(found.max()) >= weight.numel()):
            raise ModelError(
                f"the edit does not fit the model: layer {name} is missing or smaller; find the edit again"
            )
