"""Scoring a stored run: every judge rules on its responses and has its own verdict file.

A verdict is stored once for each fingerprint of a judge. Judges that ask a model append each verdict at once; the file
is sorted by the order of the responses at the end, so an interrupted run can be resumed. The rule judges need no model:
their verdicts are written in one step, and several reports may judge one run at the same time. A response that a judge
cannot rule on is unscored, with a reason, and never counts as safe.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mis_lib.clients.cache import Streak, work_through
from mis_lib.clients.protocol import Unavailable
from mis_lib.errors import ImageError
from mis_lib.files import append_record, open_append, write_records
from mis_lib.judge.dialogue import rule_on
from mis_lib.judge.protocol import CUT_THOUGHT, NOT_THE_MODELS, Judge, JudgeInput, Ruling, unscored
from mis_lib.judge.rule import RuleJudge, WordsJudge
from mis_lib.results.evaluated import data_folder
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Response, Sample, Verdict

STREAK = 20  # failures in a row after which a judge is taken to be down
T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Takes a judge's name, how many responses it has ruled on, and of how many."""


def score_run(
    run: Run,
    judges: Sequence[Judge],
    samples: Sequence[Sample] | None = None,
    data_dir: Path | None = None,
    *,
    responses: Sequence[Response] | None = None,
    concurrency: int = 16,
    retry_unscored: bool = False,
    progress: Progress = lambda judge, done, total: None,
) -> dict[str, list[Verdict]]:
    """Verdicts by judge, in the order of the responses: stored ones of an unchanged judge, new ones for the rest.

    Args:
        run: the stored run.
        judges: of different names; they rule concurrently.
        samples: that may be judged; those of the run if not given. Responses to other samples are ignored.
        data_dir: the folder of the images; that of the run's data if not given.
        responses: what is judged; all of the run if not given.
        concurrency: responses that each judge works on at a time.
        retry_unscored: rule again on what is unscored.
        progress: called after each new verdict.

    Raises:
        SettingsError: another process is writing verdicts of the same judge.
        ClientError: a model cannot be asked at all; verdicts given so far are kept.
    """
    return run_async(score_async(run, judges, samples, data_dir, responses, concurrency, retry_unscored, progress))


async def score_async(
    run: Run,
    judges: Sequence[Judge],
    samples: Sequence[Sample] | None = None,
    data_dir: Path | None = None,
    responses: Sequence[Response] | None = None,
    concurrency: int = 16,
    retry_unscored: bool = False,
    progress: Progress = lambda judge, done, total: None,
) -> dict[str, list[Verdict]]:
    """``score_run`` inside an event loop, for judges whose clients belong to it."""
    asked = {sample.id: sample for sample in (run.samples() if samples is None else samples)}
    answers = run.responses() if responses is None else responses
    given = [one for one in answers if one.sample_id in asked]
    folder = data_folder(run) if data_dir is None else data_dir

    async def ruling(judge: Judge, response: Response, streak: Streak) -> Verdict:
        return await _verdict(judge, response, asked[response.sample_id], folder, streak)

    async def score(judge: Judge) -> None:
        streak = Streak(max(STREAK, 3 * concurrency))
        if isinstance(judge, RuleJudge | WordsJudge):
            known = run.fresh_verdicts(judge.name, judge.fingerprint)
            due = [one for one in given if _is_due(known.get(_key(one)), retry_unscored)]
            new = []
            for response in due:
                new.append(await ruling(judge, response, streak))
                progress(judge.name, len(new), len(due))
            run.add_verdicts(judge.name, judge.fingerprint, new, answers if responses is None else None)
            return
        with run.writing(run.verdict_file(judge.name)):
            path = run.begin_verdicts(judge.name, judge.fingerprint)
            stored = run.verdicts(judge.name)
            kept = [one for one in stored if not _is_due(one, retry_unscored)]
            if len(kept) < len(stored):
                write_records(path, kept)
            done = {_key(one) for one in kept}
            due = [one for one in given if _key(one) not in done]
            count = 0

            async def append(response: Response) -> None:
                nonlocal count
                append_record(stream, await ruling(judge, response, streak))
                count += 1
                progress(judge.name, count, len(due))

            with open_append(path) as stream:
                await work_through(due, append, concurrency)
            run.settle_verdicts(judge.name)

    await work_through(judges, score, len(judges))
    return {judge.name: _stored(run, judge.name, given) for judge in judges}


async def rule_async(
    judge: Judge, samples: Sequence[Sample], data_dir: Path, responses: Sequence[Response], concurrency: int = 16
) -> list[Verdict]:
    """One judge's verdicts on answers that no run keeps, in their order.

    Args:
        judge: rules.
        samples: that were answered.
        data_dir: the folder of their images.
        responses: what is judged.
        concurrency: responses that the judge works on at a time.

    Raises:
        ClientError: a model cannot be asked at all.
    """
    asked, streak = {sample.id: sample for sample in samples}, Streak(max(STREAK, 3 * concurrency))
    found: dict[tuple[str, str], Verdict] = {}

    async def rule(response: Response) -> None:
        found[_key(response)] = await _verdict(judge, response, asked[response.sample_id], data_dir, streak)

    await work_through(responses, rule, concurrency)
    return [found[_key(response)] for response in responses]


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns; in a thread where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _verdict(judge: Judge, response: Response, sample: Sample, folder: Path, streak: Streak) -> Verdict:
    found = await _decide(judge, JudgeInput.of(sample, response, folder), streak)
    return Verdict(sample_id=response.sample_id, variant=response.variant, judge=judge.name, **found._asdict())


async def _decide(judge: Judge, case: JudgeInput, streak: Streak) -> Ruling:
    if case.finish_reason in NOT_THE_MODELS:
        return unscored(NOT_THE_MODELS[case.finish_reason])
    if case.ends_in_thought:
        return unscored(CUT_THOUGHT)
    try:
        streak.check()
        ruling = await rule_on(judge, case)
    except Unavailable as error:
        streak.length += 1
        return unscored(f"the judge could not be reached: {error}; --retry_unscored asks again")
    except ImageError as error:
        return unscored(f"an image cannot be shown to the judge: {error}; --retry_unscored asks again")
    streak.length = 0
    return ruling


def _is_due(verdict: Verdict | None, retry_unscored: bool) -> bool:
    """Whether a response with this stored verdict is to be judged."""
    return verdict is None or (retry_unscored and verdict.outcome is Outcome.UNSCORED)


def _stored(run: Run, judge: str, responses: Sequence[Response]) -> list[Verdict]:
    """The stored verdicts on these responses; one that is missing from the file counts as unscored."""
    found = {_key(one): one for one in run.verdicts(judge)}
    place = run.folder / run.verdict_file(judge)
    lost = unscored(
        f"its verdict is not in {place}, which something else has changed meanwhile; the same command goes on"
    )
    return [
        found.get(_key(one)) or Verdict(sample_id=one.sample_id, variant=one.variant, judge=judge, **lost._asdict())
        for one in responses
    ]


def _key(one: Response | Verdict) -> tuple[str, str]:
    return one.sample_id, one.variant
