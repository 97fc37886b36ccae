"""No reply of a server ends a run: each fault is one call's failure, or an answer, within bounds of time and size."""

import asyncio
import resource
import time
from pathlib import Path

import pytest
from PIL import Image
from support.fakes import BAD_ENDINGS, bad_images
from support.fault_server import FAULTS, STREAM_FAULTS, FaultServer

from mis_lib.clients.bounded import LARGEST
from mis_lib.clients.cache import Cache
from mis_lib.clients.openai import Caller, ServerChat, only_model, open_client
from mis_lib.clients.protocol import ClientError, PlainChatModel, Unavailable
from mis_lib.errors import SettingsError
from mis_lib.generate.served import Failure, Served, ServedEngine, generate_by_server
from mis_lib.judge.protocol import JudgeInput, Ruling
from mis_lib.judge.rubric import RubricJudge
from mis_lib.results.scoring import rule_async
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings

TIMEOUT = 1.0  # seconds of a call
BUSY = 20.0  # seconds that a call may take on a busy machine; the trickles of the server last as long
SAMPLES = [
    Sample(
        id=question, question=question, images=("a.png",), harmful=True, category="c", sub_category="s", split="hard"
    )
    for question in ("first", "ODD", "last")
]


@pytest.fixture(autouse=True)
def image(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")


FINE = ("surrogate in a key", "surrogate in the finish reason", "an unknown charset")
# What is an answer although it is odd: half a character becomes U+FFFD, a text is a text.
ANSWERED = {
    "lone high surrogate": "A flag \ufffd of",
    "lone low surrogate": "A flag \ufffd of",
    "surrogates in the wrong order": "\ufffd\ufffd",
    "surrogate in a key": None,
    "an unknown charset": None,
    "surrogate in the finish reason": None,
    "surrogate in the refusal": "\ufffd no",
    "deep inside the text": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_goes_on_after_any_reply_of_a_served_model(fault: str, tmp_path: Path) -> None:
    answers: list[Response] = []

    async def run(url: str) -> list[Failure]:
        async with open_client(url, retries=0, timeout=TIMEOUT) as client:
            settings = GenerationSettings(max_new_tokens=8)
            caller = Caller(client)
            return await generate_by_server(SAMPLES, tmp_path, caller, {"m": "sometimes"}, settings, answers.append)

    began = time.monotonic()
    with FaultServer(fault) as server:
        failures = asyncio.run(run(server.url))
    assert time.monotonic() - began < BUSY
    found = {answer.sample_id: answer.text for answer in answers}
    assert found["first"] == found["last"] != ""
    if fault in ANSWERED:
        assert failures == [] and found["ODD"] == (ANSWERED[fault] or found["ODD"])
        assert all(answer.model_dump_json().encode() for answer in answers)  # a file can hold it
    else:
        assert [(one.sample_id, bool(one.reason)) for one in failures] == [("ODD", True)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_judge_rules_on_the_others_after_any_reply(fault: str, tmp_path: Path) -> None:
    async def rule(url: str) -> list[Ruling | Unavailable]:
        async with open_client(url, retries=0, timeout=TIMEOUT) as client:
            judge = RubricJudge("rubric", ServerChat(client, "sometimes", Cache(tmp_path)))
            cases = [JudgeInput(sample, "an answer", "stop", tmp_path) for sample in SAMPLES]
            return [await decide(judge, case) for case in cases]

    async def decide(judge: RubricJudge, case: JudgeInput) -> Ruling | Unavailable:
        try:
            return await judge.decide(case)
        except Unavailable as error:  # which a run stores as unscored, with this reason
            return error

    with FaultServer(fault) as server:
        first, odd, last = asyncio.run(rule(server.url))
    assert isinstance(first, Ruling) and isinstance(last, Ruling)
    assert first.outcome is last.outcome is Outcome.REASONED
    if isinstance(odd, Ruling) and fault not in FINE:
        assert odd.outcome is Outcome.UNSCORED and odd.reason


@pytest.mark.parametrize("fault", [*STREAM_FAULTS, *FAULTS])
def test_a_column_ends_with_a_reason_and_the_other_one_is_answered(fault: str) -> None:
    with FaultServer() as server:
        models = {name: Served(server.url, name) for name in ("fine", fault)}
        engine = ServedEngine(models, silence=TIMEOUT)
        began = time.monotonic()
        settings = GenerationSettings(max_new_tokens=8)
        picture = Image.new("RGB", (32, 32))
        columns = list(engine.stream([picture], "What is this?", list(models), settings))[-1]
    fine, odd = columns
    assert time.monotonic() - began < BUSY
    assert (fine.text, fine.finish_reason) == ("Two things.", "unknown")
    assert odd.text.encode() is not None
    if fault == "two halves of a character":
        assert odd.text == "a \U0001f600 b"
    elif fault == "half a character":
        assert odd.text == "a \ufffd"
    else:
        assert odd.finish_reason == "failed" and odd.told


@pytest.mark.parametrize("fault", ["gzip bomb", "no end", "no end without a length", "a line without end"])
def test_a_reply_costs_no_more_memory_than_the_bound(fault: str) -> None:
    async def ask(url: str) -> None:
        async with open_client(url, retries=0, timeout=BUSY) as client:
            with pytest.raises(Unavailable, match=r"more than 33,554,432 bytes|compressed its reply"):
                await Caller(client).chat(fault, [{"role": "user", "content": "a"}], 8, {})

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FaultServer() as server:
        asyncio.run(ask(server.url))
        assert server.sent < LARGEST + 16 * 2**20  # what is in sockets' buffers
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 4 * LARGEST


@pytest.mark.parametrize("fault", FAULTS)
def test_odds_of_yes_fail_as_other_answers_do(fault: str, tmp_path: Path) -> None:
    async def ask(url: str) -> float:
        async with open_client(url, retries=0, timeout=TIMEOUT) as client:
            model: PlainChatModel = ServerChat(client, fault, Cache(tmp_path))
            return await model.odds_of_yes("Is it?", [])

    with FaultServer() as server, pytest.raises(ClientError):
        asyncio.run(ask(server.url))


def test_a_list_of_models_in_another_form_is_named(tmp_path: Path) -> None:
    async def ask(url: str) -> str:
        async with open_client(url, retries=0, timeout=TIMEOUT) as client:
            return await only_model(client)

    with FaultServer() as server, pytest.raises(SettingsError, match="expected one model, found none"):
        asyncio.run(ask(server.url))


@pytest.mark.parametrize("kind", [*BAD_ENDINGS, "missing"])
def test_an_image_that_is_none_is_not_sent_and_the_run_goes_on(kind: str, tmp_path: Path) -> None:
    bad = bad_images(tmp_path / "bad").get(kind, tmp_path / "bad" / "gone.png").relative_to(tmp_path)
    samples = [SAMPLES[0], SAMPLES[0].model_copy(update={"id": "bad", "images": ["a.png", str(bad)]}), SAMPLES[2]]
    given: list[Response] = []

    async def ask(url: str) -> tuple[list[Failure], list[Verdict]]:
        async with open_client(url, retries=0) as client:
            settings = GenerationSettings(max_new_tokens=8)
            served = generate_by_server(samples, tmp_path, Caller(client), {"m": "fine"}, settings, given.append)
            judge = RubricJudge("rubric", ServerChat(client, "fine", Cache(tmp_path)))
            failed = await served
            written = [given[0].model_copy(update={"sample_id": sample.id}) for sample in samples]
            return failed, await rule_async(judge, samples, tmp_path, written)

    with FaultServer() as server:
        failures, verdicts = asyncio.run(ask(server.url))
    assert sorted(one.sample_id for one in given) == ["first", "last"]
    assert [one.sample_id for one in failures] == ["bad"] and str(bad) in failures[0].reason
    assert [one.outcome for one in verdicts] == [Outcome.REASONED, Outcome.UNSCORED, Outcome.REASONED]
    assert str(bad) in verdicts[1].reason
