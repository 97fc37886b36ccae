"""Picture files that are sent to and received from models.

Received ones become PNG, whatever a maker sends. Servers refuse requests of some dozen megabytes, which a few
photographs would be. So what is sent has at most ``image_pixels`` pixels; a larger image is scaled down.
"""

import base64
import io
import math
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mis_lib.data.findings import Kind
from mis_lib.data.images import read_header
from mis_lib.errors import ImageError
from mis_lib.files import DECODER_ERRORS, FORMATS, image_bytes, load_image

PNG_LEVEL = 1  # the fastest lossless compression, as for drawn data
LARGEST_PNG = 2 * 2**20  # bytes; drawings stay below it, photographs of 1.6 megapixels do not
QUALITY = 90  # of JPEG
NOT_SENT = frozenset({Kind.NOT_AN_IMAGE, Kind.CUT_SHORT, Kind.TOO_LARGE, Kind.TOO_SMALL})


def whole_file(path: Path) -> bytes:
    """The bytes of an image file that is fit to be sent; it is looked at first, at the cost of reading it once more.

    A server may take a damaged image for a grey one, and a header of 60,000 x 60,000 pixels for work.

    Raises:
        ImageError: it is missing, no image, cut short, or of too many or too few pixels; names the file.
    """
    content = image_bytes(path)
    for problem in read_header(path, pixels=True).problems:
        if problem.kind in NOT_SENT:
            raise ImageError(f"{path}: {problem.message}; {problem.fix}")
    return content


def as_png(content: bytes) -> bytes:
    """The picture as 8-bit RGB in a fresh PNG file, without the sender's metadata.

    Raises:
        ImageError: it is no image, damaged, too large or too small.
    """
    return encode(load_image(content, name="the picture received"))


def encode(image: Image.Image) -> bytes:
    """A PNG file with nothing in it but the pixels."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def data_url(content: bytes) -> str:
    """A PNG or JPEG file as a URL that holds it."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def is_larger(source: Path | bytes, pixels: int) -> bool:
    """Whether an image has more pixels than that, by its header; false for what is no image."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS) as image:
            return image.width * image.height > pixels
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except (UnidentifiedImageError, *DECODER_ERRORS):  # reported where the pixels are read
        return False


def to_send(content: bytes, pixels: int) -> bytes:
    """An image file as a server gets it: as it is, unless it is too large or of a form that few servers read.

    Args:
        content: of a file of any form in ``FORMATS``.
        pixels: most that are sent.

    Raises:
        ImageError: an image that must be changed is damaged.
    """
    if is_png_or_jpeg(content) and not is_larger(content, pixels):
        return content
    return pack(load_image(content), pixels)


def pack(image: Image.Image, pixels: int) -> bytes:
    """A PNG file of an RGB image, or a JPEG above ``LARGEST_PNG``; scaled down to ``pixels`` if it has more."""
    share = math.sqrt(pixels / (image.width * image.height))
    if share < 1:
        sides = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        image = image.resize(sides, Image.Resampling.LANCZOS)
    png = encode(image)
    if len(png) <= LARGEST_PNG:
        return png
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def scaled_in_words(number: int, pixels: int) -> str:
    """What is said of images that a server gets smaller than they are; empty if there are none."""
    some = "1 image is" if number == 1 else f"{number:,} images are"
    return f"{some} scaled down to {pixels:,} pixels for the server (image_pixels)" if number else ""


def is_png_or_jpeg(content: bytes) -> bool:
    """Whether a file is of a form that every server reads."""
    return content.startswith((b"\x89PNG", b"\xff\xd8\xff"))
