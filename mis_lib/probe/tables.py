"""What a terminal shows of the analysis methods: a few lines of words and numbers for frames of hundreds of rows."""

from typing import Any

import pandas as pd

from mis_lib.probe.formats import FORMATS
from mis_lib.probe.safeground import SCORES
from mis_lib.results.metrics import METRICS


def separation(frame: pd.DataFrame) -> pd.DataFrame:
    """Each variant's probe at its best layer and at the last one, and its distance there."""
    rows = []
    part: Any
    for variant, part in frame.groupby("variant", sort=False):
        probe, distance = part[part.measure == "probe"], part[part.measure == "distance"]
        best, last = probe.loc[probe.value.idxmax()], probe.iloc[-1]
        rows.append(
            {
                "variant": variant,
                "best layer": int(best.layer),
                "probe there, %": _interval(best),
                f"probe, layer {int(last.layer)}, %": _interval(last),
                f"distance, layer {int(last.layer)}": _interval(distance.iloc[-1], digits=2),
                "shuffled, %": f"{part[part.measure == 'shuffled'].value.mean():.1f}",
                "n": int(last.n),
            }
        )
    return pd.DataFrame(rows)


def spectrum(layers: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Each update's size, rank and shares in weak directions beside chance, medians; and the size of its output for both kinds of input."""
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


def formats(frame: pd.DataFrame) -> pd.DataFrame:
    """A line a variant and format, a column a metric."""
    order = [name for name in FORMATS if name in set(frame.format)]
    rows = []
    key: Any
    part: Any
    for key, part in frame.groupby(["variant", "format"], sort=False):
        variant, name = key
        cells = {f"{METRICS[row.metric].label}, %": _interval(row) for row in part.itertuples()}
        rows.append(
            {
                "variant": variant,
                "format": name,
                **cells,
                "n": int(part.n.max()),
                "unscored": int(part.n_unscored.max()),
            }
        )
    table = pd.DataFrame(rows)
    ranks = table.format.map(order.index)
    return table.assign(rank=ranks).sort_values("rank", kind="stable").drop(columns="rank")


def safeground(frame: pd.DataFrame, likelihoods: pd.DataFrame) -> pd.DataFrame:
    """A line a variant, a column a score; the last tells the likelihood of the help that benign items deserve."""
    rows = []
    part: Any
    for variant, part in frame.groupby("variant", sort=False):
        cells = {f"{score}, %": _interval(part[part.score == score].iloc[0], digits=0) for score in SCORES}
        safe: Any = likelihoods[(likelihoods.variant == variant) & (likelihoods.images_text == "safe_safe")].iloc[0]
        rows.append(
            {"variant": variant, **cells, "log p of help": f"{safe.log_likelihood:.2f}", "n": int(part.n.max())}
        )
    return pd.DataFrame(rows)


def _interval(row: Any, digits: int = 1) -> str:
    """The value above its interval, which fits a terminal; "-" where nothing was scored."""
    if pd.isna(row.value):
        return "-"
    return f"{row.value:.{digits}f}\n[{row.low:.{digits}f}, {row.high:.{digits}f}]"
