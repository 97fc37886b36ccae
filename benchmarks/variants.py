"""``mis bench variants``: what one, two and more columns cost on this machine, measured in one run.

Every arrangement writes the same number of tokens, end tokens or not. The arrangements take turns, round after round,
so that another program's work falls on all of them alike. The best round tells what the machine can do, the median what
it did; ratios are taken within a round and their median is shown.
"""

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image
from pydantic import BaseModel
from rich import box
from rich.table import Table

from mis_lib.errors import SettingsError
from mis_lib.models.adapters import MAX_COLUMNS, choose_variants
from mis_lib.recipes.compare import load_engine
from mis_lib.recipes.merge import DTYPES
from mis_lib.recipes.progress import say
from mis_lib.results.tables import pipe_table
from mis_lib.settings import GenerationSettings, all_known

if TYPE_CHECKING:
    from mis_lib.generate.stream import VariantEngine

QUESTION = "What is in the images, and how can the first be used together with the second?"


class Round(NamedTuple):
    """One arrangement in one round: seconds to the first token of all columns, and to the last."""

    first: float
    total: float


class Timing(BaseModel):
    """One arrangement over all rounds."""

    variants: tuple[str, ...]
    first_token: float
    """Seconds, median."""
    best: float
    """Seconds for all tokens, best round; ``median`` likewise."""
    median: float
    rate_best: float
    """Tokens a second in each column, prompt included; ``rate_median`` likewise."""
    rate_median: float
    ratios: dict[str, float]
    """Median over the rounds of this arrangement's seconds divided by those of one column, by its variant."""


class Measurement(BaseModel):
    """All arrangements, and under what they were measured."""

    images: int
    tokens: int
    rounds: int
    cores: int
    threads: int
    dtype: str
    packed: bool
    load_average: float | None
    peak_memory_mb: int
    timings: list[Timing]


def bench(
    checkpoint: Path | None,
    adapters: Mapping[str, Path] | None,
    *,
    images: int,
    tokens: int,
    rounds: int,
    device: str,
    dtype: str | None = None,
) -> Measurement:
    """Time one column of the base and of an adapter, both side by side, and all variants together.

    Args:
        checkpoint: folder; the embedded model (built if missing) if not given.
        adapters: PEFT folder of each variant; if not given, those shipped, as many as the app shows side by side.
        images: in the prompt, 640 x 480 pixels each.
        tokens: written by every column.
        rounds: of all arrangements; one more, not counted, goes before.
        device: where the model computes.
        dtype: number type of the weights; what suits the machine if not given.

    Raises:
        SettingsError: there is no adapter to compare with, or no number type of that name.
        ModelError: checkpoint or adapters cannot be used.
    """
    if dtype is not None:
        all_known("--dtype", [dtype], DTYPES)
    engine = _load(checkpoint, adapters, device, dtype)
    settings = GenerationSettings(max_new_tokens=tokens)
    pictures = [Image.linear_gradient("L").resize((640, 480)).rotate(60 * turn) for turn in range(images)]
    base, adapter = engine.variants[:2]
    arrangements = [(base,), (adapter,), (base, adapter), engine.variants]
    if len(engine.variants) == 2:
        arrangements.pop()
    measured: dict[tuple[str, ...], list[Round]] = {variants: [] for variants in arrangements}
    for number in range(rounds + 1):
        for variants in arrangements:
            taken = _round(engine, pictures, variants, settings)
            if number:
                measured[variants].append(taken)
        say(f"round {number} of {rounds} done" + ("" if number else " (warm-up, not counted)"))
    ones = {variants[0]: taken for variants, taken in measured.items() if len(variants) == 1}
    return _describe(engine, images, settings, [_timing(v, t, ones, tokens) for v, t in measured.items()], rounds)


def show(measurement: Measurement) -> Iterator[Table | str]:
    """The measurement for a terminal: a table and a line on how it was made."""
    headings, *rows = _cells(measurement)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in headings:
        first = heading == headings[0]
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first)
    for row in rows:
        table.add_row(*row)
    yield table
    yield _caption(measurement)


def to_markdown(measurement: Measurement) -> str:
    """The measurement as a table for a README."""
    headings, *rows = _cells(measurement)
    return f"{pipe_table(headings, rows)}\n\n{_caption(measurement)}"


def _cells(measurement: Measurement) -> list[list[str]]:
    ones = list(measurement.timings[0].ratios)
    headings = ["columns", "first s", "all s", "median", "tokens/s", "median", *(f"x {one}" for one in ones)]
    return [
        headings,
        *(
            [
                f"{len(row.variants)}: {', '.join(row.variants)}",
                *(f"{seconds:.2f}" for seconds in (row.first_token, row.best, row.median)),
                *(f"{rate:.1f}" for rate in (row.rate_best, row.rate_median)),
                *(f"{row.ratios[one]:.2f}" for one in ones),
            ]
            for row in measurement.timings
        ),
    ]


def _caption(measurement: Measurement) -> str:
    layout = ", packed weights" if measurement.packed else ""
    return (
        f"{measurement.images} images, {measurement.tokens} tokens in each column; seconds to the first and to all "
        f"tokens, tokens a second "
        f"in each column (best of {measurement.rounds} rounds, and median), time against one column alone (median "
        f"within a round); "
        f"{measurement.dtype}{layout}, {measurement.threads} threads on {measurement.cores} cores, "
        f"load average {measurement.load_average}, peak memory {measurement.peak_memory_mb} MB"
    )


def _load(
    checkpoint: Path | None, adapters: Mapping[str, Path] | None, device: str, dtype: str | None
) -> "VariantEngine":
    variants = choose_variants(checkpoint, adapters)
    if checkpoint is None and not adapters:
        variants = dict(list(variants.items())[:MAX_COLUMNS])
    if len(variants) < 2:
        raise SettingsError(
            "expected at least one adapter to measure beside the base, found none; name one with --adapters"
        )
    return load_engine(checkpoint, variants, device, dtype)


def _round(
    engine: "VariantEngine", pictures: Sequence[Image.Image], variants: Sequence[str], settings: GenerationSettings
) -> Round:
    started = time.perf_counter()
    times = [time.perf_counter() - started for _ in engine.tokens(pictures, QUESTION, variants, settings)]
    return Round(times[0], times[-1])


def _timing(
    variants: tuple[str, ...], taken: Sequence[Round], ones: Mapping[str, Sequence[Round]], tokens: int
) -> Timing:
    totals = [each.total for each in taken]
    best, median = min(totals), statistics.median(totals)
    ratios = {
        name: statistics.median(mine.total / one.total for mine, one in zip(taken, alone, strict=True))
        for name, alone in ones.items()
    }
    return Timing(
        variants=variants,
        first_token=statistics.median(each.first for each in taken),
        best=best,
        median=median,
        rate_best=tokens / best,
        rate_median=tokens / median,
        ratios=ratios,
    )


def _describe(
    engine: "VariantEngine", images: int, settings: GenerationSettings, timings: list[Timing], rounds: int
) -> Measurement:
    import torch

    from mis_lib.models.load import peak_memory

    return Measurement(
        images=images,
        tokens=settings.max_new_tokens,
        rounds=rounds,
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        dtype=engine.dtype,
        packed=engine.packed,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        peak_memory_mb=round(peak_memory() / 2**20),
        timings=timings,
    )
