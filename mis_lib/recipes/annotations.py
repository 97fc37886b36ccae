"""``mis annotations``: people's decisions as files, agreement, training data, and the training that follows."""

import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.annotate.agreement import TeamAgreement, team_agreement
from mis_lib.annotate.decisions import CurrentLabels, Decision, Event, Key, Kind, Subject, person, response_digest
from mis_lib.annotate.delta import TRAIN, About, about, build_delta, write_delta
from mis_lib.annotate.exchange import Form, read_events, read_labels, write_events
from mis_lib.annotate.store import AnnotationStore, decided
from mis_lib.data.preferences import PAIRS
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import digest_json, read_jsonl, write_atomic
from mis_lib.models.adapters import shipped_variants
from mis_lib.recipes.judge import check_judge, is_stored, verdicts_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.train import read_train_settings
from mis_lib.results.evaluated import data_folder, judges_of, open_folder, read_samples, run_name
from mis_lib.results.regression import read_regression
from mis_lib.results.runs import CONFIG, Run, folder_digest
from mis_lib.schema import Outcome

DELTAS = "deltas"  # folder next to the runs


def train_command(config: Path, folder: Path, runs: Path, sets: Sequence[str] = ()) -> list[str]:
    """The command that trains on a delta: ``config`` with the delta as its data."""
    settings = [*overrides(folder, runs, read_train_settings(config, sets).method), *sets]
    return [sys.executable, "-m", "mis_lib.cli", "train", "--config", os.fspath(config), "--set", *settings]


def overrides(folder: Path, runs: Path, method: str = "sft") -> list[str]:
    """The settings that train on a delta, starting from the adapter that people annotated most.

    DPO gets the delta's pairs; KTO the run that was annotated most, of which it learns every answer with a label.

    Raises:
        DataError: there is neither a row nor a pair, and the method needs one.
    """
    adapter = start_of(folder, runs).adapter
    start = [f"start_from={adapter}"] if adapter else []
    if method == "kto":
        (run, variant), _ = _labelled(folder).most_common(1)[0]
        return [f"answers={runs / run}", f"variant={variant}", "verdicts=people", *start]
    made = about(folder)
    if not made.rows and not made.pairs:
        raise DataError(
            f"{folder}: expected failures with a corrected answer, or preferences, found none; write corrected "
            "answers, or learn from right and wrong answers alone (KTO)"
        )
    return [
        f"data={folder}",
        *([f"pairs={folder}"] if method == "dpo" else []),
        *start,
    ]


class Start(NamedTuple):
    """Where a training run on a delta starts."""

    adapter: Path | None
    """``None``: where the settings file says."""
    words: str


def start_of(folder: Path, runs: Path) -> Start:
    """The adapter that people annotated most: a shipped one, or the result of a training run below ``runs``."""
    annotated = _annotated(folder / TRAIN) or _annotated(folder / PAIRS) or _labelled(folder)
    if not annotated:
        return Start(None, f"No row of {folder} says who answered: training begins where its settings say")
    (run, variant), _ = annotated.most_common(1)[0]
    adapter = _adapter_of(run, variant, runs)
    if adapter is None:
        begins = "training begins where its settings say; --set start_from=ADAPTER names another start"
        return Start(None, f"Most rows are of {variant} in {run}, of which no adapter is here: {begins}")
    return Start(adapter, f"Most rows are of {variant} in {run}: training goes on from {adapter}")


def _annotated(file: Path) -> Counter[tuple[str, str]]:
    """How many rows of a delta's file come from each run and variant; replayed ones from none."""
    origins = [row["provenance"] for row in read_jsonl(file)]
    return Counter((str(origin["run"]), str(origin["variant"])) for origin in origins if "run" in origin)


def _labelled(folder: Path) -> Counter[tuple[str, str]]:
    """How many labelled responses of a delta come from each run and variant."""
    return Counter((entry.run, entry.variant) for entry in read_regression(folder))


def _adapter_of(run: str, variant: str, runs: Path) -> Path | None:
    """The adapter that answered: the one with the digest that the run recorded, else the shipped one of that name.

    None for answers of a server or another tool: only the name is known, which need not mean the shipped adapter.
    """
    config = Run(runs / run).config if (runs / run / CONFIG).exists() else None
    if config is not None and config.backend != "local":
        return None
    digest = config.variants.get(variant) if config is not None else None
    shipped = shipped_variants().get(variant)
    candidates = [*([shipped] if shipped else []), *sorted(runs.glob("*/v*/adapter"))]
    same = (adapter for adapter in candidates if digest and folder_digest(adapter) == digest)
    return next(same, shipped)


def export(runs: Path, output: Path, form: Form, *, redacted: bool, salt: str | None) -> dict[str, Any]:
    """Write every event to a file, all or nothing; returns what was written.

    Raises:
        SettingsError: a salt without redaction.
    """
    if salt is not None and not redacted:
        raise SettingsError("--salt goes with --redacted")
    key = (salt or secrets.token_hex()).encode() if redacted else None
    events = AnnotationStore(root=runs).events()
    write_atomic(output, write_events(events, form, redact_with=key).encode())
    return {"output": str(output), "events": len(events), "redacted": redacted}


def import_file(runs: Path, path: Path, *, run: str | None = None, author: str | None = None) -> dict[str, Any]:
    """Add the events of an export that are not here yet; with ``run``, people's labels on it from another tool.

    Raises:
        DataError: the file cannot be read, or a row cannot be accepted; nothing is imported then.
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
        say(
            f"{len(changed):,} rows differ from the stored decisions with their ids, and were not imported (such as "
            "that "
            f"on {changed[0].subject.sample.id!r:.80} by {changed[0].author}); to change a decision, make a new one in "
            "the app"
        )
    return {"input": str(path), "events": len(events), "added": added, "known": len(events) - added}


def _labels(runs: Path, path: Path, name: str, author: str | None) -> list[Event]:
    """Labels of another tool on a run."""
    run = open_folder(runs / name)
    responses = run.responses()
    samples = {sample.id: sample for sample in read_samples(run, responses)}
    answers = {(one.sample_id, one.variant): one for one in responses}
    found = read_labels(path, run_name(run), samples, answers, author)
    if found.empty:
        say(f"{found.empty:,} rows hold neither an outcome nor a comment, and were skipped")
    return found.events


def agreement(runs: Path) -> TeamAgreement:
    """How far people agree."""
    standing = CurrentLabels()
    standing.take(AnnotationStore(root=runs).labels())
    return team_agreement(standing)


def train_on(made: About, config: Path, runs: Path, sets: Sequence[str] = ()) -> int:
    """Train on a delta in a separate process; returns its exit status."""
    folder = Path(made.folder)
    if not any(text.partition("=")[0].strip() == "start_from" for text in sets):
        say(start_of(folder, runs).words)
    return subprocess.run(train_command(config, folder, runs, sets), check=False).returncode


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
    replay_from: Path | None = None,
    targets: bool = True,
    data: Path | None = None,
    judge: Sequence[str] = (),
) -> About:
    """Write the training delta of the current decisions, or of a part of them.

    ``replay``, ``replay_from`` and ``targets`` are those of ``write_delta``.
    With ``judge`` (``settings.Judged``) its verdicts on ``run`` count as decisions, where people have not decided.

    Raises:
        DataError: nothing to learn from, or an image is missing.
        SettingsError: the name cannot be a folder's, or the judge cannot be used.
    """
    if judge and (run is None or authors or causes):
        raise SettingsError("--judge: expected one run that it rules on (--run), without --authors and --causes")
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise SettingsError(f"name {name!r:.80}: expected letters, digits, '.', '_' and '-' only")
    people = {person(name) for name in authors}
    theirs = [event for event in store.current(run=run) if not people or person(event.author) in people]
    named = {event.subject.key for event in theirs if not causes or not set(causes).isdisjoint(event.decision.causes)}
    # all decisions on such a response, so that disagreement and adjudication count, whatever causes they name
    events = [event for event in theirs if event.subject.key in named]
    if judge and run is not None:
        decided_on = {event.subject.key for event in events if event.decision.outcome is not None}
        events += [one for one in _ruled(runs / run, judge, data) if one.subject.key not in decided_on]
    if not events:
        raise DataError(
            f"annotations at {store.place}: expected decisions, found none that fit; annotate in the app first"
        )

    def folder_of(of: str) -> Path:
        if data is not None:
            return data.parent if data.is_file() else data
        if not (runs / of / CONFIG).exists():
            raise DataError(
                f"{runs / of}: expected the run that was annotated, found none; name the folder of its images with "
                "--data"
            )
        return data_folder(Run(runs / of))

    made = build_delta(events, reference=reference, judged=_judged(runs))
    out = output or runs / DELTAS
    return write_delta(made, out, name, folder_of, replay=replay, replay_from=replay_from, targets=targets)


def _ruled(folder: Path, judge: Sequence[str], data: Path | None) -> list[Event]:
    """The verdicts of a judge on a run, as decisions; the same ones each time, so that a delta is made once."""
    run = open_folder(folder)
    responses = run.responses()
    samples = {sample.id: sample for sample in read_samples(run, responses, data)}
    if not is_stored(judge):
        check_judge(judge, list(samples.values()), "--judge")
    texts = {(one.sample_id, one.variant): one.text for one in responses}
    verdicts = verdicts_on(run, judge, list(samples.values()), responses, data_folder(run, data))
    return [
        Event(
            id=digest_json([run_name(run), one.model_dump(mode="json")]),
            kind=Kind.DECIDE,
            author=f"judge {one.judge}",
            at="",
            subject=Subject(
                run=run_name(run),
                variant=one.variant,
                sample=samples[one.sample_id],
                response=texts[one.sample_id, one.variant],
            ),
            decision=Decision(outcome=one.outcome),
        )
        for one in verdicts
    ]


def _judged(runs: Path) -> Callable[[Key], dict[str, Outcome]]:
    """The verdicts on an annotated response in its run: none where the run is gone, or now has another response."""

    @cache
    def read(name: str) -> dict[Key, dict[str, Outcome]]:
        run = Run(runs / name)
        if not (run.folder / CONFIG).exists():
            return {}
        digests = {(one.sample_id, one.variant): response_digest(one.text) for one in run.responses()}
        found: dict[Key, dict[str, Outcome]] = {}
        for judge in judges_of(run):
            for one in run.verdicts(judge):
                if (response := digests.get((one.sample_id, one.variant))) is not None:
                    found.setdefault((name, one.sample_id, one.variant, response), {})[judge] = one.outcome
        return found

    return lambda key: read(key[0]).get(key, {})
