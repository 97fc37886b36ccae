"""Models that judges talk to without a form: a few words of a classifier, or the odds of "yes" against "no" as first word.

Behind a server (chat completions, with ``top_logprobs``) or a checkpoint on this machine. What was asked once is in the cache and costs nothing again.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mis_lib.clients.cache import Cache
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import Caller, completion_of, turned_down
from mis_lib.clients.protocol import CannotAnswer, Unavailable, digest_bytes
from mis_lib.clients.server import data_url
from mis_lib.files import load_image

TOP = 20  # first words whose odds servers tell
LIKELY = 0.01  # least share of yes and no together; below it the model was about to say something else
Message = dict[str, str]


class Speaker(Protocol):
    """A chat model that answers plainly."""

    @property
    def name(self) -> str:
        """Model, without address or key."""
        ...

    async def say(self, messages: Sequence[Message], max_tokens: int) -> str:
        """What it answers to a conversation; raises as ``ChatTeacher.ask``."""
        ...

    async def odds_of_yes(self, question: str, images: Sequence[bytes]) -> float:
        """p(yes) / (p(yes) + p(no)) of the first word; raises as ``ChatTeacher.ask``."""
        ...


class ServerSpeaker:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, caller: Caller, model: str, cache: Cache) -> None:
        self.name = f"server:{model}"
        self._caller, self._model, self._cache = caller, model, cache

    async def say(self, messages: Sequence[Message], max_tokens: int) -> str:
        """See ``Speaker``."""

        async def pay() -> dict[str, Any]:
            reply = await self._caller.chat(self._model, list(messages), max_tokens, {"temperature": 0.0})
            self._cache.note(self.name, turned_down(self._caller.left_out))
            return completion_of(reply).model_dump()

        found = await self._cache.once({"say": self.name, "to": list(messages), "max_tokens": max_tokens}, pay)
        if found.get("refusal") or found.get("finish_reason") == "content_filter":
            raise CannotAnswer("refused", f"the server's filter answered: {found.get('refusal') or found['text']}")
        return found["text"]

    async def odds_of_yes(self, question: str, images: Sequence[bytes]) -> float:
        """See ``Speaker``."""

        async def pay() -> dict[str, Any]:
            shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
            messages = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
            reply = await self._caller.chat(
                self._model, messages, 1, {"temperature": 0.0}, logprobs=True, top_logprobs=TOP
            )
            told = reply.choices[0].logprobs
            if told is None or not told.content:
                raise Unavailable(f"{self.name} tells no token probabilities (logprobs); serve it with them")
            return {"odds": [[one.token, math.exp(one.logprob)] for one in told.content[0].top_logprobs]}

        asked = {"odds": self.name, "question": question, "images": [digest_bytes(image) for image in images]}
        return ratio(((word, share) for word, share in (await self._cache.once(asked, pay))["odds"]), self.name)


class LocalSpeaker:
    """A checkpoint on this machine, one question after the other."""

    def __init__(self, chat: LocalChat, cache: Cache) -> None:
        self.name = chat.name
        self._chat, self._cache, self._turn = chat, cache, asyncio.Lock()

    async def say(self, messages: Sequence[Message], max_tokens: int) -> str:
        """See ``Speaker``."""
        asked = {"say": self.name, "to": list(messages), "max_tokens": max_tokens}
        found = await self._cache.once(asked, lambda: self._run(self._write, messages, max_tokens))
        return found["text"]

    async def odds_of_yes(self, question: str, images: Sequence[bytes]) -> float:
        """See ``Speaker``."""
        asked = {"odds": self.name, "question": question, "images": [digest_bytes(image) for image in images]}
        found = await self._cache.once(asked, lambda: self._run(self._weigh, question, images))
        return ratio(found["odds"], self.name)

    async def _run(self, work: Any, *arguments: Any) -> dict[str, Any]:
        async with self._turn:  # one model, one question at a time
            return await asyncio.to_thread(work, *arguments)

    def _write(self, messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        import torch

        model, processor, sees = self._chat.loaded
        inputs = _inputs(processor, [dict(message) for message in messages], sees).to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        written = tokens[0, inputs["input_ids"].shape[1] :]
        return {"text": processor.decode(written, skip_special_tokens=True)}

    def _weigh(self, question: str, images: Sequence[bytes]) -> dict[str, Any]:
        import torch

        model, processor, sees = self._chat.loaded
        if images and not sees:
            raise CannotAnswer("unusable", f"{self.name} is a text model and cannot look at images")
        shown = [{"type": "image", "image": load_image(image, name="the judge's image")} for image in images]
        content = [*shown, {"type": "text", "text": question}] if sees else question
        inputs = _inputs(processor, [{"role": "user", "content": content}], sees)
        inputs = inputs.to(model.device, dtype=model.dtype) if sees else inputs.to(model.device)
        with torch.inference_mode():
            odds = model(**inputs).logits[0, -1].float().softmax(-1)
        tokenizer = getattr(processor, "tokenizer", processor)
        return {"odds": [[word, float(odds[list(_first_pieces(tokenizer, word))].sum())] for word in ("yes", "no")]}


def _first_pieces(tokenizer: Any, word: str) -> set[int]:
    """The tokens that the word may begin with, however it is written; not those that its opposite may begin with too."""

    def pieces(of: str) -> set[int]:
        written = (of, of.capitalize(), of.upper(), f" {of}", f" {of.capitalize()}")
        return {tokens[0] for text in written if (tokens := tokenizer.encode(text, add_special_tokens=False))}

    return pieces(word) - pieces("no" if word == "yes" else "yes")


def ratio(odds: Iterable[Sequence[Any]], name: str) -> float:
    """p(yes) / (p(yes) + p(no)) from words and their probabilities.

    Raises:
        CannotAnswer: the first word is hardly ever one of them, as with models that think aloud first; what is left then says nothing.
    """
    sums = {"yes": 0.0, "no": 0.0}
    for word, share in odds:
        plain = str(word).strip().lower().strip("▁Ġ.,!\"'")
        if plain in sums:
            sums[plain] += float(share)
    total = sums["yes"] + sums["no"]
    if total < LIKELY:
        raise CannotAnswer(
            "unusable", f"{name}: neither yes nor no is among the likely first words (together {100 * total:.2g} %)"
        )
    return sums["yes"] / total


def _inputs(processor: Any, messages: list[dict[str, Any]], sees: bool) -> Any:
    if sees:
        messages = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message["content"], str)
            else message
            for message in messages
        ]
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
