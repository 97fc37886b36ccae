"""Stage 2, instructions: the harmful request is rewritten to generic referents, then its words are made neutral (paper section 3.2, step 2).

The two are stages of their own, so that either prompt can be edited without paying for the other again. What may not be in the data is
rejected before the first of them, and so before anything is drawn.
"""

from typing import Any

from mis_lib.construct.stages.context import Bench, facts_of
from mis_lib.construct.stages.forms import Detoxed, Rewritten
from mis_lib.construct.stages.records import Draft, Rejected
from mis_lib.construct.stages.rules import forbidden


async def rewrite(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Replace both objects by what they are called in a question about images.

    Raises:
        Rejected: the request is harmless or does not need both objects (code ``not harmful``), or may not be in the data.
    """
    found = forbidden(draft.category, [*draft.objects, draft.request, draft.risk])
    if found:
        raise Rejected("forbidden", found)
    rewritten = await bench.ask("rewrite", Rewritten, facts_of(draft, "rewrite"))
    if not rewritten.usable:
        raise Rejected("not harmful", rewritten.reason)
    return [draft.model_copy(update={"question": rewritten.question.strip()})]


async def detox(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Put the question into neutral words."""
    detoxed = await bench.ask("detox", Detoxed, facts_of(draft, "detox"))
    return [draft.model_copy(update={"question": detoxed.question.strip()})]
