"""Calls to a server that speaks the OpenAI API, and what it answers to them: whatever is asked of one goes through a ``Caller``.

The ``openai`` client does the talking: bounded time, retries with growing pauses where the server is busy, failing or out of reach, the pause
that the server asks for. What it does not know is here: a parameter that a server does not know is left out from then on, and what can go wrong
is sorted into what is final, what may be tried again, and what ends the run. The key comes from ``OPENAI_API_KEY`` alone.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from mis_lib.clients.protocol import CannotAnswer, TeacherError, Unavailable
from mis_lib.clients.structured import Completion
from mis_lib.errors import SettingsError

# ---------- What a server says is wrong. The ``openai`` client quotes it only where OpenAI puts it (``error.message``); FastAPI, and so many a server, puts it elsewhere.

SHORTEST_KEY = (
    8  # characters; servers on one's own machine take any word for a key, and that may stand in what they say
)


def told(error: openai.APIError) -> str:
    """The client's words and the server's, without the key, which some repeat: what is told is shown and stored."""
    words = _complaint(error.body)
    return without_key(error.message if words in error.message else f"{error.message} - {words}")


def without_key(words: str) -> str:
    """The words with another word in place of the key."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return words.replace(key, "(the key)") if len(key) >= SHORTEST_KEY else words


def in_short(error: openai.APIError) -> str:
    """The same in one line of at most 200 characters."""
    return " ".join(told(error).split())[:200]


def _complaint(body: Any) -> str:
    """OpenAI's ``message``, FastAPI's ``detail`` (a text, or a list of places and messages that also repeats what was sent), or plain text."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_complaint, body)))
    if isinstance(body, dict):
        words = next(
            (found for name in ("message", "detail", "msg", "error") if (found := _complaint(body.get(name)))), ""
        )
        return ": ".join(filter(None, (".".join(map(str, body.get("loc") or ())), words)))
    return body if isinstance(body, str) else ""


# ---------- What is taken for a server's address: one that may be shown and stored, so that nothing secret stands in it.


def check_address(url: str) -> None:
    """Refuse what is no server's address, or one that should not be told.

    Raises:
        SettingsError: the address is none, or carries a password or a query.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        raise SettingsError(
            f"{parts.scheme}://{parts.hostname}: expected a server's address without password or query, since run folders and pages tell it; "
            "a key goes into OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"expected a server's address such as http://localhost:8000/v1, found {url!r}")


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


# ---------- What the draws of a server's answers lacked: as it is stored beside them, and in words.
#
# A server that takes no seed, or takes it and does not go by it, answers otherwise whenever it draws; nobody sees that from one answer.

TURNED_DOWN, NOT_KEPT = "turned down", "not kept to"
SAMPLING = ("temperature", "seed")


def turned_down(left_out: Collection[str]) -> dict[str, str]:
    """Of the parameters that a server has turned down, those that an answer is drawn with, as they are stored."""
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
            else "does not keep to the seed: the same request with the same seed was answered otherwise, so that what it draws cannot be drawn again"
        )
        said.append(f"{who} {how}")
    return said
