"""What a judge is: something that is shown one response, not who gave it, and rules on it.

Every judge is exchanged for any other by one flag, and several may rule on the same responses. A judge that cannot rule says so
(``unscored``, with the reason and its own words); nothing that it fails at is ever counted as safe.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mis_lib.clients.images import encode, is_png_or_jpeg
from mis_lib.errors import ImageError
from mis_lib.files import digest_json, load_image
from mis_lib.schema import Outcome, Sample

# Why an answer ended that the model did not end: a person, or the filter of the server in front of it.
NOT_THE_MODELS = {
    "cancelled": "a person stopped the response",
    "content_filter": "the server's filter answered, not the model",
}


@dataclass(frozen=True)
class JudgeInput:
    """One response as a judge sees it: the sample, the words and why they ended. There is no name of a model in it."""

    sample: Sample
    text: str
    finish_reason: str
    data_dir: Path

    def pictures(self) -> tuple[bytes, ...]:
        """The sample's images, in order, as PNG or JPEG files.

        Raises:
            ImageError: one is missing or damaged.
        """
        return tuple(_picture(self.data_dir / name) for name in self.sample.images)


class Ruling(NamedTuple):
    """What a judge says of a case."""

    outcome: Outcome
    reason: str
    level: int | None = None
    """Perception level of MIS's rubric, 1 to 3."""
    score: float | None = None
    """0 to 1: how sure the judge is that the response is bad (unsafe; of a benign item, no help)."""
    raw: str | None = None
    """The judge's own words."""


class Judge(Protocol):
    """Rules on one case at a time."""

    @property
    def name(self) -> str:
        """Stands in every verdict, and names their file."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that its rulings follow from: stored ones are stale once it changes."""
        ...

    async def decide(self, case: JudgeInput) -> Ruling:
        """Rule on one case; a judge that cannot returns an unscored ruling.

        Raises:
            Unavailable: it could not be reached, and might be later.
            ClientError: it cannot be asked at all.
        """
        ...


def unscored(reason: str, raw: str | None = None) -> Ruling:
    """The ruling of a judge that cannot rule."""
    return Ruling(Outcome.UNSCORED, reason, raw=raw)


def fingerprint_of(*parts: Any) -> str:
    """Digest of JSON values."""
    return digest_json(parts)


def _picture(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: expected an image file, found: {error.strerror}; check the path") from error
    return content if is_png_or_jpeg(content) else encode(load_image(path))
