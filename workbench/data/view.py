"""HTML of the Data tab: items with images and twins, a preflight report, one item on its way through the stages."""

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from mis_lib.data.preflight import PreflightReport
from mis_lib.schema import Sample
from workbench.background import Status
from workbench.data.datasets import DataSet
from workbench.data.live_item import MEANINGS, Draft, LiveItem, Step
from workbench.html import macros, progress, render, table
from workbench.prompt import card_thumbnail

PAGE = 12
LONG = 240  # characters of a question: about six lines of a card


def waiting(status: Status) -> Markup:
    """What is shown until the examples are ready."""
    return macros("data/parts.html").waiting(progress(status))


def items(data: DataSet, found: Sequence[Sample], page: int, *, twins: bool) -> Markup:
    """One page of items; with ``twins`` each harmful item is next to its benign twin."""
    heads = [sample for sample in found if not _shown_with_twin(data, sample)] if twins else list(found)
    pages = -(-len(heads) // PAGE)
    page = min(max(page, 0), max(pages - 1, 0))
    shown = heads[page * PAGE : (page + 1) * PAGE]
    values = {"found": len(found), "page": page, "pages": pages, "shown": shown, "twins": twins, "long": LONG}
    return render("data/items.html", data=data, **values)


def report(name: str, found: PreflightReport) -> tuple[Markup, pd.DataFrame]:
    """A preflight report on the data set ``name`` as HTML, and its findings as a frame."""
    frame = pd.DataFrame(
        [{**finding.model_dump(mode="json"), "level": finding.level.value} for finding in found.findings],
        columns=pd.Index(["level", "kind", "file", "row", "id", "field", "message", "fix", "rows"]),
    )
    headings = {name: name for name in ("level", "kind", "file", "row")}
    headings |= {"message": "what", "fix": "how to put it right"}
    rows = Markup() if frame.empty else table(frame, headings, name="findings", long=("message", "fix"))
    return macros("data/parts.html").report(name, found) + rows, frame


def live(item: LiveItem | None) -> Markup:
    """An item on its way: each stage that it has been through, and the one that comes next."""
    return render("data/live.html", item=item, meanings=MEANINGS, facts=_facts, pictures=_pictures)


def _facts(stage: str, draft: Draft) -> dict[str, str]:
    """What a stage has decided, in words."""
    match stage:
        case "extract":
            return {"objects": "; ".join(draft.objects), "request": draft.request, "risk": draft.risk}
        case "rewrite" | "detox":
            return {"question": draft.question}
        case "images":
            return {"drawn": "; ".join(draft.image_prompts)}
        case "filter":
            return {"decision": "kept"}
        case "classify":
            places = ("question", "first image", "second image")
            danger = zip(places, [draft.text_danger, *draft.image_danger], strict=False)
            alone = ", ".join(place for place, bad in danger if bad)
            return {"dangerous alone": alone or "nothing", "split": draft.split}
        case "label":
            return {part.kind.value: part.text.strip() for part in draft.segments}
    twin = draft.twin
    if twin is None:
        return {}
    return {
        "swapped": twin.swap,
        "objects": "; ".join(twin.objects),
        "question": twin.question,
        "answer": twin.answer,
    }


def _pictures(item: LiveItem, step: Step) -> list[tuple[str, str, bool]]:
    """(data URL, object, whether it is flagged) for each image that a stage has made."""
    if step.draft is None or step.stage not in ("images", "twin"):
        return []
    twin = step.draft.twin if step.stage == "twin" else None
    images, names = (twin.images, twin.objects) if twin else (step.draft.images, step.draft.objects)
    paths = (item.folder / image for image in images)
    return [(card_thumbnail(path), name, twin is None) for path, name in zip(paths, names, strict=True)]


def _shown_with_twin(data: DataSet, sample: Sample) -> bool:
    """A benign item whose harmful twin is shown anyway."""
    twin = data.twin(sample)
    return not sample.harmful and twin is not None and twin.harmful
