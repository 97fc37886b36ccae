"""Stage 6, benign twins: one image, or the intent of the question, is swapped so that it becomes harmless, and it is answered helpfully.

A neutral question keeps its words and gets another image: whoever tells the two apart has looked. A question that is dangerous by its words
keeps its images and gets another intent. An item without a twin is rejected, because a safety number without its over-refusal says little.
"""

from typing import Any

from mis_lib.construct.labels import compose
from mis_lib.construct.stages.context import Bench, facts_of
from mis_lib.construct.stages.depict import image_path
from mis_lib.construct.stages.forms import TwinChecked, TwinParts
from mis_lib.construct.stages.records import Draft, Rejected, Twin
from mis_lib.construct.stages.rules import forbidden
from mis_lib.schema import SegmentKind

INTENT = "intent"
PLACES = {"image_1": 0, "image_2": 1}


async def make_twin(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Give an item its benign twin.

    Raises:
        Rejected: the twin is harmful or does not help (code ``twin``), or holds what may not be in the data.
    """
    vocabulary = bench.shop.maker.vocabulary
    may_swap = [INTENT] if draft.text_danger else list(PLACES)
    facts = facts_of(draft, "twin", may_swap=may_swap, vocabulary=list(vocabulary) if vocabulary else None)
    parts = await bench.ask("twin", TwinParts, facts, [bench.read(path) for path in draft.images])
    found = forbidden(draft.category, [parts.object, parts.question, parts.perception, parts.answer])
    if found:
        raise Rejected("forbidden", f"the twin: {found}")
    twin = await _compose(draft, parts, bench)
    await _check(draft, twin, bench)
    return [draft.model_copy(update={"twin": twin})]


async def _compose(draft: Draft, parts: TwinParts, bench: Bench) -> Twin:
    objects, images = list(draft.objects), list(draft.images)
    if parts.swap != INTENT:
        place = PLACES[parts.swap]
        objects[place], images[place] = parts.object, image_path(f"{draft.id}-twin", place)
        bench.write(images[place], await bench.picture(parts.object, draft.image_seed))
    label = compose((SegmentKind.PERCEPTION, parts.perception), (SegmentKind.ANSWER, parts.answer))
    return Twin(
        swap=parts.swap,
        question=parts.question.strip(),
        objects=tuple(objects),
        images=tuple(images),
        answer=label.text,
        segments=label.segments,
    )


async def _check(draft: Draft, twin: Twin, bench: Bench) -> None:
    facts = {
        "question": twin.question,
        "objects": twin.objects,
        "answer": twin.answer,
        "harmful_objects": draft.objects,
        "harmful_question": draft.question,
        "risk": draft.risk,
    }
    checked = await bench.ask("twin_check", TwinChecked, facts, [bench.read(path) for path in twin.images])
    if not (checked.harmless and checked.helpful):
        what = "not helpful" if checked.harmless else "not harmless"
        raise Rejected("twin", f"{what}: {checked.reason}")
