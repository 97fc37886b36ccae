"""How the products of one decoding step are computed on a CPU: number type, layout of the weights, number of threads.

A step reads every weight once, for however many rows, so it is bound by memory, and by the hundreds of small operations
around the products. Measured for mini's decoder on two cores, in milliseconds a step for the linear layers alone, at
1 / 2 / 4 rows:

    bfloat16, plain weights     24 / 24 / 23    on a CPU without bfloat16 products, 1,700 for a prompt of 250 tokens
    bfloat16, packed weights    16 / 16 / 17    only where the CPU multiplies bfloat16 (AMX, AVX512-BF16)
    float32                     21 / 22 / 38    anywhere; 200 for that prompt

Hence: bfloat16 with weights packed once into the layout that the CPU's matrix unit wants, where it has one; float32
elsewhere. Eight-bit weights would be a little faster still (11 / 13 / 15) but change the texts; they are not used.
"""

import ctypes
import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mis_lib.models.devices import AUTO, device_for
from mis_lib.models.load import has_bfloat16_products

# oneDNN keeps a kernel for each length of prompt, 1,024 of them at first: 0.1 GB more after a hundred comparisons.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # read when the first kernel is made

LARGE = 4 * 2**30  # bytes on disk: above this, a copy in float32 may not fit into a laptop's memory
PACKED_FOR = 2  # rows that the packed layout is chosen for; it serves any number
LONGEST_SUM = (
    1024  # products in one sum; longer ones are cut by AVX512-BF16 kernels at places that depend on the number of rows
)


def working_dtype(checkpoint: Path | str, device: str) -> torch.dtype | str:
    """The number type to load a checkpoint in: its own ("auto"), or float32 on a CPU that is slow at bfloat16."""
    on_cpu = (device_for(device) if device == AUTO else device).startswith("cpu")
    if not on_cpu or not isinstance(checkpoint, Path) or not (checkpoint / "config.json").exists():
        return "auto"  # a wrong device or folder is for the loader to name
    if has_bfloat16_products() and _own_dtype(checkpoint) == "bfloat16":
        return "auto"
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    return torch.float32 if size <= LARGE else "auto"


class PackedLinear(nn.Module):
    """A linear layer whose bfloat16 weight is kept only in the layout of the CPU's matrix unit.

    Rows of a prompt are multiplied one after the other, which costs next to nothing and makes a row's result, to the
    last bit, independent of the number of rows. For single tokens the kernel has that property where sums are not too
    long, so long ones are cut into parts of equal length. In bfloat16 one bit is often enough to change a
    text.

    ``weight`` keeps shape and type for code that asks for them; its values are NaN, so that computing with it by
    mistake is noticed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        parts = linear.weight.detach().chunk(-(-self.in_features // LONGEST_SUM), dim=1)
        self.packed = [torch.ops.mkldnn._reorder_linear_weight(part.contiguous(), PACKED_FOR) for part in parts]
        self.lengths = [part.shape[1] for part in parts]
        self.weight = torch.full((), float("nan"), dtype=linear.weight.dtype).expand(linear.weight.shape)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``hidden`` (..., in) to (..., out)."""
        if hidden.ndim == 3 and len(hidden) > 1 and hidden.shape[1] > 1:
            return torch.cat([self.forward(row) for row in hidden.split(1)])
        parts = hidden.split(self.lengths, dim=-1) if len(self.lengths) > 1 else [hidden]
        product = torch.ops.mkldnn._linear_pointwise
        total = product(parts[0], self.packed[0], self.bias, "none", [], "")
        for part, packed in zip(parts[1:], self.packed[1:], strict=True):
            total = total + product(part, packed, None, "none", [], "")
        return total


def can_pack(network: Any) -> bool:
    """Whether weights can be packed: bfloat16, on a CPU that multiplies it, with a torch that has the kernel."""
    suits = network.device.type == "cpu" and network.dtype is torch.bfloat16
    return suits and has_bfloat16_products() and _kernel_works()


def pack_linears(network: nn.Module, leave: Collection[nn.Module] = ()) -> None:
    """Replace the bfloat16 linear layers of a model by packed ones, in place, but for those in ``leave``."""
    left = {id(module) for module in leave}
    for parent in list(network.modules()):
        if isinstance(parent, nn.ModuleDict):  # there PEFT keeps the factors of adapters, whose weights it reads
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype is torch.bfloat16 and id(child) not in left:
                setattr(parent, name, PackedLinear(child))


class Threads:
    """How many threads compute the next step: all, or half of them where other programs keep the cores busy.

    A step has hundreds of barriers at which the threads wait for each other. On idle cores all threads are fastest;
    where a browser or another job takes a core, each barrier costs a time slice of the system, and the step takes ten
    times as long. So both numbers are timed as the answer goes on, and the faster one is used; the other one is tried
    again every ``RETRY`` steps.
    """

    RETRY = 24

    def __init__(self) -> None:
        self.choices = sorted({torch.get_num_threads(), max(1, torch.get_num_threads() // 2)}, reverse=True)
        self._seconds: dict[int, float] = {}  # a step, by number of threads
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Compute one step within this block, under the number of threads that is expected to be fastest."""
        best = min(self._seconds, key=self._seconds.__getitem__, default=self.choices[0])
        others = [number for number in self.choices if number != best]
        trial = bool(others) and self._steps % self.RETRY == 2
        number = others[0] if trial else best
        torch.set_num_threads(number)  # holds for the calling thread only, so it is set at each step
        started = time.perf_counter()
        try:
            yield
        finally:
            torch.set_num_threads(self.choices[0])
        seconds = time.perf_counter() - started
        known = seconds if trial else self._seconds.get(number, seconds)  # a trial replaces older measurements
        self._seconds[number] = (known + seconds) / 2
        self._steps += 1


def give_back_memory() -> None:
    """Let the C library return what was freed; glibc keeps it, in a pool for each of several threads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _own_dtype(checkpoint: Path) -> str | None:
    try:
        config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except ValueError:  # a damaged file is for the loader to name
        return None
    return config.get("dtype") or config.get("torch_dtype")


def _kernel_works() -> bool:
    """Whether torch's packed product exists here and agrees with the plain one."""
    linear = nn.Linear(64, 32, dtype=torch.bfloat16)
    hidden = torch.randn(2, 3, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        try:
            return torch.allclose(PackedLinear(linear)(hidden).float(), linear(hidden).float(), rtol=0.05, atol=0.05)
        except (RuntimeError, AttributeError):  # another torch, or one built without oneDNN
            return False
