"""Clients of servers with the OpenAI API: vLLM, SGLang, ``transformers serve``, hosted chat and image models.

``Caller`` sends every request of the project. The ``openai`` client bounds the time of a call and retries it with
growing pauses where the server is busy, failing or out of reach. ``Caller`` adds two things. It leaves out a parameter
that the server has turned down. It sorts errors into final, temporary and fatal. The key comes from ``OPENAI_API_KEY``
alone.

Every answer goes through the cache before it is read: a refusal and a broken answer have been paid for too.
"""

import asyncio
import base64
import math
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types import ImagesResponse
from openai.types.chat import ChatCompletion

from mis_lib.clients.bounded import BoundedClient, OddReply
from mis_lib.clients.cache import Cache, ask_question, label_question, odds_question, older_label_question
from mis_lib.clients.images import as_png, data_url, is_larger, to_send
from mis_lib.clients.protocol import (
    LIKELY,
    CannotAnswer,
    ChatAsk,
    ChatReply,
    Classified,
    ClientError,
    Cost,
    ImageAsk,
    ImageReply,
    Labels,
    Message,
    Unavailable,
    digest_bytes,
)
from mis_lib.clients.replies import check_completion
from mis_lib.clients.structured import Completion, Turn, answer, place_of, ratio, schema_of, shares_of
from mis_lib.errors import ImageError, SettingsError
from mis_lib.settings import IMAGE_PIXELS

RETRIES = 5
TIMEOUT = 300.0  # seconds for one call: a 72 B model under load takes its time
LIMIT = "max_completion_tokens"  # Mistral, LMDeploy and older vLLM know only its older name, max_tokens
OPTIONAL = ("response_format", "seed", "temperature", "logprobs", "top_logprobs", LIMIT)
TOP = 20  # likeliest first words whose log-probabilities servers return
IMAGE_SIZE = "1024x1024"
# Error codes by which servers say that the content, not the form of the request, is the problem.
# data_inspection_failed is Alibaba's, which serves Qwen; invalid_prompt is that of OpenAI's reasoning models.
CONTENT_CODES = frozenset(
    [
        "content_policy_violation",
        "content_filter",
        "moderation_blocked",
        "safety_violations",
        "data_inspection_failed",
        "invalid_prompt",
    ]
)
SHORTEST_KEY = 8  # characters; local servers take any word for a key, and a short word may be part of their messages
TOO_LARGE = 413  # HTTP status
TURNED_DOWN, NOT_KEPT = "turned down", "not kept to"
SAMPLING = ("temperature", "seed")

T = TypeVar("T")


class ServerChat:
    """A chat model on a server: a ``ChatModel``, and a ``PlainChatModel``.

    Args:
        client: of the server.
        model: its name there.
        cache: keeps the answers, and counts the images that were scaled down.
        image_pixels: most pixels of an image that is sent; larger ones are scaled down.
    """

    def __init__(self, client: openai.AsyncOpenAI, model: str, cache: Cache, image_pixels: int = IMAGE_PIXELS) -> None:
        self.name = f"server:{model}"
        self._pixels = image_pixels
        self._caller, self._model, self._cache = Caller(client), model, cache

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """See ``ChatModel``."""

        async def complete(turns: list[Turn]) -> Completion:
            messages: list[Any] = [turn.message for turn in turns]
            form = {"name": ask.task, "schema": schema_of(ask.form), "strict": True}
            optional = {
                "response_format": {"type": "json_schema", "json_schema": form},
                "seed": ask.seed,
                "temperature": ask.temperature,
            }

            async def pay() -> dict[str, Any]:
                if ask.images:
                    messages[1] = image_message(await self._urls(ask.images), turns[1].text)
                reply = await self._caller.chat(self._model, messages, ask.max_tokens, optional)
                self._cache.note(self.name, turned_down(self._caller.left_out))
                return completion_of(reply).model_dump()

            question = ask_question(self.name, ask, turns) | self._scaled(ask.images)
            return Completion.model_validate(await self._cache.once(question, pay))

        return await answer(ask, complete)

    async def classify(
        self, messages: Sequence[Message], max_tokens: int, labels: Labels, images: Sequence[bytes] = ()
    ) -> Classified:
        """See ``PlainChatModel``; a server that tells no token probabilities gives the answer alone.

        So do answers that were paid for before probabilities were asked for; they are not paid for again.
        """

        async def pay() -> dict[str, Any]:
            optional = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP}
            sent: list[Any] = list(messages)
            if images:
                first = next(place for place, one in enumerate(sent) if one["role"] == "user")
                sent[first] = image_message(await self._urls(images), sent[first]["content"])
            reply = await self._caller.chat(self._model, sent, max_tokens, optional)
            self._cache.note(self.name, turned_down(self._caller.left_out))
            returned = reply.choices[0].logprobs
            tokens = (returned.content if returned else None) or []
            place = place_of(labels, [one.token for one in tokens])
            likely = [] if place is None else tokens[place].top_logprobs
            shares = shares_of(labels.words, [(one.token, math.exp(one.logprob)) for one in likely])
            return {**completion_of(reply).model_dump(), "odds": shares if likely else {}}

        asked = (self.name, messages, max_tokens, labels)
        question = label_question(*asked, images) | self._scaled(images)
        older = None if images else older_label_question(*asked)
        found = await self._cache.once(question, pay, older)
        if found.get("refusal") or found.get("finish_reason") == "content_filter":
            raise CannotAnswer("refused", f"the server's filter answered: {found.get('refusal') or found['text']}")
        odds = found.get("odds", {})
        shares = odds if isinstance(odds, Mapping) else shares_of(labels.words, odds)
        return Classified(found.get("text", ""), shares)

    async def odds_of_yes(self, question: str, images: Sequence[bytes], least: float = LIKELY) -> float:
        """See ``PlainChatModel``."""

        async def pay() -> dict[str, Any]:
            messages = [image_message(await self._urls(images), question)]
            reply = await self._caller.chat(
                self._model, messages, 1, {"temperature": 0.0}, logprobs=True, top_logprobs=TOP
            )
            returned = reply.choices[0].logprobs
            if returned is None or not returned.content:
                raise Unavailable(f"{self.name} gives no token probabilities (logprobs); serve it with them")
            return {"odds": [[one.token, math.exp(one.logprob)] for one in returned.content[0].top_logprobs]}

        asked = odds_question(self.name, question, images) | self._scaled(images)
        found = await self._cache.once(asked, pay)
        return ratio(found["odds"], self.name, least)

    def _scaled(self, images: Sequence[bytes]) -> dict[str, int]:
        """What the answer's key has in addition if an image is scaled down."""
        larger = {digest_bytes(image) for image in images if is_larger(image, self._pixels)}
        self._cache.scaled |= larger
        return {"image_pixels": self._pixels} if larger else {}

    async def _urls(self, images: Sequence[bytes]) -> list[str]:
        return await asyncio.to_thread(lambda: [data_url(to_send(image, self._pixels)) for image in images])


class ServerImages:
    """An image model on a server (``/images/generations``)."""

    vocabulary = None

    def __init__(self, client: openai.AsyncOpenAI, model: str, cache: Cache) -> None:
        self.name = f"server:{model}"
        self._caller, self._model, self._cache = Caller(client), model, cache

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Make one picture; raises as ``ImageMaker.make``."""
        question = {"maker": self.name, "prompt": ask.prompt, "seed": ask.seed, "size": IMAGE_SIZE}
        made = await self._cache.once(question, lambda: self._pay(ask))
        cost = Cost(calls=1, prompt_tokens=made["prompt_tokens"], completion_tokens=made["completion_tokens"])
        if made["refusal"]:
            raise CannotAnswer("refused", f"the image maker refused: {made['refusal']}", cost)
        try:
            return ImageReply(as_png(base64.b64decode(made["image"])), cost)
        except (ImageError, ValueError) as error:
            raise CannotAnswer("unusable", f"the image maker's picture cannot be used: {error}", cost) from error

    async def _pay(self, ask: ImageAsk) -> dict[str, Any]:
        images = self._caller.client.images

        def send(known: dict[str, Any]) -> Awaitable[Any]:
            # extra_body: a seed is a parameter of servers of diffusion models, not of OpenAI's API
            return images.generate(model=self._model, prompt=ask.prompt, n=1, size=IMAGE_SIZE, extra_body=known)

        try:
            reply = await self._caller.call(send, {"response_format": "b64_json", "seed": ask.seed}, self._model)
        except CannotAnswer as error:
            return {"image": "", "refusal": error.reason, "prompt_tokens": 0, "completion_tokens": 0}
        self._cache.note(self.name, turned_down(self._caller.left_out))
        data = reply.data[0] if isinstance(reply, ImagesResponse) and reply.data else None
        if data is None or not isinstance(data.b64_json, str) or not data.b64_json:
            raise Unavailable("expected an image as b64_json; a server that gives links instead cannot be used")
        usage = reply.usage
        return {
            "image": data.b64_json,
            "refusal": "",
            "prompt_tokens": usage.input_tokens if usage else 0,
            "completion_tokens": usage.output_tokens if usage else 0,
        }


def image_message(urls: Sequence[str], text: str) -> dict[str, Any]:
    """The user message that shows the images at ``urls``, in order, and then asks ``text``."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def completion_of(reply: ChatCompletion) -> Completion:
    """A server's reply in the form that replies of all clients have."""
    choice, usage = reply.choices[0], reply.usage
    return Completion(
        text=choice.message.content or "",
        thought=thought_of(choice.message),
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=(usage.prompt_tokens or 0) if usage else 0,
        completion_tokens=(usage.completion_tokens or 0) if usage else 0,
    )


def thought_of(message: Any) -> str:
    """The part of a message, or of a piece of a stream, that a reasoning parser took out; servers name it two ways."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""


class Caller:
    """Sends requests without the optional parameters that the server has turned down, and sorts its errors."""

    LISTING = 10.0  # seconds for the list of a server's models
    SHOWN = 10  # models that a message lists

    def __init__(self, client: openai.AsyncOpenAI, left_out: set[str] | None = None) -> None:
        self.client = client
        self.left_out = set() if left_out is None else left_out
        """Optional parameters that the server has turned down."""
        self._models: asyncio.Task[list[str]] | None = None

    async def chat(
        self, model: str, messages: Any, max_tokens: int, optional: dict[str, Any], **needed: Any
    ) -> ChatCompletion:
        """One chat completion with a message in text; takes arguments as ``begin_chat``.

        Raises:
            Unavailable: the reply has no text; and as ``call``.
        """
        reply = await self.begin_chat(model, messages, max_tokens, optional, **needed)
        try:
            check_completion(reply)  # the client checks no types: a server may send anything
        except ValueError as error:
            raise Unavailable(
                f"expected a chat completion with text, found {str(reply)[:80]!r}; is this an OpenAI-compatible URL?"
            ) from error
        return reply

    async def begin_chat(
        self, model: str, messages: Any, max_tokens: int, optional: dict[str, Any], **needed: Any
    ) -> Any:
        """What the server answers to a chat request: a completion, or a stream of chunks if ``stream=True``.

        Args:
            model: its name at the server.
            messages: in the form of the API.
            max_tokens: longest answer; sent under its older name where the server does not know the new one.
            optional: parameters that are left out where the server does not know them.
            needed: parameters without which the answer is of no use.

        Raises:
            ClientError: as ``call``.
        """
        client = self.client

        def send(known: dict[str, Any]) -> Awaitable[Any]:
            limit: dict[str, Any] = {} if LIMIT in known else {"max_tokens": max_tokens}
            return client.chat.completions.create(model=model, messages=messages, **needed, **known, **limit)

        return await self.call(send, {LIMIT: max_tokens, **optional}, model)

    async def call(self, send: Callable[[dict[str, Any]], Awaitable[T]], optional: dict[str, Any], model: str) -> T:
        """What ``send`` returns; it is called again without a parameter that the server does not know.

        Args:
            send: makes the call with the parameters that it is given.
            optional: parameters that may be left out.
            model: its name; the message of a failure says whether the server lists it.

        Raises:
            CannotAnswer: the server turned the content down.
            Unavailable: it failed, was busy or out of reach after all retries, turned the request down, or sent no
                JSON.
            ClientError: it does not know the key or the model.
        """
        failure = ""
        for _ in range(self.client.max_retries + len(OPTIONAL) + 1):
            known = {name: value for name, value in optional.items() if name not in self.left_out}
            try:
                return await send(known)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if str(error.code) in CONTENT_CODES:
                    raise CannotAnswer("refused", f"the server turned the content down: {in_short(error)}") from error
                unknown = [name for name in known if re.search(rf"\b{name}\b", reported(error))]
                if not unknown:
                    raise Unavailable(f"the server turned the request down: {in_short(error)}") from error
                self.left_out.update(unknown)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise ClientError(
                    f"{self.client.base_url}: {in_short(error)}{await self._unless_served(model)}; "
                    "check the URL, the model's name and OPENAI_API_KEY"
                ) from error
            except openai.APITimeoutError as error:
                raise Unavailable(
                    f"the server failed: no answer within {self.client.timeout} seconds; let fewer calls wait there at "
                    "a time (--concurrency) or each for longer (--set timeout=SECONDS)"
                ) from error
            except openai.APIConnectionError as error:
                raise Unavailable(
                    f"the server failed: nothing answers at {self.client.base_url}; does it run?"
                ) from error
            except openai.APIStatusError as error:
                if error.status_code == TOO_LARGE:
                    raise Unavailable(_too_large(error.request.content)) from error
                raise Unavailable(f"the server failed: {in_short(error)}{await self._unless_served(model)}") from error
            except openai.APIError as error:  # busy or failing, after all retries
                raise Unavailable(f"the server failed: {in_short(error)}{await self._unless_served(model)}") from error
            except OddReply as error:
                raise Unavailable(str(error)) from error
            except UnicodeEncodeError as error:
                raise Unavailable(f"the question cannot be sent: it holds half of a character ({error})") from error
            except ValueError as error:  # half a reply: a proxy or the server broke off
                failure = str(error)
        raise Unavailable(f"the server's replies were no JSON: {failure}")

    async def _unless_served(self, model: str) -> str:
        """What to add to a failure where the server does not list the model.

        ``transformers serve`` answers a wrong name with a bare HTTP 500.
        """
        if self._models is None:  # one question for all calls that fail, of which many are under way
            self._models = asyncio.create_task(self._listed())
        names = await asyncio.shield(self._models)
        if not names or model in names:
            return ""
        shown = ", ".join(names[: self.SHOWN]) + (" ..." if len(names) > self.SHOWN else "")
        return without_key(f"; {model!r} is none of the models that it lists: {shown}")

    async def _listed(self) -> list[str]:
        """Names of the server's models; empty if it does not list them."""
        try:
            # uvicorn closes the connection after a bare 500, which only its next use shows: one retry more
            client = self.client.with_options(max_retries=1, timeout=self.LISTING)
            # not models.list(), which fails on a page of words
            reply: Any = await client.get("/models", cast_to=object)
            return sorted(str(model["id"]) for model in reply["data"])
        except (openai.APIError, ValueError, LookupError, TypeError):
            return []  # the list is not what failed: the message says nothing about it


def open_client(url: str, *, retries: int = RETRIES, timeout: float | openai.Timeout = TIMEOUT) -> openai.AsyncOpenAI:
    """A client for one server, with the key of ``OPENAI_API_KEY``; local servers need none.

    Raises:
        SettingsError: as ``check_address``.
    """
    check_address(url)
    key = os.environ.get("OPENAI_API_KEY") or "none"
    bounded = BoundedClient(timeout=timeout)
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout, http_client=bounded)


async def open_model(
    target: str, *, retries: int = RETRIES, timeout: float = TIMEOUT
) -> tuple[openai.AsyncOpenAI, str]:
    """The client and the model of ``URL#MODEL``, or of ``URL`` if the server has just one model.

    Raises:
        SettingsError: the address is none, or the model is not named and the server has none or several.
        ClientError: the server cannot be asked.
    """
    url, _, model = target.partition("#")
    client = open_client(url, retries=retries, timeout=timeout)
    return client, model or await only_model(client)


def is_url(name: str) -> bool:
    """Whether a model's name is the address of a server."""
    return name.startswith(("http://", "https://"))


def check_address(url: str) -> None:
    """Refuse what is no server's address, or one that must not be shown and stored.

    Raises:
        SettingsError: the address is none, or carries a password or a query.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        raise SettingsError(
            f"{parts.scheme}://{parts.hostname}: expected a server's address without password or query, "
            "since run folders and pages tell it; a key goes into OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"expected a server's address such as http://localhost:8000/v1, found {url!r}")


async def only_model(client: openai.AsyncOpenAI) -> str:
    """The model of a server that has just one.

    Raises:
        SettingsError: it has none or several; the message lists them.
        ClientError: the server cannot be asked.
    """
    try:
        # not models.list(), which fails on a page of words
        reply: Any = await client.get("/models", cast_to=object)
        models = [str(model["id"]) for model in reply["data"]]
    except (openai.APIError, ValueError, LookupError, TypeError) as error:
        why = in_short(error) if isinstance(error, openai.APIError) else f"{type(error).__name__}: {error}"[:200]
        raise ClientError(f"{client.base_url}: cannot be asked for its models ({why}); check the URL") from error
    if len(models) != 1:
        shown = ", ".join(sorted(models)[:10]) or "none"
        raise SettingsError(f"{client.base_url}: expected one model, found {shown}; name one as URL#MODEL")
    return models[0]


def reported(error: openai.APIError) -> str:
    """The client's words and the server's, without the key, which some servers repeat.

    The ``openai`` client quotes only OpenAI's ``error.message``; FastAPI, and so many a server, puts it elsewhere.
    """
    words = _complaint(error.body)
    return without_key(error.message if words in error.message else f"{error.message} - {words}")


def without_key(words: str) -> str:
    """The words with "(the key)" in place of the key."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return words.replace(key, "(the key)") if len(key) >= SHORTEST_KEY else words


def in_short(error: openai.APIError) -> str:
    """``reported`` in one line of at most 200 characters."""
    return " ".join(reported(error).split())[:200]


def turned_down(left_out: Collection[str]) -> dict[str, str]:
    """The sampling parameters among those that a server has turned down, as they are stored with answers.

    A server that takes no seed, or ignores it, gives another answer to each draw; one answer alone does not show that.
    """
    return {name: TURNED_DOWN for name in SAMPLING if name in left_out}


def in_words(who: str, lacks: Mapping[str, str], temperature: float | None = None) -> list[str]:
    """A sentence for each parameter that matters.

    Args:
        who: the server or its model.
        lacks: what ``turned_down`` stores; of a seed also ``NOT_KEPT``.
        temperature: that was asked for; a seed matters where something is drawn. ``None`` where several were.
    """
    said = []
    if "temperature" in lacks:
        wanted = "" if temperature is None else f", not with {temperature:g}"
        said.append(f"{who} takes no temperature: its answers are drawn as it likes{wanted}")
    if "seed" in lacks and (temperature != 0 or "temperature" in lacks):
        how = (
            "takes no seed: what it draws cannot be drawn again"
            if lacks["seed"] == TURNED_DOWN
            else "does not keep to the seed: the same request with the same seed was answered otherwise, "
            "so that what it draws cannot be drawn again"
        )
        said.append(f"{who} {how}")
    return said


def _too_large(body: bytes) -> str:
    """What is said of a request that a server, or a proxy in front of it, takes to be too large."""
    images = body.count(b'"image_url":{')
    way = "send smaller images (image_pixels, as in --set image_pixels=400000)" if images else "ask a shorter question"
    return (
        f"the server turned down a request of {len(body):,} bytes with {images} images as too large (HTTP 413); {way}, "
        "or raise the server's limit"
    )


def _complaint(body: Any) -> str:
    """OpenAI's ``message``, FastAPI's ``detail`` (a text, or a list of places and messages), or plain text."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_complaint, body)))
    if isinstance(body, dict):
        words = next(
            (found for name in ("message", "detail", "msg", "error") if (found := _complaint(body.get(name)))), ""
        )
        return ": ".join(
            filter(None, (".".join(map(str, loc if isinstance(loc := body.get("loc"), list) else ())), words))
        )
    return body if isinstance(body, str) else ""
