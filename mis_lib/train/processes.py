"""Several processes of one training run, as ``accelerate launch`` and ``torchrun`` start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def several() -> bool:
    """Whether this is one of several processes of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


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
