"""What one person's Compare tab holds: frozen values in ``gr.State``, each change a new value, nothing of Gradio in it.

A ``Prompt`` names its images by the file they lie in and carries a small thumbnail for the strip; the pixels are read again when a
comparison starts, so that a session costs kilobytes, whatever people upload.
"""

import base64
import functools
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mis_lib import __version__
from mis_lib.data.images import inside
from mis_lib.data.mixtures import EVERYDAY
from mis_lib.errors import DataError, ImageError
from mis_lib.files import MAX_IMAGES, load_image, read_records, sha256
from mis_lib.generate.served import Served
from mis_lib.schema import Sample, Segment, Split, Verdict
from mis_lib.settings import GenerationSettings

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PromptImage:
    """One image of the strip: where it lies, what it was called, and a thumbnail as a data URL.

    ``flagged`` images belong to an item that is marked harmful; they are shown blurred until clicked.
    """

    name: str
    path: Path
    width: int
    height: int
    thumbnail: str
    flagged: bool = False


@dataclass(frozen=True)
class Prompt:
    """The images in the order the model sees them, and the example they came from, if any."""

    images: tuple[PromptImage, ...] = ()
    example_id: str | None = None

    def add(self, new: tuple[PromptImage, ...]) -> "Prompt":
        """Append images.

        Raises:
            ImageError: there would be more than ``MAX_IMAGES``.
        """
        total = len(self.images) + len(new)
        if total > MAX_IMAGES:
            raise ImageError(
                f"a question takes at most {MAX_IMAGES} images, this would make {total}; "
                f"remove {total - MAX_IMAGES} or choose fewer files"
            )
        return replace(self, images=self.images + new)

    def remove(self, index: int) -> "Prompt":
        """Take out the image at ``index``; an index that no longer exists changes nothing (a double click)."""
        if not 0 <= index < len(self.images):
            return self
        return replace(self, images=self.images[:index] + self.images[index + 1 :])

    def move(self, source: int, target: int) -> "Prompt":
        """Take the image at ``source`` out and put it in at ``target``; places that do not exist change nothing."""
        places = range(len(self.images))
        if source not in places or target not in places:
            return self
        images = list(self.images)
        images.insert(target, images.pop(source))
        return replace(self, images=tuple(images))


@dataclass(frozen=True)
class Answer:
    """One variant's answer as shown: text so far, its parts, its cost, and a verdict or the reason why there is none."""

    variant: str
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finish_reason: str | None = None  # None while running
    segments: tuple[Segment, ...] = ()
    verdict: Verdict | None = None
    no_verdict: str = ""
    unit: str = "tokens"  # or "chunks", where a server told no tokens
    told: str = ""  # what went wrong, or otherwise than asked
    served: Served | None = None  # where it was asked; None on this machine

    @property
    def failed(self) -> bool:
        """Whether the answer is missing, or broke off, through no will of the person or the model."""
        return self.finish_reason == "failed"

    @property
    def tokens_per_second(self) -> float:
        """Tokens over seconds since the start of generation, prefill included; 0 before the first token."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Comparison:
    """One question put to several variants at once, and their answers."""

    prompt: Prompt
    question: str
    settings: GenerationSettings
    answers: tuple[Answer, ...]
    sample: Sample | None = None  # the example, where neither images nor question were changed
    started: str = ""  # ISO 8601, UTC
    checkpoint: str = ""

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish_reason is not None for answer in self.answers)


# ---------- A comparison as JSON for download: everything needed to repeat it, images by name and hash.


def export(comparison: Comparison | None) -> str:
    """The comparison as JSON: everything needed to repeat it, images by name and hash.

    Raises:
        DataError: there is no comparison yet.
    """
    if comparison is None:
        raise DataError("there is nothing to download; press Compare first")
    return json.dumps(_to_json(comparison), indent=2, ensure_ascii=False)


def _to_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "format": "mis-workbench/comparison/1",
        "version": __version__,
        "started": comparison.started,
        "checkpoint": comparison.checkpoint or None,
        "question": comparison.question,
        "images": [
            {"name": image.name, "width": image.width, "height": image.height, "sha256": _hash(image.path)}
            for image in comparison.prompt.images
        ],
        "sample": comparison.sample.model_dump(mode="json") if comparison.sample else None,
        "settings": comparison.settings.model_dump(mode="json"),
        "answers": [_answer_json(answer) for answer in comparison.answers],
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    told = answer.unit == "tokens"
    return {
        "variant": answer.variant,
        "text": answer.text,
        "tokens": answer.tokens if told else None,
        "seconds": round(answer.seconds, 3),
        "tokens_per_second": round(answer.tokens_per_second, 2) if told else None,
        "finish_reason": answer.finish_reason,
        **({} if told else {"chunks": answer.tokens}),
        **({"told": answer.told} if answer.told else {}),
        **({"server": answer.served.url, "model": answer.served.model} if answer.served else {}),
        "segments": [part.model_dump(mode="json") for part in answer.segments],
        "verdict": answer.verdict.model_dump(mode="json") if answer.verdict else None,
        "no_verdict": answer.no_verdict or None,
    }


def _hash(path: Path) -> str | None:
    """None where the upload was cleared away since (the comparison itself is still whole)."""
    return sha256(path) if path.is_file() else None


# ---------- Pictures for the screen: people's files become prompt images, and thumbnails travel inside the page as data URLs.
#
# Nothing here returns a path to the browser, so the app needs no ``allowed_paths``. Every file is opened by
# ``mis_lib.files.load_image``, which checks the header before a pixel is decoded.

STRIP_SIDE = 320  # pixels of the longer side: twice the strip's 160, for dense screens
CARD_SIDE = 112
MAX_UPLOAD = "32mb"  # of one file


def read_images(files: Iterable[tuple[Path, str]]) -> tuple[tuple[PromptImage, ...], list[str]]:
    """Read the uploaded files that are images; return them with one message for each file that is not.

    In place of a file above ``MAX_UPLOAD`` the page sends an empty one.
    """
    images, problems = [], []
    for path, name in files:
        try:
            if path.is_file() and not path.stat().st_size:
                raise ImageError(
                    f"{name}: expected an image of at most {MAX_UPLOAD}, found a larger or an empty file; scale it down first"
                )
            images.append(read_image(path, name=name))
        except ImageError as error:
            problems.append(str(error))
    return tuple(images), problems


def read_image(path: Path, *, name: str = "", flagged: bool = False) -> PromptImage:
    """Read one file as a prompt image.

    Raises:
        ImageError: the file is gone, not an image, damaged or too large.
    """
    name = name or path.name
    if not path.is_file():
        raise ImageError(f"{name}: the file is no longer there; add the image again")
    image = load_image(path, name=name)
    return PromptImage(name, path, image.width, image.height, thumbnail(image, STRIP_SIDE), flagged)


@functools.lru_cache(maxsize=2048)
def card_thumbnail(path: Path) -> str:
    """A small thumbnail of an example's image, kept because lists of examples are drawn again and again."""
    return thumbnail(load_image(path), CARD_SIDE)


def thumbnail(image: Image.Image, side: int) -> str:
    """The image scaled to at most ``side`` pixels a side, as a WebP data URL."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---------- Examples: the items of a data set folder, found by category, split and words, each with its twin.
#
# A card of the list is a *pair*: the harmful item with its benign twin, since one without the other tells half the story; or an everyday item, which has none. An item's truth
# (harmful or not) holds only as long as neither its images, nor their order, nor its question were changed; ``match`` decides that.

OWN_PROMPT = "your own prompt: whether it is harmful is not known"  # also while no example is there yet
# training items are no examples: the tuned model has seen them
TEST_SPLITS = (Split.EASY, Split.HARD, Split.REAL, EVERYDAY)


@dataclass(frozen=True)
class Card:
    """One line of the example list, ready to draw: thumbnails of the harmful item and the ids to load."""

    sample: Sample
    twin: Sample | None
    thumbnails: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The cards from the start of the list, and how many there are in all."""

    cards: tuple[Card, ...]
    total: int


@dataclass(frozen=True)
class Catalogue:
    """The samples of one data set folder."""

    folder: Path
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, folder: Path) -> "Catalogue":
        """Read the test splits of a data set folder (``easy.jsonl``, ``hard.jsonl``, ``real.jsonl``, ``everyday.jsonl``; those that exist).

        Raises:
            DataError: the folder has none of them, a line is not a sample, or an image's name leads out of the folder.
        """
        paths = [folder / f"{split}.jsonl" for split in TEST_SPLITS]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise DataError(f"{folder}: expected {', '.join(path.name for path in paths)}, found none of them")
        samples = tuple(sample for path in found for sample in read_records(path, Sample))
        for sample in samples:
            for name in sample.images:
                inside(folder, name)
        return cls(folder, samples)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The samples by id."""
        return {sample.id: sample for sample in self.samples}

    @cached_property
    def categories(self) -> list[str]:
        """The categories in alphabetical order."""
        return sorted({sample.category for sample in self.samples if sample.category})

    @cached_property
    def splits(self) -> list[str]:
        """The splits in the order of the paper, everyday pairs last."""
        return [split for split in TEST_SPLITS if any(sample.split == split for sample in self.samples)]

    def twin(self, sample: Sample) -> Sample | None:
        """The counterpart with the opposite truth."""
        return self.by_id.get(sample.twin_id) if sample.twin_id else None

    def page(self, *, category: str = "", split: str = "", words: str = "", limit: int = 24) -> Page:
        """The first ``limit`` pairs that match; an empty filter matches everything."""
        found = [sample for sample in self._heads if self._matches(sample, category, split, words)]
        return Page(tuple(self._card(sample) for sample in found[:limit]), len(found))

    def ids(self, *, category: str = "", split: str = "", words: str = "") -> list[str]:
        """Ids of all pairs that match, by their harmful item."""
        return [sample.id for sample in self._heads if self._matches(sample, category, split, words)]

    def load(self, sample_id: str) -> tuple[Prompt, Sample]:
        """The prompt of an example.

        Raises:
            DataError: there is no such example.
            ImageError: one of its images cannot be read.
        """
        sample = self.by_id.get(sample_id)
        if sample is None:
            raise DataError(f"there is no example {sample_id!r} in {self.folder.name}; reload the page")
        images = tuple(
            read_image(path, name=name, flagged=sample.harmful)
            for path, name in zip(self.paths(sample), self._names(sample), strict=True)
        )
        return Prompt(images, sample.id), sample

    def example(self, prompt: Prompt) -> Sample | None:
        """The example whose images a prompt still has, all of them and in their order."""
        sample = self.by_id.get(prompt.example_id or "")
        return sample if sample and [image.path for image in prompt.images] == self.paths(sample) else None

    def match(self, prompt: Prompt, question: str) -> tuple[Sample | None, str]:
        """The example that a prompt still is, or None with the reason why no truth is known for it."""
        if (prompt.example_id or "") not in self.by_id:
            return None, OWN_PROMPT
        sample = self.example(prompt)
        if sample is None:
            return None, "the example's images were changed, so its known truth no longer applies"
        if question.strip() != sample.question.strip():
            return None, "the example's question was changed, so its known truth no longer applies"
        return sample, ""

    def paths(self, sample: Sample) -> list[Path]:
        """Where the sample's images lie."""
        return [self.folder / name for name in sample.images]

    @cached_property
    def _heads(self) -> list[Sample]:
        """One sample a pair: harmful ones, and benign ones without a harmful twin."""
        return [
            sample
            for sample in self.samples
            if sample.harmful or not ((twin := self.twin(sample)) is not None and twin.harmful)
        ]

    @staticmethod
    def _matches(sample: Sample, category: str, split: str, words: str) -> bool:
        text = " ".join([sample.question, sample.sub_category or "", sample.id, *(sample.objects or [])]).lower()
        return (
            (not category or sample.category == category)
            and (not split or sample.split == split)
            and all(word in text for word in words.lower().split())
        )

    def _card(self, sample: Sample) -> Card:
        return Card(sample, self.twin(sample), tuple(card_thumbnail(path) for path in self.paths(sample)))

    @staticmethod
    def _names(sample: Sample) -> list[str]:
        return sample.objects if sample.objects and len(sample.objects) == len(sample.images) else sample.images
