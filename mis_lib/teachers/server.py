"""Teachers behind a server that speaks the OpenAI API: vLLM, SGLang, ``transformers serve``, OpenAI itself, and their image endpoints.

The ``openai`` client does the talking: bounded time, retries with growing pauses where the server is busy, failing or out of reach, the pause
that the server asks for. What it does not know is here: every answer goes through the cache before it is looked at (a refusal and a
broken answer have been paid for too), and a parameter that a server does not know is left out from then on. The key comes from
``OPENAI_API_KEY`` alone.
"""

import base64
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import openai
from openai.types import ImagesResponse
from openai.types.chat import ChatCompletion

from mis_lib.errors import ImageError, SettingsError
from mis_lib.teachers.address import check_address
from mis_lib.teachers.answers import Completion, Turn, answer, schema_of
from mis_lib.teachers.cache import Cache
from mis_lib.teachers.complaints import in_short, told
from mis_lib.teachers.pictures import as_png, media_type
from mis_lib.teachers.protocol import (
    CannotAnswer,
    ChatAsk,
    ChatReply,
    Cost,
    ImageAsk,
    ImageReply,
    TeacherError,
    Unavailable,
)

RETRIES = 5
TIMEOUT = 300.0  # seconds for one call: a 72 B model under load takes its time
IMAGE_SIZE = "1024x1024"
# Error codes by which servers say that the content, not the form of the request, is the problem.
# data_inspection_failed is Alibaba's, which serves Qwen; invalid_prompt is that of OpenAI's models that reason.
CONTENT_CODES = frozenset(
    ["content_policy_violation", "content_filter", "moderation_blocked", "safety_violations", "data_inspection_failed", "invalid_prompt"]
)  # fmt: skip
LIMIT = "max_completion_tokens"  # Mistral, LMDeploy and older vLLM know the name of before, max_tokens, alone
OPTIONAL = ("response_format", "seed", "temperature", LIMIT)

T = TypeVar("T")


class ServerChat:
    """A chat model behind a server."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, cache: Cache) -> None:
        self.name = f"server:{model}"
        self._caller, self._model, self._cache = Caller(client), model, cache

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """Answer one question; raises as ``ChatTeacher.ask``."""

        async def complete(turns: list[Turn]) -> Completion:
            question = {
                "teacher": self.name,
                "turns": [turn.model_dump() for turn in turns],
                "asked": [ask.digest, ask.temperature, ask.seed, ask.max_tokens],
            }
            return Completion.model_validate(await self._cache.once(question, lambda: self._pay(ask, turns)))

        return await answer(ask, complete)

    async def _pay(self, ask: ChatAsk, turns: list[Turn]) -> dict[str, Any]:
        optional = {"response_format": _schema(ask), "seed": ask.seed, "temperature": ask.temperature}
        reply = await self._caller.chat(self._model, _messages(ask, turns), ask.max_tokens, optional)
        return completion_of(reply).model_dump()


class ServerImages:
    """An image model behind a server (``/images/generations``)."""

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
        client = self._caller.client
        try:
            reply = await self._caller.call(
                lambda optional: client.images.generate(
                    model=self._model,
                    prompt=ask.prompt,
                    n=1,
                    size=IMAGE_SIZE,
                    **optional,  # pyright: ignore[reportArgumentType]
                ),
                {"response_format": "b64_json"},
            )
        except CannotAnswer as error:
            return {"image": "", "refusal": error.reason, "prompt_tokens": 0, "completion_tokens": 0}
        data = reply.data[0] if isinstance(reply, ImagesResponse) and reply.data else None
        if data is None or not data.b64_json:
            raise Unavailable("expected an image as b64_json; a server that gives links instead cannot be used")
        usage = reply.usage
        return {
            "image": data.b64_json,
            "refusal": "",
            "prompt_tokens": usage.input_tokens if usage else 0,
            "completion_tokens": usage.output_tokens if usage else 0,
        }


class Caller:
    """Sends calls, leaving out optional parameters that the server has turned down, and sorts what can go wrong."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client
        self.left_out: set[str] = set()
        """Optional parameters that the server has turned down."""

    async def chat(
        self, model: str, messages: Any, max_tokens: int, optional: dict[str, Any], **needed: Any
    ) -> ChatCompletion:
        """One chat completion with a message in text; ``optional`` parameters are left out where the server does not know them, and the limit goes by its older name.

        Raises:
            Unavailable: the reply has no text; and as ``call``.
        """
        client = self.client

        def send(known: dict[str, Any]) -> Awaitable[Any]:
            limit: dict[str, Any] = {} if LIMIT in known else {"max_tokens": max_tokens}
            return client.chat.completions.create(model=model, messages=messages, **needed, **known, **limit)

        reply = await self.call(send, {LIMIT: max_tokens, **optional})
        choices = reply.choices if isinstance(reply, ChatCompletion) else None
        message = choices[0].message if choices else None  # the client checks no types: a server may leave it out
        if message is None or not isinstance(message.content, str | None):
            raise Unavailable(
                f"expected a chat completion with text, found {str(reply)[:80]!r}; is this an OpenAI-compatible URL?"
            )
        return reply

    async def call(self, send: Callable[[dict[str, Any]], Awaitable[T]], optional: dict[str, Any]) -> T:
        """What ``send`` returns; called anew without a parameter that the server does not know.

        Raises:
            CannotAnswer: the server turned the content down.
            Unavailable: it failed, was busy or out of reach after all retries, turned the request down, or sent no JSON.
            TeacherError: it does not know the key or the model.
        """
        failure = ""
        for _ in range(self.client.max_retries + len(OPTIONAL) + 1):
            known = {name: value for name, value in optional.items() if name not in self.left_out}
            try:
                return await send(known)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if error.code in CONTENT_CODES:
                    raise CannotAnswer("refused", f"the server turned the content down: {in_short(error)}") from error
                turned_down = [name for name in known if re.search(rf"\b{name}\b", told(error))]
                if not turned_down:
                    raise Unavailable(f"the server turned the request down: {in_short(error)}") from error
                self.left_out.update(turned_down)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise TeacherError(
                    f"{self.client.base_url}: {in_short(error)}; check the URL, the model's name and OPENAI_API_KEY"
                ) from error
            except openai.APITimeoutError as error:
                raise Unavailable(
                    f"the server failed: no answer within {self.client.timeout} seconds; let fewer calls wait there at a time "
                    "(--concurrency) or each for longer (--set timeout=SECONDS)"
                ) from error
            except openai.APIConnectionError as error:
                raise Unavailable(
                    f"the server failed: nothing answers at {self.client.base_url}; does it run?"
                ) from error
            except openai.APIError as error:  # busy or failing, after all retries
                raise Unavailable(f"the server failed: {in_short(error)}") from error
            except json.JSONDecodeError as error:  # half a reply: a proxy or the server broke off
                failure = str(error)
        raise Unavailable(f"the server's replies were no JSON: {failure}")


def completion_of(reply: ChatCompletion) -> Completion:
    """What a server sent, as every teacher's answer is read."""
    choice, usage = reply.choices[0], reply.usage
    return Completion(
        text=choice.message.content or "",
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=(usage.prompt_tokens or 0) if usage else 0,
        completion_tokens=(usage.completion_tokens or 0) if usage else 0,
    )


def open_client(url: str, *, retries: int = RETRIES, timeout: float | openai.Timeout = TIMEOUT) -> openai.AsyncOpenAI:
    """A client for one server; the key is that of ``OPENAI_API_KEY``, which servers on one's own machine do not need.

    Raises:
        SettingsError: as ``check_address``.
    """
    check_address(url)
    key = os.environ.get("OPENAI_API_KEY") or "none"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)


async def only_model(client: openai.AsyncOpenAI) -> str:
    """The model of a server that has just one.

    Raises:
        SettingsError: it has none or several; the message lists them.
        TeacherError: the server cannot be asked.
    """
    try:
        models = [model.id async for model in client.models.list()]
    except openai.APIError as error:
        raise TeacherError(
            f"{client.base_url}: cannot be asked for its models ({in_short(error)}); check the URL"
        ) from error
    if len(models) != 1:
        shown = ", ".join(sorted(models)[:10]) or "none"
        raise SettingsError(f"{client.base_url}: expected one model, found {shown}; name one as URL#MODEL")
    return models[0]


def _messages(ask: ChatAsk, turns: list[Turn]) -> Any:
    """The turns as the API wants them; the images stand in the first question, before its text."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in ask.images]
    messages: list[dict[str, Any]] = [{"role": turn.role, "content": turn.text} for turn in turns]
    if pictures:
        messages[1]["content"] = [*pictures, {"type": "text", "text": turns[1].text}]
    return messages


def data_url(image: bytes) -> str:
    """A picture file as a URL that holds it."""
    return f"data:{media_type(image)};base64,{base64.b64encode(image).decode()}"


def _schema(ask: ChatAsk) -> dict[str, Any]:
    form = {"name": ask.task, "schema": schema_of(ask.form), "strict": True}
    return {"type": "json_schema", "json_schema": form}
