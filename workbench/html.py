"""HTML of everything around the answers: error bar, status, image strip, example list, legend and credits.

Pure functions from values to strings. Whatever a person, a file or a model wrote goes through ``html.escape``; the strings reach the
page as data of a fixed template, so nothing in them is evaluated.
"""

from collections.abc import Sequence
from html import escape

from mis_lib.files import MAX_IMAGES
from mis_lib.schema import Sample
from workbench.background import Phase, Status
from workbench.catalogue import Card, Page
from workbench.compare.state import Prompt, PromptImage

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
