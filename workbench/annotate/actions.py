"""What the Annotate tab does: it finds responses, records decisions, and makes training deltas, without Gradio.

Nothing is kept per browser session. The page sends which response it shows (``Place``) and which filters are set
(``Query``), so an app that was restarted in between continues as if nothing had happened. The author of a decision is
the login's name where there is one; a name that a browser sends counts only without logins.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from mis_lib.annotate.agreement import team_agreement
from mis_lib.annotate.decisions import (
    AGE,
    CurrentLabels,
    Decision,
    Event,
    Kind,
    Label,
    Preference,
    Subject,
    read_decision,
    response_digest,
)
from mis_lib.annotate.exchange import Form, write_events
from mis_lib.annotate.store import AnnotationStore
from mis_lib.annotate.worklist import Filter, Item, Order, Whose, Worklist, read_worklist, step
from mis_lib.errors import DataError, MisError
from mis_lib.recipes.annotations import DELTAS, make_delta, overrides, start_of
from mis_lib.results.evaluated import find_runs, run_name
from mis_lib.schema import Record
from workbench import html
from workbench.annotate import view
from workbench.annotate.view import Done, Progress
from workbench.links import Link, Tab, resolve_run
from workbench.trainings import Trainings

KEPT = 6  # worklists in memory
PAUSE = 300  # seconds: a longer gap between two decisions is a break, not the time of a decision
CONFIG = "mini-delta"


@dataclass(frozen=True)
class Query:
    """What the page asks for: a run, a part of it, how it is shown, and to whom."""

    run: str = ""
    chosen: Filter = field(default_factory=Filter)
    blind: bool = True
    author: str = ""

    def follow(self, link: Link) -> "Query":
        """The query that a link means.

        A link to an item or an outcome shows decided responses too, unless it says whose.
        """
        first, second = link.variants if len(link.variants) == 2 else (link.beside, "")
        decided_too = link.item or link.outcome or link.after
        chosen = Filter(
            variant=second or link.variant,
            beside=first,
            split=link.split,
            category=link.category,
            judge=link.judge,
            outcome=link.after or link.outcome,
            beside_outcome=link.before,
            signal=link.signal,
            whose=Whose(link.whose) if link.whose else Whose.ALL if decided_too else Whose.OPEN,
            order=Order(link.order) if link.order else Order.WORST,
        )
        return replace(self, run=link.run or self.run, chosen=chosen)

    def link(self, item: Item | None) -> Link:
        """The address of the list, opened at an item if there is one: ``follow`` of it is the same query."""
        chosen = self.chosen
        pair = (chosen.beside, chosen.variant) if chosen.beside and chosen.variant else ()
        return Link(
            tab=Tab.ANNOTATE,
            run=self.run,
            variant="" if pair else chosen.variant,
            variants=pair,
            beside="" if pair else chosen.beside,
            split=chosen.split,
            category=chosen.category,
            judge=chosen.judge,
            outcome="" if chosen.beside_outcome else chosen.outcome,
            after=chosen.outcome if chosen.beside_outcome else "",
            before=chosen.beside_outcome,
            whose=str(chosen.whose),
            signal=chosen.signal,
            order="" if chosen.order is Order.WORST else str(chosen.order),
            item=item.sample.id if item else "",
            response=item.response.variant if item and not chosen.variant else "",
        )

    def is_shown_at(self, link: Link) -> bool:
        """Whether an address is one of this list: the same run under the same filters."""
        return link.tab is Tab.ANNOTATE and link.run == self.run and self.follow(link).chosen == self.chosen


class Place(Record):
    """The response that the page shows. It comes back from the browser and is looked up, never trusted."""

    run: str
    sample: str
    variant: str
    beside: str = ""
    swapped: bool = False
    answers: str = ""
    """Digest of the responses as the page shows them; if given, no decision is recorded on other ones."""


@dataclass(frozen=True)
class View:
    """What a step shows; None leaves a part of the screen as it is."""

    item: str | None = None
    form: str | None = None
    errors: Sequence[str] = ()
    address: str | None = None


class Annotations:
    """What all browser sessions share: the store of decisions, and worklists, read once until their files change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = AnnotationStore(root=root)
        self._labels = CurrentLabels()
        self._lists: OrderedDict[str, tuple[tuple[Any, ...], Worklist]] = OrderedDict()
        self._lock = threading.Lock()

    def runs(self) -> list[str]:
        """The runs that have answers, latest change first."""
        found = sorted(find_runs(self.root), key=lambda run: -run.folder.stat().st_mtime)
        return [run_name(run) for run in found]

    def worklist(self, name: str) -> Worklist:
        """The responses of a run.

        Raises:
            DataError: there is no such run, or it cannot be read.
        """
        run = resolve_run(self.root, name)
        patterns = ("*.jsonl", "verdicts/*.jsonl", "shards/*")
        files = sorted(file for pattern in patterns for file in run.folder.glob(pattern))
        state = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        with self._lock:
            known = self._lists.get(name)
            if known is None or known[0] != state:
                known = self._lists[name] = (state, read_worklist(run))
            self._lists.move_to_end(name)
            while len(self._lists) > KEPT:
                self._lists.popitem(last=False)
            return known[1]

    def labels(self) -> CurrentLabels:
        """What people have decided, as of now.

        Raises:
            DataError: the database cannot be read.
        """
        with self._lock:
            newest = self.store.newest()
            if newest < self._labels.seen:  # another database has replaced it
                self._labels = CurrentLabels()
            if newest > self._labels.seen:
                self._labels.take(self.store.labels(after=self._labels.seen))
            return self._labels

    def find(self, query: Query) -> list[Item]:
        """The responses that pass the filters, in their order."""
        return self.worklist(query.run).find(query.chosen, self.labels(), query.author)

    def item_at(self, place: Place) -> Item:
        """The response at a place.

        Raises:
            DataError: there is none, or it is another one than the page shows.
        """
        worklist = self.worklist(place.run)
        found = worklist.named(place.sample, place.variant)
        if found is None:
            raise DataError(
                f"run {place.run} has no response of {place.variant!r:.60} to {place.sample!r:.80}; reload the page"
            )
        if place.answers not in ("", _digest(found, worklist.beside(found, place.beside))):
            raise DataError(
                f"run {place.run} has another answer to {place.sample!r:.80} now than the page shows; "
                "copy what you wrote, and reload the page"
            )
        return found

    def item_of(self, subject: Subject) -> Item | None:
        """The response that was decided on; None if its run is gone, or has another answer now."""
        try:
            found = self.worklist(subject.run).named(subject.sample.id, subject.variant)
        except DataError:
            return None
        return found if found is not None and found.key == subject.key else None


def show(annotations: Annotations, query: Query, sample: str = "", variant: str = "") -> View:
    """The first response of the list, or the first to a certain sample (of a certain variant)."""
    try:
        found = annotations.find(query)
        if not sample:
            return _view(annotations, query, next(iter(found), None))
        everything = [*found, *annotations.worklist(query.run).items]
        wanted = [one for one in everything if one.sample.id == sample and variant in ("", one.response.variant)]
        if not wanted:
            who = f" of {variant!r:.60}" if variant else ""
            raise DataError(f"run {query.run} has no response{who} to {sample!r:.80}; choose one of the list")
        return _view(annotations, query, wanted[0])
    except MisError as error:
        return View(errors=(str(error),))


def go(annotations: Annotations, query: Query, target: Mapping[str, Any]) -> View:
    """Another response: a ``place`` that was shown before, or ``by`` one step from the one shown (``from``)."""
    try:
        if "place" in target:
            return _view(annotations, query, annotations.item_at(read_place(target["place"])))
        here = annotations.item_at(read_place(target["from"])) if target.get("from") else None
        following = step(annotations.find(query), here, int(target.get("by", 1)), query.chosen.order)
        return _view(annotations, query, following)
    except MisError as error:
        return View(errors=(str(error),))


def record(annotations: Annotations, query: Query, place: str, values: Any, event_id: str, reason: str = "") -> View:
    """Keep a decision, and show the next response of the list."""
    try:
        event = keep(annotations, query, place, values, event_id, reason)
        item = annotations.item_at(read_place(place))
        query = replace(query, run=query.run or item.run)
        following = step(annotations.find(query), item, 1, query.chosen.order)
        return _view(annotations, query, following, done=(event, item))
    except MisError as error:
        return View(errors=(str(error),))


def keep(annotations: Annotations, query: Query, place: str, values: Any, event_id: str, reason: str = "") -> Event:
    """Keep a decision; when it returns, the decision is on disk. The same ``event_id`` again changes nothing.

    Raises:
        DataError: response, decision or author are invalid, or the database cannot be written.
    """
    where, decision = read_place(place), read_decision(values)
    item = annotations.item_at(where)
    other = annotations.worklist(where.run).beside(item, where.beside) if where.beside else None
    decision = decision.model_copy(update={"swapped": where.swapped, "preference": _turned(decision, where)})
    return annotations.store.record(
        annotations.labels().spelled(query.author),
        item.subject,
        decision,
        other=other.subject if other else None,
        kind=Kind.ADJUDICATE if query.chosen.whose is Whose.DISPUTED else Kind.DECIDE,
        event_id=event_id,
        reason=reason,
    )


def undo(annotations: Annotations, query: Query, event_id: str) -> View:
    """Take back one's latest decision, and show its response again."""
    try:
        event = annotations.store.undo(query.author, event_id=event_id)
        item = annotations.item_of(event.subject)
        if item is None:  # its run is gone, or has another answer now
            return _view(annotations, query, next(iter(annotations.find(query)), None), done=(event, None))
        before = next(one for one in annotations.store.events(subject=event.subject) if one.id == event.undoes)
        return _view(annotations, query, item, done=(event, None), fill=before.decision)
    except MisError as error:
        return View(errors=(str(error),))


def export(annotations: Annotations) -> str:
    """Every event as a file for the browser to save, as ``mis annotations export`` writes it."""
    return write_events(annotations.store.events(), Form.JSONL)


def agreement(annotations: Annotations) -> Markup:
    """How far people agree, over everything in the store."""
    try:
        return view.agreement(team_agreement(annotations.labels()))
    except MisError as error:
        return html.error_bar([str(error)])


def progress(annotations: Annotations, query: Query) -> Progress:
    """How many of the list's responses this person has decided on, and how fast."""
    everything = replace(query, chosen=query.chosen.model_copy(update={"whose": Whose.ALL}))
    found = annotations.find(everything)
    labels = list(annotations.labels().by(query.author))
    decided = {label.key for label in labels}
    return Progress(done=sum(item.key in decided for item in found), total=len(found), seconds=_pace(labels[-51:]))


def read_place(text: Any) -> Place:
    """The place that the browser names.

    Raises:
        DataError: it is not a place.
    """
    try:
        return Place.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        raise DataError("the page does not say which response it shows; reload it") from error


def selectable(annotations: Annotations) -> tuple[list[str], list[str]]:
    """The runs and the people that the decisions of a delta can be selected by."""
    try:
        labels = annotations.labels()
    except MisError:  # the list itself reports it
        return [], []
    return sorted({key[0] for key in labels.keys}), labels.authors


def make(
    annotations: Annotations,
    name: str,
    replay: float | None,
    run: str | None = None,
    authors: Sequence[str] | None = None,
    causes: Sequence[str] | None = None,
    *,
    replay_from: Path | None = None,
    targets: bool = True,
) -> tuple[Markup, str]:
    """Write a training delta; returns what it holds as HTML, and its name (NAME/vN) for ``start``, "" if there is none.

    Args:
        annotations: the runs and the store.
        name: of the delta.
        replay: so many rows of the old training data are added.
        run: only decisions on this run; empty for all.
        authors: only decisions of these people; empty for all.
        causes: only responses of which somebody named one of these causes; empty for all.
        replay_from: the data with that old training data, where the annotated runs have none, as live ones.
        targets: whether corrected answers or pairs are needed; KTO learns from the labels alone.
    """
    wanted = {
        "replay_from": replay_from,
        "targets": targets,
        "run": run or None,
        "authors": authors or (),
        "causes": causes or (),
    }
    rows = int(replay or 0)
    if rows < 0:
        return html.error_bar([f"expected 0 or more rows to replay, found {rows}"]), ""
    root = annotations.root
    try:
        made = make_delta(annotations.store, root, None, name.strip() or "delta", replay=rows, **wanted)
    except (MisError, OSError) as error:
        return html.error_bar([str(error)]), ""
    return view.delta(made), Path(made.folder).relative_to(root / DELTAS).as_posix()


def start(annotations: Annotations, trainings: Trainings, delta: str, config: str | None) -> Markup:
    """Start the fine-tuning on a delta by its name (NAME/vN); returns where to watch it, or why it was not started."""
    root = annotations.root
    known = {f"{folder.parent.name}/{folder.name}": folder for folder in (root / DELTAS).glob("*/v*")}
    folder = known.get(delta)
    if folder is None:
        return html.error_bar(["build the training data first; the fine-tuning learns from them"])
    try:
        method = trainings.method(config or CONFIG)
        name = f"{config or CONFIG}-{folder.parent.name}-{folder.name}"
        job = trainings.start(config or CONFIG, [*overrides(folder, root, method), f"name={name}"])
    except (MisError, OSError) as error:
        return html.error_bar([str(error)])
    return view.started(job.name, start_of(folder, root).words)


def _view(
    annotations: Annotations,
    query: Query,
    item: Item | None,
    *,
    done: Done | None = None,
    fill: Decision | None = None,
) -> View:
    """An item with its form, filled with one's own decision, or with ``fill`` if there is none."""
    state = progress(annotations, replace(query, run=item.run) if item else query)
    address = query.link(item).query()
    if item is None:
        empty = view.nothing_left(query.chosen.whose, state.total)
        return View(empty, view.no_form(state, done), address=address)
    worklist, labels = annotations.worklist(item.run), annotations.labels()
    other = worklist.beside(item, query.chosen.beside) if query.chosen.beside else None
    own = labels.decided_by(item.key, query.author)
    place = Place(
        run=item.run,
        sample=item.sample.id,
        variant=item.response.variant,
        beside=other.response.variant if other else "",
        swapped=bool(other) and query.blind and _is_on_the_right(query.author, item),
        answers=_digest(item, other),
    )
    decision = own.decision if own else fill
    if decision:
        decision = decision.model_copy(update={"preference": _turned(decision, place)})
    settles = query.chosen.whose is Whose.DISPUTED
    revealed = not query.blind or own is not None or settles
    verb = "Adjudicate" if settles else "Change" if own else "Save"
    votes = {label.author: label for label in labels.of(item.key) if label.kind is Kind.DECIDE} if settles else {}
    is_decided = revealed and labels.of(item.key)
    history = sorted(annotations.store.events(subject=item.subject), key=AGE) if is_decided else []
    shown = view.Shown(item, other, place.swapped, revealed, worklist.data)
    where = place.model_dump_json()
    form = view.form(shown, where, decision, history, state, done, verb=verb, votes=list(votes.values()))
    return View(view.item(shown), form, address=address)


def _turned(decision: Decision, place: Place) -> Preference | None:
    """Between sides (left, right) and responses (labelled one, other one): the same exchange both ways."""
    exchanged = {Preference.A: Preference.B, Preference.B: Preference.A}
    found = decision.preference
    return exchanged.get(found, found) if place.swapped and found is not None else found


def _is_on_the_right(author: str, item: Item) -> bool:
    """Where the labelled response is: fixed for a person and a response, and right in half of all cases."""
    return hashlib.sha256("/".join([author, *item.key[:3]]).encode()).digest()[0] % 2 == 1


def _digest(item: Item, other: Item | None) -> str:
    """Distinguishes the responses that a page shows from later ones under the same names."""
    return response_digest("".join(one.key[3] for one in (item, other) if one))[:16]


def _pace(labels: Iterable[Label]) -> float | None:
    times = [datetime.fromisoformat(label.at) for label in labels]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    return median(found) if (found := [gap for gap in gaps if 0 < gap <= PAUSE]) else None
