"""Running one stage over its records: what is done is not done again, what fails is pending, and every record is exactly one of three things.

    OUT/stages/N-NAME.jsonl     one line for each record decided about: done, with what goes to the next stage, or rejected, with the reason

A line is written the moment its record is decided. It counts as long as its ``key`` fits, the hash of all that it follows from (the record that
came in, the prompt files, the teachers, the seed); edit a prompt and that stage, and what depends on it, is done anew.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mis_lib.clients.protocol import Unavailable, digest
from mis_lib.construct.stages.context import Bench, Workshop
from mis_lib.construct.stages.records import (
    Draft,
    Entry,
    Pending,
    Rejected,
    Seed,
    StageCount,
    Status,
    Waiting,
)
from mis_lib.errors import DataError
from mis_lib.files import append_record, open_append, read_records

STAGES = "stages"
CONCURRENCY = 8
STREAK = 10  # so many failures in a row, or three for each worker, and the server is taken to be down

Work = Callable[[Any, Bench, Any], Awaitable[list[Draft]]]
Context = Callable[[Sequence[Any], Workshop], Mapping[str, Any]]
Progress = Callable[[str, int, int], None]


def _no_context(records: Sequence[Any], shop: Workshop) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Stage:
    """A function over records and what it needs.

    ``tasks`` are the prompts it asks with, ``draws`` says whether it depends on the image maker, ``context`` what a result depends on
    besides the record: the other records, or what people have said. ``writes`` says that it leaves pictures, under names that the next run takes, too.
    """

    name: str
    work: Work
    tasks: tuple[str, ...] = ()
    draws: bool = False
    context: Context = _no_context
    writes: bool = False


@dataclass
class Outcome:
    """A stage's decisions, in the order in which the records came in."""

    stage: str
    entries: list[Entry]
    pending: list[Pending]

    @property
    def outputs(self) -> list[Draft]:
        """What goes to the next stage."""
        return [draft for entry in self.entries for draft in entry.outputs]

    @property
    def count(self) -> StageCount:
        """The balance."""
        steps = [step for entry in self.entries for step in entry.steps]
        rejected = Counter(entry.code for entry in self.entries if entry.status is Status.REJECTED)
        return StageCount(
            stage=self.stage,
            came_in=len(self.entries) + len(self.pending),
            done=sum(entry.status is Status.DONE for entry in self.entries),
            rejected=dict(sorted(rejected.items())),
            pending=len(self.pending),
            went_out=len(self.outputs),
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            completion_tokens=sum(step.completion_tokens for step in steps),
        )


@dataclass
class _Shift:
    """One run of a stage: what has come of it so far."""

    stage: Stage
    shop: Workshop
    keys: Mapping[str, str]
    context: Mapping[str, Any]
    most_failures: int
    decided: dict[str, Entry] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failures_in_a_row: int = 0


async def run_stage(
    stage: Stage,
    records: Sequence[Seed] | Sequence[Draft],
    shop: Workshop,
    *,
    number: int = 0,
    work: bool = True,
    concurrency: int = CONCURRENCY,
    progress: Progress = lambda stage, done, total: None,
) -> Outcome:
    """Take records through one stage.

    Args:
        stage: the stage.
        records: what comes in, each id once.
        shop: teachers, prompts, folder.
        number: the stage's place, for the name of its file.
        work: if not, only what is decided already is looked up, and the rest is pending.
        concurrency: so many records are worked on at the same time.
        progress: told the stage, how many of its records are decided, and how many there are.

    Raises:
        DataError: an id comes twice, or the stage's file is damaged.
        TeacherError: a teacher cannot be used at all; what is decided so far is kept.
    """
    context = stage.context(records, shop)
    keys = {record.id: _key(stage, record, shop, context.get(record.id)) for record in records}
    if len(keys) < len(records):
        twice = [name for name, times in Counter(record.id for record in records).items() if times > 1]
        raise DataError(f"stage {stage.name}: expected each record once, found {twice[0]!r} several times")
    path = shop.folder / STAGES / f"{number}-{stage.name}.jsonl"
    shift = _Shift(
        stage, shop, keys, context, max(STREAK, 3 * concurrency), _decided(path, keys, only_last=stage.writes)
    )
    todo = [record for record in records if record.id not in shift.decided]
    progress(stage.name, len(records) - len(todo), len(records))
    if work and todo:
        await _work(shift, todo, path, concurrency, lambda done: progress(stage.name, done, len(records)))
    entries = [shift.decided[record.id] for record in records if record.id in shift.decided]
    pending = [
        Pending(id=record.id, stage=stage.name, reason=shift.failed.get(record.id, "not tried yet"))
        for record in records
        if record.id not in shift.decided
    ]
    return Outcome(stage.name, entries, pending)


async def _work(
    shift: _Shift, todo: Sequence[Any], path: Path, concurrency: int, progress: Callable[[int], None]
) -> None:
    waiting = iter(todo)

    async def worker() -> None:
        for record in waiting:  # shared by all workers: each record goes to one of them
            if shift.failures_in_a_row >= shift.most_failures:
                shift.failed[record.id] = f"not tried: the last {shift.failures_in_a_row} calls failed"
                continue
            entry = await _decide(shift, record)
            if entry is not None:
                append_record(stream, entry)
                shift.decided[record.id] = entry
            progress(len(shift.decided))

    with open_append(path) as stream:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(todo))):
                    group.create_task(worker())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None


async def _decide(shift: _Shift, record: Any) -> Entry | None:
    """What becomes of one record; ``None`` where it stays pending."""
    bench = Bench(shift.shop, shift.stage.name, record)
    common = {"id": record.id, "key": shift.keys[record.id], "input": record.digest}
    try:
        outputs = await shift.stage.work(record, bench, shift.context.get(record.id))
    except Waiting as error:
        shift.failed[record.id] = str(error)
        return None
    except Unavailable as error:
        shift.failed[record.id] = str(error)
        shift.failures_in_a_row += 1
        return None
    except Rejected as error:
        shift.failures_in_a_row = 0
        return Entry(
            **common, status=Status.REJECTED, code=error.code, reason=error.reason,
            rejected=record.model_dump(mode="json"), steps=tuple(bench.steps),
        )  # fmt: skip
    shift.failures_in_a_row = 0
    return Entry(**common, status=Status.DONE, outputs=tuple(outputs), steps=tuple(bench.steps))


def _decided(path: Path, keys: Mapping[str, str], *, only_last: bool) -> dict[str, Entry]:
    """The stored decisions that still count; ``only_last``: only where nothing else was decided since, which wrote over their pictures."""
    stored = read_records(path, Entry) if path.exists() else []
    if only_last:
        stored = {entry.id: entry for entry in stored}.values()
    return {entry.id: entry for entry in stored if keys.get(entry.id) == entry.key}


def _key(stage: Stage, record: Seed | Draft, shop: Workshop, context: Any) -> str:
    """Hash of all that a record's result follows from."""
    return digest(
        {
            "record": record.digest,
            "prompts": {task: shop.prompts[task].digest for task in stage.tasks},
            "teachers": {task: shop.teacher_of(task, record).name for task in stage.tasks},
            "maker": shop.maker.name if stage.draws else "",
            "per_seed": shop.per_seed if "extract" in stage.tasks else 0,
            "seed": shop.seed,
            "max_tokens": shop.max_tokens if stage.tasks else 0,
            "context": context,
        }
    )
