"""HTML of the Annotate tab's form: what can be recorded, how far one is, what was just recorded, and the list of keys.

Choices are plain buttons whose state the script keeps; the form is filled with a person's own decision where there is one.
"""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mis_lib.analysis.worth import Item
from mis_lib.annotate.decisions import CAUSES, SEVERITIES, Decision, Event, Kind, Preference
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome
from workbench.annotate.view import OUTCOME_LABELS, Shown
from workbench.compare.view import VERDICTS
from workbench.html import icon

if TYPE_CHECKING:
    from workbench.annotate.actions import Progress

PREFERENCES = {
    Preference.A: "A is better",
    Preference.B: "B is better",
    Preference.TIE: "Tie",
    Preference.BOTH_BAD: "Neither: both bad",
}
PREFERENCE_KEYS = {Preference.A: "A", Preference.B: "B", Preference.TIE: "T", Preference.BOTH_BAD: "N"}
KEYS = (
    ("1 - 5", "outcome"),
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
    ("?", "this list"),
)


def form(
    shown: Shown, place: str, mine: Decision | None, history: Sequence[Event], state: "Progress", said: str, ack: str
) -> str:
    """Everything that can be recorded, filled with one's own decision where there is one."""
    sample, now = shown.item.sample, mine or Decision()
    fitting = (*(HARMFUL_OUTCOMES if sample.harmful else BENIGN_OUTCOMES), Outcome.UNSCORED)
    outcomes = [(str(one), OUTCOME_LABELS[one], str(key), one == now.outcome) for key, one in enumerate(fitting, 1)]
    causes = [(str(one), label, f"⇧{key}", one in now.causes) for key, (one, label) in enumerate(CAUSES.items(), 1)]
    severities = [(str(one), label, "", one == now.severity) for one, label in SEVERITIES.items()]
    preferences = [(str(one), PREFERENCES[one], PREFERENCE_KEYS[one], one == now.preference) for one in PREFERENCES]
    mark = f' data-mark="{now.mark.start},{now.mark.end}"' if now.mark else ""
    draft = escape(sample.answer or shown.item.response.text)
    return (
        f'<div class="mis-form" data-place="{escape(place)}" data-ack="{escape(ack)}"{mark}>{_progress(state, said)}'
        f"{_choices('Outcome', 'outcome', outcomes)}"
        f"{_choices('Better of the two', 'preference', preferences) if shown.other else ''}"
        f"{_choices('Causes', 'cause', causes)}{_choices('Severity <kbd>S</kbd>', 'severity', severities)}"
        f'<p class="mis-marked"><button type="button" class="mis-link" data-do="mark">Mark words <kbd>M</kbd></button> <q hidden></q></p>'
        f'<label>Note <kbd>C</kbd><textarea name="comment" rows="1" maxlength="20000">{escape(now.comment)}</textarea></label>'
        f'<label>Reason for the decision <kbd>R</kbd><input name="reason" type="text" maxlength="2000"></label>'
        f'<label>Corrected answer <kbd>E</kbd><textarea name="corrected" rows="3" maxlength="20000" '
        f'placeholder="What should have been said: perception, reasoning, answer">{escape(now.corrected or "")}</textarea></label>'
        f'<button type="button" class="mis-link" data-do="draft" data-draft="{draft}">Start from '
        f"{'the reference answer' if sample.answer else 'this response'}</button>"
        f'<div class="mis-form-actions"><button type="button" class="mis-save" data-do="save">{"Change" if mine else "Save"} <kbd>Enter</kbd></button>'
        f'<button type="button" data-do="previous" aria-label="Previous response">{icon("left")}<kbd>K</kbd></button>'
        f'<button type="button" data-do="next" aria-label="Next response"><kbd>J</kbd>{icon("right")}</button>'
        f'<button type="button" data-do="undo">Undo <kbd>U</kbd></button><button type="button" data-do="help" aria-label="Keys">?</button></div>'
        f'<p class="mis-form-note" role="status"></p>{_history(history)}{key_help()}</div>'
    )


def no_form(state: "Progress", said: str, ack: str) -> str:
    """What stands in the form's place when the list is empty; one can still go back and undo."""
    return (
        f'<div class="mis-form" data-place="" data-ack="{escape(ack)}">{_progress(state, said)}<div class="mis-form-actions">'
        f'<button type="button" data-do="previous">{icon("left")}<kbd>K</kbd></button>'
        f'<button type="button" data-do="undo">Undo <kbd>U</kbd></button></div>{key_help()}</div>'
    )


def _choices(title: str, kind: str, options: Sequence[tuple[str, str, str, bool]]) -> str:
    buttons = "".join(
        f'<button type="button" class="mis-choice" data-{kind}="{value}" aria-pressed="{"true" if on else "false"}">'
        f"{f'<kbd>{key}</kbd>' if key else ''}{escape(label)}</button>"
        for value, label, key, on in options
    )
    return f'<div class="mis-choices mis-choices-{kind}" role="group"><b>{title}</b><div>{buttons}</div></div>'


def _progress(state: "Progress", said: str) -> str:
    pace = f"{state.seconds:.0f} s each" if state.seconds is not None else ""
    return (
        f'<div class="mis-progress"><progress max="{max(1, state.total)}" value="{state.done}"></progress>'
        f"<span>{state.done:,} of {state.total:,} decided by you</span><span>{pace}</span></div>{said}"
    )


def said(event: Event, one: Item | None) -> str:
    """What was just recorded, and what the judges had said about it."""
    if event.kind is Kind.UNDO or one is None:
        return f'<p class="mis-said">Taken back: your decision on <code>{escape(event.subject.sample.id)}</code>.</p>'
    decision = event.decision
    what = OUTCOME_LABELS[decision.outcome] if decision.outcome else "recorded"
    verdicts = "; ".join(
        f"{escape(judge)}: {escape(VERDICTS[found.outcome][0])}" for judge, found in one.verdicts.items()
    )
    outcomes = {found.outcome for found in one.verdicts.values()} - {Outcome.UNSCORED}
    differs = decision.outcome not in (None, Outcome.UNSCORED) and bool(outcomes) and decision.outcome not in outcomes
    sign = '<b class="mis-differs">differs from every judge</b> ' if differs else ""
    verb = "Adjudicated" if event.kind is Kind.ADJUDICATE else "Recorded"
    return (
        f'<p class="mis-said">{verb}: <code>{escape(event.subject.sample.id)}</code> <b>{escape(what)}</b>. {sign}'
        f"<small>{escape(event.subject.variant)} · {verdicts or 'no verdict'}</small></p>"
    )


def _history(events: Sequence[Event]) -> str:
    if not events:
        return ""
    lines = "".join(f"<li>{_line(event)}</li>" for event in reversed(events))
    return f'<details class="mis-history"><summary>History of this response ({len(events)})</summary><ol>{lines}</ol></details>'


def _line(event: Event) -> str:
    when = escape(event.at[:16].replace("T", " "))
    decision = event.decision
    parts = [
        OUTCOME_LABELS[decision.outcome] if decision.outcome else "",
        *(CAUSES[cause] for cause in decision.causes),
    ]
    parts += [PREFERENCES[decision.preference] if decision.preference else "", decision.comment, event.reason]
    what = (
        "took a decision back"
        if event.kind is Kind.UNDO
        else "; ".join(part for part in parts if part) or "corrected the answer"
    )
    verb = "adjudicated: " if event.kind is Kind.ADJUDICATE else ""
    return f"<b>{escape(event.author)}</b> <small>{when}</small><br>{verb}{escape(what)}"


def key_help() -> str:
    """The list of keys, shown by ``?``."""
    rows = "".join(f"<dt><kbd>{escape(key)}</kbd></dt><dd>{escape(what)}</dd>" for key, what in KEYS)
    return f'<dialog class="mis-keys"><b>Keys</b><dl>{rows}</dl><button type="button" data-do="help">Close</button></dialog>'
