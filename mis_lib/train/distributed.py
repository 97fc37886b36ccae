"""Several processes of one training run, as ``accelerate launch`` and ``torchrun`` start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from mis_lib.errors import SettingsError

Value = TypeVar("Value")

FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
PATIENCE = timedelta(hours=3)  # others wait while one reads data, computes image features and tries rows


def count() -> int:
    """Processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def several() -> bool:
    """Whether this is one of several processes of a run."""
    return count() > 1


def shards() -> bool:
    """Whether the launcher shards the training state (FSDP, DeepSpeed), which casts weights itself."""
    return asked_for(FSDP) or asked_for(DEEPSPEED)


def zero3() -> bool:
    """Whether DeepSpeed will shard the weights; known before transformers has made its ``TrainingArguments``."""
    return asked_for(DEEPSPEED) and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") not in ("0", "1", "2")


def shards_weights() -> bool:
    """Whether the weights will be sharded (FSDP, ZeRO-3), and whole only while the model is called."""
    return asked_for(FSDP) or zero3()


def asked_for(name: str) -> bool:
    """Whether the launcher has set a switch in the environment."""
    return os.environ.get(name, "").lower() in ("1", "true")


def check_device(device: str | None) -> None:
    """Refuse the index of a GPU that training would not take: accelerate counts on from the first one that it sees.

    Raises:
        SettingsError: another index than this process's own.
    """
    own = os.environ.get("LOCAL_RANK", "0")
    if device is not None and device.startswith("cuda:") and device != f"cuda:{own}":
        index = device.removeprefix("cuda:")
        raise SettingsError(
            f"device: expected cuda, found {device!r}: training takes the first GPUs that it sees; "
            f"set device: cuda and CUDA_VISIBLE_DEVICES={index}"
        )


def declare_precision(*, bfloat16: bool) -> None:
    """Tell accelerate in which number type products are computed: the settings decide, whatever its launch file says.

    transformers and accelerate both look into the environment, so nothing else would reach them both.
    """
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bfloat16 else "no"


def _state(device: str | None) -> Any:
    """This process among the others; the first call meets them."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


@contextmanager
def main_first(device: str | None) -> Iterator[bool]:
    """Run the block in the main process, then in the others; yields whether this is the main one.

    Args:
        device: as the settings name it; None for what there is.
    """
    if not several():
        yield True
        return
    state = _state(device)
    with state.main_process_first():
        yield state.is_main_process


def wait_for_all(device: str | None) -> None:
    """Wait until all processes of the run are here.

    Args:
        device: as the settings name it; None for what there is.
    """
    if several():
        _state(device).wait_for_everyone()


def same_for_all(value: Value, device: str | None = None) -> Value:
    """The main process's value, in all processes of the run.

    Args:
        value: this process's.
        device: as the settings name it; None for what there is.
    """
    if not several():
        return value
    from accelerate.utils import broadcast_object_list

    _state(device)
    return broadcast_object_list([value])[0]


def leave() -> None:
    """Leave the process group, last thing before this process ends: gloo's remaining threads may abort it."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
