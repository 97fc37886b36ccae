"""Generation by a server that speaks the OpenAI API: vLLM, SGLang, ``transformers serve``, hosted models.

Every (sample, variant) is one request; a variant is a model name, so the adapters of a server with ``--enable-lora`` are variants like any other.
At most ``concurrency`` requests are under way, the ``openai`` client retries what is busy or failing, answers are handed over as they come. What a
server could not answer after all retries is no answer: it is told, and asked again by the next run. What its content filter turned down is
an answer that the model did not give (``finish_reason`` "content_filter").
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.clients.cache import Streak, work_through
from mis_lib.clients.images import data_url, encode, is_png_or_jpeg
from mis_lib.clients.openai import Caller, completion_of, image_message, turned_down
from mis_lib.clients.protocol import CannotAnswer, ClientError, Unavailable
from mis_lib.errors import ImageError
from mis_lib.files import load_image
from mis_lib.prompts import KNOWN_SPECIAL_TOKENS, as_plain_text
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings

CONCURRENCY = 16
STREAK = 20  # failures in a row after which a server is taken to be down


class ImagesAs(StrEnum):
    """How images reach the server: inside the request, or as paths that server and client both see."""

    BASE64 = "base64"
    FILE = "file"


class Failure(NamedTuple):
    """A request that got no answer this time, and why."""

    sample_id: str
    variant: str
    reason: str


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
    concurrency: int = CONCURRENCY,
) -> list[Failure]:
    """Ask for every wanted answer; hand each over as it comes, and return what failed.

    Args:
        samples: what is asked.
        data_dir: folder to which the samples' image paths are relative.
        caller: the server.
        variants: name of each variant and of the model that serves it.
        settings: length and sampling; each sample is drawn from a seed of its own.
        receive: takes an answer, called from the event loop.
        wanted: whether a variant's answer to a sample is missing.
        key: digest that an answer carries.
        images_as: inside the request, or as ``file://`` paths.
        concurrency: requests under way at a time.

    Raises:
        ImageError: an image is missing or damaged.
        ClientError: the server cannot be used at all, such as a wrong key or an unknown model.
    """
    failures: list[Failure] = []
    streak = Streak(max(STREAK, 3 * concurrency))

    async def ask(work: tuple[Sample, str]) -> None:
        sample, variant = work
        try:
            streak.check()
            response = await _answer(sample, data_dir, caller, variant, variants[variant], settings, images_as)
        except Unavailable as error:
            streak.length += 1
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
) -> bool:
    """Whether the longest of some answers is given again to the same request; ``True``, too, where nothing is drawn or the server cannot be asked.

    One call, and only where tokens are drawn. Equal answers prove nothing: what is likely enough is drawn by any seed.
    """
    answers = [one for one in answers if one.finish_reason != "content_filter"]
    if not answers or settings.temperature == 0 or turned_down(caller.left_out):
        return True
    first = max(answers, key=lambda one: len(one.text))
    sample = next(sample for sample in samples if sample.id == first.sample_id)
    try:
        again = await _answer(sample, data_dir, caller, first.variant, variants[first.variant], settings, images_as)
    except ClientError:
        return True
    return again.text == first.text


async def _answer(
    sample: Sample,
    data_dir: Path,
    caller: Caller,
    variant: str,
    model: str,
    settings: GenerationSettings,
    images_as: ImagesAs,
) -> Response:
    started = time.perf_counter()
    urls = await asyncio.to_thread(lambda: [_url(data_dir / name, images_as) for name in sample.images])
    optional: dict[str, Any] = {"temperature": settings.temperature, "seed": settings.seed_for(sample.id)}
    said, tokens, reason = "", 0, "content_filter"
    try:
        asked = messages(urls, sample.question)
        reply = completion_of(await caller.chat(model, asked, settings.max_new_tokens, optional))
        said, tokens, reason = reply.refusal or reply.text, reply.completion_tokens, reply.finish_reason
    except CannotAnswer:  # the server's filter, not the model
        pass
    return Response(
        sample_id=sample.id,
        variant=variant,
        text=said.strip(),
        tokens=tokens,
        seconds=round(time.perf_counter() - started, 4),
        finish_reason=reason,
    )


def messages(urls: Sequence[str], question: str) -> list[dict[str, Any]]:
    """The one turn that asks ``question`` about the images at ``urls``, which stand before it in their order."""
    return [image_message(urls, as_plain_text(question, KNOWN_SPECIAL_TOKENS))]


def _url(path: Path, images_as: ImagesAs) -> str:
    """Where the server finds an image; what is neither PNG nor JPEG is sent as PNG, since few servers read more."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: expected an image file, found: {error.strerror}; check the path") from error
    if images_as is ImagesAs.FILE:
        return path.resolve().as_uri()
    return data_url(content if is_png_or_jpeg(content) else encode(load_image(path)))
