"""The stages against a real HTTP server on loopback: faults, kills, costs; and teachers that run a model themselves."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_server import COMPLETION_TOKENS, PROMPT_TOKENS, FakeServer, Script
from support.tiny import tiny_checkpoint
from typer.testing import CliRunner, Result

from mis_lib.cli.main import app
from mis_lib.clients.cache import Cache
from mis_lib.clients.diffusion import DiffusionImages
from mis_lib.clients.images import encode
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import ServerChat, open_client
from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ImageAsk
from mis_lib.construct.stages.forms import FORMS
from mis_lib.construct.stages.offline import DrawnImages
from mis_lib.construct.stages.records import Account
from mis_lib.errors import MissingPackageError, ModelError
from mis_lib.files import read_records
from mis_lib.schema import Sample

ITEMS = 8


def flags(out: Path, teacher: str, *more: str, items: int = ITEMS) -> list[str]:
    return [
        "construct",
        "--source",
        "stages",
        "--teacher",
        teacher,
        "--items",
        str(items),
        "--out",
        str(out),
        "--json",
        *more,
    ]


def mis(out: Path, teacher: str, *more: str, items: int = ITEMS) -> Result:
    return CliRunner().invoke(app, flags(out, teacher, *more, items=items))


def account_of(result: Result) -> Account:
    values = json.loads(result.stdout)
    return Account.model_validate(values)


def samples(folder: Path) -> dict[str, Sample]:
    splits = ("train", "easy", "hard")
    return {sample.id: sample for split in splits for sample in read_records(folder / f"{split}.jsonl", Sample)}


def without_provenance(folder: Path) -> dict[str, Any]:
    """All that the data say except how they were made."""
    return {name: sample.model_dump(exclude={"provenance"}) for name, sample in samples(folder).items()}


def data(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.json*"), *folder.glob("*.csv"), *(folder / "images").rglob("*.png")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def all_accounted_for(account: Account, folder: Path) -> bool:
    """Every draft is exactly one of done, rejected with a reason, and pending with a reason."""
    done = [name for name, sample in samples(folder).items() if sample.harmful]
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("rejected", "pending")
    }
    ids = [*done, *(line["id"] for name in lines for line in lines[name] if line["stage"] != "extract")]
    return (
        len(ids) == len(set(ids)) == account.drafts
        and all(line["reason"] for name in lines for line in lines[name])
        and account.done == len(done)
        and sum(account.rejected.values()) == len(lines["rejected"])
        and sum(account.pending.values()) == len(lines["pending"])
    )


# ---------------------------------------------------------------- the same command, another teacher


@pytest.fixture(scope="module")
def offline_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the built-in teacher makes."""
    folder = tmp_path_factory.mktemp("offline") / "data"
    assert mis(folder, "builtin").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def by_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server makes that is never killed and never fails."""
    folder = tmp_path_factory.mktemp("server") / "data"
    with FakeServer() as server:
        assert mis(folder, server.url).exit_code == 0
    return folder


def test_the_same_command_against_a_server_says_the_same_and_knows_its_cost(offline_data: Path, tmp_path: Path) -> None:
    with FakeServer() as server:
        result = mis(tmp_path / "data", server.url, "--concurrency", "3")
    account = account_of(result)
    assert (result.exit_code, account.done) == (0, ITEMS)
    assert without_provenance(tmp_path / "data") == without_provenance(offline_data)
    assert account.teachers["writer"] == "server:teacher-72b"
    assert set(server.paid.values()) == {1}
    assert json.loads(result.stdout)["calls"]["paid_now"] == len(server.calls)
    steps = [step for sample in samples(tmp_path / "data").values() for step in sample.provenance["lineage"]]
    assert {step["prompt_tokens"] for step in steps if step["teacher"] == "server:teacher-72b"} == {PROMPT_TOKENS}
    asked = sum(stage.completion_tokens for stage in account.stages) // COMPLETION_TOKENS
    assert asked == len(server.calls) + json.loads(result.stdout)["calls"]["from_cache"]
    assert 1 < server.most_at_once <= 3


def test_structured_output_images_and_the_key_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    with FakeServer() as server:
        mis(tmp_path / "data", server.url, items=1)
    by_task = {body["response_format"]["json_schema"]["name"]: body for body in server.bodies}
    assert set(by_task) == set(FORMS) - {"relabel"}
    assert all(body["authorization"] == "Bearer sk-of-the-test" for body in server.bodies)
    label = by_task["label"]
    kinds = [part["type"] for part in label["messages"][1]["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    assert label["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert label["response_format"]["json_schema"]["strict"] is True
    assert (label["temperature"], by_task["extract"]["temperature"]) == (0.0, 0.7)
    everything = "".join(path.read_text() for path in (tmp_path / "data").rglob("*.json*"))
    assert "sk-of-the-test" not in everything + (tmp_path / "data" / "config.yaml").read_text()


def test_a_server_that_knows_the_older_name_of_the_limit_is_asked_by_it(offline_data: Path, tmp_path: Path) -> None:
    with FakeServer(Script(unknown=("max_completion_tokens",))) as server:
        result = mis(tmp_path / "data", server.url, "--concurrency", "1")
    assert (result.exit_code, without_provenance(tmp_path / "data")) == (0, without_provenance(offline_data))
    assert ["max_completion_tokens" in body for body in server.bodies].count(
        True
    ) == 1  # asked once with it, and never again
    assert all(body["max_tokens"] == 1024 for body in server.bodies[1:])


@pytest.mark.parametrize("code", ["content_filter", "data_inspection_failed", "invalid_prompt"])
def test_content_that_a_server_turns_down_is_rejected_and_not_asked_again(tmp_path: Path, code: str) -> None:
    with FakeServer(Script(status=400, code=code)) as server:
        account = account_of(mis(tmp_path / "data", f"{server.url}#m", items=2))
        calls = len(server.calls)
        again = account_of(mis(tmp_path / "data", f"{server.url}#m", items=2))
    assert (account.rejected, account.pending) == ({"extract: refused": 1}, {})
    assert again == account and len(server.calls) == calls


@pytest.mark.parametrize("fastapi", [False, True])
def test_a_server_that_knows_no_structured_output_is_asked_without_it(
    offline_data: Path, tmp_path: Path, fastapi: bool
) -> None:
    with FakeServer(Script(unknown=("response_format", "seed"), fastapi=fastapi)) as server:
        result = mis(tmp_path / "data", server.url, "--concurrency", "1")
    assert account_of(result).done == ITEMS
    assert without_provenance(tmp_path / "data") == without_provenance(offline_data)
    assert Counter(call.outcome for call in server.calls)["fail"] == 2  # once for each parameter, then never again
    lacks = {"server:teacher-72b": {"seed": "turned down"}}
    assert json.loads(result.stdout)["left_out"] == lacks
    assert json.loads((tmp_path / "data" / "stages" / "cache" / "left_out.json").read_text()) == lacks


def test_that_a_seed_was_left_out_is_told_also_by_a_run_that_asks_nothing(tmp_path: Path) -> None:
    with FakeServer(Script(unknown=("seed",))) as server:
        url = f"{server.url}#teacher-72b"
        told = [
            CliRunner()
            .invoke(app, ["construct", "--source", "stages", "--out", str(tmp_path), "--teacher", url, "--items", "1"])
            .output
            for _ in range(2)
        ]
        assert Counter(call.outcome for call in server.calls)["ok"] > 0
    for output in told:
        assert output.count("server:teacher-72b takes no seed: what it draws cannot be drawn again") == 1
    assert "calls paid for now: 0" in told[1]


def test_several_settings_may_stand_behind_one_flag(tmp_path: Path) -> None:
    result = mis(tmp_path / "data", "builtin", "--set", "judge=builtin", "timeout=5", items=1)
    assert account_of(result).done == 1


def test_two_servers_can_share_the_work(tmp_path: Path) -> None:
    with FakeServer() as writer, FakeServer(models=("a", "vlm")) as viewer:
        result = mis(
            tmp_path / "data",
            writer.url,
            "--set",
            f"vision_teacher={viewer.url}#vlm",
            "--set",
            "judge=builtin",
            items=2,
        )
    account = account_of(result)
    assert account.done == 2
    assert account.teachers == {
        "writer": "server:teacher-72b", "viewer": "server:vlm", "judge": "builtin", "images": "drawn",
    }  # fmt: skip
    assert {call.task for call in writer.calls} == {"extract", "rewrite", "detox"}
    assert {call.task for call in viewer.calls} == {"critique", "label", "twin"}
    assert {body["model"] for body in viewer.bodies} == {"vlm"}


# ---------------------------------------------------------------- killed


def start(out: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mis_lib.cli", *flags(out, url)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.parametrize("answered", [5, pytest.param(31, marks=pytest.mark.slow)])
def test_killed_and_started_again_it_ends_the_same_and_pays_for_nothing_twice(
    by_server: Path, tmp_path: Path, answered: int
) -> None:
    out = tmp_path / "data"
    with FakeServer(Script(hold_after=answered)) as server:
        process = start(out, server.url)
        assert server.holding.wait(120), process.stderr and process.stderr.read()
        deadline = time.monotonic() + 60
        while len(list((out / "stages" / "cache").rglob("[0-9a-f]*.json"))) < answered:
            assert time.monotonic() < deadline, "what was answered does not get to the disk"
            time.sleep(0.01)
        kill(process)
        assert len(server.calls) == answered
        server.script = Script()
        server.released.set()
        result = mis(out, server.url)
    assert result.exit_code == 0, result.output
    assert data(out) == data(by_server)
    assert set(server.paid.values()) == {1}
    for file in (out / "stages").glob("*.jsonl"):
        ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
        assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_killed_at_any_moment_only_what_was_under_way_can_be_paid_twice(by_server: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    with FakeServer(delay=0.02) as server:
        for wanted in (10, 30):
            process = start(out, server.url)
            while len(server.calls) < wanted:
                time.sleep(0.005)
                assert process.poll() is None, process.stderr and process.stderr.read()
            kill(process)
        assert mis(out, server.url).exit_code == 0
        assert data(out) == data(by_server)
        twice = sum(times - 1 for times in server.paid.values())
        assert twice <= 2 * 8  # eight calls at the same time, two kills


# ---------------------------------------------------------------- faults


def test_a_server_that_fails_breaks_off_and_refuses_leaves_no_record_unaccounted_for(
    offline_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    with FakeServer(Script(fail=20, broken=10, refuse=10, half=2)) as server:
        first = mis(out, server.url, "--set", "retries=1", items=24)
        account = account_of(first)
        assert all_accounted_for(account, out)
        assert (first.exit_code == 1) == bool(account.pending)
        for _ in range(8):
            if not account.pending:
                break
            account = account_of(mis(out, server.url, "--set", "retries=1", items=24))
            assert all_accounted_for(account, out)
    outcomes = Counter(call.outcome for call in server.calls)
    assert min(outcomes[name] for name in ("fail", "broken", "refuse", "half")) > 0
    assert account.pending == {}
    assert max(server.paid.values()) == 1  # broken and refused answers have been paid for, too
    assert sum(account.rejected.values()) > 0
    assert {name.partition(": ")[2] for name in account.rejected} <= {"refused", "unusable"}
    refused = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert all("I'm sorry" in one["reason"] for one in refused if one["code"] == "refused")
    made = without_provenance(out)
    assert made  # what was made is what an honest server would have made, nothing invented
    whole = tmp_path / "whole"
    mis(whole, "builtin", items=24)
    assert all(without_provenance(whole)[name] == sample for name, sample in made.items())


def test_every_call_that_is_not_made_again_is_pending_and_the_next_runs_finish(by_server: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    with FakeServer(Script(fail=20)) as server:
        statuses = []
        for _ in range(12):
            result = mis(out, server.url, "--set", "retries=0")
            statuses.append(result.exit_code)
            assert all_accounted_for(account_of(result), out)
            if result.exit_code == 0:
                break
    assert (statuses[0], statuses[-1]) == (1, 0)
    assert data(out) == data(by_server)
    assert set(server.paid.values()) == {1}


def test_a_server_that_is_down_is_given_up_and_everything_waits(tmp_path: Path) -> None:
    with FakeServer(Script(status=503)) as server:
        result = mis(tmp_path / "data", f"{server.url}#m", "--concurrency", "2", "--set", "retries=0", items=60)
    account = account_of(result)
    assert (result.exit_code, account.pending) == (1, {"extract": 30})
    assert 10 <= len(server.calls) <= 12


@pytest.mark.parametrize(("status", "words"), [(401, "OPENAI_API_KEY"), (404, "the model's name")])
def test_a_wrong_key_or_model_ends_the_run_with_one_message(tmp_path: Path, status: int, words: str) -> None:
    with FakeServer(Script(status=status)) as server:
        result = mis(tmp_path / "data", f"{server.url}#m")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert len(server.calls) <= 8


def test_what_is_no_teacher_is_named(tmp_path: Path) -> None:
    with FakeServer(models=("one", "two")) as server:
        several = mis(tmp_path / "data", server.url)
    assert several.exit_code == 2
    assert "expected one model, found one, two; name one as URL#MODEL" in " ".join(several.output.split())
    for flag, value, words in [
        ("--teacher", "gpt-4o", "teacher: expected builtin, a URL"),
        ("--images", "crayons", "images: expected drawn, a URL"),
        ("--teacher", "local:/nowhere", "expected a checkpoint folder"),
        ("--stage", "lable", "stage: expected one of extract"),
        ("--elements", "somewhere", "--elements goes with --source objects"),
    ]:
        result = CliRunner().invoke(app, ["construct", "--source", "stages", "--out", str(tmp_path / "x"), flag, value])
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- images from a server


def test_images_of_an_endpoint_with_faults_are_accounted_for_and_paid_once(tmp_path: Path) -> None:
    out = tmp_path / "data"
    script = Script(fail=20, broken=10, refuse=10)
    with FakeServer(script, models=("sd-3.5",)) as server:
        args = ("--images", f"{server.url}#sd-3.5", "--set", "retries=8")
        first = mis(out, "builtin", *args, items=12)
        calls = len(server.calls)
        again = mis(out, "builtin", *args, items=12)
    account = account_of(first)
    assert account == account_of(again)
    assert len(server.calls) == calls
    assert all_accounted_for(account, out)
    assert account.teachers["images"] == "server:sd-3.5"
    assert account.done > 0
    assert {name.partition(": ")[2] for name in account.rejected} == {"refused", "unusable"}
    # an endpoint takes no seed: the same words for two items are two calls, for two pictures
    assert json.loads(first.stdout)["calls"]["paid_now"] >= sum(server.paid.values()) > 0
    assert all(body["model"] == "sd-3.5" and body["n"] == 1 for body in server.bodies)
    assert len({body["seed"] for body in server.bodies}) > 1, "of diffusion models: that of the item"
    for sample in samples(out).values():
        assert all((out / path).read_bytes().startswith(b"\x89PNG") for path in sample.images)


# ---------------------------------------------------------------- models on this machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def judging(max_tokens: int = 8) -> ChatAsk:
    picture = encode(asyncio.run(_picture()))
    facts = {"objects": ["a", "b"]}
    return ChatAsk("judge", "Be just.", "Look.", FORMS["judge"], facts, (picture, picture), max_tokens=max_tokens)


async def _picture() -> Any:
    from mis_lib.files import load_image

    return load_image((await DrawnImages(side=32).make(ImageAsk("duck", 1))).content)


def test_a_local_model_that_writes_no_json_is_unusable_with_its_cost_and_cached(
    checkpoint: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(CannotAnswer, match="no usable answer in 3 tries") as error:
        asyncio.run(LocalChat(checkpoint, cache).ask(judging()))
    assert error.value.cost.calls == cache.paid == 3
    assert error.value.cost.prompt_tokens > 3 * 8 > 0
    with pytest.raises(CannotAnswer):
        asyncio.run(LocalChat(checkpoint, Cache(tmp_path)).ask(judging()))
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_a_local_model_that_writes_the_form_is_believed(checkpoint: Path, tmp_path: Path) -> None:
    teacher = LocalChat(checkpoint, Cache(tmp_path))
    model, processor, sees = teacher.loaded
    said = processor.tokenizer('{"keep": true, "problem": "none", "reason": "fits"}')["input_ids"]
    asked: list[dict[str, Any]] = []

    class Speaker:
        """The model, but for what it says."""

        device, dtype = model.device, model.dtype

        def generate(self, **inputs: Any) -> torch.Tensor:
            asked.append(inputs)
            return torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)

    teacher.loaded = (Speaker(), processor, sees)  # a cached property may be set
    reply = asyncio.run(teacher.ask(judging(max_tokens=200)))
    assert reply.answer.model_dump() == {"keep": True, "problem": "none", "reason": "fits"}
    assert reply.cost.completion_tokens == len(said)
    assert asked[0]["pixel_values"].shape[0] == 2
    assert "Be just." in processor.decode(asked[0]["input_ids"][0])


def test_a_local_teacher_is_known_by_its_files(checkpoint: Path, tmp_path: Path) -> None:
    first = LocalChat(checkpoint, Cache(tmp_path)).name
    other = tiny_checkpoint(tmp_path / "model", seed=1)
    assert first.startswith("local:model@")
    assert first == LocalChat(checkpoint, Cache(tmp_path)).name != LocalChat(other, Cache(tmp_path)).name
    with pytest.raises(ModelError, match="expected a checkpoint folder"):
        LocalChat(tmp_path, Cache(tmp_path))


@pytest.mark.long
def test_transformers_serve_is_such_a_server(checkpoint: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["transformers", "serve", str(checkpoint), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.skip(f"transformers serve does not start here: {(tmp_path / 'log').read_text()[-300:]}")
            if b"Uvicorn running" in (tmp_path / "log").read_bytes():
                break
            time.sleep(0.5)
        ask = judging()

        async def judge() -> Any:
            return await ServerChat(
                open_client(f"http://127.0.0.1:{port}/v1"), str(checkpoint), Cache(tmp_path / "cache")
            ).ask(ask)

        with pytest.raises(CannotAnswer, match="no usable answer in 3 tries") as error:  # random weights write no JSON
            asyncio.run(judge())
    finally:
        process.terminate()
        process.wait()
    assert (error.value.cost.calls, error.value.cost.completion_tokens) == (3, 24)
    assert error.value.cost.prompt_tokens > 300  # both images and the texts have come through


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is not None, reason="diffusers is installed")
def test_without_diffusers_the_message_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=r'pip install "mis-workbench\[gpu\]"'):
        DiffusionImages("stabilityai/stable-diffusion-3.5-large", Cache(tmp_path))
    result = mis(tmp_path / "data", "builtin", "--images", "diffusers")
    assert result.exit_code == 2
    assert "needs the package diffusers" in " ".join(result.output.split())


def test_a_diffusion_pipeline_draws_the_same_for_the_same_seed(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs the extra gpu")
    tiny_diffusion(diffusers, tmp_path / "tokens").save_pretrained(tmp_path / "model")

    async def draw(cache: str, seed: int) -> bytes:
        maker = DiffusionImages(str(tmp_path / "model"), Cache(tmp_path / cache), "cpu", side=32, steps=2)
        return (await maker.make(ImageAsk("a red crayon", seed))).content

    first, again, other = (asyncio.run(draw(cache, seed)) for cache, seed in (("a", 3), ("b", 3), ("a", 4)))
    assert first.startswith(b"\x89PNG")
    assert first == again != other
    with pytest.raises(ModelError, match="give the folder of a pipeline, or fetch it first"):
        asyncio.run(DiffusionImages(str(tmp_path / "none"), Cache(tmp_path), "cpu").make(ImageAsk("x", 1)))


def tiny_diffusion(diffusers: Any, folder: Path) -> Any:
    """A Stable Diffusion pipeline of some thousand random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[4, 8],
        norm_num_groups=2,
        down_block_types=2 * ["DownEncoderBlock2D"],
        up_block_types=2 * ["UpDecoderBlock2D"],
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(folder, model_max_length=77),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
