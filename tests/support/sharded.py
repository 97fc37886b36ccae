"""Two processes on one CPU that share a training run as a launch file in ``configs/accelerate`` asks for it."""

import os
from collections.abc import Callable
from typing import Any

from torch import multiprocessing

KINDS = ("fsdp2", "zero2", "zero3")


def in_two_processes(work: Callable[..., None], port: int, *given: Any, kind: str | None = None) -> None:
    """Call ``work(rank, *given)`` in two processes of one run.

    Args:
        work: a function of a module.
        port: that is free, where they meet.
        given: arguments that can be pickled.
        kind: one of ``KINDS``; None for processes that share no weights.
    """
    multiprocessing.spawn(_child, (work, port, kind, given), nprocs=2)


def _child(rank: int, work: Callable[..., None], port: int, kind: str | None, given: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if kind == "fsdp2":
        _fsdp_on_a_cpu()
    elif kind is not None:
        _deepspeed_on_a_cpu(kind.removeprefix("zero"))
    work(rank, *given)


def _fsdp_on_a_cpu() -> None:
    """FSDP2 as configs/accelerate/fsdp2.yaml asks for it; accelerate would only do so on GPUs."""
    from accelerate import DistributedType, state

    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    }
    plain = state.AcceleratorState.__init__

    def sharding(self: Any, *given: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        plain(self, *given, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = sharding


def _deepspeed_on_a_cpu(stage: str) -> None:
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage,
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": str(stage == "3").lower(),
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
        "ACCELERATE_GRADIENT_CLIPPING": "auto",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    }
