"""The Annotate tab's actions as plain functions: values in, values out, nothing of Gradio.

No session holds anything: the page says which response it shows (``Place``) and which filters are set (``Ask``), so an app that was restarted in
between goes on as if nothing had happened. Who decides is the login's name where there is one; a name that a browser sends counts only
without logins.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

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
from mis_lib.annotate.delta import About
from mis_lib.annotate.store import AnnotationStore
from mis_lib.annotate.worklist import Filter, Item, Order, Whose, Worklist, read_worklist, step
from mis_lib.errors import DataError, MisError
from mis_lib.recipes.annotations import DELTAS, make_delta, overrides, start_of
from mis_lib.results.evaluated import find_runs, run_name
from mis_lib.schema import Record
from workbench import html
from workbench.annotate import view
from workbench.links import Link, Tab, resolve_run
from workbench.trainings import Trainings

# ---------- What a page of the Annotate tab asks for, and the address that says the same.


@dataclass(frozen=True)
class Ask:
    """What the page asks for: a run, a part of it, how it is shown, and to whom."""

    run: str = ""
    chosen: Filter = field(default_factory=Filter)
    blind: bool = True
    author: str = ""


def ask_of_link(link: Link, ask: Ask) -> Ask:
    """The filters that a link means; where it does not name whose responses, those that are decided on are shown too."""
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
    return replace(ask, run=link.run or ask.run, chosen=chosen)


def shows(place: str, ask: Ask) -> bool:
    """Whether an address is one of this list: the same run under the same filters."""
    link = Link.parse(place)
    return link.tab is Tab.ANNOTATE and link.run == ask.run and ask_of_link(link, ask).chosen == ask.chosen


def link_of(ask: Ask, item: Item | None) -> str:
    """The address of a list, opened at an item if there is one: ``ask_of_link`` of it is the same list."""
    chosen = ask.chosen
    pair = (chosen.beside, chosen.variant) if chosen.beside and chosen.variant else ()
    return Link(
        tab=Tab.ANNOTATE,
        run=ask.run,
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
    ).query()


# ---------- What all sessions of the Annotate tab share: the runs, read once until their files change, and what people have decided.

KEPT = 6  # worklists in memory


class Place(Record):
    """The response that the page shows; travels through the browser and is looked up, never trusted."""

    run: str
    sample: str
    variant: str
    beside: str = ""
    swapped: bool = False
    answers: str = ""
    """Digest of the responses as the page shows them; where it is given, others are not decided on in their place."""


class Desk:
    """What all sessions share: the runs, read once until their files change, and the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = AnnotationStore(root=root)
        self._standing = CurrentLabels()
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
        files = sorted(
            [*run.folder.glob("*.jsonl"), *run.folder.glob("verdicts/*.jsonl"), *run.folder.glob("shards/*")]
        )
        state = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        with self._lock:
            known = self._lists.get(name)
            if known is None or known[0] != state:
                known = self._lists[name] = (state, read_worklist(run))
            self._lists.move_to_end(name)
            while len(self._lists) > KEPT:
                self._lists.popitem(last=False)
            return known[1]

    def standing(self) -> CurrentLabels:
        """What people have decided, as of now.

        Raises:
            DataError: the database cannot be read.
        """
        with self._lock:
            newest = self.store.newest()
            if newest < self._standing.seen:  # another database was put in its place
                self._standing = CurrentLabels()
            if newest > self._standing.seen:
                self._standing.take(self.store.labels(after=self._standing.seen))
            return self._standing

    def item_at(self, place: Place) -> Item:
        """The response at a place.

        Raises:
            DataError: there is none, or it is another one than the page shows.
        """
        worklist = self.worklist(place.run)
        found = worklist.named(place.sample, place.variant)
        if found is not None and place.answers not in ("", answers(found, worklist.beside(found, place.beside))):
            raise DataError(
                f"run {place.run} has another answer to {place.sample!r:.80} now than the page shows; copy what you wrote, and reload the page"
            )
        if found is None:
            raise DataError(
                f"run {place.run} has no response of {place.variant!r:.60} to {place.sample!r:.80}; reload the page"
            )
        return found

    def item_of(self, subject: Subject) -> Item | None:
        """The response that was decided on; None where its run is gone, or has another answer now."""
        try:
            found = self.worklist(subject.run).named(subject.sample.id, subject.variant)
        except DataError:
            return None
        return found if found is not None and found.key == subject.key else None


def answers(item: Item, other: Item | None) -> str:
    """What tells the responses that a page shows from others under the same names."""
    return response_digest("".join(one.key[3] for one in (item, other) if one))[:16]


def read_place(text: Any) -> Place:
    """The place that the browser names.

    Raises:
        DataError: it is none.
    """
    try:
        return Place.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        raise DataError("the page does not say which response it shows; reload it") from error


PAUSE = 300  # seconds: a longer gap between two decisions is a break, not the time of a decision


class Progress(Record):
    """How far one person is in the list that the filters make."""

    done: int
    total: int
    seconds: float | None
    """Median time of a decision; None before there are two."""


@dataclass(frozen=True)
class View:
    """What a step shows; None leaves a part of the screen as it is."""

    item: str | None = None
    form: str | None = None
    errors: str = ""
    place: str | None = None


def show(desk: Desk, ask: Ask, sample: str = "", variant: str = "") -> View:
    """The first response of the list, or the first to a certain sample (of a certain variant)."""
    try:
        worklist = desk.worklist(ask.run)
        found = worklist.find(ask.chosen, desk.standing(), ask.author)
        if not sample:
            return _view(desk, ask, worklist, next(iter(found), None))
        wanted = ((item, item.key[1:3]) for item in [*found, *worklist.items])
        chosen = next((item for item, (of, by) in wanted if of == sample and variant in ("", by)), None)
        if chosen is None:
            who = f" of {variant!r:.60}" if variant else ""
            raise DataError(f"run {ask.run} has no response{who} to {sample!r:.80}; choose one of the list")
        return _view(desk, ask, worklist, chosen)
    except MisError as error:
        return View(errors=html.error_bar([str(error)]))


def go(desk: Desk, ask: Ask, target: Mapping[str, Any]) -> View:
    """Another response: a ``place`` that was shown before, or ``by`` one step from the one shown (``from``)."""
    try:
        if "place" in target:
            place = read_place(target["place"])
            return _view(desk, ask, desk.worklist(place.run), desk.item_at(place))
        worklist = desk.worklist(ask.run)
        here = desk.item_at(read_place(target["from"])) if target.get("from") else None
        found = worklist.find(ask.chosen, desk.standing(), ask.author)
        return _view(desk, ask, worklist, step(found, here, int(target.get("by", 1)), ask.chosen.order))
    except MisError as error:
        return View(errors=html.error_bar([str(error)]))


def record(desk: Desk, ask: Ask, place: str, values: Any, event_id: str, reason: str = "") -> View:
    """Keep a decision, and show the next response of the list."""
    try:
        event = keep(desk, ask, place, values, event_id, reason)
        item = desk.item_at(read_place(place))
        worklist = desk.worklist(item.run if not ask.run else ask.run)
        following = step(worklist.find(ask.chosen, desk.standing(), ask.author), item, 1, ask.chosen.order)
        return _view(desk, ask, worklist, following, done=(event, item))
    except MisError as error:
        return View(errors=html.error_bar([str(error)]))


def keep(desk: Desk, ask: Ask, place: str, values: Any, event_id: str, reason: str = "") -> Event:
    """Keep a decision; returned means that it is on disk. The same ``event_id`` again changes nothing.

    Raises:
        DataError: the response, the decision or the author is none, or the database cannot be written.
    """
    where, decision = read_place(place), read_decision(values)
    item = desk.item_at(where)
    other = desk.worklist(where.run).beside(item, where.beside) if where.beside else None
    decision = decision.model_copy(update={"swapped": where.swapped, "preference": _turned(decision, where)})
    kind = Kind.ADJUDICATE if ask.chosen.whose is Whose.DISPUTED else Kind.DECIDE
    return desk.store.record(
        desk.standing().spelled(ask.author),
        item.subject,
        decision,
        other=other.subject if other else None,
        kind=kind,
        event_id=event_id,
        reason=reason,
    )


def undo(desk: Desk, ask: Ask, event_id: str) -> View:
    """Take back one's latest decision, and show its response again."""
    try:
        event = desk.store.undo(ask.author, event_id=event_id)
        item = desk.item_of(event.subject)
        if item is None:  # its run is gone, or has another answer now
            worklist = desk.worklist(ask.run)
            following = next(iter(worklist.find(ask.chosen, desk.standing(), ask.author)), None)
            return _view(desk, ask, worklist, following, done=(event, None))
        before = next(one for one in desk.store.events(subject=event.subject) if one.id == event.undoes)
        return _view(desk, ask, desk.worklist(item.run), item, done=(event, None), fill=before.decision)
    except MisError as error:
        return View(errors=html.error_bar([str(error)]))


def agreement(desk: Desk) -> str:
    """How far people agree, over everything in the store."""
    try:
        return view.agreement(team_agreement(desk.standing()))
    except MisError as error:
        return html.error_bar([str(error)])


def progress(desk: Desk, ask: Ask, worklist: Worklist) -> Progress:
    """How many of the list's responses this person has decided on, and how fast."""
    standing = desk.standing()
    everything = worklist.find(ask.chosen.model_copy(update={"whose": Whose.ALL}), standing, ask.author)
    mine = standing.by(ask.author)
    decided = {label.key for label in mine}
    return Progress(
        done=sum(item.key in decided for item in everything), total=len(everything), seconds=_pace([*mine][-51:])
    )


def _view(
    desk: Desk,
    ask: Ask,
    worklist: Worklist,
    item: Item | None,
    *,
    done: tuple[Event, Item | None] | None = None,
    fill: Decision | None = None,
) -> View:
    """An item with its form, filled with one's own decision, or with ``fill`` where there is none."""
    standing = desk.standing()
    state = progress(desk, ask, worklist)
    said = view.said(done[0], done[1]) if done else ""
    ack = done[0].id if done else ""
    if item is None:
        empty = view.nothing_left(ask.chosen.whose, state.total)
        return View(empty, view.no_form(state, said, ack), place=link_of(ask, None))
    other = worklist.beside(item, ask.chosen.beside) if ask.chosen.beside else None
    mine = standing.decided_by(item.key, ask.author)
    open_book = not ask.blind or mine is not None or ask.chosen.whose is Whose.DISPUTED
    place = Place(
        run=item.run,
        sample=item.sample.id,
        variant=item.response.variant,
        beside=other.response.variant if other else "",
        swapped=bool(other) and ask.blind and _coin(ask.author, item),
        answers=answers(item, other),
    )
    history = sorted(desk.store.events(subject=item.subject), key=AGE) if open_book and standing.of(item.key) else []
    shown = view.Shown(item, other, place.swapped, open_book, worklist.data)
    return View(
        view.item(shown),
        view.form(
            shown, place.model_dump_json(), _facing(mine.decision if mine else fill, place), history, state, said, ack
        ),
        place=link_of(ask, item),
    )


def _facing(decision: Decision | None, place: Place) -> Decision | None:
    """A decision as the page shows it now: the preference by side."""
    return decision and decision.model_copy(update={"preference": _turned(decision, place)})


def _turned(decision: Decision, place: Place) -> Preference | None:
    """Between sides (left, right) and responses (labelled one, other one): the same exchange both ways."""
    exchanged = {Preference.A: Preference.B, Preference.B: Preference.A}
    found = decision.preference
    return exchanged.get(found, found) if place.swapped and found is not None else found


def _coin(author: str, item: Item) -> bool:
    """Whether the labelled response stands on the right: fixed for a person and a response, even over all."""
    return hashlib.sha256("/".join([author, *item.key[:3]]).encode()).digest()[0] % 2 == 1


def _pace(labels: list[Label]) -> float | None:
    times = [datetime.fromisoformat(label.at) for label in labels]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    return median(found) if (found := [gap for gap in gaps if 0 < gap <= PAUSE]) else None


# ---------- From decisions to the next training run: make the delta of what stands, and start the re-tune on it as a process of its own.

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
        return html.error_bar([f"expected 0 or more rows to replay, found {rows}"]), ""
    try:
        made = make_delta(desk.store, desk.root, None, name.strip() or "delta", replay=rows, **wanted)
    except (MisError, OSError) as error:
        return html.error_bar([str(error)]), ""
    return about(made), Path(made.folder).relative_to(desk.root / DELTAS).as_posix()


def start(desk: Desk, trainings: Trainings, delta: str, config: str | None) -> str:
    """Start the re-tune on a delta by its name (NAME/vN); returns where to watch it, or why it was not started."""
    name, _, version = delta.partition("/")
    known = {f"{folder.parent.name}/{folder.name}": folder for folder in (desk.root / DELTAS).glob("*/v*")}
    if delta not in known:
        return html.error_bar(["make the training delta first; the re-tune learns from it"])
    try:
        method = trainings.plan(config or CONFIG, []).settings.method
        wanted = overrides(known[delta], desk.root, method)
        job = trainings.start(config or CONFIG, [*wanted, f"name={config or CONFIG}-{name}-{version}"])
    except (MisError, OSError) as error:
        return html.error_bar([str(error)])
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
