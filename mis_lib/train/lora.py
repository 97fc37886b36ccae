"""The parts of a vision-language model, which of them a run trains, and LoRA layers with a shorter ``forward``.

Names differ between architectures (``visual``, ``vision_tower``, ``vision_model``; ``merger``, ``connector``,
``multi_modal_projector``), so a parameter's part is read off its name, and every parameter belongs to exactly one part.
What a run leaves alone stays bit for bit as it was.
"""

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn import functional as F

from mis_lib.errors import ModelError, SettingsError
from mis_lib.models.load import wrapping
from mis_lib.train.settings import LoraSettings, TrainSettings

ADAPTER = "default"


class Part(StrEnum):
    """Where a parameter belongs."""

    VISION = "vision tower"
    PROJECTOR = "projector"
    LANGUAGE = "language model"
    AUDIO = "audio tower"
    """With its projector; no run trains it."""
    ADAPTER = "adapter"


_PROJECTOR = re.compile(
    r"(?:^|\.)(?:multi_modal_projector|mm_projector|projector|layerwise_projectors|spatial_projectors|connector|merger"
    r"|deepstack_merger_list|image_newline|view_separator|aligner|resampler|resampler_model|perceiver_resampler"
    r"|vision_projection|vision_adapter|perception_emb_norm|embed_vision|visual_embeddings_table|language_projection"
    r"|qformer|query_tokens)(?:\.|$)"
)
_VISION = re.compile(
    r"(?:^|\.)(?:visual|vision_tower|vision_model|high_res_vision_\w+|vision_encoder|vision_embed_tokens"
    r"|vision_tokenizer|vit|image_tower|video_tower)(?:\.|$)"
)
_AUDIO = re.compile(r"(?:^|\.)(?:audio_tower|audio_tokenizer|embed_audio)(?:\.|$)")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class Group(NamedTuple):
    """One part of a model in numbers."""

    part: Part
    parameters: int
    trained: int


def _shape(weight: torch.Tensor) -> Sequence[int]:
    """Of a whole weight, also where ZeRO-3 has left this process a part of it."""
    return getattr(weight, "ds_shape", weight.shape)


def part_of(name: str) -> Part:
    """The part that a parameter or module of this name belongs to."""
    if ".lora_" in name or name.startswith("lora_"):
        return Part.ADAPTER
    if _AUDIO.search(name):
        return Part.AUDIO
    if _PROJECTOR.search(name):
        return Part.PROJECTOR
    return Part.VISION if _VISION.search(name) else Part.LANGUAGE


def is_tower(name: str) -> bool:
    """Whether a module's name is that of the whole vision tower, not of a part of it."""
    return part_of(name) is Part.VISION and part_of(name.rpartition(".")[0]) is not Part.VISION


def groups(model: nn.Module) -> list[Group]:
    """How many parameters each part has, and how many of them are trained; shared ones count once."""
    found = {part: [0, 0] for part in Part}
    for name, weight in model.named_parameters():
        count = found[part_of(name)]
        size = math.prod(_shape(weight))
        count[0] += size
        count[1] += size * weight.requires_grad
    return [Group(part, *count) for part, count in found.items() if count[0]]


def trained_parts(settings: TrainSettings) -> tuple[Part, ...]:
    """The parts that a run's settings move."""
    frozen = {
        Part.VISION: settings.freeze_vision,
        Part.PROJECTOR: settings.projector_is_frozen,
        Part.LANGUAGE: settings.freeze_language,
    }
    return tuple(part for part, is_frozen in frozen.items() if not is_frozen)


def prepare(network: Any, settings: TrainSettings) -> Any:
    """Freeze the parts that a run does not train; returns the model to train (a ``PeftModel`` under LoRA).

    Raises:
        SettingsError: no layer has the names that the settings target.
        ModelError: the adapter to start from is missing or does not fit.
    """
    network.requires_grad_(False)
    parts = trained_parts(settings)
    if Part.VISION not in parts:
        keep_eval(network)
    if settings.tuning == "full":
        for name, weight in network.named_parameters():
            weight.requires_grad_(part_of(name) in parts)
        return network
    if settings.start_from is not None:
        return _saving_alone(_continued(network, settings.start_from))
    with wrapping():
        model = get_peft_model(network, lora_config(network, settings.lora, parts))
    model.peft_config[ADAPTER].base_model_name_or_path = settings.model
    return _saving_alone(model)


def keep_eval(network: nn.Module) -> None:
    """Keep the frozen vision tower in eval mode, whatever mode a trainer puts the model in.

    In training mode a batch norm (mini's tower has them) uses the batch's statistics and changes its running ones.
    """
    for name, module in network.named_modules():
        if is_tower(name):
            module.register_forward_pre_hook(_set_eval)


def _set_eval(tower: nn.Module, inputs: Any) -> None:
    tower.eval()


def lora_config(network: nn.Module, lora: LoraSettings, parts: Iterable[Part]) -> LoraConfig:
    """PEFT's configuration: factors at the linear layers of the trained towers, a whole copy of a trained projector.

    Raises:
        SettingsError: no layer has the names that ``lora.targets`` tells.
    """
    wanted = set(parts)
    towers = wanted - {Part.PROJECTOR}
    targets = [name for name in linear_layers(network, towers) if _is_targeted(name, lora)]
    if towers and not targets:
        there = sorted({name.rpartition(".")[2] for name in linear_layers(network, towers)})
        raise SettingsError(
            f"lora.targets {list(lora.targets)}, first_layer {lora.first_layer}: "
            "no linear layer of the trained parts is called so; "
            f"known: {', '.join(there)}"
        )
    taken = _taken_for_experts(network)
    targets = [name for name in targets if name.rpartition(".")[2] not in taken]
    experts = _experts(network, lora.first_layer) if lora.experts and Part.LANGUAGE in wanted else []
    if lora.experts and not experts:
        raise SettingsError("lora.experts: this run trains no mixture of experts; leave it out")
    if experts and lora.dropout:
        raise SettingsError(f"lora.experts: PEFT has no dropout at experts, found {lora.dropout}; set lora.dropout: 0")
    whole = _projectors(network) if Part.PROJECTOR in wanted else []
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # PEFT divides by it, any number serves
        lora_dropout=lora.dropout,
        target_modules=pattern_of(targets),
        target_parameters=experts or None,
        modules_to_save=whole or None,
        task_type="CAUSAL_LM",
    )


def not_reached(network: Any, settings: TrainSettings) -> str | None:
    """What of the trained towers LoRA leaves alone although no setting says so; None where it reaches all.

    Args:
        network: prepared.
        settings: of the run.
    """
    lora, towers = settings.lora, {*trained_parts(settings)} - {Part.PROJECTOR}
    if settings.tuning != "lora" or settings.start_from is not None or lora.targets or lora.first_layer:
        return None
    bare = [name for name in linear_layers(network, towers) if not name.endswith(".base_layer")]
    experts = 0 if lora.experts else sum(math.prod(_shape(network.get_parameter(name))) for name in _experts(network))
    found = []
    if bare:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in bare}))
        found.append(f"{len(bare):,} linear layers ({names}), which PEFT takes for experts in this architecture")
    if experts and Part.LANGUAGE in towers:
        found.append(f"{experts:,} parameters of experts, which lora.experts: true would adapt")
    return f"LoRA leaves alone: {'; '.join(found)}" if found else None


def _experts(network: nn.Module, first_layer: int = 0) -> list[str]:
    """Names of the weights of experts that are one tensor a layer, (experts, out, in) or (experts, in, out)."""
    return [
        name
        for name, weight in network.named_parameters()
        if len(_shape(weight)) == 3
        and ".experts." in name
        and part_of(name) is Part.LANGUAGE
        and (first_layer == 0 or ((layer := _LAYER.search(name)) is not None and int(layer[1]) >= first_layer))
    ]


def _taken_for_experts(network: Any) -> set[str]:
    """Names of layers that PEFT would read as experts of a transformers 4 checkpoint, and leave without factors."""
    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    config = LoraConfig(target_modules=sorted(names))
    convert_peft_config_for_transformers(config, network, None)
    return names - {*(config.target_modules or ())}


def linear_layers(network: nn.Module, parts: Iterable[Part]) -> list[str]:
    """Names of the linear layers of some parts; the output layer is none of them."""
    wanted = set(parts)
    get_head = getattr(network, "get_output_embeddings", None)
    head = None if get_head is None else get_head()
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(f"{name}.weight") in wanted
    ]


def _is_targeted(name: str, lora: LoraSettings) -> bool:
    if lora.targets and name.rpartition(".")[2] not in lora.targets:
        return False
    layer = _LAYER.search(name)
    return (
        lora.first_layer == 0
        or part_of(name) is not Part.LANGUAGE
        or (layer is not None and int(layer[1]) >= lora.first_layer)
    )


def _projectors(network: nn.Module) -> list[str]:
    """Names of the projectors, not of modules inside one; of a list (Qwen3-VL's) each item: PEFT copies no list."""
    found = []
    for name, module in network.named_modules():
        if _PROJECTOR.search(name) and not _PROJECTOR.search(name.rpartition(".")[0]):
            found += [f"{name}.{at}" for at in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return found


def pattern_of(names: Sequence[str]) -> str:
    """A pattern for exactly these modules, with layer numbers joined so that an adapter's configuration is readable."""
    kinds: dict[str, set[int]] = {}
    for name in names:
        layer = _LAYER.search(name)
        key = name if layer is None else f"{name[: layer.start(1)]}#{name[layer.end(1) :]}"
        kinds.setdefault(key, set()).update([] if layer is None else [int(layer[1])])
    families: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for key, layers in kinds.items():
        head, mark, tail = key.partition("#")
        families.setdefault((head if mark else key, tuple(sorted(layers))), []).append(tail)
    return "|".join(_family(head, layers, tails) for (head, layers), tails in families.items()) or "(?!)"


def _family(head: str, layers: tuple[int, ...], tails: list[str]) -> str:
    if not layers:
        return re.escape(head)
    numbers = "|".join(map(str, layers))
    return f"{re.escape(head)}({numbers})({'|'.join(re.escape(tail) for tail in tails)})"


def _saving_alone(model: Any) -> Any:
    """The model, set to be saved without embeddings, which are never trained: PEFT would ask a hub about them."""
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def _continued(network: Any, folder: Path) -> PeftModel:
    """The model with a copy of an adapter of ``folder``, to be trained further."""
    try:
        with wrapping():
            return PeftModel.from_pretrained(network, str(folder), adapter_name=ADAPTER, is_trainable=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"start_from: expected the PEFT folder of an adapter of this model in {folder}, found: {first}"
        ) from error


def shorten(model: nn.Module) -> int:
    """Replace the ``forward`` of all plain LoRA layers by a shorter one; returns how many there are.

    Factors, files and results stay the same. PEFT's own ``forward`` looks up adapters, variants, dtypes and dropouts
    around each of some 200 linear layers, and keeps a float32 copy of every input. On mini that costs as much as the
    products; on large models it is memory. ``restore`` puts PEFT's back after training.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def restore(model: nn.Module) -> None:
    """Give all layers PEFT's own ``forward`` back."""
    for module in model.modules():
        if isinstance(module, Linear):
            vars(module).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Whether the layer is base + scale B A x and nothing else (no DoRA, bias, embedding, fan-in-fan-out)."""
    base = layer.get_base_layer()
    only = list(layer.lora_A) == [ADAPTER] and not layer.lora_variant and not layer.lora_bias.get(ADAPTER)
    return only and type(base) is nn.Linear and not layer.fan_in_fan_out


def _forward(layer: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Map (..., in) to (..., out)."""
    base = layer.base_layer(hidden)
    if layer.disable_adapters:
        return base
    inner = layer.lora_dropout[ADAPTER](hidden)
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    inner = F.linear(inner, down.to(hidden.dtype)) * layer.scaling[ADAPTER]
    return (
        base.add_(F.linear(inner, up.to(hidden.dtype)))
        if base.dtype == hidden.dtype
        else base + F.linear(inner, up.to(hidden.dtype))
    )
