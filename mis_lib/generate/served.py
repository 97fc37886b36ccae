"""Served models side by side: one question to several models of OpenAI-compatible servers, all at once, each streamed into a column of its own.

One event loop for each comparison, driven by whoever reads ``stream``; every column is a task in it with a client of its own, so that a server that is
slow, down or of another opinion ends its column alone, with the reason in words, and stopping closes the responses at once. Nothing is tried again: a person
who waits is told, and presses Compare. Optional parameters that a server turns down (temperature, seed, ``stream_options``) are left out from then on.

    engine = ServedEngine(read_served("http://127.0.0.1:8000/v1", ["base", "tuned"]))
    for columns in engine.stream(images, "What is in the images?", ["base", "tuned"], GenerationSettings()):
        ...  # one Column for each variant, its text so far
"""

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionChunk
from PIL import Image

from mis_lib.clients.images import data_url, encode
from mis_lib.clients.openai import Caller, check_address, in_short, in_words, open_client, turned_down
from mis_lib.clients.protocol import CannotAnswer, ClientError
from mis_lib.errors import SettingsError
from mis_lib.generate.columns import Column, check_request
from mis_lib.generate.server import messages
from mis_lib.settings import GenerationSettings

# ---------- Which served models answer, as flags say it: ``--server URL#MODEL``, or ``--server URL --models base tuned=LORA other=URL#MODEL``.
#
# A variant is called like its model unless it is given a name, and ``URL#MODEL`` alone is "base", as in ``mis generate``. A full fine-tune fills a server of
# its own, so that a model to be compared may name another address than ``--server``. No address carries a password: what was asked is shown and stored.


class Served(NamedTuple):
    """Where a variant is asked: the server's address, and the model's name there."""

    url: str
    model: str

    @property
    def host(self) -> str:
        """Host and port: where images and question go."""
        return urlsplit(self.url).netloc


def read_served(server: str | None, models: Sequence[str] | None) -> dict[str, Served]:
    """The served variants that ``--server`` and ``--models`` name; none where neither is given.

    Raises:
        SettingsError: a model has no address or no name, a name is given twice, or an address is none or carries a password.
    """
    url, _, model = (server or "").partition("#")
    named = named_models(models) or {}
    if model and named:
        raise SettingsError(both_named(model))
    if url and not (model or named):
        raise SettingsError(UNNAMED)
    found = {name: _served(name, target, url) for name, target in named.items()} or (
        {"base": Served(url, model)} if url else {}
    )
    for one in found.values():
        check_address(one.url)
    return found


def named_models(values: Sequence[str] | None) -> dict[str, str] | None:
    """``["base", "tuned=lora"]`` as names of models by variant; ``None`` if nothing was given.

    Raises:
        SettingsError: a value has no name or no model, or two have the same name.
    """
    named: dict[str, str] = {}
    for value in values or ():
        name, equals, target = value.partition("=")
        if not name or (equals and not target) or "://" in name:
            raise SettingsError(f"--models: expected MODEL or NAME=MODEL, found {value!r}")
        if name in named:
            raise SettingsError(
                f"--models: the name {name!r} is taken already; call it something else: NAME={target or name}"
            )
        named[name] = target or name
    return named or None


UNNAMED = "a server's models must be named: --server URL#MODEL, or --models base tuned, NAME=MODEL where a variant is called otherwise"


def both_named(model: str) -> str:
    """Why ``URL#MODEL`` goes with no ``--models``: one of the two would be left out."""
    return f"--server: expected URL alone beside --models, found URL#{model}; put {model} among --models, or leave #{model} out"


def beside(served: Mapping[str, Served], local: Sequence[str]) -> None:
    """Refuse served variants that are called like local ones.

    Raises:
        SettingsError: names the first, and how to call it otherwise.
    """
    for name, one in served.items():
        if name in local:
            raise SettingsError(
                f"--models: the name {name!r} is taken already by a variant of this machine; call it something else: served-{name}={one.model}"
            )


def _served(name: str, target: str, url: str) -> Served:
    if "://" in target:
        own, _, model = target.partition("#")
        if not model:
            raise SettingsError(f"--models {name}: expected the model's name behind the address, as {name}=URL#MODEL")
        return Served(own, model)
    if not url:
        raise SettingsError(f"--models {name}: expected --server URL beside it, or {name}=URL#MODEL")
    return Served(url, target)


CONNECT, SILENCE = (
    10.0,
    300.0,
)  # seconds: until a server takes the call, and between two words of it (the first may wait for a model to load)
TICK = 0.1  # seconds between looks at the stop event, and at the clock
LARGEST_PNG = 4 * 2**20  # bytes


class ServedEngine:
    """Models that servers answer for, by the name of their variant.

    Args:
        models: where each variant is asked (``served_models.read_served``).
        silence: seconds without a word after which a server is given up.
    """

    def __init__(self, models: Mapping[str, Served], *, silence: float = SILENCE) -> None:
        self.models = dict(models)
        self.variants = tuple(models)
        self._silence = silence
        self._left_out: dict[str, set[str]] = {served.url: set() for served in models.values()}

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """Yield one tuple whenever something has come, at least ten a second; all columns have a finish reason in the last.

        Setting ``stop`` or closing the iterator closes the responses. A column that failed says why in ``told``.

        Args:
            images: one to ``files.MAX_IMAGES``, sent in this order, before the question.
            question: what is asked about them; strings that are known special tokens are taken as plain text.
            variants: names out of ``self.variants``, each at most once.
            settings: length and sampling.
            stop: set by another thread to end the answers.

        Raises:
            ImageError: no image, or too many.
            SettingsError: no or a too long question, an unknown or repeated variant.
        """
        check_request(images, question, variants, self.variants)
        return self._stream(images, question, variants, settings, stop or threading.Event())

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
    ) -> Iterator[tuple[Column, ...]]:
        started = time.perf_counter()
        asked = messages([data_url(packed(image)) for image in images], question)
        columns = {name: Column(name, "", 0, 0.0, None, "chunks") for name in variants}
        changed = asyncio.Event()

        def receive(column: Column) -> None:
            columns[column.variant] = replace(column, seconds=time.perf_counter() - started)
            changed.set()

        with asyncio.Runner() as runner:
            tasks = [
                runner.get_loop().create_task(self._ask(columns[name], asked, settings, receive)) for name in variants
            ]
            while any(column.finish_reason is None for column in columns.values()):
                runner.run(_tick(changed))
                for task in tasks:
                    if task.done():
                        task.result()  # raises what nobody expected
                for name, column in columns.items():
                    if column.finish_reason is None:
                        over = "cancelled" if stop.is_set() else None
                        columns[name] = replace(column, seconds=time.perf_counter() - started, finish_reason=over)
                yield tuple(columns.values())

    async def _ask(
        self, column: Column, asked: Any, settings: GenerationSettings, receive: Callable[[Column], None]
    ) -> None:
        """Hand over a column as it grows, and at last with its finish reason."""
        served = self.models[column.variant]
        answer, reason, why = _Answer(column), "failed", ""
        optional = {
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stream_options": {"include_usage": True},
        }
        async with open_client(served.url, retries=0, timeout=openai.Timeout(self._silence, connect=CONNECT)) as client:
            caller = Caller(client, self._left_out[served.url])
            try:
                async with await caller.begin_chat(
                    served.model, asked, settings.max_new_tokens, optional, stream=True
                ) as stream:
                    async for chunk in stream:
                        receive(answer.grow(chunk))
                if answer.heard:
                    reason = answer.finish_reason or "unknown"
                else:
                    why = f"{served.url} sent no answer; expected a stream of chunks: is this an OpenAI-compatible URL, as http://localhost:8000/v1?"
            except CannotAnswer as error:
                reason, why = "content_filter", str(error)
            except ClientError as error:
                why = self._late(served) if isinstance(error.__cause__, openai.APITimeoutError) else str(error)
            except openai.APITimeoutError:
                why = self._late(served)
            except openai.APIConnectionError:
                why = (
                    f"the connection to {served.host} broke off in the middle of the answer; does the server still run?"
                )
            except openai.APIError as error:
                why = f"the server failed: {in_short(error)}"
            except json.JSONDecodeError as error:
                why = f"the server's stream was no JSON: {error}"
            if not why:
                why = "; ".join(in_words("the server", turned_down(caller.left_out), settings.temperature))
            receive(replace(answer.column_so_far(), finish_reason=reason, told=why))

    def _late(self, served: Served) -> str:
        return (
            f"no answer from {served.host}: no connection within {CONNECT:g} seconds, or no word within {self._silence:g}; "
            "does the server run, and has it loaded the model?"
        )


async def _tick(changed: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), TICK)
    changed.clear()


@dataclass
class _Answer:
    """The answer of one served variant as it grows."""

    column: Column
    thought: str = ""  # what a reasoning parser has taken out of the text
    said: str = ""
    chunks: int = 0
    tokens: int = 0
    finish_reason: str | None = None
    heard: bool = False

    def grow(self, chunk: ChatCompletionChunk) -> Column:
        """Take one more chunk; the client checks no types, so that a server may leave anything out."""
        if chunk.usage and chunk.usage.completion_tokens:
            self.tokens = chunk.usage.completion_tokens
        for choice in (chunk.choices or [])[:1]:
            self.heard, self.finish_reason = True, choice.finish_reason or self.finish_reason
            delta = choice.delta
            if delta is None:
                continue
            thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
            said = delta.content or delta.refusal or ""
            self.thought, self.said = self.thought + thought, self.said + said
            self.chunks += bool(thought or said)
        return self.column_so_far()

    def column_so_far(self) -> Column:
        """What has come, without a finish reason; in tokens if the server has told them."""
        text = f"<think>{self.thought}{'</think>' if self.said else ''}\n\n{self.said}" if self.thought else self.said
        counted = (self.tokens, "tokens") if self.tokens else (self.chunks, "chunks")
        return replace(self.column, text=text.strip(), tokens=counted[0], unit=counted[1])


def packed(image: Image.Image) -> bytes:
    """A picture as a PNG file, its pixels as a local model sees them; as a JPEG of high quality where that would be larger than ``LARGEST_PNG``."""
    png = encode(image)
    if len(png) <= LARGEST_PNG:  # servers refuse requests of some dozen megabytes, which a few photographs would be
        return png
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
