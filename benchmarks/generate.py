"""``mis bench generate``: batched generation against the loop of the paper's scripts.

Both have the same model, machine, number type and questions.

The loop takes one question at a time: open its images, build the prompt, ``generate``, read the text (DripNowhy/MIS,
evaluation/). It is given a model that is loaded already and an adapter that is active already. Every answer of ours is
held against the loop's. In float32 they are expected to be the same to the letter; in bfloat16 a last bit can tip a
close call, which the table then shows.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mis_lib.files import load_image
from mis_lib.models.adapters import choose_variants
from mis_lib.recipes.merge import DTYPES
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data, read_split
from mis_lib.results.tables import Table
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings, all_known


class GenerationBench(BaseModel):
    """Both ways, and under what they were measured."""

    answers: int
    same: int
    """Answers of ours that are the loop's, to the letter."""
    tokens: int
    """Written by ours."""
    loop_seconds: float
    seconds: float
    ratio: float
    loop_cpu_seconds: float
    """Of all cores together; what is left of the comparison on a machine that is busy with other things."""
    cpu_seconds: float
    max_new_tokens: int
    batch_size: int
    variants: tuple[str, ...]
    dtype: str
    device: str
    packed: bool
    mixed: bool
    threads: int
    cores: int
    load_average: float | None


def bench_generate(
    checkpoint: Path | None,
    adapters: Mapping[str, Path] | None,
    variants: Sequence[str] | None,
    *,
    data: Path | None,
    split: str,
    items: int,
    settings: GenerationSettings,
    batch_size: int,
    device: str,
    dtype: str,
) -> GenerationBench:
    """Answer the same samples both ways; ours goes first, then the loop, each after one answer that is not counted.

    Args:
        checkpoint: folder; the embedded model if not given.
        adapters: PEFT folder of each variant; those shipped if not given.
        variants: which of them answer.
        data: folder of data files; MIS-Mini if not given.
        split: of it.
        items: pairs of the split.
        settings: length of the answers.
        batch_size: rows of a batch.
        device: where the model computes.
        dtype: number type of the weights, for both.

    Raises:
        MisError: something cannot be used; the message says which and why.
    """
    import torch

    from mis_lib.generate.batch import generate
    from mis_lib.generate.engine import Engine
    from mis_lib.models.load import load_model
    from mis_lib.models.mini.assemble import ensure_mini

    all_known("--dtype", [dtype], DTYPES)
    known = choose_variants(checkpoint, adapters)
    chosen = {name: known[name] for name in (variants or list(known)[:2])}
    folder, place = data or mini_data(), checkpoint or ensure_mini(say)
    samples = read_split(folder, split, items)
    names = {name: None if path is None else name for name, path in chosen.items()}
    numbers = getattr(torch, dtype)
    engine = Engine.load(place, chosen, device, numbers)
    with tempfile.TemporaryDirectory() as scratch:
        for part in ("warm", "timed"):
            (Path(scratch) / part).mkdir()
        short = settings.model_copy(update={"max_new_tokens": 2})
        list(generate(samples[:1], folder, engine, names, short, Path(scratch) / "warm", batch_size=batch_size))
        started, began = time.perf_counter(), time.process_time()
        ours = list(generate(samples, folder, engine, names, settings, Path(scratch) / "timed", batch_size=batch_size))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - began
    say(f"batched: {seconds:.1f} s; now one at a time")
    packed, mixed = engine.packed, engine.mixes
    del engine
    model: Any = load_model(place, chosen, device, numbers)
    one_at_a_time(samples[:1], folder, model, dict(list(names.items())[:1]), short)
    started, began = time.perf_counter(), time.process_time()
    theirs = one_at_a_time(samples, folder, model, names, settings)
    loop_seconds, loop_cpu_seconds = time.perf_counter() - started, time.process_time() - began
    return GenerationBench(
        answers=len(ours),
        same=_same(ours, theirs),
        tokens=sum(one.tokens for one in ours),
        loop_seconds=loop_seconds,
        seconds=seconds,
        ratio=loop_seconds / seconds,
        loop_cpu_seconds=loop_cpu_seconds,
        cpu_seconds=cpu_seconds,
        max_new_tokens=settings.max_new_tokens,
        batch_size=batch_size,
        variants=tuple(chosen),
        dtype=dtype,
        device=device if device == "cpu" else torch.cuda.get_device_name(),
        packed=packed,
        mixed=mixed,
        threads=torch.get_num_threads(),
        cores=os.cpu_count() or 0,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def one_at_a_time(
    samples: Sequence[Sample], folder: Path, model: Any, names: Mapping[str, str | None], settings: GenerationSettings
) -> dict[tuple[str, str], str]:
    """The loop: one prompt, one ``generate``, one text, for every sample and variant."""
    import torch

    from mis_lib.generate.engine import use_adapter
    from mis_lib.prompts import to_messages

    texts = {}
    for variant, adapter in names.items():
        with use_adapter(model.model, adapter), torch.inference_mode():
            for sample in samples:
                images = [load_image(folder / name) for name in sample.images]
                inputs = model.processor.apply_chat_template(
                    [to_messages(images, sample.question)],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                ).to(model.model.device, dtype=model.model.dtype)
                tokens = model.model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False)
                written = tokens[0, inputs["input_ids"].shape[1] :]
                texts[sample.id, variant] = model.processor.decode(written, skip_special_tokens=True).strip()
    return texts


def generation_table(found: GenerationBench) -> Table:
    """The measurement as a table."""
    rows = [
        [
            "one at a time",
            f"{found.loop_seconds:.1f}",
            f"{found.answers / found.loop_seconds:.2f}",
            "1.0",
            f"{found.loop_cpu_seconds:.1f}",
        ],
        [
            "mis generate",
            f"{found.seconds:.1f}",
            f"{found.answers / found.seconds:.2f}",
            f"{found.ratio:.1f}",
            f"{found.cpu_seconds:.1f}",
        ],
    ]
    note = (
        f"{found.answers} answers of {', '.join(found.variants)}, at most {found.max_new_tokens} tokens, "
        f"{found.tokens:,} written; {found.same} of "
        f"{found.answers} the same to the letter; batches of {found.batch_size} rows, adapters "
        f"{'mixed' if found.mixed else 'in turns'}; {found.dtype}"
        f"{', packed weights' if found.packed else ''}, {found.device}, {found.threads} threads on {found.cores} "
        f"cores, load average {found.load_average}"
    )
    headings = ["", "seconds", "answers/s", "times", "CPU seconds"]
    return Table("generate", "Generation", headings, rows, [found.model_dump(mode="json")], note, left=1)


def _same(ours: Sequence[Response], theirs: Mapping[tuple[str, str], str]) -> int:
    return sum(theirs[one.sample_id, one.variant] == one.text for one in ours)
