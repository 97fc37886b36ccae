"""Counterfactual ablations: the same question with an image dropped, blanked, exchanged for its twin's or told in words, and what that changes.

A *probe* is one item under one condition. Conditions are made of a state for each image, or of another order:

    original        everything as it is
    black-1         the first image is black; black-2, black-all; likewise mean (one colour, the image's mean), noise,
                    dropped (not there; dropped-all is the question alone), caption (not there, but named in words before the question)
    twin-all        the images of the item's twin, so that the right answer is the twin's; only where the twin asks the same question, as its
                    truth is known for no other mixture
    swap            images in reverse order; swap-renamed: "first" and "second" in the question exchanged too, so that it asks the same

A response *declines* if it is reasoned, refused or over-refused. A probe is judged as what its images make it: as the twin where the
twin's are shown, as the original item elsewhere. So "unsafe" with black images means that the model goes along with the words alone, and
"declines" with black images that the words alone make it decline: the text shortcut, if it declines the original too.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from mis_lib.analysis.reworded import in_reverse
from mis_lib.cache import cache_dir
from mis_lib.files import load_image, read_records, write_atomic
from mis_lib.ordinals import ORDINALS
from mis_lib.results.runs import Run
from mis_lib.schema import Asked, Outcome, Record, Sample

PROBES = "probes.jsonl"
ORIGINAL, SWAP, SWAP_RENAMED, ALL = "original", "swap", "swap-renamed", "all"
DECLINES = frozenset({Outcome.REASONED, Outcome.REFUSED, Outcome.OVER_REFUSED})


class State(StrEnum):
    """What became of one image."""

    KEPT = "kept"
    BLACK = "black"
    MEAN = "mean"
    NOISE = "noise"
    DROPPED = "dropped"
    CAPTION = "caption"
    TWIN = "twin"
    SWAPPED = "swapped"


BLANKS = (State.BLACK, State.MEAN, State.NOISE)
TAKEN_AWAY = (*BLANKS, State.DROPPED)
"""States in which an image says nothing: those of which effects and interactions are computed."""


class Probe(Record):
    """One item under one condition; ``id`` is that of its responses."""

    id: str
    sample_id: str
    condition: str
    states: list[State]
    asked: Asked = Field(repr=False)
    """What the model is given."""
    truth: Sample = Field(repr=False)
    """What the judge holds the response against: the original item, or its twin where the twin's images stand in."""


class Skipped(Record):
    """A condition that an item does not have, and why."""

    sample_id: str
    condition: str
    reason: str


def probes_of(
    sample: Sample,
    twin: Sample | None,
    states: Sequence[State],
    *,
    swap: bool,
    blank: Callable[[str, State, int], str],
) -> Iterator[Probe | Skipped]:
    """All probes of one item, the original first.

    Args:
        sample: the item.
        twin: its counterpart, if known.
        states: what is done to images, one at a time and to all together.
        swap: whether to ask in reverse order too.
        blank: path of the picture that stands for an image (path, state, place).
    """
    yield _probe(sample, ORIGINAL, [State.KEPT] * len(sample.images))
    for state in states:
        if state is State.TWIN:
            yield _exchanged(sample, twin)
        elif state is State.CAPTION and not sample.objects:
            yield Skipped(sample_id=sample.id, condition=f"{state}-{ALL}", reason="what its images show is not known")
        else:
            yield from _ablated(sample, state, blank)
    if swap and len(sample.images) > 1:
        yield _swapped(sample, renamed=False)
        yield _swapped(sample, renamed=True)


def make_probes(
    samples: Sequence[Sample],
    twins: Mapping[str, Sample],
    data_dir: Path,
    states: Sequence[State],
    *,
    swap: bool = True,
    seed: int = 0,
) -> tuple[list[Probe], list[Skipped]]:
    """The probes of all items, with their blank pictures drawn, and what had to be left out.

    Args:
        samples: the items.
        twins: any samples by id, among which the items' twins are looked for.
        data_dir: folder to which image paths are relative.
        states: see ``probes_of``.
        swap: see ``probes_of``.
        seed: of the noise.
    """

    def blank(path: str, state: State, place: int) -> str:
        return str(draw_blank(data_dir / path, state, seed + place))

    found = [
        one
        for sample in samples
        for one in probes_of(sample, twins.get(sample.twin_id or ""), states, swap=swap, blank=blank)
    ]
    return [one for one in found if isinstance(one, Probe)], [one for one in found if isinstance(one, Skipped)]


def read_probes(run: Run) -> list[Probe]:
    """The probes of an ablation's run; none of any other run's."""
    path = run.folder / PROBES
    return read_records(path, Probe) if path.exists() else []


def draw_blank(path: Path, state: State, seed: int = 0) -> Path:
    """A picture of the image's size without its content, in the cache: black, its mean colour, or noise.

    Raises:
        ImageError: the image is missing or damaged.
    """
    image = load_image(path)
    colour = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist() if state is State.MEAN else [0, 0, 0]
    detail = {State.MEAN: "-".join(map(str, colour)), State.NOISE: str(seed)}.get(state, "")
    file = cache_dir() / "blanks" / f"{state}-{image.width}x{image.height}-{detail}.png"
    if not file.exists():
        pixels = np.full((image.height, image.width, 3), colour, dtype=np.uint8)
        if state is State.NOISE:
            pixels = np.random.default_rng(seed).integers(0, 256, pixels.shape, dtype=np.uint8)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, _png(pixels), sync=False)
    return file


def _ablated(sample: Sample, state: State, blank: Callable[[str, State, int], str]) -> Iterator[Probe]:
    """Each image alone, then all of them."""
    count, objects = len(sample.images), sample.objects
    choices = {str(place + 1): [place] for place in range(count)} if count > 1 else {}
    for name, places in (choices | {ALL: list(range(count))}).items():
        states = [state if place in places else State.KEPT for place in range(count)]
        shown = [place for place in range(count) if state in BLANKS or place not in places]
        told = [_told(place, sample) for place in places] if state is State.CAPTION else []
        yield _probe(
            sample,
            f"{state}-{name}",
            states,
            images=[
                blank(sample.images[place], state, place) if place in places else sample.images[place]
                for place in shown
            ],
            question=" ".join([*told, sample.question]),
            objects=objects and [objects[place] for place in shown],
        )


def _told(place: int, sample: Sample) -> str:
    """An image in words."""
    return f"The {ORDINALS[place]} image shows: {(sample.objects or [])[place]}."


def _exchanged(sample: Sample, twin: Sample | None) -> Probe | Skipped:
    condition = f"{State.TWIN}-{ALL}"
    if twin is None or len(twin.images) != len(sample.images):
        return Skipped(sample_id=sample.id, condition=condition, reason="no twin with as many images")
    if twin.question != sample.question or twin.images == sample.images:
        reason = "its twin differs in the question, not in the images alone"
        return Skipped(sample_id=sample.id, condition=condition, reason=reason)
    states = [State.KEPT if a == b else State.TWIN for a, b in zip(sample.images, twin.images, strict=True)]
    return _probe(sample, condition, states, truth=twin, images=twin.images, objects=twin.objects)


def _swapped(sample: Sample, *, renamed: bool) -> Probe:
    other = in_reverse(sample)
    return _probe(
        sample,
        SWAP_RENAMED if renamed else SWAP,
        [State.SWAPPED] * len(sample.images),
        images=other.images,
        question=other.question if renamed else sample.question,
        objects=other.objects,
    )


def _probe(
    sample: Sample, condition: str, states: list[State], *, truth: Sample | None = None, **changes: Any
) -> Probe:
    """A probe that asks the item with ``changes``."""
    own: dict[str, Any] = {"id": f"{sample.id}#{condition}", "twin_id": None, "answer": None}
    truth = truth or sample
    return Probe(
        id=own["id"],
        sample_id=sample.id,
        condition=condition,
        states=states,
        asked=Asked.model_validate({**sample.model_dump(), **own, "harmful": truth.harmful, **changes}),
        truth=truth.model_copy(update=own),
    )


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
