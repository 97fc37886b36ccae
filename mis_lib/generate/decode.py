"""The decoding loop, one step at a time: the prompt once, then one token a row for as long as somebody asks for more.

transformers' ``generate`` prepares what differs between architectures (it encodes the images once for all rows, makes mask, positions and
cache) and then calls the loop below instead of its own (``custom_generate``). The loop is a generator: who stops asking stops the model.
Neither inference mode nor the number of threads is held across a ``yield``, as both belong to the thread that happens to ask.
"""

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from mis_lib.configs import GenerationSettings
from mis_lib.generate.cache import make_room
from mis_lib.generate.cpu import Threads


def shares_images(network: Any) -> bool:
    """Whether ``generate`` can give all rows the features of images that it encoded once."""
    return "mm_encoder_outputs" in inspect.signature(network.forward).parameters


def decode(
    network: Any, inputs: Any, rows: int, settings: GenerationSettings, threads: Threads | None = None
) -> Iterator[list[int]]:
    """Yield one list of ``rows`` token ids a step, at most ``settings.max_new_tokens`` times.

    Rows go on beyond their end tokens; the caller knows what ends an answer.

    Args:
        network: a transformers model (not its ``PeftModel``).
        inputs: the processor's output for one prompt, or for the prompt repeated ``rows`` times.
        rows: answers to that prompt.
        settings: length and sampling.
        threads: decides about the CPU threads of each step, where there is something to decide.
    """
    repeat = rows if len(inputs["input_ids"]) == 1 else 1
    sampling = {"do_sample": True, "temperature": settings.temperature or 1.0, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode():
        return network.generate(
            **inputs,
            custom_generate=partial(_steps, settings=settings, threads=threads),
            num_return_sequences=repeat,
            max_new_tokens=settings.max_new_tokens,
            **sampling,
        )


def _steps(
    network: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    *,
    settings: GenerationSettings,
    threads: Threads | None,
    **model_inputs: Any,
) -> Iterator[list[int]]:
    """The loop that ``generate`` hands over to; ``input_ids`` (rows, T) is the prompt."""
    generators = [torch.Generator(input_ids.device).manual_seed(settings.seed) for _ in input_ids]
    make_room(model_inputs.get("past_key_values"))
    length = None  # of what the model has not read yet: at first the whole prompt
    for _ in range(settings.max_new_tokens):
        with torch.inference_mode(), threads.step() if threads and length else nullcontext():
            step = network.prepare_inputs_for_generation(
                input_ids, next_sequence_length=length, is_first_iteration=length is None, **model_inputs
            )
            output = network(**step, return_dict=True)
            model_inputs = network._update_model_kwargs_for_generation(
                output, model_inputs, is_encoder_decoder=network.config.is_encoder_decoder
            )
            scores = logits_processor(input_ids, output.logits[:, -1].float())
            del output, step
            tokens = scores.argmax(-1) if settings.temperature == 0 else _draw(scores, generators)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            chosen = tokens.tolist()
        length = 1
        yield chosen


def _draw(scores: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """One token a row, each drawn from its own generator, so that a row's text does not depend on its company."""
    drawn = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(scores.softmax(-1), generators, strict=True)
    ]
    return torch.cat(drawn)
