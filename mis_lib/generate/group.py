"""Several checkpoints on one device as one engine: loaded together where memory allows, else one after the other.

A checkpoint is loaded when it is asked and then kept; one that is idle is released where the next needs its room. So
two full fine-tunings that fit together answer at once, and a third waits for room, in the same call.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mis_lib.data.tokens import shape_of, stored_bytes, weights_in
from mis_lib.generate.columns import FAILURES, CheckedEngine, Column, MultiEngine, StreamEngine, failed
from mis_lib.generate.cpu import working_dtype
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.adapters import ImageLimits
from mis_lib.models.devices import device_for
from mis_lib.models.load import free_memory
from mis_lib.settings import GenerationSettings, Quantization

ROOM = 1.25  # memory for each byte of weights: packing and the answers took 0.2 more (Qwen2-VL-2B's shape, bfloat16)
POLL = 0.1  # seconds between looks at the stop event while another answer is given


@dataclass(frozen=True)
class Member:
    """One checkpoint of a group, not loaded yet."""

    variants: tuple[str, ...]
    """Of the checkpoint itself and its adapters; the first is what it is called."""
    size: int
    """Bytes of its weights once it is loaded."""
    load: Callable[[], StreamEngine]

    @property
    def name(self) -> str:
        """With its size, for people."""
        return f"{self.variants[0]} ({self.size / 1e9:.1f} GB)"

    @property
    def need(self) -> float:
        """Bytes that must be free."""
        return self.size * ROOM


class CheckpointGroup(CheckedEngine):
    """Checkpoints that answer as one engine; one that fails while others answer says so in its columns.

    Args:
        members: their variants have different names.
        free: bytes of the device that are free now.
    """

    def __init__(self, members: Sequence[Member], free: Callable[[], float]) -> None:
        self.variants = tuple(name for member in members for name in member.variants)
        self._members, self._free = members, free
        self._held: dict[Member, StreamEngine] = {}  # the one that answered last is last
        self._busy = threading.Lock()
        room = free()
        self.in_turn = sum(member.need for member in members) > room
        """Whether they do not fit together, as far as could be seen when nothing was loaded."""
        listed = ", ".join(member.name for member in members)
        need = sum(member.need for member in members)
        way = "one is released where the next needs its room" if self.in_turn else "they stay loaded together"
        self.announcement = f"{listed}: {need / 1e9:.1f} GB with room for answers, {room / 1e9:.1f} GB free; {way}"

    def load_what_fits(self, say: Callable[[str], None]) -> None:
        """Load checkpoints in their order as long as there is room, so that the first answer need not wait."""
        for member in self._members:
            if self._held and member.need > self._free():
                return
            say(f"Loading {member.name} …")
            self._held[member] = member.load()

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]:
        columns = {name: Column(name, "", 0, 0.0, None) for name in variants}
        while not self._busy.acquire(timeout=POLL):
            if stop.is_set():
                yield tuple(_cancelled(column) for column in columns.values())
                return
        try:
            waiting = [member for member in self._members if set(member.variants) & set(variants)]
            waiting.sort(key=lambda member: member not in self._held)
            alone = len(waiting) == 1
            while waiting and not stop.is_set():
                now: list[Member] = []
                for member in waiting:
                    if member not in self._held:
                        if not self._makes_room(member, now, waiting) and now:
                            continue  # in a later turn
                        columns |= _said(columns, member, f"Loading {member.name} …")
                        yield tuple(columns.values())
                        try:
                            self._held[member] = member.load()
                        except FAILURES as error:
                            if alone:
                                raise
                            columns |= {name: failed(columns[name], error, 0.0) for name in _of(member, columns)}
                            waiting = [other for other in waiting if other is not member]
                            continue
                    now.append(member)
                waiting = [member for member in waiting if member not in now]
                for member in waiting:
                    columns |= _said(columns, member, f"{member.name} waits for room …")
                yield tuple(columns.values())
                for update in self._together(now, images, question, columns, settings, stop, system, alone=alone):
                    columns |= {column.variant: column for column in update}
                    yield tuple(columns.values())
            if any(column.finish_reason is None for column in columns.values()):
                yield tuple(_cancelled(column) for column in columns.values())
        finally:
            self._busy.release()

    def _makes_room(self, member: Member, now: Sequence[Member], waiting: Sequence[Member]) -> bool:
        """Whether there is room for one more, after others have been released that no answer waits for."""
        idle = [held for held in self._held if held not in now and held not in waiting]
        if not now:  # it must be loaded, so whatever is held may go
            idle += [held for held in self._held if held not in idle]
        while member.need > self._free() and idle:
            self._release(idle.pop(0))
        return member.need <= self._free()

    def _release(self, member: Member) -> None:
        del self._held[member]
        gc.collect()  # models hold references to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _together(
        self,
        members: Sequence[Member],
        images: Sequence[Image.Image],
        question: str,
        columns: Mapping[str, Column],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
        *,
        alone: bool,
    ) -> Iterator[tuple[Column, ...]]:
        for member in members:
            self._held[member] = self._held.pop(member)
        names = [name for name in columns if any(name in member.variants for member in members)]
        started = time.perf_counter()
        latest: tuple[Column, ...] = tuple(columns[name] for name in names)
        if not names:
            return
        engine = MultiEngine(*(self._held[member] for member in members))
        try:
            for latest in engine.stream(images, question, names, settings, stop, system):
                yield latest
        except FAILURES as error:
            if alone:
                raise
            yield tuple(failed(column, error, time.perf_counter() - started) for column in latest)


def load_group(
    parts: Sequence[tuple[Path, Mapping[str, Path | None]]],
    device: str,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    limits: ImageLimits | None = None,
) -> CheckpointGroup:
    """A group of checkpoints, none of them loaded yet.

    Args:
        parts: folder of each checkpoint, and PEFT folder or edit of each variant (``None``: the checkpoint itself).
        device: where all of them compute.
        dtype: of the weights [default: what suits the machine].
        quantization: how the weights of linear layers are stored.
        limits: of images, which replace those of the adapters.

    Raises:
        SettingsError: there is no such device.
    """
    device = device_for(device)

    def member(checkpoint: Path, adapters: Mapping[str, Path | None]) -> Member:
        kind = dtype or working_dtype(checkpoint, device)
        files = [*checkpoint.glob("*.safetensors")]
        each = None if kind == "auto" else (getattr(torch, kind) if isinstance(kind, str) else kind).itemsize
        if quantization and (shape := shape_of(checkpoint)) is not None:
            of_others = each or shape.weight_bytes
            size = stored_bytes(shape.model_copy(update={"weight_bytes": of_others}), quantization)
        elif each is None:
            size = sum(file.stat().st_size for file in files)
        else:
            size = each * sum(weights_in(file) for file in files)
        size += sum(
            file.stat().st_size for folder in adapters.values() if folder for file in folder.glob("*.safetensors")
        )
        options: dict[str, Any] = {"device": device, "dtype": dtype, "quantization": quantization, "limits": limits}
        return Member(tuple(adapters), size, lambda: VariantEngine.load(checkpoint, adapters, **options))

    return CheckpointGroup([member(*part) for part in parts], lambda: free_memory(device))


def _of(member: Member, columns: Mapping[str, Column]) -> list[str]:
    return [name for name in columns if name in member.variants]


def _said(columns: Mapping[str, Column], member: Member, words: str) -> dict[str, Column]:
    return {name: Column(name, "", 0, 0.0, None, told=words) for name in _of(member, columns)}


def _cancelled(column: Column) -> Column:
    if column.finish_reason is not None:
        return column
    return Column(column.variant, column.text, column.tokens, column.seconds, "cancelled", column.unit)
