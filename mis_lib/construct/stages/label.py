"""Stage 5, safety chain-of-thought labels: the teacher sees both images, is told that the request is harmful, and writes the answer to learn from.

Three parts that are read as one text, perception, reasoning, answer (paper section 3.2), so that the label knows its own segments. No
headings and no tags are in it; the form of the answer sees to that.
"""

from typing import Any

from mis_lib.construct.labels import compose
from mis_lib.construct.stages.context import Bench, facts_of
from mis_lib.construct.stages.forms import LabelParts
from mis_lib.construct.stages.records import Draft, Rejected
from mis_lib.construct.stages.rules import forbidden
from mis_lib.schema import SegmentKind


async def write_label(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Write an item's answer.

    Raises:
        Rejected: the answer holds what may not be in the data.
    """
    shown = [bench.read(path) for path in draft.images]
    parts = await bench.ask("label", LabelParts, facts_of(draft, "label"), shown)
    label = compose(
        (SegmentKind.PERCEPTION, parts.perception),
        (SegmentKind.REASONING, parts.reasoning),
        (SegmentKind.ANSWER, parts.answer),
    )
    found = forbidden(draft.category, [label.text])
    if found:
        raise Rejected("forbidden", f"the label: {found}")
    return [draft.model_copy(update={"answer": label.text, "segments": label.segments})]
