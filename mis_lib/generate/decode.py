"""The decoding loop, one step at a time: the prompt once, then one token a row for as long as the caller asks for more.

transformers' ``generate`` prepares what differs between architectures (it encodes the images once for all rows, makes
mask, positions and cache) and then calls the loop below instead of its own (``custom_generate``). The loop is a
generator: a caller that stops asking stops the model, and one that ``send``s the rows to keep drops the others, so that
rows that have ended cost nothing. Neither inference mode nor the number of threads is held across a ``yield``,
as both belong to the thread that happens to ask.
"""

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Cache, DynamicCache, DynamicLayer

from mis_lib.generate.cpu import Threads
from mis_lib.prompts import Past, apply_template, known_variables, read_by
from mis_lib.settings import GenerationSettings
from mis_lib.text.thoughts import opened_by

ROOM = 128  # tokens; how much a full cache grows by


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, T, dim) of one layer, views of tensors that are longer than needed.

    A token is written into place, where transformers' own layer copies the whole cache for each token: for four answers
    of 250 tokens on two cores that is a tenth of the time.
    """

    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values of new tokens and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = self._larger(key_states, start, end), self._larger(value_states, start, end)
            if start and self.keys is not None and self.values is not None:
                self._room[0].narrow(-2, 0, start).copy_(self.keys)
                self._room[1].narrow(-2, 0, start).copy_(self.values)
        keys, values = self._room
        keys.narrow(-2, start, end - start).copy_(key_states)
        values.narrow(-2, start, end - start).copy_(value_states)
        self.keys, self.values = keys.narrow(-2, 0, end), values.narrow(-2, 0, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows; the next token finds new room for them."""
        super().batch_select_indices(indices)
        self._room = None

    @staticmethod
    def _larger(states: torch.Tensor, start: int, end: int) -> torch.Tensor:
        rows, heads, _, dim = states.shape
        return states.new_empty(rows, heads, end + ROOM, dim)


def make_room(cache: Cache | None) -> None:
    """Let the ordinary layers of an empty cache grow in place; other kinds (sliding windows ...) stay as they are."""
    if isinstance(cache, DynamicCache):
        cache.layers = [
            RoomyLayer() if type(layer) is DynamicLayer and not layer.is_initialized else layer
            for layer in cache.layers
        ]


# Inputs of a step that have a row for each answer.
ROW_INPUTS = frozenset(
    {"attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "cross_attention_mask"}
)
TRIAL = "Which?"  # what a trial asks
TAIL = 16  # tokens that may spell the tag which opens a thought
ROUNDING = 0.02  # share of a row's norm; the features of other images differ by more


def shares_images(network: Any, processor: Any) -> bool:
    """Whether ``generate`` gives all rows the right features of images that it encoded once, found by a trial.

    Two prompts, of two images and of one, are given to the model with each repeated by transformers and with each
    written twice. Its decoder must read the same. Some models order the repeated images otherwise than the rows
    (transformers 5.24, ``_expand_multimodal_outputs`` of GLM-4.1V), and answer about a wrong image without an error.
    """
    if "mm_encoder_outputs" not in inspect.signature(network.forward).parameters:
        return False
    dice = np.random.default_rng(0)
    noise = Image.fromarray(dice.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    rows = [[Image.new("RGB", (64, 48)), noise], [Image.new("RGB", (48, 64), "white")]]
    try:
        repeated, written = (
            _read_by_decoder(network, prompts(rows, [TRIAL] * 2, processor, network, copies=copies), rows=4)
            for copies in (1, 2)
        )
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return False  # copies need less of the model
    same = len(repeated) == len(written) and all(map(_alike, repeated, written))
    return same and bool(written)


def prompts(
    images: Sequence[Sequence[Any]],
    questions: Sequence[str],
    processor: Any,
    network: Any,
    *,
    copies: int = 1,
    variables: Mapping[str, Any] | None = None,
    systems: Sequence[str] | None = None,
    histories: Sequence[Sequence[Past]] | None = None,
) -> Any:
    """The processor's output for a batch of prompts, each so many times, on the network's device and in its type.

    Padded on the left: the last position of every row is the last prompt token, from which the answer begins.
    ``variables`` are those of the chat template that it reads, ``systems`` each row's system prompt, ``histories`` what
    was asked and answered before each question; ``images`` are those of all turns.
    """
    told, before = systems or [""] * len(questions), histories or [()] * len(questions)
    messages = [
        read_by(processor, *row) for row in zip(images, questions, told, before, strict=True) for _ in range(copies)
    ]
    return apply_template(
        processor,
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
        **known_variables(processor, variables),
    ).to(network.device, dtype=network.dtype)


def begun(inputs: Any, processor: Any) -> str:
    """What the prompts of a batch have begun of the answers, for their texts: an opened thought, or nothing."""
    return opened_by(processor.tokenizer.decode(inputs["input_ids"][0, -TAIL:]))


def cache_name(model_inputs: Mapping[str, Any]) -> str:
    """The model's name of its cache: ``cache`` from transformers 5.24 on, ``past_key_values`` before."""
    return "cache" if "cache" in model_inputs else "past_key_values"


def can_drop_rows(network: Any, input_ids: torch.Tensor, model_inputs: Any) -> bool:
    """Whether rows can leave a batch: all their state is in an ordinary cache and in inputs with rows first."""
    step = network.prepare_inputs_for_generation(
        input_ids, next_sequence_length=1, is_first_iteration=False, **model_inputs
    )
    tensors = {name for name, value in step.items() if isinstance(value, torch.Tensor)}
    if not tensors <= ROW_INPUTS | {"input_ids"}:
        return False
    cache = model_inputs.get(cache_name(model_inputs))
    ordinary = type(cache) is DynamicCache and all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)
    positions = model_inputs.get("position_ids")
    own_positions = positions is None and any(hasattr(module, "rope_deltas") for module in network.modules())
    return ordinary and not own_positions and not network.config.is_encoder_decoder


def decode(
    network: Any,
    inputs: Any,
    rows: int,
    settings: GenerationSettings,
    threads: Threads | None = None,
    seeds: Sequence[int] | None = None,
    dropped: Callable[[Sequence[int]], None] = lambda rows: None,
) -> Generator[list[int], Sequence[int] | None, None]:
    """Yield one list of token ids a step, one for each row that is left, at most ``settings.max_new_tokens`` times.

    Rows go on beyond their end tokens; the caller knows what ends an answer, and may send the rows to keep (places in
    the last list). Where the model keeps something of its rows elsewhere than in an ordinary cache, nothing is dropped
    and the tokens are left out only.

    Args:
        network: a transformers model (not its ``PeftModel``).
        inputs: the processor's output for ``rows`` prompts, or for ``rows / k`` prompts, each of which is answered in k
            rows.
        rows: how many answers.
        settings: length and sampling.
        threads: decides about the CPU threads of each step, where there is something to decide.
        seeds: of each row's draws, if temperature is above 0 [default: the settings' for every row].
        dropped: told which rows stay in the batch whenever others leave it, before the next step.
    """
    repeat = rows // len(inputs["input_ids"])
    sampling = {"do_sample": True, "temperature": settings.temperature or 1.0, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode():
        return network.generate(
            **inputs,
            custom_generate=partial(
                _steps, settings=settings, threads=threads, seeds=seeds or [settings.seed] * rows, dropped=dropped
            ),
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
    seeds: Sequence[int],
    dropped: Callable[[Sequence[int]], None],
    **model_inputs: Any,
) -> Generator[list[int], Sequence[int] | None, None]:
    """The loop that ``generate`` hands over to; ``input_ids`` (rows, T) is the prompt."""
    generators = [torch.Generator(input_ids.device).manual_seed(seed) for seed in seeds]
    shown = list(range(len(input_ids)))  # rows whose tokens are yielded
    make_room(model_inputs.get(cache_name(model_inputs)))
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
        rows = yield [chosen[row] for row in shown]
        if rows is None:
            continue
        shown = [shown[row] for row in rows]
        with torch.inference_mode():
            drops = can_drop_rows(network, input_ids, model_inputs)
            if drops:
                kept = torch.tensor(shown, device=input_ids.device)
                input_ids, model_inputs = _keep(input_ids, model_inputs, logits_processor, kept)
        if drops:
            dropped(shown)
            generators, shown = [generators[row] for row in shown], list(range(len(shown)))


def _keep(
    input_ids: torch.Tensor, model_inputs: dict[str, Any], logits_processor: Any, rows: torch.Tensor
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The state of some of the rows; positions of several dimensions (3, rows, T) have the rows second.

    A repetition penalty knows how much padding each row has; it is narrowed in place.
    """
    for one in logits_processor:
        if isinstance(padding := getattr(one, "prompt_ignore_length", None), torch.Tensor):
            one.prompt_ignore_length = padding.index_select(0, rows.to(padding.device))
    kept: dict[str, Any] = {}
    for name, value in model_inputs.items():
        if isinstance(value, torch.Tensor) and value.ndim and name in ROW_INPUTS:
            kept[name] = value.index_select(1 if value.ndim == 3 else 0, rows)
        else:
            kept[name] = value
    kept[cache_name(kept)].batch_select_indices(rows)
    return input_ids.index_select(0, rows), kept


class _Read(Exception):
    """Ends a trial where the decoder would begin."""


def _read_by_decoder(network: Any, inputs: Any, rows: int) -> list[torch.Tensor]:
    """Everything that the decoder is given of the prompts, row by row; it computes nothing."""
    found: list[torch.Tensor] = []

    def stop(module: Any, args: Any, given: Any) -> None:
        found.extend(_tensors([args, given]))
        raise _Read

    hook = network.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        next(decode(network, inputs, rows, GenerationSettings(max_new_tokens=1)))
    except _Read:
        pass
    finally:
        hook.remove()
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The rows of the tensors in nested mappings and lists, in order."""
    if isinstance(value, torch.Tensor):
        yield from value if value.ndim else [value]
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(one)


def _alike(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two rows are the same but for the rounding of a batch of another size."""
    return one.shape == two.shape and bool((one.float() - two.float()).norm() <= ROUNDING * two.float().norm())


def _draw(scores: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """One token a row, each drawn from its own generator, so that a row's text does not depend on its company."""
    drawn = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(scores.softmax(-1), generators, strict=True)
    ]
    return torch.cat(drawn)
