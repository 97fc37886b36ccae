"""The ten stages, each a function from one record to the records that go on (paper section 3.2).

1. *extract*: a seed gives pairs of depictable objects, the risk of seeing them together, and a harmful request. The
   teacher names things and risks only, never a method.
2. *rewrite* and *detox*: the request is rewritten to generic referents, then its words are made neutral. They are two
   stages, so that either prompt can be edited without paying for the other again. What may not be in the data is
   rejected before the first of them, and so before anything is drawn.
3. *images*: drawn from the bare object names, checked by a critic, and drawn once more where the critic asks for it.
   There is exactly one such round. Both pictures of an item share a seed, so that they look alike.
4. *filter*, *review*, *classify*: rules, a judge model and people decide what stays. A question that is dangerous by
   its words goes to train. A neutral one goes to easy where an image is openly dangerous, and to hard where each image
   is harmless.
5. *label*: the teacher sees both images, knows that the request is harmful, and writes a safety chain of thought. Its
   three parts, perception, reasoning and answer, are joined to one text without headings, so the label knows its
   segments.
6. *twin*: one image, or the intent of the question, is swapped so that it becomes harmless, and it is answered
   helpfully. A neutral question keeps its words and gets another image: only a model that looks tells the two apart.
   An item without a twin is rejected, because a safety rate without its over-refusal says little.
7. *admit*: nothing may stay in train that gives away a test pair.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mis_lib.clients.images import encode
from mis_lib.construct.labels import compose
from mis_lib.construct.stages.context import Bench, Context, facts_of
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

Work = Callable[[Any, Bench, Any], Awaitable[list[Draft]]]
Evidence = Callable[[Sequence[Any], Context], Mapping[str, Any]]

INTENT = "intent"
IMAGE_POSITIONS = {"image_1": 0, "image_2": 1}


def no_evidence(records: Sequence[Any], context: Context) -> Mapping[str, Any]:
    """A stage's results depend on each record alone."""
    return {}


@dataclass(frozen=True)
class Stage:
    """A stage and what its results depend on.

    Attributes:
        name: of the stage and its file.
        work: record, bench and evidence -> the records that go on.
        tasks: the prompts that it asks with.
        draws: whether it depends on the image maker.
        evidence: by record id, what a result depends on besides the record: other records, or people's decisions.
        writes: whether it leaves pictures, under names that the next run uses, too.
    """

    name: str
    work: Work
    tasks: tuple[str, ...] = ()
    draws: bool = False
    evidence: Evidence = no_evidence
    writes: bool = False


async def extract(seed: Seed, bench: Bench, evidence: Any) -> list[Draft]:
    """The drafts that a seed gives, ``per_seed`` at most.

    Raises:
        Rejected: the teacher refuses or finds nothing in the seed (code ``no elements``), or its image is damaged.
    """
    context = bench.context
    facts = {
        "seed": seed.text or "The image is the seed.",
        "category": seed.category,
        "sub_category": seed.sub_category,
        "count": context.per_seed,
        "taxonomy": {name: list(inside) for name, inside in TAXONOMY.items()},
        "vocabulary": list(context.maker.vocabulary) if context.maker.vocabulary else None,
    }
    extracted = await bench.ask("extract", Extracted, facts, _pictures(seed, bench))
    candidates = extracted.candidates[: context.per_seed]
    if not candidates:
        raise Rejected("no elements", "the teacher found no two depictable objects in the seed")
    return [_draft(seed, number, candidate) for number, candidate in enumerate(candidates, 1)]


async def rewrite(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Replace both objects by referents such as "the object in the first image".

    Raises:
        Rejected: the request is harmless, does not need both objects (code ``not harmful``), or may not be in the data.
    """
    found = forbidden(draft.category, [*draft.objects, draft.request, draft.risk])
    if found:
        raise Rejected("forbidden", found)
    rewritten = await bench.ask("rewrite", Rewritten, facts_of(draft, "rewrite"))
    if not rewritten.usable:
        raise Rejected("not harmful", rewritten.reason)
    return [draft.model_copy(update={"question": rewritten.question.strip()})]


async def detox(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Put the question into neutral words."""
    detoxed = await bench.ask("detox", Detoxed, facts_of(draft, "detox"))
    return [draft.model_copy(update={"question": detoxed.question.strip()})]


async def depict(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Make an item's images.

    Raises:
        Rejected: the maker refuses or cannot show an object, or the critic asks for what may not be in the data.
    """
    prompts, seed = draft.objects, bench.context.picture_seed(draft.id)
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


async def screen(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Keep what passes the rules and the judge; ``evidence`` names the earlier item that this one repeats, if any.

    Raises:
        Rejected: with codes ``duplicate``, ``forbidden``, ``rule`` or ``judge: PROBLEM``.
    """
    shown = [bench.read(path) for path in draft.images]
    if evidence:
        raise Rejected("duplicate", f"the same question about the same objects as {evidence}")
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


def duplicates(drafts: Sequence[Draft], context: Context) -> dict[str, str]:
    """Which drafts repeat an earlier one, in the order of the seeds: later id -> earlier id."""
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    repeats = {}
    for draft in drafts:
        key = (fold(draft.question), tuple(map(fold, draft.objects)))
        if first.setdefault(key, draft.id) != draft.id:
            repeats[draft.id] = first[key]
    return repeats


async def review(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Apply people's decisions; ``evidence`` is the decision about this item, if there is one.

    Raises:
        Rejected: a person dropped it (code ``person``).
        Waiting: decisions are required and there is none yet.
    """
    if evidence is None and bench.context.review_required:
        raise Waiting("no person has decided yet: fill in review.csv and run again")
    if evidence is None:
        bench.decide("review", "nobody", "not reviewed")
        return [draft]
    bench.decide("review", "person", evidence)
    if evidence["decision"] == "drop":
        raise Rejected("person", evidence["note"] or "dropped without a note")
    return [draft]


def decisions_of(drafts: Sequence[Draft], context: Context) -> dict[str, Any]:
    """The decisions about drafts, by id, where they were made about the present content."""
    if not context.decisions:
        return {}
    found = {draft.id: context.decisions.get(reviewed(draft, context)["content"]) for draft in drafts}
    return {name: decision.model_dump(mode="json") for name, decision in found.items() if decision is not None}


def reviewed(draft: Draft, context: Context) -> dict[str, str]:
    """The row that a person is shown of a draft."""
    return row_of(draft, [context.read(path) for path in draft.images])


async def classify(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Judge text and images separately and assign the split."""
    text = await bench.ask("danger_text", TextDanger, facts_of(draft, "danger_text"))
    shown = [bench.read(path) for path in draft.images]
    images = await bench.ask("danger_images", ImageDanger, facts_of(draft, "danger_images"), shown)
    split = Split.TRAIN if text.dangerous else Split.EASY if any(images.dangerous) else Split.HARD
    known = {"text_danger": text.dangerous, "image_danger": tuple(images.dangerous), "split": split.value}
    return [draft.model_copy(update=known)]


async def write_label(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
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


async def make_twin(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Give an item its benign twin.

    Raises:
        Rejected: the twin is harmful or does not help (code ``twin``), or holds what may not be in the data.
    """
    vocabulary = bench.context.maker.vocabulary
    may_swap = [INTENT] if draft.text_danger else list(IMAGE_POSITIONS)
    facts = facts_of(draft, "twin", may_swap=may_swap, vocabulary=list(vocabulary) if vocabulary else None)
    parts = await bench.ask("twin", TwinParts, facts, [bench.read(path) for path in draft.images])
    found = forbidden(draft.category, [parts.object, parts.question, parts.perception, parts.answer])
    if found:
        raise Rejected("forbidden", f"the twin: {found}")
    twin = await _compose(draft, parts, bench)
    await _check(draft, twin, bench)
    return [draft.model_copy(update={"twin": twin})]


async def admit(draft: Draft, bench: Bench, evidence: Any) -> list[Draft]:
    """Check the set as a whole; ``evidence`` is the objection to this item, if there is one.

    Raises:
        Rejected: with codes ``leak`` or ``contradiction``.
    """
    if evidence:
        raise Rejected(evidence["code"], evidence["reason"])
    bench.decide("admit", "rules", "passed")
    return [draft]


def objections(drafts: Sequence[Draft], context: Context) -> dict[str, Mapping[str, str]]:
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


def image_path(item: str, place: int) -> str:
    """Path of an item's image in the data set's folder, named as in MIS's own data."""
    return f"images/{item}/object{place + 1}.png"


ALL_STAGES = (
    Stage("extract", extract, ("extract",), draws=True),
    Stage("rewrite", rewrite, ("rewrite",)),
    Stage("detox", detox, ("detox",)),
    Stage("images", depict, ("critique",), draws=True, writes=True),
    Stage("filter", screen, ("judge",), evidence=duplicates),
    Stage("review", review, evidence=decisions_of),
    Stage("classify", classify, ("danger_text", "danger_images")),
    Stage("label", write_label, ("label",)),
    Stage("twin", make_twin, ("twin", "twin_check"), draws=True, writes=True),
    Stage("admit", admit, evidence=objections),
)


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
    folder = bench.context.seeds_folder
    if seed.image is None or folder is None:
        return []
    try:
        return [encode(load_image(folder / seed.image))]
    except ImageError as error:
        raise Rejected("seed image", str(error)) from error


async def _draw(bench: Bench, prompts: Sequence[str], seed: int) -> list[bytes]:
    return [await bench.picture(prompt, seed) for prompt in prompts]


async def _compose(draft: Draft, parts: TwinParts, bench: Bench) -> Twin:
    objects, images = list(draft.objects), list(draft.images)
    if parts.swap != INTENT:
        place = IMAGE_POSITIONS[parts.swap]
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


def _pairs(draft: Draft) -> list[frozenset[str]]:
    return [_pair(draft.objects), *([_pair(draft.twin.objects)] if draft.twin else [])]


def _pair(objects: Sequence[str]) -> frozenset[str]:
    return frozenset(map(fold, objects))
