"""Rows of a mixture: drawn from their sources in the shares that a recipe asks for, changed as it says, and shuffled.

    sources = {"safety": SampleSet(samples, folder), "general": SampleSet(others, other_folder)}
    arms = compose(configured("mirage"), sources)
    write(recipe, arms, out)

    OUT/train.jsonl (or one file an arm)  safety/...  general/...  black.png  side_by_side/...  mixture.json

The same recipe, seed and sources give the same rows. What a row lacks for its recipe is an error, never a silent
substitute. Images are hard links to those of the sources where the file system allows it, so that a mixture of 10 GB
needs no further space.
"""

import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mis_lib.data.checks import COT_WORDS
from mis_lib.data.duplicates import LEAKS, Match, Rows, count, find
from mis_lib.data.formats import view_of, with_answer
from mis_lib.data.images import inside
from mis_lib.data.mixtures import (
    BLACK,
    GENERAL,
    SAFETY,
    SIDE_BY_SIDE,
    Arm,
    Arms,
    MixedRow,
    Part,
    Recipe,
    SampleSet,
)
from mis_lib.data.preflight import Progress
from mis_lib.data.rewriting import draft_for, to_rewrite
from mis_lib.data.sources import MIXTURE
from mis_lib.data.tasks import QUESTION, TASKS
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import link, load_image, write_atomic, write_records
from mis_lib.schema import Record, Sample, SegmentKind
from mis_lib.text.ordinals import ORDINALS
from mis_lib.text.refusals import REFUSALS, opens_with_refusal
from mis_lib.text.roles import Role, roles_of
from mis_lib.text.sentences import sentences, spans

BLACK_SIDE = 448
ENOUGH = 0.95  # of the rows that a share asks for; VLGuard has 977 benign rows where its "2:1" asks for 1,000


class Composition(Record):
    """What one arm of a mixture is made of; the first three counts add up to ``rows``."""

    arm: str
    rows: int
    harmful: int
    benign: int
    general: int
    masked: int
    """Rows whose end token stays out of the loss."""
    images_per_row: dict[int, int]
    labels: dict[str, int]
    """Answers of safety rows: reasoned, refused, other."""
    categories: dict[str, int]

    @property
    def general_share(self) -> float:
        """Share of general rows."""
        return self.general / self.rows if self.rows else 0.0


class Overlaps(Record):
    """How many rows of an arm resemble a row of one test file."""

    arm: str
    test: str
    test_rows: int
    counts: dict[str, int]
    """Overlap (``duplicates.Overlap``) -> rows of the mixture."""
    leaks: int
    """Rows that show all images of a test row, whatever they ask."""
    examples: list[Match]


def compose(recipe: Recipe, sources: Mapping[str, SampleSet]) -> Arms:
    """The rows of each arm, shuffled by the recipe's seed.

    Raises:
        DataError: a source is missing or too small, rows lack what a part needs, or a held-out category is unknown.
    """
    _check_held_out(recipe, sources)
    return {arm.name: _arm(recipe, arm, sources) for arm in recipe.arms}


def composition(arms: Arms) -> list[Composition]:
    """The composition of each arm."""
    return [_composition(name, rows) for name, rows in arms.items()]


def overlaps(
    arms: Arms, tests: Mapping[str, SampleSet], progress: Progress = lambda message: None
) -> Iterator[Overlaps]:
    """Compare each arm with each test set."""
    others = {}
    for name, test in tests.items():
        images = [_inside(test.folder, sample.images) for sample in test.samples]
        others[name] = _rows(name, test.samples, images, progress)
    for arm, rows in arms.items():
        mixed = _rows(arm, [row.sample for row in rows], [_inside(row.folder, row.pictures) for row in rows], progress)
        for name, test in others.items():
            matches = list(find(mixed, test))
            leaks = [match for match in matches if match.overlap in LEAKS]
            counts = {overlap.value: number for overlap, number in count(matches).items()}
            yield Overlaps(
                arm=arm, test=name, test_rows=len(test.views), counts=counts, leaks=len(leaks), examples=leaks[:5]
            )


def write(recipe: Recipe, arms: Arms, out: Path) -> Path:
    """Write the mixture as a folder that training and ``mis check`` read.

    Raises:
        DataError: ``out`` exists and is not empty, an image leaves its source's folder, or the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: expected a new or empty folder, found other files; choose another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".mixing-") as name:
        work = Path(name) / "mixture"
        work.mkdir()
        for arm, rows in arms.items():
            write_records(work / f"{arm}.jsonl", [row.sample for row in rows])
            _write_images(work, rows)
        summary = f'{{"recipe": {recipe.model_dump_json()}}}\n'
        write_atomic(work / MIXTURE, summary.encode())
        work.replace(out)
    return out


def _arm(recipe: Recipe, arm: Arm, sources: Mapping[str, SampleSet]) -> list[MixedRow]:
    rows = []
    for part, chosen, folder in _chosen(recipe, arm, sources):
        known = {sample.id: sample for sample in sources[part.source].samples} if part.draft else {}
        rows += [_mixed(recipe, part, sample, folder, known.get(sample.twin_id or "")) for sample in chosen]
    random.Random(f"{recipe.seed}|order").shuffle(rows)
    return _consistent(recipe, arm, rows)


def _chosen(
    recipe: Recipe, arm: Arm, sources: Mapping[str, SampleSet]
) -> Iterator[tuple[Part, Sequence[Sample], Path]]:
    """The samples of each part."""
    chosen = [_pool(recipe, part, sources) for part in arm.parts]
    share = sum(part.share or 0 for part in arm.parts)
    others = sum(len(rows) for part, rows in zip(arm.parts, chosen, strict=True) if part.share is None)
    total = recipe.rows or others / (1 - share)
    shrunk = total * (1 - share) / others if others else 1.0
    exact = [
        len(rows) * shrunk if part.share is None else part.share * total
        for part, rows in zip(arm.parts, chosen, strict=True)
    ]
    numbers = [round(number) for number in exact] if recipe.rows is None else _whole(exact)
    for part, rows, wanted in zip(arm.parts, chosen, numbers, strict=True):
        if len(rows) < ENOUGH * wanted:
            raise DataError(
                f"mixture {recipe.name}: expected {wanted:,} {part.keep} rows of {part.source} data in "
                f"{round(total):,}, "
                f"found {len(rows):,}; add such rows, or set fewer rows in all (rows) or another share (share)"
            )
        yield part, rows[:wanted], sources[part.source].folder


def _whole(numbers: Sequence[float]) -> list[int]:
    """Whole numbers with the sum that was asked for.

    Each rounded by itself may come to one row more or less, so the largest remainders go up.
    """
    whole = [int(number) for number in numbers]
    missing = round(sum(numbers)) - sum(whole)
    for place in sorted(range(len(whole)), key=lambda place: whole[place] - numbers[place])[:missing]:
        whole[place] += 1
    return whole


def _pool(recipe: Recipe, part: Part, sources: Mapping[str, SampleSet]) -> list[Sample]:
    """The rows that a part may draw, in an order that depends on seed, source and kind alone.

    Two arms get the same rows.
    """
    if part.source not in sources:
        raise DataError(f"mixture {recipe.name}: expected {part.source} data, found {', '.join(sources) or 'none'}")
    kept = {"all": (True, False), "harmful": (True,), "benign": (False,)}[part.keep]
    pool = [
        sample
        for sample in sources[part.source].samples
        if sample.harmful in kept and not (part.source == SAFETY and sample.category in recipe.held_out)
    ]
    if not pool and part.share != 0:
        raise DataError(f"mixture {recipe.name}: expected {part.keep} rows in the {part.source} data, found none")
    random.Random(f"{recipe.seed}|{part.source}|{part.keep}").shuffle(pool)
    return pool


def _mixed(recipe: Recipe, part: Part, sample: Sample, folder: Path, twin: Sample | None = None) -> MixedRow:
    question = _question(part, sample)
    changes: dict[str, Any] = {
        "question": to_rewrite(question, draft_for(sample, twin)) if part.draft else question,
        "provenance": {**sample.provenance, "mixture": recipe.name, "part": part.source, "mixture_seed": recipe.seed},
    }
    pictures = tuple(sample.images)
    if part.images == "black":
        changes, pictures = {**changes, "images": [BLACK] * max(1, len(pictures))}, ()  # one for a row of text, too
    elif part.images == "side_by_side":
        if not pictures:
            raise DataError(
                f"mixture {recipe.name}: expected images to put side by side in every row, found none in {sample.id}; "
                "leave rows of text out"
            )
        changes |= {"images": [f"{SIDE_BY_SIDE}/{sample.id}.png"], "objects": None}
    else:
        changes["images"] = [f"{part.source}/{name}" for name in pictures]
    if part.mask_eos:
        changes["mask_eos"] = True
    answer = _answer(recipe, part, sample)
    mixed = with_answer(sample, answer, **changes)
    may_stop = part.cut and answer == sample.answer  # a refusal that was put there is short as it is
    if may_stop and random.Random(f"{recipe.seed}|cut|{sample.id}").random() < part.cut:
        mixed = with_answer(mixed, **_opening(recipe, mixed))
    return MixedRow(mixed, part, folder, pictures)


def _question(part: Part, sample: Sample) -> str:
    question = sample.question
    if part.question == "in_words" and sample.objects:
        shown = [f"The {ORDINALS[place]} image shows: {name}." for place, name in enumerate(sample.objects)]
        question = " ".join([*shown, question])
    return question if part.template is None else part.template.replace(QUESTION, question)


def _answer(recipe: Recipe, part: Part, sample: Sample) -> str:
    """The label; benign rows keep theirs, except under a fixed sentence or in the form of a task."""
    if part.label == "sentence":
        return recipe.sentence
    if part.label == "refusal" and sample.harmful:
        if sample.answer and _says_no_at_once(sample.answer):
            return sample.answer
        return random.Random(f"{recipe.seed}|{sample.id}").choice(REFUSALS)
    if not sample.answer:
        raise DataError(
            f"mixture {recipe.name}: expected an answer in every row, found none in {sample.id}; construct labels first"
        )
    if part.label == "cot" and sample.harmful and opens_with_refusal(sample.answer):
        raise DataError(
            f"mixture {recipe.name}: expected a safety chain of thought, found {sample.answer[:60]!r} in {sample.id}; "
            "construct labels first (mis construct)"
        )
    form = None if sample.harmful or part.form == "as_given" else TASKS[part.form].form
    return sample.answer if form is None else form(_advice(recipe, part, sample))


def _advice(recipe: Recipe, part: Part, sample: Sample) -> str:
    """What an answer recommends, without what it sees and why."""
    answer, segments = sample.answer or "", (sample.model_extra or {}).get("segments") or []
    advice = "".join(answer[one["start"] : one["end"]] for one in segments if one["kind"] == SegmentKind.ANSWER)
    if not advice:
        raise DataError(
            f"mixture {recipe.name}: the form of {part.form} expects answers with a labelled segment "
            f"{SegmentKind.ANSWER.value}, found none in {sample.id}; construct labels (mis construct), or give task "
            "data of your own as general data, with their format (template)"
        )
    return advice.strip()


def _says_no_at_once(answer: str) -> bool:
    """Whether an answer is a refusal already: of VLGuard's, a quarter neither apologise nor say that they decline."""
    first = next(iter(sentences(answer)), "")
    return (
        opens_with_refusal(answer) or bool(re.match(r"no\b", first, re.IGNORECASE)) or Role.AGAINST in roles_of(first)
    )


def _opening(recipe: Recipe, sample: Sample) -> dict[str, Any]:
    """The answer as far as the first sentence after its perception; its labelled segments say where that is."""
    answer, parts = sample.answer or "", (sample.model_extra or {}).get("segments") or []
    if not parts or parts[0]["kind"] != SegmentKind.PERCEPTION or parts[0]["start"]:
        raise DataError(
            f"mixture {recipe.name}: cut expects answers with labelled segments that open with a perception, found "
            f"none in {sample.id}; "
            "construct labels (mis construct), or set cut=0"
        )
    seen = parts[0]["end"]
    first = next(iter(spans(answer[seen:])), (0, 0))
    short = answer[: seen + first[1]].rstrip()
    kept = [{**part, "end": min(part["end"], len(short))} for part in parts if part["start"] < len(short)]
    return {"answer": short, "segments": kept, "mask_eos": True}


def _consistent(recipe: Recipe, arm: Arm, rows: Sequence[MixedRow]) -> list[MixedRow]:
    """Ids stay unique, and only twins that are both in the mixture name each other."""
    ids = [row.sample.id for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(
            f"mixture {recipe.name}, {arm.name}: expected ids of their own, found {twice!r} twice; rename a source's "
            "ids"
        )
    there = set(ids)
    alone = [row.sample.twin_id is not None and row.sample.twin_id not in there for row in rows]
    return [
        row._replace(sample=row.sample.model_copy(update={"twin_id": None})) if lonely else row
        for row, lonely in zip(rows, alone, strict=True)
    ]


def _check_held_out(recipe: Recipe, sources: Mapping[str, SampleSet]) -> None:
    known = {sample.category for source in sources.values() for sample in source.samples if sample.category}
    unknown = sorted(set(recipe.held_out) - known)
    if unknown:
        raise SettingsError(
            f"mixture {recipe.name}: expected categories to hold out among {', '.join(sorted(known)) or 'none'}, "
            f"found {', '.join(unknown)}"
        )


def _composition(name: str, rows: Sequence[MixedRow]) -> Composition:
    safety = [row.sample for row in rows if row.part.source != GENERAL]
    return Composition(
        arm=name,
        rows=len(rows),
        harmful=sum(sample.harmful for sample in safety),
        benign=sum(not sample.harmful for sample in safety),
        general=len(rows) - len(safety),
        masked=sum(row.part.mask_eos for row in rows),
        images_per_row=dict(sorted(Counter(len(row.sample.images) for row in rows).items())),
        labels=dict(Counter(_label(sample.answer or "") for sample in safety)),
        categories=dict(sorted(Counter(sample.category or "none" for sample in safety).items())),
    )


def _label(answer: str) -> str:
    if opens_with_refusal(answer):
        return "refused"
    return "reasoned" if len(answer.split()) >= COT_WORDS else "short"


def _rows(name: str, samples: Iterable[Sample], images: Sequence[tuple[Path, ...]], progress: Progress) -> Rows:
    """Samples as ``duplicates`` compares them."""
    return Rows([view_of(sample, name, number) for number, sample in enumerate(samples, 1)], images, progress)


def _inside(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(inside(folder, name) for name in names)


def _write_images(folder: Path, rows: Iterable[MixedRow]) -> None:
    for row in rows:
        if row.part.images == "black":
            _black(folder / BLACK)
        elif row.part.images == "side_by_side":
            _side_by_side(
                [load_image(path) for path in _inside(row.folder, row.pictures)], folder / row.sample.images[0]
            )
        else:
            for source, name in zip(_inside(row.folder, row.pictures), row.sample.images, strict=True):
                link(source, inside(folder, name))


def _black(target: Path) -> None:
    if not target.exists():
        Image.new("RGB", (BLACK_SIDE, BLACK_SIDE)).save(target)


def _side_by_side(pictures: Sequence[Image.Image], target: Path) -> None:
    """One picture of several at the height of the lowest, left to right with a white gap."""
    height = min(picture.height for picture in pictures)
    scaled = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    gap = max(4, height // 50)
    whole = Image.new("RGB", (sum(picture.width for picture in scaled) + gap * (len(scaled) - 1), height), "white")
    left = 0
    for picture in scaled:
        whole.paste(picture, (left, 0))
        left += picture.width + gap
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.save(target, compress_level=1)
