"""The Annotate tab's actions as plain functions: values in, values out, nothing of Gradio.

No session holds anything: the page says which response it shows (``Place``) and which filters are set (``Ask``), so an app that was restarted in
between goes on as if nothing had happened. Who decides is the login's name where there is one; a name that a browser sends counts only
without logins.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from mis_lib.analysis.worth import Item
from mis_lib.annotate.agreement import team_agreement
from mis_lib.annotate.decisions import Decision, Event, Kind, Preference, read_decision
from mis_lib.annotate.worklist import Whose, Worklist, step
from mis_lib.errors import DataError, MisError
from mis_lib.schema import Record
from mis_lib.store.labels import AGE, Label
from workbench import html, render_form
from workbench.annotate import view
from workbench.ask import Ask, link_of
from workbench.desk import Desk, Place, answers, read_place

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
    said = render_form.said(done[0], done[1]) if done else ""
    ack = done[0].id if done else ""
    if item is None:
        empty = view.nothing_left(ask.chosen.whose, state.total)
        return View(empty, render_form.no_form(state, said, ack), place=link_of(ask, None))
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
        render_form.form(
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
