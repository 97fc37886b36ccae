"""Where does a weight change point? The spectrum of each update s B A against the base weight's weak directions.

After "What makes and breaks safety fine-tuning" (arXiv 2407.10264): safety tuning of small models adds an update whose
outputs lie in the base weight's null space, so that unsafe inputs are moved where nothing else is. Weights of real
models have full rank; "null space" here are the weakest singular directions, those that together hold ``WEAK`` of the
weight's energy (its squared singular values). A share of the update is compared to chance: what updates of the same
rank with random numbers have there.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from peft import PeftModel

from mis_lib.errors import ModelError
from mis_lib.generate.engine import use_adapter
from mis_lib.models.load import LoadedModel
from mis_lib.probe.lora_tensors import lora_layers
from mis_lib.probe.prompted import Pair, prompts_of

WEAK = 0.01  # of the energy of the base weight
TINY = np.finfo(float).tiny
DRAWS = 40  # random updates that tell chance
GRID = np.linspace(0, 1, 41)  # shares of the directions, from the strongest on


class Spectra(NamedTuple):
    """Two tidy frames of the same updates."""

    layers: pd.DataFrame
    """One row a variant and linear layer.

    Columns variant, layer (number), module, rank, size, stable_rank, output_share, input_share (percent of the update's
    energy in the weak directions), and for each share chance, chance_low, chance_high; weak_outputs and weak_inputs are
    the numbers of weak directions.
    """
    curves: pd.DataFrame
    """How the energy adds up over the directions.

    Columns variant, side ("output", "input"), directions (percent of all, from the strongest on), energy (median
    percent of the update's energy in them over the linear layers), low, high (10th and 90th percentile),
    n (linear layers).
    """


class _Update(NamedTuple):
    """s B A in its two factors: the change itself, as large as the weight, is never made."""

    variant: str
    up_OR: torch.Tensor
    down_RI: torch.Tensor

    @property
    def sizes(self) -> np.ndarray:
        """The update's singular values, largest first (rank,)."""
        core = torch.linalg.qr(self.up_OR)[1] @ torch.linalg.qr(self.down_RI.T)[1].T
        return torch.linalg.svdvals(core).cpu().numpy()


def spectrum(loaded: LoadedModel, adapters: Sequence[str], *, weak: float = WEAK, seed: int = 0) -> Spectra:
    """Sizes, ranks and directions of all updates.

    Args:
        loaded: checkpoint with LoRA adapters on linear layers.
        adapters: their names in the model.
        weak: share of a base weight's energy whose directions count as its null space.
        seed: of the random updates.

    Raises:
        ModelError: an adapter has no LoRA layer.
    """
    draw = np.random.default_rng(seed)
    rows, curves = [], []
    for name, weight_OI, updates in _layers(loaded, adapters):
        left_OK, sizes_K, right_KI = torch.linalg.svd(weight_OI, full_matrices=False)
        number, module = _place(name)
        weight_energy_K = sizes_K.square()
        kept = len(sizes_K) - int((weight_energy_K.flip(0).cumsum(0) <= weak * weight_energy_K.sum()).sum())
        for update in updates:
            rank, own = len(update.down_RI), update.sizes
            output = _energy(left_OK.T, update.up_OR, update.down_RI)
            entry = _energy(right_KI, update.down_RI.T, update.up_OR.T)
            rows.append(
                {
                    "variant": update.variant, "layer": number, "module": module, "rank": rank,
                    "size": float(np.linalg.norm(own) / weight_energy_K.sum().sqrt()),
                    "stable_rank": float(np.square(own).sum() / max(own[0] ** 2, TINY)),
                    **_share("output", output, kept, rank, draw),
                    **_share("input", entry, kept, rank, draw),
                }
            )  # fmt: skip
            curves += [
                {"variant": update.variant, "side": side, "directions": 100 * at, "energy": energy}
                for side, shares in (("output", output), ("input", entry))
                for at, energy in zip(GRID, _cumulated(shares), strict=True)
            ]
    return Spectra(pd.DataFrame(rows), _over_layers(pd.DataFrame(curves)))


@torch.inference_mode()
def responses(
    loaded: LoadedModel, adapters: Sequence[str], pairs: Sequence[Pair], data_dir: Any, *, batch_size: int = 8
) -> pd.DataFrame:
    """How strongly each update answers to harmful and to benign inputs: |s B A x| / |W x| at the last prompt token.

    Returns:
        One row a variant, layer and kind: variant, layer, harmful, value (percent, mean over the layer's modules and
            the items), low, high (95 %, over
        items), n (items).
    """
    items = [sample for pair in pairs for sample in pair]
    rows = []
    for adapter in adapters:
        layers = lora_layers(_peft(loaded), adapter)
        found: dict[int, list[np.ndarray]] = {}
        for start in range(0, len(items), batch_size):
            with use_adapter(loaded.model, adapter), _inputs_of([layer for _, layer in layers]) as inputs:
                loaded.network(
                    **prompts_of(loaded, items[start : start + batch_size], data_dir), use_cache=False, logits_to_keep=1
                )
            by_layer: dict[int, list[np.ndarray]] = {}
            for (name, layer), hidden_BI in zip(layers, inputs, strict=True):
                by_layer.setdefault(_place(name)[0], []).append(_response(layer, adapter, hidden_BI))
            for number, ratios in by_layer.items():
                found.setdefault(number, []).append(np.mean(ratios, axis=0))
        for number, parts in found.items():
            both_N2 = 100 * np.concatenate(parts).reshape(-1, 2)
            for column, harmful in enumerate((True, False)):
                mean, error = both_N2[:, column].mean(), both_N2[:, column].std(ddof=1) / np.sqrt(len(both_N2))
                rows.append((adapter, number, harmful, mean, mean - 1.96 * error, mean + 1.96 * error, len(both_N2)))
    return pd.DataFrame(rows, columns=["variant", "layer", "harmful", "value", "low", "high", "n"])


def _layers(loaded: LoadedModel, adapters: Sequence[str]) -> Iterator[tuple[str, torch.Tensor, list[_Update]]]:
    """Name, base weight (out, in) and the updates of every linear layer that one of the adapters changes."""
    model = _peft(loaded)
    by_name: dict[str, tuple[Any, list[str]]] = {}
    for adapter in adapters:
        found = lora_layers(model, adapter)
        if not found or any(adapter in layer.lora_variant for _, layer in found):
            raise ModelError(f"adapter {adapter!r}: expected plain LoRA on linear layers, found none or another kind")
        for name, layer in found:
            by_name.setdefault(name, (layer, []))[1].append(adapter)
    for name, (layer, names) in by_name.items():
        updates = [
            _Update(
                one,
                layer.scaling[one] * layer.lora_B[one].weight.detach().double(),
                layer.lora_A[one].weight.detach().double(),
            )
            for one in names
        ]
        yield name, layer.base_layer.weight.detach().double(), updates


def _energy(directions_KD: torch.Tensor, near_DR: torch.Tensor, far_RE: torch.Tensor) -> np.ndarray:
    """Share of the energy of ``near @ far`` in each direction (D,), strongest of the base weight first.

    What is in none of the K directions is in the weight's exact null space and is spread evenly over the others.
    """
    gram_RR = far_RE @ far_RE.T
    along_KR = directions_KD @ near_DR
    energy_K = ((along_KR @ gram_RR) * along_KR).sum(1).cpu().numpy()
    total = float(((near_DR @ gram_RR) * near_DR).sum())
    left = directions_KD.shape[1] - len(energy_K)
    rest = np.full(left, max(0.0, total - energy_K.sum()) / max(left, 1))
    return np.concatenate([energy_K, rest]) / max(total, TINY)


def _share(side: str, energy_K: np.ndarray, kept: int, rank: int, draw: np.random.Generator) -> dict[str, float]:
    """Percent of the energy in the weak directions, and what chance puts there: random updates of the same rank."""
    energies = draw.chisquare(rank, (DRAWS, len(energy_K)))  # of a random update along each direction
    chance_D = 100 * energies[:, kept:].sum(axis=1) / energies.sum(axis=1)
    low, high = np.percentile(chance_D, [2.5, 97.5])
    return {
        f"{side}_share": 100 * float(energy_K[kept:].sum()),
        f"{side}_chance": float(chance_D.mean()),
        f"{side}_chance_low": float(low),
        f"{side}_chance_high": float(high),
        f"weak_{side}s": (len(energy_K) - kept) / len(energy_K),
    }


def _cumulated(energy_K: np.ndarray) -> np.ndarray:
    """Percent of the energy in the first so many directions, at the shares of ``GRID``."""
    total = np.concatenate([[0.0], np.cumsum(energy_K)])
    return 100 * np.interp(GRID, np.linspace(0, 1, len(total)), total)


def _over_layers(curves: pd.DataFrame) -> pd.DataFrame:
    groups = curves.groupby(["variant", "side", "directions"], sort=False)["energy"]
    named: Any = {"low": lambda part: part.quantile(0.1), "high": lambda part: part.quantile(0.9)}
    return groups.agg(energy="median", n="size", **named).reset_index()


def _place(name: str) -> tuple[int, str]:
    """Layer number and module name: "...layers.3.mlp.up_proj" is (3, "up_proj"); -1 outside of numbered layers."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    return (numbers[-1] if numbers else -1), parts[-1]


def _peft(loaded: LoadedModel) -> PeftModel:
    if not isinstance(loaded.model, PeftModel):
        raise ModelError("expected a model with adapters, found a plain checkpoint; name adapters with --adapters")
    return loaded.model


class _inputs_of:
    """The inputs of LoRA layers at the last position, (batch, in) each, in layer order, while the block lasts."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers, self._found = layers, [torch.empty(0)] * len(layers)

    def __enter__(self) -> list[torch.Tensor]:
        def keep(number: int) -> Any:
            def hook(module: Any, args: Any) -> None:
                self._found[number] = args[0][:, -1]

            return hook

        self._hooks = [layer.register_forward_pre_hook(keep(number)) for number, layer in enumerate(self._layers)]
        return self._found

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()


def _response(layer: Any, adapter: str, hidden_BI: torch.Tensor) -> np.ndarray:
    """|s B A x| / |W x| of each row."""
    low = layer.lora_A[adapter](hidden_BI.to(layer.lora_A[adapter].weight.dtype))
    update = layer.scaling[adapter] * layer.lora_B[adapter](low)
    plain = torch.nn.functional.linear(hidden_BI, layer.base_layer.weight)
    return (update.float().norm(dim=-1) / plain.float().norm(dim=-1).clamp_min(1e-12)).cpu().numpy()


def summary(layers: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: medians of each update's size, rank, share in weak directions next to chance, and output size."""
    rows = []
    part: Any
    for variant, part in layers.groupby("variant", sort=False):
        mine: Any = answers[answers.variant == variant]
        rows.append(
            {
                "variant": variant,
                "size, %": f"{100 * part['size'].median():.1f}",
                "rank": f"{part.stable_rank.median():.1f} of {int(part['rank'].max())}",
                "weak out, %": f"{part.output_share.median():.1f} (chance {part.output_chance.median():.1f})",
                "weak in, %": f"{part.input_share.median():.1f} (chance {part.input_chance.median():.1f})",
                "harmful, %": f"{mine[mine.harmful].value.mean():.2f}",
                "benign, %": f"{mine[~mine.harmful].value.mean():.2f}",
                "layers": len(part),
            }
        )
    return pd.DataFrame(rows)
