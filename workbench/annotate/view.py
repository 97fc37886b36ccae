"""HTML of the Annotate tab: the response with its parts and sentences, the verdicts on it with their reasons, agreement.

Pure functions from values to strings; whatever a person, a file or a model wrote is escaped. The sentences of a response carry their place in it
(``data-start``), so that the browser can say which characters were marked. Sentences that a judge's reason quotes are underlined; a click on the
quotation leads to them.
"""

import functools
import re
from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mis_lib.analysis.worth import SIGNALS, Item, Order
from mis_lib.annotate.agreement import TeamAgreement
from mis_lib.annotate.worklist import Whose
from mis_lib.data.paths import inside
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image
from mis_lib.judge.quotes import citations
from mis_lib.schema import Outcome, Segment, Verdict
from mis_lib.text.segments import label_sentences
from workbench.compare.view import VARIANT_NOTES, VERDICTS
from workbench.html import icon, picture, truth_chip
from workbench.links import Link, Tab
from workbench.pictures import STRIP_SIDE, thumbnail

if TYPE_CHECKING:
    pass

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
