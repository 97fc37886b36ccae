"""Whether a WebP file is whole: its pixels are decoded, and must use up their data.

The format has no checksums, and its decoder accepts nearly any bytes: it makes another picture of them. But both compressions, of lossy pixels (VP8,
RFC 6386) and of lossless ones and transparency (VP8L, RFC 9649), are codes of unequal length, so that wrong bytes are mostly read as too many or as too
few symbols. Too few is an error of the decoder; too many leave data over, which nobody tells. It is found by decoding once more without the last bytes:
of a whole file that fails. A picture is looked at by its first frame; of an animation only that it can be decoded.
"""

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from mis_lib.files import DECODER_ERRORS

SPARE = 16  # bytes: encoders end with up to four or eight that no symbol needs
PARTITIONS = 8 * 16  # pixels: in a lossy picture less high, parts of the data may belong to no row
COMPRESSED = (b"VP8 ", b"VP8L", b"ALPH")


class Chunk(NamedTuple):
    """A part of the file: its name, where its content begins, and how long that is."""

    name: bytes
    start: int
    length: int


def is_decoded(content: bytes) -> bool:
    """Whether the first picture of a file can be decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
            image.load()
    except DECODER_ERRORS:
        return False
    return True


def leaves_over(content: bytes) -> bool:
    """Whether a file that can be decoded has pixels which do not need the end of their data: somewhere before it bytes are wrong."""
    return any(_is_spare(content, chunk) for chunk in _chunks(content) if chunk.name in COMPRESSED)


def _is_spare(content: bytes, chunk: Chunk) -> bool:
    end = chunk.start + chunk.length
    if chunk.length < 2 * SPARE or not any(content[end - SPARE : end]):  # filled up by the encoder
        return False
    if (
        chunk.name == b"VP8 "
        and int.from_bytes(content[chunk.start + 8 : chunk.start + 10], "little") & 0x3FFF < PARTITIONS
    ):
        return False
    return is_decoded(_without_end(content, chunk))


def _without_end(content: bytes, chunk: Chunk) -> bytes:
    """The file with a chunk that is ``SPARE`` bytes shorter, told in its header and in the file's."""
    kept, end = chunk.length - SPARE, chunk.start + chunk.length
    body = (
        content[8 : chunk.start - 4]
        + struct.pack("<I", kept)
        + content[chunk.start : chunk.start + kept]
        + content[end:]
    )
    return content[:4] + struct.pack("<I", len(body)) + body


def _chunks(content: bytes) -> Iterator[Chunk]:
    """The chunks of a file that lie in it as a whole; those within the frames of an animation are part of theirs."""
    at, end = 12, min(len(content), int.from_bytes(content[4:8], "little") + 8)
    while at + 8 <= end:
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            return
        yield Chunk(content[at : at + 4], at + 8, length)
        at += 8 + length + length % 2
