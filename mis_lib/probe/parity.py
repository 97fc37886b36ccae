"""Parity: do all forms of a tuned model read and say the same? Views of one question are compared step by step.

The first form is the reference: the adapter as it was trained, unmerged. Checks run from cause to effect (the adapter's
tensors, image grids, pixels, rendered token ids, first-token logits, greedy text), so that the first one that differs
names the cause. What a form cannot show (a server shows no pixels) is "not told", which is neither the same nor a
difference.

Logits are compared within a tolerance for each number type, as a share of the reference's largest logit; merging rounds
every weight once, which float32 hardly shows and bfloat16 does. Where a text parts at a step whose two tokens are
within that tolerance in the reference, it is a tie that rounding decides, and is reported as one.

Each form is asked through the code that people use it with, and watched while it answers. Nothing is rendered a second
time for the comparison: an ``Overheard`` processor keeps what it hands to the model, and a hook on the model keeps its
logits. So a form that renders, resizes or computes differently shows it.

    training   the checkpoint with the adapter attached by PEFT, unmerged: what the trainer computed with; the reference
    rows       the question as a training row begins, made by the trainer's encoder; it is read, not answered
    merged     the adapter added to the weights, in memory
    reloaded   the merged model saved as a checkpoint and loaded from there; or a checkpoint that was merged elsewhere
    engine     the app's engine, with all variants in one batch
    served     any server that speaks the OpenAI API; ``transformers_serve`` starts one
"""

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
import torch
from openai.types.chat import ChatCompletion
from PIL import Image
from transformers import AutoProcessor

from mis_lib.clients.images import data_url, encode
from mis_lib.clients.openai import LIMIT, Caller, image_message, only_model, open_client
from mis_lib.clients.protocol import ClientError, Unavailable
from mis_lib.errors import MissingPackageError, ModelError, SettingsError
from mis_lib.generate.batch import answer
from mis_lib.generate.engine import use_adapter
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.load import LoadedModel
from mis_lib.prompts import as_plain_text, special_tokens
from mis_lib.schema import Record
from mis_lib.settings import GenerationSettings
from mis_lib.train.encode import Encoder, Example

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of two logits that rounding explains, as a share of the largest logit, by number type."""
TOP = 20  # first tokens whose log-probabilities a server is asked for, the most the API allows
SERVED_TOLERANCE = 10.0  # times the tolerance: log-probabilities are differences of two logits, and servers round them
SHOWN_WHOLE = 64  # values; an integer tensor of the processor up to this size is compared by value
READY = b"Uvicorn running"
WAIT = 300.0  # seconds for a large checkpoint to load
POLL = 0.25


class Check(StrEnum):
    """What is compared, from cause to effect."""

    TENSORS = "adapter tensors"
    GRIDS = "image grids"
    PIXELS = "pixel hashes"
    TOKENS = "prompt tokens"
    LOGITS = "first-token logits"
    TEXT = "greedy text"


class Status(StrEnum):
    """Outcome of one check."""

    SAME = "same"
    TIE = "tie"
    DIFFERS = "differs"
    NOT_TOLD = "not told"


class CheckResult(Record):
    """One check of one form on one question (empty for the adapter's tensors, which no question is needed for)."""

    variant: str
    form: str
    question: str
    check: Check
    status: Status
    detail: str = ""
    count: str = ""
    """Tensors applied / all of them."""


class View(NamedTuple):
    """What one form was given for a question and what it answered; ``None``: it does not tell."""

    form: str
    text: str | None = None
    answer: list[int] | None = None
    """Generated token ids, the end token included."""
    tokens: list[int] | None = None
    """The rendered prompt, image tokens spelled out."""
    prompt_length: int | None = None
    """Number of prompt tokens, for a form that tells only that."""
    grids: Mapping[str, Any] | None = None
    """Shapes of the image tensors, and the values of small integer ones (Qwen-VL's ``image_grid_thw``), by name."""
    pixels: Mapping[str, str] | None = None
    """SHA-256 of every image tensor as the processor made it, by name."""
    logits: np.ndarray | None = None
    """(steps, vocabulary): of every generated token."""
    failure: str = ""
    """What it raised instead of answering."""
    top: Mapping[str, float] | None = None
    """Log-probabilities of the likeliest first tokens by their text, from a server."""


class Reading(NamedTuple):
    """How token ids are shown: as pieces of text."""

    tokenizer: Any

    def piece(self, token: int) -> str:
        """One token as text."""
        return repr(self.tokenizer.decode([token]))

    def around(self, tokens: Sequence[int], at: int) -> str:
        """The tokens about a place, as text."""
        return repr(self.tokenizer.decode(list(tokens[max(0, at - 4) : at + 8])))


class Question(NamedTuple):
    """One question about images, with a name for the report and the example that a trainer would make of it."""

    name: str
    images: Sequence[Image.Image]
    text: str
    example: Example


class Overheard:
    """A processor that keeps a copy of what it last made; everything else is the processor's own."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.made: dict[str, torch.Tensor] = {}

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        """As the processor's, kept before anybody casts it."""
        made = self._processor.apply_chat_template(*args, **options)
        self.made = {name: value.clone() for name, value in made.items() if isinstance(value, torch.Tensor)}
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def compare(
    reference: View, other: View, *, variant: str, question: str, dtype: str, reading: Reading
) -> list[CheckResult]:
    """All checks of ``other`` against ``reference`` on one question, in order.

    Raises:
        SettingsError: no tolerance is known for ``dtype``.
    """
    if dtype not in TOLERANCE:
        raise SettingsError(f"--dtype: no tolerance is known for {dtype!r}; known: {', '.join(TOLERANCE)}")
    found = {
        Check.GRIDS: _mapping(reference.grids, other.grids),
        Check.PIXELS: _mapping(reference.pixels, other.pixels),
        Check.TOKENS: _tokens(reference, other, reading),
        Check.LOGITS: _logits(reference, other, dtype, reading),
        Check.TEXT: _text(reference, other, dtype, reading),
    }
    return [
        CheckResult(variant=variant, form=other.form, question=question, check=check, status=status, detail=detail)
        for check, (status, detail) in found.items()
    ]


def first_difference(findings: Iterable[CheckResult]) -> CheckResult | None:
    """The difference nearest to its cause: the earliest check that fails, in the order the forms were looked at."""
    differing = [finding for finding in findings if finding.status is Status.DIFFERS]
    return min(differing, key=lambda finding: list(Check).index(finding.check), default=None)


def ask_rows(form: str, processor: Any, question: Question) -> View:
    """Let the trainer's encoder render the question by the processor that the adapter was trained with."""
    made = Encoder(processor).prompt(question.example)
    return _view(form, None, [], {"input_ids": made.ids[None], **made.vision})


def ask_alone(
    form: str, loaded: LoadedModel, adapter: str | None, question: Question, settings: GenerationSettings
) -> View:
    """Answer by the path of ``mis report``: one row under one adapter, or by a model without any."""
    processor: Any = Overheard(loaded.processor)
    network = loaded.network
    with use_adapter(loaded.model, adapter), logits_of(network, row=0) as steps:
        try:
            answered = answer([question.images], [question.text], LoadedModel(loaded.model, processor), settings)[0]
        except (RuntimeError, ValueError, IndexError) as error:  # its input does not suit it, which is a finding
            words = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return _view(form, None, [], processor.made)._replace(failure=words)
    return _view(form, answered.text, steps[: answered.tokens], processor.made)


def ask_engine(
    form: str, engine: VariantEngine, variant: str, question: Question, settings: GenerationSettings
) -> View:
    """Answer by the app's engine, all of its variants in one batch or in turns, and take the row or turns of one.

    Raises:
        ModelError: it said nothing.
    """
    processor: Any = Overheard(engine.processor)
    plain, engine.processor = engine.processor, processor
    place = engine.variants.index(variant)
    answered = None
    try:
        with logits_of(engine.network, row=place if engine.mixes else 0) as steps:
            for columns in engine.stream(question.images, question.text, engine.variants, settings):
                answered = columns[place]
    finally:
        engine.processor = plain
    if answered is None:
        raise ModelError(f"the engine said nothing to {question.name!r}; try again")
    own = steps if engine.mixes else steps[place :: len(engine.variants)]
    return _view(form, answered.text, own[: answered.tokens], processor.made)


def ask_server(
    form: str, url: str, model: str | None, question: Question, settings: GenerationSettings, processor: Any
) -> View:
    """Answer by a server: its text, and what it tells of prompt length and likeliest first tokens.

    Args:
        form: what to call it.
        url: of the API, such as "http://127.0.0.1:8000/v1".
        model: its name there; the only one if not given.
        question: asked with the images as PNG, which loses nothing.
        settings: length; decoding is greedy.
        processor: of the reference, for its special tokens.

    Raises:
        ModelError: the server cannot be reached, or its reply is none.
    """
    text = as_plain_text(question.text, special_tokens(processor))
    return asyncio.run(_ask_server(form, url, model, question, text, settings))


def own_processor(adapter: Path | None) -> Any:
    """The processor that an adapter was trained with, where training saved it with the adapter; else ``None``."""
    if adapter is None or not (adapter / "processor_config.json").exists():
        return None
    return AutoProcessor.from_pretrained(adapter, local_files_only=True, trust_remote_code=False)


@contextmanager
def transformers_serve(checkpoint: Path, device: str) -> Iterator[str]:
    """Serve a checkpoint folder by ``transformers serve`` on loopback, and yield the API's address.

    The address is such as "http://127.0.0.1:41317/v1"; the model's name is the folder's path. The server is a process
    without access to a hub. It ends with the block, whatever happens in it, SIGTERM included.

    Raises:
        MissingPackageError: transformers' server is not installed.
        ModelError: the server ended by itself or is not ready within ``WAIT`` seconds; quotes its last words.
    """
    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        raise MissingPackageError(f"expected transformers' command at {program}; pip install 'transformers[serving]'")
    port = _free_port()
    command = [str(program), "serve", str(checkpoint), "--host", "127.0.0.1", "--port", str(port), "--device", device]
    with _unwinding(), tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "info"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_ready(process, Path(log.name), time.monotonic() + WAIT)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _mapping(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> tuple[Status, str]:
    if expected is None or found is None:
        return Status.NOT_TOLD, "this form does not show its images"
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            return Status.DIFFERS, f"{name}: expected {_brief(expected.get(name))}, found {_brief(found.get(name))}"
    return Status.SAME, ", ".join(f"{name} {_brief(value)}" for name, value in expected.items())


def _brief(value: Any) -> str:
    if value is None:
        return "none"
    return value[:12] if isinstance(value, str) else str(value)


def _tokens(reference: View, other: View, reading: Reading) -> tuple[Status, str]:
    expected, found = reference.tokens, other.tokens
    if expected is None or (found is None and other.prompt_length is None):
        return Status.NOT_TOLD, "this form does not tell its prompt"
    if found is None:
        if other.prompt_length == len(expected):
            return Status.SAME, f"{len(expected)} tokens (their number; the ids are not told)"
        return Status.DIFFERS, f"expected a prompt of {len(expected)} tokens, found one of {other.prompt_length}"
    at = _parting(expected, found)
    if at is None:
        return Status.SAME, f"{len(expected)} tokens"
    return Status.DIFFERS, (
        f"at token {at} of {len(expected)}: expected {reading.around(expected, at)}, found {reading.around(found, at)}"
        f" ({len(found)} tokens)"
    )


def _logits(reference: View, other: View, dtype: str, reading: Reading) -> tuple[Status, str]:
    if reference.logits is None or (other.logits is None and other.top is None):
        return Status.NOT_TOLD, "this form shows no logits"
    expected = reference.logits[0]
    allowed = TOLERANCE[dtype] * float(np.abs(expected).max())
    if other.logits is None:
        return _served_logits(expected, other.top or {}, SERVED_TOLERANCE * allowed, reading)
    found = other.logits[0]
    if found.shape != expected.shape:
        return Status.DIFFERS, f"expected {expected.shape[0]} logits, found {found.shape[0]}"
    gap = float(np.abs(found - expected).max())
    worst = int(np.abs(found - expected).argmax())
    text = f"largest difference {gap:.2g}, allowed {allowed:.2g} ({dtype})"
    if not gap <= allowed:  # also where it is NaN
        text += f", at {reading.piece(worst)}: expected {expected[worst]:.4f}, found {found[worst]:.4f}"
        return Status.DIFFERS, text
    return Status.SAME, text


def _served_logits(
    expected: np.ndarray, top: Mapping[str, float], allowed: float, reading: Reading
) -> tuple[Status, str]:
    """A server's likeliest tokens against the reference's log-probabilities of the same texts."""
    logs = expected - np.logaddexp.reduce(expected)
    best = np.argsort(logs)[::-1][: 5 * TOP]
    ours = {reading.tokenizer.decode([int(token)]): float(logs[token]) for token in best[::-1]}
    shared = {text: abs(ours[text] - value) for text, value in top.items() if text in ours}
    if not shared:
        return (
            Status.DIFFERS,
            f"none of the server's likeliest tokens ({', '.join(map(repr, list(top)[:3]))}) is likely here",
        )
    worst = max(shared, key=lambda text: shared[text])
    text = f"log-probabilities of {len(shared)} tokens: largest difference {shared[worst]:.2g}, allowed {allowed:.2g}"
    if not shared[worst] <= allowed:
        return Status.DIFFERS, f"{text}, at {worst!r}: expected {ours[worst]:.4f}, found {top[worst]:.4f}"
    return Status.SAME, text


def _unopened(text: str) -> str:
    """Without the tag that the prompt may have opened: a server's text leaves it out."""
    return text.removeprefix("<think>").lstrip()


def _text(reference: View, other: View, dtype: str, reading: Reading) -> tuple[Status, str]:
    if other.failure:
        return Status.DIFFERS, f"expected an answer, found {other.failure}"
    if reference.text is None or other.text is None:
        return Status.NOT_TOLD, "this form does not answer"
    if _unopened(reference.text) == _unopened(other.text):
        return Status.SAME, f"{len(reference.text)} characters"
    expected = reference.answer or []
    found = other.answer if other.answer is not None else _as_tokens(other.text, reading)
    at = _parting(expected, found)
    if at is None or reference.logits is None or max(at, 0) >= min(len(expected), len(found), len(reference.logits)):
        place = _parting(reference.text, other.text) or 0
        return Status.DIFFERS, (
            f"at character {place}: expected {reference.text[place : place + 40]!r}, "
            f"found {other.text[place : place + 40]!r}"
        )
    step = reference.logits[at]
    margin = float(step[expected[at]] - step[found[at]])
    allowed = 2 * TOLERANCE[dtype] * float(np.abs(step).max())  # both logits may be off
    words = (
        f"at generated token {at}: expected {reading.around(expected, at)}, found {reading.around(found, at)}; "
        f"the two tokens lie {margin:.3g} apart, rounding explains {allowed:.2g}"
    )
    return (Status.TIE if margin <= allowed else Status.DIFFERS), words


def _as_tokens(text: str, reading: Reading) -> list[int]:
    return list(reading.tokenizer(text, add_special_tokens=False)["input_ids"])


def _parting(expected: Sequence[Any], found: Sequence[Any]) -> int | None:
    """Where two sequences part: the first place that differs, or the end of the shorter one."""
    for at, (one, two) in enumerate(zip(expected, found, strict=False)):
        if one != two:
            return at
    return None if len(expected) == len(found) else min(len(expected), len(found))


async def _ask_server(
    form: str, url: str, model: str | None, question: Question, text: str, settings: GenerationSettings
) -> View:
    asked = [image_message([data_url(encode(image)) for image in question.images], text)]
    async with open_client(url, retries=1) as client:
        name = model or await only_model(client)
        caller = Caller(client, left_out={LIMIT})  # max_tokens at once: every server of a checkpoint knows it

        async def chat(**needed: Any) -> ChatCompletion:
            return await caller.chat(name, asked, settings.max_new_tokens, {"temperature": 0.0}, **needed)

        try:
            try:
                reply = await chat(logprobs=True, top_logprobs=TOP)
            except Unavailable as error:
                if not isinstance(error.__cause__, openai.BadRequestError | openai.UnprocessableEntityError):
                    raise
                reply = await chat()  # the server does not know log-probabilities
        except ClientError as error:
            raise ModelError(f"{url}: cannot be asked: {error}; check that it serves images") from error
    choice = reply.choices[0]
    first = choice.logprobs.content[0].top_logprobs if choice.logprobs and choice.logprobs.content else []
    return View(
        form,
        (choice.message.content or "").strip(),
        prompt_length=reply.usage.prompt_tokens if reply.usage else None,
        top={token.token: token.logprob for token in first} or None,
    )


@contextmanager
def logits_of(network: Any, row: int) -> Iterator[list[np.ndarray]]:
    """Logits (vocabulary,) of the last position of one row, a list that grows with every forward pass in the block."""
    steps: list[np.ndarray] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        steps.append(output.logits[row, -1].detach().float().cpu().numpy())

    hook = network.register_forward_hook(keep)
    try:
        yield steps
    finally:
        hook.remove()


def _view(form: str, text: str | None, steps: Sequence[np.ndarray], made: Mapping[str, torch.Tensor]) -> View:
    rows = len(made["input_ids"])  # an engine may have repeated the prompt
    of_images = (name for name, value in made.items() if value.shape[:2] != made["input_ids"].shape)
    images = {name: made[name][: len(made[name]) // rows] for name in of_images}
    logits = np.stack(steps) if steps else None
    return View(
        form,
        text,
        answer=None if logits is None else logits.argmax(-1).tolist(),
        tokens=made["input_ids"][0].tolist(),
        grids={name: _grid(value) for name, value in images.items()},
        pixels={name: _digest(value) for name, value in images.items() if value.is_floating_point()},
        logits=logits,
    )


def _grid(value: torch.Tensor) -> Any:
    return value.tolist() if not value.is_floating_point() and value.numel() <= SHOWN_WHOLE else tuple(value.shape)


def _digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.contiguous().float().numpy().tobytes()).hexdigest()


@contextmanager
def _unwinding() -> Iterator[None]:
    """While the block lasts, SIGTERM (``timeout``, a cluster) ends it as Ctrl-C does, or the server would survive."""
    if threading.current_thread() is not threading.main_thread():  # only that one may say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path, deadline: float) -> None:
    while READY not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            why = "ended by itself" if process.poll() is not None else "is not ready in time"
            raise ModelError(f"transformers serve {why}: {log.read_text(errors='replace')[-500:].strip()}")
        time.sleep(POLL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
