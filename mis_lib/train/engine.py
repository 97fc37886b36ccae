"""One run from settings to adapter, without anything that only a command line knows.

    outcome = run(settings, checkpoint, places, folder)

The pieces stand in the order of the work, and each can be used alone (a notebook shows them one by one): ``load`` the model, ``Encoder``,
``prepare_features``, ``plan_of``, ``AnswerTrainer``. What can be refused is refused before the first step.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import set_seed
from torch import nn
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils.import_utils import is_liger_kernel_available

from mis_lib.errors import MissingPackageError, SettingsError, TrainingError
from mis_lib.models.device import has_bfloat16_products
from mis_lib.models.load import load_model
from mis_lib.schema import Record
from mis_lib.train.callbacks import Evaluate, Listener, RunCallback, Stop, tensorboard
from mis_lib.train.features import FeatureCache, Worth, has_room, open_cache
from mis_lib.train.loader import Steps, lengths_of, suitable_workers
from mis_lib.train.lowrank import restore, shorten
from mis_lib.train.packing import no_packing, pack
from mis_lib.train.parts import groups, prepare
from mis_lib.train.plan import Plan
from mis_lib.train.rows import Encoder, Place, Segmenter, limit_images
from mis_lib.train.settings import TrainSettings
from mis_lib.train.trainer import AnswerTrainer, checkpoints, save_result

CHECKPOINTS, ADAPTER, MODEL = "checkpoints", "adapter", "model"

Progress = Callable[[str], None]


class Loaded(NamedTuple):
    """A model ready to be trained."""

    model: Any
    """What is trained: the network itself, or its ``PeftModel``."""
    network: Any
    """The transformers model."""
    processor: Any
    device: str
    autocast: bool
    """Whether products are computed in bfloat16 from float32 weights."""


class Outcome(Record):
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
    places: Sequence[Place],
    folder: Path,
    *,
    segmenter: Segmenter | None = None,
    evaluate: Evaluate | None = None,
    listeners: tuple[Listener, ...] = (),
    progress: Progress = lambda message: None,
) -> Outcome:
    """Train, or go on training, and write adapter (or model) and log into the run's folder.

    Args:
        settings: of the run.
        checkpoint: folder or hub id of the base.
        places: what to train on.
        folder: of the run; holds checkpoints of an earlier call, if there was one.
        segmenter: splits answers for the loss by segment.
        evaluate: measures safety and helpfulness every ``evaluation.every`` steps.
        listeners: told every log line.
        progress: told what is being done before the first step.

    Raises:
        MisError: something is refused, missing, or went wrong; the message says what, where and how to put it right.
    """
    set_seed(settings.seed)
    progress("Loading the model")
    loaded = load(settings, checkpoint)
    encoder = make_encoder(loaded, settings, segmenter)
    cache, worth, reason = prepare_features(loaded, encoder, places, settings, progress)
    packed = use_packing(loaded.network, settings)
    plan = plan_of(settings, lengths_of(places, encoder, cache), packed=packed)
    stop = Stop()
    if settings.tensorboard:
        listeners = (*listeners, tensorboard(folder / "tensorboard"))
    callback = RunCallback(settings, folder, stop, evaluate, listeners)
    trainer = make_trainer(loaded, encoder, places, plan, settings, folder, cache, callback)
    if settings.evaluation.every and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise SettingsError(
            "evaluation.every: a model that is spread over several GPUs cannot answer while it trains; set it to 0 and run mis report afterwards"
        )
    if settings.compile:
        compile_layers(loaded.network)
    there = checkpoints(folder / CHECKPOINTS)
    progress(f"Training: {plan.steps:,} steps of {settings.batch_size} rows, {len(places):,} rows")
    with stop.listening():
        try:
            trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(no_memory(settings, trainer.state.global_step, error)) from error
    step = trainer.state.global_step
    finished = step >= plan.steps
    if finished:
        restore(loaded.model)
        save_result(trainer, folder / (ADAPTER if settings.tuning == "lora" else MODEL), processor=loaded.processor)
    parts = {group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)}
    return Outcome(
        finished=finished,
        signal=None if finished else stop.signal,
        step=step,
        steps=plan.steps,
        rows=len(places),
        parameters=parts,
        packed=packed,
        features=worth,
        no_features=reason,
    )


def no_memory(settings: TrainSettings, step: int, error: BaseException) -> str:
    """The message about a step that the device's memory had no room for."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    more = "" if settings.gradient_checkpointing else ", or set gradient_checkpointing: true"
    return (
        f"step {step + 1}: expected room on the device, found: {first}; lower batch_tokens ({settings.batch_tokens:,}; the result stays the same), "
        f"max_pixels or max_dynamic_patch{more}. The last checkpoint is untouched"
    )


def load(settings: TrainSettings, checkpoint: Path | str) -> Loaded:
    """The model on its device, frozen where the settings say so.

    Raises:
        ModelError: it cannot be loaded.
        SettingsError: the device is not there, or the model has no limit or layer of the name that is set.
    """
    device = device_of(settings)
    in_bfloat16 = bfloat16(settings, device)
    trains_whole = settings.tuning == "full" or not settings.projector_is_frozen
    dtype = torch.bfloat16 if in_bfloat16 and settings.tuning == "lora" else torch.float32
    _check_liger(settings, device)
    network, processor = load_model(checkpoint, {}, device, dtype)
    _as_plain(network)
    limit_images(
        processor,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_dynamic_patch=settings.max_dynamic_patch,
    )
    if settings.attention is not None:
        _set_attention(network, settings.attention)
    network.config.use_cache = False
    model = prepare(network, settings)
    for weight in model.parameters():
        if weight.requires_grad:  # steps are smaller than bfloat16 can tell apart
            weight.data = weight.data.float()
    if settings.tuning == "lora" and not is_deepspeed_zero3_enabled():
        shorten(model)  # reads factors directly, which ZeRO-3 only gathers when their own module is called
    return Loaded(model, network, processor, device, in_bfloat16 and trains_whole)


def _check_liger(settings: TrainSettings, device: str) -> None:
    if settings.liger and not device.startswith("cuda"):
        raise SettingsError(f"liger: its kernels need a GPU, found device {device!r}; set liger: false")
    if settings.liger and not is_liger_kernel_available():
        raise MissingPackageError("liger: true needs the package liger-kernel: pip install liger-kernel")


def _set_attention(network: Any, kind: str) -> None:
    try:
        network.set_attn_implementation(kind)
    except (ValueError, ImportError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"attention: {kind} cannot be used with this model here: {first}; leave it out") from error


def _as_plain(network: Any) -> None:
    """Weights that were read from a GGUF file are plain numbers once they are read; nothing of the file's format is left to train around."""
    quantizer = getattr(network, "hf_quantizer", None)
    if quantizer is not None and "gguf" in str(getattr(quantizer.quantization_config, "quant_method", "")).lower():
        network.hf_quantizer, network.is_quantized = None, False


def device_of(settings: TrainSettings) -> str:
    """The device to train on.

    Raises:
        SettingsError: it is not there.
    """
    if settings.device is None:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(
            f"device: expected a CUDA GPU for {settings.device!r}, found none that torch {torch.__version__} can use; set device: cpu, "
            "or install a build of torch for your GPU (mis doctor tells what is there)"
        )
    return settings.device


def bfloat16(settings: TrainSettings, device: str) -> bool:
    """Whether products are computed in bfloat16."""
    if settings.precision is not None:
        return settings.precision == "bfloat16"
    return torch.cuda.is_bf16_supported() if device.startswith("cuda") else has_bfloat16_products()


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
        SettingsError: it was asked for and cannot be.
    """
    reason = settings.no_feature_cache
    if settings.feature_cache is False:
        reason = "feature_cache: false"
    if reason is None and not any(place.sample.images for place in places):
        reason = "no row has images"
    if reason is not None:
        return None, None, reason
    with torch.autocast(loaded.network.device.type, torch.bfloat16, enabled=loaded.autocast):
        try:
            cache = open_cache(loaded.network, encoder, places, projector_is_frozen=settings.projector_is_frozen)
        except SettingsError as error:
            if settings.feature_cache:
                raise
            return None, None, str(error)
        if settings.feature_cache is None and (reason := _does_not_pay(cache, places, settings)):
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
    if settings.attention in (None, "sdpa"):
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


def make_trainer(
    loaded: Loaded,
    encoder: Encoder,
    places: Sequence[Place],
    plan: Plan,
    settings: TrainSettings,
    folder: Path,
    cache: FeatureCache | None = None,
    callback: RunCallback | None = None,
) -> AnswerTrainer:
    """The trainer of a run, with everything that it needs."""
    args = training_arguments(loaded, settings, plan, folder)
    steps = Steps(places, encoder, plan, cache, device=args.process_index, devices=args.world_size)
    on_gpu = loaded.device.startswith("cuda")
    workers = (
        suitable_workers(cached=cache is not None, on_gpu=on_gpu) if settings.workers is None else settings.workers
    )
    trainer = AnswerTrainer(
        loaded.model,
        args,
        steps,
        network=loaded.network,
        workers=workers,
        features=cache.source if cache is not None else None,
        turn_weight=settings.turn_weight,
        processing_class=loaded.processor,
        callbacks=[callback] if callback is not None else [],
    )
    trainer.remove_callback(PrinterCallback)
    if callback is not None:
        callback.trainer = trainer
    return trainer


def training_arguments(loaded: Loaded, settings: TrainSettings, plan: Plan, folder: Path) -> TrainingArguments:
    """The settings in transformers' words; what is decided here in place of it is switched off there."""
    checkpointing: dict[str, Any] = {"activation_checkpointing": True} if settings.gradient_checkpointing else {}
    args = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=plan.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=math.ceil(settings.warmup_ratio * plan.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused" if loaded.device.startswith("cuda") else "adamw_torch",
        seed=settings.seed,
        bf16=loaded.autocast,
        use_cpu=loaded.device == "cpu",
        **checkpointing,
        use_liger_kernel=settings.liger,
        liger_kernel_config={"fused_linear_cross_entropy": False, "cross_entropy": False} if settings.liger else None,
        save_strategy="no",
        save_total_limit=settings.keep_checkpoints,
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
    inner = network.get_decoder() if hasattr(network, "get_decoder") else network.model.language_model
    if not isinstance(getattr(inner, "layers", None), nn.ModuleList):
        raise SettingsError("compile: expected a decoder with a list of layers, found none; set compile: false")
    for layer in inner.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
