"""Image headers: size and format of an image without decoding it, and what speaks against using it.

A header costs a tenth of a millisecond where decoding costs twenty, so that thousands of photographs can be checked before every run; whether what
follows it is whole is asked of ``data.wholeness``. An image shown by several rows is looked at once.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from mis_lib.data.findings import Kind
from mis_lib.data.paths import refusal, within
from mis_lib.data.wholeness import damage
from mis_lib.files import DECODER_ERRORS, FORMATS, MAX_PIXELS, MIN_SIDE

MAX_RATIO = 200  # Qwen-VL's image processors raise an error beyond it
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
    found = damage(path, form)
    return Problem(Kind.CUT_SHORT, found, "save or fetch it again") if found else None


def _bad(kind: Kind, message: str, fix: str) -> Header:
    return Header(None, (Problem(kind, message, fix),))
