"""Answers of reasoning models: the thought is kept apart from the answer, and one that the token limit cuts is told."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.fake_server import FakeServer, Script
from support.fakes import mini_data, started
from support.tiny import tiny_checkpoint
from transformers import AutoProcessor, GenerationConfig
from typer.testing import CliRunner

from benchmarks.loopback import LoopbackJudge, asked_text, lot_verdict
from mis_lib.cli.main import app
from mis_lib.errors import SettingsError
from mis_lib.files import load_image, read_records
from mis_lib.generate.columns import Column
from mis_lib.generate.served import Served, ServedEngine
from mis_lib.generate.stream import VariantEngine
from mis_lib.judge.rule import judge
from mis_lib.probe.parity import transformers_serve
from mis_lib.recipes.generate import generate_run
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.evaluated import read_run
from mis_lib.results.frames import answers
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import GenerationSettings
from workbench.compare import actions, view
from workbench.host import make_host

THOUGHT = "The first image shows a thing and the second one, too. Together that is arson, which can harm."
SAID = "I can't help with this."
REPLY = f"<think>{THOUGHT}</think> {SAID}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data"))


def mis(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def asked(server: FakeServer, data: Path, runs: Path, tokens: int, *more: str) -> Any:
    where = ("--server", f"{server.url}#thinker", "--data", data, "--splits", "easy", "--limit", "2", "--runs", runs)
    return mis("generate", *where, "--max_new_tokens", tokens, *more)


def thinking(folder: Path) -> Path:
    """A toy checkpoint whose prompt opens the thought, as Qwen3-VL-Thinking's does."""
    template = tiny_checkpoint(folder) / "chat_template.jinja"
    template.write_text(
        template.read_text() + "{% if add_generation_prompt and enable_thinking is not false %}<think>\n{% endif %}"
    )
    return folder


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_a_thought_that_the_server_took_out_is_stored_beside_the_answer(field: str, data: Path, tmp_path: Path) -> None:
    with FakeServer(Script(parser=field), reply=lambda *_: REPLY) as server:
        done = asked(server, data, tmp_path, 100, "--json")
    found = json.loads(done.stdout)
    assert (found["answers"], found["cut"], found["cut_in_thought"]) == (4, 0, 0)
    for line in (Path(found["run"]) / "responses.jsonl").read_text().splitlines():
        stored = json.loads(line)
        assert (stored["thought"], stored["text"], stored["finish_reason"]) == (THOUGHT, SAID, "stop")


def test_answers_without_a_thought_are_stored_as_before(data: Path, tmp_path: Path) -> None:
    with FakeServer(reply=lambda *_: SAID) as server:
        done = json.loads(asked(server, data, tmp_path, 100, "--json").stdout)
    for line in (Path(done["run"]) / "responses.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"sample_id", "variant", "text", "tokens", "seconds", "finish_reason", "key"}


def test_a_thought_that_is_cut_is_told_unscored_and_asked_again_with_more_tokens(data: Path, tmp_path: Path) -> None:
    with FakeServer(Script(parser="reasoning"), reply=lambda *_: REPLY) as server:
        done = asked(server, data, tmp_path, 6)
        told = " ".join(done.output.split())
        assert "4 of 4 answers are cut at 6 tokens, 4 of them within the thought" in told
        first = read_records(tmp_path / "generate/v1/responses.jsonl", Response)
        assert {(one.thought, one.text) for one in first} == {("The first image shows a thing", "")}
        asked_once = len(server.bodies)
        again = asked(server, data, tmp_path, 6, "--json")
        assert json.loads(again.stdout)["cut_in_thought"] == 4 and len(server.bodies) == asked_once
        more = json.loads(asked(server, data, tmp_path, 100, "--json").stdout)
    assert (more["run"], more["cut_in_thought"]) == (str(tmp_path / "generate/v2"), 0)
    assert {one.text for one in Run(tmp_path / "generate/v2").responses()} == {SAID}
    verdicts = mis("judge", tmp_path / "generate/v1", "--data", data)
    assert verdicts.exit_code == 1 and "4 of 4 unscored" in verdicts.output
    assert all("within its thought" in one.reason for one in Run(tmp_path / "generate/v1").verdicts("rule"))


def test_a_judge_model_reads_the_answer_alone_and_is_not_asked_about_a_cut_thought(data: Path, tmp_path: Path) -> None:
    runs = {}
    for name, tokens in (("whole", 100), ("short", 6)):
        with FakeServer(Script(parser="reasoning"), reply=lambda *_: REPLY) as server:
            runs[name] = Path(json.loads(asked(server, data, tmp_path / name, tokens, "--json").stdout)["run"])
    with LoopbackJudge(reply=lot_verdict) as loopback:
        for run in runs.values():
            mis("judge", run, "--data", data, "--judges", f"rubric={loopback.url}#judge")
        bodies = list(loopback.bodies)
    assert len(bodies) == 4
    assert all(SAID in asked_text(body) and "arson" not in asked_text(body) for body in bodies)
    outcomes = {name: {one.outcome for one in Run(run).verdicts("rubric")} for name, run in runs.items()}
    assert outcomes["short"] == {Outcome.UNSCORED} and Outcome.UNSCORED not in outcomes["whole"]


def test_the_rule_judge_finds_the_things_that_the_thought_names(data: Path) -> None:
    [sample, *_] = [one for one in read_records(data / "easy.jsonl", Sample) if one.harmful]
    first, second = sample.objects or ()
    seen = f"The first image shows a {first}, the second a {second}. Together they are dangerous."
    apart = Response(
        sample_id=sample.id, variant="v", text=SAID, thought=seen, tokens=1, seconds=1, finish_reason="stop"
    )
    within = apart.model_copy(update={"text": f"<think>{seen}</think>\n\n{SAID}", "thought": ""})
    assert judge(sample, apart) == judge(sample, within)
    assert judge(sample, apart).outcome is Outcome.REASONED
    assert judge(sample, apart.model_copy(update={"thought": ""})).outcome is Outcome.REFUSED


def test_the_frame_of_answers_has_the_thought(data: Path, tmp_path: Path) -> None:
    with FakeServer(Script(parser="reasoning"), reply=lambda *_: REPLY) as server:
        run = Path(json.loads(asked(server, data, tmp_path, 100, "--json").stdout)["run"])
    mis("judge", run, "--data", data)
    frame = answers(read_run(run, "rule", data))
    assert set(frame["thought"]) == {THOUGHT} and set(frame["text"]) == {SAID}


def test_compare_shows_what_generate_stores(data: Path) -> None:
    images = [load_image(data / read_records(data / "easy.jsonl", Sample)[0].images[0])]
    with FakeServer(Script(parser="reasoning"), reply=lambda *_: REPLY) as server:
        engine = ServedEngine({"v": Served(server.url, "thinker")})

        def last(tokens: int) -> Column:
            settings = GenerationSettings(max_new_tokens=tokens)
            return [*engine.stream(images, "Why?", ["v"], settings)][-1][0]

        assert last(100).text == f"<think>{THOUGHT}</think>\n\n{SAID}"
        assert (last(6).text, last(6).finish_reason) == ("<think>The first image shows a thing", "length")


def test_a_thought_that_the_prompt_opens_is_told_from_the_answer(data: Path, tmp_path: Path) -> None:
    checkpoint = thinking(tmp_path / "toy")
    settings = GenerationSettings(max_new_tokens=6)
    sample = read_records(data / "easy.jsonl", Sample)[0]
    engine = VariantEngine.load(checkpoint, {"base": None})
    images = [load_image(data / name) for name in sample.images]
    column = [*engine.stream(images, sample.question, ["base"], settings)][-1][0]
    asked = GenerateSettings(
        checkpoint=checkpoint, data=data, splits=("easy",), limit=1, runs=tmp_path / "runs", generation=settings
    )
    done = generate_run(asked)
    stored = next(one for one in done.responses if one.sample_id == sample.id)
    assert stored.text == column.text and stored.text.startswith("<think>\n") and len(stored.text) > 8
    assert (done.cut, done.cut_in_thought) == (2, 2)
    assert judge(sample, stored).outcome is Outcome.UNSCORED


def thinks_and_says(folder: Path) -> Path:
    """A toy checkpoint that thinks "Hm" and says "Yes": each of these tokens makes the next one certain.

    Its tokenizer says how to take a reply apart, which servers of transformers read (``response_template``).
    """
    tokenizer = AutoProcessor.from_pretrained(thinking(folder)).tokenizer
    said = [*tokenizer.encode("\nHm</think>Yes"), tokenizer.eos_token_id]
    decoding = GenerationConfig.from_pretrained(folder)
    decoding.sequence_bias = [[list(pair), 1e4] for pair in pairwise(said)]
    decoding.save_pretrained(folder)
    apart = {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "content": {"close_pattern": r"\s*<\|im_end\|>", "content": "text"},
    }
    file = folder / "tokenizer_config.json"
    template = {"defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n", "fields": apart}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"response_template": template}))
    return folder


@pytest.mark.long
def test_transformers_serve_keeps_the_thought_of_a_template_that_opens_it_apart(data: Path, tmp_path: Path) -> None:
    checkpoint = thinks_and_says(tmp_path / "toy")
    sample = read_records(data / "easy.jsonl", Sample)[0]
    images = [load_image(data / name) for name in sample.images]
    local = VariantEngine.load(checkpoint, {"base": None})
    with transformers_serve(checkpoint, "cpu") as url:
        for tokens, thought, text in ((40, "Hm", "Yes"), (2, "Hm", "")):
            where = ("--server", f"{url}#{checkpoint}", "--data", data, "--splits", "easy", "--limit", "1")
            done = mis("generate", *where, "--runs", tmp_path / "runs", "--max_new_tokens", tokens, "--json")
            found = json.loads(done.stdout)
            assert found["cut_in_thought"] == (0 if text else 2)
            stored = read_records(Path(found["run"]) / "responses.jsonl", Response)
            assert {(one.thought, one.text) for one in stored} == {(thought, text)}
            settings = GenerationSettings(max_new_tokens=tokens)
            served = ServedEngine({"base": Served(url, str(checkpoint))})
            shown, here = ([*one.stream(images, "Why?", ["base"], settings)][-1][0] for one in (served, local))
            assert "".join(shown.text.split()) == "".join(here.text.split())
            assert shown.finish_reason == here.finish_reason == ("stop" if text else "length")


def test_the_app_tells_a_cut_answer_from_a_cut_thought_and_where_the_limit_is(data: Path) -> None:
    answers = {}
    thinks = FakeServer(Script(parser="reasoning"), reply=lambda *_: REPLY)
    with thinks as first, FakeServer(reply=lambda *_: "one two three four five six seven") as second:
        served = {"thinker": Served(first.url, "thinker"), "plain": Served(second.url, "plain")}
        host = started(make_host(None, None, data, served=served))
        assert host.data.value is not None
        prompt, sample = host.data.value.load("hard-00")
        for tokens in (6, 8192):
            settings = {"max_new_tokens": tokens, "temperature": 0, "seed": 0}
            answers[tokens] = [*actions.compare(host, prompt, sample.question, list(served), settings, session="s")][-1]
    cut, whole = answers[6], answers[8192]
    assert "2 cut at 6 tokens: raise Max tokens" in cut.status and "cut at" not in whole.status
    page = view.results(cut.comparison)
    assert "cut within its thought, at the token limit" in page and "<span>cut at the token limit</span>" in page
    assert cut.comparison is not None and cut.comparison.answers[0].verdict is not None
    assert cut.comparison.answers[0].verdict.outcome is Outcome.UNSCORED
    assert THOUGHT in view.results(whole.comparison).replace("\n", " ")


OFF = {"enable_thinking": False}


def test_variables_of_the_chat_template_are_in_an_answers_key_only_if_given() -> None:
    assert GenerationSettings(chat_template_kwargs={}).model_dump() == GenerationSettings().model_dump()
    assert list(GenerationSettings().model_dump()) == ["max_new_tokens", "temperature", "seed"]
    assert GenerationSettings(chat_template_kwargs=OFF).model_dump()["chat_template_kwargs"] == OFF


@pytest.mark.parametrize("wrong", ["{enable", "[1]", '{"messages": []}', '{"chat_template": "x"}'])
def test_variables_that_cannot_be_are_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="chat_template_kwargs"):
        values: dict[str, Any] = {"chat_template_kwargs": wrong}
        GenerationSettings(**values)


def test_variables_reach_the_template_of_a_local_model(data: Path, tmp_path: Path) -> None:
    checkpoint, runs = thinking(tmp_path / "toy"), tmp_path / "runs"
    place = ("--checkpoint", checkpoint, "--data", data, "--splits", "easy", "--limit", "1", "--runs", runs)
    words = ("generate", *place, "--max_new_tokens", "6", "--json")
    on, off = (
        json.loads(mis(*words, *more).stdout)
        for more in ([], ["--set", "generation.chat_template_kwargs.enable_thinking=false"])
    )
    assert (on["cut_in_thought"], off["cut_in_thought"]) == (2, 0)
    assert (on["run"], off["run"]) == (str(runs / "generate/v1"), str(runs / "generate/v2"))
    unknown = mis(*words, "--set", "generation.chat_template_kwargs.enable_thinkin=false")
    assert unknown.exit_code == 2 and "does not read enable_thinkin;" in " ".join(unknown.output.split())
    images = [str(data / name) for name in read_records(data / "easy.jsonl", Sample)[0].images]
    asked = ("compare", "--images", *images, "--question", "Why?", "--checkpoint", checkpoint, "--max_new_tokens", "6")
    given = {"off": '{"enable_thinking": false}', "unknown": '{"enable_thinkin": false}', "on": "{}"}
    [off], [unknown], [on] = (
        json.loads(mis(*asked, "--chat_template_kwargs", value, "--json").stdout)["answers"] for value in given.values()
    )
    assert not off["text"].startswith("<think>") and "told" not in off
    assert on["text"].startswith("<think>") and unknown["text"] == on["text"]
    assert unknown["told"] == "the model's chat template does not read enable_thinkin"


def test_variables_are_sent_to_a_server(data: Path, tmp_path: Path) -> None:
    with FakeServer(reply=lambda *_: SAID) as server:
        assert not asked(server, data, tmp_path, 100).exit_code
        assert all("chat_template_kwargs" not in body for body in server.bodies)
        server.bodies.clear()
        asked(server, data, tmp_path, 100, "--set", "generation.chat_template_kwargs.enable_thinking=false")
        assert [body["chat_template_kwargs"] for body in server.bodies] == [OFF] * 4
        server.bodies.clear()
        images = [load_image(data / read_records(data / "easy.jsonl", Sample)[0].images[0])]
        engine = ServedEngine({"v": Served(server.url, "thinker")})
        assert [*engine.stream(images, "Why?", ["v"], GenerationSettings(chat_template_kwargs=OFF))]
        assert [body["chat_template_kwargs"] for body in server.bodies] == [OFF]
