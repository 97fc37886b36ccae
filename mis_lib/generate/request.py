"""One question put to several variants side by side: who can be asked (``Answerer``), and what is refused before anybody answers."""

import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from PIL import Image

from mis_lib.errors import ImageError, SettingsError
from mis_lib.files import MAX_IMAGES, MAX_QUESTION
from mis_lib.generate.columns import Column
from mis_lib.settings import GenerationSettings


class Answerer(Protocol):
    """What answers side by side: a local checkpoint (``variants``), served models (``served``), or both (``beside``)."""

    variants: tuple[str, ...]

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """Yield one tuple per step, one column per variant in the order asked for; all have a finish reason in the last."""
        ...


def check_request(
    images: Sequence[Image.Image], question: str, variants: Sequence[str], known: Collection[str]
) -> None:
    """Refuse what no variant can answer.

    Raises:
        ImageError: no image, or too many.
        SettingsError: no or a too long question, no variant, an unknown or a repeated one.
    """
    if not images:
        raise ImageError(f"expected 1 to {MAX_IMAGES} images, found none; add one")
    if len(images) > MAX_IMAGES:
        raise ImageError(f"expected 1 to {MAX_IMAGES} images, found {len(images)}; remove some")
    if not question.strip():
        raise SettingsError("expected a question about the images, found none; write one")
    if len(question) > MAX_QUESTION:
        raise SettingsError(
            f"expected a question of at most {MAX_QUESTION:,} characters, found {len(question):,}; shorten it"
        )
    if not variants:
        raise SettingsError(f"expected at least one variant to answer, found none; known: {', '.join(known)}")
    for name in variants:
        if name not in known:
            raise SettingsError(f"unknown variant {name!r}; known: {', '.join(known)}")
    if len(set(variants)) < len(variants):
        raise SettingsError(f"expected each variant once, found {', '.join(variants)}")
