"""Served models in columns: real HTTP over a real socket, to a server that streams from a script (``fake_server``)."""

import base64
import functools
import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.fake_server import FakeServer, Script
from support.fakes import ANSWERS, ScriptedEngine, good_images, mini_data
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.clients.images import encode, pack
from mis_lib.errors import ImageError, ModelError, SettingsError
from mis_lib.files import write_records
from mis_lib.generate.columns import Column, MultiEngine
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.served import Served, ServedEngine, read_served
from mis_lib.recipes.generate import generate_run
from mis_lib.recipes.settings import PAPER, GenerateSettings
from mis_lib.schema import Sample
from mis_lib.settings import IMAGE_PIXELS, GenerationSettings

GONE = "http://127.0.0.1:9/v1"  # nothing listens there
KEY = "sk-the-key-of-this-test"
SETTINGS = GenerationSettings(max_new_tokens=64, seed=5)
MOST_BYTES = 2_500_000  # of a request: a photograph scaled down, and not a whole one
COLOURS = ["red", "green", "blue"]


def says(text: str) -> Any:
    return lambda task, facts, images: text


def pictures(count: int = 2) -> list[Image.Image]:
    return [Image.new("RGB", (40 + 8 * number, 30), COLOURS[number]) for number in range(count)]


def engine_of(server: FakeServer, *models: str, **others: Served) -> ServedEngine:
    return ServedEngine({**{name: Served(server.url, name) for name in models}, **others})


def ask(engine: Any, variants: Sequence[str], settings: GenerationSettings = SETTINGS) -> list[tuple[Column, ...]]:
    return list(engine.stream(pictures(), "What is this?", variants, settings))


@functools.cache
def photograph() -> Image.Image:
    """More pixels than a server is sent, and nothing that could be compressed much."""
    return Image.merge("RGB", [Image.effect_noise((1500, 1200), 30) for _ in range(3)])


def sent_images(body: Mapping[str, Any]) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in urls]


class TestFlags:
    @pytest.mark.parametrize(
        ("server", "models", "found"),
        [
            (None, None, {}),
            ("http://a/v1#m", None, {"base": Served("http://a/v1", "m")}),
            ("http://a/v1", ["m", "x=n"], {"m": Served("http://a/v1", "m"), "x": Served("http://a/v1", "n")}),
            (
                "http://a/v1",
                ["m", "x=http://b:1/v1#n"],
                {"m": Served("http://a/v1", "m"), "x": Served("http://b:1/v1", "n")},
            ),
            (None, ["x=http://b:1/v1#n"], {"x": Served("http://b:1/v1", "n")}),
        ],
    )  # fmt: skip
    def test_models_are_named_once(self, server: str | None, models: list[str] | None, found: dict) -> None:
        assert read_served(server, models) == found
        assert list(read_served(server, models)) == list(found)

    @pytest.mark.parametrize(
        ("server", "models", "message"),
        [
            ("http://a/v1#m", ["n"], "put m among --models"),
            ("http://a/v1", None, "models must be named"),
            (None, ["m"], "expected --server URL beside it"),
            ("http://a/v1", ["m", "m"], "'m' is taken"),
            ("http://a/v1", ["x=http://b/v1"], "x=URL#MODEL"),
            ("http://a/v1", ["http://b/v1#n"], "NAME=MODEL"),
            ("a/v1", ["m"], "expected a server's address"),
            ("http://me:secret@a/v1", ["m"], "without password"),
            (None, ["x=http://a/v1?key=secret#n"], "without password"),
        ],
    )
    def test_what_would_be_left_out_or_told_is_refused(self, server: str, models: list[str], message: str) -> None:
        with pytest.raises(SettingsError, match=message) as raised:
            read_served(server, models)
        assert "secret" not in str(raised.value)

    def test_generate_takes_models_by_their_own_names(self, tmp_path: Path) -> None:
        data = mini_data(tmp_path / "data")
        with FakeServer(reply=says("Yes.")) as server:
            flags = [
                "--server",
                server.url,
                "--models",
                "base",
                "tuned=org/lora",
                "--data",
                str(data),
                "--splits",
                "real",
            ]
            done = CliRunner().invoke(app, ["generate", *flags, "--limit", "1", "--runs", str(tmp_path), "--json"])
            asked = {body["model"] for body in server.bodies}
        assert done.exit_code == 0, done.output
        assert asked == {"base", "org/lora"}
        assert json.loads(done.stdout)["answers"] == 4


class TestEngine:
    def test_columns_grow_together_and_tell_their_tokens(self) -> None:
        with FakeServer(Script(pause=0.1), reply=says("one two three four five")) as server:
            steps = ask(engine_of(server, "base", "tuned"), ["tuned", "base"])
        assert {tuple(column.variant for column in columns) for columns in steps} == {("tuned", "base")}
        growing = [columns for columns in steps if all(one.text and not one.finish_reason for one in columns)]
        assert len({columns[0].text for columns in growing}) > 1  # both at once, word by word
        for first, second in growing:
            assert "one two three four five".startswith(first.text) and second.text
            assert (first.tokens, first.unit) == (len(first.text.split()), "chunks")
        for column in steps[-1]:
            assert (column.text, column.finish_reason) == ("one two three four five", "stop")
            assert (column.tokens, column.unit) == (10, "tokens")
            assert 0.5 < column.seconds < 5 and column.speed == column.tokens / column.seconds

    def test_the_request_is_that_of_generate_with_images_in_order(self, monkeypatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with FakeServer(reply=says("ok")) as server:
            settings = GenerationSettings(max_new_tokens=7, temperature=0.5, seed=3)
            list(engine_of(server, "base").stream(pictures(3), "Which <image> is it?", ["base"], settings))
            [body] = server.bodies
        assert body["authorization"] == f"Bearer {KEY}"
        assert (body["model"], body["temperature"], body["seed"], body["max_completion_tokens"]) == ("base", 0.5, 3, 7)
        *images, text = body["messages"][0]["content"]
        assert text == {"type": "text", "text": "Which < image> is it?"}
        assert all(one["type"] == "image_url" for one in images)
        sent = sent_images(body)
        assert [(one.size, one.getpixel((0, 0))) for one in sent] == [
            (one.size, one.getpixel((0, 0))) for one in pictures(3)
        ]

    def test_a_photograph_that_servers_would_refuse_as_png_goes_as_jpeg(self) -> None:
        assert pack(photograph(), 2_000_000).startswith(b"\xff\xd8\xff")
        assert pack(pictures(1)[0], IMAGE_PIXELS) == encode(pictures(1)[0])
        assert pack(pictures(1)[0].resize((1600, 1200)), IMAGE_PIXELS).startswith(b"\x89PNG"), "a drawing stays one"

    def test_a_photograph_is_scaled_down_which_its_columns_say(self) -> None:
        with FakeServer(Script(most_bytes=MOST_BYTES), reply=says("one")) as server:
            engine = engine_of(server, "base")
            [column] = list(engine.stream([photograph(), *pictures()], "What?", ["base"], SETTINGS))[-1]
            images = sent_images(server.bodies[0])
            whole = ServedEngine(engine.models, image_pixels=4_000_000)
            [refused] = list(whole.stream([photograph()] * 2, "What?", ["base"], SETTINGS))[-1]
        assert [one.size for one in images] == [(1416, 1133), *(one.size for one in pictures())]
        assert (column.text, column.finish_reason) == ("one", "stop")
        assert column.told == "1 image is scaled down to 1,605,632 pixels for the server (image_pixels)"
        assert refused.finish_reason == "failed" and "image_pixels" in refused.told and "2 images" in refused.told

    def test_a_server_that_tells_no_tokens_has_its_chunks_counted_and_called_so(self) -> None:
        with FakeServer(Script(usage=False), reply=says("one two three")) as server:
            last = ask(engine_of(server, "base"), ["base"])[-1][0]
        assert (last.tokens, last.unit, last.speed) == (3, "chunks", None)

    def test_what_a_server_does_not_know_is_left_out_and_told_where_it_matters(self) -> None:
        script = Script(unknown=("stream_options", "temperature", "max_completion_tokens"))
        with FakeServer(script, reply=says("one two three")) as server:
            engine = engine_of(server, "base", "tuned")
            for columns in (ask(engine, ["base", "tuned"])[-1], ask(engine, ["base"])[-1]):
                assert all(one.text == "one two three" and one.unit == "chunks" for one in columns)
                assert all("takes no temperature" in one.told and one.finish_reason == "stop" for one in columns)
            assert "stream_options" not in server.bodies[-1] and server.bodies[-1]["max_tokens"] == 64

    @pytest.mark.parametrize(("temperature", "told"), [(0.8, "the server takes no seed: "), (0.0, "")])
    def test_a_column_without_the_seed_that_was_asked_for_says_so(self, temperature: float, told: str) -> None:
        with FakeServer(Script(unknown=("seed",)), reply=says("one")) as server:
            settings = GenerationSettings(max_new_tokens=9, temperature=temperature)
            [last] = ask(engine_of(server, "base"), ["base"], settings)[-1]
        assert (last.text, last.finish_reason) == ("one", "stop")
        assert last.told.startswith(told) and bool(last.told) == bool(told)

    def test_a_wrong_name_behind_a_bare_500_is_told_with_the_names_that_there_are(self) -> None:
        with FakeServer(Script(status=500), models=("base", "tuned")) as server:
            [wrong, right] = ask(engine_of(server, "tunde", "tuned"), ["tunde", "tuned"])[-1]
        assert wrong.told.endswith("; 'tunde' is none of the models that it lists: base, tuned")
        assert "none of the models" not in right.told and "the server failed" in right.told

    def test_the_limit_ends_an_answer(self) -> None:
        with FakeServer(reply=says("one two three four")) as server:
            [last] = ask(engine_of(server, "base"), ["base"], GenerationSettings(max_new_tokens=2))[-1]
        assert (last.text, last.finish_reason) == ("one two", "length")

    def test_a_thought_that_a_parser_took_out_is_shown_as_one(self) -> None:
        class Thinking(FakeServer):
            def chunks(self, text: str, body: Mapping[str, Any]) -> Any:
                head, *rest = super().chunks(text, body)
                yield {**head, "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}]}
                yield from rest

        with Thinking(reply=says("Yes.")) as server:
            assert ask(engine_of(server, "base"), ["base"])[-1][0].text == "<think>Hm.</think>\n\nYes."

    @pytest.mark.parametrize(
        ("script", "model", "text", "told"),
        [
            (Script(known_models=True), "wrong", "", "The model `wrong` does not exist"),
            (Script(most_images=1), "base", "", "At most 1 image"),
            (Script(status=429), "base", "", "scripted failure"),
            (Script(status=401), "base", "", "check the URL, the model's name and OPENAI_API_KEY"),
            (Script(breaks_after=3), "base", "one two", "broke off in the middle"),
            (Script(fails_after=3), "base", "one two", "the engine is dead"),
            (Script(page=True), "base", "", "is this an OpenAI-compatible URL"),
            (Script(hold_after=0), "base", "", "no word within 0.5"),
        ],
    )  # fmt: skip
    def test_a_failure_is_told_in_its_column_and_the_others_go_on(
        self, script: Script, model: str, text: str, told: str
    ) -> None:
        with FakeServer(script, reply=says("one two three")) as bad, FakeServer(reply=says("fine")) as good:
            engine = ServedEngine({"bad": Served(bad.url, model), "good": Served(good.url, "m")}, silence=0.5)
            started = time.monotonic()
            first, second = ask(engine, ["bad", "good"])[-1]
        assert (second.text, second.finish_reason) == ("fine", "stop")
        assert (first.text, first.finish_reason) == (text, "failed") and told in first.told
        assert time.monotonic() - started < 60

    def test_a_server_that_repeats_the_key_does_not_bring_it_onto_the_page(self, monkeypatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with FakeServer(Script(known_models=True)) as server:  # it quotes the name it does not know
            [last] = ask(engine_of(server, f"named-{KEY}"), [f"named-{KEY}"])[-1]
        assert "`named-(the key)` does not exist" in last.told

    def test_a_server_that_is_down_is_told_at_once(self) -> None:
        started = time.monotonic()
        [last] = ask(ServedEngine({"base": Served(GONE, "m")}), ["base"])[-1]
        assert f"nothing answers at {GONE}" in last.told
        assert time.monotonic() - started < 30

    def test_the_servers_filter_is_no_failure(self) -> None:
        with FakeServer(Script(status=400, code="content_filter")) as server:
            [last] = ask(engine_of(server, "base"), ["base"])[-1]
        assert last.finish_reason == "content_filter" and "turned the content down" in last.told

    @pytest.mark.parametrize("script", [Script(pause=0.05), Script(hold_after=0)], ids=["streaming", "silent"])
    def test_stop_ends_all_columns_at_once_and_closes_the_responses(self, script: Script) -> None:
        stop = threading.Event()
        with FakeServer(script, reply=says("word " * 2000)) as server:
            threading.Timer(0.5, stop.set).start()
            started = time.monotonic()
            steps = list(engine_of(server, "a", "b").stream(pictures(), "Why?", ["a", "b"], SETTINGS_LONG, stop))
            assert time.monotonic() - started < 30  # the whole answer takes 100 s
            assert [column.finish_reason for column in steps[-1]] == ["cancelled", "cancelled"]
            if script.pause:
                assert all(column.text.startswith("word word") for column in steps[-1])
                wait_until(lambda: server.closed == 2)

    def test_whoever_stops_reading_closes_the_responses(self) -> None:
        with FakeServer(Script(pause=0.05), reply=says("word " * 2000)) as server:
            stream = engine_of(server, "a").stream(pictures(), "Why?", ["a"], SETTINGS_LONG)
            while next(stream)[0].tokens < 3:  # pyright: ignore[reportArgumentType]
                pass
            stream.close()  # pyright: ignore[reportAttributeAccessIssue]
            wait_until(lambda: server.closed == 1)

    def test_what_no_variant_can_answer_is_refused_before_anything_is_sent(self) -> None:
        with FakeServer() as server:
            engine = engine_of(server, "base")
            with pytest.raises(ImageError):
                engine.stream(pictures() * 4, "Why?", ["base"], SETTINGS)
            with pytest.raises(SettingsError, match="unknown variant 'x'; known: base"):
                engine.stream(pictures(), "Why?", ["x"], SETTINGS)
            assert not server.bodies


SETTINGS_LONG = GenerationSettings(max_new_tokens=4000)


def wait_until(met: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Broken(ScriptedEngine):
    def stream(self, *asked: Any, **more: Any) -> Any:
        raise ModelError("the model has no room")


class TestMultiEngine:
    def test_local_and_served_variants_answer_in_the_order_asked_for(self) -> None:
        with FakeServer(reply=says("served")) as server:
            engine = MultiEngine(engine_of(server, "base"), ScriptedEngine(ANSWERS, 0.01))
            assert engine.variants == ("base", *ANSWERS)
            last = ask(engine, ["mini", "base", "refusal"])[-1]
        assert [column.variant for column in last] == ["mini", "base", "refusal"]
        assert [column.text for column in last] == [ANSWERS["mini"], "served", ANSWERS["refusal"]]

    def test_an_engine_that_fails_ends_its_own_columns(self) -> None:
        with FakeServer(reply=says("served")) as server:
            first, second = ask(MultiEngine(engine_of(server, "base"), Broken(ANSWERS)), ["mini", "base"])[-1]
        assert (first.finish_reason, first.told) == ("failed", "the model has no room")
        assert second.text == "served"

    def test_nothing_is_sent_when_only_local_variants_are_asked(self) -> None:
        with FakeServer(reply=says("served")) as server:
            ask(MultiEngine(engine_of(server, "base"), ScriptedEngine(ANSWERS)), ["mini"])
            assert not server.bodies

    def test_stop_reaches_both(self) -> None:
        stop = threading.Event()
        with FakeServer(Script(pause=0.05), reply=says("word " * 2000)) as server:
            engine = MultiEngine(engine_of(server, "base"), ScriptedEngine({"mini": "word " * 2000}, 0.05))
            threading.Timer(0.5, stop.set).start()
            steps = list(engine.stream(pictures(), "Why?", ["mini", "base"], SETTINGS_LONG, stop))
        assert [column.finish_reason for column in steps[-1]] == ["cancelled", "cancelled"]


# ---------------------------------------------------------------- mis compare


def mis_compare(tmp_path: Path, *flags: str) -> Any:
    images = [str(path) for path in good_images(tmp_path, 2)]
    return CliRunner().invoke(app, ["compare", "--images", *images, "--question", "What is this?", *flags])


@pytest.mark.usefixtures("reported")
def test_a_run_sends_photographs_scaled_and_small_images_keep_their_answers(tmp_path: Path, capsys) -> None:
    """As before the limit there were answers of large images, too, under the digest of the file alone."""
    data, [first] = tmp_path / "data", good_images(tmp_path, 1)
    data.mkdir()
    photograph().save(data / "large.jpg", quality=100, subsampling=0)
    (data / "small.png").write_bytes(first.read_bytes())
    rows = [
        Sample(id=name, question="What?", images=images, category="c", split="easy", harmful=True)
        for name, images in (("large", ["large.jpg", "small.png"]), ("small", ["small.png"]))
    ]
    write_records(data / "easy.jsonl", rows)
    common = {"data": data, "splits": ("easy",), "runs": tmp_path / "runs", "models": {"base": "m"}, "retries": 0}
    with FakeServer(Script(most_bytes=MOST_BYTES), reply=says("one")) as server:
        refused = generate_run(GenerateSettings(server=server.url, image_pixels=4_000_000, **common))
        assert "scaled" not in capsys.readouterr().err
        done = generate_run(GenerateSettings(server=server.url, **common))
        said = " ".join(capsys.readouterr().err.split())
        asked = len(server.bodies)
        assert generate_run(GenerateSettings(server=server.url, image_pixels=200_000, **common)).run.folder.name == "v3"
        assert len(server.bodies) == asked + 1, "the small image's answer is copied"
    [failure] = refused.missing
    assert failure.sample_id == "large" and "(image_pixels, as in --set image_pixels=400000)" in failure.reason
    assert "with 2 images" in failure.reason and "HTTP 413" in failure.reason
    assert said.count("1 image is scaled down to 1,605,632 pixels for the server (image_pixels)") == 1
    assert not done.missing and done.run.config.image_pixels == IMAGE_PIXELS
    keys = {one.sample_id: one.key for one in done.responses}
    plain = AnswerKeys(data, "", {"base": "m"}, {**PAPER.model_dump(), "dtype": "auto"})
    assert keys["small"] == plain.of(rows[1], "base") and keys["large"] != plain.of(rows[0], "base")


def test_compare_asks_served_models_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeServer(reply=says("one two")) as server:
        done = mis_compare(tmp_path, "--server", server.url, "--models", "mini", "tuned=org/lora", "--json")
        shown = mis_compare(tmp_path, "--server", server.url, "--models", "mini")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    keys = ("variant", "text", "tokens", "finish_reason", "server", "model")
    assert [tuple(one[key] for key in keys) for one in said["answers"]] == [
        ("mini", "one two", 4, "stop", server.url, "mini"),
        ("tuned", "one two", 4, "stop", server.url, "org/lora"),
    ]
    assert KEY not in done.output + shown.output
    assert f"sent to {Served(server.url, 'mini').host}" in shown.stdout and "4 tokens" in shown.stdout


def test_compare_tells_what_failed_and_ends_with_status_1(tmp_path: Path) -> None:
    with FakeServer(Script(usage=False), reply=says("one two")) as server:
        flags = ("--server", server.url, "--models", "base", f"gone={GONE}#m")
        done, shown = mis_compare(tmp_path, *flags, "--json"), mis_compare(tmp_path, *flags)
    assert done.exit_code == shown.exit_code == 1
    base, gone = json.loads(done.stdout)["answers"]
    assert (base["tokens"], base["chunks"], base["tokens_per_second"]) == (None, 2, None)
    assert gone["finish_reason"] == "failed" and "nothing answers" in gone["told"]
    assert "2 chunks" in shown.stdout and "nothing answers" in shown.stdout


def test_compare_names_a_variant_that_two_would_answer(tmp_path: Path) -> None:
    done = mis_compare(tmp_path, "--server", GONE, "--models", "base", "--checkpoint", "/nowhere")
    assert done.exit_code == 2 and "served-base=base" in " ".join(done.output.split())
