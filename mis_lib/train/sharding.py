"""Loading a model that no device ever holds whole: where its weights are until FSDP2 or ZeRO-3 has sharded them.

FSDP2 shards only when training starts. Until then the first process of each machine has the weights in main memory, the
others have their shapes (``meta``), and accelerate sends each process its part. ZeRO-3 shards while the checkpoint is
read. What is tried before training needs values: ``whole_by_layer`` lends them to the device, one decoder layer at a
time.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from mis_lib.errors import MissingPackageError
from mis_lib.train.distributed import FSDP, asked_for, same_for_all, several, zero3
from mis_lib.train.lora import Part, part_of

META = "meta"

Value = TypeVar("Value")


def place_of(device: str) -> str:
    """Where the weights are loaded that will be trained on a device: there, unless FSDP shards them later."""
    if not asked_for(FSDP):
        return device
    return "cpu" if holds_weights() else META


def holds_weights() -> bool:
    """Whether this process has the weights' values before training; else it has their shapes."""
    return not _one_sends() or os.environ.get("LOCAL_RANK", "0") == "0"


def agreed(value: Value, device: str | None) -> Value:
    """What the processes that hold weights have found, in all processes of a sharded run.

    Args:
        value: this process's; anything where it holds no weights.
        device: as the settings name it; None for what there is.
    """
    if not _one_sends():
        return value
    sent = same_for_all(value, device)
    return value if holds_weights() else sent


def _one_sends() -> bool:
    """Whether one process of a machine loads the weights for all: FSDP2 with ``cpu_ram_efficient_loading``."""
    wanted = asked_for(FSDP) and asked_for("FSDP_CPU_RAM_EFFICIENT_LOADING")
    return wanted and os.environ.get("FSDP_VERSION") == "2" and several()


def declare_zero3(*, bfloat16: bool) -> Any:
    """Tell transformers that ZeRO-3 shards what it loads from now on; what is returned must be kept for so long.

    Args:
        bfloat16: the number type of the shards, else float32.

    Raises:
        MissingPackageError: DeepSpeed is not installed.
    """
    if not zero3():
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingPackageError(
            'ZeRO-3 needs deepspeed: pip install "mis-workbench[deepspeed]"; or launch with FSDP2'
        )
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    plugin.hf_ds_config.config["bf16"] = {"enabled": bfloat16}
    plugin.deepspeed_config = plugin.hf_ds_config.config
    plugin.set_deepspeed_weakref()
    return plugin


@contextmanager
def whole_by_layer(network: Any, device: str) -> Iterator[None]:
    """While it lasts, a model that will be sharded can be called: each decoder layer is whole only while it runs.

    What is in no decoder layer (vision tower, projector, embeddings, output layer) is whole all the time. Where nothing
    is sharded later, nothing is done.

    Args:
        network: the transformers model.
        device: to compute on.
    """
    if not (asked_for(FSDP) or zero3()):
        yield
        return
    layers = decoder_layers(network)
    inside = {id(one) for layer in layers for one in _tensors(layer)}
    with ExitStack() as lent:
        lent.enter_context(_whole((one for one in _tensors(network) if id(one) not in inside), device))
        for layer in layers:
            running = lent.enter_context(ExitStack())
            lent.callback(layer.register_forward_pre_hook(partial(_enter, running, device)).remove)
            lent.callback(layer.register_forward_hook(partial(_leave, running)).remove)
        yield


def decoder_layers(network: Any) -> list[nn.Module]:
    """The layers of the language model, as transformers names those that are not to be split."""
    names = {*(network._no_split_modules or ())}
    return [
        module
        for name, module in network.named_modules()
        if type(module).__name__ in names and part_of(f"{name}.weight") is Part.LANGUAGE
    ]


def _enter(running: ExitStack, device: str, layer: nn.Module, args: Any) -> None:
    running.enter_context(_whole(_tensors(layer), device))


def _leave(running: ExitStack, layer: nn.Module, args: Any, output: Any) -> None:
    running.close()


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


@contextmanager
def _whole(tensors: Iterable[torch.Tensor], device: str) -> Iterator[None]:
    """While it lasts, the tensors are on the device, those of ZeRO-3 gathered from all processes."""
    with ExitStack() as gathered:
        parts, own = [], []
        for one in tensors:
            (parts if hasattr(one, "ds_id") else own).append(one)
        if parts:
            import deepspeed  # pyright: ignore[reportMissingImports]

            gathered.enter_context(deepspeed.zero.GatheredParameters(parts))
        before = [one.data for one in own]
        for one in own:
            one.data = one.data.to(device)
        try:
            yield
        finally:
            for one, data in zip(own, before, strict=True):
                one.data = data
