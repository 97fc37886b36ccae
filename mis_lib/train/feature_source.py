"""Features of images one by one: where a model gives them, and how a prompt holds them in place of pixels.

Whether a model's images can be taken one by one is tried on rows of several images (``differs``), never assumed.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mis_lib.errors import SettingsError
from mis_lib.schema import Record, Sample
from mis_lib.train.collate import join_vision, without_pixels
from mis_lib.train.encode import Encoder, Place, Prompt
from mis_lib.train.lora import Part, part_of

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
def one_image(source: Source, encoder: Encoder, place: Place, name: str) -> tuple[Sample, Prompt, torch.Tensor]:
    """A sample that shows this image alone, its prompt, and the image's features."""
    alone = place.sample.model_copy(update={"images": [name], "objects": None})
    made = encoder.prompt(Place(alone, place.folder))
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


def source_of(network: Any, encoder: Encoder, places: Sequence[Place], *, projector_is_frozen: bool) -> Source:
    """Where this network's features are taken, found by asking it for those of the first row with images.

    Raises:
        SettingsError: the model reads more of an image than its features, or a projector is trained and there is not exactly one.
    """
    place = next(place for place in places if place.sample.images)
    with torch.no_grad():
        found = _asked(network, encoder.prompt(place).vision)
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
def differs(source: Source, encoder: Encoder, place: Place) -> str | None:
    """How a row's images taken one by one differ from the row as the model reads it, or ``None`` if they do not."""
    whole = encoder.prompt(place)
    alone = [one_image(source, encoder, place, name) for name in place.sample.images]
    if any(len(_placeholders(encoder, _unexpanded(encoder, one))) != 1 for one, _, _ in alone):
        return "this chat template writes no placeholder of its own for an image"
    built = spliced(encoder, place.sample, [entry_of(encoder, one, made) for one, made, _ in alone])
    if not torch.equal(built.ids, whole.ids) or any(
        not torch.equal(built.per_token[key], value) for key, value in whole.per_token.items()
    ):
        return f"row {place.sample.id!r}: an image's place in the prompt depends on the images beside it"
    kept = without_pixels(whole.vision)
    if kept.keys() != built.vision.keys() or any(
        not torch.equal(built.vision[key], value) for key, value in kept.items()
    ):
        return f"row {place.sample.id!r}: what the model reads of an image depends on the images beside it"
    pooled = source.outputs(torch.cat([features for _, _, features in alone]))["image"].pooler_output
    own, rebuilt = _flat(_pooled(source.network, whole.vision)), _flat(pooled)
    if own.shape != rebuilt.shape or not torch.allclose(
        own.float(), rebuilt.float(), rtol=1e-2, atol=1e-2 * float(own.float().std())
    ):
        return f"row {place.sample.id!r}: this model's features cannot be taken image by image"
    return None
