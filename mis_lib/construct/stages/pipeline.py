"""The whole construction: seeds through all stages, then the data set, with an account of every record.

    OUT/train.jsonl easy.jsonl hard.jsonl   harmful items, each followed by its benign twin, as ``schema.Sample``
        images/ITEM/object1.png ...
        rejected.jsonl pending.jsonl        what is not in the data, and why
        review.csv                          for people's decisions (``inputs``)
        summary.json                        the balance of every stage
        stages/N-NAME.jsonl                 one line per decided record: done with outputs, or rejected with reason
        stages/cache/                       paid answers

A run can be killed and started again: the result is the same, byte for byte, as without the kill. A line is written the
moment its record is decided. It counts as long as its ``key`` fits: the hash of the record that came in, the prompt
files, the teachers and the seed. So an edited prompt makes its stage, and what depends on it, run again. A record that
failed is pending. One stage alone (``only``) works on what the stages before it have decided so far.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mis_lib.clients.cache import work_through
from mis_lib.clients.protocol import Unavailable, digest
from mis_lib.construct.labels import Label
from mis_lib.construct.stages.context import Bench, Context
from mis_lib.construct.stages.inputs import REVIEW, write_review
from mis_lib.construct.stages.records import (
    Account,
    Draft,
    Entry,
    EntryStatus,
    Pending,
    Rejected,
    RejectedRecord,
    Seed,
    StageCount,
    Step,
    Waiting,
)
from mis_lib.construct.stages.stages import ALL_STAGES, Stage, reviewed
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import append_record, hold, open_append, read_records, write_atomic, write_records
from mis_lib.schema import Sample, Split

STAGES = "stages"
NAMES = tuple(stage.name for stage in ALL_STAGES)
SUMMARY, REJECTED, PENDING, LOCK = "summary.json", "rejected.jsonl", "pending.jsonl", ".lock"
CONCURRENCY = 8
STREAK = 10  # after so many failures in a row, or three for each worker, the server counts as down
_REVIEW_NUMBER = NAMES.index("review")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}")

Progress = Callable[[str, int, int], None]


@dataclass
class StageResult:
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
        rejected = Counter(entry.code for entry in self.entries if entry.status is EntryStatus.REJECTED)
        return StageCount(
            stage=self.stage,
            came_in=len(self.entries) + len(self.pending),
            done=sum(entry.status is EntryStatus.DONE for entry in self.entries),
            rejected=dict(sorted(rejected.items())),
            pending=len(self.pending),
            went_out=len(self.outputs),
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            completion_tokens=sum(step.completion_tokens for step in steps),
        )


async def build(
    seeds: Sequence[Seed],
    context: Context,
    *,
    only: str | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress = lambda stage, done, total: None,
) -> Account:
    """Take seeds through the stages and write the data set as far as it has come.

    Args:
        seeds: where items come from.
        context: teachers, prompts, folder.
        only: the one stage to work on; all of them if not given.
        concurrency: the number of records in work at the same time.
        progress: called with the stage, the number of its decided records, and the number of all.

    Raises:
        SettingsError: there is no such stage.
        DataError: ``context.folder`` holds something else, another run is at work in it, or a file in it is damaged.
        ClientError: a teacher cannot be used at all; what is decided so far is kept.
    """
    if only is not None and only not in NAMES:
        raise SettingsError(f"stage: expected one of {', '.join(NAMES)}, found {only!r}")
    check_folder(context.folder)
    with locked(context.folder):
        _sweep(context.folder)
        results = []
        records: Sequence[Seed] | Sequence[Draft] = seeds
        for number, stage in enumerate(ALL_STAGES, 1):
            work = only in (None, stage.name)
            result = await run_stage(
                stage, records, context, number=number, work=work, concurrency=concurrency, progress=progress
            )
            results.append(result)
            records = result.outputs
        return _write(seeds, results, context)


async def run_stage(
    stage: Stage,
    records: Sequence[Seed] | Sequence[Draft],
    context: Context,
    *,
    number: int = 0,
    work: bool = True,
    concurrency: int = CONCURRENCY,
    progress: Progress = lambda stage, done, total: None,
) -> StageResult:
    """Take records through one stage.

    Args:
        stage: the stage.
        records: what comes in, each id once.
        context: teachers, prompts, folder.
        number: the stage's place, for the name of its file.
        work: if not, only what is decided already is looked up, and the rest is pending.
        concurrency: the number of records in work at the same time.
        progress: called with the stage, the number of its decided records, and the number of all.

    Raises:
        DataError: an id comes twice, or the stage's file is damaged.
        ClientError: a teacher cannot be used at all; what is decided so far is kept.
    """
    evidence = stage.evidence(records, context)
    keys = {record.id: _key(stage, record, context, evidence.get(record.id)) for record in records}
    if len(keys) < len(records):
        twice = [name for name, times in Counter(record.id for record in records).items() if times > 1]
        raise DataError(f"stage {stage.name}: expected each record once, found {twice[0]!r} several times")
    path = context.folder / STAGES / f"{number}-{stage.name}.jsonl"
    run = _StageRun(
        stage, context, keys, evidence, max(STREAK, 3 * concurrency), _decided(path, keys, only_last=stage.writes)
    )
    todo = [record for record in records if record.id not in run.decided]
    progress(stage.name, len(records) - len(todo), len(records))
    if work and todo:
        await _work(run, todo, path, concurrency, lambda done: progress(stage.name, done, len(records)))
    entries = [run.decided[record.id] for record in records if record.id in run.decided]
    pending = [
        Pending(id=record.id, stage=stage.name, reason=run.failed.get(record.id, "not tried yet"))
        for record in records
        if record.id not in run.decided
    ]
    return StageResult(stage.name, entries, pending)


def check_folder(folder: Path) -> None:
    """Only a new or empty folder, or one of an earlier construction, may be worked in.

    Raises:
        DataError: it holds something else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / STAGES).is_dir() or not any(folder.iterdir()))):
        raise DataError(
            f"{folder}: expected a new or empty folder or an earlier construction, found other files; "
            "choose another --out"
        )


def locked(folder: Path) -> AbstractContextManager[None]:
    """Held while a run works in a folder; the system releases it when the process ends."""
    refusal = f"{folder}: another construction is at work in this folder; wait for it or choose another --out"
    return hold(folder / STAGES / LOCK, DataError(refusal))


def lineages(results: Sequence[StageResult]) -> dict[str, list[Step]]:
    """The steps that made each draft, in the order of the stages; what its seed cost is in each of a seed's drafts."""
    steps: dict[str, list[Step]] = {}
    for result in results:
        for entry in result.entries:
            rejected = [entry.id] if result is not results[0] else []  # what comes into the first stage is a seed
            for name in [draft.id for draft in entry.outputs] or rejected:
                steps.setdefault(name, []).extend(entry.steps)
    return steps


def samples_of(draft: Draft, steps: Sequence[Step], seed: int) -> tuple[Sample, Sample]:
    """An admitted draft as a harmful item and its benign twin, each with the steps that made it.

    Raises:
        DataError: the draft has no twin.
    """
    twin = draft.twin
    if twin is None:
        raise DataError(f"{draft.id}: expected a draft with a twin, found one without")
    common = {"category": draft.category, "sub_category": draft.sub_category, "split": draft.split}
    about = {"source": "stages", "seed_set": draft.source, "seed_id": draft.seed_id, "seed": seed}

    def lineage(without: str) -> list[dict[str, Any]]:
        return [step.model_dump(mode="json") for step in steps if step.stage != without]

    harmful = Sample(
        id=draft.id,
        question=draft.question,
        images=list(draft.images),
        harmful=True,
        twin_id=f"{draft.id}-twin",
        objects=list(draft.objects),
        provenance={**about, "lineage": lineage("twin")},
        **common,
        **Label(draft.answer, draft.segments).fields,
    )
    benign = Sample(
        id=f"{draft.id}-twin",
        question=twin.question,
        images=list(twin.images),
        harmful=False,
        twin_id=draft.id,
        objects=list(twin.objects),
        provenance={**about, "swap": twin.swap, "lineage": lineage("label")},
        **common,
        **Label(twin.answer, twin.segments).fields,
    )
    return harmful, benign


@dataclass
class _StageRun:
    """One run of a stage: what has come of it so far."""

    stage: Stage
    context: Context
    keys: Mapping[str, str]
    evidence: Mapping[str, Any]
    most_failures: int
    decided: dict[str, Entry] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failures_in_a_row: int = 0


async def _work(
    run: _StageRun, todo: Sequence[Any], path: Path, concurrency: int, progress: Callable[[int], None]
) -> None:
    async def keep(record: Any) -> None:
        if run.failures_in_a_row >= run.most_failures:
            run.failed[record.id] = f"not tried: the last {run.failures_in_a_row} calls failed"
            return
        entry = await _decide(run, record)
        if entry is not None:
            append_record(stream, entry)
            run.decided[record.id] = entry
        progress(len(run.decided))

    with open_append(path) as stream:
        await work_through(todo, keep, concurrency)


async def _decide(run: _StageRun, record: Any) -> Entry | None:
    """What becomes of one record; ``None`` where it stays pending."""
    bench = Bench(run.context, run.stage.name, record)
    common = {"id": record.id, "key": run.keys[record.id], "input": record.digest}
    try:
        outputs = await run.stage.work(record, bench, run.evidence.get(record.id))
    except Waiting as error:
        run.failed[record.id] = str(error)
        return None
    except Unavailable as error:
        run.failed[record.id] = str(error)
        run.failures_in_a_row += 1
        return None
    except Rejected as error:
        run.failures_in_a_row = 0
        return Entry(
            **common, status=EntryStatus.REJECTED, code=error.code, reason=error.reason,
            rejected=record.model_dump(mode="json"), steps=tuple(bench.steps),
        )  # fmt: skip
    run.failures_in_a_row = 0
    return Entry(**common, status=EntryStatus.DONE, outputs=tuple(outputs), steps=tuple(bench.steps))


def _decided(path: Path, keys: Mapping[str, str], *, only_last: bool) -> dict[str, Entry]:
    """The stored decisions that still count; ``only_last``: a later line of an id has overwritten its pictures."""
    stored = read_records(path, Entry) if path.exists() else []
    if only_last:
        stored = {entry.id: entry for entry in stored}.values()
    return {entry.id: entry for entry in stored if keys.get(entry.id) == entry.key}


def _key(stage: Stage, record: Seed | Draft, context: Context, evidence: Any) -> str:
    """Hash of all that a record's result follows from."""
    return digest(
        {
            "record": record.digest,
            "prompts": {task: context.prompts[task].digest for task in stage.tasks},
            "teachers": {task: context.teacher_of(task, record).name for task in stage.tasks},
            "maker": context.maker.name if stage.draws else "",
            "per_seed": context.per_seed if "extract" in stage.tasks else 0,
            "seed": context.seed,
            "max_tokens": context.max_tokens if stage.tasks else 0,
            "context": evidence,  # the name in stored files
        }
    )


def _write(seeds: Sequence[Seed], results: Sequence[StageResult], context: Context) -> Account:
    """Write everything that follows from the stages' decisions."""
    admitted, made = results[-1].outputs, lineages(results)
    for split in (Split.TRAIN, Split.EASY, Split.HARD):
        items = [draft for draft in admitted if draft.split == split]
        samples = [sample for draft in items for sample in samples_of(draft, made[draft.id], context.seed)]
        write_records(context.folder / f"{split.value}.jsonl", samples)
    rejected = [
        _rejected_record(result.stage, entry, entry.steps if result is results[0] else made[entry.id])
        for result in results
        for entry in result.entries
        if entry.status is EntryStatus.REJECTED
    ]
    pending: list[Pending] = [record for result in results for record in result.pending]
    write_records(context.folder / REJECTED, rejected)
    write_records(context.folder / PENDING, pending)
    shown = [reviewed(draft, context) for draft in results[_REVIEW_NUMBER - 1].outputs]
    unused = write_review(context.folder / REVIEW, shown, context.decisions)
    account = _account(seeds, results, rejected, pending, context).model_copy(update={"unused_decisions": unused})
    write_atomic(context.folder / SUMMARY, f"{account.model_dump_json(indent=1)}\n".encode())
    return account


def _rejected_record(stage: str, entry: Entry, steps: Sequence[Step]) -> RejectedRecord:
    return RejectedRecord(
        id=entry.id,
        stage=stage,
        code=entry.code,
        reason=entry.reason,
        record=entry.rejected or {},
        lineage=tuple(steps),
    )


def _account(
    seeds: Sequence[Seed],
    results: Sequence[StageResult],
    rejected: Sequence[RejectedRecord],
    pending: Sequence[Pending],
    context: Context,
) -> Account:
    counts = [result.count for result in results]
    admitted = results[-1].outputs
    return Account(
        seeds=len(seeds),
        drafts=counts[0].went_out,
        done=len(admitted),
        rejected=_tally(f"{record.stage}: {record.code}" for record in rejected),
        pending=_tally(record.stage for record in pending),
        splits=_tally(draft.split for draft in admitted),
        refined=sum(draft.refined for draft in admitted),
        twins=_tally(draft.twin.swap for draft in admitted if draft.twin),
        prompt_tokens=sum(count.prompt_tokens for count in counts),
        completion_tokens=sum(count.completion_tokens for count in counts),
        stages=counts,
        teachers={
            **{role.value: teacher.name for role, teacher in context.teachers.items()},
            "images": context.maker.name,
        },
    )


def _tally(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _sweep(folder: Path) -> None:
    """Remove the drafts of files that a killed run was writing (``files.write_atomic``)."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink()
