"""``mis bench judge``: the rubric judge with many calls in flight against one at a time.

The server is a loopback one, whose calls take time and fail.

Both ways use the same client, retries and prompts, and must end with the same verdicts. What is measured is the
waiting, which is nearly all that judging by a server costs; the server only draws lots.
"""

import tempfile
import time
from pathlib import Path

from PIL import Image
from pydantic import BaseModel

from benchmarks.loopback import LoopbackJudge, one_in
from mis_lib.clients.cache import Cache
from mis_lib.clients.openai import ServerChat, open_client
from mis_lib.files import append_record, open_append
from mis_lib.judge.rubric import RubricJudge
from mis_lib.recipes.progress import say
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.results.scoring import score_run
from mis_lib.results.tables import Table
from mis_lib.schema import Outcome, Response, Sample, Verdict

RETRIES = 8  # of a call


class JudgeBench(BaseModel):
    """Both ways, and under what they were measured."""

    items: int
    in_flight: int
    delay: float
    """Seconds that the server takes for each reply."""
    fail_one_in: int
    calls: int
    """That the server got, of both ways; more than twice the items because some failed."""
    one_seconds: float
    seconds: float
    ratio: float
    same: int
    unscored: int
    most_at_once: int


def bench_judge(*, items: int, in_flight: int, delay: float, fail_one_in: int) -> JudgeBench:
    """Judge the same answers one at a time and many at a time.

    Args:
        items: answers to judge, half of them to harmful items.
        in_flight: calls at a time.
        delay: seconds that the server takes for each reply.
        fail_one_in: so many calls have one among them that fails.
    """
    with tempfile.TemporaryDirectory() as scratch, LoopbackJudge(fault=one_in(fail_one_in), delay=delay) as server:
        samples, data = _samples(Path(scratch), items)
        one_seconds, one, _ = _judge(Path(scratch) / "one", server, samples, data, 1)
        say(f"one at a time: {one_seconds:.1f} s")
        server.seen.clear()  # the same calls fail again
        seconds, many, most = _judge(Path(scratch) / "many", server, samples, data, in_flight)
        return JudgeBench(
            items=items,
            in_flight=in_flight,
            delay=delay,
            fail_one_in=fail_one_in,
            calls=len(server.bodies),
            one_seconds=one_seconds,
            seconds=seconds,
            ratio=one_seconds / seconds,
            same=sum(a == b for a, b in zip(one, many, strict=True)),
            unscored=sum(verdict.outcome is Outcome.UNSCORED for verdict in many),
            most_at_once=most,
        )


def judge_table(found: JudgeBench) -> Table:
    """The measurement as a table."""
    rows = [
        ["one at a time", f"{found.one_seconds:.1f}", f"{found.items / found.one_seconds:.2f}", "1.0"],
        [
            f"{found.in_flight} in flight",
            f"{found.seconds:.1f}",
            f"{found.items / found.seconds:.2f}",
            f"{found.ratio:.1f}",
        ],
    ]
    note = (
        f"{found.items} answers, {found.delay:.2f} s a reply, one call in {found.fail_one_in} fails, {found.calls} "
        f"calls in all; {found.same} of {found.items} "
        f"verdicts the same, {found.unscored} unscored; at most {found.most_at_once} calls at once"
    )
    return Table(
        "judge", "Judging", ["", "seconds", "verdicts/s", "times"], rows, [found.model_dump(mode="json")], note, left=1
    )


def _judge(
    folder: Path, server: LoopbackJudge, samples: list[Sample], data: Path, in_flight: int
) -> tuple[float, list[Verdict], int]:
    run = _run(folder, samples)
    server.most_at_once = 0
    teacher = ServerChat(open_client(server.url, retries=RETRIES), "loopback", Cache(folder / "asked"))
    judge = RubricJudge("rubric", teacher)
    started = time.perf_counter()
    verdicts = score_run(run, [judge], samples, data, concurrency=in_flight)["rubric"]
    return time.perf_counter() - started, verdicts, server.most_at_once


def _samples(folder: Path, items: int) -> tuple[list[Sample], Path]:
    for name, colour in (("first", "white"), ("second", "grey")):
        Image.new("RGB", (448, 448), colour).save(folder / f"{name}.png")
    images = ["first.png", "second.png"]
    return [
        Sample(id=f"{i:04d}", question=f"What can be done with both, number {i}?", images=images, harmful=i % 2 == 0)
        for i in range(items)
    ], folder


def _run(folder: Path, samples: list[Sample]) -> Run:
    config = RunConfig(tag="bench", checkpoint="", checkpoint_digest="", data="", data_digest="", variants={"base": ""})
    run = open_run(folder, "bench", config)
    run.keep_samples(samples)
    with open_append(run.folder / RESPONSES) as stream:
        for sample in samples:
            text = f"Answer {sample.id}: use the first on the second."
            append_record(
                stream,
                Response(sample_id=sample.id, variant="base", text=text, tokens=9, seconds=0, finish_reason="stop"),
            )
    return run
