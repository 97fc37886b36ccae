"""Rows made ready for a model: its encoder, the store of image features where that pays, and the passes that rows are taken in."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from mis_lib.errors import SettingsError
from mis_lib.train.answer_parts import Segmenter
from mis_lib.train.batches import Plan
from mis_lib.train.distributed import parts_weights
from mis_lib.train.encode import Encoder, Place
from mis_lib.train.features import FeatureCache, Progress, Worth, has_room, open_cache
from mis_lib.train.model import Loaded
from mis_lib.train.packing import no_packing, pack
from mis_lib.train.settings import TrainSettings


def make_encoder(loaded: Loaded, settings: TrainSettings, segmenter: Segmenter | None = None) -> Encoder:
    """The encoder of a run's rows; rows longer than the model's context are refused."""
    own = loaded.network.generation_config.eos_token_id
    context = getattr(loaded.network.config.get_text_config(), "max_position_embeddings", None)
    return Encoder(
        loaded.processor,
        segmenter=segmenter,
        end_tokens=own if isinstance(own, list) else [own] if own is not None else [],
        max_length=min((limit for limit in (settings.max_length, context) if limit is not None), default=None),
        augment=settings.augment,
    )


def prepare_features(
    loaded: Loaded,
    encoder: Encoder,
    places: Sequence[Place],
    settings: TrainSettings,
    progress: Progress = lambda message: None,
) -> tuple[FeatureCache | None, Worth | None, str | None]:
    """The feature cache with all features in it and what it is worth; or why there is none.

    Raises:
        SettingsError: it was asked for, or is needed for ``image_mixup``, and cannot be.
    """
    wanted = settings.feature_cache or settings.image_mixup > 0
    reason = settings.no_feature_cache
    if settings.feature_cache is False:
        reason = "feature_cache: false"
    if reason is None and not settings.projector_is_frozen and parts_weights():
        reason = "the projector is trained, and FSDP or ZeRO-3 keeps it in parts, so that it cannot be asked without the model"
        if settings.feature_cache:
            raise SettingsError(f"feature_cache: {reason}; leave it out")
    if reason is None and not any(place.sample.images for place in places):
        reason = "no row has images"
    if reason is not None:
        if settings.image_mixup:
            raise SettingsError(f"image_mixup: expected stored image features to mix, found: {reason}; leave it out")
        return None, None, reason
    with torch.autocast(loaded.network.device.type, torch.bfloat16, enabled=loaded.autocast):
        try:
            cache = open_cache(loaded.network, encoder, places, projector_is_frozen=settings.projector_is_frozen)
        except SettingsError as error:
            if wanted:
                raise
            return None, None, str(error)
        if not wanted and (reason := _does_not_pay(cache, places, settings)):
            return None, None, reason
        worth = cache.build(places, progress)
    progress(
        f"Image features: {worth.images:,} images, {worth.megabytes:,.1f} MB, {worth.computed:,} computed in {worth.seconds:.1f} s"
        + (f"; pays after {worth.break_even_epochs} epochs" if worth.break_even_epochs is not None else "")
    )
    return cache, worth, None


def _does_not_pay(cache: FeatureCache, places: Sequence[Place], settings: TrainSettings) -> str | None:
    """Why reading features would not be faster than computing them each time."""
    missing = len(cache.missing(places))
    per_epoch = sum(len(place.sample.images) for place in places)
    epochs = settings.epochs if settings.max_steps is None else settings.max_steps * settings.batch_size / len(places)
    if missing > per_epoch * epochs:
        return f"it would not pay: {missing:,} images to encode, {per_epoch * epochs:,.0f} shown in the whole run"
    if not has_room(cache, places):
        return f"the disk of {cache.folder} has no room for the features of {missing:,} images"
    return None


def use_packing(network: Any, settings: TrainSettings) -> bool:
    """Pack rows where the model allows it and the settings do not forbid it.

    Raises:
        SettingsError: packing was asked for and the model does not allow it.
    """
    reason = no_packing(network)
    if settings.packing and reason is not None:
        raise SettingsError(
            f"packing: this model's rows cannot be packed: {reason}; leave it out or set packing: false"
        )
    if settings.packing is False or reason is not None or settings.attention == "eager":
        return False
    pack(network)
    return True


def plan_of(settings: TrainSettings, lengths: Sequence[int], *, packed: bool) -> Plan:
    """The order of work of a run."""
    plan = Plan(
        lengths=lengths,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        steps=1,
        seed=settings.seed,
        group_by_length=settings.group_by_length,
        packed=packed,
    )
    return plan._replace(steps=settings.max_steps or math.ceil(settings.epochs * plan.steps_per_epoch))
