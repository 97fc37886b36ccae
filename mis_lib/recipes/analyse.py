"""``mis analyse METHOD``: the analysis methods of neighbouring papers on one's own variants; tables and figures into a run folder.

    runs/analyse-METHOD/vN/  config.yaml, environment.json   as for any run
                             settings.yaml                   everything that was asked for
                             NAME.csv, NAME.json             tidy frames
                             NAME.html                       the figure, a page that needs nothing else

``formats`` generates and judges, so its run holds answers and verdicts too and is resumed; the others only read the model. The methods themselves are
in ``analyse_methods``.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table

from mis_lib import console
from mis_lib.commands.analyse_methods import READERS, AnalyseSettings, ask_formats, check_calibration, checkpoint_of
from mis_lib.commands.answerers import all_known, known_variants
from mis_lib.files import write_atomic
from mis_lib.recipes.generate import mini_data
from mis_lib.results.runs import Run, RunConfig
from mis_lib.settings import AnalysisMethod, dump_settings
from mis_lib.store.provenance import digest_of, folder_digest
from mis_lib.store.versions import open_run

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


SETTINGS = "settings.yaml"


class Result(NamedTuple):
    """What an analysis leaves in its run folder."""

    run: Run
    frames: dict[str, "pd.DataFrame"]
    figures: dict[str, "go.Figure"]
    summary: "pd.DataFrame"
    """The few lines that a terminal shows."""


def analyse(method: AnalysisMethod, settings: AnalyseSettings) -> Result:
    """Run one method and keep its frames and figures.

    Raises:
        MisError: a variant, split, file or model cannot be used, or the method does not suit it; the message says which and why.
    """
    known = known_variants(settings)
    all_known("--variants", settings.variants, known)
    if method is AnalysisMethod.SAFEGROUND:
        check_calibration(settings)
    if method is AnalysisMethod.FORMATS:
        run, (frames, figures, summary) = ask_formats(settings)
    else:
        run = _open(method, settings)
        frames, figures, summary = READERS[method](settings, run)
    _keep(run, settings, frames, figures)
    return Result(run, frames, figures, summary)


def show(result: Result) -> None:
    """Print the summary, and where everything is."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for number, column in enumerate(result.summary.columns):
        table.add_column(str(column), justify="right" if number else "left", overflow="fold")
    for row in result.summary.itertuples(index=False):
        table.add_row(*map(str, row))
    console.out.print(table, highlight=False)
    console.say(f"95 % intervals in brackets; all values: {', '.join(f'{name}.csv' for name in result.frames)}")
    console.say(f"figures: {', '.join(f'{name}.html' for name in result.figures)} in {result.run.folder}")


def _open(method: AnalysisMethod, settings: AnalyseSettings) -> Run:
    """The run folder of a method that only reads: a version for each model, data and settings."""
    checkpoint, known = checkpoint_of(settings), known_variants(settings)
    data = settings.data or mini_data()
    asked = dump_settings(settings.model_copy(update={"runs": Path(), "data": None, "checkpoint": None}))
    digest = hashlib.sha256(f"{digest_of(data)}\n{asked}".encode()).hexdigest()
    folders = {name: known[name] for name in settings.variants}
    config = RunConfig(
        tag="mini" if settings.checkpoint is None else checkpoint.name,
        checkpoint=str(checkpoint),
        checkpoint_digest=folder_digest(checkpoint),
        data=str(data.resolve()),
        data_digest=digest,
        generation=settings.generation,
        batch_size=settings.batch_size,
        device=settings.device,
        dtype=settings.dtype,
        variants={name: "" if path is None else folder_digest(path) for name, path in folders.items()},
    )
    return open_run(settings.runs, f"{settings.name}-{method}", config)


def _keep(
    run: Run, settings: AnalyseSettings, frames: dict[str, "pd.DataFrame"], figures: dict[str, "go.Figure"]
) -> None:
    from mis_lib.results.figures.style import write_page

    write_atomic(run.folder / SETTINGS, dump_settings(settings).encode())
    for name, frame in frames.items():
        write_atomic(run.folder / f"{name}.csv", frame.to_csv(index=False).encode())
        write_atomic(run.folder / f"{name}.json", f"{frame.to_json(orient='records', indent=1)}\n".encode())
    for name, figure in figures.items():
        write_page(run.folder / f"{name}.html", figure, title=f"{name} [{run.config.tag}]")
