"""Where does a weight change point? The spectrum of each update against the base weight's weak directions.

The update of an adapter is s B A; that of a whole checkpoint is the difference of its weight and the base's. Read are
linear layers, but for the output embedding; of a whole checkpoint, those with another weight than the base.

After "What makes and breaks safety fine-tuning" (arXiv 2407.10264): safety tuning of small models adds an update whose
outputs lie in the base weight's null space, so that unsafe inputs are moved where nothing else is. Weights of real
models have full rank; "null space" here are the weakest singular directions, those that together hold ``WEAK`` of the
weight's energy (its squared singular values). A share of the update is compared to chance: what updates of the same
rank with random numbers have there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mis_lib.errors import ModelError
from mis_lib.generate.engine import use_adapter
from mis_lib.models.load import LoadedModel
from mis_lib.probe.lora_tensors import lora_layers
from mis_lib.probe.prompted import Pair, prompts_of

WEAK = 0.01  # of the energy of the base weight
TINY = np.finfo(float).tiny
DRAWS = 40  # random updates that tell chance
GRID = np.linspace(0, 1, 41)  # shares of the directions, from the strongest on
NONE: Mapping[str, LoadedModel] = {}


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
    """s B A in its two factors, as a product as large as the weight is never made; or a whole change, in one."""

    variant: str
    up_OR: torch.Tensor
    down_RI: torch.Tensor | None

    @property
    def sizes(self) -> np.ndarray:
        """The update's singular values, largest first (rank,)."""
        if self.down_RI is None:
            wide = self.up_OR if self.up_OR.shape[0] <= self.up_OR.shape[1] else self.up_OR.T
            return torch.linalg.eigvalsh(wide @ wide.T).clamp_min(0).sqrt().flip(0).cpu().numpy()
        core = torch.linalg.qr(self.up_OR)[1] @ torch.linalg.qr(self.down_RI.T)[1].T
        return torch.linalg.svdvals(core).cpu().numpy()


def spectrum(
    loaded: LoadedModel,
    adapters: Sequence[str],
    tuned: Mapping[str, LoadedModel] = NONE,
    *,
    weak: float = WEAK,
    seed: int = 0,
) -> Spectra:
    """Sizes, ranks and directions of all updates.

    Args:
        loaded: checkpoint with LoRA adapters on linear layers.
        adapters: their names in the model.
        tuned: whole checkpoints that were tuned from it, by the names of their variants.
        weak: share of a base weight's energy whose directions count as its null space.
        seed: of the random updates.

    Raises:
        ModelError: an adapter has other layers than LoRA on linear ones, or none; a whole checkpoint has other layers
            than the base, the same weights, or tuned experts whose weights are one tensor.
    """
    draw = np.random.default_rng(seed)
    rows, curves = [], []
    for name, weight_OI, updates in _layers(loaded, adapters, tuned):
        left_OK, sizes_K, right_KI = torch.linalg.svd(weight_OI, full_matrices=False)
        number, module = _place(name)
        weight_energy_K = sizes_K.square()
        kept = len(sizes_K) - int((weight_energy_K.flip(0).cumsum(0) <= weak * weight_energy_K.sum()).sum())
        for update in updates:
            own = update.sizes
            rank = len(own)
            if update.down_RI is None:
                output, entry = _energy(left_OK.T, update.up_OR), _energy(right_KI, update.up_OR.T)
            else:
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
    loaded: LoadedModel,
    adapters: Sequence[str],
    pairs: Sequence[Pair],
    data_dir: Any,
    tuned: Mapping[str, LoadedModel] = NONE,
    *,
    batch_size: int = 8,
) -> pd.DataFrame:
    """How strongly each update answers to harmful and to benign inputs: |dW x| / |W x| at the last prompt token.

    Input x of a layer is what it is under the update. Arguments and errors are those of ``spectrum``.

    Returns:
        One row a variant, layer and kind: variant, layer, harmful, value (percent, mean over the layer's modules and
            the items), low, high (95 %, over
        items), n (items).
    """
    items = [sample for pair in pairs for sample in pair]
    rows = []
    for variant in (*adapters, *tuned):
        whole = tuned.get(variant)
        reading = whole or loaded
        layers = _changed(loaded, variant, whole) if whole else _lora(loaded, variant)
        found: dict[int, list[np.ndarray]] = {}
        for start in range(0, len(items), batch_size):
            inputs = prompts_of(reading, items[start : start + batch_size], data_dir)
            with use_adapter(reading.model, None if whole else variant), _inputs_of(list(layers.values())) as seen:
                reading.network(**inputs, use_cache=False, logits_to_keep=1)
            by_layer: dict[int, list[np.ndarray]] = {}
            for (name, layer), hidden_BI in zip(layers.items(), seen, strict=True):
                base_OI = loaded.network.get_submodule(name).weight
                by_layer.setdefault(_place(name)[0], []).append(
                    _response(layer, None if whole else variant, base_OI, hidden_BI)
                )
            for number, ratios in by_layer.items():
                found.setdefault(number, []).append(np.mean(ratios, axis=0))
        for number, parts in found.items():
            both_N2 = 100 * np.concatenate(parts).reshape(-1, 2)
            for column, harmful in enumerate((True, False)):
                mean, error = both_N2[:, column].mean(), both_N2[:, column].std(ddof=1) / np.sqrt(len(both_N2))
                rows.append((variant, number, harmful, mean, mean - 1.96 * error, mean + 1.96 * error, len(both_N2)))
    return pd.DataFrame(rows, columns=["variant", "layer", "harmful", "value", "low", "high", "n"])


def _layers(
    loaded: LoadedModel, adapters: Sequence[str], tuned: Mapping[str, LoadedModel]
) -> Iterator[tuple[str, torch.Tensor, list[_Update]]]:
    """Name, base weight (out, in) and the updates of every linear layer that one of the variants changes."""
    lora = {adapter: _lora(loaded, adapter) for adapter in adapters}
    changed = {variant: _changed(loaded, variant, whole) for variant, whole in tuned.items()}
    for name in dict.fromkeys(name for found in (*lora.values(), *changed.values()) for name in found):
        weight_OI = loaded.network.get_submodule(name).weight.detach().double()
        updates = [
            _Update(
                adapter,
                layer.scaling[adapter] * layer.lora_B[adapter].weight.detach().double(),
                layer.lora_A[adapter].weight.detach().double(),
            )
            for adapter, found in lora.items()
            if (layer := found.get(name)) is not None
        ]
        updates += [
            _Update(variant, found[name].weight.detach().double() - weight_OI, None)
            for variant, found in changed.items()
            if name in found
        ]
        yield name, weight_OI, updates


def _lora(loaded: LoadedModel, adapter: str) -> dict[str, Any]:
    """The layers that an adapter changes, by name; other kinds than LoRA on linear layers are refused."""
    if not isinstance(loaded.model, PeftModel):
        raise ModelError("expected a model with adapters, found a plain checkpoint; name adapters with --adapters")
    found = dict(lora_layers(loaded.model, adapter))
    for name, layer in found.items():
        base = layer.get_base_layer()
        if not isinstance(base, nn.Linear):
            parameter = getattr(layer, "parameter_name", "weight")
            part = f"{name.replace('.base_layer', '')}, {parameter} of {type(base).__name__}"
            raise ModelError(
                f"adapter {adapter!r}: expected LoRA on linear layers, found {part}; leave the variant out (--variants)"
            )
    if not found or any(adapter in layer.lora_variant for layer in found.values()):
        raise ModelError(f"adapter {adapter!r}: expected plain LoRA on linear layers, found none or another kind")
    return found


def _changed(loaded: LoadedModel, variant: str, whole: LoadedModel) -> dict[str, nn.Linear]:
    """The linear layers of a whole checkpoint with another weight than the base, by name."""
    owned = {
        name.replace(".base_layer", "").replace(".original_module", ""): weight
        for name, weight in loaded.network.named_parameters()
    }
    found, vocabulary = {}, whole.network.get_output_embeddings()
    for name, weight in whole.network.named_parameters():
        layer = whole.network.get_submodule(name.rpartition(".")[0])
        own = owned.get(name)
        if own is None or own.shape != weight.shape:
            shape = "none" if own is None else f"one of {tuple(own.shape)}"
            raise ModelError(
                f"variant {variant!r}: expected a checkpoint that was tuned from the base, found {name} of "
                f"{tuple(weight.shape)}, of which the base has {shape}; name its base (--checkpoint)"
            )
        if layer is vocabulary or not bool((own != weight).any()):
            continue
        if isinstance(layer, nn.Linear) and weight.ndim == 2:
            found[name.removesuffix(".weight")] = layer
        elif weight.ndim == 3 and len(weight) > 1 and not isinstance(layer, _ConvNd):  # experts
            raise ModelError(
                f"variant {variant!r}: expected tuned linear layers, found {name} of {type(layer).__name__}, "
                f"{tuple(weight.shape)}; leave the variant out (--variants)"
            )
    if not found:
        raise ModelError(f"variant {variant!r}: expected tuned linear layers, found all weights equal to the base's")
    return found


def _energy(directions_KD: torch.Tensor, near_DR: torch.Tensor, far_RE: torch.Tensor | None = None) -> np.ndarray:
    """Share of the energy of ``near @ far`` in each direction (D,), strongest of the base weight first.

    What is in none of the K directions is in the weight's exact null space and is spread evenly over the others.
    """
    gram_RR = None if far_RE is None else far_RE @ far_RE.T

    def energy(along_KR: torch.Tensor) -> torch.Tensor:
        return ((along_KR if gram_RR is None else along_KR @ gram_RR) * along_KR).sum(1)

    energy_K = energy(directions_KD @ near_DR).cpu().numpy()
    total = float(energy(near_DR).sum())
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


class _inputs_of:
    """The inputs of layers at the last position, (batch, in) each, in layer order, while the block lasts."""

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


def _response(layer: Any, adapter: str | None, base_OI: torch.Tensor, hidden_BI: torch.Tensor) -> np.ndarray:
    """|dW x| / |W x| of each row, of a layer's adapter or of its own weight against the base's."""
    if adapter is None:
        update = nn.functional.linear(hidden_BI.float(), layer.weight.float() - base_OI.float())
    else:
        low = layer.lora_A[adapter](hidden_BI.to(layer.lora_A[adapter].weight.dtype))
        update = layer.scaling[adapter] * layer.lora_B[adapter](low)
    plain = nn.functional.linear(hidden_BI.to(base_OI.dtype), base_OI)
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
