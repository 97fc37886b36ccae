"""Loading one checkpoint with all its adapters, and its processor: local files, safetensors only, no remote code.

A *variant* is a name for the checkpoint under one adapter or weight edit (``edits``); the variant whose adapter is
``None`` is the checkpoint itself. All stay attached, so that variants can be switched without loading again, and
adapters mixed in one batch:

    model, processor = load_model(ensure_mini(), shipped_variants())
"""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import transformers
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from mis_lib.data.tokens import find_checkpoint
from mis_lib.errors import ModelError, SettingsError
from mis_lib.models.adapters import (
    CONFIG,
    SHIPPED,
    WEIGHTS,
    ImageLimits,
    is_edit,
    limit_images,
    recognised,
    shared_limits,
    warn_if_base_differs,
)
from mis_lib.models.devices import device_for
from mis_lib.models.edits import Edit, attach
from mis_lib.models.packages import check_quantization, naming_a_broken_package
from mis_lib.prompts import bound_template
from mis_lib.settings import Quantization

SHOWN = 300  # characters of a library's message: the first tensor that does not fit comes after a headline

# What a damaged or unsuitable file makes the libraries raise.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


class LoadedModel(NamedTuple):
    """A model in evaluation mode (a ``PeftModel`` where it has adapters) and its processor, which pads on the left."""

    model: PreTrainedModel | PeftModel
    processor: ProcessorMixin

    @property
    def network(self) -> Any:
        """The transformers model itself, inside of PEFT's wrapper where it has one."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model


def load_model(
    checkpoint: Path | str,
    adapters: Mapping[str, Path | None] | None = None,
    device: str = "auto",
    dtype: torch.dtype | str = "auto",
    quantization: Quantization | None = None,
    limits: ImageLimits | None = None,
) -> LoadedModel:
    """Load a checkpoint and attach adapters under the names of their variants.

    Args:
        checkpoint: folder in Hugging Face's layout with safetensors, or id of a hub model in the local cache.
        adapters: PEFT folder or file of a weight edit of each variant, ``None`` for the base.
        device: "auto", "cpu", "cuda", "cuda:1" ... (``devices.device_for``); "meta" for weights without values.
        dtype: of the weights; "auto" is the checkpoint's own.
        quantization: how the weights of linear layers are stored, but for the output layer; ``dtype`` is then the type
            of the products and of all other weights.
        limits: of images, which replace those that the adapters were trained with.

    Without limits, the processor has those that the adapters were trained with. ``AdapterWarning`` says that an adapter
    is known to have been trained on other weights of these shapes.

    Raises:
        ModelError: something is missing, damaged or does not fit; names the file and the way out.
        SettingsError: adapters were trained with different limits, there is no such device, or the checkpoint is stored
            quantized already.
        MissingPackageError: quantization needs a package that is not there.
    """
    shapes_only = device == "meta"
    device = device if shapes_only else device_for(device)
    limits = shared_limits(adapters or {}, limits)
    model, processor = _load_base(
        checkpoint,
        dtype,
        {"device_map": {"": device}} if shapes_only else _quantizing(quantization, device, checkpoint),
    )
    _keep_layout(model)
    edits: dict[str, Edit] = {}
    for variant, folder in (adapters or {}).items():
        if folder is not None and is_edit(folder):
            if quantization is not None:
                raise SettingsError(
                    f"quantization: variant {variant!r} is an edit of the checkpoint's own weights; "
                    "leave it or quantization out"
                )
            edits[variant] = Edit.read(folder, checkpoint)
        elif folder is not None:
            model = _attach(model, variant, folder)
            warn_if_base_differs(variant, folder, checkpoint)
    limit_images(processor, limits)
    try:
        # quantized where it was loaded; without values, it has buffers with values, which must stay
        model = model if quantization or shapes_only else model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot put {checkpoint} on {device!r}: {error}; try device 'cpu'") from error
    for weight in model.parameters():
        weight.requires_grad_(False)
    loaded = LoadedModel(model.eval(), processor)
    attach(loaded.network, edits)
    return loaded


@contextmanager
def wrapping() -> Iterator[None]:
    """Silence a warning while PEFT wraps a network: PEFT uses a name that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _quantizing(quantization: Quantization | None, device: str, checkpoint: Path | str) -> dict[str, Any]:
    """Options with which transformers quantizes while it loads: QLoRA's nf4 (Dettmers et al. 2023) or LLM.int8()."""
    if quantization is None:
        return {}
    check_quantization(quantization)
    folder = find_checkpoint(str(checkpoint))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    if found := stored.get("quantization_config"):
        raise SettingsError(
            f"quantization: expected a checkpoint whose weights are not quantized yet, found {checkpoint} with "
            f"{found.get('quant_method', 'another method')}; leave quantization out"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_layout(model: Any) -> None:
    """Let 4-bit layers compute in the model's number type, and keep the layout of their weights on a CPU.

    bitsandbytes would repack them when they are first used outside of training; afterwards nothing can be trained, and
    layers whose width is no multiple of a block fail.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.compute_dtype, module.compute_type_is_set = model.dtype, True
            module.support_avx512bf16_for_cpu = False


def _load_base(checkpoint: Path | str, dtype: torch.dtype | str, quantizing: Mapping[str, Any]) -> tuple[Any, Any]:
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if isinstance(checkpoint, Path) and not (checkpoint / "config.json").exists():
        found = recognised(checkpoint) or "none; `mis build` makes the embedded model"
        raise ModelError(f"{checkpoint}: expected a checkpoint folder with config.json, found {found}")
    _refuse_what_cannot_run(checkpoint)
    try:
        with naming_a_broken_package():
            processor = AutoProcessor.from_pretrained(checkpoint, **options)
            model = AutoModelForImageTextToText.from_pretrained(
                checkpoint, dtype=dtype, use_safetensors=True, **options, **quantizing
            )
    except _LOADING_ERRORS as error:
        raise ModelError(
            f"{checkpoint} cannot be loaded: {_first_line(error)}. It must be complete and hold safetensors; "
            "`mis build --force` assembles the embedded model again"
        ) from error
    bound_template(processor)
    processor.tokenizer.padding_side = "left"  # rows of one batch must end together for the next token
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return model, processor


def _refuse_what_cannot_run(checkpoint: Path | str) -> None:
    """Refuse Llama 4 where transformers' own code of it fails, as in 5.24.0, before its many weights are read."""
    folder = find_checkpoint(str(checkpoint))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    if stored.get("model_type") == "llama4" and (failure := llama4_failure()) is not None:
        raise ModelError(
            f"{checkpoint}: expected an architecture that transformers can run, found Llama 4, whose code fails in "
            f"transformers {transformers.__version__} on any input ({failure}); take another version of it, or another "
            "checkpoint"
        )


@cache
def llama4_failure() -> str | None:
    """What transformers' Llama 4 raises on two tokens; ``None`` if it runs. Tried on a model of some 10,000 weights."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "vocab_size": 8, "intermediate_size_mlp": 32, "head_dim": 8, "num_key_value_heads": 2}
    vision = {**sizes, "intermediate_size": 64, "vision_output_dim": 16, "projector_input_dim": 16}
    config = transformers.Llama4Config(
        text_config={**text, "num_local_experts": 2, "pad_token_id": 0},
        vision_config={**vision, "projector_output_dim": 16, "image_size": 28, "patch_size": 14},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            transformers.Llama4ForConditionalGeneration(config).eval()(input_ids=torch.ones(1, 2, dtype=torch.long))
        except (AttributeError, TypeError, RuntimeError) as error:
            return _first_line(error)
    return None


def _attach(model: Any, variant: str, folder: Path) -> PeftModel:
    """``model`` with the adapter of ``folder`` added under the name ``variant``; every tensor of the file must fit."""
    again = f"train it again (`mis train`; configs/mini-{variant}.yaml), or reinstall the package"
    remedy = (
        again
        if variant in SHIPPED
        else "name the folder of an adapter of this checkpoint, such as runs/NAME/v1/adapter"
    )
    if "." in variant:
        raise ModelError(f"variant {variant!r}: an adapter's name cannot have a point in it; call it something else")
    if not (folder / CONFIG).exists() and (found := recognised(folder)):
        raise ModelError(f"variant {variant!r}: expected a PEFT folder, found {found}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise ModelError(f"variant {variant!r}: expected {folder / name}, found no such file; {remedy}")
    base = ""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            tensors = len(weights.keys())
        config = PeftConfig.from_pretrained(str(folder))
        base = f" (it says that it is one of {config.base_model_name_or_path})"
        if not isinstance(model, PeftModel):
            with wrapping():
                model = PeftModel(model, config, adapter_name=variant, autocast_adapter_dtype=False)
        result = model.load_adapter(  # onto the CPU, where the model still is: PEFT would take a GPU if there is one
            str(folder), adapter_name=variant, torch_device="cpu", autocast_adapter_dtype=False
        )
    except _LOADING_ERRORS as error:
        words = " ".join(str(error).split()) or type(error).__name__
        words = f"{words[:SHOWN]} ..." if len(words) > SHOWN else words
        raise ModelError(f"variant {variant!r}: {folder} cannot be loaded{base}: {words}; {remedy}") from error
    missing = [key for key in result.missing_keys if f".{variant}." in key]
    if result.unexpected_keys or missing:
        example = (list(result.unexpected_keys) or missing)[0]
        raise ModelError(
            f"variant {variant!r}: {folder / WEIGHTS} with {tensors} tensors does not fit this checkpoint "
            f"({len(result.unexpected_keys)} tensors without a place, {len(missing)} places without a tensor, "
            f"such as {example}){base}; {remedy}"
        )
    return model


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def has_bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def stored_dtype(checkpoint: Path | str) -> torch.dtype | None:
    """The number type that a checkpoint's configuration names; None if it names none, or there is none."""
    folder = find_checkpoint(str(checkpoint))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) else None


def free_memory(device: str) -> int:
    """Bytes of a device that can be taken now; of a CPU, those of the machine, whatever a container allows."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
