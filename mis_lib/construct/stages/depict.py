"""Stage 3, images: drawn from the bare object names, looked at by a critic, and drawn once more where the critic says so.

Exactly one critique-and-refine round, as in the paper (section 3.2, step 3): what comes out of the second round is taken as it is, and the
filters decide about it. Both pictures of an item share a seed, so that they look alike.
"""

from collections.abc import Sequence
from typing import Any

from mis_lib.construct.stages.context import Bench, facts_of, lot
from mis_lib.construct.stages.forms import Critique
from mis_lib.construct.stages.records import Draft, Rejected
from mis_lib.construct.stages.rules import forbidden


async def depict(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Make an item's images.

    Raises:
        Rejected: the maker refuses or cannot show an object, or the critic asks for what may not be in the data.
    """
    prompts, seed = draft.objects, lot(bench.shop, draft.id)
    shown = await _draw(bench, prompts, seed)
    critique = await bench.ask("critique", Critique, facts_of(draft, "critique", prompts=prompts), shown)
    if not critique.good:
        prompts, seed = tuple(critique.prompts), seed + 1
        found = forbidden(draft.category, prompts)
        if found:
            raise Rejected("forbidden", f"the critic's new prompts: {found}")
        shown = await _draw(bench, prompts, seed)
    paths = tuple(image_path(draft.id, place) for place in range(len(shown)))
    for path, content in zip(paths, shown, strict=True):
        bench.write(path, content)
    made = {"images": paths, "image_prompts": prompts, "image_seed": seed, "refined": not critique.good}
    return [draft.model_copy(update=made)]


def image_path(item: str, place: int) -> str:
    """Where an item's image lies in the data set's folder, named as in MIS's own data."""
    return f"images/{item}/object{place + 1}.png"


async def _draw(bench: Bench, prompts: Sequence[str], seed: int) -> list[bytes]:
    return [await bench.picture(prompt, seed) for prompt in prompts]
