"""Picture files that are sent to and received from models: received ones become PNG, whatever a maker sends."""

import base64
import io
from pathlib import Path

from PIL import Image

from mis_lib.data.findings import Kind
from mis_lib.data.images import read_header
from mis_lib.errors import ImageError
from mis_lib.files import image_bytes, load_image

PNG_LEVEL = 1  # the fastest lossless compression, as for drawn data
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


def is_png_or_jpeg(content: bytes) -> bool:
    """Whether a file is of a form that every server reads."""
    return content.startswith((b"\x89PNG", b"\xff\xd8\xff"))
