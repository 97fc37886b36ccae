"""``mis judge``: any number of judges rule on the answers of a run, each into a verdict file of its own.

A judge is named on the command line as ``[NAME:]KIND[=TARGET]``, where TARGET is ``URL#MODEL`` (any OpenAI-compatible server), ``local:PATH`` or
``local:mini``: ``rule``, ``rubric=http://localhost:8000/v1#gpt-4o``, ``strict:guard=local:/models/Llama-Guard-3-8B``. Verdicts are appended as they come
and put in the order of the answers at the end, so a killed run ends as one that was not. Replies of models are kept in a cache beside the
run (``asked/``): nothing is paid for twice. An answer that a judge could not rule on is unscored, with the reason, and never safe. Several processes may
judge one run at the same time, each judge in one of them.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from mis_lib import console
from mis_lib.clients.cache import Cache
from mis_lib.clients.protocol import Unavailable
from mis_lib.commands.answerers import all_known
from mis_lib.commands.judges import BLIND, JudgeSettings, open_judge
from mis_lib.errors import DataError
from mis_lib.files import append_record, open_append, write_records
from mis_lib.judge.protocol import NOT_THE_MODELS, Case, Judge, Ruling, unscored
from mis_lib.recipes.progress import Progressed, bars, report_to
from mis_lib.results.evaluated import data_folder, open_folder, read_samples
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.teachers.sampling import in_words
from mis_lib.teachers.workers import Streak, work_through

CACHE = "asked"
STREAK = 20  # failures in a row after which a judge is taken to be down


def judge_run(folder: Path, settings: JudgeSettings) -> dict[str, list[Verdict]]:
    """Let every judge of ``settings`` rule on every answer of a run that it has not ruled on; returns all verdicts by judge.

    Raises:
        MisError: a run, judge, model or server cannot be used, or another process is writing the same verdicts; the message says which and why. What
            is ruled stays ruled.
    """
    run = open_folder(folder)
    responses = run.responses()
    if not responses:
        raise DataError(f"{run.folder}: expected answers to judge, found none; mis generate makes them")
    if settings.variants is not None:
        all_known("--variants", settings.variants, list(dict.fromkeys(one.variant for one in responses)))
        responses = [one for one in responses if one.variant in settings.variants]
    samples = read_samples(run, responses, settings.data)
    with bars(kept=False) as progress:
        return asyncio.run(_judge(run, settings, samples, responses, report_to(progress)))


def judge_all(
    run: Run,
    judges: Sequence[Judge],
    samples: Iterable[Sample],
    data_dir: Path,
    *,
    responses: Sequence[Response] | None = None,
    concurrency: int = 16,
    retry_unscored: bool = False,
    progress: Progressed = lambda judge, done, total: None,
) -> dict[str, list[Verdict]]:
    """As ``judge_run``, for judges that are there already."""
    asked = run.responses() if responses is None else responses
    return asyncio.run(_rule_all(run, judges, list(samples), asked, data_dir, concurrency, retry_unscored, progress))


async def _judge(
    run: Run, settings: JudgeSettings, samples: Sequence[Sample], responses: Sequence[Response], progress: Progressed
) -> dict[str, list[Verdict]]:
    data_dir = _images(run, settings)
    cache = Cache(run.folder.parent / CACHE)
    judges: dict[str, Judge] = {}
    for name, spec in sorted(settings.judges.items(), key=lambda item: item[1].kind == "routed"):
        judges[name] = await open_judge(name, spec, settings, cache, judges)
    chosen = [judges[name] for name in settings.judges]
    ruled = await _rule_all(
        run, chosen, samples, responses, data_dir, settings.concurrency, settings.retry_unscored, progress
    )
    for teacher, lacks in cache.left_out.items():
        for words in in_words(teacher, lacks, 0.0):
            console.say(f"{words} (verdicts from {cache.folder})")
    return ruled


async def _rule_all(
    run: Run,
    judges: Sequence[Judge],
    samples: Sequence[Sample],
    responses: Sequence[Response],
    data_dir: Path,
    concurrency: int,
    retry_unscored: bool,
    progress: Progressed,
) -> dict[str, list[Verdict]]:
    asked = {sample.id: sample for sample in samples}

    async def rule(judge: Judge) -> None:
        with run.writing(run.verdict_file(judge.name)):
            path, todo = _begin(run, judge, responses, retry_unscored)
            await _rule(judge, path, todo, asked, data_dir, concurrency, progress)
            run.settle_verdicts(judge.name)

    try:
        async with asyncio.TaskGroup() as tasks:
            for judge in judges:
                tasks.create_task(rule(judge))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {judge.name: _stored(run, judge.name, responses) for judge in judges}


def _begin(run: Run, judge: Judge, responses: Sequence[Response], retry_unscored: bool) -> tuple[Path, list[Response]]:
    """The judge's file, and the answers that it has not ruled on."""
    path = run.begin_verdicts(judge.name, judge.fingerprint)
    known = run.verdicts(judge.name)
    if retry_unscored and any(one.outcome is Outcome.UNSCORED for one in known):
        known = [one for one in known if one.outcome is not Outcome.UNSCORED]
        write_records(path, known)
    done = {(one.sample_id, one.variant) for one in known}
    return path, [one for one in responses if (one.sample_id, one.variant) not in done]


async def _rule(
    judge: Judge,
    path: Path,
    responses: Sequence[Response],
    asked: dict[str, Sample],
    data_dir: Path,
    concurrency: int,
    progress: Progressed,
) -> None:
    streak, done = Streak(max(STREAK, 3 * concurrency)), 0

    async def work(response: Response) -> None:
        nonlocal done
        case = Case(asked[response.sample_id], response.text, response.finish_reason, data_dir)
        ruling = await _decide(judge, case, streak)
        verdict = Verdict(sample_id=response.sample_id, variant=response.variant, judge=judge.name, **ruling._asdict())
        append_record(stream, verdict)
        done += 1
        progress(judge.name, done, len(responses))

    with open_append(path) as stream:
        await work_through(responses, work, concurrency)


def _stored(run: Run, judge: str, responses: Sequence[Response]) -> list[Verdict]:
    """The verdicts that the run holds on these answers; one that was given and yet is not there is unscored, never left out."""
    found = {(one.sample_id, one.variant): one for one in run.verdicts(judge)}
    place = run.folder / run.verdict_file(judge)
    lost = unscored(
        f"its verdict is not in {place}, which something else has changed meanwhile; the same command goes on"
    )
    return [
        found.get((one.sample_id, one.variant))
        or Verdict(sample_id=one.sample_id, variant=one.variant, judge=judge, **lost._asdict())
        for one in responses
    ]


async def _decide(judge: Judge, case: Case, streak: Streak) -> Ruling:
    if case.finish_reason in NOT_THE_MODELS:
        return unscored(NOT_THE_MODELS[case.finish_reason])
    try:
        streak.check()
        ruling = await judge.decide(case)
    except Unavailable as error:
        streak.length += 1
        return unscored(f"the judge could not be reached: {error}; --retry_unscored asks again")
    streak.length = 0
    return ruling


def _images(run: Run, settings: JudgeSettings) -> Path:
    """The folder of the images, which must be there for judges that look at them."""
    folder = data_folder(run, settings.data)
    if not folder.is_dir() and not {spec.kind for spec in settings.judges.values()} <= BLIND:
        raise DataError(
            f"{run.folder}: expected the images of its samples in {folder}, found no folder there; name it with --data"
        )
    return folder
