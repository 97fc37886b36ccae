"""The forms of a tuned model, each asked through the very code that people use it with, and watched while it answers.

Nothing is rendered a second time for the comparison: an ``Overheard`` processor keeps what it hands to the model, and a hook on the model keeps
its logits. So a form that renders, resizes or computes differently shows it.

    training   the checkpoint with the adapter attached by PEFT, unmerged: what the trainer computed with; the reference
    rows       the question as a training row begins, made by the trainer's encoder; it is read, not answered
    merged     the adapter added to the weights, in memory
    reloaded   the merged model saved as a checkpoint and loaded from there; or a checkpoint that somebody merged elsewhere
    engine     the app's engine, with all variants in one batch
    served     any server that speaks the OpenAI API
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
import torch
from PIL import Image
from transformers import AutoProcessor

from mis_lib.clients.openai import only_model, open_client
from mis_lib.errors import ModelError
from mis_lib.generate.batch import answer
from mis_lib.generate.engine import use_adapter
from mis_lib.generate.stream import VariantEngine
from mis_lib.models.load import LoadedModel
from mis_lib.probe.parity import TOP, View
from mis_lib.prompts import as_plain_text, special_tokens
from mis_lib.settings import GenerationSettings
from mis_lib.train.encode import PER_TOKEN, Encoder, Place

TEXT_TENSORS = ("input_ids", "attention_mask", *PER_TOKEN)
SHOWN_WHOLE = 64  # values; an integer tensor of the processor up to this size is compared by value


class Question(NamedTuple):
    """One question about images, with a name for the report and the place that a trainer would find it in."""

    name: str
    images: Sequence[Image.Image]
    text: str
    place: Place


class Overheard:
    """A processor that keeps a copy of what it last made; everything else is the processor's own."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.made: dict[str, torch.Tensor] = {}

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        """As the processor's, kept before anybody casts it."""
        made = self._processor.apply_chat_template(*args, **options)
        self.made = {name: value.clone() for name, value in made.items() if isinstance(value, torch.Tensor)}
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def own_processor(adapter: Path | None) -> Any:
    """The processor that an adapter was trained with, where training left it beside the adapter; else ``None``."""
    if adapter is None or not (adapter / "processor_config.json").exists():
        return None
    return AutoProcessor.from_pretrained(adapter, local_files_only=True, trust_remote_code=False)


def ask_rows(form: str, processor: Any, question: Question) -> View:
    """Let the trainer's encoder render the question by the processor that the adapter was trained with."""
    made = Encoder(processor).prompt(question.place)
    return _view(form, None, [], {"input_ids": made.ids[None], **made.vision})


def ask_alone(
    form: str, loaded: LoadedModel, adapter: str | None, question: Question, settings: GenerationSettings
) -> View:
    """Answer by the path of ``mis report``: one row under one adapter, or by a model without any."""
    processor: Any = Overheard(loaded.processor)
    network = loaded.network
    with use_adapter(loaded.model, adapter), logits_of(network, row=0) as steps:
        try:
            answered = answer([question.images], [question.text], LoadedModel(loaded.model, processor), settings)[0]
        except (
            RuntimeError,
            ValueError,
            IndexError,
        ) as error:  # what it was given does not suit it, which is worth knowing
            words = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return _view(form, None, [], processor.made)._replace(failure=words)
    return _view(form, answered.text, steps[: answered.tokens], processor.made)


def ask_engine(
    form: str, engine: VariantEngine, variant: str, question: Question, settings: GenerationSettings
) -> View:
    """Answer by the app's engine, all of its variants in one batch, and take the row of one.

    Raises:
        ModelError: it said nothing.
    """
    processor: Any = Overheard(engine.processor)
    plain, engine.processor = engine.processor, processor
    row = engine.variants.index(variant)
    answered = None
    try:
        with logits_of(engine.network, row=row) as steps:
            for columns in engine.stream(question.images, question.text, engine.variants, settings):
                answered = columns[row]
    finally:
        engine.processor = plain
    if answered is None:
        raise ModelError(f"the engine said nothing to {question.name!r}; try again")
    return _view(form, answered.text, steps[: answered.tokens] if engine.mixes else [], processor.made)


def ask_server(
    form: str, url: str, model: str | None, question: Question, settings: GenerationSettings, processor: Any
) -> View:
    """Answer by a server: its text, and what it tells of prompt length and likeliest first tokens.

    Args:
        form: what to call it.
        url: of the API, such as "http://127.0.0.1:8000/v1".
        model: its name there; the only one if not given.
        question: asked with the images as PNG, which loses nothing.
        settings: length; decoding is greedy.
        processor: of the reference, for its special tokens.

    Raises:
        ModelError: the server cannot be reached, or its reply is none.
    """
    text = as_plain_text(question.text, special_tokens(processor))
    return asyncio.run(_ask_server(form, url, model, question, text, settings))


async def _ask_server(
    form: str, url: str, model: str | None, question: Question, text: str, settings: GenerationSettings
) -> View:
    pictures = [{"type": "image_url", "image_url": {"url": _as_url(image)}} for image in question.images]
    async with open_client(url, retries=1) as client:
        request: dict[str, Any] = {
            "model": model or await only_model(client),
            "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}],
            "max_tokens": settings.max_new_tokens,
            "temperature": 0.0,
        }
        try:
            try:
                reply = await client.chat.completions.create(**request, logprobs=True, top_logprobs=TOP)
            except (openai.BadRequestError, openai.UnprocessableEntityError):  # does not know of log-probabilities
                reply = await client.chat.completions.create(**request)
        except openai.APIError as error:
            raise ModelError(
                f"{url}: cannot be asked: {error}; check that the server runs and serves images"
            ) from error
    if not getattr(reply, "choices", None):
        raise ModelError(f"{url}: expected a chat completion, found {str(reply)[:80]!r}; is this the API's address?")
    choice = reply.choices[0]
    first = choice.logprobs.content[0].top_logprobs if choice.logprobs and choice.logprobs.content else []
    return View(
        form,
        (choice.message.content or "").strip(),
        prompt_length=reply.usage.prompt_tokens if reply.usage else None,
        top={token.token: token.logprob for token in first} or None,
    )


@contextmanager
def logits_of(network: Any, row: int) -> Iterator[list[np.ndarray]]:
    """Logits (vocabulary,) of the last position of one row, a list that grows with every forward pass in the block."""
    steps: list[np.ndarray] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        steps.append(output.logits[row, -1].detach().float().cpu().numpy())

    hook = network.register_forward_hook(keep)
    try:
        yield steps
    finally:
        hook.remove()


def _view(form: str, text: str | None, steps: Sequence[np.ndarray], made: Mapping[str, torch.Tensor]) -> View:
    rows = len(made["input_ids"])  # an engine may have repeated the prompt
    images = {name: value[: len(value) // rows] for name, value in made.items() if name not in TEXT_TENSORS}
    logits = np.stack(steps) if steps else None
    return View(
        form,
        text,
        answer=None if logits is None else logits.argmax(-1).tolist(),
        tokens=made["input_ids"][0].tolist(),
        grids={name: _grid(value) for name, value in images.items()},
        pixels={name: _digest(value) for name, value in images.items() if value.is_floating_point()},
        logits=logits,
    )


def _grid(value: torch.Tensor) -> Any:
    return value.tolist() if not value.is_floating_point() and value.numel() <= SHOWN_WHOLE else tuple(value.shape)


def _digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.contiguous().float().numpy().tobytes()).hexdigest()


def _as_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
