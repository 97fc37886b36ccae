"""What one person's Compare tab holds: frozen values in ``gr.State``, each change a new value, nothing of Gradio in it.

A ``Prompt`` names its images by the file they lie in and carries a small thumbnail for the strip; the pixels are read again when a
comparison starts, so that a session costs kilobytes, whatever people upload.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from mis_lib.errors import ImageError
from mis_lib.files import MAX_IMAGES
from mis_lib.generate.served_models import Served
from mis_lib.schema import Sample, Segment, Verdict
from mis_lib.settings import GenerationSettings


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
