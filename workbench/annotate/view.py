"""HTML of the Annotate tab: a response with its verdicts, the form, people's agreement, and training deltas.

Pure functions from values to HTML. Each sentence of a response carries its character range (``data-start``), so that
the browser can say which characters were marked. Sentences that a judge's reason quotes are underlined; a click on the
quotation leads to them. The form's choices are plain buttons, whose state the script keeps.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from mis_lib.annotate.agreement import TeamAgreement
from mis_lib.annotate.decisions import CAUSES, SEVERITIES, Decision, Event, Kind, Label
from mis_lib.annotate.delta import About
from mis_lib.annotate.worklist import SIGNALS, Item, Order, Whose
from mis_lib.data.images import inside
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image
from mis_lib.judge.quotes import citations
from mis_lib.schema import Outcome, Record, SegmentKind
from mis_lib.text.segments import label_sentences
from workbench import labels
from workbench.html import VARIANT_NOTES, error_bar, macros, render, unlike
from workbench.labels import OUTCOME_LABELS, PREFERENCES
from workbench.links import Link, Tab
from workbench.prompt import STRIP_SIDE, thumbnail

WHOSE = {
    Whose.OPEN: "To do",
    Whose.UNTOUCHED: "Unlabelled",
    Whose.OTHERS: "Labelled by others only",
    Whose.MINE: "Labelled by me",
    Whose.DISPUTED: "Disputed",
    Whose.ALL: "All",
}
ORDERS = {Order.WORST: "Worst first", Order.RANDOM: "At random"}
KEYS = (
    ("1 - 4", "outcome of a harmful item"),
    ("5 - 8", "outcome of a benign item"),
    ("9", "cannot tell"),
    ("Shift + 1 - 8", "causes, several allowed"),
    ("S", "severity, one step up"),
    ("A  B  T  N", "left is better, right is better, tie, neither"),
    ("M", "mark the selected words, or the next sentence"),
    ("C  R  E", "write a note, a reason, the corrected answer"),
    ("V", "show or blur the images"),
    ("Enter", "save and go to the next one (in a field: Ctrl + Enter)"),
    ("J  K", "next, previous, without saving"),
    ("U", "undo your latest decision"),
    ("Esc", "leave a field, close this list"),
    ("G", "what the labels mean"),
    ("?", "this list"),
)
LINKS = 50  # disputed responses that are listed
REASONS = 20  # left-out decisions that are listed
_ROW = re.compile(r"\s*(?:\||```|~~~)")  # of a table or of code


class Shown(NamedTuple):
    """A response as it is shown, alone or next to another one."""

    item: Item
    other: Item | None
    swapped: bool
    """The response to label is on the right."""
    revealed: bool
    """Names and verdicts are shown."""
    data: Path
    """The folder that image paths are relative to."""

    @property
    def sides(self) -> tuple[Item | None, Item | None]:
        """What is on the left and on the right."""
        return (self.other, self.item) if self.swapped else (self.item, self.other)


class Progress(Record):
    """How far one person is in the list that the filters make."""

    done: int
    total: int
    seconds: float | None
    """Median time of a decision; None before there are two."""


class Sentence(NamedTuple):
    """A sentence of a text: characters ``[start, end)`` of it."""

    text: str
    start: int
    end: int
    judges: list[str]
    """Those whose reason quotes it."""

    @property
    def is_row(self) -> bool:
        """Whether it belongs to a table or to code: it gets another font, but no other text, so that marks fit."""
        return bool(_ROW.match(self.text))


Done = tuple[Event, Item | None]
"""What was just recorded, and the response it is about; None where that is gone."""


def item(shown: Shown) -> Markup:
    """Images, question and one or two responses."""

    def parts(one: Item) -> list[tuple[SegmentKind, list[Sentence]]]:
        return _parts(one.response.text, _quotes(one) if shown.revealed else {})

    def notes(one: Item) -> list[str]:
        known = VARIANT_NOTES.get(one.response.variant, "") if shown.revealed else ""
        within = " within its thought" if one.response.thought and not one.response.text else ""
        cut = f"cut at the token limit{within}" if one.response.finish_reason == "length" else ""
        trained_on = "was trained on this item: in no test figure" if one.trained_on else ""
        return [note for note in (known, cut, trained_on) if note]

    pictures = [(name, _thumbnail_in(shown.data, name)) for name in shown.item.sample.images]
    values = {"pictures": pictures, "signals": SIGNALS, "parts": parts, "notes": notes, "quoted": _quoted}
    return render("annotate/item.html", shown=shown, **values)


def preview(text: str) -> Markup:
    """The corrected answer in its parts, as it would be read."""
    return _macros().preview(_parts(text, {})) if text.strip() else Markup()


def form(
    shown: Shown,
    place: str,
    own: Decision | None,
    history: Sequence[Event],
    progress: Progress,
    done: Done | None,
    *,
    verb: str = "Save",
    votes: Sequence[Label] = (),
) -> Markup:
    """Everything that can be recorded.

    Args:
        shown: the response.
        place: what the browser sends back to say which response it is about.
        own: the person's decision, with which the form is filled.
        history: what was recorded on the response.
        progress: of this person.
        done: what was just recorded.
        verb: what the button says that saves.
        votes: what people have decided, to be adjudicated.
    """
    return _form(progress, done, shown=shown, place=place, own=own, history=history, verb=verb, votes=votes)


def no_form(progress: Progress, done: Done | None) -> Markup:
    """What replaces the form when the list is empty: one can still go back and undo."""
    return _form(progress, done)


def nothing_left(whose: Whose, total: int) -> Markup:
    """Why there is nothing to show, and how to get something."""
    return _macros().nothing_left(whose, total, WHOSE[whose])


def no_runs(folder: str) -> Markup:
    """How to get something to annotate."""
    return _macros().no_runs(folder)


def errors(messages: Sequence[str]) -> Markup:
    """The error bar, empty without messages. No two bars are equal: the page reacts only to a bar that changes."""
    return error_bar(messages) + unlike() if messages else Markup()


def agreement(found: TeamAgreement) -> Markup:
    """People's agreement: each two, all together, and the list of what is disputed."""
    links = [
        (Link(tab=Tab.ANNOTATE, run=run, variant=variant, item=sample, whose=Whose.DISPUTED).query(), sample, variant)
        for run, sample, variant in found.disputed[:LINKS]
    ]
    return _macros().agreement(found, links, WHOSE[Whose.DISPUTED])


def delta(made: About) -> Markup:
    """What a delta holds, and what was left out with the reason."""
    tests = sum(count for split, count in made.splits.items() if split != "train")
    return _macros().delta(made, tests, [*made.left_out.items()][:REASONS])


def started(job: str, begins: str) -> Markup:
    """Where to watch a re-tune that was started on a delta."""
    query = Link(tab=Tab.TRAIN, run=f"{job}/v1").query()
    return _macros().started(job, query, begins)


def _macros() -> Any:
    return macros("annotate/parts.html")


def _parts(text: str, quotes: Mapping[str, Sequence[tuple[int, int]]]) -> list[tuple[SegmentKind, list[Sentence]]]:
    """The text by kind of part, sentence by sentence; ``quotes``: which characters each judge quotes."""
    if not text.strip():
        return []
    return [
        (kind, [Sentence(one.text, one.start, one.end, _quoting(quotes, one.start, one.end)) for one in group])
        for kind, group in groupby(label_sentences(text), key=lambda one: one.kind)
    ]


def _quoting(quotes: Mapping[str, Sequence[tuple[int, int]]], start: int, end: int) -> list[str]:
    return [judge for judge, ranges in quotes.items() if any(first < end and last > start for first, last in ranges)]


def _quotes(one: Item) -> dict[str, list[tuple[int, int]]]:
    """Which characters of a response each judge quotes."""
    return {
        judge: [place for found in citations(verdict.reason, one.response.text) for place in found.places]
        for judge, verdict in one.verdicts.items()
    }


def _quoted(reason: str, text: str) -> Iterator[tuple[str, int | None]]:
    """A judge's reason in pieces: its words, and each quotation with the character of the response where it begins."""
    at = 0
    for one in citations(reason, text):
        start, end = one.start - 1, one.end + 1  # with its marks
        yield reason[at:start], None
        yield reason[start:end], one.places[0][0]
        at = end
    yield reason[at:], None


def _thumbnail_in(folder: Path, name: str) -> str | None:
    """The source of a small image; None if it cannot be read, or if its path leaves the data folder."""
    try:
        return _thumbnail(inside(folder, name))
    except (DataError, ImageError):
        return None


@lru_cache(maxsize=2048)
def _thumbnail(path: Path) -> str:
    return thumbnail(load_image(path), STRIP_SIDE)


def _form(
    progress: Progress,
    done: Done | None,
    *,
    shown: Shown | None = None,
    place: str = "",
    own: Decision | None = None,
    history: Sequence[Event] = (),
    verb: str = "Save",
    votes: Sequence[Label] = (),
) -> Markup:
    now = own or Decision()
    return render(
        "annotate/form.html",
        shown=shown,
        place=place,
        now=now,
        verb=verb,
        votes=votes,
        options=_options(shown, now) if shown else {},
        history=history,
        progress=progress,
        done=done,
        outcomes=OUTCOME_LABELS,
        causes=CAUSES,
        severities=SEVERITIES,
        guide=_guide(shown) if shown else {},
        differs=_differs,
        summary=_summary,
        keys=KEYS,
    )


def _guide(shown: Shown) -> dict[str, list[tuple[str, str]]]:
    """What the labels of an item mean, by the title of their group."""
    found = _options(shown, Decision())
    titles = {"Outcome": "outcome", "Causes": "cause", "Severity": "severity"}
    return {title: [(one.label, one.means) for one in found[kind]] for title, kind in titles.items()}


def _options(shown: Shown, now: Decision) -> dict[str, list[labels.Choice]]:
    """Everything that can be chosen, and what is."""
    return {
        "outcome": labels.outcomes(shown.item.sample.harmful, now.outcome),
        "preference": labels.preferences(now.preference),
        "cause": labels.causes(now.causes),
        "severity": labels.severities(now.severity),
    }


def _differs(event: Event, one: Item) -> bool:
    """Whether a decision differs from every judge that could score the response."""
    judged = {verdict.outcome for verdict in one.verdicts.values()} - {Outcome.UNSCORED}
    return event.decision.outcome not in (None, Outcome.UNSCORED, *judged) and bool(judged)


def _summary(event: Event) -> str:
    """An event of the history in words."""
    if event.kind is Kind.UNDO:
        return "undid a decision"
    decision = event.decision
    parts = [
        OUTCOME_LABELS[decision.outcome] if decision.outcome else "",
        *(CAUSES[cause] for cause in decision.causes),
        PREFERENCES[decision.preference][0] if decision.preference else "",
        decision.comment,
        event.reason,
    ]
    verb = "adjudicated: " if event.kind is Kind.ADJUDICATE else ""
    return verb + ("; ".join(part for part in parts if part) or "corrected the answer")
