"""A transformers checkpoint on this machine as a chat model: a VLM, or a text model for questions without images.

It answers one question at a time, greedy or seeded. For many items serve the model (vLLM, ``transformers serve``) and
give the URL instead. torch and transformers are imported when the model is loaded, with the first question. Nothing is
downloaded.
"""

import asyncio
import base64
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mis_lib.clients.cache import Cache, ask_question, label_question, odds_question
from mis_lib.clients.protocol import LIKELY, CannotAnswer, ChatAsk, ChatReply, Classified, Labels, Message
from mis_lib.clients.structured import Completion, Turn, answer, place_of, ratio
from mis_lib.errors import ModelError
from mis_lib.files import load_image

END_BYTES = 2**20


class LocalChat:
    """A checkpoint folder in the standard Hugging Face layout: a ``ChatModel``, and a ``PlainChatModel``."""

    def __init__(self, checkpoint: Path, cache: Cache, device: str = "cpu") -> None:
        if not (checkpoint / "config.json").is_file():
            raise ModelError(f"{checkpoint}: expected a checkpoint folder with config.json, found none")
        self.name = f"local:{checkpoint.resolve().name}@{checkpoint_digest(checkpoint)}"
        self._checkpoint, self._cache, self._device = checkpoint, cache, device
        self._turn = asyncio.Lock()

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """See ``ChatModel``."""

        async def complete(turns: list[Turn]) -> Completion:
            question = ask_question(self.name, ask, turns)
            return Completion.model_validate(await self._once(question, lambda: self._complete(ask, turns)))

        return await answer(ask, complete)

    async def classify(
        self, messages: Sequence[Message], max_tokens: int, labels: Labels, images: Sequence[bytes] = ()
    ) -> Classified:
        """See ``PlainChatModel``; greedy."""
        question = label_question(self.name, messages, max_tokens, labels, images)
        found = await self._once(question, lambda: self._classify(messages, max_tokens, labels, images))
        state = np.frombuffer(base64.b64decode(found["state"]), dtype="<f4")
        return Classified(found["text"], found["odds"], tuple(state.tolist()))

    async def odds_of_yes(self, question: str, images: Sequence[bytes], least: float = LIKELY) -> float:
        """See ``PlainChatModel``."""

        def weigh() -> dict[str, Any]:
            import torch

            model, processor, _ = self.loaded
            inputs = self._inputs([{"role": "user", "content": question}], images)
            with torch.inference_mode():
                odds = model(**inputs).logits[0, -1].float().softmax(-1)
            tokenizer = getattr(processor, "tokenizer", processor)
            pieces = _first_pieces(tokenizer, ("yes", "no"))
            return {"odds": [[word, float(odds[list(found)].sum())] for word, found in pieces.items()]}

        return ratio((await self._once(odds_question(self.name, question, images), weigh))["odds"], self.name, least)

    @functools.cached_property
    def loaded(self) -> tuple[Any, Any, bool]:
        """Model, processor or tokenizer, and whether it sees images.

        Raises:
            ModelError: the checkpoint cannot be loaded.
        """
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
        )
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            sees = type(AutoConfig.from_pretrained(self._checkpoint, **options)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            reader = AutoProcessor if sees else AutoTokenizer
            model = kind.from_pretrained(self._checkpoint, dtype="auto", use_safetensors=True, **options)
            return model.to(self._device).eval(), reader.from_pretrained(self._checkpoint, **options), sees
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"{self._checkpoint} cannot be loaded as a chat model: {str(error).splitlines()[0]}"
            ) from error

    async def _once(self, question: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        async def pay() -> dict[str, Any]:
            async with self._turn:  # one model, one question at a time
                return await asyncio.to_thread(work)

        return await self._cache.once(question, pay)

    def _complete(self, ask: ChatAsk, turns: Sequence[Turn]) -> dict[str, Any]:
        if ask.images and not self.loaded[2]:
            raise CannotAnswer("unusable", f"{ask.task}: {self.name} is a text model and cannot look at images")
        messages = [turn.message for turn in turns]
        drawn: dict[str, Any] = {"do_sample": True, "temperature": ask.temperature} if ask.temperature > 0 else {}
        return self._generate(messages, ask.images, ask.max_tokens, ask.seed, **drawn).model_dump()

    def _generate(
        self, messages: Sequence[Message], images: Sequence[bytes], max_tokens: int, seed: int = 0, **drawn: Any
    ) -> Completion:
        import torch

        model, processor, _ = self.loaded
        inputs = self._inputs(messages, images)
        torch.manual_seed(seed)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_tokens, **{"do_sample": False, **drawn})
        asked = inputs["input_ids"].shape[1]
        written = tokens[0, asked:]
        return Completion(
            text=processor.decode(written, skip_special_tokens=True),
            finish_reason="length" if len(written) >= max_tokens else "stop",
            prompt_tokens=asked,
            completion_tokens=len(written),
        )

    def _classify(
        self, messages: Sequence[Message], max_tokens: int, labels: Labels, images: Sequence[bytes]
    ) -> dict[str, Any]:
        """The answer; at its label the probabilities of all labels, and the state that the language head reads."""
        import torch

        model, processor, _ = self.loaded
        tokenizer = getattr(processor, "tokenizer", processor)
        inputs = self._inputs(messages, images)
        states: list[Any] = []
        watched = model.get_output_embeddings().register_forward_pre_hook(
            lambda _, given: states.append(given[0][0, -1].float().cpu())
        )
        try:
            with torch.inference_mode():
                made = model.generate(
                    **inputs,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
        finally:
            watched.remove()
        written = made.sequences[0, inputs["input_ids"].shape[1] :]
        texts = [tokenizer.decode(written[:end], skip_special_tokens=True) for end in range(len(written) + 1)]
        place = place_of(labels, [text[len(before) :] for before, text in itertools.pairwise(texts)])
        if place is None:
            return {"text": texts[-1], "odds": {}, "state": ""}
        shares = made.logits[place][0].float().softmax(-1)
        odds = {word: float(shares[list(ids)].sum()) for word, ids in _first_pieces(tokenizer, labels.words).items()}
        state = base64.b64encode(states[place].numpy().astype("<f4").tobytes()).decode()
        return {"text": texts[-1], "odds": odds, "state": state}

    def _inputs(self, messages: Sequence[Message], images: Sequence[bytes]) -> Any:
        """The processor's inputs: typed parts for a VLM, images before the first question; else strings."""
        model, processor, sees = self.loaded
        if images and not sees:
            raise CannotAnswer("unusable", f"{self.name} is a text model and cannot look at images")
        shown = [{"type": "image", "image": load_image(image, name="the image shown")} for image in images]
        chat: list[Mapping[str, Any]] = list(messages)
        if sees:
            chat = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
            first = next(one for one in chat if one["role"] == "user")
            first["content"][:0] = shown
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        # pixels in the number type of the weights: not every model casts them itself
        return inputs.to(model.device, dtype=model.dtype) if sees else inputs.to(model.device)


def checkpoint_digest(folder: Path) -> str:
    """Eight hexadecimal digits that change with a checkpoint's files: names, sizes, and both ends of each."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as stream:
            found.update(stream.read(END_BYTES))
            stream.seek(max(0, size - END_BYTES))
            found.update(stream.read())
    return found.hexdigest()[:8]


def _first_pieces(tokenizer: Any, words: Sequence[str]) -> dict[str, set[int]]:
    """By word the tokens that it may begin with in any spelling, without those that another may begin with."""

    def pieces(of: str) -> set[int]:
        written = (of, of.capitalize(), of.upper(), f" {of}", f" {of.capitalize()}")
        return {tokens[0] for text in written if (tokens := tokenizer.encode(text, add_special_tokens=False))}

    found = {word: pieces(word) for word in words}
    return {word: ids - set().union(*(found[other] for other in words if other != word)) for word, ids in found.items()}
