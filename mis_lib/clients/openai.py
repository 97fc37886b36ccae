"""Calls to a server that speaks the OpenAI API, and what it answers to them: whatever is asked of one goes through a ``Caller``.

The ``openai`` client does the talking: bounded time, retries with growing pauses where the server is busy, failing or out of reach, the pause
that the server asks for. What it does not know is here: a parameter that a server does not know is left out from then on, and what can go wrong
is sorted into what is final, what may be tried again, and what ends the run. The key comes from ``OPENAI_API_KEY`` alone.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion

from mis_lib.clients.protocol import CannotAnswer, TeacherError, Unavailable
from mis_lib.clients.structured import Completion
from mis_lib.errors import SettingsError
from mis_lib.teachers.address import check_address
from mis_lib.teachers.complaints import in_short, told, without_key

RETRIES = 5
TIMEOUT = 300.0  # seconds for one call: a 72 B model under load takes its time
# Error codes by which servers say that the content, not the form of the request, is the problem.
# data_inspection_failed is Alibaba's, which serves Qwen; invalid_prompt is that of OpenAI's models that reason.
CONTENT_CODES = frozenset(
    ["content_policy_violation", "content_filter", "moderation_blocked", "safety_violations", "data_inspection_failed", "invalid_prompt"]
)  # fmt: skip
LISTING = 10.0  # seconds for the list of a server's models
SHOWN = 10  # models that a message lists
LIMIT = "max_completion_tokens"  # Mistral, LMDeploy and older vLLM know the name of before, max_tokens, alone
OPTIONAL = ("response_format", "seed", "temperature", LIMIT)

T = TypeVar("T")


class Caller:
    """Sends calls, leaving out optional parameters that the server has turned down, and sorts what can go wrong."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client
        self.left_out: set[str] = set()
        """Optional parameters that the server has turned down."""
        self._models: asyncio.Task[list[str]] | None = None

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

        reply = await self.call(send, {LIMIT: max_tokens, **optional}, model)
        choices = reply.choices if isinstance(reply, ChatCompletion) else None
        message = choices[0].message if choices else None  # the client checks no types: a server may leave it out
        if message is None or not isinstance(message.content, str | None):
            raise Unavailable(
                f"expected a chat completion with text, found {str(reply)[:80]!r}; is this an OpenAI-compatible URL?"
            )
        return reply

    async def call(self, send: Callable[[dict[str, Any]], Awaitable[T]], optional: dict[str, Any], model: str) -> T:
        """What ``send`` returns; called anew without a parameter that the server does not know.

        Args:
            send: makes the call with the parameters that it is given.
            optional: parameters that may be left out.
            model: that is asked; where the server fails or does not find something, it is told whether the server has it.

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
                    f"{self.client.base_url}: {in_short(error)}{await self._unless_served(model)}; check the URL, the model's name and OPENAI_API_KEY"
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
                raise Unavailable(f"the server failed: {in_short(error)}{await self._unless_served(model)}") from error
            except json.JSONDecodeError as error:  # half a reply: a proxy or the server broke off
                failure = str(error)
        raise Unavailable(f"the server's replies were no JSON: {failure}")

    async def _unless_served(self, model: str) -> str:
        """What to add to a failure where the server does not list the model: ``transformers serve`` answers a wrong name with a bare HTTP 500."""
        if self._models is None:  # one question for all calls that fail, of which many are under way
            self._models = asyncio.create_task(self._listed())
        names = await asyncio.shield(self._models)
        if not names or model in names:
            return ""
        shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
        return without_key(f"; {model!r} is none of the models that it lists: {shown}")

    async def _listed(self) -> list[str]:
        """Names of the server's models; none where it does not tell them."""
        try:
            # uvicorn closes the connection behind a bare 500, which is found out by using it: one try more
            client = self.client.with_options(max_retries=1, timeout=LISTING)
            # not models.list(), which trips over a page of words
            reply: Any = await client.get("/models", cast_to=object)
            return sorted(str(model["id"]) for model in reply["data"])
        except (openai.APIError, ValueError, KeyError, TypeError):
            return []  # it is not what failed: nothing is to be said about it


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
