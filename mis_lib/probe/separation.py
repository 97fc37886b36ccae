"""Layer by layer: how far apart does a model hold harmful and benign inputs, before and after tuning?

After "What makes and breaks safety fine-tuning" (arXiv 2407.10264), which finds that tuning moves unsafe inputs away
from safe ones. Read is the hidden state at the last prompt token, from which the answer begins. The inputs are twin
pairs, the same question about images of which one differs, so that what separates them is the combination and no
wording.

    probe     out-of-fold accuracy of a linear probe (logistic regression), folds cut by pair; percent, cluster
              bootstrap over pairs
    shuffled  the same with the labels of pairs exchanged at random: what the probe finds where there is nothing to find
    distance  between the two class means, in units of the spread within a class; corrected for the noise of the means,
              jackknife over pairs
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mis_lib.errors import DataError
from mis_lib.generate.engine import use_adapter
from mis_lib.models.load import LoadedModel
from mis_lib.probe.prompted import Pair, prompts_of
from mis_lib.results.stats import cluster_mean, rate
from mis_lib.results.tables import interval_cell

FOLDS = 5
SHUFFLES = 3
REGULARISATION = 0.01  # of the probe: there are more dimensions than items
COLUMNS = ["variant", "layer", "measure", "value", "low", "high", "n"]


@torch.inference_mode()
def hidden_states(
    loaded: LoadedModel,
    variants: Mapping[str, str | None],
    pairs: Sequence[Pair],
    data_dir: Path,
    *,
    batch_size: int = 8,
) -> dict[str, np.ndarray]:
    """Hidden states at the last prompt token of every item.

    Args:
        loaded: checkpoint with its adapters.
        variants: name of each variant and of its adapter in the model, ``None`` for the base.
        pairs: twin pairs.
        data_dir: folder to which the images are relative.
        batch_size: rows that are read together.

    Returns:
        For each variant (pairs, 2, layers + 1, hidden) in float32; harmful before benign, embeddings before the first
            layer.
    """
    items = [sample for pair in pairs for sample in pair]
    found: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    for start in range(0, len(items), batch_size):
        inputs = prompts_of(loaded, items[start : start + batch_size], data_dir)
        for name, adapter in variants.items():
            with use_adapter(loaded.model, adapter):
                output = loaded.network(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1)
            last_BLH = torch.stack([layer[:, -1] for layer in output.hidden_states], dim=1)
            found[name].append(last_BLH.float().cpu().numpy())
    return {name: _paired(np.concatenate(parts)) for name, parts in found.items()}


def separation(states: Mapping[str, np.ndarray], *, folds: int = FOLDS, seed: int = 0) -> pd.DataFrame:
    """The three measures of every variant and layer, with 95 % intervals; layer 0 is the embeddings.

    Args:
        states: of ``hidden_states``.
        folds: of the probe; pairs are never cut.
        seed: of the shuffled labels.

    Raises:
        DataError: fewer pairs than folds.
    """
    rows = []
    for variant, states_N2LH in states.items():
        pairs = len(states_N2LH)
        if pairs < folds:
            raise DataError(
                f"expected at least {folds} pairs for {folds} folds, found {pairs}; "
                "ask for more (--limit, in notebook 6 the parameter pairs)"
            )
        for layer in range(states_N2LH.shape[2]):
            layer_N2H = states_N2LH[:, :, layer].astype(np.float64)
            measures = {
                "probe": probe_accuracy(layer_N2H, folds=folds),
                "shuffled": shuffled_accuracy(layer_N2H, folds=folds, seed=seed),
                "distance": class_distance(layer_N2H),
            }
            rows += [(variant, layer, measure, *found, 2 * pairs) for measure, found in measures.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def probe_accuracy(states_N2H: np.ndarray, *, folds: int = FOLDS) -> tuple[float, float, float]:
    """Percent of items that a linear probe puts right out of fold, with a cluster bootstrap over pairs.

    Where every pair comes out alike the bootstrap has nothing to draw from, and the interval is Wilson's on the number
    of pairs.
    """
    right = _out_of_fold(states_N2H, _labels(len(states_N2H)), folds)
    pairs = len(states_N2H)
    found = cluster_mean([float(hit) for hit in right], [number // 2 for number in range(2 * pairs)])
    if found.low is None or found.high is None:
        wilson = rate(round(pairs * right.mean()), pairs)
        return 100 * float(right.mean()), wilson.low, wilson.high
    return 100 * float(right.mean()), found.low, found.high


def shuffled_accuracy(states_N2H: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> tuple[float, float, float]:
    """Mean, least and most accuracy of probes for labels that were exchanged within random pairs."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(SHUFFLES):
        swapped = np.repeat(draw.integers(0, 2, len(states_N2H)), 2)
        found.append(100 * _out_of_fold(states_N2H, _labels(len(states_N2H)) ^ swapped, folds).mean())
    return float(np.mean(found)), float(np.min(found)), float(np.max(found))


def class_distance(states_N2H: np.ndarray) -> tuple[float, float, float]:
    """Distance of the two class means over the spread within a class, with a 95 % jackknife interval over pairs.

    The squared distance of two means of few items is too large by their noise, which the spread of the pairs'
    differences tells and which is taken off; what is left may be below zero by chance and is then zero.
    """
    value = _squared(states_N2H)
    pairs = len(states_N2H)
    without = np.array([_squared(np.delete(states_N2H, i, axis=0)) for i in range(pairs)])
    error = np.sqrt((pairs - 1) / pairs * np.square(without - without.mean()).sum())
    low, high = (np.sqrt(max(0.0, value + sign * 1.96 * error)) for sign in (-1, 1))
    return float(np.sqrt(max(0.0, value))), float(low), float(high)


def clusters(states: Mapping[str, np.ndarray], layer: int) -> pd.DataFrame:
    """Every item of every variant on the two strongest principal components of one layer, for looking at.

    Returns:
        Columns variant, pair, harmful, x, y, x_share, y_share (percent of the variance that each component holds).

    Raises:
        DataError: there is no such layer.
    """
    frames = []
    for variant, states_N2LH in states.items():
        if not 0 <= layer < states_N2LH.shape[2]:
            raise DataError(f"expected a layer from 0 to {states_N2LH.shape[2] - 1}, found {layer}")
        flat = states_N2LH[:, :, layer].reshape(-1, states_N2LH.shape[-1])
        pca = PCA(2, svd_solver="full").fit(flat)
        x, y = pca.transform(flat).T
        share = 100 * pca.explained_variance_ratio_
        harmful = _labels(len(states_N2LH)).astype(bool)
        frames.append(
            pd.DataFrame(
                {"variant": variant, "pair": np.arange(len(flat)) // 2, "harmful": harmful, "x": x, "y": y}
            ).assign(x_share=share[0], y_share=share[1])
        )
    return pd.concat(frames, ignore_index=True)


def _paired(items_MLH: np.ndarray) -> np.ndarray:
    return items_MLH.reshape(-1, 2, *items_MLH.shape[1:])


def _labels(pairs: int) -> np.ndarray:
    """1 for harmful, 0 for benign, in the order of the flattened pairs."""
    return np.tile([1, 0], pairs)


def _out_of_fold(states_N2H: np.ndarray, labels_M: np.ndarray, folds: int) -> np.ndarray:
    """Which items a probe puts right that has seen neither them nor their twins."""
    flat = states_N2H.reshape(-1, states_N2H.shape[-1])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
    groups = np.arange(len(flat)) // 2
    return cross_val_predict(probe, flat, labels_M, groups=groups, cv=GroupKFold(folds)) == labels_M


def _squared(states_N2H: np.ndarray) -> float:
    """Squared distance of the class means, without the part that noise adds, over the spread within a class."""
    difference_NH = states_N2H[:, 0] - states_N2H[:, 1]
    noise = difference_NH.var(axis=0, ddof=1).sum() / len(difference_NH)
    spread = states_N2H.var(axis=0, ddof=1).sum(axis=-1).mean()
    if spread == 0:  # layer 0: the last prompt token is the same token everywhere
        return 0.0
    return float((np.square(difference_NH.mean(axis=0)).sum() - noise) / spread)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: each variant's probe at its best layer and at the last one, and its distance there."""
    rows = []
    part: Any
    for variant, part in frame.groupby("variant", sort=False):
        probe, distance = part[part.measure == "probe"], part[part.measure == "distance"]
        best, last = probe.loc[probe.value.idxmax()], probe.iloc[-1]
        rows.append(
            {
                "variant": variant,
                "best layer": int(best.layer),
                "probe there, %": interval_cell(best),
                f"probe, layer {int(last.layer)}, %": interval_cell(last),
                f"distance, layer {int(last.layer)}": interval_cell(distance.iloc[-1], digits=2),
                "shuffled, %": f"{part[part.measure == 'shuffled'].value.mean():.1f}",
                "n": int(last.n),
            }
        )
    return pd.DataFrame(rows)
