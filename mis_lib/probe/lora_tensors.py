"""Which tensors of an adapter take part: every LoRA tensor of the file, with what became of it in a form of the model.

Three questions, none of which a loader answers by itself. Has every tensor of the file a place in the checkpoint, and
every place a tensor (``places``)? Does the live adapter hold the file's numbers (``attached``)? Do merged weights hold
the update (``merged``)? For the last one the change of each weight is projected on s B A: a share of 1 is the update, 0
is a layer that was forgotten; rounding to bfloat16, which can be as large as the update itself, cancels out in the
projection.
"""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from mis_lib.errors import ModelError
from mis_lib.models.adapters import WEIGHTS
from mis_lib.models.load import CONFIG, wrapping
from mis_lib.schema import Record

PLACES = "places"  # name of an adapter without numbers
SHARE_SLACK = 0.1  # of the update's size: what rounding may do to its share in a merged weight


class Use(StrEnum):
    """What became of a tensor."""

    APPLIED = "applied"
    IGNORED = "ignored"
    MISSING = "missing"
    CHANGED = "changed"
    NOT_TOLD = "not told"


class TensorUse(Record):
    """One tensor of an adapter in one form."""

    form: str
    tensor: str
    shape: tuple[int, ...]
    use: Use
    detail: str = ""


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a PEFT folder by their names in the file.

    Raises:
        ModelError: a file is missing or damaged.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise ModelError(f"{folder / name}: expected a PEFT adapter's file, found none; name its folder")
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error}; save the adapter again") from error


def places(checkpoint: Path, folder: Path, form: str) -> list[TensorUse]:
    """The file's tensors against the places that its configuration makes in the checkpoint, without loading a weight.

    Raises:
        ModelError: checkpoint or adapter cannot be read.
    """
    stored = read_adapter(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                AutoConfig.from_pretrained(checkpoint, local_files_only=True)
            )
            with wrapping():
                expected = _state(PeftModel(model, config, adapter_name=PLACES), PLACES, stored)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder}: its places in {checkpoint} cannot be told: {error}") from error
    return _in_order(stored, expected, lambda name: _place(stored, expected, name), form)


def attached(model: PeftModel, adapter: str, stored: Mapping[str, torch.Tensor], form: str) -> list[TensorUse]:
    """The file's tensors against those of the live adapter, number by number in the model's type."""
    live = _state(model, adapter, stored)

    def compare(name: str) -> tuple[Use, str]:
        use, detail = _place(stored, live, name)
        if use is Use.APPLIED and not torch.equal(stored[name].to(live[name].dtype).cpu(), live[name].cpu()):
            return Use.CHANGED, "the live adapter holds other numbers than the file"
        return use, detail

    return _in_order(stored, live, compare, form)


def merged(
    reference: PeftModel,
    adapter: str,
    weights: Mapping[str, torch.Tensor],
    stored: Mapping[str, torch.Tensor],
    form: str,
) -> list[TensorUse]:
    """The file's tensors against merged weights: the share of each layer's update that is in them.

    Args:
        reference: the unmerged model, whose layers know base weight and update.
        adapter: its name there.
        weights: of the merged model, by the checkpoint's parameter names.
        stored: the adapter's file.
        form: what the merged model is called.
    """
    shares = {
        name: _share(layer, adapter, weights.get(_parameter(name, layer)))
        for name, layer in lora_layers(reference, adapter)
    }
    found = []
    for name, tensor in stored.items():
        layer, part, _ = name.removeprefix("base_model.model.").partition(".lora_")
        if part:
            use, detail = _judge(shares.get(layer, "no layer of this name"))
        else:  # a module that was trained as a whole
            use, detail = _replaced(tensor, weights.get(layer))
        found.append(TensorUse(form=form, tensor=name, shape=tuple(tensor.shape), use=use, detail=detail))
    return found


def lora_layers(model: PeftModel, adapter: str) -> list[tuple[str, Any]]:
    """Name in the checkpoint and PEFT layer of every linear layer that the adapter changes."""
    return [
        (name, module)
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    ]


def wrong(uses: Sequence[TensorUse]) -> TensorUse | None:
    """The first tensor that is not applied, as far as is known."""
    return next((use for use in uses if use.use not in (Use.APPLIED, Use.NOT_TOLD)), None)


def _parameter(name: str, layer: Any) -> str:
    """Which parameter of the checkpoint a layer changes; of a module with several PEFT wraps one after the other."""
    return f"{name.replace('.base_layer', '')}.{getattr(layer, 'parameter_name', 'weight')}"


@torch.inference_mode()
def _share(layer: Any, adapter: str, weight: torch.Tensor | None) -> float | str | None:
    """How much of the layer's update is in ``weight``: 1 all, 0 nothing; in words if none, ``None`` if unknown."""
    if adapter in layer.lora_variant:  # DoRA and others change more than s B A
        return None
    if weight is None:
        return "the merged model has no such weight"
    update = layer.get_delta_weight(adapter).double()
    size = update.square().sum()
    if size == 0:
        return 1.0  # nothing to merge
    base = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
    change = weight.to(update.device).double() - base.double()
    return float((change * update).sum() / size)


def _judge(share: float | str | None) -> tuple[Use, str]:
    if share is None:
        return Use.NOT_TOLD, "not plain LoRA: its logits tell whether it is in the merged weights"
    if isinstance(share, str):
        return Use.IGNORED, share
    detail = f"{share:.3f} of the layer's update is in the merged weight"
    if abs(share) <= SHARE_SLACK:
        return Use.IGNORED, detail
    return (Use.APPLIED if abs(share - 1) <= SHARE_SLACK else Use.CHANGED), detail


def _state(model: PeftModel, adapter: str, stored: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The adapter's tensors by their names in a file; embeddings only if the file has them, or PEFT asks a hub."""
    embeddings = any(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in stored)
    return get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=embeddings)


def _replaced(tensor: torch.Tensor, weight: torch.Tensor | None) -> tuple[Use, str]:
    if weight is None or weight.shape != tensor.shape:
        return Use.IGNORED, "the merged model has no such weight"
    same = torch.equal(tensor.to(weight.dtype).cpu(), weight.cpu())
    return (Use.APPLIED, "") if same else (Use.CHANGED, "the merged model holds other numbers than the file")


def _place(stored: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> tuple[Use, str]:
    if name not in expected:
        return Use.IGNORED, "the checkpoint has no place for it"
    if name not in stored:
        return Use.MISSING, "adapter_config.json makes a place for it, the file has no tensor"
    if expected[name].shape != stored[name].shape:
        return Use.IGNORED, f"its place has shape {tuple(expected[name].shape)}"
    return Use.APPLIED, ""


def _in_order(stored: Mapping[str, Any], expected: Mapping[str, Any], use: Any, form: str) -> list[TensorUse]:
    """One record a tensor, those of the file first."""
    names = dict.fromkeys([*stored, *expected])
    found = []
    for name in names:
        status, detail = use(name)
        shape = tuple(stored[name].shape if name in stored else expected[name].shape)
        found.append(TensorUse(form=form, tensor=name, shape=shape, use=status, detail=detail))
    return found
