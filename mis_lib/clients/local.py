"""A transformers checkpoint on this machine as a teacher: a VLM, or a text model for the stages that show no image.

Greedy or seeded, one question after the other: for many items serve the model (vLLM, ``transformers serve``) and give the URL instead. torch and
transformers are imported when the model is loaded, with the first question. Nothing is downloaded.
"""

import asyncio
import functools
import hashlib
from pathlib import Path
from typing import Any

from mis_lib.clients.cache import Cache
from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ChatReply
from mis_lib.clients.structured import Completion, Turn, answer
from mis_lib.errors import ModelError
from mis_lib.files import load_image

END_BYTES = 2**20


class LocalChat:
    """A checkpoint folder in the standard Hugging Face layout."""

    def __init__(self, checkpoint: Path, cache: Cache, device: str = "cpu") -> None:
        if not (checkpoint / "config.json").is_file():
            raise ModelError(f"{checkpoint}: expected a checkpoint folder with config.json, found none")
        self.name = f"local:{checkpoint.resolve().name}@{checkpoint_digest(checkpoint)}"
        self._checkpoint, self._cache, self._device = checkpoint, cache, device
        self._turn = asyncio.Lock()

    async def ask(self, ask: ChatAsk) -> ChatReply:
        """Answer one question; raises as ``ChatTeacher.ask``."""

        async def complete(turns: list[Turn]) -> Completion:
            question = {
                "teacher": self.name,
                "turns": [turn.model_dump() for turn in turns],
                "asked": [ask.digest, ask.temperature, ask.seed, ask.max_tokens],
            }
            return Completion.model_validate(await self._cache.once(question, lambda: self._generate(ask, turns)))

        return await answer(ask, complete)

    async def _generate(self, ask: ChatAsk, turns: list[Turn]) -> dict[str, Any]:
        async with self._turn:  # one model, one generation at a time
            completion = await asyncio.to_thread(self._complete, ask, turns)
        return completion.model_dump()

    def _complete(self, ask: ChatAsk, turns: list[Turn]) -> Completion:
        import torch

        model, processor, sees = self.loaded
        if ask.images and not sees:
            raise CannotAnswer("unusable", f"{ask.task}: {self.name} is a text model and cannot look at images")
        inputs = processor.apply_chat_template(
            _messages(ask, turns, typed=sees),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        drawn = {"do_sample": True, "temperature": ask.temperature} if ask.temperature > 0 else {"do_sample": False}
        torch.manual_seed(ask.seed)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=ask.max_tokens, **drawn)
        asked = inputs["input_ids"].shape[1]
        written = tokens[0, asked:]
        return Completion(
            text=processor.decode(written, skip_special_tokens=True),
            finish_reason="length" if len(written) >= ask.max_tokens else "stop",
            prompt_tokens=asked,
            completion_tokens=len(written),
        )

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
                f"{self._checkpoint} cannot be loaded as a teacher: {str(error).splitlines()[0]}"
            ) from error


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


def _messages(ask: ChatAsk, turns: list[Turn], *, typed: bool) -> list[dict[str, Any]]:
    """Messages as chat templates want them: typed parts for a VLM, plain strings for a text model."""
    if not typed:
        return [{"role": turn.role, "content": turn.text} for turn in turns]
    messages: list[dict[str, Any]] = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in turns
    ]
    shown = [{"type": "image", "image": load_image(image, name="the teacher's image")} for image in ask.images]
    messages[1]["content"] = [*shown, *messages[1]["content"]]
    return messages
