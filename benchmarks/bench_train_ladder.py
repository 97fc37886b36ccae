"""The contestants of ``mis bench train``: TRL, ours without anything, and ours with one optimisation after another.

Each rung keeps what the rungs before it switched on, so that the difference between two neighbours is what one optimisation is worth.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mis_lib.errors import SettingsError

TRL, PLAIN = "TRL SFTTrainer", "ours, plain"


class Rung(NamedTuple):
    """One contestant of the ladder and what it adds."""

    name: str
    engine: Literal["trl", "ours"]
    changes: dict[str, Any]
    """Settings of training that differ from the shared ones."""
    whole_logits: bool = False
    """Logits at every position, as most trainers compute them."""
    short_lora: bool = True
    """Whether LoRA layers take the short way (``train.lowrank``)."""
    on_gpu_only: bool = False


_OFF = {"feature_cache": False, "packing": False, "group_by_length": False}
_GROUPED = {**_OFF, "group_by_length": True}
_PACKED = {**_GROUPED, "packing": None}
_CACHED = {**_PACKED, "feature_cache": True}
LADDER = (
    Rung(TRL, "trl", _OFF, whole_logits=True, short_lora=False),
    Rung(PLAIN, "ours", {**_OFF, "workers": 0}, whole_logits=True, short_lora=False),
    Rung("+ logits at answers only", "ours", {**_OFF, "workers": 0}, short_lora=False),
    Rung("+ short LoRA path", "ours", {**_OFF, "workers": 0}),
    Rung("+ loader runs ahead", "ours", _OFF, on_gpu_only=True),
    Rung("+ grouped by length", "ours", _GROUPED),
    Rung("+ rows packed", "ours", _PACKED),
    Rung("+ features cached", "ours", _CACHED),
)
COMPILED = Rung("+ layers compiled", "ours", {**_CACHED, "compile": True})
LIGER = Rung("+ Liger kernels", "ours", {**_CACHED, "liger": True}, on_gpu_only=True)


def ladder(names: Sequence[str] | None, *, on_gpu: bool, compiled: bool = False, liger: bool = False) -> list[Rung]:
    """The contestants asked for; all that this device is measured with if none is named.

    Raises:
        SettingsError: a name is unknown.
    """
    every = [*LADDER, *([COMPILED] if compiled else []), *([LIGER] if liger else [])]
    if names is None:
        return [rung for rung in every if on_gpu or not rung.on_gpu_only]
    known = {rung.name: rung for rung in every}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise SettingsError(f"contestants: unknown {', '.join(unknown) or 'none'}; known: {', '.join(known)}")
    return [known[name] for name in names]
