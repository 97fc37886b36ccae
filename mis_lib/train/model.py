"""A model made ready for training: on its device, in its number type, frozen where the settings say so."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils.import_utils import is_liger_kernel_available

from mis_lib.errors import MissingPackageError, SettingsError
from mis_lib.models.adapters import ImageLimits, limit_images, limits_of, warn_if_base_differs
from mis_lib.models.devices import device_for
from mis_lib.models.load import has_bfloat16_products, load_model
from mis_lib.train.distributed import check_device, shards, zero3
from mis_lib.train.lora import prepare, shorten
from mis_lib.train.loss import AnswerHead, LinearCrossEntropyLoss
from mis_lib.train.settings import TrainSettings
from mis_lib.train.sharding import agreed, declare_zero3, holds_weights, place_of, whole_by_layer

KERNELS = 128  # that oneDNN keeps while training: enough for a tower and for a language model's layers at one length

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a model's code raises for inputs that it cannot read."""


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
    bfloat16: bool
    """Whether products are computed in bfloat16 at all."""
    loss: LinearCrossEntropyLoss | None = None
    """Of the model's logits; None where they are no linear layer's."""
    kept: Any = None
    """What must live as long as the model."""

    def head(self) -> AnswerHead:
        """What computes the model's losses in its forward passes."""
        return AnswerHead(self.network, self.loss, whole_logits=self.loss is None)


def load(settings: TrainSettings, checkpoint: Path | str) -> Loaded:
    """The model on its device, frozen where the settings say so.

    Raises:
        ModelError: it cannot be loaded.
        SettingsError: the device is not there, the model has no limit or layer of the name that is set, or its weights
            are quantized and cannot be trained as the settings say.
    """
    keep_few_kernels()
    device = device_of(settings)
    in_bfloat16 = bfloat16(settings, device)
    trains_whole = settings.tuning == "full" or not settings.projector_is_frozen
    dtype = torch.bfloat16 if in_bfloat16 and settings.tuning == "lora" else torch.float32
    _check_liger(settings, device)
    if settings.quantization and shards():
        raise SettingsError(
            "quantization: each GPU holds all quantized weights, expected accelerate launch without sharding, "
            "found FSDP or DeepSpeed; launch without them, or leave quantization out"
        )
    kept = declare_zero3(bfloat16=in_bfloat16)
    network, processor = load_model(checkpoint, {}, place_of(device), dtype, settings.quantization)
    _as_plain(network)
    if trains_whole and getattr(network, "is_quantized", False):
        raise SettingsError(
            f"tuning: {checkpoint} is stored quantized, and such weights cannot be trained; take the checkpoint that "
            "it was made from, or tuning: lora with freeze_projector: true"
        )
    _drop_absent_layer_names(network)
    limit_images(processor, limits_in(settings))
    if settings.attention is not None:
        _set_attention(network, settings.attention)
    network.config.use_cache = False
    model = prepare(network, settings)
    if settings.start_from is not None and settings.tuning == "lora":
        warn_if_base_differs("start_from", settings.start_from, checkpoint)
    for weight in model.parameters():
        # steps are smaller than bfloat16 can tell apart; ZeRO-3 keeps float32 copies of its parts itself
        if weight.requires_grad and not hasattr(weight, "ds_id"):
            weight.data = weight.data.float()
    if settings.tuning == "lora" and not zero3():
        shorten(model)  # reads factors directly, which ZeRO-3 only gathers when their own module is called
    loss = None
    if holds_weights():
        with whole_by_layer(network, device):
            loss = LinearCrossEntropyLoss.of(network)
    loss = agreed(loss, settings.device)
    return Loaded(model, network, processor, device, in_bfloat16 and trains_whole, in_bfloat16, loss, kept)


def limits_in(settings: TrainSettings) -> ImageLimits:
    """The image limits to train with: the settings', else those of the adapter that is trained further.

    Raises:
        ModelError: that adapter's cannot be read.
    """
    own = {name: value for name in ImageLimits.model_fields if (value := getattr(settings, name)) is not None}
    return limits_of(settings.start_from).model_copy(update=own)


def keep_few_kernels() -> None:
    """Bound oneDNN's cache of kernels unless the environment does; oneDNN reads it at a process's first product.

    It would keep the kernels of 1,024 shapes with memory to work in, and packed rows never have the same length twice:
    a run grew by gigabytes. A process that only generates is better off without: it uses its kernels again.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))


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
    """Treat weights that were read from a GGUF file as what they are now: plain numbers, not quantized ones."""
    quantizer = getattr(network, "hf_quantizer", None)
    if quantizer is not None and "gguf" in str(getattr(quantizer.quantization_config, "quant_method", "")).lower():
        network.hf_quantizer, network.is_quantized = None, False


def _drop_absent_layer_names(network: Any) -> None:
    """Keep in ``_no_split_modules`` the layers that exist: FSDP looks for all, a vision tower names text layers too."""
    there = {type(module).__name__ for module in network.modules()}
    network._no_split_modules = [name for name in network._no_split_modules or () if name in there]


def device_of(settings: TrainSettings) -> str:
    """The device to train on; of several processes each has the GPU of its own number.

    Raises:
        SettingsError: it is not there, or not the one that training would take.
    """
    check_device(settings.device)
    device = device_for(settings.device)
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and device != settings.device else device


def bfloat16(settings: TrainSettings, device: str) -> bool:
    """Whether products are computed in bfloat16."""
    if settings.precision is not None:
        return settings.precision == "bfloat16"
    return (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.startswith("cuda")
        else has_bfloat16_products()
    )
