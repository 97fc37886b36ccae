"""Whether the pixels of an image file are whole, told as cheaply as its format allows.

A PNG carries a checksum for each chunk, read at 3 GB a second. A JPEG's pixels are looked through for markers that cannot stand there, as fast: a block of
other bytes has some, a single wrong byte or a block of zeros mostly has none and is decoded into a wrong picture without an error. Everything else is
decoded, to be sure, a WebP twice (``data.webp``).
"""

import re
from pathlib import Path

from PIL import Image

from mis_lib.data.webp import is_decoded, leaves_over
from mis_lib.errors import ImageError
from mis_lib.files import DECODER_ERRORS, load_image

# Among a JPEG's pixels 0xFF is followed by zero, or by a place to start anew; anything else ends them.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
END = 0xD9
SEGMENTS = frozenset(
    [*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE]
)  # these have a length and are no pixels
LEFT_OVER = "expected pixels that use up their data, found some left over: bytes before them are wrong, and what is shown is another picture"


def damage(path: Path, form: str) -> str | None:
    """What is wrong with the pixels of an image in Pillow's format ``form``, in words; ``None`` if they are whole as far as can be told.

    Raises:
        OSError: the file cannot be read.
    """
    if form == "PNG" and _sums_hold(path):
        return None
    if form in ("JPEG", "MPO") and _goes_to_its_end(path.read_bytes()):
        return None
    if form == "WEBP" and is_decoded(content := path.read_bytes()):
        return LEFT_OVER if leaves_over(content) else None
    try:
        load_image(path)
    except ImageError as error:
        return f"expected a whole image, found a damaged one ({error})"
    return None


def _goes_to_its_end(content: bytes) -> bool:
    """Whether a JPEG reaches its end mark over nothing but what may stand before it, a thumbnail's end jumped over; cameras write more behind it."""
    at = 2
    while found := MARKER.search(content, at):
        marker = content[found.end() - 1]
        if marker not in SEGMENTS:
            return marker == END
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return False


def _sums_hold(path: Path) -> bool:
    """Whether the checksum of every chunk of a PNG is that of its bytes."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except DECODER_ERRORS:
        return False
    return True
