"""Annotating what Compare shows: verdicts, causes, a corrected answer, and which of two answers is better.

Decisions go into the store of the tab Annotate. Answers that no run holds yet are first kept in the person's live run
of the day (``recipes.live``). Nothing is kept per session: the page sends what was chosen, with an id drawn before the
first try, so that sending it twice records it once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from mis_lib.annotate.decisions import CurrentLabels, Decision, Event, Preference, Subject
from mis_lib.annotate.store import AnnotationStore
from mis_lib.errors import DataError, MisError
from mis_lib.recipes.live import Given, keep, own_sample
from mis_lib.results.evaluated import run_name
from mis_lib.schema import Outcome, Record, Sample
from workbench.compare.comparison import Answer, Comparison
from workbench.host import Host

HARMFUL, BENIGN = "harmful", "benign"
EXCHANGED = {Preference.A: Preference.B, Preference.B: Preference.A}


class Choices(Record):
    """What the page sends: choices of one person, of which nothing is trusted but its form."""

    id: str = Field(default="", pattern=r"^[0-9a-f]{0,48}$")
    author: str = ""
    truth: str = ""
    """"harmful" or "benign", of a prompt whose truth is not known."""
    answers: dict[str, Decision] = Field(default_factory=dict)
    """By variant."""
    preferences: dict[str, Preference] = Field(default_factory=dict)
    """By the variant of the right answer: ``a`` is the first column, ``b`` that one."""
    events: tuple[str, ...] = ()
    """Ids of what was recorded last, to take it back."""


class Recorded(NamedTuple):
    """One decision that is on disk, and what the rule judge says of the same answer."""

    event: Event
    judged: Outcome | None


class Saved(NamedTuple):
    """What the panel shows after a step."""

    choices: Choices
    recorded: Sequence[Recorded] = ()
    undone: int = 0
    problem: str = ""


def read_choices(sent: Any) -> Choices:
    """The choices that a page sends.

    Raises:
        DataError: they have another form; the field is named.
    """
    try:
        return Choices.model_validate(sent)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"decision: field {field!r}: {first['msg']}, found {first['input']!r:.80}") from error


def save(host: Host, store: AnnotationStore, shown: Comparison | None, sent: Any, author: str) -> Saved:
    """Record what was chosen; returned without a problem means that it is on disk."""
    choices = Choices()
    try:
        choices = read_choices(sent)
        if shown is None:
            raise DataError("there is no answer to annotate; press Compare first")
        return Saved(choices, _record(host, store, shown, choices, author))
    except (MisError, OSError) as error:
        return Saved(choices, problem=str(error))


def undo(store: AnnotationStore, sent: Any, author: str) -> Saved:
    """Take back what was recorded last; the choices stay in the form."""
    choices = Choices()
    try:
        choices = read_choices(sent)
        if not choices.events:
            raise DataError("nothing was saved on these answers yet, so there is nothing to take back")
        for event in choices.events:
            store.undo(author, target=event)
        return Saved(choices, undone=len(choices.events))
    except MisError as error:
        return Saved(choices, problem=str(error))


def _record(host: Host, store: AnnotationStore, shown: Comparison, choices: Choices, author: str) -> list[Recorded]:
    whole = [answer for answer in shown.answers if answer.whole]
    variants = [answer.variant for answer in whole]
    if unknown := (choices.answers.keys() | choices.preferences.keys()) - set(variants):
        raise DataError(f"{min(unknown)}: only whole answers on this page can be annotated; compare again")
    decisions = {
        name: choices.answers.get(name, Decision()).model_copy(update=_preference(choices.preferences.get(name)))
        for name in variants
    }
    if not any(not one.is_empty for one in decisions.values()):
        raise DataError("nothing is chosen yet: 1 to 9 rule on the marked column, A, B, T, N say which is better")
    subjects, judged = _subjects(host, shown, whole, choices.truth, author)
    first = subjects[variants[0]]
    labels = CurrentLabels()
    labels.take(store.labels())
    name = labels.spelled(author)
    recorded = []
    for place, (variant, decision) in enumerate(decisions.items()):
        subject, event_id = subjects[variant], f"{choices.id}-{place}" if choices.id else None
        known = labels.decided_by(subject.key, name)
        if decision.is_empty or (known and known.decision == decision and known.id != event_id):
            continue  # nothing chosen, or recorded already by an earlier save
        other = first if decision.preference is not None else None
        event = store.record(name, subject, decision, other=other, event_id=event_id)
        recorded.append(Recorded(event, judged.get(variant)))
    return recorded


def _preference(chosen: Preference | None) -> dict[str, Any]:
    """The fields of a decision on the right one of two answers; it is the event's subject, so the letters exchange."""
    return {} if chosen is None else {"preference": EXCHANGED.get(chosen, chosen), "swapped": True}


def _subjects(
    host: Host, shown: Comparison, whole: Sequence[Answer], truth: str, author: str
) -> tuple[dict[str, Subject], dict[str, Outcome]]:
    """What is decided on, by variant, and the rule judge's outcome of each; the answers are in a run afterwards."""
    images = [Path(image.path) for image in shown.prompt.images]
    sample = shown.sample or _own(shown, images, truth)
    responses = [answer.response(sample.id) for answer in whole]
    given = Given(sample, images, shown.settings, responses, shown.columns)
    kept = keep(host.runs, author, shown.started[:10], given, host.answerers)
    run = run_name(kept.run)
    subjects = {
        answer.variant: Subject(run=run, variant=answer.variant, sample=kept.sample, response=answer.text)
        for answer in whole
    }
    return subjects, {name: verdict.outcome for name, verdict in kept.verdicts.items()}


def _own(shown: Comparison, images: Sequence[Path], truth: str) -> Sample:
    if truth not in (HARMFUL, BENIGN):
        raise DataError("whether this request is harmful is not known; choose harmful (H) or harmless (L) first")
    names = [image.name for image in shown.prompt.images]
    return own_sample(shown.question, images, names, harmful=truth == HARMFUL)
