"""Several processes of one training run, as ``accelerate launch`` and ``torchrun`` start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def count() -> int:
    """Processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def several() -> bool:
    """Whether this is one of several processes of a run."""
    return count() > 1


def shards() -> bool:
    """Whether the launcher spreads the weights' work over the processes (FSDP, DeepSpeed), which casts weights itself."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in ("ACCELERATE_USE_FSDP", DEEPSPEED))


def declare_precision(*, bfloat16: bool) -> None:
    """Tell accelerate in which number type products are computed: the settings decide, whatever its launch file says.

    transformers and accelerate both look into the environment, so nothing else would reach them both.
    """
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bfloat16 else "no"


@contextmanager
def main_first(device: str | None) -> Iterator[bool]:
    """Run the block in the main process, then in the others; yields whether this is the main one.

    Args:
        device: as the settings name it; None for what there is.
    """
    if not several():
        yield True
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    with state.main_process_first():
        yield state.is_main_process


def wait_for_all(device: str | None) -> None:
    """Wait until all processes of the run are here.

    Args:
        device: as the settings name it; None for what there is.
    """
    if several():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu").wait_for_everyone()


def leave() -> None:
    """Leave the other processes, as the last thing before this one ends: the threads that gloo still has may abort it."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
