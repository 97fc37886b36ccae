"""``mis annotations``: what people decided, out of the store and into files, figures and training data."""

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mis_lib import console
from mis_lib.analysis.delta_files import About, write_delta
from mis_lib.annotate.agreement import TeamAgreement, team_agreement
from mis_lib.annotate.decisions import Event
from mis_lib.annotate.delta import build_delta
from mis_lib.annotate.exchange import Form, read_events, write_events
from mis_lib.annotate.store import AnnotationStore
from mis_lib.commands.retune import start_of, train_command
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import write_atomic
from mis_lib.results.evaluated import data_folder, open_folder, read_samples, run_name
from mis_lib.results.runs import CONFIG, Run
from mis_lib.store.annotation_tables import decided
from mis_lib.store.labels import Standing, person
from mis_lib.store.labels_elsewhere import read_labels

DELTAS = "deltas"  # beside the runs; no folder of a run, since it has none of its files


def export(runs: Path, output: Path, form: Form, *, redacted: bool, salt: str | None, as_json: bool) -> None:
    """Write every event to a file, all or nothing.

    Raises:
        SettingsError: a salt without redaction.
    """
    if salt is not None and not redacted:
        raise SettingsError("--salt goes with --redacted")
    key = (salt or secrets.token_hex()).encode() if redacted else None
    events = AnnotationStore(root=runs).events()
    write_atomic(output, write_events(events, form, redact_with=key).encode())
    _tell({"output": str(output), "events": len(events), "redacted": redacted}, as_json)


def take_in(runs: Path, path: Path, *, run: str | None = None, author: str | None = None, as_json: bool) -> None:
    """Add the events of an export that are not here yet; with ``run``, people's labels on it from another tool.

    Raises:
        DataError: the file cannot be read, or a row cannot be accepted; nothing is taken in then.
        SettingsError: an author without a run.
    """
    if author is not None and run is None:
        raise SettingsError("--author goes with --run: an export says itself who decided")
    events = read_events(path) if run is None else _labels(runs, path, run, author)
    store = AnnotationStore(root=runs)
    here = {event.id: event for event in store.events()}
    changed = [event for event in events if event.id in here and decided(event) != decided(here[event.id])]
    added = store.restore(events)
    if changed:
        console.say(
            f"{len(changed):,} rows differ from the decisions that are here under their ids, and were not taken in (such as that on "
            f"{changed[0].subject.sample.id!r:.80} by {changed[0].author}); a decision is changed by a new one, in the app"
        )
    _tell({"input": str(path), "events": len(events), "added": added, "known": len(events) - added}, as_json)


def _labels(runs: Path, path: Path, name: str, author: str | None) -> list[Event]:
    """Labels of another tool on a run."""
    run = open_folder(runs / name)
    responses = run.responses()
    samples = {sample.id: sample for sample in read_samples(run, responses)}
    answers = {(one.sample_id, one.variant): one for one in responses}
    found = read_labels(path, run_name(run), samples, answers, author)
    if found.empty:
        console.say(f"{found.empty:,} rows hold neither an outcome nor a comment, and were passed over")
    return found.events


def agreement(runs: Path, *, as_json: bool) -> None:
    """Print how far people agree."""
    standing = Standing()
    standing.take(AnnotationStore(root=runs).labels())
    found = team_agreement(standing)
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    else:
        _print_agreement(found)


def delta(
    runs: Path,
    output: Path | None,
    name: str,
    *,
    run: str | None = None,
    authors: Sequence[str] = (),
    causes: Sequence[str] = (),
    reference: bool = True,
    replay: int = 0,
    data: Path | None = None,
    config: Path | None = None,
    sets: Sequence[str] = (),
    as_json: bool = False,
) -> int:
    """Write a training delta; with ``config`` start training on it. Returns the exit status.

    Raises:
        DataError: nothing to learn from, or an image is not there.
        SettingsError: the name cannot be a folder's, or there are settings and nothing is trained.
    """
    if sets and config is None:
        raise SettingsError("--set goes with --train FILE, found no --train")
    made = make_delta(
        AnnotationStore(root=runs),
        runs,
        output,
        name,
        run=run,
        authors=authors,
        causes=causes,
        reference=reference,
        replay=replay,
        data=data,
    )
    if as_json:
        console.print_json(made.model_dump(mode="json"))
    else:
        _print_delta(made)
    if config is None:
        return 0
    if not any(text.partition("=")[0].strip() == "start_from" for text in sets):
        console.say(start_of(Path(made.folder), runs).words)
    return subprocess.run(train_command(config, Path(made.folder), runs, sets), check=False).returncode


def make_delta(
    store: AnnotationStore,
    runs: Path,
    output: Path | None,
    name: str,
    *,
    run: str | None = None,
    authors: Sequence[str] = (),
    causes: Sequence[str] = (),
    reference: bool = True,
    replay: int = 0,
    data: Path | None = None,
) -> About:
    """Write the training delta of the decisions that stand, or of a part of them.

    Raises:
        DataError, SettingsError: as ``delta``.
    """
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise SettingsError(f"name {name!r:.80}: expected letters, digits, '.', '_' and '-' only")
    people = {person(name) for name in authors}
    theirs = [event for event in store.current(run=run) if not people or person(event.author) in people]
    named = {event.subject.key for event in theirs if not causes or not set(causes).isdisjoint(event.decision.causes)}
    # All that was decided on such a response, so that who differs and who adjudicated is heard, whatever causes they name.
    events = [event for event in theirs if event.subject.key in named]
    if not events:
        raise DataError(
            f"annotations at {store.place}: expected decisions, found none that fit; annotate in the app first"
        )

    def folder_of(of: str) -> Path:
        if data is not None:
            return data.parent if data.is_file() else data
        if not (runs / of / CONFIG).exists():
            raise DataError(
                f"{runs / of}: expected the run that was annotated, found none; name the folder of its images with --data"
            )
        return data_folder(Run(runs / of))

    return write_delta(
        build_delta(events, reference=reference), output or runs / DELTAS, name, folder_of, replay=replay
    )


def _print_delta(made: About) -> None:
    table = Table(title=Text(made.folder), title_justify="left", show_header=False)
    for label, value in {
        "training rows": f"{made.rows:,} ({_listed(made.targets) or '-'}), {made.replayed:,} replayed",
        "of splits": _listed(made.splits) or "-",
        "preference pairs": f"{made.pairs:,}",
        "regression set": f"{made.regression:,}, {made.failing:,} of them failing",
        "from": f"{', '.join(made.runs)}; decided by {', '.join(made.authors)}",
    }.items():
        table.add_row(label, Text(value))
    console.out.print(table)
    for response, reason in made.left_out.items():
        console.say(f"left out {response}: {reason}")
    tests = sum(count for split, count in made.splits.items() if split != "train")
    if tests:
        console.say(
            f"{tests:,} rows come from test splits: they count in no test figure from now on (regression.jsonl lists them)"
        )


def _print_agreement(found: TeamAgreement) -> None:
    table = Table(title="Agreement on outcomes", title_justify="left")
    for heading in ("first", "second", "equal, %", "Cohen's kappa", "n"):
        table.add_column(heading)
    for pair in found.pairs:
        table.add_row(pair.first, pair.second, str(pair.share), str(pair.kappa), f"{pair.share.n:,}")
    console.out.print(table)
    people = ", ".join(f"{name} {count:,}" for name, count in found.authors.items()) or "nobody"
    console.out.print(
        Text(f"labelled by {people}; Krippendorff's alpha {found.alpha} on {found.alpha.n:,} shared responses")
    )
    console.out.print(Text(f"{len(found.disputed):,} disputed, {found.adjudicated:,} adjudicated"))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _tell(values: dict[str, object], as_json: bool) -> None:
    if as_json:
        console.print_json(values)
    else:
        console.out.print(Text(", ".join(f"{name} {value}" for name, value in values.items())), soft_wrap=True)
