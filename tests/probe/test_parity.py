"""Parity: what is the same in all forms is found the same, and each way of breaking it is found and named."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from transformers import AutoProcessor
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.errors import ModelError, SettingsError
from mis_lib.models.load import load_model
from mis_lib.models.merge import merge, save
from mis_lib.probe.lora_tensors import Use, merged, read_adapter, wrong
from mis_lib.probe.parity import TOLERANCE, Check, Reading, Status, View, compare, first_difference
from mis_lib.recipes.parity import Form, ParityReport, ParitySettings, parity

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint, two adapters, one of them merged and saved, and a few items to ask."""
    root = tmp_path_factory.mktemp("parity")
    tiny_checkpoint(root / "model")
    for seed, name in enumerate(["one", "two"], 1):
        tiny_adapter(root / "model", root / name, seed)
    save(merge(root / "model", root / "one", "one", "cpu", torch.float32), root / "merged")
    mini_data(root / "data")
    return root


def prove(folder: Path, **changes: Any) -> ParityReport:
    adapters = changes.pop("adapters", {"one": folder / "one"})
    common = {"checkpoint": folder / "model", "data": folder / "data", "limit": 1, "max_new_tokens": 6}
    return parity(ParitySettings(**{**common, "adapters": adapters, **changes}))


def by_check(report: ParityReport, form: Form) -> dict[Check, Status]:
    return {finding.check: finding.status for finding in report.findings if finding.form == form}


def test_all_forms_of_all_adapters_say_the_same(folder: Path) -> None:
    report = prove(folder, adapters={name: folder / name for name in ("one", "two")}, limit=2)
    assert report.same, first_difference(report.findings)
    for name in ("one", "two"):
        stored = read_adapter(folder / name)
        for form in (Form.TRAINING, Form.MERGED, Form.RELOADED, Form.ENGINE):
            uses = [use for use in report.tensors[name] if use["form"] == form]
            assert {use["tensor"] for use in uses} == set(stored)
            assert {use["use"] for use in uses} == {"applied"}
    assert by_check(report, Form.ENGINE) == dict.fromkeys(Check, Status.SAME)
    told = (Check.GRIDS, Check.PIXELS, Check.TOKENS)  # a training row has no answer yet
    assert {check for check, status in by_check(report, Form.ROWS).items() if status is Status.SAME} == set(told)


def test_a_data_file_is_asked_as_its_folder_is(folder: Path) -> None:
    questions = prove(folder, limit=2).questions
    assert prove(folder, data=folder / "data" / "hard.jsonl", limit=2).questions == questions != []


def test_a_system_prompt_on_one_side_is_named(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder / "merged", tmp_path / "merged")
    template = broken / "chat_template.jinja"
    template.write_text("<|im_start|>system\nYou are helpful.<|im_end|>\n" + template.read_text())
    report = prove(folder, merged=broken, forms=[Form.RELOADED])
    first = first_difference(report.findings)
    assert first is not None
    assert (first.check, first.form) == (Check.TOKENS, Form.RELOADED)
    assert "at token 1 of" in first.detail
    assert "system" in first.detail.partition("found")[2]
    assert "system" not in first.detail.partition("found")[0]
    status = by_check(report, Form.RELOADED)
    assert status[Check.PIXELS] is Status.SAME
    assert status[Check.TENSORS] is Status.SAME


def processed(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a checkpoint whose image processor has other settings."""
    folder = shutil.copytree(source, target)
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"] |= changes
    (folder / "processor_config.json").write_text(json.dumps(config))
    return folder


def test_another_image_size_is_named(folder: Path, tmp_path: Path) -> None:
    larger = {"height": 56, "width": 56}
    broken = processed(folder / "merged", tmp_path / "merged", size=larger, crop_size=larger)
    report = prove(folder, merged=broken, forms=[Form.RELOADED])
    first = first_difference(report.findings)
    assert first is not None
    assert first.check is Check.GRIDS
    assert first.detail == "pixel_values: expected (2, 3, 28, 28), found (2, 3, 56, 56)"
    text = next(finding for finding in report.findings if finding.check is Check.TEXT)
    assert "expected an answer, found ValueError" in text.detail  # this tower takes 28 pixels and nothing else


def test_other_pixels_of_the_same_size_are_named(folder: Path, tmp_path: Path) -> None:
    broken = processed(folder / "merged", tmp_path / "merged", resample=0)  # the nearest pixel instead of a mean
    first = first_difference(prove(folder, merged=broken, forms=[Form.RELOADED]).findings)
    assert first is not None
    assert first.check is Check.PIXELS


def test_images_that_training_saw_otherwise_are_named(folder: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(folder / "one", tmp_path / "one")
    AutoProcessor.from_pretrained(folder / "model").save_pretrained(adapter)  # as training leaves it there
    assert prove(folder, adapters={"one": adapter}, forms=[Form.ROWS]).same
    trained = processed(adapter, tmp_path / "trained", resample=0)
    first = first_difference(prove(folder, adapters={"one": trained}, forms=[Form.ROWS]).findings)
    assert first is not None
    assert (first.check, first.form) == (Check.PIXELS, Form.ROWS)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_a_tensor_dropped_from_the_file_is_named(folder: Path, tmp_path: Path, factor: str) -> None:
    broken = shutil.copytree(folder / "one", tmp_path / "one")
    tensors = load_file(broken / WEIGHTS)
    dropped = next(name for name in tensors if factor in name)
    del tensors[dropped]
    save_file(tensors, broken / WEIGHTS, metadata={"format": "pt"})
    report = prove(folder, adapters={"one": broken})
    first = first_difference(report.findings)
    assert first is not None
    assert (first.check, first.form) == (Check.TENSORS, Form.TRAINING)
    assert dropped in first.detail
    assert "missing" in first.detail
    assert len([use for use in report.tensors["one"] if use["use"] == "applied"]) == len(tensors)


def test_a_layer_forgotten_in_merging_is_named(folder: Path, tmp_path: Path) -> None:
    base, plain = load_model(folder / "merged"), load_model(folder / "model").model.state_dict()
    layer = "language_model.layers.1.self_attn.v_proj.weight"
    name = next(key for key in plain if key.endswith(layer))
    base.model.state_dict()[name].copy_(plain[name])
    report = prove(folder, merged=save(base, tmp_path / "merged"), forms=[Form.RELOADED])
    ignored = [use["tensor"] for use in report.tensors["one"] if use["use"] == "ignored"]
    assert len(ignored) == 2
    assert all(layer.removesuffix(".weight") in tensor for tensor in ignored)
    first = first_difference(report.findings)
    assert first is not None
    assert first.check is Check.TENSORS
    assert layer.removesuffix(".weight") in first.detail


def test_an_update_merged_twice_is_no_update(folder: Path) -> None:
    reference: Any = load_model(folder / "model", {"one": folder / "one"}).model
    twice = load_model(folder / "merged").model.state_dict()
    plain = load_model(folder / "model").model.state_dict()
    stored = read_adapter(folder / "one")
    weights = {name: 2 * twice[name] - plain[name] for name in plain}
    uses = merged(reference, "one", weights, stored, "merged")
    assert {use.use for use in uses} == {Use.CHANGED}
    assert wrong(merged(reference, "one", twice, stored, "merged")) is None
    assert wrong(merged(reference, "one", {}, stored, "merged")) == uses[0].model_copy(
        update={"use": Use.IGNORED, "detail": "the merged model has no such weight"}
    )


def test_a_module_trained_whole_is_held_to_its_own_numbers(folder: Path) -> None:
    reference: Any = load_model(folder / "model", {"one": folder / "one"}).model
    weights = load_model(folder / "merged").model.state_dict()
    name = next(key for key in weights if "multi_modal_projector" in key)
    for tensor, use in (
        (weights[name], Use.APPLIED),
        (weights[name] + 1, Use.CHANGED),
        (weights[name][:1], Use.IGNORED),
    ):
        (found,) = merged(reference, "one", weights, {f"base_model.model.{name}": tensor}, "merged")
        assert found.use is use


class TestNumbers:
    """Logits and texts, by hand."""

    reading = Reading(type("Letters", (), {"decode": staticmethod(lambda ids: "".join(chr(97 + i) for i in ids))}))

    def found(self, one: View, other: View, check: Check, dtype: str = "float32") -> tuple[Status, str]:
        findings = compare(one, other, variant="v", question="q", dtype=dtype, reading=self.reading)
        return next((finding.status, finding.detail) for finding in findings if finding.check is check)

    def test_logits_beyond_the_tolerance_differ(self) -> None:
        logits = np.array([[1.0, -10.0, 3.0]])
        for dtype, share in TOLERANCE.items():
            for factor, status in ((0.9, Status.SAME), (1.1, Status.DIFFERS)):
                moved = logits + np.array([0, 0, factor * share * 10.0])
                got = self.found(View("a", "", logits=logits), View("b", "", logits=moved), Check.LOGITS, dtype)
                assert got[0] is status
        broken = View("b", "", logits=np.full_like(logits, np.nan))
        assert self.found(View("a", "", logits=logits), broken, Check.LOGITS)[0] is Status.DIFFERS

    def test_a_tie_is_a_tie_and_nothing_else_is(self) -> None:
        close = View("a", "ab", answer=[0, 1], logits=np.array([[9.0, 1.0, 0.0], [0.0, 5.0, 4.9999]]))
        other = View("b", "ac", answer=[0, 2], logits=close.logits)
        assert self.found(close, other, Check.TEXT)[0] is Status.TIE
        clear = close._replace(logits=np.array([[9.0, 1.0, 0.0], [0.0, 5.0, 4.0]]))
        status, detail = self.found(clear, other, Check.TEXT)
        assert status is Status.DIFFERS
        assert "generated token 1: expected 'ab', found 'ac'" in detail

    def test_what_a_form_does_not_tell_is_neither_same_nor_different(self) -> None:
        one = View("a", "x", tokens=[1], grids={}, pixels={}, logits=np.ones((1, 3)))
        found = compare(one, View("b", "x"), variant="v", question="q", dtype="float32", reading=self.reading)
        assert [finding.status for finding in found] == [Status.NOT_TOLD] * 4 + [Status.SAME]

    def test_no_tolerance_no_verdict(self) -> None:
        with pytest.raises(SettingsError, match="float8"):
            self.found(View("a", ""), View("b", ""), Check.TEXT, "float8")


@contextmanager
def server(reply: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[str]:
    """A chat server on loopback that answers by ``reply``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(reply(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1#one"
    finally:
        listening.shutdown()
        listening.server_close()


def completion(text: str, prompt: int, top: dict[str, float] | None = None) -> dict[str, Any]:
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in (top or {}).items()]
    content = [{"token": listed[0]["token"], "logprob": 0.0, "bytes": None, "top_logprobs": listed}] if listed else []
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content} if content else None,
    }
    usage = {"prompt_tokens": prompt, "completion_tokens": 1, "total_tokens": prompt + 1}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "one", "choices": [choice], "usage": usage}


def test_a_server_that_says_something_else_is_found_out(folder: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return completion("Hello.", 7, {"\x00never\x00": -0.1})

    with server(reply) as url:
        report = prove(folder, served=url, forms=[Form.SERVED])
    status = by_check(report, Form.SERVED)
    assert status[Check.TENSORS] is status[Check.PIXELS] is Status.NOT_TOLD
    assert [status[check] for check in (Check.TOKENS, Check.LOGITS, Check.TEXT)] == [Status.DIFFERS] * 3
    first = first_difference(report.findings)
    assert first is not None
    assert "found one of 7" in first.detail
    (body,) = bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("one", 0.0, 6)
    parts = body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in parts[:2])


def test_no_server_is_an_error_and_no_agreement(folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be asked"):
        prove(folder, served="http://127.0.0.1:9/v1#one", forms=[Form.SERVED])


@pytest.mark.long
def test_transformers_serve_says_what_the_adapter_in_training_says(folder: Path) -> None:
    report = prove(folder, forms=[Form.SERVED])
    assert report.same, first_difference(report.findings)
    status = by_check(report, Form.SERVED)
    assert status[Check.TEXT] is Status.SAME
    assert status[Check.TOKENS] is Status.SAME


class TestCommand:
    """Exit status and what is printed."""

    def run(self, folder: Path, *flags: str) -> Any:
        common = ["parity", "--checkpoint", str(folder / "model"), "--data", str(folder / "data"), "--limit", "1"]
        return CliRunner().invoke(app, [*common, "--max_new_tokens", "4", *flags])

    def test_same_is_status_0(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "parity.json"
        result = self.run(
            folder, "--adapters", f"one={folder / 'one'}", "--forms", "merged", "--json", "--out", str(out)
        )
        assert result.exit_code == 0, result.output
        shown = json.loads(result.stdout)
        assert shown["same"] is True
        assert ParityReport.model_validate_json(out.read_bytes()).same
        assert {use["use"] for use in shown["tensors"]["one"]} == {"applied"}

    def test_a_difference_is_status_1_and_named(self, folder: Path) -> None:
        flags = ["--adapters", f"two={folder / 'two'}", "--merged", str(folder / "merged"), "--forms", "reloaded"]
        result = self.run(folder, *flags)
        assert result.exit_code == 1
        assert "First point of difference: two, reloaded, adapter tensors" in " ".join(result.output.split())

    def test_images_of_ones_own_from_two_folders(self, folder: Path, tmp_path: Path) -> None:
        images = [str(path) for path in (folder / "data" / "images").iterdir()][:1]
        images.append(str(shutil.copy(images[0], tmp_path / "copy.png")))
        flags = ["--forms", "rows", "--images", *images, "--question", "What is <image> this?", "--json"]
        result = self.run(folder, "--adapters", f"one={folder / 'one'}", *flags)
        assert result.exit_code == 0, result.output
        assert {row["status"] for row in json.loads(result.stdout)["findings"]} == {"same", "not told"}

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--variants", "three"], "unknown adapter 'three'"),
            (["--dtype", "int4"], "expected one of float32"),
            (["--question", "Why?"], "--images and --question together"),
            (["--forms", "baked"], "forms"),
        ],
    )
    def test_mistakes_are_status_2(self, folder: Path, flags: list[str], message: str) -> None:
        result = self.run(folder, "--adapters", f"one={folder / 'one'}", *flags)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


def test_a_server_ends_with_the_process_that_was_told_to_end(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mis_lib.probe.parity import transformers_serve\n"
        "with transformers_serve(Path(sys.argv[1]), 'cpu'): time.sleep(600)"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, str(folder / "model")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (servers := psutil.Process(asking.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.1)
        asking.terminate()
        asking.wait(timeout=120)
        assert servers and not psutil.wait_procs(servers, timeout=120)[1]
    finally:
        for process in servers:
            if process.is_running():
                process.kill()
        asking.kill()
