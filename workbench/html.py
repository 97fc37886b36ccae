"""HTML of everything around the answers: error bar, status, image strip, example list, legend and credits.

Pure functions from values to strings. Whatever a person, a file or a model wrote goes through ``html.escape``; the strings reach the
page as data of a fixed template, so nothing in them is evaluated.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go
from gradio.components.plot import PlotData
from gradio.data_classes import GradioModel

from mis_lib.files import MAX_IMAGES, spreadsheet_safe
from mis_lib.results.figures.style import CONFIG
from mis_lib.schema import Sample
from mis_lib.text.headings import FENCE, ROW
from workbench.background import Phase, Status
from workbench.compare.state import Card, Page, Prompt, PromptImage

CREDITS = (
    '<p class="mis-credits">Example drawings: '
    '<a href="https://openmoji.org" target="_blank" rel="noopener noreferrer">OpenMoji</a> (CC BY-SA 4.0), '
    '<a href="https://github.com/jdecked/twemoji" target="_blank" rel="noopener noreferrer">Twemoji</a> (CC BY 4.0), '
    '<a href="https://fonts.google.com/noto/specimen/Noto+Emoji" target="_blank" rel="noopener noreferrer">Noto Emoji</a> '
    "(SIL OFL 1.1). Answers come from models and may be wrong or unsafe.</p>"
)

SETTINGS_NOTE = (
    '<p class="mis-note">Temperature 0 is greedy decoding, as in the paper: the same question gives the same answers. Above 0, '
    "Regenerate draws again with the next seed.</p>"
)

ICONS = {
    "left": '<path d="M15 5l-7 7 7 7"/>',
    "right": '<path d="M9 5l7 7-7 7"/>',
    "remove": '<path d="M6 6l12 12M18 6L6 18"/>',
    "add": '<path d="M12 5v14M5 12h14"/>',
    "swap": '<path d="M4 8h14l-4-4M20 16H6l4 4"/>',
    "copy": '<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V5a1 1 0 0 1 1-1h10"/>',
    "eye": '<path d="M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12z"/><circle cx="12" cy="12" r="3"/>',
    "theme": '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/>',
    "good": '<path d="M5 13l4 4L19 7"/>',
    "bad": '<path d="M12 4l9 16H3z"/><path d="M12 10v4M12 17v.5"/>',
    "neutral": '<circle cx="12" cy="12" r="8"/><path d="M8 12h8"/>',
}


def icon(name: str) -> str:
    """An inline line icon; it says nothing to a screen reader, so its button needs a label."""
    return f'<svg class="mis-icon" viewBox="0 0 24 24" aria-hidden="true">{ICONS[name]}</svg>'


def error_bar(messages: Sequence[str]) -> str:
    """A bar that stays until it is dismissed or the next action succeeds; empty without messages."""
    if not messages:
        return ""
    lines = "".join(f"<li>{escape(sentence(message))}</li>" for message in messages)
    return (
        f'<div class="mis-error" role="alert">{icon("bad")}<ul>{lines}</ul>'
        f'<button type="button" data-hide="mis-error" aria-label="Dismiss this message">{icon("remove")}</button></div>'
    )


def progress(status: Status) -> str:
    """What is being done, and for how long already."""
    return f"{status.message} ({status.seconds:.0f} s)" if status.phase is Phase.WORKING else status.message


def header(status: Status, ready: str) -> str:
    """Title, the model's state in one line (``ready``: once it can answer), and the switch between light and dark."""
    label = {
        Phase.WAITING: "Model: waiting",
        Phase.WORKING: progress(status),
        Phase.READY: ready,
        Phase.FAILED: "Model not loaded",
    }[status.phase]
    return (
        '<div class="mis-header"><div><h1>MIS Workbench</h1><p>Multi-image safety: base and tuned vision-language models '
        f'side by side</p></div><p class="mis-pill mis-{status.phase}" role="status"><span class="mis-dot"></span>'
        f'<span>{escape(label)}</span></p><button type="button" class="mis-theme" data-theme '
        f'aria-label="Switch between light and dark" title="Light / dark">{icon("theme")}</button></div>'
    )


def status_line(text: str, *, busy: bool = False) -> str:
    """The line under the buttons: what is going on, or what to do next."""
    spinner = '<span class="mis-spinner" aria-hidden="true"></span>' if busy else ""
    return f'<p class="mis-status" role="status">{spinner}{escape(text)}</p>'


def strip(prompt: Prompt, sample: Sample | None = None, twin: Sample | None = None) -> str:
    """The numbered image strip with its buttons, under a line that says where the images come from."""
    tiles = "".join(_tile(image, index, len(prompt.images)) for index, image in enumerate(prompt.images))
    room = MAX_IMAGES - len(prompt.images)
    hint = "Drop, paste or choose files" if not prompt.images else f"{room} more possible"
    add = (
        f'<button type="button" class="mis-add" data-choose="files">{icon("add")}<b>Add images</b><small>{hint}</small></button>'
        if room
        else ""
    )
    empty = (
        f'<p class="mis-empty-strip">No images yet. Pick an example, or add 1 to {MAX_IMAGES} of your own: '
        "the model sees them in the order shown here.</p>"
        if not prompt.images
        else ""
    )
    return (
        f'{_origin(prompt, sample, twin)}<div class="mis-strip" role="group" aria-label="Images in the order the model sees '
        f'them" data-example="{escape(sample.id if sample else "")}">{tiles}{add}{empty}</div>'
    )


def sentence(message: str) -> str:
    """A message as a sentence: with a capital, and an end."""
    first = message.split(" ", 1)[0]
    start = first.capitalize() if first.isalpha() and first.islower() else first  # a file's name stays as it is
    return start + message[len(first) :] + ("" if message.endswith((".", "!", "?", "…")) else ".")


def _origin(prompt: Prompt, sample: Sample | None, twin: Sample | None) -> str:
    if sample is None:
        count = len(prompt.images)
        left = f"<span>{count} of {MAX_IMAGES} images</span>"
    else:
        where = " &rsaquo; ".join(escape(part) for part in (sample.category, sample.sub_category) if part)
        left = f"<span>Example <code>{escape(sample.id)}</code> {truth_chip(sample)} {where}</span>"
    other = (
        f'<button type="button" class="mis-link" data-action="take" data-id="{escape(twin.id)}">{icon("swap")}'
        f"Show its {'harmful' if twin.harmful else 'benign'} twin</button>"
        if twin
        else ""
    )
    clear = '<button type="button" class="mis-link" data-action="wipe">Remove all</button>' if prompt.images else ""
    return f'<div class="mis-origin">{left}<span class="mis-origin-actions">{other}{clear}</span></div>'


def _tile(image: PromptImage, index: int, count: int) -> str:
    number, name = index + 1, escape(image.name)

    def move(direction: str, place: int) -> str:
        off = "" if 0 <= place < count else " disabled"
        return (
            f'<button type="button" data-action="move" data-index="{index}" data-place="{place}"{off} '
            f'aria-label="Move image {number} {direction}" title="Move {direction}">{icon(direction)}</button>'
        )

    remove = (
        f'<button type="button" data-action="remove" data-index="{index}" aria-label="Remove image {number}" '
        f'title="Remove">{icon("remove")}</button>'
    )
    return (
        f'<figure class="mis-tile" draggable="true" data-index="{index}">'
        f'<span class="mis-number">{number}</span>{picture(image.thumbnail, f"Image {number}: {image.name}", image.flagged)}'
        f'<figcaption title="{name} ({image.width} x {image.height})">{name}</figcaption>'
        f'<div class="mis-tile-actions">{move("left", index - 1)}{move("right", index + 1)}{remove}</div></figure>'
    )


def picture(source: str, alt: str, flagged: bool) -> str:
    """An image; a flagged one is blurred behind a toggle button that works with mouse and keyboard."""
    image = f'<img src="{escape(source)}" alt="{escape(alt)}" draggable="false">'
    if not flagged:
        return f'<span class="mis-picture">{image}</span>'
    return (
        f'<button type="button" class="mis-picture mis-flagged" data-reveal aria-pressed="false" '
        f'aria-label="{escape(alt)}, from a harmful item: show or hide" title="From a harmful item: click to show or hide">'
        f'{image}<span class="mis-veil">{icon("eye")}</span></button>'
    )


def truth_chip(sample: Sample) -> str:
    """The item's known truth as a chip with text, not colour alone."""
    kind = "harmful" if sample.harmful else "benign"
    return f'<span class="mis-chip mis-{kind}">{kind}</span>'


def examples(page: Page, status: Status, *, chosen: str | None = None) -> str:
    """The list of examples, or why there is none yet."""
    if status.phase is Phase.FAILED:
        return _empty("The examples could not be prepared.", f"{status.message} Your own images work all the same.")
    if status.phase is not Phase.READY:
        return _empty("Preparing the examples …", f"{progress(status)}. Your own images work already.")
    if not page.cards:
        return _empty("No example matches.", "Choose another category or split, or shorten the search.")
    more = len(page.cards) < page.total
    button = (
        f'<button type="button" class="mis-link mis-more" data-action="more" data-limit="{len(page.cards) + 24}">'
        f"Show more ({page.total - len(page.cards)} left)</button>"
        if more
        else ""
    )
    cards = "".join(_card(card, chosen) for card in page.cards)
    return (
        f'<div class="mis-count"><span>{len(page.cards)} of {page.total} pairs</span><button type="button" class="mis-link" '
        f'data-action="random">Random example</button></div><div class="mis-cards">{cards}{button}</div>'
    )


def _card(card: Card, chosen: str | None) -> str:
    sample, twin = card.sample, card.twin
    title = " + ".join(sample.objects or sample.images)
    pictures = "".join(
        picture(source, f"Image {number} of {title}", sample.harmful)
        for number, source in enumerate(card.thumbnails, 1)
    )
    here = " mis-chosen" if chosen in (sample.id, twin.id if twin else sample.id) else ""
    buttons = "".join(_load_button(item, chosen) for item in (sample, twin) if item is not None)
    return (
        f'<article class="mis-card{here}"><div class="mis-card-pictures">{pictures}</div><div class="mis-card-text">'
        f'<h4>{escape(title)}</h4><p title="{escape(sample.question)}">{escape(sample.question)}</p>'
        f'<div class="mis-card-actions">{buttons}<small>{escape(sample.split)}</small></div></div></article>'
    )


def _load_button(sample: Sample, chosen: str | None) -> str:
    kind = "harmful" if sample.harmful else "benign"
    what = " + ".join(sample.objects or [sample.id])
    return (
        f'<button type="button" class="mis-chip mis-{kind}" data-action="take" data-id="{escape(sample.id)}" '
        f'aria-pressed="{"true" if sample.id == chosen else "false"}" title="Load the {kind} item: {escape(what)}">'
        f"Load {kind}{'' if sample.harmful else ' twin' if sample.twin_id else ''}</button>"
    )


def _empty(title: str, text: str) -> str:
    return f'<div class="mis-empty"><b>{escape(title)}</b><p>{escape(text)}</p></div>'


# ---------- HTML of what a model wrote: tables, code, headings and bold words are drawn, all else stands as it was written.
#
# No Markdown library: those take lists, links, images and HTML of a text that nobody has read for commands, and lose its line breaks. What is copied
# is the text itself.

_RULE = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*$")
_BAR = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"\s*#{1,6}\s+\S")
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*")


def drawn(text: str) -> str:
    """Blocks of HTML, everything escaped; a table or code that is still being written is drawn as far as it goes."""
    return "".join(_block(kind, lines) for kind, lines in _blocks(text.strip("\n").rstrip().split("\n")))


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Neighbouring lines of one kind: code, table, heading or prose."""
    kinds, in_code = [], False
    for line in lines:
        fence = bool(FENCE.match(line))
        kinds.append("code" if in_code or fence else _kind(line))
        in_code = in_code != fence
    for kind, group in groupby(zip(kinds, lines, strict=True), key=lambda pair: pair[0]):
        yield kind, [line for _, line in group]


def _kind(line: str) -> str:
    if ROW.match(line):
        return "table"
    return "heading" if _HEADING.match(line) else "prose"


def _block(kind: str, lines: list[str]) -> str:
    if kind == "code":
        inside = "\n".join(line for line in lines if not FENCE.match(line))
        return f'<pre class="mis-code">{escape(inside)}</pre>'
    if kind == "heading":
        return "".join(f'<p class="mis-heading">{_inline(line.strip().lstrip("# "))}</p>' for line in lines)
    if kind == "table" and len(lines) > 1 and _RULE.match(lines[1]):
        rows = "".join(_row(line, "td") for line in lines[2:])
        return f'<div class="mis-grid"><table><thead>{_row(lines[0], "th")}</thead><tbody>{rows}</tbody></table></div>'
    prose = "\n".join(lines).strip("\n").rstrip()
    return f"<p>{_inline(prose)}</p>" if prose else ""


def _row(line: str, tag: str) -> str:
    cells = (_inline(cell.strip().replace("\\|", "|")) for cell in _BAR.split(line.strip())[1:-1])
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", escape(text))


# ---------- Figures on the page: a Plotly figure with our configuration, and buttons that save it as PNG or SVG without any other machine.


def shown(figure: go.Figure) -> GradioModel:
    """The figure as the page's component takes it; the configuration travels with it (no logo, no cloud button)."""
    return PlotData(type="plotly", plot=json.dumps({**json.loads(figure.to_json() or "{}"), "config": CONFIG}))


def figure_part(name: str, title: str) -> gr.Plot:
    """A titled figure, empty at first, with its two download buttons; its element is ``mis-figure-NAME``."""
    with gr.Column(elem_classes=["mis-figure"], min_width=320):
        gr.HTML(_head(name, title), apply_default_css=False)
        return gr.Plot(elem_id=f"mis-figure-{name}", show_label=False, container=False)


def _head(name: str, title: str) -> str:
    buttons = "".join(
        f'<button type="button" class="mis-link" data-figure="{name}" data-format="{kind}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    return f'<div class="mis-figure-head"><h3>{title}</h3><span>{buttons}</span></div>'


# ---------- Tables: a frame as HTML to read and as CSV to keep.
#
# What is shown is cut to its first rows, what is downloaded is whole. A text that a spreadsheet would run as a formula is made harmless in
# the file, and every text is escaped on the page.

SHOWN = 200
Cell = Callable[[Any], str]


def table(
    frame: pd.DataFrame,
    headings: Mapping[str, str],
    *,
    name: str,
    cells: Mapping[str, Cell] | None = None,
    long: Collection[str] = (),
    note: str = "",
) -> str:
    """An HTML table with a button to download the whole of it.

    Args:
        frame: what to show; only its first ``SHOWN`` rows are.
        headings: the columns to show, and what stands above them.
        name: of the table, for its button (``data-table``).
        cells: column -> a function of the row that returns HTML, instead of the escaped value.
        long: columns of running text, which may be broken anywhere; others keep their words whole.
        note: a line under the table.
    """
    drawn = cells or {}
    head = "".join(f"<th{_number(frame, column)}>{escape(text)}</th>" for column, text in headings.items())
    body = "".join(
        f"<tr>{''.join(_cell(frame, column, row, drawn.get(column), long=column in long) for column in headings)}</tr>"
        for row in frame.head(SHOWN).itertuples(index=False)
    )
    cut = f" The first {SHOWN:,} of {len(frame):,} rows; the file has all." if len(frame) > SHOWN else ""
    return (
        f'<div class="mis-table-wrap" tabindex="0" role="region" aria-label="{escape(name)}"><table class="mis-table"><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{foot(name, note + cut)}"
    )


def foot(name: str, note: str = "") -> str:
    """The line under a table: what to know, and the button that downloads it."""
    return (
        f'<p class="mis-table-foot"><span>{escape(note.strip())}</span><button type="button" class="mis-link" data-action="csv" '
        f'data-table="{escape(name)}">Download CSV</button></p>'
    )


def csv_text(frame: pd.DataFrame) -> str:
    """The whole frame as CSV; no cell of it is a formula to a spreadsheet."""
    texts = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    safe = frame.assign(**{column: [spreadsheet_safe(value) for value in frame[column]] for column in texts})
    return safe.to_csv(index=False, lineterminator="\r\n")


def _cell(frame: pd.DataFrame, column: str, row: Any, draw: Cell | None, *, long: bool) -> str:
    value = getattr(row, column)
    kind = ' class="mis-long-cell"' if long else _number(frame, column)
    return f"<td{kind}>{draw(row) if draw else _text(value)}</td>"


def _text(value: Any) -> str:
    if not isinstance(value, Sequence) and pd.isna(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else escape(str(value))
    )


def _number(frame: pd.DataFrame, column: str) -> str:
    numeric = pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column])
    return ' class="mis-number-cell"' if numeric else ""
