"""Gallery: the pictures of a data set, each drawn once however many items show it.

A picture is a concept in a style and a *variant* (its seeded place, tilt and tint). Files are PNG with the fastest lossless
compression: they are drawn on this machine and never shipped, so seconds count and bytes do not.
"""

import io
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mis_lib.construct.drawings import scene

SIDE = 224  # pixels: what mini looks at, so that nothing is scaled on the way
PNG_LEVEL = 1
REPORT_EVERY = 200

Progress = Callable[[str], None]


class Picture(NamedTuple):
    """One picture file, known before it is drawn; of a style with several drawings of a thing the variant is one of these."""

    concept: str
    style: str
    variant: int

    @property
    def path(self) -> str:
        """Its place in the data set's folder."""
        slug = re.sub(r"[^a-z0-9]+", "_", self.concept.lower().replace("ñ", "n"))
        return f"images/{slug}-{self.style}-{self.variant}.png"


def draw_all(pictures: Iterable[Picture], folder: Path, seed: int, progress: Progress) -> dict[str, str]:
    """Draw every picture once into ``folder`` and return the SHA-256 of each by its path."""
    (folder / "images").mkdir(parents=True)
    wanted = sorted(set(pictures))
    hashes = {}
    for number, picture in enumerate(wanted):
        if number % REPORT_EVERY == 0:
            progress(f"Drawing pictures: {number:,} of {len(wanted):,}")
        content = _draw(picture, seed)
        (folder / picture.path).write_bytes(content)
        hashes[picture.path] = sha256(content).hexdigest()
    return hashes


def _draw(picture: Picture, seed: int) -> bytes:
    stream = io.BytesIO()
    # a variant of one seed must not be another variant of the next seed
    lot = 1_000 * seed + picture.variant
    image = scene(picture.concept, picture.style, seed=lot, size=SIDE, number=picture.variant)
    image.save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()
