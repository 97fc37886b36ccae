"""Files: JSON Lines that survive a kill, writes that are all or nothing, locks, hashes, and images from people.

A torn last line (a killed writer) is ignored by the reader; any other bad line is an error that names file and row.
Images are checked from their header before a pixel is decoded, because a header may promise 30,000 x 30,000 pixels.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import ValidationError
from pydantic_core import from_json

from mis_lib.errors import DataError, ImageError
from mis_lib.schema import Record

MAX_PIXELS = 50_000_000  # about 7,000 x 7,000: larger than any camera's output that a demo needs
MIN_SIDE = 8
MAX_IMAGES = 6
MAX_QUESTION = 8_000  # characters of what is asked about them
# What people bring. Pillow's other readers stay shut: EPS, for one, would start Ghostscript on the file.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
# What Pillow's decoders raise on damaged files, apart from UnidentifiedImageError.
DECODER_ERRORS = (OSError, SyntaxError, EOFError, ValueError, RuntimeError, struct.error)
PATIENCE = 2.0  # seconds: ``is_held`` takes a lock for an instant, and a process that was killed takes a moment to go

R = TypeVar("R", bound=Record)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file in order; a torn last line (no newline at its end) is ignored.

    Raises:
        DataError: the file is missing, or a complete line is not a JSON object (file and row named).
    """
    for _, record in _rows(path):
        yield record


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Read a JSON Lines file of records of one kind.

    Raises:
        DataError: the file is missing, or a line does not have the form of ``kind`` (file, row and field named).
    """
    records = []
    for row, record in _rows(path):
        try:
            records.append(kind.model_validate(record))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or kind.__name__
            raise DataError(
                f"{path}, row {row}: field {field!r}: {first['msg']}, found {first['input']!r:.80}"
            ) from error
    return records


def open_append(path: Path) -> IO[str]:
    """Open a JSON Lines file for ``append_record``, cutting off a torn last line that would spoil the next record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open("r+b") as stream:
            last = next(iter(deque(stream, maxlen=1)), b"")
            if _is_object(last) and not last.endswith(b"\n"):
                stream.write(b"\n")  # the record is whole, only its newline is missing
            elif not last.endswith(b"\n"):
                stream.truncate(stream.tell() - len(last))
    return path.open("a", encoding="utf-8", newline="\n")


def append_record(stream: IO[str], record: Record) -> None:
    """Append one record as one line and flush it, so that a kill loses at most the line being written."""
    append_records(stream, [record])


def append_records(stream: IO[str], records: Iterable[Record]) -> None:
    """Append records in one write, so that a kill finds all of them or none, unless the disk fills up meanwhile."""
    try:
        stream.write("".join(record.model_dump_json() + "\n" for record in records))
        stream.flush()
    except OSError as error:
        error.filename = stream.name  # which the system does not say of a full disk
        raise


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines, all or nothing, byte for byte the same for the same records."""
    write_atomic(path, "".join(record.model_dump_json() + "\n" for record in records).encode())


def write_atomic(path: Path, content: bytes | Iterable[bytes], *, sync: bool = True) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one, never half of it.

    Content that comes in parts need not fit into memory. With ``sync`` the new file outlasts a power cut, not only a
    kill; it waits for the disk, which many small files cannot afford.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # same folder: a rename never crosses file systems
    try:
        with draft.open("xb") as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename2 is None:  # it names the draft, or on a full disk no file
            error.filename = str(path)
        raise


def check_writable(path: Path) -> None:
    """Find out before hours of work whether a file can be written there; its folder is made.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def spreadsheet_safe(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula.

    Text that begins like one gets an apostrophe before it; numbers stay.
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(content: str | bytes) -> str:
    """Hex SHA-256 of bytes, or of text in UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def digest_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value with sorted keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False))


@contextmanager
def hold(path: Path, refusal: Exception | None = None, *, waits: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock between processes while the block lasts; the operating system releases it however the process ends.

    A lock is an empty file. It may remain when no process holds it, which means nothing. On a network file system locks
    work between machines where it passes them on: NFS 4 does; NFS mounted with ``nolock`` or ``local_lock`` does not.

    Args:
        path: of the lock file.
        refusal: raised where another process holds it [default: wait until it is free].
        waits: called where another process holds it, before the wait.
    """
    from filelock import FileLock, Timeout  # a twentieth of the time of --help, which locks nothing

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if refusal is None else PATIENCE)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waits is not None:
                waits()
            lock.acquire()
    except Timeout as error:
        raise refusal or error from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether some process holds a lock now."""
    if not path.exists():
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def load_image(source: Path | bytes, *, name: str = "") -> Image.Image:
    """Open an image as people bring them and return 8-bit RGB, upright, first frame, transparency on white.

    Accepts any mode (palette, RGBA, 16-bit grey, CMYK), EXIF rotation and animations, in the formats of ``FORMATS``.

    Raises:
        ImageError: no such file, not an image, truncated, over ``MAX_PIXELS`` pixels or under ``MIN_SIDE`` on a side.
    """
    name = name or (source.name if isinstance(source, Path) else "image")
    if isinstance(source, Path):
        _check_file(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _check_size(name, *image.size)
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ImageError(f"{source}: there is no such file; check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{source}: expected an image file that can be read, found: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: expected an image ({', '.join(FORMATS)}), found a file that is none") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: its header promises too many pixels, at most {MAX_PIXELS:,} are accepted; scale the image down "
            "first"
        ) from error
    except ImageError:
        raise
    except DECODER_ERRORS as error:
        raise ImageError(f"{name}: the image is damaged or cut short ({error}); save it again and retry") from error


def image_bytes(path: Path) -> bytes:
    """The bytes of an image file, as they are.

    Raises:
        ImageError: it is missing, cannot be read, or is no file.
    """
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: expected an image file, found: {error.strerror}; check the path") from error


def _check_file(path: Path) -> None:
    """A pipe or a device would be waited for, or read, without end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError(f"{path}: expected an image file, found a pipe, socket or device; name a file")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number (from 1, blank lines counted) and object of each line."""
    try:
        stream = path.open("rb")  # bytes: a line torn inside a character must not stop the reader
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    with stream:
        for row, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = from_json(line, allow_inf_nan=True, cache_strings="keys")  # twice as fast as json
            except ValueError as error:  # bad JSON or bad UTF-8
                if not line.endswith(b"\n"):
                    return
                shown = line[:80].decode(errors="replace").rstrip()
                raise DataError(f"{path}, row {row}: expected one JSON object, found {shown!r} ({error})") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, row {row}: expected a JSON object, found {type(record).__name__}")
            yield row, record


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} in all are accepted, scale the image down "
            "first"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels; too small to show anything, at least {MIN_SIDE} a side")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits to 8.

    Zero stays black, the brightest pixel becomes white (12-bit scans would be near black).
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = float(values.max())
    unit_range = image.mode == "F" and 0 < top <= 1
    scale = 255 / top if top > 255 or unit_range else 1.0
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8)).convert("RGB")


def link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where there can be none; one that is there stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
