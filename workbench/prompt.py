"""A prompt in the making: its images and their source. Values are frozen: each change is a new ``gr.State`` value.

A ``Prompt`` names its images by file and carries a small thumbnail of each; the pixels are read again when a comparison
starts. So a session costs kilobytes, whatever people upload. Thumbnails travel inside the page as data URLs: no path is
sent to the browser, and the app needs no ``allowed_paths``. Every file is opened by ``mis_lib.files.load_image``, which
checks the header before a pixel is decoded.
"""

import base64
import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mis_lib.errors import ImageError
from mis_lib.files import MAX_IMAGES, load_image

STRIP_SIDE = 320  # pixels of the longer side: twice the strip's 160, for dense screens
CARD_SIDE = 112
MAX_UPLOAD = "32mb"  # of one file


@dataclass(frozen=True)
class PromptImage:
    """One image of the strip: its file, its name, and a thumbnail as a data URL.

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


def read_images(files: Iterable[tuple[Path, str]]) -> tuple[tuple[PromptImage, ...], list[str]]:
    """Read the uploaded files that are images; return them with one message for each file that is not.

    In place of a file above ``MAX_UPLOAD`` the page sends an empty one.
    """
    images, problems = [], []
    for path, name in files:
        try:
            if path.is_file() and not path.stat().st_size:
                raise ImageError(
                    f"{name}: expected an image of at most {MAX_UPLOAD}, found a larger or an empty file; "
                    "scale it down first"
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
