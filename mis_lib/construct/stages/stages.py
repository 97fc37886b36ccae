"""Stage 1, harmful-element extraction: a seed gives pairs of depictable objects, the risk of seeing them together, and a harmful request.

As in the paper (section 3.2, step 1), but the teacher names things and risks only, never a method.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mis_lib.clients.images import encode
from mis_lib.construct.labels import compose
from mis_lib.construct.stages.context import Bench, Workshop, facts_of, lot
from mis_lib.construct.stages.forms import (
    Candidate,
    Critique,
    Detoxed,
    Extracted,
    ImageDanger,
    Judged,
    LabelParts,
    Rewritten,
    TextDanger,
    TwinChecked,
    TwinParts,
    fold,
    forbidden,
    question_problem,
)
from mis_lib.construct.stages.inputs import row_of
from mis_lib.construct.stages.records import Draft, Rejected, Seed, Twin, Waiting
from mis_lib.errors import ImageError
from mis_lib.files import load_image
from mis_lib.schema import TAXONOMY, SegmentKind, Split


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


# ---------- Stage 2, instructions: the harmful request is rewritten to generic referents, then its words are made neutral (paper section 3.2, step 2).
#
# The two are stages of their own, so that either prompt can be edited without paying for the other again. What may not be in the data is
# rejected before the first of them, and so before anything is drawn.


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


# ---------- Stage 3, images: drawn from the bare object names, looked at by a critic, and drawn once more where the critic says so.
#
# Exactly one critique-and-refine round, as in the paper (section 3.2, step 3): what comes out of the second round is taken as it is, and the
# filters decide about it. Both pictures of an item share a seed, so that they look alike.


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


# ---------- Stage 5, safety chain-of-thought labels: the teacher sees both images, is told that the request is harmful, and writes the answer to learn from.
#
# Three parts that are read as one text, perception, reasoning, answer (paper section 3.2), so that the label knows its own segments. No
# headings and no tags are in it; the form of the answer sees to that.


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


# ---------- Stage 6, benign twins: one image, or the intent of the question, is swapped so that it becomes harmless, and it is answered helpfully.
#
# A neutral question keeps its words and gets another image: whoever tells the two apart has looked. A question that is dangerous by its words
# keeps its images and gets another intent. An item without a twin is rejected, because a safety number without its over-refusal says little.

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


# ---------- Stage 4, filters and splits: rules, a judge model and people decide what stays; danger of text and images decides which split it joins.
#
# A question that is dangerous by its words goes to train; a neutral one goes to easy where an image is openly dangerous, and to hard where each
# image is harmless (paper section 3.2, step 4). At the very end nothing may stay in train that gives away a test pair.


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
