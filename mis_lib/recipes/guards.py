"""Judges as guards of a defence (``generate.defences``): they rule while a model answers.

A guard sees what the user sent and what the model answered. It does not see what only an evaluation knows: the names of
what the images show, whether the item is harmful, its category, its twin. The rule judges need that and are no guards.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mis_lib.clients.cache import Cache
from mis_lib.errors import SettingsError
from mis_lib.generate.defences import Check, Guard, Ruled
from mis_lib.generate.prompting import Prompting
from mis_lib.judge.guard import GuardJudge
from mis_lib.judge.protocol import Judge, JudgeInput
from mis_lib.recipes.judge import ALONE, judge_settings, open_judges
from mis_lib.schema import EarlierTurn, Outcome, Sample

T = TypeVar("T")


def defence_of(prompting: Prompting, editors: Mapping[str, str]) -> dict[str, Any]:
    """What a defended answer depends on in addition to the prompt, as JSON values: a part of its key.

    Args:
        prompting: has a defence.
        editors: digest, or served name, of each variant that edits.

    Raises:
        SettingsError: the guard is no judge, or one that knows the truth.
    """
    if prompting.defence == "ecso":
        return {"kind": "ecso 1"}
    if prompting.defence == "edit":
        return {"kind": "edit 1", "editor": editors[prompting.editor or ""], "sees": prompting.editor_sees}
    own = {"gate": {"gates": sorted(prompting.gates)}, "regenerate": {"rounds": prompting.rounds}}[
        prompting.defence or ""
    ]
    judges = judge_settings(prompting.guard or (), "guard").judges
    if alone := [name for name, spec in judges.items() if spec.kind in ALONE]:
        raise SettingsError(
            f"guard: expected a judge that asks a model, found {alone[0]}, which knows the truth of items"
        )
    guard = {name: spec.model_dump(mode="json") for name, spec in judges.items()}
    return {"kind": f"{prompting.defence} 1", **own, "guard": guard, "refusal": prompting.refusal}


async def open_guards(prompting: Mapping[str, Prompting], cache: Path) -> dict[str, Judge]:
    """The guard of each variant whose defence asks one.

    Args:
        prompting: of the variants.
        cache: folder that keeps the replies of models.

    Raises:
        SettingsError: a question alone is to be judged, and the judge is no safety classifier.
        MisError: as ``recipes.judge.open_judge``.
    """
    opened: dict[tuple[str, ...], Judge] = {}
    found: dict[str, Judge] = {}
    for name, one in prompting.items():
        if one.guard is None:
            continue
        if one.guard not in opened:
            opened[one.guard] = (await open_judges(judge_settings(one.guard, "guard"), Cache(cache)))[-1]
        found[name] = opened[one.guard]
        if one.defence == "gate" and "front" in one.gates and not isinstance(found[name], GuardJudge):
            raise SettingsError(
                f"{name}: gates: expected a judge of kind guard for front, which rules on a question alone, found "
                f"{found[name].name}; leave out front (gates: [back])"
            )
    return found


async def ruled(judge: Judge, data: Path, sample: Sample, check: Check) -> Ruled:
    """What a judge says as a guard.

    Args:
        judge: rules.
        data: folder of the sample's images.
        sample: whose question, images and id alone are looked at.
        check: what is to be judged.

    Raises:
        ClientError: the judge cannot be asked.
    """
    history = [
        EarlierTurn(question=past.question, images=past.images, answer=past.answer or None) for past in check.history
    ]
    images = sample.images[: check.images + sum(past.images for past in check.history)]
    seen = Sample(id=sample.id, question=check.question, images=images, history=history, harmful=True)
    case = JudgeInput(seen, check.answer or "", "stop", data)
    if check.answer is None and isinstance(judge, GuardJudge):
        ruling = await judge.decide_question(case)
    else:
        ruling = await judge.decide(case)
    unsafe = None if ruling.outcome is Outcome.UNSCORED else ruling.outcome is Outcome.UNSAFE
    return Ruled(unsafe, ruling.reason)


@contextmanager
def guards_together(prompting: Mapping[str, Prompting], data: Path, cache: Path) -> Iterator[Mapping[str, Guard]]:
    """While the block lasts, guards that rule on a batch at once, in an event loop that their clients belong to."""
    if not any(one.guard for one in prompting.values()):
        yield {}
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="guards", daemon=True)
    thread.start()

    def wait(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def guard_of(judge: Judge) -> Guard:
        async def all_of(cases: Sequence[tuple[Sample, Check]]) -> list[Ruled]:
            return await asyncio.gather(*(ruled(judge, data, sample, check) for sample, check in cases))

        return lambda cases: wait(all_of(cases))

    try:
        yield {name: guard_of(judge) for name, judge in wait(open_guards(prompting, cache)).items()}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
