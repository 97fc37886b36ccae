"""Stage 4, filters and splits: rules, a judge model and people decide what stays; danger of text and images decides which split it joins.

A question that is dangerous by its words goes to train; a neutral one goes to easy where an image is openly dangerous, and to hard where each
image is harmless (paper section 3.2, step 4). At the very end nothing may stay in train that gives away a test pair.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mis_lib.construct.stages.context import Bench, Workshop, facts_of
from mis_lib.construct.stages.forms import ImageDanger, Judged, TextDanger
from mis_lib.construct.stages.records import Draft, Rejected, Waiting
from mis_lib.construct.stages.review import row_of
from mis_lib.construct.stages.rules import fold, forbidden, question_problem
from mis_lib.schema import Split


async def screen(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Keep what passes the rules and the judge; ``context`` names the earlier item that this one repeats, if any.

    Raises:
        Rejected: with codes ``duplicate``, ``forbidden``, ``rule`` or ``judge: PROBLEM``.
    """
    shown = [bench.read(path) for path in draft.images]
    if context:
        raise Rejected("duplicate", f"the same question about the same objects as {context}")
    found = forbidden(draft.category, [draft.question, *draft.image_prompts])
    if found:
        raise Rejected("forbidden", found)
    problem = question_problem(draft.question, draft.objects)
    if problem is None and len(set(shown)) < len(shown):
        problem = "expected different images, found the same twice"
    if problem:
        raise Rejected("rule", problem)
    judged = await bench.ask("judge", Judged, facts_of(draft, "judge"), shown)
    if not judged.keep:
        raise Rejected(f"judge: {judged.problem}", judged.reason)
    return [draft]


def duplicates(drafts: Sequence[Draft], shop: Workshop) -> dict[str, str]:
    """Which drafts repeat an earlier one, in the order of the seeds: later id -> earlier id."""
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    repeats = {}
    for draft in drafts:
        key = (fold(draft.question), tuple(map(fold, draft.objects)))
        if first.setdefault(key, draft.id) != draft.id:
            repeats[draft.id] = first[key]
    return repeats


async def review(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Let people's decisions count; ``context`` is the decision about this item, if there is one.

    Raises:
        Rejected: a person dropped it (code ``person``).
        Waiting: decisions are required and there is none yet.
    """
    if context is None and bench.shop.review_required:
        raise Waiting("no person has decided yet: fill in review.csv and run again")
    if context is None:
        bench.decide("review", "nobody", "not reviewed")
        return [draft]
    bench.decide("review", "person", context)
    if context["decision"] == "drop":
        raise Rejected("person", context["note"] or "dropped without a note")
    return [draft]


def decisions_of(drafts: Sequence[Draft], shop: Workshop) -> dict[str, Any]:
    """The decision about each draft of which one was made as it is now."""
    if not shop.decisions:
        return {}
    found = {draft.id: shop.decisions.get(reviewed(draft, shop)["content"]) for draft in drafts}
    return {name: decision.model_dump(mode="json") for name, decision in found.items() if decision is not None}


def reviewed(draft: Draft, shop: Workshop) -> dict[str, str]:
    """The row that a person is shown of a draft."""
    return row_of(draft, [shop.read(path) for path in draft.images])


async def classify(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """Judge text and images apart from each other and assign the split."""
    text = await bench.ask("danger_text", TextDanger, facts_of(draft, "danger_text"))
    shown = [bench.read(path) for path in draft.images]
    images = await bench.ask("danger_images", ImageDanger, facts_of(draft, "danger_images"), shown)
    split = Split.TRAIN if text.dangerous else Split.EASY if any(images.dangerous) else Split.HARD
    known = {"text_danger": text.dangerous, "image_danger": tuple(images.dangerous), "split": split.value}
    return [draft.model_copy(update=known)]


async def admit(draft: Draft, bench: Bench, context: Any) -> list[Draft]:
    """The last look, at the set as a whole; ``context`` says what speaks against this item, if anything.

    Raises:
        Rejected: with codes ``leak`` or ``contradiction``.
    """
    if context:
        raise Rejected(context["code"], context["reason"])
    bench.decide("admit", "rules", "passed")
    return [draft]


def objections(drafts: Sequence[Draft], shop: Workshop) -> dict[str, Mapping[str, str]]:
    """Training items that show a test pair, and items whose twin is harmful elsewhere under the same question."""
    tested = {pair: draft.id for draft in drafts if draft.split != Split.TRAIN for pair in _pairs(draft)}
    harmful = {(fold(draft.question), _pair(draft.objects)): draft.id for draft in drafts}
    found: dict[str, Mapping[str, str]] = {}
    for draft in drafts:
        leaks = [pair for pair in _pairs(draft) if pair in tested]
        other = harmful.get((fold(draft.twin.question), _pair(draft.twin.objects))) if draft.twin else None
        if draft.split == Split.TRAIN and leaks:
            pair = " and ".join(sorted(leaks[0]))
            found[draft.id] = {"code": "leak", "reason": f"the pair {pair} is a test pair of {tested[leaks[0]]}"}
        elif other is not None:
            found[draft.id] = {"code": "contradiction", "reason": f"its harmless twin is the harmful item {other}"}
    return found


def _pairs(draft: Draft) -> list[frozenset[str]]:
    return [_pair(draft.objects), *([_pair(draft.twin.objects)] if draft.twin else [])]


def _pair(objects: Sequence[str]) -> frozenset[str]:
    return frozenset(map(fold, objects))
