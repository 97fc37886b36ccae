"""One run from settings to adapter, without anything that only a command line knows.

    outcome = run(settings, checkpoint, examples, folder)

The pieces stand in the order of the work, and each can be used alone (a notebook shows them one by one): ``load`` the
model, ``Encoder``, ``prepare_features``, ``plan_of``, ``AnswerTrainer``. What can be refused is refused before the
first step.
"""

import math
import os
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from accelerate.utils import set_seed
from torch import nn
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils.generic import ModelOutput

from mis_lib.data.images import Headers
from mis_lib.errors import DataError, SettingsError, TrainingError
from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.schema import Record
from mis_lib.train.batches import Plan
from mis_lib.train.callbacks import Evaluate, Listener, RunCallback, Stop
from mis_lib.train.distributed import declare_precision, shards, shards_weights
from mis_lib.train.encode import IGNORED, Encoder, Example, Segmenter, too_long
from mis_lib.train.features import FeatureCache, Progress, Worth, declining
from mis_lib.train.lora import groups, not_reached, restore
from mis_lib.train.model import Loaded, limits_in, load
from mis_lib.train.packing import decoder_of
from mis_lib.train.settings import SCHEDULER_OPTIONS, TrainSettings
from mis_lib.train.sharding import agreed, holds_weights, whole_by_layer
from mis_lib.train.trackers import Trackers
from mis_lib.train.trainer import (
    CHECKPOINT,
    STAGING,
    WRITING_ERRORS,
    AnswerTrainer,
    Steps,
    checkpoints,
    reported_as_full_disk,
    save_result,
)
from mis_lib.train.trial import Layout, layout_of

CHECKPOINTS, ADAPTER, MODEL = "checkpoints", "adapter", "model"
MANY_WORKERS = 8  # more processes only compete for memory


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
        go_on=partial(_go_on, type(loaded.network)),
    )


def _go_on(kind: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs after one more token, as the model's class extends them in ``generate``.

    An encoder goes to other processes, so that it cannot hold the model; the method reads nothing of it.
    """
    return kind._update_model_kwargs_for_generation(kind.__new__(kind), ModelOutput(), inputs, is_encoder_decoder=False)


def prepare_features(
    loaded: Loaded,
    encoder: Encoder,
    examples: Sequence[Example],
    settings: TrainSettings,
    progress: Progress = lambda message: None,
) -> tuple[FeatureCache | None, Worth | None, str | None]:
    """The feature cache with all features in it and what it is worth; or why there is none.

    Raises:
        SettingsError: it was asked for, or is needed for ``image_mixup``, and cannot be.
    """
    found = None
    if holds_weights():
        with whole_by_layer(loaded.network, loaded.device):
            found = _prepared(loaded, encoder, examples, settings, progress)
    found = agreed(found, settings.device)
    assert found is not None
    return found


def _prepared(
    loaded: Loaded, encoder: Encoder, examples: Sequence[Example], settings: TrainSettings, progress: Progress
) -> tuple[FeatureCache | None, Worth | None, str | None]:
    wanted = settings.feature_cache or settings.image_mixup > 0
    reason = settings.no_feature_cache
    if settings.feature_cache is False:
        reason = "feature_cache: false"
    if reason is None and not settings.projector_is_frozen and shards_weights():
        reason = "the projector is trained, and FSDP or ZeRO-3 shards it, so that it cannot be called without the model"
        if settings.feature_cache:
            raise SettingsError(f"feature_cache: {reason}; leave it out")
    if reason is None and not any(example.sample.images for example in examples):
        reason = "no row has images"
    if reason is not None:
        if settings.image_mixup:
            raise SettingsError(f"image_mixup: expected stored image features to mix, found: {reason}; leave it out")
        return None, None, reason
    with torch.autocast(loaded.network.device.type, torch.bfloat16, enabled=loaded.autocast):
        try:
            cache = FeatureCache(loaded.network, encoder, examples, projector_is_frozen=settings.projector_is_frozen)
            if not wanted and (reason := _does_not_pay(cache, examples, settings)):
                return None, None, reason
            with declining():
                worth = cache.build(examples, progress)
        except SettingsError as error:
            if wanted:
                raise
            return None, None, str(error)
    progress(
        f"Image features: {worth.images:,} images, {worth.megabytes:,.1f} MB, "
        f"{worth.computed:,} computed in {worth.seconds:.1f} s"
        + (f"; pays after {worth.break_even_epochs} epochs" if worth.break_even_epochs is not None else "")
    )
    return cache, worth, None


def _does_not_pay(cache: FeatureCache, examples: Sequence[Example], settings: TrainSettings) -> str | None:
    """Why reading features would not be faster than computing them each time."""
    missing = len(cache.missing(examples))
    per_epoch = sum(len(example.sample.images) for example in examples)
    epochs = settings.epochs if settings.max_steps is None else settings.max_steps * settings.batch_size / len(examples)
    if missing > per_epoch * epochs:
        return f"it would not pay: {missing:,} images to encode, {per_epoch * epochs:,.0f} shown in the whole run"
    if not cache.has_room(examples):
        return f"the disk of {cache.folder} has no room for the features of {missing:,} images"
    return None


class Size(NamedTuple):
    """How large a row is."""

    tokens: int
    """All of them, images counted."""
    learned: int
    """Those at which the loss is taken."""


def sizes_of(examples: Sequence[Example], encoder: Encoder, cache: FeatureCache | None) -> list[Size]:
    """The size of each row: from the cache or from the images' headers, without decoding any.

    Raises:
        DataError: rows are longer than ``encoder.max_length``; all of them are named.
    """
    headers: dict[Path, Headers] = {}
    from_headers = cache is None and encoder.knows_prompt_lengths(examples)
    sizes = []
    for example in examples:
        if cache is not None:
            prompt = len(cache.prompt(example).ids)
        elif from_headers:
            known = headers.setdefault(example.folder, Headers(example.folder))
            prompt = encoder.prompt_length(example, known)
        else:
            prompt = len(encoder.prompt(example).ids)
        answer = encoder.completion(example.sample)
        sizes.append(Size(prompt + len(answer.ids), int((answer.labels != IGNORED).sum())))
    limit = encoder.max_length
    if limit is None:
        return sizes
    long = [(one.sample.id, size.tokens) for one, size in zip(examples, sizes, strict=True) if size.tokens > limit]
    if long:
        others = f" And {len(long) - 1:,} more: {', '.join(name for name, _ in long[1:20])}" if len(long) > 1 else ""
        raise DataError(f"{too_long(*long[0], limit)}.{others}")
    return sizes


def plan_of(settings: TrainSettings, sizes: Sequence[Size], layout: Layout = Layout.PADDED) -> Plan:
    """The order of work of a run."""
    plan = Plan(
        lengths=[size.tokens for size in sizes],
        batch_size=settings.batch_size,
        batch_tokens=1 if layout is Layout.ALONE else settings.batch_tokens,  # a longer row makes a pass of its own
        steps=1,
        seed=settings.seed,
        group_by_length=settings.group_by_length,
        packed=layout is Layout.PACKED,
        learned=mean(size.learned for size in sizes),
    )
    return plan._replace(steps=settings.max_steps or math.ceil(settings.epochs * plan.steps_per_epoch))


class TrainingResult(Record):
    """What a run did, also in ``result.json``."""

    finished: bool
    signal: int | None = None
    """What ended it, if it was not its last step."""
    step: int
    steps: int
    rows: int
    parameters: dict[str, dict[str, int]]
    """Part of the model -> {"all", "trained"}."""
    packed: bool
    features: Worth | None = None
    no_features: str | None = None
    """Why there is no feature cache."""


def run(
    settings: TrainSettings,
    checkpoint: Path | str,
    examples: Sequence[Example],
    folder: Path,
    *,
    segmenter: Segmenter | None = None,
    evaluate: Evaluate | None = None,
    listeners: tuple[Listener, ...] = (),
    progress: Progress = lambda message: None,
) -> TrainingResult:
    """Train, or go on training, and write adapter (or model) and log into the run's folder.

    Args:
        settings: of the run.
        checkpoint: folder or hub id of the base.
        examples: what to train on.
        folder: of the run; holds checkpoints of an earlier call, if there was one.
        segmenter: splits answers for the loss by segment.
        evaluate: measures safety and helpfulness every ``evaluation.every`` steps.
        listeners: told every log line.
        progress: told what is being done before the first step.

    Raises:
        MisError: something is refused, missing, or went wrong; the message says what, where and how to put it right.
    """
    set_seed(settings.seed)
    trained_on = read_trained_on(settings.start_from) | {*item_digests(examples)}
    progress("Loading the model")
    loaded = load(settings, checkpoint)
    if (left := not_reached(loaded.network, settings)) is not None:
        progress(left)
    encoder = make_encoder(loaded, settings, segmenter)
    cache, worth, reason = prepare_features(loaded, encoder, examples, settings, progress)
    sizes = sizes_of(examples, encoder, cache)
    layout = layout_of(loaded, encoder, examples, [size.tokens for size in sizes], settings, cache, progress)
    plan = plan_of(settings, sizes, layout)
    stop = Stop()
    trackers = Trackers(settings.report_to, folder)
    callback = RunCallback(settings, folder, stop, evaluate, (*listeners, trackers))
    trainer = make_trainer(loaded, encoder, examples, plan, settings, folder, cache, callback)
    if settings.evaluation.every and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise SettingsError(
            "evaluation.every: a model that is spread over several GPUs cannot answer while it trains; "
            "set it to 0 and run mis report afterwards"
        )
    if settings.compile:
        compile_layers(loaded.network)
    there = checkpoints(folder / CHECKPOINTS)
    progress(f"Training: {plan.steps:,} steps of {settings.batch_size} rows, {len(examples):,} rows")
    with stop.listening(), closing(trackers):
        try:
            trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
        except torch.OutOfMemoryError as error:
            longest = plan.longest(trainer.state.global_step)
            row = f"{examples[longest].sample.id!r} ({plan.lengths[longest]:,} tokens)"
            raise TrainingError(no_memory(settings, trainer.state.global_step, row, error)) from error
        except WRITING_ERRORS:
            if not trainer.control.should_save:
                raise
            path = folder / CHECKPOINTS / f"{CHECKPOINT}{trainer.state.global_step}"
            with reported_as_full_disk(path, folder / CHECKPOINTS / STAGING):
                raise
    step = trainer.state.global_step
    finished = step >= plan.steps
    if finished:
        restore(loaded.model)
        kind = ADAPTER if settings.tuning == "lora" else MODEL
        save_result(
            trainer,
            folder / kind,
            checkpoint,
            processor=loaded.processor,
            limits=limits_in(settings),
            quantization=settings.quantization,
            trained_on=trained_on,
        )
    parts = {group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)}
    return TrainingResult(
        finished=finished,
        signal=None if finished else stop.signal,
        step=step,
        steps=plan.steps,
        rows=len(examples),
        parameters=parts,
        packed=plan.packed,
        features=worth,
        no_features=reason,
    )


def no_memory(settings: TrainSettings, step: int, row: str, error: BaseException) -> str:
    """The message about a step that the device's memory had no room for."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    more = "" if settings.gradient_checkpointing else ", or set gradient_checkpointing: true"
    return (
        f"step {step + 1}: expected room on the device for its rows, the longest {row}, found: {first}; "
        f"lower batch_tokens ({settings.batch_tokens:,}; the result stays the same), max_pixels or "
        f"max_dynamic_patch{more}. The last checkpoint is untouched"
    )


def make_trainer(
    loaded: Loaded,
    encoder: Encoder,
    examples: Sequence[Example],
    plan: Plan,
    settings: TrainSettings,
    folder: Path,
    cache: FeatureCache | None = None,
    callback: RunCallback | None = None,
) -> AnswerTrainer:
    """The trainer of a run, with everything that it needs."""
    args = training_arguments(loaded, settings, plan, folder)
    steps = Steps(
        examples,
        encoder,
        plan,
        cache,
        device=args.process_index,
        devices=args.world_size,
        image_mixup=settings.image_mixup,
    )
    workers = settings.workers
    if workers is None:  # none where features are stored, or where they would take the CPU from the model
        idle = cache is not None or not loaded.device.startswith("cuda")
        workers = 0 if idle else min(MANY_WORKERS, max(1, (os.cpu_count() or 2) - 1))
    trainer = AnswerTrainer(
        loaded.model,
        args,
        steps,
        network=loaded.network,
        head=loaded.head(),
        workers=workers,
        processing_class=loaded.processor,
        callbacks=[callback] if callback is not None else [],
    )
    trainer.remove_callback(PrinterCallback)
    if callback is not None:
        callback.trainer = trainer
    return trainer


def training_arguments(loaded: Loaded, settings: TrainSettings, plan: Plan, folder: Path) -> TrainingArguments:
    """The settings in transformers' words; what is decided here instead is switched off there."""
    # DeepSpeed and FSDP want one number type for all weights, and keep what is trained in float32 themselves
    mixed = loaded.autocast or (loaded.bfloat16 and shards())
    declare_precision(bfloat16=mixed)
    checkpointing: dict[str, Any] = {"activation_checkpointing": True} if settings.gradient_checkpointing else {}
    args = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS / STAGING),
        max_steps=plan.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        lr_scheduler_kwargs=SCHEDULER_OPTIONS.get(settings.scheduler),
        warmup_steps=math.ceil(settings.warmup_ratio * plan.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused" if loaded.device.startswith("cuda") else "adamw_torch",
        seed=settings.seed,
        bf16=mixed,
        use_cpu=loaded.device == "cpu",
        **checkpointing,
        use_liger_kernel=settings.liger,
        liger_kernel_config={"fused_linear_cross_entropy": False, "cross_entropy": False} if settings.liger else None,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    args._n_gpu = min(1, args.n_gpu)  # several GPUs are for accelerate launch; DataParallel would cut our passes apart
    return args


def compile_layers(network: Any) -> None:
    """Fuse the decoder layers' small operations.

    Raises:
        SettingsError: the model's decoder has no list of layers.
    """
    inner = decoder_of(network)
    if not isinstance(getattr(inner, "layers", None), nn.ModuleList):
        raise SettingsError("compile: expected a decoder with a list of layers, found none; set compile: false")
    for layer in inner.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
