"""HTML of data sets: items with their images and twins, what preflight found, and an item on its way through the stages."""

from collections.abc import Sequence
from html import escape

import pandas as pd

from mis_lib.construct.stages.records import Draft
from mis_lib.data.report import Report
from mis_lib.schema import Sample
from workbench.constructing import MEANINGS, LiveItem, Step
from workbench.data.views import PAGE, DataSet
from workbench.html import icon, picture, truth_chip
from workbench.pictures import card_thumbnail
from workbench.tables import table

LONG = 240  # characters of a question: about six lines of a card


def items(data: DataSet, found: Sequence[Sample], page: int, *, twins: bool) -> str:
    """One page of items; with ``twins`` each harmful item stands beside its benign twin."""
    if not found:
        return (
            '<div class="mis-empty"><b>No item matches.</b><p>Choose another split or category, or shorten the search. '
            f"{escape(data.name)} holds {len(data.samples):,} items.</p></div>"
        )
    heads = [sample for sample in found if not _shown_with_twin(data, sample)] if twins else list(found)
    pages = -(-len(heads) // PAGE)
    page = min(max(page, 0), pages - 1)
    cards = "".join(
        _pair(data, sample) if twins else _card(data, sample) for sample in heads[page * PAGE : (page + 1) * PAGE]
    )
    return (
        f'<div class="mis-count"><span>{len(found):,} of {len(data.samples):,} items · page {page + 1} of {pages:,}</span>'
        f'<span class="mis-pager">{_turn("Previous", page - 1, page > 0)}{_turn("Next", page + 1, page + 1 < pages)}</span></div>'
        f'<div class="mis-items{" mis-pairs" if twins else ""}">{cards}</div>{_problems(data.problems)}'
    )


def report(name: str, found: Report) -> tuple[str, pd.DataFrame]:
    """A preflight report on the data set ``name`` as HTML, and its findings as a frame."""
    frame = pd.DataFrame(
        [{**finding.model_dump(mode="json"), "level": finding.level.value} for finding in found.findings],
        columns=pd.Index(["level", "kind", "file", "row", "id", "field", "message", "fix", "rows"]),
    )
    tone, told = (
        ("good", "ready, training may start") if found.ready else ("bad", "training must not start with this data")
    )
    head = (
        f'<div class="mis-verdict mis-{tone}">{icon(tone)}<b>{escape(name)}: {told}</b><small>{found.rows:,} rows and {found.images:,} images looked at in '
        f"{found.seconds:.1f} s: {len(found.findings):,} findings.</small></div>"
    )
    if frame.empty:
        return head, frame
    headings = {
        "level": "level",
        "kind": "kind",
        "file": "file",
        "row": "row",
        "message": "what",
        "fix": "how to put it right",
    }
    return head + table(frame, headings, name="findings", long=("message", "fix")), frame


def live(item: LiveItem | None) -> str:
    """An item on its way: each stage that it has been through, and the one that comes next."""
    if item is None:
        return (
            '<div class="mis-empty"><b>Make one item, stage by stage</b><p>Choose a hazard and press Begin. Each stage shows what it made; change '
            "any field before the next one.</p></div>"
        )
    done = "".join(_step(item, step, number) for number, step in enumerate(item.steps, 1))
    name = item.next_stage
    coming = f"<li class=mis-stage-next><b>next: {escape(name)}</b> <span>{MEANINGS[name]}</span></li>" if name else ""
    return f'<p class="mis-seed"><b>Hazard</b> {escape(item.seed.text)}</p><ol class="mis-stages">{done}{coming}</ol>'


def _step(item: LiveItem, step: Step, number: int) -> str:
    edits = f' <span class="mis-chip">edited: {escape(", ".join(step.edited))}</span>' if step.edited else ""
    head = f"<b>{number}. {escape(step.stage)}</b> <span>{MEANINGS[step.stage]}</span>{edits}"
    if step.draft is None:
        told = f"<p>Rejected: {escape(step.rejected)}. Change a field and try again, or begin another item.</p>"
        return f'<li class="mis-stage mis-bad" data-stage="{step.stage}">{head}{told}</li>'
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in _facts(step.stage, step.draft).items()
    )
    return f'<li class="mis-stage" data-stage="{step.stage}">{head}<dl>{facts}</dl>{_pictures(item, step)}</li>'


def _facts(stage: str, draft: Draft) -> dict[str, str]:
    """What a stage has decided, in words."""
    twin = draft.twin
    danger = [draft.text_danger, *draft.image_danger]
    places = ("question", "first image", "second image")
    found = {
        "extract": {"objects": "; ".join(draft.objects), "request": draft.request, "risk": draft.risk},
        "rewrite": {"question": draft.question},
        "detox": {"question": draft.question},
        "images": {"drawn": "; ".join(draft.image_prompts)},
        "filter": {"decision": "kept"},
        "classify": {"dangerous alone": ", ".join(name for name, bad in zip(places, danger, strict=False) if bad) or "nothing", "split": draft.split},
        "label": {part.kind.value: part.text.strip() for part in draft.segments},
        "twin": {"swapped": twin.swap, "objects": "; ".join(twin.objects), "question": twin.question, "answer": twin.answer} if twin else {},
    }  # fmt: skip
    return found[stage]


def _pictures(item: LiveItem, step: Step) -> str:
    if step.draft is None or step.stage not in ("images", "twin"):
        return ""
    twin = step.draft.twin if step.stage == "twin" else None
    images, names = (twin.images, twin.objects) if twin else (step.draft.images, step.draft.objects)
    shown = "".join(
        picture(card_thumbnail(item.folder / path), f"Image {number}: {name}", twin is None)
        for number, (path, name) in enumerate(zip(images, names, strict=True), 1)
    )
    return f'<div class="mis-item-pictures">{shown}</div>'


def _shown_with_twin(data: DataSet, sample: Sample) -> bool:
    """A benign item whose harmful twin is shown anyway."""
    twin = data.twin(sample)
    return not sample.harmful and twin is not None and twin.harmful


def _pair(data: DataSet, sample: Sample) -> str:
    twin = data.twin(sample)
    other = _card(data, twin) if twin else f'<p class="mis-note">{_without_twin(data, sample)}</p>'
    return f'<div class="mis-pair">{_card(data, sample)}{other}</div>'


def _without_twin(data: DataSet, sample: Sample) -> str:
    """Why no twin stands beside an item."""
    if sample.twin_id is None:
        return "This item has no twin in this data set."
    if data.problems:
        return f"Its twin, {escape(sample.twin_id)}, is not among the items that could be read; what could not be read stands below the items."
    return f"It names the twin {escape(sample.twin_id)}, which is not in this data set."


def _card(data: DataSet, sample: Sample) -> str:
    named = sample.objects or sample.images
    pictures = "".join(
        picture(source, f"Image {number}: {name}", sample.harmful)
        if source
        else f'<p class="mis-no-picture">Image {number}: {escape(problem)}</p>'
        for number, ((source, problem), name) in enumerate(zip(data.thumbnails(sample), named, strict=True), 1)
    )
    where = " / ".join(part for part in (sample.split, sample.category, sample.sub_category) if part)
    answer = (
        f"<details><summary>Target answer</summary><p>{escape(sample.answer)}</p></details>" if sample.answer else ""
    )
    return (
        f'<article class="mis-item" data-item="{escape(sample.id)}"><div class="mis-item-pictures">{pictures}</div>'
        f"<h4>{escape(' + '.join(named))}</h4>{_question(sample.question)}<small>{truth_chip(sample)} {escape(where)} · "
        f'<code>{escape(sample.id)}</code></small>{answer}<button type="button" class="mis-link" data-action="send" '
        f'data-id="{escape(sample.id)}">Send to Compare</button></article>'
    )


def _question(text: str) -> str:
    """A question; a long one is cut to its first lines until it is opened."""
    if len(text) <= LONG:
        return f"<p>{escape(text)}</p>"
    return f'<details class="mis-long-question"><summary><span>{escape(text)}</span></summary></details>'


def _turn(label: str, page: int, possible: bool) -> str:
    off = "" if possible else " disabled"
    return f'<button type="button" class="mis-link" data-action="turn" data-page="{page}"{off}>{label}</button>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:20])
    return f'<details class="mis-problems"><summary>{len(problems):,} records could not be read</summary><ul>{lines}</ul></details>'
