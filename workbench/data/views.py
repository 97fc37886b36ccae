"""Data sets to look at: known by name, read whole, shown page by page with images and twins.

A person names a data set, never a path; which folders there are is decided by whoever starts the app. What a data file says about images is not
believed either: a name that leaves its folder is told as a fault of the item, and nothing is opened.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from mis_lib.cache import cache_dir
from mis_lib.clients.protocol import Unavailable
from mis_lib.construct.stages.context import Bench, Context, TeacherRole, read_prompts
from mis_lib.construct.stages.inputs import built_in_seeds
from mis_lib.construct.stages.offline import DrawnImages, OfflineTeacher
from mis_lib.construct.stages.records import Draft, Rejected, Seed, Waiting
from mis_lib.construct.stages.stages import ALL_STAGES, Stage
from mis_lib.data.images import refusal
from mis_lib.data.preflight import PreflightReport, PreflightSettings, preflight
from mis_lib.data.sources import find_source, scan
from mis_lib.errors import DataError, ImageError, SettingsError
from mis_lib.schema import Sample
from workbench.background import Phase
from workbench.compare.state import Prompt, card_thumbnail, read_image
from workbench.host import Host
from workbench.html import icon, picture, table, truth_chip

PAGE = 12
HARMFUL, BENIGN = "harmful", "benign"


@dataclass(frozen=True)
class DataSet:
    """The items of one folder or file, and what could not be read of it."""

    name: str
    folder: Path
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The items by id."""
        return {sample.id: sample for sample in self.samples}

    @cached_property
    def splits(self) -> list[str]:
        """The splits, in the order of the files."""
        return list(dict.fromkeys(str(sample.split) for sample in self.samples))

    @cached_property
    def categories(self) -> list[str]:
        """The categories in alphabetical order."""
        return sorted({sample.category for sample in self.samples if sample.category})

    @cached_property
    def _texts(self) -> list[str]:
        return [
            " ".join([sample.id, sample.question, sample.sub_category or "", *(sample.objects or [])]).lower()
            for sample in self.samples
        ]

    def find(self, *, split: str = "", category: str = "", truth: str = "", words: str = "") -> list[Sample]:
        """The items that match all that is given; every word has to stand somewhere in an item's texts."""
        wanted = words.lower().split()
        return [
            sample
            for sample, text in zip(self.samples, self._texts, strict=True)
            if (not split or sample.split == split)
            and (not category or sample.category == category)
            and (not truth or sample.harmful == (truth == HARMFUL))
            and all(word in text for word in wanted)
        ]

    def twin(self, sample: Sample) -> Sample | None:
        """The counterpart with the opposite truth."""
        return self.by_id.get(sample.twin_id) if sample.twin_id else None

    def thumbnails(self, sample: Sample) -> list[tuple[str, str]]:
        """(data URL, "") for each image of an item, or ("", what is wrong with it)."""
        return [self._thumbnail(name) for name in sample.images]

    def prompt(self, sample_id: str) -> tuple[Prompt, Sample]:
        """An item as a prompt.

        Raises:
            DataError: there is no such item, or an image's name leads out of the data folder.
            ImageError: an image cannot be read.
        """
        sample = self.by_id.get(sample_id)
        if sample is None:
            raise DataError(f"there is no item {sample_id!r:.80} in {self.name}; choose one of those shown")
        names = sample.objects or sample.images
        for image in sample.images:
            if found := refusal(self.folder, image):
                raise DataError(
                    f"{sample_id}: expected an image inside the data folder, found {found.reason}; {found.fix}"
                )
        images = tuple(
            read_image(self.folder / image, name=name, flagged=sample.harmful)
            for image, name in zip(sample.images, names, strict=True)
        )
        return Prompt(images, sample.id), sample

    def _thumbnail(self, name: str) -> tuple[str, str]:
        if found := refusal(self.folder, name):
            return "", f"not opened: {found.reason}"
        try:
            return card_thumbnail(self.folder / name), ""
        except ImageError as error:
            return "", str(error)


@dataclass
class Shelf:
    """The data sets of one app."""

    host: Host
    _read: dict[str, DataSet] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def places(self) -> Mapping[str, Path]:
        """Name -> folder or file of every data set; the examples of Compare come first, equal names are told apart."""
        examples = self.host.data.value
        found = {self.host.data_name: examples.folder} if examples else {}
        for path in self.host.data_folders:
            if path.resolve() in {other.resolve() for other in found.values()}:
                continue
            name, number = path.stem if path.is_file() else path.name, 2
            unique = name
            while unique in found:
                unique, number = f"{name} ({number})", number + 1
            found[unique] = path
        return found

    def read(self, name: str) -> DataSet:
        """A data set by name, read once.

        Raises:
            DataError: there is none of that name, or nothing in it can be read.
        """
        path = self._path(name)
        with self._lock:
            if name not in self._read:
                self._read[name] = _read(name, path)
            return self._read[name]

    def check(self, name: str) -> PreflightReport:
        """The preflight report of a data set; raises as ``read``."""
        return preflight(self._path(name), PreflightSettings())

    def _path(self, name: str) -> Path:
        places = self.places()
        if name not in places:
            told = [
                f"there is no data set{f' {name!r:.80}' if name else ''} here; there are {', '.join(places) or 'none'}"
            ]
            if self.host.data.status.phase is Phase.FAILED:
                told.append(f"The examples could not be prepared: {self.host.data.status.message}")
            raise DataError(". ".join([*told, "Start the app with --datasets PATH to have more"]))
        return places[name]


def _read(name: str, path: Path) -> DataSet:
    source = find_source(path)
    found = list(scan(source))
    samples = tuple(one for one in found if isinstance(one, Sample))
    problems = tuple(str(one) for one in found if isinstance(one, DataError))
    return DataSet(name, source.folder, samples, problems)


# ---------- One item made live, stage by stage: every intermediate is shown, may be edited, and is what the next stage works on.
#
# The stages are those of ``mis construct --source stages`` with the built-in teacher, run on a single record in a folder of its own that goes when the
# page is left. A stage may reject the item; then the reason is shown, and after an edit the same stage can be tried again.

STAGES = tuple(
    stage for stage in ALL_STAGES if stage.name not in ("review", "admit")
)  # those need other items or people
MEANINGS = {
    "extract": "two things that are harmless alone are found in the hazard",
    "rewrite": "the request becomes a question that does not name them",
    "detox": "the question loses its dangerous words; hazards of the training side keep them",
    "images": "both things are drawn, and looked at",
    "filter": "rules and a judge decide whether it stays",
    "classify": "what is dangerous by itself: question, first image, second image",
    "label": "the safety chain-of-thought: perception, reasoning, answer",
    "twin": "one image is exchanged and the question stays; a question that is dangerous by its words is exchanged, and the images stay",
}
EDITABLE = ("request", "question", "objects", "risk", "answer")
SEEDS = 60


@dataclass(frozen=True)
class Step:
    """What one stage did: the draft after it, or why it rejected the item; fields that a person had changed before it."""

    stage: str
    draft: Draft | None
    rejected: str = ""
    edited: tuple[str, ...] = ()


@dataclass(frozen=True)
class LiveItem:
    """An item in the making."""

    seed: Seed
    folder: Path
    steps: tuple[Step, ...] = ()

    @property
    def draft(self) -> Draft | None:
        """The item as far as it has come."""
        return next((step.draft for step in reversed(self.steps) if step.draft is not None), None)

    @property
    def next_stage(self) -> str:
        """The stage that comes next, empty after the last one."""
        done = sum(step.draft is not None for step in self.steps)
        return STAGES[done].name if done < len(STAGES) else ""


def seeds() -> dict[str, Seed]:
    """Hazards to begin with, by their first words."""
    return {f"{seed.id}: {seed.text.splitlines()[0]}": seed for seed in built_in_seeds(SEEDS, 1, 0)}


def begin(seed: Seed) -> LiveItem:
    """A new item in a folder of its own."""
    root = cache_dir() / "constructing"
    root.mkdir(parents=True, exist_ok=True)
    return LiveItem(seed, Path(tempfile.mkdtemp(dir=root, prefix="item-")))


def discard(item: LiveItem | None) -> None:
    """Remove an item's folder."""
    if item is not None:
        shutil.rmtree(item.folder, ignore_errors=True)


def advance(item: LiveItem, edits: Mapping[str, str]) -> LiveItem:
    """Take the item, with what a person has changed, through the next stage.

    Raises:
        SettingsError: it has been through all of them, or an edit is not of its form.
    """
    name = item.next_stage
    if not name:
        raise SettingsError("the item has been through all stages; begin another one, or send it to Compare")
    record, edited = _edited(item.draft, edits) if item.draft else (item.seed, ())
    stage = next(stage for stage in STAGES if stage.name == name)
    bench = Bench(_context(item.folder), name, record)
    steps = tuple(step for step in item.steps if not step.rejected)
    try:
        drafts = asyncio.run(_work(stage, record, bench))
    except (Rejected, Waiting, Unavailable) as error:
        return replace(item, steps=(*steps, Step(name, None, str(error), edited)))
    if not drafts:
        return replace(item, steps=(*steps, Step(name, None, "the stage gave nothing back", edited)))
    return replace(item, steps=(*steps, Step(name, drafts[0], "", edited)))


def prompt_of(item: LiveItem) -> tuple[Prompt, str]:
    """The item as a prompt, and its question.

    Raises:
        DataError: it has no images or no question yet.
        ImageError: an image is gone.
    """
    draft = item.draft
    if draft is None or not draft.images or not draft.question:
        raise DataError("the item has no images yet; go on until after the stage images")
    images = tuple(
        read_image(item.folder / path, name=name, flagged=True)
        for path, name in zip(draft.images, draft.objects, strict=True)
    )
    return Prompt(images), draft.question


def _edited(draft: Draft, edits: Mapping[str, str]) -> tuple[Draft, tuple[str, ...]]:
    """The draft with a person's changes, and which fields they are."""
    changed: dict[str, Any] = {}
    for name in EDITABLE:
        text = edits.get(name, "").strip()
        value: Any = tuple(part.strip() for part in text.split(";")) if name == "objects" else text
        if not text or value == getattr(draft, name):
            continue
        if name == "objects" and (len(value) != len(draft.objects) or not all(value)):
            raise SettingsError(
                f"objects: expected {len(draft.objects)} names with ';' between them, found {text!r:.80}"
            )
        changed[name] = value
    return draft.model_copy(update=changed), tuple(changed)


async def _work(stage: Stage, record: Seed | Draft, bench: Bench) -> list[Draft]:
    return await stage.work(record, bench, None)


def _context(folder: Path) -> Context:
    teacher = OfflineTeacher(0)
    return Context(dict.fromkeys(TeacherRole, teacher), DrawnImages(), read_prompts(None), folder, per_seed=1)


# ---------- HTML of data sets: items with their images and twins, what preflight found, and an item on its way through the stages.

LONG = 240  # characters of a question: about six lines of a card


def items(data: DataSet, found: Sequence[Sample], page: int, *, twins: bool) -> str:
    """One page of items; with ``twins`` each harmful item stands beside its benign twin."""
    if not found:
        return (
            '<div class="mis-empty"><b>No item matches.</b><p>Choose another split or category, or shorten the search. '
            f"{escape(data.name)} holds {len(data.samples):,} items.</p></div>"
        )
    heads = [sample for sample in found if not _shown_with_twin(data, sample)] if twins else list(found)
    pages = -(-len(heads) // PAGE)
    page = min(max(page, 0), pages - 1)
    cards = "".join(
        _pair(data, sample) if twins else _card(data, sample) for sample in heads[page * PAGE : (page + 1) * PAGE]
    )
    return (
        f'<div class="mis-count"><span>{len(found):,} of {len(data.samples):,} items · page {page + 1} of {pages:,}</span>'
        f'<span class="mis-pager">{_turn("Previous", page - 1, page > 0)}{_turn("Next", page + 1, page + 1 < pages)}</span></div>'
        f'<div class="mis-items{" mis-pairs" if twins else ""}">{cards}</div>{_problems(data.problems)}'
    )


def report(name: str, found: PreflightReport) -> tuple[str, pd.DataFrame]:
    """A preflight report on the data set ``name`` as HTML, and its findings as a frame."""
    frame = pd.DataFrame(
        [{**finding.model_dump(mode="json"), "level": finding.level.value} for finding in found.findings],
        columns=pd.Index(["level", "kind", "file", "row", "id", "field", "message", "fix", "rows"]),
    )
    tone, told = (
        ("good", "ready, training may start") if found.ready else ("bad", "training must not start with this data")
    )
    head = (
        f'<div class="mis-verdict mis-{tone}">{icon(tone)}<b>{escape(name)}: {told}</b><small>{found.rows:,} rows and {found.images:,} images looked at in '
        f"{found.seconds:.1f} s: {len(found.findings):,} findings.</small></div>"
    )
    if frame.empty:
        return head, frame
    headings = {
        "level": "level",
        "kind": "kind",
        "file": "file",
        "row": "row",
        "message": "what",
        "fix": "how to put it right",
    }
    return head + table(frame, headings, name="findings", long=("message", "fix")), frame


def live(item: LiveItem | None) -> str:
    """An item on its way: each stage that it has been through, and the one that comes next."""
    if item is None:
        return (
            '<div class="mis-empty"><b>Make one item, stage by stage</b><p>Choose a hazard and press Begin. Each stage shows what it made; change '
            "any field before the next one.</p></div>"
        )
    done = "".join(_step(item, step, number) for number, step in enumerate(item.steps, 1))
    name = item.next_stage
    coming = f"<li class=mis-stage-next><b>next: {escape(name)}</b> <span>{MEANINGS[name]}</span></li>" if name else ""
    return f'<p class="mis-seed"><b>Hazard</b> {escape(item.seed.text)}</p><ol class="mis-stages">{done}{coming}</ol>'


def _step(item: LiveItem, step: Step, number: int) -> str:
    edits = f' <span class="mis-chip">edited: {escape(", ".join(step.edited))}</span>' if step.edited else ""
    head = f"<b>{number}. {escape(step.stage)}</b> <span>{MEANINGS[step.stage]}</span>{edits}"
    if step.draft is None:
        told = f"<p>Rejected: {escape(step.rejected)}. Change a field and try again, or begin another item.</p>"
        return f'<li class="mis-stage mis-bad" data-stage="{step.stage}">{head}{told}</li>'
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in _facts(step.stage, step.draft).items()
    )
    return f'<li class="mis-stage" data-stage="{step.stage}">{head}<dl>{facts}</dl>{_pictures(item, step)}</li>'


def _facts(stage: str, draft: Draft) -> dict[str, str]:
    """What a stage has decided, in words."""
    twin = draft.twin
    danger = [draft.text_danger, *draft.image_danger]
    places = ("question", "first image", "second image")
    found = {
        "extract": {"objects": "; ".join(draft.objects), "request": draft.request, "risk": draft.risk},
        "rewrite": {"question": draft.question},
        "detox": {"question": draft.question},
        "images": {"drawn": "; ".join(draft.image_prompts)},
        "filter": {"decision": "kept"},
        "classify": {"dangerous alone": ", ".join(name for name, bad in zip(places, danger, strict=False) if bad) or "nothing", "split": draft.split},
        "label": {part.kind.value: part.text.strip() for part in draft.segments},
        "twin": {"swapped": twin.swap, "objects": "; ".join(twin.objects), "question": twin.question, "answer": twin.answer} if twin else {},
    }  # fmt: skip
    return found[stage]


def _pictures(item: LiveItem, step: Step) -> str:
    if step.draft is None or step.stage not in ("images", "twin"):
        return ""
    twin = step.draft.twin if step.stage == "twin" else None
    images, names = (twin.images, twin.objects) if twin else (step.draft.images, step.draft.objects)
    shown = "".join(
        picture(card_thumbnail(item.folder / path), f"Image {number}: {name}", twin is None)
        for number, (path, name) in enumerate(zip(images, names, strict=True), 1)
    )
    return f'<div class="mis-item-pictures">{shown}</div>'


def _shown_with_twin(data: DataSet, sample: Sample) -> bool:
    """A benign item whose harmful twin is shown anyway."""
    twin = data.twin(sample)
    return not sample.harmful and twin is not None and twin.harmful


def _pair(data: DataSet, sample: Sample) -> str:
    twin = data.twin(sample)
    other = _card(data, twin) if twin else f'<p class="mis-note">{_without_twin(data, sample)}</p>'
    return f'<div class="mis-pair">{_card(data, sample)}{other}</div>'


def _without_twin(data: DataSet, sample: Sample) -> str:
    """Why no twin stands beside an item."""
    if sample.twin_id is None:
        return "This item has no twin in this data set."
    if data.problems:
        return f"Its twin, {escape(sample.twin_id)}, is not among the items that could be read; what could not be read stands below the items."
    return f"It names the twin {escape(sample.twin_id)}, which is not in this data set."


def _card(data: DataSet, sample: Sample) -> str:
    named = sample.objects or sample.images
    pictures = "".join(
        picture(source, f"Image {number}: {name}", sample.harmful)
        if source
        else f'<p class="mis-no-picture">Image {number}: {escape(problem)}</p>'
        for number, ((source, problem), name) in enumerate(zip(data.thumbnails(sample), named, strict=True), 1)
    )
    where = " / ".join(part for part in (sample.split, sample.category, sample.sub_category) if part)
    answer = (
        f"<details><summary>Target answer</summary><p>{escape(sample.answer)}</p></details>" if sample.answer else ""
    )
    return (
        f'<article class="mis-item" data-item="{escape(sample.id)}"><div class="mis-item-pictures">{pictures}</div>'
        f"<h4>{escape(' + '.join(named))}</h4>{_question(sample.question)}<small>{truth_chip(sample)} {escape(where)} · "
        f'<code>{escape(sample.id)}</code></small>{answer}<button type="button" class="mis-link" data-action="send" '
        f'data-id="{escape(sample.id)}">Send to Compare</button></article>'
    )


def _question(text: str) -> str:
    """A question; a long one is cut to its first lines until it is opened."""
    if len(text) <= LONG:
        return f"<p>{escape(text)}</p>"
    return f'<details class="mis-long-question"><summary><span>{escape(text)}</span></summary></details>'


def _turn(label: str, page: int, possible: bool) -> str:
    off = "" if possible else " disabled"
    return f'<button type="button" class="mis-link" data-action="turn" data-page="{page}"{off}>{label}</button>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:20])
    return f'<details class="mis-problems"><summary>{len(problems):,} records could not be read</summary><ul>{lines}</ul></details>'
