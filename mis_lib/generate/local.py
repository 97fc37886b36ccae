"""Batched generation on this machine: every sample answered by every variant, written line by line, resumable after a kill.

The order of work is fixed before the first token: samples with many images and long questions first (a batch that does not fit
in memory fails at once, and rows of one batch are alike), cut into batches of ``batch_size``; variant after variant, the adapter switched in
between. A batch of which a single answer is missing is generated as a whole and only the missing lines are appended. So every answer always
comes from the same batch, and a run that was killed ends with the same texts as one that was not, also in bfloat16, where the
company in a batch can tip a close call.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel

from mis_lib.configs import GenerationSettings
from mis_lib.errors import SettingsError
from mis_lib.files import append_record, load_image, open_append, read_records
from mis_lib.models.load import LoadedModel
from mis_lib.prompts import as_plain_text, special_tokens, user_message
from mis_lib.schema import Response, Sample

BATCH_SIZE = 16
RESPONSES = "responses.jsonl"


class Answer(NamedTuple):
    """One row of a batch: the text without special tokens, its number of tokens (end included) and why it ended."""

    text: str
    tokens: int
    finish_reason: str


def generate(
    samples: Sequence[Sample],
    data_dir: Path,
    model: LoadedModel,
    variants: Mapping[str, str | None],
    settings: GenerationSettings,
    run_dir: Path,
    *,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Response]:
    """Answer ``samples`` by each of ``variants`` and append the answers to ``run_dir/responses.jsonl``; yields what is new.

    Args:
        samples: what is asked.
        data_dir: folder to which the samples' image paths are relative.
        model: checkpoint with its adapters, and processor.
        variants: name of each variant and the name of its adapter in the model, ``None`` for the base.
        settings: greedy unless ``temperature`` is above 0; then each batch is drawn from a seed of its own.
        run_dir: exists; its ``config.yaml`` is the caller's business (``store.runs``).
        batch_size: rows that are generated together.

    Raises:
        SettingsError: a variant's adapter is not attached to the model.
        ImageError: an image is missing or damaged.
    """
    _check_adapters(model, variants)
    path = run_dir / RESPONSES
    with open_append(path) as stream:
        done = {(response.sample_id, response.variant) for response in read_records(path, Response)}
        for variant, adapter in variants.items():
            for number, batch in enumerate(plan_batches(samples, batch_size)):
                if all((sample.id, variant) in done for sample in batch):
                    continue
                with use_adapter(model.model, adapter):
                    responses = answer_batch(batch, data_dir, model, variant, settings, number)
                for response in responses:
                    if (response.sample_id, variant) not in done:
                        append_record(stream, response)
                        yield response


def plan_batches(samples: Sequence[Sample], batch_size: int) -> list[tuple[Sample, ...]]:
    """The batches in the order of work: most images first, then longest question, then by id."""
    ordered = sorted(samples, key=lambda sample: (-len(sample.images), -len(sample.question), sample.id))
    return [tuple(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]


@contextlib.contextmanager
def use_adapter(model: Any, adapter: str | None) -> Iterator[None]:
    """Answer under one adapter, or under none, for as long as the block lasts."""
    if not isinstance(model, PeftModel):
        yield
    elif adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(adapter, inference_mode=True)
        yield


def answer_batch(
    samples: Sequence[Sample],
    data_dir: Path,
    model: LoadedModel,
    variant: str,
    settings: GenerationSettings,
    number: int = 0,
) -> list[Response]:
    """Answers of one batch; each is charged an equal share of the batch's seconds."""
    started = time.perf_counter()
    images = [[load_image(data_dir / name) for name in sample.images] for sample in samples]
    answers = answer(images, [sample.question for sample in samples], model, settings, number)
    seconds = round((time.perf_counter() - started) / len(samples), 4)
    return [
        Response(
            sample_id=sample.id,
            variant=variant,
            text=row.text,
            tokens=row.tokens,
            seconds=seconds,
            finish_reason=row.finish_reason,
        )
        for sample, row in zip(samples, answers, strict=True)
    ]


@torch.inference_mode()
def answer(
    images: Sequence[Sequence[Any]],
    questions: Sequence[str],
    model: LoadedModel,
    settings: GenerationSettings,
    number: int = 0,
) -> list[Answer]:
    """Generate one answer a row under the adapter that is active.

    Args:
        images: the PIL images of each row, in order; rows may have different numbers of them.
        questions: the question of each row.
        model: checkpoint and processor.
        settings: length and sampling.
        number: of the batch; with ``settings.seed`` it seeds sampling, so that a resumed run draws the same.
    """
    processor: Any = model.processor
    special = special_tokens(processor)
    messages = [
        [user_message(row, as_plain_text(question, special))] for row, question in zip(images, questions, strict=True)
    ]
    inputs = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    ).to(model.model.device, dtype=model.model.dtype)
    torch.manual_seed(settings.seed + number)
    network: Any = model.model
    tokens_BT = network.generate(**inputs, **_decoding(settings, processor.tokenizer))
    ends = _end_tokens(model)
    return [_read_row(row, processor.tokenizer, ends) for row in tokens_BT[:, inputs["input_ids"].shape[1] :].tolist()]


def _decoding(settings: GenerationSettings, tokenizer: Any) -> dict[str, Any]:
    """Generation arguments; a checkpoint's own sampling defaults must not leak into greedy decoding."""
    sampling = (
        {"do_sample": True, "temperature": settings.temperature} if settings.temperature > 0 else {"do_sample": False}
    )
    neutral = {"top_p": None, "top_k": None} if settings.temperature == 0 else {"top_k": 0, "top_p": 1.0}
    return {"max_new_tokens": settings.max_new_tokens, "pad_token_id": tokenizer.pad_token_id, **sampling, **neutral}


def _read_row(row: list[int], tokenizer: Any, ends: set[int]) -> Answer:
    """Cut one row behind its first end token; a row without one ran into the token limit."""
    end = next((i for i, token in enumerate(row) if token in ends), None)
    kept = row if end is None else row[: end + 1]
    text = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Answer(text, len(kept), "length" if end is None else "stop")


def _end_tokens(model: LoadedModel) -> set[int]:
    """Every token that ends an answer; padding stands behind ends only."""
    processor: Any = model.processor
    own = getattr(model.model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return {
        token
        for token in (*listed, processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id)
        if token is not None
    }


def _check_adapters(model: LoadedModel, variants: Mapping[str, str | None]) -> None:
    attached = list(model.model.peft_config) if isinstance(model.model, PeftModel) else []
    for variant, adapter in variants.items():
        if adapter is not None and adapter not in attached:
            raise SettingsError(
                f"variant {variant!r}: adapter {adapter!r} is not attached to the model; attached: {', '.join(attached) or 'none'}"
            )
