"""HTML of the Annotate tab: the response with its parts and sentences, the verdicts on it with their reasons, agreement.

Pure functions from values to strings; whatever a person, a file or a model wrote is escaped. The sentences of a response carry their place in it
(``data-start``), so that the browser can say which characters were marked. Sentences that a judge's reason quotes are underlined; a click on the
quotation leads to them.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mis_lib.annotate.agreement import TeamAgreement
from mis_lib.annotate.decisions import CAUSES, SEVERITIES, Decision, Event, Kind, Preference
from mis_lib.annotate.worklist import SIGNALS, Item, Order, Whose
from mis_lib.data.images import inside
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image
from mis_lib.judge.quotes import citations
from mis_lib.schema import BENIGN_OUTCOMES, HARMFUL_OUTCOMES, Outcome, Segment, Verdict
from mis_lib.text.segments import label_sentences
from workbench.html import VARIANT_NOTES, VERDICTS, icon, picture, truth_chip
from workbench.links import Link, Tab
from workbench.prompt import STRIP_SIDE, thumbnail

if TYPE_CHECKING:
    pass
    from workbench.annotate.actions import Progress


OUTCOME_LABELS = {outcome: label for outcome, (label, _) in VERDICTS.items()} | {Outcome.UNSCORED: "Cannot tell"}
WHOSE = {
    Whose.OPEN: "Open for me",
    Whose.UNTOUCHED: "Decided by nobody",
    Whose.OTHERS: "Decided by others only",
    Whose.MINE: "Decided by me",
    Whose.DISPUTED: "Disputed",
    Whose.ALL: "All",
}
# Rows and code are set apart by their letters alone: a sentence stays one run of the very text, so that what is marked can be placed.
_SET = re.compile(r"\s*(?:\||```|~~~)")
ORDERS = {Order.WORST: "Worst first", Order.RANDOM: "At random"}


class Shown(NamedTuple):
    """A response as it is shown: with another beside it or not, names and verdicts open or not."""

    item: Item
    other: Item | None
    swapped: bool
    open_book: bool
    data: Path


def item(shown: Shown) -> str:
    """Images, question and one or two responses."""
    sample = shown.item.sample
    pictures = "".join(
        f'<figure class="mis-look"><span class="mis-number">{number}</span>{_picture(shown.data, name, number)}</figure>'
        for number, name in enumerate(sample.images, 1)
    )
    where = " &rsaquo; ".join(escape(part) for part in (sample.category, sample.sub_category) if part)
    signals = "".join(f'<li class="mis-chip">{SIGNALS[signal][1]}</li>' for signal in shown.item.signals)
    why = (
        f'<ul class="mis-why" aria-label="Why this one is worth a look">{signals}</ul>'
        if signals and shown.open_book
        else ""
    )
    return (
        f'<article class="mis-desk"><header class="mis-desk-head"><span><code>{escape(sample.id)}</code> {truth_chip(sample)} '
        f'<span class="mis-chip">{escape(sample.split)}</span></span><span>{where}</span>{why}</header>'
        f'<div class="mis-desk-asked"><div class="mis-looks">{pictures}</div><p class="mis-desk-question">{escape(sample.question)}</p></div>'
        f"{_responses(shown)}</article>"
    )


def _responses(shown: Shown) -> str:
    if shown.other is None:
        return f'<div class="mis-columns mis-columns-1">{_response(shown, shown.item, "")}</div>'
    left, right = (shown.other, shown.item) if shown.swapped else (shown.item, shown.other)
    return f'<div class="mis-columns">{_response(shown, left, "A")}{_response(shown, right, "B")}</div>'


def _response(shown: Shown, one: Item, side: str) -> str:
    labelled = one is shown.item
    name = escape(one.response.variant) if shown.open_book else "name hidden"
    note = VARIANT_NOTES.get(one.response.variant, "") if shown.open_book else ""
    badge = f'<span class="mis-side">{side}</span>' if side else ""
    mine = '<span class="mis-chip mis-labelled">label this one</span>' if labelled and side else ""
    cut = " · cut at the token limit" if one.response.finish_reason == "length" else ""
    verdicts = (
        _verdicts(one)
        if shown.open_book
        else '<p class="mis-no-verdict">Verdicts are hidden until you have decided.</p>'
    )
    return (
        f'<section class="mis-column{" mis-subject" if labelled else ""}"{" data-subject" if labelled else ""}>'
        f"<header><div><h3>{badge}{name}</h3><small>{note}{cut}</small></div>{mine}</header>{verdicts}"
        f'<div class="mis-answer">{_text(one.response.text, _cited(one) if shown.open_book else {})}</div></section>'
    )


def _verdicts(one: Item) -> str:
    if not one.verdicts:
        return '<p class="mis-no-verdict">No judge has read it yet.</p>'
    lines = []
    for judge, verdict in one.verdicts.items():
        label, tone = VERDICTS[verdict.outcome]
        reason = _reason(verdict, one.response.text)
        lines.append(
            f'<li><span class="mis-{tone}">{icon(tone)}<b>{escape(judge)}</b> {escape(label)}</span>{reason}</li>'
        )
    return f'<ul class="mis-verdicts">{"".join(lines)}</ul>'


def _reason(verdict: Verdict, text: str) -> str:
    """Why the judge said so, in its words; what it quotes of the response leads there."""
    pieces, at = [], 0
    for one in citations(verdict.reason, text):
        start, end = one.start - 1, one.end + 1  # with its marks
        pieces += [
            escape(verdict.reason[at:start]),
            f'<button type="button" class="mis-link" data-cite="{one.places[0][0]}" title="Show it in the response">',
            f"{escape(verdict.reason[start:end])}</button>",
        ]
        at = end
    return f"<small>{''.join(pieces)}{escape(verdict.reason[at:])}</small>" if verdict.reason else ""


def _cited(one: Item) -> Mapping[str, list[tuple[int, int]]]:
    """Which characters of a response each judge quotes."""
    return {
        judge: [place for found in citations(verdict.reason, one.response.text) for place in found.places]
        for judge, verdict in one.verdicts.items()
    }


def _text(text: str, cited: Mapping[str, list[tuple[int, int]]] | None = None) -> str:
    """The text in its parts, sentence by sentence; each knows at which character it begins, and which judges quote it."""
    if not text.strip():
        return '<p class="mis-waiting">(no text)</p>'
    blocks = []
    for kind, group in groupby(label_sentences(text), key=lambda part: part.kind):
        sentences = "".join(_sentence(part, cited or {}) for part in group)
        blocks.append(f'<section class="mis-part mis-{kind}"><b>{kind}</b><p>{sentences}</p></section>')
    return "".join(blocks)


def _sentence(part: Segment, cited: Mapping[str, list[tuple[int, int]]]) -> str:
    judges = [
        judge for judge, places in cited.items() if any(start < part.end and end > part.start for start, end in places)
    ]
    told = f' title="Quoted by {escape(", ".join(judges))}"' if judges else ""
    name = "mis-sentence" + (" mis-set" if _SET.match(part.text) else "") + (" mis-cited" if judges else "")
    return f'<span class="{name}" data-start="{part.start}" data-end="{part.end}"{told}>{escape(part.text)}</span>'


def preview(text: str) -> str:
    """The corrected answer in its parts, as it would be read."""
    if not text.strip():
        return ""
    return f'<section class="mis-preview"><h3>Your corrected answer</h3><div class="mis-answer">{_text(text)}</div></section>'


@functools.lru_cache(maxsize=2048)
def _thumbnail(path: Path) -> str:
    return thumbnail(load_image(path), STRIP_SIDE)


def _picture(folder: Path, name: str, number: int) -> str:
    """An image, blurred until asked for; a path that leaves the data folder is not followed."""
    try:
        return picture(_thumbnail(inside(folder, name)), f"Image {number}", flagged=True)
    except (DataError, ImageError):
        return f'<p class="mis-no-picture">Image {number} cannot be shown: <code>{escape(name)}</code> is not there</p>'


def nothing_left(whose: Whose, total: int) -> str:
    """Why there is nothing to show, and how to get something."""
    if not total:
        title, text = "No response matches these filters.", "Choose another variant, split, category or verdict."
    elif whose is Whose.DISPUTED:
        title, text = "Nothing to adjudicate.", "No response of this list has different outcomes from different people."
    else:
        title, text = f"Nothing left: {WHOSE[whose].lower()}.", "Choose “All” or other filters to see more."
    return f'<div class="mis-empty"><b>{escape(title)}</b><p>{escape(text)}</p></div>'


def no_runs(folder: str) -> str:
    """How to get something to annotate."""
    return (
        f'<div class="mis-empty"><b>No responses to annotate yet.</b><p>Runs are looked for in <code>{escape(folder)}</code>. Make one with '
        "<code>mis report</code> (or <code>mis generate</code> and <code>mis judge</code>), then open this tab again.</p></div>"
    )


def agreement(found: TeamAgreement) -> str:
    """People's agreement: each two, all together, and the list of what is disputed."""
    if len(found.authors) < 2:
        return (
            '<div class="mis-empty"><b>Agreement needs two people.</b><p>It is counted on responses that more than one person has labelled; '
            "let somebody else label with the same filters.</p></div>"
        )
    people = ", ".join(f"{escape(name)} ({count:,})" for name, count in found.authors.items())
    rows = "".join(
        f"<tr><td>{escape(pair.first)}</td><td>{escape(pair.second)}</td><td>{pair.share}</td><td>{pair.kappa}</td><td>{pair.share.n:,}</td></tr>"
        for pair in found.pairs
    )
    places = [
        (Link(tab=Tab.ANNOTATE, run=run, variant=variant, item=sample, whose=Whose.DISPUTED).query(), sample, variant)
        for run, sample, variant in found.disputed[:50]
    ]
    links = "".join(
        f'<li><a data-link href="{escape(query)}">{escape(sample)} · {escape(variant)}</a></li>'
        for query, sample, variant in places
    )
    more = (
        f"<p>{len(found.disputed) - 50:,} more: filter “{WHOSE[Whose.DISPUTED]}”.</p>"
        if len(found.disputed) > 50
        else ""
    )
    return (
        f'<div class="mis-agreement"><p>Labelled: {people}. Krippendorff alpha (nominal, {found.alpha.n:,} shared responses): '
        f"<b>{found.alpha}</b>.</p><table><thead><tr><th>first</th><th>second</th><th>equal, %</th><th>Cohen's kappa</th><th>n</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p><b>{len(found.disputed):,}</b> disputed, <b>{found.adjudicated:,}</b> adjudicated.</p>"
        f"<ul>{links}</ul>{more}</div>"
    )


# ---------- HTML of the Annotate tab's form: what can be recorded, how far one is, what was just recorded, and the list of keys.
#
# Choices are plain buttons whose state the script keeps; the form is filled with a person's own decision where there is one.

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
