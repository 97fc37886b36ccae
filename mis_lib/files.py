"""Files: JSON Lines that survive a kill, writes that are all or nothing, hashes, and images from people.

A torn last line (a killed writer) is ignored by the reader; any other bad line is an error that names file and row.
Images are checked from their header before a pixel is decoded, because a header may promise 30,000 x 30,000 pixels.
"""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import ValidationError

from mis_lib.errors import DataError, ImageError
from mis_lib.schema import Record

MAX_PIXELS = 50_000_000  # about 7,000 x 7,000: larger than any camera's output that a demo needs
MAX_IMAGES = 6

R = TypeVar("R", bound=Record)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file in order; a torn last line (no newline at its end) is ignored.

    Raises:
        DataError: a complete line is not a JSON object (file and row named).
    """
    with path.open(encoding="utf-8") as lines:
        for row, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    return
                raise DataError(
                    f"{path}, row {row}: expected one JSON object, found {line[:80]!r} ({error.msg})"
                ) from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, row {row}: expected a JSON object, found {type(record).__name__}")
            yield record


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Read a JSON Lines file of records of one kind.

    Raises:
        DataError: a line does not have the form of ``kind`` (file, row and field named).
    """
    records = []
    for row, record in enumerate(read_jsonl(path), 1):
        try:
            records.append(kind.model_validate(record))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"{path}, row {row}: field {field!r}: {first['msg']}, found {first['input']!r:.80}"
            ) from error
    return records


def append_record(stream: IO[str], record: Record) -> None:
    """Append one record as one line and flush it, so that a kill loses at most the line being written."""
    stream.write(record.model_dump_json() + "\n")
    stream.flush()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines, all or nothing, byte for byte the same for the same records."""
    write_atomic(path, "".join(record.model_dump_json() + "\n" for record in records).encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_image(source: Path | bytes, *, name: str = "") -> Image.Image:
    """Open an image as people bring them and return 8-bit RGB, upright, first frame, transparency on white.

    Accepts any mode (palette, RGBA, 16-bit grey, CMYK), EXIF rotation and animations.

    Raises:
        ImageError: not an image, truncated, or more than ``MAX_PIXELS`` pixels.
    """
    name = name or (source.name if isinstance(source, Path) else "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked below with our own, lower bound
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{name}: {width} x {height} pixels, at most {MAX_PIXELS:,} in all are accepted; scale the image down first"
            )
        image.seek(0)
        return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: expected an image (PNG, JPEG, WebP, GIF ...), found a file that is none") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: its header promises too many pixels ({error}); scale the image down first"
        ) from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: the image is damaged or cut short ({error}); save it again and retry") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        low, high = image.getextrema()  # pyright: ignore[reportAssignmentType]
        scale = 255.0 / max(float(high) - float(low), 1.0) if float(high) > 255 else 1.0  # pyright: ignore[reportArgumentType]
        offset = float(low) if float(high) > 255 else 0.0  # pyright: ignore[reportArgumentType]
        return image.convert("F").point(lambda value: (value - offset) * scale).convert("L").convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
