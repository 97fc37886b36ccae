"""From decisions to the next training run: make the delta of what stands, and start the re-tune on it as a process of its own."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mis_lib.analysis.delta_files import About
from mis_lib.commands.retune import overrides, start_of
from mis_lib.errors import MisError
from mis_lib.recipes.annotations import DELTAS, make_delta
from workbench import html as render
from workbench.desk import Desk
from workbench.links import Link, Tab
from workbench.train.actions import Trainings

CONFIG = "mini-delta"


def selectable(desk: Desk) -> tuple[list[str], list[str]]:
    """The runs and the people that decisions can be selected by."""
    try:
        standing = desk.standing()
    except MisError:  # told by the list itself
        return [], []
    return sorted({key[0] for key in standing.keys}), standing.authors


def make(
    desk: Desk,
    name: str,
    replay: float | None,
    run: str | None = None,
    authors: Sequence[str] | None = None,
    causes: Sequence[str] | None = None,
) -> tuple[str, str]:
    """Write the delta; returns what it holds as HTML, and its folder for ``start`` ("" where there is none).

    Args:
        desk: the runs and the store.
        name: of the delta.
        replay: so many rows of the old training data go along.
        run: only decisions on this run; empty for all.
        authors: only decisions of these people; empty for all.
        causes: only responses of which somebody named one of these causes; empty for all.
    """
    wanted = {"run": run or None, "authors": authors or (), "causes": causes or ()}
    rows = int(replay or 0)
    if rows < 0:
        return render.error_bar([f"expected 0 or more rows to replay, found {rows}"]), ""
    try:
        made = make_delta(desk.store, desk.root, None, name.strip() or "delta", replay=rows, **wanted)
    except (MisError, OSError) as error:
        return render.error_bar([str(error)]), ""
    return about(made), Path(made.folder).relative_to(desk.root / DELTAS).as_posix()


def start(desk: Desk, trainings: Trainings, delta: str, config: str | None) -> str:
    """Start the re-tune on a delta by its name (NAME/vN); returns where to watch it, or why it was not started."""
    name, _, version = delta.partition("/")
    known = {f"{folder.parent.name}/{folder.name}": folder for folder in (desk.root / DELTAS).glob("*/v*")}
    if delta not in known:
        return render.error_bar(["make the training delta first; the re-tune learns from it"])
    try:
        method = trainings.plan(config or CONFIG, []).settings.method
        wanted = overrides(known[delta], desk.root, method)
        job = trainings.start(config or CONFIG, [*wanted, f"name={config or CONFIG}-{name}-{version}"])
    except (MisError, OSError) as error:
        return render.error_bar([str(error)])
    query = escape(Link(tab=Tab.TRAIN, run=f"{job.name}/v1").query())
    return (
        f'<p class="mis-said">Started: <b>{escape(job.name)}</b>. <a data-link href="{query}">Watch it in Train</a>; when it has ended, '
        f"<code>mis report --regression {escape(str(known[delta]))}</code> tells what it fixed and what it broke. "
        f"{escape(start_of(known[delta], desk.root).words)}.</p>"
    )


def about(made: About) -> str:
    """What a delta holds, and what was left out with the reason."""
    targets = ", ".join(f"{escape(name)} {count:,}" for name, count in made.targets.items()) or "none"
    tests = sum(count for split, count in made.splits.items() if split != "train")
    warned = (
        f"<li>{tests:,} rows come from test splits: they count in no test figure from now on.</li>" if tests else ""
    )
    left = "".join(
        f"<li><code>{escape(response)}</code>: {escape(reason)}</li>"
        for response, reason in list(made.left_out.items())[:20]
    )
    more = f"<summary>{len(made.left_out):,} left out</summary><ul>{left}</ul>"
    return (
        f'<div class="mis-said"><b>{escape(made.folder)}</b><ul><li>{made.rows:,} training rows (target: {targets}), {made.replayed:,} replayed</li>'
        f"<li>{made.pairs:,} preference pairs</li><li>{made.regression:,} responses in the regression set, {made.failing:,} of them failing</li>{warned}"
        f"</ul>{f'<details>{more}</details>' if made.left_out else ''}</div>"
    )
