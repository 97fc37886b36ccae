"""Models of OpenAI-compatible servers (vLLM, SGLang, ``transformers serve``, hosted ones): names, runs, comparisons.

``read_served`` reads which models answer: ``--server URL#MODEL``, or ``--server URL --models base tuned=LORA
other=URL#MODEL``. A variant has its model's name unless it is given another one, and ``URL#MODEL`` alone is "base", as
in ``mis generate``. A full fine-tune fills a server, so a compared model may have its own address. No address may hold
a password, since what was asked is shown and stored.

``generate_by_server`` answers a run. Every (sample, variant) is one request, at most ``concurrency`` at a time; the
client retries what is busy or failing, and answers are handed over as they come. A request that fails after all retries
has no answer: it is reported, and asked again by the next run. What a content filter turned down is an answer that the
model did not give (``finish_reason`` "content_filter").

``ServedEngine`` streams the answers of several models to one question into columns:

    engine = ServedEngine(read_served("http://127.0.0.1:8000/v1", ["base", "tuned"]))
    for columns in engine.stream(images, "What is in the images?", ["base", "tuned"], GenerationSettings()):
        ...  # one Column for each variant, its text so far

Each comparison has an event loop, driven by whoever reads ``stream``. Every column is a task with its own client, so a
server that is slow or down ends only its column, with the reason in words, and stopping closes the responses at once.
Nothing is retried: a person who waits is informed, and presses Compare. Optional parameters that a server turns down
(temperature, seed, ``stream_options``) are left out from then on.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionChunk
from PIL import Image

from mis_lib.clients.bounded import OddReply, whole_characters
from mis_lib.clients.cache import Streak, work_through
from mis_lib.clients.images import data_url, pack, scaled_in_words, to_send, whole_file
from mis_lib.clients.openai import (
    Caller,
    check_address,
    completion_of,
    image_message,
    in_short,
    in_words,
    open_client,
    thought_of,
    turned_down,
)
from mis_lib.clients.protocol import CannotAnswer, ClientError, Unavailable
from mis_lib.clients.replies import check_chunk
from mis_lib.errors import ImageError, SettingsError
from mis_lib.generate.columns import CheckedEngine, Column
from mis_lib.generate.defences import Ask, Check, Ruled, Said, ServedGuard, answer_alone, converse, response_of
from mis_lib.generate.prompting import BARE, Prompting
from mis_lib.prompts import KNOWN_SPECIAL_TOKENS, Past, as_plain_text
from mis_lib.schema import Response, Sample
from mis_lib.settings import IMAGE_PIXELS, GenerationSettings, ImagesAs
from mis_lib.text.thoughts import written

NO_PROMPTS: Mapping[str, Prompting] = {}
NO_GUARDS: Mapping[str, ServedGuard] = {}
CONCURRENCY = 16
STREAK = 20  # failures in a row after which a server is taken to be down
CONNECT = 10.0  # seconds until a server accepts the call
SILENCE = 300.0  # seconds between two pieces of an answer; the first may wait for a model to load
TICK = 0.1  # seconds between looks at the stop event, and at the clock
UNNAMED = (
    "a server's models must be named: --server URL#MODEL, or --models base tuned, "
    "NAME=MODEL where a variant is called otherwise"
)


class Served(NamedTuple):
    """A served model: the server's address, and the model's name there."""

    url: str
    model: str

    @property
    def host(self) -> str:
        """Host and port, to which images and question are sent."""
        return urlsplit(self.url).netloc


def read_served(server: str | None, models: Sequence[str] | None) -> dict[str, Served]:
    """The served variants that ``--server`` and ``--models`` name; none where neither is given.

    Raises:
        SettingsError: a model has no address or no name, a name is given twice, or an address is none or carries a
            password.
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


def both_named(model: str) -> str:
    """The message about ``URL#MODEL`` with ``--models``: one of the two would be ignored."""
    return (
        f"--server: expected URL alone beside --models, found URL#{model}; "
        f"put {model} among --models, or leave #{model} out"
    )


def check_names(served: Mapping[str, Served], local: Sequence[str]) -> None:
    """Refuse served variants that have the name of a local one.

    Raises:
        SettingsError: names the first, and how to call it otherwise.
    """
    for name, one in served.items():
        if name in local:
            raise SettingsError(
                f"--models: the name {name!r} is taken already by a variant of this machine; "
                f"call it something else: served-{name}={one.model}"
            )


class Failure(NamedTuple):
    """A request that got no answer this time, and why."""

    sample_id: str
    variant: str
    reason: str


class Sends(NamedTuple):
    """How images reach a server."""

    images_as: ImagesAs
    image_pixels: int
    """Most pixels of one inside a request."""


async def generate_by_server(
    samples: Sequence[Sample],
    data_dir: Path,
    caller: Caller,
    variants: Mapping[str, str],
    settings: GenerationSettings,
    receive: Callable[[Response], None],
    *,
    wanted: Callable[[Sample, str], bool] = lambda sample, variant: True,
    key: Callable[[Sample, str], str] = lambda sample, variant: "",
    images_as: ImagesAs = ImagesAs.BASE64,
    image_pixels: int = IMAGE_PIXELS,
    concurrency: int = CONCURRENCY,
    prompting: Mapping[str, Prompting] = NO_PROMPTS,
    guards: Mapping[str, ServedGuard] = NO_GUARDS,
) -> list[Failure]:
    """Ask for every wanted answer; pass each to ``receive`` as it comes, and return what failed.

    A sample with an image that is no image, damaged or too large is not sent and has failed.

    Args:
        samples: what is asked.
        data_dir: folder to which the samples' image paths are relative.
        caller: the server.
        variants: name of each variant and of the model that serves it.
        settings: length and sampling; each sample has its own seed.
        receive: takes an answer, called from the event loop.
        wanted: whether a variant's answer to a sample is missing.
        key: digest that an answer carries.
        images_as: inside the request, or as ``file://`` paths.
        image_pixels: most pixels of an image inside a request; larger ones are scaled down.
        concurrency: answers that are worked on at a time.
        prompting: of the variants that have one.
        guards: of the variants whose defence asks one.

    Raises:
        ClientError: the server cannot be used at all, such as a wrong key or an unknown model.
    """
    failures: list[Failure] = []
    sends = Sends(images_as, image_pixels)
    streak = Streak(max(STREAK, 3 * concurrency))

    async def ask(work: tuple[Sample, str]) -> None:
        sample, variant = work
        try:
            streak.check()
            kind, guard = prompting.get(variant, BARE), guards.get(variant)
            asker = _Asker(sample, data_dir, caller, variants, variant, settings, sends)
            response = await _answer(asker, variant, kind, guard)
        except Unavailable as error:
            streak.length += 1
            failures.append(Failure(sample.id, variant, str(error)))
        except ImageError as error:
            failures.append(Failure(sample.id, variant, str(error)))
        else:
            streak.length = 0
            receive(response.model_copy(update={"key": key(sample, variant)}))

    missing = [(sample, variant) for sample in samples for variant in variants if wanted(sample, variant)]
    await work_through(missing, ask, concurrency)
    return failures


async def keeps_seed(
    answers: Sequence[Response],
    samples: Sequence[Sample],
    data_dir: Path,
    caller: Caller,
    variants: Mapping[str, str],
    settings: GenerationSettings,
    images_as: ImagesAs = ImagesAs.BASE64,
    image_pixels: int = IMAGE_PIXELS,
    prompting: Mapping[str, Prompting] = NO_PROMPTS,
) -> bool:
    """Whether the longest answer is given again to the same request; also true if nothing is drawn or the server fails.

    One call, and only at a temperature above 0. Equal answers prove nothing: any seed draws what is likely enough.
    """
    answers = [one for one in answers if one.finish_reason != "content_filter" and not one.steps]
    if not answers or settings.temperature == 0 or turned_down(caller.left_out):
        return True
    sends = Sends(images_as, image_pixels)
    first = max(answers, key=lambda one: len(one.thought) + len(one.text))
    sample = next(sample for sample in samples if sample.id == first.sample_id)
    try:
        asker = _Asker(sample, data_dir, caller, variants, first.variant, settings, sends)
        again = await _answer(asker, first.variant, prompting.get(first.variant, BARE), None)
    except ClientError:
        return True
    return (again.thought, again.text) == (first.thought, first.text)


class ServedEngine(CheckedEngine):
    """Served models by variant, whose answers are streamed.

    Args:
        models: where each variant is asked (``read_served``).
        silence: seconds without a word after which a server is given up.
        image_pixels: most pixels of an image that is sent; larger ones are scaled down, which their columns say.
    """

    def __init__(
        self, models: Mapping[str, Served], *, silence: float = SILENCE, image_pixels: int = IMAGE_PIXELS
    ) -> None:
        self.models = dict(models)
        self.variants = tuple(models)
        self._silence, self._pixels = silence, image_pixels
        self._left_out: dict[str, set[str]] = {served.url: set() for served in models.values()}

    def _stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
        system: str,
    ) -> Iterator[tuple[Column, ...]]:
        started = time.perf_counter()
        asked = messages([data_url(pack(image, self._pixels)) for image in images], question, system)
        larger = sum(image.width * image.height > self._pixels for image in images)
        said = scaled_in_words(larger, self._pixels)
        columns = {name: Column(name, "", 0, 0.0, None, "chunks") for name in variants}
        changed = asyncio.Event()

        def receive(column: Column) -> None:
            columns[column.variant] = replace(column, seconds=time.perf_counter() - started)
            changed.set()

        with asyncio.Runner() as runner:
            tasks = [
                runner.get_loop().create_task(self._ask(columns[name], asked, said, settings, receive))
                for name in variants
            ]
            while any(column.finish_reason is None for column in columns.values()):
                runner.run(_tick(changed))
                for task in tasks:
                    if task.done():
                        task.result()  # raises unexpected errors
                for name, column in columns.items():
                    if column.finish_reason is None:
                        over = "cancelled" if stop.is_set() else None
                        columns[name] = replace(column, seconds=time.perf_counter() - started, finish_reason=over)
                yield tuple(columns.values())

    async def _ask(
        self, column: Column, asked: Any, said: str, settings: GenerationSettings, receive: Callable[[Column], None]
    ) -> None:
        """Pass a column to ``receive`` as it grows, at last with its finish reason and with what was ``said`` of it."""
        served = self.models[column.variant]
        answer, reason, why = _StreamedAnswer(column), "failed", ""
        optional = {
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stream_options": {"include_usage": True},
        }
        async with open_client(served.url, retries=0, timeout=openai.Timeout(self._silence, connect=CONNECT)) as client:
            caller = Caller(client, self._left_out[served.url])
            try:
                async with await caller.begin_chat(
                    served.model, asked, settings.max_new_tokens, optional, stream=True, **_needed(settings)
                ) as stream:
                    async for chunk in stream:
                        receive(answer.grow(chunk))
                if answer.heard:
                    reason = answer.finish_reason or "unknown"
                else:
                    why = (
                        f"{served.url} sent no answer; expected a stream of chunks: "
                        "is this an OpenAI-compatible URL, as http://localhost:8000/v1?"
                    )
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
            except OddReply as error:
                why = str(error)
            except (ValueError, RecursionError) as error:
                why = f"the server's stream is no chat completion: {' '.join(str(error).split())[:200]}"
            if not why:
                lacks = in_words("the server", turned_down(caller.left_out), settings.temperature)
                why = "; ".join(filter(None, (said, *lacks)))
            receive(replace(answer.column_so_far(), finish_reason=reason, told=why))

    def _late(self, served: Served) -> str:
        return (
            f"no answer from {served.host}: no connection within {CONNECT:g} seconds, "
            f"or no word within {self._silence:g}; does the server run, and has it loaded the model?"
        )


def messages(
    urls: Sequence[str], question: str, system: str = "", history: Sequence[Past] = ()
) -> list[dict[str, Any]]:
    """The turn that asks ``question`` about its images, which precede it; a system turn and the history before it.

    ``urls`` are those of all turns, in order.
    """

    def plain(text: str) -> str:
        return as_plain_text(text, KNOWN_SPECIAL_TOKENS)

    turns, left = [{"role": "system", "content": plain(system)}] if system else [], list(urls)
    for past in history:
        turns.append(image_message(left[: past.images], plain(past.question)))
        turns.append({"role": "assistant", "content": plain(past.answer)})
        left = left[past.images :]
    return [*turns, image_message(left, plain(question))]


def _needed(settings: GenerationSettings) -> dict[str, Any]:
    """What no server may leave out: variables of the chat template, where there are any."""
    variables = settings.chat_template_kwargs
    return {"extra_body": {"chat_template_kwargs": variables}} if variables else {}


def _served(name: str, target: str, url: str) -> Served:
    if "://" in target:
        own, _, model = target.partition("#")
        if not model:
            raise SettingsError(f"--models {name}: expected the model's name behind the address, as {name}=URL#MODEL")
        return Served(own, model)
    if not url:
        raise SettingsError(f"--models {name}: expected --server URL beside it, or {name}=URL#MODEL")
    return Served(url, target)


class _Asker(NamedTuple):
    """Asks one served model about one sample."""

    sample: Sample
    data_dir: Path
    caller: Caller
    models: Mapping[str, str]
    variant: str
    settings: GenerationSettings
    sends: Sends

    async def urls(self) -> list[str]:
        files = [self.data_dir / name for name in self.sample.images]
        return await asyncio.to_thread(lambda: [_url(file, self.sends) for file in files])

    async def say(self, urls: Sequence[str], one: Ask) -> Said:
        settings = self.settings
        optional: dict[str, Any] = {"temperature": settings.temperature, "seed": settings.seed_for(self.sample.id)}
        asked = messages(one.shown(urls), one.question, one.system, one.before)
        try:
            model = self.models[one.by or self.variant]
            reply = await self.caller.chat(model, asked, settings.max_new_tokens, optional, **_needed(settings))
            found = completion_of(reply)
        except CannotAnswer:  # the server's filter, not the model
            return Said("", 0, "content_filter")
        said = found.refusal or found.text
        return Said(said.strip(), found.completion_tokens, found.finish_reason, found.thought.strip())


async def _answer(asker: _Asker, variant: str, prompting: Prompting, guard: ServedGuard | None) -> Response:
    started, sample = time.perf_counter(), asker.sample
    urls = await asker.urls()

    async def ask(one: Ask) -> Said:
        return await asker.say(urls, one)

    async def check(one: Check) -> Ruled:
        if guard is None:
            raise SettingsError(f"defence: expected a guard for {prompting.defence}, found none")
        return await guard(sample, one)

    found = await answer_alone(converse(prompting, sample), ask, check)
    return response_of(sample.id, variant, found, round(time.perf_counter() - started, 4))


def _url(path: Path, sends: Sends) -> str:
    """An image's URL for the server."""
    content = whole_file(path)
    if sends.images_as is ImagesAs.FILE:
        return path.resolve().as_uri()
    return data_url(to_send(content, sends.image_pixels))


async def _tick(changed: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), TICK)
    changed.clear()


@dataclass
class _StreamedAnswer:
    """The answer of one served variant as it grows."""

    column: Column
    thought: str = ""  # what the server's reasoning parser took out of the text
    said: str = ""
    chunks: int = 0
    tokens: int = 0
    finish_reason: str | None = None
    heard: bool = False

    def grow(self, chunk: ChatCompletionChunk) -> Column:
        """Take one more chunk; a server may leave anything out.

        Raises:
            ValueError: the chunk has another form.
        """
        check_chunk(chunk)
        if chunk.usage and chunk.usage.completion_tokens:
            self.tokens = chunk.usage.completion_tokens
        for choice in (chunk.choices or [])[:1]:
            self.heard, self.finish_reason = True, choice.finish_reason or self.finish_reason
            delta = choice.delta
            if delta is None:
                continue
            thought = thought_of(delta)
            said = delta.content or delta.refusal or ""
            self.thought, self.said = self.thought + thought, self.said + said
            self.chunks += bool(thought or said)
        return self.column_so_far()

    def column_so_far(self) -> Column:
        """The answer so far, without a finish reason; in tokens if the server has reported them."""
        text = written(self.thought.strip(), self.said, self.finish_reason)
        counted = (self.tokens, "tokens") if self.tokens else (self.chunks, "chunks")
        return replace(self.column, text=whole_characters(text.strip()), tokens=counted[0], unit=counted[1])
