"""Teachers behind a server that speaks the OpenAI API: vLLM, SGLang, ``transformers serve``, OpenAI itself, and their image endpoints.

Every answer goes through the cache before it is looked at: a refusal and a broken answer have been paid for too.
"""

import base64
from typing import Any

import openai
from openai.types import ImagesResponse

from mis_lib.clients.cache import Cache
from mis_lib.clients.images import as_png, media_type
from mis_lib.clients.openai import Caller, completion_of, turned_down
from mis_lib.clients.protocol import (
    CannotAnswer,
    ChatAsk,
    ChatReply,
    Cost,
    ImageAsk,
    ImageReply,
    Unavailable,
)
from mis_lib.clients.structured import Completion, Turn, answer, schema_of
from mis_lib.errors import ImageError

IMAGE_SIZE = "1024x1024"


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
        self._cache.note(self.name, turned_down(self._caller.left_out))
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
                    extra_body=optional,  # a seed is no parameter of OpenAI's own, but of those who serve diffusion models
                ),
                {"response_format": "b64_json", "seed": ask.seed},
                self._model,
            )
        except CannotAnswer as error:
            return {"image": "", "refusal": error.reason, "prompt_tokens": 0, "completion_tokens": 0}
        self._cache.note(self.name, turned_down(self._caller.left_out))
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
