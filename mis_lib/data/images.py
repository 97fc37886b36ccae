"""Images of a data set: named files, found and kept inside its folder, and embedded ones, unpacked next to their table.

A TSV or parquet table holds its images in its cells. They are written once to ``unpacked/TABLE/ID-HASH.png`` in the
data folder, so that a sample of any set names files; a second reading finds them there.

A header costs a tenth of a millisecond where decoding costs twenty, so that thousands of photographs can be checked
before every run. Whether the pixels after it are whole is found out as cheaply as the format allows (``damage``).
"""

import base64
import hashlib
import io
import ntpath
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from mis_lib.data.findings import Kind
from mis_lib.data.records import Row
from mis_lib.errors import DataError, ImageError
from mis_lib.files import DECODER_ERRORS, FORMATS, MAX_PIXELS, MIN_SIDE, load_image, write_atomic

UNPACKED = "unpacked"
_UNPACKED = re.compile(r".*-[0-9a-f]{12}\.\w+")
ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
# Among a JPEG's pixels 0xFF is followed by zero, or by a restart marker; anything else ends them.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
END = 0xD9
SEGMENTS = frozenset(
    [*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE]
)  # these have a length and are no pixels
MAX_RATIO = 200  # Qwen-VL's image processors raise an error beyond it
FORMATS_BY_ENDING = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".ppm": "PPM",
}  # fmt: skip
ELSEWHERE = (
    "fetch the image; if it lies in another folder, bring both together (mis export --image_folder FOLDER --format "
    "jsonl)"
)
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the picture is stored lying on its side
STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the files with git lfs pull"),
    (b"<!doctype html", "a web page", "the download failed: fetch the image again"),
    (b"<html", "a web page", "the download failed: fetch the image again"),
    (b"<svg", "an SVG drawing", "save it as PNG"),
    (b"<?xml", "an SVG drawing or other XML", "save it as PNG"),
    (b"%pdf", "a PDF", "save the page as PNG"),
    (b"pk\x03\x04", "a ZIP archive", "unpack it"),
)


class Refusal(NamedTuple):
    """Why a name is not followed, and what to write instead."""

    reason: str
    fix: str


class Size(NamedTuple):
    """Width and height in pixels, as shown (EXIF rotation applied)."""

    width: int
    height: int


class Problem(NamedTuple):
    """What speaks against an image."""

    kind: Kind
    message: str
    fix: str


class Header(NamedTuple):
    """What is known about one image; no size if its header cannot be read."""

    size: Size | None
    problems: tuple[Problem, ...] = ()


class Headers:
    """Headers of the images in one folder, each read once.

    Args:
        folder: what the names in the data files are relative to.
        pixels: whether it is asked, too, if the files are whole; who wants sizes alone need not wait for that.
        roots: folders below ``folder`` that a name may be relative to, as the reader of the rows tries them.
    """

    def __init__(self, folder: Path, *, pixels: bool = False, roots: tuple[str, ...] = ("",)) -> None:
        self.folder = folder
        self.pixels = pixels
        self.roots = roots
        self._seen: dict[str, Header] = {}
        self._listed: dict[Path, dict[str, str]] = {}

    def __getitem__(self, name: str) -> Header:
        """The header of an image; every kind of file has an answer, nothing raises."""
        if name not in self._seen:
            self._seen[name] = self._read(name)
        return self._seen[name]

    def __len__(self) -> int:
        return len(self._seen)

    def path(self, name: str) -> Path:
        """The file of a name: the first of its places where there is one."""
        name = within(self.folder, name)
        places = [self.folder / root / name for root in self.roots]
        return next((place for place in places if place.exists()), self.folder / name)

    def _read(self, name: str) -> Header:
        name = within(self.folder, name)
        refused = refusal(self.folder, name)
        if refused is not None:
            meant = self._meant(name)
            fix = f"write {meant}, which is there" if meant else refused.fix
            return _bad(Kind.PATH, f"expected a path inside the data folder, found {refused.reason}", fix)
        path = self.path(name)
        try:
            return read_header(path, pixels=self.pixels) if path.is_file() else self._missing(name)
        except OSError as error:  # a folder that may not be entered
            return _bad(Kind.MISSING_IMAGE, f"expected the file {name}, found: {error.strerror}", "change the rights")

    def _missing(self, name: str) -> Header:
        """No such file: say so, and what may have been meant."""
        path, forward = self.folder / name, name.replace("\\", "/")
        if path.is_dir():
            return _bad(Kind.MISSING_IMAGE, f"expected an image file, found the folder {name}", "name a file in it")
        if forward != name and refusal(self.folder, forward) is None and (self.folder / forward).is_file():
            backslash = Problem(Kind.SEPARATOR, f"expected / between folders, found \\ in {name}", f"write {forward}")
            header = read_header(self.folder / forward, pixels=self.pixels)
            return Header(header.size, (backslash, *header.problems))
        near, below = self._names(path.parent).get(path.stem.lower()), f"images/{name}"
        fix = f"write {near}, which is in that folder" if near else ELSEWHERE
        if refusal(self.folder, below) is None and (self.folder / below).is_file():
            fix = f"write {below}, which is there; of a published set name the folder, not the file"
        return _bad(Kind.MISSING_IMAGE, f"expected the file {name} in {self.folder}, found none", fix)

    def _meant(self, name: str) -> str | None:
        """The end of a path from another machine, or of one that climbs, where there is such a file in the folder."""
        parts = [part for part in name.replace("\\", "/").split("/") if part]
        ends = ("/".join(parts[at:]) for at in range(1, len(parts)))
        return next((end for end in ends if refusal(self.folder, end) is None and (self.folder / end).is_file()), None)

    def _names(self, folder: Path) -> dict[str, str]:
        """File names of a folder by their stem in lower case; listed once, since thousands may be missing from it."""
        if folder not in self._listed:
            names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
            self._listed[folder] = {Path(name).stem.lower(): name for name in names}
        return self._listed[folder]


def find(folder: Path, row: Row, field: str, name: object, roots: Sequence[str] = ("",)) -> str:
    r"""The path, relative to ``folder``, of the image that a record names; ``\`` between folders is read as ``/``.

    Args:
        folder: the data folder.
        row: the record, for messages.
        field: the field that holds the name.
        name: the field's value.
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
            as_written = inside(folder, name)  # too: nothing that a root in front of it could hide
            if (as_written if candidate == name else inside(folder, candidate)).is_file():
                return candidate
        except DataError as error:
            raise DataError(f"{row.place}: field {field!r}: {error}") from error
        except OSError as error:  # a name that the file system does not take
            raise row.error(field, "a path that can be looked up", name, f"{error.strerror}: rename it") from error
    raise ImageError(
        f"{row.place}: field {field!r}: expected the file {tried[0]} in {folder}, found none; fetch the image"
    )


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
    digest = hashlib.sha256(data).hexdigest()[:12]
    name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:80]}-{digest}.{_ending(row, field, data)}"
    relative = f"{UNPACKED}/{table or row.file.stem}/{name}"
    target = inside(folder, relative)
    if not target.is_file():  # the hash in its name says that it is the same
        try:
            write_atomic(target, data)
        except OSError as error:
            raise DataError(
                f"{target}: expected to unpack an image there, found: {error.strerror}; copy the table to a folder of "
                "your own"
            ) from error
    return relative


def is_unpacked(relative: PurePosixPath) -> bool:
    """Whether a path in a data folder is that of a picture which ``unpack`` wrote.

    A copy of what its table holds; its name identifies the content.
    """
    return UNPACKED in relative.parts[:-1] and _UNPACKED.fullmatch(relative.name) is not None


def within(folder: Path, name: str) -> str:
    """The relative name that an absolute one means where it leads into ``folder``; any other name as it is."""
    if not Path(name).is_absolute() or ".." in name.split("/"):
        return name
    for root in (folder.absolute(), folder.resolve()):
        if Path(name).is_relative_to(root) and Path(name) != root:
            return Path(name).relative_to(root).as_posix()
    return name


def inside(folder: Path, name: str) -> Path:
    """The path that a data file in ``folder`` means by ``name``; there need not be a file.

    Raises:
        DataError: the name leaves the folder (absolute, ``..``, a symbolic link), is a web address or no path at all.
    """
    found = refusal(folder, name)
    if found is not None:
        raise DataError(f"expected a path inside {folder}, found {found.reason}; {found.fix}")
    return folder / name


def refusal(folder: Path, name: str) -> Refusal | None:
    """What speaks against following ``name`` from ``folder``; None if nothing does.

    A data set comes from strangers, and the program that reads it may run with rights that they do not have. So a name
    is refused if it is absolute (on any system), climbs with ``..``, is a web address, or reaches out of the folder
    through a symbolic link. In a snapshot of the hub's cache, links may lead to the blobs of its own repository.
    Whether there is a file is another question.
    """
    relative = "write it relative to the data folder, with / between folders"
    if not name.strip():
        return Refusal("an empty path", "name the image file")
    if "\0" in name or not _can_be_written(name):
        return Refusal(f"a path with a character that no file name has ({name!r:.80})", relative)
    if "://" in name or name.startswith("data:"):
        return Refusal(f"a web address ({name:.80})", "save the image in the data folder and name that file")
    if name.startswith(("/", "\\", "~")) or ntpath.splitdrive(name)[0]:
        return Refusal(f"an absolute path ({name:.80})", relative)
    if ".." in name.replace("\\", "/").split("/"):
        return Refusal(f"a path that climbs out with '..' ({name:.80})", relative)
    if len(name) > 1024 or any(len(part) > 255 for part in name.split("/")):
        return Refusal(f"a path of {len(name):,} characters", "give the file a shorter name")
    try:
        if not _may_leave(folder, name):
            return None
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError):
        reason = f"a loop of symbolic links, or a folder that cannot be entered ({name:.80})"
        return Refusal(reason, "put the file itself there, and look at its rights")
    root = folder.resolve()
    if not resolved.is_relative_to(root) and not _is_blob_of(root, resolved):
        reason = f"a symbolic link out of the data folder ({name:.80})"
        return Refusal(reason, "put the file itself there (hf download --local-dir FOLDER makes no links)")
    return None


def _is_blob_of(folder: Path, target: Path) -> bool:
    """Whether a folder is in a snapshot of the hub's cache, and a file among the blobs of the same repository."""
    for snapshots in (folder, *folder.parents):
        if snapshots.name == "snapshots":
            return target.parent == snapshots.parent / "blobs"
    return False


def read_header(path: Path, *, pixels: bool = False) -> Header:
    """Look at one file; ``pixels``: also whether it is whole."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        return _bad(
            Kind.NOT_AN_IMAGE, f"expected a file that can be read, found: {error.strerror}", "change its rights"
        )
    if not start:
        return _bad(Kind.NOT_AN_IMAGE, "expected an image, found an empty file", "fetch or draw the image again")
    for mark, what, fix in STRANGERS:
        if start.lstrip().lower().startswith(mark):
            return _bad(Kind.NOT_AN_IMAGE, f"expected an image, found {what}", fix)
    return _open(path, pixels=pixels)


def damage(path: Path, form: str) -> str | None:
    """What is wrong with the pixels of an image in Pillow's format ``form``, in words.

    ``None`` if they are whole as far as can be found out. A PNG has a checksum for each chunk, read at 3 GB a second. A
    JPEG's pixels are searched, as fast, for markers that cannot be among them. A block of other bytes has some. A
    single wrong byte or a block of zeros mostly has none, and is decoded into a wrong picture without an error. Every
    other format is decoded.

    Raises:
        OSError: the file cannot be read.
    """
    if form == "PNG" and _sums_hold(path):
        return None
    if form in ("JPEG", "MPO") and _goes_to_its_end(path.read_bytes()):
        return None
    try:
        load_image(path)
    except ImageError as error:
        return f"expected a whole image, found a damaged one ({error})"
    return None


def _may_leave(folder: Path, name: str) -> bool:
    """Whether there is a symbolic link on the way.

    A name that does not climb stays inside without one, and asking that is much quicker than resolving.
    """
    steps = accumulate(Path(name).parts, os.path.join, initial=str(folder))
    try:
        if any(stat.S_ISLNK(os.lstat(step).st_mode) for step in islice(steps, 1, None)):
            return True
    except (FileNotFoundError, NotADirectoryError):  # nothing is there, and so no link
        pass
    return os.name == "nt"  # whose junctions are no links to Python 3.11


def _can_be_written(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


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


def _goes_to_its_end(content: bytes) -> bool:
    """Whether a JPEG reaches its end mark over nothing but what may come before it, a thumbnail's end jumped over.

    Cameras write more after it.
    """
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


def _open(path: Path, *, pixels: bool) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # reported by size, below
            with Image.open(path, formats=FORMATS) as image:
                form = image.format or ""
                # a PNG without EXIF would be decoded in search of it
                turned = "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED
                size = Size(*(image.size[::-1] if turned else image.size))
                frames = 1 if form == "MPO" else getattr(image, "n_frames", 1)  # a phone's JPEG with its preview
                unfit = _unfit(size)
                damaged = _damage(path, form) if pixels and unfit is None else None
                found = (unfit, damaged, *_oddities(path, form, frames))
                return Header(size, tuple(problem for problem in found if problem is not None))
    except UnidentifiedImageError:
        return _bad(
            Kind.NOT_AN_IMAGE,
            f"expected an image ({', '.join(FORMATS)}), found a file that is none",
            "save it as PNG or JPEG",
        )
    except Image.DecompressionBombError:
        return _bad(
            Kind.TOO_LARGE, f"expected at most {MAX_PIXELS:,} pixels, the header promises far more", "scale it down"
        )
    except DECODER_ERRORS as error:
        return _bad(Kind.CUT_SHORT, f"expected a whole image, found a damaged one ({error})", "save or fetch it again")


def _unfit(size: Size) -> Problem | None:
    """What speaks against the size of an image."""
    shown = f"{size.width:,} x {size.height:,}"
    if size.width * size.height > MAX_PIXELS:
        return Problem(Kind.TOO_LARGE, f"expected at most {MAX_PIXELS:,} pixels, found {shown}", "scale it down")
    if min(size) < MIN_SIDE:
        return Problem(Kind.TOO_SMALL, f"expected at least {MIN_SIDE} pixels a side, found {shown}", "replace it")
    if max(size) > MAX_RATIO * min(size):
        return Problem(Kind.ODD_SHAPE, f"expected sides within 1:{MAX_RATIO}, found {shown}", "crop it")
    return None


def _oddities(path: Path, form: str, frames: int) -> Iterator[Problem]:
    """What is odd about a file that can be used all the same."""
    expected = FORMATS_BY_ENDING.get(path.suffix.lower(), form)
    if expected != form and (expected, form) != ("JPEG", "MPO"):
        yield Problem(Kind.WRONG_ENDING, f"expected {expected} by its name, found {form}", "rename it")
    if frames > 1:
        fix = "the first is used; save that one alone"
        yield Problem(Kind.ANIMATED, f"expected one picture, found {frames} frames", fix)


def _damage(path: Path, form: str) -> Problem | None:
    found = damage(path, form)
    return Problem(Kind.CUT_SHORT, found, "save or fetch it again") if found else None


def _bad(kind: Kind, message: str, fix: str) -> Header:
    return Header(None, (Problem(kind, message, fix),))
