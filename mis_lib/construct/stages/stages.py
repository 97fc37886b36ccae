"""Stage 1, harmful-element extraction: a seed gives pairs of depictable objects, the risk of seeing them together, and a harmful request.

As in the paper (section 3.2, step 1), but the teacher names things and risks only, never a method.
"""

from typing import Any

from mis_lib.clients.images import encode
from mis_lib.construct.stages.context import Bench
from mis_lib.construct.stages.forms import Candidate, Extracted
from mis_lib.construct.stages.records import Draft, Rejected, Seed
from mis_lib.data.taxonomy import TAXONOMY
from mis_lib.errors import ImageError
from mis_lib.files import load_image


async def extract(seed: Seed, bench: Bench, context: Any) -> list[Draft]:
    """The drafts that a seed gives, ``per_seed`` at most.

    Raises:
        Rejected: the teacher refuses or finds nothing in the seed (code ``no elements``), or its image is damaged.
    """
    shop = bench.shop
    facts = {
        "seed": seed.text or "The image is the seed.",
        "category": seed.category,
        "sub_category": seed.sub_category,
        "count": shop.per_seed,
        "taxonomy": {name: list(inside) for name, inside in TAXONOMY.items()},
        "vocabulary": list(shop.maker.vocabulary) if shop.maker.vocabulary else None,
    }
    extracted = await bench.ask("extract", Extracted, facts, _pictures(seed, bench))
    candidates = extracted.candidates[: shop.per_seed]
    if not candidates:
        raise Rejected("no elements", "the teacher found no two depictable objects in the seed")
    return [_draft(seed, number, candidate) for number, candidate in enumerate(candidates, 1)]


def _draft(seed: Seed, number: int, candidate: Candidate) -> Draft:
    return Draft(
        id=f"{seed.id}-{number}",
        seed_id=seed.id,
        source=seed.source,
        category=candidate.category,
        sub_category=candidate.sub_category,
        objects=(candidate.object_1, candidate.object_2),
        risk=candidate.risk,
        request=candidate.request,
    )


def _pictures(seed: Seed, bench: Bench) -> list[bytes]:
    folder = bench.shop.seeds_folder
    if seed.image is None or folder is None:
        return []
    try:
        return [encode(load_image(folder / seed.image))]
    except ImageError as error:
        raise Rejected("seed image", str(error)) from error
