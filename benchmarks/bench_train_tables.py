"""Tables of ``mis bench train``: for a terminal and as Markdown, with what was measured under them."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from benchmarks.bench_train import TrainBench
from mis_lib.results.tables import pipe_table


def show(found: TrainBench) -> Iterator[Table | str]:
    """The measurement for a terminal: a table, and under what it was taken."""
    headings, *rows = _cells(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        first = heading == headings[0]
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first)  # figures stay whole
    for row in rows:
        table.add_row(*row)
    yield table
    yield _caption(found)


def to_markdown(found: TrainBench) -> str:
    """The measurement as a table for a document."""
    headings, *rows = _cells(found)
    return f"{pipe_table(headings, rows)}\n\n{_caption(found)}"


def _cells(found: TrainBench) -> list[list[str]]:
    headings = [
        "contestant",
        "rows/s",
        "tokens/s",
        "x TRL",
        "x work",
        "GB",
        "loss",
        "last",
        "pad",
        "of peak",
    ]
    return [
        headings,
        *(
            [
                row.name + (" (packed)" if row.packed else ""),
                f"{row.samples_per_second:.2f}",
                f"{row.tokens_per_second:,.0f}",
                "-" if row.ratio is None else f"{row.ratio:.2f}",
                "-" if row.work_ratio is None else f"{row.work_ratio:.2f}",
                f"{row.memory_gb:.2f}",
                f"{row.loss:.3f}",
                f"{row.last_loss:.3f}",
                "-" if row.padding_share is None else f"{100 * row.padding_share:.0f} %",
                "-" if row.utilisation is None else f"{row.utilisation:.0f} %",
            ]
            for row in found.results
        ),
    ]


def _caption(found: TrainBench) -> str:
    settings = found.settings
    cached = next((row.feature_seconds for row in found.results if row.feature_seconds is not None), None)
    filled = "" if cached is None else f"filling the feature cache took {cached:.1f} s and is not in the speed; "
    return (
        f"{settings.model}, LoRA r={settings.lora.rank}, {found.dtype} on {found.device}, {found.tokens_per_row:.0f} tokens a row, "
        f"{settings.batch_size} rows a step, at most {settings.batch_tokens:,} tokens a pass; {settings.steps} timed steps after "
        f"{settings.warmup}, {settings.rounds} rounds (median); x TRL: rows a second, x work: rows a second of processor time; GB: peak memory; loss: mean of all steps, last quarter; {filled}"
        f"of peak: operations the rows need against {found.matmul_tflops:.2f} TFLOP/s of matrix products measured here; "
        f"{found.cores} cores, load average {found.load_average}"
    )
