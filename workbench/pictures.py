"""Pictures for the screen: people's files become prompt images, and thumbnails travel inside the page as data URLs.

Nothing here returns a path to the browser, so the app needs no ``allowed_paths``. Every file is opened by
``mis_lib.files.load_image``, which checks the header before a pixel is decoded.
"""

import base64
import functools
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from mis_lib.errors import ImageError
from mis_lib.files import load_image
from workbench.compare.state import PromptImage

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
