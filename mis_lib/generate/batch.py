"""Batched generation on this machine: every sample answered by every variant, resumable after a kill.

The order of work depends on the prompts alone, so that every process and every resumed run decides alike. The longest
prompts come first: a batch that does not fit in memory fails at once, and rows of one batch have similar lengths.
Batches are cut by a budget of tokens (``plan_batches``). All variants answer a sample in the same batch where their
adapters can be mixed, so that images are encoded once; the others one after the other. Rows whose answer has ended
leave the batch. The dialogues of a batch go on together, turn by turn, each variant from its own answers.

A batch's answers are written at once, so a kill leaves all of them or none, and a resumed run ends with the texts of an
uninterrupted one, also in bfloat16, where the other rows of a batch can decide a close call. A variant of which some
answers of a batch are missing (a line was torn or removed) answers the whole batch again, and only the missing lines
are appended. Variants that have all their answers are not asked.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mis_lib.data.formats import system_prompt
from mis_lib.data.images import read_header
from mis_lib.data.tokens import ImageTokens, from_checkpoint
from mis_lib.errors import ModelError, SettingsError
from mis_lib.files import append_records, load_image, open_append, read_records
from mis_lib.generate.decode import begun, prompts
from mis_lib.generate.defences import (
    Ask,
    Check,
    Defended,
    Guard,
    Ruled,
    Said,
    answer_together,
    converse,
    response_of,
)
from mis_lib.generate.engine import Engine, use_adapter
from mis_lib.generate.prompting import BARE, Prompting
from mis_lib.models.load import LoadedModel
from mis_lib.prompts import Past, apply_template, known_variables, read_by
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings

NO_PROMPTS: Mapping[str, Prompting] = {}
NO_GUARDS: Mapping[str, Guard] = {}
NO_EDITORS: Mapping[str, str | None] = {}
BATCH_SIZE = 16
RESPONSES = "responses.jsonl"
WORTH_DROPPING = 0.75  # share of the rows: with fewer left, a step gets cheaper by more than copying their cache costs
UNKNOWN_IMAGE = 1024  # tokens of an image, for models whose way of counting is unknown: rather too many
OF_THE_PROCESSOR = (
    "patch_size",
    "num_additional_image_tokens",
    "vision_feature_select_strategy",
    "num_image_tokens",
    "image_seq_len",
    "image_seq_length",
)
"""Settings that decide the tokens of an image and that a processor holds, not its image processor."""


class Answer(NamedTuple):
    """One row of a batch: the text without special tokens, its number of tokens (end included) and why it ended."""

    text: str
    tokens: int
    finish_reason: str


class Asked(NamedTuple):
    """What one row of a batch asks."""

    question: str
    system: str = ""
    history: Sequence[Past] = ()


AskRows = Callable[[Sequence[Sequence[Any]], Sequence[Asked], Sequence[int], str], list[Answer]]
"""Answers rows of images, questions and seeds in one batch, under the adapter of one variant; empty: of its own."""


class Shard(NamedTuple):
    """The batches that one process answers: those with ``number % parts == part``."""

    part: int = 0
    parts: int = 1


WHOLE = Shard()


def generate(
    samples: Sequence[Sample],
    data_dir: Path,
    model: LoadedModel | Engine,
    variants: Mapping[str, str | None],
    settings: GenerationSettings,
    run_dir: Path,
    *,
    batch_size: int = BATCH_SIZE,
    batch_tokens: int | None = None,
    shard: Shard = WHOLE,
    file: str = RESPONSES,
    done: set[tuple[str, str]] | None = None,
    key: Callable[[Sample, str], str] | None = None,
    prompting: Mapping[str, Prompting] = NO_PROMPTS,
    guards: Mapping[str, Guard] = NO_GUARDS,
    editors: Mapping[str, str | None] = NO_EDITORS,
) -> Iterator[Response]:
    """Answer ``samples`` by each of ``variants`` and append the answers to a file of ``run_dir``; yields what is new.

    Args:
        samples: what is asked.
        data_dir: folder to which the samples' image paths are relative.
        model: checkpoint with its adapters, and processor; an ``Engine`` is faster where it may pack the weights.
        variants: name of each variant and the name of its adapter in the model, ``None`` for the base.
        settings: greedy unless ``temperature`` is above 0; then each sample has its own seed.
        run_dir: exists, with its ``config.yaml`` (``results.runs``).
        batch_size: rows that are generated together at most.
        batch_tokens: tokens of a batch at most, prompts and longest answers, padding included; no bound if not given.
        shard: which of the batches.
        file: to append to.
        done: (sample id, variant) of the answers that are there already; read from ``file`` if not given.
        key: digest that an answer is stored with (``keys.answer_key``).
        prompting: of the variants that have one.
        guards: of the variants whose defence asks one.
        editors: name of each variant that edits answers, and the name of its adapter.

    Raises:
        SettingsError: a variant's adapter is not attached to the model.
        ImageError: an image is missing or damaged.
        ModelError: a batch does not fit in the device's memory.
    """
    engine = model if isinstance(model, Engine) else Engine(model, pack=False)
    engine.check(variants)
    with open_append(run_dir / file) as stream:
        known = done
        if known is None:
            known = {(one.sample_id, one.variant) for one in read_records(run_dir / file, Response)}
        variables = settings.chat_template_kwargs
        kinds = _by_prompting(variants, prompting)
        lengths = None
        if batch_tokens is not None:
            each = settings.max_new_tokens
            lengths = _longest([prompt_lengths(samples, data_dir, engine, variables, kind, each) for kind in kinds])
        longest = settings.max_new_tokens * (
            2 if any(kind.defence for kind in kinds) else 1
        )  # it may ask with an answer
        adapters = [[variants[name] for name in names] for names in kinds.values()]
        rows = max((len(together) for those in adapters for together in engine.passes(those)), default=1)
        batches = plan_batches(samples, batch_size, rows=rows, lengths=lengths, budget=batch_tokens, answer=longest)
        for number, batch in enumerate(batches):
            wanted = [name for name in variants if any((sample.id, name) not in known for sample in batch)]
            if number % shard.parts != shard.part or not wanted:
                continue
            asked = {name: variants[name] for name in wanted}
            answered = answer_batch(batch, data_dir, engine, asked, settings, prompting, guards, editors)
            fresh = [
                response.model_copy(
                    update={"key": "" if key is None else key(_by_id(batch, response), response.variant)}
                )
                for response in answered
                if (response.sample_id, response.variant) not in known
            ]
            append_records(stream, fresh)
            yield from fresh


def answer_batch(
    samples: Sequence[Sample],
    data_dir: Path,
    engine: Engine,
    variants: Mapping[str, str | None],
    settings: GenerationSettings,
    prompting: Mapping[str, Prompting] = NO_PROMPTS,
    guards: Mapping[str, Guard] = NO_GUARDS,
    editors: Mapping[str, str | None] = NO_EDITORS,
) -> list[Response]:
    """Answers of one batch by each variant in turn.

    Variants under one prompting share passes, and have equal shares of their seconds. Other texts before the images
    make other states of the model, so variants under different promptings share nothing.
    """
    images = [[load_image(data_dir / name) for name in sample.images] for sample in samples]
    seeds = [settings.seed_for(sample.id) for sample in samples]
    found: dict[str, list[Response]] = {}
    for kind, names in _by_prompting(variants, prompting).items():
        started = time.perf_counter()
        rows: dict[tuple[str, int], Defended] = {}
        single = [at for at, one in enumerate(samples) if kind.defence is None and not one.history]
        if single:
            asked = [Asked(*kind.asked(samples[at].question, system_prompt(samples[at]))) for at in single]
            shown, dice = [images[at] for at in single], [seeds[at] for at in single]
            answered = _by_each(shown, asked, engine, [variants[name] for name in names], settings, dice)
            for name in names:
                for at, row in zip(single, answered[variants[name]], strict=True):
                    rows[name, at] = Defended(Said(*row), ())
        others = [at for at in range(len(samples)) if at not in single]
        for name in names if others else []:

            def ask(shown: Any, asked: Any, dice: Any, by: str, own: str | None = variants[name]) -> list[Answer]:
                adapter = editors[by] if by else own
                return _by_each(shown, asked, engine, [adapter], settings, dice)[adapter]

            picked = [(samples[at], images[at], seeds[at]) for at in others]
            stepwise = _step_by_step(picked, ask, kind, guards.get(name))
            rows.update({(name, at): row for at, row in zip(others, stepwise, strict=True)})
        seconds = round((time.perf_counter() - started) / len(samples) / len(names), 4)
        for name in names:
            found[name] = [response_of(one.id, name, rows[name, at], seconds) for at, one in enumerate(samples)]
    return [response for name in variants for response in found[name]]


def answer_active(
    samples: Sequence[Sample], data_dir: Path, model: LoadedModel, settings: GenerationSettings, variant: str
) -> list[Response]:
    """Answers of one batch under the adapter that is active, as during training; seconds are not measured."""
    engine = Engine(model, pack=False, mix=False)

    def ask(shown: Any, asked: Sequence[Asked], dice: Any, by: str) -> list[Answer]:
        return answer_rows(shown, asked, engine, [None], settings, dice)[0]

    picked = [(one, [load_image(data_dir / name) for name in one.images], settings.seed) for one in samples]
    rows = _step_by_step(picked, ask, BARE, None)
    return [response_of(sample.id, variant, row, 0) for sample, row in zip(samples, rows, strict=True)]


def _by_each(
    images: Sequence[Sequence[Any]],
    asked: Sequence[Asked],
    engine: Engine,
    adapters: Sequence[str | None],
    settings: GenerationSettings,
    seeds: Sequence[int],
) -> dict[str | None, list[Answer]]:
    """The answers under each adapter."""
    rows: dict[str | None, list[Answer]] = {}
    for together in engine.passes(adapters):
        if engine.can_mix(together[0]):
            answered = answer_rows(images, asked, engine, together, settings, seeds)
        else:
            with use_adapter(engine.model, together[0]):
                answered = answer_rows(images, asked, engine, [None], settings, seeds)
        rows.update(zip(together, answered, strict=True))
    return rows


def _step_by_step(
    picked: Sequence[tuple[Sample, Sequence[Any], int]], ask_rows: AskRows, prompting: Prompting, guard: Guard | None
) -> list[Defended]:
    """The answers to samples with their images and seeds, through turns and defence.

    What one step asks of all samples is a batch.
    """

    def ask(asks: Mapping[int, Ask]) -> dict[int, Said]:
        found: dict[int, Said] = {}
        for by in dict.fromkeys(one.by for one in asks.values()):
            mine = {place: one for place, one in asks.items() if one.by == by}
            shown = [one.shown(picked[place][1]) for place, one in mine.items()]
            asked = [Asked(one.question, one.system, one.before) for one in mine.values()]
            rows = ask_rows(shown, asked, [picked[place][2] for place in mine], by)
            found |= {place: Said(*row) for place, row in zip(mine, rows, strict=True)}
        return found

    def check(checks: Mapping[int, Check]) -> dict[int, Ruled]:
        if guard is None:
            raise SettingsError(f"defence: expected a guard for {prompting.defence}, found none")
        return dict(zip(checks, guard([(picked[place][0], one) for place, one in checks.items()]), strict=True))

    return answer_together([converse(prompting, sample) for sample, _, _ in picked], ask, check)


def answer(
    images: Sequence[Sequence[Any]], questions: Sequence[str], model: LoadedModel, settings: GenerationSettings
) -> list[Answer]:
    """Generate one answer a row under the adapter that is active.

    Args:
        images: the PIL images of each row, in order; rows may have different numbers of them.
        questions: the question of each row.
        model: checkpoint and processor.
        settings: length and sampling.
    """
    engine = Engine(model, pack=False, mix=False)
    asked = [Asked(question) for question in questions]
    return answer_rows(images, asked, engine, [None], settings, [settings.seed] * len(questions))[0]


def answer_rows(
    images: Sequence[Sequence[Any]],
    asked: Sequence[Asked],
    engine: Engine,
    adapters: Sequence[str | None],
    settings: GenerationSettings,
    seeds: Sequence[int],
) -> list[list[Answer]]:
    """The answer of every adapter to every prompt, from one batch of prompts x adapters; a list for each adapter.

    Where answers depend on the numbers of images in a batch (``Engine.sees_padding_images``), it is a batch for each.

    Raises:
        ModelError: the batch does not fit in the device's memory.
    """
    numbers = {len(shown) for shown in images} if engine.sees_padding_images else {0}
    if len(numbers) > 1:
        found: dict[int, list[Answer]] = {}  # by row
        for number in sorted(numbers):
            alike = [row for row, shown in enumerate(images) if len(shown) == number]
            shown, put = [images[row] for row in alike], [asked[row] for row in alike]
            answered = answer_rows(shown, put, engine, adapters, settings, [seeds[row] for row in alike])
            found |= {row: [one[at] for one in answered] for at, row in enumerate(alike)}
        return [[found[row][place] for row in range(len(images))] for place in range(len(adapters))]
    copies = 1 if len(adapters) == 1 or engine.shares_images else len(adapters)
    inputs = prompts(
        images,
        [one.question for one in asked],
        engine.processor,
        engine.network,
        copies=copies,
        variables=settings.chat_template_kwargs,
        systems=[one.system for one in asked],
        histories=[one.history for one in asked],
    )
    opening = begun(inputs, engine.processor)
    rows = [(prompt, number) for prompt in range(len(asked)) for number in range(len(adapters))]
    written: list[list[int]] = [[] for _ in rows]
    ends, alive = engine.ends, list(range(len(rows)))  # alive: the rows that the next list of tokens belongs to
    steps = engine.mixed(
        inputs, [adapters[number] for _, number in rows], settings, [seeds[prompt] for prompt, _ in rows]
    )
    finished: set[int] = set()
    try:
        tokens = next(steps)
        while True:
            for row, token in zip(alive, tokens, strict=True):
                if row not in finished:
                    written[row].append(token)
                    if token in ends:
                        finished.add(row)
            left = [place for place, row in enumerate(alive) if row not in finished]
            if not left:
                break
            keep = left if len(left) <= WORTH_DROPPING * len(alive) else None
            alive = alive if keep is None else [alive[place] for place in keep]
            tokens = steps.send(keep)
    except StopIteration:
        pass  # the token limit
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"a batch of {len(rows)} rows does not fit in the memory of {engine.network.device}; "
            "lower batch_tokens or batch_size"
        ) from error
    finally:
        steps.close()
    texts = [_read(row, engine, opening) for row in written]
    return [texts[number :: len(adapters)] for number in range(len(adapters))]


def plan_batches(
    samples: Sequence[Sample],
    batch_size: int,
    *,
    rows: int = 1,
    lengths: Mapping[str, int] | None = None,
    budget: int | None = None,
    answer: int = 0,
) -> list[tuple[Sample, ...]]:
    """The batches in the order of work: longest prompt first, by tokens if known, else by images and question.

    A batch costs rows x (longest prompt + longest answer), padding included; it ends where one more row would pass the
    budget.

    Args:
        samples: what is asked, in any order.
        batch_size: at most so many rows.
        rows: that each sample takes (one for each variant that answers in the same batch).
        lengths: tokens of each sample's prompt, by id.
        budget: at most so many tokens with padding; a single sample may exceed it.
        answer: tokens of the longest answer.
    """
    sizes = lengths or {}
    ordered = sorted(
        samples,
        key=lambda sample: (-sizes.get(sample.id, 0), -len(sample.images), -len(sample.question), sample.id),
    )
    batches: list[list[Sample]] = []
    for sample in ordered:
        full = not batches or (len(batches[-1]) + 1) * rows > batch_size
        if not full and budget is not None:
            longest = sizes.get(batches[-1][0].id, 0)
            full = (len(batches[-1]) + 1) * rows * (longest + answer) > budget
        if full:
            batches.append([])
        batches[-1].append(sample)
    return [tuple(batch) for batch in batches]


def prompt_lengths(
    samples: Sequence[Sample],
    data_dir: Path,
    engine: Engine,
    variables: Mapping[str, Any] | None = None,
    prompting: Prompting = BARE,
    answer: int = 0,
) -> dict[str, int]:
    """Tokens of each sample's prompt: its text by the model's template and tokenizer, its images by their sizes.

    Of a dialogue it is the prompt of the last turn, with ``answer`` tokens for each earlier answer of the model.
    An image whose header cannot be read counts as nothing; it is named when it is opened.
    """
    processor, count = engine.processor, _counting(engine)
    image_token, known = getattr(processor, "image_token", None), known_variables(processor, variables)
    texts = [
        apply_template(
            processor,
            _whole_prompt(processor, sample, prompting),
            add_generation_prompt=True,
            tokenize=False,
            **known,
        )
        for sample in samples
    ]
    if isinstance(image_token, str):
        texts = [text.replace(image_token, "") for text in texts]
    encoded = processor.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return {
        sample.id: len(tokens) + _image_tokens(sample, data_dir, count) + answer * _to_be_answered(sample)
        for sample, tokens in zip(samples, encoded, strict=True)
    }


def _whole_prompt(processor: Any, sample: Sample, prompting: Prompting) -> list[Any]:
    """The messages of a sample's last turn, with None for each image and nothing for answers that are not given."""
    before = [Past(prompting.asked(turn.question)[0], turn.answer or "", turn.images) for turn in sample.history]
    asked = prompting.asked(sample.question, system_prompt(sample))
    return read_by(processor, [None] * len(sample.images), *asked, before)


def _to_be_answered(sample: Sample) -> int:
    return sum(turn.answer is None for turn in sample.history)


def _by_prompting(variants: Iterable[str], prompting: Mapping[str, Prompting]) -> dict[Prompting, list[str]]:
    """The variants of each prompting."""
    kinds: dict[Prompting, list[str]] = {}
    for name in variants:
        kinds.setdefault(prompting.get(name, BARE), []).append(name)
    return kinds


def _longest(lengths: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """By id, the longest of several prompts."""
    return {name: max(one[name] for one in lengths) for name in lengths[0]} if lengths else {}


def _read(tokens: list[int], engine: Engine, opening: str) -> Answer:
    """The text of one row; a row without an end token ran into the token limit."""
    text = engine.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Answer(f"{opening}{text}", len(tokens), "stop" if tokens and tokens[-1] in engine.ends else "length")


def _by_id(batch: Sequence[Sample], response: Response) -> Sample:
    return next(sample for sample in batch if sample.id == response.sample_id)


def _image_tokens(sample: Sample, data_dir: Path, count: ImageTokens | None) -> int:
    if count is None:
        return UNKNOWN_IMAGE * len(sample.images)
    sizes = [header.size for name in sample.images if (header := read_header(data_dir / name)).size is not None]
    return sum(count.count([size for size in sizes if size is not None]))


def _counting(engine: Engine) -> ImageTokens | None:
    config: dict[str, Any] = engine.network.config.to_dict()
    images = getattr(engine.processor, "image_processor", None)
    settings: dict[str, Any] = {} if images is None else images.to_dict()
    own = {name: getattr(engine.processor, name, None) for name in OF_THE_PROCESSOR}
    try:
        return from_checkpoint(config, {**{k: v for k, v in own.items() if v is not None}, **settings})
    except ModelError:
        return None
