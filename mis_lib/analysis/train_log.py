"""The log of a training run as frames, for notebooks and for the app."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

WATCHED = ("asr", "over_refusal", "named")
Lines = Sequence[Mapping[str, Any]]


def losses(lines: Lines) -> pd.DataFrame:
    """Loss of every logged step, of all answer tokens and by segment: step, segment ("all" or a kind), loss (nats a token)."""
    rows = [
        {"step": line["step"], "segment": segment, "loss": value}
        for line in lines
        if "loss" in line
        for segment, value in {"all": line["loss"], **(line.get("loss_by_segment") or {})}.items()
    ]
    return pd.DataFrame(rows, columns=["step", "segment", "loss"])


def evaluations(lines: Lines) -> pd.DataFrame:
    """The rates ``WATCHED`` measured on the way: step, metric, value, low, high, n."""
    rows = [
        {
            "step": line["step"],
            "metric": metric,
            **{key: line["eval"][metric][key] for key in ("value", "low", "high", "n")},
        }
        for line in lines
        for metric in WATCHED
        if metric in line.get("eval", {})
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value", "low", "high", "n"])
