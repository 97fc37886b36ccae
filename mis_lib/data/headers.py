"""Image headers: size and format of an image without decoding it, and what speaks against using it.

A header costs a tenth of a millisecond where decoding costs twenty, so that thousands of photographs can be checked before every run. Whether a
file is whole is told as cheaply as its format allows. A PNG carries a checksum for each chunk, read at 3 GB a second. A JPEG's pixels are looked through
for markers that cannot stand there, as fast: a block of other bytes has some, a single wrong byte or a block of zeros mostly has none and is decoded
into a wrong picture without an error. Everything else is decoded, to be sure, a WebP twice (``data.webp``). An image shown by several rows is looked at
once.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from mis_lib.data.findings import Kind
from mis_lib.data.paths import refusal
from mis_lib.data.webp import is_decoded, leaves_over
from mis_lib.errors import ImageError
from mis_lib.files import DECODER_ERRORS, FORMATS, MAX_PIXELS, MIN_SIDE, load_image

MAX_RATIO = 200  # Qwen-VL's image processors raise an error beyond it
# Among a JPEG's pixels 0xFF is followed by zero, or by a place to start anew; anything else ends them.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
END = 0xD9
SEGMENTS = frozenset(
    [*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE]
)  # these have a length and are no pixels
ENDINGS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".avif": "AVIF", ".ppm": "PPM",
}  # fmt: skip
ELSEWHERE = "fetch the image; if it lies in another folder, bring both together (mis export --image_folder FOLDER --format jsonl)"
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
        places = [self.folder / root / name for root in self.roots]
        return next((place for place in places if place.exists()), self.folder / name)

    def _read(self, name: str) -> Header:
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
            told = Problem(Kind.SEPARATOR, f"expected / between folders, found \\ in {name}", f"write {forward}")
            header = read_header(self.folder / forward, pixels=self.pixels)
            return Header(header.size, (told, *header.problems))
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


def _open(path: Path, *, pixels: bool) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # told by size, below
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
    expected = ENDINGS.get(path.suffix.lower(), form)
    if expected != form and (expected, form) != ("JPEG", "MPO"):
        yield Problem(Kind.WRONG_ENDING, f"expected {expected} by its name, found {form}", "rename it")
    if frames > 1:
        fix = "the first is used; save that one alone"
        yield Problem(Kind.ANIMATED, f"expected one picture, found {frames} frames", fix)


def _damage(path: Path, form: str) -> Problem | None:
    """What is wrong with the pixels of a file that is not surely whole; None if they can be read all the same."""
    if _is_whole(path, form):
        return None
    if form == "WEBP" and is_decoded(content := path.read_bytes()):
        if not leaves_over(content):
            return None
        message = "expected pixels that use up their data, found some left over: bytes before them are wrong, and what is shown is another picture"
        return Problem(Kind.CUT_SHORT, message, "save or fetch it again")
    try:
        load_image(path)
    except ImageError as error:
        message = f"expected a whole image, found a damaged one ({error})"
        return Problem(Kind.CUT_SHORT, message, "save or fetch it again")
    return None


def _is_whole(path: Path, form: str) -> bool:
    """Whether the file's checksums hold, or it goes on to its end as its format demands; False for formats that have neither."""
    if form == "PNG":
        return _sums_hold(path)
    if form in ("JPEG", "MPO"):
        return _goes_to_its_end(path.read_bytes())
    return False


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


def _bad(kind: Kind, message: str, fix: str) -> Header:
    return Header(None, (Problem(kind, message, fix),))
