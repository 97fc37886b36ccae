"""Pictures of a data set: named files, found and kept inside its folder, and embedded ones, unpacked beside their table.

A TSV or parquet table holds its images in its cells. They are written once to ``unpacked/TABLE/ID-HASH.png`` in the data folder, so that a
sample of any set names files; a second reading finds them there. Headers are looked at, pixels are not decoded.
"""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from mis_lib.data.paths import inside, within
from mis_lib.data.records import Row
from mis_lib.errors import DataError, ImageError
from mis_lib.files import DECODER_ERRORS, FORMATS, write_atomic

UNPACKED = "unpacked"
_UNPACKED = re.compile(r".*-[0-9a-f]{12}\.\w+")
ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


def find(folder: Path, row: Row, field: str, name: object, roots: Sequence[str] = ("",)) -> str:
    r"""The path, relative to ``folder``, of the image that a record names; ``\`` between folders is read as ``/``.

    Args:
        folder: the data folder.
        row: the record, for messages.
        field: the field that holds the name.
        name: what stands there.
        roots: folders below ``folder`` that the name may be relative to, in the order in which they are tried.

    Raises:
        DataError: no path, or one that leaves the folder.
        ImageError: there is no such file.
    """
    if not isinstance(name, str):
        raise row.error(field, "the path of an image", name, "name the image file")
    name = within(folder, name)
    tried = [PurePosixPath(root, name.replace("\\", "/")).as_posix() for root in roots]
    for candidate in tried:
        try:
            as_it_stands = inside(folder, name)  # too: nothing that a root in front of it could hide
            if (as_it_stands if candidate == name else inside(folder, candidate)).is_file():
                return candidate
        except DataError as error:
            raise DataError(f"{row.place}: field {field!r}: {error}") from error
        except OSError as error:  # a name that the file system does not take
            raise row.error(field, "a path that can be looked up", name, f"{error.strerror}: rename it") from error
    raise ImageError(
        f"{row.place}: field {field!r}: expected the file {tried[0]} in {folder}, found none; fetch the image"
    )


def is_unpacked(relative: PurePosixPath) -> bool:
    """Whether a path in a data folder is that of a picture which ``unpack`` wrote: a copy of what its table holds, whose name tells its content."""
    return UNPACKED in relative.parts[:-1] and _UNPACKED.fullmatch(relative.name) is not None


def names(row: Row, field: str) -> list[object]:
    """The images of a field that holds one or a list of them: a bare string is one name, never a list of letters.

    Raises:
        DataError: the field is missing, empty, or neither.
    """
    value = row.values.get(field)
    found: list[object] = list(value) if isinstance(value, list) else [value]
    if not found or not isinstance(value, str | list | dict):
        raise row.error(field, "an image path or a list of them", value, "name the image files, in order")
    return found


def unpack(folder: Path, row: Row, field: str, stem: str, content: Any, table: str = "") -> str:
    """Write an embedded image into the data folder, once, and return its relative path.

    Args:
        folder: the data folder.
        row: the record, for messages.
        field: the column.
        stem: how the file's name begins; anything but letters, digits, ``-`` and ``_`` is replaced.
        content: bytes, base64, or datasets' ``{"bytes": ..., "path": ...}``.
        table: folder of the table's images [default: the name of its file].

    Raises:
        ImageError: that is not an image.
        DataError: the folder cannot be written.
    """
    data = _content(row, field, content)
    name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:80]}-{hashlib.sha256(data).hexdigest()[:12]}.{_ending(row, field, data)}"
    relative = f"{UNPACKED}/{table or row.file.stem}/{name}"
    target = inside(folder, relative)
    if not target.is_file():  # the hash in its name says that it is the same
        try:
            write_atomic(target, data)
        except OSError as error:
            raise DataError(
                f"{target}: expected to unpack an image there, found: {error.strerror}; copy the table to a folder of your own"
            ) from error
    return relative


def _content(row: Row, field: str, content: Any) -> bytes:
    if isinstance(content, Mapping):
        content = content.get("bytes")
    if isinstance(content, str):
        try:
            content = base64.b64decode(content.partition(";base64,")[2] or content, validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII raise a plain one
            raise _no_image(row, field, f"{content[:40]!r} ({error})") from error
    if not isinstance(content, bytes) or not content:
        raise _no_image(row, field, f"{type(content).__name__} {content!r:.40}")
    return content


def _ending(row: Row, field: str, data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            form = image.format or "PNG"
    except UnidentifiedImageError as error:
        raise _no_image(row, field, f"{len(data):,} bytes of something else") from error
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise _no_image(row, field, f"a damaged one ({error})") from error
    return ENDINGS.get(form, form.lower())


def _no_image(row: Row, field: str, found: str) -> ImageError:
    return ImageError(
        f"{row.place}: field {field!r}: expected an image ({', '.join(FORMATS)}; as bytes or base64), found {found}; "
        "fetch the table again"
    )
