"""What one contestant of ``mis bench train`` took over all rounds, against TRL and against what the machine can do."""

import statistics
from typing import Any

from benchmarks.bench_train_ladder import TRL
from mis_lib.schema import Record


class Result(Record):
    """One contestant over all rounds."""

    name: str
    samples_per_second: float
    """Median of the rounds; ``tokens_per_second`` likewise, padding left out."""
    tokens_per_second: float
    ratio: float | None
    """Samples a second against TRL's, median within a round."""
    work_ratio: float | None
    """Samples a second of processor time against TRL's, on a CPU: other programs slow this down far less."""
    memory_gb: float
    loss: float
    """Mean over all steps, first round; ``last_loss`` over the last quarter of them."""
    last_loss: float
    padding_share: float | None
    utilisation: float | None
    """Operations that the rows need against those this machine can do in the time, percent."""
    packed: bool
    feature_seconds: float | None
    """To fill the feature cache once, not in the speed."""


def result_of(name: str, taken: dict[str, list[Any]], rate: float) -> Result:
    """What a contestant took.

    Args:
        name: of the contestant.
        taken: ``Measured`` of every round, by contestant.
        rate: operations a second that the machine can do.
    """
    mine = taken[name]
    speeds = [_speed(each) for each in mine]
    rivals = taken.get(TRL)
    speed, first = statistics.median(speeds), mine[0]
    needed = _flop(first, taken)
    quarter = max(1, len(first.losses) // 4)
    on_cpu = first.device == "cpu" and bool(first.processor_seconds)
    return Result(
        name=name,
        samples_per_second=round(speed, 3),
        tokens_per_second=round(speed * first.tokens, 1),
        ratio=_ratio(mine, rivals, "seconds"),
        work_ratio=_ratio(mine, rivals, "processor_seconds") if on_cpu else None,
        memory_gb=max(each.memory_gb for each in mine),
        loss=round(statistics.fmean(first.losses), 4),
        last_loss=round(statistics.fmean(first.losses[-quarter:]), 4),
        padding_share=first.padding_share,
        utilisation=round(100 * needed * speed / rate, 1) if needed else None,
        packed=first.packed,
        feature_seconds=first.feature_seconds,
    )


def _ratio(mine: list[Any], rivals: list[Any] | None, clock: str) -> float | None:
    """How much less time a contestant takes than TRL, median over the rounds."""
    if rivals is None:
        return None
    return round(
        statistics.median(sum(getattr(b, clock)) / sum(getattr(a, clock)) for a, b in zip(mine, rivals, strict=True)),
        3,
    )


def _speed(measured: Any) -> float:
    """Samples a second: rows of all timed steps over their seconds."""
    return measured.rows * len(measured.seconds) / sum(measured.seconds)


def _flop(measured: Any, taken: dict[str, list[Any]]) -> float:
    """Operations that a row needs; TRL's rows need what ours do without a cache."""
    if measured.flop:
        return measured.tower_flop + measured.flop
    ours = next((each[0] for name, each in taken.items() if name != TRL and each[0].feature_seconds is None), None)
    return ours.tower_flop + ours.flop if ours else 0.0
