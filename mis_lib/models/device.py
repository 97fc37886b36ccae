"""What the machine at hand is good at, and what it was asked for."""

import sys

import psutil
import torch


def has_bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
