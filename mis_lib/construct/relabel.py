"""Safety chains of thought for rows that there are, by a teacher: so VLGuard-R is made of VLGuard (arXiv 2501.18533).

    OUT/train.jsonl      the rows with their images: harmful ones with a new answer, benign ones as they are
        rejected.jsonl   rows left out since their reply cannot be used, and why
        pending.jsonl    rows left out since the teacher did not answer; the same command asks for these again
        stages/cache/    paid answers

A killed run is started again: what was paid is read from the cache. The data file is written last, in one step.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.clients.cache import Streak, work_through
from mis_lib.clients.images import encode, is_png_or_jpeg, whole_file
from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ChatModel, Unavailable
from mis_lib.construct.labels import compose
from mis_lib.construct.stages.context import FACTS, Prompt
from mis_lib.construct.stages.forms import RelabelParts, forbidden
from mis_lib.construct.stages.pipeline import PENDING, REJECTED, STREAK
from mis_lib.construct.stages.records import Pending, Rejected, RejectedRecord
from mis_lib.data.formats import with_answer
from mis_lib.data.images import inside
from mis_lib.errors import DataError, ImageError
from mis_lib.files import link, load_image, write_records
from mis_lib.schema import Sample, SegmentKind, Split

STAGE = "relabel"
Progress = Callable[[str, int, int], None]


class Relabelled(NamedTuple):
    """What came of the rows."""

    rows: int
    """In the data file."""
    labelled: int
    """Of these, harmful ones, each with a new answer."""
    rejected: dict[str, int]
    """Kind of reason -> rows left out for good."""
    pending: int
    """Rows left out until the teacher answers."""


async def relabel(
    samples: Sequence[Sample],
    folder: Path,
    out: Path,
    teacher: ChatModel,
    prompt: Prompt,
    *,
    seed: int = 0,
    max_tokens: int = 1024,
    concurrency: int = 8,
    progress: Progress = lambda stage, done, total: None,
) -> Relabelled:
    """Have a teacher answer the harmful rows, and write all rows as a data set.

    Args:
        samples: the rows.
        folder: what their images are relative to.
        out: the folder of the data set.
        teacher: looks at the images and writes.
        prompt: of the task "relabel".
        seed: of the teacher's draws.
        max_tokens: of an answer.
        concurrency: rows in work at the same time.
        progress: called with the stage, the number of rows that are done, and the number of all.

    Raises:
        DataError: there is no harmful row.
        ClientError: the teacher cannot be used at all; what was paid is kept.
    """
    harmful = [sample for sample in samples if sample.harmful]
    if not harmful:
        raise DataError(f"{folder}: expected harmful rows to label, found none among {len(samples):,}; check the data")
    done: dict[str, Sample] = {}
    refused: dict[str, Rejected] = {}
    failed: dict[str, str] = {}
    streak = Streak(max(STREAK, 3 * concurrency))

    async def label(sample: Sample) -> None:
        try:
            streak.check()
            done[sample.id] = await _labelled(sample, folder, teacher, prompt, seed, max_tokens)
            streak.length = 0
        except Unavailable as error:
            failed[sample.id] = str(error)
            streak.length += 1
        except Rejected as error:
            refused[sample.id] = error
            streak.length = 0
        progress(STAGE, len(done) + len(refused) + len(failed), len(harmful))

    await work_through(harmful, label, concurrency)
    kept = _in_order(samples, done)
    for sample in kept:
        for name in sample.images:
            link(inside(folder, name), inside(out, name))
    by_id = {sample.id: sample for sample in harmful}
    write_records(out / REJECTED, [
        RejectedRecord(id=name, stage=STAGE, code=one.code, reason=one.reason, lineage=(),
                       record=by_id[name].model_dump(mode="json"))
        for name, one in refused.items()
    ])  # fmt: skip
    write_records(out / PENDING, [Pending(id=name, stage=STAGE, reason=reason) for name, reason in failed.items()])
    write_records(out / f"{Split.TRAIN.value}.jsonl", kept)
    codes = Counter(one.code for one in refused.values())
    return Relabelled(len(kept), len(done), dict(sorted(codes.items())), len(failed))


async def _labelled(
    sample: Sample, folder: Path, teacher: ChatModel, prompt: Prompt, seed: int, max_tokens: int
) -> Sample:
    """The row with the teacher's answer, and where it is from.

    Raises:
        Rejected: an image or the reply cannot be used.
        Unavailable: the teacher does not answer this time.
    """
    known = {**sample.model_dump(mode="json"), "images": len(sample.images)}
    facts: dict[str, Any] = {name: known[name] for name in FACTS[STAGE]}
    system, user = prompt.render(facts)
    try:
        images = await asyncio.to_thread(lambda: [_picture(inside(folder, name)) for name in sample.images])
        asked = ChatAsk(
            task=STAGE, system=system, user=user, form=RelabelParts, facts=facts, images=tuple(images), seed=seed,
            temperature=0.0, max_tokens=max_tokens,
        )  # fmt: skip
        reply = await teacher.ask(asked)
    except ImageError as error:
        raise Rejected("image", str(error)) from error
    except CannotAnswer as error:
        raise Rejected(error.code, error.reason) from error
    parts = reply.answer
    assert isinstance(parts, RelabelParts)
    label = compose(
        (SegmentKind.PERCEPTION, parts.perception),
        (SegmentKind.REASONING, parts.reasoning),
        (SegmentKind.ANSWER, parts.answer),
    )
    if found := forbidden(sample.category or "", [label.text]):
        raise Rejected("forbidden", f"the label: {found}")
    about = {"label": {"teacher": teacher.name, "prompt": prompt.digest, "asked": asked.digest, "seed": seed}}
    fields = {name: value for name, value in label.fields.items() if name != "answer"}
    return with_answer(sample, label.text, provenance={**sample.provenance, **about}, **fields)


def _in_order(samples: Sequence[Sample], done: dict[str, Sample]) -> list[Sample]:
    """The rows that are kept; a twin that is left out is not named."""
    kept = [done.get(sample.id, sample) for sample in samples if not sample.harmful or sample.id in done]
    there = {sample.id for sample in kept}
    return [sample if sample.twin_id in there else sample.model_copy(update={"twin_id": None}) for sample in kept]


def _picture(path: Path) -> bytes:
    content = whole_file(path)
    return content if is_png_or_jpeg(content) else encode(load_image(path))
