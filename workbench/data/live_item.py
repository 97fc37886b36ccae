"""One item made live, stage by stage: every intermediate is shown, may be edited, and is the input of the next stage.

The stages are those of ``mis construct --source stages`` with the built-in teacher. They run on a single record in a
temporary folder, which is removed when the page is left. If a stage rejects the item, the reason is shown, and the same
stage can be tried again after an edit.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mis_lib.cache import cache_dir
from mis_lib.clients.protocol import Unavailable
from mis_lib.construct.stages.context import Bench, Context, TeacherRole, read_prompts
from mis_lib.construct.stages.inputs import built_in_seeds
from mis_lib.construct.stages.offline import DrawnImages, OfflineTeacher
from mis_lib.construct.stages.records import Draft, Rejected, Seed, Waiting
from mis_lib.construct.stages.stages import ALL_STAGES, Stage
from mis_lib.errors import DataError, SettingsError
from workbench.prompt import Prompt, read_image

# review needs people, admit needs other items
STAGES = tuple(stage for stage in ALL_STAGES if stage.name not in ("review", "admit"))
MEANINGS = {
    "extract": "two things that are harmless alone are found in the hazard",
    "rewrite": "the request becomes a question that does not name them",
    "detox": "the question loses its dangerous words; hazards of the training side keep them",
    "images": "both things are drawn, and looked at",
    "filter": "rules and a judge decide whether it stays",
    "classify": "what is dangerous by itself: question, first image, second image",
    "label": "the safety chain-of-thought: perception, reasoning, answer",
    "twin": "one image is exchanged and the question stays; a question that is dangerous by its words is exchanged, "
    "and the images stay",
}
EDITABLE = ("request", "question", "objects", "risk", "answer")
SEEDS = 60


@dataclass(frozen=True)
class Step:
    """What one stage did: the draft after it or why it rejected the item, and which fields a person had changed."""

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
    """A new item in a new folder."""
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
